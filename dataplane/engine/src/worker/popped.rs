//! Packets that come out of tunnels, those of a burst together.
//!
//! A program that is no more than "take the outer headers off" is not run packet by packet: its packets
//! are put aside ([`Popped`]). Their keys are made over into those of the inner packets where they are,
//! and all of a listener are looked up together. They stay in the order in which they came, and what has to
//! wait for one of them does ([`super::order`]).

use afxdp::Packet;
use flow::{Depth, Drop, FlowKey, Offsets, extract, extract_to, word};
use ofproto::program::{DpAction, DpPort, Program};

use super::order::Order;
use super::place::{MAX_PASSES, Where};
use super::runs::{bring_on, forget_bad, missed};
use super::transmit::Transmit;
use super::{Worker, all_hit, tunnel};
use crate::megaflow::{BURST, Picked};
use crate::shared::add;
use crate::stages::Stage;

/// A packet put aside.
struct Member {
    packet: Packet,
    listener: DpPort,
    /// Where its key and offsets are in the worker's arrays.
    slot: u8,
    passes: u8,
}

/// The packets of a burst that are put aside, each with a key of its own in the worker's arrays: at most
/// [`BURST`].
#[derive(Default)]
pub(super) struct Popped {
    waiting: Vec<Member>,
    /// The same list's memory while its packets are on their way and others join them.
    spare: Vec<Member>,
}

impl Popped {
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Put a packet aside, or give it back if it is no such packet, or has to wait for one that is put off
    /// elsewhere, where `others` are.
    #[inline(always)]
    pub fn put_aside(
        &mut self,
        order: &mut Order,
        others: bool,
        program: &Program,
        packet: Packet,
        at: &Where<'_>,
    ) -> Result<(), Packet> {
        let [DpAction::TunnelPop(listener)] = **program else { return Err(packet) };
        let alone = at.encapsulated || at.passes >= MAX_PASSES;
        let Some(slot) = at.slot.filter(|_| !alone && self.waiting.len() < BURST) else {
            return Err(packet);
        };
        // Behind the last of these is right for every packet, if nobody else is put off.
        if others && order.must_wait(slot, at.key) {
            return Err(packet);
        }
        order.put_off(slot, at.key);
        self.waiting.push(Member { packet, listener, slot, passes: at.passes + 1 });
        Ok(())
    }

    /// Put the last packets of a burst aside, where no other packet is put off: nobody waits for them, so
    /// [`Order`] need not know them. All have places, and have been looked up equally often. How many bytes
    /// they have.
    #[inline(always)]
    pub fn put_last<'a>(
        &mut self,
        listener: DpPort,
        packets: impl Iterator<Item = Packet>,
        places: impl Iterator<Item = Where<'a>>,
    ) -> u64 {
        let mut bytes = 0;
        self.waiting.extend(packets.zip(places).map(|(packet, at)| {
            bytes += packet.len() as u64;
            let slot = at.slot.unwrap_or_default();
            Member { packet, listener, slot, passes: at.passes + 1 }
        }));
        bytes
    }
}

impl Worker {
    /// Bring what was put aside on its way.
    #[inline(never)]
    pub(super) fn pop_together(&mut self, budget: Option<usize>) {
        if self.tx.popped.is_empty() {
            return;
        }
        let mut members = std::mem::take(&mut self.tx.popped.spare);
        std::mem::swap(&mut members, &mut self.tx.popped.waiting);
        let Worker { keys, offsets, found, flows, tx, .. } = self;
        add(&tx.worker().counters.recirculated, members.len() as u64);
        let n = members.len();
        let (mut slots, mut passes, mut bad) = ([0; BURST], [0; BURST], [None; BURST]);
        let mut from = 0;
        for group in members.chunk_by_mut(|a, b| a.listener == b.listener) {
            let these = from..from + group.len();
            from = these.end;
            let meta = meta(group[0].listener);
            let depth = flows.mega.depth(meta);
            for (m, i) in group.iter_mut().zip(these.clone()) {
                let at = usize::from(m.slot);
                // All at once: they go on in their order, so that whoever waits for one of them comes later.
                tx.order.take_up(m.slot);
                bad[i] = open(m, &mut keys[at], &mut offsets[at], depth, tx).err();
                (slots[i], passes[i]) = (m.slot, m.passes);
            }
            let picked = Picked { keys, slots: &slots[these.clone()] };
            flows.mega.lookup(meta, picked, &mut found[these.clone()], &mut tx.clock);
            forget_bad(&mut found[these.clone()], &bad[these.clone()]);
            if depth != Depth::Whole && !all_hit(&found[these.clone()]) {
                for (m, _) in group.iter().zip(&bad[these]).filter(|(_, bad)| bad.is_none()) {
                    let at = usize::from(m.slot);
                    offsets[at] = extract(m.packet.data(), m.packet.len(), &mut keys[at]);
                }
            }
        }
        tx.clock.enter(Stage::Actions);
        let found = &found[..n];
        let place = |i: usize| {
            let at = usize::from(slots[i]);
            let (passes, slot) = (passes[i], Some(slots[i]));
            Where { passes, slot, ..Where::new(&keys[at], offsets[at]) }
        };
        let mut packets = members.drain(..).map(|m| m.packet);
        bring_on(flows, tx, found, &mut packets, place, |flows, tx, i, packet, at| match bad[i] {
            Some(why) => tx.drop_packet(packet, why, at),
            None => missed(flows, tx, packet, at, None, budget),
        });
        drop(packets);
        self.tx.popped.spare = members;
    }
}

/// What the packets of a listener are looked up with.
fn meta(listener: DpPort) -> u64 {
    u64::from(listener.0) << 32
}

/// Take the outer headers off, and make the key over into the inner packet's. On failure the key is still
/// the outer one's, unless the packet was found bad inside.
#[inline(always)]
fn open(
    m: &mut Member,
    key: &mut FlowKey,
    off: &mut Offsets,
    depth: Depth,
    tx: &mut Transmit,
) -> Result<(), Drop> {
    let said = tx.decapsulate(m.listener, &mut m.packet, off, key)?;
    key.clear_metadata();
    key.set_word(word::META, meta(m.listener));
    key.set_words(word::TUN_ID, &said);
    // A mark of congestion goes into the inner header.
    let depth = if tunnel::is_marked(key) { Depth::Whole } else { depth };
    *off = extract_to(depth, m.packet.data(), m.packet.len(), key);
    tunnel::take_mark(&mut m.packet, off, key)
}
