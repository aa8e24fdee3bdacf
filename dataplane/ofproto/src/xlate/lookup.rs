//! Looking the packet up in a table.

use std::sync::Arc;

use flow::{Drop, Field, FlowKey};

use super::{Ctx, Event, MAX_DEPTH, MAX_LOOKUPS, Visit};
use crate::action::OfPort;
use crate::rule::Rule;

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
        let (visit, rule) = match original {
            false => self.search(table),
            true => self.search_original(table),
        };
        self.out.visits.push(visit);
        match rule {
            Some(r) => {
                self.out.rules.push(r.clone());
                self.out.last_rule = Some((self.bridge.table_id(table), r.cookie));
            }
            None => {
                self.out.counters.extend(self.bridge.missed.of(table).cloned());
            }
        }
        self.trace(Event::Table { table, rule: rule.map(|r| &**r) });
        rule
    }

    /// What a table has for the packet; the decision depends on it.
    fn search(&mut self, table: u8) -> (Visit, Option<&'a Arc<Rule>>) {
        let (mut visit, mut rule) = self.find(table, &self.key);
        if visit.mask.get(Field::TpSrc) | visit.mask.get(Field::TpDst) != 0
            && self.consult(Field::NwFrag) != 0
        {
            // Flows see no ports of fragments, not even of the first (`set-frags normal` of ovs-ofctl(8)).
            let mut key = self.key.clone();
            key.set(Field::TpSrc, 0);
            key.set(Field::TpDst, 0);
            (visit, rule) = self.find(table, &key);
        }
        self.consult_mask(&visit.mask);
        (visit, rule)
    }

    /// What a table has for the packet with the addresses, protocol and ports that its connection's
    /// first packet had (`resubmit(,,ct)`).
    fn search_original(&mut self, table: u8) -> (Visit, Option<&'a Arc<Rule>>) {
        let mut key = self.key.clone();
        swap_tuples(&mut key);
        let (visit, rule) = self.find(table, &key);
        // What was looked at stands elsewhere in the packet.
        let mut mask = visit.mask.clone();
        swap_tuples(&mut mask);
        self.consult_mask(&mask);
        (visit, rule)
    }

    /// Whether the packet has a connection whose first packet is known.
    pub(super) fn has_original(&mut self) -> bool {
        const TRACKED: u128 = 0x20;
        const INVALID: u128 = 0x10;
        let state = self.consult(Field::CtState);
        state & (TRACKED | INVALID) == TRACKED && self.consult(Field::CtNwProto) != 0
    }

    /// What a table has for a key.
    fn find(&self, table: u8, key: &FlowKey) -> (Visit, Option<&'a Arc<Rule>>) {
        let mut mask = FlowKey::ZERO;
        let bridge = self.bridge;
        let (rule, floor) = match bridge.tables.get(table).map(|t| t.find(key, &mut mask)) {
            Some(found) => (found.rule, found.floor),
            None => (None, -1),
        };
        let rule_id = rule.map_or(0, |r| r.id);
        (
            Visit { table: bridge.table_id(table), key: key.clone(), mask, rule: rule_id, floor },
            rule,
        )
    }
}
