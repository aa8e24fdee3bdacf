//! Frames of any content on a real interface, while good traffic flows.
//!
//! Oracle: the daemon lives and answers, its memory stays flat, every frame is accounted for, good
//! traffic is not disturbed, and the next good frame is forwarded.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::pair;
use crate::frame::{Mac, Tag, dot1ad, dot1q, ethernet, ipv4, marked, pseudo, udp4};
use crate::lab::Lab;
use crate::runner::Case;
use crate::{Context, Result, ensure, wait};

pub const CASES: &[Case] = &[
    Case::new("hard-inputs", "malformed frames of every kind, native", native),
    Case::new("hard-inputs-generic", "the same through generic XDP", generic),
    Case::new("random-frames", "20,000 frames of random bytes and random damage", random),
    Case::new("varied-headers", "headers that vary every bit do not fill memory", varied),
];

const A: Mac = Mac([2, 0, 0, 0, 5, 1]);
const B: Mac = Mac([2, 0, 0, 0, 5, 2]);
const IP_A: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const IP_B: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// A frame with an IPv4 packet whose bytes were changed by `edit`.
fn broken4(edit: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut packet = udp4((IP_A, 1), (IP_B, 2), &[0xaa; 40]);
    edit(&mut packet);
    ethernet(B, A, &[], 0x0800, &packet)
}

/// A frame with a TCP segment: data offset in words, flags, options.
fn tcp(offset: u8, flags: u8, options: &[u8]) -> Vec<u8> {
    let mut segment =
        vec![0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 0, offset << 4, flags, 1, 0, 0, 0, 0, 0];
    segment.extend(options);
    let length = segment.len() as u16;
    let sum = crate::frame::checksum(&[&pseudo(IP_A, IP_B, 6, length)[..], &segment].concat());
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    ethernet(B, A, &[], 0x0800, &ipv4(IP_A, IP_B, 6, &segment))
}

