//! Frames built by hand, and a tracker to put them through.
#![allow(dead_code)] // Each test crate uses some of it.

use conntrack::nat::{AddressRange, Choice, NatSpec, Side};
use conntrack::{Commit, Config, ConnRef, Input, Millis, Nat, TcpOptions, Tracker, Trust, Verdict};
use flow::Drop;
use flow::checksum::Sum;
use flow::extract::{Offsets, extract};
use flow::key::FlowKey;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;

pub fn tracker(connections: usize) -> Tracker {
    tracker_with(connections, TcpOptions::default())
}

pub fn tracker_with(connections: usize, tcp: TcpOptions) -> Tracker {
    Tracker::new(Config { connections, seed: 0x1234_5678_9abc_def0, tcp }).unwrap()
}

/// Address 10.0.0.n.
pub fn host(n: u32) -> u32 {
    0x0a00_0000 + n
}

pub fn ip4(src: u32, dst: u32, proto: u8, payload: &[u8]) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    let mut h = vec![0x45, 0];
    h.extend(((20 + payload.len()) as u16).to_be_bytes());
    h.extend([0x12, 0x34, 0x40, 0, 64, proto, 0, 0]);
    h.extend(src.to_be_bytes());
    h.extend(dst.to_be_bytes());
    let sum = flow::checksum::checksum(&h);
    h[10..12].copy_from_slice(&sum.to_be_bytes());
    f.extend(h);
    f.extend(payload);
    f
}

pub fn ip6(src: u128, dst: u128, proto: u8, payload: &[u8]) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd];
    f.extend([0x60, 0, 0, 0]);
    f.extend((payload.len() as u16).to_be_bytes());
    f.extend([proto, 64]);
    f.extend(src.to_be_bytes());
    f.extend(dst.to_be_bytes());
    f.extend(payload);
    f
}

/// An address for either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addr {
    V4(u32),
    V6(u128),
}

pub fn ip(src: Addr, dst: Addr, proto: u8, sum_at: Option<usize>, mut l4: Vec<u8>) -> Vec<u8> {
    let n = l4.len() as u32;
    if let Some(at) = sum_at {
        l4[at..at + 2].fill(0);
        let pseudo = match (src, dst) {
            _ if proto == 1 => Sum::new(),
            (Addr::V4(s), Addr::V4(d)) => Sum::pseudo_v4(s, d, proto, n),
            (Addr::V6(s), Addr::V6(d)) => Sum::pseudo_v6(s, d, proto, n),
            _ => panic!("two families"),
        };
        let mut sum = pseudo.bytes(&l4).checksum();
        if proto == 17 && sum == 0 {
            sum = 0xffff;
        }
        l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    match (src, dst) {
        (Addr::V4(s), Addr::V4(d)) => ip4(s, d, proto, &l4),
        (Addr::V6(s), Addr::V6(d)) => ip6(s, d, proto, &l4),
        _ => panic!("two families"),
    }
}

pub fn udp(src: (Addr, u16), dst: (Addr, u16), payload: &[u8]) -> Vec<u8> {
    let mut l4 = src.1.to_be_bytes().to_vec();
    l4.extend(dst.1.to_be_bytes());
    l4.extend(((8 + payload.len()) as u16).to_be_bytes());
    l4.extend([0, 0]);
    l4.extend(payload);
    ip(src.0, dst.0, 17, Some(6), l4)
}

#[derive(Clone, Copy, Debug)]
pub struct Seg<'a> {
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub win: u16,
    pub options: &'a [u8],
    pub len: usize,
}

impl Default for Seg<'_> {
    fn default() -> Self {
        Seg { flags: ACK, seq: 0, ack: 0, win: 8192, options: &[], len: 0 }
    }
}

