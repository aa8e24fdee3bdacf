//! Security groups: what an instance may claim to be, and which connections pass.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::pair;
use crate::daemon::Daemon;
use crate::frame::{Mac, ethernet, has_mark, udp4};
use crate::lab::{Host, Lab};
use crate::runner::Case;
use crate::{Context, Result, ensure, wait};

pub const CASES: &[Case] = &[
    Case::new("security-stateful", "nothing begins without a rule, answers pass", stateful),
    Case::new("security-spoofing", "false MAC, IP and ARP sources are dropped", spoofing),
    Case::new(
        "security-reopened",
        "not one packet passes while a guarded port is reopened",
        reopened,
    ),
    Case::new("security-ends", "connections that a rule had let begin end with it", ends),
    Case::new("security-config", "groups are stored, go with their port, refuse bad words", stored),
];

fn guard(daemon: &Daemon, port: &str, host: &Host) -> Result<()> {
    daemon.run(&format!("security-group set {port} mac={} ip={}", host.mac, host.address))?;
    Ok(())
}

fn stateful(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    h1.ping(&h2.address, 3)?;
    guard(&daemon, "h2", &h2)?;
    h1.cannot_reach(&h2.address)?;
    h2.cannot_reach(&h1.address)?;
    ensure!(daemon.drops("security_group")? > 0, "nothing was counted");
    daemon.run("security-group add h2 out")?;
    h2.ping(&h1.address, 5)?;
    h1.cannot_reach(&h2.address)?;
    daemon.run("security-group add h2 in proto=tcp port=5000-5300 remote=10.0.0.0/24")?;
    {
        let _server = super::tcp::serve(&h2)?;
        let bytes = super::tcp::measure(&h1, &h2.address, &["-n", "4M"])?;
        ensure!(bytes >= 2 << 20, "only {bytes} bytes");
    }
    h1.cannot_reach(&h2.address)?;
    daemon.run("security-group add h2 in proto=icmp")?;
    h1.ping(&h2.address, 5)?;
    // Users' flows are a bridge's own: an agent's delete-all opens nothing.
    daemon.run("security-group del h2 in proto=icmp")?;
    daemon.run("del-flows br0 -- add-flow br0 actions=NORMAL")?;
    h1.cannot_reach(&h2.address)?;
    daemon.run("security-group remove h2")?;
    h1.ping(&h2.address, 5)
}

fn spoofing(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    guard(&daemon, "h1", &h1)?;
    daemon.run("security-group add h1 out")?;
    h1.ping(&h2.address, 5)?;
    let (raw, there) = (h1.raw()?, h2.raw()?);
    let own = Ipv4Addr::new(10, 0, 0, 1);
    let dst = Ipv4Addr::new(10, 0, 0, 2);
    let packet = |src: Ipv4Addr, mark: &str| udp4((src, 7), (dst, 7), mark.as_bytes());
    let other = Mac([2, 0, 0, 0, 0, 0x77]);
    let arp = |sha: Mac, spa: [u8; 4]| {
        let head = [0, 1, 8, 0, 6, 4, 0, 2];
        [&head[..], &sha.0, &spa, &h2.mac.0, &dst.octets()].concat()
    };
    let mut server = udp4((own, 67), (Ipv4Addr::BROADCAST, 68), b"spoof dhcp");
    server.resize(300, 0);
    let bad = [
        ethernet(h2.mac, other, &[], 0x0800, &packet(own, "spoof mac")),
        ethernet(h2.mac, h1.mac, &[], 0x0800, &packet(Ipv4Addr::new(10, 0, 0, 9), "spoof ip")),
        ethernet(h2.mac, h1.mac, &[], 0x0806, &arp(h1.mac, [10, 0, 0, 9])),
        ethernet(h2.mac, h1.mac, &[], 0x0806, &arp(other, [10, 0, 0, 1])),
        ethernet(h2.mac, h1.mac, &[], 0x0800, &server),
        ethernet(h2.mac, h1.mac, &[], 0x88b5, b"spoof type"),
    ];
    for frame in &bad {
        let before = daemon.drops("spoofed")?;
        raw.send(frame)?;
        wait::until("a spoofed frame is counted", || Ok(daemon.drops("spoofed")? > before))?;
    }
    raw.send(&ethernet(h2.mac, h1.mac, &[], 0x0800, &packet(own, "an honest packet")))?;
    let seen = there.until_mark("an honest packet")?;
    let spoofed = |f: &Vec<u8>| has_mark(f, "spoof") || f.get(28..32) == Some(&[10, 0, 0, 9]);
    ensure!(!seen.iter().any(spoofed), "a spoofed frame arrived");
    Ok(())
}

