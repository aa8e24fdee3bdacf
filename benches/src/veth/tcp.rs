//! TCP between two namespaces: through the switch with offloads as the kernel sets them, and through the
//! kernel's bridge with them off, which is the frame-by-frame work that the switch does.

use anyhow::{Context, Result};
use e2e::cases::tcp;
use e2e::cmd;
use e2e::daemon::Daemon;
use e2e::lab::{Host, Lab};

use crate::measure::Measurement;

/// Gbit/s through the switch, default offloads at both ends.
pub fn ours(lab: &Lab, seconds: u32) -> Result<Measurement> {
    let hosts = hosts(lab)?;
    let daemon = Daemon::start_as(lab, "sw", &["--workers", "cores:1"])?;
    daemon.run("add-br br0 -- add-port br0 h1 -- add-port br0 h2")?;
    run(&hosts, seconds).context("TCP through the switch")
}

/// Gbit/s through the kernel's bridge, offloads off at all four ends.
pub fn linux(lab: &Lab, seconds: u32) -> Result<Measurement> {
    let hosts = hosts(lab)?;
    cmd::run(&["ip", "link", "add", "kbr", "type", "bridge"])?;
    cmd::run(&["ip", "link", "set", "kbr", "up"])?;
    let features = ["tx", "off", "tso", "off", "gso", "off", "gro", "off"];
    for host in &hosts {
        let here = host.node.name.as_str();
        cmd::run(&["ip", "link", "set", here, "master", "kbr"])?;
        cmd::run(&[&["ethtool", "-K", here][..], &features].concat())?;
        host.node.run(&[&["ethtool", "-K", "eth0"][..], &features].concat())?;
    }
    run(&hosts, seconds).context("TCP through the kernel's bridge")
}

fn hosts(lab: &Lab) -> Result<[Host; 2]> {
    Ok([lab.host("h1", "10.0.0.1/24")?, lab.host("h2", "10.0.0.2/24")?])
}

fn run([from, to]: &[Host; 2], seconds: u32) -> Result<Measurement> {
    from.ping(&to.address, 1)?;
    let _server = tcp::serve(to)?;
    let time = seconds.to_string();
    let bytes = tcp::measure(from, &to.address, &["-t", &time])?;
    Ok(Measurement { rate: bytes as f64 * 8.0 / 1e9 / f64::from(seconds), cycles: None })
}
