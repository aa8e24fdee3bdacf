//! A rule for tests, generators of keys, masks and tables, and the slow oracles.
#![allow(dead_code)]

use classifier::{Conjunction, Rule, RuleTable};
use flow::{Field, FlowKey, Match};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq)]
pub struct TestRule {
    pub id: u64,
    pub matches: Match,
    pub priority: u16,
    pub conj: Vec<Conjunction>,
}

impl Rule for TestRule {
    fn matches(&self) -> &Match {
        &self.matches
    }
    fn priority(&self) -> u16 {
        self.priority
    }
    fn conjunctions(&self) -> &[Conjunction] {
        &self.conj
    }
}

/// A match on (field, value, mask).
pub fn matching(fields: &[(Field, u128, u128)]) -> Match {
    let (mut k, mut m) = (FlowKey::ZERO, FlowKey::ZERO);
    for (f, v, mask) in fields {
        k.set(*f, *v);
        m.set(*f, *mask);
    }
    Match::new(&k, &m)
}

/// A prefix mask.
pub fn prefix(len: u32, bits: u32) -> u128 {
    if len == 0 { 0 } else { (u128::MAX >> (128 - bits)) & (u128::MAX << (bits - len)) }
}

/// Few values of each field, so that rules and keys meet; some of them share prefixes.
fn value(field: Field) -> BoxedStrategy<u128> {
    let pool: Vec<u128> = match field {
        Field::NwSrc | Field::NwDst => {
            vec![0x0a00_0001, 0x0a00_0002, 0x0a01_0203, 0x0a01_02ff, 0xc0a8_0001, 0]
        }
        Field::Ipv6Src => {
            let p = 0x2001_0db8u128 << 96;
            vec![p | 1, p | 2, p | 1 << 64, 0xfe80u128 << 112 | 7, 0]
        }
        Field::TpSrc | Field::TpDst => vec![80, 81, 443, 8080, 0],
        _ => vec![0, 1, 2, 0x1000],
    };
    prop::sample::select(pool).boxed()
}

fn mask(field: Field) -> BoxedStrategy<u128> {
    let bits = field.place().bits;
    let full = field.full();
    match field {
        Field::NwSrc | Field::NwDst | Field::Ipv6Src => prop_oneof![
            3 => Just(full),
            4 => prop::sample::select(vec![8, 15, 16, 24, 31]).prop_map(move |l| prefix(l, bits)),
            1 => Just(full & 0xff00_00ff),
        ]
        .boxed(),
        Field::TpSrc | Field::TpDst => {
            prop::sample::select(vec![full, full, 0xfff0, 0xff00, 1]).boxed()
        }
        _ => prop::sample::select(vec![full, full, full, full & 0x1003]).boxed(),
    }
}

const FIELDS: [Field; 11] = [
    Field::InPort,
    Field::EthType,
    Field::EthDst,
    Field::VlanTci,
    Field::NwSrc,
    Field::NwDst,
    Field::NwProto,
    Field::TpSrc,
    Field::TpDst,
    Field::Ipv6Src,
    Field::Reg0,
];

pub fn key() -> BoxedStrategy<FlowKey> {
    let fields: Vec<_> = FIELDS.iter().map(|f| value(*f)).collect();
    fields
        .prop_map(|values| {
            let mut k = FlowKey::ZERO;
            for (f, v) in FIELDS.iter().zip(values) {
                k.set(*f, v);
            }
            k
        })
        .boxed()
}

/// A match on up to four fields.
pub fn any_match() -> BoxedStrategy<Match> {
    match_on(4)
}

fn match_on(most: usize) -> BoxedStrategy<Match> {
    let field = prop::sample::select(FIELDS.to_vec());
    let one = field.prop_flat_map(|f| (Just(f), value(f), mask(f)));
    prop::collection::vec(one, 0..=most)
        .prop_map(|fields| {
            let unique: BTreeMap<Field, (u128, u128)> =
                fields.into_iter().map(|(f, v, m)| (f, (v, m))).collect();
            let fields: Vec<_> = unique.into_iter().map(|(f, (v, m))| (f, v, m)).collect();
            matching(&fields)
        })
        .boxed()
}

