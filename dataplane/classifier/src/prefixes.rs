//! Is there any rule with this address prefix, and how many bits tell?
//!
//! For each address field and prefix length the values that rules have, in a tree over their
//! bits. A value that is absent leaves the tree at some bit, and the bits up to that one are all
//! that must be looked at to know that it is absent. So a packet to
//! an address far from all rules' addresses leaves most of its bits wildcarded, and a subtable
//! of which no rule can match is passed over without a hash.
//!
//! The sets are persistent, as is all of a rule table.

use crate::hamt::{Bits, Entry, Hamt};
use flow::key::word;
use flow::{FlowKey, MaskWords, Match};
use std::sync::Arc;

/// An address field that is matched by prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    NwSrc,
    NwDst,
    Ipv6Src,
    Ipv6Dst,
}

impl Address {
    pub(crate) const ALL: [Address; 4] =
        [Address::NwSrc, Address::NwDst, Address::Ipv6Src, Address::Ipv6Dst];

    /// The field's 128 bits; an IPv4 address in the highest of them.
    #[inline]
    fn of(self, word: impl Fn(usize) -> u64) -> u128 {
        let two = |w: usize| u128::from(word(w)) << 64 | u128::from(word(w + 1));
        match self {
            Address::NwSrc => u128::from(word(word::IPV4) >> 32) << 96,
            Address::NwDst => u128::from(word(word::IPV4) & 0xffff_ffff) << 96,
            Address::Ipv6Src => two(word::IPV6_SRC),
            Address::Ipv6Dst => two(word::IPV6_DST),
        }
    }

    /// The length of the prefix that the mask has on this field; None where it has no mask or
    /// one that is not a prefix.
    pub(crate) fn prefix_len(self, mask: &MaskWords) -> Option<u8> {
        let m = self.of(|w| mask.word(w));
        let len = m.leading_ones();
        (len > 0 && len == m.count_ones()).then_some(len as u8)
    }

    /// Add the field's first `bits` bits to a mask.
    fn unwildcard(self, bits: u32, wc: &mut FlowKey) {
        let m = if bits == 0 { 0 } else { u128::MAX << (128 - bits) };
        let mut or = |w: usize, m: u64| {
            if m != 0 {
                wc.set_word(w, wc.word(w) | m);
            }
        };
        match self {
            Address::NwSrc => or(word::IPV4, (m >> 96 << 32) as u64),
            Address::NwDst => or(word::IPV4, (m >> 96) as u64),
            Address::Ipv6Src | Address::Ipv6Dst => {
                let w = if self == Address::Ipv6Src { word::IPV6_SRC } else { word::IPV6_DST };
                or(w, (m >> 64) as u64);
                or(w + 1, m as u64);
            }
        }
    }
}

/// How many rules have a value.
#[derive(Clone)]
struct Counted<K> {
    value: K,
    count: u32,
}

impl<K: Bits> Entry for Counted<K> {
    type Key = K;
    #[inline(always)]
    fn key(&self) -> K {
        self.value
    }
}

/// A multiset of values.
pub(crate) struct ValueSet<K>(Hamt<Counted<K>>);

impl<K> Clone for ValueSet<K> {
    fn clone(&self) -> Self {
        ValueSet(self.0.clone())
    }
}

impl<K: Bits> ValueSet<K> {
    pub(crate) fn new() -> Self {
        ValueSet(Hamt::new())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Note one more of a value, or one less.
    pub(crate) fn count(&mut self, value: K, add: bool) {
        self.0.change(
            value,
            |_| true,
            |old| {
                let count = old.map_or(0, |c| c.count);
                let count = if add { count + 1 } else { count.saturating_sub(1) };
                (count > 0).then_some(Counted { value, count })
            },
        );
    }

    #[inline]
    pub(crate) fn contains(&self, value: K) -> bool {
        self.0.find(value, |_| true).is_some()
    }

    /// None if the value is there; otherwise how many bits, from the high end, show that it is
    /// not.
    #[inline]
    pub(crate) fn absent(&self, value: K) -> Option<u32> {
        self.0.absent(value)
    }
}

/// The values of one field, by prefix length.
struct Lengths<K>(Arc<Vec<(u8, ValueSet<K>)>>);

impl<K> Clone for Lengths<K> {
    fn clone(&self) -> Self {
        Lengths(Arc::clone(&self.0))
    }
}

impl<K: Bits> Lengths<K> {
    fn new() -> Self {
        Lengths(Arc::new(Vec::new()))
    }

    fn get(&self, len: u8) -> Option<&ValueSet<K>> {
        self.0.iter().find(|(l, _)| *l == len).map(|(_, s)| s)
    }

    fn change(&mut self, len: u8, f: impl FnOnce(&mut ValueSet<K>)) {
        let sets = Arc::make_mut(&mut self.0);
        let at = sets.iter().position(|(l, _)| *l == len).unwrap_or_else(|| {
            sets.push((len, ValueSet::new()));
            sets.len() - 1
        });
        f(&mut sets[at].1);
        if sets[at].1.is_empty() {
            sets.swap_remove(at);
        }
    }
}

/// The prefixes of all rules of a table.
#[derive(Clone)]
pub(crate) struct Prefixes {
    v4: [Lengths<u32>; 2],
    v6: [Lengths<u128>; 2],
}

impl Prefixes {
    pub(crate) fn new() -> Self {
        Prefixes { v4: [Lengths::new(), Lengths::new()], v6: [Lengths::new(), Lengths::new()] }
    }

