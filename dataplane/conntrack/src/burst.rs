//! How are the packets of a burst looked up together?
//!
//! A lookup misses the processor's caches twice when there are many connections: at its bucket
//! of the index and at its entry. [`Tracker::read_burst`] and [`Tracker::track_burst`] go over the
//! burst three times in all, so that the misses of all packets are under way at once.

use crate::entry::Millis;
use crate::index::Place;
use crate::input::{Input, Invalid, Kind, Seen, read};
use crate::tracker::Tracker;
use crate::verdict::Verdict;

/// The most packets of a burst.
pub const BURST: usize = 32;

/// What was read of the packets of a burst.
///
/// It is kept from burst to burst: what is in it is overwritten, never cleared.
pub struct Batch {
    len: usize,
    seen: [Seen; BURST],
    hashes: [u64; BURST],
    /// Where the index has an entry with the hash's tag: most likely the packet's.
    places: [Option<Place>; BURST],
    /// Whether `seen` was read; else why not.
    invalid: [Option<Invalid>; BURST],
    /// What is said of one of them after the other.
    verdict: Verdict,
}

impl Default for Batch {
    fn default() -> Self {
        Batch {
            len: 0,
            seen: [Seen::default(); BURST],
            hashes: [0; BURST],
            places: [None; BURST],
            invalid: [None; BURST],
            verdict: Verdict::default(),
        }
    }
}

impl Tracker {
    /// Read the packets of a burst, of which there are [`BURST`] at most, for
    /// [`Tracker::track_burst`].
    ///
    /// # Panics
    /// If there are more packets.
    #[inline(always)]
    pub fn read_burst<'a>(
        &self,
        inputs: impl ExactSizeIterator<Item = Input<'a>>,
        batch: &mut Batch,
    ) {
        let n = inputs.len();
        assert!(n <= BURST, "no more than a burst");
        let Batch { len, seen, hashes, places, invalid, .. } = batch;
        *len = n;
        for (((input, seen), hash), invalid) in
            inputs.zip(&mut *seen).zip(&mut *hashes).zip(&mut *invalid)
        {
            *invalid = read(&input, seen).err();
            // For a packet that cannot be read, any bucket.
            *hash = seen.tuple.hash(self.seed);
            self.index.prefetch(*hash);
        }
        for ((seen, hash), place) in seen[..n].iter().zip(&*hashes).zip(places) {
            *place = self.index.candidate(*hash);
            if let Some(place) = place {
                let tcp = matches!(seen.kind, Kind::Tcp(_));
                self.pool.entry(place.id).prefetch(tcp, seen.tuple.is_v6());
            }
        }
    }

    /// [`Tracker::track`] for each of the packets that were read; `each` is told in their order which
    /// of them it is and what the tracker says.
    #[inline(always)]
    pub fn track_burst(
        &self,
        now: Millis,
        nat: bool,
        batch: &mut Batch,
        mut each: impl FnMut(usize, &Verdict),
    ) {
        let Batch { len, seen, hashes, places, invalid, verdict } = batch;
        let of = seen[..*len].iter().zip(hashes).zip(places).zip(invalid);
        for (i, (((seen, hash), place), invalid)) in of.enumerate() {
            match invalid {
                None => self.conclude(now, seen, *hash, *place, nat, verdict),
                Some(why) => *verdict = self.invalid(i as u64, *why),
            }
            each(i, verdict);
        }
    }
}
