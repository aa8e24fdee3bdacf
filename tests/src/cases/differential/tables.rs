//! Generated tables: flows that are legal for both switches, each with a priority and a cookie of
//! its own, as which of two equal flows wins is nobody's promise.

use super::random::Rng;

/// Tables that flows are made for.
const TABLES: u64 = 5;
/// The table of learned flows.
pub const LEARNED: u64 = 9;
/// Ports of the bridge.
pub const PORTS: u64 = 4;

/// What the flows of a set may do besides changing and sending packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flavour {
    /// Nothing.
    Plain,
    /// Forward by learned addresses, and learn flows.
    Learning,
    /// Track connections.
    Tracking,
}

/// Groups that flows may name.
pub const GROUPS: &[&str] = &[
    "group_id=1,type=all,bucket=output:1,bucket=push_vlan:0x8100,set_field:4099->vlan_vid,output:2",
    "group_id=2,type=indirect,bucket=set_field:02:00:00:00:00:02->eth_dst,output:3",
    "group_id=3,type=ff,bucket=watch_port:1,actions=output:1,bucket=watch_port:2,actions=output:2",
    "group_id=4,type=all,bucket=resubmit(,7),bucket=set_field:7->reg1,resubmit(,7)",
];

/// What the packets of a flow are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Any,
    Arp,
    /// IPv4 with this protocol, 0 for any.
    V4(u8),
    /// IPv6 with this protocol.
    V6(u8),
    /// A neighbour solicitation.
    Solicit,
}

/// Lines for `add-flows`: for OpenFlow 1.0, and for 1.5, which has what 1.0 cannot say.
pub fn flows(r: &mut Rng, flavour: Flavour, count: u64) -> (Vec<String>, Vec<String>) {
    // What group 4 goes on to.
    let mut old = vec!["table=7,priority=1,cookie=0x71,actions=strip_vlan,output:4".to_owned()];
    old.push("table=7,priority=2,cookie=0x72,reg1=7,actions=output:1,output:2".to_owned());
    let mut new = Vec::new();
    for i in 0..count {
        let table = if i < TABLES { i } else { r.below(TABLES) };
        let is_new = r.one_in(3);
        let kind = *r.pick(&[
            Kind::Any,
            Kind::Any,
            Kind::Arp,
            Kind::V4(0),
            Kind::V4(6),
            Kind::V4(17),
            Kind::V4(1),
            Kind::V6(0),
            Kind::V6(6),
            Kind::V6(17),
            Kind::V6(58),
            Kind::Solicit,
        ]);
        // The first of each table is for what no other takes.
        let (kind, matched) = match i < TABLES {
            true => (Kind::Any, String::new()),
            false => (kind, matches(r, kind, flavour)),
        };
        let done = actions(r, kind, table, is_new, flavour);
        let priority = i + 1;
        let line = format!(
            "table={table},priority={priority},cookie={:#x},{matched}actions={done}",
            0x1000 + i
        );
        if is_new { new.push(line) } else { old.push(line) }
    }
    (old, new)
}

