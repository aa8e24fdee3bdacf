//! TCP over VXLAN between two nodes, each a switch of its own: machine, integration bridge, tunnel, wire,
//! and the same at the other end. One forwarding thread a switch.
//!
//! ```text
//! h1 ── int-1 ══vxlan══ phy-1 ── wire ── phy-2 ══vxlan══ int-2 ── h2
//! ```

use anyhow::{Context, Result};
use e2e::cmd;
use e2e::daemon::Daemon;
use e2e::lab::{Host, Lab};

use super::nodes::{MTU, NODES, afxdp, gigabits, joined, open_vswitch};
use crate::measure::Measurement;

/// Gbit/s through two of our switches, default offloads at both ends; they share core 1.
pub fn ours(lab: &Lab, seconds: u32) -> Result<Measurement> {
    cmd::run(&["ip", "link", "add", "name", "w1", "type", "veth", "peer", "name", "w2"])?;
    let mut hosts = Vec::new();
    let mut running = Vec::new();
    for (n, here, there) in NODES {
        hosts.push(lab.host(&format!("h{n}"), &format!("10.0.0.{n}/24"))?);
        let daemon = Daemon::start_as(lab, &format!("sw{n}"), &["--workers", "cores:1"])?;
        daemon.run(&format!(
            "add-br int-{n} -- add-br phy-{n} -- add-port int-{n} h{n} -- add-port phy-{n} w{n} -- \
             add-port int-{n} vx-{n} type=vxlan options:remote_ip={there} options:key=7 -- \
             route add 192.0.2.0/24 phy-{n} src={here}"
        ))?;
        running.push(daemon);
    }
    run(&hosts, seconds).context("TCP through two switches")
}

/// Gbit/s through two stock Open vSwitches with afxdp ports; `tx off` in the machines, as they do not finish
/// checksums. Each in a machine of its own, whose kernel has the underlay's address.
pub fn ovs(lab: &Lab, seconds: u32) -> Result<Measurement> {
    let nodes = joined(lab)?;
    let mut hosts = Vec::new();
    let mut running = Vec::new();
    for ((n, here, there), node) in NODES.into_iter().zip(&nodes) {
        let host = lab.host(&format!("h{n}"), &format!("10.0.0.{n}/24"))?;
        let ovs = open_vswitch(lab, (n, here), node, &host, &["int"])?;
        afxdp(&ovs, &format!("int-{n}"), &format!("h{n}"), "")?;
        ovs.vsctl(&format!(
            "add-port int-{n} vx-{n} -- set interface vx-{n} type=vxlan options:remote_ip={there} options:key=7"
        ))?;
        hosts.push(host);
        running.push(ovs);
    }
    run(&hosts, seconds).context("TCP through two Open vSwitches")
}

/// Gbit/s through the kernel's bridges and VXLAN devices of two nodes, offloads off wherever frames pass, which is
/// the frame-by-frame work that the switch does.
pub fn linux(lab: &Lab, seconds: u32) -> Result<Measurement> {
    let nodes = joined(lab)?;
    let features = ["tx", "off", "tso", "off", "gso", "off", "gro", "off"];
    let mut hosts = Vec::new();
    for ((n, here, there), node) in NODES.into_iter().zip(&nodes) {
        let host = lab.host(&format!("h{n}"), &format!("10.0.0.{n}/24"))?;
        let (cable, wire) = (host.node.name.clone(), format!("w{n}"));
        cmd::run(&["ip", "link", "set", "dev", &cable, "netns", &node.name])?;
        node.run(&["ip", "addr", "add", &format!("{here}/24"), "dev", &wire])?;
        node.run(&["ip", "link", "add", "kbr", "type", "bridge"])?;
        #[rustfmt::skip]
        node.run(&[
            "ip", "link", "add", "vx", "type", "vxlan", "id", "7", "local", here, "remote", there, "dstport", "4789",
        ])?;
        for device in [&cable, "vx"] {
            node.run(&["ip", "link", "set", "dev", device, "master", "kbr"])?;
        }
        for device in [&cable, &wire, "vx", "kbr"] {
            node.run(&["ip", "link", "set", "dev", device, "up"])?;
        }
        for device in [&cable, &wire] {
            node.run(&[&["ethtool", "-K", device][..], &features].concat())?;
        }
        host.node.run(&[&["ethtool", "-K", "eth0"][..], &features].concat())?;
        hosts.push(host);
    }
    run(&hosts, seconds).context("TCP through the kernel's VXLAN")
}

fn run(hosts: &[Host], seconds: u32) -> Result<Measurement> {
    for host in hosts {
        host.node.run(&["ip", "link", "set", "dev", "eth0", "mtu", MTU])?;
    }
    let [from, to] = hosts else { anyhow::bail!("two machines") };
    gigabits(from, to, seconds)
}
