//! The demonstration: two machines, a cable each, the switch between them.
//!
//! It runs in a sandbox like a test does, so that nothing is left behind, also after Ctrl-C.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::daemon::Daemon;
use crate::lab::{Host, Lab};
use crate::{cmd, sandbox};

/// Run the demonstration in a sandbox; its exit status.
pub fn outside(keep: bool) -> Result<i32> {
    let mut args = vec!["demo-inside"];
    if keep {
        args.push("--keep");
    }
    let mut command = sandbox::command(&args)?;
    command.stdin(if keep { Stdio::inherit() } else { Stdio::null() });
    let status = command.status().context("cannot run setpriv and unshare (util-linux)")?;
    Ok(status.code().unwrap_or(1))
}

/// The demonstration itself; 0 when every step succeeded.
pub fn inside(keep: bool) -> Result<i32> {
    sandbox::furnish()?;
    let lab = Lab::new()?;
    let failed = match steps(&lab, keep) {
        Ok(failed) => failed,
        Err(error) => {
            println!("FAIL  {error:#}");
            lab.describe();
            1
        }
    };
    println!("\n{}", if failed == 0 { "PASS  all of it" } else { "FAIL  see above" });
    Ok(i32::from(failed > 0))
}

fn steps(lab: &Lab, keep: bool) -> Result<u32> {
    say("two machines, h1 and h2, each with a veth cable to this host");
    let h1 = lab.host("h1", "10.0.0.1/24")?;
    let h2 = lab.host("h2", "10.0.0.2/24")?;
    say("vswitchd, a bridge, and both cables as its ports");
    let mut daemon = Daemon::start(lab)?;
    command(&daemon, "add-br br0 -- add-port br0 h1 -- add-port br0 h2")?;

    let mut failed = 0;
    failed += step("ping h1 -> h2", || ping(&h1, &h2));
    failed += step("TCP h1 -> h2, offloads as the kernel has them", || iperf(&h1, &h2, &[]));
    failed += step("TCP h2 -> h1", || iperf(&h1, &h2, &["-R"]));
    failed += step("the switch's own view", || {
        for words in ["show", "fdb show br0", "dump-ports br0", "workers", "drops"] {
            command(&daemon, words)?;
        }
        Ok(())
    });
    if keep {
        say("everything stays up; in another terminal:");
        println!("nsenter -t $(pgrep -f 'e2e demo-inside' | tail -1) -m -n -p");
        println!(
            "{} --run-dir {} show",
            crate::daemon::program("vswitchctl").display(),
            daemon.run_dir.display()
        );
        println!("Enter ends it");
        std::io::stdin().read_line(&mut String::new())?;
    }
    failed += step("SIGTERM: gone within 5 s, no XDP program left", || {
        daemon.terminate()?;
        let links = cmd::run(&["ip", "link", "show"])?;
        ensure!(!links.contains("xdp"), "an XDP program is left:\n{links}");
        Ok(())
    });
    Ok(failed)
}

fn say(text: &str) {
    println!("\n== {text}");
}

/// Run one step; 1 when it failed.
fn step(name: &str, run: impl FnOnce() -> Result<()>) -> u32 {
    say(name);
    match run() {
        Ok(()) => {
            println!("PASS  {name}");
            0
        }
        Err(error) => {
            println!("FAIL  {name}: {error:#}");
            1
        }
    }
}

fn command(daemon: &Daemon, line: &str) -> Result<()> {
    println!("$ vswitchctl {line}");
    print!("{}", daemon.run(line)?);
    Ok(())
}

fn ping(from: &Host, to: &Host) -> Result<()> {
    from.ping(&to.address, 20)?;
    print!("{}", from.node.run(&["ping", "-c", "3", "-i", "0.2", &to.address])?);
    Ok(())
}

fn iperf(from: &Host, to: &Host, more: &[&str]) -> Result<()> {
    let _server = crate::cases::tcp::serve(to)?;
    let mut args = vec!["iperf3", "-c", &to.address, "-t", "3", "-i", "0"];
    args.extend(more);
    print!("{}", from.node.run(&args)?);
    Ok(())
}
