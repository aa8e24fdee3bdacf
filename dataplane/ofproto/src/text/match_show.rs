//! How is a match written?
//!
//! In the order and the words of `ovs-ofctl dump-flows`: packet and connection marks, then the
//! protocol, registers, tunnel, port, and the headers from the outside in.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use flow::extract::{VLAN_PRESENT, eth_type, ip_proto};
use flow::{Field, FlowKey, Match};

use super::names::{CT_STATE, FRAGS, PortNames, TCP_FLAGS, TUN_FLAGS, show_port};
use crate::action::OfPort;
use crate::matching::{matched_eth_type, matched_ip_proto};

/// Write a match, its items parted by commas; nothing for a match on everything.
pub fn show_match(out: &mut String, m: &Match, ports: &dyn PortNames) {
    show_masked(out, &m.key(), &m.mask_key(), ports);
}

/// Write values under a mask as a match.
pub fn show_masked(out: &mut String, key: &FlowKey, mask: &FlowKey, ports: &dyn PortNames) {
    let start = out.len();
    let mut w = Writer { out, key, mask, ports };
    w.marks();
    w.connection();
    w.protocol();
    w.registers();
    w.tunnel();
    w.hex(Field::Metadata);
    w.port("in_port", Field::InPort);
    w.vlan();
    w.mac("dl_src", Field::EthSrc);
    w.mac("dl_dst", Field::EthDst);
    w.addresses();
    w.network();
    w.mpls();
    w.frag();
    w.transport();
    if w.out.len() > start {
        w.out.pop();
    }
}

struct Writer<'a> {
    out: &'a mut String,
    key: &'a FlowKey,
    mask: &'a FlowKey,
    ports: &'a dyn PortNames,
}

