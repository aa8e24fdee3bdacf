//! The overlap index against its definition, and against the rule table whose changes it must
//! never miss.

mod common;

use classifier::{Change, Dependency, Footprints, Rule, RuleTable, Visits};
use common::{TestRule, any_mask, any_match, conjunctive_rule, key, table};
use flow::{Field, FlowKey, Match};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What is recorded, as a plain list.
#[derive(Default)]
struct Naive {
    /// By table and consulted bits: rule and priority.
    visits: BTreeMap<(u32, Match), (u64, i32)>,
    depends: BTreeMap<u32, BTreeSet<(u32, Match)>>,
    keys: BTreeMap<u32, BTreeSet<u64>>,
}

impl Naive {
    fn touched(&self, table: u32, m: &Match, change: Change) -> BTreeSet<u32> {
        let hit = |id: &(u32, Match)| {
            let (rule, priority) = self.visits[id];
            id.0 == table
                && match change {
                    Change::Add { priority: p } => priority <= i32::from(p) && id.1.overlaps(m),
                    Change::Gone { rule: r } => rule == r,
                }
        };
        let depends = self.depends.iter();
        depends.filter(|(_, v)| v.iter().any(hit)).map(|(d, _)| *d).collect()
    }
}

#[derive(Clone, Debug)]
enum Op {
    Add {
        table: u32,
        key: Box<FlowKey>,
        wc: Box<FlowKey>,
        rule: u64,
        priority: i32,
        dependent: u32,
    },
    AddKey {
        key: u64,
        dependent: u32,
    },
    Remove {
        dependent: u32,
    },
    Touch {
        table: u32,
        m: Match,
        priority: u16,
    },
    Gone {
        table: u32,
        m: Match,
        rule: u64,
    },
    TouchKey {
        key: u64,
    },
}

/// Record one lookup: table, key, bits consulted, rule and priority.
fn add_visit(
    f: &mut Footprints,
    (table, key, wc, rule, priority): (u32, &FlowKey, &FlowKey, u64, i32),
    dependent: u32,
) {
    let mut visits = Visits::default();
    visits.push(table, key, wc, rule, priority);
    f.add(dependent, &visits, std::iter::empty());
}

/// Two tables whose numbers end in the same bits.
fn tables() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![1u32, 257])
}

fn op() -> impl Strategy<Value = Op> {
    let add = (tables(), key(), any_mask(), 0u64..5, -1i32..4, 0u32..300).prop_map(
        |(table, key, wc, rule, priority, dependent)| {
            let (rule, priority) = if priority < 0 { (0, -1) } else { (rule, priority) };
            let (key, wc) = (Box::new(key), Box::new(wc));
            Op::Add { table, key, wc, rule, priority, dependent }
        },
    );
    prop_oneof![
        30 => add,
        2 => (0u64..6, 0u32..300).prop_map(|(key, dependent)| Op::AddKey { key, dependent }),
        8 => (0u32..300).prop_map(|dependent| Op::Remove { dependent }),
        4 => (tables(), any_match(), 0u16..4)
            .prop_map(|(table, m, priority)| Op::Touch { table, m, priority }),
        1 => (tables(), any_match(), 1u64..5)
            .prop_map(|(table, m, rule)| Op::Gone { table, m, rule }),
        1 => (0u64..6).prop_map(|key| Op::TouchKey { key }),
    ]
}

fn check_touched(
    f: &mut Footprints,
    naive: &Naive,
    table: u32,
    m: &Match,
    change: Change,
) -> Result<(), TestCaseError> {
    let mut got = BTreeSet::new();
    f.touched(table, m, change, &mut |d| got.extend([d]));
    prop_assert_eq!(got, naive.touched(table, m, change));
    Ok(())
}

