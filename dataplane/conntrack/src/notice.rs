//! Which connections come and go, for somebody who watches?
//!
//! While it is switched on, each connection that is made or ended leaves a [`Notice`] in a ring of
//! fixed size. Workers never wait for the watcher: what finds the ring full is counted as lost.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::stats::Event;
use crate::tracker::Tracker;
use crate::tuple::Tuple;

/// Notices that wait for the watcher.
const CAPACITY: usize = 16_384;

/// A connection was made, or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// [`Event::Inserted`], or why it ended.
    pub what: Event,
    /// Tuple of the original direction.
    pub orig: Tuple,
    /// Tuple of the reply direction.
    pub reply: Tuple,
    /// `ct_mark`.
    pub mark: u32,
    /// `ct_label`.
    pub label: u128,
}

pub(crate) struct Notices {
    on: AtomicBool,
    ring: OnceLock<ArrayQueue<Notice>>,
    lost: AtomicU64,
}

impl Notices {
    pub(crate) fn new() -> Notices {
        Notices { on: AtomicBool::new(false), ring: OnceLock::new(), lost: AtomicU64::new(0) }
    }

    #[inline(always)]
    pub(crate) fn are_wanted(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    #[cold]
    pub(crate) fn push(&self, n: Notice) {
        if self.ring.get().is_some_and(|ring| ring.push(n).is_err()) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Tracker {
    /// Begin or stop to leave notices. Those that wait stay until they are taken.
    pub fn set_watched(&self, on: bool) {
        if on {
            self.notices.ring.get_or_init(|| ArrayQueue::new(CAPACITY));
        }
        self.notices.on.store(on, Ordering::Relaxed);
    }

    /// Take the oldest notice.
    pub fn next_notice(&self) -> Option<Notice> {
        self.notices.ring.get()?.pop()
    }

    /// How many notices were lost because nobody took the others.
    pub fn lost_notices(&self) -> u64 {
        self.notices.lost.load(Ordering::Relaxed)
    }
}
