//! How are megaflows and action programs written?
//!
//! In the datapath's grammar, as `ovs-appctl dpctl/dump-flows` writes it:
//! `recirc_id(0),in_port(1),eth(dst=...),eth_type(0x0800),ipv4(dst=10.0.0.0/255.0.0.0,frag=no)`,
//! ports being datapath ports. What is not matched is left out. Headers behind a VLAN tag stand in
//! `encap(...)`.

use std::fmt::Write;
use std::net::Ipv4Addr;

use flow::extract::{VLAN_PRESENT, eth_type, ip_proto};
use flow::{Field, FlowKey, Match};

use super::match_show::{show_flags, show_hex, show_ipv6, show_mac};
use super::names::{CT_STATE, FRAGS, TCP_FLAGS};
use crate::matching::{matched_eth_type, matched_ip_proto};
use crate::program::{CtStep, DpAction, DpPort};

/// Bits of the key's `tun_flags`, lowest first.
const TUNNEL: &[&str] = &["oam", "df", "csum", "key"];

/// Write a megaflow's match.
pub fn show_megaflow(out: &mut String, m: &Match) {
    show_datapath(out, &m.key(), &m.mask_key());
}

/// Write a key under a mask in the datapath's grammar.
pub fn show_datapath(out: &mut String, key: &FlowKey, mask: &FlowKey) {
    let start = out.len();
    let mut w = Writer::new(out, key, mask, "", "");
    w.metadata();
    w.packet();
    if w.out.len() > start {
        w.out.pop();
    }
}

/// Write the steps of an action program, as a megaflow that matches `on` does them; `drop` if
/// there are none.
pub fn show_program(out: &mut String, steps: &[DpAction], on: &Match) {
    if steps.is_empty() {
        out.push_str("drop");
    }
    for (i, step) in steps.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        show_step(out, step, on);
    }
}

fn show_step(out: &mut String, step: &DpAction, on: &Match) {
    let _ = match step {
        DpAction::Output(port) => write!(out, "{}", port.0),
        DpAction::PushVlan { tpid, tci } => {
            out.push_str("push_vlan(");
            if *tpid != eth_type::VLAN {
                let _ = write!(out, "tpid={tpid:#06x},");
            }
            write!(out, "vid={},pcp={})", tci & 0xfff, tci >> 13)
        }
        DpAction::PopVlan => write!(out, "pop_vlan"),
        DpAction::Set(set) => return show_set(out, set.fields(), on),
        DpAction::Truncate(n) => write!(out, "trunc({n})"),
        DpAction::Clone(steps) => {
            out.push_str("clone(");
            show_program(out, steps, on);
            write!(out, ")")
        }
        DpAction::Controller(c) => write!(
            out,
            "userspace(controller(reason={},id={},max_len={},rule_cookie={:#x}))",
            c.reason, c.controller, c.max_len, c.cookie
        ),
        DpAction::Ct(ct) => return show_ct(out, ct),
        DpAction::CtClear => write!(out, "ct_clear"),
        DpAction::TunnelPush(push) => write!(out, "tnl_push({})", push.encap),
        DpAction::TunnelPop(listener) => write!(out, "tnl_pop({})", port_text(*listener)),
        DpAction::AwaitNeighbour(target, r) => {
            write!(out, "neigh_wait({},recirc({:#x}))", target.address, r.id)
        }
        DpAction::Reassemble(r) => write!(out, "reassemble(recirc({:#x}))", r.id),
        DpAction::Cut(n) => write!(out, "cut({n})"),
        DpAction::Hear(_) => write!(out, "neigh_hear"),
        DpAction::Recirculate(r) => write!(out, "recirc({:#x})", r.id),
        DpAction::IcmpError(e) => write!(out, "icmp_error({:?},src={})", e.says, e.from),
        DpAction::IfTooBig(mtu, steps) => {
            let _ = write!(out, "check_pkt_len(size={mtu},gt(");
            show_program(out, steps, on);
            write!(out, "))")
        }
        DpAction::Fragment(mtu) => write!(out, "fragment({mtu})"),
        DpAction::Drop(why) => write!(out, "drop({})", why.name()),
    };
}

