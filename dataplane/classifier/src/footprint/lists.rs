//! Which nodes does each dependent depend on?
//!
//! Dependents are numbered densely (they are slots of a table of cached decisions), nodes are
//! too. Lists live in one arena of small chunks, so that a new list costs no allocation. Each
//! emptying of a list begins a new life of the dependent, so that a node that still names it
//! from an earlier life can tell.
//!
//! Invariants: only the first chunk of a list may have room; a chunk is in one list or free.

const NONE: u32 = u32::MAX;
const CHUNK: usize = 7;

#[derive(Clone, Copy)]
struct Chunk {
    next: u32,
    nodes: [u32; CHUNK],
}

/// A dependent in one of its lives.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Life {
    pub(super) dependent: u32,
    life: u32,
}

#[derive(Clone, Copy)]
struct List {
    /// The first chunk.
    head: u32,
    life: u32,
}

pub(super) struct Lists {
    lists: Vec<List>,
    chunks: Vec<Chunk>,
    free: u32,
}

impl Lists {
    pub(super) fn new() -> Self {
        Lists { lists: Vec::new(), chunks: Vec::new(), free: NONE }
    }

    fn head(&self, dependent: u32) -> u32 {
        self.lists.get(dependent as usize).map_or(NONE, |l| l.head)
    }

    /// Whether the dependent is still in that life.
    #[inline]
    pub(super) fn is_current(&self, life: Life) -> bool {
        self.lists.get(life.dependent as usize).is_some_and(|l| l.life == life.life)
    }

    /// The nodes of a dependent.
    pub(super) fn iter(&self, dependent: u32) -> impl Iterator<Item = u32> + '_ {
        let mut at = self.head(dependent);
        let chunks = std::iter::from_fn(move || {
            let chunk = self.chunks.get(at as usize)?;
            at = chunk.next;
            Some(chunk)
        });
        chunks.flat_map(|c| c.nodes.iter().copied().take_while(|n| *n != NONE))
    }

    /// The dependent in its present life.
    #[inline]
    pub(super) fn life(&self, dependent: u32) -> Life {
        let life = self.lists.get(dependent as usize).map_or(0, |l| l.life);
        Life { dependent, life }
    }

    /// Add nodes to a list.
    pub(super) fn extend(&mut self, dependent: u32, mut nodes: &[u32]) {
        let d = dependent as usize;
        if d >= self.lists.len() {
            self.lists.resize(d + 1, List { head: NONE, life: 0 });
        }
        if let Some(chunk) = self.chunks.get_mut(self.lists[d].head as usize) {
            let used = chunk.nodes.iter().take_while(|n| **n != NONE).count();
            let n = nodes.len().min(CHUNK - used);
            let (first, rest) = nodes.split_at(n);
            chunk.nodes[used..used + n].copy_from_slice(first);
            nodes = rest;
        }
        for part in nodes.chunks(CHUNK) {
            let mut chunk = Chunk { next: self.lists[d].head, nodes: [NONE; CHUNK] };
            chunk.nodes[..part.len()].copy_from_slice(part);
            self.lists[d].head = self.new_chunk(chunk);
        }
    }

    fn new_chunk(&mut self, chunk: Chunk) -> u32 {
        match self.chunks.get_mut(self.free as usize) {
            Some(room) => {
                let at = std::mem::replace(&mut self.free, room.next);
                *room = chunk;
                at
            }
            None => {
                self.chunks.push(chunk);
                self.chunks.len() as u32 - 1
            }
        }
    }

    /// Empty a dependent's list into `out`.
    pub(super) fn take(&mut self, dependent: u32, out: &mut Vec<u32>) {
        let Some(list) = self.lists.get_mut(dependent as usize) else { return };
        list.life = list.life.wrapping_add(1);
        let mut at = std::mem::replace(&mut list.head, NONE);
        while let Some(chunk) = self.chunks.get_mut(at as usize) {
            out.extend(chunk.nodes.iter().copied().take_while(|n| *n != NONE));
            let next = std::mem::replace(&mut chunk.next, self.free);
            self.free = at;
            at = next;
        }
    }

    /// Bytes held, free ones included.
    pub(super) fn bytes(&self) -> usize {
        self.lists.capacity() * size_of::<List>() + self.chunks.capacity() * size_of::<Chunk>()
    }
}