impl Writer<'_> {
    /// Value and mask of a field; `None` if it is not matched at all.
    fn get(&self, field: Field) -> Option<(u128, u128)> {
        let mask = self.mask.get(field);
        (mask != 0).then(|| (self.key.get(field) & mask, mask))
    }

    fn eth_type(&self) -> Option<u16> {
        matched_eth_type(self.key, self.mask)
    }

    /// `name=0xVALUE[/0xMASK],`, zero without `0x`.
    fn hex(&mut self, field: Field) {
        self.hex_as(field.name(), field);
    }

    fn hex_as(&mut self, name: &str, field: Field) {
        let Some((v, m)) = self.get(field) else { return };
        let _ = write!(self.out, "{name}=");
        show_hex(self.out, v);
        if m != field.full() {
            self.out.push('/');
            show_hex(self.out, m);
        }
        self.out.push(',');
    }

    /// `name=VALUE,` or, in part, `name=0xVALUE/0xMASK,`.
    fn decimal(&mut self, name: &str, field: Field) {
        let Some((v, m)) = self.get(field) else { return };
        let _ = match m == field.full() {
            true => write!(self.out, "{name}={v},"),
            false => write!(self.out, "{name}={v:#x}/{m:#x},"),
        };
    }

    /// Bits of a field as a number.
    fn bits(&mut self, name: &str, field: Field, shift: u32, bits: u128) {
        let m = self.mask.get(field) >> shift & bits;
        if m != 0 {
            let v = self.key.get(field) >> shift & bits;
            let _ = write!(self.out, "{name}={v},");
        }
    }

    fn port(&mut self, name: &str, field: Field) {
        if let Some((v, _)) = self.get(field) {
            let _ = write!(self.out, "{name}=");
            show_port(self.out, OfPort(v as u32), self.ports);
            self.out.push(',');
        }
    }

    fn mac(&mut self, name: &str, field: Field) {
        let Some((v, m)) = self.get(field) else { return };
        let _ = write!(self.out, "{name}=");
        show_mac(self.out, v);
        if m != field.full() {
            self.out.push('/');
            show_mac(self.out, m);
        }
        self.out.push(',');
    }

    fn ipv4(&mut self, name: &str, field: Field) {
        let Some((v, m)) = self.get(field) else { return };
        let _ = write!(self.out, "{name}={}", Ipv4Addr::from(v as u32));
        show_ip_mask(self.out, m, 32, |m| Ipv4Addr::from(m as u32));
        self.out.push(',');
    }

    fn ipv6(&mut self, name: &str, field: Field) {
        let Some((v, m)) = self.get(field) else { return };
        let _ = write!(self.out, "{name}=");
        show_ipv6(self.out, v);
        show_ip_mask(self.out, m, 128, Ipv6Addr::from);
        self.out.push(',');
    }

    fn flags(&mut self, name: &str, field: Field, all: u128, names: &[&str]) {
        let m = self.mask.get(field) & all;
        if m != 0 {
            let _ = write!(self.out, "{name}=");
            show_flags(self.out, self.key.get(field), m, all, names);
            self.out.push(',');
        }
    }

    fn marks(&mut self) {
        self.hex(Field::PktMark);
        self.hex(Field::RecircId);
        self.hex(Field::DpHash);
        self.decimal("conj_id", Field::ConjId);
        self.hex(Field::SkbPriority);
        self.port("actset_output", Field::ActsetOutput);
    }

    fn connection(&mut self) {
        self.flags("ct_state", Field::CtState, 0xff, CT_STATE);
        self.decimal("ct_zone", Field::CtZone);
        self.hex(Field::CtMark);
        self.hex(Field::CtLabel);
        self.ipv4("ct_nw_src", Field::CtNwSrc);
        self.ipv6("ct_ipv6_src", Field::CtIpv6Src);
        self.ipv4("ct_nw_dst", Field::CtNwDst);
        self.ipv6("ct_ipv6_dst", Field::CtIpv6Dst);
        self.decimal("ct_nw_proto", Field::CtNwProto);
        self.decimal("ct_tp_src", Field::CtTpSrc);
        self.decimal("ct_tp_dst", Field::CtTpDst);
    }

    fn protocol(&mut self) {
        if let Some(word) = shorthand(self.eth_type(), matched_ip_proto(self.key, self.mask)) {
            self.out.push_str(word);
            self.out.push(',');
        }
    }

    fn registers(&mut self) {
        for n in 0..16 {
            if let Some(field) = Field::reg(n) {
                self.hex(field);
            }
        }
    }

    fn tunnel(&mut self) {
        self.hex(Field::TunId);
        self.ipv4("tun_src", Field::TunSrc);
        self.ipv4("tun_dst", Field::TunDst);
        self.ipv6("tun_ipv6_src", Field::TunIpv6Src);
        self.ipv6("tun_ipv6_dst", Field::TunIpv6Dst);
        self.decimal("tun_gbp_id", Field::TunGbpId);
        self.hex(Field::TunGbpFlags);
        self.decimal("tun_tos", Field::TunTos);
        self.decimal("tun_ttl", Field::TunTtl);
        self.flags("tun_flags", Field::TunFlags, 1, TUN_FLAGS);
    }

    fn vlan(&mut self) {
        let Some((v, m)) = self.get(Field::VlanTci) else { return };
        let present = u128::from(VLAN_PRESENT);
        let (vid, pcp) = (m & 0xfff, m & 0xe000);
        let whole = matches!(vid, 0 | 0xfff) && matches!(pcp, 0 | 0xe000) && vid | pcp != 0;
        if v & m & present != 0 && whole {
            if vid != 0 {
                let _ = write!(self.out, "dl_vlan={},", v & 0xfff);
            }
            if pcp != 0 {
                let _ = write!(self.out, "dl_vlan_pcp={},", v >> 13);
            }
        } else if m == 0xffff {
            let _ = write!(self.out, "vlan_tci={v:#06x},");
        } else {
            let _ = write!(self.out, "vlan_tci={v:#06x}/{m:#06x},");
        }
    }

    fn addresses(&mut self) {
        let ty = self.eth_type();
        if let Some(ty) = ty.filter(|_| shorthand(ty, None).is_none()) {
            let _ = write!(self.out, "dl_type={ty:#06x},");
        }
        let is_arp = matches!(ty, Some(eth_type::ARP | eth_type::RARP));
        self.ipv6("ipv6_src", Field::Ipv6Src);
        self.ipv6("ipv6_dst", Field::Ipv6Dst);
        if let Some((v, m)) = self.get(Field::Ipv6Label) {
            let _ = match m & 0xf_ffff {
                0xf_ffff => write!(self.out, "ipv6_label={v:#07x},"),
                m => write!(self.out, "ipv6_label={v:#07x}/{m:#07x},"),
            };
        }
        self.ipv4(if is_arp { "arp_spa" } else { "nw_src" }, Field::NwSrc);
        self.ipv4(if is_arp { "arp_tpa" } else { "nw_dst" }, Field::NwDst);
        let proto = matched_ip_proto(self.key, self.mask);
        if shorthand(ty, proto) == shorthand(ty, None) {
            self.decimal(if is_arp { "arp_op" } else { "nw_proto" }, Field::NwProto);
        }
        if is_arp {
            self.mac("arp_sha", Field::ArpSha);
            self.mac("arp_tha", Field::ArpTha);
        }
    }

    fn network(&mut self) {
        if self.mask.get(Field::NwTos) & 0xfc != 0 {
            let _ = write!(self.out, "nw_tos={},", self.key.get(Field::NwTos) & 0xfc);
        }
        self.bits("nw_ecn", Field::NwTos, 0, 3);
        self.decimal("nw_ttl", Field::NwTtl);
    }

    fn mpls(&mut self) {
        self.bits("mpls_label", Field::Mpls0, 12, 0xf_ffff);
        self.bits("mpls_tc", Field::Mpls0, 9, 7);
        self.bits("mpls_ttl", Field::Mpls0, 0, 0xff);
        self.bits("mpls_bos", Field::Mpls0, 8, 1);
    }

    fn frag(&mut self) {
        let m = self.mask.get(Field::NwFrag) & 3;
        let v = self.key.get(Field::NwFrag) & m;
        if let Some((name, _, _)) = FRAGS.iter().find(|f| (f.1, f.2) == (v, m)) {
            let _ = write!(self.out, "nw_frag={name},");
        } else if m != 0 {
            // Only bit 0 clear, or only "later" set: the same packets under other names.
            let name = if v == 0 { "no" } else { "later" };
            let _ = write!(self.out, "nw_frag={name},");
        }
    }

    fn transport(&mut self) {
        let proto = matched_ip_proto(self.key, self.mask);
        let ty = self.eth_type();
        match (ty, proto) {
            (Some(eth_type::IPV4), Some(ip_proto::ICMP))
            | (Some(eth_type::IPV6), Some(ip_proto::ICMPV6)) => {
                self.decimal("icmp_type", Field::TpSrc);
                self.decimal("icmp_code", Field::TpDst);
            }
            _ => {
                self.decimal("tp_src", Field::TpSrc);
                self.decimal("tp_dst", Field::TpDst);
            }
        }
        if (ty, proto) == (Some(eth_type::IPV6), Some(ip_proto::ICMPV6)) {
            self.ipv6("nd_target", Field::NdTarget);
            self.mac("nd_sll", Field::ArpSha);
            self.mac("nd_tll", Field::ArpTha);
            self.decimal("nd_reserved", Field::NdReserved);
            self.decimal("nd_options_type", Field::NdOptionsType);
        }
        if proto == Some(ip_proto::TCP) {
            self.flags("tcp_flags", Field::TcpFlags, 0xfff, TCP_FLAGS);
        }
    }
}

