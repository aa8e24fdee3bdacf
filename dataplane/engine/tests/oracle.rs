//! The whole path against a naive switch: no caches, no masks, no translation.
//!
//! The oracle searches its rules from first to last, and does each action at once on the bytes of the
//! frame, with checksums made anew. Generated tables and packets go through it and through a worker,
//! with changes of the tables in between: the same frames must leave by the same ports, and every flow
//! must have counted the same packets and bytes. There are two bridges, which a patch port joins; both
//! learn addresses for `NORMAL` and flows by `learn`.

#[path = "oracle/naive.rs"]
mod naive;
#[path = "oracle/packet.rs"]
mod packet;
#[path = "oracle/rig.rs"]
mod rig;

use naive::Naive;
use ofproto::flowmod::Command;
use ofproto::text::{NoNames, parse_flow, parse_group};
use proptest::prelude::*;
use rig::{ALL_PORTS, DATAPATH_PORTS, PATCH, PORTS, Rig};

/// A header that packets and matches are made of; few values, so that they meet.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let tags = prop::collection::vec((0u16..4, 0u16..8), 0..3);
    (0u8..3, 0u8..3, tags, 0u8..11, (0u8..4, 0u8..4, 1u16..4, 1u16..4), 0u8..4, 0usize..60)
        .prop_map(|(src, dst, tags, kind, (a, b, sport, dport), ttl, pad)| {
            let mut f = vec![2, 0, 0, 0, 0, dst, 2, 0, 0, 0, 1, src];
            for (i, (vid, pcp)) in tags.iter().enumerate() {
                let tpid: u16 = if i == 0 && tags.len() == 2 { 0x88a8 } else { 0x8100 };
                f.extend(tpid.to_be_bytes());
                f.extend((pcp << 13 | vid).to_be_bytes());
            }
            let payload = vec![0x5a; pad];
            match kind {
                0 => {
                    f.extend([0x08, 0x06]);
                    f.extend([0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 1, src, 10, 0, 0, a]);
                    f.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, b]);
                }
                5 => {
                    f.extend([0x12, 0x34]);
                    f.extend(&payload);
                }
                6.. => {
                    f.extend([0x86, 0xdd]);
                    packet6(&mut f, kind, src, (a, b, sport, dport), ttl, &payload);
                }
                _ => {
                    f.extend([0x08, 0x00]);
                    let proto = [0, 6, 17, 1, 17][usize::from(kind)];
                    let ports = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
                    let l4 = match proto {
                        6 => [&ports[..], &[0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0, 0, 0, 0, 0]]
                            .concat(),
                        17 => {
                            let len = (8 + payload.len() as u16).to_be_bytes();
                            [&ports[..], &len, &[0, 0]].concat()
                        }
                        _ => vec![8, 0, 0, 0, 0, 1, 0, 1],
                    };
                    let total = (20 + l4.len() + payload.len()) as u16;
                    let start = f.len();
                    f.extend([0x45, 0]);
                    f.extend(total.to_be_bytes());
                    f.extend([0, 0, 0, 0, ttl, proto, 0, 0, 10, 0, 0, a, 10, 0, 0, b]);
                    f.extend(l4);
                    f.extend(payload);
                    packet::fix_checksums(&mut f, start, kind != 4);
                }
            }
            f
        })
}

/// An IPv6 packet of TCP (6), UDP (7), an ICMPv6 echo (8) or a neighbour solicitation.
fn packet6(
    f: &mut Vec<u8>,
    kind: u8,
    src: u8,
    (a, b, sport, dport): (u8, u8, u16, u16),
    ttl: u8,
    payload: &[u8],
) {
    let ports = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    let address = |n: u8| [&[0xfd][..], &[0; 14], &[n]].concat();
    let (proto, l4) = match kind {
        6 => (6, [&ports[..], &[0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0, 0, 0, 0, 0]].concat()),
        7 => (17, [&ports[..], &(8 + payload.len() as u16).to_be_bytes(), &[0, 0]].concat()),
        8 => (58, vec![128, 0, 0, 0, 0, 1, 0, 1]),
        _ => {
            let option = [1, 1, 2, 0, 0, 0, 1, src];
            (58, [&[135, 0, 0, 0, 0, 0, 0, 0][..], &address(b), &option].concat())
        }
    };
    // What follows the first option of a solicitation would have to be options.
    let payload = if l4.len() == 32 { &[] } else { payload };
    let start = f.len();
    let class = ttl.wrapping_mul(0x41); // of both of its parts
    f.extend([0x60 | class >> 4, class << 4, 0, dport as u8]);
    f.extend(((l4.len() + payload.len()) as u16).to_be_bytes());
    f.extend([proto, ttl]);
    f.extend([address(a), address(b), l4, payload.to_vec()].concat());
    packet::fix_checksums(f, start, true);
}

