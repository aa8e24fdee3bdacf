//! Flow-mods on a bridge: whole batches, or nothing of them.
//!
//! The semantics of OpenFlow's five commands as `ovs-ofctl(8)` gives them, over the primitives of
//! [`crate::rules`]. A batch works on the version in preparation; if one of it is refused, the
//! version is what it was before.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use classifier::Rule as _;

use crate::action::{Action, Learn};
use crate::flowmod::{Command, FlowFilter, FlowFlags, FlowMod};
use crate::rule::Rule;
use crate::rules::RuleSpec;
use crate::snapshot::{Bridge, BridgeId, TABLES};
use crate::switch::Switch;
use crate::xlate::LearnedFlow;

/// Rules that a bridge may have.
pub const MAX_RULES: usize = 4_000_000;

/// Why a rule went, with the numbers of `OFPRR_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No packet for its idle timeout.
    IdleTimeout = 0,
    /// Its hard timeout.
    HardTimeout = 1,
    /// A flow-mod.
    Delete = 2,
    /// Its group went.
    GroupDelete = 3,
}

/// A rule that went.
#[derive(Clone, Debug)]
pub struct Removed {
    /// The rule, with its last counters.
    pub rule: Arc<Rule>,
    /// Why.
    pub reason: Reason,
}

/// Why a flow-mod was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowModError {
    /// It overlaps another rule of its priority, and `check_overlap` was asked for.
    Overlap,
    /// The bridge has [`MAX_RULES`].
    TableFull,
    /// There is no such table.
    BadTable(u8),
    /// It goes to a group that does not exist.
    NoGroup(u32),
    /// There is no such bridge.
    NoBridge,
}

impl std::fmt::Display for FlowModError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FlowModError::Overlap => {
                write!(f, "check_overlap: a flow of the same priority overlaps this one")
            }
            FlowModError::TableFull => write!(f, "the bridge has {MAX_RULES} flows, its limit"),
            FlowModError::BadTable(t) => {
                write!(f, "table {t}: expected a table from 0 to {}", TABLES - 1)
            }
            FlowModError::NoGroup(g) => write!(f, "group {g} does not exist"),
            FlowModError::NoBridge => write!(f, "no such bridge"),
        }
    }
}

impl std::error::Error for FlowModError {}

/// What a batch of changes has done.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Rules that were removed (not those that were replaced).
    pub removed: Vec<Removed>,
    /// Rules that were added, replaced or modified.
    pub changed: usize,
}

impl Switch {
    /// Apply a batch, in order, whole or not at all.
    ///
    /// # Errors
    /// The index of the one that was refused, and why.
    pub fn apply_flow_mods(
        &mut self,
        id: BridgeId,
        mods: &[FlowMod],
        now: u64,
    ) -> Result<Outcome, (usize, FlowModError)> {
        let before = self.save();
        let mut outcome = Outcome::default();
        for (i, m) in mods.iter().enumerate() {
            if let Err(e) = self.apply_flow_mod(id, m, now, &mut outcome) {
                self.restore(before);
                return Err((i, e));
            }
        }
        Ok(outcome)
    }

    fn apply_flow_mod(
        &mut self,
        id: BridgeId,
        m: &FlowMod,
        now: u64,
        outcome: &mut Outcome,
    ) -> Result<(), FlowModError> {
        let bridge = self.bridge(id).ok_or(FlowModError::NoBridge)?;
        if let Some(t) = m.table.filter(|t| usize::from(*t) >= TABLES) {
            return Err(FlowModError::BadTable(t));
        }
        if !m.command.is_delete()
            && let Some(g) = missing_group(bridge, &m.actions)
        {
            return Err(FlowModError::NoGroup(g));
        }
        match m.command {
            Command::Add => self.add_flow(id, m, now, outcome),
            Command::Modify | Command::ModifyStrict => {
                let rules = self.chosen(id, m);
                if rules.is_empty() && m.cookie_mask == 0 {
                    return self.add_flow(id, m, now, outcome);
                }
                for rule in rules {
                    let cookie = m.new_cookie.unwrap_or(rule.cookie);
                    if m.flags.contains(FlowFlags::RESET_COUNTS) {
                        rule.stats.packets.store(0, Ordering::Relaxed);
                        rule.stats.bytes.store(0, Ordering::Relaxed);
                    }
                    self.modify_rule(id, &rule, m.actions.clone(), cookie, now);
                    outcome.changed += 1;
                    self.learned_with(id, &rule, outcome);
                }
                Ok(())
            }
            Command::Delete | Command::DeleteStrict => {
                for rule in self.chosen(id, m) {
                    self.delete(id, &rule, Reason::Delete, outcome);
                }
                Ok(())
            }
        }
    }

