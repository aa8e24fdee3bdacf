//! Masks in the cases that Open vSwitch documents in its classifier tests: never wider there,
//! and the conjunctive matches of the same place.

mod common;

use classifier::{Conjunction, RuleTable};
use common::{TestRule, matching, prefix};
use flow::{Field, FlowKey};
use std::net::Ipv4Addr;
use std::sync::Arc;

const TCP: [(Field, u128, u128); 2] = [(Field::EthType, 0x800, 0xffff), (Field::NwProto, 6, 0xff)];

fn ip(s: &str) -> u128 {
    u128::from(u32::from(s.parse::<Ipv4Addr>().expect("an address")))
}

fn net(f: Field, s: &str, len: u32) -> (Field, u128, u128) {
    (f, ip(s), prefix(len, 32))
}

fn add(t: &mut RuleTable<TestRule>, id: u64, priority: u16, fields: &[(Field, u128, u128)]) {
    add_conj(t, id, priority, fields, &[]);
}

fn add_conj(
    t: &mut RuleTable<TestRule>,
    id: u64,
    priority: u16,
    fields: &[(Field, u128, u128)],
    conj: &[(u32, u8, u8)],
) {
    let conj = conj.iter().map(|&(id, k, n)| Conjunction { id, clause: k - 1, clauses: n });
    let rule = TestRule { id, matches: matching(fields), priority, conj: conj.collect() };
    assert!(t.insert(Arc::new(rule)).is_none());
}

fn packet(port: u128, src: &str, dst: &str, tp: (u128, u128)) -> FlowKey {
    let mut k = FlowKey::ZERO;
    for (f, v) in [
        (Field::InPort, port),
        (Field::EthSrc, 0x5054_0000_0005),
        (Field::EthDst, 0x5054_0000_0007),
        (Field::EthType, 0x800),
        (Field::NwSrc, ip(src)),
        (Field::NwDst, ip(dst)),
        (Field::NwProto, 6),
        (Field::NwTtl, 128),
        (Field::TpSrc, tp.0),
        (Field::TpDst, tp.1),
    ] {
        k.set(f, v);
    }
    k
}

/// The rule's id, and the mask's bits in the fields given; no other field may be looked at.
#[track_caller]
fn check(t: &RuleTable<TestRule>, key: &FlowKey, id: u64, at_most: &[(Field, u128)]) {
    let mut wc = FlowKey::ZERO;
    let rule = t.lookup(key, &mut wc);
    assert_eq!(rule.map(|r| r.id), Some(id));
    for f in Field::ALL {
        let most = at_most.iter().find(|(g, _)| g == f).map_or(0, |(_, m)| *m);
        let seen = wc.get(*f);
        assert!(seen.count_ones() <= most.count_ones(), "{}: {seen:#x}", f.name());
    }
}

const PORT: (Field, u128) = (Field::InPort, u32::MAX as u128);
const IP: (Field, u128) = (Field::EthType, 0xffff);
const PROTO: (Field, u128) = (Field::NwProto, 0xff);

fn with(port: u128, fields: &[(Field, u128, u128)]) -> Vec<(Field, u128, u128)> {
    let mut all = vec![(Field::InPort, port, u128::from(u32::MAX))];
    all.extend_from_slice(fields);
    all
}

fn tcp(port: u128, fields: &[(Field, u128, u128)]) -> Vec<(Field, u128, u128)> {
    let mut all = with(port, &TCP);
    all.extend_from_slice(fields);
    all
}

