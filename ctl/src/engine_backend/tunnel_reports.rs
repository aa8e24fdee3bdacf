//! Answers to what is asked of tunnels, their routes and their neighbours.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering;

use ofproto::rule::RuleStats;
use ofproto::snapshot::{Bridge, PortKind};
use ofproto::underlay::{TunnelPort, is_own};
use tunnel::config::{Key, Local, Remote};
use tunnel::neigh::Target;
use tunnel::route::{Action, Origin};

use super::EngineBackend;
use super::reports::mac_text;
use crate::config::Config;
use crate::error::CtlError;
use crate::report::{self, LinkState, PortState, TunnelState};

fn packets(stats: &RuleStats) -> u64 {
    stats.packets.load(Ordering::Relaxed)
}

fn bytes(stats: &RuleStats) -> u64 {
    stats.bytes.load(Ordering::Relaxed)
}

fn key_text(key: Key) -> Option<String> {
    match key {
        Key::None => None,
        Key::Flow => Some("flow".to_owned()),
        Key::Number(n) => Some(n.to_string()),
    }
}

/// How a tunnel's packets go, if they do.
struct Way {
    state: TunnelState,
    path: Option<report::TunnelPath>,
    error: Option<String>,
}

impl EngineBackend {
    /// All tunnel ports with their bridges and names.
    fn tunnel_ports(&self) -> impl Iterator<Item = (&Bridge, &str, &TunnelPort)> {
        let bridges = self.switch.preview().bridges.iter().flatten();
        bridges.flat_map(|b| {
            b.ports.values().filter_map(|p| match &p.kind {
                PortKind::Tunnel(t) => Some((&**b, &*p.name, &**t)),
                _ => None,
            })
        })
    }

    pub(super) fn tunnels(
        &mut self,
        config: &Config,
        only: Option<&str>,
    ) -> Result<report::TunnelsReport, CtlError> {
        if let Some(name) = only {
            let kind = config.port(name)?.1.port_type();
            if !kind.is_tunnel() {
                return Err(CtlError::invalid(format!(
                    "port \"{name}\" is of type {kind}, no tunnel"
                )));
            }
        }
        self.count_all()?;
        let now = self.now();
        let all = self.tunnel_ports().filter(|(_, name, _)| only.is_none_or(|o| o == *name));
        let mut tunnels: Vec<_> =
            all.map(|(bridge, name, t)| self.tunnel_report(bridge, name, t, now)).collect();
        tunnels.sort_by(|a, b| (&a.bridge, &a.port).cmp(&(&b.bridge, &b.port)));
        Ok(report::TunnelsReport { tunnels })
    }

    fn tunnel_report(
        &self,
        bridge: &Bridge,
        name: &str,
        t: &TunnelPort,
        now: u64,
    ) -> report::TunnelReport {
        let (c, n) = (&t.config, &t.counters);
        let way = self.tunnel_way(t);
        let failures =
            [("no route", &*n.no_route), ("too big", &n.too_big), ("next hop unknown", &n.waited)];
        let last = failures.into_iter().map(|(why, s)| (s.used.load(Ordering::Relaxed), why)).max();
        report::TunnelReport {
            bridge: bridge.name.to_string(),
            port: name.to_owned(),
            kind: c.kind.name().to_owned(),
            remote: match c.remote {
                Remote::Flow => "flow".to_owned(),
                Remote::Address(a) => a.to_string(),
            },
            local: match c.local {
                Local::Any => "any".to_owned(),
                Local::Flow => "flow".to_owned(),
                Local::Address(a) => a.to_string(),
            },
            in_key: key_text(c.in_key),
            out_key: key_text(c.out_key),
            udp_port: (c.dst_port != 0).then_some(c.dst_port),
            state: way.state,
            path: way.path,
            rx_packets: packets(&n.received),
            rx_bytes: bytes(&n.received),
            tx_packets: packets(&n.sent).saturating_sub(packets(&n.too_big)),
            tx_bytes: bytes(&n.sent).saturating_sub(bytes(&n.too_big)),
            waited: packets(&n.waited),
            no_route: packets(&n.no_route),
            too_big: packets(&n.too_big),
            fragmented: packets(&n.fragmented),
            error: way.error,
            last_error: last.filter(|(at, _)| *at > 0).map(|(at, why)| report::TunnelError {
                reason: why.to_owned(),
                age: now.saturating_sub(at) as f64 / 1000.0,
            }),
        }
    }