fn matches(r: &mut Rng, kind: Kind, flavour: Flavour) -> String {
    let mut f: Vec<String> = Vec::new();
    let mut maybe = |r: &mut Rng, one_in: u64, make: &dyn Fn(&mut Rng) -> String| {
        if r.one_in(one_in) {
            f.push(make(r));
        }
    };
    maybe(r, 5, &|r| format!("in_port={}", 1 + r.below(PORTS)));
    maybe(r, 5, &|r| match r.below(5) {
        0 => "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00".into(),
        _ => format!("dl_dst=02:00:00:00:00:0{}", r.below(4)),
    });
    maybe(r, 8, &|r| format!("dl_src=00:00:00:00:00:0{}/00:00:00:00:00:03", r.below(3)));
    maybe(r, 5, &|r| match r.below(6) {
        0 => format!("dl_vlan={}", r.below(4)),
        1 => format!("dl_vlan={},dl_vlan_pcp={}", r.below(4), r.below(8)),
        2 => "vlan_tci=0x1000/0x1000".into(),
        3 => format!("dl_vlan_pcp={}", r.below(8)),
        4 => format!("vlan_tci=0x100{}/0x1001", r.below(2)),
        _ => "vlan_tci=0".into(),
    });
    maybe(r, 8, &|r| format!("reg{}={}", r.below(2), r.below(3)));
    maybe(r, 12, &|r| format!("metadata={}/1", r.below(2)));
    if flavour == Flavour::Tracking {
        maybe(r, 3, &|r| {
            r.pick(&["ct_state=-trk", "ct_state=+trk", "ct_state=+trk+new", "ct_state=+est"])
                .to_string()
        });
        maybe(r, 8, &|r| format!("ct_mark={}", r.below(2)));
        maybe(r, 8, &|r| format!("ct_zone={}", r.below(3)));
    }
    match kind {
        Kind::Any => {}
        Kind::Arp => {
            f.push("arp".into());
            let mut maybe = |text: String, r: &mut Rng| {
                if r.one_in(3) {
                    f.push(text)
                }
            };
            maybe(format!("arp_op={}", 1 + r.below(2)), r);
            maybe(format!("arp_spa=10.0.0.{}", r.below(4)), r);
            maybe(format!("arp_tpa=10.0.0.{}/31", r.below(2) * 2), r);
            maybe(format!("arp_sha=02:00:00:00:01:0{}", r.below(3)), r);
        }
        Kind::V4(proto) => {
            f.push(protocol(proto, false).into());
            if r.one_in(3) {
                f.push(format!("nw_src=10.0.0.{}/{}", r.below(4), 29 + r.below(4)));
            }
            if r.one_in(3) {
                f.push(format!("nw_dst=10.0.1.{}", r.below(4)));
            }
            network(r, proto, &mut f);
        }
        Kind::V6(proto) => {
            f.push(protocol(proto, true).into());
            if r.one_in(3) {
                f.push(format!("ipv6_src=fd00::1:0:0:0:{}/{}", r.below(4), 125 + r.below(4)));
            }
            if r.one_in(3) {
                f.push(format!("ipv6_dst=fd00::2:0:0:0:{}", r.below(4)));
            }
            if r.one_in(6) {
                f.push(format!("ipv6_label={}", r.below(3)));
            }
            network(r, proto, &mut f);
        }
        Kind::Solicit => {
            f.push("icmp6,icmp_type=135,icmp_code=0".into());
            if r.one_in(2) {
                f.push(format!("nd_target=fd00::3:0:0:0:{}", r.below(4)));
            }
            if r.one_in(3) {
                f.push(format!("nd_sll=02:00:00:00:01:0{}", r.below(3)));
            }
        }
    }
    if f.is_empty() { String::new() } else { f.join(",") + "," }
}

fn protocol(proto: u8, is_v6: bool) -> &'static str {
    match (proto, is_v6) {
        (6, false) => "tcp",
        (6, true) => "tcp6",
        (17, false) => "udp",
        (17, true) => "udp6",
        (1, _) => "icmp",
        (58, _) => "icmp6",
        (_, false) => "ip",
        (_, true) => "ipv6",
    }
}

fn network(r: &mut Rng, proto: u8, f: &mut Vec<String>) {
    if r.one_in(6) {
        f.push(format!("nw_tos={}", r.below(4) * 4));
    }
    if r.one_in(10) {
        f.push(format!("nw_ecn={}", r.below(4)));
    }
    if r.one_in(8) {
        f.push(format!("nw_ttl={}", r.pick(&[1, 2, 64])));
    }
    if r.one_in(8) {
        let kinds = ["no", "yes", "first", "not_later", "later"];
        // Later fragments have no ports to match.
        f.push(format!("ip_frag={}", r.pick(&kinds[..if proto == 0 { 5 } else { 4 }])));
        if f.iter().any(|m| m == "ip_frag=later") {
            return;
        }
    }
    match proto {
        6 | 17 => {
            if r.one_in(2) {
                f.push(format!("tp_src={}", 1 + r.below(3)));
            }
            if r.one_in(3) {
                f.push(format!("tp_dst={}/2", r.pick(&[0, 2])));
            }
            if proto == 6 && r.one_in(3) {
                f.push(format!("tcp_flags={}", r.pick(&["+syn-ack", "+ack", "-fin", "+rst"])));
            }
        }
        1 if r.one_in(2) => f.push(format!("icmp_type={}", r.pick(&[0, 3, 8]))),
        58 if r.one_in(2) => f.push(format!("icmp_type={}", r.pick(&[128, 129, 136]))),
        _ => {}
    }
}

