//! Which flows does a security group come to?
//!
//! The instance is port 1 of the guard's bridge, the user's bridge port 2. What the instance claims to be is
//! checked first (Ethernet, ARP, neighbour messages, IP), then the tracker says whether a packet belongs to a
//! connection that a rule has let begin. [`lets`] says the same of a connection that is there.

use conntrack::Tuple;
use flow::Drop;
use flow::extract::ip_proto;
use ofproto::flowmod::FlowMod;

use crate::config::router::Cidr;
use crate::config::security::{Rule, SecurityGroup, Way};
use crate::engine_backend::routers::Flows;
use crate::error::CtlError;

const IN: u8 = 0;
/// What the instance sends, tracked.
const SENT: u8 = 1;
/// What is sent to it.
const TO: u8 = 2;
/// The same, tracked.
const RECEIVED: u8 = 3;

/// The flows of a port's security group.
///
/// # Errors
/// Internal ones only.
pub(super) fn compile(group: &SecurityGroup) -> Result<Vec<FlowMod>, CtlError> {
    let mut flows = Flows::default();
    claims(&mut flows, group);
    let (zone, mac) = (group.zone(), group.mac);
    let track = |table: u8| format!("ct(zone={zone},table={table})");

    // To the instance.
    for to in [format!("dl_dst={mac}"), "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00".to_owned()] {
        flows.add(IN, 50, &format!("in_port=2,{to}"), &format!("resubmit(,{TO})"));
    }
    flows.refuse(IN, 0, "", Drop::SecurityGroup);
    flows.add(TO, 100, "arp", "output:1");
    for ty in 130..=136 {
        flows.add(TO, 100, &format!("icmp6,icmp_type={ty}"), "output:1");
    }
    flows.add(TO, 100, "udp,tp_src=67,tp_dst=68", "output:1");
    flows.add(TO, 100, "udp6,tp_src=547,tp_dst=546", "output:1");
    flows.both(TO, 50, "", &track(RECEIVED));
    flows.refuse(TO, 0, "", Drop::SecurityGroup);

    for (table, way, out) in [(SENT, Way::Out, 2), (RECEIVED, Way::In, 1)] {
        flows.refuse(table, 100, "ct_state=+inv+trk", Drop::CtInvalid);
        flows.add(table, 90, "ct_state=-new+est+trk", &format!("output:{out}"));
        flows.add(table, 90, "ct_state=-new+rel+trk", &format!("output:{out}"));
        for rule in group.rules.iter().filter(|r| r.way == way) {
            let pass = format!("ct(commit,zone={zone}),output:{out}");
            for matches in rule_matches(rule) {
                flows.add(table, 50, &format!("ct_state=+new+trk,{matches}"), &pass);
            }
        }
        flows.refuse(table, 0, "", Drop::SecurityGroup);
    }
    flows.done()
}

/// What the instance may claim to be.
fn claims(flows: &mut Flows, group: &SecurityGroup) {
    let (zone, mac) = (group.zone(), group.mac);
    let from = format!("in_port=1,dl_src={mac}");
    let track = format!("ct(zone={zone},table={SENT})");
    let ips = addresses(group);
    // Servers' and routers' parts are not an instance's to play.
    flows.refuse(IN, 120, "in_port=1,udp,tp_src=67,tp_dst=68", Drop::Spoofed);
    flows.refuse(IN, 120, "in_port=1,udp6,tp_src=547,tp_dst=546", Drop::Spoofed);
    flows.refuse(IN, 120, "in_port=1,icmp6,icmp_type=134", Drop::Spoofed);
    flows.add(IN, 100, &format!("{from},udp,nw_src=0.0.0.0,tp_src=68,tp_dst=67"), "output:2");
    flows.add(IN, 100, &format!("{from},arp,arp_sha={mac},arp_spa=0.0.0.0"), "output:2");
    flows.add(IN, 100, &format!("{from},icmp6,icmp_type=135,ipv6_src=::"), "output:2");
    flows.add(IN, 100, &format!("{from},icmp6,icmp_type=143"), "output:2");
    for ip in &ips {
        if ip.address.is_ipv4() {
            let arp = format!("{from},arp,arp_sha={mac},arp_spa={ip}");
            flows.add(IN, 100, &arp, "output:2");
            flows.add(IN, 80, &format!("{from},ip,nw_src={ip}"), &track);
        } else {
            let advertises = format!("{from},icmp6,icmp_type=136,nd_target={ip}");
            flows.add(IN, 100, &advertises, "output:2");
            for ty in [133, 135] {
                let asks = format!("{from},icmp6,icmp_type={ty},ipv6_src={ip}");
                flows.add(IN, 100, &asks, "output:2");
            }
            flows.add(IN, 80, &format!("{from},ipv6,ipv6_src={ip}"), &track);
        }
    }
    flows.refuse(IN, 90, "in_port=1,icmp6,icmp_type=136", Drop::Spoofed);
    flows.refuse(IN, 10, "in_port=1", Drop::Spoofed);
}

/// What the instance may send from.
fn addresses(group: &SecurityGroup) -> Vec<Cidr> {
    let mut ips = group.ip.clone();
    if ips.iter().any(|c| c.address.is_ipv6()) {
        ips.push(Cidr { address: group.mac.link_local().into(), len: 128 });
    }
    ips
}

