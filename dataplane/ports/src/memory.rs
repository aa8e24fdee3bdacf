//! Ports inside the process, for tests and benchmarks.
//!
//! A [`MemoryQueue`] receives from a [`Trace`] (as fast as it is asked, each frame copied into a
//! fresh buffer) or from what a test injects, and sends into nothing or to where a test collects
//! it. [`MemoryPort`] is the test's end: it may be used from any thread. A cable
//! ([`MemoryQueue::cable`]) is two queues, each of which receives what the other sends, by address.
//!
//! Must not know: flows, workers.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use afxdp::{Checksum, FramePool, Packet, Segmentation};
use crossbeam::queue::ArrayQueue;
use rustix::event::{EventfdFlags, eventfd};

use crate::counters::{PortDrop, QueueCounters};
use crate::error::PortError;
use crate::queue::{Burst, RxStatus};
use crate::trace::{Played, Trace};

/// A frame that a test gives or gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryFrame {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The state of its checksum.
    pub checksum: Checksum,
    /// Its segmentation request.
    pub segmentation: Segmentation,
}

impl From<&[u8]> for MemoryFrame {
    fn from(bytes: &[u8]) -> MemoryFrame {
        MemoryFrame {
            bytes: bytes.to_vec(),
            checksum: Checksum::Complete,
            segmentation: Segmentation::None,
        }
    }
}

/// A test's end of a memory port.
#[derive(Clone, Debug)]
pub struct MemoryPort {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inject: ArrayQueue<MemoryFrame>,
    collect: ArrayQueue<MemoryFrame>,
    wake: OwnedFd,
}

impl MemoryPort {
    /// Let the queue receive a frame. It comes back if too many wait.
    ///
    /// # Errors
    /// The frame, if the port is full.
    pub fn inject(&self, frame: impl Into<MemoryFrame>) -> Result<(), MemoryFrame> {
        self.shared.inject.push(frame.into())?;
        // Adding to an eventfd fails only at the largest number, which is readable too.
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
        Ok(())
    }

    /// The next frame that the queue has sent.
    pub fn take(&self) -> Option<MemoryFrame> {
        self.shared.collect.pop()
    }

    /// Frames that wait to be received.
    pub fn waiting(&self) -> usize {
        self.shared.inject.len()
    }
}

/// Plays a trace.
#[derive(Clone, Debug)]
pub(crate) struct Replay {
    trace: Arc<Trace>,
    next: usize,
    /// Rounds that are left after this one; `None` for ever.
    rounds: Option<u64>,
}

impl Replay {
    /// `rounds` times through the trace; `None` for ever.
    pub(crate) fn new(trace: Arc<Trace>, rounds: Option<u64>) -> Replay {
        let rounds = if trace.is_empty() { Some(0) } else { rounds };
        Replay { next: if rounds == Some(0) { trace.len() } else { 0 }, trace, rounds }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.next >= self.trace.len()
    }

    #[inline]
    pub(crate) fn rx_burst(
        &mut self,
        counters: &QueueCounters,
        pool: &mut FramePool,
        burst: &mut Burst,
    ) -> RxStatus {
        let before = burst.len();
        let mut bytes = 0;
        while !self.is_done() && !burst.is_full() {
            let n = burst.remaining_capacity().min(self.trace.len() - self.next);
            let got = self.play(n, pool, burst, &mut bytes);
            self.next += got;
            if got < n {
                counters.count_drop(PortDrop::RxNoFrame, 1);
                break;
            }
            if self.is_done() {
                self.next_round();
            }
        }
        let packets = burst.len() - before;
        counters.received(packets as u64, bytes);
        if packets > 0 { RxStatus::Received } else { RxStatus::Idle }
    }

    /// Add the next `n` frames to the burst; fewer if there is no memory for them.
    #[inline]
    fn play(&self, n: usize, pool: &mut FramePool, burst: &mut Burst, bytes: &mut u64) -> usize {
        for (i, frame) in self.trace.frames(self.next, n).enumerate() {
            let packet = match frame {
                Played::Small(block, len) => {
                    pool.alloc().map(|f| Packet::from_block(f, block, len))
                }
                Played::Large(bytes) => pool.packet_from(bytes),
            };
            let Some(packet) = packet else { return i };
            *bytes += packet.len() as u64;
            burst.push(packet);
        }
        n
    }

