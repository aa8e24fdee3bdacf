//! Translation: what packets become, byte for byte, and that no tuple is given twice.

mod common;

use std::collections::HashSet;

use common::*;
use conntrack::nat::{AddressRange, BadNat, Choice, NatSpec, Side};
use conntrack::{Commit, ConnRef, Cursor, Event, Millis, Nat, Tracker};
use flow::Drop;
use proptest::prelude::*;

const IN: (Addr, u16) = (Addr::V4(0x0a00_0001), 40_000);
const OUT: (Addr, u16) = (Addr::V4(0x0808_0808), 53);
const PUB: &str = "203.0.113.1";
const PUB_A: Addr = Addr::V4(0xcb00_7101);
const IN6: (Addr, u16) = (Addr::V6(0xfd00 << 112 | 1), 40_000);
const OUT6: (Addr, u16) = (Addr::V6(0x2001_0db8 << 96 | 53), 53);
const PUB6: &str = "2001:db8::1";
const PUB6_A: Addr = Addr::V6(0x2001_0db8 << 96 | 1);

fn snat(address: &str) -> Commit {
    nat(Side::Src, address, address, None)
}
fn dnat(address: &str, port: Option<(u16, u16)>) -> Commit {
    nat(Side::Dst, address, address, port)
}

fn through(t: &Tracker, frame: &[u8], args: &Commit) -> Vec<u8> {
    let v = commit_with(t, 0, frame, args).unwrap();
    let out = translated(frame, &v);
    assert!(sums_are_right(&out));
    out
}

fn back(t: &Tracker, frame: &[u8], want: &str) -> Vec<u8> {
    let v = track(t, 0, frame);
    assert_eq!(state(v), want);
    let out = translated(frame, &v);
    assert!(sums_are_right(&out));
    out
}

#[test]
fn source_and_back() {
    for (inside, outside, address, a) in [(IN, OUT, PUB, PUB_A), (IN6, OUT6, PUB6, PUB6_A)] {
        let t = tracker(10);
        let (i, o, p) = (inside, outside, (a, 40_000));
        assert_eq!(through(&t, &udp(i, o, b"query"), &snat(address)), udp(p, o, b"query"));
        assert_eq!(back(&t, &udp(o, p, b"answer"), "est|rpl|trk|dnat"), udp(o, i, b"answer"));
        assert_eq!(back(&t, &udp(i, o, b"more"), "est|trk|snat"), udp(p, o, b"more"));
        let syn = Seg { flags: SYN, ..Seg::default() };
        assert_eq!(through(&t, &tcp(i, o, syn), &snat(address)), tcp(p, o, syn));
        let answer = Seg { flags: SYN | ACK, ack: 1, len: 3, ..Seg::default() };
        assert_eq!(back(&t, &tcp(o, p, answer), "est|rpl|trk|dnat"), tcp(o, i, answer));
        // Without `nat` in the action nothing is changed and no bit is set.
        let v = t.track(Millis(0), &input(1, &udp(o, p, b"")), false);
        assert_eq!((state(v).as_str(), v.nat.is_none()), ("est|rpl|trk", true));
    }
}

#[test]
fn destination_and_back() {
    for (inside, client, address, a) in
        [(IN, OUT, "10.0.0.1", PUB_A), (IN6, OUT6, "fd00::1", PUB6_A)]
    {
        let t = tracker(10);
        let args = dnat(address, Some((40_000, 40_000)));
        let (i, c, p) = (inside, client, (a, 80));
        assert_eq!(through(&t, &udp(c, p, b"in"), &args), udp(c, i, b"in"));
        assert_eq!(back(&t, &udp(i, c, b"out"), "est|rpl|trk|snat"), udp(p, c, b"out"));
    }
}

