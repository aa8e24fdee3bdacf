//! The generator `pktgen` between the two ends of the switch, of the kernel's bridge and of a device that
//! spoils an exact number of packets: what it says must be what happened.
//!
//! Few packets are sent, fewer than any queue on their way holds, so that none is lost however busy the machine
//! is. What spoils them is a flow of the switch or a relay of this test, which know how many they take; the
//! kernel's own emulation of networks draws lots.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::daemon::{Daemon, program};
use crate::lab::{Lab, Node};
use crate::raw::Raw;
use crate::runner::Case;
use crate::{Context, Result, bail, cmd, ensure, wait};

pub const CASES: &[Case] = &[
    Case::new(
        "pktgen-switch",
        "pktgen through the switch: no loss, and all that flows drop or copy",
        switch,
    ),
    Case::new("pktgen-jumbo", "frames of 9,000 bytes and small ones through the switch", jumbo),
    Case::new("pktgen-bridge", "pktgen through the kernel's bridge: no loss, order kept", bridge),
    Case::new("pktgen-spoiled", "pktgen finds every packet lost, doubled or reordered", spoiled),
    Case::new(
        "pktgen-dump",
        "packets of a seed are the same, tshark reads them, a capture is replayed",
        dump,
    ),
    Case::new(
        "pktgen-search",
        "pktgen's RFC 2544 search, sweep and connections through the switch",
        search,
    ),
    Case::new(
        "pktgen-errors",
        "what pktgen cannot do it says, and leaves interfaces as they were",
        errors,
    ),
];

/// Packets of a trial: fewer than the 256 that a veth holds.
const COUNT: u64 = 200;

/// A machine with two cables, `g1` to `s1` and `g2` to `s2` of the switch's host.
fn generator(lab: &Lab) -> Result<Node> {
    let node = lab.node("gen")?;
    lab.cable("s1", &node, "g1")?;
    lab.cable("s2", &node, "g2")?;
    Ok(node)
}

fn generator_and_switch(lab: &Lab) -> Result<(Node, Daemon)> {
    let node = generator(lab)?;
    let daemon = Daemon::start(lab)?;
    daemon.run("add-br br0 -- add-port br0 s1 -- add-port br0 s2")?;
    Ok((node, daemon))
}

/// Patience where every packet comes: it ends with the last.
const ALL: &str = "--grace 20";
/// Where some do not, it is waited for to its end: longer than a switch of a busy machine may be kept from running.
const SOME: &str = "--grace 6";

/// Run pktgen on a machine; its document.
fn pktgen(node: &Node, line: &str) -> Result<Value> {
    let program = program("pktgen").display().to_string();
    let mut words = vec![program.as_str()];
    words.extend(line.split_whitespace());
    words.extend(["--format", "json"]);
    let text = node.run(&words)?;
    serde_json::from_str(&text).with_context(|| format!("pktgen {line} said: {text}"))
}

/// A trial of [`COUNT`] packets; more words for it.
fn trial(node: &Node, more: &str) -> Result<Value> {
    pktgen(node, &format!("run g1 g2 --count {COUNT} --rate 2000 {more}"))
}

/// These counters must have these values.
fn expect(report: &Value, counters: &[(&str, u64)]) -> Result<()> {
    for (name, wanted) in counters {
        let got = report[name].as_u64();
        ensure!(got == Some(*wanted), "{name} is {got:?}, not {wanted}: {report:#}");
    }
    Ok(())
}

