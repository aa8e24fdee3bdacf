//! Which cached decisions does a change touch?
//!
//! A cached decision (a megaflow) was made by looking packets up in tables, and from other state.
//! [`Footprints`] records, for each decision, those *visits*: the table, the bits that were
//! consulted with their values, and the rule that was found. A rule that comes touches the
//! decisions whose visits it overlaps and whose result it could replace; a rule that goes
//! touches those that found it. Other state (learned addresses, groups, routes, neighbours,
//! settings of ports and bridges) is recorded as keys, which the caller makes by hashing what it
//! depends on.
//!
//! Equal visits of many decisions are one node with a list of dependents. Nodes of a table that
//! consulted the same bits are a group; a change is one or few hash lookups in each group.
//!
//! Invariants: a node has at least one dependent; a (table, bits, values) is one node; a node's
//! list has all of its dependents, and perhaps some that are gone, at most as many and a few.
//!
//! Writer: the worker that owns it; there is no sharing. Must not know: what a decision is, what
//! a rule does, when a decision is made again.

mod group;
mod lists;
mod nodes;
mod table;
mod visits;

use flow::{FlowKey, Match};
use group::{Common, Group};
use hashbrown::{HashMap, HashTable};
use lists::{Life, Lists};
use nodes::hash_values;
use smallvec::SmallVec;
use std::hash::{BuildHasher, Hasher, RandomState};
use table::Table;

pub use visits::Visits;

const NONE: u32 = u32::MAX;
/// Stands for the group in a node of a key.
const KEYS: u32 = u32::MAX - 1;
/// Dependents that may be gone before a node's list is looked through, besides half of it.
const SLACK: usize = 16;
/// Dependents that are looked through at a time, so that no removal takes long.
const SWEEP: usize = 256;
/// Visits recorded last that are at hand.
const RECENT: usize = 256;
/// Groups without visits that are kept, besides as many as have some.
const EMPTY_GROUPS: usize = 64;

/// What happens to a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A rule comes. Also for a rule with conjunctions that goes or changes, since decisions are
    /// made from it that did not end in it.
    Add {
        /// The rule's priority.
        priority: u16,
    },
    /// A rule goes, or changes what it does.
    Gone {
        /// The rule's id, as given with the visit. Not 0.
        rule: u64,
    },
}

/// What a decision depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dependency {
    /// A lookup in a table.
    Visit {
        /// The table.
        table: u32,
        /// The bits that were consulted, with their values.
        consulted: Match,
        /// The rule that was found, 0 for none.
        rule: u64,
        /// The priority from which on a new rule changes the result.
        priority: i32,
    },
    /// Some other state.
    Key(u64),
}

struct Node {
    /// Index of the group, or [`KEYS`], or [`NONE`] for a free node.
    group: u32,
    /// Slot in the group; the next free node in a free one.
    slot: u32,
    /// The rule, 0 for none; the key for [`KEYS`].
    rule: u64,
    /// Neighbours among the visits that found the same rule.
    same_rule: (u32, u32),
    /// How many of `dependents` are so.
    live: u32,
    /// How far `dependents` has been looked through.
    swept: u32,
    dependents: SmallVec<[Life; 2]>,
}

/// Sizes, for statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Visits and keys.
    pub nodes: usize,
    /// Distinct (table, bits) of visits.
    pub groups: usize,
    /// Pairs of a decision and what it depends on.
    pub edges: usize,
    /// Memory, in bytes, about.
    pub bytes: usize,
}