#[test]
fn queries_get_another_identifier_where_theirs_is_taken() {
    for (i, j, o, address, a, ask, answer) in [
        (IN.0, Addr::V4(host(2)), OUT.0, PUB, PUB_A, 8, 0),
        (IN6.0, Addr::V6(0xfd00 << 112 | 2), OUT6.0, PUB6, PUB6_A, 128, 129),
    ] {
        let t = tracker(10);
        let ping = |from| icmp(from, o, ask, 0, 7 << 16 | 1, b"ping");
        let first = through(&t, &ping(i), &snat(address));
        assert_eq!(first, icmp(a, o, ask, 0, 7 << 16 | 1, b"ping"));
        let second = through(&t, &ping(j), &snat(address));
        let at = usize::from(offsets(&second).l4) + 4;
        let id = u16::from_be_bytes([second[at], second[at + 1]]);
        assert_ne!(id, 7);
        assert_eq!(t.count(Event::PortChanged), 1);
        let word = u32::from(id) << 16 | 1;
        let pong = back(&t, &icmp(o, a, answer, 0, word, b"pong"), "est|rpl|trk|dnat");
        assert_eq!(pong, icmp(o, j, answer, 0, 7 << 16 | 1, b"pong"));
    }
}

#[test]
fn ports_are_kept_where_free_and_stay_in_their_class() {
    let t = tracker(1000);
    let mut given = HashSet::new();
    for n in 1..=100 {
        for port in [500u16, 800, 40_000] {
            let out = through(&t, &udp((Addr::V4(host(n)), port), OUT, b""), &snat(PUB));
            let at = usize::from(offsets(&out).l4);
            let got = u16::from_be_bytes([out[at], out[at + 1]]);
            assert!(given.insert(got), "{got} twice");
            assert_eq!(got == port, n == 1);
            assert_eq!((got < 512, got < 1024), (port < 512, port < 1024));
        }
    }
}

/// The bytes of a frame's IP packet, cut to IP header and `n` bytes.
fn quote(frame: &[u8], n: usize) -> Vec<u8> {
    let off = offsets(frame);
    frame[usize::from(off.l3)..(usize::from(off.l4) + n).min(frame.len())].to_vec()
}

#[test]
fn quoted_packets_are_translated() {
    type Build = fn((Addr, u16), (Addr, u16)) -> Vec<u8>;
    let of_udp: Build = |s, d| udp(s, d, b"0123456789abcdef");
    let of_tcp: Build = |s, d| tcp(s, d, Seg { flags: SYN, len: 7, ..Seg::default() });
    for (i, o, address, a, r, ty) in
        [(IN, OUT, PUB, PUB_A, Addr::V4(host(99)), 3), (IN6, OUT6, PUB6, PUB6_A, Addr::V6(99), 1)]
    {
        for build in [of_udp, of_tcp] {
            for n in [8, 12, 20, 24, 100] {
                let t = tracker(10);
                // Port 40,000 is somebody else's, so ports change too.
                through(
                    &t,
                    &build(
                        (
                            match a {
                                Addr::V4(_) => Addr::V4(host(50)),
                                _ => Addr::V6(50),
                            },
                            i.1,
                        ),
                        o,
                    ),
                    &snat(address),
                );
                let sent = build(i, o);
                let wire = through(&t, &sent, &snat(address));
                // From the other end, and from a router on the way.
                for from in [o.0, r] {
                    let error = icmp(from, a, ty, 1, 0, &quote(&wire, n));
                    let want = icmp(from, i.0, ty, 1, 0, &quote(&sent, n));
                    let got = back(&t, &error, "rel|rpl|trk|dnat");
                    assert_eq!(got, want, "{n} bytes of L4");
                }
                // The host inside about an answer.
                let wire_port = u16::from_be_bytes(
                    wire[usize::from(offsets(&wire).l4)..][..2].try_into().unwrap(),
                );
                let answer_wire = build(o, (a, wire_port));
                let answer = build(o, i);
                let error = icmp(i.0, o.0, ty, 3, 0, &quote(&answer, n));
                let want = icmp(a, o.0, ty, 3, 0, &quote(&answer_wire, n));
                assert_eq!(back(&t, &error, "rel|trk|snat"), want);
            }
        }
    }
}