fn switch(lab: &Lab) -> Result<()> {
    let (node, daemon) = generator_and_switch(lab)?;
    let clean =
        [("sent", COUNT), ("received", COUNT), ("lost", 0), ("reordered", 0), ("duplicated", 0)];
    let shapes = [
        "--flows 10",
        "--size imix --sources 4",
        "--vlan 5,7",
        "--ipv6 --size 90",
        "--vni 100-103 --size 120",
    ];
    for shape in shapes {
        let report = trial(&node, &format!("{shape} {ALL}")).context(shape)?;
        expect(&report, &clean).context(shape)?;
        let latency = &report["latency_us"];
        let (min, max) = (latency["min"].as_f64(), latency["max"].as_f64());
        ensure!(min > Some(0.0) && min <= max, "latency: {latency}");
        let ports = report["place"]["ports"].as_array().map(Vec::len);
        ensure!(ports == Some(2) && report["place"]["ports"][0]["driver"] == "veth", "{report:#}");
    }
    // Of ten flows one is dropped, then one is sent twice.
    daemon.run("add-flow br0 priority=9,in_port=s1,udp,tp_src=1024,actions=drop")?;
    let report = trial(&node, &format!("--flows 10 {SOME}"))?;
    expect(&report, &[("received", COUNT - COUNT / 10), ("lost", COUNT / 10), ("duplicated", 0)])?;
    daemon.run("add-flow br0 priority=9,in_port=s1,udp,tp_src=1024,actions=output:s2,output:s2")?;
    let report = trial(&node, &format!("--flows 10 {ALL}"))?;
    expect(&report, &[("received", COUNT), ("lost", 0), ("duplicated", COUNT / 10)])
}

fn jumbo(lab: &Lab) -> Result<()> {
    let node = generator(lab)?;
    for (here, there) in [("s1", "g1"), ("s2", "g2")] {
        cmd::run(&["ip", "link", "set", "dev", here, "mtu", "9000"])?;
        node.run(&["ip", "link", "set", "dev", there, "mtu", "9000"])?;
    }
    let daemon = Daemon::start(lab)?;
    daemon.run("add-br br0 -- add-port br0 s1 -- add-port br0 s2")?;
    let report = trial(&node, &format!("--size 9018,64,9000 --flows 5 {ALL}"))?;
    expect(&report, &[("received", COUNT), ("lost", 0), ("reordered", 0), ("foreign", 0)])
}

fn bridge(lab: &Lab) -> Result<()> {
    let node = generator(lab)?;
    cmd::run(&["ip", "link", "add", "kbr", "type", "bridge"])?;
    cmd::run(&["ip", "link", "set", "dev", "kbr", "up"])?;
    for port in ["s1", "s2"] {
        cmd::run(&["ip", "link", "set", "dev", port, "master", "kbr"])?;
    }
    let report = trial(&node, &format!("--flows 20 --size 64,1518 {ALL}"))?;
    expect(&report, &[("sent", COUNT), ("received", COUNT), ("lost", 0), ("reordered", 0)])?;
    let report = trial(&node, &format!("--protocol tcp --size 100 --xdp generic {ALL}"))?;
    expect(&report, &[("received", COUNT), ("lost", 0), ("duplicated", 0)])
}

/// Of ten packets that a device takes, the third is lost, the fifth doubled, the eighth sent behind the ninth.
fn relay(from: &Raw, to: &Raw, stop: &AtomicBool) -> Result<u64> {
    let (mut taken, mut held) = (0, None);
    loop {
        let Some(frame) = from.receive(Duration::from_millis(20))? else {
            if stop.load(Ordering::Relaxed) {
                return Ok(taken);
            }
            continue;
        };
        taken += 1;
        match taken % 10 {
            3 => {}
            8 => held = Some(frame),
            place => {
                to.send(&frame)?;
                if place == 5 {
                    to.send(&frame)?;
                }
                if let Some(late) = held.take() {
                    to.send(&late)?;
                }
            }
        }
    }
}

fn spoiled(lab: &Lab) -> Result<()> {
    let node = generator(lab)?;
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    // Open before the first packet is sent, so that it takes all of them.
    let (from, to) = (Raw::open(None, "s1")?, Raw::open(None, "s2")?);
    let device = std::thread::spawn(move || relay(&from, &to, &flag));
    let report = trial(&node, &format!("--flows 7 {SOME}"))?;
    stop.store(true, Ordering::Relaxed);
    let taken = device.join().map_err(|_| anyhow::anyhow!("the relay panicked"))??;
    ensure!(taken == COUNT, "the relay saw {taken} packets");
    let share = COUNT / 10;
    expect(&report, &[("sent", COUNT), ("lost", share), ("received", COUNT - share)])?;
    expect(&report, &[("duplicated", share), ("reordered", share), ("foreign", 0)])
}

