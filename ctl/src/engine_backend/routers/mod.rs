//! Routers that run: their flows, their neighbours, and what they say by themselves.
//!
//! What happens to packets is in flows ([`compile`]). Control has what flows cannot do: it asks for the
//! addresses of next hops and keeps the packets that wait for them, answers neighbour solicitations, and
//! announces addresses that are new.

mod compile;
mod nat;
mod report;

pub(super) use compile::Flows;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use conntrack::{Cursor, Filter, Millis};
use flow::build::{self, Neighbour};
use flow::{Field, FlowKey, Match};
use ofproto::action::{Action, OfPort};
use ofproto::flowmod::{Command as Do, FlowMod};
use ofproto::program::ToController;
use ofproto::recirc::Frozen;
use ofproto::snapshot::{BridgeId, BridgeSettings, Port, PortKind};
use ofproto::vlan::VlanConfig;
use ofproto::xlate::{Translation, resume, translate_in};
use tunnel::neigh::{self, Event, Limits, NeighTable, Own, State, Target, Wait};

use self::compile::Hop;
use super::{EngineBackend, translate};
use crate::config::{Config, Router, RouterPort};
use crate::error::CtlError;
use crate::schema::Mac;

/// How often a new address is announced, once a second.
const ANNOUNCEMENTS: u8 = 3;
/// Milliseconds between two announcements, and between two looks at which neighbours are in use.
const SECOND: u64 = 1000;
/// Milliseconds within which a next hop was in use that is: counters come once a second.
const LATELY: u64 = 3000;
const BROADCAST: u64 = 0xffff_ffff_ffff;

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
}

