//! One core's loop: poll queues, forward bursts, stay in step with control.
//!
//! A round is: a burst boundary (adopt the newest snapshot, take commands), one burst from each
//! queue through [`Worker::forward`], what other workers handed over, transmit, and a slice of
//! housekeeping. A worker that finds nothing for a while sleeps until a queue, another worker or
//! control wakes it (`Poll::Adaptive`), or never does (`Poll::Busy`).
//!
//! Everything here belongs to the worker's thread; what others see is in [`Shared`].

pub mod command;
mod ct_key;
mod cutting;
mod edits;
mod exec;
mod fragments;
mod icmp;
mod order;
mod outer_cut;
mod park;
mod patience;
mod place;
mod popped;
mod runs;
mod sweep;
mod tracked;
mod transmit;
mod tunnel;
mod upcall;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use arrayvec::ArrayVec;
use conntrack::Batch;
use flow::{Depth, FlowKey, Offsets, extract, extract_to, word};
use ofproto::program::{DpAction, DpPort};
use ofproto::snapshot::{LogNode, Snapshot};
use ports::{Burst, RxStatus};

use crate::megaflow::{BURST, Found, Picked};
use crate::shared::{Event, Shared, add};
use crate::stages::Stage;
use command::Command;
use ct_key::Tracked;
use flow::cpu::{cycles, prefetch};
use park::Sleep;
use place::{Recirculated, Where};
use runs::{bring_on, hit, missed};
use sweep::Sweep;
use transmit::Transmit;
use upcall::{Flows, number_states};

/// Buckets of the exact-match cache: 1 MiB, 131,072 entries.
const CACHE_BUCKETS: usize = 1 << 14;
/// Makes the seed of a worker's caches another one than that of what all workers share.
const SEED: u64 = 0xe703_7ed1_a0b4_28db;
/// Changes that a worker applies one by one at most; past that all megaflows are stale.
const MAX_LAG: usize = 100_000;

/// What a worker does when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Poll {
    /// Sleep after a short while.
    #[default]
    Adaptive,
    /// Poll on.
    Busy,
}

/// How a worker is started.
#[derive(Clone, Copy, Debug)]
pub struct WorkerOptions {
    /// When idle.
    pub poll: Poll,
}

/// One worker.
pub struct Worker {
    shared: Arc<Shared>,
    me: usize,
    options: WorkerOptions,
    log: Arc<LogNode>,
    flows: Flows,
    tx: Transmit,
    burst: Burst,
    keys: Box<[FlowKey; BURST]>,
    offsets: [Offsets; BURST],
    found: [Found; BURST],
    tracked: Box<Batch>,
    started: Instant,
    sweep: Sweep,
    sleep: Sleep,
    receivers: Receivers,
    /// Room for the packets that are looked up again while others join them.
    spare: Vec<Recirculated>,
    spare_strays: Vec<Recirculated>,
    stop: bool,
}

/// Which queues have received lately: whether one has the worker to itself.
#[derive(Default)]
struct Receivers {
    /// The last two queues that received, and when.
    last: [(usize, u64); 2],
}

impl Receivers {
    /// Milliseconds after which a queue counts as quiet.
    const QUIET: u64 = 10;

    fn note(&mut self, slot: usize, now: u64) {
        if self.last[0].0 != slot {
            self.last[1] = self.last[0];
        }
        self.last[0] = (slot, now);
    }

    /// Whether no other queue has received for a while.
    fn is_alone(&self, slot: usize, now: u64) -> bool {
        let quiet = |(s, at): (usize, u64)| s == slot || now > at + Self::QUIET;
        self.last.into_iter().all(quiet)
    }
}

impl Worker {
    /// The worker with that number.
    ///
    /// # Errors
    /// If its epoll sets cannot be made.
    pub fn new(
        shared: Arc<Shared>,
        me: usize,
        options: WorkerOptions,
        started: Instant,
    ) -> std::io::Result<Worker> {
        let snapshot = shared.snapshot.load_full();
        let sleep = Sleep::new(shared.workers[me].wake_fd())?;
        let seed = flow::key::mix(shared.seed, SEED ^ me as u64);
        Ok(Worker {
            me,
            options,
            log: snapshot.log.clone(),
            flows: Flows::new(snapshot, CACHE_BUCKETS, seed),
            tx: Transmit::new(shared.clone(), me),
            shared,
            burst: Burst::default(),
            keys: Box::new(std::array::from_fn(|_| FlowKey::ZERO)),
            offsets: [Offsets::default(); BURST],
            found: [Found::Miss; BURST],
            tracked: Box::default(),
            started,
            sweep: Sweep::default(),
            sleep,
            receivers: Receivers::default(),
            spare: Vec::new(),
            spare_strays: Vec::new(),
            stop: false,
        })
    }