/// Matches on IPv6 packets.
fn matches6() -> impl Strategy<Value = String> {
    let kind = prop_oneof![Just("ipv6"), Just("tcp6"), Just("udp6"), Just("icmp6")];
    prop_oneof![
        2 => kind.prop_map(|t| format!("{t},")),
        2 => (0u8..4, 125u8..=128).prop_map(|(a, n)| format!("ipv6,ipv6_src=fd00::{a}/{n},")),
        2 => (0u8..4).prop_map(|a| format!("ipv6,ipv6_dst=fd00::{a},")),
        1 => (0u8..4).prop_map(|l| format!("ipv6,ipv6_label={l},")),
        1 => (0u8..4).prop_map(|t| format!("ipv6,nw_ttl={t},")),
        1 => (0u8..4).prop_map(|t| format!("ipv6,nw_tos={},", t << 6)),
        1 => (0u8..4).prop_map(|e| format!("ipv6,nw_ecn={e},")),
        2 => (1u16..4, prop::bool::ANY).prop_map(|(p, tcp)| {
            format!("{},tp_src={p},", if tcp { "tcp6" } else { "udp6" })
        }),
        1 => (128u8..130).prop_map(|t| format!("icmp6,icmp_type={t},")),
        1 => (0u8..4).prop_map(|a| {
            format!("icmp6,icmp_type=135,icmp_code=0,nd_target=fd00::{a},")
        }),
        1 => (0u8..3).prop_map(|m| {
            format!("icmp6,icmp_type=135,icmp_code=0,nd_sll=02:00:00:00:01:0{m},")
        }),
    ]
}

/// What may be done on IPv6 packets; `matches` says which these are.
fn action6(matches: &str) -> BoxedStrategy<String> {
    let any = prop_oneof![
        2 => (0u8..4).prop_map(|a| format!("set_field:fd00::{a}->ipv6_src")),
        1 => (0u8..4).prop_map(|a| format!("set_field:::{a}/::3->ipv6_dst")),
        1 => Just("move:NXM_NX_IPV6_SRC[]->NXM_NX_IPV6_DST[]".to_owned()),
        1 => Just("move:NXM_NX_IPV6_DST[0..7]->NXM_NX_REG0[0..7]".to_owned()),
        1 => (0u8..4).prop_map(|l| format!("set_field:{l}->ipv6_label")),
    ]
    .boxed();
    let more = if matches.contains("135") {
        prop_oneof![
            (0u8..4).prop_map(|a| format!("set_field:fd00::{a}->nd_target")),
            (0u8..3).prop_map(|m| format!("set_field:02:00:00:00:01:0{m}->nd_sll")),
        ]
        .boxed()
    } else if matches.starts_with("icmp6") {
        (128u8..130).prop_map(|t| format!("set_field:{t}->icmpv6_type")).boxed()
    } else {
        any.clone()
    };
    prop_oneof![2 => any, 1 => more, 1 => action_ip()].boxed()
}

/// What may be done on IP packets of either version.
fn action_ip() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("dec_ttl".to_owned()),
        (0u8..4).prop_map(|t| format!("mod_nw_ttl:{t}")),
        (0u8..4).prop_map(|e| format!("set_field:{e}->nw_ecn")),
        (0u8..4).prop_map(|d| format!("set_field:{d}->ip_dscp")),
    ]
}

