//! Which entry has this tuple?
//!
//! A hash table of buckets of one cache line, fixed in size, two slots per connection (one for
//! each direction's tuple). A slot holds 32 bits of the tuple's hash and the entry's number with
//! its direction; the tuple itself is compared in the entry. Keys never move, so a reader that
//! does not find one that was there all the time cannot happen.
//!
//! Inserting checks for the same tuple under the home bucket's lock: no tuple is ever in the
//! index twice, whoever inserts it at the same time. This is what makes a translated tuple unique.
//!
//! Must not know: what a connection is beyond its number.

use std::io;

use crate::bucket::{Bucket, SLOTS};
use crate::mem::Mapped;
use flow::cpu::prefetch;

/// How far from its home a key may stand. With 0.57 of the slots in use at most, eight full
/// buckets in a row are not met in practice; an insert that meets them fails and is counted.
const MAX_DISTANCE: usize = 16;

/// Slots in use when the table is full, of a hundred.
const LOAD_PERCENT: usize = 57;

/// An entry's number and direction, as a slot holds it with its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) id: u32,
    /// Whether the tuple is that of the reply direction.
    pub(crate) reply: bool,
}

/// Why an insert failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The tuple is there already.
    Taken(Place),
    /// No slot was free near the key's home.
    Full,
}

/// The table.
pub(crate) struct Index {
    buckets: Mapped<Bucket>,
}

#[inline(always)]
fn value(hash: u64, at: Place) -> u64 {
    hash & 0xffff_ffff_0000_0000 | u64::from(at.id + 1) << 1 | u64::from(at.reply)
}

#[inline(always)]
fn place(value: u64) -> Place {
    Place { id: ((value as u32) >> 1) - 1, reply: value & 1 != 0 }
}

impl Index {
    /// An index for `connections` of two tuples each.
    pub(crate) fn new(connections: usize) -> io::Result<Index> {
        let slots = connections * 2 * 100 / LOAD_PERCENT;
        Ok(Index { buckets: Mapped::new((slots / SLOTS + 1).max(2 * MAX_DISTANCE))? })
    }

    #[inline(always)]
    fn home(&self, hash: u64) -> usize {
        (((hash & 0xffff_ffff) * self.buckets.len() as u64) >> 32) as usize
    }

    #[inline(always)]
    fn bucket(&self, home: usize, distance: usize) -> &Bucket {
        let mut i = home + distance;
        if i >= self.buckets.len() {
            i -= self.buckets.len();
        }
        &self.buckets[i]
    }

    /// Bring the home bucket of a hash near.
    #[inline(always)]
    pub(crate) fn prefetch(&self, hash: u64) {
        prefetch(&self.buckets[self.home(hash)]);
    }

    /// The first entry with the hash's tag, to be brought near; it may be another tuple's.
    #[inline(always)]
    pub(crate) fn candidate(&self, hash: u64) -> Option<Place> {
        let b = &self.buckets[self.home(hash)];
        (0..SLOTS).map(|i| b.slot(i)).find(|v| (v ^ hash) >> 32 == 0 && *v as u32 != 0).map(place)
    }

    /// The first `Some` that `visit` gives for an entry with the hash's tag.
    #[inline(always)]
    pub(crate) fn find<R>(
        &self,
        hash: u64,
        mut visit: impl FnMut(Place) -> Option<R>,
    ) -> Option<R> {
        let home = self.home(hash);
        let b = &self.buckets[home];
        for i in 0..SLOTS {
            let v = b.slot(i);
            if (v ^ hash) >> 32 == 0
                && v as u32 != 0
                && let Some(r) = visit(place(v))
            {
                return Some(r);
            }
        }
        let reach = b.reach();
        if reach == 0 { None } else { self.find_displaced(hash, home, reach, visit) }
    }

