//! Where do a worker's cycles go?
//!
//! Every [`EVERY`]th round is timed: the worker says when it enters another [`Stage`], and the cycles
//! since it entered the one before are that one's. In all other rounds entering a stage costs a test of
//! a flag. Rounds that find no packets are not counted.

use std::sync::atomic::{AtomicU64, Ordering};

use flow::cpu::cycles;

use crate::shared::add;

/// One round of so many is timed: reading the cycle counter takes some 20 cycles, and a round of full
/// bursts has about a dozen changes of stage.
const EVERY: u32 = 32;

/// What a worker does with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Taking packets from queues, and what is done once a round.
    Receive,
    /// Reading headers into keys.
    Extract,
    /// The exact-match cache.
    Cache,
    /// Subtables of megaflows.
    Classifier,
    /// Translation of packets that no megaflow covers.
    Upcall,
    /// Steps of programs: changes, outer headers, copies.
    Actions,
    /// Tracking and translating connections.
    Conntrack,
    /// Giving packets to queues, and frames back.
    Transmit,
}

impl Stage {
    /// How many there are.
    pub const COUNT: usize = 8;
    /// All of them, in the order in which a packet meets them.
    pub const ALL: [Stage; Stage::COUNT] = [
        Stage::Receive,
        Stage::Extract,
        Stage::Cache,
        Stage::Classifier,
        Stage::Upcall,
        Stage::Actions,
        Stage::Conntrack,
        Stage::Transmit,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Receive => "receive",
            Stage::Extract => "extract",
            Stage::Cache => "cache",
            Stage::Classifier => "classifier",
            Stage::Upcall => "upcall",
            Stage::Actions => "actions",
            Stage::Conntrack => "conntrack",
            Stage::Transmit => "transmit",
        }
    }
}

/// What the timed rounds of a worker came to since it started.
#[derive(Default)]
pub struct StageCounters {
    /// Packets received in them.
    pub packets: AtomicU64,
    cycles: [AtomicU64; Stage::COUNT],
}

impl StageCounters {
    /// Cycles that a stage took.
    pub fn cycles(&self, stage: Stage) -> u64 {
        self.cycles[stage as usize].load(Ordering::Relaxed)
    }
}

/// A worker's own clock.
pub struct StageClock {
    /// Whether this round is timed.
    on: bool,
    stage: Stage,
    /// When it was entered.
    since: u64,
    spent: [u64; Stage::COUNT],
    /// Rounds until one is timed.
    rounds: u32,
}

impl Default for StageClock {
    fn default() -> Self {
        let spent = [0; Stage::COUNT];
        StageClock { on: false, stage: Stage::Receive, since: 0, spent, rounds: EVERY }
    }
}

impl StageClock {
    /// A round begins, with [`Stage::Receive`].
    #[inline(always)]
    pub fn begin(&mut self) {
        self.rounds -= 1;
        if self.rounds == 0 {
            self.start();
        }
    }

    #[cold]
    fn start(&mut self) {
        (self.rounds, self.on, self.stage) = (EVERY, true, Stage::Receive);
        self.spent = [0; Stage::COUNT];
        self.since = cycles();
    }

    /// What follows belongs to a stage; the one before is returned, to come back to.
    #[inline(always)]
    pub fn enter(&mut self, stage: Stage) -> Stage {
        if self.on { self.change(stage) } else { stage }
    }

    #[cold]
    fn change(&mut self, stage: Stage) -> Stage {
        let now = cycles();
        self.spent[self.stage as usize] += now.wrapping_sub(self.since);
        self.since = now;
        std::mem::replace(&mut self.stage, stage)
    }

    /// The round is over, and has received so many packets.
    #[inline(always)]
    pub fn end(&mut self, packets: u64, to: &StageCounters) {
        if self.on {
            self.finish(packets, to);
        }
    }

    #[cold]
    fn finish(&mut self, packets: u64, to: &StageCounters) {
        self.change(Stage::Receive);
        self.on = false;
        if packets == 0 {
            return;
        }
        add(&to.packets, packets);
        for (spent, to) in self.spent.iter().zip(&to.cycles) {
            add(to, *spent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_with_packets_are_counted_now_and_then() {
        let (mut clock, counters) = (StageClock::default(), StageCounters::default());
        for round in 0..EVERY * 6 {
            clock.begin();
            clock.enter(Stage::Extract);
            let before = clock.enter(Stage::Upcall);
            clock.enter(before);
            // Half of the rounds find nothing.
            clock.end(if round < EVERY * 3 { 2 } else { 0 }, &counters);
        }
        assert_eq!(counters.packets.load(Ordering::Relaxed), 3 * 2);
        for untouched in [Stage::Cache, Stage::Conntrack, Stage::Transmit] {
            assert_eq!(counters.cycles(untouched), 0);
        }
    }

    #[test]
    fn a_stage_is_come_back_to() {
        let mut clock = StageClock::default();
        clock.start();
        assert_eq!(clock.enter(Stage::Actions), Stage::Receive);
        let was = clock.enter(Stage::Conntrack);
        assert_eq!(was, Stage::Actions);
        assert_eq!(clock.enter(was), Stage::Conntrack);
    }
}
