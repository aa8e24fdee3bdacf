//! Looking packets up: the cache, then the subtables.

use flow::{FlowKey, sparse};

use super::packed::Columns;
use super::{BURST, Found, Hot, INLINE, Megaflows, Subtable};
use crate::index::NONE;
use crate::stages::{Stage, StageClock};

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

/// The packets that are still looked for, in no order.
pub(super) struct Asked<'a> {
    /// Those from `len` on say nothing.
    pub keys: [&'a FlowKey; BURST],
    /// Which packet of the lookup each is.
    at: [u8; BURST],
    pub len: usize,
}

impl<'a> Asked<'a> {
    /// All of a lookup, which has one at least.
    #[inline(always)]
    fn all<K: Keys>(keys: &'a K) -> Asked<'a> {
        const IN_ORDER: [u8; BURST] = {
            let mut at = [0; BURST];
            let mut i = 0;
            while i < BURST {
                at[i] = i as u8;
                i += 1;
            }
            at
        };
        let len = keys.count().min(BURST);
        let mut asked = Asked { keys: [keys.key(0); BURST], at: IN_ORDER, len };
        for (i, to) in asked.keys[..len].iter_mut().enumerate() {
            *to = keys.key(i);
        }
        asked
    }

    #[inline(always)]
    pub fn keys(&self) -> &[&'a FlowKey] {
        &self.keys[..self.len]
    }

    /// Which packet of the lookup it is.
    #[inline(always)]
    pub fn at(&self, i: usize) -> usize {
        usize::from(self.at[i]) % BURST
    }

    /// All of them, as bits.
    #[inline(always)]
    pub fn map(&self) -> u32 {
        (1u64 << self.len).wrapping_sub(1) as u32
    }

    /// Those with these bits are found: others take their places.
    #[inline(always)]
    fn forget(&mut self, mut found: u32) {
        if found == self.map() {
            self.len = 0;
        }
        while self.len > 0 && found != 0 {
            // The highest first, so that the last of all is never one of them.
            let i = found.ilog2() as usize;
            found &= !(1 << i);
            self.len -= 1;
            (self.keys[i], self.at[i]) = (self.keys[self.len], self.at[self.len]);
        }
    }
}

/// Room for what is worked out of the packets that are looked up.
pub(super) struct Scratch {
    pub columns: Columns,
    pub hashes: [u64; BURST],
    pub ids: [u32; BURST],
    /// By packet of the lookup: the hash of its whole key.
    whole: [u64; BURST],
}

impl Default for Scratch {
    fn default() -> Self {
        let hashes = [0; BURST];
        Scratch { columns: [hashes; INLINE], hashes, ids: [NONE; BURST], whole: hashes }
    }
}

impl<T> Megaflows<T> {
    /// Look up `n` packets that all have `meta` in [`flow::word::META`]. `out` must be as long. The caller says
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
        let Some(c) = self.by_meta.get(&meta).map(|c| *c as usize).filter(|_| n > 0) else {
            out.fill(Found::Miss);
            self.counters.misses += n as u64;
            return;
        };
        clock.enter(Stage::Classifier);
        if let Some(hot) = self.recent(c).filter(|hot| self.subtable_of(hot).layout.len() == 0) {
            // One that all packets are of.
            out.fill(hot.found(self.classifiers[c].recent));
            self.counters.cache_hits += n as u64;
            return;
        }
        let mut asked = Asked::all(&keys);
        if self.recall(c, &mut asked, out) {
            return;
        }
        if self.classifiers[c].use_cache {
            clock.enter(Stage::Cache);
            self.through_cache(c, &mut asked, out, clock);
        } else {
            self.classify(c, &mut asked, out, false);
        }
        self.classifiers[c].recent = match out.last() {
            Some(Found::Hit(id) | Found::Stale(id)) => *id,
            _ => NONE,
        };
    }

    /// The megaflow that was found last, if it is still there.
    #[inline(always)]
    fn recent(&self, c: usize) -> Option<&Hot> {
        let hot = self.hot.get(self.classifiers[c].recent as usize)?;
        (hot.live && self.subtable_of(hot).owner == c as u32).then_some(hot)
    }

    #[inline(always)]
    fn subtable_of(&self, hot: &Hot) -> &Subtable {
        &self.subtables[usize::from(hot.subtable)]
    }

