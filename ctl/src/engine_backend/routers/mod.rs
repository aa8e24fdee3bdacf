//! Routers that run: their flows, their neighbours, and what they say by themselves.
//!
//! What happens to packets is in flows ([`compile`]). Control has what flows cannot do: it asks for the
//! addresses of next hops and keeps the packets that wait for them, answers neighbour solicitations, and
//! announces addresses that are new.

mod adverts;
mod announce;
mod compile;
mod ended;
mod flows;
mod nat;
mod neighbours;
mod next_hop;
mod plan;
mod report;

pub(super) use flows::Flows;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use conntrack::Filter;
use flow::Match;
use ofproto::action::OfPort;
use ofproto::flowmod::FlowMod;
use ofproto::snapshot::{BridgeId, BridgeSettings, Port, PortKind};
use ofproto::vlan::VlanConfig;
use tunnel::neigh::{Limits, NeighTable, Own, Target};

use self::adverts::Adverts;
use self::announce::ANNOUNCEMENTS;
use self::next_hop::Hop;
use self::plan::answers;
use super::{EngineBackend, translate};
use crate::config::{Config, Router, RouterPort};
use crate::error::CtlError;
use crate::schema::Mac;

/// Milliseconds between two announcements, and between two looks at which neighbours are in use.
const SECOND: u64 = 1000;

/// A packet that waits for a next hop, and what the router had found out about it.
#[derive(Debug)]
struct Waiting {
    frame: Vec<u8>,
    metadata: Match,
}

/// A router that runs.
pub(super) struct Running {
    id: BridgeId,
    router: Router,
    neighbours: NeighTable<Waiting>,
    /// The flows of each neighbour that has some.
    flows: HashMap<Target, (Hop, Vec<FlowMod>)>,
    /// Addresses to announce by which port, and how often still.
    announce: Vec<(u16, IpAddr, u8)>,
    adverts: Adverts,
}

/// All routers.
#[derive(Default)]
pub(super) struct Routers {
    all: BTreeMap<String, Running>,
    /// Connections that end once what is prepared is in force.
    ending: Vec<Filter>,
    /// When each second's work was done last.
    second: u64,
}

/// Flows of every router of a configuration, made before anything is changed.
pub(super) type Compiled = Vec<(String, Vec<FlowMod>)>;

fn limits() -> Limits {
    // A gateway that changes its address without a word is found again this soon.
    Limits { reachable: Duration::from_secs(10), ..Limits::default() }
}

/// The name of a router's own bridge; no bridge of a user has a `:`.
fn bridge_name(router: &str) -> String {
    format!("router:{router}")
}

fn number(mac: Mac) -> u64 {
    mac.bytes().iter().fold(0, |n, b| n << 8 | u64::from(*b))
}

impl Running {
    fn port(&self, number: u32) -> Option<&RouterPort> {
        self.router.ports.values().find(|p| u32::from(p.number) == number)
    }

    /// What the router speaks from towards an address.
    fn own(&self, target: &Target) -> Option<Own> {
        let port = self.port(target.link)?;
        let on_it = |c: &&crate::config::router::Cidr| c.holds(target.address);
        let address = port.ip.iter().find(on_it)?.address;
        Some(Own { mac: number(port.mac), address })
    }
}

/// All flows of a router, with those of next hops that are known by their Ethernet addresses: what runs when
/// nothing is left to find out.
///
/// # Errors
/// Internal ones only: the configuration was checked before.
pub fn router_flows(router: &Router, known: &[(IpAddr, u64)]) -> Result<Vec<FlowMod>, CtlError> {
    let mut all = compile::compile(router)?;
    for (address, mac) in known {
        if let Some((_, port)) = router.port_of(*address) {
            let target = Target { link: port.number.into(), address: *address };
            all.extend(next_hop::flows(router, port, &target, Hop::Known(*mac))?);
        }
    }
    Ok(all)
}

impl EngineBackend {
    /// What the routers of a configuration come to.
    pub(super) fn compile_routers(config: &Config) -> Result<Compiled, CtlError> {
        let one = |(name, r): (&String, &Router)| Ok((name.clone(), compile::compile(r)?));
        config.routers.iter().map(one).collect()
    }

    /// Make the routers those of a configuration.
    pub(super) fn set_routers(&mut self, config: &Config, flows: Compiled) -> Result<(), CtlError> {
        let gone = |n: &&String| !config.routers.contains_key(*n);
        let gone: Vec<String> = self.routers.all.keys().filter(gone).cloned().collect();
        for name in gone {
            if let Some(old) = self.routers.all.remove(&name) {
                self.switch.remove_bridge(old.id);
                self.routers.ending.extend(ended::filters(&old.router, None));
            }
        }
        for (name, mods) in flows {
            self.set_router(config, &name, mods)?;
        }
        Ok(())
    }