/// The word for an Ethernet type and, if it has one, for the IP protocol.
fn shorthand(ty: Option<u16>, proto: Option<u8>) -> Option<&'static str> {
    let word = match (ty?, proto) {
        (eth_type::IPV4, Some(ip_proto::ICMP)) => "icmp",
        (eth_type::IPV4, Some(ip_proto::TCP)) => "tcp",
        (eth_type::IPV4, Some(ip_proto::UDP)) => "udp",
        (eth_type::IPV4, Some(ip_proto::SCTP)) => "sctp",
        (eth_type::IPV4, _) => "ip",
        (eth_type::IPV6, Some(ip_proto::ICMPV6)) => "icmp6",
        (eth_type::IPV6, Some(ip_proto::TCP)) => "tcp6",
        (eth_type::IPV6, Some(ip_proto::UDP)) => "udp6",
        (eth_type::IPV6, Some(ip_proto::SCTP)) => "sctp6",
        (eth_type::IPV6, _) => "ipv6",
        (eth_type::ARP, _) => "arp",
        (eth_type::RARP, _) => "rarp",
        (eth_type::MPLS, _) => "mpls",
        (eth_type::MPLS_MCAST, _) => "mplsm",
        _ => return None,
    };
    Some(word)
}

/// Hexadecimal with `0x`; zero as `0`.
pub(crate) fn show_hex(out: &mut String, v: u128) {
    if v == 0 {
        out.push('0');
    } else {
        let _ = write!(out, "{v:#x}");
    }
}

