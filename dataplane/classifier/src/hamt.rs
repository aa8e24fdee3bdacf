//! A persistent set of entries found by a number: a hash, or a value itself.
//!
//! A tree over the number's bits, four a level from the high end, with small buckets as leaves.
//! A clone shares everything; a change copies the nodes on its path where they are shared and
//! works in place where they are not. Every inner slot knows the highest rank below it, so the
//! highest rank of all is at hand without a search.
//!
//! Invariants: an entry is in the bucket that its key leads to; `len` counts entries; a slot's
//! `max` is the highest rank below it; a branch is not empty.

use std::sync::Arc;

const FAN_BITS: u32 = 4;
const FAN: usize = 1 << FAN_BITS;
/// Entries of a bucket before it is split.
const BUCKET_MAX: usize = 32;
/// A branch with no more entries than this is turned back into a bucket.
const MERGE_MAX: usize = 8;

/// A number over whose bits a tree may be.
pub(crate) trait Bits: Copy + Eq {
    /// Levels of the tree, after which all bits are spent.
    const LEVELS: u32;
    /// The four bits of a level.
    fn digit(self, level: u32) -> usize;
    /// How many bits, from the high end, both have in common.
    fn common(self, other: Self) -> u32;
}

impl Bits for u32 {
    const LEVELS: u32 = u32::BITS / FAN_BITS;
    #[inline(always)]
    fn digit(self, level: u32) -> usize {
        (self >> (u32::BITS - FAN_BITS - level * FAN_BITS)) as usize & (FAN - 1)
    }
    #[inline(always)]
    fn common(self, other: u32) -> u32 {
        (self ^ other).leading_zeros()
    }
}

impl Bits for u128 {
    const LEVELS: u32 = u128::BITS / FAN_BITS;
    #[inline(always)]
    fn digit(self, level: u32) -> usize {
        (self >> (u128::BITS - FAN_BITS - level * FAN_BITS)) as usize & (FAN - 1)
    }
    #[inline(always)]
    fn common(self, other: u128) -> u32 {
        (self ^ other).leading_zeros()
    }
}

/// What the tree holds.
pub(crate) trait Entry: Clone {
    type Key: Bits;
    /// The number that finds the entry; it never changes. Several entries may have the same.
    fn key(&self) -> Self::Key;
    /// The rank of which the tree knows the highest.
    fn rank(&self) -> u16 {
        0
    }
}

enum Slot<E> {
    Empty,
    Bucket { max: u16, entries: Arc<Vec<E>> },
    Branch { max: u16, slots: Arc<[Slot<E>; FAN]> },
}

impl<E> Clone for Slot<E> {
    fn clone(&self) -> Self {
        match self {
            Slot::Empty => Slot::Empty,
            Slot::Bucket { max, entries } => {
                Slot::Bucket { max: *max, entries: Arc::clone(entries) }
            }
            Slot::Branch { max, slots } => Slot::Branch { max: *max, slots: Arc::clone(slots) },
        }
    }
}

impl<E> Slot<E> {
    #[inline]
    fn max(&self) -> u16 {
        match self {
            Slot::Empty => 0,
            Slot::Bucket { max, .. } | Slot::Branch { max, .. } => *max,
        }
    }
}

pub(crate) struct Hamt<E> {
    root: Slot<E>,
    len: usize,
}

impl<E> Clone for Hamt<E> {
    fn clone(&self) -> Self {
        Hamt { root: self.root.clone(), len: self.len }
    }
}

fn highest<E: Entry>(entries: &[E]) -> u16 {
    entries.iter().map(E::rank).max().unwrap_or(0)
}

