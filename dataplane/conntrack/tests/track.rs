//! Everything but TCP's states: UDP, ICMP, GRE, others, errors, zones, marks, labels, commits.

mod common;

use common::*;
use conntrack::nat::Side;
use conntrack::{
    BURST, Batch, Commit, ConnRef, CtState, Cursor, Event, Filter, Invalid, Millis, Policy,
    Timeout, Tracker, Tuple,
};
use flow::Drop;

const A: Addr = Addr::V4(0x0a00_0001);
const B: Addr = Addr::V4(0x0a00_0002);
const A6: Addr = Addr::V6(0x2001_0db8 << 96 | 1);
const B6: Addr = Addr::V6(0x2001_0db8 << 96 | 2);

fn only(t: &Tracker, now: u64) -> conntrack::Connection {
    let mut all = Vec::new();
    t.walk(Millis(now), Cursor::default(), usize::MAX, |c| all.push(*c));
    assert_eq!(all.len(), 1, "{all:?}");
    all[0]
}

fn lives(t: &Tracker, now: u64) -> u64 {
    only(t, now).expires_in / 1000
}

#[test]
fn udp_of_both_families() {
    for (a, b) in [(A, B), (A6, B6)] {
        let t = tracker(10);
        let out = udp((a, 5000), (b, 53), b"query");
        let back = udp((b, 53), (a, 5000), b"answer");
        assert_eq!(state(track(&t, 0, &out)), "new|trk");
        assert_eq!(t.len(), 0, "not committed");
        assert_eq!(state(track(&t, 0, &back)), "new|trk", "its own connection, if any");
        assert_eq!(state(commit(&t, 0, &out)), "new|trk");
        assert_eq!(lives(&t, 0), 120);
        assert_eq!(state(track(&t, 0, &out)), "new|trk", "no answer yet");
        let v = track(&t, 0, &back);
        assert_eq!(state(v), "est|rpl|trk");
        assert_eq!(v.orig, only(&t, 0).orig);
        assert_eq!(state(track(&t, 0, &out)), "est|trk");
        assert!(!only(&t, 0).assured);
        assert_eq!(lives(&t, 0), 120);
        track(&t, 3000, &out);
        assert!(only(&t, 3000).assured, "a stream");
        assert_eq!(lives(&t, 3000), 180);
        assert_eq!(state(track(&t, 184_000, &out)), "new|trk", "expired");
    }
}

#[test]
fn zones_are_apart() {
    let t = tracker(10);
    let out = udp((A, 5000), (B, 53), b"x");
    let back = udp((B, 53), (A, 5000), b"x");
    commit(&t, 0, &out);
    let other = t.track(Millis(0), &input(2, &back), true);
    assert_eq!(state(other), "new|trk");
    assert_eq!(state(track(&t, 0, &back)), "est|rpl|trk");
}

#[test]
fn icmp_queries_match_by_identifier_and_kind() {
    for (a, b, request, reply) in [(A, B, 8, 0), (A, B, 13, 14), (A6, B6, 128, 129)] {
        let t = tracker(10);
        let ask = icmp(a, b, request, 0, 77 << 16 | 1, b"ping");
        let answer = icmp(b, a, reply, 0, 77 << 16 | 1, b"ping");
        let other = icmp(b, a, reply, 0, 78 << 16 | 1, b"ping");
        assert_eq!(state(track(&t, 0, &answer)), "inv|trk", "an answer begins nothing");
        assert_eq!(state(commit(&t, 0, &answer)), "inv|trk");
        assert_eq!(state(commit(&t, 0, &ask)), "new|trk");
        assert_eq!(state(track(&t, 0, &other)), "inv|trk");
        assert_eq!(state(track(&t, 0, &answer)), "est|rpl|trk");
        assert_eq!(state(track(&t, 0, &ask)), "est|trk");
    }
    let t = tracker(10);
    let advert = icmp(A, B, 9, 0, 0, &[0; 8]);
    assert_eq!(state(commit(&t, 0, &advert)), "inv|trk");
    let nd = icmp(A6, B6, 135, 0, 0, &[0; 16]);
    assert_eq!(state(commit(&t, 0, &nd)), "inv|trk");
    assert_eq!(t.count_invalid(Invalid::IcmpType), 2);
}

