//! Which megaflows of one mask are packets of?
//!
//! All packets of a burst are hashed, looked up in the index, and compared with the megaflows that it gives, one
//! step after another: what the next step reads is fetched meanwhile.

use arrayvec::ArrayVec;
use flow::cpu::prefetch;
use flow::{DP_WORDS, FlowKey};

use super::lookup::{Asked, Scratch, bits};
use super::packed::each;
use super::{BURST, Cold, Found, Hot, INLINE, Subtable};
use crate::index::NONE;

impl Hot {
    /// What is said of a packet of this megaflow.
    #[inline(always)]
    pub(super) fn found(&self, id: u32) -> Found {
        if self.stale { Found::Stale(id) } else { Found::Hit(id) }
    }

    /// Fetch what a hit touches, if so many packed words are compared.
    #[inline(always)]
    pub(super) fn prefetch(&self, words: usize) {
        prefetch(&self.packets);
        if words > Hot::BESIDE {
            prefetch(&self.values[Hot::BESIDE]);
        }
    }
}

impl Subtable {
    /// Which of the packets are of a megaflow, as bits.
    #[inline(always)]
    pub(super) fn of_megaflow<T>(&self, hot: &Hot, cold: &Cold<T>, asked: &Asked<'_>) -> u32 {
        let mut differ = [0; BURST];
        for (word, mask, value) in self.layout.unpack(|i| value(hot, cold, i)) {
            let compare =
                |key: &FlowKey, differ: &mut u64| *differ |= (key.word(word) ^ value) & mask;
            each(asked.len, &asked.keys, &mut differ, compare);
        }
        let differ = &differ[..asked.len];
        if differ.iter().fold(0, |any, differ| any | differ) == 0 {
            return asked.map();
        }
        differ.iter().enumerate().fold(0, |map, (i, differ)| map | u32::from(*differ == 0) << i)
    }

    /// The same where most are of another: one by one, each until a word says so.
    #[inline(always)]
    fn of_only<T>(&self, hot: &Hot, cold: &Cold<T>, asked: &Asked<'_>) -> u32 {
        let words: ArrayVec<_, DP_WORDS> = self.layout.unpack(|i| value(hot, cold, i)).collect();
        let is =
            |key: &FlowKey| words.iter().all(|(i, mask, value)| (key.word(*i) ^ value) & mask == 0);
        let keys = asked.keys().iter().enumerate();
        keys.fold(0, |map, (i, key)| map | u32::from(is(key)) << i)
    }

    /// Whether a key matches a megaflow.
    #[inline(always)]
    pub(super) fn matches<T>(&self, hot: &Hot, cold: &Cold<T>, key: &FlowKey) -> bool {
        if self.layout.len() <= INLINE {
            return self.layout.agrees(key, &hot.values);
        }
        let mut words = self.layout.unpack(|i| value(hot, cold, i));
        words.all(|(word, mask, value)| (key.word(word) ^ value) & mask == 0)
    }

    /// Look for packets; the bits of those found.
    #[inline(always)]
    pub(super) fn probe<T>(
        &self,
        hot: &[Hot],
        cold: &[Cold<T>],
        scratch: &mut Scratch,
        asked: &Asked<'_>,
        out: &mut [Found],
    ) -> u32 {
        if self.only != NONE {
            let (only, cold) = (&hot[self.only as usize], &cold[self.only as usize]);
            let found = self.of_only(only, cold, asked);
            bits(found).for_each(|i| out[asked.at(i)] = only.found(self.only));
            return found;
        }
        let len = self.layout.len();
        if len > INLINE {
            return self.search_wide(hot, cold, asked, out);
        }
        let Scratch { columns, hashes, ids, .. } = scratch;
        let (hashes, ids) = (&mut hashes[..asked.len], &mut ids[..asked.len]);
        self.layout.pack_all(asked.len, &asked.keys, columns);
        self.seeds.hash_all(columns, len, hashes);
        // Small tables are in the nearest cache anyway.
        let large = self.index.len() > 256;
        if large {
            hashes.iter().for_each(|hash| self.index.prefetch(*hash));
        }
        for (id, hash) in ids.iter_mut().zip(&*hashes) {
            *id = self.index.guess(*hash);
            if large && let Some(hot) = hot.get(*id as usize) {
                hot.prefetch(len);
            }
        }
        match len {
            1 => self.confirm::<1>(hot, scratch, asked, out),
            2 => self.confirm::<2>(hot, scratch, asked, out),
            3 => self.confirm::<3>(hot, scratch, asked, out),
            _ => self.confirm::<0>(hot, scratch, asked, out),
        }
    }

    /// Compare packets with the megaflows that were guessed, by `N` packed words, or as many as there are if
    /// it is 0, and look further where a guess was wrong. The bits of those found.
    #[inline(always)]
    fn confirm<const N: usize>(
        &self,
        hot: &[Hot],
        scratch: &Scratch,
        asked: &Asked<'_>,
        out: &mut [Found],
    ) -> u32 {
        let words = if N == 0 { self.layout.len() } else { N };
        let columns = &scratch.columns[..words];
        let mut found = 0;
        for (i, guess) in scratch.ids[..asked.len].iter().enumerate() {
            let is = |hot: &Hot| {
                let pairs = columns.iter().zip(&hot.values);
                pairs.fold(0, |differ, (column, value)| differ | column[i] ^ value) == 0
            };
            let mut id = *guess;
            let hot = match hot.get(id as usize) {
                Some(hot) if is(hot) => hot,
                _ if id == NONE => continue,
                _ => {
                    let hash = scratch.hashes[i];
                    let Some(other) = self.index.find(hash, |id| is(&hot[id as usize])) else {
                        continue;
                    };
                    id = other;
                    &hot[id as usize]
                }
            };
            out[asked.at(i)] = hot.found(id);
            found |= 1 << i;
        }
        found
    }

    /// Look for packets where more words are compared than most megaflows have.
    #[inline(never)]
    fn search_wide<T>(
        &self,
        hot: &[Hot],
        cold: &[Cold<T>],
        asked: &Asked<'_>,
        out: &mut [Found],
    ) -> u32 {
        let mut found = 0;
        for (i, key) in asked.keys().iter().enumerate() {
            let hash = self.hash(&self.layout.pack(key));
            let matches = |id| self.matches(&hot[id as usize], &cold[id as usize], key);
            if let Some(id) = self.index.find(hash, matches) {
                out[asked.at(i)] = hot[id as usize].found(id);
                found |= 1 << i;
            }
        }
        found
    }
}

/// One of a megaflow's packed words.
#[inline(always)]
fn value<T>(hot: &Hot, cold: &Cold<T>, i: usize) -> u64 {
    match hot.values.get(i) {
        Some(value) => *value,
        None => cold.rest[i - INLINE],
    }
}