/// A datapath port: its number, or what a listener receives.
fn port_text(dp: DpPort) -> String {
    match crate::underlay::listens(dp) {
        Some((kind, 0)) => kind.name().to_owned(),
        Some((kind, port)) => format!("{}:{port}", kind.name()),
        None => dp.0.to_string(),
    }
}

/// `ct(commit,zone=1,mark=0x1/0xffffffff,label=...,nat)`.
fn show_ct(out: &mut String, ct: &CtStep) {
    let mut parts = Vec::new();
    if let Some(c) = &ct.commit {
        parts.push(if c.force { "force_commit" } else { "commit" }.to_owned());
    }
    if ct.zone != 0 {
        parts.push(format!("zone={}", ct.zone));
    }
    if let Some(c) = &ct.commit {
        parts.extend(c.mark.map(|(v, m)| format!("mark={v:#x}/{m:#x}")));
        parts.extend(c.label.map(|(v, m)| format!("label={v:#x}/{m:#x}")));
    }
    match ct.commit.as_ref().map(|c| c.nat) {
        Some(conntrack::Nat::New(spec)) => parts.push(spec.to_string()),
        _ if ct.nat => parts.push("nat".to_owned()),
        _ => {}
    }
    out.push_str("ct");
    if !parts.is_empty() {
        let _ = write!(out, "({})", parts.join(","));
    }
}

/// Every header that is set has a `set(...)` of its own.
fn show_set(out: &mut String, set: &Match, on: &Match) {
    let start = out.len();
    let (key, mask) = (set.key(), set.mask_key());
    let (on_key, on_mask) = (on.key(), on.mask_key());
    let mut w = Writer::new(out, &key, &mask, "set(", ")");
    w.ty = matched_eth_type(&on_key, &on_mask);
    w.proto = matched_ip_proto(&on_key, &on_mask);
    w.metadata();
    w.layer2();
    w.header("vlan", |w| {
        let Some((v, m)) = w.get(Field::VlanTci) else { return };
        bits(w.out, "vid", v & 0xfff, m & 0xfff, 0xfff);
        bits(w.out, "pcp", v >> 13, m >> 13, 7);
    });
    w.behind_tags();
    if w.out.len() > start {
        w.out.pop();
    }
}

struct Writer<'a> {
    out: &'a mut String,
    key: &'a FlowKey,
    mask: &'a FlowKey,
    /// What stands around each header.
    around: (&'static str, &'static str),
    ty: Option<u16>,
    proto: Option<u8>,
}

impl<'a> Writer<'a> {
    fn new(
        out: &'a mut String,
        key: &'a FlowKey,
        mask: &'a FlowKey,
        before: &'static str,
        behind: &'static str,
    ) -> Self {
        let ty = matched_eth_type(key, mask);
        let proto = matched_ip_proto(key, mask);
        Writer { out, key, mask, around: (before, behind), ty, proto }
    }

    fn get(&self, field: Field) -> Option<(u128, u128)> {
        let mask = self.mask.get(field);
        (mask != 0).then(|| (self.key.get(field) & mask, mask))
    }

    /// A header with those of its fields that are matched; nothing if none is.
    fn header(&mut self, name: &str, fields: impl FnOnce(&mut Self)) {
        let start = self.out.len();
        let _ = write!(self.out, "{}{name}(", self.around.0);
        let inner = self.out.len();
        fields(self);
        if self.out.len() == inner {
            return self.out.truncate(start);
        }
        if self.out.ends_with(',') {
            self.out.pop();
        }
        let _ = write!(self.out, "){},", self.around.1);
    }

    /// `name=VALUE[/MASK],`, or without the name if it is empty.
    fn field(&mut self, name: &str, field: Field, show: fn(&mut String, u128)) {
        self.field_masked(name, field, show, show);
    }

    /// The same for a number, whose mask is written in hexadecimal.
    fn number(&mut self, name: &str, field: Field) {
        self.field_masked(name, field, decimal, show_hex);
    }