#[test]
fn gre_by_key_and_others_by_addresses() {
    let gre = |src, dst, key: u32| {
        let mut l4 = vec![0x20, 0, 8, 0];
        l4.extend(key.to_be_bytes());
        ip(src, dst, 47, None, l4)
    };
    let t = tracker(10);
    assert_eq!(state(commit(&t, 0, &gre(A, B, 5))), "new|trk");
    assert_eq!(state(track(&t, 0, &gre(B, A, 6))), "new|trk");
    assert_eq!(state(track(&t, 0, &gre(B, A, 5))), "est|rpl|trk");
    assert_eq!(state(commit(&t, 0, &ip(A, B, 50, None, vec![1; 40]))), "new|trk");
    assert_eq!(state(track(&t, 0, &ip(B, A, 50, None, vec![2; 40]))), "est|rpl|trk");
    assert_eq!(t.len(), 2);
}

fn quote_of(frame: &[u8], l4_bytes: usize) -> Vec<u8> {
    let off = offsets(frame);
    frame[usize::from(off.l3)..(usize::from(off.l4) + l4_bytes).min(frame.len())].to_vec()
}

#[test]
fn errors_are_related_to_what_they_quote() {
    for (a, b, c, ty) in [(A, B, Addr::V4(host(9)), 3), (A6, B6, Addr::V6(9), 1)] {
        let t = tracker(10);
        let out = udp((a, 5000), (b, 53), b"x");
        commit(&t, 0, &out);
        let error = icmp(b, a, ty, 3, 0, &quote_of(&out, 8));
        assert_eq!(state(track(&t, 0, &error)), "rel|rpl|trk");
        assert!(!only(&t, 0).seen_reply, "an error is no answer");
        let router = icmp(c, a, ty, 0, 0, &quote_of(&out, 8));
        assert_eq!(state(track(&t, 0, &router)), "rel|rpl|trk", "from anybody on the way");
        let astray = icmp(b, c, ty, 0, 0, &quote_of(&out, 8));
        assert_eq!(state(track(&t, 0, &astray)), "inv|trk", "to another than the sender");
        let back = udp((b, 53), (a, 5000), b"x");
        track(&t, 0, &back);
        let refusal = icmp(a, b, ty, 3, 0, &quote_of(&back, 8));
        assert_eq!(state(track(&t, 0, &refusal)), "rel|trk");
        let unknown = icmp(b, a, ty, 3, 0, &quote_of(&udp((a, 1), (b, 2), b""), 8));
        assert_eq!(state(commit(&t, 0, &unknown)), "inv|trk", "never a new connection");
        let about_error = icmp(b, a, ty, 3, 0, &quote_of(&error, 8));
        assert_eq!(state(track(&t, 0, &about_error)), "inv|trk");
        for n in 0..8 {
            let short = icmp(b, a, ty, 3, 0, &quote_of(&out, n));
            let want = if n < 4 { "inv|trk" } else { "rel|rpl|trk" };
            assert_eq!(state(track(&t, 0, &short)), want, "{n} bytes of L4 quoted");
        }
        assert_eq!(t.len(), 1);
    }
}

#[test]
fn mark_and_label_are_set_under_masks() {
    let t = tracker(10);
    let out = udp((A, 5000), (B, 53), b"x");
    let args = |mark, label| Commit { mark, label, ..Commit::default() };
    let v = commit_with(&t, 0, &out, &args(Some((0xabcd, 0xff00)), Some((7, u128::MAX)))).unwrap();
    assert_eq!((v.mark, v.label), (0xab00, 7));
    let back = udp((B, 53), (A, 5000), b"x");
    let v = track(&t, 0, &back);
    assert_eq!((v.mark, v.label), (0xab00, 7));
    let top = 1u128 << 127;
    let v = commit_with(&t, 0, &back, &args(Some((0x12, 0xff)), Some((top, top)))).unwrap();
    assert_eq!((v.mark, v.label), (0xab12, top | 7));
    assert_eq!(state(v), "est|rpl|trk", "a commit of an existing connection");
    let v = commit_with(&t, 0, &out, &args(None, Some((0, u128::MAX)))).unwrap();
    assert_eq!((v.mark, v.label), (0xab12, 0));
    let error = icmp(B, A, 3, 3, 0, &quote_of(&out, 8));
    assert_eq!(track(&t, 0, &error).mark, 0xab12);
}

