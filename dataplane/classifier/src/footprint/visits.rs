//! From which lookups was one decision made?
//!
//! [`Visits`] gathers them while the decision is made, each as what is to be recorded of it: the words
//! that it consulted, with their masks and values. All stand in one list that is used again for the next
//! decision, so that nothing is allocated and no key is copied.
//!
//! Invariant: the words of a visit are its masks, then as many values, in order of the word.

use flow::FlowKey;
use flow::sparse::bits;

/// The lookups of one decision, in the order in which they were made.
#[derive(Default)]
pub struct Visits {
    heads: Vec<Head>,
    words: Vec<u64>,
}

struct Head {
    table: u32,
    floor: i32,
    rule: u64,
    map: u64,
    /// Where its words begin.
    from: usize,
}

/// One lookup.
#[derive(Clone, Copy)]
pub(super) struct Visit<'a> {
    pub(super) table: u32,
    /// The rule that was found, 0 for none.
    pub(super) rule: u64,
    /// The priority from which on a new rule changes the result, -1 for any.
    pub(super) floor: i32,
    /// Which words were consulted, as bits.
    pub(super) map: u64,
    pub(super) masks: &'a [u64],
    /// The values under the masks.
    pub(super) values: &'a [u64],
}

impl Visits {
    /// Forget all.
    pub fn clear(&mut self) {
        self.heads.clear();
        self.words.clear();
    }

    /// A lookup of `key` in `table` consulted the bits `wc` and found `rule` (0: none). `floor` is the
    /// priority from which on a new rule would change the result, -1 for any
    /// ([`Found::floor`](crate::Found::floor)).
    #[inline]
    pub fn push(&mut self, table: u32, key: &FlowKey, wc: &FlowKey, rule: u64, floor: i32) {
        let map = wc.nonzero_map();
        let (from, n) = (self.words.len(), map.count_ones() as usize);
        self.words.resize(from + 2 * n, 0);
        let (masks, values) = self.words[from..].split_at_mut(n);
        for ((w, mask), value) in bits(map).zip(masks).zip(values) {
            *mask = wc.word(w);
            *value = key.word(w) & *mask;
        }
        self.heads.push(Head { table, floor, rule, map, from });
    }

    /// The words that the last lookup consulted, with their masks.
    #[inline]
    pub fn last_consulted(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        let (map, from) = self.heads.last().map_or((0, 0), |head| (head.map, head.from));
        bits(map).zip(self.words[from..].iter().copied())
    }

    #[inline]
    pub(super) fn iter(&self) -> impl Iterator<Item = Visit<'_>> {
        self.heads.iter().map(|head| {
            let n = head.map.count_ones() as usize;
            let (masks, values) = self.words[head.from..head.from + 2 * n].split_at(n);
            let Head { table, floor, rule, map, .. } = *head;
            Visit { table, rule, floor, map, masks, values }
        })
    }
}
