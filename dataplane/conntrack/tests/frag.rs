//! Fragments: held back, put together for tracking, sent on as they came; and what is dropped.

mod common;

use common::*;
use conntrack::frag::{FragLimits, Fragments, Whole};
use conntrack::nat::{Side, apply_fragment};
use conntrack::{Commit, ConnRef, Millis};
use flow::checksum::checksum;
use proptest::prelude::*;

const A: (Addr, u16) = (Addr::V4(0x0a00_0001), 5000);
const B: (Addr, u16) = (Addr::V4(0x0808_0808), 53);
const A6: (Addr, u16) = (Addr::V6(0xfd00 << 112 | 1), 5000);
const B6: (Addr, u16) = (Addr::V6(0x2001_0db8 << 96 | 53), 53);

/// Fragments of a frame's IP payload, cut at these offsets (multiples of 8).
fn cut(frame: &[u8], id: u16, cuts: &[usize]) -> Vec<Vec<u8>> {
    let v4 = frame[14] >> 4 == 4;
    let header = if v4 { 34 } else { 54 };
    let payload = &frame[header..];
    let mut bounds = vec![0];
    bounds.extend(cuts.iter().copied().filter(|c| *c < payload.len()));
    bounds.push(payload.len());
    bounds.windows(2).map(|w| one(frame, header, id, w[0], w[1], w[1] < payload.len())).collect()
}

fn one(frame: &[u8], header: usize, id: u16, from: usize, to: usize, more: bool) -> Vec<u8> {
    let mut f = frame[..header].to_vec();
    let part = &frame[header + from..header + to];
    if frame[14] >> 4 == 4 {
        f[16..18].copy_from_slice(&((20 + part.len()) as u16).to_be_bytes());
        f[18..20].copy_from_slice(&id.to_be_bytes());
        let field = (from / 8) as u16 | u16::from(more) << 13;
        f[20..22].copy_from_slice(&field.to_be_bytes());
        f[24..26].fill(0);
        let sum = checksum(&f[14..34]);
        f[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        f[18..20].copy_from_slice(&((8 + part.len()) as u16).to_be_bytes());
        let proto = std::mem::replace(&mut f[20], 44);
        f.extend([proto, 0]);
        f.extend((from as u16 | u16::from(more)).to_be_bytes());
        f.extend(u32::from(id).to_be_bytes());
    }
    f.extend(part);
    f
}

struct Bench {
    frags: Fragments<usize>,
    dropped: Vec<usize>,
    next: usize,
}

impl Bench {
    fn new(limits: FragLimits) -> Bench {
        Bench { frags: Fragments::new(limits), dropped: Vec::new(), next: 0 }
    }
    fn add(&mut self, now: u64, f: &[u8]) -> Option<Whole<usize>> {
        let n = self.next;
        self.next += 1;
        let dropped = &mut self.dropped;
        self.frags.add(Millis(now), 1, f, &offsets(f), n, &mut |t| dropped.push(t))
    }
}

fn big(from: (Addr, u16), to: (Addr, u16), n: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..n).map(|i| (i * 7 + i / 256) as u8).collect();
    udp(from, to, &payload)
}