/// What each cached decision of one worker depends on, and who depends on what.
///
/// Decisions are named by dense numbers (slots of the caller's table).
pub struct Footprints {
    lists: Lists,
    nodes: Vec<Node>,
    free_node: u32,
    live_nodes: usize,
    edges: usize,
    /// Nodes by group and values, or by key.
    by_value: HashTable<u32>,
    /// First visit of each rule.
    by_rule: HashMap<u64, u32>,
    groups: Vec<Group>,
    free_groups: Vec<u32>,
    empty_groups: usize,
    /// Groups by table and mask.
    by_mask: HashTable<u32>,
    tables: HashMap<u32, Table>,
    /// For a hash of table and rule, or of a key, the node recorded last: most decisions share most of
    /// theirs with the ones before, and a comparison is cheaper than hash lookups. May be outdated.
    recent: Box<[u32; RECENT]>,
    /// Changes so far: the clock of the indexes.
    now: u64,
    /// Start of all hashes: packets must not be able to choose what collides.
    seed: u64,
    scratch: Vec<u32>,
}

fn recent_slot(table: u32, rule: u64) -> usize {
    (rule.wrapping_mul(31).wrapping_add(u64::from(table)) as usize) % RECENT
}

impl Default for Footprints {
    fn default() -> Self {
        Self::new()
    }
}

impl Footprints {
    /// Nothing recorded; hashes begin with a random number.
    pub fn new() -> Self {
        Self::with_seed(RandomState::new().build_hasher().finish())
    }

    /// Nothing recorded; hashes begin with this number.
    pub fn with_seed(seed: u64) -> Self {
        Footprints {
            seed,
            lists: Lists::new(),
            nodes: Vec::new(),
            free_node: NONE,
            live_nodes: 0,
            edges: 0,
            by_value: HashTable::new(),
            by_rule: HashMap::new(),
            groups: Vec::new(),
            free_groups: Vec::new(),
            empty_groups: 0,
            by_mask: HashTable::new(),
            tables: HashMap::new(),
            recent: Box::new([NONE; RECENT]),
            now: 0,
            scratch: Vec::new(),
        }
    }

    /// Forget everything.
    pub fn clear(&mut self) {
        *self = Self::with_seed(self.seed);
    }

    /// Record what a decision was made from: lookups, and other state, which the caller names by hashes.
    /// Equal hashes of different state only make more decisions stale than need be.
    ///
    /// Where an equal lookup is recorded already, the result given now replaces the older one: whoever
    /// translates has adopted all changes, and so the older decisions were touched by what made the
    /// difference.
    pub fn add(&mut self, dependent: u32, visits: &Visits, keys: impl Iterator<Item = u64>) {
        let mut made_from = std::mem::take(&mut self.scratch);
        let life = self.lists.life(dependent);
        for visit in visits.iter() {
            let node = self.visit(&visit);
            self.link(node, life, &mut made_from);
        }
        for key in keys {
            let node = self.key(key);
            self.link(node, life, &mut made_from);
        }
        self.edges += made_from.len();
        self.lists.extend(dependent, &made_from);
        made_from.clear();
        self.scratch = made_from;
    }

    /// Forget a decision.
    pub fn remove(&mut self, dependent: u32) {
        let mut nodes = std::mem::take(&mut self.scratch);
        self.lists.take(dependent, &mut nodes);
        self.edges -= nodes.len();
        for n in nodes.drain(..) {
            let node = &mut self.nodes[n as usize];
            node.live -= 1;
            if node.live == 0 {
                self.free_node(n);
            } else if node.dependents.len() > 2 * node.live as usize + SLACK {
                self.sweep(n);
            }
        }
        self.scratch = nodes;
    }

    /// Call `out` with every decision that the change of a rule with the match `m` touches;
    /// with some of them perhaps more than once.
    pub fn touched(&mut self, table: u32, m: &Match, change: Change, out: &mut impl FnMut(u32)) {
        self.now += 1;
        let mut nodes = std::mem::take(&mut self.scratch);
        match change {
            Change::Gone { rule } => self.visits_of(table, rule, &mut nodes),
            Change::Add { priority } => self.overlapping(table, m, i32::from(priority), &mut nodes),
        }
        for n in nodes.drain(..) {
            self.emit(n, out);
        }
        self.scratch = nodes;
    }