    fn next_round(&mut self) {
        match &mut self.rounds {
            None => self.next = 0,
            Some(n) => {
                *n = n.saturating_sub(1);
                if *n > 0 {
                    self.next = 0;
                }
            }
        }
    }
}

#[derive(Debug)]
enum Source {
    Nothing,
    Replay(Replay),
    Port(Arc<Shared>),
    Cable { from: Arc<ArrayQueue<Packet>>, to: Arc<ArrayQueue<Packet>> },
}

/// One queue of a memory port.
#[derive(Debug)]
pub struct MemoryQueue {
    source: Source,
    collect: Option<Arc<Shared>>,
    counters: Arc<QueueCounters>,
}

impl MemoryQueue {
    /// A queue that receives nothing and forgets what it sends.
    pub fn null(counters: Arc<QueueCounters>) -> MemoryQueue {
        MemoryQueue { source: Source::Nothing, collect: None, counters }
    }

    /// A queue that receives a trace `rounds` times (`None`: for ever) and forgets what it sends.
    pub fn replay(
        trace: Arc<Trace>,
        rounds: Option<u64>,
        counters: Arc<QueueCounters>,
    ) -> MemoryQueue {
        let source = Source::Replay(Replay::new(trace, rounds));
        MemoryQueue { source, collect: None, counters }
    }

    /// A queue and the test's end of it. At most `capacity` frames wait in each direction.
    ///
    /// # Errors
    /// If no event descriptor can be had.
    pub fn channel(
        capacity: usize,
        counters: Arc<QueueCounters>,
    ) -> Result<(MemoryPort, MemoryQueue), PortError> {
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map_err(|e| PortError::system("memory port", "make an event descriptor", e))?;
        let shared = Arc::new(Shared {
            inject: ArrayQueue::new(capacity.max(1)),
            collect: ArrayQueue::new(capacity.max(1)),
            wake,
        });
        let queue = MemoryQueue {
            source: Source::Port(shared.clone()),
            collect: Some(shared.clone()),
            counters,
        };
        Ok((MemoryPort { shared }, queue))
    }

    /// The two ends of a cable, with the counters of each; at most `capacity` packets are on their way in
    /// each direction, and what finds no room is dropped. Both ends must be driven by busy pollers over
    /// pools of one region: packets cross without a copy, and wake nobody.
    pub fn cable(capacity: usize, counters: [Arc<QueueCounters>; 2]) -> [MemoryQueue; 2] {
        let ring = || Arc::new(ArrayQueue::new(capacity.max(1)));
        let (there, back) = (ring(), ring());
        let [near, far] = counters;
        let end = |from, to, counters| MemoryQueue {
            source: Source::Cable { from, to },
            collect: None,
            counters,
        };
        [end(back.clone(), there.clone(), near), end(there, back, far)]
    }

    /// Packets that can be sent now without a drop.
    pub(crate) fn tx_room(&self) -> usize {
        match &self.source {
            Source::Cable { to, .. } => to.capacity() - to.len(),
            Source::Port(shared) => shared.collect.capacity() - shared.collect.len(),
            Source::Nothing | Source::Replay(_) => usize::MAX,
        }
    }

    #[inline]
    pub(crate) fn rx_burst(&mut self, pool: &mut FramePool, burst: &mut Burst) -> RxStatus {
        match &mut self.source {
            Source::Cable { from, .. } => rx_cable(from, &self.counters, burst),
            Source::Nothing => RxStatus::Idle,
            Source::Replay(replay) => replay.rx_burst(&self.counters, pool, burst),
            Source::Port(shared) => rx_injected(shared, &self.counters, pool, burst),
        }
    }

