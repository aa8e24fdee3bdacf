//! A `vswitchctl` that goes on and prints events.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::daemon::{Daemon, program};

/// The command at work; ended when dropped.
pub struct Monitor {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Monitor {
    /// `vswitchctl --format json WORDS`, once it has said that its events begin.
    pub fn start(daemon: &Daemon, words: &[&str]) -> Result<Self> {
        let mut child = Command::new(program("vswitchctl"))
            .arg("--run-dir")
            .arg(&daemon.run_dir)
            .args(["--format", "json"])
            .args(words)
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().context("no output")?;
        let mut monitor = Self { child, lines: BufReader::new(out).lines() };
        monitor.until("\"event\":\"started\"")?;
        Ok(monitor)
    }

    /// The next line that has this text.
    pub fn until(&mut self, text: &str) -> Result<String> {
        for line in self.lines.by_ref() {
            let line = line?;
            if line.contains(text) {
                return Ok(line);
            }
        }
        bail!("the command ended without {text}")
    }

    /// The next event of a kind.
    pub fn event(&mut self, kind: &str) -> Result<String> {
        self.until(&format!("\"event\":\"{kind}\""))
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
