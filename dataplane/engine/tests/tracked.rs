//! Connection tracking through the whole packet path, from memory ports: states by table, NAT both
//! ways, and what a change of rules does to established connections.

mod common;

use common::*;
use conntrack::Millis;

const SNAT: &str = "\
    table=0,in_port=1,ip,actions=ct(table=1,zone=1,nat)
    table=0,in_port=2,ip,actions=ct(table=2,zone=1,nat)
    table=1,ip,ct_state=+trk+new,actions=ct(commit,zone=1,nat(src=203.0.113.1)),2
    table=1,ip,ct_state=+trk+est,actions=2
    table=2,ip,ct_state=+trk+est+rpl,actions=1
    table=2,ip,ct_state=+trk+new,actions=drop";

#[test]
fn snat_out_and_back() {
    let mut rig = Rig::new(SNAT);
    let (inside, outside, public) = ([10, 0, 0, 1], [198, 51, 100, 7], [203, 0, 113, 1]);
    for _ in 0..3 {
        let out = rig.send(1, &udp(inside, outside, 5000, 53)).expect("leaves");
        assert_eq!((&out[26..30], &out[30..34]), (&public[..], &outside[..]));
        assert!(sound(&out), "{out:02x?}");
        let port = u16::from_be_bytes([out[34], out[35]]);
        assert_eq!(port, 5000, "a port that is free is kept");
        let back = rig.send(2, &udp(outside, public, 53, port)).expect("comes back");
        assert_eq!(back, udp(outside, inside, 53, 5000));
    }
    assert_eq!(rig.send(2, &udp([9, 9, 9, 9], public, 53, 5000)), None, "not asked for");
}

#[test]
fn two_hosts_with_one_port_never_share_a_tuple() {
    let mut rig = Rig::new(SNAT);
    let outside = [198, 51, 100, 7];
    let mut seen = std::collections::HashSet::new();
    for host in 1..50u8 {
        let out = rig.send(1, &udp([10, 0, 0, host], outside, 5000, 53)).expect("leaves");
        assert!(sound(&out));
        assert!(seen.insert(out[34..36].to_vec()), "tuple given twice");
        let port = u16::from_be_bytes([out[34], out[35]]);
        let back = rig.send(2, &udp(outside, [203, 0, 113, 1], 53, port)).expect("comes back");
        assert_eq!(back, udp(outside, [10, 0, 0, host], 53, 5000));
    }
}

#[test]
fn marks_end_connections() {
    let mut rig = Rig::new(
        "table=0,ip,actions=ct(table=1,zone=5)
         table=1,priority=20,ct_mark=0x1,ip,actions=drop
         table=1,priority=10,ct_state=+new+trk,ip,in_port=1,actions=ct(commit,zone=5),2
         table=1,priority=10,ct_state=+est+trk,ip,in_port=1,actions=2
         table=1,priority=10,ct_state=+est+trk,ip,in_port=2,actions=1",
    );
    let (a, b) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    assert!(rig.send(1, &udp(a, b, 1000, 2000)).is_some());
    assert!(rig.send(2, &udp(b, a, 2000, 1000)).is_some());
    assert!(rig.send(1, &udp(a, b, 1000, 2000)).is_some());
    // As a security group does when a rule goes: the next packet marks the connection.
    rig.add(
        "table=1,priority=15,ct_state=+est+trk,ip,in_port=1,\
         actions=ct(commit,zone=5,exec(set_field:0x1->ct_mark))",
    );
    assert_eq!(rig.send(1, &udp(a, b, 1000, 2000)), None);
    assert_eq!(rig.send(2, &udp(b, a, 2000, 1000)), None);
}

