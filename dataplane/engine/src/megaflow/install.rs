//! Megaflows come, change and go.

use flow::{DP_WORDS, Depth, FlowKey, MaskWords, sparse, word};
use ofproto::program::{DpAction, DpPort, Program};

use super::{
    Classifier, Cold, Hot, INLINE, Layout, MAX_SUBTABLES, Megaflows, Shape, Subtable, edits,
};
use crate::index::{Index, NONE};

impl<T> Megaflows<T> {
    /// Install a megaflow for packets like `key` under `mask`. The mask must have all of
    /// [`word::META`]; words behind the datapath's are left out. Returns its id.
    ///
    /// Past [`MAX_SUBTABLES`] masks, a megaflow with yet another mask matches exactly instead.
    pub fn insert(
        &mut self,
        key: &FlowKey,
        mask: &FlowKey,
        program: Program,
        now: u64,
        note: T,
    ) -> u32 {
        let meta = key.word(word::META);
        let c = self.classifier_for(meta);
        let s = self.subtable_for(c, mask);
        let sub = &self.subtables[s];
        let packed = sub.layout.pack(key);
        let hash = sub.hash(&packed);
        let mut values = [0; INLINE];
        values.copy_from_slice(&packed[..INLINE]);
        let rest = packed[INLINE..sub.layout.len().max(INLINE)].into();
        let (output, shape) = (single_output(&program), shape(&program));
        let depth = sub.depth.max(read_by(shape, &program));
        self.classifiers[c].readers[depth as usize] += 1;
        let hot = Hot {
            values,
            program,
            packets: 0,
            bytes: 0,
            used: now,
            output,
            shape,
            depth,
            tcp_flags: 0,
            subtable: s as u16,
            live: true,
            stale: false,
        };
        let cold = Cold { hash, rest, note: Some(note) };
        let id = match self.free.pop() {
            Some(id) => {
                self.hot[id as usize] = hot;
                self.cold[id as usize] = cold;
                id
            }
            None => {
                self.hot.push(hot);
                self.cold.push(cold);
                (self.hot.len() - 1) as u32
            }
        };
        let cold = &self.cold;
        let sub = &mut self.subtables[s];
        sub.index.insert(hash, id, |slot| cold[slot as usize].hash);
        sub.only = if sub.index.len() == 1 { id } else { NONE };
        id
    }

    fn classifier_for(&mut self, meta: u64) -> usize {
        if let Some(c) = self.by_meta.get(&meta) {
            return *c as usize;
        }
        let fresh = Classifier::new(meta);
        // Reuse the place of one that has become empty.
        let c = match self.classifiers.iter().position(|c| c.order.is_empty()) {
            Some(c) => {
                self.by_meta.remove(&self.classifiers[c].meta);
                self.classifiers[c] = fresh;
                c
            }
            None => {
                self.classifiers.push(fresh);
                self.classifiers.len() - 1
            }
        };
        self.by_meta.insert(meta, c as u32);
        c
    }

    /// The mask's datapath words without META, or the exact mask if there are too many masks.
    fn mask_for(&self, c: usize, mask: &FlowKey) -> MaskWords {
        let class = &self.classifiers[c];
        let map = matched_words(mask);
        let known = class.order.iter().any(|s| self.subtables[usize::from(*s)].is_of(map, mask));
        let mut m = FlowKey::ZERO;
        if known || class.order.len() < MAX_SUBTABLES {
            sparse::bits(map).for_each(|i| m.set_word(i, mask.word(i)));
        } else {
            (0..DP_WORDS).filter(|i| *i != word::META).for_each(|i| m.set_word(i, u64::MAX));
        }
        MaskWords::new(&m)
    }

    fn subtable_for(&mut self, c: usize, mask: &FlowKey) -> usize {
        let map = matched_words(mask);
        let order = &self.classifiers[c].order;
        if let Some(s) = order.iter().find(|s| self.subtables[usize::from(**s)].is_of(map, mask)) {
            return usize::from(*s);
        }
        let mask = self.mask_for(c, mask);
        let order = &self.classifiers[c].order;
        if let Some(s) = order.iter().find(|s| self.subtables[usize::from(**s)].mask == mask) {
            return usize::from(*s);
        }
        let (layout, depth) = (Layout::new(&mask), Depth::of_words(mask.map()));
        let (seeds, index) = (self.seeds, Index::default());
        let (owner, only) = (c as u32, NONE);
        let fresh =
            Subtable { owner, mask, depth, layout, seeds, index, only, hits: 0, live: true };
        let s = match self.subtables.iter().position(|s| !s.live) {
            Some(s) => {
                self.subtables[s] = fresh;
                s
            }
            None => {
                self.subtables.push(fresh);
                self.subtables.len() - 1
            }
        };
        self.classifiers[c].order.push(s as u16);
        s
    }

    /// Whether one more megaflow with yet another mask or way in can be had at all: slots of
    /// subtables are numbered in 16 bits.
    pub fn has_room_for_mask(&self) -> bool {
        self.subtables.len() < usize::from(u16::MAX) || self.subtables.iter().any(|s| !s.live)
    }

