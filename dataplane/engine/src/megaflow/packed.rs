//! How are the words that a mask looks at kept, hashed and compared?
//!
//! Packed: masks look at a few bits of most words, so each word is turned until those bits fall where no
//! other's are. Addresses, ports and what they stand behind are five words of a key, and two packed ones. All
//! packets of a burst are packed together, word by word ([`Columns`]), so that what a word's part says is read
//! once.
//!
//! Invariant: two keys pack alike exactly if they agree under the mask.

use flow::key::mix;
use flow::{DP_WORDS, FlowKey, MaskWords, WORDS};

use super::{BURST, INLINE};

/// The bits of one word of a key that a mask looks at.
#[derive(Clone, Copy)]
struct Part {
    /// Those bits, turned.
    mask: u64,
    /// The word.
    word: u8,
    /// By how many bits it is turned to the left.
    turn: u8,
    /// The packed word that it is in.
    into: u8,
}

impl Part {
    #[inline(always)]
    fn of(self, key: &FlowKey) -> u64 {
        key.word(self.word()).rotate_left(self.turn.into()) & self.mask
    }

    /// The word's number: the compiler sees that every key has it.
    #[inline(always)]
    fn word(self) -> usize {
        usize::from(self.word).min(WORDS - 1)
    }

    /// The mask, and the word's value in a packed one, as they are in a key.
    #[inline(always)]
    fn unpack(self, packed: u64) -> (u64, u64) {
        let turn = self.turn.into();
        (self.mask.rotate_right(turn), (packed & self.mask).rotate_right(turn))
    }
}

/// Packed words of several keys: all first ones, all second ones and so on.
pub(super) type Columns = [[u64; BURST]; INLINE];

/// How the words under a mask are packed.
pub(super) struct Layout {
    /// In order of the packed word.
    parts: Box<[Part]>,
    /// How many packed words there are.
    len: usize,
}

impl Layout {
    /// That for a mask: each word goes where there is room for it first.
    pub fn new(mask: &MaskWords) -> Layout {
        let mut used = [0; DP_WORDS];
        let mut len = 0;
        let mut place = |(word, mask): (usize, u64)| {
            let is_free = |into: usize, turn| used[into] & mask.rotate_left(turn) == 0;
            let (into, turn) = (0..len)
                .find_map(|into| Some((into, (0..u64::BITS).find(|turn| is_free(into, *turn))?)))
                .unwrap_or((len, 0));
            let mask = mask.rotate_left(turn);
            used[into] |= mask;
            len = len.max(into + 1);
            Part { mask, word: word as u8, turn: turn as u8, into: into as u8 }
        };
        let mut parts: Box<[Part]> = mask.iter().map(&mut place).collect();
        parts.sort_by_key(|part| part.into);
        Layout { parts, len }
    }

    /// How many packed words there are.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// A key's packed words; those past [`Layout::len`] are zero.
    pub fn pack(&self, key: &FlowKey) -> [u64; DP_WORDS] {
        let mut packed = [0; DP_WORDS];
        for part in &self.parts {
            packed[usize::from(part.into)] |= part.of(key);
        }
        packed
    }

    /// Whether a key packs like that. There may not be more than [`INLINE`] packed words.
    #[inline(always)]
    pub fn agrees(&self, key: &FlowKey, packed: &[u64; INLINE]) -> bool {
        debug_assert!(self.len <= INLINE);
        let differs =
            |part: &Part| part.of(key) ^ packed[usize::from(part.into) % INLINE] & part.mask;
        self.parts.iter().fold(0, |differ, part| differ | differs(part)) == 0
    }

    /// For each word of a key that the mask looks at: its number, mask and value. `packed` gives the packed
    /// word with that number.
    #[inline(always)]
    pub fn unpack(&self, packed: impl Fn(usize) -> u64) -> impl Iterator<Item = (usize, u64, u64)> {
        self.parts.iter().map(move |part| {
            let (mask, value) = part.unpack(packed(part.into.into()));
            (part.word(), mask, value)
        })
    }

    /// Pack the first `n` keys. There may not be more than [`INLINE`] packed words.
    #[inline(always)]
    pub fn pack_all(&self, n: usize, keys: &[&FlowKey; BURST], columns: &mut Columns) {
        debug_assert!(self.len <= INLINE);
        let mut begun = 0;
        for part in &self.parts {
            let into = usize::from(part.into) % INLINE;
            if into == begun {
                begun += 1;
                each(n, keys, &mut columns[into], |key, to| *to = part.of(key));
            } else {
                each(n, keys, &mut columns[into], |key, to| *to |= part.of(key));
            }
        }
    }
}

/// Do the same with the first `n` keys and what belongs to each, and with up to three more: in whole fours, so
/// little is done with one. Counting single ones would be a third of it, and how many are left over is never
/// foreseen.
#[inline(always)]
pub(super) fn each(
    n: usize,
    keys: &[&FlowKey; BURST],
    with: &mut [u64; BURST],
    does: impl Fn(&FlowKey, &mut u64),
) {
    let (keys, with) = (keys.as_chunks::<4>().0, with.as_chunks_mut::<4>().0);
    for (keys, with) in keys.iter().zip(with).take(n.div_ceil(4)) {
        for (key, with) in keys.iter().zip(with) {
            does(key, with);
        }
    }
}

/// What a hash begins with. Secret: a sender cannot make megaflows that all fall into one bucket.
#[derive(Clone, Copy)]
pub(super) struct Seeds(pub [u64; 2]);

