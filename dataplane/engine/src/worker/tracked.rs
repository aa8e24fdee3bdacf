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
use std::sync::Arc;

use afxdp::Packet;
use arrayvec::ArrayVec;
use conntrack::{ConnRef, CtState, Input, Millis, NatEdit, Verdict};
use flow::extract::ip_proto;
use flow::{Drop, FlowKey, word};
use ofproto::program::{CtStep, DpAction, Program};
use ofproto::recirc::Recirculation;

use super::exec::{MAX_PASSES, Where};
use super::fragments::is_fragment;
use super::order::Order;
use super::{Worker, hit, missed};
use crate::megaflow::{BURST, Found, Picked};
use crate::shared::add;
use crate::stages::Stage;

/// Words of a key that say what tracking said.
pub(super) const CT_WORDS: usize = word::TUN_ID - word::CT;

/// What tracking has said of a packet.
#[derive(Clone, Copy)]
pub(super) enum Tracked {
    /// What its key says; the connection, if it has one, is of that zone.
    AsInKey(u16, ConnRef),
    /// Something else, since the packet was looked up.
    Since(Option<(u16, Verdict)>),
}

impl Tracked {
    /// Not tracked. (No constant, of which all bytes would be copied.)
    #[inline(always)]
    pub fn not() -> Tracked {
        Tracked::AsInKey(0, ConnRef::NONE)
    }

    /// The packet's connection, and its zone.
    pub fn conn(&self) -> (u16, ConnRef) {
        match self {
            Tracked::AsInKey(zone, conn) => (*zone, *conn),
            Tracked::Since(Some((zone, v))) => (*zone, v.conn),
            Tracked::Since(None) => (0, ConnRef::NONE),
        }
    }

    /// Whether the packet has been tracked and found valid, so that its checksums are right: what
    /// has changed in it since has changed them too.
    pub fn was_sound(&self, key: &FlowKey) -> bool {
        is_sound(self.words(key)[0])
    }

    /// What a key says of it; `key` is that with which the packet was looked up.
    pub fn words(&self, key: &FlowKey) -> [u64; CT_WORDS] {
        match self {
            Tracked::AsInKey(..) => std::array::from_fn(|i| key.word(word::CT + i)),
            Tracked::Since(Some((zone, v))) => ct_words(*zone, v),
            Tracked::Since(None) => [0; CT_WORDS],
        }
    }
}

/// Whether the word of a key that has `ct_state` says of a packet that it was tracked and is valid.
#[inline(always)]
fn is_sound(word: u64) -> bool {
    const STATE: u32 = 8;
    CtState((word >> STATE) as u8 & (CtState::TRK.0 | CtState::INV.0)) == CtState::TRK
}

/// The words of a key that say this.
#[inline(always)]
fn ct_words(zone: u16, v: &Verdict) -> [u64; CT_WORDS] {
    let (orig, (sport, dport)) = (&v.orig, v.orig.ct_ports());
    let mut words = [0; CT_WORDS];
    let ct = u64::from(v.mark) << 32 | u64::from(zone) << 16 | u64::from(v.state.0) << 8;
    words[0] = ct | u64::from(orig.proto());
    words[word::CT_LABEL - word::CT] = (v.label >> 64) as u64;
    words[word::CT_LABEL + 1 - word::CT] = v.label as u64;
    words[word::CT_TP - word::CT] = u64::from(sport) << 48 | u64::from(dport) << 32;
    let (src, dst) = (orig.src(), orig.dst());
    if orig.is_v6() {
        let halves = [(src >> 64) as u64, src as u64, (dst >> 64) as u64, dst as u64];
        words[word::CT_IPV6_SRC - word::CT..].copy_from_slice(&halves);
    } else {
        words[word::CT_NW - word::CT] = (src as u64) << 32 | dst as u64;
    }
    words
}

/// Change in a key what [`conntrack::nat::apply`] has changed in its packet.
#[inline(always)]
fn follow_edit(key: &mut FlowKey, e: &NatEdit) {
    let (to, src, dst) = (e.tuple(), e.changes_src(), e.changes_dst());
    let high = |on: bool| if on { 0xffff_ffff << 32 } else { 0u64 };
    let low = |on: bool| if on { 0xffff_ffff } else { 0u64 };
    if to.is_v6() {
        if src {
            key.set(flow::Field::Ipv6Src, to.src());
        }
        if dst {
            key.set(flow::Field::Ipv6Dst, to.dst());
        }
    } else {
        let (now, mask) = ((to.src() as u64) << 32 | to.dst() as u64, high(src) | low(dst));
        key.set_word(word::IPV4, key.word(word::IPV4) & !mask | now & mask);
    }
    // An error has the ports of what it quotes, and none itself.
    let has_ports = matches!(to.proto(), ip_proto::TCP | ip_proto::UDP | ip_proto::SCTP);
    if has_ports && !e.is_error() {
        let now = u64::from(to.sport()) << 48 | u64::from(to.dport()) << 32;
        let mask = if src { 0xffff << 48 } else { 0 } | if dst { 0xffff << 32 } else { 0 };
        key.set_word(word::L4, key.word(word::L4) & !mask | now & mask);
    }
}

