//! Which megaflow does a packet belong to?
//!
//! A megaflow is plain data: the packet fields it looks at (a mask and the values under it), the
//! action program, and counters. [`Megaflows`] owns one worker's: a slab of [`Hot`] parts, two
//! cache lines each, which is all that a hit touches (most often the first); the cold parts beside
//! it; and the lookup structures over them. Values are kept packed (`packed`), and packets of a
//! burst are looked up together (`probe`).
//!
//! Lookup, for packets that came the same way (same port and recirculation id: one
//! [`Classifier`]): the megaflow that was found last is compared with; the exact-match cache gives
//! a candidate by the hash of the whole key; where it has none, the classifier probes its
//! subtables, one per distinct mask, most used first. A candidate is always verified under its own
//! mask. Megaflows of one classifier never disagree: any that matches is the right one, because
//! translation put every bit it consulted into the mask. The cache is left out while a classifier
//! answers from its first subtables anyway, and while it mostly misses.
//!
//! Each classifier knows how much of a packet its megaflows and their programs look at
//! ([`Megaflows::depth`]): no more needs to be read to look a packet up.
//!
//! A stale megaflow is found but not used: the worker translates again ([`Found::Stale`]).
//!
//! Must not know: rules, bridges, ports, how translation works.

mod install;
mod lookup;
mod packed;
mod probe;
#[cfg(test)]
mod tests;

pub use lookup::{Keys, Picked};

use flow::key::mix;
use flow::{Depth, FlowKey, MaskWords, Match, word};
use ofproto::program::{CtStep, DpAction, DpPort, Program};

use crate::index::{HashCache, Index, NONE};
use lookup::Scratch;
use packed::{Layout, Seeds};

/// Packed words kept in the hot part; wider masks continue in the cold part.
const INLINE: usize = 8;
/// Subtables of one classifier at most: past that, new megaflows match exactly.
pub const MAX_SUBTABLES: usize = 256;
/// Packets looked up together at most.
pub const BURST: usize = 32;

/// The part of a megaflow that a hit touches: two cache lines, of which the first is enough to find most and
/// to send their packets as they are.
#[repr(C, align(64))]
pub struct Hot {
    /// Packets that hit.
    pub packets: u64,
    /// Bytes of those packets.
    pub bytes: u64,
    /// When it was hit last, in the worker's ticks (milliseconds).
    pub used: u64,
    /// The port, if the program is a single output; 0 otherwise.
    pub output: DpPort,
    /// What kind of program it is.
    pub shape: Shape,
    /// How much of its packets is read.
    depth: Depth,
    live: bool,
    stale: bool,
    /// Union of the TCP flags seen.
    pub tcp_flags: u16,
    subtable: u16,
    /// The packed words under the mask (`packed`); unused ones are 0.
    values: [u64; INLINE],
    program: Program,
}

const _: () = assert!(size_of::<Hot>() == 128);
const _: () = assert!(std::mem::offset_of!(Hot, values) + Hot::BESIDE * 8 <= 64);

/// What kind of program a megaflow has, as far as its packets are treated differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A single output.
    Output,
    /// Changes of the packet, then an output.
    Edits,
    /// Keep the connection, then the same or an output alone.
    Commit,
    /// A drop.
    Drop,
    /// Track the packet, look it up again.
    Track,
    /// Take the packet out of a tunnel.
    Pop,
    /// Anything else.
    Steps,
}

/// A program of changes and one output at its end: its steps, and the port.
#[inline(always)]
pub fn edits(program: &[DpAction]) -> Option<(&[DpAction], DpPort)> {
    // A copy that is all there is, is no copy.
    let program = match program {
        [DpAction::Clone(steps)] => steps,
        _ => program,
    };
    match program.last()? {
        DpAction::Output(port) => Some((program, *port)),
        _ => None,
    }
}