    fn set_router(
        &mut self,
        config: &Config,
        name: &str,
        mods: Vec<FlowMod>,
    ) -> Result<(), CtlError> {
        let router = config.router(name)?.clone();
        let mut running = match self.routers.all.remove(name) {
            Some(running) => running,
            None => {
                let id = self.switch.add_bridge(&bridge_name(name), BridgeSettings::default());
                let none = || CtlError::internal(format!("no room for router \"{name}\""));
                Running {
                    id: id.ok_or_else(none)?,
                    router: Router::default(),
                    neighbours: NeighTable::new(limits()),
                    flows: HashMap::new(),
                    announce: Vec::new(),
                    adverts: Adverts::default(),
                }
            }
        };
        self.join_router(config, &running, &router)?;
        if running.router != router {
            let old = std::mem::replace(&mut running.router, router);
            self.refresh_router(&mut running, &old, mods)?;
        }
        self.routers.all.insert(name.to_owned(), running);
        Ok(())
    }

    /// Join the router's ports with those of the bridges.
    fn join_router(
        &mut self,
        config: &Config,
        running: &Running,
        router: &Router,
    ) -> Result<(), CtlError> {
        let numbers: BTreeSet<u16> = router.ports.values().map(|p| p.number).collect();
        for old in running.router.ports.values().filter(|p| !numbers.contains(&p.number)) {
            self.switch.remove_port(running.id, OfPort(old.number.into()));
        }
        for (name, port) in &router.ports {
            let (_, there) = config.port(name)?;
            let here = (running.id, OfPort(port.number.into()));
            let far = (self.bridge_id(&port.bridge)?, OfPort(there.ofport.into()));
            let entry = |at: OfPort, to, vlan| Port {
                vlan,
                ..Port::new(at, name.as_str(), PortKind::Patch(Some(to)))
            };
            self.switch.set_port(far.0, entry(far.1, here, translate::vlan(&there.settings)));
            self.switch.set_port(here.0, entry(here.1, far, VlanConfig::default()));
        }
        Ok(())
    }

    /// Exchange a router's flows for those of its new configuration; what is the same stays.
    fn refresh_router(
        &mut self,
        running: &mut Running,
        old: &Router,
        mut mods: Vec<FlowMod>,
    ) -> Result<(), CtlError> {
        let now = self.now();
        let mut events = Vec::new();
        // What was found out about a network that is another now is forgotten.
        let known = running.neighbours.iter().map(|n| n.target);
        let lost: Vec<Target> = known.filter(|t| running.own(t).is_none()).collect();
        for target in lost {
            running.neighbours.remove(&target, &mut events);
            running.flows.remove(&target);
        }
        let Running { flows, router, .. } = running;
        for (target, (hop, made)) in flows.iter_mut() {
            let port = router.ports.values().find(|p| u32::from(p.number) == target.link);
            if let Some(port) = port {
                *made = next_hop::flows(router, port, target, *hop)?;
            }
            mods.extend(made.iter().cloned());
        }
        self.switch
            .replace_flows(running.id, &mods, now)
            .map_err(|(i, e)| CtlError::internal(format!("a router's flow {i}: {e}")))?;
        for port in running.router.ports.values() {
            let before: Vec<IpAddr> = old
                .ports
                .values()
                .filter(|p| p.number == port.number && p.mac == port.mac && p.bridge == port.bridge)
                .flat_map(|p| answers(old, p))
                .collect();
            for address in answers(&running.router, port) {
                if !before.contains(&address) {
                    running.announce.push((port.number, address, ANNOUNCEMENTS));
                }
            }
        }
        running.adverts.follow(old, &running.router, Duration::from_millis(now));
        self.routers.ending.extend(ended::filters(old, Some(&running.router)));
        Ok(())
    }

    /// What time demands; how long until the next call.
    pub(super) fn tick_routers(&mut self) -> Option<Duration> {
        let now = self.now();
        let second = now >= self.routers.second + SECOND;
        if second {
            self.routers.second = now;
        }
        let names: Vec<String> = self.routers.all.keys().cloned().collect();
        for name in &names {
            if second {
                self.announce_router(name);
                self.look_at_use(name, now);
            }
            self.with_router(name, |running, events, now| {
                running.neighbours.tick(now, events);
                None
            });
            self.forget_silent(name);
            self.advertise(name);
        }
        let all = self.routers.all.values();
        let dues = all.flat_map(|r| [r.neighbours.due(), r.adverts.due()]).flatten();
        let due = dues.min()?.saturating_sub(Duration::from_millis(self.now()));
        Some(due.max(Duration::from_millis(10)))
    }

    /// The router's own bridge.
    pub(super) fn router_bridge(&self, name: &str) -> Option<BridgeId> {
        self.routers.all.get(name).map(|r| r.id)
    }
}
