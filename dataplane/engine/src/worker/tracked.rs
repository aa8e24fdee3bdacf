//! Packets that are tracked and looked up again, those of a burst together.
//!
//! A program that is no more than "track, then look up again" is not run packet by packet: its
//! packets are put aside ([`Later`]), the tracker sees all of them at once and can have their
//! connections on the way from memory together, and they are looked up together too. Their keys
//! are not extracted anew: what tracking and translation change in a packet is changed in its key.
//!
//! Packets of one flow leave in the order in which they came, whatever their programs
//! ([`super::order`]): one that has to wait for another is put aside too ([`Alone`]).

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use afxdp::Packet;
use arrayvec::ArrayVec;
use conntrack::{ConnRef, Input, Millis};
use flow::word;
use ofproto::program::{CtStep, DpAction, Program};
use ofproto::recirc::Recirculation;

use super::Worker;
use super::ct_key::{Tracked, ct_words, is_sound, says_what_is_there, translate};
use super::fragments::is_fragment;
use super::order::Order;
use super::place::{MAX_PASSES, Where};
use super::runs::{bring_on, forget_bad, missed};
use crate::megaflow::{BURST, Picked};
use crate::shared::add;
use crate::stages::Stage;

/// What a program does that is run for a burst together.
pub(super) fn together(program: &[DpAction]) -> Option<(&CtStep, &Arc<Recirculation>)> {
    match program {
        [DpAction::Ct(ct), DpAction::Recirculate(state)] if ct.commit.is_none() => {
            Some((ct, state))
        }
        _ => None,
    }
}

/// Packets of one program, or of several that do the same.
#[derive(Default)]
struct Group {
    program: Option<Program>,
    /// The zone that the program tracks in.
    zone: u16,
    /// How often its packets have been looked up before, this time included.
    passes: u8,
    packets: ArrayVec<Packet, BURST>,
    /// Where the packets' keys and offsets are in the worker's arrays.
    slots: ArrayVec<u8, BURST>,
}

impl Group {
    /// Whether a packet with this program may join, as far as the program goes.
    #[inline(always)]
    fn has_room_for(&self, program: &Program) -> bool {
        let same = |p: &Program| Arc::ptr_eq(p, program) || do_the_same(p, program);
        !self.packets.is_full() && self.program.as_ref().is_some_and(same)
    }

    /// Whether a packet may join, as far as it goes itself.
    #[inline(always)]
    fn admits(&self, at: &Where<'_>) -> bool {
        may_join(self.zone, at) && at.passes + 1 == self.passes
    }

    #[inline(always)]
    fn push(&mut self, packet: Packet, slot: u8) {
        self.packets.push(packet);
        self.slots.push(slot);
    }

    /// Bring the packets into the order in which they came: one that was put off again may have joined
    /// behind one that waits for it.
    #[cold]
    fn sort(&mut self) {
        for end in 1..self.slots.len() {
            let mut at = end;
            while at > 0 && self.slots[at - 1] > self.slots[at] {
                self.slots.swap(at - 1, at);
                self.packets.swap(at - 1, at);
                at -= 1;
            }
        }
    }
}

/// Whether packets of two programs are tracked in the same way and looked up with the same state.
#[inline(never)]
fn do_the_same(one: &[DpAction], other: &[DpAction]) -> bool {
    let both = together(one).zip(together(other));
    both.is_some_and(|((ct, state), (ct2, state2))| ct == ct2 && Arc::ptr_eq(state, state2))
}

/// Whether a packet can be tracked together with others. One that is known in the zone is not to
/// be counted again, and fragments wait for others of theirs.
#[inline(always)]
fn may_join(zone: u16, at: &Where<'_>) -> bool {
    at.known_in(zone) == ConnRef::NONE && !is_fragment(at.key) && at.passes < MAX_PASSES
}

/// A packet that waits for an earlier one of its flow, and what is to be done with it.
struct Alone {
    program: Program,
    packet: Packet,
    slot: u8,
    passes: u8,
    conn: (u16, ConnRef),
    rule: Option<(u32, u64)>,
}

enum Aside {
    Together(Box<Group>),
    Alone(Alone),
}