    /// Run until control says stop.
    pub fn run(mut self) {
        if let Some(core) = self.shared.workers[self.me].core {
            core_affinity::set_for_current(core_affinity::CoreId { id: core });
        }
        let mut before = cycles();
        while !self.stop {
            let work = self.round();
            if work > 0 {
                self.sleep.busy();
            }
            let now = cycles();
            self.account(work, now.wrapping_sub(before));
            before = now;
            if work == 0 && self.options.poll == Poll::Adaptive && self.idle_long_enough() {
                self.park();
                // Sleep counts by itself.
                before = cycles();
            }
        }
        self.shared.workers[self.me].handshake.stop();
    }

    /// One round; how much there was to do.
    pub fn round(&mut self) -> usize {
        self.round_at(self.started.elapsed().as_millis() as u64 + 1)
    }

    /// One round, at that time: milliseconds since the switch was started, which never go back.
    pub fn round_at(&mut self, now: u64) -> usize {
        self.tx.now = now;
        self.tx.clock.begin();
        self.boundary();
        if !self.tx.waiting.is_empty() {
            self.release_waiting();
        }
        self.look_at_taps();
        let mut work = 0;
        for slot in 0..self.tx.slots.len() {
            work += self.poll_slot(slot);
        }
        if self.shared.workers.len() > 1 {
            work += self.tx.take_handed();
        }
        self.tx.clock.enter(Stage::Transmit);
        self.tx.flush();
        self.tx.clock.end(work as u64, &self.shared.workers[self.me].stages);
        work + self.housekeeping(work > 0)
    }

    /// Between bursts: take up what control has published and asked.
    fn boundary(&mut self) {
        let newest = self.shared.version.load(Ordering::SeqCst);
        if newest != self.flows.snapshot.version {
            self.adopt();
        }
        if self.shared.workers[self.me].has_mail() {
            while let Some(command) = self.shared.workers[self.me].take_mail() {
                self.obey(command);
            }
        }
    }

