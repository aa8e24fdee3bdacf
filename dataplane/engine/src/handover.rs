//! How does a packet reach a transmit queue that another worker owns?
//!
//! One ring for each ordered pair of workers, so that packets of one flow, which one worker
//! handles, stay in order. A full ring drops, and the sender counts.

use afxdp::Packet;
use crossbeam::queue::ArrayQueue;
use ofproto::program::DpPort;

/// Packets that wait between two workers at most.
pub const RING: usize = 1024;

/// A packet with the port it is to leave by.
#[derive(Debug)]
pub struct Handed {
    /// The port.
    pub port: DpPort,
    /// The packet.
    pub packet: Packet,
}

/// The rings between all workers.
pub struct Rings {
    n: usize,
    /// `rings[to * n + from]`.
    rings: Vec<ArrayQueue<Handed>>,
}

impl Rings {
    /// Rings among `n` workers.
    pub fn new(n: usize) -> Rings {
        let size = if n > 1 { RING } else { 1 };
        Rings { n, rings: (0..n * n).map(|_| ArrayQueue::new(size)).collect() }
    }

    /// Hand a packet over; it comes back if the ring is full.
    #[inline]
    pub fn push(&self, from: usize, to: usize, handed: Handed) -> Result<(), Handed> {
        self.rings[to * self.n + from].push(handed)
    }

    /// The next packet from one worker for another.
    #[inline]
    pub fn pop(&self, from: usize, to: usize) -> Option<Handed> {
        self.rings[to * self.n + from].pop()
    }

    /// Whether nothing waits for a worker.
    pub fn none_for(&self, to: usize) -> bool {
        self.rings[to * self.n..(to + 1) * self.n].iter().all(ArrayQueue::is_empty)
    }

    /// Packets that wait in all rings.
    pub fn waiting(&self) -> usize {
        self.rings.iter().map(ArrayQueue::len).sum()
    }
}