/// An IPv6 packet of these header types in a row, each 8 bytes, cut after `keep` bytes.
fn ipv6(headers: &[u8], last: u8, keep: usize) -> Vec<u8> {
    let mut payload = Vec::new();
    for (n, _) in headers.iter().enumerate() {
        let next = headers.get(n + 1).copied().unwrap_or(last);
        payload.extend([next, 0, 1, 4, 0, 0, 0, 0]);
    }
    payload.extend([0, 1, 0, 2, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([headers.first().copied().unwrap_or(last), 64]);
    packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    packet.extend(payload);
    packet.truncate(keep);
    ethernet(B, A, &[], 0x86dd, &packet)
}

fn ethernet_frames() -> Vec<Vec<u8>> {
    let mut frames: Vec<Vec<u8>> = (0..=14).map(|n| vec![0x02; n]).collect();
    let snap = |oui: [u8; 3]| [&[0xaa, 0xaa, 3][..], &oui, &[0x08, 0], &[0x45; 30]].concat();
    for payload in [vec![0x42, 0x42, 3, 0, 0], snap([0, 0, 0]), snap([0, 0, 0xf8]), snap([1, 2, 3])]
    {
        frames.push(ethernet(B, A, &[], payload.len() as u16, &payload));
        frames.push(ethernet(B, A, &[], 1400, &payload)); // a length beyond the frame
        frames.push(ethernet(B, A, &[], 3, &payload));
    }
    for size in [1500, 1504, 1514] {
        frames.push(ethernet(B, A, &[], 0x88b5, &vec![7; size - 14]));
    }
    frames.push(ethernet(B, Mac::BROADCAST, &[], 0x0800, &udp4((IP_A, 1), (IP_B, 2), b"x")));
    frames.push(ethernet(
        B,
        Mac([1, 0, 0x5e, 0, 0, 1]),
        &[],
        0x0800,
        &udp4((IP_A, 1), (IP_B, 2), b"x"),
    ));
    frames.push(ethernet(B, Mac([0; 6]), &[], 0x0800, &udp4((IP_A, 1), (IP_B, 2), b"x")));
    for padding in [1, 255, 256, 1400] {
        let mut frame = ethernet(B, A, &[], 0x0800, &udp4((IP_A, 1), (IP_B, 2), b"short"));
        frame.extend(vec![0x5a; padding]);
        frames.push(frame);
    }
    frames
}

fn tagged_frames() -> Vec<Vec<u8>> {
    let packet = udp4((IP_A, 1), (IP_B, 2), b"tagged");
    let stacks: &[&[Tag]] = &[
        &[dot1q(0)],
        &[dot1q(4095)],
        &[dot1q(1), dot1q(2)],
        &[dot1ad(1), dot1q(2)],
        &[dot1q(1), dot1q(2), dot1q(3)],
        &[dot1ad(1), dot1ad(2), dot1ad(3), dot1ad(4), dot1ad(5)],
    ];
    let mut frames = Vec::new();
    for stack in stacks {
        let whole = ethernet(B, A, stack, 0x0800, &packet);
        // A tag and nothing behind it, or half of it.
        for keep in [14 + 4 * stack.len() - 3, 14 + 4 * stack.len() - 2, 14 + 4 * stack.len()] {
            frames.push(whole[..keep].to_vec());
        }
        frames.push(whole);
    }
    let label = |n: u32, bottom: u32| (n << 12 | bottom << 8 | 64).to_be_bytes();
    let deep: Vec<u8> = (0..40).flat_map(|n| label(n, 0)).collect();
    frames.push(ethernet(B, A, &[], 0x8847, &deep)); // without a bottom
    frames.push(ethernet(B, A, &[], 0x8847, &[deep, label(99, 1).to_vec(), packet].concat()));
    frames.push(ethernet(B, A, &[], 0x8848, &[1, 2]));
    frames
}

fn ipv4_frames() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for first in [0x05, 0x15, 0x40, 0x44, 0x46, 0x4f, 0x55, 0x65, 0xff] {
        frames.push(broken4(|p| p[0] = first));
    }
    for length in [0_u16, 19, 20, 21, 27, 28, 1000, 65535] {
        frames.push(broken4(|p| p[2..4].copy_from_slice(&length.to_be_bytes())));
    }
    for keep in [1, 2, 9, 19, 20, 21, 24, 27] {
        frames.push(broken4(|p| p.truncate(keep)));
    }
    for ttl in [0, 1] {
        frames.push(broken4(|p| p[8] = ttl));
    }
    for protocol in [0, 1, 2, 4, 6, 17, 33, 41, 47, 50, 51, 58, 94, 132, 136, 255] {
        frames.push(broken4(|p| p[9] = protocol));
    }
    frames.push(broken4(|p| p[10] ^= 0xff));
    for source in [[0, 0, 0, 0], [255; 4], [127, 0, 0, 1], [224, 0, 0, 1]] {
        frames.push(broken4(|p| p[12..16].copy_from_slice(&source)));
    }
    // Fragments: first, 8-byte first, later, beyond 65,535, more-fragments with odd lengths.
    for bits in [0x2000_u16, 0x2001, 0x0001, 0x1fff, 0x3fff, 0x8000, 0xffff] {
        frames.push(broken4(|p| p[6..8].copy_from_slice(&bits.to_be_bytes())));
        frames.push(broken4(|p| {
            p[6..8].copy_from_slice(&bits.to_be_bytes());
            p.truncate(28);
        }));
    }
    // Options, among them length 0, 1, and beyond the header.
    for options in [[7, 0, 4, 0], [7, 1, 4, 0], [68, 40, 5, 0], [0x94, 4, 0, 0], [1, 1, 1, 0]] {
        frames.push(broken4(|p| {
            p.splice(20..20, options);
            p[0] = 0x46;
        }));
    }
    frames
}

fn ipv6_frames() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for headers in
        [&[][..], &[0], &[60, 0], &[43], &[44], &[51], &[50], &[135], &[0; 50], &[60; 50]]
    {
        let whole = ipv6(headers, 17, usize::MAX);
        for cut in (0..whole.len() - 14).step_by(5) {
            frames.push(ipv6(headers, 17, cut));
        }
        frames.push(whole);
    }
    for last in [58, 59, 6, 132, 255] {
        frames.push(ipv6(&[], last, usize::MAX));
    }
    for (kind, option) in [(135, [1, 0]), (135, [1, 200]), (136, [2, 0]), (134, [3, 0])] {
        let mut packet = vec![0x60, 0, 0, 0, 0, 28, 58, 255];
        packet.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend([0xfe; 16]);
        packet.extend(option);
        packet.extend([0; 2]);
        frames.push(ethernet(B, A, &[], 0x86dd, &packet));
    }
    frames
}

