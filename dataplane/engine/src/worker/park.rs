//! When may a worker sleep, and what wakes it?
//!
//! A queue either is polled (AF_XDP: looking costs nothing) or says through its descriptor that
//! it has something (a tap: looking is a system call). The descriptors of the second kind are in
//! an epoll set, which is asked now and then while the worker is awake. The worker sleeps in
//! poll(2) on that set, the wake-up and the descriptors of the first kind: an epoll set would be
//! called back by the kernel for each frame that such a socket receives or has sent, also while
//! the worker is awake, under a lock that the cores on both sides share.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::Ordering;

use ofproto::program::DpPort;

use super::Worker;
use super::patience::Patience;
use super::transmit::{Slot, Transmit};
use crate::shared::add;
use crate::sys::{PollSet, Poller};
use flow::cpu::cycles;

/// Rounds between two looks at the descriptors of taps.
const LOOK: u32 = 8;
/// Longest sleep while there are megaflows to age, in milliseconds.
const NAP: i32 = 500;
/// Longest sleep otherwise.
const LONG_NAP: i32 = 5_000;

/// What a worker's sleep needs.
pub(super) struct Sleep {
    /// The wake-up, `taps`, and the queues that are polled.
    all: PollSet,
    /// Queues that are read only when their descriptor says so.
    taps: Poller,
    tap_count: usize,
    patience: Patience,
    rounds: u32,
}

impl Sleep {
    pub fn new(wake: RawFd) -> std::io::Result<Sleep> {
        let (mut all, taps) = (PollSet::default(), Poller::new()?);
        all.add(wake);
        all.add(taps.fd());
        Ok(Sleep { all, taps, tap_count: 0, patience: Patience::new(), rounds: 0 })
    }

    /// Let a queue's descriptor wake the worker.
    pub fn watch(&mut self, slot: &Slot) {
        let Some(fd) = slot.queue.poll_fd() else { return };
        if !slot.queue.needs_readiness() {
            return self.all.add(fd.as_raw_fd());
        }
        self.tap_count += 1;
        if let Err(e) = self.taps.add(fd.as_raw_fd(), u64::from(slot.port.0)) {
            tracing::warn!(port = slot.port.0, "cannot watch a queue for wake-ups: {e}");
        }
    }

    /// Stop watching.
    pub fn forget(&mut self, slot: &Slot) {
        let Some(fd) = slot.queue.poll_fd() else { return };
        if !slot.queue.needs_readiness() {
            return self.all.remove(fd.as_raw_fd());
        }
        self.tap_count -= 1;
        self.taps.remove(fd.as_raw_fd());
    }

    /// The worker has had something to do.
    #[inline]
    pub fn busy(&mut self) {
        self.patience.busy();
    }

    /// Let the queues whose descriptors have something be read.
    fn look(&mut self, tx: &mut Transmit) {
        for port in self.taps.wait(0) {
            tx.set_ready(DpPort(port as u32));
        }
    }
}

impl Worker {
    /// Whether the last rounds found nothing for long enough.
    pub(super) fn idle_long_enough(&mut self) -> bool {
        self.sweep.is_idle() && self.sleep.patience.is_over()
    }

    /// Sleep until something happens.
    pub(super) fn park(&mut self) {
        let shared = self.shared.clone();
        let w = &shared.workers[self.me];
        w.handshake.park();
        let pending = w.has_mail()
            || self.shared.version.load(Ordering::SeqCst) != self.flows.snapshot.version
            || !self.shared.rings.none_for(self.me)
            || !self.tx.ready_to_sleep();
        if !pending {
            let before = cycles();
            let ms = if self.flows.mega.is_empty() { LONG_NAP } else { NAP };
            self.publish_counters();
            self.sleep.all.wait(ms);
            add(&w.counters.sleeps, 1);
            add(&w.counters.idle_cycles, cycles().wrapping_sub(before));
        }
        // From here on the newest version is adopted before any packet is touched.
        w.handshake.unpark();
        w.clear_wake();
        self.sleep.patience.woke();
        if self.sleep.tap_count > 0 {
            self.sleep.look(&mut self.tx);
        }
    }

    /// Now and then, see whether a tap has something.
    #[inline]
    pub(super) fn look_at_taps(&mut self) {
        self.sleep.rounds = self.sleep.rounds.wrapping_add(1);
        if self.sleep.tap_count > 0 && self.sleep.rounds.is_multiple_of(LOOK) {
            self.sleep.look(&mut self.tx);
        }
    }
}
