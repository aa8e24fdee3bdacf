//! How do packets leave?
//!
//! [`Transmit`] owns the worker's queues and frames. A packet that leaves by a queue of this
//! worker is staged in the queue's burst; one that leaves by another worker's is handed over. A
//! packet that ends is counted under its reason and its frames go back to the pool: nothing is
//! dropped in silence.
//!
//! Must not know: what a program does (that is [`super::exec`]).

use std::sync::Arc;

use afxdp::{FramePool, Packet};
use conntrack::frag::{FragLimits, Fragments};
use flow::{Drop, FlowKey, Offsets, extract};
use ofproto::program::DpPort;
use ports::{Burst, Queue};

use super::command::Owners;
use super::fragments::{self, Waiting};
use super::order::Order;
use super::place::{Recirculated, Where};
use super::popped::Popped;
use super::tracked::Later;
use super::waiting::ForNeighbours;
use crate::handover::Handed;
use crate::samples::DropSample;
use crate::shared::{Event, Shared, WorkerShared, add};
use crate::stages::{Stage, StageClock};

/// One queue of a port, with the packets that are to leave by it in this round.
pub(super) struct Slot {
    pub port: DpPort,
    pub queue: Queue,
    pub staged: Burst,
    /// The device is gone: nothing more is received.
    pub gone: bool,
    /// In the list of slots to flush.
    dirty: bool,
    /// What upcalls for its packets have cost.
    pub budget: UpcallBudget,
}

/// A port's share of the worker's flow set-ups.
///
/// While other queues receive too, the packets of one may cause so many translations in a
/// millisecond; what is over that is dropped and counted. A flood of packets that each need a
/// translation so leaves the others about half of the worker.
#[derive(Clone, Copy, Default)]
pub(super) struct UpcallBudget {
    /// The millisecond that is counted.
    tick: u64,
    upcalls: u32,
}

impl UpcallBudget {
    /// Upcalls that a port may cause in a millisecond: at about 2.5 µs each, half of it.
    const SHARE: u32 = 200;

    /// Count an upcall; `false` if there is none left in this millisecond.
    pub fn take(&mut self, tick: u64) -> bool {
        if self.tick != tick {
            *self = UpcallBudget { tick, upcalls: 0 };
        }
        self.upcalls += 1;
        self.upcalls <= Self::SHARE
    }
}

/// The transmit side of a worker.
pub(super) struct Transmit {
    pub shared: Arc<Shared>,
    pub me: usize,
    pub pool: FramePool,
    pub slots: Vec<Slot>,
    /// This worker's slot for each `DpPort`; `NO_SLOT` where it has none.
    local: Vec<u16>,
    owners: Owners,
    /// Slots that sent or received in this round.
    dirty: Vec<u16>,
    /// Workers that packets were handed to in this round.
    handed_to: u64,
    pub told: bool,
    pub now: u64,
    pub sender: tunnel::Sender,
    /// Limits what is said of packets that are too big for a tunnel.
    pub answers: tunnel::pmtu::RateLimit,
    /// Limits the ARP packets and neighbour messages that control hears.
    pub heard: tunnel::pmtu::RateLimit,
    /// Packets of the burst that are to be looked up again.
    pub again: Vec<Recirculated>,
    /// Packets that are to be looked up again and have no slot in the burst: copies, and what
    /// waited elsewhere.
    pub strays: Vec<Recirculated>,
    /// Which packets of the burst have to wait for others.
    pub order: Order,
    /// Packets that are tracked and looked up again together.
    pub later: Later,
    /// Packets that come out of tunnels together.
    pub popped: Popped,
    /// Fragments that wait for others of their datagram.
    pub fragments: Waiting,
    /// Fragments of outer packets.
    pub outer_fragments: Fragments<()>,
    /// The version of the configuration that packets are treated by.
    pub version: u64,
    /// Where the cycles of this round go.
    pub clock: StageClock,
    /// Packets that wait for a neighbour.
    pub waiting: ForNeighbours,
    pub random: u64,
}

const NO_SLOT: u16 = u16::MAX;

