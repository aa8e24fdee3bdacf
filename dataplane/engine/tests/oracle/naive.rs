//! A switch as simple as can be: rules in a list, actions on bytes.

use std::collections::HashMap;

use flow::Field;
use ofproto::action::{Action, GroupId, OfPort};
use ofproto::flowmod::{Command, FlowMod};
use ofproto::group::{Bucket, Group, GroupType};

use super::packet::Packet;

struct Rule {
    flow: FlowMod,
    packets: u64,
    bytes: u64,
}

pub struct Naive {
    rules: Vec<Rule>,
    pub groups: Vec<Group>,
    ports: u32,
    /// The buckets that select groups have been seen to choose.
    chosen: HashMap<Choice, usize>,
}

/// A select group, and what tells flows apart: addresses, type, protocol and ports.
type Choice = (GroupId, Vec<u128>);

/// Frames and the ports they leave by.
pub type Sent = Vec<(u32, Vec<u8>)>;

/// One packet's way through the tables.
struct Way {
    out: Vec<(u32, Vec<u8>)>,
    hits: Vec<usize>,
    set: Vec<Action>,
    exit: bool,
    /// Buckets that select groups shall take, in the order in which they are asked first.
    plan: Vec<usize>,
    /// What they took, of how many live ones.
    free: Vec<(Choice, usize, usize)>,
}

impl Naive {
    pub fn new(ports: u32) -> Naive {
        Naive { rules: Vec::new(), groups: Vec::new(), ports, chosen: HashMap::new() }
    }

    pub fn add(&mut self, m: &FlowMod) {
        let same = |r: &Rule| {
            r.flow.table.unwrap_or(0) == m.table.unwrap_or(0)
                && r.flow.priority == m.priority
                && r.flow.matches == m.matches
        };
        self.rules.retain(|r| !same(r));
        self.rules.push(Rule { flow: m.clone(), packets: 0, bytes: 0 });
    }

    /// Forget a rule of that place; the change that does the same.
    pub fn delete(&mut self, table: u8, priority: u16) -> Option<FlowMod> {
        let at = |r: &Rule| r.flow.table.unwrap_or(0) == table && r.flow.priority == priority;
        let rule = self.rules.remove(self.rules.iter().position(at)?);
        Some(FlowMod {
            command: Command::DeleteStrict,
            table: Some(table),
            actions: Box::default(),
            new_cookie: None,
            ..rule.flow
        })
    }

    pub fn counted(&self, table: u8, priority: u16) -> (u64, u64) {
        let at = |r: &&Rule| r.flow.table.unwrap_or(0) == table && r.flow.priority == priority;
        self.rules.iter().find(at).map_or((u64::MAX, 0), |r| (r.packets, r.bytes))
    }

    /// Whether a rule of that table and priority is there with another match.
    pub fn has_rival(&self, m: &FlowMod) -> bool {
        self.rules.iter().any(|r| {
            r.flow.table.unwrap_or(0) == m.table.unwrap_or(0)
                && r.flow.priority == m.priority
                && r.flow.matches != m.matches
        })
    }

    /// What leaves when this frame comes in, by port.
    ///
    /// Which live bucket a select group takes is the switch's choice. Every choice is tried for one
    /// that gives what the switch `got`; a choice that is known by that must be kept for the flow.
    pub fn pass(&mut self, port: u32, frame: &[u8], got: &Sent) -> Sent {
        let mut fits = Vec::new();
        let mut plan = Vec::new();
        let mut first = None;
        for tried in 0.. {
            assert!(tried < 1 << 16, "too many choices");
            let way = self.walk(port, frame, plan);
            plan = way.free.iter().map(|(_, taken, _)| *taken).collect();
            // The next plan: another last choice, or if there is none, another one before it.
            while let Some(last) = plan.last_mut() {
                *last += 1;
                if *last < way.free[plan.len() - 1].2 {
                    break;
                }
                plan.pop();
            }
            first.get_or_insert_with(|| way.out.clone());
            if way.out == *got {
                fits.push(way);
            }
            if plan.is_empty() {
                break;
            }
        }
        if let [only] = &fits[..] {
            self.chosen.extend(only.free.iter().map(|(choice, taken, _)| (choice.clone(), *taken)));
        }
        let Some(way) = fits.into_iter().next() else { return first.unwrap_or_default() };
        for hit in &way.hits {
            self.rules[*hit].packets += 1;
            self.rules[*hit].bytes += frame.len() as u64;
        }
        way.out
    }

    /// One way of the frame, with these choices of select groups and the first bucket for more.
    fn walk(&self, port: u32, frame: &[u8], plan: Vec<usize>) -> Way {
        let mut packet =
            Packet { bytes: frame.to_vec(), in_port: OfPort(port), regs: [0; 16], metadata: 0 };
        let (out, hits, set, free) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut way = Way { out, hits, set, exit: false, plan, free };
        self.table(&mut packet, 0, &mut way);
        let set = std::mem::take(&mut way.set);
        // `exit` ends the action set too, as in Open vSwitch.
        self.actions(&mut packet, &set, 0, &mut way);
        way.out.sort_by_key(|(p, _)| *p);
        way
    }

