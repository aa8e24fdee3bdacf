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
        let mut ids = [NONE; BURST];
        let ids = &mut ids[..n];
        if self.classifiers[c].use_cache {
            clock.enter(Stage::Cache);
            self.through_cache(c, keys, ids, clock);
        } else {
            clock.enter(Stage::Classifier);
            self.classify(c, keys, ids, None);
        }
        for (id, out) in ids.iter().zip(out) {
            *out = match *id {
                NONE => Found::Miss,
                id if self.hot[id as usize].stale => Found::Stale(id),
                id => Found::Hit(id),
            };
        }
    }

    fn through_cache<K: Keys>(
        &mut self,
        c: usize,
        keys: K,
        ids: &mut [u32],
        clock: &mut StageClock,
    ) {
        let n = keys.count();
        let mut hashes = [0u64; BURST];
        for (i, h) in hashes[..n].iter_mut().enumerate() {
            *h = keys.key(i).hash();
            self.cache.prefetch(*h);
        }
        for (id, h) in ids.iter_mut().zip(&hashes) {
            if let Some(slot) = self.cache.get(*h) {
                *id = slot;
                prefetch(&self.hot[slot as usize].values);
                prefetch(&self.hot[slot as usize].packets);
            }
        }
        let mut hits = 0;
        for (i, id) in ids.iter_mut().enumerate() {
            if *id != NONE {
                if self.matches(*id, c, keys.key(i)) {
                    hits += 1;
                } else {
                    *id = NONE;
                }
            }
        }
        self.counters.cache_hits += hits;
        self.classifiers[c].cache_tries += n as u64;
        self.classifiers[c].cache_hits += hits;
        if hits < n as u64 {
            clock.enter(Stage::Classifier);
            self.classify(c, keys, ids, Some(&hashes));
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

    /// Probe the subtables for every packet whose id is still [`NONE`].
    fn classify<K: Keys>(&mut self, c: usize, keys: K, ids: &mut [u32], cached: Option<&[u64]>) {
        let mut left = 0u32;
        for (i, id) in ids.iter().enumerate() {
            left |= u32::from(*id == NONE) << i;
        }
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

    /// Compare the packets in `left` with a subtable's only megaflow; the bits of those that match.
    #[inline(always)]
    fn compare<K: Keys>(&self, sub: &Subtable, keys: K, ids: &mut [u32], left: u32) -> u32 {
        if sub.words.is_empty() {
            bits(left).for_each(|i| ids[i] = sub.only);
            return left;
        }
        let mut found = 0;
        for i in bits(left) {
            if self.values_match(sub.only, sub, keys.key(i)) {
                ids[i] = sub.only;
                found |= 1 << i;
            }
        }
        found
    }

    /// Probe one subtable for the packets in `left`; the bits of those found.
    #[inline(always)]
    fn probe<K: Keys>(&self, s: usize, keys: K, ids: &mut [u32], left: u32) -> u32 {
        let sub = &self.subtables[s];
        if sub.only != NONE {
            return self.compare(sub, keys, ids, left);
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
        if large {
            for i in bits(left) {
                if let Some(slot) = sub.index.find(hashes[i], |_| true) {
                    prefetch(&self.hot[slot as usize].values);
                    prefetch(&self.hot[slot as usize].packets);
                }
            }
        }
        let mut found = 0;
        for i in bits(left) {
            if let Some(id) =
                sub.index.find(hashes[i], |id| self.values_match(id, sub, keys.key(i)))
            {
                ids[i] = id;
                found |= 1 << i;
            }
        }
        found
    }
}

#[inline(always)]
fn bits(map: u32) -> impl Iterator<Item = usize> {
    sparse::bits(u64::from(map))
}