    /// Take up the newest snapshot, and mark the megaflows that the way there touches.
    fn adopt(&mut self) {
        let snapshot: Arc<Snapshot> = self.shared.snapshot.load_full();
        let mut applied = 0;
        let mut marked = 0;
        while self.log.version < snapshot.version {
            let Some(next) = self.log.next().cloned() else { break };
            applied += next.changes.len();
            if applied <= MAX_LAG {
                marked += self.flows.apply_changes(&next.changes);
            }
            self.log = next;
        }
        if applied > MAX_LAG || self.log.version != snapshot.version {
            marked += self.flows.apply_changes(&[ofproto::snapshot::Change::All]);
            self.log = snapshot.log.clone();
            add(&self.shared.workers[self.me].counters.flushes, 1);
        }
        let version = snapshot.version;
        self.tx.version = version;
        self.flows.snapshot = snapshot;
        let w = &self.shared.workers[self.me];
        add(&w.counters.marked_stale, marked);
        w.handshake.adopt(version);
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::AddQueue { port, queue } => {
                let slot = self.tx.add_slot(port, *queue);
                self.sleep.watch(&self.tx.slots[slot]);
            }
            Command::RemovePort { port, reply } => {
                for slot in self.tx.slots.iter().filter(|s| s.port == port) {
                    self.sleep.forget(slot);
                }
                self.give_back(Some(port), reply);
            }
            Command::Owners(owners) => self.tx.set_owners(owners),
            Command::Flush(reply) => {
                self.flows.flush(self.tx.now);
                let _ = reply.try_send(());
            }
            Command::Execute { program, frame, reply } => {
                let _ = reply.try_send(self.execute(program, &frame));
            }
            Command::PushStats(reply) => self.sweep.push_all(reply),
            Command::Dump { max, reply } => self.sweep.dump(max, reply),
            Command::Stop(reply) => {
                self.stop = true;
                self.tx.waiting.clear(&mut self.tx.pool);
                self.give_back(None, reply);
            }
        }
    }

    /// Do what control wants done with a frame of its own; whether there was memory for it.
    fn execute(&mut self, mut program: Vec<DpAction>, frame: &[u8]) -> bool {
        let Some(packet) = self.tx.pool.packet_from(frame) else { return false };
        number_states(&mut program, &self.shared.recirculations);
        let mut key = FlowKey::ZERO;
        let off = extract(packet.data(), packet.len(), &mut key);
        self.tx.run(&program, packet, &mut Where::new(&key, off));
        self.finish(None);
        true
    }

    fn give_back(
        &mut self,
        port: Option<DpPort>,
        reply: std::sync::mpsc::SyncSender<Vec<ports::Queue>>,
    ) {
        let queues = self.tx.remove_slots(port);
        // If nobody waits any more, the queues' frames are still ours to return.
        if let Err(e) = reply.try_send(queues) {
            let (std::sync::mpsc::TrySendError::Full(queues)
            | std::sync::mpsc::TrySendError::Disconnected(queues)) = e;
            for q in queues {
                q.close(&mut self.tx.pool);
            }
        }
    }

    fn poll_slot(&mut self, slot: usize) -> usize {
        let s = &mut self.tx.slots[slot];
        if s.gone {
            return 0;
        }
        let status = s.queue.rx_burst(&mut self.tx.pool, &mut self.burst);
        let port = s.port;
        if status == RxStatus::Gone {
            s.gone = true;
            self.sleep.forget(&self.tx.slots[slot]);
            self.tx.tell(Event::PortGone(port));
        }
        let n = self.burst.len();
        if n == 0 {
            return 0;
        }
        self.tx.mark_dirty(slot);
        let w = &self.shared.workers[self.me].counters;
        add(&w.packets, n as u64);
        add(&w.bursts, 1);
        add(&w.burst_sizes[n.min(BURST)], 1);
        self.forward(slot, port);
        self.tx.clock.enter(Stage::Receive);
        self.receivers.note(slot, self.tx.now);
        n
    }

    /// Bring the packets of `self.burst`, which came in by `port`, on their way.
    #[inline]
    fn forward(&mut self, slot: usize, port: DpPort) {
        let n = self.burst.len();
        let meta = u64::from(port.0) << 32;
        self.tx.clock.enter(Stage::Extract);
        let depth = self.flows.mega.depth(meta);
        self.read(meta, depth);
        self.flows.mega.lookup(meta, &self.keys[..n], &mut self.found[..n], &mut self.tx.clock);
        if depth != Depth::Whole && !all_hit(&self.found[..n]) {
            self.tx.clock.enter(Stage::Extract);
            self.read(meta, Depth::Whole);
        }
        self.tx.clock.enter(Stage::Actions);
        let alone = self.receivers.is_alone(slot, self.tx.now);
        self.tx.order.begin();
        let Worker { burst, keys, offsets, found, flows, tx, .. } = self;
        let place = |i: usize| {
            let mut at = Where::new(&keys[i], offsets[i]);
            at.slot = Some(i as u8);
            at
        };
        let mut packets = burst.drain(..);
        bring_on(flows, tx, &found[..n], &mut packets, place, |flows, tx, _, packet, at| {
            missed(flows, tx, packet, at, None, (!alone).then_some(slot));
        });
        drop(packets);
        if tx.order.is_busy() || !tx.strays.is_empty() || !tx.popped.is_empty() {
            self.finish((!alone).then_some(slot));
        }
    }

    /// Read the headers of the packets of `self.burst`, as much of them as `depth` says. Layers are said to
    /// begin nowhere where they are not read.
    #[inline(always)]
    fn read(&mut self, meta: u64, depth: Depth) {
        let Worker { burst, keys, offsets, .. } = self;
        if depth != Depth::Nothing {
            burst.iter().for_each(|packet| prefetch(packet.data()));
        }
        // Three loops, in which there is nothing to ask.
        match depth {
            Depth::Nothing => read_each(Depth::Nothing, meta, burst, keys, offsets),
            Depth::Link => read_each(Depth::Link, meta, burst, keys, offsets),
            Depth::Whole => read_each(Depth::Whole, meta, burst, keys, offsets),
        }
    }

    /// Bring all packets that were put off on their way.
    #[inline(never)]
    fn finish(&mut self, budget: Option<usize>) {
        self.settle(budget);
        let mut group: ArrayVec<Recirculated, BURST> = ArrayVec::new();
        while !self.tx.strays.is_empty() {
            // They are a burst of their own, those with the same state together.
            std::mem::swap(&mut self.tx.strays, &mut self.spare_strays);
            let mut all = std::mem::take(&mut self.spare_strays);
            let mut waiting = all.drain(..).peekable();
            while let Some(meta) = waiting.peek().map(|r| r.meta) {
                self.tx.order.begin();
                while !group.is_full()
                    && let Some(next) = waiting.next_if(|r| r.meta == meta)
                {
                    let slot = Some(group.len() as u8);
                    group.push(Recirculated { slot, ..next });
                }
                self.look_up_group(&mut group, meta, budget);
                self.settle(budget);
            }
            drop(waiting);
            self.spare_strays = all;
        }
    }

    /// Bring the packets of the burst that were put off on their way. Each turn takes up the
    /// first of them, which waits for none, so that it comes to an end.
    fn settle(&mut self, budget: Option<usize>) {
        let waits =
            |tx: &Transmit| !(tx.popped.is_empty() && tx.later.is_empty() && tx.again.is_empty());
        while waits(&self.tx) {
            self.pop_together(budget);
            self.track_together(budget);
            self.look_up_again(budget);
        }
        debug_assert!(!self.tx.order.is_busy());
    }

    /// Packets that come back to the tables one by one go on with the state that waits for them, in
    /// the order in which they came, those with the same state together.
    fn look_up_again(&mut self, budget: Option<usize>) {
        if self.tx.again.is_empty() {
            return;
        }
        let mut group: ArrayVec<Recirculated, BURST> = ArrayVec::new();
        std::mem::swap(&mut self.tx.again, &mut self.spare);
        let mut all = std::mem::take(&mut self.spare);
        let mut waiting = all.drain(..).peekable();
        while let Some(meta) = waiting.peek().map(|r| r.meta) {
            while !group.is_full()
                && let Some(next) = waiting.next_if(|r| r.meta == meta)
            {
                group.push(next);
            }
            self.look_up_group(&mut group, meta, budget);
        }
        drop(waiting);
        self.spare = all;
    }

    /// Look packets up that have places in the burst, and that all have this port and state.
    fn look_up_group(
        &mut self,
        group: &mut ArrayVec<Recirculated, BURST>,
        meta: u64,
        budget: Option<usize>,
    ) {
        let Worker { keys, offsets, found, flows, tx, .. } = self;
        tx.clock.enter(Stage::Extract);
        let mut slots = [0; BURST];
        for (r, slot) in group.iter_mut().zip(&mut slots) {
            *slot = r.slot.unwrap_or_default();
            let at = usize::from(*slot);
            offsets[at] = restore_key(r, &mut keys[at]);
        }
        let n = group.len();
        add(&tx.worker().counters.recirculated, n as u64);
        let picked = Picked { keys, slots: &slots[..n] };
        flows.mega.lookup(meta, picked, &mut found[..n], &mut tx.clock);
        tx.clock.enter(Stage::Actions);
        for (i, r) in group.drain(..).enumerate() {
            let Recirculated { packet, conn: (zone, conn), passes, state, bad, .. } = r;
            tx.order.take_up(slots[i]);
            let at = usize::from(slots[i]);
            let mut at = Where::new(&keys[at], offsets[at]);
            at.tracked = Tracked::AsInKey(zone, conn);
            (at.passes, at.slot) = (passes, Some(slots[i]));
            if let Some(why) = bad {
                tx.drop_packet(packet, why, &at);
                continue;
            }
            let frozen = state.as_deref().map(|s| &s.state);
            match found[i] {
                Found::Hit(id) => hit(flows, tx, id, packet, &mut at),
                _ => missed(flows, tx, packet, &mut at, frozen, budget),
            }
        }
    }

    fn account(&mut self, work: usize, cycles: u64) {
        let c = &self.shared.workers[self.me].counters;
        add(&c.rounds, 1);
        if work == 0 {
            add(&c.idle_rounds, 1);
            add(&c.idle_cycles, cycles);
        } else {
            add(&c.busy_cycles, cycles);
        }
    }
}

