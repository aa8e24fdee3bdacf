//! A stock Open vSwitch of its own: database, daemon and sockets in a directory of the sandbox.
//!
//! Ends with the sandbox whatever happens, and when dropped.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::{cmd, wait};

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
/// The daemon that Debian's openvswitch-switch-dpdk brings.
const DPDK_DAEMON: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";

/// Which of Debian's two daemons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// With DPDK; needs 1,536 huge pages of 2 MiB.
    Dpdk,
    /// Without; has `type=afxdp` ports.
    Plain,
}

/// A running Open vSwitch whose forwarding thread has core 1 to itself.
#[derive(Debug)]
pub struct Ovs {
    dir: PathBuf,
    pids: Vec<i32>,
    control: PathBuf,
}

impl Ovs {
    /// Start database and daemon in the network namespace of the caller.
    pub fn start(flavour: Flavour) -> Result<Self> {
        let dir = PathBuf::from("/run/ovs");
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        let mut ovs = Self { control: PathBuf::new(), dir, pids: Vec::new() };
        let database = ovs.file("conf.db");
        ovs.run(&["ovsdb-tool", "create", &database, SCHEMA])?;
        let socket = format!("--remote=punix:{}", ovs.file("db.sock"));
        let (pid, log) = (ovs.file("db.pid"), ovs.file("db.log"));
        ovs.daemon("ovsdb-server", &[&socket, &database], &pid, &log)?;
        ovs.run_vsctl(&["--no-wait", "init"])?;
        let mut config = vec!["other_config:pmd-cpu-mask=0x2", "other_config:max-idle=600000"];
        let prefix = format!(
            "other_config:dpdk-extra=--no-pci -m 2048 --iova-mode=va --file-prefix=bench{}",
            std::process::id()
        );
        if flavour == Flavour::Dpdk {
            config.extend([
                "other_config:dpdk-init=true",
                "other_config:dpdk-lcore-mask=0x1",
                &prefix,
            ]);
        }
        let mut words = vec!["--no-wait", "set", "Open_vSwitch", "."];
        words.extend(config);
        ovs.run_vsctl(&words)?;
        let daemon = if flavour == Flavour::Dpdk { DPDK_DAEMON } else { "ovs-vswitchd" };
        let database = format!("unix:{}", ovs.file("db.sock"));
        let (pid, log) = (ovs.file("vs.pid"), ovs.file("vs.log"));
        ovs.daemon(daemon, &[&database], &pid, &log)?;
        ovs.control = ovs.find_control()?;
        Ok(ovs)
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// Start a daemon that goes to the background, and remember its process.
    fn daemon(&mut self, program: &str, args: &[&str], pid: &str, log: &str) -> Result<()> {
        let (pidfile, logfile) = (format!("--pidfile={pid}"), format!("--log-file={log}"));
        let mut words = vec![program, "--detach", "--no-chdir", &pidfile, &logfile];
        words.extend(args);
        self.run(&words).with_context(|| {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(10)..].join("\n")
        })?;
        let text = std::fs::read_to_string(pid).with_context(|| pid.to_owned())?;
        self.pids.push(text.trim().parse().context("pid")?);
        Ok(())
    }

    fn find_control(&self) -> Result<PathBuf> {
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if name.starts_with("ovs-vswitchd") && name.ends_with(".ctl") {
                return Ok(path);
            }
        }
        anyhow::bail!("the daemon has no control socket in {}", self.dir.display())
    }

    /// Run a program with this instance's directories; its standard output.
    fn run(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(words.first().copied().unwrap_or("true"));
        command.args(words.get(1..).unwrap_or_default());
        for name in ["OVS_RUNDIR", "OVS_DBDIR", "OVS_SYSCONFDIR", "OVS_LOGDIR"] {
            command.env(name, &self.dir);
        }
        let out = cmd::output_of(&mut command)?;
        ensure!(
            out.status == 0,
            "`{}` ended with {}: {}{}",
            words.join(" "),
            out.status,
            out.stderr,
            out.stdout
        );
        Ok(out.stdout)
    }

    fn run_vsctl(&self, words: &[&str]) -> Result<String> {
        let database = format!("--db=unix:{}", self.file("db.sock"));
        self.run(&[&["ovs-vsctl", "--timeout=60", &database], words].concat())
    }

    /// `ovs-vsctl LINE`.
    pub fn vsctl(&self, line: &str) -> Result<String> {
        self.run_vsctl(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// `ovs-ofctl LINE`.
    pub fn ofctl(&self, line: &str) -> Result<String> {
        self.run(&[&["ovs-ofctl"][..], &line.split_whitespace().collect::<Vec<_>>()].concat())
    }

    /// `ovs-appctl LINE`, to the daemon.
    pub fn appctl(&self, line: &str) -> Result<String> {
        let control = self.control.display().to_string();
        let words = ["ovs-appctl", "-t", &control];
        self.run(&[&words[..], &line.split_whitespace().collect::<Vec<_>>()].concat())
    }

    /// Remove all bridges.
    pub fn reset(&self) -> Result<()> {
        for bridge in self.vsctl("list-br")?.split_whitespace() {
            self.vsctl(&format!("del-br {bridge}"))?;
        }
        Ok(())
    }

    /// A userspace bridge without flows.
    pub fn bridge(&self, name: &str) -> Result<()> {
        self.vsctl(&format!("add-br {name} -- set bridge {name} datapath_type=netdev"))?;
        self.ofctl(&format!("del-flows {name}"))?;
        Ok(())
    }

    /// Add a port; fails when the daemon could not open it.
    pub fn port(&self, bridge: &str, name: &str, settings: &str) -> Result<()> {
        self.vsctl(&format!("add-port {bridge} {name} -- set interface {name} {settings}"))?;
        let error = self.vsctl(&format!("get interface {name} error"))?;
        ensure!(error.trim() == "[]", "port {name}: {}\n{}", error.trim(), self.complaints());
        Ok(())
    }

    /// The last warnings and errors in its log.
    fn complaints(&self) -> String {
        let text = std::fs::read_to_string(self.file("vs.log")).unwrap_or_default();
        let bad =
            |line: &&str| ["|WARN|", "|ERR|", "|EMER|"].iter().any(|word| line.contains(word));
        let lines: Vec<&str> = text.lines().filter(bad).collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    /// Install these flows.
    pub fn flows(&self, bridge: &str, flows: &[String]) -> Result<()> {
        let path = self.file("flows");
        std::fs::write(&path, flows.join("\n"))?;
        self.ofctl(&format!("add-flows {bridge} {path}"))?;
        Ok(())
    }

    /// The process id of the daemon that forwards.
    pub fn pid(&self) -> Option<i32> {
        self.pids.last().copied()
    }

    /// Stop or go on with all its threads: at rest it takes nothing from what else is measured.
    pub fn stop(&self, stopped: bool) -> Result<()> {
        let signal = if stopped { "-STOP" } else { "-CONT" };
        for pid in &self.pids {
            cmd::run(&["kill", signal, &pid.to_string()])?;
        }
        Ok(())
    }
}

impl Drop for Ovs {
    fn drop(&mut self) {
        for pid in self.pids.iter().rev() {
            let pid = pid.to_string();
            let _ = cmd::output(&["kill", "-CONT", &pid]);
            let _ = cmd::output(&["kill", "-TERM", &pid]);
        }
        let gone = |pid: &i32| !std::path::Path::new(&format!("/proc/{pid}")).exists();
        let _ = wait::until("Open vSwitch ends", || Ok(self.pids.iter().all(gone)));
    }
}