/// A match, and what may be done on its packets.
fn matches_and_actions(table: u8) -> impl Strategy<Value = (String, Vec<String>)> {
    prop_oneof![3 => matches().boxed(), 1 => matches6().boxed()].prop_flat_map(move |m| {
        let is6 = ["ipv6", "tcp6", "udp6", "icmp6"].iter().any(|t| m.starts_with(t));
        let is4 = ["ip,", "tcp,", "udp,", "icmp,"].iter().any(|t| m.starts_with(t));
        let one = if is6 {
            prop_oneof![2 => action(table).boxed(), 1 => action6(&m)].boxed()
        } else if is4 {
            let learn = Just(LEARN_IP.to_owned());
            prop_oneof![10 => action(table).boxed(), 2 => action_ip().boxed(), 1 => learn].boxed()
        } else {
            action(table).boxed()
        };
        (Just(m), prop::collection::vec(one, 0..5))
    })
}

fn matches() -> impl Strategy<Value = String> {
    let ip = prop_oneof![Just("ip"), Just("tcp"), Just("udp"), Just("icmp")];
    prop_oneof![
        2 => Just(String::new()),
        2 => (1..=ALL_PORTS[0]).prop_map(|p| format!("in_port={p},")),
        1 => (0u8..3).prop_map(|m| format!("dl_dst=02:00:00:00:00:0{m},")),
        1 => (0u8..3).prop_map(|m| format!("dl_src=00:00:00:00:00:0{m}/00:00:00:00:00:03,")),
        1 => (0u16..4).prop_map(|v| format!("dl_vlan={v},")),
        1 => Just("vlan_tci=0x1000/0x1000,".to_owned()),
        1 => Just("vlan_tci=0,".to_owned()),
        1 => (0u8..8).prop_map(|p| format!("dl_vlan_pcp={p},")),
        1 => (0u8..4).prop_map(|a| format!("arp,arp_spa=10.0.0.{a},")),
        2 => ip.prop_map(|t| format!("{t},")),
        2 => (0u8..4, 29u8..=32).prop_map(|(a, n)| format!("ip,nw_src=10.0.0.{a}/{n},")),
        1 => (0u8..4).prop_map(|a| format!("ip,nw_dst=10.0.0.{a},")),
        1 => (0u8..4).prop_map(|t| format!("ip,nw_ttl={t},")),
        2 => (1u16..4, prop::bool::ANY).prop_map(|(p, tcp)| {
            format!("{},tp_src={p},", if tcp { "tcp" } else { "udp" })
        }),
        1 => (0u16..4).prop_map(|p| format!("udp,tp_dst={p}/0x2,")),
        1 => Just("tcp,tcp_flags=+ack,".to_owned()),
        2 => (0u8..3).prop_map(|r| format!("reg0={r},")),
        1 => (0u8..2).prop_map(|r| format!("metadata={r}/1,")),
    ]
}

/// Where learned flows are.
const LEARNED: u8 = 5;

/// Flows that are learned, each of a priority of its own; what they do follows from what they match, so
/// that it does not matter which packet made one first.
const LEARN: [&str; 3] = [
    "learn(table=5,priority=101,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],\
     load:NXM_OF_ETH_SRC[0..7]->NXM_NX_REG0[0..7])",
    "learn(table=5,priority=102,NXM_NX_REG1[],output:NXM_NX_REG1[])",
    "learn(table=5,priority=103,NXM_OF_VLAN_TCI[0..11],\
     load:NXM_OF_VLAN_TCI[0..1]->NXM_NX_REG1[0..1])",
];

/// The same for IPv4 packets.
const LEARN_IP: &str = "learn(table=5,priority=104,eth_type=0x800,NXM_OF_IP_DST[]=NXM_OF_IP_SRC[],\
                        load:NXM_OF_IP_SRC[0..1]->NXM_OF_IP_DST[0..1])";