fn dump(lab: &Lab) -> Result<()> {
    let program = program("pktgen").display().to_string();
    let dump = |name: &str, words: &str| -> Result<Vec<u8>> {
        let file = lab.dir().join(name).display().to_string();
        let mut all = vec![program.as_str(), "dump", "--count", "120"];
        all.extend(words.split_whitespace());
        all.push(&file);
        cmd::run(&all)?;
        Ok(std::fs::read(&file)?)
    };
    let words = "--size 200,600 --flows 50 --vlan 5-9 --vni 100-109 --sources 3";
    let first = dump("a.pcap", words)?;
    ensure!(first == dump("b.pcap", words)?, "the same seed gave other packets");
    ensure!(
        first != dump("c.pcap", &format!("{words} --seed 2"))?,
        "another seed gave the same packets"
    );
    // What another program reads in them: inner ports, network and VLAN ids, sums that are right.
    let file = lab.dir().join("a.pcap").display().to_string();
    #[rustfmt::skip]
    let read = cmd::run(&[
        "tshark", "-r", &file, "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE",
        "-T", "fields", "-E", "occurrence=l", "-e", "vlan.id", "-e", "vxlan.vni", "-e", "ip.checksum.status",
        "-e", "udp.checksum.status", "-e", "udp.dstport",
    ])?;
    let mut networks = std::collections::BTreeSet::new();
    ensure!(read.lines().count() == 120, "tshark read {} packets", read.lines().count());
    for line in read.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [vlan, vni, "1", "1", "5000"] = fields[..] else {
            bail!("tshark read: {line}");
        };
        ensure!(["5", "6", "7", "8", "9"].contains(&vlan), "VLAN {vlan}");
        networks.insert(vni.to_owned());
    }
    ensure!(networks.len() == 10, "networks: {networks:?}");
    // A capture replayed: each frame as it was, at the other end of the cable and through the switch.
    let node = generator(lab)?;
    let cable = Raw::open(None, "s1")?;
    pktgen(&node, &format!("run g1 --count 120 --rate 2000 --grace 0.1 --pcap {file}"))?;
    for (n, frame) in frames_of(&first)?.iter().enumerate() {
        let got = cable.receive(wait::SOON)?.with_context(|| format!("frame {n} did not come"))?;
        ensure!(got == *frame, "frame {n} is\n{got:x?}\nnot\n{frame:x?}");
    }
    let daemon = Daemon::start(lab)?;
    daemon.run("add-br br0 -- add-port br0 s1 -- add-port br0 s2")?;
    let report = trial(&node, &format!("--pcap {file} {ALL}"))?;
    expect(&report, &[("sent", COUNT), ("received", COUNT), ("lost", 0)])?;
    ensure!(report["latency_us"].is_null(), "captured frames have no time in them");
    Ok(())
}

/// The frames of a little-endian capture file.
fn frames_of(file: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut rest = file.get(24..).context("a file header")?;
    let mut frames = Vec::new();
    while let Some((record, after)) = rest.split_first_chunk::<16>() {
        let len = u32::from_le_bytes([record[8], record[9], record[10], record[11]]) as usize;
        frames.push(after.get(..len).context("a frame is cut")?.to_vec());
        rest = &after[len..];
    }
    Ok(frames)
}

