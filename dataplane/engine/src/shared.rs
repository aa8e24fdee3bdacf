//! Where do workers and control meet?
//!
//! In four places, all of them here: the published [`Snapshot`] (control writes, workers take it
//! up at burst boundaries), each worker's counters (the worker writes, control reads), one bounded
//! ring of events from each worker to control, and one bounded mailbox of commands from control
//! to each worker, also taken at burst boundaries.
//!
//! A change is in force when [`Shared::wait_adopted`] returns: each worker either has passed a
//! burst boundary with the new version, or is parked. A parked worker adopts the newest version
//! before it touches a packet ([`crate::handshake`]).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use afxdp::Region;
use arc_swap::ArcSwap;
use conntrack::Tracker;
use crossbeam::queue::ArrayQueue;
use flow::Drop;
use ofproto::program::{DpPort, ToController};
use ofproto::recirc::Recirculations;
use ofproto::snapshot::{BridgeId, Clock, OfPort, Snapshot};
use ofproto::xlate::LearnedFlow;

use crate::handover::Rings;
use crate::handshake::Handshake;
use crate::sys;
use crate::worker::command::Command;

/// Events of one worker that wait for control at most.
pub const EVENT_RING: usize = 8192;
/// Commands of control that wait for one worker at most.
pub const MAILBOX: usize = 1024;

/// Connections that are tracked at most; memory for them is taken as they come.
pub const CONNECTIONS: usize = 1 << 21;

/// What a worker tells control.
#[derive(Debug)]
pub enum Event {
    /// A source address was seen where it is not known to be.
    LearnMac {
        /// In this bridge.
        bridge: BridgeId,
        /// In this VLAN.
        vlan: u16,
        /// The address.
        mac: u64,
        /// On this port.
        port: OfPort,
    },
    /// A `learn` action's flow.
    LearnFlow {
        /// In this bridge.
        bridge: BridgeId,
        /// The flow.
        flow: Arc<LearnedFlow>,
    },
    /// A packet waits for, or was dropped for want of, a neighbour's address.
    NeedNeighbour(tunnel::neigh::Target),
    /// An ARP packet or neighbour message on one of the switch's own links.
    Heard {
        /// The link.
        link: u32,
        /// The frame's first bytes.
        frame: Vec<u8>,
    },
    /// A packet for controllers.
    PacketIn(Box<(Arc<ToController>, Vec<u8>)>),
    /// The device behind this port is gone.
    PortGone(DpPort),
}

/// Counters that a worker writes and anybody reads. Plain numbers, each right by itself.
#[derive(Default)]
pub struct WorkerCounters {
    /// Bursts received, by how many packets they had.
    pub burst_sizes: BurstSizes,
    /// Rounds of the worker's loop.
    pub rounds: AtomicU64,
    /// Rounds that found nothing to do.
    pub idle_rounds: AtomicU64,
    /// Times it went to sleep.
    pub sleeps: AtomicU64,
    /// Cycles of rounds that did something.
    pub busy_cycles: AtomicU64,
    /// Cycles of rounds that found nothing, and of sleep.
    pub idle_cycles: AtomicU64,
    /// Packets received.
    pub packets: AtomicU64,
    /// Bursts received.
    pub bursts: AtomicU64,
    /// Packets found through the exact-match cache.
    pub cache_hits: AtomicU64,
    /// Packets found by the classifier.
    pub classifier_hits: AtomicU64,
    /// Packets translated.
    pub upcalls: AtomicU64,
    /// Subtables probed.
    pub probes: AtomicU64,
    /// Megaflows now.
    pub megaflows: AtomicU64,
    /// Masks now.
    pub masks: AtomicU64,
    /// Megaflows that a change marked stale.
    pub marked_stale: AtomicU64,
    /// Translations of stale megaflows that gave the same actions.
    pub renewed: AtomicU64,
    /// Translations that could not be installed: the limit on megaflows or masks.
    pub not_installed: AtomicU64,
    /// Packets recirculated.
    pub recirculated: AtomicU64,
    /// Events that did not fit into the ring (tried again later).
    pub events_lost: AtomicU64,
    /// Times all megaflows were thrown away.
    pub flushes: AtomicU64,
    /// Free frames that the worker holds.
    pub pool_frames: AtomicU64,
    /// Packets that wait for a neighbour's address.
    pub waiting: AtomicU64,
    /// Frames in the worker's queues (fill, receive, transmit, completion).
    pub queue_frames: AtomicU64,
}

