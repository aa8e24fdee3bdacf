//! Which free frames does one thread have at hand?
//!
//! A [`FramePool`] is a stack of frames of one thread; it meets the region's store only when it is
//! empty or full, a batch at a time.
//!
//! Invariants: a pool holds less than four batches between calls; what it holds when dropped goes
//! to the store.
//!
//! Must not know: sockets, what a packet is for.

use std::sync::Arc;

use crate::packet::Packet;
use crate::region::{BATCH, Batch, CHUNK_DATA, Frame, HEADROOM, Region};

/// One thread's stack of free frames.
///
/// Holds at most four batches; dropped, it gives all of them back to the store.
#[derive(Debug)]
pub struct FramePool {
    region: Arc<Region>,
    free: Vec<Frame>,
}

impl FramePool {
    pub(crate) fn new(region: Arc<Region>) -> FramePool {
        FramePool { region, free: Vec::with_capacity(4 * BATCH) }
    }

    /// The region that the frames belong to.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// A free frame, or `None` if there is none left in this pool or the store.
    #[inline]
    pub fn alloc(&mut self) -> Option<Frame> {
        if self.free.is_empty() {
            self.refill();
        }
        self.free.pop()
    }

    #[cold]
    fn refill(&mut self) {
        let free = &mut self.free;
        self.region.take(|frame| free.push(frame));
    }

    /// Give a frame back.
    #[inline]
    pub fn free(&mut self, frame: Frame) {
        self.free.push(frame);
        if self.free.len() >= 4 * BATCH {
            self.spill(2 * BATCH);
        }
    }

    /// Give all buffers of a packet back.
    #[inline]
    pub fn free_packet(&mut self, packet: Packet) {
        let (first, mut rest) = packet.into_parts();
        self.free(first.frame);
        while let Some((buffer, next)) = rest.split_first() {
            self.free(buffer.frame);
            rest = next;
        }
    }

    /// A new packet of `bytes`, copied in behind the usual headroom, over as many buffers as
    /// needed; `None` if frames run out (nothing is kept then).
    #[inline]
    pub fn packet_from(&mut self, bytes: &[u8]) -> Option<Packet> {
        let mut packet = Packet::new(self.alloc()?, HEADROOM, 0);
        let first = bytes.len().min(CHUNK_DATA);
        packet.extend_first(&bytes[..first]);
        if first < bytes.len() && packet.append_bytes(&bytes[first..], self).is_err() {
            self.free_packet(packet);
            return None;
        }
        Some(packet)
    }

    /// Free frames that this pool holds now.
    pub fn len(&self) -> usize {
        self.free.len()
    }

    /// Whether this pool holds no frame (the store may).
    pub fn is_empty(&self) -> bool {
        self.free.is_empty()
    }

    /// Give `n` frames to the store.
    #[cold]
    fn spill(&mut self, mut n: usize) {
        while n > 0 {
            let mut batch: Batch = [0; BATCH];
            let mut len = 0;
            while len < BATCH.min(n) {
                let Some(frame) = self.free.pop() else { break };
                batch[len] = self.region.number(frame.into_raw());
                len += 1;
            }
            if len == 0 {
                return;
            }
            self.region.put(&batch[..len]);
            n -= len;
        }
    }
}

impl Drop for FramePool {
    fn drop(&mut self) {
        self.spill(self.free.len());
    }
}