    /// Compare the packets with the megaflow that was found last: packets of one come together, and where
    /// connections are tracked most packets are of few. While they are not, it is tried less and less.
    /// Whether that was all of them; what is not found is a miss so far.
    #[inline(always)]
    fn recall(&mut self, c: usize, asked: &mut Asked<'_>, out: &mut [Found]) -> bool {
        /// After so many failures in a row, one burst of 32 is compared.
        const MOST: u8 = 5;
        out.fill(Found::Miss);
        let class = &mut self.classifiers[c];
        let id = class.recent;
        if class.rest > 0 {
            class.rest -= 1;
            return false;
        }
        let Some(hot) = self.recent(c) else { return false };
        let found = self.subtable_of(hot).of_megaflow(hot, &self.cold[id as usize], asked);
        let of_it = hot.found(id);
        let (count, asked_for) = (found.count_ones(), asked.len);
        self.counters.cache_hits += u64::from(count);
        let class = &mut self.classifiers[c];
        if found == asked.map() {
            class.failures = 0;
            out.fill(of_it);
            return true;
        }
        bits(found).for_each(|i| out[i] = of_it);
        asked.forget(found);
        if count as usize * 2 >= asked_for {
            class.failures = 0;
        } else {
            class.rest = (1 << class.failures) - 1;
            class.failures = (class.failures + 1).min(MOST);
        }
        false
    }

    /// Look in the exact-match cache first.
    fn through_cache(
        &mut self,
        c: usize,
        asked: &mut Asked<'_>,
        out: &mut [Found],
        clock: &mut StageClock,
    ) {
        let Megaflows { hot, cold, subtables, scratch, cache, .. } = self;
        for i in 0..asked.len {
            let hash = asked.keys[i].hash();
            scratch.whole[asked.at(i)] = hash;
            cache.prefetch(hash);
        }
        for i in 0..asked.len {
            let id = cache.get(scratch.whole[asked.at(i)]).unwrap_or(NONE);
            scratch.ids[i] = id;
            if let Some(hot) = hot.get(id as usize) {
                hot.prefetch(INLINE);
            }
        }
        let mut found = 0u32;
        for i in 0..asked.len {
            let id = scratch.ids[i];
            let Some(hot) = hot.get(id as usize).filter(|hot| hot.live) else { continue };
            let sub = &subtables[usize::from(hot.subtable)];
            if sub.owner == c as u32 && sub.matches(hot, &cold[id as usize], asked.keys[i]) {
                out[asked.at(i)] = hot.found(id);
                found |= 1 << i;
            }
        }
        let (tries, hits) = (asked.len as u64, u64::from(found.count_ones()));
        self.counters.cache_hits += hits;
        self.classifiers[c].cache_tries += tries;
        self.classifiers[c].cache_hits += hits;
        if hits < tries {
            asked.forget(found);
            clock.enter(Stage::Classifier);
            self.classify(c, asked, out, true);
        }
    }

    /// Probe the subtables. What is found is put into the cache, if it has been asked.
    fn classify(&mut self, c: usize, asked: &mut Asked<'_>, out: &mut [Found], cached: bool) {
        let Megaflows { hot, cold, subtables, scratch, cache, .. } = self;
        let asked_for = asked.len as u64;
        let mut probes = 0;
        for s in &self.classifiers[c].order {
            if asked.len == 0 {
                break;
            }
            let sub = &mut subtables[usize::from(*s)];
            probes += asked.len as u64;
            let found = sub.probe(hot, cold, scratch, asked, out);
            sub.hits += u64::from(found.count_ones());
            if cached {
                for at in bits(found).map(|i| asked.at(i)) {
                    if let Found::Hit(id) | Found::Stale(id) = out[at] {
                        cache.insert(scratch.whole[at], id);
                    }
                }
            }
            asked.forget(found);
        }
        let misses = asked.len as u64;
        let class = &mut self.classifiers[c];
        class.probes += probes;
        class.lookups += asked_for;
        self.counters.probes += probes;
        self.counters.misses += misses;
        self.counters.classifier_hits += asked_for - misses;
    }
}

/// The numbers of the bits that are set.
#[inline(always)]
pub(super) fn bits(map: u32) -> impl Iterator<Item = usize> {
    sparse::bits(u64::from(map))
}
