//! One AF_XDP socket: which frames does the kernel hold for a queue, and how do they come and go?
//!
//! A [`Socket`] registers the whole [`Region`] as its own memory, so it has its own mode, flags and
//! life, and a frame crosses from one socket to another by its address. Frames go to the kernel
//! by [`Socket::refill`] (empty) and [`Socket::tx_burst`] (to be sent) and come back by
//! [`Socket::rx_burst`] (received) and [`Socket::complete`] (sent).
//!
//! Invariants: every frame handed to the kernel is in one of two censuses until the kernel
//! hands it back; [`Socket::close`] returns all that are left, and dropping the socket does the
//! same by a pool of its own. No method between `open` and `close` allocates; a system call is
//! made by the kicks, statistics and error only.
//!
//! Must not know: XDP programs, what is in a packet.

mod close;
mod open;
mod rx;
#[cfg(test)]
mod tests;
mod tx;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

pub use close::Closed;
pub use tx::{Kick, MAX_BUFFERS};

use close::Frames;

use crate::error::{Error, Operation};
use crate::packet::Packet;
use crate::region::Region;
use crate::ring::{Desc, Ring};
use crate::sys;

/// How frames get between the driver and the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BindMode {
    /// By the driver itself where it can, else copied by the kernel.
    #[default]
    ZeroCopyPreferred,
    /// Always copied by the kernel.
    Copy,
}

/// Settings of a socket. Ring sizes are entries, powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketConfig {
    /// RX ring.
    pub rx_size: u32,
    /// TX ring.
    pub tx_size: u32,
    /// Fill ring.
    pub fill_size: u32,
    /// Completion ring; at least the TX ring's size, or sending stalls.
    pub comp_size: u32,
    /// Frames that the socket may hold for receiving, wherever they are on that way; 0 for
    /// `fill_size`. What [`Socket::set_fill_budget`] changes later.
    pub fill_budget: u32,
    /// Copy or not.
    pub mode: BindMode,
    /// Let the kernel sleep until it is kicked (`XDP_USE_NEED_WAKEUP`). Without it a driver in
    /// zero-copy mode polls the rings itself; copy mode has to be kicked anyhow.
    pub need_wakeup: bool,
    /// Reserve the bytes in front of each sent frame for requests to the driver
    /// (`XDP_UMEM_TX_METADATA_LEN`, kernel 6.11), so that partial checksums can be left to it.
    pub tx_metadata: bool,
    /// Frames may span several buffers, both ways (`XDP_USE_SG`, kernel 6.6).
    pub frags: bool,
}

impl Default for SocketConfig {
    fn default() -> SocketConfig {
        SocketConfig {
            rx_size: 2048,
            tx_size: 2048,
            fill_size: 2048,
            comp_size: 2048,
            fill_budget: 0,
            mode: BindMode::ZeroCopyPreferred,
            need_wakeup: true,
            tx_metadata: false,
            frags: false,
        }
    }
}

/// What became of frames in the socket's own hands, beside what the kernel counts. All counters
/// start at 0 and only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Received packets dropped because one of their descriptors was not usable or they had more
    /// than [`MAX_BUFFERS`] buffers.
    pub rx_broken: u64,
    /// RX descriptors whose address the kernel did not hold (a fault of kernel or driver).
    pub rx_foreign: u64,
    /// Packets dropped because the TX ring had no room for all their buffers.
    pub tx_full: u64,
    /// Packets dropped because they cannot be sent as they are: empty, more buffers than the
    /// socket takes, a segmentation request, a partial checksum on a socket without
    /// `tx_metadata`, or no room for it in front.
    pub tx_unsendable: u64,
    /// Packets that the driver threw away when they were sent (too long for the MTU, no room
    /// at the other end).
    pub tx_refused: u64,
    /// Completions of an address that was not being sent (the kernel completed it twice).
    pub tx_foreign: u64,
    /// Times that fewer frames were free than the fill ring could take.
    pub fill_starved: u64,
}

/// What the kernel counts for a socket (`XDP_STATISTICS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Statistics {
    /// Frames dropped for other reasons than the ones below.
    pub rx_dropped: u64,
    /// Frames dropped because the fill ring held an invalid address.
    pub rx_invalid_descs: u64,
    /// TX descriptors that were not valid and were skipped.
    pub tx_invalid_descs: u64,
    /// Frames dropped because the RX ring was full.
    pub rx_ring_full: u64,
    /// Frames that found the fill ring empty.
    pub rx_fill_ring_empty_descs: u64,
    /// Times the TX ring was found empty.
    pub tx_ring_empty_descs: u64,
}