fn upper_frames() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for offset in [0, 4, 5, 6, 15] {
        for flags in [0, 0x03, 0x3f, 0xff, 0x02, 0x04] {
            frames.push(tcp(offset, flags, &[]));
        }
    }
    for options in [[2, 0, 0, 0], [2, 1, 0, 0], [3, 3, 15, 0], [5, 40, 0, 0]] {
        frames.push(tcp(6, 2, &options));
    }
    for length in [0_u16, 7, 8, 47, 49, 65535] {
        frames.push(broken4(|p| p[24..26].copy_from_slice(&length.to_be_bytes())));
    }
    frames.push(broken4(|p| p[20..24].fill(0))); // ports 0
    frames.push(broken4(|p| p[26..28].fill(0))); // no checksum
    for quote in [0, 4, 8, 20, 28, 548] {
        let mut icmp = vec![3, 4, 0, 0, 0, 0, 0, 68];
        icmp.extend(udp4((IP_B, 2), (IP_A, 1), &[0; 600]).into_iter().take(quote));
        frames.push(ethernet(B, A, &[], 0x0800, &ipv4(IP_A, IP_B, 1, &icmp)));
    }
    for (operation, hardware, keep) in
        [(0, 6, 28), (3, 6, 28), (65535, 6, 28), (1, 8, 28), (1, 6, 27), (1, 0, 8)]
    {
        let mut arp = vec![0, 1, 8, 0, hardware, 4];
        arp.extend((operation as u16).to_be_bytes());
        arp.extend([&A.0[..], &IP_A.octets(), &[0; 6], &IP_B.octets()].concat());
        arp.truncate(keep);
        frames.push(ethernet(Mac::BROADCAST, A, &[], 0x0806, &arp));
    }
    // VXLAN without the I flag, GRE of version 1 and with all flags, Geneve with options beyond the end.
    for (port, head) in
        [(4789, [0; 8]), (4789, [0xff; 8]), (6081, [0x3f, 0, 0x65, 0x58, 0, 0, 1, 0])]
    {
        let inner = ethernet(B, A, &[], 0x0800, &[0x45]);
        frames.push(ethernet(
            B,
            A,
            &[],
            0x0800,
            &udp4((IP_A, 1), (IP_B, port), &[&head[..], &inner].concat()),
        ));
    }
    for gre in [[0xb0, 0x00, 0x65, 0x58], [0x00, 0x01, 0x08, 0x00], [0xff, 0xff, 0xff, 0xff]] {
        frames.push(ethernet(B, A, &[], 0x0800, &ipv4(IP_A, IP_B, 47, &gre)));
    }
    for sctp in [vec![0; 4], vec![0; 12], vec![0xff; 40]] {
        frames.push(ethernet(B, A, &[], 0x0800, &ipv4(IP_A, IP_B, 132, &sctp)));
    }
    frames
}

/// All of them.
fn all_frames() -> Vec<Vec<u8>> {
    [ethernet_frames(), tagged_frames(), ipv4_frames(), ipv6_frames(), upper_frames()].concat()
}

fn native(lab: &Lab) -> Result<()> {
    send_all(lab, "")
}

fn generic(lab: &Lab) -> Result<()> {
    send_all(lab, "options:xdp-mode=generic options:accept-tag-loss=true")
}