    /// Note one more rule that has this value under a prefix, or one less.
    pub(crate) fn change(&mut self, field: Address, len: u8, m: &Match, add: bool) {
        let v = field.of(|w| m.word(w).0);
        match field {
            Address::NwSrc | Address::NwDst => {
                self.v4[field as usize].change(len, |s| s.count((v >> 96) as u32, add));
            }
            Address::Ipv6Src | Address::Ipv6Dst => {
                self.v6[field as usize - 2].change(len, |s| s.count(v, add));
            }
        }
    }

    /// As [`ValueSet::absent`], for the first `len` bits of the field in a key.
    fn absent(&self, field: Address, len: u8, word: impl Fn(usize) -> u64) -> Option<u32> {
        let v = field.of(word) & u128::MAX << (128 - u32::from(len));
        match field {
            Address::NwSrc | Address::NwDst => {
                self.v4[field as usize].get(len).map_or(Some(0), |s| s.absent((v >> 96) as u32))
            }
            Address::Ipv6Src | Address::Ipv6Dst => {
                self.v6[field as usize - 2].get(len).map_or(Some(0), |s| s.absent(v))
            }
        }
    }

    /// Whether some rule may have the value that `m` has, which must fix the prefix.
    pub(crate) fn has(&self, field: Address, len: u8, m: &Match) -> bool {
        self.absent(field, len, |w| m.word(w).0).is_none()
    }
}

/// The answers about one key, each found at most once in a lookup.
pub(crate) struct Probes<'a> {
    prefixes: &'a Prefixes,
    key: &'a FlowKey,
    v4: [[u8; 33]; 2],
    v6: Option<[[u8; 129]; 2]>,
}

const UNKNOWN: u8 = 0;
const PRESENT: u8 = 1;
const ABSENT: u8 = 2;

impl<'a> Probes<'a> {
    #[inline]
    pub(crate) fn new(prefixes: &'a Prefixes, key: &'a FlowKey) -> Self {
        Probes { prefixes, key, v4: [[UNKNOWN; 33]; 2], v6: None }
    }

    /// Whether an earlier question has shown already that for one of these (field, length) no
    /// rule has the key's first `length` bits in the field. The bits that show it are in the mask
    /// by then, so this costs none.
    #[inline]
    pub(crate) fn ruled_out(&mut self, prefixes: &[(Address, u8)]) -> bool {
        prefixes.iter().any(|(field, len)| *self.memo(*field, *len) == ABSENT)
    }

    /// The same, and asks what is not known yet: the bits that show it are then added to `wc`.
    #[inline]
    pub(crate) fn rule_out(&mut self, prefixes: &[(Address, u8)], wc: &mut FlowKey) -> bool {
        prefixes
            .iter()
            .any(|(field, len)| *self.memo(*field, *len) == UNKNOWN && self.probe(*field, *len, wc))
    }

    #[inline]
    fn memo(&mut self, field: Address, len: u8) -> &mut u8 {
        match field {
            Address::NwSrc | Address::NwDst => &mut self.v4[field as usize][usize::from(len)],
            Address::Ipv6Src | Address::Ipv6Dst => {
                let v6 = self.v6.get_or_insert([[UNKNOWN; 129]; 2]);
                &mut v6[field as usize - 2][usize::from(len)]
            }
        }
    }

    fn probe(&mut self, field: Address, len: u8, wc: &mut FlowKey) -> bool {
        let absent = self.prefixes.absent(field, len, |w| self.key.word(w));
        *self.memo(field, len) = if absent.is_some() { ABSENT } else { PRESENT };
        if let Some(bits) = absent {
            field.unwildcard(bits, wc);
        }
        absent.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bits_of_absence_are_enough_and_no_more(
            // Some far apart, some close together; enough for a tree of several levels.
            values in prop::collection::vec(prop_oneof![any::<u32>(), 0x0a00_0000..0x0a00_2000u32], 0..400),
            near in any::<prop::sample::Index>(),
            flip in 0u32..40,
            v in any::<u32>(),
        ) {
            let mut set = ValueSet::new();
            values.iter().for_each(|v| set.count(*v, true));
            // Half of the time a neighbour of a value that is there.
            let v = match values.is_empty() || flip >= 33 {
                true => v,
                false => values[near.index(values.len())] ^ (1u64 << flip >> 1) as u32,
            };
            match set.absent(v) {
                None => prop_assert!(values.contains(&v)),
                Some(bits) => {
                    let same = |bits: u32| {
                        values.iter().any(|x| bits == 0 || (x ^ v).leading_zeros() >= bits)
                    };
                    prop_assert!(!same(bits) || values.is_empty() && bits == 0);
                    prop_assert!(bits == 0 || same(bits - 1));
                }
            }
            values.iter().for_each(|v| set.count(*v, false));
            prop_assert!(set.is_empty());
        }
    }
}
