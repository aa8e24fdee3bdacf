//! The recorded lookups of one table that consulted the same bits.
//!
//! A group keeps its lookups' values in slots. A change that fixes only a part of the group's
//! bits is answered by an [`Index`] over just those bits, which is built when such a change
//! first comes and kept up from then on. A group has few indexes; the one that has not been
//! used for long gives way, and while none has, the group is walked.
//!
//! Invariants: every index has every slot in use; `min_priority` and each chain's `min` are no
//! higher than any of their lookups' priorities.

use super::visits::Visit;
use flow::sparse::{SEED, bits, mix_word};
use flow::{MaskWords, Match};
use hashbrown::HashMap;

pub(super) const NONE: u32 = u32::MAX;
/// Indexes of one group.
const INDEXES_MAX: usize = 8;
/// Up to this many lookups a walk is as good as an index.
const WALK_MAX: usize = 16;
/// Changes for which an index must have been unused before another may take its place.
const IDLE: u64 = 4096;

pub(super) struct Group {
    pub(super) table: u32,
    pub(super) mask: MaskWords,
    /// Masked values, `mask.len()` for each slot.
    values: Vec<u64>,
    /// What is in each slot.
    slots: Vec<Slot>,
    free: Vec<u32>,
    min_priority: i32,
    indexes: Vec<Index>,
}

#[derive(Clone, Copy)]
struct Slot {
    /// The lookup's node, [`NONE`] for a free slot.
    node: u32,
    priority: i32,
}

/// The lookups of a group by some of their bits.
struct Index {
    mask: MaskWords,
    /// (position in a slot's values, mask).
    words: Box<[(usize, u64)]>,
    chains: HashMap<u64, Chain>,
    /// Neighbours in the chain, for each slot.
    links: Vec<(u32, u32)>,
    used: u64,
}

#[derive(Clone, Copy)]
struct Chain {
    first: u32,
    min: i32,
}

/// Whether two lists are equal: they are short, and a call would cost more than the comparison.
#[inline(always)]
pub(super) fn equal(a: &[u64], b: &[u64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b)
}

/// The bits on which a change and a group can disagree.
pub(super) enum Common {
    /// None: every lookup of the group overlaps the change.
    Nothing,
    /// All that the group looked at: one lookup at most.
    All,
    /// Some.
    Some(MaskWords),
}

impl Common {
    pub(super) fn new(change: &MaskWords, group: &MaskWords) -> Common {
        let common = change.and(group);
        if common == *group {
            Common::All
        } else if common.is_empty() {
            Common::Nothing
        } else {
            Common::Some(common)
        }
    }
}

