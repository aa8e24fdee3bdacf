//! The `learn` action: a flow made of the packet at hand.

use std::sync::Arc;

use classifier::RuleTable;
use flow::{FlowKey, Match};

use super::{Ctx, Effect};
use crate::action::{Action, Learn, LearnSpec, OfPort, SetField, SetForm};
use crate::mf::{Prereq, Subfield};
use crate::rule::Rule;
use crate::snapshot::Dep;

/// A flow that a packet has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LearnedFlow {
    /// The action that made it.
    pub learn: Learn,
    /// What it matches.
    pub matches: Match,
    /// What it does.
    pub actions: Box<[Action]>,
}

impl Ctx<'_> {
    pub(super) fn learn_flow(&mut self, learn: &Learn) {
        let mut key = FlowKey::ZERO;
        let mut mask = FlowKey::ZERO;
        let mut actions = Vec::new();
        if learn.fin_idle_timeout != 0 || learn.fin_hard_timeout != 0 {
            let (idle, hard) = (learn.fin_idle_timeout, learn.fin_hard_timeout);
            actions.push(Action::FinTimeout { idle, hard });
        }
        let mut on = |dst: Subfield, value: u128| {
            dst.set(&mut key, value);
            dst.consult(&mut mask);
        };
        let load = |dst: Subfield, value: u128| {
            Action::Set(SetField::new(dst.field, value << dst.ofs, dst.mask(), SetForm::Load))
        };
        for spec in &learn.specs {
            match spec {
                LearnSpec::MatchValue { dst, value } => on(*dst, *value),
                LearnSpec::MatchField { dst, src } => on(*dst, self.read(*src)),
                LearnSpec::LoadValue { dst, value } => actions.push(load(*dst, *value)),
                LearnSpec::LoadField { dst, src } => actions.push(load(*dst, self.read(*src))),
                LearnSpec::Output { src } => {
                    let port = self.read(*src) as u32;
                    let port =
                        if src.n_bits <= 16 { OfPort::from_16(port as u16) } else { OfPort(port) };
                    actions.push(Action::output(port));
                }
            }
        }
        let flow = LearnedFlow {
            learn: learn.clone(),
            matches: Match::new(&key, &mask),
            actions: actions.into(),
        };
        let has_room = learn.limit == 0 || self.has_room(learn, &flow.matches);
        if has_room {
            let bridge = self.bridge.id;
            self.out.effects.push(Effect::LearnFlow { bridge, flow: Arc::new(flow) });
        } else {
            self.say(format_args!("not learned: {} flows are the limit", learn.limit));
        }
        if let Some(dst) = learn.result_dst {
            self.write(dst, u128::from(has_room));
        }
    }

    /// Whether the limit leaves room for a flow: it is there already, or there are fewer.
    fn has_room(&mut self, learn: &Learn, matches: &Match) -> bool {
        self.depend(Dep::Limited(self.bridge.id, learn.table, learn.cookie));
        let n = self.bridge.limited.get(&(learn.table, learn.cookie)).map_or(0, |l| l.rules);
        let known = |t: &RuleTable<Rule>| t.find_exact(matches, learn.priority).is_some();
        n < learn.limit || self.bridge.tables.get(learn.table).is_some_and(known)
    }

    /// `fin_timeout`: what follows once packets with FIN or RST are seen.
    pub(super) fn fin_timeout(&mut self, idle: u16, hard: u16) {
        if self.holds(Prereq::Tcp)
            && let Some(rule) = self.rule.cloned()
        {
            self.out.effects.push(Effect::FinTimeout { rule, idle, hard });
        }
    }
}