    fn field_masked(
        &mut self,
        name: &str,
        field: Field,
        show: fn(&mut String, u128),
        show_mask: fn(&mut String, u128),
    ) {
        let Some((v, m)) = self.get(field) else { return };
        if !name.is_empty() {
            let _ = write!(self.out, "{name}=");
        }
        show(self.out, v);
        if m != field.full() {
            self.out.push('/');
            show_mask(self.out, m);
        }
        self.out.push(',');
    }

    fn flags(&mut self, name: &str, field: Field, all: u128, names: &[&str]) {
        let m = self.mask.get(field) & all;
        if m == 0 {
            return;
        }
        let value = self.key.get(field);
        // A mask beyond every flag there is keeps the signs.
        self.header(name, |w| show_flags(w.out, value, m, u128::MAX, names));
    }

    fn metadata(&mut self) {
        self.header("skb_priority", |w| w.field("", Field::SkbPriority, show_hex));
        self.tunnel();
        self.header("skb_mark", |w| w.field("", Field::PktMark, show_hex));
        self.flags("ct_state", Field::CtState, 0xff, CT_STATE);
        self.header("ct_zone", |w| w.field("", Field::CtZone, show_hex));
        self.header("ct_mark", |w| w.field("", Field::CtMark, show_hex));
        self.header("ct_label", |w| w.field("", Field::CtLabel, show_hex));
        self.header("ct_tuple4", |w| {
            w.field("src", Field::CtNwSrc, ipv4);
            w.field("dst", Field::CtNwDst, ipv4);
            w.number("proto", Field::CtNwProto);
            w.number("tp_src", Field::CtTpSrc);
            w.number("tp_dst", Field::CtTpDst);
        });
        self.header("ct_tuple6", |w| {
            w.field("src", Field::CtIpv6Src, show_ipv6);
            w.field("dst", Field::CtIpv6Dst, show_ipv6);
        });
        self.header("recirc_id", |w| w.field("", Field::RecircId, show_hex));
        self.header("dp_hash", |w| w.field("", Field::DpHash, show_hex));
        self.header("in_port", |w| w.number("", Field::InPort));
    }

    fn tunnel(&mut self) {
        self.header("tunnel", |w| {
            w.field("tun_id", Field::TunId, show_hex);
            w.field("src", Field::TunSrc, ipv4);
            w.field("dst", Field::TunDst, ipv4);
            w.field("ipv6_src", Field::TunIpv6Src, show_ipv6);
            w.field("ipv6_dst", Field::TunIpv6Dst, show_ipv6);
            w.field("tos", Field::TunTos, show_hex);
            w.number("ttl", Field::TunTtl);
            w.number("tp_src", Field::TunTpSrc);
            w.number("tp_dst", Field::TunTpDst);
            w.number("gbp_id", Field::TunGbpId);
            w.field("gbp_flags", Field::TunGbpFlags, show_hex);
            w.flags("flags", Field::TunFlags, 0xffff, TUNNEL);
        });
    }

    fn layer2(&mut self) {
        self.header("eth", |w| {
            w.field("src", Field::EthSrc, show_mac);
            w.field("dst", Field::EthDst, show_mac);
        });
    }

    fn packet(&mut self) {
        self.layer2();
        let tags = [(Field::VlanTci, Field::VlanTpid), (Field::Vlan1Tci, Field::Vlan1Tpid)];
        let mut open = 0;
        for (tci, tpid) in tags {
            let Some((v, m)) = self.get(tci) else {
                // Whether there is a tag was not looked at.
                if open == 0 && self.ty.is_some() {
                    self.out.push_str("vlan(any),");
                }
                break;
            };
            if v & u128::from(VLAN_PRESENT) == 0 {
                if m & u128::from(VLAN_PRESENT) == 0 {
                    let _ = write!(self.out, "vlan_tci({v:#06x}/{m:#06x}),");
                }
                break;
            }
            let ty = self.get(tpid).map_or(u128::from(eth_type::VLAN), |(v, _)| v);
            let _ = write!(self.out, "eth_type({ty:#06x}),vlan(");
            bits(self.out, "vid", v & 0xfff, m & 0xfff, 0xfff);
            bits(self.out, "pcp", v >> 13, m >> 13, 7);
            if self.out.ends_with(',') {
                self.out.pop();
            }
            self.out.push_str("),encap(");
            open += 1;
        }
        self.behind_tags();
        for _ in 0..open {
            if self.out.ends_with(',') {
                self.out.pop();
            }
            self.out.push_str("),");
        }
    }

