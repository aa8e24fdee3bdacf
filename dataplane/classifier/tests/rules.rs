//! The rule table against a linear search, and its masks against their meaning.

mod common;

use classifier::RuleTable;
use common::{TestRule, any_match, best, blend, key, matching, table};
use flow::{Field, FlowKey};
use proptest::prelude::*;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

fn rules(max: usize) -> BoxedStrategy<Vec<Arc<TestRule>>> {
    prop::collection::vec((any_match(), 0u16..6), 0..max)
        .prop_map(|list| {
            // One rule for each match and priority, as in a table.
            let unique: BTreeSet<_> = list.into_iter().collect();
            let number = |(i, (matches, priority))| {
                Arc::new(TestRule { id: i as u64 + 1, matches, priority, conj: Vec::new() })
            };
            unique.into_iter().enumerate().map(number).collect()
        })
        .boxed()
}

/// Rules of which many are clauses of conjunctions 1 and 2, and some match on their ids. Their
/// matches are loose, so that packets meet several.
fn conjunctive_rules() -> BoxedStrategy<Vec<Arc<TestRule>>> {
    prop::collection::vec(common::conjunctive_rule(), 0..24)
        .prop_map(|rules| {
            let mut seen = HashSet::new();
            let fresh = |r: &TestRule| seen.insert((r.matches.clone(), r.priority));
            let rules = rules.into_iter().filter(fresh).enumerate();
            rules.map(|(i, r)| Arc::new(TestRule { id: i as u64 + 1, ..r })).collect()
        })
        .boxed()
}

