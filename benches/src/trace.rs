//! The traffic mixes that every switch under test replays from memory.
//!
//! | mix | frames |
//! |---|---|
//! | `udp-N` | N UDP/IPv4 flows, 60 bytes each, in random order, at least 2048 packets |
//! | `vlan-N` | the same frames with a tag of VLAN 100, 64 bytes each |
//! | `vxlan-N` | the same frames inside VXLAN (VNI 100), 172.16.0.2 to 172.16.0.1 |
//! | `gre-N`, `geneve-N` | the same in GRE with key 100, in Geneve with VNI 100 |
//! | `acl-N` | N flows spread over 64 /24 prefixes and 64 destination ports |
//! | `nat-udp-N`, `nat-udp-N-reply` | both directions of N connections under SNAT to 203.0.113.1 |
//! | `nat-tcp-N`, `nat-tcp-N-reply` | with the source port kept; TCP is one data segment each way |
//! | `cloud-N-reply` | answers to the flows of `udp-N` under SNAT, from the router's next hop outside |
//! | `life-N` | whole lives of N TCP connections, not translated, both directions, four segments each way |
//! | `life-nat-N` | the same, answers to 203.0.113.1 with the source port kept |
//!
//! The order is fixed (a shuffle with seed 1), so that runs and machines are comparable.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use e2e::frame::checksum;

use crate::random::Random;

/// Fewest packets in a trace.
const FEWEST: usize = 2048;

/// Every mix that is written by `mktrace`.
pub const ALL: &[&str] = &[
    "udp-1",
    "udp-1000",
    "udp-10000",
    "udp-100000",
    "vlan-1000",
    "vxlan-1",
    "vxlan-1000",
    "gre-1000",
    "geneve-1000",
    "acl-10000",
    "nat-udp-1000",
    "nat-udp-1000-reply",
    "nat-udp-10000",
    "nat-udp-10000-reply",
    "nat-udp-100000",
    "nat-udp-100000-reply",
    "nat-tcp-1000",
    "nat-tcp-1000-reply",
    "nat-tcp-10000",
    "nat-tcp-10000-reply",
    "nat-tcp-100000",
    "nat-tcp-100000-reply",
    "cloud-1000-reply",
    "life-8192",
    "life-nat-8192",
];

const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
const B: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// The frames of a mix, in the order of replay.
pub fn frames(mix: &str) -> Result<Vec<Vec<u8>>> {
    frames_shuffled(mix, 1)
}

/// The frames of a mix in another order; `seed` 1 is the order of replay.
pub fn frames_shuffled(mix: &str, seed: u32) -> Result<Vec<Vec<u8>>> {
    let (kind, reply) = match mix.strip_suffix("-reply") {
        Some(kind) => (kind, true),
        None => (mix, false),
    };
    let (kind, flows) = kind.rsplit_once('-').with_context(|| format!("no mix {mix}"))?;
    let flows: u32 = flows.parse().with_context(|| format!("number of flows of {mix}"))?;
    ensure!((1..=2_000_000).contains(&flows), "{mix}: 1 to 2,000,000 flows");
    if let ("life" | "life-nat", false) = (kind, reply) {
        return Ok(lives(flows, kind == "life-nat"));
    }
    let make: fn(u32) -> Vec<u8> = match (kind, reply) {
        ("udp", false) => udp_frame,
        ("vlan", false) => vlan_frame,
        ("vxlan", false) => vxlan_frame,
        ("gre", false) => gre_frame,
        ("geneve", false) => geneve_frame,
        ("acl", false) => acl_frame,
        ("cloud", true) => answer_frame,
        ("nat-udp", false) => |i| nat_frame(i, 17, false),
        ("nat-udp", true) => |i| nat_frame(i, 17, true),
        ("nat-tcp", false) => |i| nat_frame(i, 6, false),
        ("nat-tcp", true) => |i| nat_frame(i, 6, true),
        _ => bail!("no mix {mix}"),
    };
    let mut order: Vec<u32> = (0..flows).collect();
    Random::new(seed).shuffle(&mut order);
    Ok((0..order.len().max(FEWEST)).map(|k| make(order[k % order.len()])).collect())
}

/// Write a mix to `DIR/MIX.pcap`, replacing what is there.
pub fn write(dir: &Path, mix: &str) -> Result<()> {
    let path = dir.join(format!("{mix}.pcap"));
    let write = || -> Result<()> {
        let mut file = BufWriter::new(fs::File::create(&path)?);
        write_pcap(&mut file, &frames(mix)?)?;
        Ok(file.flush()?)
    };
    write().with_context(|| format!("writing {}", path.display()))
}

