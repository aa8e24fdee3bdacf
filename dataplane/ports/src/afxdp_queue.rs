//! How does a worker receive and send on one queue of an interface, by an AF_XDP socket?
//!
//! Received packets of ports whose other end is a kernel stack have their unfinished checksums
//! recognised ([`crate::checksum`]); such ports also leave partial checksums to the receiver when
//! they send. All others get their checksums finished here.
//!
//! Sending only fills the ring; [`AfxdpQueue::flush`] makes the system calls, once a round. Under
//! overload the ring fills, the kernel is kicked a bounded number of times, and what then finds no
//! room is dropped.
//!
//! Must not know: how the socket was made, XDP programs, workers.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use afxdp::{
    Checksum, Counters, FramePool, Kick, MAX_BUFFERS, Packet, Segmentation, Socket, Statistics,
};
use flow::cpu::prefetch;

use crate::checksum::{Settled, VxlanPorts, settle};
use crate::counters::{PortDrop, QueueCounters, add};
use crate::queue::{Burst, RxStatus};

/// Kicks that one flush, or a burst that finds the ring full, makes at most.
const MAX_KICKS: usize = 4;
/// Bytes of an Ethernet header and one VLAN tag, which a frame may have over the MTU.
pub(crate) const OVERHEAD: u32 = 14 + 4;

/// What the queues of a port share with control.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The interface's MTU in bytes.
    pub(crate) mtu: AtomicU32,
}

/// One queue of a port of type `afxdp`.
#[derive(Debug)]
pub struct AfxdpQueue {
    socket: Socket,
    shared: Arc<Shared>,
    counters: Arc<QueueCounters>,
    /// The other end is a kernel stack: where to look for VXLAN.
    kernel_peer: Option<VxlanPorts>,
    /// What the last kick said.
    kick: Kick,
    /// Socket's and kernel's counters as already added to `counters`.
    counted: Counters,
    statistics: Statistics,
}

impl AfxdpQueue {
    pub(crate) fn new(
        socket: Socket,
        shared: Arc<Shared>,
        kernel_peer: Option<VxlanPorts>,
        counters: Arc<QueueCounters>,
    ) -> AfxdpQueue {
        AfxdpQueue {
            socket,
            shared,
            counters,
            kernel_peer,
            kick: Kick::Done,
            counted: Counters::default(),
            statistics: Statistics::default(),
        }
    }

    #[inline]
    pub(crate) fn rx_burst(&mut self, pool: &mut FramePool, burst: &mut Burst) -> RxStatus {
        let (mut bytes, mut partial, mut finished) = (0, 0, 0);
        let first = burst.len();
        let n = self.socket.rx_burst(pool, burst.remaining_capacity(), |packet| {
            prefetch(packet.data());
            bytes += packet.len() as u64;
            burst.push(packet);
        });
        if n == 0 {
            return if self.is_gone() { RxStatus::Gone } else { RxStatus::Idle };
        }
        if let Some(vxlan) = &self.kernel_peer {
            for packet in &mut burst[first..] {
                match settle(packet, vxlan) {
                    Settled::AsItWas => {}
                    Settled::Partial => partial += 1,
                    Settled::Finished => finished += 1,
                }
            }
        }
        self.counters.received(n as u64, bytes);
        if partial + finished > 0 {
            add(&self.counters.rx_partial, partial + finished);
            add(&self.counters.checksums_finished, finished);
        }
        RxStatus::Received
    }

    fn is_gone(&self) -> bool {
        matches!(self.kick, Kick::Gone | Kick::Stuck)
    }

    #[inline]
    pub(crate) fn tx_burst(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        if let Some(why) = self.cannot_send() {
            self.counters.count_drop(why, burst.len() as u64);
            burst.drain(..).for_each(|p| pool.free_packet(p));
            return;
        }
        self.prepare(pool, burst);
        let mut packets = burst.drain(..);
        let mut bytes = 0;
        let mut sent = self.put(&mut packets, &mut bytes, pool);
        let mut kicks = 0;
        while packets.len() > 0 && kicks < MAX_KICKS {
            // The ring is full: make the kernel take some.
            kicks += 1;
            add(&self.counters.kicks, 1);
            self.kick = self.socket.kick_tx();
            self.socket.complete(pool);
            let more = self.put(&mut packets, &mut bytes, pool);
            sent += more;
            if more == 0 && self.kick != Kick::Again {
                break;
            }
        }
        self.counters.sent(sent, bytes);
        if packets.len() > 0 {
            self.counters.count_drop(PortDrop::TxFull, packets.len() as u64);
            packets.for_each(|p| pool.free_packet(p));
        }
    }

    /// Put packets into the ring while there is room; how many, and their bytes on top of `bytes`.
    #[inline]
    fn put(
        &mut self,
        packets: &mut impl Iterator<Item = Packet>,
        bytes: &mut u64,
        pool: &mut FramePool,
    ) -> u64 {
        let mut packets = packets.inspect(|p| *bytes += p.len() as u64);
        self.socket.tx_burst(&mut packets, pool) as u64
    }

    /// Whether packets would only wait for an interface that does not send.
    #[inline]
    fn cannot_send(&mut self) -> Option<PortDrop> {
        match self.kick {
            Kick::Done | Kick::Again => None,
            Kick::Gone | Kick::Stuck => Some(PortDrop::Gone),
            Kick::Down => {
                // Has it come up again? One system call a burst, only while it is down.
                self.kick = self.socket.kick_tx();
                (self.kick == Kick::Down).then_some(PortDrop::TxDown)
            }
        }
    }

