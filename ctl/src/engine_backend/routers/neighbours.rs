//! What routers' flows hand to control: packets whose next hop is not known, ARP and neighbour messages.
//!
//! Control has the state machine of neighbours, keeps what waits for them, and writes what it finds out
//! into flows.

use std::net::IpAddr;
use std::time::Duration;

use flow::{Field, FlowKey, Match};
use ofproto::action::{Action, OfPort};
use ofproto::flowmod::{Command as Do, FlowMod};
use ofproto::program::ToController;
use ofproto::recirc::Frozen;
use ofproto::snapshot::BridgeId;
use ofproto::xlate::{Translation, resume, translate_in};
use tunnel::neigh::{self, Event, State, Target, Wait};

use super::compile::NEIGHBOUR;
use super::next_hop::{self, Hop};
use super::plan::answers;
use super::{Running, Waiting, number};
use crate::engine_backend::EngineBackend;

/// Milliseconds within which a next hop was in use that is: counters come once a second.
const LATELY: u64 = 3000;
const ROUTER_SOLICITATION: u64 = 133;

/// What a router does about a packet for control.
pub(super) enum Say {
    Frame(u32, Vec<u8>),
    Again(Waiting),
    Hop(Target, Hop),
}

impl EngineBackend {
    /// A packet that a router's flows handed to control; `false` if it was no router's.
    pub(in crate::engine_backend) fn router_packet(
        &mut self,
        to: &ToController,
        bytes: &[u8],
    ) -> bool {
        let id = BridgeId(to.bridge as u16);
        let Some(name) = self.router_of(id) else { return false };
        self.with_router(&name, |running, events, now| {
            let mut key = FlowKey::ZERO;
            let off = flow::extract(bytes, bytes.len(), &mut key);
            if to.table != NEIGHBOUR {
                let port = running.port(to.in_port)?;
                let link = u32::from(port.number);
                if let Some(heard) = neigh::hear(bytes, &off, &key)
                    && port.ip.iter().any(|c| c.holds(heard.address))
                {
                    running.neighbours.heard(link, &heard, now, events);
                }
                let port = running.port(to.in_port)?;
                let mine = answers(&running.router, port);
                let mac = |a: IpAddr| mine.contains(&a).then(|| number(port.mac));
                if key.get64(Field::TpSrc) == ROUTER_SOLICITATION && is_icmpv6(&key) {
                    running.adverts.asked(port.number, now);
                    return None;
                }
                // ARP is answered by flows.
                let is_nd = key.get64(Field::EthType) == 0x86dd;
                let answer = neigh::answer(bytes, &off, &key, true, mac).filter(|_| is_nd)?;
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
    pub(super) fn with_router(
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
            (Some(port), Some(hop)) => {
                next_hop::flows(&running.router, port, &target, hop).map(|m| (hop, m))
            }
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
    pub(super) fn router_send(&mut self, running: &Running, link: u32, frame: Vec<u8>) {
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
            table: NEIGHBOUR,
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

    /// Next hops that did not answer are asked again once their time is over.
    pub(super) fn forget_silent(&mut self, name: &str) {
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
    pub(super) fn look_at_use(&mut self, name: &str, now: u64) {
        let since = now.saturating_sub(LATELY);
        let Some(running) = self.routers.all.get(name) else { return };
        let Some(bridge) = self.switch.bridge(running.id) else { return };
        let rules = bridge.tables.get(NEIGHBOUR);
        let is_used = |mods: &Vec<FlowMod>| {
            let flow = mods.iter().find(|m| m.table == Some(NEIGHBOUR));
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

fn is_icmpv6(key: &FlowKey) -> bool {
    key.get64(Field::EthType) == 0x86dd && key.get64(Field::NwProto) == 58
}
