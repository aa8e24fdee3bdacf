//! Making, finding and freeing the nodes and groups of [`Footprints`].
//!
//! Invariants: `by_value` has every node in use, `by_rule` the first of each rule's visits,
//! `by_mask` every group that is not in `free_groups`; `empty_groups` counts those of them that
//! have no visit.

use super::group::{Group, equal};
use super::lists::Life;
use super::table::Table;
use super::visits::Visit;
use super::{EMPTY_GROUPS, Footprints, KEYS, NONE, Node, recent_slot};
use flow::key::mix;
use flow::sparse::mix_word;
use smallvec::SmallVec;

fn hash_mask(seed: u64, table: u32, map: u64, words: impl Iterator<Item = u64>) -> u64 {
    words.fold(mix(map ^ seed, u64::from(table) ^ 0xe703_7ed1_a0b4_28db), mix_word)
}

pub(super) fn hash_values(seed: u64, group: u32, values: impl Iterator<Item = u64>) -> u64 {
    values.fold(mix(u64::from(group) ^ seed, 0x8ebc_6af0_9c88_c6e3), mix_word)
}

fn hash_node(seed: u64, groups: &[Group], node: &Node) -> u64 {
    if node.group == KEYS {
        return hash_values(seed, KEYS, std::iter::once(node.rule));
    }
    let values = groups[node.group as usize].slot(node.slot);
    hash_values(seed, node.group, values.iter().copied())
}

fn hash_group(seed: u64, group: &Group) -> u64 {
    hash_mask(seed, group.table, group.mask.map(), group.mask.iter().map(|(_, m)| m))
}

impl Footprints {
    /// Let a node have one more dependent, and `made_from` the node.
    #[inline]
    pub(super) fn link(&mut self, n: u32, life: Life, made_from: &mut Vec<u32>) {
        let node = &mut self.nodes[n as usize];
        // The dependents of one node come one after the other, so an equal one would be the last.
        // One that comes twice for other reasons costs only its place.
        if node.dependents.last() == Some(&life) {
            return;
        }
        node.dependents.push(life);
        node.live += 1;
        made_from.push(n);
    }

    /// The node of a lookup, with its result as it is now.
    #[inline]
    pub(super) fn visit(&mut self, visit: &Visit<'_>) -> u32 {
        let recent = recent_slot(visit.table, visit.rule);
        let node = self.recent[recent];
        if self.is_visit(node, visit) {
            self.update(node, visit);
            return node;
        }
        let node = self.find_visit(visit);
        self.recent[recent] = node;
        node
    }

    fn find_visit(&mut self, visit: &Visit<'_>) -> u32 {
        let group = self.group(visit);
        let hash = hash_values(self.seed, group, visit.values.iter().copied());
        let (nodes, groups) = (&self.nodes, &self.groups);
        let found = self.by_value.find(hash, |n| {
            let node = &nodes[*n as usize];
            node.group == group && groups[group as usize].slot(node.slot) == visit.values
        });
        match found.copied() {
            Some(node) => {
                self.update(node, visit);
                node
            }
            None => self.new_visit(group, hash, visit),
        }
    }

    /// The node of other state.
    #[inline]
    pub(super) fn key(&mut self, key: u64) -> u32 {
        let recent = recent_slot(KEYS, key);
        let node = self.recent[recent];
        if self.nodes.get(node as usize).is_some_and(|n| n.group == KEYS && n.rule == key) {
            return node;
        }
        let hash = hash_values(self.seed, KEYS, std::iter::once(key));
        let node = self.find_key(key, hash).unwrap_or_else(|| {
            let node = self.new_node(KEYS, 0, key);
            self.insert_by_value(hash, node);
            node
        });
        self.recent[recent] = node;
        node
    }

    pub(super) fn find_key(&self, key: u64, hash: u64) -> Option<u32> {
        let is = |n: &u32| {
            let node = &self.nodes[*n as usize];
            node.group == KEYS && node.rule == key
        };
        self.by_value.find(hash, is).copied()
    }

    pub(super) fn insert_by_value(&mut self, hash: u64, node: u32) {
        let (seed, nodes, groups) = (self.seed, &self.nodes, &self.groups);
        self.by_value.insert_unique(hash, node, |n| hash_node(seed, groups, &nodes[*n as usize]));
    }

    pub(super) fn new_node(&mut self, group: u32, slot: u32, rule: u64) -> u32 {
        self.live_nodes += 1;
        let node = Node {
            group,
            slot,
            rule,
            same_rule: (NONE, NONE),
            live: 0,
            swept: 0,
            dependents: SmallVec::new(),
        };
        match self.nodes.get_mut(self.free_node as usize) {
            Some(free) => {
                let n = std::mem::replace(&mut self.free_node, free.slot);
                *free = node;
                n
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() as u32 - 1
            }
        }
    }

