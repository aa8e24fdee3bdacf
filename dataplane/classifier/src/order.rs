//! The subtables of a table, those with the highest priority first.
//!
//! A persistent list in chunks: a clone shares all of it, a change copies one chunk and the list
//! of chunks. Subtables of equal priority stay in the order in which they came.
//!
//! Invariants: items ascend by [`Item::key`]; no chunk is empty; an item's `max` is its
//! subtable's highest priority; a mask occurs once.

use crate::rules::Rule;
use crate::subtable::Subtable;
use flow::MaskWords;
use std::cmp::Reverse;
use std::sync::Arc;

const CHUNK_MAX: usize = 32;

pub(crate) struct Item<R> {
    /// Highest priority of a rule in the subtable.
    pub(crate) max: u16,
    seq: u32,
    mask_hash: u32,
    pub(crate) table: Arc<Subtable<R>>,
}

impl<R> Item<R> {
    fn key(&self) -> (Reverse<u16>, u32) {
        (Reverse(self.max), self.seq)
    }
}

impl<R> Clone for Item<R> {
    fn clone(&self) -> Self {
        Item { table: Arc::clone(&self.table), ..*self }
    }
}

type Chunk<R> = Arc<Vec<Item<R>>>;

pub(crate) struct Ordered<R> {
    chunks: Arc<Vec<Chunk<R>>>,
    next_seq: u32,
}

impl<R> Clone for Ordered<R> {
    fn clone(&self) -> Self {
        Ordered { chunks: Arc::clone(&self.chunks), next_seq: self.next_seq }
    }
}

/// A hash of a mask, to find its subtable.
pub(crate) fn mask_hash(mask: &MaskWords) -> u32 {
    let h = mask.iter().fold(mask.map(), |h, (_, m)| flow::sparse::mix_word(h, m));
    (h >> 32) as u32
}

impl<R: Rule> Ordered<R> {
    pub(crate) fn new() -> Self {
        Ordered { chunks: Arc::new(Vec::new()), next_seq: 0 }
    }

    /// Highest priority first.
    #[inline]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Item<R>> {
        self.chunks.iter().flat_map(|c| c.iter())
    }

    fn position(&self, mask: &MaskWords) -> Option<(usize, usize)> {
        let hash = mask_hash(mask);
        self.chunks.iter().enumerate().find_map(|(c, chunk)| {
            let is = |i: &Item<R>| i.mask_hash == hash && i.table.mask() == mask;
            Some((c, chunk.iter().position(is)?))
        })
    }

    /// The subtable of a mask.
    pub(crate) fn get(&self, mask: &MaskWords) -> Option<&Subtable<R>> {
        let (c, i) = self.position(mask)?;
        Some(&self.chunks[c][i].table)
    }

    /// Change the subtable of a mask, which is created where there is none and dropped when it
    /// is left empty.
    pub(crate) fn change<T>(
        &mut self,
        mask: &MaskWords,
        f: impl FnOnce(&mut Subtable<R>) -> T,
    ) -> T {
        let Some((c, i)) = self.position(mask) else {
            let mut table = Subtable::new(mask.clone());
            let out = f(&mut table);
            if !table.is_empty() {
                let (max, seq) = (table.max_priority(), self.next_seq);
                self.next_seq = self.next_seq.wrapping_add(1);
                let table = Arc::new(table);
                self.insert(Item { max, seq, mask_hash: mask_hash(mask), table });
            }
            return out;
        };
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk = Arc::make_mut(&mut chunks[c]);
        let item = &mut chunk[i];
        let table = Arc::make_mut(&mut item.table);
        let out = f(table);
        let (max, empty) = (table.max_priority(), table.is_empty());
        if empty || max != item.max {
            let mut item = chunk.remove(i);
            if chunk.is_empty() {
                chunks.remove(c);
            }
            if !empty {
                item.max = max;
                self.insert(item);
            }
        }
        out
    }

    fn insert(&mut self, item: Item<R>) {
        let chunks = Arc::make_mut(&mut self.chunks);
        let c = chunks.partition_point(|c| c[0].key() < item.key()).saturating_sub(1);
        let Some(chunk) = chunks.get_mut(c) else {
            chunks.push(Arc::new(vec![item]));
            return;
        };
        let chunk = Arc::make_mut(chunk);
        let i = chunk.partition_point(|x| x.key() < item.key());
        chunk.insert(i, item);
        if chunk.len() > CHUNK_MAX {
            let tail = chunk.split_off(CHUNK_MAX / 2);
            chunks.insert(c + 1, Arc::new(tail));
        }
    }
}
