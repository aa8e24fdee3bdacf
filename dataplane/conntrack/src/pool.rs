//! Which entries are free?
//!
//! The entries are divided among shards, each with its own short lock, a list of freed entries
//! linked through the entries themselves, and a border behind which none was ever used. New
//! connections take entries from the shard their hash names, and from others when that is empty.
//!
//! Must not know: what an entry holds.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::entry::Entry;
use crate::mem::Mapped;

/// Shards of the pool.
pub(crate) const SHARDS: usize = 8;

#[derive(Default)]
struct Shard {
    /// Number of the first freed entry and one more, 0 for none.
    head: u32,
    /// Entries of this shard that were ever used.
    touched: u32,
}

/// All entries.
pub(crate) struct Pool {
    entries: Mapped<Entry>,
    per_shard: u32,
    shards: [Mutex<Shard>; SHARDS],
    used: AtomicUsize,
    /// The most entries that may be in use.
    limit: AtomicUsize,
    /// Entries of each shard that were ever used: how far a sweep has to look.
    touched: [AtomicUsize; SHARDS],
}

fn lock(m: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// A pool of `capacity` entries, rounded up to a multiple of the shards.
    pub(crate) fn new(capacity: usize) -> io::Result<Pool> {
        let per_shard = capacity.div_ceil(SHARDS).max(1);
        Ok(Pool {
            entries: Mapped::new(per_shard * SHARDS)?,
            per_shard: per_shard as u32,
            shards: Default::default(),
            used: AtomicUsize::new(0),
            limit: AtomicUsize::new(capacity),
            touched: Default::default(),
        })
    }

    #[inline(always)]
    pub(crate) fn entry(&self, id: u32) -> &Entry {
        &self.entries[id as usize]
    }

    /// How many entries there are.
    pub(crate) fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// How many entries are in use.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The most entries that may be in use.
    pub(crate) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Set the most entries that may be in use, capped at the capacity. Those in use beyond it
    /// stay until they end.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit.min(self.capacity()), Ordering::Relaxed);
    }

    /// Take a free entry, of the shard of `hint` if it has one.
    pub(crate) fn take(&self, hint: u64) -> Option<u32> {
        if self.used.fetch_add(1, Ordering::Relaxed) >= self.limit() {
            self.used.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let first = hint as usize % SHARDS;
        let id = (0..SHARDS).find_map(|i| self.take_from((first + i) % SHARDS));
        if id.is_none() {
            self.used.fetch_sub(1, Ordering::Relaxed);
        }
        id
    }

    fn take_from(&self, shard: usize) -> Option<u32> {
        let mut s = lock(&self.shards[shard]);
        if s.head != 0 {
            let id = s.head - 1;
            s.head = self.entry(id).next_free();
            return Some(id);
        }
        if s.touched == self.per_shard {
            return None;
        }
        let id = shard as u32 * self.per_shard + s.touched;
        s.touched += 1;
        self.touched[shard].store(s.touched as usize, Ordering::Relaxed);
        Some(id)
    }

    /// Give back an entry whose word says that it is free.
    pub(crate) fn give(&self, id: u32) {
        let shard = (id / self.per_shard) as usize;
        let mut s = lock(&self.shards[shard]);
        self.entry(id).set_next_free(s.head);
        s.head = id + 1;
        drop(s);
        self.used.fetch_sub(1, Ordering::Relaxed);
    }

    /// The numbers of all entries that were ever used, in the order of a walk: the `n`th, counted
    /// over all shards, or `None` behind the last.
    pub(crate) fn nth_touched(&self, mut n: usize) -> Option<u32> {
        for (shard, touched) in self.touched.iter().enumerate() {
            let touched = touched.load(Ordering::Relaxed);
            if n < touched {
                return Some(shard as u32 * self.per_shard + n as u32);
            }
            n -= touched;
        }
        None
    }

    /// How many entries were ever used.
    pub(crate) fn touched(&self) -> usize {
        self.touched.iter().map(|t| t.load(Ordering::Relaxed)).sum()
    }
}
