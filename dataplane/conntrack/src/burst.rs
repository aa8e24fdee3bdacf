//! How are the packets of a burst looked up together?
//!
//! A lookup misses the processor's caches twice when there are many connections: at its bucket
//! of the index and at its entry. [`Tracker::track_burst`] goes over the burst three times, so
//! that the misses of all packets are under way at once.

use crate::entry::Millis;
use crate::input::{Input, Invalid, Kind, Seen, read};
use crate::tracker::Tracker;
use crate::verdict::Verdict;
use flow::cpu::prefetch;

/// The most packets of a burst.
pub const BURST: usize = 32;

impl Tracker {
    /// [`Tracker::track`] for each of the packets, whose verdicts go to the same places of `out`.
    /// Up to [`BURST`] packets are under way together.
    ///
    /// # Panics
    /// If `out` is shorter than the packets are many.
    pub fn track_burst<'a>(
        &self,
        now: Millis,
        mut inputs: impl ExactSizeIterator<Item = Input<'a>>,
        nat: bool,
        mut out: &mut [Verdict],
    ) {
        assert!(inputs.len() <= out.len(), "a place for each packet's verdict");
        let mut batch = [const { None }; BURST];
        loop {
            let mut n = 0;
            for (slot, input) in batch.iter_mut().zip(inputs.by_ref().take(BURST)) {
                let seen = read(&input);
                let hash = seen.as_ref().map_or(0, |s| s.tuple.hash(self.seed));
                if seen.is_ok() {
                    self.index.prefetch(hash);
                }
                *slot = Some((seen, hash));
                n += 1;
            }
            let (now_out, later) = std::mem::take(&mut out).split_at_mut(n);
            out = later;
            if n == 0 {
                return;
            }
            self.prefetch_entries(&batch[..n]);
            for (i, (slot, v)) in batch.iter().zip(now_out).enumerate() {
                match slot {
                    Some((Ok(seen), hash)) => self.conclude(now, seen, *hash, nat, v),
                    Some((Err(why), _)) => *v = self.invalid(i as u64, *why),
                    None => *v = Verdict::INVALID,
                }
            }
        }
    }

    #[inline(always)]
    fn prefetch_entries(&self, batch: &[Option<(Result<Seen, Invalid>, u64)>]) {
        for slot in batch {
            if let Some((Ok(seen), hash)) = slot
                && let Some(place) = self.index.candidate(*hash)
            {
                let tcp = matches!(seen.kind, Kind::Tcp(_));
                self.pool.entry(place.id).prefetch(tcp, seen.tuple.is_v6());
            }
        }
    }
}

/// Bring the first bytes of a packet near, before a burst is read.
#[inline(always)]
pub fn prefetch_headers(data: &[u8]) {
    if let Some(b) = data.first() {
        prefetch(b);
    }
}
