//! What a packet cost a worker by stage, between two times.

use std::sync::atomic::Ordering;

use engine::stages::{Stage, StageCounters};

/// What a worker's clock had come to at one time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stages {
    packets: u64,
    cycles: [u64; Stage::COUNT],
}

impl Stages {
    /// Now.
    pub fn read(counters: &StageCounters) -> Self {
        let packets = counters.packets.load(Ordering::Relaxed);
        Self { packets, cycles: Stage::ALL.map(|stage| counters.cycles(stage)) }
    }

    /// Cycles a packet since then, in the order of [`Stage::ALL`]; zeros if no round was timed.
    pub fn since(&self, then: &Self) -> [f64; Stage::COUNT] {
        let packets = self.packets.wrapping_sub(then.packets).max(1) as f64;
        std::array::from_fn(|i| self.cycles[i].wrapping_sub(then.cycles[i]) as f64 / packets)
    }
}
