//! Closing: when is it safe to use the frames again that the kernel had?
//!
//! What the kernel does (net/xdp/xsk.c), and so the order here:
//! - Closing the last descriptor unbinds the socket and waits for running receivers
//!   (`synchronize_net`), but a mapped ring keeps the socket open as a descriptor does: the rings
//!   are unmapped first. From then on copy mode writes to no frame. (A child process has copies of
//!   the descriptors between fork and exec: who starts programs while sockets are closed takes the
//!   sockets out of their maps first.)
//! - Copy mode copies what it sends when it is kicked, except for drivers that take the region's
//!   pages as they are (`IFF_TX_SKB_NO_LINEAR`, virtio_net): those read a frame until it is
//!   completed. So completions are waited for first, for a short while; packets that the kernel
//!   has not taken from the TX ring are simply taken back.
//! - Zero-copy drivers write to and read from frames until their queue is reconfigured, which
//!   happens in the background after the close. The queue is taken until then, so binding another
//!   socket to it tells when it is over.
//! - An interface that is deleted or moved unbinds its sockets before it goes: nothing is
//!   accessed any more, in any mode.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::open::patient;
use super::{Kick, Socket};
use crate::census::Census;
use crate::packet::Packet;
use crate::pool::FramePool;
use crate::region::{CHUNK_SIZE, Region};
use crate::ring::{Kind, Ring};
use crate::sys::{self, Mapping};

/// How long to wait for packets that the driver has not finished sending.
const DRAIN_PATIENCE: Duration = Duration::from_millis(100);

/// What a closed socket gave back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Closed {
    /// Frames that went to the pool.
    pub returned: usize,
    /// Frames that the driver may still access, which are never used again. Always 0 but for
    /// zero-copy drivers that do not let go of a queue within a second.
    pub abandoned: usize,
}

/// The frames that the kernel holds for a socket. Dropped after the socket's rings and descriptor
/// (it is declared after them), and then gives back what is left in it.
#[derive(Debug)]
pub(super) struct Frames {
    pub region: Arc<Region>,
    /// With the kernel for receiving.
    pub filling: Census,
    /// With the kernel for sending.
    pub sending: Census,
    /// The first buffers of a packet whose last ones have not been seen.
    pub partial: Option<Packet>,
    /// Interface and queue of a zero-copy driver that has to let go before frames are used again.
    pub until_free: Option<(u32, u32)>,
}

impl Frames {
    pub(super) fn new(region: Arc<Region>) -> Frames {
        let (filling, sending) = (Census::new(&region), Census::new(&region));
        Frames { region, filling, sending, partial: None, until_free: None }
    }

    /// Give all of them to the pool. The socket is closed.
    fn go_home(&mut self, pool: &mut FramePool) -> Closed {
        debug_assert!(Arc::ptr_eq(pool.region(), &self.region));
        let mut closed = Closed::default();
        if let Some(packet) = self.partial.take() {
            closed.returned += packet.buffer_count();
            pool.free_packet(packet);
        }
        match self.until_free.take() {
            Some((ifindex, queue)) if !queue_let_go(ifindex, queue) => {
                closed.abandoned = self.filling.abandon() + self.sending.abandon();
            }
            _ => closed.returned += self.filling.drain(pool) + self.sending.drain(pool),
        }
        closed
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        if self.filling.held() + self.sending.held() > 0 || self.partial.is_some() {
            let mut pool = self.region.pool();
            self.go_home(&mut pool);
        }
    }
}

impl Socket {
    /// Close the socket and give every frame that the kernel held to `pool`. Packets still waiting
    /// in the TX ring are not sent. Works the same on an interface that is down, deleted or moved.
    ///
    /// Takes a few milliseconds (the kernel waits for running receivers), up to 100 more if the
    /// driver is slow to send, and up to a second for a zero-copy driver to let go. A socket that
    /// is dropped instead gives its frames to the region's store, without the wait for senders.
    pub fn close(mut self, pool: &mut FramePool) -> Closed {
        let drained = self.drain_tx(pool);
        if self.error().is_some() {
            self.frames.until_free = None; // Unbound already.
        }
        let Socket { rings, fd, mut frames, .. } = self;
        drop(rings);
        drop(fd);
        let mut closed = frames.go_home(pool);
        closed.returned += drained;
        closed
    }

    /// Wait for what the kernel has taken from the TX ring; returns the frames that came back.
    fn drain_tx(&mut self, pool: &mut FramePool) -> usize {
        let end = Instant::now() + DRAIN_PATIENCE;
        let mut returned = self.complete(pool);
        while self.frames.sending.held() > self.rings.tx.pending() as usize
            && !self.tx_stuck
            && self.error().is_none()
            && Instant::now() < end
        {
            if self.zero_copy && matches!(self.kick_tx(), Kick::Gone | Kick::Down) {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
            returned += self.complete(pool);
        }
        returned
    }
}

/// Wait until no socket has the queue any more: `false` if it stays taken.
fn queue_let_go(ifindex: u32, queue: u32) -> bool {
    match probe(ifindex, queue) {
        Ok(()) => true,
        // Anything but EBUSY: the interface or the queue is gone, and the owner with it.
        Err(e) => e.raw_os_error() != Some(libc::EBUSY),
    }
}

/// Bind a socket with a little memory of its own, in copy mode.
fn probe(ifindex: u32, queue: u32) -> std::io::Result<()> {
    let fd = sys::socket()?;
    let memory = Mapping::anonymous(2 * CHUNK_SIZE)?;
    let umem = libc::xdp_umem_reg {
        addr: memory.base().as_ptr() as u64,
        len: memory.len() as u64,
        chunk_size: CHUNK_SIZE as u32,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    sys::set(fd.as_fd(), libc::XDP_UMEM_REG, &umem)?;
    let _fill = Ring::<u64>::new(fd.as_fd(), Kind::Fill, 2)?;
    let _completion = Ring::<u64>::new(fd.as_fd(), Kind::Completion, 2)?;
    let _rx = Ring::<crate::ring::Desc>::new(fd.as_fd(), Kind::Rx, 2)?;
    patient(|| sys::bind(fd.as_fd(), ifindex, queue, libc::XDP_COPY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_of_no_interface_is_free() {
        if sys::socket().is_err() {
            eprintln!("skipped: AF_XDP sockets need root");
            return;
        }
        assert!(queue_let_go(0x7fff_0000, 0));
    }
}
