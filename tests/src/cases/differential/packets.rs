//! Generated packets: few values, so that they meet matches, and right checksums.

use super::random::Rng;
use crate::frame::checksum;

/// Frames of every kind, each with a number in its payload.
pub fn frames(r: &mut Rng, count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| frame(r, number)).collect()
}

fn frame(r: &mut Rng, number: usize) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, r.below(4) as u8];
    if r.one_in(8) {
        f = r.pick(&[[0xff; 6], [1, 0, 0x5e, 0, 0, 1]]).to_vec();
    }
    f.extend([2, 0, 0, 0, 1, r.below(3) as u8]);
    let tags = *r.pick(&[0u8, 0, 1, 1, 2]);
    for n in (0..tags).rev() {
        // Another bridge's tag may only be the outer of two.
        let tpid: u16 = if n == 1 && r.one_in(2) { 0x88a8 } else { 0x8100 };
        // NORMAL of Open vSwitch loses one of two tags where one is all zero (`docs/differences.md`).
        let vid = if tags == 2 { 1 + r.below(3) } else { r.below(4) };
        f.extend(tpid.to_be_bytes());
        f.extend(((r.below(8) << 13 | vid) as u16).to_be_bytes());
    }
    let mut payload = format!("<{number:06}>").into_bytes();
    payload.resize(payload.len() + r.below(60) as usize, 0x5a);
    match r.below(10) {
        0 => arp(r, &mut f),
        1 => {
            f.extend([0x12, 0x34]);
            f.extend(&payload);
        }
        2..=5 => ipv4(r, &mut f, &payload),
        _ => ipv6(r, &mut f, &payload),
    }
    let short = 60_usize.saturating_sub(f.len());
    f.extend(vec![0; short]);
    f
}

fn arp(r: &mut Rng, f: &mut Vec<u8>) {
    f.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1 + r.below(2) as u8]);
    f.extend([2, 0, 0, 0, 1, r.below(3) as u8, 10, 0, 0, r.below(4) as u8]);
    f.extend([2, 0, 0, 0, 0, r.below(4) as u8, 10, 0, 0, r.below(4) as u8]);
}

/// A whole transport header and payload, its checksum not yet made.
fn transport(r: &mut Rng, proto: u8, payload: &[u8]) -> Vec<u8> {
    let ports = [0, 1 + r.below(3) as u8, 0, 1 + r.below(3) as u8];
    let mut l4 = match proto {
        6 => {
            let flags = *r.pick(&[0x02u8, 0x12, 0x10, 0x18, 0x11, 0x04]);
            [&ports[..], &[0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 1, 0, 0, 0, 0, 0]].concat()
        }
        17 => [&ports[..], &(8 + payload.len() as u16).to_be_bytes(), &[0, 0]].concat(),
        1 => vec![*r.pick(&[8, 0, 3]), r.below(2) as u8, 0, 0, 0, 1, 0, 1],
        58 => vec![*r.pick(&[128, 129]), 0, 0, 0, 0, 1, 0, 1],
        _ => vec![0x5a; 8],
    };
    l4.extend(payload);
    l4
}

/// Where a checksum stands in a transport header.
fn sum_at(proto: u8) -> Option<usize> {
    match proto {
        6 => Some(16),
        17 => Some(6),
        1 | 58 => Some(2),
        _ => None,
    }
}

fn fill_sum(l4: &mut [u8], proto: u8, pseudo: &[u8]) {
    let Some(at) = sum_at(proto) else { return };
    let mut sum = checksum(&[pseudo, l4].concat());
    if proto == 17 && sum == 0 {
        sum = 0xffff;
    }
    l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn ipv4(r: &mut Rng, f: &mut Vec<u8>, payload: &[u8]) {
    f.extend([0x08, 0x00]);
    let proto = *r.pick(&[6u8, 6, 17, 17, 1, 47]);
    let (src, dst) = ([10, 0, 0, r.below(4) as u8], [10, 0, 1, r.below(4) as u8]);
    let mut l4 = transport(r, proto, payload);
    let length = (l4.len() as u16).to_be_bytes();
    match proto {
        // UDP may go without.
        17 if r.one_in(4) => {}
        1 => fill_sum(&mut l4, proto, &[]),
        _ => fill_sum(&mut l4, proto, &[&src[..], &dst, &[0, proto], &length].concat()),
    }
    let options: &[u8] = if r.one_in(6) { &[1, 1, 1, 0] } else { &[] };
    // Not a fragment, the first of several, a later one: in that, Open vSwitch 3.1 takes payload for a
    // checksum and changes it (`docs/differences.md`), so it has none.
    let frag: u16 = *r.pick(&[0, 0, 0, 0, 0x4000, 0x2000, 0x0010]);
    let frag = if frag == 0x0010 && !matches!(proto, 1 | 47) { 0 } else { frag };
    let mut h = vec![0x45 + (options.len() / 4) as u8, (r.below(4) << 2) as u8 | r.below(4) as u8];
    h.extend(((20 + options.len() + l4.len()) as u16).to_be_bytes());
    h.extend([0, 7]);
    h.extend(frag.to_be_bytes());
    h.extend([*r.pick(&[1, 2, 64]), proto, 0, 0]);
    h.extend([src, dst].concat());
    h.extend(options);
    let sum = checksum(&h);
    h[10..12].copy_from_slice(&sum.to_be_bytes());
    f.extend(h);
    f.extend(l4);
}

fn ipv6(r: &mut Rng, f: &mut Vec<u8>, payload: &[u8]) {
    f.extend([0x86, 0xdd]);
    let address = |r: &mut Rng, net: u8| {
        let mut a = [0u8; 16];
        (a[0], a[1], a[7], a[15]) = (0xfd, 0, net, r.below(4) as u8);
        a
    };
    let (src, dst) = (address(r, 1), address(r, 2));
    let proto = *r.pick(&[6u8, 6, 17, 58, 58, 59]);
    let mut l4 = match proto {
        58 if r.one_in(2) => neighbour(r),
        _ => transport(r, proto, payload),
    };
    let length = (l4.len() as u32).to_be_bytes();
    fill_sum(&mut l4, proto, &[&src[..], &dst, &length, &[0, 0, 0, proto]].concat());
    let (next, more): (u8, Vec<u8>) = match r.below(6) {
        // Hop-by-hop options; a fragment header on a whole packet; a later fragment. Behind the last two
        // Open vSwitch does not keep checksums right either.
        0 => (0, vec![proto, 0, 1, 4, 0, 0, 0, 0]),
        1 if proto == 59 => (44, vec![proto, 0, 0, 0, 0, 0, 0, 9]),
        2 if proto == 59 => (44, vec![proto, 0, 0, 0x10, 0, 0, 0, 9]),
        _ => (proto, Vec::new()),
    };
    let class = r.below(16) as u8;
    f.extend([0x60 | class >> 4, class << 4, 0, r.below(3) as u8]);
    f.extend(((more.len() + l4.len()) as u16).to_be_bytes());
    f.extend([next, *r.pick(&[1, 2, 64])]);
    f.extend([src, dst].concat());
    f.extend(more);
    f.extend(l4);
}

/// A neighbour solicitation or advertisement with its option.
fn neighbour(r: &mut Rng) -> Vec<u8> {
    let solicit = r.one_in(2);
    let mut m = vec![if solicit { 135 } else { 136 }, 0, 0, 0, 0, 0, 0, 0];
    m.extend([0xfd, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, r.below(4) as u8]);
    m.extend([if solicit { 1 } else { 2 }, 1, 2, 0, 0, 0, 1, r.below(3) as u8]);
    m
}