#[test]
fn force_makes_the_reply_direction_the_original_one() {
    let t = tracker(10);
    let out = udp((A, 5000), (B, 53), b"x");
    let back = udp((B, 53), (A, 5000), b"x");
    let args = Commit { mark: Some((5, u32::MAX)), ..Commit::default() };
    commit_with(&t, 0, &out, &args).unwrap();
    let force = Commit { force: true, ..Commit::default() };
    let v = commit_with(&t, 0, &out, &force).unwrap();
    assert_eq!((state(v).as_str(), v.mark), ("new|trk", 5), "already the right way round");
    let v = commit_with(&t, 0, &back, &force).unwrap();
    assert_eq!((state(v).as_str(), v.mark), ("new|trk", 0));
    assert_eq!(state(track(&t, 0, &out)), "est|rpl|trk");
    assert_eq!((t.len(), t.count(Event::Replaced)), (1, 1));
    // With the connection named by an earlier verdict.
    let v = track(&t, 0, &out);
    let v = t.commit(Millis(0), &input(1, &out), v.conn, &force, &mut || 0).unwrap();
    assert_eq!(state(v), "new|trk");
    assert_eq!(state(track(&t, 0, &back)), "est|rpl|trk");
}

#[test]
fn what_is_committed_already_needs_no_commit() {
    let t = tracker(10);
    let (out, back) = (udp((A, 5000), (B, 53), b"x"), udp((B, 53), (A, 5000), b"x"));
    let plain = Commit::default();
    assert!(!t.is_committed(Millis(0), ConnRef::NONE, &plain));
    let fresh = track(&t, 0, &out);
    assert!(!t.is_committed(Millis(0), fresh.conn, &plain), "not made yet");
    commit(&t, 0, &out);
    for frame in [&out, &back, &out] {
        let v = track(&t, 0, frame);
        assert!(t.is_committed(Millis(0), v.conn, &plain));
        let again = t.commit(Millis(0), &input(1, frame), v.conn, &plain, &mut || 0).unwrap();
        assert_eq!(again, v, "it would say the same");
        for more in [
            Commit { force: true, ..plain },
            Commit { mark: Some((0, 1)), ..plain },
            Commit { label: Some((0, 1)), ..plain },
            nat(Side::Src, "1.2.3.4", "1.2.3.4", None),
        ] {
            assert!(!t.is_committed(Millis(0), v.conn, &more), "{more:?}");
        }
    }
    let v = track(&t, 0, &out);
    assert!(!t.is_committed(Millis(999_000), v.conn, &plain), "expired");
    assert!(t.flush_tuple(Millis(0), &only(&t, 0).orig));
    assert!(!t.is_committed(Millis(0), v.conn, &plain), "gone");
    commit(&t, 0, &out);
    assert!(!t.is_committed(Millis(0), v.conn, &plain), "another one in its place");
}

#[test]
fn a_packet_is_counted_once_if_its_connection_is_named() {
    let t = tracker(10);
    let out = udp((A, 5000), (B, 53), b"x");
    let v = commit_with(&t, 0, &out, &nat(Side::Src, "1.2.3.4", "1.2.3.4", None)).unwrap();
    assert_eq!(state(v), "new|trk|snat");
    let changed = translated(&out, &v);
    // The translated packet is none of the connection's tuples: only its name finds it.
    assert_eq!(state(track(&t, 0, &changed)), "new|trk");
    let again = t.resume(Millis(0), 1, v.conn, true).unwrap();
    assert_eq!(again, v);
    assert_eq!(t.resume(Millis(0), 2, v.conn, true), None, "another zone");
    assert_eq!(t.resume(Millis(999_000), 1, v.conn, true), None, "expired");
    assert_eq!(t.resume(Millis(0), 1, ConnRef::NONE, true), None);
    let v = t.commit(Millis(0), &input(1, &changed), v.conn, &Commit::default(), &mut || 0);
    assert_eq!(state(v.unwrap()), "new|trk", "no nat in the action: no bits, no edit");
    let again = t.resume(Millis(0), 1, again.conn, true).unwrap();
    assert!(t.flush_tuple(Millis(0), &only(&t, 0).reply));
    assert_eq!(t.resume(Millis(0), 1, again.conn, true), None, "gone");
    commit(&t, 0, &out);
    assert_eq!(t.resume(Millis(0), 1, again.conn, true), None, "another one in its place");
}

