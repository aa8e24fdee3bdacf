//! Which flows does a router come to?
//!
//! A router is a bridge of its own that no command on flows reaches; its ports are joined to ports of
//! users' bridges as patch ports are. [`compile`] gives its flows, from the configuration alone; the
//! flows of neighbours ([`super::next_hop`]) come and go while it runs. See `docs/adr/0004`.
//!
//! ```text
//! IN ─ARP─▶ ARP                                   answered here
//!  └─IP─▶ SOURCE ▶ TTL ▶ LOCAL ─────────────────▶ ROUTE ▶ MTU ▶ SNAT ────────────────▶ OUT ▶ NEIGHBOUR
//!           │martian  │     │outside address        ▲           │from inside, to outside ▲
//!           │spoofed  │     ▼                       │           ▼                        │
//!           ▼         │  [UNHAIRPIN ▶] DNAT ────────┘        SNAT_NEW ───────────────────┘
//!          drop       └───▶ ERROR ▶ LOCAL
//! ```
//!
//! `reg0` is the port that the packet leaves by, `reg1` has [`HAIRPIN`] and [`IS_ERROR`], `reg2` and
//! `xxreg1` the next hop.

use std::net::IpAddr;

use flow::Drop;
use ofproto::action::{Action, IcmpError, IcmpSays};
use ofproto::flowmod::FlowMod;

use super::flows::{Flows, V4, V6, go, of, words};
use super::plan::{Plan, address, answers};
use crate::config::{Router, RouterPort};
use crate::error::CtlError;

/// What is for the router at all.
pub const IN: u8 = 0;
const SOURCE: u8 = 1;
const TTL: u8 = 2;
pub(super) const LOCAL: u8 = 3;
pub(super) const UNHAIRPIN: u8 = 4;
pub(super) const DNAT: u8 = 5;
pub(super) const ROUTE: u8 = 6;
const MTU: u8 = 7;
pub(super) const SNAT: u8 = 8;
pub(super) const SNAT_NEW: u8 = 9;
pub(super) const OUT: u8 = 10;
/// The next hop's address; what misses waits for it.
pub const NEIGHBOUR: u8 = 11;
pub(super) const ARP: u8 = 12;
pub(super) const ERROR: u8 = 13;

/// From the inside to an outside address of the inside: the source is translated too.
pub(super) const HAIRPIN: u8 = 1;
/// An ICMP error of the router's own.
pub(super) const IS_ERROR: u8 = 2;

/// The flows of a router, those of its neighbours aside.
///
/// # Errors
/// Internal ones only: the configuration was checked before.
pub fn compile(router: &Router) -> Result<Vec<FlowMod>, CtlError> {
    let plan = Plan::new(router);
    let mut flows = Flows::default();
    for port in router.ports.values() {
        admit(&mut flows, router, port);
    }
    flows.refuse(IN, 0, "", Drop::NotForRouter);
    flows.refuse(ARP, 0, "", Drop::NotForRouter);
    sources(&mut flows, &plan);
    local(&mut flows, &plan);
    flows.add(ERROR, 0, "", &format!("set_field:{IS_ERROR}->reg1,{}", go(LOCAL)));
    routes(&mut flows, &plan);
    leave(&mut flows, &plan);
    if router.translates() {
        super::nat::incoming(&mut flows, &plan);
        super::nat::outgoing(&mut flows, &plan);
    }
    flows.done()
}