/// Read as much of each packet's headers as `depth` says.
#[inline(always)]
fn read_each(
    depth: Depth,
    meta: u64,
    burst: &Burst,
    keys: &mut [FlowKey; BURST],
    offsets: &mut [Offsets; BURST],
) {
    for (packet, (key, off)) in burst.iter().zip(keys.iter_mut().zip(offsets)) {
        key.clear_metadata();
        key.set_word(word::META, meta);
        *off = extract_to(depth, packet.data(), packet.len(), key);
    }
}

/// Whether every packet is of a megaflow that can be used.
#[inline(always)]
fn all_hit(found: &[Found]) -> bool {
    found.iter().all(|f| matches!(f, Found::Hit(_)))
}

/// The key of a packet that is looked up again.
#[inline]
fn restore_key(r: &mut Recirculated, key: &mut FlowKey) -> Offsets {
    key.clear_metadata();
    if let Some(known) = &r.metadata {
        known.write(key);
    }
    key.set_word(word::META, r.meta);
    if r.ct[0] != 0 {
        key.set_words(word::CT, &r.ct);
    }
    let off = extract(r.packet.data(), r.packet.len(), key);
    if r.state.is_none() {
        r.bad = tunnel::take_mark(&mut r.packet, &off, key).err();
    }
    off
}
