//! Looking packets up: the cache, then the subtables.

use flow::{FlowKey, sparse};

use super::{BURST, Found, INLINE, Megaflows, Subtable};
use crate::index::NONE;
use crate::stages::{Stage, StageClock};
use flow::cpu::prefetch;

/// The keys of packets that are looked up together.
pub trait Keys: Copy {
    /// How many, at most [`BURST`].
    fn count(self) -> usize;
    /// One of them.
    fn key(&self, i: usize) -> &FlowKey;
}

impl Keys for &[FlowKey] {
    #[inline(always)]
    fn count(self) -> usize {
        self.len()
    }
    #[inline(always)]
    fn key(&self, i: usize) -> &FlowKey {
        &self[i]
    }
}

/// Some of a burst's keys, where they are.
#[derive(Clone, Copy)]
pub struct Picked<'a> {
    /// The keys of the burst.
    pub keys: &'a [FlowKey; BURST],
    /// Which of them, each below [`BURST`].
    pub slots: &'a [u8],
}

impl Keys for Picked<'_> {
    #[inline(always)]
    fn count(self) -> usize {
        self.slots.len()
    }
    #[inline(always)]
    fn key(&self, i: usize) -> &FlowKey {
        &self.keys[usize::from(self.slots[i]) % BURST]
    }
}

impl<T> Megaflows<T> {
    /// Look up `n` packets that all have `meta` in [`word::META`]. `out` must be as long. The caller says
    /// to the clock what comes next.
    #[inline]
    pub fn lookup<K: Keys>(
        &mut self,
        meta: u64,
        keys: K,
        out: &mut [Found],
        clock: &mut StageClock,
    ) {
        let n = keys.count();
        debug_assert!(n == out.len() && n <= BURST);
        let Some(c) = self.by_meta.get(&meta).map(|c| *c as usize) else {
            out.fill(Found::Miss);
            self.counters.misses += n as u64;
            return;
        };
        clock.enter(Stage::Classifier);
        let recent = self.classifiers[c].recent;
        let left = self.recall(c, keys);
        if left == 0 {
            return out.fill(self.found(recent));
        }
        // What is recalled stays; the others are looked for.
        let mut ids = [recent; BURST];
        let ids = &mut ids[..n];
        bits(left).for_each(|i| ids[i] = NONE);
        if self.classifiers[c].use_cache {
            clock.enter(Stage::Cache);
            self.through_cache(c, keys, ids, left, clock);
        } else {
            self.classify(c, keys, ids, left, None);
        }
        self.classifiers[c].recent = ids[n - 1];
        for (id, out) in ids.iter().zip(out) {
            *out = self.found(*id);
        }
    }

    /// What is said of a packet of this megaflow.
    #[inline(always)]
    fn found(&self, id: u32) -> Found {
        match id {
            NONE => Found::Miss,
            id if self.hot[id as usize].stale => Found::Stale(id),
            id => Found::Hit(id),
        }
    }

    /// Compare the packets with the megaflow that was found last: packets of one come together, and where
    /// connections are tracked most packets are of few. While they are not, it is tried less and less. The
    /// packets that are left are given as bits.
    #[inline(always)]
    fn recall<K: Keys>(&mut self, c: usize, keys: K) -> u32 {
        /// After so many failures in a row, one burst of 32 is compared.
        const MOST: u8 = 5;
        let n = keys.count();
        let all = (1u64 << n).wrapping_sub(1) as u32;
        let class = &mut self.classifiers[c];
        let id = class.recent;
        if id == NONE || class.rest > 0 {
            class.rest = class.rest.saturating_sub(1);
            return all;
        }
        let hot = &self.hot[id as usize];
        let sub = &self.subtables[usize::from(hot.subtable)];
        if !hot.live || sub.owner != c as u32 {
            return all;
        }
        let left = all & !self.of_megaflow(id, sub, keys, all);
        self.counters.cache_hits += n as u64 - u64::from(left.count_ones());
        let class = &mut self.classifiers[c];
        if left.count_ones() as usize * 2 <= n {
            class.failures = 0;
        } else {
            class.rest = (1 << class.failures) - 1;
            class.failures = (class.failures + 1).min(MOST);
        }
        left
    }