#[test]
fn lookup_segmentation() {
    let mut t = RuleTable::new();
    let dst80 = (Field::TpDst, 80, 0xffff);
    add(&mut t, 3, 16, &tcp(1, &[net(Field::NwDst, "10.1.0.0", 16)]));
    add(&mut t, 2, 32, &tcp(1, &[net(Field::NwDst, "10.1.2.15", 32)]));
    add(&mut t, 9, 33, &tcp(1, &[net(Field::NwDst, "10.1.2.15", 32), dst80]));
    add(&mut t, 10, 0, &with(1, &TCP[..1]));
    add(&mut t, 1, 16, &tcp(2, &[net(Field::NwDst, "192.168.0.0", 16)]));
    add(&mut t, 11, 0, &with(2, &TCP[..1]));
    add(&mut t, 12, 16, &tcp(3, &[net(Field::NwSrc, "10.1.0.0", 16)]));
    add(&mut t, 13, 0, &with(3, &TCP[..1]));

    let slash16 = (Field::NwDst, prefix(16, 32));
    let exact = (Field::NwDst, prefix(32, 32));
    let k = packet(2, "192.168.0.1", "192.168.0.2", (8, 80));
    check(&t, &k, 1, &[PORT, IP, PROTO, slash16]);
    let k = packet(1, "192.168.0.1", "10.1.2.15", (8, 80));
    check(&t, &k, 9, &[PORT, IP, PROTO, exact, (Field::TpDst, 0xffff)]);
    let k = packet(1, "192.168.0.1", "10.1.2.15", (8, 79));
    check(&t, &k, 2, &[PORT, IP, PROTO, exact, (Field::TpDst, 1)]);
    // With prefix tracking, as Open vSwitch has it by default, the first 8 bits tell this one.
    let k = packet(1, "192.168.0.1", "11.1.2.15", (8, 80));
    check(&t, &k, 10, &[PORT, IP, (Field::NwDst, prefix(8, 32))]);
    // A port with other rules does not look at what only this port's rules ask.
    let k = packet(3, "11.0.0.1", "10.1.2.15", (8, 80));
    check(&t, &k, 13, &[PORT, IP, (Field::NwSrc, 1), exact]);
}

#[test]
fn prefix_lookup() {
    let mut t = RuleTable::new();
    let host = net(Field::NwDst, "10.1.2.15", 32);
    let tp_dst = |p| (Field::TpDst, p, 0xffff);
    add(&mut t, 3, 16, &tcp(1, &[net(Field::NwDst, "10.1.0.0", 16)]));
    let net24 = net(Field::NwDst, "10.1.2.0", 24);
    add(&mut t, 2, 32, &tcp(1, &[net24, (Field::TpSrc, 79, 0xffff)]));
    add(&mut t, 9, 33, &tcp(1, &[host, tp_dst(80)]));
    add(&mut t, 4, 33, &tcp(1, &[host, tp_dst(8080)]));
    add(&mut t, 5, 33, &tcp(1, &[host, tp_dst(192)]));
    add(&mut t, 10, 0, &with(1, &TCP[..1]));
    add(&mut t, 1, 16, &tcp(2, &[net(Field::NwDst, "192.168.0.0", 16)]));
    add(&mut t, 11, 0, &with(2, &TCP[..1]));
    add(&mut t, 12, 16, &tcp(3, &[net(Field::NwSrc, "10.1.0.0", 16)]));
    add(&mut t, 13, 0, &with(3, &TCP[..1]));

    let slash16 = (Field::NwDst, prefix(16, 32));
    let exact = (Field::NwDst, prefix(32, 32));
    let k = packet(1, "192.168.0.1", "192.168.0.2", (8, 80));
    check(&t, &k, 10, &[PORT, IP, PROTO, slash16]);
    let k = packet(2, "192.168.0.1", "192.168.0.2", (8, 80));
    check(&t, &k, 1, &[PORT, IP, PROTO, slash16]);
    let k = packet(1, "192.168.0.1", "10.1.2.15", (8, 80));
    check(&t, &k, 9, &[PORT, IP, PROTO, exact, (Field::TpDst, 0xffff)]);
    let k = packet(1, "192.168.0.1", "10.1.2.15", (8, 79));
    let ports = [(Field::TpSrc, 1), (Field::TpDst, 0xfff0)];
    check(&t, &k, 3, &[PORT, IP, PROTO, exact, ports[0], ports[1]]);
}

