//! One OpenFlow rule, as tables and translation see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

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
        // Mostly the time is known, and a look is cheaper than a change.
        if self.used.load(Ordering::Relaxed) < used {
            self.used.fetch_max(used, Ordering::Relaxed);
        }
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
    /// Seconds without a packet until it goes; 0 for never. Only [`Rule::shorten`] changes it.
    pub idle_timeout: AtomicU16,
    /// Seconds until it goes; 0 for never. Only [`Rule::shorten`] changes it.
    pub hard_timeout: AtomicU16,
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

impl Rule {
    /// Where it is and whose: [`crate::snapshot::Bridge::table_id`] and its cookie.
    pub fn place(&self) -> (u32, u64) {
        (u32::from(self.bridge.0) << 8 | u32::from(self.table), self.cookie)
    }

    /// Seconds without a packet until it goes; 0 for never.
    pub fn idle_timeout(&self) -> u16 {
        self.idle_timeout.load(Ordering::Relaxed)
    }

    /// Seconds until it goes; 0 for never.
    pub fn hard_timeout(&self) -> u16 {
        self.hard_timeout.load(Ordering::Relaxed)
    }

    /// Let its timeouts be at most these (`fin_timeout` of ovs-actions(7)); 0 for no change.
    pub fn shorten(&self, idle: u16, hard: u16) {
        for (timeout, most) in [(&self.idle_timeout, idle), (&self.hard_timeout, hard)] {
            let shorter = |t: u16| (most != 0 && (t == 0 || t > most)).then_some(most);
            let _ = timeout.fetch_update(Ordering::Relaxed, Ordering::Relaxed, shorter);
        }
    }
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