#[test]
fn errors_about_a_translated_destination() {
    let t = tracker(10);
    let (client, public) = (OUT, (PUB_A, 80));
    let sent = udp(client, public, b"to the service");
    let wire = through(&t, &sent, &dnat("10.0.0.1", Some((8080, 8080))));
    assert_eq!(wire, udp(client, (IN.0, 8080), b"to the service"));
    let error = icmp(IN.0, client.0, 3, 3, 0, &quote(&wire, 8));
    let got = back(&t, &error, "rel|rpl|trk|snat");
    assert_eq!(got, icmp(PUB_A, client.0, 3, 3, 0, &quote(&sent, 8)));
}

#[test]
fn udp_without_checksum_stays_so() {
    let t = tracker(10);
    let mut f = udp(IN, OUT, b"none");
    let sum = usize::from(offsets(&f).l4) + 6;
    f[sum..sum + 2].fill(0);
    let v = commit_with(&t, 0, &f, &snat(PUB)).unwrap();
    let out = translated(&f, &v);
    assert_eq!(out[sum..sum + 2], [0, 0]);
    assert!(sums_are_right(&out));
}

#[test]
fn null_binding_changes_a_port_only_where_it_must() {
    let t = tracker(10);
    let null = |side| {
        let zero = AddressRange::new("0.0.0.0".parse().unwrap(), "0.0.0.0".parse().unwrap());
        let spec = NatSpec::new(side, Some(zero.unwrap()), None, Choice::Hash, false).unwrap();
        Commit { nat: Nat::New(spec), ..Commit::default() }
    };
    // A host outside has the address that others are translated to.
    through(&t, &udp(IN, OUT, b""), &snat(PUB));
    let own = udp((PUB_A, 40_000), OUT, b"own");
    let plain = commit_with(&t, 0, &own, &Commit::default());
    assert_eq!(plain, Err(Drop::NatExhausted), "answers could not be told apart");
    let out = through(&t, &own, &null(Side::Src));
    let at = usize::from(offsets(&out).l4);
    assert_ne!(out[at..at + 2], 40_000u16.to_be_bytes());
    let free = udp((PUB_A, 40_001), OUT, b"own");
    assert_eq!(through(&t, &free, &null(Side::Src)), free);
}

#[test]
fn a_translated_destination_gives_way_in_the_source_port() {
    let t = tracker(10);
    // Two public addresses lead to one service; a client uses the same port to both.
    let service = dnat("10.0.0.1", Some((80, 80)));
    let one = udp(OUT, (PUB_A, 80), b"");
    let two = udp(OUT, (Addr::V4(0xcb00_7102), 80), b"");
    assert_eq!(through(&t, &one, &service), udp(OUT, (IN.0, 80), b""));
    let out = through(&t, &two, &service);
    let at = usize::from(offsets(&out).l4);
    let port = u16::from_be_bytes([out[at], out[at + 1]]);
    assert_ne!(port, 53);
    let answer = udp((IN.0, 80), (OUT.0, port), b"a");
    let got = back(&t, &answer, "est|rpl|trk|snat|dnat");
    assert_eq!(got, udp((Addr::V4(0xcb00_7102), 80), OUT, b"a"));
}

