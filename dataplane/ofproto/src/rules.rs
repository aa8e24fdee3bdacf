//! Changing the rules of a bridge's tables.
//!
//! The primitives that flow-mods, learned flows, timeouts and compiled configuration are made of.
//! Each notes what it changes, so that exactly the megaflows that it touches are translated again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use classifier::Conjunction;
use flow::Match;

use crate::action::{Action, Learn};
use crate::rule::{Rule, RuleStats};
use crate::snapshot::{Bridge, BridgeId, Change, Dep, Limited};
use crate::switch::Switch;

/// A rule to be.
#[derive(Clone, Debug)]
pub struct RuleSpec {
    /// The table.
    pub table: u8,
    /// Higher wins.
    pub priority: u16,
    /// What it matches.
    pub matches: Match,
    /// What it does.
    pub actions: Box<[Action]>,
    /// The controller's own mark.
    pub cookie: u64,
    /// Seconds; 0 for never.
    pub idle_timeout: u16,
    /// Seconds; 0 for never.
    pub hard_timeout: u16,
    /// `OFPFF_*`.
    pub flags: u16,
    /// For eviction.
    pub importance: u16,
}

impl RuleSpec {
    /// A rule without timeouts, flags or cookie.
    pub fn new(table: u8, priority: u16, matches: Match, actions: Vec<Action>) -> RuleSpec {
        RuleSpec {
            table,
            priority,
            matches,
            actions: actions.into(),
            cookie: 0,
            idle_timeout: 0,
            hard_timeout: 0,
            flags: 0,
            importance: 0,
        }
    }
}

impl Switch {
    /// Add a rule; one with the same match and priority goes, and is returned.
    pub fn add_rule(&mut self, id: BridgeId, spec: RuleSpec, now: u64) -> Option<Arc<Rule>> {
        let rule = self.make_rule(id, spec, now, RuleStats::default().into(), now);
        self.put_rule(id, Arc::new(rule))
    }

    /// Exchange a rule's actions (and cookie) for others. Counters and age stay.
    pub fn modify_rule(
        &mut self,
        id: BridgeId,
        old: &Rule,
        actions: Box<[Action]>,
        cookie: u64,
        now: u64,
    ) {
        let spec = RuleSpec {
            table: old.table,
            priority: old.priority,
            matches: old.matches.clone(),
            actions,
            cookie,
            idle_timeout: old.idle_timeout(),
            hard_timeout: old.hard_timeout(),
            flags: old.flags,
            importance: old.importance,
        };
        let rule = self.make_rule(id, spec, old.created, old.stats.clone(), now);
        self.put_rule(id, Arc::new(rule));
    }

    fn make_rule(
        &mut self,
        bridge: BridgeId,
        spec: RuleSpec,
        created: u64,
        stats: Arc<RuleStats>,
        now: u64,
    ) -> Rule {
        self.next_rule += 1;
        Rule {
            id: self.next_rule,
            conjunctions: conjunctions(&spec.actions),
            matches: spec.matches,
            priority: spec.priority,
            bridge,
            table: spec.table,
            flags: spec.flags,
            idle_timeout: AtomicU16::new(spec.idle_timeout),
            hard_timeout: AtomicU16::new(spec.hard_timeout),
            importance: spec.importance,
            cookie: spec.cookie,
            actions: spec.actions,
            created,
            modified: AtomicU64::new(now),
            stats,
        }
    }

    fn put_rule(&mut self, id: BridgeId, rule: Arc<Rule>) -> Option<Arc<Rule>> {
        let bridge = self.bridge_mut(id)?;
        let (table, number) = (bridge.table_id(rule.table), rule.table);
        let old = bridge.tables.get_mut(number).insert(rule.clone());
        if let Some(old) = old.as_ref().filter(|old| !Arc::ptr_eq(&old.stats, &rule.stats)) {
            bridge.count_gone(old);
        }
        self.count_limited(id, old.as_deref(), Some(&rule));
        if let Some(old) = &old {
            self.rule_gone(table, old);
        }
        let (matches, priority) = (rule.matches.clone(), rule.priority);
        self.changed(Change::RuleAdded { table, matches, priority });
        self.note_timeouts(&rule);
        old
    }

    /// Remove a rule, if it is still the one in its table.
    pub fn remove_rule(&mut self, id: BridgeId, rule: &Rule) -> Option<Arc<Rule>> {
        let bridge = self.bridge_mut(id)?;
        let table = bridge.table_id(rule.table);
        let rules = bridge.tables.get_mut(rule.table);
        if rules.find_exact(&rule.matches, rule.priority).is_none_or(|r| r.id != rule.id) {
            return None;
        }
        let old = rules.remove(&rule.matches, rule.priority)?;
        bridge.count_gone(&old);
        self.count_limited(id, Some(&old), None);
        self.rule_gone(table, &old);
        Some(old)
    }

