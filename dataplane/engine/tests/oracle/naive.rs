//! A switch as simple as can be: rules in a list, actions on bytes.

use std::collections::HashMap;

use flow::{Field, FlowKey, extract};
use ofproto::action::{Action, GroupId, OfPort};
use ofproto::flowmod::{Command, FlowMod};
use ofproto::group::{Bucket, Group, GroupType};
use ofproto::mf::Mf;

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

/// A packet on its way.
#[derive(Clone)]
struct Packet {
    bytes: Vec<u8>,
    in_port: OfPort,
    regs: [u32; 16],
    metadata: u64,
}

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

impl Packet {
    fn key(&self) -> FlowKey {
        let mut key = FlowKey::ZERO;
        extract(&self.bytes, self.bytes.len(), &mut key);
        key.set(Field::InPort, u128::from(self.in_port.0));
        for (n, v) in self.regs.iter().enumerate() {
            Mf::reg(n).expect("a register").set(&mut key, u128::from(*v), u128::from(u32::MAX));
        }
        key.set(Field::Metadata, u128::from(self.metadata));
        key
    }

    /// Where the Ethernet type stands.
    fn ethertype_at(&self) -> usize {
        let mut at = 12;
        while matches!(self.be16(at), 0x8100 | 0x88a8) && at < 20 {
            at += 4;
        }
        at
    }

    fn be16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    fn is_tagged(&self) -> bool {
        matches!(self.be16(12), 0x8100 | 0x88a8)
    }

    /// Change bits of the outermost tag; put one on if there is none.
    fn change_tag(&mut self, value: u16, mask: u16) {
        if !self.is_tagged() {
            self.bytes.splice(12..12, [0x81, 0, 0, 0]);
        }
        let tci = self.be16(14) & !mask | value;
        self.bytes[14..16].copy_from_slice(&tci.to_be_bytes());
    }

    /// Take the outermost tag off, if there is one.
    fn strip_tag(&mut self) {
        if self.is_tagged() {
            self.bytes.drain(12..16);
        }
    }

    fn is_ipv4(&self) -> bool {
        self.be16(self.ethertype_at()) == 0x0800
    }

    fn is_ipv6(&self) -> bool {
        self.be16(self.ethertype_at()) == 0x86dd
    }

    /// The number of the protocol inside IP, and where its header stands.
    fn l4(&self) -> Option<(u8, usize)> {
        let is_ip = self.is_ipv4() || self.is_ipv6();
        is_ip.then(|| l4_of(&self.bytes, self.ethertype_at() + 2))
    }

    /// The place of the ports, if the packet has any.
    fn ports_at(&self) -> Option<usize> {
        self.l4().filter(|(proto, _)| matches!(proto, 6 | 17)).map(|(_, at)| at)
    }

    /// The place of the ICMPv6 header, if the packet has one.
    fn icmp6_at(&self) -> Option<usize> {
        self.l4().filter(|(proto, _)| *proto == 58).map(|(_, at)| at)
    }

    /// The place of the TTL or hop limit, if the packet has one.
    fn ttl_at(&self) -> Option<usize> {
        let at = self.ethertype_at() + 2;
        self.l4().map(|_| if self.is_ipv4() { at + 8 } else { at + 7 })
    }

