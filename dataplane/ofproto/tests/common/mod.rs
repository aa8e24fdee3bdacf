//! Flows made at random, from a seed: legal ones, with every field and action.
#![allow(dead_code)]

use ofproto::flowmod::FlowMod;
use ofproto::text::{NoNames, show_actions, show_flow, show_match};

/// A small generator of numbers that repeats for a seed.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    pub fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
    /// A number below `2^bits`, small ones and edges often.
    pub fn number(&mut self, bits: u32) -> u128 {
        let all = if bits == 128 { u128::MAX } else { (1 << bits) - 1 };
        let wide = u128::from(self.next()) << 64 | u128::from(self.next());
        match self.below(6) {
            0 => 0,
            1 => all,
            2 => wide & all & 0xff,
            _ => wide & all,
        }
    }
    fn mac(&mut self) -> String {
        let n = self.number(48);
        let b: Vec<String> = (0..6).rev().map(|i| format!("{:02x}", n >> (8 * i) & 0xff)).collect();
        b.join(":")
    }
    fn ipv4(&mut self) -> String {
        std::net::Ipv4Addr::from(self.number(32) as u32).to_string()
    }
    fn ipv6(&mut self) -> String {
        std::net::Ipv6Addr::from(self.number(128)).to_string()
    }
    fn masked(&mut self, value: fn(&mut Rng) -> String, mask: fn(&mut Rng) -> String) -> String {
        let v = value(self);
        if self.chance(3) { format!("{v}/{}", mask(self)) } else { v }
    }
    fn hex(&mut self, bits: u32) -> String {
        let v = self.number(bits);
        if self.chance(3) { format!("{v:#x}/{:#x}", self.number(bits)) } else { format!("{v:#x}") }
    }
    fn plain(&mut self, bits: u32) -> String {
        self.number(bits).to_string()
    }
    fn signed(&mut self, flags: &[&str]) -> String {
        let mut out = String::new();
        for f in flags {
            if self.chance(2) {
                out += if self.chance(2) { "+" } else { "-" };
                out += f;
            }
        }
        if out.is_empty() { format!("+{}", flags[0]) } else { out }
    }
}

/// What a generated flow's packets are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Any,
    Arp,
    Ip(u8),
    Ip6(u8),
    Nd,
    Mpls,
}

/// A legal match, and what its packets are.
pub fn match_text(r: &mut Rng) -> (String, Kind) {
    let kind = *r.pick(&[
        Kind::Any,
        Kind::Arp,
        Kind::Ip(0),
        Kind::Ip(6),
        Kind::Ip(17),
        Kind::Ip(132),
        Kind::Ip(1),
        Kind::Ip6(0),
        Kind::Ip6(6),
        Kind::Ip6(17),
        Kind::Ip6(58),
        Kind::Nd,
        Kind::Mpls,
    ]);
    let mut f: Vec<String> = Vec::new();
    metadata(r, &mut f);
    layer2(r, &mut f);
    match kind {
        Kind::Any => {
            if r.chance(3) {
                f.push(format!("dl_type={:#06x}", 0x1000 + r.below(0x100)));
            }
        }
        Kind::Arp => arp(r, &mut f),
        Kind::Ip(p) => {
            let word = match p {
                0 => "ip",
                1 => "icmp",
                6 => "tcp",
                17 => "udp",
                _ => "sctp",
            };
            f.push(word.into());
            for field in ["nw_src", "nw_dst"] {
                if r.chance(2) {
                    let v = r.masked(Rng::ipv4, |r| match r.below(2) {
                        0 => r.below(33).to_string(),
                        _ => r.ipv4(),
                    });
                    f.push(format!("{field}={v}"));
                }
            }
            ip(r, &mut f, p);
            transport(r, &mut f, p);
        }
        Kind::Ip6(p) => {
            let word = match p {
                0 => "ipv6",
                58 => "icmp6",
                6 => "tcp6",
                _ => "udp6",
            };
            f.push(word.into());
            for field in ["ipv6_src", "ipv6_dst"] {
                if r.chance(2) {
                    let v = r.masked(Rng::ipv6, |r| match r.below(2) {
                        0 => r.below(129).to_string(),
                        // A mask that begins with a digit is not read as an address everywhere.
                        _ => format!("ff00:{:x}::{:x}", r.number(16), r.number(16)),
                    });
                    f.push(format!("{field}={v}"));
                }
            }
            if r.chance(4) {
                f.push(format!("ipv6_label={}", r.hex(20)));
            }
            ip(r, &mut f, p);
            transport(r, &mut f, p);
        }
        Kind::Nd => {
            let solicit = r.chance(2);
            f.push(format!("icmp6,icmp_type={},icmp_code=0", if solicit { 135 } else { 136 }));
            if r.chance(2) {
                f.push(format!("nd_target={}", r.ipv6()));
            }
            if r.chance(2) {
                let name = if solicit { "nd_sll" } else { "nd_tll" };
                f.push(format!("{name}={}", r.masked(Rng::mac, Rng::mac)));
            }
        }
        Kind::Mpls => {
            f.push(r.pick(&["mpls", "mplsm"]).to_string());
            if r.chance(2) {
                f.push(format!("mpls_label={}", r.plain(20)));
            }
            if r.chance(3) {
                f.push(format!("mpls_tc={},mpls_bos={}", r.plain(3), r.plain(1)));
            }
        }
    }
    // Any order is the same flow.
    for i in (1..f.len()).rev() {
        let j = r.below(i as u64 + 1) as usize;
        f.swap(i, j);
    }
    (f.join(","), kind)
}

