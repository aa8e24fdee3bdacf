//! Internal ports: interfaces that the switch owns, here or moved into a namespace.

use super::pair;
use crate::lab::{Host, Lab, Node};
use crate::runner::Case;
use crate::{Result, cmd, ensure, wait};

pub const CASES: &[Case] = &[
    Case::new(
        "internal-bridge",
        "the bridge's own interface: made down, usable, gone with it",
        bridge,
    ),
    Case::new("internal-port", "an internal port carries ping and TCP with default offloads", port),
    Case::new(
        "internal-moved",
        "an internal port that is moved into a namespace keeps working",
        moved,
    ),
    Case::new("internal-vlan", "tag= applies to internal ports as to others", vlan),
];

/// Give an interface of the switch's host an address and set it up.
pub(super) fn address(interface: &str, cidr: &str) -> Result<()> {
    cmd::run(&["ip", "addr", "add", cidr, "dev", interface])?;
    cmd::run(&["ip", "link", "set", "dev", interface, "up"])?;
    Ok(())
}

fn bridge(lab: &Lab) -> Result<()> {
    let (daemon, h1, _h2) = pair(lab)?;
    let link = cmd::run(&["ip", "link", "show", "dev", "br0"])?;
    ensure!(link.contains("state DOWN"), "br0 is not down at first: {link}");
    address("br0", "10.0.0.9/24")?;
    h1.ping("10.0.0.9", 10)?;
    wait::until("the host reaches h1", || {
        Ok(cmd::output(&["ping", "-q", "-c", "1", "-W", "1", &h1.address])?.status == 0)
    })?;
    let ports = daemon.run("list-ports br0")?;
    ensure!(ports.split_whitespace().eq(["h1", "h2"]), "list-ports shows LOCAL: {ports}");
    daemon.run("del-br br0")?;
    ensure!(cmd::output(&["ip", "link", "show", "dev", "br0"])?.status != 0, "br0 is left");
    Ok(())
}

fn port(lab: &Lab) -> Result<()> {
    let (daemon, h1, _h2) = pair(lab)?;
    daemon.run("add-port br0 in0 type=internal")?;
    address("in0", "10.0.0.8/24")?;
    h1.ping("10.0.0.8", 10)?;
    // TCP to the switch's host, which serves on in0, and from it.
    tcp(&h1, "10.0.0.8", None)?;
    daemon.run("del-port br0 in0")?;
    ensure!(cmd::output(&["ip", "link", "show", "dev", "in0"])?.status != 0, "in0 is left");
    Ok(())
}

/// 32 MiB both ways between a machine and an iperf3 server in `node` or on the switch's host.
pub(super) fn tcp(client: &Host, server: &str, node: Option<&Node>) -> Result<()> {
    for direction in [&["-n", "32M"][..], &["-n", "32M", "-R"]] {
        let words = ["iperf3", "-s", "-1", "-D"];
        match node {
            Some(node) => node.run(&words)?,
            None => cmd::run(&words)?,
        };
        // -D returns when the server listens.
        let bytes = super::tcp::measure(client, server, direction)?;
        ensure!(bytes >= 16 << 20, "only {bytes} bytes arrived");
    }
    Ok(())
}

fn moved(lab: &Lab) -> Result<()> {
    let (daemon, h1, _h2) = pair(lab)?;
    let node = lab.node("router")?;
    daemon.run("add-port br0 qr0 type=internal")?;
    cmd::run(&["ip", "link", "set", "dev", "qr0", "netns", "router"])?;
    node.run(&["ip", "addr", "add", "10.0.0.254/24", "dev", "qr0"])?;
    node.run(&["ip", "link", "set", "dev", "qr0", "up"])?;
    h1.ping("10.0.0.254", 10)?;
    tcp(&h1, "10.0.0.254", Some(&node))?;
    // Down and up over there.
    node.run(&["ip", "link", "set", "dev", "qr0", "down"])?;
    h1.cannot_reach("10.0.0.254")?;
    node.run(&["ip", "link", "set", "dev", "qr0", "up"])?;
    h1.ping("10.0.0.254", 10)?;
    // Removing the port removes it wherever it is.
    daemon.run("del-port br0 qr0")?;
    wait::until("qr0 is gone", || {
        Ok(node.output(&["ip", "link", "show", "dev", "qr0"])?.status != 0)
    })?;
    // The name is free again.
    daemon.run("add-port br0 qr0 type=internal")?;
    address("qr0", "10.0.0.253/24")?;
    h1.ping("10.0.0.253", 5)
}

fn vlan(lab: &Lab) -> Result<()> {
    let h1 = lab.host("h1", "10.0.0.1/24")?;
    let h2 = lab.host("h2", "10.0.0.1/24")?;
    let daemon = crate::daemon::Daemon::start(lab)?;
    daemon.run("add-br br0 -- add-port br0 h1 tag=5 -- add-port br0 h2 tag=6")?;
    let node = lab.node("dhcp")?;
    daemon.run("add-port br0 tap5 type=internal tag=5")?;
    cmd::run(&["ip", "link", "set", "dev", "tap5", "netns", "dhcp"])?;
    node.run(&["ip", "addr", "add", "10.0.0.5/24", "dev", "tap5"])?;
    node.run(&["ip", "link", "set", "dev", "tap5", "up"])?;
    h1.ping("10.0.0.5", 5)?;
    h2.cannot_reach("10.0.0.5")?;
    daemon.run("set port tap5 tag=6")?;
    node.run(&["ip", "neigh", "flush", "all"])?;
    h2.ping("10.0.0.5", 5)?;
    h1.cannot_reach("10.0.0.5")
}