    fn new_visit(&mut self, group: u32, hash: u64, visit: &Visit<'_>) -> u32 {
        let n = self.new_node(group, NONE, visit.rule);
        let g = &mut self.groups[group as usize];
        self.empty_groups -= usize::from(g.is_empty());
        let slot = g.add(n, visit.values, visit.floor);
        self.nodes[n as usize].slot = slot;
        self.link_rule(n);
        self.insert_by_value(hash, n);
        n
    }

    /// A lookup was made again: note its result.
    #[inline]
    fn update(&mut self, n: u32, visit: &Visit<'_>) {
        let node = &mut self.nodes[n as usize];
        let (group, slot) = (node.group as usize, node.slot);
        if node.rule != visit.rule {
            self.unlink_rule(n);
            self.nodes[n as usize].rule = visit.rule;
            self.link_rule(n);
        }
        if self.groups[group].priority(slot) != visit.floor {
            self.groups[group].set_priority(slot, visit.floor);
        }
    }

    pub(super) fn free_node(&mut self, n: u32) {
        let hash = hash_node(self.seed, &self.groups, &self.nodes[n as usize]);
        if let Ok(entry) = self.by_value.find_entry(hash, |x| *x == n) {
            entry.remove();
        }
        let (group, slot) = (self.nodes[n as usize].group, self.nodes[n as usize].slot);
        if group != KEYS {
            self.unlink_rule(n);
            let g = &mut self.groups[group as usize];
            g.remove(slot);
            self.empty_groups += usize::from(g.is_empty());
        }
        self.nodes[n as usize] = Node {
            group: NONE,
            slot: self.free_node,
            rule: 0,
            same_rule: (NONE, NONE),
            live: 0,
            swept: 0,
            dependents: SmallVec::new(),
        };
        self.free_node = n;
        self.live_nodes -= 1;
    }

    fn link_rule(&mut self, n: u32) {
        let rule = self.nodes[n as usize].rule;
        if rule == 0 {
            return;
        }
        let next = self.by_rule.insert(rule, n).unwrap_or(NONE);
        self.nodes[n as usize].same_rule = (NONE, next);
        if next != NONE {
            self.nodes[next as usize].same_rule.0 = n;
        }
    }

    fn unlink_rule(&mut self, n: u32) {
        let (rule, (prev, next)) = {
            let node = &self.nodes[n as usize];
            (node.rule, node.same_rule)
        };
        if rule == 0 {
            return;
        }
        if next != NONE {
            self.nodes[next as usize].same_rule.0 = prev;
        }
        if prev != NONE {
            self.nodes[prev as usize].same_rule.1 = next;
        } else if next != NONE {
            self.by_rule.insert(rule, next);
        } else {
            self.by_rule.remove(&rule);
        }
    }

    /// Whether the node is this visit, with this rule.
    #[inline]
    fn is_visit(&self, n: u32, visit: &Visit<'_>) -> bool {
        let Some(node) = self.nodes.get(n as usize) else { return false };
        let Some(group) = self.groups.get(node.group as usize) else { return false };
        node.rule == visit.rule && group.is_of(visit) && equal(group.slot(node.slot), visit.values)
    }

    /// The group of a table and the bits consulted.
    fn group(&mut self, visit: &Visit<'_>) -> u32 {
        let hash = hash_mask(self.seed, visit.table, visit.map, visit.masks.iter().copied());
        match self.by_mask.find(hash, |g| self.groups[*g as usize].is_of(visit)) {
            Some(g) => *g,
            None => self.new_group(visit, hash),
        }
    }

    fn new_group(&mut self, visit: &Visit<'_>, hash: u64) -> u32 {
        let live = self.groups.len() - self.free_groups.len() - self.empty_groups;
        if self.empty_groups > live + EMPTY_GROUPS {
            self.drop_empty_groups();
        }
        let group = Group::new(visit.table, flow::MaskWords::from_words(visit.map, visit.masks));
        let g = match self.free_groups.pop() {
            Some(g) => {
                self.groups[g as usize] = group;
                g
            }
            None => {
                self.groups.push(group);
                self.groups.len() as u32 - 1
            }
        };
        self.empty_groups += 1;
        let (seed, groups) = (self.seed, &self.groups);
        self.by_mask.insert_unique(hash, g, |g| hash_group(seed, &groups[*g as usize]));
        self.tables.entry(visit.table).or_insert_with(Table::new).add(g);
        g
    }

    fn drop_empty_groups(&mut self) {
        let (groups, free) = (&self.groups, &mut self.free_groups);
        self.by_mask.retain(|g| !groups[*g as usize].is_empty());
        self.tables.retain(|_, t| t.drop_groups(|g| groups[g as usize].is_empty(), free));
        self.empty_groups = 0;
    }
}
