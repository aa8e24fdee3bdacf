//! A match kept small: only the words that have a mask.
//!
//! A rule, a megaflow and a recorded lookup each match a few words of the key. [`Match`] keeps
//! those words' values and masks in one allocation behind a bitmap; [`MaskWords`] keeps a mask
//! alone, in a form that lookups walk. Values are always kept masked.

use crate::fields::Field;
use crate::key::{FlowKey, WORDS, mix};

/// A mask as the list of its nonzero words.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct MaskWords {
    map: u64,
    words: Box<[u64]>,
}

impl MaskWords {
    /// The nonzero words of a full mask.
    pub fn new(mask: &FlowKey) -> MaskWords {
        let map = mask.nonzero_map();
        MaskWords { map, words: bits(map).map(|i| mask.word(i)).collect() }
    }

    /// A mask of the words that are set in `map`, in their order.
    pub fn from_words(map: u64, words: &[u64]) -> MaskWords {
        debug_assert_eq!(map.count_ones() as usize, words.len());
        MaskWords { map, words: words.into() }
    }

    /// Which words have a mask, as bits.
    #[inline]
    pub fn map(&self) -> u64 {
        self.map
    }

    /// The masks themselves, in order of the word.
    #[inline]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The masks' (word index, mask), in order of the index.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        let mut map = self.map;
        self.words.iter().map(move |mask| (take_lowest(&mut map), *mask))
    }

    /// Number of words with a mask.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Whether nothing is masked, so everything matches.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The mask of one word, 0 where there is none.
    pub fn word(&self, i: usize) -> u64 {
        if self.map >> i & 1 == 0 {
            return 0;
        }
        self.words[(self.map & ((1 << i) - 1)).count_ones() as usize]
    }

    /// The mask as a full key.
    pub fn expand(&self) -> FlowKey {
        let mut k = FlowKey::ZERO;
        for (i, m) in self.iter() {
            k.set_word(i, m);
        }
        k
    }

    /// The bits that both masks look at.
    pub fn and(&self, other: &MaskWords) -> MaskWords {
        let mut out = [0u64; WORDS];
        let mut map = 0;
        for i in bits(self.map & other.map) {
            out[i] = self.word(i) & other.word(i);
            map |= u64::from(out[i] != 0) << i;
        }
        MaskWords { map, words: bits(map).map(|i| out[i]).collect() }
    }

    /// Hash of a key's words under this mask.
    #[inline]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        let mut h = SEED;
        for (i, m) in self.iter() {
            h = mix_word(h, key.word(i) & m);
        }
        h
    }
}

/// The start value of the hashes of masked words.
pub const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Add one masked word to a hash.
#[inline(always)]
pub const fn mix_word(h: u64, word: u64) -> u64 {
    mix(h ^ word, 0xe703_7ed1_a0b4_28db)
}

/// The index of the lowest bit that is set, which is not any more then.
#[inline(always)]
fn take_lowest(map: &mut u64) -> usize {
    let i = map.trailing_zeros() as usize;
    *map &= map.wrapping_sub(1);
    i
}

/// The indices of the bits that are set.
#[inline]
pub fn bits(mut map: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if map == 0 {
            return None;
        }
        let i = map.trailing_zeros() as usize;
        map &= map - 1;
        Some(i)
    })
}

/// Values and masks of the words that are matched.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Match {
    map: u64,
    /// Masks first, then the values under them, each in order of the word.
    words: Box<[u64]>,
}

impl Match {
    /// The match on `key` under `mask`.
    pub fn new(key: &FlowKey, mask: &FlowKey) -> Match {
        let map = mask.nonzero_map();
        let masks = bits(map).map(|i| mask.word(i));
        let values = bits(map).map(|i| key.word(i) & mask.word(i));
        Match { map, words: masks.chain(values).collect() }
    }

    /// Which words are matched, as bits.
    #[inline]
    pub fn map(&self) -> u64 {
        self.map
    }

    /// The matched words' (index, value, mask).
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = (usize, u64, u64)> + '_ {
        let (masks, values) = self.words.split_at(self.words.len() / 2);
        let mut map = self.map;
        masks.iter().zip(values).map(move |(m, v)| (take_lowest(&mut map), *v, *m))
    }

    /// Whether the key matches.
    #[inline]
    pub fn matches(&self, key: &FlowKey) -> bool {
        self.iter().all(|(i, v, m)| key.word(i) & m == v)
    }

    /// Whether both matches have the same mask.
    #[inline]
    pub fn same_mask(&self, other: &Match) -> bool {
        let n = self.words.len() / 2;
        self.map == other.map && self.words[..n] == other.words[..n]
    }

    /// Whether some packet can match both.
    pub fn overlaps(&self, other: &Match) -> bool {
        bits(self.map & other.map).all(|i| {
            let (v, m) = self.word(i);
            let (w, n) = other.word(i);
            (v ^ w) & m & n == 0
        })
    }

    /// Whether every packet that matches `self` matches `other`: `other` is the same or looser.
    pub fn is_within(&self, other: &Match) -> bool {
        other.iter().all(|(i, w, n)| {
            let (v, m) = self.word(i);
            m & n == n && v & n == w
        })
    }

    /// Value and mask of one word; both 0 where it is not matched.
    #[inline]
    pub fn word(&self, i: usize) -> (u64, u64) {
        if self.map >> i & 1 == 0 {
            return (0, 0);
        }
        let at = (self.map & ((1 << i) - 1)).count_ones() as usize;
        (self.words[self.words.len() / 2 + at], self.words[at])
    }

    /// Value and mask of one field.
    pub fn field(&self, field: Field) -> (u128, u128) {
        let p = field.place();
        let (v, m) = self.word(p.word);
        if p.bits > 64 {
            let (v2, m2) = self.word(p.word + 1);
            return (u128::from(v) << 64 | u128::from(v2), u128::from(m) << 64 | u128::from(m2));
        }
        let low = crate::key::low_bits(p.bits);
        (u128::from(v >> p.shift & low), u128::from(m >> p.shift & low))
    }

    /// The mask alone.
    pub fn mask(&self) -> MaskWords {
        MaskWords { map: self.map, words: self.words[..self.words.len() / 2].into() }
    }

    /// The masked values as a full key.
    pub fn key(&self) -> FlowKey {
        let mut k = FlowKey::ZERO;
        for (i, v, _) in self.iter() {
            k.set_word(i, v);
        }
        k
    }

    /// The mask as a full key.
    pub fn mask_key(&self) -> FlowKey {
        let mut k = FlowKey::ZERO;
        for (i, _, m) in self.iter() {
            k.set_word(i, m);
        }
        k
    }

    /// The same hash as [`MaskWords::hash`] of any key that matches.
    #[inline]
    pub fn hash(&self) -> u64 {
        let values = &self.words[self.words.len() / 2..];
        values.iter().fold(SEED, |h, v| mix_word(h, *v))
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.words.len() * 8
    }
}

impl std::fmt::Debug for Match {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut m = f.debug_map();
        for field in Field::ALL {
            let (v, mask) = self.field(*field);
            if mask == field.full() {
                m.entry(&field.name(), &format_args!("{v:#x}"));
            } else if mask != 0 {
                m.entry(&field.name(), &format_args!("{v:#x}/{mask:#x}"));
            }
        }
        m.finish()
    }
}