    #[inline]
    pub(crate) fn tx_burst(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        if let Source::Cable { to, .. } = &self.source {
            return tx_cable(to, &self.counters, pool, burst);
        }
        let (mut packets, mut bytes) = (0, 0);
        for packet in burst.drain(..) {
            let len = packet.len() as u64;
            if let Some(shared) = &self.collect {
                let frame = MemoryFrame {
                    bytes: packet.to_vec(),
                    checksum: packet.checksum(),
                    segmentation: packet.segmentation(),
                };
                if shared.collect.push(frame).is_err() {
                    self.counters.count_drop(PortDrop::TxFull, 1);
                    pool.free_packet(packet);
                    continue;
                }
            }
            packets += 1;
            bytes += len;
            pool.free_packet(packet);
        }
        self.counters.sent(packets, bytes);
    }

    pub(crate) fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.source {
            Source::Port(shared) => Some(shared.wake.as_fd()),
            _ => None,
        }
    }

    pub(crate) fn before_sleep(&mut self, _: &mut FramePool) -> bool {
        match &self.source {
            Source::Nothing => true,
            Source::Replay(replay) => replay.is_done(),
            // Nothing would wake it.
            Source::Cable { .. } => false,
            Source::Port(shared) => {
                // Clear first, look second: what is injected after the look sets it again.
                let _ = rustix::io::read(&shared.wake, &mut [0u8; 8]);
                shared.inject.is_empty()
            }
        }
    }

    pub(crate) fn counters(&self) -> &Arc<QueueCounters> {
        &self.counters
    }

    /// Give back what is still on its way; the other end must not send any more.
    pub(crate) fn close(self, pool: &mut FramePool) {
        if let Source::Cable { from, to } = &self.source {
            for ring in [from, to] {
                while let Some(packet) = ring.pop() {
                    pool.free_packet(packet);
                }
            }
        }
    }
}

fn rx_cable(from: &ArrayQueue<Packet>, counters: &QueueCounters, burst: &mut Burst) -> RxStatus {
    let (mut packets, mut bytes) = (0, 0);
    while !burst.is_full() {
        let Some(packet) = from.pop() else { break };
        packets += 1;
        bytes += packet.len() as u64;
        burst.push(packet);
    }
    counters.received(packets, bytes);
    if packets > 0 { RxStatus::Received } else { RxStatus::Idle }
}

fn tx_cable(
    to: &ArrayQueue<Packet>,
    counters: &QueueCounters,
    pool: &mut FramePool,
    burst: &mut Burst,
) {
    let (mut packets, mut bytes) = (0, 0);
    for packet in burst.drain(..) {
        let len = packet.len() as u64;
        match to.push(packet) {
            Ok(()) => {
                packets += 1;
                bytes += len;
            }
            Err(packet) => {
                counters.count_drop(PortDrop::TxFull, 1);
                pool.free_packet(packet);
            }
        }
    }
    counters.sent(packets, bytes);
}

fn rx_injected(
    shared: &Shared,
    counters: &QueueCounters,
    pool: &mut FramePool,
    burst: &mut Burst,
) -> RxStatus {
    let (mut packets, mut bytes) = (0, 0);
    while !burst.is_full() {
        let Some(frame) = shared.inject.pop() else { break };
        let Some(mut packet) = pool.packet_from(&frame.bytes) else {
            counters.count_drop(PortDrop::RxNoFrame, 1);
            continue;
        };
        packet.set_checksum(frame.checksum);
        packet.set_segmentation(frame.segmentation);
        packets += 1;
        bytes += packet.len() as u64;
        burst.push(packet);
    }
    counters.received(packets, bytes);
    if packets > 0 { RxStatus::Received } else { RxStatus::Idle }
}

#[cfg(test)]
mod tests {
    use afxdp::Region;

    use super::*;

    #[test]
    fn replays_as_often_as_asked() {
        let region = Region::new(1 << 21).unwrap();
        let mut pool = region.pool();
        let small: Vec<u8> = (0..60).collect();
        let large: Vec<u8> = (0..4000).map(|i| i as u8).collect();
        let trace = Arc::new(Trace::new([&small[..], &large, &small[..7]]));
        let counters = Arc::new(QueueCounters::default());
        let mut q = MemoryQueue::replay(trace, Some(20), counters.clone());
        let mut got = Vec::new();
        let mut burst = Burst::new();
        while q.rx_burst(&mut pool, &mut burst) == RxStatus::Received {
            for p in burst.drain(..) {
                got.push(p.to_vec());
                pool.free_packet(p);
            }
        }
        assert_eq!(got.len(), 60);
        for three in got.chunks(3) {
            assert_eq!(three, [small.clone(), large.clone(), small[..7].to_vec()]);
        }
        assert!(q.before_sleep(&mut pool));
        assert_eq!(counters.read().rx_packets, 60);
        assert_eq!(counters.read().rx_bytes, 20 * 4067);
        drop(pool);
        assert_eq!(region.stored(), region.chunks());
    }

