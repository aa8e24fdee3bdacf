//! Groups: which bucket does the packet go through?

use flow::Drop;
use flow::key::mix;

use super::{Ctx, MAX_DEPTH};
use crate::action::GroupId;
use crate::group::{Bucket, Group, GroupType, Selection};
use crate::mf::Subfield;
use crate::snapshot::Dep;

impl Ctx<'_> {
    pub(super) fn group(&mut self, id: GroupId) {
        self.depend(Dep::Group(self.bridge.id, id.0));
        let Some(group) = self.bridge.groups.get(&id.0).cloned() else {
            self.say(format_args!("group {} does not exist", id.0));
            return self.drop(Drop::FlowDrop);
        };
        if self.depth >= MAX_DEPTH {
            return self.drop(Drop::Recursion);
        }
        self.depth += 1;
        match group.kind {
            GroupType::All => group.buckets.iter().for_each(|b| self.bucket(b)),
            GroupType::Indirect => group.buckets.iter().take(1).for_each(|b| self.bucket(b)),
            GroupType::FastFailover => match self.first_alive(&group, 0) {
                Some(b) => self.bucket(b),
                None => self.drop(Drop::PortDown),
            },
            GroupType::Select => match self.select(&group) {
                Some(b) => self.bucket(b),
                None => self.drop(Drop::PortDown),
            },
        }
        self.depth -= 1;
    }

    /// A bucket's actions, on a packet that is put back as it was.
    fn bucket(&mut self, bucket: &Bucket) {
        self.say(format_args!("bucket {}", bucket.id));
        let saved = self.save();
        let exit = std::mem::replace(&mut self.exit, false);
        let set = std::mem::take(&mut self.action_set);
        self.run_as_set(&bucket.actions);
        self.action_set = set;
        self.exit = exit;
        self.restore(saved);
    }

    fn first_alive<'g>(&mut self, group: &'g Group, depth: usize) -> Option<&'g Bucket> {
        group.buckets.iter().find(|b| self.is_alive(b, depth))
    }

    /// Whether what the bucket watches is up. A bucket that watches nothing always is.
    fn is_alive(&mut self, bucket: &Bucket, depth: usize) -> bool {
        let port = bucket.watch_port.is_none_or(|p| self.port(p).is_some_and(|p| p.up));
        port && match bucket.watch_group {
            None => true,
            Some(_) if depth >= MAX_DEPTH => false,
            Some(id) => {
                self.depend(Dep::Group(self.bridge.id, id.0));
                match self.bridge.groups.get(&id.0).cloned() {
                    Some(g) => self.first_alive(&g, depth + 1).is_some(),
                    None => false,
                }
            }
        }
    }

    /// The bucket with the highest score, a hash of packet and bucket times its weight: packets
    /// of other buckets stay where they are when one comes or goes.
    fn select<'g>(&mut self, group: &'g Group) -> Option<&'g Bucket> {
        let mut hash = mix(group.selection_param ^ 0x9e37_79b9_7f4a_7c15, 0xa076_1d64_78bd_642f);
        let mut add = |v: u128| {
            hash = mix(hash ^ v as u64, 0xe703_7ed1_a0b4_28db ^ (v >> 64) as u64);
        };
        match &group.selection {
            Selection::Hash(fields) => {
                for (field, mask) in fields {
                    let value = self.read(Subfield::whole(*field)) & mask;
                    add(value);
                }
            }
            Selection::Default | Selection::DpHash => {
                self.tuple().into_iter().for_each(add);
            }
        }
        let score = |b: &Bucket| {
            (mix(hash ^ u64::from(b.id), 0x8ebc_6af0_9c88_c6e3) & 0xffff) * u64::from(b.weight)
        };
        let alive: Vec<&Bucket> =
            group.buckets.iter().filter(|b| b.weight > 0 && self.is_alive(b, 0)).collect();
        alive.into_iter().max_by_key(|b| (score(b), b.id))
    }
}