fn metadata(r: &mut Rng, f: &mut Vec<String>) {
    if r.chance(2) {
        f.push(format!("in_port={}", r.pick(&["1", "7", "65279", "LOCAL", "CONTROLLER"])));
    }
    for name in ["reg0", "reg8", "reg15", "pkt_mark", "ct_mark"] {
        if r.chance(8) {
            f.push(format!("{name}={}", r.hex(32)));
        }
    }
    for name in ["tun_id", "metadata", "xreg1"] {
        if r.chance(8) {
            f.push(format!("{name}={}", r.hex(64)));
        }
    }
    for name in ["ct_label", "xxreg1"] {
        if r.chance(16) {
            f.push(format!("{name}={}", r.hex(128)));
        }
    }
    for name in ["tun_src", "tun_dst"] {
        if r.chance(12) {
            f.push(format!("{name}={}", r.masked(Rng::ipv4, |r| r.below(33).to_string())));
        }
    }
    if r.chance(12) {
        f.push(format!("tun_ipv6_dst={}", r.masked(Rng::ipv6, |r| r.below(129).to_string())));
    }
    if r.chance(12) {
        f.push(format!("tun_gbp_id={},tun_flags={}oam", r.plain(16), r.pick(&["+", "-"])));
    }
    if r.chance(6) {
        let state = r.signed(&["new", "est", "rel", "rpl", "trk", "snat", "dnat"]);
        // Invalid packets have no connection to commit.
        let inv = if r.chance(4) { "-inv" } else { "" };
        f.push(format!("ct_state={state}{inv}"));
    }
    if r.chance(8) {
        f.push(format!("ct_zone={}", r.plain(16)));
    }
    if r.chance(16) {
        f.push(format!("conj_id={}", r.plain(32)));
    }
}

fn layer2(r: &mut Rng, f: &mut Vec<String>) {
    for name in ["dl_src", "dl_dst"] {
        if r.chance(3) {
            f.push(format!("{name}={}", r.masked(Rng::mac, Rng::mac)));
        }
    }
    match r.below(8) {
        0 => f.push(format!("dl_vlan={}", r.plain(12))),
        1 => f.push(format!("dl_vlan={},dl_vlan_pcp={}", r.plain(12), r.plain(3))),
        2 => {
            let mask = r.number(12) | *r.pick(&[0x1000, 0xf000]);
            f.push(format!("vlan_tci={:#x}/{mask:#x}", r.number(16) | 0x1000));
        }
        3 => f.push("vlan_vid=0x1000/0x1000".into()),
        4 => {
            let none = ["vlan_tci=0x0000/0x1fff", "vlan_vid=0"];
            f.push(r.pick(&none).to_string());
        }
        _ => {}
    }
}

fn arp(r: &mut Rng, f: &mut Vec<String>) {
    f.push(r.pick(&["arp", "rarp"]).to_string());
    if r.chance(2) {
        f.push(format!("arp_op={}", r.plain(8)));
    }
    for name in ["arp_spa", "arp_tpa"] {
        if r.chance(2) {
            f.push(format!("{name}={}", r.masked(Rng::ipv4, |r| r.below(33).to_string())));
        }
    }
    for name in ["arp_sha", "arp_tha"] {
        if r.chance(3) {
            f.push(format!("{name}={}", r.masked(Rng::mac, Rng::mac)));
        }
    }
}

fn ip(r: &mut Rng, f: &mut Vec<String>, proto: u8) {
    if r.chance(4) {
        f.push(format!("nw_tos={}", r.number(6) << 2));
    }
    if r.chance(5) {
        f.push(format!("nw_ecn={}", r.plain(2)));
    }
    if r.chance(4) {
        f.push(format!("nw_ttl={}", r.plain(8)));
    }
    if r.chance(4) {
        // Later fragments have no ports to match.
        let n = if matches!(proto, 6 | 17 | 132) { 4 } else { 5 };
        let kinds = ["no", "yes", "first", "not_later", "later"];
        f.push(format!("nw_frag={}", r.pick(&kinds[..n])));
    }
}