#[test]
fn a_packet_to_oneself() {
    let t = tracker(10);
    let own = udp((A, 7), (A, 7), b"x");
    assert_eq!(state(commit(&t, 0, &own)), "new|trk");
    assert_eq!(state(track(&t, 0, &own)), "new|trk");
    assert!(t.flush_tuple(Millis(0), &only(&t, 0).orig));
    assert_eq!(t.len(), 0);
    assert_eq!(state(commit(&t, 0, &own)), "new|trk");
}

#[test]
fn limits_of_zones() {
    let t = tracker(100);
    let f = |i: u16| udp((A, 1000 + i), (B, 53), b"x");
    t.set_zone_limit(1, Some(2));
    for i in 0..2 {
        commit(&t, 0, &f(i));
        track(&t, 0, &udp((B, 53), (A, 1000 + i), b"x"));
    }
    assert_eq!(commit_with(&t, 0, &f(2), &Commit::default()), Err(Drop::CtFull));
    assert_eq!(t.count(Event::FullZone), 1);
    assert_eq!(state(commit(&t, 0, &f(1))), "est|trk", "those there are go on");
    assert_eq!(t.zone_use(1), (2, Some(2)));
    // Room comes with expiry, even before any sweep.
    assert_eq!(state(commit(&t, 200_000, &f(2))), "new|trk");
    t.set_zone_limit(1, None);
    t.set_default_zone_limit(Some(0));
    assert_eq!(commit_with(&t, 0, &f(3), &Commit::default()), Err(Drop::CtFull));
    t.set_default_zone_limit(None);
    commit(&t, 0, &f(3));
    assert_eq!(t.zones_in_use().collect::<Vec<_>>(), [(1, t.zone_use(1).0)]);
}

#[test]
fn a_full_table_evicts_by_class_and_never_the_established() {
    let t = tracker(64);
    let flow = |i: u16| (udp((A, 1000 + i), (B, 53), b"x"), udp((B, 53), (A, 1000 + i), b"x"));
    for i in 0..32 {
        let (out, back) = flow(i);
        commit(&t, 0, &out);
        assert_eq!(state(track(&t, 0, &back)), "est|rpl|trk");
    }
    let syn = |i: u16| {
        let s = Seg { flags: SYN, ..Seg::default() };
        tcp((Addr::V4(host(77)), 1000 + i), (B, 80), s)
    };
    for i in 0..20_000 {
        let now = u64::from(i) / 100;
        assert_eq!(state(commit(&t, now, &syn(i))), "new|trk");
    }
    assert_eq!(t.count(Event::EvictedUnanswered), 20_000 - 32);
    assert_eq!(t.len(), 64);
    for i in 0..32 {
        assert_eq!(state(track(&t, 300, &flow(i).0)), "est|trk", "{i}");
    }
    // Established ones fill it: a new one is refused.
    for i in 32..64 {
        let (out, back) = flow(i);
        commit(&t, 300, &out);
        track(&t, 300, &back);
    }
    assert_eq!(commit_with(&t, 310, &syn(0), &Commit::default()), Err(Drop::CtFull));
    assert_eq!(t.count(Event::FullTable), 1);
    // Closed ones go first.
    assert_eq!(
        t.flush(
            Millis(310),
            &Filter { sport: Some(1000), ..Filter::default() },
            Cursor::default(),
            1000
        )
        .0,
        1
    );
    let c = (Addr::V4(host(5)), 9);
    commit(&t, 320, &tcp(c, (B, 80), Seg { flags: SYN, ..Seg::default() }));
    track(&t, 320, &tcp((B, 80), c, Seg { flags: SYN | ACK, ack: 1, ..Seg::default() }));
    track(&t, 320, &tcp(c, (B, 80), Seg { flags: RST, seq: 1, ..Seg::default() }));
    assert_eq!(state(commit(&t, 330, &syn(1))), "new|trk");
    assert_eq!(t.count(Event::EvictedClosed), 1);
    assert_eq!(t.len(), 64);
}

