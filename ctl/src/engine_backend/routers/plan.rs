//! A router with what follows from it: ways, own addresses, outside addresses.

use std::net::IpAddr;

use crate::config::router::Cidr;
use crate::config::{Router, RouterPort};

/// One way.
pub(super) struct Way {
    pub(super) network: Cidr,
    pub(super) out: u16,
    pub(super) via: Option<IpAddr>,
}

/// The router with what follows from it.
pub(super) struct Plan<'a> {
    pub(super) router: &'a Router,
    pub(super) ways: Vec<Way>,
    /// The router's own addresses.
    pub(super) own: Vec<IpAddr>,
    /// Outside addresses behind which something is translated.
    pub(super) outside: Vec<IpAddr>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(router: &'a Router) -> Plan<'a> {
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
pub(super) fn address(port: &RouterPort, v4: bool) -> Option<IpAddr> {
    port.ip.iter().map(|c| c.address).find(|a| a.is_ipv4() == v4)
}

/// The addresses that a port answers for: its own, where routers are advertised its link-local one, and on
/// the gateway's those that are translated.
pub fn answers(router: &Router, port: &RouterPort) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = port.ip.iter().map(|c| c.address).collect();
    all.extend(port.ra.map(|_| IpAddr::from(port.mac.link_local())));
    if !port.via.is_empty() {
        let plan = Plan::new(router);
        all.extend(plan.outside.iter().filter(|a| !plan.own.contains(a)));
    }
    all
}