/// What may be done on packets of any kind, in `table`.
fn action(table: u8) -> impl Strategy<Value = String> {
    let plain = prop_oneof![
        5 => (1..=ALL_PORTS[0]).prop_map(|p| format!("output:{p}")),
        2 => Just(format!("output:{}", PATCH[0])),
        2 => Just("NORMAL".to_owned()),
        2 => prop::sample::select(&LEARN[..]).prop_map(str::to_owned),
        1 => Just(format!("resubmit(,{LEARNED})")),
        1 => Just("in_port".to_owned()),
        1 => Just("all".to_owned()),
        1 => Just("output:NXM_NX_REG1[]".to_owned()),
        2 => (0u16..4).prop_map(|v| format!("mod_vlan_vid:{v}")),
        1 => (0u8..8).prop_map(|p| format!("mod_vlan_pcp:{p}")),
        2 => Just("strip_vlan".to_owned()),
        1 => Just("push_vlan:0x8100".to_owned()),
        1 => Just("push_vlan:0x88a8".to_owned()),
        1 => (0u16..4).prop_map(|v| format!("set_field:{}->vlan_vid", 0x1000 | v)),
        1 => (0u16..4).prop_map(|v| format!("load:{}->NXM_OF_VLAN_TCI[]", (v & 1) << 12 | v)),
        1 => (0u8..3).prop_map(|m| format!("mod_dl_src:02:00:00:00:00:0{m}")),
        1 => (0u8..3).prop_map(|m| format!("mod_dl_dst:02:00:00:00:00:0{m}")),
        2 => (0u8..4).prop_map(|a| format!("mod_nw_src:10.0.0.{a}")),
        2 => (0u8..4).prop_map(|a| format!("mod_nw_dst:10.0.0.{a}")),
        1 => (0u8..4).prop_map(|t| format!("mod_nw_tos:{}", t * 4)),
        1 => (1u16..4).prop_map(|p| format!("mod_tp_src:{p}")),
        1 => (1u16..4).prop_map(|p| format!("mod_tp_dst:{p}")),
        1 => (0u8..3).prop_map(|v| format!("load:{v}->NXM_NX_REG0[]")),
        1 => (1..=PORTS).prop_map(|v| format!("load:{v}->NXM_NX_REG1[]")),
        1 => Just("move:NXM_NX_REG0[0..1]->NXM_NX_REG2[4..5]".to_owned()),
        1 => Just("move:NXM_OF_ETH_SRC[0..7]->NXM_NX_REG0[0..7]".to_owned()),
        1 => Just("move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]".to_owned()),
        1 => Just("set_field:2->in_port".to_owned()).boxed(),
        1 => Just("exit".to_owned()),
        2 => (1u32..7).prop_map(|g| format!("group:{g}")),
    ]
    .boxed();
    let further = move |t: u8| format!("resubmit(,{})", (table + 1 + t).min(4));
    prop_oneof![
        6 => plain.clone(),
        3 => (0u8..2).prop_map(further),
        1 => (1..=PORTS).prop_map(move |p| format!("resubmit({p},{})", (table + 1).min(4))),
        1 => prop::collection::vec(plain, 1..4).prop_map(|l| format!("clone({})", l.join(","))),
    ]
}

/// A flow of a priority of its own, so that no two rules compete as equals.
fn flow(priority: usize, tables: u8) -> impl Strategy<Value = String> {
    (0..tables).prop_flat_map(move |table| {
        let ends = prop_oneof![
            4 => Just(String::new()),
            1 => Just(",write_metadata:1/1".to_owned()),
            1 => (1..=PORTS).prop_map(|p| format!(",write_actions(output:{p})")),
            1 => (1..=4u8).prop_map(move |t| format!(",goto_table:{}", (table + t).min(4))),
        ];
        (matches_and_actions(table), ends).prop_map(move |((m, a), end)| {
            let a = a.join(",");
            let list = format!("{a}{end}");
            let list = list.trim_start_matches(',');
            let list = if list.is_empty() { "drop" } else { list };
            format!("table={table},priority={priority},{m}actions={list}")
        })
    })
}

