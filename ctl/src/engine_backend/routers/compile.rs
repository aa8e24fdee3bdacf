//! Which flows does a router come to?
//!
//! A router is a bridge of its own that no command on flows reaches; its ports are joined to ports of
//! users' bridges as patch ports are. [`compile`] gives its flows, from the configuration alone; the
//! flows of neighbours ([`neighbour`]) come and go while it runs. See `docs/adr/0004`.
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
use ofproto::flowmod::{Command as Do, FlowMod};
use ofproto::text::{NoNames, parse_flow};
use tunnel::neigh::Target;

use crate::config::router::Cidr;
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
const ARP: u8 = 12;
const ERROR: u8 = 13;

/// From the inside to an outside address of the inside: the source is translated too.
pub(super) const HAIRPIN: u8 = 1;
/// An ICMP error of the router's own.
pub(super) const IS_ERROR: u8 = 2;

/// Flows in the making.
#[derive(Default)]
pub(in crate::engine_backend) struct Flows {
    mods: Vec<FlowMod>,
    failed: Option<CtlError>,
}

impl Flows {
    /// A flow, its match and actions as text.
    pub(in crate::engine_backend) fn add(
        &mut self,
        table: u8,
        priority: usize,
        matches: &str,
        actions: &str,
    ) {
        let comma = if matches.is_empty() { "" } else { "," };
        let text = format!("table={table},priority={priority}{comma}{matches},actions={actions}");
        match parse_flow(&text, Do::Add, &NoNames) {
            Ok(flow) => self.mods.push(flow),
            Err(e) => {
                let error = CtlError::internal(format!("a router's flow {text}: {}", e.message));
                self.failed.get_or_insert(error);
            }
        }
    }

    /// A flow for each family.
    pub(in crate::engine_backend) fn both(
        &mut self,
        table: u8,
        priority: usize,
        matches: &str,
        actions: &str,
    ) {
        for words in [&V4, &V6] {
            let comma = if matches.is_empty() { "" } else { "," };
            self.add(table, priority, &format!("{}{comma}{matches}", words.ip), actions);
        }
    }

    /// A flow that does one thing that text has no words for, then what `actions` say.
    fn first(&mut self, table: u8, priority: usize, matches: &str, action: Action, then: &str) {
        self.add(table, priority, matches, if then.is_empty() { "drop" } else { then });
        if let Some(flow) = self.mods.last_mut() {
            flow.actions = std::iter::once(action).chain(flow.actions.iter().cloned()).collect();
        }
    }

    pub(in crate::engine_backend) fn refuse(
        &mut self,
        table: u8,
        priority: usize,
        matches: &str,
        why: Drop,
    ) {
        self.first(table, priority, matches, Action::Refuse(why), "");
    }

    /// Tell the sender; without an address to tell it from, only drop.
    fn tell(
        &mut self,
        (table, priority): (u8, usize),
        matches: &str,
        (says, from, why): (IcmpSays, Option<IpAddr>, Drop),
    ) {
        let Some(from) = from else { return self.refuse(table, priority, matches, why) };
        let error = IcmpError { says, from, table: ERROR, why };
        self.first(table, priority, matches, Action::IcmpError(Box::new(error)), "");
    }

    pub(in crate::engine_backend) fn done(self) -> Result<Vec<FlowMod>, CtlError> {
        match self.failed {
            Some(error) => Err(error),
            None => Ok(self.mods),
        }
    }
}

/// The words of a family: the packet, its source, its destination.
pub(super) struct Words {
    ip: &'static str,
    pub(super) src: &'static str,
    pub(super) dst: &'static str,
}

const V4: Words = Words { ip: "ip", src: "ip,nw_src", dst: "ip,nw_dst" };
const V6: Words = Words { ip: "ipv6", src: "ipv6,ipv6_src", dst: "ipv6,ipv6_dst" };

const fn words(v4: bool) -> &'static Words {
    if v4 { &V4 } else { &V6 }
}

pub(super) fn of(address: IpAddr) -> &'static Words {
    words(address.is_ipv4())
}

pub(super) fn go(table: u8) -> String {
    format!("resubmit(,{table})")
}

/// One way.
struct Way {
    network: Cidr,
    out: u16,
    via: Option<IpAddr>,
}

/// The router with what follows from it.
pub(super) struct Plan<'a> {
    pub(super) router: &'a Router,
    ways: Vec<Way>,
    /// The router's own addresses.
    pub(super) own: Vec<IpAddr>,
    /// Outside addresses behind which something is translated.
    pub(super) outside: Vec<IpAddr>,
}