fn search(lab: &Lab) -> Result<()> {
    let (node, _daemon) = generator_and_switch(lab)?;
    let limits = "--highest 2000 --lowest 100 --trial 0.1 --precision 25 --latency-at 50";
    let report = pktgen(&node, &format!("rfc2544 g1 g2 --size 64 {limits}"))?;
    let size = &report["sizes"][0];
    let trials = size["trials"].as_array().context("trials")?;
    ensure!(!trials.is_empty() && size["size"] == "64", "{report:#}");
    // A busy machine may lose packets: the result is the best of the trials without loss, whatever that is.
    let passed = |t: &&Value| {
        let (wanted, offered) = (t["wanted"].as_f64(), t["offered"].as_f64());
        t["loss"] == 0.0 && offered.zip(wanted).is_some_and(|(o, w)| o >= w * 0.98)
    };
    let rate = size["no_drop"]["rate"].as_f64();
    match rate {
        Some(rate) => {
            ensure!(trials.iter().filter(passed).any(|t| t["wanted"] == rate), "{report:#}")
        }
        None => ensure!(trials.iter().any(|t| !passed(&t)), "{report:#}"),
    }
    let measured = size["latency"].as_array().map(Vec::len);
    ensure!(measured == Some(usize::from(rate.is_some())), "{report:#}");
    let plot = lab.dir().join("flows.svg").display().to_string();
    let line = format!("sweep g1 g2 --over 1,50 --rate 1000 --seconds 0.1 --plot {plot}");
    let report = pktgen(&node, &line)?;
    ensure!(report["points"].as_array().map(Vec::len) == Some(2), "{report:#}");
    ensure!(std::fs::read_to_string(&plot)?.contains("Throughput against flows"), "no plot");
    let report = pktgen(&node, "connections g1 g2 --per-second 200 --seconds 0.2 --grace 20")?;
    let opened = report["opened"].as_u64().context("opened")?;
    ensure!((1..=41).contains(&opened), "{report:#}");
    expect(&report, &[("completed", opened), ("failed", 0)])
}

fn errors(lab: &Lab) -> Result<()> {
    let node = generator(lab)?;
    let program = program("pktgen").display().to_string();
    let link = || node.run(&["ip", "-d", "link", "show", "dev", "g1"]);
    let before = link()?;
    for (line, words) in [
        ("run g1 g9", &["no interface g9", "g1, g2"][..]),
        ("run g1 g2 --size 9000", &["9000", "MTU is 1500", "ip link set"]),
        ("run g1 g2 --protocol tcp", &["--size 72"]),
        ("run g1 g2 --rate fast", &["fast", "1.5Mpps"]),
        ("run g1 g2 --pcap /nonexistent", &["--pcap /nonexistent"]),
        ("run g1 g2 --core 4000", &["--core 4000", "these cores"]),
        ("run --inside drop --inside-core 4000", &["--inside-core 4000"]),
        ("run", &["TX"]),
        ("rfc2544 g1 g2 --lowest 5Mpps --highest 1Mpps", &["--lowest 5.00 Mpps", "1.00 Mpps"]),
        ("rfc2544 g1 g2 --loss 1", &["--partial-loss 0.5", "--loss 1"]),
        ("run --inside nonsense", &["--inside", "nonsense"]),
        ("ruun g1 g2", &["similar", "run"]),
    ] {
        let mut all = vec![program.as_str()];
        all.extend(line.split_whitespace());
        let out = node.output(&all)?;
        ensure!(out.status != 0 && out.stdout.is_empty(), "{line} was taken: {}", out.stdout);
        for word in words {
            ensure!(out.stderr.contains(word), "{line} does not say `{word}`: {}", out.stderr);
        }
    }
    ensure!(before == link()?, "g1 was left as:\n{}", link()?);
    nobody_answers(&node)
}

/// Without a device everything is lost, which is no error; and no program is left.
fn nobody_answers(node: &Node) -> Result<()> {
    let report = trial(node, "--core 0 --grace 0.1")?;
    expect(&report, &[("sent", COUNT), ("received", 0), ("lost", COUNT)])?;
    let links = node.run(&["ip", "link", "show"])?;
    ensure!(!links.contains("xdp"), "a program is left:\n{links}");
    Ok(())
}
