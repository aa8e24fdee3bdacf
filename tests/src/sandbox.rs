//! The namespaces of one test: network, mount and pid, made by `unshare`, gone with its first process.
//!
//! The chain holds from the top: when this process dies, `setpriv --pdeathsig` ends `unshare`, whose
//! `--kill-child` ends the first process of the pid namespace, and the kernel everything in it.

use std::process::Command;

use anyhow::{Context, Result};

use crate::cmd;

/// A command that runs this program again with `args`, in namespaces of its own.
pub fn command(args: &[&str]) -> Result<Command> {
    let me = std::env::current_exe().context("where this program is")?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork"]);
    command.args(["--kill-child", "--mount-proc", "--"]).arg(me).args(args);
    Ok(command)
}

/// Make the inside of a fresh sandbox usable. Call once, first, in the program that [`command`] started.
pub fn furnish() -> Result<()> {
    cmd::run(&["mount", "-t", "sysfs", "sysfs", "/sys"])?;
    cmd::run(&["mount", "-t", "tmpfs", "tmpfs", "/run"])?;
    cmd::run(&["ip", "link", "set", "dev", "lo", "up"])?;
    quiet_ipv6()
}

/// Interfaces made from here on in this namespace say nothing of their own accord over IPv6.
pub fn quiet_ipv6() -> Result<()> {
    let file = "/proc/sys/net/ipv6/conf/default/disable_ipv6";
    if std::path::Path::new(file).exists() {
        std::fs::write(file, "1").with_context(|| format!("writing {file}"))?;
    }
    Ok(())
}
