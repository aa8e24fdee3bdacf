//! A running `vswitchd` and the commands given to it.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::cmd::{self, Output};
use crate::lab::{Lab, Node};
use crate::wait;

/// The path of one of the switch's programs: beside this one.
pub fn program(name: &str) -> PathBuf {
    let me = std::env::current_exe().unwrap_or_default();
    me.parent().unwrap_or(Path::new("")).join(name)
}

/// A daemon with run and state dir of its own.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    args: Vec<String>,
    /// The network namespace that it runs in, if it is not the test's.
    node: Option<String>,
    pub run_dir: PathBuf,
    pub state_dir: PathBuf,
    pub log: PathBuf,
}

impl Daemon {
    /// Start one with a small frame region and wait until it answers.
    pub fn start(lab: &Lab) -> Result<Self> {
        Self::start_as(lab, "sw", &[])
    }

    /// The same under a name of its own and with more arguments, which come last.
    pub fn start_as(lab: &Lab, name: &str, args: &[&str]) -> Result<Self> {
        let daemon = Self::spawn(lab, name, args)?;
        daemon.ready()
    }

    /// Start one in a network namespace of its own, under the namespace's name.
    pub fn start_on(lab: &Lab, node: &Node, args: &[&str]) -> Result<Self> {
        Self::spawn_on(lab, Some(node), &node.name, args)?.ready()
    }

    /// Start one without waiting for it.
    pub fn spawn(lab: &Lab, name: &str, args: &[&str]) -> Result<Self> {
        Self::spawn_on(lab, None, name, args)
    }

    fn spawn_on(lab: &Lab, node: Option<&Node>, name: &str, args: &[&str]) -> Result<Self> {
        let node = node.map(|n| n.name.clone());
        let run_dir = lab.dir().join(name).join("run");
        let state_dir = lab.dir().join(name).join("state");
        let log = lab.dir().join(format!("{name}.log"));
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let child = launch(node.as_deref(), &run_dir, &state_dir, &log, &args)?;
        let mut known = lab.run_dirs.borrow_mut();
        if !known.contains(&run_dir) {
            known.push(run_dir.clone());
        }
        Ok(Self { child, args, node, run_dir, state_dir, log })
    }

    /// Wait until it answers.
    pub fn ready(mut self) -> Result<Self> {
        // A thousand ports take the kernel half a minute, and longer when it has other work.
        let (mut ended, limit) = (None, Duration::from_secs(120));
        wait::until_for(limit, "the daemon answers", || {
            ended = self.child.try_wait()?;
            let up = ended.is_some() || self.ctl(&["version"])?.status == 0;
            Ok(up.then_some(()))
        })?;
        if let Some(status) = ended {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            bail!("the daemon ended at its start with {status}:\n{log}");
        }
        Ok(self)
    }

    /// Start it again after it ended, on the same directories, and wait until it answers.
    pub fn again(mut self) -> Result<Self> {
        ensure!(self.ended()?, "the daemon still runs");
        let node = self.node.as_deref();
        self.child = launch(node, &self.run_dir, &self.state_dir, &self.log, &self.args)?;
        self.ready()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program("vswitchctl"));
        command.arg("--run-dir").arg(&self.run_dir).args(["--timeout", "30"]).args(words);
        command
    }

    /// `vswitchctl WORDS`, whatever its exit status.
    pub fn ctl(&self, words: &[&str]) -> Result<Output> {
        cmd::output_of(&mut self.command(words))
    }

    /// `vswitchctl WORDS`, split at blanks; must succeed. Its standard output.
    pub fn run(&self, line: &str) -> Result<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let out = self.ctl(&words)?;
        ensure!(
            out.status == 0,
            "`vswitchctl {line}` ended with {}: {}{}",
            out.status,
            out.stderr,
            out.stdout
        );
        Ok(out.stdout)
    }

    /// The same; its single JSON document.
    pub fn json(&self, line: &str) -> Result<Value> {
        let text = self.run(&format!("--format json {line}"))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{line}: not one JSON document: {text}"))
    }

    /// `vswitchctl LINE` must fail with `status`, and say all of `words` on standard error.
    pub fn refuses(&self, line: &str, status: i32, words: &[&str]) -> Result<()> {
        let args: Vec<&str> = line.split_whitespace().collect();
        let out = self.ctl(&args)?;
        ensure!(
            out.status == status,
            "`vswitchctl {line}` ended with {}, not {status}: {}{}",
            out.status,
            out.stdout,
            out.stderr
        );
        for word in words {
            ensure!(out.stderr.contains(word), "`{line}` does not say `{word}`: {}", out.stderr);
        }
        Ok(())
    }

    /// Packets dropped for a reason.
    pub fn drops(&self, reason: &str) -> Result<u64> {
        let drops = self.json("drops")?;
        let all = drops["reasons"].as_array().context("no reasons")?;
        let found = all.iter().find(|r| r["reason"] == reason);
        Ok(found.and_then(|r| r["packets"].as_u64()).unwrap_or(0))
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Send it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.pid()).context("no pid")?;
        kill_process(pid, signal).context("kill")
    }

    /// Send it a signal and wait for its end, at most for `limit`.
    pub fn end(&mut self, signal: Signal, limit: Duration) -> Result<ExitStatus> {
        self.signal(signal)?;
        wait::until_for(limit, "the daemon ends", || Ok(self.child.try_wait()?))
    }

    /// SIGTERM; it must be gone within the 5 s that are promised, with exit status 0.
    pub fn terminate(&mut self) -> Result<()> {
        let status = self.end(Signal::TERM, Duration::from_secs(5))?;
        ensure!(status.success(), "after SIGTERM the daemon ended with {status}");
        Ok(())
    }

    /// SIGKILL.
    pub fn murder(&mut self) -> Result<()> {
        let status = self.end(Signal::KILL, wait::SOON)?;
        ensure!(status.signal() == Some(9), "after SIGKILL the daemon ended with {status}");
        Ok(())
    }

    /// What it wrote to its log so far.
    pub fn log_text(&self) -> Result<String> {
        std::fs::read_to_string(&self.log).with_context(|| format!("{}", self.log.display()))
    }
}

impl Drop for Daemon {
    /// A test that failed leaves it running, so that it can be asked; the sandbox's end ends it.
    fn drop(&mut self) {
        let _ = self.child.try_wait();
    }
}

fn launch(
    node: Option<&str>,
    run: &Path,
    state: &Path,
    log: &Path,
    args: &[String],
) -> Result<Child> {
    let out = File::options().create(true).append(true).open(log)?;
    let mut command = match node {
        None => Command::new(program("vswitchd")),
        Some(node) => {
            // `ip` becomes the daemon, so the child is the daemon.
            let mut command = Command::new("ip");
            command.args(["netns", "exec", node]).arg(program("vswitchd"));
            command
        }
    };
    command.arg("--run-dir").arg(run).arg("--state-dir").arg(state);
    if !args.iter().any(|arg| arg == "--umem") {
        command.args(["--umem", "64M"]);
    }
    command.args(args).env_remove("VSWITCH_RUN_DIR").env_remove("NOTIFY_SOCKET");
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    command.spawn().with_context(|| format!("cannot run {}", program("vswitchd").display()))
}
