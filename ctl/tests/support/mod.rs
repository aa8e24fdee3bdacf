//! A real daemon process over a backend without a dataplane, and the real `vswitchctl` against it.
//!
//! The daemon is this test binary, started again for its ignored test `daemon_process`, so that it can be
//! killed at any moment like the real one. Its backend knows the interfaces that a file in the run
//! directory lists and answers with fixed reports; everything else is the daemon's own code.

#![allow(dead_code)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use clap::Parser;
use ctl::backend::{Backend, answer};
use ctl::config::{Change, changes};
use ctl::logging::LogLevel;
use ctl::report::{LinkState, PortState, Running};
use ctl::{Config, CtlError, DaemonOptions};
use serde_json::json;
use serde_json::value::RawValue;

/// Longer than anything here takes unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(30);
const ARGS: &str = "TEST_DAEMON_ARGS";

/// What the ignored test `daemon_process` of each test binary calls.
pub fn daemon_process() {
    let Ok(args) = std::env::var(ARGS) else { return };
    let words = std::iter::once("vswitchd").chain(args.split('\n'));
    let options = DaemonOptions::try_parse_from(words).unwrap_or_else(|e| e.exit());
    let level = LogLevel::install(&options.log_level).expect("logging");
    let result = ctl::daemon::run(&options, level, |options| {
        Ok(Box::new(Pretend { interfaces: options.run_dir.join("interfaces") }))
    });
    if let Err(e) = result {
        eprintln!("vswitchd: {e}: {:?}", e.hint);
        std::process::exit(1);
    }
    std::process::exit(0);
}

/// A switch that forwards nothing.
struct Pretend {
    interfaces: PathBuf,
}

impl Pretend {
    fn present(&self) -> BTreeSet<String> {
        let text = std::fs::read_to_string(&self.interfaces).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    }
}

impl Backend for Pretend {
    fn reconfigure(
        &mut self,
        old: &Config,
        new: &Config,
        restore: bool,
    ) -> Result<Vec<String>, CtlError> {
        let present = self.present();
        let mut warnings = Vec::new();
        for change in changes(old, new) {
            let Change::AddPort { name, new, .. } = change else { continue };
            if new.port_type() != ctl::schema::PortType::Afxdp || present.contains(name) {
                continue;
            }
            if !restore {
                let error = CtlError::not_found(format!("no network interface \"{name}\""));
                return Err(error.suggest(name, present.iter().map(String::as_str)));
            }
            warnings.push(format!("interface \"{name}\" is missing"));
        }
        if present.contains("hang") {
            eprintln!("backend: hanging");
            std::thread::sleep(Duration::from_secs(3600));
        }
        Ok(warnings)
    }

    fn call(
        &mut self,
        config: &Config,
        command: &ctl::Command,
        _: ctl::engine_backend::Request,
    ) -> Result<Box<RawValue>, CtlError> {
        let (method, params) = command.to_call()?;
        match method.as_str() {
            "show" => {
                let present = self.present();
                let state = |name: &str| PortState {
                    state: if present.contains(name) { LinkState::Up } else { LinkState::Missing },
                    ..PortState::default()
                };
                let ports = config.ports().map(|(_, name, _)| (name.to_owned(), state(name)));
                answer(&Running { ports: ports.collect(), warnings: Vec::new() })
            }
            "fdb-flush" => answer(&json!({"bridge": params["bridge"], "flushed": 2})),
            "fdb-show" => answer(&json!({"bridge": params["bridge"], "entries": [
                {"port": "eth1", "ofport": 1, "vlan": 5, "mac": "02:00:00:00:00:01", "age": 7}]})),
            "drops" => answer(&json!({"reasons": [
                {"reason": "no-match", "packets": 3, "description": "No flow matched."}]})),
            // Long enough to fill every buffer of a pipe.
            "dump-megaflows" => {
                let flow = json!({"worker": 0, "match": "in_port=1", "actions": "2", "packets": 1,
                    "bytes": 60, "age": 1.0, "depends": []});
                answer(&json!({"total": 20000, "megaflows": vec![flow; 20000]}))
            }
            "workers" => answer(&json!({"workers": []})),
            other => Err(CtlError::unsupported(format!("{other} is not part of this test"))),
        }
    }