/// Classic pcap, little-endian, microseconds; frame k is stamped k microseconds.
fn write_pcap(out: &mut impl Write, frames: &[Vec<u8>]) -> io::Result<()> {
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65535, 1] {
        out.write_all(&word.to_le_bytes())?;
    }
    for (k, frame) in frames.iter().enumerate() {
        let (k, length) = (k as u32, frame.len() as u32);
        for word in [k / 1_000_000, k % 1_000_000, length, length] {
            out.write_all(&word.to_le_bytes())?;
        }
        out.write_all(frame)?;
    }
    Ok(())
}

fn ethernet(dst: [u8; 6], src: [u8; 6], payload: &[u8]) -> Vec<u8> {
    [&dst[..], &src, &[8, 0], payload].concat()
}

fn ipv4(src: u32, dst: u32, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend(src.to_be_bytes());
    packet.extend(dst.to_be_bytes());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// UDP without a checksum.
fn udp(sport: u16, dport: u16, data: &[u8]) -> Vec<u8> {
    let mut segment = Vec::with_capacity(8 + data.len());
    for word in [sport, dport, (8 + data.len()) as u16, 0] {
        segment.extend(word.to_be_bytes());
    }
    segment.extend(data);
    segment
}

/// Addresses and ports of flow `i` of `udp-N`: (source, destination, source port, destination port).
pub fn udp_flow(i: u32) -> (u32, u32, u16, u16) {
    let src = 0x0a00_0000 | (1 + i % 250) | (i / 250 % 250) << 8 | (i / 62_500) << 16;
    let dst = 0x0a64_0000 | (1 + i * 7 % 250) | (i * 13 / 250 % 250) << 8;
    (src, dst, (1024 + i * 31 % 60_000) as u16, (5000 + i % 1000) as u16)
}

fn udp_frame(i: u32) -> Vec<u8> {
    let (src, dst, sport, dport) = udp_flow(i);
    ethernet(B, A, &ipv4(src, dst, 17, &udp(sport, dport, &[0; 18])))
}

fn vlan_frame(i: u32) -> Vec<u8> {
    let mut frame = udp_frame(i);
    frame.splice(12..12, [0x81, 0, 0, 100]);
    frame
}

/// The answer to [`udp_frame`] behind the router of `cloud`.
fn answer_frame(i: u32) -> Vec<u8> {
    let (_, src, dport, sport) = udp_flow(i);
    let (outside, gateway) = ([2, 0, 0, 0, 0, 0xe], [2, 0, 0, 0, 0, 0xf]);
    let packet = ipv4(src, 0xcb00_7165, 17, &udp(sport, dport, &[0; 18]));
    ethernet(outside, gateway, &packet)
}

fn acl_frame(i: u32) -> Vec<u8> {
    let src = 0x0a00_0000 | (i % 64) << 8 | (1 + i / 64 % 250);
    let (sport, dport) = ((1024 + i % 60_000) as u16, (1000 + i * 7 % 64) as u16);
    ethernet(B, A, &ipv4(src, 0x0a64_0001, 17, &udp(sport, dport, &[0; 18])))
}

fn vxlan_frame(i: u32) -> Vec<u8> {
    let mut data = 0x0800_0000_u32.to_be_bytes().to_vec();
    data.extend((100_u32 << 8).to_be_bytes());
    data.extend(udp_frame(i));
    outer(17, &udp((49_152 + i % 16_384) as u16, 4789, &data))
}

/// An outer packet from the remote end.
fn outer(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let (here, there) = ([2, 0, 0, 0, 0xaa, 1], [2, 0, 0, 0, 0xaa, 2]);
    ethernet(here, there, &ipv4(0xac10_0002, 0xac10_0001, protocol, payload))
}

fn gre_frame(i: u32) -> Vec<u8> {
    let mut data = vec![0x20, 0, 0x65, 0x58];
    data.extend(100_u32.to_be_bytes());
    data.extend(udp_frame(i));
    outer(47, &data)
}

fn geneve_frame(i: u32) -> Vec<u8> {
    let mut data = vec![0, 0, 0x65, 0x58];
    data.extend((100_u32 << 8).to_be_bytes());
    data.extend(udp_frame(i));
    outer(17, &udp((49_152 + i % 16_384) as u16, 6081, &data))
}

/// 10.0.0.1+i to 198.51.100.1+, and the answers to 203.0.113.1.
fn nat_frame(i: u32, protocol: u8, reply: bool) -> Vec<u8> {
    let (mut src, mut dst) = (0x0a00_0001 + i, 0xc633_6401 + i / 50_000);
    let (mut sport, mut dport) = ((1024 + i % 50_000) as u16, 443);
    if reply {
        (src, dst, sport, dport) = (dst, 0xcb00_7101, dport, sport);
    }
    let segment = if protocol == 17 {
        udp(sport, dport, &[0; 18])
    } else {
        let (seq, ack): (u32, u32) = if reply { (2000, 1006) } else { (1000, 2006) };
        tcp((sport, dport), (seq, ack), 0x10, &[0; 6])
    };
    let at = if protocol == 17 { 6 } else { 16 };
    let payload = ipv4(src, dst, protocol, &summed(src, dst, protocol, segment, at));
    if reply { ethernet(A, B, &payload) } else { ethernet(B, A, &payload) }
}

/// TCP without a checksum.
fn tcp(ports: (u16, u16), (seq, ack): (u32, u32), flags: u8, data: &[u8]) -> Vec<u8> {
    let mut segment = Vec::with_capacity(20 + data.len());
    segment.extend(ports.0.to_be_bytes());
    segment.extend(ports.1.to_be_bytes());
    segment.extend(seq.to_be_bytes());
    segment.extend(ack.to_be_bytes());
    segment.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(data);
    segment
}

/// Packets that a port gives at a time.
const BURST: u32 = 32;

/// The segments of connections from SYN to the last acknowledgement, a burst of connections at a
/// time, so that no burst has two segments of one connection.
fn lives(connections: u32, translated: bool) -> Vec<Vec<u8>> {
    // Whether it is an answer, flags, sequence number, acknowledgement, bytes.
    let steps: [(bool, u8, u32, u32, usize); 8] = [
        (false, 0x02, 999, 0, 0),
        (true, 0x12, 1999, 1000, 0),
        (false, 0x10, 1000, 2000, 6),
        (true, 0x10, 2000, 1006, 6),
        (false, 0x11, 1006, 2006, 0),
        (true, 0x11, 2006, 1007, 0),
        (false, 0x10, 1007, 2007, 0),
        (true, 0x10, 2007, 1007, 0),
    ];
    let segment = |i: u32, (reply, flags, seq, ack, data): (bool, u8, u32, u32, usize)| {
        let (src, dst) = (0x0a00_0001 + i, 0xc633_6401);
        let port = (1024 + i % 50_000) as u16;
        let public = if translated { 0xcb00_7101 } else { src };
        let ((src, dst), ports) =
            if reply { ((dst, public), (443, port)) } else { ((src, dst), (port, 443)) };
        let segment = tcp(ports, (seq, ack), flags, &[0; 6][..data]);
        let mut payload = ipv4(src, dst, 6, &summed(src, dst, 6, segment, 16));
        payload.resize(46, 0);
        if reply { ethernet(A, B, &payload) } else { ethernet(B, A, &payload) }
    };
    let blocks = (0..connections.div_ceil(BURST)).map(|b| b * BURST);
    blocks
        .flat_map(|b| steps.map(|s| (b, s)))
        .flat_map(|(b, s)| (b..b + BURST).map(move |i| segment(i, s)))
        .collect()
}

/// `segment` with its checksum over the IPv4 pseudo header at `at`; 0 is sent as 0xffff.
fn summed(src: u32, dst: u32, protocol: u8, mut segment: Vec<u8>, at: usize) -> Vec<u8> {
    let mut covered = Vec::with_capacity(12 + segment.len());
    covered.extend(src.to_be_bytes());
    covered.extend(dst.to_be_bytes());
    covered.extend([0, protocol]);
    covered.extend((segment.len() as u16).to_be_bytes());
    covered.extend(&segment);
    let sum = match checksum(&covered) {
        0 => 0xffff,
        sum => sum,
    };
    segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    segment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mix_has_frames_of_the_right_size_and_order() {
        for mix in ALL {
            let frames = frames(mix).expect(mix);
            assert!(frames.len() >= FEWEST, "{mix}");
            let size = match mix.split('-').next() {
                Some("vlan") => 64,
                Some("vxlan" | "geneve") => 110,
                Some("gre") => 102,
                _ => 60,
            };
            assert!(frames.iter().all(|f| f.len() == size), "{mix}");
        }
        let udp = frames("udp-1000").expect("udp-1000");
        assert_eq!(udp[0], udp[1000], "the order repeats");
        assert_ne!(udp[0], udp[1]);
    }

    #[test]
    fn what_is_no_mix_is_refused() {
        for mix in ["", "udp", "udp-", "udp-0", "udp-x", "tcp-5", "udp-5-reply", "udp-99999999"] {
            assert!(frames(mix).is_err(), "{mix}");
        }
    }

    #[test]
    fn checksums_of_translated_connections_verify() {
        for mix in ["nat-udp-1000", "nat-tcp-1000-reply", "life-nat-8192"] {
            for frame in frames(mix).expect(mix) {
                assert_eq!(checksum(&frame[14..34]), 0, "{mix}");
                // What is behind is padding.
                let length = u16::from_be_bytes([frame[16], frame[17]]) - 20;
                let head = [&frame[26..34], &[0, frame[23]], &length.to_be_bytes()].concat();
                let segment = &frame[34..34 + usize::from(length)];
                assert_eq!(checksum(&[&head[..], segment].concat()), 0, "{mix}");
            }
        }
    }
}