impl Transmit {
    pub fn new(shared: Arc<Shared>, me: usize) -> Transmit {
        let pool = shared.region.pool();
        let random = flow::key::mix(shared.seed ^ me as u64, 0xa076_1d64_78bd_642f);
        Transmit {
            shared,
            me,
            pool,
            slots: Vec::new(),
            local: Vec::new(),
            owners: Owners::default(),
            dirty: Vec::new(),
            handed_to: 0,
            told: false,
            now: 0,
            sender: tunnel::Sender::default(),
            answers: tunnel::pmtu::RateLimit::new(1000, 50),
            heard: tunnel::pmtu::RateLimit::new(2000, 500),
            again: Vec::new(),
            strays: Vec::new(),
            order: Order::default(),
            later: Later::default(),
            popped: Popped::default(),
            fragments: fragments::none(),
            outer_fragments: Fragments::new(FragLimits::default()),
            version: 0,
            clock: StageClock::default(),
            random,
            waiting: ForNeighbours::default(),
        }
    }

    pub fn worker(&self) -> &WorkerShared {
        &self.shared.workers[self.me]
    }

    pub fn set_owners(&mut self, owners: Owners) {
        self.owners = owners;
    }

    pub fn add_slot(&mut self, port: DpPort, queue: Queue) -> usize {
        self.slots.push(Slot {
            port,
            queue,
            staged: Burst::new(),
            gone: false,
            dirty: false,
            budget: UpcallBudget::default(),
        });
        self.index_slots();
        self.slots.len() - 1
    }

    /// Take all slots of a port out, staged packets sent.
    pub fn remove_slots(&mut self, port: Option<DpPort>) -> Vec<Queue> {
        self.flush();
        let mut out = Vec::new();
        let mut at = 0;
        while at < self.slots.len() {
            if port.is_none_or(|p| p == self.slots[at].port) {
                out.push(self.slots.swap_remove(at).queue);
            } else {
                at += 1;
            }
        }
        self.index_slots();
        out
    }

    fn index_slots(&mut self) {
        self.local.fill(NO_SLOT);
        self.dirty.clear();
        for (i, slot) in self.slots.iter().enumerate() {
            if slot.dirty {
                self.dirty.push(i as u16);
            }
            let port = slot.port.0 as usize;
            if self.local.len() <= port {
                self.local.resize(port + 1, NO_SLOT);
            }
            // The first queue of a port that this worker has transmits for it.
            if self.local[port] == NO_SLOT {
                self.local[port] = i as u16;
            }
        }
    }

    /// Count a packet that ends here and give its frames back.
    pub fn drop_packet(&mut self, packet: Packet, why: Drop, at: &Where<'_>) {
        self.count_drop(why, at, packet.len(), Some(&packet));
        self.pool.free_packet(packet);
    }

    /// Count what ends here and is no packet any more, or is only a copy that could not be made.
    pub fn note_drop(&mut self, why: Drop, at: &Where<'_>, len: usize) {
        self.count_drop(why, at, len, None);
    }

    fn count_drop(&mut self, why: Drop, at: &Where<'_>, len: usize, packet: Option<&Packet>) {
        let now = self.now;
        let worker = self.worker();
        worker.count_drop(why, 1);
        if worker.samples.wanted(why, now) {
            let (mut key, rule) = (at.key.clone(), at.rule);
            // Its headers may not have been read.
            if let Some(packet) = packet.filter(|_| at.off.l3 == 0) {
                extract(packet.data(), packet.len(), &mut key);
            }
            worker.samples.keep(DropSample { at: now, why, key, len, rule });
        }
    }

    /// The slot by which a port's packets leave, if that is one of this worker's.
    #[inline(always)]
    pub fn slot_of(&self, port: DpPort) -> Option<usize> {
        let slot = self.local.get(port.0 as usize).copied().unwrap_or(NO_SLOT);
        (slot != NO_SLOT).then_some(usize::from(slot))
    }

    /// Send a packet out of a port, as it is.
    #[inline(always)]
    pub fn output(&mut self, port: DpPort, packet: Packet, at: &Where<'_>) {
        match self.slot_of(port) {
            Some(slot) => self.stage(slot, packet),
            None => self.hand_over(port, packet, at),
        }
    }

