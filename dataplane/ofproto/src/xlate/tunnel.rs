//! Into tunnels and out of them.
//!
//! A packet that is sent to a tunnel port gets an outer header, made whole here: where the route
//! leads, from which address, to which neighbour. With that header as its key it goes on in the
//! bridge whose port the route leaves by, as if that port's interface had sent it; what this
//! bridge does with it becomes steps on a copy. The outer UDP source port differs from packet to
//! packet and is 0 in the key.
//!
//! A packet that a bridge would give to the interface that owns its IP address, and that is one
//! of a tunnel that is listened for, is decapsulated there, and looked up again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use flow::extract::{eth_type, ip_proto};
use flow::{Drop, Field, FlowKey, word};
use tunnel::encap::Link;
use tunnel::neigh::Target;
use tunnel::send::{self, SendError};
use tunnel::{Encap, Kind, Outer};

use super::{Ctx, Effect, MAX_DEPTH};
use crate::program::{DpAction, DpPort, Push};
use crate::recirc::Recirculation;
use crate::snapshot::{BridgeId, Dep, OfPort, Port, PortKind};
use crate::underlay::{ANY_PORT, TunnelPort, listener};

/// Tunnels inside of tunnels at most.
const MAX_NESTED: usize = 4;

impl Ctx<'_> {
    /// Send the packet into a tunnel, by a port of the current bridge.
    pub(super) fn tunnel_push(&mut self, port: OfPort, tunnel: &TunnelPort) {
        let at = (self.bridge.id, port);
        if self.inside.contains(&at) {
            return self.drop(Drop::TunnelLoop);
        }
        if self.depth >= MAX_DEPTH || self.inside.len() >= MAX_NESTED {
            return self.drop(Drop::Recursion);
        }
        let mut wc = FlowKey::ZERO;
        let made = send::outer(&tunnel.config, &self.key, &mut wc);
        self.consult_mask(&wc);
        let (outer, src) = match made {
            Ok(made) => made,
            Err(e) => {
                self.say(format_args!("{e}"));
                self.out.counters.push(tunnel.counters.no_route.clone());
                let id = matches!(e, SendError::Id(_));
                return self.drop(if id { Drop::Unsupported } else { Drop::NoRoute });
            }
        };
        let (way, push) = match self.find_way(&outer, src, tunnel) {
            Ok(found) => found,
            Err(NoWay::Route) => {
                self.out.counters.push(tunnel.counters.no_route.clone());
                return self.drop(Drop::NoRoute);
            }
            Err(NoWay::Neighbour(target)) => return self.await_neighbour(target, port, tunnel),
        };
        self.out.counters.push(tunnel.counters.sent.clone());
        let mut key = outer_key(&outer, way.src, way.link);
        if let Some(mark) = tunnel.config.egress_pkt_mark {
            key.set(Field::PktMark, mark.into());
        }
        self.commit();
        self.inside.push(at);
        self.in_underlay(way.at, key, push);
        self.inside.pop();
    }

    /// The way to the remote address, and the header for it.
    fn find_way(
        &mut self,
        outer: &Outer,
        src: Option<IpAddr>,
        tunnel: &TunnelPort,
    ) -> Result<(Way, Push), NoWay> {
        let underlay = &self.snapshot.underlay;
        self.depend(Dep::Routes);
        let Some(path) = underlay.path(outer.dst, src) else {
            self.say(format_args!("no route to {}", outer.dst));
            return Err(NoWay::Route);
        };
        let info = underlay.kernel.links.get(&path.link);
        let (Some(at), Some(info)) = (underlay.ports.get(&path.link), info) else {
            let name = info.map_or("?", |l| &l.name);
            self.say(format_args!("the route to {} leads to {name}, not a port", outer.dst));
            return Err(NoWay::Route);
        };
        let target = Target { link: path.link, address: path.next_hop };
        self.depend(Dep::Neigh(target));
        let Some(neighbour) = underlay.neighbours.get(&target) else {
            return Err(NoWay::Neighbour(target));
        };
        self.out.effects.push(Effect::RefreshNeighbour(neighbour.clone()));
        let link = Link { dst: neighbour.mac, src: info.mac };
        let Ok(encap) = Encap::new(outer, path.src, link, &tunnel.sequence) else {
            self.say(format_args!("no route from {} to {}", path.src, outer.dst));
            return Err(NoWay::Route);
        };
        let max_frame = encap.max_frame(path.mtu as usize) as u32;
        self.say(format_args!("{encap} by {}, next hop {}", info.name, path.next_hop));
        let push = Push { encap, max_frame, counters: tunnel.counters.clone() };
        Ok((Way { at: *at, src: path.src, link }, push))
    }

    /// A packet came out of a tunnel: the next hop to its other end, if packets are sent there, is
    /// alive.
    pub(super) fn heard_from(&mut self, remote: IpAddr) {
        self.depend(Dep::Routes);
        let underlay = &self.snapshot.underlay;
        let Some(path) = underlay.path(remote, None) else { return };
        let target = Target { link: path.link, address: path.next_hop };
        self.depend(Dep::Neigh(target));
        if let Some(neighbour) = underlay.neighbours.get(&target) {
            self.out.effects.push(Effect::HeardNeighbour(neighbour.clone()));
        }
    }

    /// The next hop is asked for its address, and the packet waits for the answer.
    fn await_neighbour(&mut self, target: Target, port: OfPort, tunnel: &TunnelPort) {
        self.say(format_args!("{} is asked for its address; the packet waits", target.address));
        self.out.effects.push(Effect::NeedNeighbour(target));
        self.out.counters.push(tunnel.counters.waited.clone());
        self.commit();
        let state = self.frozen(0, Some(port));
        let waiting = DpAction::AwaitNeighbour(target, Arc::new(Recirculation { id: 0, state }));
        self.out.program.push(match self.truncate {
            None => waiting,
            Some(n) => DpAction::Clone([DpAction::Cut(n), waiting].into()),
        });
        self.used += 1;
    }

    /// An ARP packet or neighbour message is about to leave by a port: if it concerns an address of
    /// the switch's own there, or a neighbour of it, control hears it.
    pub(super) fn hear(&mut self, port: OfPort) {
        let underlay = &self.snapshot.underlay;
        let Some(link) = underlay.links.get(&(self.bridge.id, port)).and_then(|l| l.own) else {
            return;
        };
        let (to, sender) = match self.consult(Field::EthType) as u16 {
            eth_type::ARP => {
                let v4 = |n: u128| IpAddr::from(Ipv4Addr::from(n as u32));
                (v4(self.consult(Field::NwDst)), v4(self.consult(Field::NwSrc)))
            }
            eth_type::IPV6 if self.is_neighbour_message() => {
                let v6 = |n: u128| IpAddr::from(Ipv6Addr::from(n));
                let target = v6(self.consult(Field::NdTarget));
                match self.consult(Field::TpSrc) as u8 {
                    ND_SOLICIT => (target, v6(self.consult(Field::Ipv6Src))),
                    _ => (v6(self.consult(Field::Ipv6Dst)), target),
                }
            }
            _ => return,
        };
        let sender = Target { link, address: sender };
        self.depend(Dep::Neigh(sender));
        let concerns = underlay.owns(link, to) || underlay.neighbours.contains_key(&sender);
        if concerns && !self.consult_tags()[0].is_present() {
            self.commit();
            self.say(format_args!("heard by the switch itself"));
            self.out.program.push(DpAction::Hear(link));
            self.used += 1;
        }
    }

    fn is_neighbour_message(&mut self) -> bool {
        self.consult(Field::NwProto) as u8 == ip_proto::ICMPV6
            && matches!(self.consult(Field::TpSrc) as u8, ND_SOLICIT | ND_ADVERT)
    }

    /// Go on with an outer packet in the bridge that carries it, then come back to the packet as
    /// it was.
    fn in_underlay(&mut self, (bridge, port): (BridgeId, OfPort), key: FlowKey, push: Push) {
        let snapshot = self.snapshot;
        let Some(underlay) = snapshot.bridge(bridge) else { return self.drop(Drop::PortGone) };
        let mut fixed = FlowKey::ZERO;
        (0..flow::WORDS).for_each(|w| fixed.set_word(w, u64::MAX));
        let key = std::mem::replace(&mut self.key, key);
        let fixed = std::mem::replace(&mut self.fixed, fixed);
        let dirty = std::mem::take(&mut self.dirty);
        let committed = std::mem::take(&mut self.committed);
        let tags = (self.base_tags, self.tags_dirty, self.tags_committed);
        (self.base_tags, self.tags_dirty, self.tags_committed) = Default::default();
        let home = (self.bridge, self.in_port, self.table, self.rule.take(), self.exit);
        let set = std::mem::take(&mut self.action_set);
        let program = std::mem::take(&mut self.out.program);
        let used = self.used;

        // What is cut is the packet that goes into the tunnel, not the one that leaves it.
        let cut = self.truncate.take();
        self.out.program.extend(cut.map(DpAction::Cut));
        self.out.program.push(DpAction::TunnelPush(Arc::new(push)));
        (self.bridge, self.in_port, self.exit) = (underlay, port, false);
        self.key.set(Field::InPort, u128::from(port.0));
        self.leave_by(port);

        let steps = std::mem::replace(&mut self.out.program, program);
        if self.used > used {
            self.out.program.push(DpAction::Clone(steps.into()));
        }
        (self.action_set, self.truncate) = (set, cut);
        (self.bridge, self.in_port, self.table, self.rule, self.exit) = home;
        (self.base_tags, self.tags_dirty, self.tags_committed) = tags;
        (self.key, self.fixed, self.dirty, self.committed) = (key, fixed, dirty, committed);
    }

    /// An outer packet leaves as the interface behind a port sends it: through the port's bridge, or
    /// straight out of a port that is shared with the host.
    fn leave_by(&mut self, port: OfPort) {
        match self.port(port).map(|p| &**p) {
            Some(Port { shared: true, kind: PortKind::Datapath(dp), up, .. }) => {
                self.transmit(*up, *dp);
            }
            _ => {
                self.depth += 1;
                self.enter_bridge();
                self.depth -= 1;
            }
        }
    }

    /// Whether the packet, about to leave by a port, is to be decapsulated there.
    pub(super) fn terminates(&mut self, port: OfPort) -> Option<Arrival> {
        let underlay = &self.snapshot.underlay;
        let links = *underlay.links.get(&(self.bridge.id, port))?;
        let ty = self.consult(Field::EthType) as u16;
        if ty != eth_type::IPV4 && ty != eth_type::IPV6 {
            return None;
        }
        let kinds: &[Kind] = match self.consult(Field::NwProto) as u8 {
            ip_proto::UDP => &[Kind::Vxlan, Kind::Geneve],
            ip_proto::GRE => &[Kind::Gre],
            _ => return None,
        };
        let address: IpAddr = if ty == eth_type::IPV4 {
            Ipv4Addr::from(self.consult(Field::NwDst) as u32).into()
        } else {
            Ipv6Addr::from(self.consult(Field::Ipv6Dst)).into()
        };
        let mine = [links.kernel, links.own].into_iter().flatten();
        let link = mine.into_iter().find(|l| underlay.owns(*l, address))?;
        let link = underlay.kernel.links.get(&link).filter(|l| l.up)?;
        let mac = link.mac;
        let is_ours =
            self.consult(Field::EthDst) as u64 == mac && !self.consult_tags()[0].is_present();
        if !is_ours {
            return None;
        }
        if self.consult(Field::NwFrag) != 0 {
            kinds.iter().for_each(|k| self.depend(Dep::Listener(*k, ANY_PORT)));
            let some = underlay.listeners.keys().any(|(k, _)| kinds.contains(k));
            return some.then_some(Arrival::Fragment);
        }
        let udp = if kinds.len() > 1 { self.consult(Field::TpDst) as u16 } else { 0 };
        kinds.iter().find_map(|kind| {
            self.depend(Dep::Listener(*kind, udp));
            let listens = underlay.listeners.contains_key(&(*kind, udp));
            listens.then(|| Arrival::Whole(listener(*kind, udp)))
        })
    }

    /// A fragment that may be one of a tunnel packet: what it is, and whether it is to leave by the
    /// port, is seen when the datagram is whole.
    pub(super) fn reassemble(&mut self, port: OfPort) {
        self.commit();
        self.say(format_args!("a fragment for this switch: it waits for the others"));
        let state = self.frozen(0, Some(port));
        let waiting = Arc::new(Recirculation { id: 0, state });
        let steps = [DpAction::Reassemble(waiting)];
        self.out.program.push(DpAction::Clone(steps.into()));
        self.used += 1;
    }

    /// Take the outer headers off and look the packet up again.
    pub(super) fn tunnel_pop(&mut self, listener: DpPort) {
        self.commit();
        self.say(format_args!("a tunnel packet for this switch: decapsulated"));
        self.out.program.push(DpAction::TunnelPop(listener));
        self.used += 1;
    }
}