    fn behind_tags(&mut self) {
        self.header("eth_type", |w| w.field("", Field::EthType, hex4));
        match self.ty {
            Some(eth_type::ARP | eth_type::RARP) => self.arp(),
            Some(eth_type::IPV6) => self.ipv6(),
            _ => self.ipv4(),
        }
        self.mpls();
        self.transport();
    }

    fn arp(&mut self) {
        self.header("arp", |w| {
            w.field("sip", Field::NwSrc, ipv4);
            w.field("tip", Field::NwDst, ipv4);
            w.number("op", Field::NwProto);
            w.field("sha", Field::ArpSha, show_mac);
            w.field("tha", Field::ArpTha, show_mac);
        });
    }

    fn ipv4(&mut self) {
        self.header("ipv4", |w| {
            w.field("src", Field::NwSrc, ipv4);
            w.field("dst", Field::NwDst, ipv4);
            w.number("proto", Field::NwProto);
            w.field("tos", Field::NwTos, show_hex);
            w.number("ttl", Field::NwTtl);
            w.frag();
        });
    }

    fn ipv6(&mut self) {
        self.header("ipv6", |w| {
            w.field("src", Field::Ipv6Src, show_ipv6);
            w.field("dst", Field::Ipv6Dst, show_ipv6);
            w.field("label", Field::Ipv6Label, show_hex);
            w.number("proto", Field::NwProto);
            w.field("tclass", Field::NwTos, show_hex);
            w.number("hlimit", Field::NwTtl);
            w.frag();
        });
    }

    fn frag(&mut self) {
        let m = self.mask.get(Field::NwFrag) & 3;
        let v = self.key.get(Field::NwFrag) & m;
        if m == 0 {
            return;
        }
        let name = FRAGS.iter().find(|f| (f.1, f.2) == (v, m));
        let name = name.map_or(if v == 0 { "no" } else { "later" }, |f| f.0);
        let _ = write!(self.out, "frag={name},");
    }

    fn mpls(&mut self) {
        let Some((v, m)) = self.get(Field::Mpls0) else { return };
        self.header("mpls", |w| {
            bits(w.out, "label", v >> 12, m >> 12, 0xf_ffff);
            bits(w.out, "tc", v >> 9 & 7, m >> 9 & 7, 7);
            bits(w.out, "ttl", v & 0xff, m & 0xff, 0xff);
            bits(w.out, "bos", v >> 8 & 1, m >> 8 & 1, 1);
        });
    }

    fn transport(&mut self) {
        let (name, src, dst) = match self.proto {
            Some(ip_proto::TCP) => ("tcp", "src", "dst"),
            Some(ip_proto::UDP) => ("udp", "src", "dst"),
            Some(ip_proto::SCTP) => ("sctp", "src", "dst"),
            Some(ip_proto::ICMP) => ("icmp", "type", "code"),
            Some(ip_proto::ICMPV6) => ("icmpv6", "type", "code"),
            _ => ("tp", "src", "dst"),
        };
        self.header(name, |w| {
            w.number(src, Field::TpSrc);
            w.number(dst, Field::TpDst);
        });
        self.flags("tcp_flags", Field::TcpFlags, 0xfff, TCP_FLAGS);
        if self.proto == Some(ip_proto::ICMPV6) {
            self.header("nd", |w| {
                w.field("target", Field::NdTarget, show_ipv6);
                w.field("sll", Field::ArpSha, show_mac);
                w.field("tll", Field::ArpTha, show_mac);
            });
            self.header("nd_ext", |w| {
                w.field("nd_reserved", Field::NdReserved, show_hex);
                w.number("nd_options_type", Field::NdOptionsType);
            });
        }
    }
}

/// `name=VALUE[/0xMASK],` for a part of a field.
fn bits(out: &mut String, name: &str, v: u128, m: u128, full: u128) {
    if m != 0 {
        let _ = write!(out, "{name}={v}");
        if m != full {
            let _ = write!(out, "/{m:#x}");
        }
        out.push(',');
    }
}

