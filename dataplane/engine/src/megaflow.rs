//! Which megaflow does a packet belong to?
//!
//! A megaflow is plain data: the packet fields it looks at (a mask and the values under it), the
//! action program, and counters. [`Megaflows`] owns one worker's: a slab of [`Hot`] parts, two
//! cache lines each, which is all that a hit touches; the cold parts beside it; and the lookup
//! structures over them.
//!
//! Lookup, for packets that came the same way (same port and recirculation id: one
//! [`Classifier`]): the exact-match cache gives a candidate by the hash of the whole key; where it
//! has none, the classifier probes its subtables, one per distinct mask, most used first. A
//! candidate is always verified under its own mask. Megaflows of one classifier never disagree:
//! any that matches is the right one, because translation put every bit it consulted into the
//! mask. The cache is left out while a classifier answers from its first subtables anyway, and
//! while it mostly misses.
//!
//! A stale megaflow is found but not used: the worker translates again ([`Found::Stale`]).
//!
//! Must not know: rules, bridges, ports, how translation works.

use flow::key::mix;
use flow::sparse;
use flow::{DP_WORDS, FlowKey, MaskWords, Match, word};
use ofproto::program::{DpAction, DpPort, Program};

use crate::cpu::prefetch;
use crate::index::{HashCache, Index, NONE};

/// Values kept in the hot part; wider masks continue in the cold part.
const INLINE: usize = 8;
/// Subtables of one classifier at most: past that, new megaflows match exactly.
pub const MAX_SUBTABLES: usize = 256;
/// Packets looked up together at most.
pub const BURST: usize = 32;

/// The part of a megaflow that a hit touches: two cache lines.
#[repr(C, align(64))]
pub struct Hot {
    /// Values under the mask, in the mask's order; unused ones are 0.
    values: [u64; INLINE],
    program: Program,
    /// Packets that hit.
    pub packets: u64,
    /// Bytes of those packets.
    pub bytes: u64,
    /// When it was hit last, in the worker's ticks (milliseconds).
    pub used: u64,
    /// The port, if the program is a single output; 0 otherwise.
    pub output: DpPort,
    /// Union of the TCP flags seen.
    pub tcp_flags: u16,
    subtable: u16,
    live: bool,
    stale: bool,
}

/// The part that only set-up, sweeping and dumps touch.
struct Cold<T> {
    hash: u64,
    /// Values beyond the inline ones.
    rest: Box<[u64]>,
    note: Option<T>,
}

struct Subtable {
    /// The classifier that it belongs to.
    owner: u32,
    /// (word, mask), in order of the word.
    words: Box<[(usize, u64)]>,
    mask: MaskWords,
    index: Index,
    hits: u64,
    live: bool,
}

impl Subtable {
    #[inline(always)]
    fn hash(&self, key: &FlowKey) -> u64 {
        hash_values(self.words.iter().map(|(i, m)| key.word(*i) & m))
    }
}

/// Multiply-add over masked words, folded once at the end: no chain of dependent multiplies.
#[inline(always)]
fn hash_values(values: impl Iterator<Item = u64>) -> u64 {
    let mut acc = 0u64;
    let mut k = 0x9e37_79b9_7f4a_7c15u64;
    for v in values {
        acc = acc.wrapping_add((v ^ v >> 29).wrapping_mul(k));
        k = k.wrapping_add(0x3c6e_f372_fe94_f82a);
    }
    mix(acc, 0xa076_1d64_78bd_642f)
}

/// The subtables for packets of one way in: one port and recirculation id.
pub struct Classifier {
    meta: u64,
    /// Indices into `Megaflows::subtables`, most used first.
    order: Vec<u16>,
    /// Lookups and probes since the last reordering, to decide about the cache.
    lookups: u64,
    probes: u64,
    cache_tries: u64,
    cache_hits: u64,
    use_cache: bool,
    /// Rounds of tuning for which the cache stays off.
    bypass: u32,
}

/// What a lookup found for one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// This megaflow.
    Hit(u32),
    /// This megaflow, but it has to be translated again first.
    Stale(u32),
    /// Nothing.
    Miss,
}

/// Counters of the lookups.
#[derive(Clone, Copy, Debug, Default)]
pub struct LookupCounters {
    /// Packets found through the exact-match cache.
    pub cache_hits: u64,
    /// Packets found by the classifier.
    pub classifier_hits: u64,
    /// Packets found nowhere (or stale).
    pub misses: u64,
    /// Subtables probed.
    pub probes: u64,
}