#[test]
fn higher_priority_shadows_what_is_below() {
    let mut t = RuleTable::new();
    add(&mut t, 1, 100, &with(1, &[]));
    let exact = |f: Field, v| (f, v, f.full());
    add(&mut t, 2, 50, &[exact(Field::EthSrc, 7), exact(Field::NwDst, 9), exact(Field::TpDst, 1)]);
    add(&mut t, 3, 0, &[]);
    check(&t, &packet(1, "1.1.1.1", "2.2.2.2", (1, 1)), 1, &[PORT]);
    // On another port one differing field of the single rule below is enough.
    check(&t, &packet(2, "1.1.1.1", "2.2.2.2", (1, 1)), 3, &[PORT, (Field::EthSrc, (1 << 48) - 1)]);
    // Nothing at all is looked at when the top rule matches everything.
    add(&mut t, 4, 200, &[]);
    check(&t, &packet(1, "1.1.1.1", "2.2.2.2", (1, 1)), 4, &[]);
}

#[test]
fn ipv6_prefixes_leave_far_addresses_wild() {
    let mut t = RuleTable::new();
    let host = |n: u128| (Field::Ipv6Dst, 0x2001_0db8u128 << 96 | n, u128::MAX);
    for n in 1..50 {
        add(&mut t, n as u64, 10, &[(Field::EthType, 0x86dd, 0xffff), host(n)]);
    }
    add(&mut t, 99, 0, &[]);
    let mut k = FlowKey::ZERO;
    k.set(Field::EthType, 0x86dd);
    k.set(Field::Ipv6Dst, 0xfe80u128 << 112 | 1);
    check(&t, &k, 99, &[IP, (Field::Ipv6Dst, prefix(1, 128))]);
    k.set(Field::Ipv6Dst, 0x2001_0db8u128 << 96 | 20);
    check(&t, &k, 20, &[IP, (Field::Ipv6Dst, u128::MAX)]);
}

fn out(t: &RuleTable<TestRule>, key: &FlowKey) -> Option<u64> {
    t.lookup(key, &mut FlowKey::ZERO.clone()).map(|r| r.id)
}

fn conj_id(t: &mut RuleTable<TestRule>, id: u64, conj: u128) {
    add(t, id, 32768, &[(Field::ConjId, conj, u128::from(u32::MAX))]);
}

fn is_ip(fields: &[(Field, u128, u128)]) -> Vec<(Field, u128, u128)> {
    TCP[..1].iter().chain(fields).copied().collect()
}

#[test]
fn single_conjunctive_match() {
    let mut t = RuleTable::new();
    conj_id(&mut t, 3, 1);
    let host = |f, n: u32| net(f, &format!("10.0.0.{n}"), 32);
    let (src, dst) = (Field::NwSrc, Field::NwDst);
    for (i, n) in [1, 4, 6, 7].into_iter().enumerate() {
        add_conj(&mut t, 100 + i as u64, 100, &is_ip(&[host(src, n)]), &[(1, 1, 2)]);
    }
    for (i, n) in [2, 5, 7, 8].into_iter().enumerate() {
        add_conj(&mut t, 200 + i as u64, 100, &is_ip(&[host(dst, n)]), &[(1, 2, 2)]);
    }
    add(&mut t, 4, 100, &is_ip(&[host(src, 1), host(dst, 4)]));
    add(&mut t, 5, 100, &is_ip(&[host(src, 3), host(dst, 5)]));
    add(&mut t, 2, 0, &[]);
    for s in 0..8 {
        for d in 0..8 {
            let want = match (s, d) {
                (1, 4) => 4,
                (3, 5) => 5,
                (1 | 4 | 6 | 7, 2 | 5 | 7 | 8) => 3,
                _ => 2,
            };
            let k = packet(1, &format!("10.0.0.{s}"), &format!("10.0.0.{d}"), (0, 0));
            assert_eq!(out(&t, &k), Some(want), "{s} to {d}");
        }
    }
}

