//! Sending the packet: to a datapath port, or over a patch port into another bridge.

use flow::{Drop, Field, FlowKey, word};

use super::tunnel::Arrival;
use super::{Ctx, MAX_DEPTH, MAX_STEPS};
use crate::program::{DpAction, DpPort};
use crate::snapshot::{BridgeId, OfPort, PortKind};

impl Ctx<'_> {
    /// Send the packet, as it is now, out of a port of the current bridge.
    pub(super) fn output_port(&mut self, port: OfPort) {
        let Some(port) = self.port(port) else {
            return self.drop(Drop::PortGone);
        };
        if port.no_forward {
            return self.drop(Drop::PortDown);
        }
        match port.kind {
            PortKind::Datapath(dp) => {
                if self.out.program.len() >= MAX_STEPS {
                    return self.drop(Drop::TooManyActions);
                }
                // An address of the switch's own works whatever the interface's state.
                match self.terminates(port.ofport) {
                    Some(Arrival::Whole(listener)) => return self.tunnel_pop(listener),
                    Some(Arrival::Fragment) => return self.reassemble(port.ofport),
                    None => {}
                }
                if port.shared {
                    // The rest of what goes by the interface is the host's.
                    return self.drop(Drop::SharedPort);
                }
                self.hear(port.ofport);
                self.transmit(port.up, dp);
            }
            PortKind::Patch(None) => self.drop(Drop::PortDown),
            PortKind::Patch(Some((bridge, port))) => self.cross(bridge, port),
            PortKind::Tunnel(ref tunnel) => self.tunnel_push(port.ofport, tunnel),
        }
    }

    /// Send the packet, as it is now, out of a datapath port.
    pub(super) fn transmit(&mut self, up: bool, dp: DpPort) {
        if !up {
            return self.drop(Drop::PortDown);
        }
        self.commit();
        if let Some(len) = self.truncate {
            self.out.program.push(DpAction::Truncate(len));
        }
        self.out.program.push(DpAction::Output(dp));
        self.used += 1;
    }

    /// Go on in another bridge, then come back with the packet's key as it was.
    fn cross(&mut self, bridge: BridgeId, port: OfPort) {
        let snapshot = self.snapshot;
        let Some(peer) = snapshot.bridge(bridge) else { return self.drop(Drop::PortGone) };
        if self.depth >= MAX_DEPTH {
            return self.drop(Drop::Recursion);
        }
        self.depth += 1;
        let saved = self.save();
        let home = (self.bridge, self.in_port, self.table, self.rule.take(), self.exit);
        let set = std::mem::take(&mut self.action_set);
        (self.bridge, self.in_port, self.exit) = (peer, port, false);
        self.key.set(Field::InPort, u128::from(port.0));
        // Tunnel fields, registers and metadata do not cross (ovs-fields(7)).
        for w in word::TUN_ID..word::METADATA {
            if self.key.word(w) != 0 || self.fixed.word(w) != u64::MAX {
                self.write_word(w, 0, u64::MAX);
            }
        }
        for w in word::METADATA..flow::WORDS {
            self.key.set_word(w, 0);
            self.fixed.set_word(w, u64::MAX);
        }
        self.enter_bridge();
        (self.bridge, self.in_port, self.table, self.rule, self.exit) = home;
        self.action_set = set;
        self.restore(saved);
        self.depth -= 1;
    }

    /// The key as it is, to come back to.
    pub(super) fn save(&mut self) -> Saved {
        Saved {
            in_port: self.in_port,
            key: self.key.clone(),
            fixed: self.fixed.clone(),
            dirty: self.dirty.clone(),
            committed: std::mem::take(&mut self.committed),
            tags_dirty: self.tags_dirty,
            tags_committed: std::mem::replace(&mut self.tags_committed, false),
        }
    }

    /// Come back to a key. What was committed in between has to be committed back, if anything
    /// still looks at the packet.
    pub(super) fn restore(&mut self, saved: Saved) {
        self.in_port = saved.in_port;
        self.key = saved.key;
        self.fixed = saved.fixed;
        self.dirty = saved.dirty;
        self.dirty.or(&self.committed);
        self.committed.or(&saved.committed);
        self.tags_dirty = saved.tags_dirty || self.tags_committed;
        self.tags_committed |= saved.tags_committed;
    }
}

/// What [`Ctx::save`] keeps.
pub(super) struct Saved {
    in_port: OfPort,
    key: FlowKey,
    fixed: FlowKey,
    dirty: FlowKey,
    committed: FlowKey,
    tags_dirty: bool,
    tags_committed: bool,
}
