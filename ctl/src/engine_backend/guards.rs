//! Security groups that run: a bridge of its own between a port's device and the port's bridge.
//!
//! The instance is port 1 of it, the user's bridge port 2; no command on flows reaches it. What the
//! instance claims to be is checked first (Ethernet, ARP, neighbour messages, IP), then the tracker says
//! whether a packet belongs to a connection that a rule has let begin.

use flow::Drop;
use ofproto::action::OfPort;
use ofproto::flowmod::FlowMod;
use ofproto::snapshot::{BridgeId, BridgeSettings, Port, PortKind};
use ofproto::vlan::VlanConfig;

use super::EngineBackend;
use super::routers::Flows;
use crate::config::Config;
use crate::config::router::Cidr;
use crate::config::security::{Rule, SecurityGroup, Way};
use crate::error::CtlError;

const IN: u8 = 0;
/// What the instance sends, tracked.
const SENT: u8 = 1;
/// What is sent to it.
const TO: u8 = 2;
/// The same, tracked.
const RECEIVED: u8 = 3;

/// The port that the instance is.
pub(super) const INSTANCE: OfPort = OfPort(1);
/// The port that leads to the user's bridge.
pub(super) const BRIDGE: OfPort = OfPort(2);

/// The flows of a port's security group.
///
/// # Errors
/// Internal ones only.
fn compile(group: &SecurityGroup) -> Result<Vec<FlowMod>, CtlError> {
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
    let mut ips = group.ip.clone();
    if ips.iter().any(|c| c.address.is_ipv6()) {
        ips.push(link_local(mac.bytes()));
    }
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

/// The address that a host makes itself from its Ethernet address (RFC 4291, appendix A).
fn link_local([a, b, c, d, e, f]: [u8; 6]) -> Cidr {
    let low = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    let address = std::net::Ipv6Addr::from(0xfe80_u128 << 112 | u128::from(low));
    Cidr { address: address.into(), len: 128 }
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

impl EngineBackend {
    /// Make the security groups of open ports those of a configuration.
    pub(super) fn set_guards(&mut self, config: &Config) -> Result<(), CtlError> {
        let now = self.now();
        let names: Vec<String> = self.open.keys().cloned().collect();
        for name in names {
            let wanted = config.security_groups.get(&name);
            let Some(opened) = self.open.get_mut(&name) else { continue };
            let id = match (wanted, opened.guard) {
                (None, None) => continue,
                (None, Some(id)) => {
                    opened.guard = None;
                    self.switch.remove_bridge(id);
                    self.place(&name);
                    continue;
                }
                (Some(_), Some(id)) => id,
                (Some(_), None) => {
                    let bridge = format!("guard:{name}");
                    let id = self.switch.add_bridge(&bridge, BridgeSettings::default());
                    let none =
                        || CtlError::internal(format!("no room for the guard of \"{name}\""));
                    *opened.guard.insert(id.ok_or_else(none)?)
                }
            };
            let Some(group) = wanted else { continue };
            let mods = compile(group)?;
            let done = self.switch.replace_flows(id, &mods, now);
            done.map_err(|(i, e)| CtlError::internal(format!("a guard's flow {i}: {e}")))?;
            self.place(&name);
        }
        Ok(())
    }

    /// Bring an open port's entry in its bridge up to date, and that of its guard.
    pub(super) fn place(&mut self, name: &str) {
        let Some(opened) = self.open.get(name) else { return };
        let port = opened.port(name);
        let (bridge, ofport) = (opened.bridge, opened.ofport);
        let Some(guard) = opened.guard else { return self.switch.set_port(bridge, port) };
        let joined = |at: OfPort, to: (BridgeId, OfPort), vlan: VlanConfig| Port {
            ofport: at,
            kind: PortKind::Patch(Some(to)),
            vlan,
            ..port.clone()
        };
        // The device leaves the bridge before it comes to the guard.
        self.switch.set_port(bridge, joined(ofport, (guard, BRIDGE), port.vlan.clone()));
        self.switch.set_port(guard, joined(BRIDGE, (bridge, ofport), VlanConfig::default()));
        let vlan = VlanConfig::default();
        self.switch.set_port(guard, Port { ofport: INSTANCE, vlan, ..port });
    }
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
