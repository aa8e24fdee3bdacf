//! Which rule of one OpenFlow table does a packet match, and which bits of the packet say so?
//!
//! A [`RuleTable`] is a tuple-space classifier: a subtable for each mask, those with the highest
//! priority first. It is persistent: a clone is a few reference counts, and a change to a clone
//! costs the logarithm of the table, so that one thread can change a table while others read
//! older ones of it. Changes between two clones are made in place.
//!
//! Invariants: a (match, priority) occurs once; a clone never sees a change.
//!
//! Writers: whoever owns the clone. Must not know: actions, timeouts, counters, which table of
//! which bridge it is.

use crate::conjunction::{Conjunction, Softs, with_id};
use crate::order::Ordered;
use crate::prefixes::{Prefixes, Probes};
use crate::subtable::{Same, Subtable};
use flow::key::word;
use flow::{Field, FlowKey, MaskWords, Match};
use std::sync::Arc;

/// What a rule table must know of a rule. None of it may change while the rule is in a table.
pub trait Rule {
    /// What it matches.
    fn matches(&self) -> &Match;
    /// Its priority; the highest wins. Between overlapping rules of one priority the choice is
    /// undefined, as in OpenFlow.
    fn priority(&self) -> u16;
    /// The conjunctions of which it is a clause; empty for a plain rule.
    fn conjunctions(&self) -> &[Conjunction] {
        &[]
    }
}

/// What a lookup found.
pub struct Found<'a, R> {
    /// The rule, None for a miss.
    pub rule: Option<&'a Arc<R>>,
    /// A rule that comes or (if it belongs to a conjunction) goes changes this result only if
    /// its priority is at least this. The priority of `rule`, or -1 for a miss; lower than the
    /// rule's priority where conjunctions had a say.
    pub floor: i32,
}

impl<R> Clone for Found<'_, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Found<'_, R> {}

/// The rules of one table.
pub struct RuleTable<R> {
    subtables: Ordered<R>,
    prefixes: Prefixes,
    len: usize,
}

impl<R> Clone for RuleTable<R> {
    fn clone(&self) -> Self {
        RuleTable {
            subtables: self.subtables.clone(),
            prefixes: self.prefixes.clone(),
            len: self.len,
        }
    }
}

impl<R: Rule> Default for RuleTable<R> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R: Rule> RuleTable<R> {
    /// A table without rules.
    pub fn new() -> Self {
        RuleTable { subtables: Ordered::new(), prefixes: Prefixes::new(), len: 0 }
    }

    /// Number of rules.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of distinct masks: the cost of a lookup that nothing cuts short.
    pub fn masks(&self) -> usize {
        self.subtables.iter().count()
    }

    /// Add a rule. Gives the rule with the same match and priority that it replaced.
    pub fn insert(&mut self, rule: Arc<R>) -> Option<Arc<R>> {
        let mask = rule.matches().mask();
        let (old, new_match) = self.subtables.change(&mask, |s| s.insert(Arc::clone(&rule)));
        if new_match {
            self.count_prefixes(&mask, rule.matches(), true);
        }
        self.len += usize::from(old.is_none());
        old
    }

    /// Remove the rule with exactly this match and priority, if there is one.
    pub fn remove(&mut self, m: &Match, priority: u16) -> Option<Arc<R>> {
        let mask = m.mask();
        // A look first, as a change copies what is shared even if it changes nothing.
        self.subtables.get(&mask)?.get_exact(m, priority)?;
        let (old, gone) = self.subtables.change(&mask, |s| s.remove(m, priority));
        if gone {
            self.count_prefixes(&mask, m, false);
        }
        self.len -= usize::from(old.is_some());
        old
    }

    fn count_prefixes(&mut self, mask: &MaskWords, m: &Match, add: bool) {
        for field in crate::prefixes::Address::ALL {
            if let Some(len) = field.prefix_len(mask) {
                self.prefixes.change(field, len, m, add);
            }
        }
    }

    /// The rule with exactly this match and priority.
    pub fn find_exact(&self, m: &Match, priority: u16) -> Option<&Arc<R>> {
        self.subtables.get(&m.mask())?.get_exact(m, priority)
    }

