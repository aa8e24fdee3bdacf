//! What `docs/nat-behaviour.md` says of RFC 4787 (UDP), 5382 (TCP) and 5508 (ICMP), requirement by
//! requirement, as far as it is the tracker that meets it. Windows, states and quotes have tests of
//! their own.

mod common;

use std::collections::HashSet;

use common::*;
use conntrack::nat::{AddressRange, Choice, NatSpec, Side};
use conntrack::{Commit, ConnRef, CtState, Cursor, Event, Millis, Nat, Tracker, Tuple};
use flow::Drop;

const A: Addr = Addr::V4(0x0a00_0001);
const B: Addr = Addr::V4(0x0a00_0002);
const SERVER: Addr = Addr::V4(0x0808_0808);
const OTHER: Addr = Addr::V4(0x0909_0909);
const PUBLIC: &str = "203.0.113.1";
const PUBLIC_A: Addr = Addr::V4(0xcb00_7101);
const SECOND: u64 = 1000;
/// Expiry times are rounded up by less than this.
const STEP: u64 = 256;

fn snat() -> Commit {
    nat(Side::Src, PUBLIC, PUBLIC, None)
}

/// The tuple that a host's connection has outside.
fn outside(t: &Tracker, frame: &[u8]) -> Tuple {
    commit_with(t, 0, frame, &snat()).unwrap().nat.tuple()
}

/// Whether the connection of a packet is there at that time, without a packet of it.
fn lives(t: &Tracker, at: u64) -> bool {
    let mut found = 0;
    let mut visit = |_: &conntrack::Connection| found += 1;
    let mut cursor = Some(Cursor::default());
    while let Some(c) = cursor {
        cursor = t.walk(Millis(at), c, 1000, &mut visit);
    }
    found > 0
}

#[test]
fn rfc_4787_req_1_the_port_is_kept_towards_each_destination() {
    let t = tracker(100);
    for server in [SERVER, OTHER] {
        for port in [53, 443] {
            assert_eq!(outside(&t, &udp((A, 5000), (server, port), b"")).sport(), 5000);
        }
    }
    // Another host has to give way, towards a destination that it shares.
    assert_ne!(outside(&t, &udp((B, 5000), (SERVER, 53), b"")).sport(), 5000);
    assert_eq!(outside(&t, &udp((B, 5000), (SERVER, 54), b"")).sport(), 5000);
}

#[test]
fn rfc_4787_req_2_paired_pooling_with_persistent() {
    let range = AddressRange::new(PUBLIC.parse().unwrap(), "203.0.113.200".parse().unwrap());
    let spec = NatSpec::new(Side::Src, Some(range.unwrap()), None, Choice::Hash, true).unwrap();
    let args = Commit { nat: Nat::New(spec), ..Commit::default() };
    let t = tracker(1000);
    let addresses: HashSet<_> = (0..100)
        .map(|i| udp((A, 5000 + i), (Addr::V4(host(i.into())), 53), b""))
        .map(|f| commit_with(&t, 0, &f, &args).unwrap().nat.tuple().src())
        .collect();
    assert_eq!(addresses.len(), 1);
}

#[test]
fn rfc_4787_req_3_no_port_is_overloaded_and_the_last_one_is_refused() {
    let t = tracker(100);
    let args = nat(Side::Src, PUBLIC, PUBLIC, Some((6000, 6009)));
    let send =
        |i: u32| commit_with(&t, 0, &udp((Addr::V4(host(i)), 5000), (SERVER, 53), b""), &args);
    let ports: HashSet<_> = (0..10).map(|i| send(i).unwrap().nat.tuple().sport()).collect();
    assert_eq!(ports, (6000..6010).collect());
    assert_eq!(send(10), Err(Drop::NatExhausted), "dropped, not passed on as it is");
    assert_eq!((t.len(), t.count(Event::Exhausted)), (10, 1));
}

#[test]
fn rfc_4787_req_3a_ranges_of_ports_are_kept() {
    let t = tracker(1000);
    for (port, range) in [(300, 1..=511), (700, 600..=1023), (5000, 1024..=65_535)] {
        for i in 0..20 {
            let frame = udp((Addr::V4(host(i)), port), (SERVER, 53), b"");
            let sport = outside(&t, &frame).sport();
            assert!(range.contains(&sport), "{port} became {sport}");
            assert!(i > 0 || sport == port, "REQ-3b: a free one is kept");
        }
    }
}

#[test]
fn rfc_4787_req_5_and_6_two_minutes_and_both_directions_refresh() {
    const MINUTES: u64 = 120 * SECOND;
    let t = tracker(10);
    let (out, back) = (udp((A, 5000), (SERVER, 53), b""), udp((SERVER, 53), (PUBLIC_A, 5000), b""));
    outside(&t, &out);
    assert!(lives(&t, MINUTES - 1) && !lives(&t, MINUTES + STEP));
    let mut now = 0;
    for frame in [&out, &out, &back, &back, &out] {
        now += MINUTES - SECOND;
        assert_ne!(track(&t, now, frame).conn, ConnRef::NONE, "at {now}");
        assert!(lives(&t, now + MINUTES - 1));
    }
    assert!(!lives(&t, now + 180 * SECOND + STEP));
}

#[test]
fn rfc_4787_req_7_the_same_addresses_in_two_zones() {
    let t = tracker(10);
    let frame = udp((A, 5000), (SERVER, 53), b"");
    for zone in [1, 2] {
        let v = t.track(Millis(0), &input(zone, &frame), true);
        assert!(v.state.has(CtState::NEW), "zone {zone}");
        let done = t.commit(Millis(0), &input(zone, &frame), v.conn, &Commit::default(), &mut || 1);
        assert!(done.is_ok());
    }
    assert_eq!(t.len(), 2);
}