impl<E: Entry> Hamt<E> {
    pub(crate) fn new() -> Self {
        Hamt { root: Slot::Empty, len: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The highest rank of all entries, 0 when there is none.
    #[inline]
    pub(crate) fn max_rank(&self) -> u16 {
        self.root.max()
    }

    /// The only entry, where there is exactly one.
    #[inline]
    pub(crate) fn single(&self) -> Option<&E> {
        match &self.root {
            Slot::Bucket { entries, .. } if self.len == 1 => entries.first(),
            _ => None,
        }
    }

    /// The entry with that key that `same` accepts.
    #[inline]
    pub(crate) fn find(&self, key: E::Key, same: impl Fn(&E) -> bool) -> Option<&E> {
        let mut slot = &self.root;
        let mut level = 0;
        loop {
            match slot {
                Slot::Empty => return None,
                Slot::Branch { slots, .. } => {
                    slot = &slots[key.digit(level)];
                    level += 1;
                }
                Slot::Bucket { entries, .. } => {
                    return entries.iter().find(|e| e.key() == key && same(e));
                }
            }
        }
    }

    /// None if there is an entry with the key; otherwise how many of its bits, from the high end,
    /// show that there is none.
    #[inline]
    pub(crate) fn absent(&self, key: E::Key) -> Option<u32> {
        let mut slot = &self.root;
        let mut level = 0;
        loop {
            match slot {
                Slot::Empty => return Some(0),
                Slot::Bucket { entries, .. } => {
                    let mut bits = 0;
                    for e in entries.iter() {
                        if e.key() == key {
                            return None;
                        }
                        bits = bits.max(e.key().common(key) + 1);
                    }
                    return Some(bits);
                }
                Slot::Branch { slots, .. } => {
                    let digit = key.digit(level);
                    slot = &slots[digit];
                    if let Slot::Empty = slot {
                        return Some(level * FAN_BITS + Self::digit_bits(slots, digit));
                    }
                    level += 1;
                }
            }
        }
    }

    /// How many bits of a branch's empty slot's number show that it is empty.
    fn digit_bits(slots: &[Slot<E>; FAN], digit: usize) -> u32 {
        let full = (0..FAN).filter(|i| !matches!(slots[*i], Slot::Empty));
        let common = full.map(|i| (i ^ digit).leading_zeros() - (usize::BITS - FAN_BITS));
        common.max().map_or(0, |c| c + 1)
    }

    /// Replace the entry with that key that `same` accepts (None if there is none) by what
    /// `change` makes of it; None removes it.
    pub(crate) fn change(
        &mut self,
        key: E::Key,
        same: impl Fn(&E) -> bool,
        change: impl FnOnce(Option<E>) -> Option<E>,
    ) {
        let grown = Self::change_slot(&mut self.root, key, 0, &same, change);
        self.len = self.len.wrapping_add_signed(grown);
    }

    fn change_slot(
        slot: &mut Slot<E>,
        key: E::Key,
        level: u32,
        same: &impl Fn(&E) -> bool,
        change: impl FnOnce(Option<E>) -> Option<E>,
    ) -> isize {
        match slot {
            Slot::Empty => match change(None) {
                None => 0,
                Some(e) => {
                    *slot = Slot::Bucket { max: e.rank(), entries: Arc::new(vec![e]) };
                    1
                }
            },
            Slot::Bucket { max, entries } => {
                let grown = Self::change_bucket(Arc::make_mut(entries), key, same, change);
                *max = highest(entries);
                if entries.is_empty() {
                    *slot = Slot::Empty;
                } else if entries.len() > BUCKET_MAX && level < E::Key::LEVELS {
                    let entries = std::mem::take(Arc::make_mut(entries));
                    *slot = Self::split(entries, level);
                }
                grown
            }
            Slot::Branch { max, slots } => {
                let slots = Arc::make_mut(slots);
                let at = key.digit(level);
                let grown = Self::change_slot(&mut slots[at], key, level + 1, same, change);
                *max = slots.iter().map(Slot::max).max().unwrap_or(0);
                if grown < 0
                    && let Some(merged) = Self::merge(slots, at)
                {
                    *slot = merged;
                }
                grown
            }
        }
    }

    fn change_bucket(
        entries: &mut Vec<E>,
        key: E::Key,
        same: &impl Fn(&E) -> bool,
        change: impl FnOnce(Option<E>) -> Option<E>,
    ) -> isize {
        match entries.iter().position(|e| e.key() == key && same(e)) {
            Some(at) => {
                let old = entries.swap_remove(at);
                match change(Some(old)) {
                    Some(new) => {
                        entries.push(new);
                        0
                    }
                    None => {
                        if entries.capacity() > entries.len() + 8 {
                            entries.shrink_to(entries.len() + 2);
                        }
                        -1
                    }
                }
            }
            None => match change(None) {
                Some(new) => {
                    if entries.len() == entries.capacity() {
                        // Buckets are many and small: grow by little, not by half.
                        entries.reserve_exact(1 + entries.len() / 4);
                    }
                    entries.push(new);
                    1
                }
                None => 0,
            },
        }
    }

    fn split(entries: Vec<E>, level: u32) -> Slot<E> {
        let mut parts: [Vec<E>; FAN] = std::array::from_fn(|_| Vec::new());
        for e in entries {
            parts[e.key().digit(level)].push(e);
        }
        let mut max = 0;
        let slots = parts.map(|mut part| {
            if part.is_empty() {
                return Slot::Empty;
            }
            let part_max = highest(&part);
            max = max.max(part_max);
            if part.len() > BUCKET_MAX && level + 1 < E::Key::LEVELS {
                return Self::split(part, level + 1);
            }
            part.shrink_to_fit();
            Slot::Bucket { max: part_max, entries: Arc::new(part) }
        });
        Slot::Branch { max, slots: Arc::new(slots) }
    }

    /// A bucket of all entries of a branch that has become small. `at` is the slot that lost an
    /// entry: only when that one is nearly empty are the others looked at.
    fn merge(slots: &[Slot<E>; FAN], at: usize) -> Option<Slot<E>> {
        let few = |s: &Slot<E>| match s {
            Slot::Empty => Some(0),
            Slot::Bucket { entries, .. } if entries.len() <= MERGE_MAX => Some(entries.len()),
            _ => None,
        };
        if few(&slots[at])? > 1 {
            return None;
        }
        let mut total = 0;
        for s in slots {
            total += few(s)?;
            if total > MERGE_MAX {
                return None;
            }
        }
        let mut all = Vec::with_capacity(total);
        for s in slots {
            if let Slot::Bucket { entries, .. } = s {
                all.extend(entries.iter().cloned());
            }
        }
        if all.is_empty() {
            return Some(Slot::Empty);
        }
        Some(Slot::Bucket { max: highest(&all), entries: Arc::new(all) })
    }

    /// All entries, in no order that matters.
    pub(crate) fn iter(&self) -> Iter<'_, E> {
        self.iter_ranked(0)
    }

    /// The entries of which the rank may be at least `min`: parts whose highest rank is lower
    /// are passed over.
    pub(crate) fn iter_ranked(&self, min: u16) -> Iter<'_, E> {
        Iter { slots: vec![std::slice::from_ref(&self.root).iter()], bucket: [].iter(), min }
    }
}

