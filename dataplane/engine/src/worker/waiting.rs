//! Packets that wait for a neighbour's address.
//!
//! A tunnel's next hop that is not known yet is asked for by control; what is to be sent there
//! waits here, for a bounded time and in bounded queues. When a version of the snapshot knows the
//! address, the packets are looked up again, so that whatever else has changed applies to them.
//! What has waited for too long is dropped.

use std::collections::VecDeque;
use std::sync::Arc;

use afxdp::{FramePool, Packet};
use flow::Drop;
use ofproto::recirc::Recirculation;
use ofproto::snapshot::Snapshot;
use tunnel::neigh::Target;

use super::Worker;
use super::place::{MAX_PASSES, Recirculated, Where};
use super::transmit::Transmit;

/// Packets that wait for one neighbour at most.
const QUEUE: usize = 16;
/// Packets of one worker that wait at most.
const QUEUED: usize = 256;
/// Milliseconds that a packet waits at most: longer than a neighbour is asked.
const PATIENCE: u64 = 3000;

/// The packets of one worker that wait.
#[derive(Default)]
pub(super) struct ForNeighbours {
    /// By neighbour, each since when.
    queues: Vec<(Target, VecDeque<(u64, Recirculated)>)>,
    packets: usize,
    /// The version, and the time, that they were last looked at.
    looked: (u64, u64),
}

impl ForNeighbours {
    pub fn is_empty(&self) -> bool {
        self.packets == 0
    }

    pub fn len(&self) -> usize {
        self.packets
    }

    /// Room for one more packet, or `None`.
    fn room(&mut self, target: Target) -> Option<&mut VecDeque<(u64, Recirculated)>> {
        if self.packets >= QUEUED {
            return None;
        }
        let at = self.queues.iter().position(|(t, _)| *t == target);
        let at = at.unwrap_or_else(|| {
            self.queues.push((target, VecDeque::new()));
            self.queues.len() - 1
        });
        Some(&mut self.queues[at].1).filter(|q| q.len() < QUEUE)
    }

    /// Take out what waits no longer: packets whose neighbour is known, and those that have waited
    /// for too long.
    fn take(
        &mut self,
        snapshot: &Snapshot,
        now: u64,
        known: &mut Vec<Recirculated>,
    ) -> Vec<Packet> {
        let mut late = Vec::new();
        self.queues.retain_mut(|(target, queue)| {
            if snapshot.underlay.neighbours.contains_key(target) {
                known.extend(queue.drain(..).map(|(_, r)| r));
            }
            while queue.front().is_some_and(|(since, _)| now > since + PATIENCE) {
                late.extend(queue.pop_front().map(|(_, r)| r.packet));
            }
            !queue.is_empty()
        });
        self.packets = self.queues.iter().map(|(_, q)| q.len()).sum();
        late
    }

    /// Give all frames back, at the end.
    pub fn clear(&mut self, pool: &mut FramePool) {
        for (_, r) in self.queues.drain(..).flat_map(|(_, q)| q) {
            pool.free_packet(r.packet);
        }
        self.packets = 0;
    }
}

impl Transmit {
    /// Keep a packet until its next hop's address is known.
    #[cold]
    pub(super) fn await_neighbour(
        &mut self,
        target: Target,
        state: &Arc<Recirculation>,
        packet: Packet,
        at: &Where<'_>,
    ) {
        if at.passes >= MAX_PASSES {
            return self.drop_packet(packet, Drop::Recursion, at);
        }
        let now = self.now;
        let Some(queue) = self.waiting.room(target) else {
            return self.drop_packet(packet, Drop::NeighbourPending, at);
        };
        queue.push_back((now, Recirculated::new(state, packet, at)));
        self.waiting.packets += 1;
        self.worker().set_waiting(true);
    }
}

impl Worker {
    /// Let packets go that need not wait any more.
    #[cold]
    pub(super) fn release_waiting(&mut self) {
        let version = self.flows.snapshot.version;
        let now = self.tx.now;
        if self.tx.waiting.looked == (version, now) {
            return;
        }
        self.tx.waiting.looked = (version, now);
        let Transmit { waiting, strays, .. } = &mut self.tx;
        for packet in waiting.take(&self.flows.snapshot, now, strays) {
            self.tx.worker().count_drop(Drop::NeighbourFailed, 1);
            self.tx.pool.free_packet(packet);
        }
        if self.tx.waiting.is_empty() {
            self.tx.worker().set_waiting(false);
        }
        self.finish(None);
    }
}
