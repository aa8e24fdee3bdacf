//! What does a worker drive?
//!
//! A [`Queue`] is one receive queue and one transmit queue of a port, owned by one worker. Which
//! kind it is, is decided by one `match` a burst. A packet given to [`Queue::tx_burst`] is sent or
//! dropped and counted; it never comes back, so a full ring never stalls a worker.
//!
//! The worker's side of sleeping: it watches [`Queue::poll_fd`] for reading; before it sleeps it
//! calls [`Queue::before_sleep`] on every queue and does not sleep if one says that work waits.
//! Queues that [`Queue::needs_readiness`] cost a system call a packet, so they are only read once
//! the worker has been told by its poll and has called [`Queue::set_ready`]; a busy worker polls
//! for them now and then.
//!
//! Invariants: all frames that a queue holds are given back by [`Queue::close`].
//!
//! Must not know: flows, workers, why a packet is sent.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use afxdp::{FramePool, Packet};
use arrayvec::ArrayVec;

use crate::afxdp_queue::AfxdpQueue;
use crate::counters::QueueCounters;
use crate::memory::MemoryQueue;
use crate::pcap::PcapQueue;
use crate::tap::TapQueue;

/// Packets that are received, looked up and sent together at most.
pub const BURST: usize = 32;

/// Packets on their way through a worker.
pub type Burst = ArrayVec<Packet, BURST>;

/// What a receive found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxStatus {
    /// Nothing waits.
    Idle,
    /// Packets were added to the burst; more may wait.
    Received,
    /// The device behind the queue is gone; nothing will come any more. The worker stops polling
    /// and tells control, which closes the queue.
    Gone,
}

/// One queue of a port.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // A worker has few; an indirection would cost every burst.
pub enum Queue {
    /// Of an interface, by an AF_XDP socket.
    Afxdp(AfxdpQueue),
    /// Of a tap that the switch owns.
    Tap(TapQueue),
    /// In this process.
    Memory(MemoryQueue),
    /// Of capture files.
    Pcap(PcapQueue),
}

/// Calls the same method of whatever kind it is.
macro_rules! each {
    ($self:expr, $q:ident => $call:expr) => {
        match $self {
            Queue::Afxdp($q) => $call,
            Queue::Tap($q) => $call,
            Queue::Memory($q) => $call,
            Queue::Pcap($q) => $call,
        }
    };
}

impl Queue {
    /// Receive packets until the burst is full or nothing waits.
    #[inline]
    pub fn rx_burst(&mut self, pool: &mut FramePool, burst: &mut Burst) -> RxStatus {
        each!(self, q => q.rx_burst(pool, burst))
    }

    /// Send all packets of the burst, which is empty then. What cannot be sent is dropped and
    /// counted.
    #[inline]
    pub fn tx_burst(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        each!(self, q => q.tx_burst(pool, burst))
    }

    /// Packets of one buffer that [`Queue::tx_burst`] can take now without dropping one; what a file or a tap
    /// takes is not known before.
    pub fn tx_room(&mut self) -> usize {
        match self {
            Queue::Afxdp(q) => q.tx_room(),
            Queue::Memory(q) => q.tx_room(),
            Queue::Tap(_) | Queue::Pcap(_) => usize::MAX,
        }
    }

    /// Start what was given to transmit, take sent frames back, give the device free ones. Once in
    /// each round in which the queue received or was given packets; `true`: call it again in the
    /// next round, as something is left to do.
    #[inline]
    pub fn flush(&mut self, pool: &mut FramePool) -> bool {
        match self {
            Queue::Afxdp(q) => q.flush(pool),
            Queue::Tap(_) | Queue::Memory(_) | Queue::Pcap(_) => false,
        }
    }

    /// Whether the queue is only read after [`Queue::set_ready`].
    #[inline]
    pub fn needs_readiness(&self) -> bool {
        matches!(self, Queue::Tap(_))
    }

    /// The worker's poll has reported [`Queue::poll_fd`].
    #[inline]
    pub fn set_ready(&mut self) {
        if let Queue::Tap(q) = self {
            q.set_ready();
        }
    }

    /// What to watch (for reading) while the worker sleeps; `None` if there is nothing to watch.
    /// The descriptor of a queue that has said [`RxStatus::Gone`] may be ready for ever: stop
    /// watching it then.
    pub fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        each!(self, q => q.poll_fd())
    }

    /// Make the queue wake its descriptor for what comes from now on. `false`: something waits
    /// already, so do not sleep.
    pub fn before_sleep(&mut self, pool: &mut FramePool) -> bool {
        each!(self, q => q.before_sleep(pool))
    }

    /// About once a second: bring counters that the kernel keeps up to date.
    pub fn housekeeping(&mut self) {
        if let Queue::Afxdp(q) = self {
            q.housekeeping();
        }
    }

    /// Frames that the queue holds: in its rings, or waiting to be sent.
    pub fn frames_held(&self) -> usize {
        match self {
            Queue::Afxdp(q) => q.frames_held(),
            Queue::Tap(_) | Queue::Memory(_) | Queue::Pcap(_) => 0,
        }
    }

    /// The queue's counters.
    pub fn counters(&self) -> &Arc<QueueCounters> {
        each!(self, q => q.counters())
    }

    /// End the queue. All of its frames go back to the pool.
    pub fn close(self, pool: &mut FramePool) {
        match self {
            Queue::Afxdp(q) => q.close(pool),
            Queue::Tap(_) => {}
            Queue::Memory(q) => q.close(pool),
            Queue::Pcap(q) => q.close(),
        }
    }
}
