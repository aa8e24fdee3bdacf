//! A switch as simple as can be: rules in a list, actions on bytes. Two bridges, joined by a patch port.

use std::collections::HashMap;

use flow::{Field, FlowKey, Match};
use ofproto::action::{Action, GroupId, Learn, LearnSpec, OfPort, SetField, SetForm};
use ofproto::flowmod::{Command, FlowMod};
use ofproto::group::{Bucket, Group, GroupType};
use ofproto::text::{NoNames, parse_flow};

use super::packet::Packet;
use super::rig::{ACCESS, ALL_PORTS, PATCH, datapath};

/// Tables that one packet may be searched in, and bridges that it may be in at a time: far below the
/// switch's limits, which the oracle does not know.
const MAX_LOOKUPS: usize = 1000;
const MAX_CROSSED: usize = 6;

struct Rule {
    bridge: usize,
    flow: FlowMod,
    packets: u64,
    bytes: u64,
}

pub struct Naive {
    rules: Vec<Rule>,
    pub groups: Vec<Group>,
    /// Where addresses are: (bridge, VLAN, address) to the port.
    macs: HashMap<Address, u32>,
    /// The buckets that select groups have been seen to choose.
    chosen: HashMap<Choice, usize>,
}

/// A bridge, a VLAN and an Ethernet address.
type Address = (usize, u16, [u8; 6]);

/// A select group of a bridge, and what tells flows apart: addresses, type, protocol and ports.
type Choice = (usize, GroupId, Vec<u128>);

/// Frames and the ports they leave by.
pub type Sent = Vec<(u32, Vec<u8>)>;

/// One packet's way through the tables.
#[derive(Default)]
struct Way {
    /// The bridge that the packet is in.
    bridge: usize,
    out: Vec<(u32, Vec<u8>)>,
    hits: Vec<usize>,
    /// Addresses and flows that are known once the packet is through.
    macs: Vec<(Address, u32)>,
    flows: Vec<(usize, FlowMod)>,
    set: Vec<Action>,
    exit: bool,
    /// Buckets that select groups shall take, in the order in which they are asked first.
    plan: Vec<usize>,
    /// What they took, of how many live ones.
    free: Vec<(Choice, usize, usize)>,
    lookups: usize,
    crossed: usize,
}

impl Way {
    /// Whether the packet went on for longer than the oracle follows it.
    fn is_lost(&self) -> bool {
        self.lookups > MAX_LOOKUPS
    }
}

impl Rule {
    fn is_at(&self, bridge: usize, (table, priority): (u8, u16)) -> bool {
        (self.bridge, self.flow.table.unwrap_or(0), self.flow.priority) == (bridge, table, priority)
    }
}

impl Naive {
    pub fn new() -> Naive {
        let (macs, chosen) = (HashMap::new(), HashMap::new());
        Naive { rules: Vec::new(), groups: Vec::new(), macs, chosen }
    }

    pub fn add(&mut self, bridge: usize, m: &FlowMod) {
        let place = (m.table.unwrap_or(0), m.priority);
        self.rules.retain(|r| !(r.is_at(bridge, place) && r.flow.matches == m.matches));
        self.rules.push(Rule { bridge, flow: m.clone(), packets: 0, bytes: 0 });
    }

    /// Forget a rule of that place; the change that does the same.
    pub fn delete(&mut self, bridge: usize, table: u8, priority: u16) -> Option<FlowMod> {
        let at = |r: &Rule| r.is_at(bridge, (table, priority));
        let rule = self.rules.remove(self.rules.iter().position(at)?);
        Some(FlowMod {
            command: Command::DeleteStrict,
            table: Some(table),
            actions: Box::default(),
            new_cookie: None,
            ..rule.flow
        })
    }

    /// Packets and bytes that a rule counted; `None` if there is no such rule.
    pub fn counted(&self, bridge: usize, place: (u8, u16), m: &Match) -> Option<(u64, u64)> {
        let rule = self.rules.iter().find(|r| r.is_at(bridge, place) && r.flow.matches == *m)?;
        Some((rule.packets, rule.bytes))
    }

    /// Whether a rule of that table and priority is there with another match.
    pub fn has_rival(&self, bridge: usize, m: &FlowMod) -> bool {
        let place = (m.table.unwrap_or(0), m.priority);
        self.rules.iter().any(|r| r.is_at(bridge, place) && r.flow.matches != m.matches)
    }

