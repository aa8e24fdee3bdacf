//! The `learn` action: a flow made of the packet at hand.

use std::sync::Arc;

use flow::{FlowKey, Match};

use super::{Ctx, Effect};
use crate::action::{Action, Learn, LearnSpec, OfPort, SetField, SetForm};
use crate::mf::Subfield;

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
        let bridge = self.bridge.id;
        self.out.effects.push(Effect::LearnFlow { bridge, flow: Arc::new(flow) });
    }
}
