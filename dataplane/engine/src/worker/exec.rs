//! Do what an action program says, and send packets on their way.
//!
//! [`Transmit`] owns the worker's queues and frames. A packet that leaves by a queue of this
//! worker is staged in the queue's burst; one that leaves by another worker's is handed over. A
//! packet that ends is counted under its reason and its frames go back to the pool: nothing is
//! dropped in silence.
//!
//! Must not know: how a program came to be.

use std::sync::Arc;

use afxdp::{FramePool, Packet};
use conntrack::frag::{FragLimits, Fragments};
use conntrack::{ConnRef, Input, Millis, Verdict};
use flow::{Drop, FlowKey, Groups, Offsets, extract, word};
use ofproto::program::{CtStep, DpAction, DpPort};
use ofproto::recirc::Recirculation;
use ports::{Burst, Queue};

use super::command::Owners;
use super::ct_key::{CT_WORDS, Tracked, is_translated};
use super::cutting;
use super::edits::edit;
use super::fragments::{self, Waiting};
use super::order::Order;
use super::popped::Popped;
use super::tracked::Later;
use super::waiting::ForNeighbours;
use crate::handover::Handed;
use crate::samples::DropSample;
use crate::shared::{Event, Shared, WorkerShared, add};
use crate::stages::{Stage, StageClock};

/// Clones nested in each other at most; translation never nests deeper.
const MAX_CLONES: usize = 16;
/// Times that one packet is looked up again at most.
pub(super) const MAX_PASSES: u8 = 8;

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
    random: u64,
}

const NO_SLOT: u16 = u16::MAX;

/// Where a packet stands: its key, layers, and what to say if it is dropped.
pub(super) struct Where<'a> {
    pub key: &'a FlowKey,
    pub off: Offsets,
    pub rule: Option<(u32, u64)>,
    /// What tracking said of the packet.
    pub tracked: Tracked,
    /// How often the packet has been looked up before.
    pub passes: u8,
    /// Where `key` is among those of the burst, which has a place for one packet: a copy has none.
    pub slot: Option<u8>,
    /// `key` is that of a packet which is inside of this one by now.
    pub encapsulated: bool,
}

impl<'a> Where<'a> {
    #[inline(always)]
    pub fn new(key: &'a FlowKey, off: Offsets) -> Where<'a> {
        Where {
            key,
            off,
            rule: None,
            tracked: Tracked::not(),
            passes: 0,
            slot: None,
            encapsulated: false,
        }
    }

    /// The packet's connection, if an earlier step in this zone has told it.
    pub fn known_in(&self, zone: u16) -> ConnRef {
        match self.tracked.conn() {
            (of, conn) if of == zone => conn,
            _ => ConnRef::NONE,
        }
    }
}

/// A packet that is to be looked up again. Its headers are extracted anew.
pub(super) struct Recirculated {
    pub packet: Packet,
    /// Port and recirculation id that it is looked up with.
    pub meta: u64,
    /// What else was known of it, if it is more than port and connection.
    pub metadata: Option<Metadata>,
    /// What its key is to say of its connection.
    pub ct: [u64; CT_WORDS],
    /// Its connection, and the zone.
    pub conn: (u16, ConnRef),
    pub passes: u8,
    /// Its place in the burst.
    pub slot: Option<u8>,
    /// What it continues with; `None` for one that came out of a tunnel.
    pub state: Option<Arc<Recirculation>>,
    /// It was found to be one to drop.
    pub bad: Option<Drop>,
}

impl Recirculated {
    /// A packet that goes on with a state.
    pub fn new(state: &Arc<Recirculation>, packet: Packet, at: &Where<'_>) -> Recirculated {
        Recirculated {
            packet,
            meta: at.key.word(word::META) >> 32 << 32 | u64::from(state.id),
            metadata: Metadata::of_any(at.key).filter(|_| !at.encapsulated),
            ct: at.tracked.words(at.key),
            conn: at.tracked.conn(),
            passes: at.passes + 1,
            slot: None,
            state: Some(state.clone()),
            bad: None,
        }
    }
}

/// The words of a key that do not come from the packet's bytes, connection aside: marks and
/// tunnel fields.
pub(super) struct Metadata([u64; METADATA_WORDS.len()]);

const METADATA_WORDS: [usize; 10] = {
    let mut words = [word::MARK; 10];
    words[1] = word::PRIORITY;
    let mut i = 2;
    while i < words.len() {
        words[i] = word::TUN_ID + i - 2;
        i += 1;
    }
    words
};

impl Metadata {
    /// Those of a key, if it has any.
    pub fn of_any(key: &FlowKey) -> Option<Metadata> {
        let some = Groups::TUNNEL.0 | Groups::MARK.0;
        (key.groups().0 & some != 0).then(|| Metadata::of(key))
    }