fn decimal(out: &mut String, v: u128) {
    let _ = write!(out, "{v}");
}

fn hex4(out: &mut String, v: u128) {
    let _ = write!(out, "{v:#06x}");
}

fn ipv4(out: &mut String, v: u128) {
    let _ = write!(out, "{}", Ipv4Addr::from(v as u32));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::DpPort;
    use crate::text::{NoNames, parse_flow};
    use flow::edit::SetFields;

    /// The match of a flow, with datapath fields that no rule can ask for.
    fn megaflow(text: &str, more: &[(Field, u128)]) -> String {
        let command = crate::flowmod::Command::Add;
        let f = parse_flow(&format!("{text},actions=drop"), command, &NoNames).unwrap();
        let (mut key, mut mask) = (f.matches.key(), f.matches.mask_key());
        for (field, value) in more {
            key.set(*field, *value);
            mask.set(*field, field.full());
        }
        let mut out = String::new();
        show_datapath(&mut out, &key, &mask);
        out
    }

    #[test]
    fn megaflows_in_the_datapaths_grammar() {
        let from = [(Field::RecircId, 0), (Field::VlanTci, 0), (Field::InPort, 1)];
        assert_eq!(
            megaflow("tcp,nw_dst=10.0.0.0/8,nw_frag=no,tp_dst=0x1f40/0xfff8", &from),
            "recirc_id(0),in_port(1),eth_type(0x0800),\
             ipv4(dst=10.0.0.0/255.0.0.0,proto=6,frag=no),tcp(dst=8000/0xfff8)"
        );
        assert_eq!(
            megaflow("dl_vlan=5,arp,arp_op=1,dl_dst=ff:ff:ff:ff:ff:ff", &[(Field::RecircId, 3)]),
            "recirc_id(0x3),eth(dst=ff:ff:ff:ff:ff:ff),eth_type(0x8100),vlan(vid=5),\
             encap(eth_type(0x0806),arp(op=1))"
        );
        assert_eq!(
            megaflow("ct_state=+est+trk-new,ct_zone=5,ip,tun_id=7,tun_dst=192.0.2.1", &[]),
            "tunnel(tun_id=0x7,dst=192.0.2.1),ct_state(-new+est+trk),ct_zone(0x5),vlan(any),\
             eth_type(0x0800)"
        );
        let icmp6 = "icmp6,icmp_type=135,nd_target=fe80::1";
        assert_eq!(
            megaflow(icmp6, &[(Field::VlanTci, 0)]),
            "eth_type(0x86dd),ipv6(proto=58),icmpv6(type=135),nd(target=fe80::1)"
        );
        assert_eq!(
            megaflow("dl_vlan=5,dl_vlan_pcp=3", &[]),
            "eth_type(0x8100),vlan(vid=5,pcp=3),encap()"
        );
    }

    #[test]
    fn programs_in_the_datapaths_grammar() {
        let set = |text: &str| {
            let command = crate::flowmod::Command::Add;
            let f = parse_flow(&format!("{text},actions=drop"), command, &NoNames).unwrap();
            f.matches
        };
        let on = set("tcp");
        let mut ports = FlowKey::ZERO;
        ports.set(Field::TpDst, 80);
        ports.set(Field::EthDst, 0x01_0203_0405);
        let mut mask = FlowKey::ZERO;
        mask.set(Field::TpDst, 0xffff);
        mask.set(Field::EthDst, Field::EthDst.full());
        let steps = [
            DpAction::PushVlan { tpid: 0x8100, tci: 5 },
            DpAction::Set(Box::new(SetFields::new(Match::new(&ports, &mask)))),
            DpAction::Clone(Box::new([DpAction::PopVlan, DpAction::Output(DpPort(3))])),
            DpAction::Output(DpPort(2)),
        ];
        let mut out = String::new();
        show_program(&mut out, &steps, &on);
        assert_eq!(
            out,
            "push_vlan(vid=5,pcp=0),set(eth(dst=00:01:02:03:04:05)),set(tcp(dst=80)),\
             clone(pop_vlan,3),2"
        );
        out.clear();
        show_program(&mut out, &[], &on);
        assert_eq!(out, "drop");
    }
}