/// What a port takes in: ARP and neighbour messages, and packets to its Ethernet address.
fn admit(flows: &mut Flows, router: &Router, port: &RouterPort) {
    let (n, mac) = (port.number, port.mac);
    flows.add(IN, 210, &format!("in_port={n},arp,arp_op=2,dl_dst={mac}"), "controller(max_len=64)");
    for cidr in port.ip.iter().filter(|c| c.address.is_ipv4()) {
        let network = cidr.network();
        flows.add(IN, 190, &format!("in_port={n},arp,arp_op=1,arp_spa={network}"), &go(ARP));
    }
    flows.add(IN, 190, &format!("in_port={n},arp,arp_op=1,arp_spa=0.0.0.0"), &go(ARP));
    for address in answers(router, port) {
        if address.is_ipv4() {
            let asked = format!("in_port={n},arp,arp_op=1,arp_tpa={address}");
            let answer = format!(
                "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],set_field:{mac}->eth_src,set_field:2->arp_op,\
                 move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[],set_field:{mac}->arp_sha,\
                 move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[],set_field:{address}->arp_spa,IN_PORT"
            );
            flows.add(ARP, 10, &asked, &answer);
            // Somebody else says that it is his, or asks from a network that is not there.
            flows.refuse(IN, 220, &format!("in_port={n},arp,arp_spa={address}"), Drop::Spoofed);
            flows.refuse(IN, 180, &format!("in_port={n},arp,arp_tpa={address}"), Drop::Spoofed);
        } else {
            let solicits = format!("in_port={n},icmp6,icmp_type=135,nd_target={address}");
            flows.add(IN, 200, &solicits, "controller(max_len=256)");
        }
    }
    let advertises = format!("in_port={n},icmp6,icmp_type=136,dl_dst={mac}");
    flows.add(IN, 200, &advertises, "controller(max_len=256)");
    if port.ra.is_some() {
        let asks = format!("in_port={n},icmp6,icmp_type=133,icmp_code=0,nw_ttl=255");
        flows.add(IN, 200, &asks, "controller(max_len=256)");
    }
    for ip in [V4.ip, V6.ip] {
        flows.add(IN, 100, &format!("in_port={n},dl_dst={mac},{ip}"), &go(SOURCE));
    }
}

/// Where packets may come from, and how long they may live.
fn sources(flows: &mut Flows, plan: &Plan<'_>) {
    for net in ["0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4"] {
        flows.refuse(SOURCE, 1000, &format!("ip,nw_src={net}"), Drop::Martian);
    }
    for net in ["0.0.0.0/8", "127.0.0.0/8", "240.0.0.0/4"] {
        flows.refuse(SOURCE, 990, &format!("ip,nw_dst={net}"), Drop::Martian);
    }
    flows.refuse(SOURCE, 980, "ip,nw_dst=224.0.0.0/4", Drop::NotForRouter);
    for net in ["::", "::1", "ff00::/8", "fe80::/10"] {
        flows.refuse(SOURCE, 1000, &format!("ipv6,ipv6_src={net}"), Drop::Martian);
    }
    for net in ["::", "::1", "fe80::/10"] {
        flows.refuse(SOURCE, 990, &format!("ipv6,ipv6_dst={net}"), Drop::Martian);
    }
    flows.refuse(SOURCE, 980, "ipv6,ipv6_dst=ff00::/8", Drop::NotForRouter);
    let mut mine: Vec<IpAddr> = plan.own.iter().chain(&plan.outside).copied().collect();
    mine.sort_unstable();
    mine.dedup();
    for address in mine {
        flows.refuse(SOURCE, 970, &format!("{}={address}", of(address).src), Drop::Spoofed);
    }
    for way in &plan.ways {
        let (src, len) = (of(way.network.address).src, usize::from(way.network.len));
        let from = format!("{src}={}", way.network);
        flows.add(SOURCE, 2 * len + 2, &format!("in_port={},{from}", way.out), &go(TTL));
        flows.refuse(SOURCE, 2 * len + 1, &from, Drop::Spoofed);
    }
    flows.refuse(SOURCE, 0, "", Drop::Spoofed);

    for address in &plan.own {
        flows.add(TTL, 100, &format!("{}={address}", of(*address).dst), &go(LOCAL));
    }
    for port in plan.router.ports.values() {
        for v4 in [true, false] {
            let says = (IcmpSays::TimeExceeded, address(port, v4), Drop::TtlExpired);
            for ttl in [0, 1] {
                let old = format!("in_port={},{},nw_ttl={ttl}", port.number, words(v4).ip);
                flows.tell((TTL, 50), &old, says);
            }
        }
    }
    flows.add(TTL, 0, "", &go(LOCAL));
}