#[test]
fn hairpin_through_two_zones() {
    // A host reaches a service in its own network by the public address: its destination is
    // translated in one zone, its source in another, so that answers come back the same way.
    let t = tracker(10);
    let client = IN;
    let service = (Addr::V4(host(2)), 80);
    let public = (PUB_A, 80);
    let go = |zone: u16, f: &[u8], args: &Commit| {
        let v = t.commit(Millis(0), &input(zone, f), ConnRef::NONE, args, &mut || 0).unwrap();
        translated(f, &v)
    };
    let back = |zone: u16, f: &[u8]| translated(f, &t.track(Millis(0), &input(zone, f), true));
    let f = go(1, &udp(client, public, b"q"), &dnat("10.0.0.2", None));
    let f = go(2, &f, &snat(PUB));
    assert_eq!(f, udp((PUB_A, client.1), service, b"q"));
    let a = back(2, &udp(service, (PUB_A, client.1), b"a"));
    assert_eq!(back(1, &a), udp(public, client, b"a"));
}

#[test]
fn exhaustion_drops_and_recovers() {
    let t = tracker(100);
    let args = nat(Side::Src, PUB, PUB, Some((100, 109)));
    let f = |n: u32| udp((Addr::V4(host(n)), 40_000), OUT, b"");
    for n in 0..10 {
        through(&t, &f(n), &args);
    }
    for n in 10..20 {
        assert_eq!(commit_with(&t, 0, &f(n), &args), Err(Drop::NatExhausted));
    }
    assert_eq!((t.len(), t.count(Event::Exhausted)), (10, 10));
    // To another destination the same ports are free.
    assert!(commit_with(&t, 0, &udp(IN, (OUT.0, 54), b""), &args).is_ok());
    // The others expire.
    assert!(commit_with(&t, 200_000, &f(11), &args).is_ok());
}

#[test]
fn another_family_and_bad_ranges_are_refused() {
    let t = tracker(10);
    let got = commit_with(&t, 0, &udp(IN6, OUT6, b""), &snat(PUB));
    assert_eq!((got, t.len()), (Err(Drop::Unsupported), 0));
    let (a, b) = ("10.0.0.2".parse().unwrap(), "10.0.0.1".parse().unwrap());
    let e = AddressRange::new(a, b).unwrap_err();
    assert_eq!(e.to_string(), "10.0.0.2-10.0.0.1: the range ends before it begins");
    assert!(AddressRange::new(a, "::1".parse().unwrap()).is_err());
    let ports = |p| NatSpec::new(Side::Src, None, Some(p), Choice::Hash, false);
    assert_eq!(ports((0, 5)), Err(BadNat::Ports(0, 5)));
    assert_eq!(ports((6, 5)), Err(BadNat::Ports(6, 5)));
}

#[test]
fn invalid_packets_pass_untranslated_and_never_commit() {
    let t = tracker(10);
    let mut f = udp(IN, OUT, b"damaged");
    *f.last_mut().unwrap() ^= 1;
    let v = commit_with(&t, 0, &f, &snat(PUB)).unwrap();
    assert_eq!((state(v).as_str(), v.nat.is_none(), t.len()), ("inv|trk", true, 0));
}

#[test]
fn persistent_choice_depends_on_the_source_alone() {
    let range = AddressRange::new(PUB.parse().unwrap(), "203.0.113.200".parse().unwrap());
    let address = |t: &Tracker, port, persistent| {
        let spec =
            NatSpec::new(Side::Src, Some(range.unwrap()), None, Choice::Hash, persistent).unwrap();
        let args = Commit { nat: Nat::New(spec), ..Commit::default() };
        let to = (Addr::V4(0x0101_0000 + u32::from(port)), 53);
        let out = through(t, &udp((IN.0, port), to, b""), &args);
        let l3 = usize::from(offsets(&out).l3);
        out[l3 + 12..l3 + 16].to_vec()
    };
    let t = tracker(1000);
    let same: HashSet<_> = (1000..1050).map(|p| address(&t, p, true)).collect();
    let spread: HashSet<_> = (2000..2050).map(|p| address(&t, p, false)).collect();
    assert_eq!(same.len(), 1);
    assert!(spread.len() > 20, "{}", spread.len());
}

