//! Which chunks does the kernel hold for a socket?
//!
//! The rings only carry addresses. A [`Census`] is the socket's own record of what it has given
//! to the kernel, one bit a chunk: a frame can be taken out exactly once for each time it was put
//! in, whatever addresses the kernel hands back. (It does hand some back twice: a TX descriptor
//! that it refuses with EINVAL is completed on each try.) Because of that, closing a socket needs
//! to read no ring: what is in the census is what comes home.
//!
//! Invariants: a set bit owns its chunk, a cleared bit owns nothing; `held` is the number of set
//! bits. Only this module turns addresses into frames.
//!
//! Must not know: rings, sockets, packets.
#![allow(unsafe_code)] // Turns addresses back into owned frames.

use std::ptr::NonNull;
use std::sync::Arc;

use crate::pool::FramePool;
use crate::region::{CHUNK_SIZE, Frame, Region};

/// The chunks held by the kernel for one purpose (to be filled, to be sent).
#[derive(Debug)]
pub(crate) struct Census {
    region: Arc<Region>,
    bits: Box<[u64]>,
    held: usize,
}

impl Census {
    /// An empty census over the region's chunks.
    pub(crate) fn new(region: &Arc<Region>) -> Census {
        let words = region.chunks().div_ceil(64);
        Census { region: region.clone(), bits: vec![0; words].into_boxed_slice(), held: 0 }
    }

    /// Number of frames in here.
    #[inline]
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Put a frame in; returns its chunk's offset in the region.
    ///
    /// # Panics
    /// If the frame is of another region.
    #[inline]
    pub(crate) fn put(&mut self, frame: Frame) -> u64 {
        let chunk = frame.into_raw();
        let offset = self.region.offset_of(chunk);
        let index = offset as usize / CHUNK_SIZE;
        self.bits[index / 64] |= 1 << (index % 64);
        self.held += 1;
        offset
    }

    /// Take the frame out whose chunk holds the byte at `offset`. `None` if it is not in here.
    #[inline]
    pub(crate) fn take(&mut self, offset: u64) -> Option<Frame> {
        let index = usize::try_from(offset).ok()? / CHUNK_SIZE;
        let word = self.bits.get_mut(index / 64)?;
        let bit = 1 << (index % 64);
        if *word & bit == 0 {
            return None;
        }
        *word &= !bit;
        self.held -= 1;
        let chunk = self.region.chunk_at(offset)?;
        // SAFETY: the bit was set, so this census owned the chunk, and has given it up.
        Some(unsafe { Frame::from_raw(chunk) })
    }

    /// Give all frames to the pool; returns how many.
    pub(crate) fn drain(&mut self, pool: &mut FramePool) -> usize {
        let mut n = 0;
        for (i, word) in self.bits.iter_mut().enumerate() {
            while *word != 0 {
                let index = i * 64 + word.trailing_zeros() as usize;
                *word &= *word - 1;
                let chunk: Option<NonNull<u8>> = self.region.chunk_at((index * CHUNK_SIZE) as u64);
                if let Some(chunk) = chunk {
                    // SAFETY: as in `take`.
                    pool.free(unsafe { Frame::from_raw(chunk) });
                    n += 1;
                }
            }
        }
        self.held = 0;
        n
    }

    /// Forget all frames, so that nobody uses them again; returns how many.
    pub(crate) fn abandon(&mut self) -> usize {
        self.bits.fill(0);
        std::mem::take(&mut self.held)
    }
}