/// What is for the router itself.
fn local(flows: &mut Flows, plan: &Plan<'_>) {
    const BACK: &str = "move:NXM_OF_ETH_DST[]->OXM_OF_PKT_REG6[0..47],\
                        move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],\
                        move:OXM_OF_PKT_REG6[0..47]->NXM_OF_ETH_SRC[],set_field:64->nw_ttl,IN_PORT";
    for own in &plan.own {
        let (echo, answer) = if own.is_ipv4() {
            let swap = "move:NXM_OF_IP_SRC[]->NXM_OF_IP_DST[]";
            (
                format!("icmp,icmp_type=8,icmp_code=0,nw_dst={own}"),
                format!("{swap},set_field:{own}->nw_src,set_field:0->icmp_type,{BACK}"),
            )
        } else {
            let swap = "move:NXM_NX_IPV6_SRC[]->NXM_NX_IPV6_DST[]";
            (
                format!("icmp6,icmp_type=128,icmp_code=0,ipv6_dst={own}"),
                format!("{swap},set_field:{own}->ipv6_src,set_field:129->icmpv6_type,{BACK}"),
            )
        };
        flows.add(LOCAL, 300, &echo, &answer);
        deliver(flows, LOCAL, *own, "");
        flows.refuse(ROUTE, 1000, &format!("{}={own}", of(*own).dst), Drop::RouterLocal);
    }
    flows.add(LOCAL, 0, "", &go(ROUTE));
}

/// What the router itself does not offer. `state` is more of the match.
pub(super) fn deliver(flows: &mut Flows, table: u8, own: IpAddr, state: &str) {
    let to = format!("{state}{}={own}", of(own).dst);
    let icmp = if own.is_ipv4() { "nw_proto=1" } else { "nw_proto=58" };
    flows.refuse(table, 40, &format!("{to},{icmp}"), Drop::RouterLocal);
    flows.tell((table, 30), &to, (IcmpSays::NoPort, Some(own), Drop::RouterLocal));
}

/// Where packets go.
fn routes(flows: &mut Flows, plan: &Plan<'_>) {
    for cidr in plan.router.ports.values().flat_map(|p| &p.ip) {
        if let Some(all) = cidr.broadcast() {
            flows.refuse(ROUTE, 900, &format!("ip,nw_dst={all}"), Drop::NotForRouter);
        }
    }
    for way in &plan.ways {
        let v4 = way.network.address.is_ipv4();
        let hop = match way.via {
            Some(IpAddr::V4(via)) => format!("set_field:{:#x}->reg2", u32::from(via)),
            Some(IpAddr::V6(via)) => format!("set_field:{:#x}->xxreg1", u128::from(via)),
            None if v4 => "move:NXM_OF_IP_DST[]->NXM_NX_REG2[]".to_owned(),
            None => "move:NXM_NX_IPV6_DST[]->NXM_NX_XXREG1[]".to_owned(),
        };
        let to = format!("{}={}", words(v4).dst, way.network);
        let actions = format!("set_field:{}->reg0,{hop},{}", way.out, go(MTU));
        flows.add(ROUTE, 10 + 2 * usize::from(way.network.len), &to, &actions);
    }
    for port in plan.router.ports.values() {
        for v4 in [true, false] {
            let says = (IcmpSays::NoRoute, address(port, v4), Drop::NoRoute);
            flows.tell((ROUTE, 1), &format!("in_port={},{}", port.number, words(v4).ip), says);
        }
    }
    flows.refuse(ROUTE, 0, "", Drop::NoRoute);
    let ports = || plan.router.ports.values();
    for (from, to) in ports().flat_map(|a| ports().map(move |b| (a, b))) {
        for v4 in [true, false] {
            let Some(src) = address(from, v4).filter(|_| to.mtu < from.mtu) else { continue };
            let pair = format!("in_port={},reg0={},{}", from.number, to.number, words(v4).ip);
            let says = IcmpSays::TooBig(to.mtu);
            let error = IcmpError { says, from: src, table: ERROR, why: Drop::TooBig };
            flows.first(MTU, 10, &pair, Action::IcmpError(Box::new(error)), &go(SNAT));
        }
    }
    flows.add(MTU, 0, "", &go(SNAT));
}