#[test]
fn rfc_4787_req_11_the_choice_is_a_function_of_what_is_there() {
    let all = || {
        let t = tracker(100);
        let frame = |i| udp((Addr::V4(host(i)), 5000), (SERVER, 53), b"");
        (0..50).map(|i| outside(&t, &frame(i))).collect::<Vec<_>>()
    };
    assert_eq!(all(), all());
}

#[test]
fn rfc_4787_req_12_5382_req_10_5508_req_8_errors_end_nothing() {
    let sent = [
        (udp((A, 5000), (SERVER, 53), b""), udp((SERVER, 53), (PUBLIC_A, 5000), b"")),
        (
            tcp((A, 5000), (SERVER, 80), Seg { flags: SYN, ..Seg::default() }),
            tcp((SERVER, 80), (PUBLIC_A, 5000), Seg { flags: SYN | ACK, ack: 1, ..Seg::default() }),
        ),
        (icmp(A, SERVER, 8, 0, 77 << 16, b""), icmp(SERVER, PUBLIC_A, 0, 0, 77 << 16, b"")),
    ];
    for (out, answer) in sent {
        let t = tracker(10);
        let v = commit_with(&t, 0, &out, &snat()).unwrap();
        let wire = translated(&out, &v);
        let before = list(&t);
        for (ty, code) in [(3, 1), (3, 3), (11, 0), (12, 0)] {
            let error = icmp(SERVER, PUBLIC_A, ty, code, 0, &wire[14..14 + 28]);
            let v = track(&t, 0, &error);
            assert!(v.state.has(CtState::REL), "{}", state(v));
        }
        assert_eq!(list(&t), before, "state, time and all else are as they were");
        assert!(track(&t, 0, &answer).state.has(CtState::EST));
    }
}

/// All that can be read of the connections.
fn list(t: &Tracker) -> String {
    let mut text = String::new();
    let mut visit = |c: &conntrack::Connection| text += &format!("{c:?}\n");
    t.walk(Millis(0), Cursor::default(), 1000, &mut visit);
    assert!(!text.is_empty());
    text
}

#[test]
fn rfc_5382_req_5_established_for_two_hours_and_more() {
    let t = tracker(10);
    let (c, s, p) = ((A, 5000), (SERVER, 80), (PUBLIC_A, 5000));
    commit_with(&t, 0, &tcp(c, s, Seg { flags: SYN, ..Seg::default() }), &snat()).unwrap();
    let answer = Seg { flags: SYN | ACK, ack: 1, ..Seg::default() };
    track(&t, 0, &tcp(s, p, answer));
    track(&t, 0, &tcp(c, s, Seg { flags: ACK, seq: 1, ack: 1, ..Seg::default() }));
    assert!(lives(&t, (2 * 60 + 4) * 60 * SECOND));
}

#[test]
fn rfc_5508_req_1_queries_of_all_kinds_for_a_minute() {
    for ty in [8, 13, 15, 17] {
        let t = tracker(10);
        let v = commit_with(&t, 0, &icmp(A, SERVER, ty, 0, 77 << 16, b""), &snat()).unwrap();
        assert!(v.state.has(CtState::NEW) && lives(&t, 60 * SECOND - 1));
        let answer = icmp(SERVER, PUBLIC_A, if ty == 8 { 0 } else { ty + 1 }, 0, 77 << 16, b"");
        let v = track(&t, 0, &answer);
        assert_eq!(state(v), "est|rpl|trk|dnat", "type {ty}");
        assert!(lives(&t, 60 * SECOND - 1) && !lives(&t, 60 * SECOND + STEP));
    }
}

#[test]
fn rfc_5508_req_3_to_5_errors_that_belong_to_nothing() {
    let t = tracker(10);
    let out = udp((A, 5000), (SERVER, 53), b"01234567");
    let wire = translated(&out, &commit_with(&t, 0, &out, &snat()).unwrap());
    // REQ-3a: a wrong checksum.
    let mut error = icmp(SERVER, PUBLIC_A, 3, 3, 0, &wire[14..14 + 28]);
    assert!(track(&t, 0, &error).state.has(CtState::REL));
    let last = error.len() - 1;
    error[last] ^= 1;
    assert_eq!(state(track(&t, 0, &error)), "inv|trk");
    // REQ-3b: an error about an error.
    let inner = icmp(PUBLIC_A, SERVER, 3, 3, 0, &wire[14..14 + 28]);
    let about = icmp(SERVER, PUBLIC_A, 3, 3, 0, &inner[14..14 + 28]);
    assert_eq!(state(track(&t, 0, &about)), "inv|trk");
    // REQ-4a, REQ-5a: about a packet that was never sent; it makes no connection either.
    let never = udp((PUBLIC_A, 5001), (SERVER, 53), b"01234567");
    let stray = icmp(SERVER, PUBLIC_A, 3, 3, 0, &never[14..14 + 28]);
    assert_eq!(state(track(&t, 0, &stray)), "inv|trk");
    assert_eq!(state(commit_with(&t, 0, &stray, &snat()).unwrap()), "inv|trk");
    assert_eq!(t.len(), 1);
}

#[test]
fn rfc_5508_req_11_other_types_are_not_tracked() {
    let t = tracker(10);
    for ty in (0..=255u8).filter(|t| !matches!(t, 0 | 3 | 4 | 5 | 8 | 11..=18)) {
        let frame = icmp(A, SERVER, ty, 0, 0, b"01234567");
        assert_eq!(state(commit_with(&t, 0, &frame, &snat()).unwrap()), "inv|trk", "type {ty}");
    }
    assert!(t.is_empty());
}