    /// The buckets of the group that this packet goes through.
    fn buckets<'a>(&self, group: &'a Group, packet: &Packet, way: &mut Way) -> Vec<&'a Bucket> {
        let lives = |b: &&Bucket| b.watch_port.is_none_or(|p| (1..=self.ports).contains(&p.0));
        match group.kind {
            GroupType::All => group.buckets.iter().collect(),
            GroupType::Indirect => group.buckets.iter().take(1).collect(),
            GroupType::FastFailover => group.buckets.iter().find(lives).into_iter().collect(),
            GroupType::Select => {
                let live: Vec<_> =
                    group.buckets.iter().filter(lives).filter(|b| b.weight > 0).collect();
                let choice = (group.id, packet.flow());
                let before =
                    way.free.iter().find(|(c, ..)| *c == choice).map(|(_, taken, _)| *taken);
                let known = before.or_else(|| self.chosen.get(&choice).copied());
                let taken = known.unwrap_or_else(|| {
                    let taken = way.plan.get(way.free.len()).copied().unwrap_or(0);
                    way.free.push((choice, taken, live.len()));
                    taken
                });
                live.get(taken).copied().into_iter().collect()
            }
        }
    }

    fn table(&self, packet: &mut Packet, table: u8, way: &mut Way) {
        self.table_as(packet, packet.in_port, table, way);
    }

    fn table_as(&self, packet: &mut Packet, in_port: OfPort, table: u8, way: &mut Way) {
        let mut key = packet.key();
        key.set(Field::InPort, u128::from(in_port.0));
        let mut best: Option<usize> = None;
        for (i, r) in self.rules.iter().enumerate() {
            let fits = r.flow.table.unwrap_or(0) == table && r.flow.matches.matches(&key);
            if fits && best.is_none_or(|b| self.rules[b].flow.priority < r.flow.priority) {
                best = Some(i);
            }
        }
        if let Some(i) = best {
            way.hits.push(i);
            self.actions(packet, &self.rules[i].flow.actions, table, way);
        }
    }

    fn actions(&self, packet: &mut Packet, list: &[Action], table: u8, way: &mut Way) {
        for action in list {
            if way.exit {
                return;
            }
            if let (Action::DecTtl(_), Some(at)) = (action, packet.ttl_at()) {
                // What is at its end is for the controller, and the list ends.
                if packet.bytes[at] <= 1 {
                    return;
                }
                packet.bytes[at] -= 1;
                packet.fix();
                continue;
            }
            self.action(packet, action, table, way);
        }
    }

    fn action(&self, packet: &mut Packet, action: &Action, table: u8, way: &mut Way) {
        match action {
            Action::Output { port, .. } => self.output(packet, *port, way),
            Action::OutputReg { src, .. } => {
                self.output(packet, OfPort(src.get(&packet.key()) as u32), way);
            }
            Action::SetVlanVid(v) => packet.change_tag(*v, 0xfff),
            Action::SetVlanPcp(p) => packet.change_tag(u16::from(*p) << 13, 0xe000),
            Action::StripVlan { .. } => packet.strip_tag(),
            // A third tag ends the packet's way.
            Action::PushVlan(_) if packet.ethertype_at() == 20 => way.exit = true,
            Action::PushVlan(tpid) => {
                let [high, low] = tpid.to_be_bytes();
                packet.bytes.splice(12..12, [high, low, 0, 0]);
            }
            Action::Set(s) => packet.write(s.field(), s.value(), s.mask()),
            Action::Move { src, dst } => {
                let v = src.get(&packet.key());
                packet.write(dst.field, v << dst.ofs, dst.mask());
            }
            Action::Resubmit { in_port, table: t, .. } => {
                // The rule is searched as if the packet had come by another port.
                let as_from = in_port.unwrap_or(packet.in_port);
                self.table_as(packet, as_from, t.unwrap_or(table), way);
            }
            Action::GotoTable(t) => self.table(packet, *t, way),
            Action::WriteMetadata { value, mask } => {
                packet.metadata = packet.metadata & !mask | value;
            }
            Action::WriteActions(list) => {
                // Only outputs are generated: the last one counts.
                way.set = list.to_vec();
            }
            Action::Clone(list) => {
                let set = way.set.clone();
                let mut copy = packet.clone();
                self.actions(&mut copy, list, table, way);
                // The copy's way ends here, and its action set is done.
                let written = std::mem::replace(&mut way.set, set);
                self.actions(&mut copy, &written, table, way);
                way.exit = false;
            }
            Action::Group(id) => {
                let Some(g) = self.groups.iter().find(|g| g.id == *id) else { return };
                for bucket in self.buckets(g, packet, way) {
                    self.aside(packet, &bucket.actions, table, way);
                }
            }
            Action::DecTtl(_) => {}
            Action::Exit => way.exit = true,
            other => panic!("the oracle does not know {other:?}"),
        }
    }

    /// Actions on a copy of the packet; `exit` ends only these.
    fn aside(&self, packet: &Packet, list: &[Action], table: u8, way: &mut Way) {
        let set = way.set.clone();
        self.actions(&mut packet.clone(), list, table, way);
        (way.set, way.exit) = (set, false);
    }

    fn output(&self, packet: &Packet, port: OfPort, way: &mut Way) {
        let mut send = |n: u32| way.out.push((n, packet.bytes.clone()));
        match port {
            OfPort::IN_PORT if (1..=self.ports).contains(&packet.in_port.0) => {
                send(packet.in_port.0)
            }
            OfPort::IN_PORT => {}
            OfPort::ALL => {
                (1..=self.ports).filter(|n| *n != packet.in_port.0).for_each(send);
            }
            OfPort(n) if n == packet.in_port.0 || !(1..=self.ports).contains(&n) => {}
            OfPort(n) => send(n),
        }
    }
}
