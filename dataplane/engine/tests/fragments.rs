//! Fragments through the packet path: tracked and translated as one packet, sent on as they came.

mod common;

use common::*;
use flow::Drop;

const SNAT: &str = "\
    table=0,in_port=1,ip,actions=ct(table=1,zone=1,nat)
    table=0,in_port=1,ipv6,actions=ct(table=1,zone=1,nat)
    table=0,in_port=2,ip,actions=ct(table=2,zone=1,nat)
    table=0,in_port=2,ipv6,actions=ct(table=2,zone=1,nat)
    table=1,ip,ct_state=+trk+new,udp,actions=ct(commit,zone=1,nat(src=203.0.113.1)),2
    table=1,ipv6,ct_state=+trk+new,actions=ct(commit,zone=1,nat(src=2001:db8::1)),2
    table=1,ct_state=+trk+est,actions=2
    table=2,ct_state=+trk+est+rpl,actions=1";

const OUTSIDE: u128 = 9 << 100;
const PUBLIC: u128 = 0x2001_0db8 << 96 | 1;
const INSIDE: u128 = 0xfd00 << 112 | 7;

/// A UDP frame of IPv4 or IPv6 with so much payload; addresses of one kind or the other.
fn big(v6: bool, back: bool, translated: bool, n: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..n).map(|i| (i * 7 + i / 256) as u8).collect();
    if v6 {
        let own = if translated { PUBLIC } else { INSIDE };
        let (src, dst) = if back { (OUTSIDE, own) } else { (own, OUTSIDE) };
        let (sport, dport) = if back { (53, 5000) } else { (5000, 53) };
        return udp6_with(src, dst, sport, dport, &payload);
    }
    let own = if translated { [203, 0, 113, 1] } else { [10, 0, 0, 7] };
    let outside = [198, 51, 100, 7];
    if back {
        udp_with(outside, own, 53, 5000, &payload)
    } else {
        udp_with(own, outside, 5000, 53, &payload)
    }
}

/// The frame's fragments, cut at these offsets of its IP payload (multiples of 8).
fn cut(frame: &[u8], id: u16, cuts: &[usize]) -> Vec<Vec<u8>> {
    let v4 = frame[14] >> 4 == 4;
    let header = if v4 { 34 } else { 54 };
    let payload = &frame[header..];
    let mut bounds = vec![0];
    bounds.extend(cuts);
    bounds.push(payload.len());
    let one = |w: &[usize]| {
        let (part, more) = (&payload[w[0]..w[1]], w[1] < payload.len());
        let mut f = frame[..header].to_vec();
        if v4 {
            f[16..18].copy_from_slice(&((20 + part.len()) as u16).to_be_bytes());
            f[18..20].copy_from_slice(&id.to_be_bytes());
            let field = (w[0] / 8) as u16 | u16::from(more) << 13;
            f[20..22].copy_from_slice(&field.to_be_bytes());
            f[24..26].fill(0);
            let sum = flow::checksum::checksum(&f[14..34]);
            f[24..26].copy_from_slice(&sum.to_be_bytes());
        } else {
            f[18..20].copy_from_slice(&((8 + part.len()) as u16).to_be_bytes());
            let proto = std::mem::replace(&mut f[20], 44);
            f.extend([proto, 0]);
            f.extend((w[0] as u16 | u16::from(more)).to_be_bytes());
            f.extend(u32::from(id).to_be_bytes());
        }
        f.extend(part);
        f
    };
    bounds.windows(2).map(one).collect()
}

/// What comes out of a port.
fn out(rig: &mut Rig, port: usize) -> Vec<Vec<u8>> {
    rig.rounds();
    std::iter::from_fn(|| rig.ports[port].take()).map(|f| f.bytes).collect()
}

fn inject(rig: &mut Rig, port: usize, frames: &[Vec<u8>]) {
    frames.iter().for_each(|f| rig.ports[port].inject(&f[..]).unwrap());
}

fn dropped(rig: &Rig, why: Drop) -> u64 {
    rig.shared.workers[0].drops[why as usize].load(std::sync::atomic::Ordering::Relaxed)
}