impl<'a> Plan<'a> {
    fn new(router: &'a Router) -> Plan<'a> {
        let mut ways = Vec::new();
        for port in router.ports.values() {
            let out = port.number;
            ways.extend(port.ip.iter().map(|c| Way { network: c.network(), out, via: None }));
            let all = |v: &IpAddr| {
                let zero: Cidr = Cidr { address: *v, len: 0 };
                Way { network: zero.network(), out, via: Some(*v) }
            };
            ways.extend(port.via.iter().map(all));
        }
        for (network, via) in &router.routes {
            let Some((_, port)) = router.port_of(*via) else { continue };
            // A route of one's own takes the place of the gateway's.
            ways.retain(|w| w.network != *network || w.via.is_none());
            if !ways.iter().any(|w| w.network == *network) {
                ways.push(Way { network: *network, out: port.number, via: Some(*via) });
            }
        }
        let own = router.ports.values().flat_map(|p| p.ip.iter().map(|c| c.address)).collect();
        let dnat = router.dnat.iter().map(|d| d.external.ip());
        let mut outside: Vec<IpAddr> = router
            .snat
            .values()
            .copied()
            .chain(router.floating.keys().copied())
            .chain(dnat)
            .collect();
        outside.sort_unstable();
        outside.dedup();
        Plan { router, ways, own, outside }
    }

    pub(super) fn gateway(&self) -> Option<&RouterPort> {
        self.router.gateway().map(|(_, p)| p)
    }

    pub(super) fn inside(&self) -> impl Iterator<Item = &RouterPort> {
        self.router.ports.values().filter(|p| p.via.is_empty())
    }
}

/// A port's address of a family.
fn address(port: &RouterPort, v4: bool) -> Option<IpAddr> {
    port.ip.iter().map(|c| c.address).find(|a| a.is_ipv4() == v4)
}

/// The addresses that a port answers for: its own, and on the gateway's those that are translated.
pub fn answers(router: &Router, port: &RouterPort) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = port.ip.iter().map(|c| c.address).collect();
    if !port.via.is_empty() {
        let plan = Plan::new(router);
        all.extend(plan.outside.iter().filter(|a| !plan.own.contains(a)));
    }
    all
}

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

/// What is known of a next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// Its Ethernet address.
    Known(u64),
    /// It is asked for, and enough packets wait.
    Asked,
    /// It does not answer.
    Silent,
}

/// The flows of a next hop on a port.
///
/// # Errors
/// Internal ones only.
pub fn neighbour(port: &RouterPort, target: &Target, hop: Hop) -> Result<Vec<FlowMod>, CtlError> {
    let mut flows = Flows::default();
    let n = port.number;
    let to = match target.address {
        IpAddr::V4(a) => format!("reg0={n},reg2={:#x},ip", u32::from(a)),
        IpAddr::V6(a) => format!("reg0={n},xxreg1={:#x},ipv6", u128::from(a)),
    };
    match hop {
        Hop::Known(mac) => {
            let b = mac.to_be_bytes();
            let mac = format!(
                "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}",
                b[2], b[3], b[4], b[5], b[6], b[7]
            );
            flows.add(NEIGHBOUR, 100, &to, &format!("set_field:{mac}->eth_dst,output:{n}"));
            if target.address.is_ipv4() {
                let says = format!("in_port={n},arp,arp_spa={}", target.address);
                flows.add(IN, 200, &format!("{says},arp_op=1,arp_sha={mac}"), &go(ARP));
                flows.add(IN, 195, &says, &format!("controller(max_len=64),{}", go(ARP)));
            }
        }
        Hop::Asked => flows.refuse(NEIGHBOUR, 100, &to, Drop::NeighbourPending),
        Hop::Silent => {
            let from = address(port, target.address.is_ipv4());
            flows.tell((NEIGHBOUR, 100), &to, (IcmpSays::NoHost, from, Drop::NeighbourFailed));
        }
    }
    flows.done()
}

#[cfg(test)]
mod tests {
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
        let port = &router().ports["a"];
        for hop in [Hop::Known(0x0200_0000_0001), Hop::Asked, Hop::Silent] {
            for address in ["192.168.1.7", "fd00:1::7"] {
                assert!(!neighbour(port, &target(address), hop).expect("flows").is_empty());
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