impl Group {
    pub(super) fn new(table: u32, mask: MaskWords) -> Self {
        Group {
            table,
            mask,
            values: Vec::new(),
            slots: Vec::new(),
            free: Vec::new(),
            min_priority: i32::MAX,
            indexes: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the group is of this lookup's table and bits.
    #[inline]
    pub(super) fn is_of(&self, visit: &Visit<'_>) -> bool {
        self.table == visit.table
            && self.mask.map() == visit.map
            && equal(self.mask.words(), visit.masks)
    }

    /// A slot's masked values.
    #[inline]
    pub(super) fn slot(&self, slot: u32) -> &[u64] {
        let n = self.mask.len();
        &self.values[slot as usize * n..][..n]
    }

    /// Whether the change and the slot agree on all bits that both look at.
    #[inline]
    pub(super) fn overlaps(&self, slot: u32, m: &Match) -> bool {
        self.mask.iter().zip(self.slot(slot)).all(|((w, mask), v)| {
            let (value, fixed) = m.word(w);
            (value ^ v) & fixed & mask == 0
        })
    }

    /// Put a lookup into a slot.
    pub(super) fn add(&mut self, node: u32, masked: &[u64], priority: i32) -> u32 {
        let n = self.mask.len();
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { node: NONE, priority: 0 });
            self.values.resize(self.values.len() + n, 0);
            self.slots.len() as u32 - 1
        });
        self.values[slot as usize * n..][..n].copy_from_slice(masked);
        self.slots[slot as usize] = Slot { node, priority };
        self.min_priority = self.min_priority.min(priority);
        for index in &mut self.indexes {
            index.add(slot, masked, priority);
        }
        slot
    }

    pub(super) fn remove(&mut self, slot: u32) {
        let n = self.mask.len();
        let values = &self.values[slot as usize * n..][..n];
        for index in &mut self.indexes {
            index.remove(slot, values);
        }
        self.slots[slot as usize].node = NONE;
        self.free.push(slot);
        if self.is_empty() {
            self.values.clear();
            self.slots.clear();
            self.free.clear();
            self.indexes.clear();
            self.min_priority = i32::MAX;
        }
    }

    /// A lookup has a new result.
    pub(super) fn set_priority(&mut self, slot: u32, priority: i32) {
        self.slots[slot as usize].priority = priority;
        self.min_priority = self.min_priority.min(priority);
        let n = self.mask.len();
        let values = &self.values[slot as usize * n..][..n];
        for index in &mut self.indexes {
            index.lower(values, priority);
        }
    }

    pub(super) fn priority(&self, slot: u32) -> i32 {
        self.slots[slot as usize].priority
    }

    /// Whether no lookup's result has so low a priority that a new rule of this one could
    /// change it.
    #[inline]
    pub(super) fn is_above(&self, priority: i32) -> bool {
        self.min_priority > priority
    }

    /// The nodes of the lookups that overlap the change and whose result has at most that
    /// priority. Not for [`Common::All`], which the owner of the nodes answers by itself.
    pub(super) fn touched(
        &mut self,
        common: &Common,
        m: &Match,
        priority: i32,
        now: u64,
        out: &mut Vec<u32>,
    ) {
        if let Common::Some(mask) = common
            && self.len() > WALK_MAX
            && let Some(at) = self.index(mask, now)
        {
            self.touched_by_index(at, m, priority, out);
            return;
        }
        let mut min = i32::MAX;
        for slot in 0..self.slots.len() as u32 {
            let Slot { node, priority: p } = self.slots[slot as usize];
            if node == NONE {
                continue;
            }
            min = min.min(p);
            if p <= priority && self.overlaps(slot, m) {
                out.push(node);
            }
        }
        self.min_priority = min;
    }

    fn touched_by_index(&mut self, at: usize, m: &Match, priority: i32, out: &mut Vec<u32>) {
        let hash = self.indexes[at].hash_change(m);
        let Some(chain) = self.indexes[at].chains.get(&hash).copied() else { return };
        if chain.min > priority {
            return;
        }
        let mut min = i32::MAX;
        let mut slot = chain.first;
        while slot != NONE {
            let Slot { node, priority: p } = self.slots[slot as usize];
            min = min.min(p);
            if p <= priority && self.overlaps(slot, m) {
                out.push(node);
            }
            slot = self.indexes[at].links[slot as usize].1;
        }
        if min != chain.min {
            self.indexes[at].chains.insert(hash, Chain { min, ..chain });
        }
    }

    /// The index over these bits; built if there is none and room for one.
    fn index(&mut self, mask: &MaskWords, now: u64) -> Option<usize> {
        if let Some(at) = self.indexes.iter().position(|i| i.mask == *mask) {
            self.indexes[at].used = now;
            return Some(at);
        }
        if self.indexes.len() >= INDEXES_MAX {
            let (at, oldest) = self.indexes.iter().enumerate().min_by_key(|(_, i)| i.used)?;
            if now - oldest.used < IDLE {
                return None;
            }
            self.indexes.swap_remove(at);
        }
        let mut index = Index::new(mask, &self.mask, now);
        for (slot, s) in self.slots.iter().enumerate() {
            if s.node != NONE {
                index.add(slot as u32, self.slot(slot as u32), s.priority);
            }
        }
        self.indexes.push(index);
        Some(self.indexes.len() - 1)
    }

    /// Bytes on the heap, about.
    pub(super) fn bytes(&self) -> usize {
        let indexes = self.indexes.iter();
        self.values.capacity() * 8
            + self.slots.capacity() * size_of::<Slot>()
            + self.free.capacity() * 4
            + indexes.map(|i| i.links.capacity() * 8 + i.chains.capacity() * 17).sum::<usize>()
    }
}

impl Index {
    fn new(mask: &MaskWords, of: &MaskWords, now: u64) -> Self {
        let position = |w: usize| bits(of.map()).take_while(|x| *x < w).count();
        let words = mask.iter().map(|(w, m)| (position(w), m)).collect();
        Index { mask: mask.clone(), words, chains: HashMap::new(), links: Vec::new(), used: now }
    }

    fn hash_values(&self, values: &[u64]) -> u64 {
        self.words.iter().fold(SEED, |h, (at, m)| mix_word(h, values[*at] & m))
    }

    fn hash_change(&self, m: &Match) -> u64 {
        self.mask.iter().fold(SEED, |h, (w, mask)| mix_word(h, m.word(w).0 & mask))
    }

    fn add(&mut self, slot: u32, values: &[u64], priority: i32) {
        let hash = self.hash_values(values);
        let chain = self.chains.entry(hash).or_insert(Chain { first: NONE, min: i32::MAX });
        let next = std::mem::replace(&mut chain.first, slot);
        chain.min = chain.min.min(priority);
        if self.links.len() <= slot as usize {
            self.links.resize(slot as usize + 1, (NONE, NONE));
        }
        self.links[slot as usize] = (NONE, next);
        if next != NONE {
            self.links[next as usize].0 = slot;
        }
    }

    fn remove(&mut self, slot: u32, values: &[u64]) {
        let (prev, next) = self.links[slot as usize];
        if next != NONE {
            self.links[next as usize].0 = prev;
        }
        if prev != NONE {
            self.links[prev as usize].1 = next;
            return;
        }
        let hash = self.hash_values(values);
        if next == NONE {
            self.chains.remove(&hash);
        } else if let Some(chain) = self.chains.get_mut(&hash) {
            chain.first = next;
        }
    }

    fn lower(&mut self, values: &[u64], priority: i32) {
        let hash = self.hash_values(values);
        if let Some(chain) = self.chains.get_mut(&hash) {
            chain.min = chain.min.min(priority);
        }
    }
}