/// What a program does that is run for a burst together.
pub(super) fn together(program: &[DpAction]) -> Option<(&CtStep, &Arc<Recirculation>)> {
    match program {
        [DpAction::Ct(ct), DpAction::Recirculate(state)] if ct.commit.is_none() => {
            Some((ct, state))
        }
        _ => None,
    }
}

/// A packet put aside.
struct Member {
    packet: Packet,
    /// Where its key and offsets are in the worker's arrays.
    slot: u8,
    passes: u8,
    /// It could not be translated.
    bad: Option<Drop>,
}

/// Packets of one program.
#[derive(Default)]
struct Group {
    program: Option<Program>,
    /// The zone that the program tracks in.
    zone: u16,
    members: ArrayVec<Member, BURST>,
}

impl Group {
    #[inline(always)]
    fn has_room_for(&self, program: &Program) -> bool {
        self.program.as_ref().is_some_and(|p| Arc::ptr_eq(p, program)) && !self.members.is_full()
    }
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

    /// Put a packet aside, or give it back if it is for [`super::exec::Transmit::run`]. If it
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
            && may_join(group.zone, at)
        {
            order.put_off(slot, at.key);
            group.members.push(Member { packet, slot, passes: at.passes + 1, bad: None });
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
        let member = Member { packet, slot, passes: at.passes + 1, bad: None };
        let same = |aside: &&mut Aside| match aside {
            Aside::Together(group) => group.has_room_for(program),
            Aside::Alone(_) => false,
        };
        // One that waits for another may overtake none.
        if !waits && let Some(Aside::Together(group)) = self.waiting.iter_mut().find(same) {
            group.members.push(member);
            return Ok(());
        }
        let mut group = self.spare.pop().unwrap_or_default();
        (group.program, group.zone) = (Some(program.clone()), zone);
        group.members.push(member);
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
        let Some(first) = group.members.first() else { return };
        let n = group.members.len();
        let meta = keys[usize::from(first.slot)].word(word::META) >> 32 << 32 | u64::from(state.id);
        tx.clock.enter(Stage::Conntrack);
        let inputs = group.members.iter().map(|m| {
            let at = usize::from(m.slot);
            let mut input = Input::of(&m.packet, &offsets[at], ct.zone);
            if is_sound(keys[at].word(word::CT)) {
                input.was_verified();
            }
            input
        });
        tx.shared.tracker.track_burst(Millis(tx.now), inputs, ct.nat, batch);
        let verdicts = batch.verdicts();
        let mut slots = [0; BURST];
        for ((m, v), slot) in group.members.iter_mut().zip(verdicts.iter()).zip(&mut slots) {
            let at = usize::from(m.slot);
            let key = &mut keys[at];
            if !v.nat.is_none() {
                m.bad = conntrack::nat::apply(&mut m.packet, &offsets[at], &v.nat).err();
                follow_edit(key, &v.nat);
            }
            key.set_words(word::CT, &ct_words(ct.zone, v));
            key.set_word(word::META, meta);
            debug_assert!(m.bad.is_some() || says_what_is_there(key, &m.packet));
            *slot = m.slot;
        }
        add(&tx.worker().counters.recirculated, n as u64);
        let picked = Picked { keys, slots: &slots[..n] };
        flows.mega.lookup(meta, picked, &mut found[..n], &mut tx.clock);
        tx.clock.enter(Stage::Actions);
        for (i, m) in group.members.drain(..).enumerate() {
            tx.order.take_up(m.slot);
            let at = usize::from(m.slot);
            let mut at = Where::new(&keys[at], offsets[at]);
            at.tracked = Tracked::AsInKey(ct.zone, verdicts[i].conn);
            (at.passes, at.slot) = (m.passes, Some(m.slot));
            if let Some(why) = m.bad {
                tx.drop_packet(m.packet, why, &at);
                continue;
            }
            match found[i] {
                Found::Hit(id) => hit(flows, tx, id, m.packet, &mut at),
                _ => missed(flows, tx, m.packet, &mut at, Some(&state.state), budget),
            }
        }
    }
}

/// Whether a key that was changed along with its packet is what extraction would give.
fn says_what_is_there(key: &FlowKey, packet: &Packet) -> bool {
    let mut fresh = key.clone();
    flow::extract(packet.data(), packet.len(), &mut fresh);
    fresh.words() == key.words()
}