    /// Make a bridge's flows exactly these. Flows that are there already as they should be stay, with
    /// their counters.
    ///
    /// # Errors
    /// The index of the one that was refused, and why; nothing is changed.
    pub fn replace_flows(
        &mut self,
        id: BridgeId,
        mods: &[FlowMod],
        now: u64,
    ) -> Result<Outcome, (usize, FlowModError)> {
        let before = self.save();
        let mut outcome = Outcome::default();
        let wanted: HashSet<_> =
            mods.iter().map(|m| (m.table.unwrap_or(0), m.priority, &m.matches)).collect();
        for rule in self.select(id, &FlowFilter::default()) {
            if !wanted.contains(&(rule.table, rule.priority, &rule.matches)) {
                self.delete(id, &rule, Reason::Delete, &mut outcome);
            }
        }
        for (i, m) in mods.iter().enumerate() {
            let known = self.bridge(id).and_then(|b| {
                b.tables.get(m.table.unwrap_or(0))?.find_exact(&m.matches, m.priority)
            });
            if known.is_some_and(|r| m.makes(r)) {
                continue;
            }
            if let Err(e) = self.apply_flow_mod(id, m, now, &mut outcome) {
                self.restore(before);
                return Err((i, e));
            }
        }
        Ok(outcome)
    }

    fn add_flow(
        &mut self,
        id: BridgeId,
        m: &FlowMod,
        now: u64,
        outcome: &mut Outcome,
    ) -> Result<(), FlowModError> {
        let table = m.table.unwrap_or(0);
        let bridge = self.bridge(id).ok_or(FlowModError::NoBridge)?;
        let rules = bridge.tables.get(table);
        let known = rules.is_some_and(|t| t.find_exact(&m.matches, m.priority).is_some());
        if m.flags.contains(FlowFlags::CHECK_OVERLAP)
            && !known
            && rules.is_some_and(|t| t.find_overlap(&m.matches, m.priority).is_some())
        {
            return Err(FlowModError::Overlap);
        }
        if !known && self.rule_count(id) >= MAX_RULES {
            return Err(FlowModError::TableFull);
        }
        let spec = RuleSpec {
            table,
            priority: m.priority,
            matches: m.matches.clone(),
            actions: m.actions.clone(),
            cookie: m.new_cookie.unwrap_or(0),
            idle_timeout: m.idle_timeout,
            hard_timeout: m.hard_timeout,
            flags: m.flags.0,
            importance: m.importance,
        };
        let old = self.add_rule(id, spec, now);
        outcome.changed += 1;
        if let Some(old) = old {
            self.learned_with(id, &old, outcome);
        }
        Ok(())
    }

    /// The rules that a modification or deletion is about.
    fn chosen(&self, id: BridgeId, m: &FlowMod) -> Vec<Arc<Rule>> {
        if !m.command.is_strict() {
            return self.select(id, &m.filter());
        }
        let Some(bridge) = self.bridge(id) else { return Vec::new() };
        let filter = m.filter();
        let tables = bridge.tables.iter().filter(|(t, _)| m.table.is_none_or(|w| w == *t));
        tables
            .filter_map(|(_, t)| t.find_exact(&m.matches, m.priority))
            .filter(|r| filter.admits(r.cookie, &r.actions))
            .cloned()
            .collect()
    }

    /// The rules that a filter chooses, in no order.
    pub fn select(&self, id: BridgeId, filter: &FlowFilter) -> Vec<Arc<Rule>> {
        let Some(bridge) = self.bridge(id) else { return Vec::new() };
        let tables = bridge.tables.iter().filter(|(t, _)| filter.table.is_none_or(|w| w == *t));
        tables
            .flat_map(|(_, t)| t.loosely_within(&filter.matches))
            .filter(|r| filter.admits(r.cookie, &r.actions))
            .cloned()
            .collect()
    }

    /// Rules of a bridge.
    pub fn rule_count(&self, id: BridgeId) -> usize {
        self.bridge(id).map_or(0, |b| b.tables.iter().map(|(_, t)| t.len()).sum())
    }