    /// Send packets out of a port, as they are; how many bytes they have.
    #[inline(always)]
    pub fn output_run<'a>(
        &mut self,
        port: DpPort,
        packets: impl Iterator<Item = Packet>,
        keys: impl Iterator<Item = &'a FlowKey>,
    ) -> u64 {
        let mut bytes = 0;
        let Some(slot) = self.slot_of(port) else {
            for (packet, key) in packets.zip(keys) {
                bytes += packet.len() as u64;
                self.hand_over(port, packet, &Where::new(key, Offsets::default()));
            }
            return bytes;
        };
        self.mark_dirty(slot);
        let s = &mut self.slots[slot];
        for packet in packets {
            bytes += packet.len() as u64;
            s.staged.push(packet);
            if s.staged.is_full() {
                let before = self.clock.enter(Stage::Transmit);
                s.queue.tx_burst(&mut self.pool, &mut s.staged);
                self.clock.enter(before);
            }
        }
        bytes
    }

    #[inline(always)]
    fn stage(&mut self, slot: usize, packet: Packet) {
        self.mark_dirty(slot);
        self.slots[slot].staged.push(packet);
        self.send_if_full(slot);
    }

    /// A slot's staged packets have become more: there is to be room for another one.
    #[inline(always)]
    pub fn send_if_full(&mut self, slot: usize) {
        let s = &mut self.slots[slot];
        if s.staged.is_full() {
            let before = self.clock.enter(Stage::Transmit);
            s.queue.tx_burst(&mut self.pool, &mut s.staged);
            self.clock.enter(before);
        }
    }

    /// A slot has received, or is to send: its queue wants to be tended in this round.
    #[inline(always)]
    pub fn mark_dirty(&mut self, slot: usize) {
        let s = &mut self.slots[slot];
        if !s.dirty {
            s.dirty = true;
            self.dirty.push(slot as u16);
        }
    }

    /// A port's descriptor has something to read.
    pub fn set_ready(&mut self, port: DpPort) {
        if let Some(slot) = self.slot_of(port) {
            self.slots[slot].queue.set_ready();
        }
    }

    /// Let every queue wake its descriptor from now on; `false` if one has something already.
    pub fn ready_to_sleep(&mut self) -> bool {
        let pool = &mut self.pool;
        self.slots.iter_mut().all(|s| s.gone || s.queue.before_sleep(pool))
    }

    #[cold]
    fn hand_over(&mut self, port: DpPort, packet: Packet, at: &Where<'_>) {
        let owner = self.owners.get(port.0 as usize).copied().flatten();
        let Some(owner) = owner.map(usize::from).filter(|o| *o != self.me) else {
            return self.drop_packet(packet, Drop::PortGone, at);
        };
        match self.shared.rings.push(self.me, owner, Handed { port, packet }) {
            Ok(()) => self.handed_to |= 1 << owner.min(63),
            Err(h) => self.drop_packet(h.packet, Drop::HandOverFull, at),
        }
    }

    /// Send what other workers handed over; how many packets.
    pub fn take_handed(&mut self) -> usize {
        let mut n = 0;
        for from in 0..self.shared.workers.len() {
            while let Some(h) = self.shared.rings.pop(from, self.me) {
                n += 1;
                match self.slot_of(h.port) {
                    Some(slot) => self.stage(slot, h.packet),
                    None => {
                        self.worker().count_drop(Drop::PortGone, 1);
                        self.pool.free_packet(h.packet);
                    }
                }
            }
        }
        n
    }

    /// Send all that is staged, and wake the workers that were handed packets.
    #[inline]
    pub fn flush(&mut self) {
        let mut again = 0;
        for i in 0..self.dirty.len() {
            let slot = self.dirty[i];
            let s = &mut self.slots[usize::from(slot)];
            if !s.staged.is_empty() {
                s.queue.tx_burst(&mut self.pool, &mut s.staged);
            }
            // What the kernel would not take yet, or frames that were not to be had, come next
            // round.
            s.dirty = s.queue.flush(&mut self.pool) && !s.gone;
            if s.dirty {
                self.dirty[again] = slot;
                again += 1;
            }
        }
        self.dirty.truncate(again);
        if self.handed_to != 0 {
            for w in flow::sparse::bits(std::mem::take(&mut self.handed_to)) {
                self.shared.workers[w].wake();
            }
        }
        if std::mem::take(&mut self.told) {
            self.shared.tell_control();
        }
    }

    /// Tell control something; `false` if there was no room.
    pub fn tell(&mut self, event: Event) -> bool {
        self.told = true;
        let told = self.worker().tell(event);
        if !told {
            add(&self.worker().counters.events_lost, 1);
        }
        told
    }
}
