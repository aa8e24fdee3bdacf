//! Groups: which bucket does the packet go through?

use flow::Drop;
use flow::key::mix;

use super::{Ctx, MAX_DEPTH};
use crate::action::GroupId;
use crate::group::{Bucket, Group, GroupType, Selection};
use crate::group_table::GroupEntry;
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
        self.out.counters.push(group.stats.clone());
        match group.kind {
            GroupType::All => (0..group.buckets.len()).for_each(|i| self.bucket(&group, i)),
            GroupType::Indirect => self.bucket(&group, 0),
            GroupType::FastFailover => match self.first_alive(&group, 0) {
                Some(i) => self.bucket(&group, i),
                None => self.drop(Drop::PortDown),
            },
            GroupType::Select => match self.select(&group) {
                Some(i) => self.bucket(&group, i),
                None => self.drop(Drop::PortDown),
            },
        }
        self.depth -= 1;
    }

    /// A bucket's actions, on a packet that is put back as it was.
    fn bucket(&mut self, group: &GroupEntry, index: usize) {
        let Some(bucket) = group.buckets.get(index) else { return };
        self.out.counters.extend(group.bucket_stats.get(index).cloned());
        self.say(format_args!("bucket {}", bucket.id));
        let saved = self.save();
        let exit = std::mem::replace(&mut self.exit, false);
        let set = std::mem::take(&mut self.action_set);
        self.run_as_set(&bucket.actions);
        self.action_set = set;
        self.exit = exit;
        self.restore(saved);
    }

    /// The index of the first bucket that is alive.
    fn first_alive(&mut self, group: &Group, depth: usize) -> Option<usize> {
        group.buckets.iter().position(|b| self.is_alive(b, depth))
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
    fn select(&mut self, group: &Group) -> Option<usize> {
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
        let all = group.buckets.iter().enumerate();
        let alive = all.filter(|(_, b)| b.weight > 0 && self.is_alive(b, 0));
        alive.max_by_key(|(_, b)| (score(b), b.id)).map(|(i, _)| i)
    }
}
