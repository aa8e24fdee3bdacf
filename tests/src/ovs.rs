//! A stock Open vSwitch to compare with: database, daemon and sockets in the sandbox, userspace
//! datapath, nothing of the kernel's module.
//!
//! Everything ends with the sandbox.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::lab::{Lab, Node};
use crate::{cmd, wait};

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// One that runs.
#[derive(Debug)]
pub struct Ovs {
    dir: PathBuf,
    children: Vec<Child>,
    /// Where it runs; with the caller if nowhere else.
    node: Option<Node>,
}

impl Ovs {
    /// Start database and daemon in the network namespace of the caller.
    pub fn start(lab: &Lab) -> Result<Self> {
        Self::start_in(lab.dir().join("ovs"), None, &["--disable-system-route"])
    }

    /// Start them on a machine, whose kernel's routes it follows.
    pub fn start_on(lab: &Lab, node: &Node) -> Result<Self> {
        Self::start_in(lab.dir().join(format!("ovs-{}", node.name)), Some(node.clone()), &[])
    }

    fn start_in(dir: PathBuf, node: Option<Node>, more: &[&str]) -> Result<Self> {
        std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        let mut ovs = Self { dir, children: Vec::new(), node };
        let (database, socket) = (ovs.file("conf.db"), ovs.file("db.sock"));
        ovs.run(&["ovsdb-tool", "create", &database, SCHEMA])?;
        let control = format!("--unixctl={}", ovs.file("db.ctl"));
        ovs.spawn(&["ovsdb-server", &database, &format!("--remote=punix:{socket}"), &control])?;
        ovs.answers("db.sock")?;
        ovs.vsctl("--no-wait init")?;
        let control = format!("--unixctl={}", ovs.file("vs.ctl"));
        let words = ["ovs-vswitchd", &format!("unix:{socket}"), "--disable-system", &control];
        ovs.spawn(&[&words[..], more].concat())?;
        ovs.answers("vs.ctl")?;
        Ok(ovs)
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn spawn(&mut self, words: &[&str]) -> Result<()> {
        let name = words.first().copied().unwrap_or_default();
        let mut command = self.command(words);
        command.arg("-vANY:file:WARN");
        command.arg(format!(
            "--log-file={}",
            self.dir.with_extension(format!("{name}.log")).display()
        ));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().with_context(|| format!("{name} (openvswitch-switch)"))?;
        self.children.push(child);
        Ok(())
    }

    fn answers(&self, socket: &str) -> Result<()> {
        let path = self.dir.join(socket);
        wait::until(&format!("Open vSwitch listens on {socket}"), || {
            Ok(std::os::unix::net::UnixStream::connect(&path).is_ok())
        })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = match &self.node {
            Some(node) => cmd::command(&[&["ip", "netns", "exec", &node.name][..], words].concat()),
            None => cmd::command(words),
        };
        for name in ["OVS_RUNDIR", "OVS_DBDIR", "OVS_SYSCONFDIR", "OVS_LOGDIR"] {
            command.env(name, &self.dir);
        }
        command
    }

    /// Run a program with this one's directories; its standard output.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let out = cmd::output_of(&mut self.command(words))?;
        let line = words.join(" ");
        ensure!(
            out.status == 0,
            "`{line}` ended with {}: {}{}",
            out.status,
            out.stderr,
            out.stdout
        );
        Ok(out.stdout)
    }

    /// `ovs-vsctl LINE`.
    pub fn vsctl(&self, line: &str) -> Result<String> {
        let database = format!("--db=unix:{}", self.file("db.sock"));
        let words = line.split_whitespace();
        self.run(
            &["ovs-vsctl", "--timeout=30", &database].into_iter().chain(words).collect::<Vec<_>>(),
        )
    }

    /// `ovs-ofctl WORDS`, with every version of OpenFlow that `versions` names.
    pub fn ofctl(&self, versions: &str, words: &[&str]) -> Result<String> {
        self.run(&[&["ovs-ofctl", "-O", versions][..], words].concat())
    }

    /// `ovs-appctl WORDS`.
    pub fn appctl(&self, words: &[&str]) -> Result<String> {
        let target = self.file("vs.ctl");
        self.run(&[&["ovs-appctl", "-t", &target][..], words].concat())
    }
}

impl Drop for Ovs {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