#[test]
fn whole_in_any_order() {
    for (a, b) in [(A, B), (A6, B6)] {
        let whole = big(a, b, 3000);
        let parts = cut(&whole, 7, &[1480, 2960]);
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut k = Bench::new(FragLimits::default());
            assert!(k.add(0, &parts[order[0]]).is_none());
            assert!(k.add(0, &parts[order[1]]).is_none());
            let w = k.add(0, &parts[order[2]]).unwrap();
            assert_eq!(w.fragments, [0, 1, 2], "as they came");
            let mut want = whole.clone();
            if let Addr::V4(_) = a.0 {
                // Identification of the fragments, and no flags.
                want[18..20].copy_from_slice(&7u16.to_be_bytes());
                want[20..22].fill(0);
                want[24..26].fill(0);
                let sum = checksum(&want[14..34]);
                want[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            assert_eq!(w.frame, want);
            assert!(sums_are_right(&w.frame));
            assert_eq!(k.frags.held(), (0, 0));
            assert!(k.dropped.is_empty());
        }
    }
}

#[test]
fn tracked_and_translated_as_one() {
    for (a, b, address, public) in [
        (A, B, "203.0.113.1", Addr::V4(0xcb00_7101)),
        (A6, B6, "2001:db8::1", Addr::V6(0x2001_0db8 << 96 | 1)),
    ] {
        let t = tracker(10);
        let mut k = Bench::new(FragLimits::default());
        let parts = cut(&big(a, b, 3000), 7, &[1480]);
        assert_eq!(state(track(&t, 0, &parts[0])), "inv|trk", "not by itself");
        assert_eq!(state(track(&t, 0, &parts[1])), "inv|trk");
        k.add(0, &parts[1]);
        let w = k.add(0, &parts[0]).unwrap();
        let args = nat(Side::Src, address, address, Some((6000, 6000)));
        let v = commit_with(&t, 0, &w.frame, &args).unwrap();
        assert_eq!(state(v), "new|trk|snat");
        let mut pool = afxdp::Region::new(2 << 20).unwrap().pool();
        let want = cut(&big((public, 6000), b, 3000), 7, &[1480]);
        for (part, want) in parts.iter().zip(&want) {
            let mut p = pool.packet_from(part).unwrap();
            apply_fragment(&mut p, &offsets(part), &v.nat).unwrap();
            assert_eq!(p.to_vec(), *want);
            pool.free_packet(p);
        }
        // The answer, in fragments too, comes back to where it belongs.
        let parts = cut(&big(b, (public, 6000), 2000), 9, &[800, 1600]);
        k.add(0, &parts[0]);
        k.add(0, &parts[1]);
        let w = k.add(0, &parts[2]).unwrap();
        let v = t.track(Millis(0), &input(1, &w.frame), true);
        assert_eq!(state(v), "est|rpl|trk|dnat");
    }
}

#[test]
fn overlaps_poison_the_datagram() {
    let whole = big(A, B, 3000);
    // By one unit, exact but of other length, behind the end, teardrop.
    let overlaps = [(1472, 2952, true), (0, 8, true), (1488, 1496, true), (2960, 3008, false)];
    for (from, to, more) in overlaps {
        let mut k = Bench::new(FragLimits::default());
        let parts = cut(&whole, 7, &[1480, 2960]);
        k.add(0, &parts[0]);
        k.add(0, &parts[1]);
        if from == 2960 {
            // A last fragment of another length than the last one that was seen.
            k.add(0, &one(&whole, 34, 7, 2960, 2968, true));
        }
        let bad = one(&whole, 34, 7, from, to, more);
        assert!(k.add(0, &bad).is_none());
        assert!(k.add(0, &parts[2]).is_none(), "what still comes is dropped too");
        assert_eq!(k.dropped.len(), k.next, "{from}-{to}");
        assert_eq!(k.frags.held().1, 0);
        // The next datagram of these hosts is not touched.
        let other = cut(&whole, 8, &[1480]);
        k.add(0, &other[0]);
        assert!(k.add(0, &other[1]).is_some());
    }
}

#[test]
fn duplicates_are_dropped_alone() {
    let mut k = Bench::new(FragLimits::default());
    let parts = cut(&big(A, B, 3000), 7, &[1480]);
    k.add(0, &parts[0]);
    assert!(k.add(0, &parts[0]).is_none());
    let w = k.add(0, &parts[1]).unwrap();
    assert_eq!((w.fragments, k.dropped), (vec![0, 2], vec![1]));
    assert_eq!(k.frags.counts().duplicate, 1);
}

#[test]
fn malformed_fragments() {
    let whole = big(A, B, 3000);
    let bad = [
        one(&whole, 34, 7, 8, 21, true),
        one(&whole, 34, 7, 16, 16, false),
        one(&whole, 34, 7, 0, 3000, false),
        {
            // Beyond 65,535 bytes.
            let mut f = one(&whole, 34, 7, 0, 100, false);
            f[20..22].copy_from_slice(&0x1fffu16.to_be_bytes());
            f[24..26].fill(0);
            let sum = checksum(&f[14..34]);
            f[24..26].copy_from_slice(&sum.to_be_bytes());
            f
        },
        {
            let mut f = one(&whole, 34, 7, 8, 16, true);
            f[24] ^= 1;
            f
        },
        vec![],
    ];
    let mut k = Bench::new(FragLimits::default());
    for f in &bad {
        assert!(k.add(0, f).is_none());
    }
    assert_eq!(k.dropped.len(), bad.len());
    assert_eq!((k.frags.counts().malformed, k.frags.held().0), (bad.len() as u64, 0));
}

#[test]
fn tiny_first_fragments_are_dropped() {
    let seg = Seg { flags: ACK, len: 1000, ..Seg::default() };
    let whole = tcp(A, B, seg);
    for first in [8, 16] {
        let mut k = Bench::new(FragLimits::default());
        let parts = cut(&whole, 7, &[first]);
        k.add(0, &parts[0]);
        assert!(k.add(0, &parts[1]).is_none());
        assert_eq!((k.dropped.len(), k.frags.counts().tiny), (2, 2));
    }
    let mut k = Bench::new(FragLimits::default());
    let parts = cut(&whole, 7, &[24]);
    k.add(0, &parts[1]);
    assert!(k.add(0, &parts[0]).is_some());
}

#[test]
fn times_out() {
    let mut k = Bench::new(FragLimits::default());
    let parts = cut(&big(A, B, 3000), 7, &[1480]);
    k.add(1000, &parts[0]);
    let dropped = &mut k.dropped;
    k.frags.expire(Millis(30_999), &mut |t| dropped.push(t));
    assert_eq!(dropped.len(), 0);
    assert!(k.add(31_000, &parts[1]).is_none());
    assert_eq!((k.dropped.as_slice(), k.frags.counts().timeout), (&[0][..], 1));
    assert_eq!(k.frags.held().0, 1, "the second begins a datagram of its own");
}

#[test]
fn a_flood_keeps_to_the_limits_and_lets_others_through() {
    let limits = FragLimits { datagrams: 64, bytes: 100_000, ..FragLimits::default() };
    let mut k = Bench::new(limits);
    let noise = cut(&big(A, B, 3000), 0, &[1480]);
    let mut through = 0;
    for i in 0..10_000u16 {
        let mut f = noise[0].clone();
        f[18..20].copy_from_slice(&i.to_be_bytes());
        f[24..26].fill(0);
        let sum = checksum(&f[14..34]);
        f[24..26].copy_from_slice(&sum.to_be_bytes());
        k.add(0, &f);
        let (datagrams, bytes) = k.frags.held();
        assert!(datagrams <= 64 && bytes <= 100_000);
        if i % 100 == 0 {
            let parts = cut(&big(B, A, 3000), i, &[1480]);
            k.add(0, &parts[0]);
            through += usize::from(k.add(0, &parts[1]).is_some());
        }
    }
    assert_eq!(through, 100);
    let held = k.frags.held().0;
    assert_eq!(k.dropped.len() + held + 2 * through, k.next, "none is lost");
    // Too many fragments of all datagrams together.
    let mut k = Bench::new(FragLimits { all: 20, ..FragLimits::default() });
    for i in 0..100u16 {
        let f = &cut(&big(A, B, 3000), i, &[8, 16])[..2];
        f.iter().for_each(|f| assert!(k.add(0, f).is_none()));
        assert!(k.frags.held().0 <= 11 && k.next - k.dropped.len() <= 20);
    }
    // Too many parts of one datagram.
    let mut k = Bench::new(FragLimits { fragments: 10, ..limits });
    let cuts: Vec<usize> = (1..100).map(|i| i * 8).collect();
    for f in cut(&big(A, B, 3000), 1, &cuts) {
        assert!(k.add(0, &f).is_none());
    }
    assert_eq!(k.dropped.len(), k.next);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// Any order, duplicates and losses: a datagram comes out whole and right, or not at all,
    /// and every handle exactly once.
    #[test]
    fn right_or_not_at_all(
        v6: bool,
        size in 100usize..4000,
        cuts in prop::collection::btree_set(1usize..500, 1..12),
        plan in prop::collection::vec(0usize..12, 1..40),
    ) {
        let (a, b) = if v6 { (A6, B6) } else { (A, B) };
        let whole = big(a, b, size);
        let cuts: Vec<usize> = cuts.into_iter().map(|c| c * 8).collect();
        let parts = cut(&whole, 7, &cuts);
        prop_assume!(parts.len() > 1);
        let mut k = Bench::new(FragLimits::default());
        let mut seen = std::collections::HashSet::new();
        for n in plan {
            let n = n % parts.len();
            let complete = { seen.insert(n); seen.len() == parts.len() };
            match k.add(0, &parts[n]) {
                Some(w) => {
                    prop_assert!(complete);
                    prop_assert_eq!(w.fragments.len(), parts.len());
                    let header = if v6 { 54 } else { 34 };
                    prop_assert_eq!(&w.frame[header..], &whole[header..]);
                    seen.clear();
                    k.dropped.extend(w.fragments);
                }
                None => prop_assert!(!complete),
            }
        }
        let mut out = k.dropped.clone();
        k.frags.expire(Millis(60_000), &mut |t| out.push(t));
        out.sort_unstable();
        prop_assert_eq!(out, (0..k.next).collect::<Vec<_>>());
    }

    #[test]
    fn any_bytes_are_survived(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        at in prop::collection::vec((0usize..120, any::<u8>()), 0..6),
        which in 0usize..4,
    ) {
        let base = [cut(&big(A, B, 200), 7, &[64]), cut(&big(A6, B6, 200), 7, &[64])].concat();
        let mut f = base[which].clone();
        for (i, v) in at {
            let n = f.len();
            f[i % n] = v;
        }
        let mut k = Bench::new(FragLimits::default());
        let whole = [k.add(0, &f), k.add(0, &bytes), k.add(0, &base[which ^ 1])];
        let t = tracker(10);
        for w in whole.into_iter().flatten() {
            let random = &mut || 0;
            let _ = t.commit(Millis(0), &input(1, &w.frame), ConnRef::NONE, &Commit::default(), random);
        }
    }
}
