//! Nothing that comes in a frame makes the tracker panic: what cannot be right is `+inv`.

mod common;

use common::*;
use conntrack::nat::Side;
use conntrack::{Commit, CtState, Invalid, Verdict};
use proptest::prelude::*;

const A: (Addr, u16) = (Addr::V4(0x0a00_0001), 5000);
const B: (Addr, u16) = (Addr::V4(0x0808_0808), 53);
const A6: (Addr, u16) = (Addr::V6(0xfd00 << 112 | 1), 5000);
const B6: (Addr, u16) = (Addr::V6(0x2001_0db8 << 96 | 53), 53);

/// A sound frame of each kind.
fn frames() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (a, b, error, ping) in [(A, B, 3, 8), (A6, B6, 1, 128)] {
        let u = udp(a, b, b"payload");
        let options = &[2, 4, 5, 180, 3, 3, 7, 4, 2, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 9];
        let t = tcp(a, b, Seg { flags: SYN, options, len: 5, ..Seg::default() });
        all.push(icmp(b.0, a.0, error, 1, 0, &u[14..]));
        all.push(icmp(b.0, a.0, error, 1, 0, &t[14..]));
        all.push(u);
        all.push(t);
        all.push(icmp(a.0, b.0, ping, 0, 7, b"ping"));
        let mut gre = vec![0xa0, 0, 8, 0];
        gre.extend([0; 12]);
        all.push(ip(a.0, b.0, 47, None, gre));
        let mut sctp = vec![1; 40];
        sctp[8..12].fill(0);
        let crc = flow::crc32c::of_sctp(std::iter::once(&sctp[..]));
        sctp[8..12].copy_from_slice(&crc.to_le_bytes());
        all.push(ip(a.0, b.0, 132, None, sctp));
        all.push(ip(a.0, b.0, 50, None, vec![1; 40]));
    }
    // Extension headers in front of UDP.
    let u = udp(A6, B6, b"x");
    let mut l4 = vec![43, 1];
    l4.extend([0; 14]);
    l4.extend([17, 0, 0, 0, 0, 0, 0, 0]);
    l4.extend(&u[54..]);
    all.push(ip(A6.0, B6.0, 0, None, l4));
    all
}

/// Put a frame through everything.
fn all_of_it(t: &conntrack::Tracker, f: &[u8]) -> Verdict {
    let v = track(t, 0, f);
    let args = nat(Side::Src, "203.0.113.1", "203.0.113.1", None);
    for args in [Commit::default(), args, Commit { force: true, ..args }] {
        if let Ok(v) = commit_with(t, 0, f, &args) {
            let _ = translated_if_possible(f, &v);
        }
    }
    v
}

fn translated_if_possible(f: &[u8], v: &Verdict) -> Option<()> {
    thread_local! {
        static POOL: std::cell::RefCell<afxdp::FramePool> =
            std::cell::RefCell::new(afxdp::Region::new(2 << 20).unwrap().pool());
    }
    POOL.with_borrow_mut(|pool| {
        let mut p = pool.packet_from(f)?;
        let done = conntrack::nat::apply(&mut p, &offsets(f), &v.nat);
        pool.free_packet(p);
        done.ok()
    })
}

#[test]
fn sound_frames_are_valid() {
    for f in frames() {
        let t = tracker(100);
        let v = all_of_it(&t, &f);
        let error = f[usize::from(offsets(&f).l4)] == if f[14] >> 4 == 4 { 3 } else { 1 };
        let icmp = matches!(offsets(&f).proto, 1 | 58);
        assert_eq!(v.state.has(CtState::INV), icmp && error, "{f:02x?}");
    }
}

#[test]
fn frames_cut_anywhere_are_invalid() {
    for f in frames() {
        for n in 0..f.len() {
            let t = tracker(100);
            let v = all_of_it(&t, &f[..n]);
            assert_eq!(state(v), "inv|trk", "{n} of {f:02x?}");
            assert_eq!(t.len(), 0);
        }
    }
}

#[test]
fn checksums_are_checked_where_there_are_any() {
    for f in frames() {
        let off = offsets(&f);
        if !matches!(off.proto, 1 | 6 | 17 | 58 | 132) {
            continue;
        }
        for at in usize::from(off.l4)..f.len() {
            let t = tracker(100);
            let mut f = f.clone();
            f[at] ^= 0x10;
            // Of UDP's length field more can be wrong than the sum; all of it is invalid.
            assert_eq!(state(track(&t, 0, &f)), "inv|trk", "byte {at} of {f:02x?}");
        }
    }
    let t = tracker(10);
    let mut f = udp(A, B, b"x");
    f[24] ^= 1;
    assert_eq!(state(track(&t, 0, &f)), "inv|trk");
    assert_eq!(t.count_invalid(Invalid::IpChecksum), 1);
}

#[test]
fn lengths_and_ports_that_cannot_be() {
    let t = tracker(10);
    let with = |at: usize, v: u16| {
        let mut f = udp(A, B, b"payload");
        f[at..at + 2].copy_from_slice(&v.to_be_bytes());
        let sum = 34 + 6;
        f[sum..sum + 2].fill(0);
        f
    };
    for len in [0, 1, 7, 16, 100, 65535] {
        assert_eq!(state(track(&t, 0, &with(38, len))), "inv|trk", "UDP length {len}");
    }
    assert_eq!(state(track(&t, 0, &with(38, 15))), "new|trk");
    for port in [34, 36] {
        assert_eq!(state(track(&t, 0, &with(port, 0))), "inv|trk", "port 0");
    }
    for offset in 0..16u8 {
        let mut f = tcp(A, B, Seg { flags: SYN, ..Seg::default() });
        f[46] = offset << 4;
        let ok = offset == 5;
        assert_eq!(state(track(&t, 0, &f)) == "new|trk", ok, "data offset {offset}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_change_of_sound_frames_is_survived(
        which in 0usize..17,
        changes in prop::collection::vec((0usize..200, any::<u8>()), 1..8),
        cut in 0usize..400,
        good: bool,
    ) {
        let t = tracker(100);
        let all = frames();
        for f in &all {
            let _ = commit_with(&t, 0, f, &nat(Side::Src, "203.0.113.1", "203.0.113.1", None));
        }
        let mut f = all[which % all.len()].clone();
        for (at, v) in changes {
            let n = f.len();
            f[at % n] = v;
        }
        f.truncate(cut.max(14));
        all_of_it(&t, &f);
        // As if the checksum were right, deeper code is reached.
        let mut i = input(1, &f);
        if good {
            i.trust = conntrack::Trust::Good;
        }
        let v = t.track(conntrack::Millis(0), &i, true);
        let _ = translated_if_possible(&f, &v);
    }

    #[test]
    fn any_bytes_with_any_offsets_are_survived(
        bytes in prop::collection::vec(any::<u8>(), 0..120),
        l3 in 0u16..140, l4 in 0u16..140, end in 0u16..200, proto: u8, first in 0usize..3,
    ) {
        let t = tracker(100);
        let mut f = bytes;
        if let Some(b) = f.get_mut(usize::from(l3)) {
            *b = [*b, 0x45, 0x60][first];
        }
        let off = flow::Offsets { l3, l4, end, proto, fault: flow::Fault::None };
        for trust in [conntrack::Trust::Good, conntrack::Trust::Unknown] {
            let i = conntrack::Input { zone: 1, data: &f, off, total: f.len(), trust };
            let v = t.commit(
                conntrack::Millis(0), &i, conntrack::ConnRef::NONE, &Commit::default(), &mut || 0,
            );
            prop_assert!(v.is_ok());
        }
    }
}