    /// The tunnel fields, from [`word::TUN_ID`] on, and no marks.
    #[inline(always)]
    pub fn of_tunnel(words: [u64; word::METADATA - word::TUN_ID]) -> Metadata {
        let mut all = [0; METADATA_WORDS.len()];
        all[2..].copy_from_slice(&words);
        Metadata(all)
    }

    /// Those of a key.
    pub fn of(key: &FlowKey) -> Metadata {
        Metadata(METADATA_WORDS.map(|w| key.word(w)))
    }

    /// Write them into a key.
    pub fn write(&self, key: &mut FlowKey) {
        for (w, value) in METADATA_WORDS.into_iter().zip(self.0) {
            key.set_word(w, value);
        }
    }
}

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

    /// Do the steps of a program on a packet.
    pub fn run(&mut self, program: &[DpAction], packet: Packet, at: &mut Where<'_>) {
        self.run_nested(program, packet, at, 0);
    }

    pub fn run_nested(
        &mut self,
        program: &[DpAction],
        mut packet: Packet,
        at: &mut Where<'_>,
        depth: usize,
    ) {
        let mut cut = None;
        for (i, step) in program.iter().enumerate() {
            let last = i + 1 == program.len();
            let done = match step {
                DpAction::Output(port) if last && cut.is_none() => {
                    return self.output(*port, packet, at);
                }
                DpAction::Output(port) => {
                    self.output_copy(*port, &packet, cut.take(), at);
                    Ok(())
                }
                DpAction::PushVlan { .. } | DpAction::PopVlan | DpAction::Set(_) => {
                    edit(&mut self.sender, step, &mut packet, at)
                }
                DpAction::Truncate(n) => {
                    cut = Some(*n as usize);
                    Ok(())
                }
                DpAction::Reassemble(state) => {
                    return self.reassemble(state, packet, at);
                }
                DpAction::Cut(n) => {
                    flow::checksum::finish_partial(&mut packet);
                    packet.truncate(*n as usize, &mut self.pool);
                    Ok(())
                }
                DpAction::Clone(steps) if last && cut.is_none() && depth < MAX_CLONES => {
                    return self.run_nested(steps, packet, at, depth + 1);
                }
                DpAction::Clone(steps) if depth < MAX_CLONES => {
                    self.clone_and_run(steps, &packet, at, depth);
                    Ok(())
                }
                DpAction::Clone(_) => Err(Drop::Recursion),
                DpAction::Ct(ct) if self.must_wait(ct, at) => {
                    return self.hold(ct, &program[i + 1..], packet, at, depth, i + depth == 0);
                }
                DpAction::Ct(ct) => {
                    let before = self.clock.enter(Stage::Conntrack);
                    let done = self.track(ct, &mut packet, at);
                    self.clock.enter(before);
                    done
                }
                DpAction::CtClear => {
                    at.tracked = Tracked::Since(None);
                    Ok(())
                }
                DpAction::Recirculate(state) if last => {
                    return self.recirculate(state, packet, at);
                }
                DpAction::Recirculate(state) => {
                    self.with_copy(&packet, at, |tx, copy, at| tx.recirculate(state, copy, at));
                    Ok(())
                }
                DpAction::TunnelPush(push) => match edit(&mut self.sender, step, &mut packet, at) {
                    Err(Drop::TooBig) => {
                        return self.too_big(push, &program[i + 1..], packet, at, depth);
                    }
                    done => done,
                },
                DpAction::TunnelPop(listener) if last => {
                    return self.tunnel_pop(*listener, packet, at);
                }
                DpAction::TunnelPop(listener) => {
                    self.with_copy(&packet, at, |tx, copy, at| tx.tunnel_pop(*listener, copy, at));
                    Ok(())
                }
                DpAction::AwaitNeighbour(target, state) if last => {
                    return self.await_neighbour(*target, state, packet, at);
                }
                DpAction::AwaitNeighbour(target, state) => {
                    self.with_copy(&packet, at, |tx, copy, at| {
                        tx.await_neighbour(*target, state, copy, at)
                    });
                    Ok(())
                }
                DpAction::Hear(link) => {
                    self.hear(*link, &packet, at);
                    Ok(())
                }
                DpAction::Controller(to) => {
                    self.send_to_controller(to, &packet, at);
                    Ok(())
                }
                DpAction::IcmpError(e) => self.icmp_error(e, &mut packet, at),
                DpAction::IfTooBig(mtu, steps) => {
                    if cutting::is_larger(at, *mtu) && !cutting::may_be_cut(&packet, at) {
                        return self.run_nested(steps, packet, at, depth + 1);
                    }
                    Ok(())
                }
                DpAction::Fragment(mtu) if cutting::is_larger(at, *mtu) => {
                    self.send_in_pieces(*mtu, &program[i + 1..], packet, at, depth);
                    return;
                }
                DpAction::Fragment(_) => Ok(()),
                DpAction::Drop(why) => Err(*why),
            };
            if let Err(why) = done {
                return self.drop_packet(packet, why, at);
            }
        }
        // The last step was no output, so all that was to be sent has been.
        self.pool.free_packet(packet);
    }

