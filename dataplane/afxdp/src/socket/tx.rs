//! Sending: packets into the TX ring, sent frames out of the completion ring, the kernel's kick.

use std::os::fd::AsFd;

use super::Socket;
use super::open::TX_METADATA;
use crate::offload::{Checksum, Segmentation};
use crate::packet::Packet;
use crate::pool::FramePool;
use crate::ring::Desc;
use crate::sys;

/// Most buffers of one packet: what the kernel's own packets hold (`MAX_SKB_FRAGS` + 1).
pub const MAX_BUFFERS: usize = 18;

/// What a kick achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Kick {
    /// Nothing is left in the TX ring.
    Done,
    /// Some packets are left: the driver is busy, or has no completion room. Complete, kick again.
    Again,
    /// The link is down. Packets stay in the ring.
    Down,
    /// The interface was deleted or moved to another network namespace. Close the socket.
    Gone,
    /// The kernel refuses the ring's first descriptor for good. Close the socket and open another.
    Stuck,
}

/// What becomes of a packet that is to be sent.
enum Verdict {
    Send { buffers: u32, options: u32 },
    Full,
    Unsendable,
}

impl Socket {
    /// Put packets into the TX ring while there is room; returns how many went in. The kernel
    /// learns of them by [`Socket::kick_tx`].
    ///
    /// Packets that `packets` still has belong to the caller. One that cannot be sent as it is
    /// goes to `pool` and is counted ([`super::Counters::tx_unsendable`]); so does a packet of several
    /// buffers that is taken when the ring has no room for all of them (`tx_full`).
    ///
    /// A [`Checksum::Partial`] is left to the driver, which needs `tx_metadata`; without that it
    /// has to be finished before.
    #[inline]
    pub fn tx_burst(
        &mut self,
        packets: &mut impl Iterator<Item = Packet>,
        pool: &mut FramePool,
    ) -> usize {
        if self.tx_stuck {
            return 0;
        }
        let mut room = self.rings.tx.room(TX_WANT.min(self.config.tx_size));
        let mut sent = 0;
        while room > 0 {
            let Some(mut packet) = packets.next() else { break };
            match self.judge(&mut packet, room) {
                Verdict::Send { buffers, options } => {
                    self.place(packet, options);
                    room -= buffers;
                    sent += 1;
                }
                Verdict::Full => {
                    self.counters.tx_full += 1;
                    pool.free_packet(packet);
                    break;
                }
                Verdict::Unsendable => {
                    self.counters.tx_unsendable += 1;
                    pool.free_packet(packet);
                }
            }
        }
        if sent > 0 {
            self.rings.tx.publish();
        }
        sent
    }

    /// Packets of one buffer that `tx_burst` would take now.
    #[inline]
    pub fn tx_room(&mut self) -> usize {
        if self.tx_stuck { 0 } else { self.rings.tx.room(self.config.tx_size) as usize }
    }

    /// Whether a packet can be sent as it is; writes its metadata.
    #[inline]
    fn judge(&self, packet: &mut Packet, room: u32) -> Verdict {
        let mut buffers = 1;
        if packet.is_chained() {
            buffers = packet.buffer_count();
            let empty = packet.buffers().any(<[u8]>::is_empty);
            if !self.config.frags || buffers > MAX_BUFFERS || empty {
                return Verdict::Unsendable;
            }
        }
        if packet.len() == 0 || packet.segmentation() != Segmentation::None {
            return Verdict::Unsendable;
        }
        if buffers > room as usize {
            return Verdict::Full;
        }
        // With metadata the kernel wants its room in front of every descriptor.
        if self.config.tx_metadata
            && packet.headroom() < TX_METADATA
            && packet.make_headroom(TX_METADATA).is_err()
        {
            return Verdict::Unsendable;
        }
        let mut options = 0;
        if let Checksum::Partial { start, offset } = packet.checksum() {
            // The kernel refuses a field outside the first buffer with EINVAL, for ever.
            let end = usize::from(start) + usize::from(offset) + 2;
            if !self.config.tx_metadata || end > packet.data().len() {
                return Verdict::Unsendable;
            }
            packet.write_before(&checksum_request(start, offset));
            options = libc::XDP_TX_METADATA;
        }
        Verdict::Send { buffers: buffers as u32, options }
    }

