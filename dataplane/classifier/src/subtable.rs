//! The rules of one mask.
//!
//! A lookup hashes the masked words stage by stage and gives up at the first stage whose partial
//! hash no rule has. It adds to the caller's mask the bits that a different outcome would have
//! had to differ in, and no others:
//!
//! - a hit, or a miss by hash: the mask's words up to the stage reached;
//! - an address that no rule of the table has: the first bits of that address;
//! - ports that no rule of the subtable has: the first masked bits of the ports;
//! - one rule only, and it differs: one differing bit of an address or port, or one whole field
//!   of another kind (a bit of a MAC address would make as many masks as it has bits), or
//!   nothing where a bit that was looked at before already differs.
//!
//! Invariants: `rules` has an entry for each match; `sets[s]` counts rules by the hash of the
//! words up to stage `s`; `ports` has every rule's masked ports.

use crate::hamt::{Entry, Hamt};
use crate::plan::{L3, Plan, STAGES};
use crate::prefixes::{Probes, ValueSet};
use crate::rules::Rule;
use flow::key::word;
use flow::sparse::{SEED, mix_word};
use flow::{Field, FlowKey, MaskWords, Match, WORDS};
use imbl::OrdMap;
use std::cmp::Reverse;
use std::sync::Arc;

/// The rules with one match: nearly always one.
pub(crate) enum Same<R> {
    One { hash: u32, rule: Arc<R> },
    Many { hash: u32, rules: Arc<OrdMap<Reverse<u16>, Arc<R>>> },
}

impl<R> Clone for Same<R> {
    fn clone(&self) -> Self {
        match self {
            Same::One { hash, rule } => Same::One { hash: *hash, rule: Arc::clone(rule) },
            Same::Many { hash, rules } => Same::Many { hash: *hash, rules: Arc::clone(rules) },
        }
    }
}

impl<R: Rule> Same<R> {
    /// The rule with the highest priority.
    #[inline]
    pub(crate) fn best(&self) -> &Arc<R> {
        match self {
            Same::One { rule, .. } => rule,
            Same::Many { rules, .. } => {
                &rules.get_min().expect("a match without rules is removed").1
            }
        }
    }