/// Packets of connections that are never answered are to be kept again and again: in one burst are those that
/// are kept already and others, also when all have gone meanwhile.
#[test]
fn what_is_kept_already_goes_with_what_is_not() {
    let mut rig = Rig::new(
        "table=0,ip,actions=ct(table=1,zone=5)
         table=1,ip,ct_state=+new,actions=ct(commit,zone=5),push_vlan:0x8100,set_field:4101->vlan_vid,2",
    );
    for round in 0..6u8 {
        if round == 4 {
            let all = (&Default::default(), Default::default());
            rig.shared.tracker.flush(Millis(0), all.0, all.1, usize::MAX);
            assert_eq!(rig.shared.tracker.len(), 0);
        }
        let hosts = 4 + 4 * (round % 4);
        let frame = |n: u8| udp([10, 0, 0, n % hosts], [9; 4], 1000 + u16::from(n % hosts), 53);
        for n in 0..32 {
            rig.ports[0].inject(&frame(n)[..]).unwrap();
        }
        rig.rounds();
        for n in 0..32 {
            let mut want = frame(n);
            want.splice(12..12, [0x81, 0, 0, 5]);
            assert_eq!(rig.ports[1].take().map(|f| f.bytes), Some(want), "round {round}, {n}");
        }
        assert_eq!(rig.shared.tracker.len(), usize::from(hosts));
    }
}

/// A burst of several connections and both families goes through two zones, the second of which
/// sees the packets as the first has translated them.
#[test]
fn a_burst_is_tracked_in_two_zones() {
    let mut rig = Rig::new(
        "table=0,in_port=1,ip,actions=ct(table=1,zone=1,nat)
         table=0,in_port=1,ipv6,actions=ct(table=1,zone=1,nat)
         table=1,ip,ct_state=+trk+new,actions=ct(commit,zone=1,nat(src=203.0.113.1)),ct(table=2,zone=2)
         table=1,ipv6,ct_state=+trk+new,actions=ct(commit,zone=1,nat(src=2001:db8::1)),ct(table=2,zone=2)
         table=1,ip,ct_state=+trk+est,actions=ct(table=2,zone=2)
         table=1,ipv6,ct_state=+trk+est,actions=ct(table=2,zone=2)
         table=2,ip,ct_state=+new,nw_src=203.0.113.1,actions=ct(commit,zone=2),2
         table=2,ipv6,ct_state=+new,ipv6_src=2001:db8::1,actions=ct(commit,zone=2),2
         table=2,ip,ct_state=+est,nw_src=203.0.113.1,actions=2
         table=2,ipv6,ct_state=+est,ipv6_src=2001:db8::1,actions=2
         table=0,in_port=2,ip,nw_dst=203.0.113.1,actions=ct(table=3,zone=2)
         table=0,in_port=2,ipv6,ipv6_dst=2001:db8::1,actions=ct(table=3,zone=2)
         table=3,ip,ct_state=+est+rpl,actions=ct(table=4,zone=1,nat)
         table=3,ipv6,ct_state=+est+rpl,actions=ct(table=4,zone=1,nat)
         table=4,ip,ct_state=+est+rpl+dnat,nw_dst=10.0.0.0/8,actions=1
         table=4,ipv6,ct_state=+est+rpl+dnat,ipv6_dst=fd00::/16,actions=1",
    );
    let (outside, public) = ([198, 51, 100, 7], [203, 0, 113, 1]);
    let (outside6, public6, inside6) = (9 << 100, 0x2001_0db8 << 96 | 1, 0xfd00 << 112);
    let frame = |host: u8, back: bool, translated: bool| {
        let (port, v6) = (4000 + u16::from(host), host.is_multiple_of(3));
        if v6 {
            let own = if translated { public6 } else { inside6 | u128::from(host) };
            return if back {
                udp6(outside6, own, 53, port)
            } else {
                udp6(own, outside6, port, 53)
            };
        }
        let own = if translated { public } else { [10, 0, 0, host] };
        if back { udp(outside, own, 53, port) } else { udp(own, outside, port, 53) }
    };
    for round in 0..4 {
        for back in [false, true] {
            let (from, to) = (usize::from(back), usize::from(!back));
            for host in 1..15 {
                rig.ports[from].inject(&frame(host, back, back)[..]).unwrap();
            }
            rig.rounds();
            let mut want: Vec<_> = (1..15).map(|host| frame(host, back, !back)).collect();
            let mut out: Vec<_> =
                std::iter::from_fn(|| rig.ports[to].take()).map(|f| f.bytes).collect();
            want.sort();
            out.sort();
            assert_eq!(out, want, "round {round}, back {back}");
        }
    }
    assert_eq!(rig.shared.tracker.len(), 28);
}