fn actions(r: &mut Rng, kind: Kind, table: u64, is_new: bool, flavour: Flavour) -> String {
    if r.one_in(20) {
        return "drop".into();
    }
    let mut list: Vec<String> = Vec::new();
    for _ in 0..1 + r.below(5) {
        let more = action(r, kind, table, is_new, flavour);
        // Flows that push more tags than a packet may have are refused.
        if !(more.contains("push_vlan") && list.iter().any(|a| a.contains("push_vlan"))) {
            list.push(more);
        }
    }
    let is_final = |a: &String| a == "exit" || a.starts_with("dec_ttl");
    if !list.iter().any(is_final) || r.one_in(2) {
        list.push(format!("output:{}", 1 + r.below(PORTS)));
    }
    if is_new {
        // Instructions stand behind the actions, in their order.
        if r.one_in(6) {
            list.push("clear_actions".into());
        }
        if r.one_in(3) {
            let set = match r.below(3) {
                0 => format!("output:{}", 1 + r.below(PORTS)),
                1 => format!("set_field:{}->reg0,group:{}", r.below(3), 1 + r.below(4)),
                _ => format!(
                    "set_field:02:00:00:00:00:0{}->eth_dst,output:{}",
                    r.below(4),
                    1 + r.below(PORTS)
                ),
            };
            list.push(format!("write_actions({set})"));
        }
        if r.one_in(5) {
            list.push(format!("write_metadata:{}/0x1", r.below(2)));
        }
        if table < TABLES - 1 && r.one_in(2) {
            list.push(format!("goto_table:{}", table + 1 + r.below(TABLES - 1 - table)));
        }
    }
    list.join(",")
}

fn action(r: &mut Rng, kind: Kind, table: u64, is_new: bool, flavour: Flavour) -> String {
    let further = if table < TABLES - 1 { table + 1 + r.below(TABLES - 1 - table) } else { 255 };
    if flavour != Flavour::Plain && r.one_in(3) {
        return special(r, kind, flavour, further);
    }
    match r.below(26) {
        0..=3 => format!("output:{}", 1 + r.below(PORTS)),
        4 => r.pick(&["in_port", "all", "flood"]).to_string(),
        5..=7 if further != 255 => format!("resubmit(,{further})"),
        8 if further != 255 && flavour == Flavour::Plain => {
            format!("resubmit({},{further})", 1 + r.below(PORTS))
        }
        9 if flavour == Flavour::Plain => format!("mod_dl_src:02:00:00:00:01:0{}", r.below(3)),
        10 => format!("mod_dl_dst:02:00:00:00:00:0{}", r.below(4)),
        11 => format!("load:{}->NXM_NX_REG{}[]", r.below(3), r.below(2)),
        12 => "move:NXM_NX_REG0[0..1]->NXM_NX_REG1[4..5]".into(),
        13 => "move:NXM_OF_ETH_SRC[0..7]->NXM_NX_REG0[0..7]".into(),
        14 => "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]".into(),
        15 => format!("load:{}->NXM_NX_REG2[],output:NXM_NX_REG2[]", 1 + r.below(PORTS)),
        // Open vSwitch cuts before it brings the headers up to date, so these come first.
        16 => {
            let (port, len) = (1 + r.below(PORTS), 20 + r.below(60));
            format!("output:1,output:2,output(port={port},max_len={len})")
        }
        17 if is_new => format!("group:{}", 1 + r.below(4)),
        18 => {
            let inner = action(r, kind, table, is_new, Flavour::Plain);
            format!("clone({inner},output:{})", 1 + r.below(PORTS))
        }
        19 if r.one_in(3) => "exit".into(),
        20 => format!("set_field:0x{}/0x3->reg0", r.below(4)),
        21 if r.one_in(2) => format!("controller(max_len=64,id={})", r.below(3)),
        _ => header(r, kind, is_new),
    }
}