    /// All rules, highest priority first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<R>> {
        let (one, many) = match self {
            Same::One { rule, .. } => (Some(rule), None),
            Same::Many { rules, .. } => (None, Some(rules.values())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    fn get(&self, priority: u16) -> Option<&Arc<R>> {
        match self {
            Same::One { rule, .. } => (rule.priority() == priority).then_some(rule),
            Same::Many { rules, .. } => rules.get(&Reverse(priority)),
        }
    }

    /// Add a rule; gives what it replaced.
    fn add(self, new: Arc<R>) -> (Self, Option<Arc<R>>) {
        match self {
            Same::One { hash, rule } if rule.priority() == new.priority() => {
                (Same::One { hash, rule: new }, Some(rule))
            }
            Same::One { hash, rule } => {
                let both = [rule, new].map(|r| (Reverse(r.priority()), r));
                (Same::Many { hash, rules: Arc::new(both.into_iter().collect()) }, None)
            }
            Same::Many { hash, mut rules } => {
                let old = Arc::make_mut(&mut rules).insert(Reverse(new.priority()), new);
                (Same::Many { hash, rules }, old)
            }
        }
    }

    /// Remove a rule; gives what is left and what was removed.
    fn remove(self, priority: u16) -> (Option<Self>, Option<Arc<R>>) {
        match self {
            Same::One { rule, .. } if rule.priority() == priority => (None, Some(rule)),
            Same::One { .. } => (Some(self), None),
            Same::Many { hash, mut rules } => {
                let old = Arc::make_mut(&mut rules).remove(&Reverse(priority));
                match rules.get_min() {
                    Some((_, rule)) if rules.len() == 1 => {
                        (Some(Same::One { hash, rule: Arc::clone(rule) }), old)
                    }
                    _ => (Some(Same::Many { hash, rules }), old),
                }
            }
        }
    }
}

impl<R: Rule> Entry for Same<R> {
    type Key = u32;
    #[inline(always)]
    fn key(&self) -> u32 {
        match self {
            Same::One { hash, .. } | Same::Many { hash, .. } => *hash,
        }
    }

    fn rank(&self) -> u16 {
        self.best().priority()
    }
}

pub(crate) struct Subtable<R> {
    plan: Arc<Plan>,
    rules: Hamt<Same<R>>,
    /// Rules, counting all priorities.
    len: usize,
    sets: [ValueSet<u32>; STAGES - 1],
    ports: ValueSet<u32>,
}

impl<R> Clone for Subtable<R> {
    fn clone(&self) -> Self {
        Subtable {
            plan: Arc::clone(&self.plan),
            rules: self.rules.clone(),
            len: self.len,
            sets: self.sets.clone(),
            ports: self.ports.clone(),
        }
    }
}

/// The part of a running hash that is kept.
#[inline(always)]
fn short(h: u64) -> u32 {
    (h >> 32) as u32
}

/// The masked tp_src:16, tp_dst:16 of a word.
#[inline(always)]
fn ports_of(l4: u64, mask: u32) -> u32 {
    (l4 >> 32) as u32 & mask
}

impl<R: Rule> Subtable<R> {
    pub(crate) fn new(mask: MaskWords) -> Self {
        Subtable {
            plan: Arc::new(Plan::new(mask)),
            rules: Hamt::new(),
            len: 0,
            sets: std::array::from_fn(|_| ValueSet::new()),
            ports: ValueSet::new(),
        }
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) fn mask(&self) -> &MaskWords {
        &self.plan.mask
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn max_priority(&self) -> u16 {
        self.rules.max_rank()
    }

    /// The running hash at the end of each stage.
    fn hashes(&self, word: impl Fn(usize) -> u64) -> [u64; STAGES] {
        let mut h = SEED;
        std::array::from_fn(|s| {
            for (w, m) in self.plan.stage(s) {
                h = mix_word(h, word(*w) & m);
            }
            h
        })
    }

    /// The rules with exactly this match, which must have the subtable's mask.
    pub(crate) fn get(&self, m: &Match) -> Option<&Same<R>> {
        let h = self.hashes(|w| m.word(w).0)[STAGES - 1];
        self.rules.find(short(h), |e| e.best().matches() == m)
    }

    pub(crate) fn get_exact(&self, m: &Match, priority: u16) -> Option<&Arc<R>> {
        self.get(m)?.get(priority)
    }

    /// The rules whose match is the subtable's part of `m`, which must fix the whole mask.
    pub(crate) fn get_within(&self, m: &Match) -> Option<&Same<R>> {
        let h = self.hashes(|w| m.word(w).0)[STAGES - 1];
        self.rules.find(short(h), |e| m.is_within(e.best().matches()))
    }

    /// Add a rule; gives the one that it replaced. The flag says whether the match is new.
    pub(crate) fn insert(&mut self, rule: Arc<R>) -> (Option<Arc<R>>, bool) {
        let m = rule.matches();
        let hashes = self.hashes(|w| m.word(w).0);
        let hash = short(hashes[STAGES - 1]);
        let ports = m.word(word::L4).0;
        let (mut old, mut new_match) = (None, false);
        let new = Arc::clone(&rule);
        self.rules.change(
            hash,
            |e| e.best().matches() == rule.matches(),
            |same| match same {
                None => {
                    new_match = true;
                    Some(Same::One { hash, rule: new })
                }
                Some(same) => {
                    let (same, replaced) = same.add(new);
                    old = replaced;
                    Some(same)
                }
            },
        );
        self.len += usize::from(old.is_none());
        if new_match {
            self.count(&hashes, ports, true);
        }
        (old, new_match)
    }

    /// Remove a rule. The flag says whether no rule is left with that match.
    pub(crate) fn remove(&mut self, m: &Match, priority: u16) -> (Option<Arc<R>>, bool) {
        let hashes = self.hashes(|w| m.word(w).0);
        let (mut old, mut gone) = (None, false);
        self.rules.change(
            short(hashes[STAGES - 1]),
            |e| e.best().matches() == m,
            |same| {
                let (left, removed) = same?.remove(priority);
                gone = left.is_none();
                old = removed;
                left
            },
        );
        self.len -= usize::from(old.is_some());
        if gone {
            self.count(&hashes, m.word(word::L4).0, false);
        }
        (old, gone)
    }

    /// Note that a match came or went.
    fn count(&mut self, hashes: &[u64; STAGES], l4: u64, add: bool) {
        for (s, set) in self.sets.iter_mut().enumerate() {
            if !self.plan.has_set(s) {
                continue;
            }
            set.count(short(hashes[s]), add);
        }
        if self.plan.ports != 0 {
            self.ports.count(ports_of(l4, self.plan.ports), add);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<R>> {
        self.rules.iter().flat_map(Same::iter)
    }

    /// The matches that may have a rule of that priority.
    pub(crate) fn iter_ranked(&self, priority: u16) -> impl Iterator<Item = &Same<R>> {
        self.rules.iter_ranked(priority)
    }

    /// Whether, by the words that `m` fixes, some rule may overlap it.
    pub(crate) fn may_overlap(&self, m: &Match) -> bool {
        let mut h = SEED;
        for s in 0..self.plan.last {
            for (w, mask) in self.plan.stage(s) {
                let (value, fixed) = m.word(*w);
                if fixed & mask != *mask {
                    return true;
                }
                h = mix_word(h, value & mask);
            }
            if self.plan.has_set(s) && !self.sets[s].contains(short(h)) {
                return false;
            }
        }
        true
    }

    /// The rules that match the key; the bits that decided are added to `wc`.
    #[inline]
    pub(crate) fn find(
        &self,
        key: &FlowKey,
        probes: &mut Probes<'_>,
        wc: &mut FlowKey,
    ) -> Option<&Same<R>> {
        if let Some(same) = self.rules.single() {
            return self.find_single(same, key, wc);
        }
        let plan = &*self.plan;
        if probes.ruled_out(&plan.prefixes) {
            return None;
        }
        let mut h = SEED;
        for s in 0..=plan.last {
            if s == L3 && probes.rule_out(&plan.prefixes, wc) {
                return None;
            }
            for (w, m) in plan.stage(s) {
                h = mix_word(h, key.word(*w) & m);
            }
            if plan.has_set(s) && !self.sets[s].contains(short(h)) {
                self.unwildcard(usize::from(plan.ends[s]), wc);
                return None;
            }
        }
        let same = self.rules.find(short(h), |e| e.best().matches().matches(key));
        if same.is_none() && self.ports_rule_out(key, wc) {
            return None;
        }
        self.unwildcard(plan.words.len(), wc);
        same
    }

    /// Add the masks of the first words to `wc`.
    #[inline]
    fn unwildcard(&self, words: usize, wc: &mut FlowKey) {
        for (w, m) in &self.plan.words[..words] {
            wc.set_word(*w, wc.word(*w) | m);
        }
    }

    /// Whether no rule has the key's ports; if so, the bits that show it are added to `wc`.
    fn ports_rule_out(&self, key: &FlowKey, wc: &mut FlowKey) -> bool {
        let mask = self.plan.ports;
        if mask == 0 {
            return false;
        }
        let Some(bits) = self.ports.absent(ports_of(key.word(word::L4), mask)) else {
            return false;
        };
        let seen = (u64::MAX << 32 << (32 - bits)) & u64::from(mask) << 32;
        wc.set_word(word::L4, wc.word(word::L4) | seen);
        true
    }

    /// As [`Self::find`] where there is one match only: no hash, but a comparison that stops
    /// where it differs.
    #[inline]
    fn find_single<'a>(
        &'a self,
        same: &'a Same<R>,
        key: &FlowKey,
        wc: &mut FlowKey,
    ) -> Option<&'a Same<R>> {
        let m = same.best().matches();
        let mut differs = None;
        for (w, mask) in &self.plan.words {
            let diff = (key.word(*w) ^ m.word(*w).0) & mask;
            if diff == 0 {
                continue;
            }
            if diff & wc.word(*w) != 0 {
                return None;
            }
            if differs.is_none() {
                differs = Some((*w, diff, *mask));
            }
        }
        let Some((w, diff, mask)) = differs else {
            self.unwildcard(self.plan.words.len(), wc);
            return Some(same);
        };
        wc.set_word(w, wc.word(w) | telling_bits(w, diff, mask));
        None
    }
}

/// The bits to remember of a word that differs from the only rule's.
fn telling_bits(w: usize, diff: u64, mask: u64) -> u64 {
    let top = 1u64 << (63 - diff.leading_zeros());
    match w {
        word::IPV4 | word::L4 => top,
        word::IPV6_SRC..word::ARP_SHA => top,
        _ => {
            let field = FIELDS[w].iter().find(|f| **f & top != 0);
            field.map_or(mask, |f| mask & f)
        }
    }
}

/// The most fields that share a word.
const FIELDS_PER_WORD: usize = 5;

/// The bits of each field of each word.
static FIELDS: [[u64; FIELDS_PER_WORD]; WORDS] = fields();

const fn fields() -> [[u64; FIELDS_PER_WORD]; WORDS] {
    let mut out = [[0; FIELDS_PER_WORD]; WORDS];
    let mut i = 0;
    while i < Field::ALL.len() {
        let p = Field::ALL[i].place();
        let bits = if p.bits > 64 {
            out[p.word + 1][0] = u64::MAX;
            u64::MAX
        } else {
            flow::key::low_bits(p.bits) << p.shift
        };
        let mut n = 0;
        while out[p.word][n] != 0 {
            n += 1;
        }
        out[p.word][n] = bits;
        i += 1;
    }
    out
}