#[test]
fn the_limit_of_the_table() {
    let t = tracker(64);
    assert_eq!((t.limit(), t.capacity()), (64, 64));
    t.set_limit(2);
    let f = |i: u16| udp((A, 1000 + i), (B, 53), b"x");
    for i in 0..10 {
        commit(&t, 0, &f(i));
    }
    assert_eq!(t.len(), 2);
    t.set_limit(1 << 40);
    assert_eq!(t.limit(), 64);
}

#[test]
fn sweeps_are_bounded_and_find_all() {
    let t = tracker(1000);
    for i in 0..500 {
        commit(&t, 0, &udp((A, 1000 + i), (B, 53), b"x"));
    }
    assert_eq!(t.sweep(Millis(119_000), 10_000).expired, 0);
    let mut expired = 0;
    let mut calls = 0;
    while expired < 500 {
        let s = t.sweep(Millis(121_000), 64);
        assert!(s.seen <= 64 && s.expired <= 24, "{s:?}");
        expired += s.expired;
        calls += 1;
        assert!(calls < 1000);
    }
    assert_eq!((t.len(), t.count(Event::Expired)), (0, 500));
}

#[test]
fn a_walk_sees_every_entry_once_whatever_its_steps() {
    for (entries, budget) in [(1, 1), (13, 5), (16, 8), (100, 7), (100, 9), (100, 1000)] {
        let t = tracker(1000);
        for i in 0..entries {
            commit(&t, 0, &udp((A, 1000 + i), (B, 53), b"x"));
        }
        for pass in 0..3 {
            let mut seen = 0;
            loop {
                let s = t.sweep(Millis(1), budget);
                seen += s.seen;
                assert!(s.seen > 0, "{entries} entries, {budget} at a time: it stands still");
                if s.wrapped {
                    break;
                }
            }
            assert_eq!(seen, usize::from(entries), "pass {pass}, {budget} at a time");
        }
    }
}

#[test]
fn policies_by_zone() {
    let t = tracker(10);
    let mut p = Policy::default();
    p.set(Timeout::UdpFirst, 5).unwrap();
    assert!(p.set(Timeout::UdpFirst, 0).is_err());
    let e = p.set(Timeout::UdpFirst, u32::MAX).unwrap_err();
    assert_eq!(e.to_string(), "udp_first: 4294967295 s is not from 1 to 2592000 s");
    t.set_policy(3, &p);
    t.set_zone_policy(1, 3);
    let f = udp((A, 1000), (B, 53), b"x");
    commit(&t, 0, &f);
    assert_eq!((lives(&t, 0), only(&t, 0).policy), (5, 3));
    assert_eq!(t.policy(3).get(Timeout::UdpFirst), 5);
    assert_eq!(t.zone_policy(2), 0);
    assert_eq!(t.policy(0), Policy::default());
}

#[test]
fn list_filter_flush_and_census() {
    let t = tracker(100);
    for i in 0..10 {
        commit(&t, 0, &udp((A, 1000 + i), (B, 53), b"x"));
    }
    let s = Seg { flags: SYN, ..Seg::default() };
    commit(&t, 0, &tcp((B, 5), (A, 80), s));
    let in_zone_2 = udp((A, 1), (B, 2), b"x");
    t.commit(Millis(0), &input(2, &in_zone_2), ConnRef::NONE, &Commit::default(), &mut || 0)
        .unwrap();
    let census = t.census(Millis(0), 1);
    assert_eq!((census.total, census.protocols[&17], census.protocols[&6]), (12, 11, 1));
    assert_eq!((census.zones[&1], census.zones[&2], census.unanswered), (11, 1, 12));
    assert_eq!(census.tcp[conntrack::TcpState::SynSent as usize], 1);
    assert_eq!(census.top_sources, [(1, "10.0.0.1".parse().unwrap(), 10)]);
    let only_tcp = Filter { proto: Some(6), ..Filter::default() };
    let mut found = 0;
    t.walk(Millis(0), Cursor::default(), usize::MAX, |c| {
        found += usize::from(only_tcp.matches(c));
    });
    assert_eq!(found, 1);
    let (n, next) = t.flush(Millis(0), &only_tcp, Cursor::default(), usize::MAX);
    assert_eq!((n, next), (1, None));
    // In small steps.
    let zone_1 = Filter { zone: Some(1), ..Filter::default() };
    let (mut cursor, mut n) = (Some(Cursor::default()), 0);
    while let Some(c) = cursor {
        let (some, next) = t.flush(Millis(0), &zone_1, c, 3);
        n += some;
        cursor = next;
    }
    assert_eq!((n, t.len()), (10, 1));
    let tuple = Tuple::v4(2, 17, host(2), host(1), 2, 1);
    assert!(t.flush_tuple(Millis(0), &tuple), "by the reply's tuple");
    assert!(!t.flush_tuple(Millis(0), &tuple));
    assert!(t.is_empty());
    assert_eq!(t.count(Event::Flushed), 12);
}