/// Whether a connection with this tuple, as it began, could begin under a group's rules.
pub(super) fn lets(group: &SecurityGroup, began: &Tuple) -> bool {
    let (src, dst) = (began.src_ip(), began.dst_ip());
    let (way, remote) = match addresses(group).iter().any(|c| c.holds(src)) {
        true => (Way::Out, dst),
        false => (Way::In, src),
    };
    let is_proto = |name: &str| match name {
        "tcp" => began.proto() == ip_proto::TCP,
        "udp" => began.proto() == ip_proto::UDP,
        _ => began.is_icmp(),
    };
    group.rules.iter().any(|r| {
        r.way == way
            && r.proto.as_deref().is_none_or(is_proto)
            && r.ports.is_none_or(|(first, last)| (first..=last).contains(&began.dport()))
            && r.remote.is_none_or(|c| c.holds(remote))
    })
}

/// The matches that a rule comes to.
fn rule_matches(rule: &Rule) -> Vec<String> {
    let families: &[bool] = match &rule.remote {
        None => &[true, false],
        Some(c) if c.address.is_ipv4() => &[true],
        Some(_) => &[false],
    };
    let mut out = Vec::new();
    for v4 in families {
        let proto = match (rule.proto.as_deref(), v4) {
            (None, true) => "ip",
            (None, false) => "ipv6",
            (Some("tcp"), true) => "tcp",
            (Some("tcp"), false) => "tcp6",
            (Some("udp"), true) => "udp",
            (Some("udp"), false) => "udp6",
            (Some(_), true) => "icmp",
            (Some(_), false) => "icmp6",
        };
        let end = match (rule.way, v4) {
            (Way::Out, true) => "nw_dst",
            (Way::In, true) => "nw_src",
            (Way::Out, false) => "ipv6_dst",
            (Way::In, false) => "ipv6_src",
        };
        let mut base = proto.to_owned();
        if let Some(remote) = rule.remote.as_ref().filter(|c| c.len > 0) {
            base.push_str(&format!(",{end}={remote}"));
        }
        match rule.ports {
            None => out.push(base),
            Some((first, last)) => {
                let all = port_masks(first, last).into_iter();
                out.extend(all.map(|(p, m)| format!("{base},tp_dst={p:#x}/{m:#x}")));
            }
        }
    }
    out
}

/// A range of ports as values under masks.
fn port_masks(first: u16, last: u16) -> Vec<(u16, u16)> {
    let (mut at, end) = (u32::from(first), u32::from(last));
    let mut out = Vec::new();
    while at <= end {
        let mut size = if at == 0 { 1 << 16 } else { at & at.wrapping_neg() };
        while at + size - 1 > end {
            size >>= 1;
        }
        out.push((at as u16, !(size - 1) as u16));
        at += size;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_ports_are_covered_exactly() {
        for (first, last) in [(1, 1), (1, 65535), (80, 90), (1000, 1999), (65535, 65535)] {
            let masks = port_masks(first, last);
            for port in 0..=u16::MAX {
                let hits = masks.iter().filter(|(p, m)| port & m == *p).count();
                assert_eq!(hits, usize::from((first..=last).contains(&port)), "{port}");
            }
        }
    }

    #[test]
    fn a_connection_needs_a_rule_of_its_own_way() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let rules = [(Way::In, "proto=tcp port=80-90 remote=10.0.0.0/8"), (Way::Out, "proto=icmp")];
        let group = SecurityGroup {
            number: 0,
            mac: "02:00:00:00:00:01".parse().expect("an address"),
            ip: vec!["192.168.1.5".parse().expect("v4")],
            rules: rules.map(|(w, t)| Rule::read(w, &words(t)).expect("a rule")).into(),
        };
        let tuple = |proto, src: &str, dst: &str, dport| {
            let ip = |text: &str| text.parse::<std::net::Ipv4Addr>().expect("an address").into();
            Tuple::v4(0xf000, proto, ip(src), ip(dst), 4000, dport)
        };
        for (proto, src, dst, dport, allowed) in [
            (6, "10.1.2.3", "192.168.1.5", 80, true),
            (6, "10.1.2.3", "192.168.1.5", 91, false),
            (17, "10.1.2.3", "192.168.1.5", 80, false),
            (6, "11.1.2.3", "192.168.1.5", 80, false),
            (6, "192.168.1.5", "10.1.2.3", 80, false),
            (1, "192.168.1.5", "10.1.2.3", 0, true),
            (1, "10.1.2.3", "192.168.1.5", 0, false),
        ] {
            let began = tuple(proto, src, dst, dport);
            assert_eq!(lets(&group, &began), allowed, "{began:?}");
        }
    }

    #[test]
    fn every_rule_compiles() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let rules = [
            (Way::In, "proto=tcp port=80-90"),
            (Way::In, "proto=icmp remote=10.0.0.0/8"),
            (Way::Out, "remote=fd00::/8"),
            (Way::Out, "proto=udp port=53 remote=0.0.0.0/0"),
        ];
        let group = SecurityGroup {
            number: 3,
            mac: "02:00:00:00:00:01".parse().expect("an address"),
            ip: vec!["192.168.1.5".parse().expect("v4"), "fd00::5".parse().expect("v6")],
            rules: rules.map(|(w, t)| Rule::read(w, &words(t)).expect("a rule")).into(),
        };
        assert!(compile(&group).expect("flows").len() > 40);
        assert!(Rule::read(Way::In, &words("proto=icmp port=80")).is_err());
    }
}
