//! What the workers and the clock bring: addresses learned, flows learned, time that is over.

use engine::Event;

use super::EngineBackend;

/// Events that are handled before the next version is published.
const BATCH: usize = 4096;

impl EngineBackend {
    /// Handle what the workers have told. Nothing is published here.
    pub(super) fn hear_workers(&mut self) {
        let now = self.now();
        let Some(engine) = &self.engine else { return };
        let shared = engine.shared().clone();
        let mut events = Vec::new();
        shared.take_events(BATCH, |e| events.push(e));
        for event in events {
            match event {
                Event::LearnMac { bridge, vlan, mac, port } => {
                    self.switch.fdb_learn(bridge, vlan, mac, port, now);
                }
                Event::LearnFlow { bridge, flow } => self.switch.learn_flow(bridge, &flow, now),
                Event::PacketIn(p) => {
                    if !self.router_packet(&p.0, &p.1) {
                        self.packet_in(&p.0, &p.1);
                    }
                }
                Event::NeedNeighbour(target) => self.below.want(target),
                Event::Heard { link, frame } => self.hear_neighbour(link, &frame),
                Event::PortGone(dp) => self.port_gone(dp),
            }
        }
    }

    /// What is due every second.
    pub(super) fn every_second(&mut self) {
        let now = self.now();
        self.switch.fdb_age(now);
        let gone = self.switch.expire_rules(now);
        self.removed.extend(gone);
        self.tell_removed();
    }
}