    fn tick(&mut self, _: &Config, _: Instant) -> Duration {
        Duration::from_secs(1)
    }

    fn wake_fds(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn shutdown(&mut self) {
        eprintln!("backend: shut down");
    }
}

/// A run and state directory, with daemons and commands in it.
pub struct Rig {
    pub dir: tempfile::TempDir,
}

impl Rig {
    /// Directories in which the interfaces eth1 to eth4 exist.
    pub fn new() -> Self {
        let rig = Self { dir: tempfile::tempdir().expect("dir") };
        rig.interfaces(&["eth1", "eth2", "eth3", "eth4"]);
        rig
    }

    /// A rig with a daemon that answers.
    pub fn started() -> (Self, Daemon) {
        let rig = Self::new();
        let daemon = rig.start();
        (rig, daemon)
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.path().join("vswitchd.sock")
    }

    pub fn interfaces(&self, names: &[&str]) {
        std::fs::write(self.path().join("interfaces"), names.join("\n")).expect("interfaces");
    }

    /// A daemon that may or may not come up.
    pub fn spawn(&self, more: &[&str]) -> Daemon {
        let dir = self.path().to_str().expect("text");
        let mut words = vec!["--run-dir", dir, "--state-dir", dir];
        words.extend(more);
        Daemon::spawn(&words, &[])
    }

    /// A daemon that answers.
    pub fn start(&self) -> Daemon {
        let mut daemon = self.spawn(&[]);
        daemon.wait_for("ready:");
        daemon
    }

    pub fn ctl(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_vswitchctl"))
            .args(["--run-dir", self.path().to_str().expect("text")])
            .args(args)
            .env_remove("VSWITCH_RUN_DIR")
            .output()
            .expect("vswitchctl runs")
    }

    /// The standard output of a command that must succeed.
    pub fn ok(&self, line: &str) -> String {
        let output = self.ctl(&line.split(' ').collect::<Vec<_>>());
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {:?}: {err}", output.status.code());
        String::from_utf8(output.stdout).expect("text")
    }

    /// The standard error of a command that must fail with `status`.
    pub fn fails(&self, status: i32, line: &str) -> String {
        let output = self.ctl(&line.split(' ').collect::<Vec<_>>());
        let err = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(status), "{line}: {err}");
        assert!(output.stdout.is_empty(), "{line} printed {:?}", output.stdout);
        err
    }
}

/// A daemon process; killed when dropped.
pub struct Daemon {
    pub child: Child,
    lines: Receiver<String>,
    /// Everything it has said so far.
    pub said: Vec<String>,
}

impl Daemon {
    pub fn spawn(words: &[&str], envs: &[(&str, &str)]) -> Self {
        // The test harness has made threads before the daemon's code runs, too early for it to block
        // the signals that end it; so they are blocked before anything runs.
        let mut child = Command::new("env")
            .arg("--block-signal=TERM,INT,HUP")
            .arg(std::env::current_exe().expect("this binary"))
            .args(["--ignored", "--exact", "--nocapture", "daemon_process"])
            .env(ARGS, words.join("\n"))
            .env_remove("NOTIFY_SOCKET")
            .envs(envs.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a daemon");
        let stderr = child.stderr.take().expect("piped");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, said: Vec::new() }
    }

    /// Waits for a line of its log with `text` in it.
    pub fn wait_for(&mut self, text: &str) -> String {
        let until = Instant::now() + PATIENCE;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.said.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(_) => break,
            }
        }
        panic!("the daemon never said {text:?} but:\n{}", self.said.join("\n"));
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("kill");
    }

    /// Its exit status; everything that it said is in `said`.
    pub fn wait(&mut self) -> Option<i32> {
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.said.push(line);
        }
        self.child.wait().expect("wait").code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