    /// Call `out` with every decision that depends on the key.
    pub fn touched_dep(&mut self, key: u64, out: &mut impl FnMut(u32)) {
        let hash = hash_values(self.seed, KEYS, std::iter::once(key));
        if let Some(node) = self.find_key(key, hash) {
            self.emit(node, out);
        }
    }

    /// What a decision depends on.
    pub fn dependencies(&self, dependent: u32) -> impl Iterator<Item = Dependency> + '_ {
        self.lists.iter(dependent).map(|n| {
            let node = &self.nodes[n as usize];
            if node.group == KEYS {
                return Dependency::Key(node.rule);
            }
            let group = &self.groups[node.group as usize];
            let mut key = FlowKey::ZERO;
            for ((w, _), v) in group.mask.iter().zip(group.slot(node.slot)) {
                key.set_word(w, *v);
            }
            Dependency::Visit {
                table: group.table,
                consulted: Match::new(&key, &group.mask.expand()),
                rule: node.rule,
                priority: group.priority(node.slot),
            }
        })
    }

    /// How much is recorded.
    pub fn sizes(&self) -> Sizes {
        let spilled = self.nodes.iter().filter(|n| n.dependents.spilled());
        let bytes = self.lists.bytes()
            + self.nodes.capacity() * size_of::<Node>()
            + spilled.map(|n| n.dependents.capacity() * size_of::<Life>()).sum::<usize>()
            + self.by_value.capacity() * 5
            + self.by_rule.capacity() * 17
            + self.groups.iter().map(Group::bytes).sum::<usize>();
        let groups = self.groups.len() - self.free_groups.len() - self.empty_groups;
        Sizes { nodes: self.live_nodes, groups, edges: self.edges, bytes }
    }

    fn emit(&mut self, n: u32, out: &mut impl FnMut(u32)) {
        let node = &mut self.nodes[n as usize];
        if node.dependents.len() != node.live as usize {
            node.dependents.retain(|d| self.lists.is_current(*d));
            node.dependents.shrink_to_fit();
        }
        node.dependents.iter().for_each(|d| out(d.dependent));
    }

    /// Drop some of the dependents that are gone from a node's list.
    fn sweep(&mut self, n: u32) {
        let Node { dependents, swept, .. } = &mut self.nodes[n as usize];
        let mut at = *swept as usize;
        for _ in 0..SWEEP {
            match dependents.get(at) {
                None => {
                    at = 0;
                    break;
                }
                Some(d) if self.lists.is_current(*d) => at += 1,
                Some(_) => drop(dependents.swap_remove(at)),
            }
        }
        *swept = at as u32;
        if dependents.capacity() > 4 * dependents.len() + SLACK {
            dependents.shrink_to_fit();
        }
    }

    fn visits_of(&self, table: u32, rule: u64, out: &mut Vec<u32>) {
        let mut n = self.by_rule.get(&rule).copied().unwrap_or(NONE);
        while n != NONE {
            let node = &self.nodes[n as usize];
            if self.groups[node.group as usize].table == table {
                out.push(n);
            }
            n = node.same_rule.1;
        }
    }

    fn overlapping(&mut self, table: u32, m: &Match, priority: i32, out: &mut Vec<u32>) {
        let Some(table) = self.tables.get_mut(&table) else { return };
        for (g, common) in table.plan(m, &self.groups) {
            let group = &mut self.groups[*g as usize];
            if group.is_above(priority) {
                continue;
            }
            if let Common::All = common {
                let hash =
                    hash_values(self.seed, *g, group.mask.iter().map(|(w, m2)| m.word(w).0 & m2));
                let nodes = &self.nodes;
                let found = self.by_value.find(hash, |n| {
                    let node = &nodes[*n as usize];
                    node.group == *g && group.overlaps(node.slot, m)
                });
                out.extend(found.filter(|n| group.priority(nodes[**n as usize].slot) <= priority));
            } else {
                group.touched(common, m, priority, self.now, out);
            }
        }
    }
}
