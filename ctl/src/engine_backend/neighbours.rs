//! Neighbours of the switch's own links: asked for, answered, followed.
//!
//! A `tunnel::NeighTable` decides what is to be done; here its requests and the answers to those of
//! others become frames, sent through the bridge as if its own interface had sent them.

use std::time::Duration;

use flow::{Field, FlowKey, extract};
use ofproto::action::OfPort;
use ofproto::snapshot::{BridgeId, PortKind};
use ofproto::underlay::own_link;
use ofproto::xlate::{Translation, translate_in};
use tunnel::neigh::{self, Event, Own, Target};

use super::EngineBackend;

impl EngineBackend {
    fn clock(&self) -> Duration {
        Duration::from_millis(self.now())
    }

    /// A packet needs a neighbour, or went to it lately.
    pub(super) fn resolve(&mut self, target: Target) {
        let mut events = Vec::new();
        self.below.own.resolve(target, self.clock(), &mut events);
        self.obey(events);
    }

    /// Packets go to a neighbour and nothing comes from it.
    pub(super) fn miss(&mut self, target: &Target) {
        let mut events = Vec::new();
        self.below.own.missed(target, self.clock(), &mut events);
        self.obey(events);
    }

    /// Ask again, doubt, give up: whatever time demands.
    pub(super) fn tick_neighbours(&mut self) {
        let mut events = Vec::new();
        self.below.own.tick(self.clock(), &mut events);
        self.obey(events);
    }

    /// An ARP packet or neighbour message came in on one of the switch's own links.
    pub(super) fn hear_neighbour(&mut self, link: u32, frame: &[u8]) {
        let mut key = FlowKey::ZERO;
        let off = extract(frame, frame.len(), &mut key);
        let mut events = Vec::new();
        if let Some(heard) = neigh::hear(frame, &off, &key) {
            self.below.own.heard(link, &heard, self.clock(), &mut events);
        }
        let underlay = self.switch.preview().underlay.clone();
        let mac = underlay.kernel.links.get(&link).map(|l| l.mac);
        let answer =
            neigh::answer(frame, &off, &key, false, |a| mac.filter(|_| underlay.owns(link, a)));
        if let Some(answer) = answer {
            self.transmit(link, answer);
        }
        self.obey(events);
    }

    /// Say to all that an address is here (a gratuitous ARP request; IPv6 neighbours ask).
    pub(super) fn announce_address(&mut self, target: Target) {
        if target.address.is_ipv4()
            && let Some(mac) = self.own_mac(target.link)
        {
            let own = Own { mac, address: target.address };
            if let Some(frame) = neigh::request(target.address, &own, None) {
                self.transmit(target.link, frame);
            }
        }
    }

    fn own_mac(&self, link: u32) -> Option<u64> {
        self.switch.preview().underlay.kernel.links.get(&link).map(|l| l.mac)
    }

    fn obey(&mut self, events: Vec<Event<()>>) {
        for event in events {
            match event {
                Event::Request { target, to } => {
                    let kernel = &self.switch.preview().underlay.kernel;
                    let address = kernel.source(target.link, target.address);
                    let (Some(mac), Some(address)) = (self.own_mac(target.link), address) else {
                        continue;
                    };
                    if let Some(frame) = neigh::request(target.address, &Own { mac, address }, to) {
                        self.transmit(target.link, frame);
                    }
                }
                Event::Resolved { .. } | Event::Lost { .. } => self.below.touch(),
            }
        }
    }

    /// Send a frame as a bridge's own interface would.
    fn transmit(&mut self, link: u32, frame: Vec<u8>) {
        let id = BridgeId(link as u16);
        debug_assert_eq!(own_link(id), link);
        let mut key = FlowKey::ZERO;
        extract(&frame, frame.len(), &mut key);
        let local = self.switch.bridge(id).and_then(|b| b.ports.get(&OfPort::LOCAL));
        if let Some(PortKind::Datapath(dp)) = local.map(|p| &p.kind) {
            key.set(Field::InPort, u128::from(dp.0));
        }
        let mut out = Translation::default();
        translate_in(self.switch.preview(), (id, OfPort::LOCAL), &key, None, None, &mut out);
        if let Err(e) = self.send(out, frame) {
            tracing::warn!("a neighbour message of the switch's own: {e}");
        }
    }
}