/// Counts by size of a burst.
pub struct BurstSizes([AtomicU64; crate::megaflow::BURST + 1]);

impl Default for BurstSizes {
    fn default() -> Self {
        BurstSizes(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl std::ops::Deref for BurstSizes {
    type Target = [AtomicU64];
    fn deref(&self) -> &[AtomicU64] {
        &self.0
    }
}

/// What one worker shares with the others and control.
pub struct WorkerShared {
    /// Its number.
    pub index: usize,
    /// The processor it is pinned to, if it is.
    pub core: Option<usize>,
    /// Whether it sleeps, and which version it has adopted.
    pub handshake: Handshake,
    /// Counters.
    pub counters: WorkerCounters,
    /// Where its cycles go.
    pub stages: crate::stages::StageCounters,
    /// Packets dropped, by reason.
    pub drops: [AtomicU64; Drop::COUNT],
    /// The latest drops of each reason.
    pub samples: crate::samples::DropSamples,
    mailbox: ArrayQueue<Command>,
    has_mail: AtomicBool,
    /// Packets wait for what a new version may say.
    has_waiting: AtomicBool,
    events: ArrayQueue<Event>,
    wake: OwnedFd,
}

impl WorkerShared {
    fn new(index: usize, core: Option<usize>) -> std::io::Result<WorkerShared> {
        Ok(WorkerShared {
            index,
            core,
            handshake: Handshake::new(),
            counters: WorkerCounters::default(),
            stages: Default::default(),
            drops: std::array::from_fn(|_| AtomicU64::new(0)),
            samples: Default::default(),
            mailbox: ArrayQueue::new(MAILBOX),
            has_mail: AtomicBool::new(false),
            has_waiting: AtomicBool::new(false),
            events: ArrayQueue::new(EVENT_RING),
            wake: sys::eventfd()?,
        })
    }

    /// The descriptor that wakes the worker.
    pub fn wake_fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    /// Wake the worker if it sleeps.
    pub fn wake(&self) {
        if self.handshake.is_parked() {
            sys::eventfd_signal(&self.wake);
        }
    }

    /// Take the wake-ups that are pending off the descriptor.
    pub fn clear_wake(&self) {
        sys::eventfd_clear(&self.wake);
    }

    /// Whether a command waits. Cheap enough for every round.
    #[inline]
    pub fn has_mail(&self) -> bool {
        self.has_mail.load(Ordering::Relaxed)
    }

    /// Take the next command.
    pub fn take_mail(&self) -> Option<Command> {
        let mail = self.mailbox.pop();
        if mail.is_none() {
            self.has_mail.store(false, Ordering::SeqCst);
            // One that came in between.
            let late = self.mailbox.pop();
            if late.is_some() {
                self.has_mail.store(true, Ordering::SeqCst);
            }
            return late;
        }
        mail
    }

    /// Whether packets wait for what a new version may say: it is woken for that.
    pub fn set_waiting(&self, waiting: bool) {
        self.has_waiting.store(waiting, Ordering::SeqCst);
    }

    /// Count drops under a reason.
    #[inline]
    pub fn count_drop(&self, why: Drop, n: u64) {
        add(&self.drops[why as usize], n);
    }

    /// Tell control something; `false` if the ring is full.
    #[inline]
    pub fn tell(&self, event: Event) -> bool {
        self.events.push(event).is_ok()
    }
}

/// Add to a counter that only the calling thread writes.
#[inline(always)]
pub fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

/// What all workers and control share.
pub struct Shared {
    /// The memory of all frames.
    pub region: Arc<Region>,
    /// The newest version.
    pub snapshot: ArcSwap<Snapshot>,
    /// Its number; written after it.
    pub version: AtomicU64,
    /// Versions that a worker may still have. Control is the last to let go of each, so that no
    /// worker spends its time on freeing tables.
    retired: Mutex<Vec<Arc<Snapshot>>>,
    /// The switch's clock.
    pub clock: Clock,
    /// The workers.
    pub workers: Vec<WorkerShared>,
    /// Packets on their way from one worker to another.
    pub rings: Rings,
    /// All connections.
    pub tracker: Tracker,
    /// The states that tracked packets go on with.
    pub recirculations: Recirculations,
    /// Megaflows that one worker may have.
    pub megaflow_limit: AtomicU64,
    /// Milliseconds after which a megaflow that no packet used goes.
    pub max_idle: AtomicU64,
    /// Where the seeds of all hashes come from.
    pub(crate) seed: u64,
    control: OwnedFd,
    control_told: AtomicBool,
}

impl Shared {
    /// State for workers on these cores (`None` is not pinned).
    ///
    /// # Errors
    /// If the wake-up descriptors cannot be made.
    pub fn new(region: Arc<Region>, cores: &[Option<usize>]) -> std::io::Result<Shared> {
        let secret = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0u8);
        Shared::with_seed(region, cores, secret)
    }

    /// The same with a seed that is known: two runs then do the same, instruction by instruction. For
    /// benches; a switch's own is secret, so that no sender can make entries of its tables collide.
    ///
    /// # Errors
    /// As [`Shared::new`].
    pub fn with_seed(
        region: Arc<Region>,
        cores: &[Option<usize>],
        seed: u64,
    ) -> std::io::Result<Shared> {
        let workers: std::io::Result<Vec<_>> =
            cores.iter().enumerate().map(|(i, c)| WorkerShared::new(i, *c)).collect();
        Ok(Shared {
            region,
            snapshot: ArcSwap::from_pointee(Snapshot::empty()),
            version: AtomicU64::new(0),
            retired: Mutex::default(),
            clock: Clock::default(),
            workers: workers?,
            rings: Rings::new(cores.len()),
            tracker: Tracker::new(conntrack::Config {
                connections: CONNECTIONS,
                seed,
                tcp: conntrack::TcpOptions::default(),
            })?,
            recirculations: Recirculations::default(),
            megaflow_limit: AtomicU64::new(1_000_000),
            max_idle: AtomicU64::new(10_000),
            seed,
            control: sys::eventfd()?,
            control_told: AtomicBool::new(false),
        })
    }

    /// The descriptor that says that events wait.
    pub fn control_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// A worker has put events into its ring: let control know, once until it looks.
    pub fn tell_control(&self) {
        if !self.control_told.swap(true, Ordering::AcqRel) {
            sys::eventfd_signal(&self.control);
        }
    }

    /// Take up to `max` events of all workers.
    pub fn take_events(&self, max: usize, mut f: impl FnMut(Event)) -> usize {
        sys::eventfd_clear(&self.control);
        self.control_told.store(false, Ordering::Release);
        let mut n = 0;
        for w in &self.workers {
            while n < max {
                let Some(e) = w.events.pop() else { break };
                n += 1;
                f(e);
            }
        }
        if n >= max {
            self.tell_control();
        }
        n
    }

    /// Give a worker a command.
    ///
    /// # Errors
    /// The command, if the worker's mailbox is full.
    pub fn command(&self, worker: usize, command: Command) -> Result<(), Command> {
        let w = &self.workers[worker];
        w.mailbox.push(command)?;
        w.has_mail.store(true, Ordering::SeqCst);
        w.wake();
        Ok(())
    }

    /// Make a version the newest. Control only.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        let version = snapshot.version;
        let old = self.snapshot.swap(snapshot);
        self.version.store(version, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.retired.lock().unwrap_or_else(PoisonError::into_inner).push(old);
        self.let_go();
        for w in self.workers.iter().filter(|w| w.has_waiting.load(Ordering::SeqCst)) {
            w.wake();
        }
    }

    /// Free the versions that no worker has any more.
    fn let_go(&self) {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.retain(|old| Arc::strong_count(old) > 1);
    }

    /// Wait until no worker treats a packet by a version older than `version`.
    ///
    /// # Errors
    /// The index of a worker that did not get there in `patience`.
    pub fn wait_adopted(&self, version: u64, patience: Duration) -> Result<(), usize> {
        let deadline = Instant::now() + patience;
        for w in &self.workers {
            self.wait_while(w, deadline, || w.handshake.may_act_on_older(version))?;
        }
        if self.workers.len() > 1 {
            // What an old version handed over is sent by the owner's next round.
            for w in &self.workers {
                let then = w.counters.rounds.load(Ordering::SeqCst);
                let waits = || {
                    if w.handshake.is_parked() {
                        w.wake();
                    }
                    !self.rings.none_for(w.index)
                        && w.counters.rounds.load(Ordering::SeqCst) <= then + 1
                };
                self.wait_while(w, deadline, waits)?;
            }
        }
        self.let_go();
        Ok(())
    }

    fn wait_while(
        &self,
        w: &WorkerShared,
        deadline: Instant,
        waits: impl Fn() -> bool,
    ) -> Result<(), usize> {
        let mut spins = 0u32;
        while waits() {
            spins += 1;
            if spins < 64 {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
            if spins.is_multiple_of(1024) && Instant::now() > deadline {
                return Err(w.index);
            }
        }
        Ok(())
    }
}