    /// Count rules that came and went, where a `learn` with a limit asks for it.
    fn count_limited(&mut self, id: BridgeId, gone: Option<&Rule>, came: Option<&Rule>) {
        let mut counted = Vec::new();
        for (rule, came) in [(came, true), (gone, false)] {
            for learn in rule.into_iter().flat_map(|r| limited_learns(&r.actions)) {
                counted.extend(self.count_learn(id, learn, came));
            }
        }
        if self.bridge(id).is_none_or(|b| b.limited.is_empty()) {
            return;
        }
        let places = [gone, came].map(|r| r.map(|r| (r.table, r.cookie)));
        if places[0] == places[1] {
            return;
        }
        for (place, came) in places.into_iter().zip([false, true]) {
            let Some(place) = place.filter(|p| !counted.contains(p)) else { continue };
            let Some(bridge) = self.bridge_mut(id) else { return };
            let Some(count) = bridge.limited.get_mut(&place) else { continue };
            let was_full = count.rules >= count.limit;
            count.rules = if came { count.rules + 1 } else { count.rules.saturating_sub(1) };
            if was_full != (count.rules >= count.limit) {
                self.changed(Change::Dep(Dep::Limited(id, place.0, place.1)));
            }
        }
    }

    /// A `learn` with a limit came with its rule, or went with it. The place whose rules were counted
    /// one by one for it, as they are now.
    fn count_learn(&mut self, id: BridgeId, learn: &Learn, came: bool) -> Option<(u8, u64)> {
        let place = (learn.table, learn.cookie);
        let mut counted = None;
        let bridge = self.bridge_mut(id)?;
        match bridge.limited.get_mut(&place) {
            Some(count) if came => {
                (count.learns, count.limit) = (count.learns + 1, learn.limit);
            }
            Some(count) if count.learns > 1 => count.learns -= 1,
            Some(_) => drop(bridge.limited.remove(&place)),
            None if came => {
                let has_cookie = |r: &&Arc<Rule>| r.cookie == learn.cookie;
                let table = bridge.tables.get(learn.table);
                let rules = table.map_or(0, |t| t.iter().filter(has_cookie).count()) as u32;
                let count = Limited { rules, learns: 1, limit: learn.limit };
                bridge.limited.insert(place, count);
                counted = Some(place);
            }
            None => {}
        }
        self.changed(Change::Dep(Dep::Limited(id, place.0, place.1)));
        counted
    }

    fn rule_gone(&mut self, table: u32, rule: &Rule) {
        let matches = rule.matches.clone();
        if !rule.conjunctions.is_empty() {
            // Decisions that did not end in this rule were made from it too.
            let (matches, priority) = (matches.clone(), rule.priority);
            self.changed(Change::RuleAdded { table, matches, priority });
        }
        self.changed(Change::RuleGone { table, matches, rule: rule.id });
    }

    /// Rules whose time is over, with whether it was the hard timeout.
    pub fn expired_rules(&self, id: BridgeId, now: u64) -> Vec<(Arc<Rule>, bool)> {
        if !self.control.get(&id).is_some_and(|c| c.has_timeouts) {
            return Vec::new();
        }
        let Some(bridge) = self.bridge(id) else { return Vec::new() };
        let rules = bridge.tables.iter().flat_map(|(_, t)| t.iter());
        rules.filter_map(|r| Some((r.clone(), expiry(r, now)?))).collect()
    }

    fn note_timeouts(&mut self, rule: &Rule) {
        let may_get_one = |a: &Action| matches!(a, Action::FinTimeout { .. });
        if (rule.idle_timeout() != 0
            || rule.hard_timeout() != 0
            || rule.actions.iter().any(may_get_one))
            && let Some(c) = self.control.get_mut(&rule.bridge)
        {
            c.has_timeouts = true;
        }
    }
}

impl Bridge {
    /// A rule goes; its table keeps what it has counted.
    fn count_gone(&mut self, rule: &Rule) {
        let packets = rule.stats.packets.load(Ordering::Relaxed);
        if packets != 0 {
            *self.gone.entry(rule.table).or_default() += packets;
        }
    }
}

/// Whether a rule's time is over: by the hard timeout (`true`) or the idle one.
fn expiry(rule: &Rule, now: u64) -> Option<bool> {
    let modified = rule.modified.load(Ordering::Relaxed);
    let past = |since: u64, seconds: u16| seconds != 0 && now >= since + u64::from(seconds) * 1000;
    if past(modified, rule.hard_timeout()) {
        return Some(true);
    }
    let used = rule.stats.used.load(Ordering::Relaxed).max(modified);
    past(used, rule.idle_timeout()).then_some(false)
}

/// The `learn` actions with a limit, nested ones too.
fn limited_learns(actions: &[Action]) -> Vec<&Learn> {
    let mut all = Vec::new();
    for action in actions {
        match action {
            Action::Learn(learn) if learn.limit != 0 => all.push(&**learn),
            _ => all.extend(limited_learns(action.nested())),
        }
    }
    all
}

/// The clauses among a rule's actions.
fn conjunctions(actions: &[Action]) -> Box<[Conjunction]> {
    actions
        .iter()
        .filter_map(|a| match a {
            Action::Conjunction { id, clause, n_clauses } => {
                Some(Conjunction { id: *id, clause: *clause, clauses: *n_clauses })
            }
            _ => None,
        })
        .collect()
}