fn check_all(f: &Footprints, naive: &Naive) -> Result<(), TestCaseError> {
    let sizes = f.sizes();
    let live: BTreeSet<_> = naive.depends.values().flatten().collect();
    let keys: BTreeSet<_> = naive.keys.values().flatten().collect();
    prop_assert_eq!(sizes.nodes, live.len() + keys.len());
    let edges = naive.depends.values().map(BTreeSet::len).sum::<usize>();
    let key_edges = naive.keys.values().map(BTreeSet::len).sum::<usize>();
    // What is recorded twice, with others in between, may be there twice.
    prop_assert!(sizes.edges >= edges + key_edges);
    for (d, want) in &naive.depends {
        let mut visits = BTreeSet::new();
        for dep in f.dependencies(*d) {
            if let Dependency::Visit { table, consulted, rule, priority } = dep {
                let id = (table, consulted);
                prop_assert_eq!(naive.visits[&id], (rule, priority));
                visits.insert(id);
            }
        }
        prop_assert_eq!(&visits, want);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_change_touches_exactly_what_it_overlaps(ops in prop::collection::vec(op(), 1..700)) {
        let mut f = Footprints::new();
        let mut naive = Naive::default();
        for op in ops {
            match op {
                Op::Add { table, key, wc, rule, priority, dependent } => {
                    add_visit(&mut f, (table, &key, &wc, rule, priority), dependent);
                    let id = (table, Match::new(&key, &wc));
                    naive.visits.insert(id.clone(), (rule, priority));
                    naive.depends.entry(dependent).or_default().insert(id);
                }
                Op::AddKey { key, dependent } => {
                    f.add(dependent, &Visits::default(), std::iter::once(key));
                    naive.keys.entry(dependent).or_default().insert(key);
                }
                Op::Remove { dependent } => {
                    f.remove(dependent);
                    naive.depends.remove(&dependent);
                    naive.keys.remove(&dependent);
                }
                Op::Touch { table, m, priority } => {
                    check_touched(&mut f, &naive, table, &m, Change::Add { priority })?;
                }
                Op::Gone { table, m, rule } => {
                    check_touched(&mut f, &naive, table, &m, Change::Gone { rule })?;
                }
                Op::TouchKey { key } => {
                    let mut got = BTreeSet::new();
                    f.touched_dep(key, &mut |d| got.extend([d]));
                    let has = |k: &BTreeSet<u64>| k.contains(&key);
                    let want: BTreeSet<_> =
                        naive.keys.iter().filter(|(_, k)| has(k)).map(|(d, _)| *d).collect();
                    prop_assert_eq!(got, want);
                }
            }
        }
        check_all(&f, &naive)?;
        for d in 0..300 {
            f.remove(d);
        }
        let sizes = f.sizes();
        prop_assert_eq!((sizes.nodes, sizes.groups, sizes.edges), (0, 0, 0));
    }
}

fn rules_and_change() -> impl Strategy<Value = (Vec<Arc<TestRule>>, TestRule)> {
    let plain = (any_match(), 0u16..5).prop_map(|(matches, priority)| TestRule {
        id: 0,
        matches,
        priority,
        conj: Vec::new(),
    });
    let rule = prop_oneof![2 => plain, 3 => conjunctive_rule()].boxed();
    (prop::collection::vec(rule.clone(), 0..30), rule).prop_map(|(rules, change)| {
        let number = |(i, r): (usize, TestRule)| Arc::new(TestRule { id: i as u64 + 1, ..r });
        (rules.into_iter().enumerate().map(number).collect(), TestRule { id: 999, ..change })
    })
}

/// Decisions made by looking keys up in the table.
fn record(f: &mut Footprints, t: &RuleTable<TestRule>, keys: &[FlowKey]) -> Vec<u64> {
    let look = |(d, key): (usize, &FlowKey)| {
        let mut wc = FlowKey::ZERO;
        let found = t.find(key, &mut wc);
        let rule = found.rule.map_or(0, |r| r.id);
        add_visit(f, (0, key, &wc, rule, found.floor), d as u32);
        rule
    };
    keys.iter().enumerate().map(look).collect()
}

/// The change as the log of a table would have it.
fn kind(rule: &TestRule, comes: bool) -> Change {
    if comes || !rule.conjunctions().is_empty() {
        Change::Add { priority: rule.priority }
    } else {
        Change::Gone { rule: rule.id }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever rule comes or goes, conjunctions and their ids included: a decision that was not
    /// touched finds a rule that is as good as before.
    #[test]
    fn no_change_of_a_table_is_missed(
        (rules, change) in rules_and_change(),
        keys in prop::collection::vec(key(), 20),
    ) {
        let mut before = table(&rules);
        before.remove(&change.matches, change.priority);
        let mut after = before.clone();
        after.insert(Arc::new(change.clone()));
        for comes in [true, false] {
            let (old, new) = if comes { (&before, &after) } else { (&after, &before) };
            let mut f = Footprints::new();
            let results = record(&mut f, old, &keys);
            let mut touched = BTreeSet::new();
            f.touched(0, &change.matches, kind(&change, comes), &mut |d| touched.extend([d]));
            for (d, key) in keys.iter().enumerate() {
                if touched.contains(&(d as u32)) {
                    continue;
                }
                let (mut wc, mut wc2) = (FlowKey::ZERO, FlowKey::ZERO);
                let priority = |r: Option<&Arc<TestRule>>| r.map(|r| r.priority);
                let old_rule = old.lookup(key, &mut wc);
                prop_assert_eq!(old_rule.map_or(0, |r| r.id), results[d]);
                let new_rule = new.lookup(key, &mut wc2);
                // Between rules of one priority the choice is free.
                prop_assert_eq!(priority(old_rule), priority(new_rule), "{:?}", key);
            }
        }
    }
}

/// Many distinct visits, so that indexes are built, chained and given up.
#[test]
fn indexes_over_parts_of_the_bits_agree_with_a_walk() {
    let mut f = Footprints::new();
    let mut naive = Naive::default();
    let mut wc = FlowKey::ZERO;
    for (field, mask) in
        [(Field::InPort, u32::MAX.into()), (Field::NwDst, 0xffff_ffff), (Field::TpDst, 0xffff)]
    {
        wc.set(field, mask);
    }
    let key = |n: u32| {
        let mut k = FlowKey::ZERO;
        k.set(Field::InPort, u128::from(n % 7));
        k.set(Field::NwDst, u128::from(n / 7 % 50));
        k.set(Field::TpDst, u128::from(n));
        k
    };
    for n in 0..2000u32 {
        let priority = (n % 5) as i32 - 1;
        add_visit(&mut f, (3, &key(n), &wc, u64::from(n % 3), priority), n);
        let id = (3, Match::new(&key(n), &wc));
        naive.visits.insert(id.clone(), (u64::from(n % 3), priority));
        naive.depends.entry(n).or_default().insert(id);
    }
    let fields = [Field::InPort, Field::NwDst, Field::TpDst, Field::EthSrc];
    for round in 0..3u32 {
        for subset in 0..16u32 {
            for low in [0xffff_ffffu128, 0xf, 0x33] {
                let (mut k, mut m) = (FlowKey::ZERO, FlowKey::ZERO);
                for (i, field) in fields.iter().enumerate() {
                    if subset >> i & 1 == 1 {
                        k.set(*field, key(subset * 31 + round).get(*field));
                        m.set(*field, field.full() & low);
                    }
                }
                let m = Match::new(&k, &m);
                for priority in [0, 2, 9] {
                    check_touched(&mut f, &naive, 3, &m, Change::Add { priority })
                        .expect("as the definition says");
                }
            }
        }
        // A part of them goes, and comes back with another result.
        for n in (round..2000).step_by(3) {
            f.remove(n);
            naive.depends.remove(&n);
        }
        for n in (round..2000).step_by(6) {
            add_visit(&mut f, (3, &key(n), &wc, 2, 4), n);
            let id = (3, Match::new(&key(n), &wc));
            naive.visits.insert(id.clone(), (2, 4));
            naive.depends.entry(n).or_default().insert(id);
        }
    }
    check_all(&f, &naive).expect("as recorded");
}

/// Long lists of dependents stay exact while most of them leave.
#[test]
fn shared_visits_forget_who_left() {
    let mut f = Footprints::new();
    let (key, wc) = (FlowKey::ZERO, FlowKey::ZERO);
    for d in 0..10_000 {
        add_visit(&mut f, (1, &key, &wc, 5, 10), d);
        add_visit(&mut f, (1, &key, &wc, 5, 10), d);
    }
    for d in 0..9_990 {
        f.remove(d);
    }
    add_visit(&mut f, (1, &key, &wc, 5, 10), 3);
    let mut got = Vec::new();
    f.touched(1, &Match::default(), Change::Gone { rule: 5 }, &mut |d| got.push(d));
    got.sort_unstable();
    let want: Vec<u32> = std::iter::once(3).chain(9_990..10_000).collect();
    assert_eq!(got, want, "each once");
    let sizes = f.sizes();
    assert_eq!((sizes.nodes, sizes.edges), (1, 11));
}

/// A decision of many lookups and keys, recorded at once and in parts, is touched by each of them.
#[test]
fn all_that_a_decision_was_made_from_is_recorded() {
    let mut f = Footprints::new();
    let mut visits = Visits::default();
    let mut wc = FlowKey::ZERO;
    wc.set(Field::TpDst, 0xffff);
    for round in 0..3u32 {
        visits.clear();
        for table in 0..20 {
            let mut key = FlowKey::ZERO;
            key.set(Field::TpDst, u128::from(round));
            visits.push(table, &key, &wc, u64::from(table) + 1, 7);
        }
        f.add(round, &visits, 0..5u64);
        // What is there already, and one more.
        f.add(round, &visits, 4..6u64);
    }
    assert_eq!(f.sizes().nodes, 3 * 20 + 6);
    for table in 0..20 {
        let mut got = BTreeSet::new();
        let m = Match::default();
        let rule = u64::from(table) + 1;
        f.touched(table, &m, Change::Gone { rule }, &mut |d| got.extend([d]));
        assert_eq!(got, BTreeSet::from([0, 1, 2]), "table {table}");
    }
    for key in 0..6 {
        let mut got = BTreeSet::new();
        f.touched_dep(key, &mut |d| got.extend([d]));
        assert_eq!(got, BTreeSet::from([0, 1, 2]), "key {key}");
    }
    (0..3).for_each(|d| f.remove(d));
    let sizes = f.sizes();
    assert_eq!((sizes.nodes, sizes.groups, sizes.edges), (0, 0, 0));
}