    /// The way to a tunnel's remote address, as translation would find it.
    fn tunnel_way(&self, t: &TunnelPort) -> Way {
        let snapshot = self.switch.preview();
        let underlay = &snapshot.underlay;
        let Remote::Address(dst) = t.config.remote else {
            return Way { state: TunnelState::Flow, path: None, error: None };
        };
        let down = |error: String| Way { state: TunnelState::Down, path: None, error: Some(error) };
        let src = match t.config.local {
            Local::Address(a) => Some(a),
            _ => None,
        };
        let Some(path) = underlay.path(dst, src) else {
            return down(format!("no route to {dst}"));
        };
        let link = underlay.kernel.links.get(&path.link);
        let Some((at, link)) = underlay.ports.get(&path.link).zip(link) else {
            let name = link.map_or("?", |l| &l.name);
            return down(format!("the route to {dst} leads to {name}, which is no port"));
        };
        let target = Target { link: path.link, address: path.next_hop };
        let mac = underlay.neighbours.get(&target).map(|n| n.mac);
        let failed = self
            .below
            .own
            .iter()
            .any(|n| n.target == target && n.state == tunnel::neigh::State::Failed);
        let state = match mac {
            Some(_) => TunnelState::Up,
            None if failed => TunnelState::Down,
            None => TunnelState::Unresolved,
        };
        let room = overhead(t.config.kind, &t.config, dst);
        let path = report::TunnelPath {
            bridge: snapshot.bridge(at.0).map_or_else(String::new, |b| b.name.to_string()),
            interface: link.name.clone(),
            source: path.src.to_string(),
            next_hop: path.next_hop.to_string(),
            mac: mac.map(mac_text),
            mtu: path.mtu.saturating_sub(room),
        };
        let error = failed.then(|| format!("next hop {} does not answer", path.next_hop));
        Way { state, path: Some(path), error }
    }

    /// The tunnel ports as `show` has them.
    pub(super) fn tunnel_states(&self) -> BTreeMap<String, PortState> {
        let state = |t: &TunnelPort| {
            let way = self.tunnel_way(t);
            let state = match way.state {
                TunnelState::Down => LinkState::Down,
                _ => LinkState::Up,
            };
            PortState { state, error: way.error, ..PortState::default() }
        };
        self.tunnel_ports().map(|(_, name, t)| (name.to_owned(), state(t))).collect()
    }

    /// What went through a tunnel port; `None` for other ports.
    pub(super) fn tunnel_port(&self, name: &str, ofport: u16) -> Option<report::PortCounters> {
        let (_, _, t) = self.tunnel_ports().find(|(_, n, _)| *n == name)?;
        let n = &t.counters;
        let drops = [("no_route", packets(&n.no_route)), ("too_big", packets(&n.too_big))];
        let drops = drops.into_iter().filter(|(_, packets)| *packets > 0);
        Some(report::PortCounters {
            name: name.to_owned(),
            ofport,
            rx_packets: packets(&n.received),
            rx_bytes: bytes(&n.received),
            tx_packets: packets(&n.sent).saturating_sub(packets(&n.too_big)),
            tx_bytes: bytes(&n.sent).saturating_sub(bytes(&n.too_big)),
            drops: drops
                .map(|(reason, packets)| report::DropCount { reason: reason.into(), packets })
                .collect(),
        })
    }