pub(crate) struct Iter<'a, E> {
    slots: Vec<std::slice::Iter<'a, Slot<E>>>,
    bucket: std::slice::Iter<'a, E>,
    min: u16,
}

impl<'a, E> Iterator for Iter<'a, E> {
    type Item = &'a E;

    fn next(&mut self) -> Option<&'a E> {
        loop {
            if let Some(e) = self.bucket.next() {
                return Some(e);
            }
            let Some(slot) = self.slots.last_mut()?.next() else {
                self.slots.pop();
                continue;
            };
            match slot {
                Slot::Bucket { max, entries } if *max >= self.min => self.bucket = entries.iter(),
                Slot::Branch { max, slots } if *max >= self.min => self.slots.push(slots.iter()),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[derive(Clone, Debug, PartialEq)]
    struct E(u32, u16, u16);
    impl Entry for E {
        type Key = u32;
        fn key(&self) -> u32 {
            self.0
        }
        fn rank(&self) -> u16 {
            self.2
        }
    }

    /// Few distinct keys in the high bits, so that deep paths and full collisions occur.
    fn hash_of(n: u16) -> u32 {
        match n % 3 {
            0 => u32::from(n / 100) << 3,
            1 => u32::from(n).wrapping_mul(0x9e37_79b1),
            _ => u32::from(n / 50) << 28,
        }
    }

    fn check(h: &Hamt<E>, model: &HashMap<u16, u16>) {
        assert_eq!(h.len, model.len());
        assert_eq!(h.iter().count(), model.len());
        assert_eq!(h.max_rank(), model.values().copied().max().unwrap_or(0));
        for (k, v) in model {
            let e = h.find(hash_of(*k), |e| e.1 == *k).expect("present");
            assert_eq!(e.2, *v);
        }
        for min in [1u16, 40, 90] {
            let n = h.iter_ranked(min).filter(|e| e.2 >= min).count();
            assert_eq!(n, model.values().filter(|v| **v >= min).count());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn behaves_as_a_map_and_keeps_old_versions(
            ops in prop::collection::vec((0u16..2000, any::<bool>(), 0u16..100), 1..1500),
            fork_at in 0usize..1500,
        ) {
            let mut h = Hamt::new();
            let mut model: HashMap<u16, u16> = HashMap::new();
            let mut fork = None;
            for (i, (k, add, rank)) in ops.into_iter().enumerate() {
                if i == fork_at {
                    fork = Some((h.clone(), model.clone()));
                }
                let hash = hash_of(k);
                if add {
                    h.change(hash, |e: &E| e.1 == k, |_| Some(E(hash, k, rank)));
                    model.insert(k, rank);
                } else {
                    h.change(hash, |e: &E| e.1 == k, |_| None);
                    model.remove(&k);
                }
            }
            check(&h, &model);
            if let Some((h, model)) = fork {
                check(&h, &model);
            }
            // Down to nothing again.
            for k in model.keys().copied().collect::<Vec<_>>() {
                h.change(hash_of(k), |e: &E| e.1 == k, |_| None);
            }
            prop_assert!(h.is_empty());
            prop_assert_eq!(h.iter().count(), 0);
            prop_assert_eq!(h.max_rank(), 0);
        }
    }
}
