//! Two nodes joined by a wire, each a machine of its own, and Open vSwitch on them: what the rows of two nodes
//! begin with.

use anyhow::Result;
use e2e::cases::tcp;
use e2e::cmd;
use e2e::lab::{Host, Lab, Node};
use e2e::ovs::Ovs;

use crate::measure::Measurement;

/// What fits into a VXLAN packet on a wire of 1500.
pub const MTU: &str = "1450";
/// Both nodes: number, the own and the other's address.
pub const NODES: [(u32, &str, &str); 2] =
    [(1, "192.0.2.1", "192.0.2.2"), (2, "192.0.2.2", "192.0.2.1")];

/// Two machines, and the ends `w1` and `w2` of a wire in them.
pub fn joined(lab: &Lab) -> Result<[Node; 2]> {
    let nodes = [lab.node("n1")?, lab.node("n2")?];
    #[rustfmt::skip]
    cmd::run(&[
        "ip", "link", "add", "name", "w1", "netns", "n1", "type", "veth", "peer", "name", "w2", "netns", "n2",
    ])?;
    Ok(nodes)
}

/// Stock Open vSwitch with one forwarding thread on node `n`, for an instance (`tx off` in it, as these ports do
/// not finish checksums): `phy-N` with the wire and the underlay's address, and these bridges.
pub fn open_vswitch(
    lab: &Lab,
    (n, here): (u32, &str),
    node: &Node,
    instance: &Host,
    bridges: &[&str],
) -> Result<Ovs> {
    let (cable, wire, phy) = (instance.node.name.clone(), format!("w{n}"), format!("phy-{n}"));
    cmd::run(&["ip", "link", "set", "dev", &cable, "netns", &node.name])?;
    for device in [&cable, &wire] {
        node.run(&["ip", "link", "set", "dev", device, "up"])?;
    }
    instance.node.run(&["ethtool", "-K", "eth0", "tx", "off"])?;
    let ovs = Ovs::start_on(lab, node)?;
    ovs.vsctl("set Open_vSwitch . other_config:pmd-cpu-mask=0x2")?;
    for bridge in bridges.iter().map(|bridge| format!("{bridge}-{n}")).chain([phy.clone()]) {
        ovs.vsctl(&format!("add-br {bridge} -- set bridge {bridge} datapath_type=netdev"))?;
    }
    node.run(&["ip", "addr", "add", &format!("{here}/24"), "dev", &phy])?;
    node.run(&["ip", "link", "set", "dev", &phy, "up"])?;
    afxdp(&ovs, &phy, &wire, "")?;
    Ok(ovs)
}

/// Add an interface to one of its bridges.
pub fn afxdp(ovs: &Ovs, bridge: &str, port: &str, settings: &str) -> Result<()> {
    ovs.vsctl(&format!(
        "add-port {bridge} {port} {settings} -- set interface {port} type=afxdp options:xdp-mode=native"
    ))?;
    Ok(())
}

/// TCP in Gbit/s from one host to another.
pub fn gigabits(from: &Host, to: &Host, seconds: u32) -> Result<Measurement> {
    from.ping(&to.address, 3)?;
    let _server = tcp::serve(to)?;
    let bytes = tcp::measure(from, &to.address, &["-t", &seconds.to_string()])?;
    Ok(Measurement { rate: bytes as f64 * 8.0 / 1e9 / f64::from(seconds), cycles: None })
}