    /// Bring packets into a form that the socket can send; drop those that cannot be.
    #[inline]
    fn prepare(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        let max = (self.shared.mtu.load(Ordering::Relaxed) + OVERHEAD) as usize;
        let mut i = 0;
        while let Some(packet) = burst.get_mut(i) {
            if let Some(why) = self.fault(packet, max) {
                self.counters.count_drop(why, 1);
                pool.free_packet(burst.remove(i));
                continue;
            }
            if packet.checksum() != Checksum::Complete {
                self.settle_checksum(packet);
            }
            i += 1;
        }
    }

    /// Why a packet cannot be sent on this interface.
    #[inline]
    fn fault(&self, packet: &Packet, max: usize) -> Option<PortDrop> {
        if packet.len() > max {
            return Some(PortDrop::TxTooBig);
        }
        if packet.is_chained()
            && (!self.socket.config().frags || packet.buffer_count() > MAX_BUFFERS)
        {
            return Some(PortDrop::TxTooBig);
        }
        (packet.segmentation() != Segmentation::None).then_some(PortDrop::TxSegmentation)
    }

    /// An unfinished checksum is left to a receiver that can finish it, else finished here.
    fn settle_checksum(&self, packet: &mut Packet) {
        let Checksum::Partial { start, offset } = packet.checksum() else { return };
        let inside = usize::from(start) + usize::from(offset) + 2 <= packet.data().len();
        if self.socket.config().tx_metadata && inside {
            add(&self.counters.tx_partial, 1);
        } else if flow::checksum::finish_partial(packet) {
            add(&self.counters.checksums_finished, 1);
        }
    }

    /// See [`crate::Queue::tx_room`].
    pub(crate) fn tx_room(&mut self) -> usize {
        self.socket.tx_room()
    }

    /// See [`crate::Queue::flush`].
    #[inline]
    pub(crate) fn flush(&mut self, pool: &mut FramePool) -> bool {
        if self.kick != Kick::Down && !self.is_gone() {
            self.send_out(pool);
        }
        let given = self.socket.refill(pool);
        if self.socket.needs_rx_wakeup() {
            add(&self.counters.kicks, 1);
            self.socket.kick_rx();
        }
        let starved =
            given == 0 && self.socket.counters().fill_starved != self.counted.fill_starved;
        if self.socket.counters() != self.counted {
            self.count();
        }
        self.kick == Kick::Again || starved
    }

    #[inline]
    fn send_out(&mut self, pool: &mut FramePool) {
        if self.socket.frames_held().tx == 0 {
            return;
        }
        for round in 0..MAX_KICKS {
            self.kick = self.socket.kick_tx();
            self.socket.complete(pool);
            add(&self.counters.kicks, 1);
            if self.kick != Kick::Again {
                break;
            }
            if round > 0 {
                add(&self.counters.kicks_again, 1);
            }
        }
    }

    /// Add what the socket has counted since the last time.
    #[cold]
    fn count(&mut self) {
        let (now, old) = (self.socket.counters(), self.counted);
        let c = &self.counters;
        for (why, now, old) in [
            (PortDrop::RxBroken, now.rx_broken, old.rx_broken),
            (PortDrop::RxKernel, now.rx_foreign, old.rx_foreign),
            (PortDrop::TxFull, now.tx_full, old.tx_full),
            (PortDrop::TxInvalid, now.tx_unsendable, old.tx_unsendable),
            (PortDrop::TxRefused, now.tx_refused, old.tx_refused),
        ] {
            c.count_drop(why, now.wrapping_sub(old));
        }
        add(&c.fill_starved, now.fill_starved.wrapping_sub(old.fill_starved));
        self.counted = now;
    }

    pub(crate) fn housekeeping(&mut self) {
        self.count();
        let Ok(now) = self.socket.statistics() else { return };
        let old = std::mem::replace(&mut self.statistics, now);
        let c = &self.counters;
        c.count_drop(PortDrop::RxRingFull, now.rx_ring_full.saturating_sub(old.rx_ring_full));
        // A frame that finds the fill ring empty is counted as dropped as well.
        let empty = now.rx_fill_ring_empty_descs.saturating_sub(old.rx_fill_ring_empty_descs);
        let dropped = now.rx_dropped.saturating_sub(old.rx_dropped);
        c.count_drop(PortDrop::RxFillEmpty, empty);
        c.count_drop(PortDrop::RxKernel, dropped.saturating_sub(empty));
        let invalid = now.tx_invalid_descs.saturating_sub(old.tx_invalid_descs);
        c.count_drop(PortDrop::TxInvalid, invalid);
        if self.socket.error().is_some() {
            self.kick = Kick::Gone;
        }
    }

    pub(crate) fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    pub(crate) fn before_sleep(&mut self, pool: &mut FramePool) -> bool {
        // Starved of frames, there is nothing to stay awake for but what others give back, which
        // the next wake-up will find; frames that the kernel would not take yet are tried again.
        self.flush(pool);
        self.kick != Kick::Again && !self.socket.rx_ready()
    }

    pub(crate) fn frames_held(&self) -> usize {
        self.socket.frames_held().total()
    }

    pub(crate) fn counters(&self) -> &Arc<QueueCounters> {
        &self.counters
    }

    /// The queue's number on its interface.
    pub fn index(&self) -> u32 {
        self.socket.queue()
    }

    pub(crate) fn close(mut self, pool: &mut FramePool) {
        self.housekeeping();
        let closed = self.socket.close(pool);
        if closed.abandoned > 0 {
            tracing::error!(
                "the driver does not let go of {} frames; they are lost until the daemon restarts",
                closed.abandoned
            );
        }
    }
}