#[test]
fn multiple_conjunctive_match() {
    let mut t = RuleTable::new();
    (1..=3).for_each(|n| conj_id(&mut t, n as u64, n));
    let mut id = 100;
    let mut clause = |fields: &[(Field, u128, u128)], conj: &[(u32, u8, u8)]| {
        id += 1;
        add_conj(&mut t, id, 5, fields, conj);
    };
    let nets =
        [("20.0.0.0", 8), ("10.1.0.0", 16), ("10.2.0.0", 16), ("10.1.3.0", 24), ("10.1.4.5", 32)];
    for (i, (a, len)) in nets.into_iter().enumerate() {
        let second = if i % 2 == 1 { (3, 2, 3) } else { (2, 1, 2) };
        clause(&is_ip(&[net(Field::NwSrc, a, len)]), &[(1, 1, 2), second]);
        clause(&is_ip(&[net(Field::NwDst, a, len)]), &[(1, 2, 2)]);
    }
    for (a, len) in [("30.0.0.0", 8), ("40.5.0.0", 16)] {
        clause(&is_ip(&[net(Field::NwDst, a, len)]), &[(2, 2, 2), (3, 1, 3)]);
    }
    for port in [80, 443] {
        for f in [Field::TpDst, Field::TpSrc] {
            let fields: Vec<_> = TCP.into_iter().chain([(f, port, 0xffff)]).collect();
            clause(&fields, &[(3, 3, 3)]);
        }
    }
    add(&mut t, 4, 0, &[]);
    let src = ["20.0.0.1", "10.1.0.1", "10.2.0.1", "10.1.3.1", "10.1.4.5", "1.2.3.4"];
    let dst = ["30.0.0.1", "40.5.0.1", "1.2.3.4"];
    let dst: Vec<_> = src[..5].iter().chain(&dst).collect();
    for (a, s) in src.iter().enumerate() {
        for (b, d) in dst.iter().enumerate() {
            for c in [80, 443, 8080] {
                for e in [80, 443, 8080] {
                    let want = match (a + 1, b + 1) {
                        (1..=5, 1..=5) => 1,
                        (1 | 3 | 5, 6 | 7) => 2,
                        (2 | 4, 6 | 7) if c != 8080 || e != 8080 => 3,
                        _ => 4,
                    };
                    let k = packet(5, s, d, (c, e));
                    assert_eq!(out(&t, &k), Some(want), "{s} {d} {c} {e}");
                }
            }
        }
    }
}

#[test]
fn conjunctive_match_falls_back_to_lower_priorities() {
    let mut t = RuleTable::new();
    conj_id(&mut t, 1, 1);
    conj_id(&mut t, 3, 3);
    let host = |f, n: u32| net(f, &format!("10.0.0.{n}"), 32);
    let (src, dst) = (Field::NwSrc, Field::NwDst);
    let mut id = 100;
    for (priority, conj, srcs, dsts) in [(5, 1, [1, 2], [1, 2, 3]), (3, 3, [1, 3], [2, 3, 4])] {
        for n in srcs {
            id += 1;
            add_conj(&mut t, id, priority, &is_ip(&[host(src, n)]), &[(conj, 1, 2)]);
        }
        for n in dsts {
            id += 1;
            add_conj(&mut t, id, priority, &is_ip(&[host(dst, n)]), &[(conj, 2, 2)]);
        }
    }
    add(&mut t, 2, 4, &is_ip(&[host(src, 3), host(dst, 2)]));
    add(&mut t, 4, 2, &is_ip(&[host(dst, 1)]));
    add(&mut t, 5, 1, &is_ip(&[host(src, 1), host(dst, 5)]));
    add(&mut t, 6, 0, &[]);
    for s in 0..4 {
        for d in 0..6 {
            let want = match (s, d) {
                (1 | 2, 1..=3) => 1,
                (3, 2) => 2,
                (1 | 3, 2..=4) => 3,
                (_, 1) => 4,
                (1, 5) => 5,
                _ => 6,
            };
            let k = packet(7, &format!("10.0.0.{s}"), &format!("10.0.0.{d}"), (0, 0));
            assert_eq!(out(&t, &k), Some(want), "{s} to {d}");
        }
    }
}