    /// Remove a megaflow; its note and last counters (packets, bytes).
    pub fn remove(&mut self, id: u32) -> Option<(T, u64, u64)> {
        let hot = &mut self.hot[id as usize];
        if !hot.live {
            return None;
        }
        hot.live = false;
        hot.program = self.empty.clone();
        let (counted, depth) = ((hot.packets, hot.bytes), hot.depth);
        let s = usize::from(hot.subtable);
        let cold = &mut self.cold[id as usize];
        cold.rest = Box::default();
        let note = cold.note.take();
        let sub = &mut self.subtables[s];
        self.classifiers[sub.owner as usize].readers[depth as usize] -= 1;
        sub.index.remove(cold.hash, id);
        sub.only = match sub.index.len() {
            1 => sub.index.slots().next().unwrap_or(NONE),
            _ => NONE,
        };
        if sub.index.is_empty() {
            sub.live = false;
            let owner = sub.owner as usize;
            self.classifiers[owner].order.retain(|o| usize::from(*o) != s);
        }
        self.free.push(id);
        note.map(|n| (n, counted.0, counted.1))
    }

    /// Mark a megaflow stale, if it is live.
    pub fn mark_stale(&mut self, id: u32) {
        let hot = &mut self.hot[id as usize];
        hot.stale = hot.live;
    }

    /// Whether a translation of the same packet gives the same mask as the megaflow has.
    pub fn same_mask(&self, id: u32, mask: &FlowKey) -> bool {
        let s = usize::from(self.hot[id as usize].subtable);
        let sub = &self.subtables[s];
        sub.is_of(matched_words(mask), mask) || self.mask_for(sub.owner as usize, mask) == sub.mask
    }

    /// Give a stale megaflow a new program and note (its mask stays right); the old note.
    pub fn renew(&mut self, id: u32, program: Program, note: T) -> Option<T> {
        let hot = &mut self.hot[id as usize];
        hot.stale = false;
        (hot.output, hot.shape) = (single_output(&program), shape(&program));
        let sub = &self.subtables[usize::from(hot.subtable)];
        let readers = &mut self.classifiers[sub.owner as usize].readers;
        readers[hot.depth as usize] -= 1;
        hot.depth = sub.depth.max(read_by(hot.shape, &program));
        readers[hot.depth as usize] += 1;
        if *hot.program != *program {
            hot.program = program;
        }
        self.cold[id as usize].note.replace(note)
    }
}

impl Subtable {
    /// Whether its mask is this one, of which `map` says the words that matter.
    #[inline]
    fn is_of(&self, map: u64, mask: &FlowKey) -> bool {
        self.mask.map() == map && self.mask.iter().all(|(w, m)| mask.word(w) == m)
    }
}

/// The words of a mask that megaflows match, as bits: the datapath's without META.
#[inline]
fn matched_words(mask: &FlowKey) -> u64 {
    mask.nonzero_map() & ((1 << DP_WORDS) - 1) & !(1 << word::META)
}

fn single_output(program: &[DpAction]) -> DpPort {
    match program {
        [DpAction::Output(p)] => *p,
        _ => DpPort(0),
    }
}

fn shape(program: &[DpAction]) -> Shape {
    match program {
        [DpAction::Output(_)] => Shape::Output,
        [DpAction::Drop(_)] => Shape::Drop,
        [DpAction::Ct(_), DpAction::Recirculate(_)] => Shape::Track,
        [DpAction::TunnelPop(_)] => Shape::Pop,
        [DpAction::Ct(ct), steps @ ..] if ct.commit.is_some() && only_edits(steps) => Shape::Commit,
        _ if only_edits(program) => Shape::Edits,
        _ => Shape::Steps,
    }
}

/// Whether a program changes the packet, sends it, and does nothing else.
fn only_edits(program: &[DpAction]) -> bool {
    edits(program).is_some_and(|(steps, _)| steps[..steps.len() - 1].iter().all(is_edit))
}

/// How much of a packet has to be read for its program to be run.
fn read_by(shape: Shape, program: &[DpAction]) -> Depth {
    let step = |step: &DpAction| match step {
        DpAction::Output(_) => Depth::Nothing,
        DpAction::PushVlan { .. } | DpAction::PopVlan => Depth::Link,
        DpAction::Set(set) => Depth::of_words(set.fields().map()),
        _ => Depth::Whole,
    };
    match (shape, edits(program)) {
        (Shape::Output | Shape::Edits, Some((steps, _))) => {
            steps.iter().map(step).max().unwrap_or_default()
        }
        // A sample of what is dropped is read when it is taken.
        (Shape::Drop, _) => Depth::Nothing,
        _ => Depth::Whole,
    }
}

/// Whether a step changes the packet, and nothing else.
fn is_edit(step: &DpAction) -> bool {
    use DpAction::{PopVlan, PushVlan, Set, TunnelPush};
    matches!(step, PushVlan { .. } | PopVlan | Set(_) | TunnelPush(_))
}
