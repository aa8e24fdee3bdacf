//! TCP and UDP between plain kernels: offloads as the kernel sets them, no `ethtool`.

use super::pair;
use crate::lab::{Background, Host, Lab, Node};
use crate::runner::Case;
use crate::{Context, Result, cmd, ensure, wait};

pub const CASES: &[Case] = &[
    Case::new("tcp-default-offloads", "TCP both ways with default offloads at both ends", offloads),
    Case::new("tcp-ipv6", "TCP over IPv6 with default offloads", ipv6),
    Case::new("tcp-parallel", "eight TCP connections at once", parallel),
    Case::new("udp-checksums", "UDP with the kernel's unfinished checksums arrives", udp),
];

/// Start an iperf3 server on a machine and wait until it listens. One that ends at once, as the port of the last
/// one is not free yet, is started again.
pub fn serve(host: &Host) -> Result<Background> {
    let start = || host.node.start(&["iperf3", "-s"]);
    let mut server = start()?;
    wait::until("iperf3 listens", || {
        if !server.alive() {
            server = start()?;
        }
        // 0x1451 = 5201, state 0A = LISTEN
        let table = host.node.run(&["cat", "/proc/net/tcp", "/proc/net/tcp6"])?;
        Ok(table.lines().any(|line| line.contains(":1451 ") && line.contains(" 0A ")))
    })?;
    Ok(server)
}

/// Run an iperf3 client; the number of bytes that the other end had counted when the client was done,
/// which may be less than was sent.
pub fn measure(from: &Host, to: &str, more: &[&str]) -> Result<u64> {
    measure_from(Some(&from.node), to, more)
}

/// The same from a machine, or from the switch's host.
pub fn measure_from(from: Option<&Node>, to: &str, more: &[&str]) -> Result<u64> {
    let mut args = vec!["iperf3", "--json", "-c", to];
    args.extend(more);
    let mut text = String::new();
    // A server does not listen for a moment after each of its tests.
    wait::until("the server takes a connection", || {
        text = match from {
            Some(node) => node.output(&args)?.stdout,
            None => cmd::output(&args)?.stdout,
        };
        Ok(!text.contains("Connection refused"))
    })?;
    let document: serde_json::Value = serde_json::from_str(&text)?;
    let end = document.get("end").context("iperf3 says no end")?;
    let sum = end.get("sum_received").or(end.get("sum"));
    let sum = sum.with_context(|| format!("iperf3 says no sum: {text}"))?;
    sum.get("bytes").and_then(serde_json::Value::as_u64).context("iperf3 says no bytes")
}

/// The bytes of a TCP transfer of 64 MiB, both ways.
fn transfer(from: &Host, to: &Host, address: &str) -> Result<()> {
    for direction in [&["-n", "64M"][..], &["-n", "64M", "-R"]] {
        let _server = serve(to)?;
        let bytes = measure(from, address, direction)?;
        ensure!(bytes >= 32 << 20, "only {bytes} bytes arrived");
    }
    Ok(())
}

fn offloads(lab: &Lab) -> Result<()> {
    let (_daemon, h1, h2) = pair(lab)?;
    for host in [&h1, &h2] {
        let features = host.node.run(&["ethtool", "-k", "eth0"])?;
        ensure!(features.contains("tx-checksumming: on"), "offloads are off:\n{features}");
    }
    h1.ping(&h2.address, 1)?;
    transfer(&h1, &h2, &h2.address)
}

fn ipv6(lab: &Lab) -> Result<()> {
    let (_daemon, h1, h2) = pair(lab)?;
    for (host, address) in [(&h1, "fd00::1/64"), (&h2, "fd00::2/64")] {
        host.node.run(&["sysctl", "-q", "-w", "net.ipv6.conf.eth0.disable_ipv6=0"])?;
        host.node.run(&["ip", "addr", "add", address, "dev", "eth0", "nodad"])?;
    }
    h1.ping("fd00::2", 1)?;
    transfer(&h1, &h2, "fd00::2")
}

fn parallel(lab: &Lab) -> Result<()> {
    let (_daemon, h1, h2) = pair(lab)?;
    h1.ping(&h2.address, 1)?;
    let _server = serve(&h2)?;
    let bytes = measure(&h1, &h2.address, &["-P", "8", "-n", "64M"])?;
    ensure!(bytes >= 32 << 20, "only {bytes} bytes arrived");
    Ok(())
}

fn udp(lab: &Lab) -> Result<()> {
    let (_daemon, h1, h2) = pair(lab)?;
    h1.ping(&h2.address, 1)?;
    let _server = serve(&h2)?;
    // 10 Mbit/s: well below what any machine carries, so nearly all of it has to arrive.
    let bytes = measure(&h1, &h2.address, &["-u", "-b", "10M", "-t", "2"])?;
    ensure!(bytes > 1_000_000, "only {bytes} bytes arrived");
    let bad = h2.node.run(&["cat", "/proc/net/snmp"])?;
    let udp: Vec<&str> = bad.lines().filter(|line| line.starts_with("Udp:")).collect();
    let (names, values) = (udp.first().context("no Udp line")?, udp.get(1).context("no Udp line")?);
    let at = names.split(' ').position(|n| n == "InCsumErrors").context("no InCsumErrors")?;
    ensure!(values.split(' ').nth(at) == Some("0"), "UDP checksum errors:\n{bad}");
    Ok(())
}