pub fn tcp(src: (Addr, u16), dst: (Addr, u16), s: Seg<'_>) -> Vec<u8> {
    let mut l4 = src.1.to_be_bytes().to_vec();
    l4.extend(dst.1.to_be_bytes());
    l4.extend(s.seq.to_be_bytes());
    l4.extend(s.ack.to_be_bytes());
    let header = 20 + s.options.len().next_multiple_of(4);
    l4.extend([(header as u8 / 4) << 4, s.flags]);
    l4.extend(s.win.to_be_bytes());
    l4.extend([0; 4]);
    l4.extend(s.options);
    l4.resize(header + s.len, 0);
    ip(src.0, dst.0, 6, Some(16), l4)
}

/// An ICMP or ICMPv6 message: type, code, the four bytes behind the checksum, and the rest.
pub fn icmp(src: Addr, dst: Addr, ty: u8, code: u8, word: u32, rest: &[u8]) -> Vec<u8> {
    let mut l4 = vec![ty, code, 0, 0];
    l4.extend(word.to_be_bytes());
    l4.extend(rest);
    let proto = if matches!(src, Addr::V4(_)) { 1 } else { 58 };
    ip(src, dst, proto, Some(2), l4)
}

pub fn offsets(frame: &[u8]) -> Offsets {
    let mut key = FlowKey::default();
    extract(frame, frame.len(), &mut key)
}

pub fn input(zone: u16, frame: &[u8]) -> Input<'_> {
    let off = offsets(frame);
    Input { zone, data: frame, off, total: frame.len(), trust: Trust::Unknown }
}

pub fn track(t: &Tracker, now: u64, frame: &[u8]) -> Verdict {
    t.track(Millis(now), &input(1, frame), true)
}

pub fn commit_with(t: &Tracker, now: u64, frame: &[u8], args: &Commit) -> Result<Verdict, Drop> {
    let mut n = now;
    let mut random = || {
        n = n.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        n ^ n >> 29
    };
    t.commit(Millis(now), &input(1, frame), ConnRef::NONE, args, &mut random)
}

pub fn commit(t: &Tracker, now: u64, frame: &[u8]) -> Verdict {
    commit_with(t, now, frame, &Commit::default()).unwrap()
}

/// `ct(commit, nat(src=first-last:ports))`, or dst.
pub fn nat(side: Side, first: &str, last: &str, ports: Option<(u16, u16)>) -> Commit {
    let range = AddressRange::new(first.parse().unwrap(), last.parse().unwrap()).unwrap();
    let spec = NatSpec::new(side, Some(range), ports, Choice::Hash, false).unwrap();
    Commit { nat: Nat::New(spec), ..Commit::default() }
}

/// The verdict's state as text.
pub fn state(v: Verdict) -> String {
    v.state.to_string()
}

/// The frame with a verdict's edit made, by way of a packet.
pub fn translated(frame: &[u8], v: &Verdict) -> Vec<u8> {
    let mut pool = afxdp::Region::new(2 << 20).unwrap().pool();
    let mut p = pool.packet_from(frame).unwrap();
    conntrack::nat::apply(&mut p, &offsets(frame), &v.nat).unwrap();
    let out = p.to_vec();
    pool.free_packet(p);
    out
}

/// Whether all checksums of a frame are right: IPv4's, and that of TCP, UDP, ICMP or ICMPv6.
pub fn sums_are_right(frame: &[u8]) -> bool {
    let off = offsets(frame);
    let (l3, l4) = (usize::from(off.l3), usize::from(off.l4));
    let v4 = frame[l3] >> 4 == 4;
    if v4 && flow::checksum::checksum(&frame[l3..l4]) != 0 {
        return false;
    }
    let body = &frame[l4..usize::from(off.end)];
    let n = body.len() as u32;
    let pseudo = if v4 {
        let a = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
        Sum::pseudo_v4(a(l3 + 12), a(l3 + 16), off.proto, n)
    } else {
        let a = |at: usize| u128::from_be_bytes(frame[at..at + 16].try_into().unwrap());
        Sum::pseudo_v6(a(l3 + 8), a(l3 + 24), off.proto, n)
    };
    flow::checksum::verify_l4(off.proto, pseudo, std::iter::once(body), !v4) != Some(false)
}