    /// Write the descriptors of a packet for which there is room.
    #[inline]
    fn place(&mut self, packet: Packet, options: u32) {
        let (mut buffer, mut rest) = packet.into_parts();
        let mut options = options;
        loop {
            let next = rest.split_first();
            let (head, len) = (u64::from(buffer.head), u32::from(buffer.len));
            let addr = self.frames.sending.put(buffer.frame) + head;
            if next.is_some() {
                options |= libc::XDP_PKT_CONTD;
            }
            self.rings.tx.push(Desc { addr, len, options });
            let Some((b, r)) = next else { break };
            (buffer, rest, options) = (b, r, 0);
        }
    }

    /// Take the frames that were sent back into `pool`; returns how many.
    #[inline]
    pub fn complete(&mut self, pool: &mut FramePool) -> usize {
        let ready = self.rings.completion.ready();
        if ready == 0 {
            return 0;
        }
        let mut n = 0;
        for _ in 0..ready {
            let addr = self.rings.completion.pop();
            match self.frames.sending.take(addr) {
                Some(frame) => {
                    pool.free(frame);
                    n += 1;
                }
                None => self.counters.tx_foreign += 1,
            }
        }
        self.rings.completion.release();
        n
    }

    /// Let the kernel send what is in the TX ring. System calls, 32 to 256 packets each, until the
    /// ring is empty or nothing moves; none if the driver is at work by itself.
    #[inline]
    pub fn kick_tx(&mut self) -> Kick {
        if self.tx_stuck {
            return Kick::Stuck;
        }
        let pending = self.rings.tx.pending();
        if pending == 0 {
            return Kick::Done;
        }
        if self.config.need_wakeup && !self.rings.tx.needs_wakeup() {
            return Kick::Done;
        }
        self.push_out(pending)
    }

    /// The kick's loop: each round sends at least one packet or ends it.
    fn push_out(&mut self, mut pending: u32) -> Kick {
        // A driver in zero-copy mode sends later, by itself: ask it once.
        let rounds = if self.zero_copy { 1 } else { pending };
        for _ in 0..rounds {
            let result = sys::kick_tx(self.fd.as_fd());
            let left = self.rings.tx.pending();
            match result {
                Ok(()) if self.zero_copy => return Kick::Done,
                Ok(()) => {}
                Err(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::EINTR) => {}
                Err(libc::EBUSY) => self.counters.tx_refused += 1,
                Err(libc::ENETDOWN) => return Kick::Down,
                Err(libc::EINVAL) => {
                    self.tx_stuck = true;
                    return Kick::Stuck;
                }
                Err(_) => return Kick::Gone, // ENXIO, ENODEV: unbound.
            }
            if left == 0 {
                return Kick::Done;
            }
            if left == pending {
                return Kick::Again;
            }
            pending = left;
        }
        Kick::Again
    }
}

/// Room in the TX ring that a burst would like to see before it asks the kernel's index.
const TX_WANT: u32 = 64;

/// `struct xsk_tx_metadata`: flags, checksum start and offset from it.
#[inline]
fn checksum_request(start: u16, offset: u16) -> [u8; TX_METADATA] {
    let mut m = [0; TX_METADATA];
    m[..8].copy_from_slice(&u64::from(libc::XDP_TXMD_FLAGS_CHECKSUM).to_ne_bytes());
    m[8..10].copy_from_slice(&start.to_ne_bytes());
    m[10..12].copy_from_slice(&offset.to_ne_bytes());
    m
}