/// All tuples of all connections, each direction's, must differ.
fn no_tuple_twice(t: &Tracker, now: u64) {
    let mut seen = HashSet::new();
    t.walk(Millis(now), Cursor::default(), usize::MAX, |c| {
        assert!(seen.insert(c.orig), "{:?} twice", c.orig);
        assert!(c.orig == c.reply || seen.insert(c.reply), "{:?} twice", c.reply);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]
    #[test]
    fn no_two_connections_share_a_tuple(
        flows in prop::collection::vec((0u32..6, 0u16..8, 0u32..3, 0u16..3, 0u8..6), 1..200),
    ) {
        let t = tracker(400);
        let random = nat(Side::Src, PUB, "203.0.113.2", Some((1000, 1010)));
        let kinds = [
            snat(PUB),
            nat(Side::Src, PUB, PUB, Some((1000, 1007))),
            random,
            dnat("10.0.0.3", Some((1000, 1002))),
            dnat("8.8.8.8", None),
            Commit::default(),
        ];
        for (i, (src, sport, dst, dport, kind)) in flows.iter().enumerate() {
            let from = (Addr::V4(host(*src)), 1000 + sport);
            let to = (Addr::V4(if *dst == 2 { 0xcb00_7101 } else { 0x0808_0808 + dst }), 1000 + dport);
            let f = udp(from, to, b"");
            let before = t.len();
            let result = commit_with(&t, i as u64, &f, &kinds[usize::from(*kind)]);
            match result {
                Ok(v) => {
                    // What goes out is found again by its answer, as the same connection.
                    let out = translated(&f, &v);
                    let l3 = usize::from(offsets(&out).l3);
                    let word = |at: usize| u32::from_be_bytes(out[at..at + 4].try_into().unwrap());
                    let l4 = usize::from(offsets(&out).l4);
                    let port = |at: usize| u16::from_be_bytes([out[at], out[at + 1]]);
                    let (s, d) = (
                        (Addr::V4(word(l3 + 12)), port(l4)),
                        (Addr::V4(word(l3 + 16)), port(l4 + 2)),
                    );
                    if t.len() > before {
                        let answer = udp(d, s, b"");
                        let r = track(&t, i as u64, &answer);
                        prop_assert_eq!(r.orig, v.orig);
                        let changed = translated(&answer, &r);
                        prop_assert_eq!(changed, udp(to, from, b""));
                    }
                }
                Err(_) => prop_assert_eq!(t.len(), before, "a failed commit leaves nothing"),
            }
        }
        no_tuple_twice(&t, flows.len() as u64);
    }
}

#[test]
fn two_workers_never_give_the_same_tuple() {
    for round in 0..20 {
        let t = tracker(4000);
        let args = nat(Side::Src, PUB, "203.0.113.2", Some((1000, 1299)));
        let given: Vec<HashSet<_>> = std::thread::scope(|s| {
            let workers: Vec<_> = (0..2u32)
                .map(|w| {
                    let (t, args) = (&t, &args);
                    s.spawn(move || {
                        let mut mine = HashSet::new();
                        for n in 0..400u32 {
                            // Half of the connections are begun by both workers at once.
                            let who = if n % 2 == 0 { n } else { n + 1000 * (w + 1) };
                            let f = udp((Addr::V4(host(who + round)), 5000), OUT, b"");
                            if let Ok(v) = commit_with(t, 0, &f, args) {
                                mine.insert((v.orig, v.nat.tuple()));
                            }
                        }
                        mine
                    })
                })
                .collect();
            workers.into_iter().map(|w| w.join().unwrap()).collect()
        });
        let all: HashSet<_> = given.iter().flatten().collect();
        let outside: HashSet<_> = all.iter().map(|(_, to)| to).collect();
        assert_eq!(all.len(), outside.len(), "two connections, one translated tuple");
        assert_eq!(t.len(), all.len());
        assert_eq!(all.len(), 600, "as many as there are tuples");
        no_tuple_twice(&t, 0);
    }
}