/// The last steps: time to live, Ethernet addresses.
fn leave(flows: &mut Flows, plan: &Plan<'_>) {
    flows.add(SNAT, 0, "", &go(OUT));
    for port in plan.router.ports.values() {
        let out = format!("reg0={}", port.number);
        // A packet may leave by the port that it came by.
        let actions = format!(
            "set_field:{}->eth_src,load:0xffff->NXM_OF_IN_PORT[],{}",
            port.mac,
            go(NEIGHBOUR)
        );
        flows.first(OUT, 10, &out, Action::DecTtl(Some(Box::default())), &actions);
        for ip in [V4.ip, V6.ip] {
            flows.add(NEIGHBOUR, 1, &format!("{out},{ip}"), "controller(max_len=65535)");
        }
    }
    flows.refuse(OUT, 0, "", Drop::NoRoute);
    flows.refuse(NEIGHBOUR, 0, "", Drop::NoRoute);
}

#[cfg(test)]
mod tests {
    use tunnel::neigh::Target;

    use super::super::next_hop::{self, Hop};
    use super::*;
    use crate::config::{Config, apply};

    /// A router with all that there is.
    fn router() -> Router {
        let mut config = Config::default();
        for command in [
            r#"{"command":"add-br","bridge":"i"}"#,
            r#"{"command":"add-router","router":"r"}"#,
            r#"{"command":"add-router-port","router":"r","bridge":"i","port":"a",
                "settings":["ip=192.168.1.1/24,fd00:1::1/64","tag=1","mtu=1450"]}"#,
            r#"{"command":"add-router-port","router":"r","bridge":"i","port":"b",
                "settings":["ip=192.168.2.1/24"]}"#,
            r#"{"command":"set-gateway","router":"r","bridge":"i","port":"x",
                "settings":["ip=203.0.113.2/24,2001:db8::2/64","via=203.0.113.1,2001:db8::1"]}"#,
            r#"{"command":"add-route","router":"r","prefix":"10.0.0.0/8","via":"192.168.2.9"}"#,
            r#"{"command":"add-snat","router":"r","prefix":"192.168.1.0/24","address":"203.0.113.2"}"#,
            r#"{"command":"add-floating-ip","router":"r","external":"203.0.113.9","internal":"192.168.1.9"}"#,
            r#"{"command":"add-floating-ip","router":"r","external":"2001:db8::9","internal":"fd00:1::9"}"#,
            r#"{"command":"add-dnat","router":"r","proto":"tcp","external":"203.0.113.2:8080",
                "internal":"192.168.1.8:80"}"#,
            r#"{"command":"add-dnat","router":"r","proto":"udp","external":"[2001:db8::2]:53",
                "internal":"[fd00:1::8]:53"}"#,
        ] {
            let json = serde_json::from_str(command).expect("json");
            let command = crate::command::Command::from_json(json).expect("a command");
            apply(&mut config, &command).unwrap_or_else(|e| panic!("{}: {e}", command.text()));
        }
        config.finish().expect("a good configuration");
        config.routers["r"].clone()
    }

    #[test]
    fn every_flow_is_one_and_no_two_are_the_same() {
        let flows = compile(&router()).expect("flows");
        let mut seen = std::collections::HashSet::new();
        for flow in &flows {
            let key = (flow.table, flow.priority, flow.matches.clone());
            assert!(seen.insert(key), "twice: table {:?}, {:?}", flow.table, flow.matches);
        }
        assert!(flows.len() > 100);
        let target = |a: &str| Target { link: 1, address: a.parse().expect("an address") };
        let router = router();
        let port = &router.ports["a"];
        for hop in [Hop::Known(0x0200_0000_0001), Hop::Asked, Hop::Silent] {
            for address in ["192.168.1.7", "fd00:1::7"] {
                assert!(
                    !next_hop::flows(&router, port, &target(address), hop)
                        .expect("flows")
                        .is_empty()
                );
            }
        }
    }

    #[test]
    fn nothing_is_tracked_where_nothing_is_translated() {
        let mut router = router();
        (router.snat, router.floating, router.dnat) = Default::default();
        let flows = compile(&router).expect("flows");
        assert!(!flows.iter().flat_map(|f| f.actions.iter()).any(|a| matches!(a, Action::Ct(_))));
    }
}