/// A loose rule: a clause of conjunctions 1 and 2, a match on one of their ids, or a plain one.
pub fn conjunctive_rule() -> impl Strategy<Value = TestRule> {
    let clause = (1u32..3, 0u8..2).prop_map(|(id, clause)| Conjunction { id, clause, clauses: 2 });
    let conj = prop::collection::vec(clause, 1..3);
    (match_on(1), 0u16..5, 0u8..5, conj, 1u32..3).prop_map(|(matches, priority, kind, conj, id)| {
        let mut rule = TestRule { id: 0, matches, priority, conj: Vec::new() };
        if kind < 3 {
            rule.conj = conj;
        } else if kind == 3 {
            let (mut k, mut m) = (rule.matches.key(), rule.matches.mask_key());
            k.set(Field::ConjId, u128::from(id));
            m.set(Field::ConjId, Field::ConjId.full());
            rule.matches = Match::new(&k, &m);
        }
        rule
    })
}

/// A mask on which a match is based, as a full key.
pub fn any_mask() -> BoxedStrategy<FlowKey> {
    any_match().prop_map(|m| m.mask_key()).boxed()
}

pub fn table(rules: &[Arc<TestRule>]) -> RuleTable<TestRule> {
    let mut t = RuleTable::new();
    for r in rules {
        t.insert(Arc::clone(r));
    }
    t
}

/// The matching plain rules of the highest priority: any of them is a right answer.
pub fn best_plain<'a>(rules: &'a [Arc<TestRule>], key: &FlowKey) -> Vec<&'a Arc<TestRule>> {
    let hit = |r: &&Arc<TestRule>| r.conj.is_empty() && r.matches.matches(key);
    let best = rules.iter().filter(hit).map(|r| r.priority).max();
    rules.iter().filter(hit).filter(|r| Some(r.priority) == best).collect()
}

/// All right answers where there are conjunctions; empty for a miss.
pub fn best<'a>(rules: &'a [Arc<TestRule>], key: &FlowKey) -> Vec<&'a Arc<TestRule>> {
    let hits: Vec<_> = rules.iter().filter(|r| r.matches.matches(key)).collect();
    let mut priorities: Vec<u16> = hits.iter().map(|r| r.priority).collect();
    priorities.sort_unstable_by(|a, b| b.cmp(a));
    priorities.dedup();
    for p in priorities {
        let at: Vec<_> = hits.iter().filter(|r| r.priority == p).collect();
        let plain: Vec<_> = at.iter().filter(|r| r.conj.is_empty()).map(|r| **r).collect();
        if !plain.is_empty() {
            return plain;
        }
        let mut clauses: BTreeMap<(u32, u8), u64> = BTreeMap::new();
        for c in at.iter().flat_map(|r| &r.conj) {
            *clauses.entry((c.id, c.clauses)).or_default() |= 1 << c.clause;
        }
        let full = clauses.iter().filter(|((_, n), bits)| **bits == (1 << n) - 1);
        let mut answers = Vec::new();
        for ((id, _), _) in full {
            let mut k = key.clone();
            k.set(Field::ConjId, u128::from(*id));
            answers.extend(best_plain(rules, &k));
        }
        if !answers.is_empty() {
            return answers;
        }
    }
    Vec::new()
}

/// `a` where the mask is set, `b` elsewhere.
pub fn blend(a: &FlowKey, b: &FlowKey, mask: &FlowKey) -> FlowKey {
    let mut k = FlowKey::ZERO;
    for w in 0..flow::WORDS {
        let m = mask.word(w);
        k.set_word(w, a.word(w) & m | b.word(w) & !m);
    }
    k
}
