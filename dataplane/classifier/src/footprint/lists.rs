//! Which nodes does each dependent depend on?
//!
//! Dependents are numbered densely (they are slots of a table of cached decisions), nodes are
//! too. Lists live in one arena of small chunks, so that a new list costs no allocation.
//!
//! Invariants: only the first chunk of a list may have room; a chunk is in one list or free.

const NONE: u32 = u32::MAX;
const CHUNK: usize = 7;

#[derive(Clone, Copy)]
struct Chunk {
    next: u32,
    nodes: [u32; CHUNK],
}

pub(super) struct Lists {
    heads: Vec<u32>,
    chunks: Vec<Chunk>,
    free: u32,
}

impl Lists {
    pub(super) fn new() -> Self {
        Lists { heads: Vec::new(), chunks: Vec::new(), free: NONE }
    }

    /// The nodes of a dependent.
    pub(super) fn iter(&self, dependent: u32) -> impl Iterator<Item = u32> + '_ {
        let mut at = self.heads.get(dependent as usize).copied().unwrap_or(NONE);
        let chunks = std::iter::from_fn(move || {
            let chunk = self.chunks.get(at as usize)?;
            at = chunk.next;
            Some(chunk)
        });
        chunks.flat_map(|c| c.nodes.iter().copied().take_while(|n| *n != NONE))
    }

    /// Whether the dependent's list has the node.
    #[inline]
    pub(super) fn contains(&self, dependent: u32, node: u32) -> bool {
        let mut at = self.heads.get(dependent as usize).copied().unwrap_or(NONE);
        while let Some(chunk) = self.chunks.get(at as usize) {
            if chunk.nodes.contains(&node) {
                return true;
            }
            at = chunk.next;
        }
        false
    }

    /// Add a node that the list has not.
    #[inline]
    pub(super) fn push(&mut self, dependent: u32, node: u32) {
        let d = dependent as usize;
        if d >= self.heads.len() {
            self.heads.resize(d + 1, NONE);
        }
        if let Some(chunk) = self.chunks.get_mut(self.heads[d] as usize)
            && let Some(room) = chunk.nodes.iter_mut().find(|n| **n == NONE)
        {
            *room = node;
            return;
        }
        let mut chunk = Chunk { next: self.heads[d], nodes: [NONE; CHUNK] };
        chunk.nodes[0] = node;
        match self.chunks.get_mut(self.free as usize) {
            Some(room) => {
                self.heads[d] = self.free;
                self.free = room.next;
                *room = chunk;
            }
            None => {
                self.heads[d] = self.chunks.len() as u32;
                self.chunks.push(chunk);
            }
        }
    }

    /// Empty a dependent's list into `out`.
    pub(super) fn take(&mut self, dependent: u32, out: &mut Vec<u32>) {
        let Some(head) = self.heads.get_mut(dependent as usize) else { return };
        let mut at = std::mem::replace(head, NONE);
        while let Some(chunk) = self.chunks.get_mut(at as usize) {
            out.extend(chunk.nodes.iter().copied().take_while(|n| *n != NONE));
            let next = std::mem::replace(&mut chunk.next, self.free);
            self.free = at;
            at = next;
        }
    }

    /// Bytes held, free ones included.
    pub(super) fn bytes(&self) -> usize {
        self.heads.capacity() * 4 + self.chunks.capacity() * size_of::<Chunk>()
    }
}