/// One worker's megaflows. `T` is what the worker keeps with each (rules, effects).
pub struct Megaflows<T> {
    hot: Vec<Hot>,
    cold: Vec<Cold<T>>,
    free: Vec<u32>,
    subtables: Vec<Subtable>,
    classifiers: Vec<Classifier>,
    by_meta: std::collections::HashMap<u64, u32, BuildMix>,
    cache: HashCache,
    empty: Program,
    /// Counters since start.
    pub counters: LookupCounters,
}

/// A hasher for keys that are already numbers.
#[derive(Clone, Copy, Default)]
pub struct BuildMix;

/// See [`BuildMix`].
pub struct Mix(u64);

impl std::hash::BuildHasher for BuildMix {
    type Hasher = Mix;
    fn build_hasher(&self) -> Mix {
        Mix(0)
    }
}

impl std::hash::Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = mix(self.0 ^ u64::from(*b), 0x9e37_79b9_7f4a_7c15);
        }
    }
    fn write_u64(&mut self, v: u64) {
        self.0 = mix(self.0 ^ v ^ 0x9e37_79b9_7f4a_7c15, 0xa076_1d64_78bd_642f);
    }
    fn write_u32(&mut self, v: u32) {
        self.write_u64(u64::from(v));
    }
}

impl<T> Megaflows<T> {
    /// An empty set, with an exact-match cache of `cache_buckets` times eight entries.
    pub fn new(cache_buckets: usize) -> Self {
        Megaflows {
            hot: Vec::new(),
            cold: Vec::new(),
            free: Vec::new(),
            subtables: Vec::new(),
            classifiers: Vec::new(),
            by_meta: Default::default(),
            cache: HashCache::new(cache_buckets),
            empty: Program::from([]),
            counters: LookupCounters::default(),
        }
    }

