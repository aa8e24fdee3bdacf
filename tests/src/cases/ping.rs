//! Frames go through: two machines on one bridge.

use super::pair;
use crate::daemon::Daemon;
use crate::lab::Lab;
use crate::runner::Case;
use crate::{Result, cmd, ensure, report};

pub const CASES: &[Case] = &[
    Case::new("ping-native", "two machines reach each other through native XDP", native),
    Case::new("ping-generic", "the same with options:xdp-mode=generic", generic),
    Case::new("ping-ipv6", "IPv6 with neighbour discovery crosses the switch", ipv6),
    Case::new("ping-sizes", "frames of every size up to the MTU cross unchanged", sizes),
    Case::new("counters", "dump-ports counts what went through", counters),
];

fn native(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    h1.ping(&h2.address, 20)?;
    h2.ping(&h1.address, 20)?;
    for port in ["h1", "h2"] {
        let show = daemon.json("show")?;
        let mode = report::text(report::object(&show, "name", port)?, "mode").to_owned();
        ensure!(mode == "native", "show says mode {mode:?} of {port}");
        let link = cmd::run(&["ip", "link", "show", "dev", port])?;
        ensure!(link.contains("prog/xdp") && !link.contains("xdpgeneric"), "{link}");
        ensure!(link.contains("PROMISC"), "not promiscuous: {link}");
    }
    Ok(())
}

fn generic(lab: &Lab) -> Result<()> {
    let h1 = lab.host("h1", "10.0.0.1/24")?;
    let h2 = lab.host("h2", "10.0.0.2/24")?;
    let daemon = Daemon::start(lab)?;
    daemon.run("add-br br0")?;
    for port in ["h1", "h2"] {
        daemon.run(&format!(
            "add-port br0 {port} options:xdp-mode=generic options:accept-tag-loss=true"
        ))?;
    }
    h1.ping(&h2.address, 20)?;
    h2.ping(&h1.address, 20)?;
    let show = daemon.json("show")?;
    let mode = report::text(report::object(&show, "name", "h1")?, "mode").to_owned();
    ensure!(mode == "generic", "show says mode {mode:?}");
    let link = cmd::run(&["ip", "link", "show", "dev", "h1"])?;
    ensure!(link.contains("xdpgeneric"), "{link}");
    Ok(())
}

fn ipv6(lab: &Lab) -> Result<()> {
    let (_daemon, h1, h2) = pair(lab)?;
    for (host, address) in [(&h1, "fd00::1/64"), (&h2, "fd00::2/64")] {
        host.node.run(&["sysctl", "-q", "-w", "net.ipv6.conf.eth0.disable_ipv6=0"])?;
        host.node.run(&["ip", "addr", "add", address, "dev", "eth0", "nodad"])?;
    }
    h1.ping("fd00::2", 10)?;
    h2.ping("fd00::1", 10)
}

fn sizes(lab: &Lab) -> Result<()> {
    let (_daemon, h1, h2) = pair(lab)?;
    h1.ping(&h2.address, 1)?;
    for size in ["0", "1", "17", "18", "19", "255", "1471", "1472"] {
        let text = h1.node.run(&[
            "ping",
            "-q",
            "-M",
            "do",
            "-p",
            "a5",
            "-s",
            size,
            "-c",
            "3",
            "-i",
            "0.05",
            "-W",
            "2",
            &h2.address,
        ])?;
        ensure!(text.contains(" 0% packet loss"), "size {size}: {text}");
        // ping says so when an answer's bytes differ.
        ensure!(!text.contains("wrong data"), "size {size}: {text}");
    }
    // Larger than the MTU: the kernel cuts it, the switch carries the fragments.
    let text = h1.node.run(&["ping", "-q", "-s", "8000", "-c", "3", "-W", "2", &h2.address])?;
    ensure!(text.contains(" 0% packet loss"), "fragments: {text}");
    Ok(())
}

fn counters(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    h1.ping(&h2.address, 1)?;
    let read = |port: &str, key: &str| -> Result<u64> {
        report::port_counter(&daemon.json("dump-ports br0")?, port, key)
    };
    let (rx, tx) = (read("h1", "rx_packets")?, read("h2", "tx_packets")?);
    let bytes = read("h1", "rx_bytes")?;
    h1.ping(&h2.address, 50)?;
    crate::wait::until("the counters of both ports have moved", || {
        Ok(read("h1", "rx_packets")? >= rx + 51
            && read("h2", "tx_packets")? >= tx + 51
            && read("h1", "rx_bytes")? >= bytes + 51 * 98)
    })
}