    pub(crate) fn delete(
        &mut self,
        id: BridgeId,
        rule: &Rule,
        reason: Reason,
        outcome: &mut Outcome,
    ) {
        let Some(rule) = self.remove_rule(id, rule) else { return };
        outcome.removed.push(Removed { rule: rule.clone(), reason });
        self.learned_with(id, &rule, outcome);
    }

    /// Delete what a rule has learned that is gone, or has other actions now.
    fn learned_with(&mut self, id: BridgeId, rule: &Rule, outcome: &mut Outcome) {
        for learn in learns_to_delete(&rule.actions) {
            self.delete_learned(id, learn, outcome);
        }
    }

    /// The flows that a `learn(delete_learned)` made go with the last rule that has it.
    fn delete_learned(&mut self, id: BridgeId, learn: &Learn, outcome: &mut Outcome) {
        let same = |l: &Learn| l.cookie == learn.cookie && l.table == learn.table;
        let still_there = self.bridge(id).is_some_and(|b| {
            let mut rules = b.tables.iter().flat_map(|(_, t)| t.iter());
            rules.any(|r| learns_to_delete(&r.actions).into_iter().any(same))
        });
        if still_there {
            return;
        }
        let filter = FlowFilter {
            table: Some(learn.table),
            cookie: learn.cookie,
            cookie_mask: u64::MAX,
            ..FlowFilter::default()
        };
        for rule in self.select(id, &filter) {
            self.delete(id, &rule, Reason::Delete, outcome);
        }
    }

    /// Remove the rules whose time is over, in all bridges.
    pub fn expire_rules(&mut self, now: u64) -> Vec<(BridgeId, Removed)> {
        let ids: Vec<BridgeId> = self.bridges().map(|(_, id)| id).collect();
        let mut out = Vec::new();
        for id in ids {
            let mut outcome = Outcome::default();
            for (rule, hard) in self.expired_rules(id, now) {
                let reason = if hard { Reason::HardTimeout } else { Reason::IdleTimeout };
                self.delete(id, &rule, reason, &mut outcome);
            }
            out.extend(outcome.removed.into_iter().map(|r| (id, r)));
        }
        out
    }

    /// A packet has made a flow. One that is there already only starts its time again.
    pub fn learn_flow(&mut self, id: BridgeId, flow: &LearnedFlow, now: u64) {
        let learn = &flow.learn;
        let Some(bridge) = self.bridge(id) else { return };
        let rules = bridge.tables.get(learn.table);
        if let Some(old) = rules.and_then(|t| t.find_exact(&flow.matches, learn.priority)) {
            if old.actions == flow.actions && old.cookie == learn.cookie {
                old.modified.fetch_max(now, Ordering::Relaxed);
                return;
            }
        } else if learn.limit != 0 {
            let count = bridge.limited.get(&(learn.table, learn.cookie));
            // Without a count, the rule that learned is gone.
            if count.is_none_or(|c| c.rules >= learn.limit) {
                return;
            }
        }
        if self.rule_count(id) >= MAX_RULES {
            return;
        }
        let flags = if learn.send_flow_rem { FlowFlags::SEND_FLOW_REM.0 } else { 0 };
        let spec = RuleSpec {
            table: learn.table,
            priority: learn.priority,
            matches: flow.matches.clone(),
            actions: flow.actions.clone(),
            cookie: learn.cookie,
            idle_timeout: learn.idle_timeout,
            hard_timeout: learn.hard_timeout,
            flags,
            importance: 0,
        };
        self.add_rule(id, spec, now);
    }
}

fn missing_group(bridge: &Bridge, actions: &[Action]) -> Option<u32> {
    actions.iter().find_map(|a| match a {
        Action::Group(g) if !bridge.groups.contains_key(&g.0) => Some(g.0),
        _ => missing_group(bridge, a.nested()),
    })
}

/// The `learn` actions with `delete_learned`, nested ones too.
fn learns_to_delete(actions: &[Action]) -> Vec<&Learn> {
    let mut all = Vec::new();
    for action in actions {
        match action {
            Action::Learn(learn) if learn.delete_learned => all.push(&**learn),
            _ => all.extend(learns_to_delete(action.nested())),
        }
    }
    all
}

/// Sort rules as they are listed: by table, priority descending, match.
pub fn sort_rules(rules: &mut [Arc<Rule>]) {
    rules.sort_by(|a, b| {
        (a.table, std::cmp::Reverse(a.priority), a.matches()).cmp(&(
            b.table,
            std::cmp::Reverse(b.priority),
            b.matches(),
        ))
    });
}
