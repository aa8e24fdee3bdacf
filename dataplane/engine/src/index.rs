//! From a hash to a slot number: the two hash tables of the caches.
//!
//! Both keep buckets of one cache line, so that a lookup whose bucket was prefetched costs no
//! miss of its own. Neither keeps keys: a hit is a *candidate*, which the caller verifies against
//! the slot. [`Index`] finds every slot that was inserted, and grows; [`HashCache`] has a fixed
//! size and forgets.

use flow::cpu::{equal, prefetch};
use flow::sparse::bits;

/// Entries of a [`HashCache`] bucket.
const WAYS: usize = 8;
/// Entries of an [`Index`] bucket; the eighth place counts what overflowed.
const SLOTS: usize = 7;
/// Stands for "no slot".
pub const NONE: u32 = u32::MAX;
/// Stands for "no slot here, but perhaps in a later bucket".
const LATER: u32 = u32::MAX - 1;

/// Never 0, which stands where there is no entry.
#[inline(always)]
fn signature(hash: u64) -> u32 {
    (hash >> 32) as u32 | 1
}

/// Signatures and slots of up to seven entries.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Bucket {
    /// Those of the entries; in the eighth place how many entries wanted this bucket, or passed it, and
    /// sit in a later one.
    signatures: [u32; SLOTS + 1],
    /// The eighth is [`NONE`], or [`LATER`] while there are such entries.
    slots: [u32; SLOTS + 1],
}

const EMPTY: Bucket = Bucket { signatures: [0; SLOTS + 1], slots: [NONE; SLOTS + 1] };

impl Bucket {
    /// Which entries have that signature, as bits.
    #[inline(always)]
    fn entries(&self, signature: u32) -> u32 {
        equal(&self.signatures, signature) & ((1 << SLOTS) - 1)
    }

    /// The slots of its entries.
    fn taken(&self) -> impl Iterator<Item = u32> + use<> {
        self.slots.into_iter().take(SLOTS).filter(|slot| *slot != NONE)
    }

    /// One more entry sits in a later one, or one less.
    fn pass(&mut self, more: bool) {
        let passed = &mut self.signatures[SLOTS];
        *passed = if more { *passed + 1 } else { *passed - 1 };
        self.slots[SLOTS] = if *passed == 0 { NONE } else { LATER };
    }

    #[inline(always)]
    fn is_passed(&self) -> bool {
        self.slots[SLOTS] != NONE
    }
}

/// A growing multimap from hash to slot.
pub struct Index {
    buckets: Vec<Bucket>,
    len: usize,
}

impl Default for Index {
    fn default() -> Self {
        Index { buckets: vec![EMPTY; 1], len: 0 }
    }
}

impl Index {
    /// Entries in the index.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline(always)]
    fn home(&self, hash: u64) -> usize {
        hash as usize & (self.buckets.len() - 1)
    }

    /// Fetch the bucket of a hash early.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        prefetch(&self.buckets[self.home(hash)]);
    }

    /// The first candidate slot in the hash's own bucket, as most entries are found; [`NONE`] if there is no
    /// candidate at all, and no slot's number if there may be one elsewhere.
    #[inline(always)]
    pub fn guess(&self, hash: u64) -> u32 {
        let b = &self.buckets[self.home(hash)];
        let first = (b.entries(signature(hash)) | 1 << SLOTS).trailing_zeros();
        b.slots[first as usize % (SLOTS + 1)]
    }

    /// The first candidate slot that `accept` takes.
    #[inline(always)]
    pub fn find(&self, hash: u64, mut accept: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut at = self.home(hash);
        loop {
            let b = &self.buckets[at];
            for i in bits(b.entries(signature(hash)).into()) {
                if accept(b.slots[i]) {
                    return Some(b.slots[i]);
                }
            }
            if !b.is_passed() {
                return None;
            }
            at = (at + 1) & (self.buckets.len() - 1);
        }
    }

    /// Add an entry. `rehash` gives the hash of a slot, for growing.
    pub fn insert(&mut self, hash: u64, slot: u32, rehash: impl Fn(u32) -> u64) {
        // Three quarters full on average keeps chains at a bucket or two.
        if (self.len + 1) * 4 > self.buckets.len() * SLOTS * 3 {
            self.grow(rehash);
        }
        self.place(hash, slot);
        self.len += 1;
    }

    fn place(&mut self, hash: u64, slot: u32) {
        let mask = self.buckets.len() - 1;
        let mut at = self.home(hash);
        loop {
            let b = &mut self.buckets[at];
            if let Some(i) = b.slots[..SLOTS].iter().position(|s| *s == NONE) {
                b.signatures[i] = signature(hash);
                b.slots[i] = slot;
                return;
            }
            b.pass(true);
            at = (at + 1) & mask;
        }
    }

    /// Remove the entry with that hash and slot. Whether it was there.
    pub fn remove(&mut self, hash: u64, slot: u32) -> bool {
        let mask = self.buckets.len() - 1;
        let home = self.home(hash);
        let mut at = home;
        loop {
            let b = &mut self.buckets[at];
            if let Some(i) = b.slots[..SLOTS].iter().position(|s| *s == slot) {
                b.slots[i] = NONE;
                b.signatures[i] = 0;
                break;
            }
            if !b.is_passed() {
                return false;
            }
            at = (at + 1) & mask;
        }
        let mut passed = home;
        while passed != at {
            self.buckets[passed].pass(false);
            passed = (passed + 1) & mask;
        }
        self.len -= 1;
        true
    }

    #[cold]
    fn grow(&mut self, rehash: impl Fn(u32) -> u64) {
        let bigger = vec![EMPTY; self.buckets.len() * 2];
        let old = std::mem::replace(&mut self.buckets, bigger);
        for slot in old.iter().flat_map(Bucket::taken) {
            self.place(rehash(slot), slot);
        }
    }

    /// All slots, in no order.
    pub fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        self.buckets.iter().flat_map(Bucket::taken)
    }
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct CacheBucket {
    signatures: [u32; WAYS],
    slots: [u32; WAYS],
}

