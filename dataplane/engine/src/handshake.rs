//! When does a worker certainly not act on an older version any more?
//!
//! Two flags of each worker: whether it is parked, and which version it has adopted. Control
//! publishes a version and then looks at the flags; a worker says that it is awake and then looks
//! for the newest version. Between the write and the look of each is a sequentially consistent
//! fence, so at least one of them sees the other: either control sees a worker that is awake, and
//! waits for it, or the worker sees the new version before it touches a packet.
//!
//! The loom test includes this file with loom's atomics in the place of `crate::atomics`.

use crate::atomics::{AtomicU32, AtomicU64, Ordering, fence};

/// Looks at packets.
const RUNNING: u32 = 0;
/// Sleeps, or is about to.
const PARKED: u32 = 1;
/// Has ended.
const STOPPED: u32 = 2;

/// One worker's flags.
pub struct Handshake {
    state: AtomicU32,
    adopted: AtomicU64,
}

impl Handshake {
    /// A worker that is awake and has adopted version 0.
    pub fn new() -> Handshake {
        Handshake { state: AtomicU32::new(RUNNING), adopted: AtomicU64::new(0) }
    }

    /// Worker: no packet is touched from here until [`Handshake::unpark`]. What happens after this
    /// call and before a look at queues and mailbox is seen by that look, or wakes the worker.
    pub fn park(&self) {
        self.state.store(PARKED, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Worker: awake again. The newest version must be looked for after this.
    pub fn unpark(&self) {
        self.state.store(RUNNING, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Worker: nothing will ever be touched again.
    pub fn stop(&self) {
        self.state.store(STOPPED, Ordering::SeqCst);
    }

    /// Worker: everything from here on is done by this version, and what was done before has left.
    pub fn adopt(&self, version: u64) {
        self.adopted.store(version, Ordering::SeqCst);
    }

    /// The version that the worker has adopted.
    pub fn adopted(&self) -> u64 {
        self.adopted.load(Ordering::SeqCst)
    }

    /// Anybody, after making something visible to the worker: whether it sleeps and is to be woken.
    pub fn is_parked(&self) -> bool {
        fence(Ordering::SeqCst);
        self.state.load(Ordering::SeqCst) == PARKED
    }

    /// Control, after publishing `version`: whether the worker may still act on an older one.
    pub fn may_act_on_older(&self, version: u64) -> bool {
        fence(Ordering::SeqCst);
        self.state.load(Ordering::SeqCst) == RUNNING && self.adopted() < version
    }
}

impl Default for Handshake {
    fn default() -> Self {
        Self::new()
    }
}