    pub(super) fn routes(&self) -> report::RoutesReport {
        let snapshot = self.switch.preview();
        let underlay = &snapshot.underlay;
        let mut routes: Vec<_> = underlay
            .kernel
            .routes
            .iter()
            .map(|r| {
                let (link, via) = match &r.action {
                    Action::Forward { link, via } => (Some(*link), *via),
                    Action::Reject => (None, None),
                };
                let info = link.and_then(|l| underlay.kernel.links.get(&l));
                let at = link.and_then(|l| underlay.ports.get(&l));
                let bridge = at.and_then(|(b, _)| snapshot.bridge(*b));
                let user = r.origin == Origin::User;
                report::RouteReport {
                    prefix: r.prefix.to_string(),
                    origin: if user { "user" } else { "kernel" }.to_owned(),
                    interface: info.map(|l| l.name.clone()),
                    via: via.map(|a| a.to_string()),
                    source: r.src.map(|a| a.to_string()),
                    metric: r.metric,
                    bridge: bridge.map(|b| b.name.to_string()),
                    problem: info.filter(|l| !l.up).map(|_| "the interface is down".to_owned()),
                }
            })
            .collect();
        let used: Vec<String> =
            routes.iter().filter(|r| r.origin == "user").map(|r| r.prefix.clone()).collect();
        for (prefix, r) in self.configured_routes().filter(|(p, _)| !used.contains(&p.to_string()))
        {
            let version = if prefix.address().is_ipv4() { "IPv4" } else { "IPv6" };
            routes.push(report::RouteReport {
                prefix: prefix.to_string(),
                origin: "user".to_owned(),
                interface: Some(r.bridge.clone()),
                via: r.via.map(|a| a.to_string()),
                source: r.src.map(|a| a.to_string()),
                problem: Some(format!("not used: {} has no {version} address", r.bridge)),
                ..Default::default()
            });
        }
        routes.sort_by(|a, b| {
            (&a.prefix, &b.origin, a.metric).cmp(&(&b.prefix, &a.origin, b.metric))
        });
        report::RoutesReport { routes }
    }

    pub(super) fn neighbours(&self, only: Option<&str>) -> report::NeighboursReport {
        let snapshot = self.switch.preview();
        let underlay = &snapshot.underlay;
        let bridge_of = |link: u32| {
            let (id, _) = underlay.ports.get(&link)?;
            snapshot.bridge(*id).map(|b| b.name.to_string())
        };
        let mut found: BTreeMap<(String, IpAddr), (Option<u64>, &str)> = BTreeMap::new();
        for (t, n) in underlay.neighbours.iter().filter(|(t, _)| !is_own(t.link)) {
            if let Some(bridge) = bridge_of(t.link) {
                found.insert((bridge, t.address), (Some(n.mac), "kernel"));
            }
        }
        for n in self.below.own.iter() {
            if let Some(bridge) = bridge_of(n.target.link) {
                found.insert((bridge, n.target.address), (n.mac, n.state.name()));
            }
        }
        for (bridge, list) in &self.below.paths.neighbours {
            for (address, mac) in list {
                let mac = super::tunnels::number(mac.bytes());
                found.insert((bridge.clone(), *address), (Some(mac), "static"));
            }
        }
        let wanted = |bridge: &str| only.is_none_or(|o| o == bridge);
        let neighbours = found.into_iter().filter(|((bridge, _), _)| wanted(bridge));
        let neighbours =
            neighbours.map(|((bridge, address), (mac, state))| report::NeighbourReport {
                bridge,
                address: address.to_string(),
                mac: mac.map(mac_text),
                state: state.to_owned(),
            });
        report::NeighboursReport { neighbours: neighbours.collect() }
    }
}

/// Bytes that a tunnel takes of the path's MTU: all headers but the outer Ethernet's, and the inner one's.
fn overhead(kind: tunnel::Kind, config: &tunnel::TunnelConfig, dst: IpAddr) -> u32 {
    const ETHERNET: u32 = 14;
    let ip = if dst.is_ipv4() { 20 } else { 40 };
    let gre = 4
        + 4 * u32::from(config.csum)
        + 4 * u32::from(config.out_key != Key::None)
        + 4 * u32::from(config.seq);
    let encapsulation = if kind == tunnel::Kind::Gre { gre } else { 16 };
    ip + encapsulation + ETHERNET
}
