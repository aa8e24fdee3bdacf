//! TCP from an instance to the outside: a compute node, VXLAN, a network node whose router translates the
//! source. One forwarding thread a switch.
//!
//! ```text
//! h1 ── int-1 ══ tun-1 ══vxlan══ phy-1 ── wire ── phy-2 ══vxlan══ tun-2 ══ int-2 ══ router ══ ex-2 ── out
//! ```
//! With Open vSwitch the router is a namespace with the kernel's forwarding and nftables, on internal ports
//! that were moved into it, as a network node of OpenStack has it.

use anyhow::{Context, Result};
use e2e::cmd;
use e2e::daemon::Daemon;
use e2e::lab::{Host, Lab, Node};
use e2e::ovs::Ovs;

use super::nodes::{MTU, NODES, afxdp, gigabits, joined, open_vswitch};
use crate::measure::Measurement;

const OUTSIDE: &str = "203.0.113.1";

/// The instance and the host outside.
fn ends(lab: &Lab) -> Result<[Host; 2]> {
    let (h1, out) = (lab.host("h1", "10.0.0.11/24")?, lab.host("out", "203.0.113.1/24")?);
    h1.node.run(&["ip", "route", "add", "default", "via", "10.0.0.1"])?;
    h1.node.run(&["ip", "link", "set", "dev", "eth0", "mtu", MTU])?;
    Ok([h1, out])
}

/// The flows of `tun-N`: port 1 leads to `int-N`, port 2 is the tunnel.
fn flows() -> [String; 2] {
    [
        "in_port=1,dl_vlan=5,actions=strip_vlan,set_tunnel:100,output:2".to_owned(),
        "in_port=2,tun_id=100,actions=mod_vlan_vid:5,output:1".to_owned(),
    ]
}

/// Gbit/s through two of our switches, default offloads at both ends; they share core 1.
pub fn ours(lab: &Lab, seconds: u32) -> Result<Measurement> {
    cmd::run(&["ip", "link", "add", "name", "w1", "type", "veth", "peer", "name", "w2"])?;
    let ends = ends(lab)?;
    let mut running = Vec::new();
    for (n, here, there) in NODES {
        let daemon = Daemon::start_as(lab, &format!("sw{n}"), &["--workers", "cores:1"])?;
        daemon.run(&format!(
            "add-br int-{n} -- add-br tun-{n} -- add-br phy-{n} -- add-port phy-{n} w{n} \
             -- add-port int-{n} to-tun-{n} type=patch options:peer=to-int-{n} \
             -- add-port tun-{n} to-int-{n} ofport_request=1 type=patch options:peer=to-tun-{n} \
             -- add-port tun-{n} vx-{n} ofport_request=2 type=vxlan options:remote_ip={there} options:key=flow \
             -- route add 192.0.2.0/24 phy-{n} src={here}"
        ))?;
        daemon.run(&format!("del-flows tun-{n}"))?;
        for flow in flows() {
            daemon.run(&format!("add-flow tun-{n} {flow}"))?;
        }
        running.push(daemon);
    }
    running[0].run("add-port int-1 h1 tag=5")?;
    running[1].run(
        "add-br ex-2 -- add-port ex-2 out -- add-router r \
         -- add-router-port r int-2 r-1 ip=10.0.0.1/24 tag=5 mtu=1450 \
         -- set-gateway r ex-2 r-ext ip=203.0.113.101/24 via=203.0.113.1 \
         -- add-snat r 10.0.0.0/24 203.0.113.101",
    )?;
    gigabits(&ends[0], &ends[1], seconds).context("TCP through two switches and a router")
}

/// Gbit/s through two stock Open vSwitches with afxdp ports, and a kernel's router; `tx off` in all
/// namespaces.
pub fn ovs(lab: &Lab, seconds: u32) -> Result<Measurement> {
    let nodes = joined(lab)?;
    let ends = ends(lab)?;
    let mut running = Vec::new();
    for (((n, here, there), node), host) in NODES.into_iter().zip(&nodes).zip(&ends) {
        let ovs = open_vswitch(lab, (n, here), node, host, &["int", "tun"])?;
        ovs.vsctl(&format!(
            "add-port int-{n} to-tun-{n} -- set interface to-tun-{n} type=patch options:peer=to-int-{n} \
             -- add-port tun-{n} to-int-{n} -- set interface to-int-{n} ofport_request=1 type=patch \
             options:peer=to-tun-{n} -- add-port tun-{n} vx-{n} -- set interface vx-{n} ofport_request=2 \
             type=vxlan options:remote_ip={there} options:key=flow"
        ))?;
        ovs.run(&["ovs-ofctl", "del-flows", &format!("tun-{n}")])?;
        for flow in flows() {
            ovs.run(&["ovs-ofctl", "add-flow", &format!("tun-{n}"), &flow])?;
        }
        running.push(ovs);
    }
    afxdp(&running[0], "int-1", "h1", "tag=5")?;
    running[1].vsctl("add-br ex-2 -- set bridge ex-2 datapath_type=netdev")?;
    afxdp(&running[1], "ex-2", "out", "")?;
    kernel_router(lab, &running[1], &nodes[1])?;
    gigabits(&ends[0], &ends[1], seconds)
        .context("TCP through two Open vSwitches and a kernel's router")
}

/// A namespace that routes between an internal port of `int-2` and one of `ex-2`, and translates.
fn kernel_router(lab: &Lab, ovs: &Ovs, node: &Node) -> Result<()> {
    let router = lab.node("router")?;
    ovs.vsctl("add-port int-2 r-1 tag=5 -- set interface r-1 type=internal")?;
    ovs.vsctl("add-port ex-2 r-ext -- set interface r-ext type=internal")?;
    for (device, address, mtu) in
        [("r-1", "10.0.0.1/24", MTU), ("r-ext", "203.0.113.101/24", "1500")]
    {
        node.run(&["ip", "link", "set", "dev", device, "netns", &router.name])?;
        router.run(&["ip", "addr", "add", address, "dev", device])?;
        router.run(&["ip", "link", "set", "dev", device, "mtu", mtu, "up"])?;
        router.run(&["ethtool", "-K", device, "tx", "off"])?;
    }
    router.run(&["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"])?;
    router.run(&["ip", "route", "add", "default", "via", OUTSIDE])?;
    for rule in [
        "add table ip nat",
        "add chain ip nat post { type nat hook postrouting priority 100 ; }",
        "add rule ip nat post ip saddr 10.0.0.0/24 oifname r-ext snat to 203.0.113.101",
    ] {
        router.run(&[&["nft"][..], &rule.split(' ').collect::<Vec<_>>()].concat())?;
    }
    Ok(())
}
