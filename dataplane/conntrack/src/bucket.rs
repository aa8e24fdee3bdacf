//! How is one cache line of the index read and written?
//!
//! A bucket has seven slots and a control word. A slot is 0 or names an entry (see
//! [`crate::index`]). Keys whose home bucket is full stand in one of the next buckets; the home's
//! control word says how far one has to look (`reach`) and how many keys are displaced.
//!
//! Rules: all inserts and removals of keys with the same home hold that home's lock. A slot goes
//! from 0 to a value by compare-and-swap, as keys of different homes compete for it, and back to
//! 0 by the holder of the lock of the key's home. Readers take no lock.
//!
//! Must not know: hashes, tuples.

use crate::meta::wait;
use crate::sync::{AtomicU64, Ordering};

/// Slots of a bucket.
pub(crate) const SLOTS: usize = 7;

const LOCK: u64 = 1;
const REACH_SHIFT: u32 = 8;
const REACH: u64 = 0xff << REACH_SHIFT;
const DISPLACED_ONE: u64 = 1 << 32;

/// One cache line of the index.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Bucket {
    control: AtomicU64,
    slots: [AtomicU64; SLOTS],
}

impl Bucket {
    /// How many buckets behind this one may hold keys whose home it is.
    #[inline(always)]
    pub(crate) fn reach(&self) -> usize {
        ((self.control.load(Ordering::Acquire) & REACH) >> REACH_SHIFT) as usize
    }

    /// A slot's value.
    #[inline(always)]
    pub(crate) fn slot(&self, i: usize) -> u64 {
        self.slots[i].load(Ordering::Acquire)
    }

    /// Put `value` into a free slot.
    pub(crate) fn claim(&self, value: u64) -> bool {
        self.slots.iter().any(|s| {
            s.load(Ordering::Relaxed) == 0
                && s.compare_exchange(0, value, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })
    }

    /// Empty the slot that holds `value`; the caller holds the lock of the value's home.
    pub(crate) fn vacate(&self, value: u64) -> bool {
        for s in &self.slots {
            if s.load(Ordering::Relaxed) == value {
                s.store(0, Ordering::Release);
                return true;
            }
        }
        false
    }

    /// Take the lock over all keys whose home this is.
    pub(crate) fn lock(&self) -> HomeGuard<'_> {
        let mut spins = 0;
        loop {
            let c = self.control.load(Ordering::Relaxed);
            if c & LOCK == 0
                && self
                    .control
                    .compare_exchange_weak(c, c | LOCK, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
            {
                return HomeGuard { bucket: self, word: c };
            }
            if c & LOCK != 0 {
                wait(&mut spins);
            }
        }
    }

    /// An empty bucket, for tests that do not map memory.
    #[allow(dead_code)]
    pub(crate) fn empty() -> Bucket {
        Bucket { control: AtomicU64::new(0), slots: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

/// The lock over all keys of a home bucket.
pub(crate) struct HomeGuard<'a> {
    bucket: &'a Bucket,
    word: u64,
}

impl HomeGuard<'_> {
    /// Let readers look as far as `distance`, before a key is put there.
    pub(crate) fn displace(&mut self, distance: usize) {
        debug_assert!(distance < 256);
        let reach = ((self.word & REACH) >> REACH_SHIFT).max(distance as u64);
        self.word = (self.word & !REACH | reach << REACH_SHIFT) + DISPLACED_ONE;
        self.bucket.control.store(self.word | LOCK, Ordering::Release);
    }

    /// A displaced key is gone; with the last one, readers need not look further than home.
    pub(crate) fn undisplace(&mut self) {
        self.word -= DISPLACED_ONE;
        if self.word < DISPLACED_ONE {
            self.word &= !REACH;
        }
    }
}

impl Drop for HomeGuard<'_> {
    fn drop(&mut self) {
        self.bucket.control.store(self.word, Ordering::Release);
    }
}