#[test]
fn translated_both_ways_in_any_order_as_they_came() {
    for v6 in [false, true] {
        let mut rig = Rig::new(SNAT);
        for (id, order) in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
            .into_iter()
            .enumerate()
        {
            for back in [false, true] {
                let cuts = [1480, 2960];
                let parts = cut(&big(v6, back, back, 3500), id as u16, &cuts);
                let want = cut(&big(v6, back, !back, 3500), id as u16, &cuts);
                let pick = |p: &[Vec<u8>]| order.map(|i| p[i].clone()).to_vec();
                let (from, to) = (usize::from(back), usize::from(!back));
                let parts = pick(&parts);
                inject(&mut rig, from, &parts[..2]);
                assert_eq!(out(&mut rig, to), Vec::<Vec<u8>>::new(), "not before it is whole");
                inject(&mut rig, from, &parts[2..]);
                assert_eq!(out(&mut rig, to), pick(&want), "v6 {v6}, order {order:?}, back {back}");
            }
        }
        assert_eq!(rig.shared.tracker.len(), 1);
        assert_eq!(dropped(&rig, Drop::FragmentLimit), 0);
    }
}

#[test]
fn a_change_of_flows_meets_fragments_that_wait() {
    let mut rig = Rig::new(SNAT);
    let parts = cut(&big(false, false, false, 3000), 1, &[1480]);
    let want = cut(&big(false, false, true, 3000), 1, &[1480]);
    inject(&mut rig, 0, &parts[..1]);
    assert!(out(&mut rig, 1).is_empty());
    rig.add("table=7,actions=drop");
    inject(&mut rig, 0, &parts[1..]);
    assert_eq!(out(&mut rig, 1), want, "they go by the new version");
    inject(&mut rig, 0, &parts[1..]);
    assert!(out(&mut rig, 1).is_empty());
    rig.add("table=0,priority=40000,in_port=1,ip,actions=drop");
    inject(&mut rig, 0, &parts[..1]);
    assert!(out(&mut rig, 1).is_empty(), "what the new version drops");
}

#[test]
fn overlaps_and_lies_are_dropped_and_counted() {
    let mut rig = Rig::new(SNAT);
    let whole = big(false, false, false, 3000);
    let (a, b) = (cut(&whole, 1, &[1480]), cut(&whole, 1, &[1472]));
    inject(&mut rig, 0, &[a[0].clone(), b[1].clone(), a[1].clone()]);
    assert!(out(&mut rig, 1).is_empty());
    assert_eq!(dropped(&rig, Drop::FragmentLimit), 3);
    // The checksum of the whole is wrong: the fragments are `+inv`, which no flow takes.
    let mut bad = big(false, false, false, 3000);
    bad[2000] ^= 1;
    inject(&mut rig, 0, &cut(&bad, 2, &[1480]));
    assert!(out(&mut rig, 1).is_empty());
    assert_eq!((rig.shared.tracker.len(), dropped(&rig, Drop::NoFlow)), (0, 2));
}

#[test]
fn a_flood_of_fragments_costs_no_frames() {
    let mut rig = Rig::new(SNAT);
    let first = &cut(&big(false, false, false, 3000), 1, &[1480])[0];
    for id in 0..5000u16 {
        let mut f = first.clone();
        f[18..20].copy_from_slice(&id.to_be_bytes());
        f[24..26].fill(0);
        let sum = flow::checksum::checksum(&f[14..34]);
        f[24..26].copy_from_slice(&sum.to_be_bytes());
        inject(&mut rig, 0, &[f]);
        if id % 32 == 31 {
            rig.rounds();
        }
    }
    rig.rounds();
    assert!(dropped(&rig, Drop::FragmentLimit) > 5000 - 4096);
    let parts = cut(&big(false, false, false, 3000), 9999, &[1480]);
    inject(&mut rig, 0, &parts);
    assert_eq!(out(&mut rig, 1).len(), 2, "others still pass");
}
