//! Receiving: frames out of the RX ring, empty ones into the fill ring.

use std::os::fd::AsFd;

use super::Socket;
use super::tx::MAX_BUFFERS;
use crate::packet::Packet;
use crate::pool::FramePool;
use crate::region::CHUNK_SIZE;
use crate::ring::Desc;
use crate::sys;

/// The fill ring is topped up when at least this many frames are missing (or a quarter of a
/// smaller budget), so that a quiet port does not touch the shared index for each frame.
const REFILL_STEP: usize = 32;

impl Socket {
    /// Hand up to `max` received packets to `sink`; returns how many.
    ///
    /// A frame of several buffers is one packet. `pool` takes the buffers of packets that cannot
    /// be used ([`super::Counters::rx_broken`]). Call [`Socket::refill`] afterwards.
    #[inline]
    pub fn rx_burst(
        &mut self,
        pool: &mut FramePool,
        max: usize,
        mut sink: impl FnMut(Packet),
    ) -> usize {
        let mut ready = self.rings.rx.ready();
        if ready == 0 {
            return 0;
        }
        let mut packets = 0;
        while ready > 0 && packets < max {
            let desc = self.rings.rx.pop();
            ready -= 1;
            if let Some(packet) = self.received(desc, pool) {
                packets += 1;
                sink(packet);
            }
        }
        self.rings.rx.release();
        packets
    }

    /// One descriptor: the packet that it finishes, if it does.
    #[inline]
    pub(super) fn received(&mut self, desc: Desc, pool: &mut FramePool) -> Option<Packet> {
        let last = desc.options & libc::XDP_PKT_CONTD == 0;
        let Some(frame) = self.frames.filling.take(desc.addr) else {
            self.counters.rx_foreign += 1;
            self.broken(last, pool);
            return None;
        };
        let (head, len) = (desc.addr as usize % CHUNK_SIZE, desc.len as usize);
        if last && self.frames.partial.is_none() && !self.skipping && len <= CHUNK_SIZE - head {
            return Some(Packet::new(frame, head, len)); // The common case.
        }
        if self.skipping || len > CHUNK_SIZE - head {
            pool.free(frame);
            self.broken(last, pool);
            return None;
        }
        let refused = match &mut self.frames.partial {
            None => {
                self.frames.partial = Some(Packet::new(frame, head, len));
                None
            }
            Some(packet) => packet.push_received(frame, head, len, MAX_BUFFERS).err(),
        };
        if let Some(frame) = refused {
            pool.free(frame);
            self.broken(last, pool);
            return None;
        }
        if last { self.frames.partial.take() } else { None }
    }

    /// Drop the packet in hand, and what still comes of it.
    #[cold]
    fn broken(&mut self, last: bool, pool: &mut FramePool) {
        if !self.skipping {
            self.counters.rx_broken += 1;
        }
        if let Some(packet) = self.frames.partial.take() {
            pool.free_packet(packet);
        }
        self.skipping = !last;
    }

    /// Give empty frames to the kernel, up to the fill budget; returns how many.
    #[inline]
    pub fn refill(&mut self, pool: &mut FramePool) -> usize {
        let budget = self.config.fill_budget as usize;
        let missing = budget.saturating_sub(self.frames.filling.held());
        if missing < REFILL_STEP.min(budget / 4).max(1) {
            return 0;
        }
        let n = missing.min(self.rings.fill.room(missing as u32) as usize);
        let mut given = 0;
        while given < n {
            let Some(frame) = pool.alloc() else {
                self.counters.fill_starved += 1;
                break;
            };
            let offset = self.frames.filling.put(frame);
            self.rings.fill.push(offset);
            given += 1;
        }
        if given > 0 {
            self.rings.fill.publish();
        }
        given
    }

    /// Change how many frames the socket may hold for receiving; 0, and anything above, means the
    /// fill ring's size. Frames above a smaller budget come back as they are received.
    pub fn set_fill_budget(&mut self, budget: u32) {
        let size = self.config.fill_size;
        self.config.fill_budget = if budget == 0 { size } else { budget.min(size) };
    }

    /// Whether the kernel waits for [`Socket::kick_rx`] before it looks at the fill ring again.
    /// Only drivers in zero-copy mode ever do.
    #[inline]
    pub fn needs_rx_wakeup(&self) -> bool {
        self.config.need_wakeup && self.rings.fill.needs_wakeup()
    }

    /// Ask the kernel to look at the fill ring. One system call; errors show in
    /// [`Socket::error`].
    pub fn kick_rx(&mut self) {
        let _ = sys::kick_rx(self.fd.as_fd());
    }

    /// Packets or parts of packets that can be read now without a system call.
    #[inline]
    pub fn rx_ready(&mut self) -> bool {
        self.rings.rx.ready() > 0
    }
}
