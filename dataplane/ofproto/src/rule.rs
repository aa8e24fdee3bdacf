//! One OpenFlow rule, as tables and translation see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use classifier::Conjunction;
use flow::Match;

use crate::action::Action;
use crate::snapshot::BridgeId;

/// What a rule's packets were; shared by the versions of a rule that a modification makes.
#[derive(Debug, Default)]
pub struct RuleStats {
    /// Packets that the rule handled.
    pub packets: AtomicU64,
    /// Bytes of those packets.
    pub bytes: AtomicU64,
    /// When the last one was, in milliseconds of the switch's clock; 0 for never.
    pub used: AtomicU64,
}

impl RuleStats {
    /// Add what a megaflow counted since it was last asked.
    pub fn add(&self, packets: u64, bytes: u64, used: u64) {
        self.packets.fetch_add(packets, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.used.fetch_max(used, Ordering::Relaxed);
    }
}

/// A rule of a table. Immutable once published; a modification makes a new one with another id.
#[derive(Debug)]
pub struct Rule {
    /// Unique for the life of the process.
    pub id: u64,
    /// What it matches.
    pub matches: Match,
    /// Higher wins.
    pub priority: u16,
    /// The bridge it is in.
    pub bridge: BridgeId,
    /// The table it is in.
    pub table: u8,
    /// `OFPFF_*` flags.
    pub flags: u16,
    /// Seconds without a packet until it goes; 0 for never.
    pub idle_timeout: u16,
    /// Seconds until it goes; 0 for never.
    pub hard_timeout: u16,
    /// Only for eviction.
    pub importance: u16,
    /// The controller's own mark.
    pub cookie: u64,
    /// What it does.
    pub actions: Box<[Action]>,
    /// The clauses of `conjunction` actions.
    pub conjunctions: Box<[Conjunction]>,
    /// When it was added, in milliseconds of the switch's clock.
    pub created: u64,
    /// When it was added, modified or learned again last.
    pub modified: AtomicU64,
    /// Its counters.
    pub stats: Arc<RuleStats>,
}

impl classifier::Rule for Rule {
    fn matches(&self) -> &Match {
        &self.matches
    }
    fn priority(&self) -> u16 {
        self.priority
    }
    fn conjunctions(&self) -> &[Conjunction] {
        &self.conjunctions
    }
}