/// The result is one that a linear search allows, and any key that agrees in the consulted bits
/// has the same.
fn check_lookup(
    t: &RuleTable<TestRule>,
    rules: &[Arc<TestRule>],
    key: &FlowKey,
    others: &[FlowKey],
) -> Result<(), TestCaseError> {
    let mut wc = FlowKey::ZERO;
    let found = t.find(key, &mut wc);
    let right = best(rules, key);
    match found.rule {
        Some(r) => prop_assert!(right.iter().any(|x| x.id == r.id), "{r:?} is not of {right:?}"),
        None => prop_assert!(right.is_empty(), "missed {right:?}"),
    }
    prop_assert!(found.floor <= found.rule.map_or(-1, |r| i32::from(r.priority)));
    prop_assert_eq!(wc.get(Field::ConjId), 0);
    for other in others {
        let same = blend(key, other, &wc);
        let mut wc2 = FlowKey::ZERO;
        let id = |r: Option<&Arc<TestRule>>| r.map(|r| r.id);
        prop_assert_eq!(id(t.lookup(&same, &mut wc2)), id(found.rule), "wc {:?}", wc);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn finds_what_a_linear_search_finds(
        rules in rules(60),
        keys in prop::collection::vec(key(), 12),
    ) {
        let t = table(&rules);
        prop_assert_eq!(t.len(), rules.len());
        for k in &keys {
            check_lookup(&t, &rules, k, &keys)?;
        }
    }

    #[test]
    fn conjunctions_match_as_their_definition_says(
        rules in conjunctive_rules(),
        keys in prop::collection::vec(key(), 12),
    ) {
        let t = table(&rules);
        for k in &keys {
            check_lookup(&t, &rules, k, &keys)?;
        }
    }

    #[test]
    fn changes_are_seen_by_the_clone_that_was_changed_only(
        start in rules(40),
        ops in prop::collection::vec((any::<bool>(), any_match(), 0u16..4), 1..60),
        keys in prop::collection::vec(key(), 8),
    ) {
        let mut versions = vec![(table(&start), start)];
        for (i, (add, m, priority)) in ops.into_iter().enumerate() {
            let (mut t, mut model) = versions.last().cloned().expect("there is a first version");
            let at = model.iter().position(|r| (&r.matches, r.priority) == (&m, priority));
            prop_assert_eq!(t.find_exact(&m, priority).is_some(), at.is_some());
            if add {
                let rule = Arc::new(TestRule {
                    id: 1000 + i as u64, matches: m.clone(), priority, conj: Vec::new(),
                });
                let old = t.insert(Arc::clone(&rule));
                prop_assert_eq!(old.map(|r| r.id), at.map(|i| model[i].id));
                at.map(|i| model.remove(i));
                model.push(rule);
            } else {
                // Remove one that is there, as a random one seldom is.
                let pick = i % model.len().max(1);
                if let Some(r) = model.get(pick).cloned() {
                    let gone = t.remove(&r.matches, r.priority);
                    prop_assert_eq!(gone.map(|g| g.id), Some(r.id));
                    model.remove(pick);
                }
                let found = model.iter().any(|r| (&r.matches, r.priority) == (&m, priority));
                prop_assert_eq!(t.remove(&m, priority).is_some(), found);
                model.retain(|r| (&r.matches, r.priority) != (&m, priority));
            }
            versions.push((t, model));
        }
        for (t, model) in &versions {
            prop_assert_eq!(t.len(), model.len());
            let mut ids: Vec<_> = t.iter().map(|r| r.id).collect();
            let mut want: Vec<_> = model.iter().map(|r| r.id).collect();
            ids.sort_unstable();
            want.sort_unstable();
            prop_assert_eq!(ids, want);
        }
        for (t, model) in versions.iter().step_by(7) {
            for k in &keys {
                check_lookup(t, model, k, &keys)?;
            }
        }
        // Taken apart in any order, nothing is left.
        let (mut t, model) = versions.pop().expect("there is a last version");
        for r in &model {
            prop_assert!(t.remove(&r.matches, r.priority).is_some());
        }
        prop_assert!(t.is_empty() && t.masks() == 0);
        let mut wc = FlowKey::ZERO;
        prop_assert!(t.lookup(&keys[0], &mut wc).is_none());
        prop_assert!(wc == FlowKey::ZERO, "an empty table looks at nothing");
    }

    #[test]
    fn loose_matches_and_overlaps_are_those_of_a_linear_search(
        rules in rules(60),
        matches in prop::collection::vec((any_match(), 0u16..6), 8),
    ) {
        let t = table(&rules);
        let own = rules.iter().step_by(5).map(|r| (r.matches.clone(), r.priority));
        for (m, priority) in matches.into_iter().chain(own) {
            let mut ids: Vec<_> = t.loosely_within(&m).map(|r| r.id).collect();
            ids.sort_unstable();
            let mut want: Vec<_> =
                rules.iter().filter(|r| r.matches.is_within(&m)).map(|r| r.id).collect();
            want.sort_unstable();
            prop_assert_eq!(ids, want);

            let overlaps = |r: &TestRule| {
                r.priority == priority && r.matches != m && r.matches.overlaps(&m)
            };
            match t.find_overlap(&m, priority) {
                Some(r) => prop_assert!(overlaps(r)),
                None => prop_assert!(!rules.iter().any(|r| overlaps(r))),
            }
        }
    }
}

#[test]
fn a_replaced_rule_is_handed_back() {
    let m = matching(&[(Field::InPort, 1, 0xffff_ffff)]);
    let rule = |id| Arc::new(TestRule { id, matches: m.clone(), priority: 7, conj: Vec::new() });
    let mut t = RuleTable::new();
    assert!(t.insert(rule(1)).is_none());
    let before = t.clone();
    assert_eq!(t.insert(rule(2)).map(|r| r.id), Some(1));
    assert_eq!(t.len(), 1);
    assert_eq!(before.find_exact(&m, 7).map(|r| r.id), Some(1));
    assert_eq!(t.find_exact(&m, 7).map(|r| r.id), Some(2));
    assert!(t.find_exact(&m, 6).is_none());
}

/// Many priorities of one match stay cheap, and come out in order.
#[test]
fn all_priorities_of_one_match() {
    let m = matching(&[(Field::NwDst, 0x0a00_0001, 0xffff_ffff)]);
    let mut t = RuleTable::new();
    for p in (0..=u16::MAX).rev().step_by(2).chain((0..=u16::MAX).step_by(2)) {
        let rule = TestRule { id: p.into(), matches: m.clone(), priority: p, conj: Vec::new() };
        assert!(t.insert(Arc::new(rule)).is_none());
    }
    assert_eq!((t.len(), t.masks()), (65536, 1));
    for p in (0..=u16::MAX).rev() {
        if p % 997 == 0 {
            let found = t.lookup(&m.key(), &mut FlowKey::ZERO.clone());
            assert_eq!(found.map(|r| r.priority), Some(p));
        }
        assert!(t.remove(&m, p).is_some());
    }
    assert!(t.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// What `floor` promises: a new rule with a lower priority, and the end of a clause with a
    /// lower priority, change nothing.
    #[test]
    fn nothing_below_the_floor_matters(rules in conjunctive_rules(), key in key()) {
        for moving in &rules {
            let without: Vec<_> = rules.iter().filter(|r| r.id != moving.id).cloned().collect();
            let (with, without) = (table(&rules), table(&without));
            let (mut wc, mut wc2) = (FlowKey::ZERO, FlowKey::ZERO);
            let (a, b) = (without.find(&key, &mut wc), with.find(&key, &mut wc2));
            let id = |r: Option<&Arc<TestRule>>| r.map(|r| (r.id, r.priority));
            // It comes.
            if i32::from(moving.priority) < a.floor {
                prop_assert_eq!(id(a.rule).map(|r| r.1), id(b.rule).map(|r| r.1));
            }
            // It goes, and is not the one found.
            let is_found = b.rule.is_some_and(|r| r.id == moving.id);
            let matters = !moving.conj.is_empty() && i32::from(moving.priority) >= b.floor;
            if !is_found && !matters {
                prop_assert_eq!(id(a.rule).map(|r| r.1), id(b.rule).map(|r| r.1));
            }
        }
    }
}