/// A change of a header that such packets have.
fn header(r: &mut Rng, kind: Kind, is_new: bool) -> String {
    if r.one_in(3) {
        return match (r.below(4), is_new) {
            (0, false) => format!("mod_vlan_vid:{}", r.below(4)),
            (1, false) => format!("mod_vlan_pcp:{}", r.below(8)),
            // Only a flow that matches on a tag may take one off there.
            (_, true) => format!("push_vlan:0x8100,set_field:{}->vlan_vid", 4096 + r.below(4)),
            (_, false) => "strip_vlan".into(),
        };
    }
    match kind {
        Kind::Any => format!("load:{}->NXM_OF_ETH_SRC[0..1]", r.below(3)),
        Kind::Arp => match r.below(4) {
            0 => "load:2->NXM_OF_ARP_OP[]".into(),
            1 => "move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[]".into(),
            2 => "move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[]".into(),
            _ => "load:0x0a000009->NXM_OF_ARP_SPA[]".into(),
        },
        Kind::V4(proto) => match r.below(7) {
            0 => format!("mod_nw_src:10.0.0.{}", r.below(4)),
            1 => format!("mod_nw_dst:10.0.1.{}", r.below(4)),
            2 => format!("mod_nw_tos:{}", r.below(4) * 4),
            3 => "dec_ttl".into(),
            4 => format!("set_field:0.0.2.{}/0.0.255.3->ip_dst", r.below(4)),
            _ => ports(r, proto),
        },
        Kind::V6(proto) => match r.below(6) {
            0 => format!("set_field:fd00::1:0:0:0:{}->ipv6_src", r.below(4)),
            1 => format!("set_field:fd00::2:0:0:0:{}->ipv6_dst", r.below(4)),
            2 => "dec_ttl".into(),
            3 => format!("set_field:{}->ipv6_label", r.below(3)),
            _ => ports(r, proto),
        },
        Kind::Solicit => match r.below(2) {
            0 => format!("set_field:fd00::3:0:0:0:{}->nd_target", r.below(4)),
            _ => "set_field:02:00:00:00:01:05->nd_sll".into(),
        },
    }
}

fn ports(r: &mut Rng, proto: u8) -> String {
    let field = match proto {
        6 => "tcp",
        17 => "udp",
        _ => return format!("set_field:{}->reg1", r.below(3)),
    };
    match r.below(3) {
        0 => format!("set_field:{}->{field}_src", 1 + r.below(3)),
        1 => format!("set_field:{}->{field}_dst", 1 + r.below(3)),
        _ => format!("load:{}->NXM_OF_{}_DST[8..9]", r.below(3), field.to_uppercase()),
    }
}

fn special(r: &mut Rng, kind: Kind, flavour: Flavour, further: u64) -> String {
    match flavour {
        Flavour::Plain => "drop".into(),
        Flavour::Learning => match r.below(4) {
            0 => format!(
                "learn(table={LEARNED},priority={},cookie=0x77,NXM_OF_VLAN_TCI[0..11],\
                 NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],load:0->NXM_OF_VLAN_TCI[],output:NXM_OF_IN_PORT[])",
                1 + r.below(1000)
            ),
            1 => format!("resubmit(,{LEARNED})"),
            _ => "NORMAL".into(),
        },
        // Only IP has connections.
        Flavour::Tracking if matches!(kind, Kind::Any | Kind::Arp) => "ct_clear".into(),
        Flavour::Tracking => {
            let zone = r.below(3);
            match r.below(5) {
                0 if further != 255 => format!("ct(table={further},zone={zone})"),
                1 if further != 255 => format!("ct(commit,table={further},zone={zone})"),
                2 => format!("ct(commit,zone={zone},exec(load:1->NXM_NX_CT_MARK[]))"),
                3 => "ct_clear".into(),
                _ => format!("ct(commit,zone={zone})"),
            }
        }
    }
}
