//! Conjunctive matches: rules that match only together.
//!
//! A rule with [`Conjunction`]s is not a match by itself. When, among the rules of one priority
//! that match a packet, every clause of a conjunction is present, the packet is looked up again
//! with the field `conj_id` set to the conjunction's id, and what matches then is the match.
//! The semantics are those of `conjunction` in `ovs-actions(7)`: a plain rule of the same or a
//! higher priority wins; if the conjunctions of one priority lead nowhere, the next lower
//! priority of the same matches is considered.

use crate::rules::{Found, Rule, RuleTable};
use crate::subtable::Same;
use flow::{Field, FlowKey};
use smallvec::SmallVec;
use std::sync::Arc;

/// That a rule is one clause of a conjunction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conjunction {
    /// The conjunction's id, which a packet that satisfies it has as `conj_id`.
    pub id: u32,
    /// Which clause, counted from 0.
    pub clause: u8,
    /// Number of clauses: 2 to 64.
    pub clauses: u8,
}

impl Conjunction {
    /// The clause as a bit; nothing if the numbers are out of range.
    fn bit(&self) -> u64 {
        if self.clause < self.clauses.min(64) { 1 << self.clause } else { 0 }
    }

    /// All clauses as bits.
    fn all(&self) -> u64 {
        flow::key::low_bits(u32::from(self.clauses))
    }
}

/// The rules of one match that a packet hit, while the first of them belongs to conjunctions.
struct Soft<'a, R> {
    same: &'a Same<R>,
    rule: &'a Arc<R>,
}

/// The matches in progress of one lookup.
pub(crate) struct Softs<'a, R>(SmallVec<[Soft<'a, R>; 8]>);

impl<'a, R: Rule> Softs<'a, R> {
    #[inline]
    pub(crate) fn new() -> Self {
        Softs(SmallVec::new())
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn push(&mut self, same: &'a Same<R>, rule: &'a Arc<R>) {
        self.0.push(Soft { same, rule });
    }

    /// Decide between the best plain rule and the conjunctions.
    pub(crate) fn resolve(
        mut self,
        table: &'a RuleTable<R>,
        mut hard: Option<&'a Arc<R>>,
        key: &FlowKey,
        wc: &mut FlowKey,
    ) -> Found<'a, R> {
        // The lowest priority at which a new rule could make a difference.
        let mut floor = i32::MAX;
        loop {
            let hard_priority = hard.map_or(-1, |r| i32::from(r.priority()));
            self.0.retain(|s| i32::from(s.rule.priority()) > hard_priority);
            let Some(priority) = self.0.iter().map(|s| s.rule.priority()).max() else {
                return Found { rule: hard, floor: floor.min(hard_priority) };
            };
            for id in self.satisfied(priority) {
                match table.find_plain(key, id, wc) {
                    Some(rule) => {
                        let reached = i32::from(rule.priority().min(priority));
                        return Found { rule: Some(rule), floor: floor.min(reached) };
                    }
                    // Any rule for this id would be found.
                    None => floor = -1,
                }
            }
            self.step_down(priority, &mut hard);
        }
    }

    /// The ids whose clauses are all present at this priority, in order of their ids.
    fn satisfied(&self, priority: u16) -> SmallVec<[u32; 4]> {
        let mut seen: SmallVec<[(Conjunction, u64); 16]> = SmallVec::new();
        for soft in self.0.iter().filter(|s| s.rule.priority() == priority) {
            for c in soft.rule.conjunctions() {
                let same =
                    |(o, _): &&mut (Conjunction, u64)| (o.id, o.clauses) == (c.id, c.clauses);
                match seen.iter_mut().find(same) {
                    Some((_, bits)) => *bits |= c.bit(),
                    None => seen.push((*c, c.bit())),
                }
            }
        }
        let mut ids: SmallVec<[u32; 4]> = seen
            .iter()
            .filter(|(c, bits)| c.clauses > 0 && *bits == c.all())
            .map(|(c, _)| c.id)
            .collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Replace the matches of this priority by the next lower rules of the same match.
    fn step_down(&mut self, priority: u16, hard: &mut Option<&'a Arc<R>>) {
        self.0.retain(|soft| {
            if soft.rule.priority() < priority {
                return true;
            }
            let Some(next) = soft.same.iter().find(|r| r.priority() < priority) else {
                return false;
            };
            soft.rule = next;
            if !next.conjunctions().is_empty() {
                return true;
            }
            if hard.is_none_or(|h| h.priority() < next.priority()) {
                *hard = Some(next);
            }
            false
        });
    }
}

/// The key with `conj_id` set.
pub(crate) fn with_id(key: &FlowKey, id: u32) -> FlowKey {
    let mut key = key.clone();
    key.set(Field::ConjId, u128::from(id));
    key
}