/// A program that has a connection kept and then only changes the packet and sends it: that step, the others, and
/// the port.
#[inline(always)]
pub fn commit(program: &[DpAction]) -> Option<(&CtStep, &[DpAction], DpPort)> {
    let [DpAction::Ct(ct), steps @ ..] = program else { return None };
    let (steps, port) = edits(steps)?;
    Some((ct, steps, port))
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
    mask: MaskWords,
    /// How much of a packet it looks at.
    depth: Depth,
    layout: Layout,
    seeds: Seeds,
    index: Index,
    /// The only megaflow, if there is but one: it is compared with, not searched. Else
    /// [`crate::index::NONE`].
    only: u32,
    hits: u64,
    live: bool,
}

impl Subtable {
    /// The hash of a key's packed words, of which `packed` has all.
    fn hash(&self, packed: &[u64]) -> u64 {
        self.seeds.hash(&packed[..self.layout.len()])
    }
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
    /// The megaflow that was found last, or [`crate::index::NONE`].
    recent: u32,
    /// Bursts that are not compared with it before one is again.
    rest: u8,
    /// Bursts in a row of which most packets were of others.
    failures: u8,
    /// How many megaflows need so much of a packet, by [`Depth`].
    readers: [u32; 3],
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
    /// Packets found through the exact-match cache, or of the megaflow that was found last.
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
    seeds: Seeds,
    scratch: Box<Scratch>,
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
    /// An empty set, with an exact-match cache of `cache_buckets` times eight entries. Who knows `seed`
    /// can make megaflows that collide.
    pub fn new(cache_buckets: usize, seed: u64) -> Self {
        Megaflows {
            hot: Vec::new(),
            cold: Vec::new(),
            free: Vec::new(),
            subtables: Vec::new(),
            classifiers: Vec::new(),
            by_meta: Default::default(),
            cache: HashCache::new(cache_buckets),
            empty: Program::from([]),
            seeds: Seeds([seed, mix(seed, 0x9e37_79b9_7f4a_7c15)]),
            scratch: Box::default(),
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

    /// How much of a packet with this [`word::META`] any megaflow or its program looks at. One that none of
    /// them covers is to be read whole before it is translated.
    #[inline]
    pub fn depth(&self, meta: u64) -> Depth {
        self.by_meta.get(&meta).map_or(Depth::Whole, |c| self.classifiers[*c as usize].depth())
    }

    /// The hot part of a megaflow that a lookup or insertion returned.
    #[inline(always)]
    pub fn hot(&mut self, id: u32) -> &mut Hot {
        &mut self.hot[id as usize]
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
        let values: Vec<u64> =
            hot.values.iter().chain(&self.cold[id as usize].rest).copied().collect();
        for (i, _, v) in sub.layout.unpack(|i| values[i]) {
            key.set_word(i, v);
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
            recent: NONE,
            rest: 0,
            failures: 0,
            readers: [0; 3],
        }
    }

    /// See [`Megaflows::depth`].
    fn depth(&self) -> Depth {
        match self.readers {
            [n, 0, 0] if n > 0 => Depth::Nothing,
            [_, n, 0] if n > 0 => Depth::Link,
            _ => Depth::Whole,
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
            // On average more than two and a half probes: hashing the whole key and comparing what the
            // cache gives, one packet at a time, costs as much.
            let worth = self.probes * 2 > self.lookups * 5;
            self.use_cache = worth && self.bypass == 0;
            self.bypass = self.bypass.saturating_sub(1);
        }
        (self.lookups, self.probes, self.cache_tries, self.cache_hits) = (0, 0, 0, 0);
    }
}

impl Hot {
    /// Packed words that are in the first cache line.
    const BESIDE: usize = 3;

    /// Whether it waits to be translated again.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// Count packets that hit, with all their bytes and the union of their TCP flags.
    #[inline(always)]
    pub fn count(&mut self, packets: u64, bytes: u64, tcp_flags: u16, now: u64) {
        self.packets += packets;
        self.bytes += bytes;
        self.used = now;
        self.tcp_flags |= tcp_flags;
    }

    /// The action program.
    #[inline(always)]
    pub fn program(&self) -> &Program {
        &self.program
    }
}
