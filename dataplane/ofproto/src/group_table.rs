//! Changing a bridge's groups.
//!
//! A group is published with its counters, which translation hands to whoever counts packets. A
//! changed group counts from zero.

use std::sync::Arc;

use crate::flow_table::{Outcome, Reason};
use crate::flowmod::FlowFilter;
use crate::group::{Group, GroupCommand, GroupError, GroupMod};
use crate::rule::RuleStats;
use crate::snapshot::{BridgeId, Change, Dep};
use crate::switch::Switch;

/// A group of a bridge, with its counters.
#[derive(Debug)]
pub struct GroupEntry {
    /// The group.
    pub group: Group,
    /// When it was added or changed, in milliseconds of the switch's clock.
    pub created: u64,
    /// What went through it.
    pub stats: Arc<RuleStats>,
    /// What went through each bucket, in their order.
    pub bucket_stats: Box<[Arc<RuleStats>]>,
}

impl GroupEntry {
    fn new(group: Group, now: u64) -> GroupEntry {
        let bucket_stats = group.buckets.iter().map(|_| Arc::default()).collect();
        GroupEntry { group, created: now, stats: Arc::default(), bucket_stats }
    }
}

impl std::ops::Deref for GroupEntry {
    type Target = Group;
    fn deref(&self) -> &Group {
        &self.group
    }
}

impl Switch {
    /// Apply changes of groups, in order, whole or not at all.
    ///
    /// # Errors
    /// The index of the one that was refused, and why.
    pub fn apply_group_mods(
        &mut self,
        id: BridgeId,
        mods: &[GroupMod],
        now: u64,
    ) -> Result<Outcome, (usize, GroupChange)> {
        let before = self.save();
        let mut outcome = Outcome::default();
        for (i, m) in mods.iter().enumerate() {
            if let Err(e) = self.apply_group_mod(id, m, now, &mut outcome) {
                self.restore(before);
                return Err((i, e));
            }
        }
        Ok(outcome)
    }

    fn apply_group_mod(
        &mut self,
        id: BridgeId,
        m: &GroupMod,
        now: u64,
        outcome: &mut Outcome,
    ) -> Result<(), GroupChange> {
        let number = m.group.id.0;
        match m.command {
            GroupCommand::Add => self.set_group(id, m.group.clone(), false, false, now)?,
            GroupCommand::Modify => self.set_group(id, m.group.clone(), true, false, now)?,
            GroupCommand::AddOrModify => self.set_group(id, m.group.clone(), true, true, now)?,
            GroupCommand::Delete => {
                let gone = self.remove_group(id, (!m.all).then_some(number));
                outcome.removed.extend(gone.removed);
            }
            GroupCommand::InsertBucket | GroupCommand::RemoveBucket => {
                let bridge = self.bridge(id).ok_or(GroupChange::NoBridge)?;
                let old = bridge.groups.get(&number).ok_or(GroupChange::Missing(number))?;
                let changed = m.change_buckets(old).map_err(GroupChange::Bad)?;
                self.set_group(id, changed, true, false, now)?;
            }
        }
        outcome.changed += usize::from(m.command != GroupCommand::Delete);
        Ok(())
    }

    /// Add a group, or replace the one with its number if `replace`.
    ///
    /// # Errors
    /// [`GroupChange`]: it exists, it does not, or it may not be as it is.
    pub fn set_group(
        &mut self,
        id: BridgeId,
        group: Group,
        replace: bool,
        may_create: bool,
        now: u64,
    ) -> Result<(), GroupChange> {
        group.check().map_err(GroupChange::Bad)?;
        let bridge = self.bridge_mut(id).ok_or(GroupChange::NoBridge)?;
        let number = group.id.0;
        match (bridge.groups.contains_key(&number), replace) {
            (true, false) => return Err(GroupChange::Exists(number)),
            (false, true) if !may_create => return Err(GroupChange::Missing(number)),
            _ => {}
        }
        bridge.groups.insert(number, Arc::new(GroupEntry::new(group, now)));
        self.changed(Change::Dep(Dep::Group(id, number)));
        Ok(())
    }

    /// Remove a group (`None`: all) and the rules that go to it.
    pub fn remove_group(&mut self, id: BridgeId, number: Option<u32>) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(bridge) = self.bridge_mut(id) else { return outcome };
        let gone: Vec<u32> =
            bridge.groups.keys().filter(|g| number.is_none_or(|n| n == **g)).copied().collect();
        for number in gone {
            if let Some(bridge) = self.bridge_mut(id) {
                bridge.groups.remove(&number);
            }
            self.changed(Change::Dep(Dep::Group(id, number)));
            let filter = FlowFilter {
                out_group: Some(crate::action::GroupId(number)),
                ..FlowFilter::default()
            };
            for rule in self.select(id, &filter) {
                self.delete(id, &rule, Reason::GroupDelete, &mut outcome);
            }
        }
        outcome
    }
}

/// Why a group was not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupChange {
    /// There is one with that number.
    Exists(u32),
    /// There is none with that number.
    Missing(u32),
    /// It may not be as it is.
    Bad(GroupError),
    /// There is no such bridge.
    NoBridge,
}

impl std::fmt::Display for GroupChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            GroupChange::Exists(n) => write!(f, "group {n} exists already"),
            GroupChange::Missing(n) => write!(f, "group {n} does not exist"),
            GroupChange::Bad(e) => e.fmt(f),
            GroupChange::NoBridge => write!(f, "no such bridge"),
        }
    }
}

impl std::error::Error for GroupChange {}