    /// What leaves when this frame comes in by a datapath port; `None` if that cannot be told, or if it
    /// went through more tables than the oracle follows.
    ///
    /// Which live bucket a select group takes is the switch's choice. Every choice is tried for one
    /// that gives what the switch `got`; a choice that is known by that must be kept for the flow.
    pub fn pass(&mut self, port: u32, frame: &[u8], got: &Sent) -> Option<Sent> {
        let mut fits = Vec::new();
        let mut plan = Vec::new();
        let mut first = None;
        for tried in 0.. {
            assert!(tried < 1 << 16, "too many choices");
            let way = self.walk(port, frame, plan);
            if way.is_lost() {
                return None;
            }
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
        // Which way it was cannot be told where only what else follows differs.
        let differ = |a: &Way, b: &Way| a.hits != b.hits || a.macs != b.macs || a.flows != b.flows;
        if fits.windows(2).any(|w| differ(&w[0], &w[1])) {
            return None;
        }
        let Some(way) = fits.into_iter().next() else { return first };
        for hit in &way.hits {
            self.rules[*hit].packets += 1;
            self.rules[*hit].bytes += frame.len() as u64;
        }
        self.macs.extend(way.macs);
        for (bridge, flow) in &way.flows {
            // What is there already stays, with its counters.
            let place = (flow.table.unwrap_or(0), flow.priority);
            if self.counted(*bridge, place, &flow.matches).is_none() {
                self.add(*bridge, flow);
            }
        }
        Some(way.out)
    }

    /// One way of the frame, with these choices of select groups and the first bucket for more.
    fn walk(&self, port: u32, frame: &[u8], plan: Vec<usize>) -> Way {
        let from =
            |b: usize| (1..=ALL_PORTS[b]).find(|n| *n != PATCH[b] && datapath(b, *n) == port);
        let bridge = (0..2).find(|b| from(*b).is_some()).expect("a port");
        let mut packet = Packet::new(frame.to_vec(), OfPort(from(bridge).expect("a port")));
        let mut way = Way { bridge, plan, ..Way::default() };
        self.pipeline(&mut packet, &mut way);
        way.out.sort_by_key(|(p, _)| *p);
        way
    }

    /// All of a bridge's tables, and what was written for their end.
    fn pipeline(&self, packet: &mut Packet, way: &mut Way) {
        self.table(packet, 0, way);
        let set = std::mem::take(&mut way.set);
        // `exit` ends the action set too, as in Open vSwitch.
        self.actions(packet, &set, 0, way);
    }

    /// The buckets of the group that this packet goes through.
    fn buckets<'a>(&self, group: &'a Group, packet: &Packet, way: &mut Way) -> Vec<&'a Bucket> {
        let lives =
            |b: &&Bucket| b.watch_port.is_none_or(|p| (1..=ALL_PORTS[way.bridge]).contains(&p.0));
        match group.kind {
            GroupType::All => group.buckets.iter().collect(),
            GroupType::Indirect => group.buckets.iter().take(1).collect(),
            GroupType::FastFailover => group.buckets.iter().find(lives).into_iter().collect(),
            GroupType::Select => {
                let live: Vec<_> =
                    group.buckets.iter().filter(lives).filter(|b| b.weight > 0).collect();
                let choice = (way.bridge, group.id, packet.flow());
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
        way.lookups += 1;
        if way.is_lost() {
            return;
        }
        let mut key = packet.key();
        key.set(Field::InPort, u128::from(in_port.0));
        let mut best: Option<usize> = None;
        for (i, r) in self.rules.iter().enumerate() {
            let here = r.bridge == way.bridge && r.flow.table.unwrap_or(0) == table;
            let fits = here && r.flow.matches.matches(&key);
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
            Action::Learn(learn) => {
                let flow = learned(learn, &packet.key());
                way.flows.push((way.bridge, flow));
            }
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
        let last = ALL_PORTS[way.bridge];
        match port {
            OfPort::IN_PORT => self.send(packet, packet.in_port.0, way),
            OfPort::NORMAL => self.normal(packet, way),
            OfPort::ALL => {
                for n in (1..=last).filter(|n| *n != packet.in_port.0) {
                    self.send(packet, n, way);
                }
            }
            OfPort(n) if n == packet.in_port.0 => {}
            OfPort(n) => self.send(packet, n, way),
        }
    }

    /// Out of a port of the bridge, if there is such a port; over the patch port into the other bridge.
    fn send(&self, packet: &Packet, port: u32, way: &mut Way) {
        if !(1..=ALL_PORTS[way.bridge]).contains(&port) {
            return;
        }
        if port != PATCH[way.bridge] {
            way.out.push((datapath(way.bridge, port), packet.bytes.clone()));
            return;
        }
        if way.crossed == MAX_CROSSED {
            way.lookups = MAX_LOOKUPS;
        }
        let home = way.bridge;
        let set = std::mem::take(&mut way.set);
        way.bridge = 1 - home;
        way.crossed += 1;
        // Registers and metadata stay behind.
        let mut packet = Packet::new(packet.bytes.clone(), OfPort(PATCH[way.bridge]));
        self.pipeline(&mut packet, way);
        (way.bridge, way.set, way.exit) = (home, set, false);
        way.crossed -= 1;
    }

    /// What an Ethernet switch with VLANs does.
    fn normal(&self, packet: &Packet, way: &mut Way) {
        let b = way.bridge;
        let access = |port: u32| {
            let found = ACCESS.iter().find(|(of, p, _)| (*of, *p) == (b, port));
            found.map(|(.., vlan)| *vlan)
        };
        let mut tags = packet.tags();
        if let Some(vlan) = access(packet.in_port.0) {
            let outer = tags.first().map_or(0, |(_, tci)| *tci);
            if outer & 0xfff != 0 {
                return;
            }
            // The priority of a tag without a VLAN stays.
            tags = vec![(0x8100, outer & 0xe000 | vlan)];
        }
        let vid = |tags: &[(u16, u16)], i: usize| tags.get(i).map_or(0, |(_, tci)| tci & 0xfff);
        let vlan = vid(&tags, 0);
        let address = |at: usize| -> [u8; 6] { packet.bytes[at..at + 6].try_into().expect("six") };
        let (dst, src) = (address(0), address(6));
        if self.macs.get(&(b, vlan, src)) != Some(&packet.in_port.0) {
            way.macs.push(((b, vlan, src), packet.in_port.0));
        }
        let known = match dst[0] & 1 {
            0 => self.macs.get(&(b, vlan, dst)).copied(),
            _ => None,
        };
        let to = match known {
            Some(port) => vec![port],
            None => (1..=ALL_PORTS[b]).collect(),
        };
        for port in to.into_iter().filter(|p| *p != packet.in_port.0) {
            let mut copy = packet.clone();
            match access(port) {
                None if vlan == 0 => copy.set_tags(tags.get(1..).unwrap_or_default()),
                None => copy.set_tags(&tags),
                Some(only) if only == vlan && vid(&tags, 1) == 0 => copy.set_tags(&[]),
                Some(_) => continue,
            }
            self.send(&copy, port, way);
        }
    }
}

/// The flow that a packet with this key makes.
fn learned(learn: &Learn, key: &FlowKey) -> FlowMod {
    let (mut value, mut mask) = (FlowKey::ZERO, FlowKey::ZERO);
    let mut actions = Vec::new();
    for spec in &learn.specs {
        match spec {
            LearnSpec::MatchValue { dst, value: v } => {
                dst.set(&mut value, *v);
                dst.consult(&mut mask);
            }
            LearnSpec::MatchField { dst, src } => {
                dst.set(&mut value, src.get(key));
                dst.consult(&mut mask);
            }
            LearnSpec::LoadField { dst, src } => {
                let v = src.get(key) << dst.ofs;
                let load = SetField::new(dst.field, v, dst.mask(), SetForm::Load);
                actions.push(Action::Set(load));
            }
            LearnSpec::Output { src } => {
                actions.push(Action::output(OfPort(src.get(key) as u32)));
            }
            other => panic!("the oracle does not learn {other:?}"),
        }
    }
    let empty = parse_flow("actions=drop", Command::Add, &NoNames).expect("a flow");
    FlowMod {
        table: Some(learn.table),
        priority: learn.priority,
        matches: Match::new(&value, &mask),
        actions: actions.into(),
        ..empty
    }
}
