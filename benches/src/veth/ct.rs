//! New connections on veth: each frame is the first of a UDP connection that nobody answers, so that
//! the table is soon as full as it may be, and room is made for each new one.
//!
//! The switch tracks them with `ct(commit)` between two ports; the kernel forwards between the same two
//! interfaces with a rule on `ct state`. Both may keep as many connections.

use std::time::Duration;

use anyhow::{Context, Result};
use e2e::cmd;
use e2e::daemon::Daemon;
use e2e::frame::{ethernet, udp4};
use e2e::lab::Lab;

use super::generator::{self, Vary};
use super::rig::{Rig, SOURCE, TARGET};
use crate::measure::Measurement;

const RULES: &str = "table ip t { chain f { type filter hook forward priority 0; \
                     ct state new,established accept; }; }";

/// How many connections the kernel keeps at most; it is set for the whole machine, so only read.
fn limit() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max")
        .context("nf_conntrack_max")?;
    text.trim().parse().context("nf_conntrack_max")
}

/// A UDP frame without a checksum, as [`Vary::Connections`] wants it.
fn frame(dst: [u8; 6]) -> Vec<u8> {
    let (from, to) = ([10, 1, 0, 0].into(), [198, 51, 100, 2].into());
    let mut packet = udp4((from, 1024), (to, 5000), &[0; 18]);
    packet[26..28].fill(0);
    packet[4..6].fill(0xff);
    packet[10..12].fill(0);
    let sum = e2e::frame::checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    ethernet(e2e::frame::Mac(dst), SOURCE, &[], 0x0800, &packet)
}

/// Million new connections a second through the switch. Only inside a sandbox of its own.
pub fn ours(lab: &Lab, seconds: u32) -> Result<Measurement> {
    let rig = Rig::new(lab)?;
    // The kernel's tracker is loaded, so that its limit can be read.
    cmd::run(&["nft", RULES])?;
    let daemon = Daemon::start_as(lab, "sw", &["--workers", "cores:1"])?;
    daemon.run("add-br br0 fail_mode=secure -- add-port br0 s0 -- add-port br0 s1")?;
    daemon.run(&format!("conntrack limit total={}", limit()?))?;
    daemon.run("add-flow br0 in_port=s0,udp,actions=ct(commit,zone=1),output:s1")?;
    measure(&rig, &frame(TARGET.0), seconds)
}

/// The same through the kernel.
pub fn linux(lab: &Lab, seconds: u32) -> Result<Measurement> {
    let rig = Rig::new(lab)?;
    cmd::run(&["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"])?;
    for (port, address) in [("s0", "10.0.0.1/8"), ("s1", "198.51.100.1/24")] {
        // Frames that the generator makes reach the stack only through NAPI.
        cmd::run(&["ethtool", "-K", port, "gro", "on"])?;
        cmd::run(&["ip", "addr", "add", address, "dev", port])?;
    }
    let target = TARGET.to_string();
    cmd::run(&["ip", "neigh", "replace", "198.51.100.2", "lladdr", &target, "dev", "s1"])?;
    cmd::run(&["nft", RULES])?;
    let text = std::fs::read_to_string("/sys/class/net/s0/address").context("address of s0")?;
    let mut mac = [0; 6];
    for (byte, hex) in mac.iter_mut().zip(text.trim().split(':')) {
        *byte = u8::from_str_radix(hex, 16).context("address of s0")?;
    }
    measure(&rig, &frame(mac), seconds)
}

fn measure(rig: &Rig, sample: &[u8], seconds: u32) -> Result<Measurement> {
    let _drain = generator::drain("sink", "k0")?;
    rig.until_frames_cross(sample, Vary::Connections)?;
    // Until the table is full.
    generator::flood("gen", "g0", sample, Vary::Connections, Duration::from_secs(1))?;
    let rate = rig.measure(sample, Vary::Connections, seconds)?;
    Ok(Measurement { rate, cycles: None })
}