fn transport(r: &mut Rng, f: &mut Vec<String>, proto: u8) {
    match proto {
        1 | 58 => {
            if r.chance(2) {
                // Neighbour discovery has its own kind.
                f.push(format!("icmp_type={}", r.below(128)));
            }
            if r.chance(3) {
                f.push(format!("icmp_code={}", r.plain(8)));
            }
        }
        6 | 17 | 132 => {
            for name in ["tp_src", "tp_dst"] {
                if r.chance(2) {
                    let v = r.number(16);
                    let mask = r.number(16);
                    f.push(match r.chance(3) {
                        true => format!("{name}={v:#x}/{mask:#x}"),
                        false => format!("{name}={v}"),
                    });
                }
            }
            if proto == 6 && r.chance(3) {
                let flags =
                    r.signed(&["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns"]);
                f.push(format!("tcp_flags={flags}"));
            }
        }
        _ => {
            if r.chance(4) {
                f.push(format!("nw_proto={}", 200 + r.below(50)));
            }
        }
    }
}

/// A description of a packet, with the strict names in the order that every reader takes.
pub fn packet_text(r: &mut Rng) -> String {
    let mut f = vec!["in_port=1".to_owned(), format!("dl_src={},dl_dst={}", r.mac(), r.mac())];
    if r.chance(3) {
        f.push(format!("dl_vlan={},dl_vlan_pcp={}", r.plain(12), r.plain(3)));
    }
    let ip = |r: &mut Rng, f: &mut Vec<String>| {
        f.push(format!("nw_tos={},nw_ecn={},nw_ttl={}", r.number(6) << 2, r.plain(2), r.plain(8)));
    };
    let ports = |r: &mut Rng, f: &mut Vec<String>, p: &str| {
        f.push(format!("{p}_src={},{p}_dst={}", r.plain(16), r.plain(16)));
        if p == "tcp" {
            f.push(format!("tcp_flags={}", r.pick(&["syn", "syn|ack", "0", "fin|psh|ns"])));
        }
    };
    match r.below(10) {
        0 => f.push(format!("dl_type={:#06x}", 0x0600 + r.below(0x100))),
        1 => f.push(format!(
            "{},arp_op={},arp_spa={},arp_tpa={},arp_sha={},arp_tha={}",
            r.pick(&["arp", "rarp"]),
            r.below(256),
            r.ipv4(),
            r.ipv4(),
            r.mac(),
            r.mac()
        )),
        2 => f.push(format!("mpls,mpls_label={},mpls_tc={},mpls_bos=1", r.plain(20), r.plain(3))),
        n @ 3..=6 => {
            let word = ["tcp", "udp", "sctp", "icmp"][n as usize - 3];
            f.push(format!("{word},nw_src={},nw_dst={}", r.ipv4(), r.ipv4()));
            ip(r, &mut f);
            match word {
                "icmp" => f.push(format!("icmp_type={},icmp_code={}", r.plain(8), r.plain(8))),
                _ if r.chance(5) => {
                    f.push(r.pick(&["nw_frag=later", "nw_frag=first"]).to_string());
                }
                p => ports(r, &mut f, p),
            }
        }
        n => {
            let word = ["tcp", "udp", "icmp"][n as usize - 7];
            f.push(format!("{word}6,ipv6_src={},ipv6_dst={}", r.ipv6(), r.ipv6()));
            f.push(format!("ipv6_label={:#x}", r.number(20)));
            ip(r, &mut f);
            match (word, r.below(3)) {
                ("icmp", 0) => f.push(format!("icmpv6_type=128,icmpv6_code={}", r.plain(8))),
                ("icmp", 1) => f.push(format!(
                    "icmpv6_type=135,icmpv6_code=0,nd_target={},nd_sll={}",
                    r.ipv6(),
                    r.mac()
                )),
                ("icmp", _) => f.push(format!(
                    "icmpv6_type=136,icmpv6_code=0,nd_target={},nd_tll={}",
                    r.ipv6(),
                    r.mac()
                )),
                (p, _) => ports(r, &mut f, p),
            }
        }
    }
    f.join(",")
}

