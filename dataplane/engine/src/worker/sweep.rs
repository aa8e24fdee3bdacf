//! Housekeeping, a slice at a time: age megaflows, tell rules what was counted, answer dumps.
//!
//! A pass over all megaflows takes place at least twice a second; each round does a slice of it,
//! so that no packet waits for a pass.

use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;

use super::Worker;
use super::command::MegaflowDump;
use super::upcall::Flows;
use crate::shared::WorkerCounters;

/// Megaflows looked at in one round.
const SLICE: u32 = 64;
/// Connections looked at for each millisecond that passes, by the first worker.
const TRACKED_RATE: u64 = 128;
/// The most of them at once, between two bursts.
const TRACKED_SLICE: u64 = 128;
/// Milliseconds between the starts of two passes.
const PERIOD: u64 = 500;

/// Where housekeeping stands.
#[derive(Default)]
pub(super) struct Sweep {
    /// The next megaflow to look at.
    cursor: u32,
    /// When the current pass began.
    pass: u64,
    /// When connections were looked at last.
    tracked: u64,
    /// How many are still to be looked at for the time until then.
    owed: u64,
    jobs: Vec<Job>,
}

/// Something that control asked for and that takes many rounds.
struct Job {
    cursor: u32,
    kind: JobKind,
}

enum JobKind {
    Push(SyncSender<()>),
    Dump { max: usize, list: Vec<MegaflowDump>, reply: SyncSender<Vec<MegaflowDump>> },
}

impl Sweep {
    pub fn push_all(&mut self, reply: SyncSender<()>) {
        self.jobs.push(Job { cursor: 0, kind: JobKind::Push(reply) });
    }

    pub fn dump(&mut self, max: usize, reply: SyncSender<Vec<MegaflowDump>>) {
        let kind = JobKind::Dump { max, list: Vec::new(), reply };
        self.jobs.push(Job { cursor: 0, kind });
    }

    /// Whether nothing of it is half done.
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.cursor == 0 && self.owed == 0
    }
}

impl Worker {
    /// A slice of housekeeping, after a round with packets or without. How much there was to do.
    pub(super) fn housekeeping(&mut self, packets: bool) -> usize {
        let now = self.tx.now;
        let mut work = 0;
        self.tx.expire_fragments();
        // One slice in a millisecond, more only while there are no packets: what was slept through is
        // made up for then.
        if self.me == 0 && (now != self.sweep.tracked || !packets && self.sweep.owed != 0) {
            self.sweep_connections(now);
        }
        if self.sweep.cursor != 0 || now >= self.sweep.pass + PERIOD {
            work += self.sweep_slice(now);
        }
        while let Some(mut job) = self.sweep.jobs.pop() {
            work += 1;
            if !job.step(&mut self.flows, now) {
                self.sweep.jobs.push(job);
                break;
            }
        }
        work
    }

    /// A slice of the connections that are to be looked at for the time that has passed.
    #[inline(never)]
    fn sweep_connections(&mut self, now: u64) {
        let s = &mut self.sweep;
        let passed = now.saturating_sub(s.tracked);
        s.tracked = now;
        let tracker = &self.shared.tracker;
        // A pass is enough, however long ago the last one was.
        let pass = tracker.sweep_length() as u64;
        s.owed = (s.owed + passed.saturating_mul(TRACKED_RATE)).min(pass);
        let slice = s.owed.min(TRACKED_SLICE) as usize;
        let swept = tracker.sweep(conntrack::Millis(now), slice);
        s.owed -= s.owed.min(swept.seen as u64);
    }

    fn sweep_slice(&mut self, now: u64) -> usize {
        if self.sweep.cursor == 0 {
            self.sweep.pass = now;
        }
        let max_idle = self.shared.max_idle.load(Ordering::Relaxed);
        let end = self.flows.mega.slots().min(self.sweep.cursor + SLICE);
        for id in self.sweep.cursor..end {
            if !self.flows.mega.is_live(id) {
                continue;
            }
            if self.flows.push_stats(id, now) {
                // A stale one says what was so before a change (an address that was flushed).
                if !self.flows.mega.hot(id).is_stale() {
                    self.flows.repeat_effects(id, &mut self.tx);
                }
            } else if now > self.flows.mega.hot(id).used + max_idle {
                self.flows.remove(id, now);
            }
        }
        self.sweep.cursor = end;
        if end == self.flows.mega.slots() {
            self.sweep.cursor = 0;
            self.flows.mega.tune();
            self.tx.slots.iter_mut().for_each(|s| s.queue.housekeeping());
            self.publish_counters();
        }
        1
    }

    /// Let others see what is only counted here.
    pub(super) fn publish_counters(&mut self) {
        let c: &WorkerCounters = &self.shared.workers[self.me].counters;
        let set = |to: &std::sync::atomic::AtomicU64, v: u64| to.store(v, Ordering::Relaxed);
        let n = self.flows.mega.counters;
        set(&c.cache_hits, n.cache_hits);
        set(&c.classifier_hits, n.classifier_hits);
        set(&c.probes, n.probes);
        set(&c.megaflows, self.flows.mega.len() as u64);
        set(&c.masks, self.flows.mega.subtable_count() as u64);
        set(&c.pool_frames, self.tx.pool.len() as u64);
        let held = self.tx.slots.iter().map(|s| s.queue.frames_held() as u64).sum();
        set(&c.queue_frames, held);
        set(&c.waiting, self.tx.waiting.len() as u64);
    }
}

impl Job {
    /// One slice; whether the job is done.
    fn step(&mut self, flows: &mut Flows, now: u64) -> bool {
        let end = flows.mega.slots().min(self.cursor + SLICE);
        for id in self.cursor..end {
            if !flows.mega.is_live(id) {
                continue;
            }
            match &mut self.kind {
                JobKind::Push(_) => {
                    flows.push_stats(id, now);
                }
                JobKind::Dump { max, list, .. } => {
                    if list.len() < *max {
                        list.extend(describe(flows, id, now));
                    }
                }
            }
        }
        self.cursor = end;
        if end < flows.mega.slots() {
            return false;
        }
        match &mut self.kind {
            JobKind::Push(reply) => {
                let _ = reply.try_send(());
            }
            JobKind::Dump { list, reply, .. } => {
                let _ = reply.try_send(std::mem::take(list));
            }
        }
        true
    }
}

fn describe(flows: &mut Flows, id: u32, now: u64) -> Option<MegaflowDump> {
    let matches = flows.mega.matched(id);
    let hot = flows.mega.hot(id);
    let (packets, bytes, used, tcp_flags) = (hot.packets, hot.bytes, hot.used, hot.tcp_flags);
    let (stale, program) = (hot.is_stale(), hot.program().clone());
    let note = flows.mega.note(id)?;
    Some(MegaflowDump {
        matches,
        program,
        packets,
        bytes,
        idle: now.saturating_sub(used),
        age: now.saturating_sub(note.created),
        tcp_flags,
        stale,
        rules: note.rules.iter().map(|r| r.place()).collect(),
        depends: note.depends.to_vec(),
    })
}