/// The packets of a burst that are put aside. They all came in by one port.
#[derive(Default)]
pub(super) struct Later {
    waiting: VecDeque<Aside>,
    #[allow(clippy::vec_box)] // Moved between the two lists as it is.
    spare: Vec<Box<Group>>,
}

impl Later {
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Put a packet aside, or give it back if it is for [`super::transmit::Transmit::run`]. If it
    /// waits for another one, it is put behind all that are here.
    #[inline(always)]
    pub fn put_aside(
        &mut self,
        order: &mut Order,
        program: &Program,
        packet: Packet,
        at: &Where<'_>,
    ) -> Result<(), Packet> {
        let Some(slot) = at.slot else { return Err(packet) };
        // Behind the last one is right for every packet, and most are of the same program.
        if let Some(Aside::Together(group)) = self.waiting.back_mut()
            && group.has_room_for(program)
            && group.admits(at)
        {
            order.put_off(slot, at.key);
            group.push(packet, slot);
            return Ok(());
        }
        self.put_elsewhere(order, program, packet, slot, at)
    }

    /// The same while packets are put off that are taken up before these: one that waits for any of
    /// them joins no group.
    #[cold]
    pub fn put_behind(
        &mut self,
        order: &mut Order,
        program: &Program,
        packet: Packet,
        at: &Where<'_>,
    ) -> Result<(), Packet> {
        match at.slot {
            Some(slot) if order.must_wait(slot, at.key) => {
                self.wait(order, program, packet, slot, at)
            }
            _ => self.put_aside(order, program, packet, at),
        }
    }

    /// Put packets aside that came one behind another, all with this program, as many as can join the last
    /// group: none if there is no such group. `left` becomes the numbers of the others; `place` says where
    /// the packet with that number stands. How many bytes those have that were put aside.
    #[inline(always)]
    pub fn put_run_aside<'a>(
        &mut self,
        order: &mut Order,
        program: &Program,
        packets: &mut impl Iterator<Item = Packet>,
        left: &mut Range<usize>,
        place: &impl Fn(usize) -> Where<'a>,
    ) -> u64 {
        let Some(Aside::Together(group)) = self.waiting.back_mut() else { return 0 };
        if !group.has_room_for(program) {
            return 0;
        }
        let mut bytes = 0;
        while left.start < left.end && !group.packets.is_full() {
            let at = place(left.start);
            let Some(slot) = at.slot.filter(|_| group.admits(&at)) else { break };
            let Some(packet) = packets.next() else { break };
            left.start += 1;
            bytes += packet.len() as u64;
            order.put_off(slot, at.key);
            group.push(packet, slot);
        }
        bytes
    }

    #[inline(never)]
    fn put_elsewhere(
        &mut self,
        order: &mut Order,
        program: &Program,
        packet: Packet,
        slot: u8,
        at: &Where<'_>,
    ) -> Result<(), Packet> {
        let waits = order.must_wait(slot, at.key);
        let zone = match together(program) {
            Some((ct, _)) if may_join(ct.zone, at) => ct.zone,
            _ if waits => return self.wait(order, program, packet, slot, at),
            _ => return Err(packet),
        };
        order.put_off(slot, at.key);
        let same = |aside: &&mut Aside| match aside {
            Aside::Together(group) => group.has_room_for(program) && group.admits(at),
            Aside::Alone(_) => false,
        };
        // One that waits for another may overtake none.
        if !waits && let Some(Aside::Together(group)) = self.waiting.iter_mut().find(same) {
            group.push(packet, slot);
            return Ok(());
        }
        let mut group = self.spare.pop().unwrap_or_default();
        (group.program, group.zone, group.passes) = (Some(program.clone()), zone, at.passes + 1);
        group.push(packet, slot);
        self.waiting.push_back(Aside::Together(group));
        Ok(())
    }

    #[cold]
    fn wait(
        &mut self,
        order: &mut Order,
        program: &Program,
        packet: Packet,
        slot: u8,
        at: &Where<'_>,
    ) -> Result<(), Packet> {
        order.put_off(slot, at.key);
        let (program, conn) = (program.clone(), at.tracked.conn());
        let alone = Alone { program, packet, slot, passes: at.passes, conn, rule: at.rule };
        self.waiting.push_back(Aside::Alone(alone));
        Ok(())
    }
}

