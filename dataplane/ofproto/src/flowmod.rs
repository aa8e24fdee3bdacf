//! What is asked of a bridge's flow tables?
//!
//! A [`FlowMod`] is one change, a [`FlowFilter`] the choice of rules that a deletion or a listing
//! is about. Where the text comes from and what the tables hold is not known here.

use flow::Match;

use crate::action::{Action, GroupId, OfPort};
use crate::rule::Rule;

/// The priority of a rule that names none.
pub const DEFAULT_PRIORITY: u16 = 0x8000;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Add a rule; it replaces one with the same match and priority.
    Add,
    /// Change the actions of all rules within the match; add a rule if there is none and no
    /// cookie was asked for.
    Modify,
    /// The same for the one rule with this match and priority.
    ModifyStrict,
    /// Remove all rules within the match.
    Delete,
    /// Remove the one rule with this match and priority.
    DeleteStrict,
}

impl Command {
    /// Whether only the rule with the same match and priority is meant.
    pub const fn is_strict(self) -> bool {
        matches!(self, Command::ModifyStrict | Command::DeleteStrict)
    }

    /// Whether rules are removed.
    pub const fn is_delete(self) -> bool {
        matches!(self, Command::Delete | Command::DeleteStrict)
    }
}

/// Flags of a rule, with the bits of OpenFlow's `OFPFF_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct FlowFlags(pub u16);

impl FlowFlags {
    /// Say so when the rule goes.
    pub const SEND_FLOW_REM: FlowFlags = FlowFlags(1);
    /// Refuse the rule if it overlaps another of the same priority.
    pub const CHECK_OVERLAP: FlowFlags = FlowFlags(1 << 1);
    /// Start the counters again when a rule is modified or replaced.
    pub const RESET_COUNTS: FlowFlags = FlowFlags(1 << 2);
    /// Packets need not be counted.
    pub const NO_PACKET_COUNTS: FlowFlags = FlowFlags(1 << 3);
    /// Bytes need not be counted.
    pub const NO_BYTE_COUNTS: FlowFlags = FlowFlags(1 << 4);

    /// Every flag with its word, in the order in which they are written.
    pub const ALL: [(&'static str, FlowFlags); 5] = [
        ("send_flow_rem", Self::SEND_FLOW_REM),
        ("check_overlap", Self::CHECK_OVERLAP),
        ("reset_counts", Self::RESET_COUNTS),
        ("no_packet_counts", Self::NO_PACKET_COUNTS),
        ("no_byte_counts", Self::NO_BYTE_COUNTS),
    ];

    /// Whether all of `other` is set.
    pub const fn contains(self, other: FlowFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Set `other` too.
    pub fn insert(&mut self, other: FlowFlags) {
        self.0 |= other.0;
    }
}

/// One change of a bridge's flow tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowMod {
    /// What to do.
    pub command: Command,
    /// In which table; `None` is table 0 for an addition and all tables for a deletion or a
    /// modification.
    pub table: Option<u8>,
    /// Higher wins.
    pub priority: u16,
    /// What the packets are.
    pub matches: Match,
    /// The new rule's mark; for a modification, the mark that the rules get.
    pub new_cookie: Option<u64>,
    /// Only rules whose cookie is this under the mask; not for additions.
    pub cookie: u64,
    /// 0 for rules of any cookie.
    pub cookie_mask: u64,
    /// Seconds without a packet until the rule goes; 0 for never.
    pub idle_timeout: u16,
    /// Seconds until the rule goes; 0 for never.
    pub hard_timeout: u16,
    /// Which rules to keep when a table is full.
    pub importance: u16,
    /// Only rules that output to this port; for deletions.
    pub out_port: Option<OfPort>,
    /// Only rules that go to this group; for deletions.
    pub out_group: Option<GroupId>,
    /// Flags of the rule.
    pub flags: FlowFlags,
    /// What to do with the packets; empty to drop them.
    pub actions: Box<[Action]>,
}

/// Which rules a listing or a deletion is about.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct FlowFilter {
    /// Of this table; `None` for all.
    pub table: Option<u8>,
    /// Within this match.
    pub matches: Match,
    /// Whose cookie is this under the mask.
    pub cookie: u64,
    /// 0 for any cookie.
    pub cookie_mask: u64,
    /// That output to this port.
    pub out_port: Option<OfPort>,
    /// That go to this group.
    pub out_group: Option<GroupId>,
}

impl FlowFilter {
    /// Whether a rule's cookie and actions are what is asked for; its match and table are for
    /// the caller to compare.
    pub fn admits(&self, cookie: u64, actions: &[Action]) -> bool {
        (cookie ^ self.cookie) & self.cookie_mask == 0
            && self.out_port.is_none_or(|p| outputs_to(actions, p))
            && self.out_group.is_none_or(|g| goes_to_group(actions, g))
    }
}

impl FlowMod {
    /// Whether a rule is as this addition would make it; table, priority and match are for the
    /// caller to compare.
    pub fn makes(&self, rule: &Rule) -> bool {
        rule.cookie == self.new_cookie.unwrap_or(0)
            && rule.idle_timeout() == self.idle_timeout
            && rule.hard_timeout() == self.hard_timeout
            && rule.importance == self.importance
            && rule.flags == self.flags.0
            && rule.actions == self.actions
    }

    /// The rules that a modification or deletion is about.
    pub fn filter(&self) -> FlowFilter {
        FlowFilter {
            table: self.table,
            matches: self.matches.clone(),
            cookie: self.cookie,
            cookie_mask: self.cookie_mask,
            out_port: self.out_port,
            out_group: self.out_group,
        }
    }
}

/// Whether a list outputs to that port, at any depth.
pub fn outputs_to(actions: &[Action], port: OfPort) -> bool {
    actions.iter().any(|a| match a {
        Action::Output { port: p, .. } | Action::OutputTrunc { port: p, .. } => *p == port,
        Action::Controller(_) => port == OfPort::CONTROLLER,
        _ => outputs_to(a.nested(), port),
    })
}

/// Whether a list goes to that group, at any depth.
pub fn goes_to_group(actions: &[Action], group: GroupId) -> bool {
    actions.iter().any(|a| *a == Action::Group(group) || goes_to_group(a.nested(), group))
}