fn send_all(lab: &Lab, options: &str) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    let hostile = lab.host("bad", "")?;
    let _h4 = lab.host("h4", "")?;
    daemon.run(&format!("add-port br0 bad {options} -- add-port br0 h4 tag=5"))?;
    h1.ping(&h2.address, 1)?;
    let mut good = h1.node.start(&["ping", "-q", "-i", "0.01", "-c", "100000", &h2.address])?;
    let (raw, sink) = (hostile.raw()?, h2.raw()?);
    let (mut sent, mut refused) = (0, 0);
    for round in 0..3 {
        for frame in all_frames() {
            // The sender's own kernel refuses runts; what it lets through is the switch's to bear.
            match raw.try_send(&frame) {
                Ok(()) => sent += 1,
                Err(_) => refused += 1,
            }
        }
        let mark = format!("<good-{round}>");
        raw.send(&marked(h2.mac, A, &[], &mark))?;
        sink.expect(&mark).with_context(|| format!("after round {round}"))?;
    }
    ensure!(sent > 600, "only {sent} frames were sent, {refused} refused by the sender's kernel");
    ensure!(good.alive(), "the good traffic ended");
    drop(good);
    h1.ping(&h2.address, 50)?;
    let log = daemon.log_text()?;
    ensure!(!log.contains("panicked"), "{log}");
    daemon.run("drops")?;
    Ok(())
}

/// xorshift: the same frames on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

fn random(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    let hostile = lab.host("bad", "")?;
    daemon.run("add-port br0 bad")?;
    h1.ping(&h2.address, 1)?;
    let (raw, sink) = (hostile.raw()?, h2.raw()?);
    let models = all_frames();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..20_000 {
        let mut frame = models[random.below(models.len())].clone();
        for _ in 0..random.below(6) {
            let at = random.below(frame.len());
            if let Some(byte) = frame.get_mut(at) {
                *byte = random.next() as u8;
            }
        }
        if random.below(4) == 0 {
            frame.truncate(14 + random.below(frame.len()));
        }
        // Not to the reserved or the own addresses only: any destination will do.
        let _ = raw.try_send(&frame);
    }
    // The flood may have emptied the rings for a moment: what is dropped then is counted, and good
    // frames pass again as soon as it is over.
    wait::until("a good frame to pass after the flood", || {
        raw.send(&marked(h2.mac, A, &[], "<good>"))?;
        while let Some(frame) = sink.receive(Duration::from_millis(200))? {
            if frame.windows(6).any(|w| w == b"<good>") {
                return Ok(true);
            }
        }
        Ok(false)
    })?;
    daemon.run("fdb flush br0")?;
    h1.ping(&h2.address, 20)?;
    ensure!(!daemon.log_text()?.contains("panicked"), "a worker panicked");
    Ok(())
}

/// Resident memory in KiB.
fn resident(pid: i32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    line.trim().trim_end_matches(" kB").parse().context("VmRSS")
}

fn varied(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    let hostile = lab.host("bad", "")?;
    daemon.run("add-port br0 bad")?;
    h1.ping(&h2.address, 1)?;
    let raw = hostile.raw()?;
    let mut random = Random(42);
    let mut flood = |n: u32| -> Result<()> {
        for _ in 0..n {
            let [a, b, c, d, e, f, g, h] = random.next().to_be_bytes();
            let source = Mac([2, a, b, c, d, e]);
            let target = Mac([2, f, g, h, a, b]);
            let port = u16::from_be_bytes([c, d]);
            let packet =
                udp4((Ipv4Addr::new(10, a, b, c), port), (Ipv4Addr::new(10, d, e, f), port), b"");
            raw.send(&ethernet(target, source, &[dot1q(u16::from(g))], 0x0800, &packet))?;
        }
        Ok(())
    };
    flood(30_000)?;
    let before = resident(daemon.pid())?;
    flood(100_000)?;
    let after = resident(daemon.pid())?;
    ensure!(after < before + 128 * 1024, "memory grew from {before} to {after} KiB");
    daemon.run("fdb flush br0")?;
    wait::until("machines talk again", || {
        Ok(h1.node.output(&["ping", "-q", "-c", "1", "-W", "1", &h2.address])?.status == 0)
    })?;
    h1.ping(&h2.address, 20)
}