/// `xx:xx:xx:xx:xx:xx`
pub(crate) fn show_mac(out: &mut String, v: u128) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for i in (0..6).rev() {
        let byte = (v >> (8 * i)) as usize;
        out.push(DIGITS[byte >> 4 & 15] as char);
        out.push(DIGITS[byte & 15] as char);
        if i > 0 {
            out.push(':');
        }
    }
}

/// An IPv6 address; the last 32 bits with dots where all before them are zero, as usual.
pub(crate) fn show_ipv6(out: &mut String, v: u128) {
    let _ = match u32::try_from(v) {
        Ok(v4) if v4 > 0xffff => write!(out, "::{}", Ipv4Addr::from(v4)),
        _ => write!(out, "{}", Ipv6Addr::from(v)),
    };
}

/// `/PREFIX`, or the mask as an address if it is no prefix; nothing if it is whole.
pub(crate) fn show_ip_mask<T: std::fmt::Display>(
    out: &mut String,
    mask: u128,
    bits: u32,
    address: impl Fn(u128) -> T,
) {
    let ones = mask.count_ones();
    let prefix = ones == 0 || mask.trailing_zeros() == bits - ones;
    let _ = match (ones == bits, prefix) {
        (true, _) => Ok(()),
        (false, true) => write!(out, "/{ones}"),
        (false, false) => write!(out, "/{}", address(mask)),
    };
}

/// `a|b` if all flags are matched, else `+a-b`.
pub(crate) fn show_flags(out: &mut String, value: u128, mask: u128, all: u128, names: &[&str]) {
    // A single known flag that is all there is reads better with its sign.
    if mask == all && all.count_ones() > 1 {
        return show_exact_flags(out, value & all, names);
    }
    let mut rest = mask;
    for (i, name) in names.iter().enumerate() {
        let bit = 1 << i;
        if mask & bit != 0 {
            out.push(if value & bit != 0 { '+' } else { '-' });
            out.push_str(name);
            rest &= !bit;
        }
    }
    for (sign, bits) in [('+', rest & value), ('-', rest & !value)] {
        if bits != 0 {
            let _ = write!(out, "{sign}[{bits:x}]");
        }
    }
}

/// `a|b`, `0` for none; bits without a name as `[hex]`.
pub(crate) fn show_exact_flags(out: &mut String, value: u128, names: &[&str]) {
    if value == 0 {
        return out.push('0');
    }
    let mut rest = value;
    let mut first = true;
    for (i, name) in names.iter().enumerate() {
        if value & 1 << i != 0 {
            if !std::mem::take(&mut first) {
                out.push('|');
            }
            out.push_str(name);
            rest &= !(1 << i);
        }
    }
    if rest != 0 {
        let _ = write!(out, "{}[{rest:x}]", if first { "" } else { "|" });
    }
}