/// What a packet for one of the switch's addresses is.
pub(super) enum Arrival {
    /// One of a tunnel, by this listener.
    Whole(DpPort),
    /// A fragment of what may be one.
    Fragment,
}

/// Types of neighbour messages (RFC 4861).
const ND_SOLICIT: u8 = 135;
const ND_ADVERT: u8 = 136;

/// Why an outer packet cannot go.
enum NoWay {
    Route,
    /// Not yet: this neighbour's address is not known.
    Neighbour(Target),
}

/// Where an outer packet goes.
struct Way {
    /// The port whose interface sends it.
    at: (BridgeId, OfPort),
    src: IpAddr,
    link: Link,
}

/// What extraction would say of an outer packet.
fn outer_key(outer: &Outer, src: IpAddr, link: Link) -> FlowKey {
    let mut key = FlowKey::ZERO;
    key.set(Field::EthDst, link.dst.into());
    key.set(Field::EthSrc, link.src.into());
    match (src, outer.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            key.set(Field::EthType, eth_type::IPV4.into());
            key.set_word(word::IPV4, u64::from(u32::from(src)) << 32 | u64::from(u32::from(dst)));
        }
        (src, dst) => {
            key.set(Field::EthType, eth_type::IPV6.into());
            key.set(Field::Ipv6Src, tunnel::table::number(src));
            key.set(Field::Ipv6Dst, tunnel::table::number(dst));
        }
    }
    key.set(Field::NwTos, outer.tos.into());
    key.set(Field::NwTtl, outer.ttl.into());
    if outer.kind == Kind::Gre {
        key.set(Field::NwProto, ip_proto::GRE.into());
    } else {
        key.set(Field::NwProto, ip_proto::UDP.into());
        key.set(Field::TpDst, outer.dst_port.into());
    }
    key
}