    /// Change bits of the type of service or traffic class.
    fn change_tos(&mut self, value: u8, mask: u8) {
        let at = self.ethertype_at() + 2;
        if self.is_ipv4() {
            self.bytes[at + 1] = self.bytes[at + 1] & !mask | value & mask;
            self.fix();
        } else if self.is_ipv6() {
            let old = (self.be16(at) >> 4) as u8;
            let new = u16::from(old & !mask | value & mask);
            let word = self.be16(at) & 0xf00f | new << 4;
            self.put(at, &word.to_be_bytes());
        }
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Make checksums right after a change.
    fn fix(&mut self) {
        let at = self.ethertype_at() + 2;
        let (proto, l4) = l4_of(&self.bytes, at);
        let summed = proto != 17 || self.be16(l4 + 6) != 0;
        fix_checksums(&mut self.bytes, at, summed);
    }

    /// What packets of one flow have in common.
    fn flow(&self) -> Vec<u128> {
        use Mf::*;
        let mut of = vec![EthSrc, EthDst, EthType];
        if self.is_ipv4() {
            of.extend([IpSrc, IpDst, NwProto]);
        } else if self.is_ipv6() {
            of.extend([Ipv6Src, Ipv6Dst, NwProto]);
        }
        if self.ports_at().is_some() {
            of.extend([TcpSrc, TcpDst]);
        }
        of.into_iter().map(|f| self.read(f)).collect()
    }

    fn read(&self, field: Mf) -> u128 {
        field.get(&self.key())
    }

    fn write(&mut self, field: Mf, value: u128, mask: u128) {
        let v = self.read(field) & !mask | value & mask;
        match field {
            Mf::EthSrc => self.put(6, &v.to_be_bytes()[10..]),
            Mf::EthDst => self.put(0, &v.to_be_bytes()[10..]),
            Mf::InPort => self.in_port = OfPort::from_16(v as u16),
            Mf::Metadata => self.metadata = v as u64,
            Mf::IpSrc | Mf::IpDst if self.is_ipv4() => {
                let at = self.ethertype_at() + 2 + if field == Mf::IpSrc { 12 } else { 16 };
                self.put(at, &v.to_be_bytes()[12..]);
                self.fix();
            }
            Mf::IpSrc | Mf::IpDst => {}
            Mf::Ipv6Src | Mf::Ipv6Dst if self.is_ipv6() => {
                let at = self.ethertype_at() + 2 + if field == Mf::Ipv6Src { 8 } else { 24 };
                self.put(at, &v.to_be_bytes());
                self.fix();
            }
            Mf::Ipv6Label if self.is_ipv6() => {
                let at = self.ethertype_at() + 3;
                let high = self.bytes[at] & 0xf0 | (v >> 16) as u8;
                self.put(at, &[high, (v >> 8) as u8, v as u8]);
            }
            Mf::Ipv6Src | Mf::Ipv6Dst | Mf::Ipv6Label => {}
            Mf::NwTos => self.change_tos(v as u8, 0xfc),
            Mf::IpDscp => self.change_tos((v << 2) as u8, 0xfc),
            Mf::NwEcn => self.change_tos(v as u8, 3),
            Mf::NwTtl => {
                if let Some(at) = self.ttl_at() {
                    self.bytes[at] = v as u8;
                    self.fix();
                }
            }
            Mf::Icmpv6Type | Mf::NdTarget | Mf::NdSll => {
                let Some(at) = self.icmp6_at() else { return };
                match field {
                    Mf::Icmpv6Type => self.bytes[at] = v as u8,
                    _ if self.bytes[at] != 135 => {}
                    Mf::NdTarget => self.put(at + 8, &v.to_be_bytes()),
                    // Behind the target, and the type and length of the option.
                    _ => self.put(at + 26, &v.to_be_bytes()[10..]),
                }
                self.fix();
            }
            Mf::VlanVid => self.change_tag(v as u16 & 0xfff, 0xfff),
            Mf::VlanTci if v & 0x1000 != 0 => self.change_tag(v as u16 & 0xefff, 0xefff),
            Mf::VlanTci => self.strip_tag(),
            _ if is_port(field) => {
                let is_src = matches!(field, Mf::TcpSrc | Mf::UdpSrc);
                if let Some(at) = self.ports_at() {
                    self.put(at + if is_src { 0 } else { 2 }, &v.to_be_bytes()[14..]);
                    self.fix();
                }
            }
            _ => {
                let n = (0..16).find(|n| Mf::reg(*n) == Some(field));
                self.regs[n.unwrap_or_else(|| panic!("the oracle cannot set {}", field.name()))] =
                    v as u32;
            }
        }
    }
}

fn is_port(field: Mf) -> bool {
    matches!(field, Mf::TcpSrc | Mf::TcpDst | Mf::UdpSrc | Mf::UdpDst)
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

/// The protocol inside the IP packet at `at`, and where its header stands.
fn l4_of(f: &[u8], at: usize) -> (u8, usize) {
    if f[at] >> 4 == 6 { (f[at + 6], at + 40) } else { (f[at + 9], at + 20) }
}

/// Write the checksums of an IP packet at `at` anew; that of the protocol inside only if it has one.
pub fn fix_checksums(f: &mut [u8], at: usize, with_l4: bool) {
    let (proto, l4) = l4_of(f, at);
    let be16 = |f: &[u8], at: usize| usize::from(u16::from_be_bytes([f[at], f[at + 1]]));
    let (addresses, end) = if f[at] >> 4 == 6 {
        (at + 8..l4, l4 + be16(f, at + 4))
    } else {
        f[at + 10..at + 12].fill(0);
        let header = sum(&f[at..l4], 0);
        f[at + 10..at + 12].copy_from_slice(&header.to_be_bytes());
        (at + 12..l4, at + be16(f, at + 2))
    };
    let field = match proto {
        6 => l4 + 16,
        17 => l4 + 6,
        1 | 58 => l4 + 2,
        _ => return,
    };
    f[field..field + 2].fill(0);
    if !with_l4 {
        return;
    }
    let pseudo = match proto {
        1 => 0,
        _ => {
            let words = f[addresses].chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]])));
            words.sum::<u32>() + u32::from(proto) + (end - l4) as u32
        }
    };
    let mut value = sum(&f[l4..end], pseudo);
    if proto == 17 && value == 0 {
        value = 0xffff;
    }
    f[field..field + 2].copy_from_slice(&value.to_be_bytes());
}

/// The internet checksum (RFC 1071), from this start.
fn sum(bytes: &[u8], start: u32) -> u16 {
    let mut total = start;
    for c in bytes.chunks(2) {
        total += u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0));
    }
    while total > 0xffff {
        total = (total >> 16) + (total & 0xffff);
    }
    !(total as u16)
}