    fn output_copy(&mut self, port: DpPort, packet: &Packet, cut: Option<usize>, at: &Where<'_>) {
        match packet.duplicate(&mut self.pool) {
            Some(mut copy) => {
                if let Some(len) = cut {
                    copy.truncate(len, &mut self.pool);
                }
                self.output(port, copy, at);
            }
            None => self.note_drop(Drop::NoFrame, at, packet.len()),
        }
    }

    fn clone_and_run(
        &mut self,
        steps: &[DpAction],
        packet: &Packet,
        at: &mut Where<'_>,
        depth: usize,
    ) {
        let (off, encapsulated) = (at.off, at.encapsulated);
        self.with_copy(packet, at, |tx, copy, at| tx.run_nested(steps, copy, at, depth + 1));
        (at.off, at.encapsulated) = (off, encapsulated);
    }

    /// Ask the tracker about a packet, and translate it as the tracker says.
    fn track(&mut self, ct: &CtStep, packet: &mut Packet, at: &mut Where<'_>) -> Result<(), Drop> {
        let mut input = Input::of(packet, &at.off, ct.zone);
        if at.tracked.was_sound(at.key) {
            input.was_verified();
        }
        let verdict = self.ask(ct, &input, at.known_in(ct.zone))?;
        if !verdict.nat.is_none() {
            conntrack::nat::apply_fragment(packet, &at.off, &verdict.nat)?;
        }
        at.tracked = Tracked::Since(Some((ct.zone, verdict)));
        Ok(())
    }

    /// Whether a step that keeps a packet's connection finds it kept, so that it has nothing to do: nothing is
    /// said of the packet then that its key does not say.
    #[inline(always)]
    pub fn is_committed(&self, ct: &CtStep, at: &Where<'_>) -> bool {
        let known = match at.tracked {
            Tracked::AsInKey(zone, conn) if zone == ct.zone && !is_translated(at.key) => conn,
            _ => return false,
        };
        let now = Millis(self.now);
        ct.commit.as_ref().is_some_and(|args| self.shared.tracker.is_committed(now, known, args))
    }

    /// What the tracker says of a packet; `known` is its connection, if an earlier step has told.
    pub fn ask(&mut self, ct: &CtStep, input: &Input<'_>, known: ConnRef) -> Result<Verdict, Drop> {
        let now = Millis(self.now);
        let tracker = &self.shared.tracker;
        let Some(commit) = &ct.commit else {
            let verdict = tracker.resume(now, ct.zone, known, ct.nat);
            return Ok(verdict.unwrap_or_else(|| tracker.track(now, input, ct.nat)));
        };
        let seed = &mut self.random;
        let mut random = || {
            *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            flow::key::mix(*seed, 0xe703_7ed1_a0b4_28db)
        };
        tracker.commit(now, input, known, commit, &mut random)
    }

    fn recirculate(&mut self, state: &Arc<Recirculation>, packet: Packet, at: &Where<'_>) {
        if at.passes >= MAX_PASSES {
            return self.drop_packet(packet, Drop::Recirculation, at);
        }
        self.look_up_later(Recirculated::new(state, packet, at), at);
    }

    /// Have a packet looked up again when it is its turn, in its place if it has one.
    #[inline]
    pub fn look_up_later(&mut self, mut packet: Recirculated, at: &Where<'_>) {
        let Some(slot) = at.slot else { return self.strays.push(packet) };
        packet.slot = Some(slot);
        self.order.put_off(slot, at.key);
        self.again.push(packet);
    }

    /// Whether a packet has to wait for an earlier one of the burst.
    #[inline(always)]
    pub fn is_behind(&mut self, at: &Where<'_>) -> bool {
        at.slot.is_some_and(|slot| self.order.must_wait(slot, at.key))
    }

    /// Do something with a copy of a packet, which has no place in the burst.
    fn with_copy(
        &mut self,
        packet: &Packet,
        at: &mut Where<'_>,
        act: impl FnOnce(&mut Self, Packet, &mut Where<'_>),
    ) {
        let slot = at.slot.take();
        match packet.duplicate(&mut self.pool) {
            Some(copy) => act(self, copy, at),
            None => self.note_drop(Drop::NoFrame, at, packet.len()),
        }
        at.slot = slot;
    }

    fn send_to_controller(
        &mut self,
        to: &Arc<ofproto::program::ToController>,
        packet: &Packet,
        at: &Where<'_>,
    ) {
        let mut bytes = vec![0; packet.len().min(usize::from(to.max_len))];
        packet.copy_to(&mut bytes);
        if !self.tell(Event::PacketIn(Box::new((to.clone(), bytes)))) {
            self.note_drop(Drop::ControllerFull, at, packet.len());
        }
    }
}