    /// All rules, in no order that matters.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<R>> {
        self.subtables.iter().flat_map(|i| i.table.iter())
    }

    /// The rules whose match is `m` or tighter: what a non-strict change of `m` applies to.
    /// Subtables that cannot have one are passed over; the others are walked.
    pub fn loosely_within<'a>(&'a self, m: &'a Match) -> impl Iterator<Item = &'a Arc<R>> {
        self.subtables.iter().filter(|i| self.may_have_within(&i.table, m)).flat_map(|i| {
            let exact = i.table.mask() == &m.mask();
            let one = if exact { i.table.get(m) } else { None };
            let rest = if exact { None } else { Some(i.table.iter()) };
            let rest = rest.into_iter().flatten().filter(|r| r.matches().is_within(m));
            one.into_iter().flat_map(Same::iter).chain(rest)
        })
    }

    fn may_have_within(&self, table: &Subtable<R>, m: &Match) -> bool {
        m.iter().all(|(w, _, mask)| table.mask().word(w) & mask == mask) && self.possible(table, m)
    }

    /// Whether, by the parts of the subtable's mask that `m` fixes, some rule may overlap `m`.
    fn possible(&self, table: &Subtable<R>, m: &Match) -> bool {
        let fixed = |field: crate::prefixes::Address, len| {
            field.prefix_len(&m.mask()).is_some_and(|l| l >= len)
        };
        table.may_overlap(m)
            && table
                .plan()
                .prefixes
                .iter()
                .all(|(field, len)| !fixed(*field, *len) || self.prefixes.has(*field, *len, m))
    }

    /// A rule of the same priority that some packet could match together with `m`, other than
    /// one with exactly this match (which adding `m` would replace): OpenFlow's `check_overlap`.
    pub fn find_overlap(&self, m: &Match, priority: u16) -> Option<&Arc<R>> {
        let live = self.subtables.iter().take_while(|i| i.max >= priority);
        live.filter(|i| self.possible(&i.table, m)).find_map(|i| {
            let mask = i.table.mask();
            let fixes_all = mask.iter().all(|(w, mask)| m.word(w).1 & mask == mask);
            let other = |r: &&Arc<R>| r.priority() == priority && r.matches() != m;
            if fixes_all {
                return i.table.get_within(m)?.iter().find(other);
            }
            let overlapping =
                i.table.iter_ranked(priority).filter(|s| s.best().matches().overlaps(m));
            overlapping.flat_map(Same::iter).find(other)
        })
    }

    /// The rule that the key matches, and every bit that was consulted added to `wc`: any key
    /// that has the same values in those bits finds the same rule.
    ///
    /// `wc` must be fresh (all zero) if it is to stand by itself: bits that it already has are
    /// taken as known. The key's `conj_id` must be 0, and is never added to `wc`.
    pub fn lookup<'a>(&'a self, key: &FlowKey, wc: &mut FlowKey) -> Option<&'a Arc<R>> {
        self.find(key, wc).rule
    }

    /// As [`RuleTable::lookup`], and says which new rules would change the result.
    pub fn find<'a>(&'a self, key: &FlowKey, wc: &mut FlowKey) -> Found<'a, R> {
        let had_id = wc.get(Field::ConjId);
        let mut probes = Probes::new(&self.prefixes, key);
        let mut hard: Option<&Arc<R>> = None;
        let mut hard_priority = -1;
        let mut softs = Softs::new();
        for item in self.subtables.iter() {
            if i32::from(item.max) <= hard_priority {
                break;
            }
            let Some(same) = item.table.find(key, &mut probes, wc) else { continue };
            let rule = same.best();
            if i32::from(rule.priority()) <= hard_priority {
                continue;
            }
            if rule.conjunctions().is_empty() {
                hard = Some(rule);
                hard_priority = i32::from(rule.priority());
            } else {
                softs.push(same, rule);
            }
        }
        let found = if softs.is_empty() {
            Found { rule: hard, floor: hard_priority }
        } else {
            softs.resolve(self, hard, key, wc)
        };
        if wc.word(word::CONJ) >> 32 != 0 {
            wc.set(Field::ConjId, had_id);
        }
        found
    }

    /// The plain rule that the key matches with `conj_id` set.
    pub(crate) fn find_plain(&self, key: &FlowKey, id: u32, wc: &mut FlowKey) -> Option<&Arc<R>> {
        let key = with_id(key, id);
        // The id follows from bits that are in `wc` already.
        wc.set(Field::ConjId, Field::ConjId.full());
        let mut probes = Probes::new(&self.prefixes, &key);
        let mut best: Option<&Arc<R>> = None;
        for item in self.subtables.iter() {
            if best.is_some_and(|b| b.priority() >= item.max) {
                break;
            }
            let Some(same) = item.table.find(&key, &mut probes, wc) else { continue };
            let plain = same.iter().find(|r| r.conjunctions().is_empty());
            if let Some(rule) = plain
                && best.is_none_or(|b| b.priority() < rule.priority())
            {
                best = Some(rule);
            }
        }
        best
    }
}

#[cfg(test)]
mod size {
    #[test]
    fn entries_are_small() {
        struct R;
        assert_eq!(size_of::<super::Same<R>>(), 16);
    }
}
