//! How are the packets of a burst looked up together?
//!
//! A lookup misses the processor's caches twice when there are many connections: at its bucket
//! of the index and at its entry. [`Tracker::track_burst`] goes over the burst three times, so
//! that the misses of all packets are under way at once.

use crate::entry::Millis;
use crate::input::{Input, Invalid, Kind, Seen, read};
use crate::tracker::Tracker;
use crate::verdict::Verdict;

/// The most packets of a burst.
pub const BURST: usize = 32;

/// The packets of a burst, and what the tracker says of them.
///
/// It is kept from burst to burst: what is in it is overwritten, never cleared.
pub struct Batch {
    seen: [Seen; BURST],
    hashes: [u64; BURST],
    /// Whether `seen` was read; else why not.
    invalid: [Option<Invalid>; BURST],
    verdicts: [Verdict; BURST],
}

impl Default for Batch {
    fn default() -> Self {
        Batch {
            seen: [Seen::default(); BURST],
            hashes: [0; BURST],
            invalid: [None; BURST],
            verdicts: [Verdict::default(); BURST],
        }
    }
}

impl Batch {
    /// What [`Tracker::track_burst`] has said of the packets, in their order. Those behind the
    /// last one of the burst mean nothing.
    #[inline(always)]
    pub fn verdicts(&self) -> &[Verdict; BURST] {
        &self.verdicts
    }
}

impl Tracker {
    /// [`Tracker::track`] for each of the packets, of which there are [`BURST`] at most; what is
    /// said of them is in `batch` afterwards. How many there were.
    ///
    /// # Panics
    /// If there are more packets.
    #[inline]
    pub fn track_burst<'a>(
        &self,
        now: Millis,
        inputs: impl ExactSizeIterator<Item = Input<'a>>,
        nat: bool,
        batch: &mut Batch,
    ) -> usize {
        let n = inputs.len();
        assert!(n <= BURST, "no more than a burst");
        let Batch { seen, hashes, invalid, verdicts } = batch;
        for (((input, seen), hash), invalid) in
            inputs.zip(&mut *seen).zip(&mut *hashes).zip(&mut *invalid)
        {
            *invalid = read(&input, seen).err();
            // For a packet that cannot be read, any bucket.
            *hash = seen.tuple.hash(self.seed);
            self.index.prefetch(*hash);
        }
        self.prefetch_entries(&seen[..n], &hashes[..n]);
        for i in 0..n {
            match invalid[i] {
                None => self.conclude(now, &seen[i], hashes[i], nat, &mut verdicts[i]),
                Some(why) => verdicts[i] = self.invalid(i as u64, why),
            }
        }
        n
    }

    #[inline(always)]
    fn prefetch_entries(&self, seen: &[Seen], hashes: &[u64]) {
        for (seen, hash) in seen.iter().zip(hashes) {
            if let Some(place) = self.index.candidate(*hash) {
                let tcp = matches!(seen.kind, Kind::Tcp(_));
                self.pool.entry(place.id).prefetch(tcp, seen.tuple.is_v6());
            }
        }
    }
}
