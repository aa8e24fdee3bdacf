//! Looking the packet up in a table.

use std::sync::Arc;

use flow::{Drop, Field, FlowKey, word};

use super::{Ctx, Event, MAX_DEPTH, MAX_LOOKUPS};
use crate::action::OfPort;
use crate::rule::Rule;
use crate::snapshot::Bridge;

type Found<'a> = classifier::Found<'a, Rule>;

/// Both ports.
const PORTS: u64 = 0xffff_ffff << 32;

/// Fields of a packet and those of its connection's first packet.
const TUPLE: &[(Field, Field)] = &[
    (Field::NwProto, Field::CtNwProto),
    (Field::NwSrc, Field::CtNwSrc),
    (Field::NwDst, Field::CtNwDst),
    (Field::Ipv6Src, Field::CtIpv6Src),
    (Field::Ipv6Dst, Field::CtIpv6Dst),
    (Field::TpSrc, Field::CtTpSrc),
    (Field::TpDst, Field::CtTpDst),
];

/// Exchange a packet's tuple with that of its connection's first packet, in a key or in a mask.
fn swap_tuples(key: &mut FlowKey) {
    for (a, b) in TUPLE {
        let (of_a, of_b) = (key.get(*a), key.get(*b));
        key.set(*a, of_b);
        key.set(*b, of_a);
    }
}

impl<'a> Ctx<'a> {
    /// Look the key up in a table and do what the rule says.
    pub(super) fn run_table(&mut self, table: u8) {
        self.run_table_as(self.in_port, table, false);
    }

    /// The same, searching as if the packet had come by another port, or, with `original`, as if its
    /// addresses and ports were those of its connection's first packet; the rule's actions see the
    /// packet as it is.
    pub(super) fn run_table_as(&mut self, in_port: OfPort, table: u8, original: bool) {
        if self.depth >= MAX_DEPTH || self.lookups >= MAX_LOOKUPS {
            return self.drop(Drop::Recursion);
        }
        self.depth += 1;
        let saved = (self.table, self.rule.take());
        self.table = table;
        let home = self.in_port;
        if in_port != OfPort::IN_PORT {
            self.set_in_port(in_port);
        }
        self.rule = self.lookup(table, original);
        self.set_in_port(home);
        if let Some(rule) = self.rule {
            self.run_actions(&rule.actions);
        } else if self.out.drop.is_none() {
            self.drop(Drop::NoFlow);
        }
        (self.table, self.rule) = saved;
        self.depth -= 1;
    }

    fn lookup(&mut self, table: u8, original: bool) -> Option<&'a Arc<Rule>> {
        self.lookups += 1;
        let rule = match original {
            false => self.search(table),
            true => self.search_original(table),
        };
        match rule {
            Some(r) => self.out.rules.push(r.clone()),
            None => self.out.counters.extend(self.bridge.missed.of(table).cloned()),
        }
        self.trace(Event::Table { table, rule: rule.map(|r| &**r) });
        rule
    }

    /// What a table has for the packet; the decision depends on it.
    fn search(&mut self, table: u8) -> Option<&'a Arc<Rule>> {
        let found = find(self.bridge, table, &self.key, &mut self.consulted);
        if self.consulted.word(word::L4) & PORTS != 0 && self.consult(Field::NwFrag) != 0 {
            return self.search_fragment(table);
        }
        self.visited(table, found, None);
        for (w, mask) in self.out.visits.last_consulted() {
            let mask = mask & !self.fixed.word(w);
            if mask != 0 {
                self.out.mask.set_word(w, self.out.mask.word(w) | mask);
            }
        }
        found.rule
    }

    /// The same for a fragment: flows see no ports of it, not even of the first (`set-frags normal` of
    /// ovs-ofctl(8)).
    #[cold]
    fn search_fragment(&mut self, table: u8) -> Option<&'a Arc<Rule>> {
        let mut key = self.key.clone();
        key.set(Field::TpSrc, 0);
        key.set(Field::TpDst, 0);
        let found = find(self.bridge, table, &key, &mut self.consulted);
        self.visited(table, found, Some(&key));
        self.consult_mask(&self.consulted.clone());
        found.rule
    }

    /// What a table has for the packet with the addresses, protocol and ports that its connection's
    /// first packet had (`resubmit(,,ct)`).
    fn search_original(&mut self, table: u8) -> Option<&'a Arc<Rule>> {
        let mut key = self.key.clone();
        swap_tuples(&mut key);
        let found = find(self.bridge, table, &key, &mut self.consulted);
        self.visited(table, found, Some(&key));
        // What was looked at stands elsewhere in the packet.
        let mut mask = self.consulted.clone();
        swap_tuples(&mut mask);
        self.consult_mask(&mask);
        found.rule
    }

    /// Note a lookup of a key, or of the packet's, that consulted the bits in `consulted`.
    #[inline]
    fn visited(&mut self, table: u8, found: Found<'_>, key: Option<&FlowKey>) {
        let rule = found.rule.map_or(0, |r| r.id);
        let id = self.bridge.table_id(table);
        self.out.visits.push(id, key.unwrap_or(&self.key), &self.consulted, rule, found.floor);
    }

    /// Whether the packet has a connection whose first packet is known.
    pub(super) fn has_original(&mut self) -> bool {
        const TRACKED: u128 = 0x20;
        const INVALID: u128 = 0x10;
        let state = self.consult(Field::CtState);
        state & (TRACKED | INVALID) == TRACKED && self.consult(Field::CtNwProto) != 0
    }
}

/// What a table has for a key, and in `consulted` the bits that said so.
#[inline]
fn find<'a>(bridge: &'a Bridge, table: u8, key: &FlowKey, consulted: &mut FlowKey) -> Found<'a> {
    consulted.clear();
    match bridge.tables.get(table) {
        Some(rules) => rules.find(key, consulted),
        None => Found { rule: None, floor: -1 },
    }
}