impl Worker {
    /// Track what was put aside, and bring it on its way. What is put aside meanwhile stays.
    #[inline(never)]
    pub(super) fn track_together(&mut self, budget: Option<usize>) {
        for _ in 0..self.tx.later.waiting.len() {
            match self.tx.later.waiting.pop_front() {
                Some(Aside::Together(mut group)) => {
                    if let Some(program) = group.program.take()
                        && let Some((ct, state)) = together(&program)
                    {
                        self.track_group(&mut group, ct, state, budget);
                    }
                    self.tx.later.spare.push(group);
                }
                Some(Aside::Alone(alone)) => self.run_alone(alone),
                None => {}
            }
        }
    }

    /// Run a packet's program, unless it still has to wait.
    #[cold]
    fn run_alone(&mut self, a: Alone) {
        let Worker { keys, offsets, tx, .. } = self;
        let key = &keys[usize::from(a.slot)];
        if tx.order.must_wait(a.slot, key) {
            return tx.later.waiting.push_back(Aside::Alone(a));
        }
        tx.order.take_up(a.slot);
        let (zone, conn) = a.conn;
        let mut at = Where {
            tracked: Tracked::AsInKey(zone, conn),
            passes: a.passes,
            slot: Some(a.slot),
            rule: a.rule,
            ..Where::new(key, offsets[usize::from(a.slot)])
        };
        tx.run(&a.program, a.packet, &mut at);
    }

    fn track_group(
        &mut self,
        group: &mut Group,
        ct: &CtStep,
        state: &Recirculation,
        budget: Option<usize>,
    ) {
        let Worker { keys, offsets, found, tracked: batch, flows, tx, .. } = self;
        if !group.slots.is_sorted() {
            group.sort();
        }
        let (packets, slots) = (&mut group.packets, &group.slots);
        let Some(&first) = slots.first() else { return };
        let n = packets.len();
        let meta = keys[usize::from(first)].word(word::META) >> 32 << 32 | u64::from(state.id);
        tx.clock.enter(Stage::Conntrack);
        let inputs = packets.iter().zip(slots).map(|(packet, slot)| {
            let at = usize::from(*slot) % BURST;
            let mut input = Input::of(packet, &offsets[at], ct.zone);
            if is_sound(keys[at].word(word::CT)) {
                input.was_verified();
            }
            input
        });
        let tracker = &tx.shared.tracker;
        tracker.read_burst(inputs, batch);
        // Those that could not be translated.
        let mut bad = [None; BURST];
        let mut conns = [ConnRef::NONE; BURST];
        let order = &mut tx.order;
        tracker.track_burst(Millis(tx.now), ct.nat, batch, |i, v| {
            // All at once: they go on in the order in which they came.
            order.take_up(slots[i]);
            let at = usize::from(slots[i]) % BURST;
            let (packet, off, key) = (&mut packets[i], &offsets[at], &mut keys[at]);
            if !v.nat.is_none() {
                bad[i] = translate(packet, off, key, &v.nat).err();
            }
            key.set_words(word::CT, &ct_words(ct.zone, v));
            key.set_word(word::META, meta);
            conns[i] = v.conn;
            debug_assert!(bad[i].is_some() || says_what_is_there(key, packet));
        });
        add(&tx.worker().counters.recirculated, n as u64);
        let found = &mut found[..n];
        flows.mega.lookup(meta, Picked { keys, slots }, found, &mut tx.clock);
        forget_bad(found, &bad);
        tx.clock.enter(Stage::Actions);
        let (zone, passes) = (ct.zone, group.passes);
        let place = |i: usize| {
            let at = usize::from(slots[i]) % BURST;
            let tracked = Tracked::AsInKey(zone, conns[i]);
            Where { tracked, passes, slot: Some(slots[i]), ..Where::new(&keys[at], offsets[at]) }
        };
        bring_on(flows, tx, found, &mut packets.drain(..), place, |flows, tx, i, packet, at| {
            match bad[i] {
                Some(why) => tx.drop_packet(packet, why, at),
                None => missed(flows, tx, packet, at, Some(&state.state), budget),
            }
        });
        group.slots.clear();
    }
}
