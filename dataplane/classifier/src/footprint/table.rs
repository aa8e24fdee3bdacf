//! The groups of one table, and for the masks of recent changes what each group shares with it.
//!
//! Changes come in runs with few masks, so what a mask has in common with each group is worked
//! out once.

use super::group::{Common, Group};
use flow::{MaskWords, Match};

/// Masks of changes that are remembered.
const PLANS_MAX: usize = 32;

pub(super) struct Table {
    groups: Vec<u32>,
    plans: Vec<Plan>,
    /// Where the next plan goes when all places are taken.
    next: usize,
}

struct Plan {
    mask: MaskWords,
    /// A prefix of the table's groups, with what they have in common with the mask.
    groups: Vec<(u32, Common)>,
}

impl Table {
    pub(super) fn new() -> Self {
        Table { groups: Vec::new(), plans: Vec::new(), next: 0 }
    }

    pub(super) fn add(&mut self, group: u32) {
        self.groups.push(group);
    }

    /// All groups, each with the bits that it has in common with the change's mask.
    pub(super) fn plan(&mut self, m: &Match, groups: &[Group]) -> &[(u32, Common)] {
        let at = self.plans.iter().position(|p| has_mask(m, &p.mask)).unwrap_or_else(|| {
            let plan = Plan { mask: m.mask(), groups: Vec::new() };
            if self.plans.len() < PLANS_MAX {
                self.plans.push(plan);
                return self.plans.len() - 1;
            }
            let at = self.next % PLANS_MAX;
            self.next += 1;
            self.plans[at] = plan;
            at
        });
        let plan = &mut self.plans[at];
        for g in &self.groups[plan.groups.len()..] {
            plan.groups.push((*g, Common::new(&plan.mask, &groups[*g as usize].mask)));
        }
        &plan.groups
    }

    /// Drop the groups that `gone` names; tells whether any are left.
    pub(super) fn drop_groups(
        &mut self,
        gone: impl Fn(u32) -> bool,
        dropped: &mut Vec<u32>,
    ) -> bool {
        let before = self.groups.len();
        self.groups.retain(|g| {
            let gone = gone(*g);
            if gone {
                dropped.push(*g);
            }
            !gone
        });
        if self.groups.len() != before {
            self.plans.clear();
        }
        !self.groups.is_empty()
    }
}

fn has_mask(m: &Match, mask: &MaskWords) -> bool {
    m.map() == mask.map() && m.iter().zip(mask.iter()).all(|((_, _, a), (_, b))| a == b)
}