    fn through_cache<K: Keys>(
        &mut self,
        c: usize,
        keys: K,
        ids: &mut [u32],
        left: u32,
        clock: &mut StageClock,
    ) {
        let mut hashes = [0u64; BURST];
        for i in bits(left) {
            hashes[i] = keys.key(i).hash();
            self.cache.prefetch(hashes[i]);
        }
        for i in bits(left) {
            if let Some(slot) = self.cache.get(hashes[i]) {
                ids[i] = slot;
                prefetch(&self.hot[slot as usize].values);
                prefetch(&self.hot[slot as usize].packets);
            }
        }
        let mut missed = left;
        for i in bits(left) {
            if ids[i] != NONE {
                if self.matches(ids[i], c, keys.key(i)) {
                    missed &= !(1 << i);
                } else {
                    ids[i] = NONE;
                }
            }
        }
        let (tries, hits) =
            (u64::from(left.count_ones()), u64::from((left & !missed).count_ones()));
        self.counters.cache_hits += hits;
        self.classifiers[c].cache_tries += tries;
        self.classifiers[c].cache_hits += hits;
        if missed != 0 {
            clock.enter(Stage::Classifier);
            self.classify(c, keys, ids, missed, Some(&hashes));
        }
    }

    /// Whether a candidate from the cache is live, of this classifier, and matches.
    #[inline(always)]
    fn matches(&self, id: u32, c: usize, key: &FlowKey) -> bool {
        let hot = &self.hot[id as usize];
        let sub = &self.subtables[usize::from(hot.subtable)];
        hot.live && sub.owner == c as u32 && self.values_match(id, sub, key)
    }

    #[inline(always)]
    fn values_match(&self, id: u32, sub: &Subtable, key: &FlowKey) -> bool {
        let hot = &self.hot[id as usize];
        let mut diff = 0;
        for ((i, m), v) in sub.words.iter().zip(&hot.values) {
            diff |= key.word(*i) & m ^ v;
        }
        diff == 0 && (sub.words.len() <= INLINE || self.rest_matches(id, sub, key))
    }

    #[inline(never)]
    fn rest_matches(&self, id: u32, sub: &Subtable, key: &FlowKey) -> bool {
        let rest = &self.cold[id as usize].rest;
        sub.words[INLINE..].iter().zip(rest).all(|((i, m), v)| key.word(*i) & m == *v)
    }

    /// Probe the subtables for the packets in `left`, whose ids are [`NONE`].
    fn classify<K: Keys>(
        &mut self,
        c: usize,
        keys: K,
        ids: &mut [u32],
        mut left: u32,
        cached: Option<&[u64; BURST]>,
    ) {
        let asked = left.count_ones();
        let mut probes = 0;
        for at in 0..self.classifiers[c].order.len() {
            if left == 0 {
                break;
            }
            let s = usize::from(self.classifiers[c].order[at]);
            probes += u64::from(left.count_ones());
            let found = self.probe(s, keys, ids, left);
            self.subtables[s].hits += u64::from(found.count_ones());
            left &= !found;
            if let Some(hashes) = cached {
                for i in bits(found) {
                    self.cache.insert(hashes[i], ids[i]);
                }
            }
        }
        let missed = left.count_ones();
        let class = &mut self.classifiers[c];
        class.probes += probes;
        class.lookups += u64::from(asked);
        self.counters.probes += probes;
        self.counters.misses += u64::from(missed);
        self.counters.classifier_hits += u64::from(asked - missed);
    }

    /// The bits of those packets in `left` that match a megaflow of that subtable.
    #[inline(always)]
    fn of_megaflow<K: Keys>(&self, id: u32, sub: &Subtable, keys: K, left: u32) -> u32 {
        if sub.words.is_empty() {
            return left;
        }
        let mut found = 0;
        for i in bits(left) {
            found |= u32::from(self.values_match(id, sub, keys.key(i))) << i;
        }
        found
    }

    /// Probe one subtable for the packets in `left`; the bits of those found.
    #[inline(always)]
    fn probe<K: Keys>(&self, s: usize, keys: K, ids: &mut [u32], left: u32) -> u32 {
        let sub = &self.subtables[s];
        if sub.only != NONE {
            let found = self.of_megaflow(sub.only, sub, keys, left);
            bits(found).for_each(|i| ids[i] = sub.only);
            return found;
        }
        let mut hashes = [0u64; BURST];
        // Small tables are in the nearest cache anyway.
        let large = sub.index.len() > 256;
        for i in bits(left) {
            hashes[i] = sub.hash(keys.key(i));
            if large {
                sub.index.prefetch(hashes[i]);
            }
        }
        for i in bits(left) {
            ids[i] = sub.index.guess(hashes[i]);
            if large && let Some(hot) = self.hot.get(ids[i] as usize) {
                prefetch(&hot.values);
                prefetch(&hot.packets);
            }
        }
        let mut found = 0;
        for i in bits(left) {
            let matches = |id| self.values_match(id, sub, keys.key(i));
            if ids[i] == NONE || !matches(ids[i]) {
                ids[i] = sub.index.find(hashes[i], matches).unwrap_or(NONE);
            }
            found |= u32::from(ids[i] != NONE) << i;
        }
        found
    }
}

#[inline(always)]
fn bits(map: u32) -> impl Iterator<Item = usize> {
    sparse::bits(u64::from(map))
}