impl Seeds {
    /// The seeds for each pair of words. Products do not wait for each other.
    #[inline(always)]
    fn pairs(self) -> impl Iterator<Item = (u64, u64)> {
        let [a, b] = self.0;
        let next = |(a, b): &(u64, u64)| {
            Some((a.wrapping_add(0x9e37_79b9_7f4a_7c15), b.wrapping_add(0xd1b5_4a32_d192_ed03)))
        };
        std::iter::successors(Some((a, b)), next)
    }

    /// Products of values that count up alike are not spread evenly by themselves.
    #[inline(always)]
    fn spread(self, products: u64) -> u64 {
        mix(products ^ self.0[1], 0xa076_1d64_78bd_642f)
    }

    /// The hash of packed words.
    pub fn hash(self, packed: &[u64]) -> u64 {
        let words = packed.chunks(2).zip(self.pairs());
        let products = |h, (w, (a, b)): (&[u64], _)| h ^ mix(w[0] ^ a, w.get(1).unwrap_or(&0) ^ b);
        self.spread(words.fold(0, products))
    }

    /// The same of the first `len` words of each of `hashes.len()` keys.
    #[inline(always)]
    pub fn hash_all(self, columns: &Columns, len: usize, hashes: &mut [u64]) {
        let [a, b] = self.0;
        match &columns[..len] {
            [one] => {
                for (h, v) in hashes.iter_mut().zip(one) {
                    *h = self.spread(mix(v ^ a, b));
                }
            }
            [one, other] => {
                for ((h, v), w) in hashes.iter_mut().zip(one).zip(other) {
                    *h = self.spread(mix(v ^ a, w ^ b));
                }
            }
            columns => {
                hashes.fill(0);
                for (words, (a, b)) in columns.chunks(2).zip(self.pairs()) {
                    let other = words.get(1).unwrap_or(&[0; BURST]);
                    for ((h, v), w) in hashes.iter_mut().zip(&words[0]).zip(other) {
                        *h ^= mix(v ^ a, w ^ b);
                    }
                }
                hashes.iter_mut().for_each(|h| *h = self.spread(*h));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Masks of all kinds: a few bits, halves, whole words.
    fn key_of(words: &[(usize, u64)]) -> FlowKey {
        let mut key = FlowKey::ZERO;
        words.iter().for_each(|(word, value)| key.set_word(*word, *value));
        key
    }

    fn mask_words() -> impl Strategy<Value = Vec<(usize, u64)>> {
        let bits = prop_oneof![
            Just(u64::MAX),
            Just(0xffff_ffff),
            Just(0xffff << 48),
            (0u32..64).prop_map(|at| 1 << at),
            any::<u64>()
        ];
        prop::collection::vec((1..DP_WORDS, bits), 0..12)
    }

    proptest! {
        #[test]
        fn packing_loses_nothing(
            mask in mask_words(),
            keys in prop::collection::vec(prop::collection::vec(any::<u64>(), DP_WORDS), 1..=BURST),
            seeds in any::<[u64; 2]>(),
        ) {
            let mask = MaskWords::new(&key_of(&mask));
            let layout = Layout::new(&mask);
            prop_assert!(layout.len() <= mask.len());
            let keys: Vec<FlowKey> =
                keys.iter().map(|words| key_of(&words.iter().copied().enumerate().collect::<Vec<_>>())).collect();
            let mut columns = [[0x5555; BURST]; INLINE];
            let mut hashes = vec![0x5555; keys.len()];
            let wide = layout.len() > INLINE;
            if !wide {
                let all = std::array::from_fn(|i| keys.get(i).unwrap_or(&keys[0]));
                layout.pack_all(keys.len(), &all, &mut columns);
                Seeds(seeds).hash_all(&columns, layout.len(), &mut hashes);
            }
            for (i, key) in keys.iter().enumerate() {
                let packed = layout.pack(key);
                let another = mask.iter().next().map(|(w, m)| (w, m & m.wrapping_neg()));
                if let Some((word, bit)) = another {
                    let mut other = key.clone();
                    other.set_word(word, key.word(word) ^ bit);
                    prop_assert_ne!(layout.pack(&other), packed);
                    let first = packed.first_chunk().unwrap_or(&[0; INLINE]);
                    prop_assert!(wide || layout.agrees(key, first));
                    prop_assert!(wide || !layout.agrees(&other, first));
                }
                let unpacked: Vec<_> = {
                    let mut all: Vec<_> = layout.unpack(|word| packed[word]).collect();
                    all.sort();
                    all
                };
                let want: Vec<_> = mask.iter().map(|(w, m)| (w, m, key.word(w) & m)).collect();
                prop_assert_eq!(unpacked, want);
                if !wide {
                    for (word, column) in columns[..layout.len()].iter().enumerate() {
                        prop_assert_eq!(column[i], packed[word]);
                    }
                    prop_assert_eq!(hashes[i], Seeds(seeds).hash(&packed[..layout.len()]));
                }
            }
        }
    }

    #[test]
    fn addresses_and_ports_are_two_words() {
        use flow::Field;
        let mut mask = FlowKey::ZERO;
        for f in [Field::EthType, Field::NwSrc, Field::NwProto, Field::NwFrag, Field::TpSrc] {
            mask.set(f, f.full());
        }
        assert_eq!(Layout::new(&MaskWords::new(&mask)).len(), 2);
    }
}
