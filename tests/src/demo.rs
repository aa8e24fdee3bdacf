//! The demonstration: two machines and a switch between them, then a small cloud ([`crate::cloud`]).
//!
//! It runs in a sandbox like a test does, so that nothing is left behind, also after Ctrl-C.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::cloud::{Cloud, Tunnels, steps};
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
    let mut done = Done::default();
    if let Err(error) = pair(&lab, &mut done) {
        done.step("two machines", || Err(error));
    }
    if let Err(error) = cloud(&lab, &mut done, keep) {
        done.step("cloud", || Err(error));
    }
    if done.failed > 0 {
        lab.describe();
    }
    println!("\n{} steps passed, {} failed", done.passed, done.failed);
    Ok(i32::from(done.failed > 0))
}

/// Two machines and one switch.
fn pair(lab: &Lab, done: &mut Done) -> Result<()> {
    say("two machines, h1 and h2, each with a veth cable to this host");
    let h1 = lab.host("h1", "10.0.0.1/24")?;
    let h2 = lab.host("h2", "10.0.0.2/24")?;
    say("vswitchd, a bridge, and both cables as its ports");
    let mut daemon = Daemon::start(lab)?;
    command(&daemon, "add-br br0 -- add-port br0 h1 -- add-port br0 h2")?;
    done.step("ping", || ping(&h1, &h2));
    done.step("tcp", || iperf(&h1, &h2, &[]));
    done.step("tcp-back", || iperf(&h1, &h2, &["-R"]));
    done.step("view", || {
        for words in ["show", "fdb show br0", "dump-ports br0", "workers", "drops"] {
            command(&daemon, words)?;
        }
        Ok("show, fdb, counters, workers, drops".to_owned())
    });
    done.step("end", || {
        daemon.terminate()?;
        let links = cmd::run(&["ip", "link", "show"])?;
        ensure!(!links.contains("xdp"), "an XDP program is left:\n{links}");
        Ok("gone within 5 s of SIGTERM, no XDP program left".to_owned())
    });
    Ok(())
}

/// Two compute nodes and a network node, each with its own vswitchd.
fn cloud(lab: &Lab, done: &mut Done, keep: bool) -> Result<()> {
    say("nodes one and two (compute) and net (network node), each with a vswitchd of its own");
    println!(
        "instances a1 a2 on one, b1 c1 on two; a DHCP server and a router on net; out is outside"
    );
    let cloud = Cloud::new(lab)?;
    println!("a1 has {} from the DHCP server", cloud.a1.address);
    print!("{}", cloud.net.daemon.run("show-router r")?);
    done.step("vxlan", || steps::tunnels(&cloud, Tunnels::Vxlan));
    done.step("gre", || steps::tunnels(&cloud, Tunnels::Gre));
    cloud.tunnels(Tunnels::Vxlan)?;
    done.step("vlan", || steps::provider(&cloud));
    done.step("snat", || steps::snat(&cloud));
    done.step("floating-ip", || steps::floating(&cloud));
    done.step("routed", || steps::routed(&cloud));
    done.step("security-group", || steps::guarded(&cloud));
    done.step("trace", || {
        let (text, measured) = steps::trace(&cloud)?;
        println!("{text}");
        Ok(measured)
    });
    if keep {
        say("everything stays up; in another terminal:");
        println!("nsenter -t $(pgrep -f 'e2e demo-inside' | tail -1) -m -n -p");
        println!("ip netns exec a1 ping 203.0.113.1");
        let ctl = crate::daemon::program("vswitchctl");
        println!(
            "{} --run-dir {} show-router r",
            ctl.display(),
            cloud.net.daemon.run_dir.display()
        );
        println!("Enter ends it");
        std::io::stdin().read_line(&mut String::new())?;
    }
    Ok(())
}

/// Steps so far.
#[derive(Default)]
struct Done {
    passed: u32,
    failed: u32,
}

impl Done {
    /// Run one step, and say in one line what was measured or why it failed.
    fn step(&mut self, name: &str, run: impl FnOnce() -> Result<String>) {
        say(name);
        match run() {
            Ok(measured) => {
                self.passed += 1;
                println!("PASS {name}: {measured}");
            }
            Err(error) => {
                self.failed += 1;
                println!("FAIL {name}: {}", format!("{error:#}").replace('\n', " "));
            }
        }
    }
}

fn say(text: &str) {
    println!("\n== {text}");
}

fn command(daemon: &Daemon, line: &str) -> Result<()> {
    println!("$ vswitchctl {line}");
    print!("{}", daemon.run(line)?);
    Ok(())
}

fn ping(from: &Host, to: &Host) -> Result<String> {
    from.ping(&to.address, 20)?;
    print!("{}", from.node.run(&["ping", "-c", "3", "-i", "0.2", &to.address])?);
    Ok("20 of 20 answered".to_owned())
}

fn iperf(from: &Host, to: &Host, more: &[&str]) -> Result<String> {
    const SECONDS: u64 = 3;
    let _server = crate::cases::tcp::serve(to)?;
    let time = SECONDS.to_string();
    let words = [&["-t", time.as_str()][..], more].concat();
    let bytes = crate::cases::tcp::measure(from, &to.address, &words)?;
    Ok(format!(
        "{:.2} Gbit/s with the kernel's offloads",
        (bytes * 8) as f64 / (SECONDS as f64 * 1e9)
    ))
}