    #[cold]
    fn find_displaced<R>(
        &self,
        hash: u64,
        home: usize,
        reach: usize,
        mut visit: impl FnMut(Place) -> Option<R>,
    ) -> Option<R> {
        for d in 1..=reach {
            let b = self.bucket(home, d);
            for i in 0..SLOTS {
                let v = b.slot(i);
                if (v ^ hash) >> 32 == 0
                    && v as u32 != 0
                    && let Some(r) = visit(place(v))
                {
                    return Some(r);
                }
            }
        }
        None
    }

    /// Insert a key, unless `same` says of an entry with the same tag that it has this tuple.
    pub(crate) fn insert(
        &self,
        hash: u64,
        at: Place,
        same: impl Fn(Place) -> bool,
    ) -> Result<(), Refused> {
        let home = self.home(hash);
        let mut guard = self.buckets[home].lock();
        if let Some(p) = self.find(hash, |p| same(p).then_some(p)) {
            return Err(Refused::Taken(p));
        }
        let v = value(hash, at);
        if self.buckets[home].claim(v) {
            return Ok(());
        }
        for d in 1..MAX_DISTANCE {
            let b = self.bucket(home, d);
            if (0..SLOTS).any(|i| b.slot(i) == 0) {
                guard.displace(d);
                if b.claim(v) {
                    return Ok(());
                }
                guard.undisplace();
            }
        }
        Err(Refused::Full)
    }

    /// Take a key out. Whether it was there.
    pub(crate) fn remove(&self, hash: u64, at: Place) -> bool {
        let home = self.home(hash);
        let mut guard = self.buckets[home].lock();
        let v = value(hash, at);
        if self.buckets[home].vacate(v) {
            return true;
        }
        for d in 1..MAX_DISTANCE {
            if self.bucket(home, d).vacate(v) {
                guard.undisplace();
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn hash_of(n: u64) -> u64 {
        flow::key::mix(n ^ 0x9e37_79b9_7f4a_7c15, 0xa076_1d64_78bd_642f)
    }

    #[test]
    fn holds_what_it_is_made_for_and_behaves_as_a_map() {
        const N: usize = 20_000;
        let index = Index::new(N).unwrap();
        let mut keys = HashMap::new();
        let mut step = 0u64;
        for round in 0..5u64 {
            while keys.len() < 2 * N {
                step += 1;
                let at = Place { id: (step % (1 << 29)) as u32, reply: step & 1 == 0 };
                assert_eq!(index.insert(hash_of(step), at, |p| p == at), Ok(()));
                assert_eq!(
                    index.insert(hash_of(step), at, |p| p == at),
                    Err(Refused::Taken(at)),
                    "twice"
                );
                keys.insert(step, at);
            }
            for (k, at) in &keys {
                assert_eq!(index.find(hash_of(*k), |p| (p == *at).then_some(p)), Some(*at));
            }
            let gone: Vec<u64> = keys.keys().copied().filter(|k| k % 5 != round).collect();
            for k in gone {
                let at = keys.remove(&k).unwrap();
                assert!(index.remove(hash_of(k), at));
                assert!(!index.remove(hash_of(k), at));
                assert_eq!(index.find(hash_of(k), |p| (p == at).then_some(p)), None);
            }
        }
    }

    #[test]
    fn keys_of_one_home_overflow_and_shrink_back() {
        let index = Index::new(1000).unwrap();
        // Same home, different tags.
        let hash = |i: u64| i << 32 | 0x1234_5678;
        let at = |i: u64| Place { id: i as u32, reply: false };
        for i in 0..(MAX_DISTANCE * SLOTS) as u64 {
            assert_eq!(index.insert(hash(i), at(i), |_| false), Ok(()));
        }
        assert_eq!(index.insert(hash(5000), at(5000), |_| false), Err(Refused::Full));
        for i in 0..(MAX_DISTANCE * SLOTS) as u64 {
            assert_eq!(index.find(hash(i), Some), Some(at(i)), "{i}");
            assert!(index.remove(hash(i), at(i)));
            assert_eq!(index.find(hash(i), Some), None);
        }
        assert_eq!(index.buckets[index.home(hash(0))].reach(), 0);
    }
}