/// All routers.
#[derive(Default)]
pub(super) struct Routers {
    all: BTreeMap<String, Running>,
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
                self.end_connections(&old.router, None);
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
                *made = compile::neighbour(port, target, *hop)?;
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
                .flat_map(|p| compile::answers(old, p))
                .collect();
            for address in compile::answers(&running.router, port) {
                if !before.contains(&address) {
                    running.announce.push((port.number, address, ANNOUNCEMENTS));
                }
            }
        }
        self.end_connections(old, Some(&running.router));
        Ok(())
    }

    /// End the connections of translations that are not there any more.
    fn end_connections(&self, old: &Router, new: Option<&Router>) {
        let Some(engine) = &self.engine else { return };
        let now = Millis(self.now());
        let mut filters = Vec::new();
        let zones = [old.zone(), old.hairpin_zone()];
        let Some(new) = new else {
            filters.extend(zones.map(|z| Filter { zone: Some(z), ..Filter::default() }));
            filters.iter().for_each(|f| drop_all(&engine.shared().tracker, now, f));
            return;
        };
        let base = |zone| Filter { zone: Some(zone), ..Filter::default() };
        for zone in zones {
            for (outside, instance) in &old.floating {
                if new.floating.get(outside) != Some(instance) {
                    filters.push(Filter { dst: Some(*outside), ..base(zone) });
                    filters.push(Filter { reply_dst: Some(*outside), ..base(zone) });
                }
            }
            for (network, outside) in &old.snat {
                if new.snat.get(network) != Some(outside) {
                    filters.push(Filter { reply_dst: Some(*outside), ..base(zone) });
                }
            }
            for d in old.dnat.iter().filter(|d| !new.dnat.contains(d)) {
                let (dst, dport) = (Some(d.external.ip()), Some(d.external.port()));
                filters.push(Filter { dst, dport, ..base(zone) });
            }
        }
        filters.iter().for_each(|f| drop_all(&engine.shared().tracker, now, f));
    }

    /// A packet that a router's flows handed to control; `false` if it was no router's.
    pub(super) fn router_packet(&mut self, to: &ToController, bytes: &[u8]) -> bool {
        let id = BridgeId(to.bridge as u16);
        let Some(name) = self.router_of(id) else { return false };
        self.with_router(&name, |running, events, now| {
            let mut key = FlowKey::ZERO;
            let off = flow::extract(bytes, bytes.len(), &mut key);
            if to.table != compile::NEIGHBOUR {
                let port = running.port(to.in_port)?;
                let link = u32::from(port.number);
                if let Some(heard) = neigh::hear(bytes, &off, &key)
                    && port.ip.iter().any(|c| c.holds(heard.address))
                {
                    running.neighbours.heard(link, &heard, now, events);
                }
                let port = running.port(to.in_port)?;
                let mine = compile::answers(&running.router, port);
                let mac = |a: IpAddr| mine.contains(&a).then(|| number(port.mac));
                // ARP is answered by flows.
                let is_nd = key.get64(Field::EthType) == 0x86dd;
                let answer = neigh::answer(bytes, &off, &key, mac).filter(|_| is_nd)?;
                return Some(Say::Frame(link, answer));
            }
            let (link, v6) = hop_of(&to.metadata, &key);
            let target = Target { link, address: v6 };
            running.own(&target)?;
            let waiting = Waiting { frame: bytes.to_vec(), metadata: to.metadata.clone() };
            match running.neighbours.wait(target, waiting, now, events) {
                Wait::Queued => None,
                Wait::Known(_, packet) => Some(Say::Again(packet)),
                Wait::Refused(..) => Some(Say::Hop(target, Hop::Asked)),
            }
        });
        true
    }

    fn router_of(&self, id: BridgeId) -> Option<String> {
        let mut all = self.routers.all.iter();
        all.find(|(_, r)| r.id == id).map(|(name, _)| name.clone())
    }

    /// Do something with a router's neighbours, then what follows from it.
    fn with_router(
        &mut self,
        name: &str,
        what: impl FnOnce(&mut Running, &mut Vec<Event<Waiting>>, Duration) -> Option<Say>,
    ) {
        let now = Duration::from_millis(self.now());
        let Some(mut running) = self.routers.all.remove(name) else { return };
        let mut events = Vec::new();
        let say = what(&mut running, &mut events, now);
        for event in events {
            self.router_event(&mut running, event);
        }
        match say {
            Some(Say::Frame(link, frame)) => self.router_send(&running, link, frame),
            Some(Say::Again(packet)) => self.router_again(&running, packet),
            // One that has failed is told of by its flow already.
            Some(Say::Hop(target, hop)) if !running.flows.contains_key(&target) => {
                self.set_hop(&mut running, target, Some(hop));
            }
            Some(Say::Hop(..)) | None => {}
        }
        self.routers.all.insert(name.to_owned(), running);
    }

    fn router_event(&mut self, running: &mut Running, event: Event<Waiting>) {
        match event {
            Event::Request { target, to } => {
                let own = running.own(&target);
                let frame = own.and_then(|own| neigh::request(target.address, &own, to));
                if let Some(frame) = frame {
                    self.router_send(running, target.link, frame);
                }
            }
            Event::Resolved { target, mac, waiting } => {
                self.set_hop(running, target, Some(Hop::Known(mac)));
                waiting.into_iter().for_each(|w| self.router_again(running, w));
            }
            Event::Lost { target, waiting } => {
                let failed = running
                    .neighbours
                    .iter()
                    .any(|n| n.target == target && n.state == State::Failed);
                self.set_hop(running, target, failed.then_some(Hop::Silent));
                waiting.into_iter().for_each(|w| self.router_again(running, w));
            }
        }
    }

    /// Exchange the flows of a next hop.
    fn set_hop(&mut self, running: &mut Running, target: Target, hop: Option<Hop>) {
        let now = self.now();
        let made = match (running.port(target.link), hop) {
            (Some(port), Some(hop)) => compile::neighbour(port, &target, hop).map(|m| (hop, m)),
            _ => Ok((Hop::Asked, Vec::new())),
        };
        let (hop, made) = match made {
            Ok(made) => made,
            Err(e) => return tracing::error!("{e}"),
        };
        let old = running.flows.remove(&target).map(|(_, old)| old).unwrap_or_default();
        let goes = |o: &&FlowMod| !made.iter().any(|m| is_same(m, o));
        let gone = old.iter().filter(goes).map(|o| FlowMod {
            command: Do::DeleteStrict,
            new_cookie: None,
            ..o.clone()
        });
        let mods: Vec<FlowMod> = gone.chain(made.iter().cloned()).collect();
        if let Err((_, e)) = self.switch.apply_flow_mods(running.id, &mods, now) {
            tracing::error!("a next hop's flows: {e}");
        }
        if !made.is_empty() {
            running.flows.insert(target, (hop, made));
        }
    }

    /// Send a frame of the router's own by one of its ports.
    fn router_send(&mut self, running: &Running, link: u32, frame: Vec<u8>) {
        let mut key = FlowKey::ZERO;
        flow::extract(&frame, frame.len(), &mut key);
        let mut out = Translation::default();
        let actions = [Action::output(OfPort(link))];
        let place = (running.id, OfPort::NONE);
        translate_in(self.switch.preview(), place, &key, Some(&actions), None, &mut out);
        self.router_sent(out, frame);
    }

    /// Send a packet on its way that has waited for its next hop.
    fn router_again(&mut self, running: &Running, packet: Waiting) {
        let mut key = FlowKey::ZERO;
        flow::extract(&packet.frame, packet.frame.len(), &mut key);
        let frozen = Frozen {
            bridge: running.id,
            in_port: OfPort::NONE,
            table: compile::NEIGHBOUR,
            output: None,
            metadata: packet.metadata,
            action_set: Box::default(),
        };
        let mut out = Translation::default();
        resume(self.switch.preview(), &key, &frozen, None, &mut out);
        self.router_sent(out, packet.frame);
    }

    fn router_sent(&mut self, out: Translation, frame: Vec<u8>) {
        if let Err(e) = self.send(out, frame) {
            tracing::warn!("a router's packet was not sent: {e}");
        }
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
                self.look_at_use(name, now.saturating_sub(LATELY));
            }
            self.with_router(name, |running, events, now| {
                running.neighbours.tick(now, events);
                None
            });
            self.forget_silent(name);
        }
        let dues = self.routers.all.values().filter_map(|r| r.neighbours.due());
        let due = dues.min()?.saturating_sub(Duration::from_millis(self.now()));
        Some(due.max(Duration::from_millis(10)))
    }

    /// Next hops that did not answer are asked again once their time is over.
    fn forget_silent(&mut self, name: &str) {
        let Some(mut running) = self.routers.all.remove(name) else { return };
        let dead: Vec<Target> = running
            .flows
            .iter()
            .filter(|(_, (hop, _))| !matches!(hop, Hop::Known(_)))
            .map(|(t, _)| *t)
            .filter(|t| !running.neighbours.iter().any(|n| n.target == *t))
            .collect();
        for target in dead {
            self.set_hop(&mut running, target, None);
        }
        self.routers.all.insert(name.to_owned(), running);
    }

    /// Neighbours that packets went to lately are kept fresh.
    fn look_at_use(&mut self, name: &str, since: u64) {
        let Some(running) = self.routers.all.get(name) else { return };
        let Some(bridge) = self.switch.bridge(running.id) else { return };
        let rules = bridge.tables.get(compile::NEIGHBOUR);
        let is_used = |mods: &Vec<FlowMod>| {
            let flow = mods.iter().find(|m| m.table == Some(compile::NEIGHBOUR));
            let rule = flow.and_then(|m| rules?.find_exact(&m.matches, m.priority));
            rule.is_some_and(|r| r.stats.used.load(std::sync::atomic::Ordering::Relaxed) > since)
        };
        let all = running.flows.iter().filter(|(_, (_, mods))| is_used(mods));
        let used: Vec<Target> = all.map(|(t, _)| *t).collect();
        self.with_router(name, |running, events, now| {
            used.iter().for_each(|t| running.neighbours.used(t, now, events));
            None
        });
    }

    /// Tell everybody of addresses that are new here.
    fn announce_router(&mut self, name: &str) {
        let Some(mut running) = self.routers.all.remove(name) else { return };
        let mut left = std::mem::take(&mut running.announce);
        for (port, address, n) in &mut left {
            *n -= 1;
            let Some(mac) = running.port((*port).into()).map(|p| number(p.mac)) else { continue };
            let frame = match address {
                IpAddr::V4(a) => {
                    build::arp_frame(1, BROADCAST, mac, u32::from(*a), 0, u32::from(*a))
                }
                IpAddr::V6(a) => {
                    const ALL_NODES: u128 = 0xff02 << 112 | 1;
                    let (src, target) = (u128::from(*a), u128::from(*a));
                    let eth_dst = build::multicast_mac(ALL_NODES);
                    Neighbour { eth_dst, eth_src: mac, src, dst: ALL_NODES, target }
                        .advertise(true, false)
                }
            };
            self.router_send(&running, (*port).into(), frame);
        }
        left.retain(|(_, _, n)| *n > 0);
        running.announce = left;
        self.routers.all.insert(name.to_owned(), running);
    }

    /// The router's own bridge.
    pub(super) fn router_bridge(&self, name: &str) -> Option<BridgeId> {
        self.routers.all.get(name).map(|r| r.id)
    }
}

/// What a router does about a packet for control.
enum Say {
    Frame(u32, Vec<u8>),
    Again(Waiting),
    Hop(Target, Hop),
}

fn is_same(a: &FlowMod, b: &FlowMod) -> bool {
    (a.table, a.priority, &a.matches) == (b.table, b.priority, &b.matches)
}

/// The port and next hop that the router's flows found, from their registers.
fn hop_of(metadata: &Match, packet: &FlowKey) -> (u32, IpAddr) {
    use ofproto::mf::Mf;
    let regs = metadata.key();
    let link = Mf::Reg0.get(&regs) as u32;
    let address = match packet.get64(Field::EthType) {
        0x86dd => IpAddr::V6((Mf::Xxreg1.get(&regs)).into()),
        _ => IpAddr::V4((Mf::Reg2.get(&regs) as u32).into()),
    };
    (link, address)
}

fn drop_all(tracker: &conntrack::Tracker, now: Millis, filter: &Filter) {
    tracker.flush(now, filter, Cursor::default(), usize::MAX);
}