/// Packets of a flow leave in the order in which they came, however differently they are treated:
/// at once, tracked with others, looked up again one by one, or several of these.
#[test]
fn a_flow_keeps_its_order() {
    let mut rig = Rig::new(
        "table=0,dl_src=02:00:00:00:00:00,actions=2
         table=0,dl_src=02:00:00:00:00:01,ip,actions=ct(table=1,zone=1)
         table=0,dl_src=02:00:00:00:00:02,ip,actions=ct(table=2,zone=2)
         table=0,dl_src=02:00:00:00:00:03,ip,actions=mod_nw_tos:4,ct(table=1,zone=1)
         table=0,dl_src=02:00:00:00:00:04,ip,actions=ct(commit,table=2,zone=3)
         table=0,dl_src=02:00:00:00:00:05,ip,actions=ct(table=3,zone=4,nat)
         table=1,actions=2
         table=2,ip,actions=ct(table=1,zone=1)
         table=3,ip,ct_state=+new,actions=ct(commit,zone=4,nat(src=203.0.113.1)),ct(table=1,zone=5)
         table=3,ip,ct_state=+est,actions=ct(table=2,zone=6)",
    );
    let mut state = 1u64;
    let mut random = |n: u64| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) % n
    };
    for burst in 0..300 {
        let flows = 1 + burst % 5;
        for seq in 0..32u8 {
            let flow = random(flows) as u8;
            let mut f = udp_with([10, 0, 0, flow], [9; 4], 1000, 53, &[flow, seq]);
            f[11] = random(6) as u8;
            rig.ports[0].inject(&f[..]).unwrap();
        }
        rig.rounds();
        let out: Vec<_> = std::iter::from_fn(|| rig.ports[1].take()).map(|f| f.bytes).collect();
        assert_eq!(out.len(), 32, "burst {burst}");
        for flow in 0..flows as u8 {
            let seqs: Vec<u8> = out.iter().filter(|f| f[42] == flow).map(|f| f[43]).collect();
            assert!(seqs.is_sorted(), "burst {burst}, flow {flow}: {seqs:?}");
        }
    }
}

#[test]
fn what_expired_while_the_worker_slept_goes_before_it_sleeps_again() {
    let mut rig = Rig::new(SNAT);
    let hosts = 0..2000u16;
    for i in hosts.clone() {
        let inside = [10, 0, (i >> 8) as u8, i as u8];
        let frame = udp(inside, [198, 51, 100, 7], 5000, 53);
        rig.ports[0].inject(&frame[..]).unwrap();
        rig.worker.round_at(1000);
        assert!(rig.ports[1].take().is_some(), "{i}");
    }
    let tracker = &rig.shared.clone().tracker;
    assert_eq!(tracker.len(), hosts.len());
    // A packet a millisecond: one slice with each of them.
    rig.ports[0].inject(&udp([10, 9, 9, 9], [198, 51, 100, 7], 5000, 53)[..]).unwrap();
    rig.worker.round_at(1_000_000);
    let left = tracker.len();
    assert!((1500..2000).contains(&left), "{left}");
    // No time passes, and no packet comes.
    let mut rounds = 0;
    while tracker.len() > 1 && rounds < 1000 {
        rig.worker.round_at(1_000_000);
        rounds += 1;
    }
    assert_eq!(tracker.len(), 1, "only the last one lives");
    assert!(rounds > 10, "all went in {rounds} rounds");
}