/// A fixed-size cache from hash to slot: new entries push old ones out.
pub struct HashCache {
    buckets: Box<[CacheBucket]>,
    /// Which way the next full bucket gives up.
    victim: usize,
}

impl HashCache {
    /// A cache of `buckets` (rounded up to a power of two) times eight entries.
    pub fn new(buckets: usize) -> HashCache {
        let empty = CacheBucket { signatures: [0; WAYS], slots: [NONE; WAYS] };
        HashCache {
            buckets: vec![empty; buckets.next_power_of_two()].into_boxed_slice(),
            victim: 0,
        }
    }

    #[inline(always)]
    fn home(&self, hash: u64) -> usize {
        hash as usize & (self.buckets.len() - 1)
    }

    /// Fetch the bucket of a hash early.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        prefetch(&self.buckets[self.home(hash)]);
    }

    /// The candidate slot for a hash.
    #[inline(always)]
    pub fn get(&self, hash: u64) -> Option<u32> {
        let b = &self.buckets[self.home(hash)];
        let found = equal(&b.signatures, signature(hash));
        if found == 0 {
            return None;
        }
        Some(b.slots[found.trailing_zeros() as usize % WAYS])
    }

    /// Remember a slot for a hash, in place of an entry with the same signature or an old one.
    #[inline]
    pub fn insert(&mut self, hash: u64, slot: u32) {
        let sig = signature(hash);
        let home = self.home(hash);
        let b = &mut self.buckets[home];
        let way = bits(equal(&b.signatures, sig).into())
            .next()
            .or_else(|| b.slots.iter().position(|s| *s == NONE))
            .unwrap_or_else(|| {
                self.victim = self.victim.wrapping_add(1);
                self.victim % WAYS
            });
        b.signatures[way] = sig;
        b.slots[way] = slot;
    }

    /// Forget everything.
    pub fn clear(&mut self) {
        self.buckets.fill(CacheBucket { signatures: [0; WAYS], slots: [NONE; WAYS] });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        /// Whatever is inserted is found until it is removed, also when hashes collide.
        #[test]
        fn index_agrees_with_a_set(ops in prop::collection::vec((0u64..40, 0u32..200, any::<bool>()), 1..600)) {
            // Few distinct hashes, so that buckets overflow and chains wrap around.
            let hash = |h: u64| (h % 40) << 32 | (h % 3);
            let of = |slot: u32| hash(u64::from(slot));
            let mut index = Index::default();
            let mut naive = HashSet::new();
            for (_, slot, add) in ops {
                if add {
                    if naive.insert(slot) {
                        index.insert(of(slot), slot, of);
                    }
                } else {
                    prop_assert_eq!(index.remove(of(slot), slot), naive.remove(&slot));
                }
                prop_assert_eq!(index.len(), naive.len());
                for s in 0..200 {
                    prop_assert_eq!(index.find(of(s), |c| c == s).is_some(), naive.contains(&s));
                }
            }
            prop_assert_eq!(index.slots().collect::<HashSet<_>>(), naive);
        }
    }

    #[test]
    fn cache_forgets_only_when_full() {
        let mut c = HashCache::new(1);
        let hash = |i: u32| u64::from(i) << 33;
        for i in 0..8 {
            c.insert(hash(i), i);
        }
        for i in 0..8 {
            assert_eq!(c.get(hash(i)), Some(i));
        }
        c.insert(hash(99), 99);
        assert_eq!(c.get(hash(99)), Some(99));
        assert_eq!((0..8).filter(|i| c.get(hash(*i)).is_some()).count(), 7);
    }
}