fn reopened(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    let h3 = lab.host("h3", "10.0.0.3/24")?;
    daemon.run("add-port br0 h3")?;
    guard(&daemon, "h2", &h2)?;
    let packet = |to: &Host, mark: &str| {
        let (src, dst) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        ethernet(to.mac, h1.mac, &[], 0x0800, &udp4((src, 7), (dst, 7), mark.as_bytes()))
    };
    let (raw, there) = (h1.raw()?, h2.raw()?);
    let stop = Arc::new(AtomicBool::new(false));
    let (flag, frame) = (stop.clone(), packet(&h2, "not to pass"));
    let flood = std::thread::spawn(move || -> Result<crate::raw::Raw> {
        while !flag.load(Ordering::Relaxed) {
            raw.send(&frame)?;
        }
        Ok(raw)
    });
    let before = daemon.drops("security_group")?;
    let changed = (|| -> Result<()> {
        for n in [71, 81] {
            // Both are closed and opened again, one after the other.
            daemon.run(&format!(
                "set port h2 ofport_request={n} -- set port h3 ofport_request={}",
                n + 1
            ))?;
            daemon.run("security-group add h2 out -- security-group add h2 in proto=tcp")?;
            // The second one cannot be opened so: both are put back.
            daemon.refuses(
                "set port h2 ofport_request=99 -- set port h3 options:xdp-mode=native-with-zerocopy",
                1,
                &["h3"],
            )?;
            daemon.run("security-group del h2 out -- security-group del h2 in proto=tcp")?;
            for state in ["down", "up"] {
                crate::cmd::run(&["ip", "link", "set", "dev", "h2", state])?;
            }
        }
        wait::until("frames are dropped", || Ok(daemon.drops("security_group")? > before))
    })();
    stop.store(true, Ordering::Relaxed);
    let raw = flood.join().ok().context("the sender panicked")??;
    changed?;
    // What was sent before is treated by then.
    let beside = h3.raw()?;
    wait::until("h3 is in use again", || {
        raw.send(&packet(&h3, "behind the flood"))?;
        let soon = std::time::Duration::from_millis(100);
        while let Some(frame) = beside.receive(soon)? {
            if has_mark(&frame, "behind the flood") {
                return Ok(true);
            }
        }
        Ok(false)
    })?;
    daemon.run("security-group add h2 in")?;
    raw.send(&packet(&h2, "allowed at last"))?;
    let seen = there.until_mark("allowed at last")?;
    let passed = seen.iter().filter(|f| has_mark(f, "not to pass")).count();
    ensure!(passed == 0, "{passed} packets passed while the port was reopened");
    Ok(())
}

fn ends(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    guard(&daemon, "h2", &h2)?;
    daemon
        .run("security-group add h2 in proto=udp port=7 -- security-group add h2 in proto=icmp")?;
    let (raw, there) = (h1.raw()?, h2.raw()?);
    let (one, two) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
    let asks = |mark: &str| {
        ethernet(h2.mac, h1.mac, &[], 0x0800, &udp4((one, 4000), (two, 7), mark.as_bytes()))
    };
    raw.send(&asks("the first"))?;
    there.expect("the first")?;
    let answer = udp4((two, 7), (one, 4000), b"an answer");
    there.send(&ethernet(h1.mac, h2.mac, &[], 0x0800, &answer))?;
    raw.expect("an answer")?;
    h1.ping(&h2.address, 1)?;
    let of_zone = |words: &str| -> Result<usize> {
        let list = daemon.json(&format!("conntrack list zone=61440 {words}"))?;
        Ok(list["connections"].as_array().map_or(0, Vec::len))
    };
    ensure!(of_zone("proto=udp")? == 1, "no connection is tracked");
    daemon.run("security-group del h2 in proto=udp port=7")?;
    ensure!(of_zone("proto=udp")? == 0, "the connection of a rule that went is left");
    ensure!(of_zone("proto=icmp")? > 0, "the connection of another rule is gone");
    let before = daemon.drops("security_group")?;
    raw.send(&asks("too late"))?;
    wait::until("it is dropped", || Ok(daemon.drops("security_group")? > before))?;
    h1.ping(&h2.address, 1)?;
    daemon.run("security-group remove h2")?;
    ensure!(of_zone("")? == 0, "connections of a group that went are left");
    Ok(())
}

fn stored(lab: &Lab) -> Result<()> {
    let (mut daemon, h1, h2) = pair(lab)?;
    for (line, word) in [
        ("security-group add h1 in", "security-group set h1"),
        ("security-group set h1 mac=02:00:00:00:00:01", "ip="),
        ("security-group set nobody mac=02:00:00:00:00:01 ip=1.2.3.4", "no port"),
        ("security-group show h1", "no security group"),
    ] {
        daemon.refuses(line, 1, &[word])?;
    }
    guard(&daemon, "h2", &h2)?;
    for (line, word) in [
        ("security-group add h2 in port=80", "proto=tcp"),
        ("security-group add h2 in proto=tcp port=90-80", "port=80-90"),
        ("security-group add h2 in remote=10.0.0.1/8", "10.0.0.0/8"),
        ("security-group del h2 in proto=udp", "no rule"),
    ] {
        daemon.refuses(line, 1, &[word])?;
    }
    daemon.run("security-group add h2 in proto=icmp remote=10.0.0.0/24")?;
    h1.ping(&h2.address, 3)?;
    let before = daemon.json("security-group show")?;
    daemon.murder()?;
    let mut daemon = daemon.again()?;
    ensure!(daemon.json("security-group show")? == before, "another group after a restart");
    h1.ping(&h2.address, 3)?;
    h2.cannot_reach(&h1.address)?;
    daemon.run("del-port h2 -- add-port br0 h2")?;
    h2.ping(&h1.address, 3)?;
    daemon.terminate()
}