/// Legal actions for such packets.
pub fn actions_text(r: &mut Rng, kind: Kind) -> String {
    if r.chance(10) {
        return "drop".into();
    }
    let n = 1 + r.below(5);
    let mut out: Vec<String> = Vec::new();
    for _ in 0..n {
        let a = action_text(r, kind);
        // Tags are limited.
        if !(a.starts_with("push_vlan") && out.iter().any(|b| b.starts_with("push_vlan"))) {
            out.push(a);
        }
    }
    if r.chance(8) {
        out.push(format!("write_actions(set_field:{:#x}->reg3,output:3)", r.number(32)));
    }
    if r.chance(8) {
        let mask = r.number(64);
        out.push(format!("write_metadata:{:#x}/{mask:#x}", r.number(64) & mask));
    }
    if r.chance(6) {
        out.push(format!("goto_table:{}", 1 + r.below(254)));
    }
    out.join(",")
}

fn action_text(r: &mut Rng, kind: Kind) -> String {
    let is_ip = matches!(kind, Kind::Ip(_) | Kind::Ip6(_) | Kind::Nd);
    match r.below(24) {
        0 => format!("output:{}", 1 + r.below(65000)),
        1 => r.pick(&["NORMAL", "FLOOD", "ALL", "LOCAL", "IN_PORT", "CONTROLLER:128"]).to_string(),
        2 => format!("resubmit(,{})", r.below(255)),
        3 => format!("resubmit({},{})", 1 + r.below(100), r.below(255)),
        4 => format!("set_field:{:#x}->reg{}", r.number(32), r.below(16)),
        5 => format!("set_field:{}->eth_src", r.mac()),
        6 => format!("set_field:{:#x}->tun_id", r.number(64)),
        7 => "push_vlan:0x8100,set_field:4101->vlan_vid".into(),
        8 => "push_vlan:0x88a8,pop_vlan".into(),
        9 => "move:NXM_NX_REG0[0..15]->NXM_NX_REG1[16..31]".into(),
        10 => "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]".into(),
        11 => format!("group:{}", r.below(1000)),
        12 => "output:NXM_NX_REG0[0..15]".into(),
        13 => format!("output(port={},max_len={})", 1 + r.below(100), 14 + r.below(1500)),
        14 => format!(
            "learn(table={},idle_timeout={},priority={},NXM_OF_VLAN_TCI[0..11],\
             NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],load:NXM_NX_TUN_ID[]->NXM_NX_TUN_ID[],\
             output:NXM_OF_IN_PORT[])",
            r.below(255),
            1 + r.below(100),
            r.below(30000)
        ),
        15 => format!("clone(output:{},resubmit(,4))", 1 + r.below(9)),
        16 => format!("set_field:{}->tun_dst", r.ipv4()),
        17 => format!("ct_clear,set_field:{:#x}->pkt_mark", r.number(32)),
        18 if is_ip => format!(
            "ct(commit,zone={},exec(set_field:{:#x}->ct_mark))",
            1 + r.below(60000),
            r.number(32)
        ),
        19 if is_ip => format!("ct(table={},zone=NXM_NX_REG6[0..15])", r.below(255)),
        20 if matches!(kind, Kind::Ip(_)) => {
            let a = u32::from(std::net::Ipv4Addr::new(10, 0, 0, 1)) + r.below(1000) as u32;
            let b = a + 1 + r.below(100) as u32;
            let (a, b) = (std::net::Ipv4Addr::from(a), std::net::Ipv4Addr::from(b));
            format!("ct(commit,zone=5,nat(src={a}-{b}:1024-65535,random))")
        }
        21 if is_ip => "dec_ttl".into(),
        22 if matches!(kind, Kind::Ip(_)) => format!("set_field:{}->ip_dst", r.ipv4()),
        23 if matches!(kind, Kind::Ip(6) | Kind::Ip6(6)) => {
            format!("set_field:{}->tcp_dst", r.plain(16))
        }
        _ => format!("output:{}", 1 + r.below(65000)),
    }
}

/// A legal flow.
pub fn flow_text(r: &mut Rng) -> String {
    let (m, kind) = match_text(r);
    let mut head = String::new();
    if r.chance(2) {
        head += &format!("priority={},", r.number(16));
    }
    if !m.is_empty() {
        head += &m;
        head.push(',');
    }
    format!("{head}actions={}", actions_text(r, kind))
}

/// A flow as it is written, without statistics.
pub fn shown(f: &FlowMod) -> String {
    let mut out = String::new();
    show_flow(&mut out, &f.into(), &NoNames);
    out
}

/// Its match and its actions, apart.
pub fn shown_parts(f: &FlowMod) -> (String, String) {
    let (mut m, mut a) = (String::new(), String::new());
    show_match(&mut m, &f.matches, &NoNames);
    show_actions(&mut a, &f.actions, &NoNames);
    (m, a)
}
