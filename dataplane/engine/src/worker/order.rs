//! Which packets of a burst must others wait for?
//!
//! Packets of a burst leave it at different times: most at once, others after they were tracked
//! or looked up again. [`Order`] sees to it that those of one flow (addresses and ports) leave in
//! the order in which they came: one whose flow has an earlier packet on its way waits for it.
//!
//! A packet is named by its slot: where its key is among those of the burst. Its flow is that
//! with which it came, whatever tracking makes of it. Flows with equal hashes count as one, so
//! that a packet may wait for a stranger, which harms nothing.
//!
//! Most packets that are put off are never asked for: their flow is noted at once, as their key may change,
//! but they are linked to others of it only when somebody asks.
//!
//! Invariants: `pending` has exactly the slots of packets that are put off (in [`super::tracked::Later`],
//! [`super::popped::Popped`], or among those that are looked up again); a packet waits for an earlier slot only, so the
//! first of the pending ones never waits.

use flow::key::mix;
use flow::{FlowKey, word};

use crate::megaflow::BURST;

const CHAINS: usize = 64;
/// Instead of a slot: none.
const NONE: u8 = u8::MAX;

/// The packets of a burst that are on their way.
pub(super) struct Order {
    /// Slots that are put off, as bits.
    pending: u32,
    /// Slots whose `flows` are of this burst, as bits.
    noted: u32,
    /// Those of them whose `links` and `before` are, too.
    linked: u32,
    flows: [u64; BURST],
    /// By hash: the last slot, and by slot the one before it.
    chains: [u8; CHAINS],
    links: [u8; BURST],
    /// By slot: the one before of the same flow.
    before: [u8; BURST],
}

impl Default for Order {
    fn default() -> Self {
        Order {
            pending: 0,
            noted: 0,
            linked: 0,
            flows: [0; BURST],
            chains: [NONE; CHAINS],
            links: [NONE; BURST],
            before: [NONE; BURST],
        }
    }
}

impl Order {
    /// A new burst comes; nothing of the last one is put off any more.
    #[inline(always)]
    pub fn begin(&mut self) {
        debug_assert_eq!(self.pending, 0);
        (self.noted, self.linked) = (0, 0);
    }

    /// Whether any packet is put off.
    #[inline(always)]
    pub fn is_busy(&self) -> bool {
        self.pending != 0
    }

    /// Whether a packet has to wait for an earlier one.
    #[inline]
    pub fn must_wait(&mut self, slot: u8, key: &FlowKey) -> bool {
        if self.pending == 0 {
            return false;
        }
        let slot = usize::from(slot) % BURST;
        self.note(slot, key);
        self.link();
        let before = self.before[slot];
        before != NONE && self.pending & 1 << before != 0
    }

    /// A packet is put off. `key` is that with which it came, if this is the first time.
    #[inline(always)]
    pub fn put_off(&mut self, slot: u8, key: &FlowKey) {
        let slot = usize::from(slot) % BURST;
        self.note(slot, key);
        self.pending |= 1 << slot;
    }

    /// A packet that was put off is taken up again.
    #[inline(always)]
    pub fn take_up(&mut self, slot: u8) {
        self.pending &= !(1 << (usize::from(slot) % BURST));
    }

    /// Note of which flow a packet is, once.
    #[inline(always)]
    fn note(&mut self, slot: usize, key: &FlowKey) {
        if self.noted >> slot & 1 == 0 {
            self.noted |= 1 << slot;
            self.flows[slot] = flow_of(key);
        }
    }

    /// Find the places of all noted packets behind others of their flows. They are noted in the order in
    /// which they came, so that those which were linked before are earlier ones.
    fn link(&mut self) {
        if self.linked == 0 {
            self.chains.fill(NONE);
        }
        for slot in flow::sparse::bits(u64::from(self.noted & !self.linked)) {
            let flow = self.flows[slot];
            let chain = &mut self.chains[(flow >> 58) as usize % CHAINS];
            let last = std::mem::replace(chain, slot as u8);
            let mut before = last;
            while before != NONE && self.flows[usize::from(before) % BURST] != flow {
                before = self.links[usize::from(before) % BURST];
            }
            (self.links[slot], self.before[slot]) = (last, before);
        }
        self.linked = self.noted;
    }
}

/// A hash of addresses and ports.
#[inline(always)]
fn flow_of(key: &FlowKey) -> u64 {
    let v6 = key.word(word::IPV6_SRC + 1) ^ key.word(word::IPV6_DST + 1).rotate_left(17);
    let ports = key.word(word::L4) >> 32;
    mix(key.word(word::IPV4) ^ v6 ^ 0x9e37_79b9_7f4a_7c15, ports ^ 0xa076_1d64_78bd_642f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flow::Field;

    fn key(port: u128) -> FlowKey {
        let mut key = FlowKey::ZERO;
        key.set(Field::TpSrc, port);
        key
    }

    #[test]
    fn waits_for_its_own_flow_alone() {
        let mut o = Order::default();
        for _ in 0..2 {
            o.begin();
            assert!(!o.must_wait(0, &key(1)));
            o.put_off(0, &key(1));
            assert!(o.must_wait(1, &key(1)) && !o.must_wait(2, &key(2)));
            // One that waits is put off itself, and the next waits for it, not for the first.
            o.put_off(1, &key(1));
            o.take_up(0);
            assert!(!o.must_wait(1, &key(7)), "its place is where it came");
            assert!(o.must_wait(3, &key(1)));
            o.take_up(1);
            assert!(!o.is_busy() && !o.must_wait(3, &key(1)));
        }
    }

    #[test]
    fn the_first_of_those_put_off_never_waits() {
        let mut o = Order::default();
        o.begin();
        for slot in 0..BURST as u8 {
            o.put_off(slot, &key(u128::from(slot % 5)));
        }
        for slot in 0..BURST as u8 {
            let free = (slot + 1..BURST as u8).filter(|s| !o.must_wait(*s, &key(0))).count();
            assert_eq!(free, 4.min(BURST - 1 - usize::from(slot)), "the first of each other flow");
            assert!(!o.must_wait(slot, &key(0)));
            o.take_up(slot);
        }
    }
}