/// Frames that a socket holds, by where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FramesHeld {
    /// Given for receiving and not yet returned by `rx_burst` (fill ring, driver, RX ring).
    pub fill: usize,
    /// Given for sending and not yet returned by `complete` (TX ring, driver, completion ring).
    pub tx: usize,
    /// In a packet whose last buffers have not been read yet.
    pub partial: usize,
}

impl FramesHeld {
    /// All of them.
    pub fn total(&self) -> usize {
        self.fill + self.tx + self.partial
    }
}

/// The four rings.
#[derive(Debug)]
struct Rings {
    fill: Ring<u64>,
    completion: Ring<u64>,
    rx: Ring<Desc>,
    tx: Ring<Desc>,
}

/// An AF_XDP socket on one queue of one interface. For use by one thread at a time.
#[derive(Debug)]
pub struct Socket {
    // Dropped in this order: mappings of the rings keep the socket open as its descriptor does,
    // and frames are safe to use only when it is closed.
    rings: Rings,
    fd: OwnedFd,
    frames: Frames,
    /// Inside a broken packet: its further buffers are dropped.
    skipping: bool,
    config: SocketConfig,
    zero_copy: bool,
    /// The kernel refuses the descriptor at the TX ring's head for good.
    tx_stuck: bool,
    /// Error that the kernel raised on the socket, as errno.
    dead: Option<i32>,
    counters: Counters,
    ifindex: u32,
    queue: u32,
}

impl Socket {
    /// The interface that the socket was opened on.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// The queue that the socket was opened on.
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// The settings it was opened with (with `fill_budget` as it is now).
    pub fn config(&self) -> &SocketConfig {
        &self.config
    }

    /// Whether the driver works on the region itself, without a copy.
    pub fn is_zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// The region that all frames belong to.
    pub fn region(&self) -> &Arc<Region> {
        &self.frames.region
    }

    /// Frames that the socket holds now: exact.
    pub fn frames_held(&self) -> FramesHeld {
        FramesHeld {
            fill: self.frames.filling.held(),
            tx: self.frames.sending.held(),
            partial: self.frames.partial.as_ref().map_or(0, Packet::buffer_count),
        }
    }

    /// What the socket itself has counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What the kernel has counted. One system call.
    ///
    /// # Errors
    /// What `getsockopt(2)` answered.
    pub fn statistics(&self) -> Result<Statistics, Error> {
        let zero = libc::xdp_statistics {
            rx_dropped: 0,
            rx_invalid_descs: 0,
            tx_invalid_descs: 0,
            rx_ring_full: 0,
            rx_fill_ring_empty_descs: 0,
            tx_ring_empty_descs: 0,
        };
        let s = sys::get(self.fd.as_fd(), libc::SOL_XDP, libc::XDP_STATISTICS, zero)
            .map_err(|e| Error::system(Operation::Statistics, &self.name(), e))?;
        Ok(Statistics {
            rx_dropped: s.rx_dropped,
            rx_invalid_descs: s.rx_invalid_descs,
            tx_invalid_descs: s.tx_invalid_descs,
            rx_ring_full: s.rx_ring_full,
            rx_fill_ring_empty_descs: s.rx_fill_ring_empty_descs,
            tx_ring_empty_descs: s.tx_ring_empty_descs,
        })
    }

    /// The error that the kernel has raised on the socket, if any: ENETDOWN once the interface
    /// was deleted or moved to another network namespace. It stays. One system call.
    ///
    /// Nothing is raised when the link goes down, and poll(2) never shows this error.
    pub fn error(&mut self) -> Option<io::Error> {
        if self.dead.is_none() {
            match sys::get(self.fd.as_fd(), libc::SOL_SOCKET, libc::SO_ERROR, 0i32) {
                Ok(0) => {}
                Ok(errno) => self.dead = Some(errno),
                Err(e) => self.dead = Some(e.raw_os_error().unwrap_or(libc::EIO)),
            }
        }
        self.dead.map(io::Error::from_raw_os_error)
    }

    fn name(&self) -> String {
        format!("{} queue {}", sys::interface_name(self.ifindex), self.queue)
    }
}

/// For poll(2) and the socket map. A duplicate of the descriptor would keep the socket open over
/// [`Socket::close`], while its frames are used elsewhere: do not make one.
impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