#[derive(Clone, Debug)]
enum Step {
    Add(usize, String),
    Delete(usize, u8, usize),
    Packets(Vec<(u32, Vec<u8>)>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // The second bridge is there for what comes over the patch port: its tables are fewer.
    let bridge = || prop_oneof![2 => Just(0usize), 1 => Just(1)];
    let add = (bridge(), 1usize..40)
        .prop_flat_map(|(b, priority)| (Just(b), flow(priority, if b == 0 { 4 } else { 2 })))
        .prop_map(|(b, flow)| Step::Add(b, flow))
        .boxed();
    let delete = (bridge(), 0u8..4, 1usize..40).prop_map(|(b, t, p)| Step::Delete(b, t, p));
    let packet = (1..=DATAPATH_PORTS, frame());
    let packets = prop::collection::vec(packet, 1..24).prop_map(Step::Packets).boxed();
    let step = prop_oneof![4 => add.clone(), 1 => delete, 3 => packets.clone()];
    let first = prop::collection::vec(add, 4..16);
    (first, prop::collection::vec(step, 1..24), packets).prop_map(|(mut all, more, last)| {
        all.extend(more);
        all.push(last);
        all
    })
}

/// Groups 3 and 4 have dead buckets: there is no port 9.
const GROUPS: [&str; 6] = [
    "group_id=1,type=all,bucket=output:1,bucket=mod_vlan_vid:3,output:2",
    "group_id=2,type=indirect,bucket=mod_dl_dst:02:00:00:00:00:02,output:3",
    "group_id=3,type=ff,bucket=watch_port:9,output:1,bucket=watch_port:2,output:2",
    "group_id=4,type=select,bucket=output:1,bucket=watch_port:9,output:2,bucket=output:3",
    "group_id=5,type=select,bucket=weight:0,output:1,bucket=weight:5,mod_vlan_vid:1,output:2,\
     bucket=weight:3,output:3,bucket=weight:1,output:4",
    "group_id=6,type=select,bucket=watch_port:9,output:1",
];

fn compare(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut rig = Rig::new();
    let mut naive = Naive::new();
    for text in GROUPS {
        let read = parse_group(text, ofproto::group::GroupCommand::Add, &NoNames);
        let group = read.expect("a group").group;
        rig.group(group.clone());
        naive.groups.push(group);
    }
    for step in &steps {
        match step {
            Step::Add(bridge, text) => {
                // Not every combination is legal; the parser decides for both.
                let Ok(m) = parse_flow(text, Command::Add, &NoNames) else { continue };
                // Which of two rules of one priority wins is nobody's promise.
                if naive.has_rival(*bridge, &m) {
                    continue;
                }
                prop_assert!(rig.apply(*bridge, &m), "{text}");
                naive.add(*bridge, &m);
            }
            Step::Delete(bridge, table, priority) => {
                let Some(m) = naive.delete(*bridge, *table, *priority as u16) else { continue };
                prop_assert!(rig.apply(*bridge, &m));
            }
            Step::Packets(list) => {
                rig.publish();
                for (port, frame) in list {
                    let got = rig.pass(*port, frame);
                    // Packets that go round between the bridges are the switch's to cut; what it chose is
                    // not always to be seen.
                    let Some(want) = naive.pass(*port, frame, &got) else { return Ok(()) };
                    prop_assert_eq!(
                        &got,
                        &want,
                        "in_port {} {:02x?}\n{}",
                        port,
                        frame,
                        format!("{}\n{}", rig.drops(), rig.rules())
                    );
                }
                // Each time, as rules that are deleted later counted too.
                for (bridge, rule, packets, bytes) in rig.counters() {
                    let want = naive.counted(bridge, (rule.table, rule.priority), &rule.matches);
                    prop_assert_eq!(
                        Some((packets, bytes)),
                        want,
                        "bridge {} table {} priority {} {:?}\n{}",
                        bridge,
                        rule.table,
                        rule.priority,
                        rule.matches,
                        rig.rules()
                    );
                }
            }
        }
    }
    Ok(())
}

/// At least so many cases; more if the environment says so (`PROPTEST_CASES`).
fn config(cases: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig { cases: default.cases.max(cases), ..default }
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn the_fast_path_does_what_the_naive_switch_does(steps in steps()) {
        compare(steps)?;
    }
}

/// What is set in a solicitation before its type changes stands in it; what is set afterwards has no
/// place in it any more.
#[test]
fn neighbour_fields_go_by_the_type_of_their_moment() {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd];
    packet6(&mut frame, 9, 1, (1, 2, 0, 0), 64, &[]);
    let (sll, kind) = ("set_field:02:00:00:00:00:77->nd_sll", "set_field:128->icmpv6_type");
    for (first, second) in [(sll, kind), (kind, sll)] {
        let flow = format!(
            "table=0,priority=1,in_port=1,icmp6,icmp_type=135,icmp_code=0,\
             actions={first},{second},output:2,{sll},output:3"
        );
        let packets = vec![(1, frame.clone())];
        compare(vec![Step::Add(0, flow), Step::Packets(packets)]).unwrap_or_else(|e| panic!("{e}"));
    }
}