    /// Megaflows there are.
    pub fn len(&self) -> usize {
        self.hot.len() - self.free.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Distinct (way in, mask) pairs.
    pub fn subtable_count(&self) -> usize {
        self.classifiers.iter().map(|c| c.order.len()).sum()
    }

    /// The hot part of a megaflow that a lookup or insertion returned.
    #[inline(always)]
    pub fn hot(&mut self, id: u32) -> &mut Hot {
        &mut self.hot[id as usize]
    }

    /// Look up `n` packets that all have `meta` in [`word::META`]. `out` must be as long.
    #[inline]
    pub fn lookup(&mut self, meta: u64, keys: &[FlowKey], out: &mut [Found]) {
        debug_assert!(keys.len() == out.len() && keys.len() <= BURST);
        let Some(c) = self.by_meta.get(&meta).map(|c| *c as usize) else {
            out.fill(Found::Miss);
            self.counters.misses += keys.len() as u64;
            return;
        };
        let mut ids = [NONE; BURST];
        let ids = &mut ids[..keys.len()];
        if self.classifiers[c].use_cache {
            self.through_cache(c, keys, ids);
        } else {
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

    fn through_cache(&mut self, c: usize, keys: &[FlowKey], ids: &mut [u32]) {
        let mut hashes = [0u64; BURST];
        for (h, k) in hashes.iter_mut().zip(keys) {
            *h = k.hash();
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
        for (id, k) in ids.iter_mut().zip(keys) {
            if *id != NONE {
                if self.matches(*id, c, k) {
                    hits += 1;
                } else {
                    *id = NONE;
                }
            }
        }
        self.counters.cache_hits += hits;
        self.classifiers[c].cache_tries += keys.len() as u64;
        self.classifiers[c].cache_hits += hits;
        if hits < keys.len() as u64 {
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
    fn classify(&mut self, c: usize, keys: &[FlowKey], ids: &mut [u32], cached: Option<&[u64]>) {
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

    /// Probe one subtable for the packets in `left`; the bits of those found.
    #[inline(always)]
    fn probe(&self, s: usize, keys: &[FlowKey], ids: &mut [u32], left: u32) -> u32 {
        let sub = &self.subtables[s];
        let mut hashes = [0u64; BURST];
        // Small tables are in the nearest cache anyway.
        let large = sub.index.len() > 256;
        for i in bits(left) {
            hashes[i] = sub.hash(&keys[i]);
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
            if let Some(id) = sub.index.find(hashes[i], |id| self.values_match(id, sub, &keys[i])) {
                ids[i] = id;
                found |= 1 << i;
            }
        }
        found
    }

    /// Install a megaflow for packets like `key` under `mask`. The mask must have all of
    /// [`word::META`]; words behind the datapath's are left out. Returns its id.
    ///
    /// Past [`MAX_SUBTABLES`] masks, a megaflow with yet another mask matches exactly instead.
    pub fn insert(
        &mut self,
        key: &FlowKey,
        mask: &FlowKey,
        program: Program,
        now: u64,
        note: T,
    ) -> u32 {
        let meta = key.word(word::META);
        let c = self.classifier_for(meta);
        let mask = self.mask_for(c, mask);
        let s = self.subtable_for(c, mask);
        let sub = &self.subtables[s];
        let hash = sub.hash(key);
        let mut values = [0; INLINE];
        for ((i, m), v) in sub.words.iter().zip(&mut values) {
            *v = key.word(*i) & m;
        }
        let rest = sub.words.iter().skip(INLINE).map(|(i, m)| key.word(*i) & m).collect();
        let output = single_output(&program);
        let hot = Hot {
            values,
            program,
            packets: 0,
            bytes: 0,
            used: now,
            output,
            tcp_flags: 0,
            subtable: s as u16,
            live: true,
            stale: false,
        };
        let cold = Cold { hash, rest, note: Some(note) };
        let id = match self.free.pop() {
            Some(id) => {
                self.hot[id as usize] = hot;
                self.cold[id as usize] = cold;
                id
            }
            None => {
                self.hot.push(hot);
                self.cold.push(cold);
                (self.hot.len() - 1) as u32
            }
        };
        let cold = &self.cold;
        self.subtables[s].index.insert(hash, id, |slot| cold[slot as usize].hash);
        id
    }

    fn classifier_for(&mut self, meta: u64) -> usize {
        if let Some(c) = self.by_meta.get(&meta) {
            return *c as usize;
        }
        let fresh = Classifier::new(meta);
        // Reuse the place of one that has become empty.
        let c = match self.classifiers.iter().position(|c| c.order.is_empty()) {
            Some(c) => {
                self.by_meta.remove(&self.classifiers[c].meta);
                self.classifiers[c] = fresh;
                c
            }
            None => {
                self.classifiers.push(fresh);
                self.classifiers.len() - 1
            }
        };
        self.by_meta.insert(meta, c as u32);
        c
    }

    /// The mask's datapath words without META, or the exact mask if there are too many masks.
    fn mask_for(&self, c: usize, mask: &FlowKey) -> MaskWords {
        let mut m = FlowKey::ZERO;
        for i in sparse::bits(mask.nonzero_map()).filter(|i| *i != word::META && *i < DP_WORDS) {
            m.set_word(i, mask.word(i));
        }
        let m = MaskWords::new(&m);
        let class = &self.classifiers[c];
        let known = class.order.iter().any(|s| self.subtables[usize::from(*s)].mask == m);
        if known || class.order.len() < MAX_SUBTABLES {
            return m;
        }
        let mut exact = FlowKey::ZERO;
        for i in (0..DP_WORDS).filter(|i| *i != word::META) {
            exact.set_word(i, u64::MAX);
        }
        MaskWords::new(&exact)
    }

    fn subtable_for(&mut self, c: usize, mask: MaskWords) -> usize {
        let order = &self.classifiers[c].order;
        if let Some(s) = order.iter().find(|s| self.subtables[usize::from(**s)].mask == mask) {
            return usize::from(*s);
        }
        let words = mask.iter().collect();
        let fresh =
            Subtable { owner: c as u32, words, mask, index: Index::default(), hits: 0, live: true };
        let s = match self.subtables.iter().position(|s| !s.live) {
            Some(s) => {
                self.subtables[s] = fresh;
                s
            }
            None => {
                self.subtables.push(fresh);
                self.subtables.len() - 1
            }
        };
        self.classifiers[c].order.push(s as u16);
        s
    }

    /// Whether one more megaflow with yet another mask or way in can be had at all: slots of
    /// subtables are numbered in 16 bits.
    pub fn has_room_for_mask(&self) -> bool {
        self.subtables.len() < usize::from(u16::MAX) || self.subtables.iter().any(|s| !s.live)
    }

    /// Remove a megaflow; its note and last counters (packets, bytes).
    pub fn remove(&mut self, id: u32) -> Option<(T, u64, u64)> {
        let hot = &mut self.hot[id as usize];
        if !hot.live {
            return None;
        }
        hot.live = false;
        hot.program = self.empty.clone();
        let counted = (hot.packets, hot.bytes);
        let s = usize::from(hot.subtable);
        let cold = &mut self.cold[id as usize];
        cold.rest = Box::default();
        let note = cold.note.take();
        let sub = &mut self.subtables[s];
        sub.index.remove(cold.hash, id);
        if sub.index.is_empty() {
            sub.live = false;
            let owner = sub.owner as usize;
            self.classifiers[owner].order.retain(|o| usize::from(*o) != s);
        }
        self.free.push(id);
        note.map(|n| (n, counted.0, counted.1))
    }

    /// Mark a megaflow stale, if it is live.
    pub fn mark_stale(&mut self, id: u32) {
        let hot = &mut self.hot[id as usize];
        hot.stale = hot.live;
    }

    /// Whether a translation of the same packet gives the same mask as the megaflow has.
    pub fn same_mask(&self, id: u32, mask: &FlowKey) -> bool {
        let s = usize::from(self.hot[id as usize].subtable);
        let sub = &self.subtables[s];
        self.mask_for(sub.owner as usize, mask) == sub.mask
    }

    /// Give a stale megaflow a new program and note (its mask stays right); the old note.
    pub fn renew(&mut self, id: u32, program: Program, note: T) -> Option<T> {
        let hot = &mut self.hot[id as usize];
        hot.stale = false;
        hot.output = single_output(&program);
        if *hot.program != *program {
            hot.program = program;
        }
        self.cold[id as usize].note.replace(note)
    }

    /// A live megaflow's note.
    pub fn note(&mut self, id: u32) -> Option<&mut T> {
        self.cold.get_mut(id as usize)?.note.as_mut()
    }

    /// Slots there are, live or not: ids are below this.
    pub fn slots(&self) -> u32 {
        self.hot.len() as u32
    }

    /// Whether the slot holds a megaflow.
    pub fn is_live(&self, id: u32) -> bool {
        self.hot.get(id as usize).is_some_and(|h| h.live)
    }

    /// What a live megaflow matches, with [`word::META`] exact.
    pub fn matched(&self, id: u32) -> Match {
        let hot = &self.hot[id as usize];
        let sub = &self.subtables[usize::from(hot.subtable)];
        let mut key = FlowKey::ZERO;
        let values = hot.values.iter().chain(&self.cold[id as usize].rest);
        for ((i, _), v) in sub.words.iter().zip(values) {
            key.set_word(*i, *v);
        }
        let mut mask = sub.mask.expand();
        mask.set_word(word::META, u64::MAX);
        key.set_word(word::META, self.classifiers[sub.owner as usize].meta);
        Match::new(&key, &mask)
    }

    /// Once a second or so: order subtables by use and decide which classifiers use the cache.
    pub fn tune(&mut self) {
        let Megaflows { classifiers, subtables, .. } = self;
        for c in classifiers {
            c.order.sort_by_key(|s| std::cmp::Reverse(subtables[usize::from(*s)].hits));
            for s in &c.order {
                subtables[usize::from(*s)].hits /= 2;
            }
            c.tune();
        }
    }
}

impl Classifier {
    fn new(meta: u64) -> Classifier {
        Classifier {
            meta,
            order: Vec::new(),
            lookups: 0,
            probes: 0,
            cache_tries: 0,
            cache_hits: 0,
            use_cache: false,
            bypass: 0,
        }
    }

    /// Use the cache where it answers often and saves probes.
    fn tune(&mut self) {
        /// Packets that a decision needs to have seen.
        const ENOUGH: u64 = 4096;
        /// Rounds without the cache after it mostly missed.
        const REST: u32 = 8;
        if self.use_cache && self.cache_tries >= ENOUGH {
            if self.cache_hits * 10 < self.cache_tries * 3 {
                self.use_cache = false;
                self.bypass = REST;
            }
        } else if !self.use_cache && self.lookups >= ENOUGH {
            // On average more than one and a half probes: two cache lines fetched in vain cost
            // more than the cache's one.
            let worth = self.probes * 2 > self.lookups * 3;
            self.use_cache = worth && self.bypass == 0;
            self.bypass = self.bypass.saturating_sub(1);
        }
        (self.lookups, self.probes, self.cache_tries, self.cache_hits) = (0, 0, 0, 0);
    }
}

impl Hot {
    /// Whether it waits to be translated again.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// The action program.
    #[inline(always)]
    pub fn program(&self) -> &Program {
        &self.program
    }
}

#[inline(always)]
fn bits(map: u32) -> impl Iterator<Item = usize> {
    sparse::bits(u64::from(map))
}

fn single_output(program: &[DpAction]) -> DpPort {
    match program {
        [DpAction::Output(p)] => *p,
        _ => DpPort(0),
    }
}
