//! How are the packets of a burst looked up together?
//!
//! A lookup misses the processor's caches twice when there are many connections: at its bucket
//! of the index and at its entry. [`Tracker::track_burst`] goes over the burst three times, so
//! that the misses of all packets are under way at once.

use crate::entry::Millis;
use crate::input::{Input, Invalid, Kind, Seen, read};
use crate::mem::prefetch;
use crate::tracker::Tracker;
use crate::verdict::Verdict;

/// The most packets of a burst.
pub const BURST: usize = 32;

impl Tracker {
    /// [`Tracker::track`] for each of up to [`BURST`] packets; more are treated in several
    /// rounds. Verdicts are appended to `out`, in the order of the packets.
    pub fn track_burst<'a>(
        &self,
        now: Millis,
        inputs: impl ExactSizeIterator<Item = Input<'a>>,
        nat: bool,
        mut each: impl FnMut(usize, Verdict),
    ) {
        let mut inputs = inputs.enumerate();
        let mut first = 0;
        loop {
            let mut batch: [Option<(Result<Seen, Invalid>, u64)>; BURST] = [const { None }; BURST];
            let mut n = 0;
            for (_, input) in inputs.by_ref().take(BURST) {
                let seen = read(&input);
                let hash = seen.as_ref().map_or(0, |s| s.tuple.hash(self.seed));
                if seen.is_ok() {
                    self.index.prefetch(hash);
                }
                batch[n] = Some((seen, hash));
                n += 1;
            }
            if n == 0 {
                return;
            }
            self.prefetch_entries(&batch[..n]);
            for (i, slot) in batch[..n].iter().enumerate() {
                let verdict = match slot {
                    Some((Ok(seen), _)) => self.conclude(seen, self.find(now, seen, nat)),
                    Some((Err(why), _)) => self.invalid(i as u64, *why),
                    None => Verdict::INVALID,
                };
                each(first + i, verdict);
            }
            first += n;
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
