//! When may a worker sleep, and what wakes it?
//!
//! A queue either is polled (AF_XDP: looking costs nothing) or says through its descriptor that
//! it has something (a tap: looking is a system call). The descriptors of the second kind are in
//! a set of their own, which is asked now and then while the worker is awake; all descriptors and
//! the wake-up are in the set that it sleeps on.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ofproto::program::DpPort;

use super::Worker;
use super::exec::{Slot, Transmit};
use crate::cpu::cycles;
use crate::shared::add;
use crate::sys::Poller;

/// How long a worker polls in vain before it sleeps.
const PATIENCE: Duration = Duration::from_micros(50);
/// Rounds between two looks at the descriptors of taps.
const LOOK: u32 = 8;
/// Longest sleep while there are megaflows to age, in milliseconds.
const NAP: i32 = 500;
/// Longest sleep otherwise.
const LONG_NAP: i32 = 5_000;

/// What a worker's sleep needs.
pub(super) struct Sleep {
    all: Poller,
    /// Queues that are read only when their descriptor says so.
    taps: Poller,
    tap_count: usize,
    idle_since: Option<Instant>,
    rounds: u32,
}

impl Sleep {
    pub fn new(wake: RawFd) -> std::io::Result<Sleep> {
        let (all, taps) = (Poller::new()?, Poller::new()?);
        all.add(wake, u64::MAX)?;
        all.add(taps.fd(), u64::MAX)?;
        Ok(Sleep { all, taps, tap_count: 0, idle_since: None, rounds: 0 })
    }

    /// Let a queue's descriptor wake the worker.
    pub fn watch(&mut self, slot: &Slot) {
        let Some(fd) = slot.queue.poll_fd() else { return };
        let set = if slot.queue.needs_readiness() {
            self.tap_count += 1;
            &self.taps
        } else {
            &self.all
        };
        if let Err(e) = set.add(fd.as_raw_fd(), u64::from(slot.port.0)) {
            tracing::warn!(port = slot.port.0, "cannot watch a queue for wake-ups: {e}");
        }
    }

    /// Stop watching.
    pub fn forget(&mut self, slot: &Slot) {
        let Some(fd) = slot.queue.poll_fd() else { return };
        let set = if slot.queue.needs_readiness() {
            self.tap_count -= 1;
            &self.taps
        } else {
            &self.all
        };
        set.remove(fd.as_raw_fd());
    }

    /// The worker has had something to do.
    #[inline]
    pub fn busy(&mut self) {
        self.idle_since = None;
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
        self.sweep.is_idle()
            && match self.sleep.idle_since {
                None => {
                    self.sleep.idle_since = Some(Instant::now());
                    false
                }
                Some(since) => since.elapsed() >= PATIENCE,
            }
    }

    /// Sleep until something happens.
    pub(super) fn park(&mut self) {
        self.sleep.idle_since = None;
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
            self.sleep.all.wait(ms).for_each(drop);
            add(&w.counters.sleeps, 1);
            add(&w.counters.idle_cycles, cycles().wrapping_sub(before));
        }
        // From here on the newest version is adopted before any packet is touched.
        w.handshake.unpark();
        w.clear_wake();
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