#[test]
fn bursts_say_what_single_packets_say() {
    let t = tracker(1000);
    let frames: Vec<_> = (0..100)
        .map(|i| udp((A, 1000 + i), (B, 53), b"x"))
        .chain((0..50).map(|i| icmp(A, B, 8, 0, i << 16, b"")))
        .chain([vec![0; 14], vec![], udp((A, 0), (B, 1), b"")])
        .collect();
    for f in frames.iter().step_by(3) {
        commit(&t, 0, f);
    }
    let (mut got, mut batch) = (Vec::new(), Batch::default());
    for burst in frames.chunks(BURST) {
        t.read_burst(burst.iter().map(|f| input(1, f)), &mut batch);
        t.track_burst(Millis(0), true, &mut batch, |i, v| {
            assert_eq!(i, got.len() % BURST);
            got.push(*v);
        });
    }
    for (f, v) in frames.iter().zip(&got) {
        assert_eq!(*v, track(&t, 0, f));
    }
    assert!(got[150].state.has(CtState::INV) && got[152].state.has(CtState::INV));
}

#[test]
fn a_full_zone_makes_room_of_its_own() {
    let t = tracker(4000);
    let send = |zone: u16, n: u16, now: u64| {
        let f = udp((A, 1000 + n), (B, 53), b"x");
        let none = &Commit::default();
        t.commit(Millis(now), &input(zone, &f), ConnRef::NONE, none, &mut || 0).map(state)
    };
    for n in 0..300 {
        send(2, n, 0).unwrap();
    }
    t.set_zone_limit(1, Some(10));
    for n in 0..4 {
        send(1, n, 0).unwrap();
        let back = udp((B, 53), (A, 1000 + n), b"x");
        assert_eq!(state(track(&t, 0, &back)), "est|rpl|trk");
    }
    for n in 100..1100 {
        assert_eq!(send(1, n, u64::from(n)), Ok("new|trk".into()), "a scan, in its zone");
    }
    assert_eq!((t.zone_use(1).0, t.zone_use(2).0), (10, 300), "of no other zone");
    for n in 0..4 {
        assert_eq!(state(track(&t, 0, &udp((A, 1000 + n), (B, 53), b"x"))), "est|trk");
    }
}

#[test]
fn a_watcher_is_told_of_what_comes_and_goes() {
    let t = tracker(10);
    let f = udp((A, 1000), (B, 53), b"x");
    commit(&t, 0, &f);
    assert_eq!(t.next_notice(), None, "nobody watched");
    t.set_watched(true);
    commit(&t, 0, &udp((A, 1001), (B, 53), b"x"));
    t.sweep(Millis(500_000), 1000);
    t.sweep(Millis(500_000), 1000);
    let told: Vec<_> =
        std::iter::from_fn(|| t.next_notice()).map(|n| (n.what, n.orig.sport())).collect();
    assert_eq!(told[0], (Event::Inserted, 1001));
    let ended: std::collections::BTreeSet<_> = told[1..].iter().map(|n| n.1).collect();
    assert_eq!(ended, [1000, 1001].into());
    assert!(told[1..].iter().all(|n| n.0 == Event::Expired));
    for i in 0..20_000u64 {
        commit(&t, i, &udp((Addr::V4(host(i as u32)), 7), (B, 53), b"x"));
    }
    assert!(t.lost_notices() > 0, "a ring that nobody empties loses, and says so");
    t.set_watched(false);
}