    #[test]
    fn a_cable_carries_both_ways_and_drops_what_has_no_room() {
        let region = Region::new(1 << 21).unwrap();
        let mut pool = region.pool();
        let [mut a, mut b] = MemoryQueue::cable(4, Default::default());
        let mut burst = Burst::new();
        for n in 0..6u8 {
            burst.push(pool.packet_from(&[n; 60]).unwrap());
        }
        assert_eq!((a.tx_room(), b.rx_burst(&mut pool, &mut Burst::new())), (4, RxStatus::Idle));
        a.tx_burst(&mut pool, &mut burst);
        assert_eq!((a.tx_room(), a.counters().dropped(PortDrop::TxFull)), (0, 2));
        assert_eq!(b.rx_burst(&mut pool, &mut burst), RxStatus::Received);
        assert_eq!(burst.iter().map(|p| p.data()[0]).collect::<Vec<_>>(), [0, 1, 2, 3]);
        b.tx_burst(&mut pool, &mut burst);
        assert_eq!(a.counters().read().rx_packets, 0);
        a.close(&mut pool);
        b.close(&mut pool);
        drop(pool);
        assert_eq!(region.stored(), region.chunks());
    }

    #[test]
    fn an_empty_trace_ends_at_once() {
        let region = Region::new(1 << 21).unwrap();
        let trace = Arc::new(Trace::default());
        let mut q = MemoryQueue::replay(trace, None, Arc::default());
        assert_eq!(q.rx_burst(&mut region.pool(), &mut Burst::new()), RxStatus::Idle);
        assert!(q.before_sleep(&mut region.pool()));
    }

    #[test]
    fn out_of_frames_is_counted_and_passes() {
        let region = Region::new(1 << 21).unwrap();
        let mut pool = region.pool();
        let held: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
        let (port, mut q) = MemoryQueue::channel(4, Arc::default()).unwrap();
        port.inject(&b"0123456789abcdef"[..]).unwrap();
        let mut burst = Burst::new();
        assert_eq!(q.rx_burst(&mut pool, &mut burst), RxStatus::Idle);
        assert_eq!(q.counters().dropped(PortDrop::RxNoFrame), 1);
        held.into_iter().for_each(|f| pool.free(f));
        port.inject(&b"0123456789abcdef"[..]).unwrap();
        assert_eq!(q.rx_burst(&mut pool, &mut burst), RxStatus::Received);
        q.tx_burst(&mut pool, &mut burst);
        assert_eq!(port.take().unwrap().bytes, b"0123456789abcdef");
    }

    #[test]
    fn injection_wakes_and_is_not_slept_over() {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let region = Region::new(1 << 21).unwrap();
        let mut pool = region.pool();
        let (port, mut q) = MemoryQueue::channel(4, Arc::default()).unwrap();
        assert!(q.before_sleep(&mut pool));
        let readable = |q: &MemoryQueue| {
            let fd = q.poll_fd().unwrap();
            poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&Timespec::default())).unwrap() == 1
        };
        assert!(!readable(&q));
        port.inject(&b"0123456789abcdef"[..]).unwrap();
        assert!(readable(&q));
        assert!(!q.before_sleep(&mut pool));
        for _ in 0..4 {
            let _ = port.inject(&b"x"[..]);
        }
        assert!(port.inject(&b"one too many"[..]).is_err());
        let mut burst = Burst::new();
        q.rx_burst(&mut pool, &mut burst);
        assert_eq!(burst.len(), 4);
        assert!(q.before_sleep(&mut pool));
        burst.drain(..).for_each(|p| pool.free_packet(p));
    }
}
