//! `trace` and `packet-out`: translation done by control itself, step by step or for one packet.
//!
//! Both run the function that the workers run, on the version in preparation. A packet that is really
//! sent goes to a worker with the program that came out; what follows from it (addresses and flows that
//! are learned, counters) is done here.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use flow::{Field, FlowKey, Match, word};
use ofproto::action::{Action, IcmpSays, OfPort};
use ofproto::program::{CtStep, DpAction, DpPort, IcmpStep};
use ofproto::recirc::Recirculation;
use ofproto::snapshot::{Bridge, BridgeId, PortKind};
use ofproto::text::{
    NoNames, PortNames, parse_actions, parse_packet, read_port, show_action, show_match,
    show_megaflow, show_packet, show_program,
};
use ofproto::vlan::{self, PRESENT, Tag};
use ofproto::xlate::{Effect, Event, Sink, Translation, resume, translate_in};
use serde_json::value::RawValue;

use super::EngineBackend;
use super::flows::{Names, refused};
use crate::backend::answer;
use crate::command::Command;
use crate::config::Config;
use crate::error::{CtlError, quoted};
use crate::report::{self, TracePass, TraceRule, TraceStep, TraceWhat};

/// Steps of one trace that are kept; a loop that is cut has thousands.
const MAX_STEPS: usize = 20_000;
/// Times that the packets of one trace come back to the tables at most.
const MAX_PASSES: usize = 64;
/// Frames of one trace.
const MAX_FRAMES: usize = 10_000;
/// Bytes of one frame.
const MAX_FRAME: usize = 65_535;
/// Bytes behind the headers of a packet that is made from its description.
const PAYLOAD: [u8; 64] = [0; 64];
/// `ct_state` of a packet that was tracked, if nothing else is said: +trk+new.
const TRACKED_NEW: u8 = 0x21;
/// FIN and RST.
const ENDS: u128 = 0x05;
/// Bits of `ct_state`, lowest first.
const CT_STATE: [&str; 8] = ["new", "est", "rel", "rpl", "inv", "trk", "snat", "dnat"];

/// What a command wants traced or sent.
pub(super) enum Wanted {
    Trace { packets: Vec<Described>, ct_next: Vec<u8>, generate: bool },
    PacketOut { packet: Box<Described>, actions: Box<[Action]> },
}

/// A packet with what is known of it.
pub(super) struct Described {
    /// `in_port` is one of the bridge's.
    key: FlowKey,
    frame: Option<Vec<u8>>,
}

impl Described {
    fn in_port(&self) -> OfPort {
        OfPort(self.key.get(Field::InPort) as u32)
    }
}

/// Read what a command says about packets; `None` if it is about something else.
pub(super) fn read(config: &Config, command: &Command) -> Result<Option<Wanted>, CtlError> {
    Ok(Some(match command {
        Command::Trace { bridge, flow, packets, ct_next, generate } => {
            let names = Names::of(config, bridge)?;
            let described = match flow {
                Some(text) => Some(parse_packet(text, &names).map_err(|e| refused("packet", &e))?),
                None => None,
            };
            let packets = match (described, packets.is_empty()) {
                (Some(key), true) => vec![Described { key, frame: None }],
                (None, true) => {
                    let error = CtlError::invalid("trace: what packet?");
                    let hint = "give its fields, such as in_port=1,ip,nw_dst=10.0.0.1, or --packet";
                    return Err(error.with_hint(hint));
                }
                (base, false) => frames(packets, base.as_ref())?,
            };
            let ct_next = ct_next.iter().map(|s| ct_state(s)).collect::<Result<_, _>>()?;
            Wanted::Trace { packets, ct_next, generate: *generate }
        }
        Command::PacketOut { bridge, in_port, actions, packet } => {
            let names = Names::of(config, bridge)?;
            let in_port = read_port(in_port, &names).map_err(|e| refused("port", &e))?;
            let mut base = FlowKey::ZERO;
            base.set(Field::InPort, u128::from(in_port.0));
            let packet = Box::new(frame(packet, Some(&base))?);
            let actions = parse_actions(actions, &packet.key, &names);
            Wanted::PacketOut { packet, actions: actions.map_err(|e| refused("actions", &e))? }
        }
        _ => return Ok(None),
    }))
}

fn frames(packets: &[String], base: Option<&FlowKey>) -> Result<Vec<Described>, CtlError> {
    if packets.len() > MAX_FRAMES {
        let message =
            format!("{} packets are more than the {MAX_FRAMES} of one trace", packets.len());
        return Err(CtlError::invalid(message));
    }
    packets.iter().map(|p| frame(p, base)).collect()
}

/// A frame in hexadecimal, with the metadata of `base`.
fn frame(text: &str, base: Option<&FlowKey>) -> Result<Described, CtlError> {
    let bytes = hex(text)?;
    let mut key = FlowKey::ZERO;
    match base {
        Some(base) => {
            for w in (0..flow::WORDS).filter(|w| !is_header(*w)) {
                key.set_word(w, base.word(w));
            }
        }
        None => key.set(Field::InPort, u128::from(OfPort::NONE.0)),
    }
    flow::extract(&bytes, bytes.len(), &mut key);
    Ok(Described { key, frame: Some(bytes) })
}

/// Whether a word of the key comes from the packet's headers.
fn is_header(w: usize) -> bool {
    w != word::META && w < word::MARK
}

fn hex(text: &str) -> Result<Vec<u8>, CtlError> {
    let mut bytes = Vec::with_capacity(text.len() / 2);
    let mut half = None;
    for (i, c) in text.chars().enumerate() {
        let Some(digit) = c.to_digit(16) else {
            if c.is_ascii_whitespace() || c == ':' {
                continue;
            }
            let at = quoted(&c.to_string());
            let message = format!("packet, column {}: at {at}: expected hexadecimal digits", i + 1);
            return Err(CtlError::invalid(message));
        };
        match half.take() {
            Some(high) => bytes.push(high << 4 | digit as u8),
            None => half = Some(digit as u8),
        }
    }
    match (half, bytes.len()) {
        (Some(_), _) => Err(CtlError::invalid("packet: an odd number of hexadecimal digits")),
        (None, 14..=MAX_FRAME) => Ok(bytes),
        (None, n) => Err(CtlError::invalid(format!(
            "packet: {n} bytes: expected an Ethernet frame of 14 to {MAX_FRAME} bytes"
        ))),
    }
}

/// `trk,new` or `trk|new` as bits.
fn ct_state(text: &str) -> Result<u8, CtlError> {
    let mut bits = 0x20;
    for name in text.split([',', '|', '+']).filter(|n| !n.is_empty()) {
        let Some(bit) = CT_STATE.iter().position(|n| *n == name) else {
            let error = CtlError::invalid(format!("--ct-next: there is no state {}", quoted(name)));
            return Err(error.suggest(name, CT_STATE));
        };
        bits |= 1 << bit;
    }
    Ok(bits)
}

impl EngineBackend {
    pub(super) fn trace(
        &mut self,
        _config: &Config,
        bridge: &str,
        wanted: Wanted,
    ) -> Result<Box<RawValue>, CtlError> {
        let id = self.bridge_id(bridge)?;
        match wanted {
            Wanted::Trace { packets, ct_next, generate } => {
                let mut passes = Vec::new();
                for packet in &packets {
                    self.check_port(bridge, id, packet.in_port())?;
                    self.trace_packet(id, packet, &ct_next, generate, &mut passes)?;
                }
                answer(&report::TraceReport { bridge: bridge.to_owned(), passes })
            }
            Wanted::PacketOut { packet, actions } => {
                self.check_port(bridge, id, packet.in_port())?;
                let key = self.arriving(id, &packet);
                let mut out = Translation::default();
                let place = (id, packet.in_port());
                translate_in(self.switch.preview(), place, &key, Some(&actions), None, &mut out);
                let done = report::PacketOutReport {
                    bridge: bridge.to_owned(),
                    actions: program_text(&out.program, &Match::new(&key, &out.mask)),
                    drop: out.drop.map(|d| d.name().to_owned()),
                };
                self.send(out, packet.frame.unwrap_or_default())?;
                answer(&done)
            }
        }
    }

    fn check_port(&self, bridge: &str, id: BridgeId, port: OfPort) -> Result<(), CtlError> {
        let known = self.switch.bridge(id).is_some_and(|b| b.ports.contains_key(&port));
        if known || matches!(port, OfPort::NONE | OfPort::CONTROLLER) {
            return Ok(());
        }
        Err(CtlError::not_found(format!(
            "in_port: bridge \"{bridge}\" has no port {}",
            port.to_16()
        )))
    }

    /// The key of a packet as a worker would see it: `in_port` is the datapath's, if there is one.
    fn arriving(&self, id: BridgeId, packet: &Described) -> FlowKey {
        let mut key = packet.key.clone();
        let port = self.switch.bridge(id).and_then(|b| b.ports.get(&packet.in_port()));
        let dp = match port.map(|p| &p.kind) {
            Some(PortKind::Datapath(DpPort(n))) => *n,
            _ => 0,
        };
        key.set(Field::InPort, u128::from(dp));
        key
    }

    fn trace_packet(
        &mut self,
        id: BridgeId,
        packet: &Described,
        ct_next: &[u8],
        generate: bool,
        passes: &mut Vec<TracePass>,
    ) -> Result<(), CtlError> {
        let key = self.arriving(id, packet);
        let mut out = Translation::default();
        let mut recorder = Recorder::new(self.switch.bridge(id).map(|b| &**b));
        let place = (id, packet.in_port());
        let snapshot = self.switch.preview();
        translate_in(snapshot, place, &key, None, Some(&mut recorder), &mut out);
        let mut states = ct_next.iter().copied();
        let mut first = recorder.pass(&packet.key, &key, &out);
        first.sent = generate;
        passes.push(first);
        let mut waiting = VecDeque::new();
        come_back(&out.program, &mut key.clone(), &mut states, &mut waiting);
        let frame = packet.frame.as_deref();
        self.trace_inside(&out.program, frame, passes, 0);
        if generate {
            let frame = packet.frame.clone();
            let frame = frame.unwrap_or_else(|| flow::build::compose(&packet.key, &PAYLOAD));
            self.send(std::mem::take(&mut out), frame)?;
        }
        let snapshot = self.switch.preview();
        let mut number = 0;
        let mut programs = Vec::new();
        while let Some((state, mut key)) = waiting.pop_front() {
            number += 1;
            if passes.len() >= MAX_FRAMES || number > MAX_PASSES as u32 {
                break;
            }
            let meta = key.word(word::META) >> 32 << 32 | u64::from(number);
            key.set_word(word::META, meta);
            let bridge = snapshot.bridge(state.state.bridge).map(|b| &**b);
            let mut recorder = Recorder::new(bridge);
            resume(snapshot, &key, &state.state, Some(&mut recorder), &mut out);
            let mut shown = key.clone();
            shown.set(Field::InPort, u128::from(state.state.in_port.0));
            let mut pass = recorder.pass(&shown, &key, &out);
            pass.recirculation = number;
            passes.push(pass);
            come_back(&out.program, &mut key, &mut states, &mut waiting);
            programs.push(std::mem::take(&mut out.program));
        }
        for program in programs {
            self.trace_inside(&program, packet.frame.as_deref(), passes, 0);
        }
        Ok(())
    }

    /// Really send a packet as it was translated, with all that follows.
    pub(super) fn send(&mut self, out: Translation, frame: Vec<u8>) -> Result<(), CtlError> {
        let now = self.now();
        let len = frame.len() as u64;
        for stats in out.rules.iter().map(|r| &r.stats).chain(&out.counters) {
            stats.add(1, len, now);
        }
        for effect in &out.effects {
            match effect {
                Effect::LearnMac { bridge, vlan, mac, port } => {
                    self.switch.fdb_learn(*bridge, *vlan, *mac, *port, now);
                }
                Effect::NeedNeighbour(target) => self.below.want(*target),
                Effect::RefreshNeighbour(n) => n.used.store(now, Ordering::Relaxed),
                Effect::HeardNeighbour(n) => n.heard.store(now, Ordering::Relaxed),
                Effect::RefreshMac(entry) => entry.used.store(now, Ordering::Relaxed),
                Effect::LearnFlow { bridge, flow } => self.switch.learn_flow(*bridge, flow, now),
                Effect::FinTimeout { rule, idle, hard } => {
                    let mut key = FlowKey::ZERO;
                    flow::extract(&frame, frame.len(), &mut key);
                    if key.get(Field::TcpFlags) & ENDS != 0 {
                        rule.shorten(*idle, *hard);
                    }
                }
            }
        }
        match self.engine()?.execute(out.program, frame) {
            Ok(true) => Ok(()),
            Ok(false) => Err(CtlError::system("no free frame for the packet; see \"workers\"")),
            Err(e) => Err(CtlError::internal(e.to_string())),
        }
    }

    /// The latest dropped packets, newest first.
    pub(super) fn latest_drops(&self) -> Vec<report::DroppedPacket> {
        let now = self.now();
        let workers = self.engine.iter().flat_map(|e| &e.shared().workers);
        let mut samples: Vec<_> = workers.flat_map(|w| w.samples.list()).collect();
        samples.sort_by_key(|s| std::cmp::Reverse(s.at));
        samples.iter().map(|s| self.dropped(s, now)).collect()
    }

    fn dropped(&self, s: &engine::samples::DropSample, now: u64) -> report::DroppedPacket {
        let dp = DpPort(s.key.get(Field::InPort) as u32);
        let snapshot = self.switch.preview();
        let entry = snapshot.entry(dp);
        let opened = self.open.iter().find(|(_, o)| o.dp == dp);
        let mut key = s.key.clone();
        if let Some((_, in_port)) = entry {
            key.set(Field::InPort, u128::from(in_port.0));
        }
        let mut flow = String::new();
        show_packet(&mut flow, &key, &NoNames);
        let at = s.rule.map(|(table, _)| BridgeId((table >> 8) as u16));
        let bridge = at.or(entry.map(|(b, _)| b)).and_then(|b| snapshot.bridge(b));
        report::DroppedPacket {
            reason: s.why.name().to_owned(),
            age: now.saturating_sub(s.at) as f64 / 1000.0,
            port: opened.map_or_else(|| "none".to_owned(), |(name, _)| name.clone()),
            bytes: s.len as u64,
            flow,
            bridge: bridge.map(|b| b.name.to_string()),
            table: s.rule.map(|(table, _)| table as u8),
            cookie: s.rule.map(|(_, cookie)| cookie),
        }
    }
}

pub(super) fn program_text(program: &[DpAction], on: &Match) -> String {
    let mut text = String::new();
    show_program(&mut text, program, on);
    text
}

/// The states that copies of a packet come back with, and what is known of each copy then.
fn come_back(
    program: &[DpAction],
    key: &mut FlowKey,
    ct_next: &mut impl Iterator<Item = u8>,
    waiting: &mut VecDeque<(Arc<Recirculation>, FlowKey)>,
) {
    for step in program {
        match step {
            DpAction::Set(set) => {
                for (w, value, mask) in set.fields().iter() {
                    key.set_word(w, key.word(w) & !mask | value);
                }
            }
            DpAction::PushVlan { tpid, tci } => {
                let tags = vlan::tags(key);
                vlan::set_tags(key, &[Tag { tpid: *tpid, tci: tci | PRESENT }, tags[0]]);
            }
            DpAction::PopVlan => {
                let tags = vlan::tags(key);
                vlan::set_tags(key, &[tags[1], Tag::default()]);
            }
            DpAction::Ct(ct) => track(ct, key, ct_next),
            DpAction::CtClear => (word::CT..word::TUN_ID).for_each(|w| key.set_word(w, 0)),
            DpAction::Clone(steps) => come_back(steps, &mut key.clone(), ct_next, waiting),
            DpAction::Recirculate(state) => waiting.push_back((state.clone(), key.clone())),
            DpAction::IcmpError(error) => become_error(error, key),
            // A trace knows no packet that is too large.
            DpAction::IfTooBig(..)
            | DpAction::Fragment(_)
            | DpAction::Output(_)
            | DpAction::TunnelPush(_)
            | DpAction::TunnelPop(_)
            | DpAction::AwaitNeighbour(..)
            | DpAction::Hear(_)
            | DpAction::Cut(_)
            | DpAction::Reassemble(_)
            | DpAction::Truncate(_)
            | DpAction::Controller(_)
            | DpAction::Drop(_) => {}
        }
    }
}

/// The key of an ICMP error about the packet that had this one.
fn become_error(error: &IcmpStep, key: &mut FlowKey) {
    let v6 = error.from.is_ipv6();
    let (time, unreachable, too_big) = if v6 { (3, 1, 2) } else { (11, 3, 3) };
    let (ty, code): (u8, u8) = match (error.says, v6) {
        (IcmpSays::TimeExceeded, _) => (time, 0),
        (IcmpSays::NoRoute, _) => (unreachable, 0),
        (IcmpSays::NoHost, _) => (unreachable, if v6 { 3 } else { 1 }),
        (IcmpSays::NoPort, _) => (unreachable, if v6 { 4 } else { 3 }),
        (IcmpSays::TooBig(_), _) => (too_big, if v6 { 0 } else { 4 }),
    };
    match error.from {
        IpAddr::V4(from) => {
            key.set(Field::NwDst, key.get(Field::NwSrc));
            key.set(Field::NwSrc, u32::from(from).into());
        }
        IpAddr::V6(from) => {
            key.set(Field::Ipv6Dst, key.get(Field::Ipv6Src));
            key.set(Field::Ipv6Src, u128::from(from));
        }
    }
    key.set(Field::NwProto, if v6 { 58 } else { 1 });
    key.set(Field::NwTtl, 64);
    key.set(Field::TpSrc, ty.into());
    key.set(Field::TpDst, code.into());
    (word::CT..word::TUN_ID).for_each(|w| key.set_word(w, 0));
}

/// What tracking is taken to say.
fn track(ct: &CtStep, key: &mut FlowKey, ct_next: &mut impl Iterator<Item = u8>) {
    match &ct.commit {
        None => {
            let state = ct_next.next().unwrap_or(TRACKED_NEW);
            key.set(Field::CtState, u128::from(state));
        }
        Some(commit) => {
            if let Some((value, mask)) = commit.mark {
                let old = key.get(Field::CtMark) as u32;
                key.set(Field::CtMark, u128::from(old & !mask | value));
            }
            if let Some((value, mask)) = commit.label {
                let old = key.get(Field::CtLabel);
                key.set(Field::CtLabel, old & !mask | value);
            }
        }
    }
    key.set(Field::CtZone, u128::from(ct.zone));
}

/// Writes down a translation.
pub(super) struct Recorder {
    steps: Vec<TraceStep>,
    ports: PortsOf,
    end: Option<FlowKey>,
}

/// The names of the ports of the bridge that the trace is in.
struct PortsOf(Vec<(OfPort, String)>);

impl PortsOf {
    fn new(bridge: Option<&Bridge>) -> PortsOf {
        let ports = bridge.into_iter().flat_map(|b| b.ports.values());
        PortsOf(ports.map(|p| (p.ofport, p.name.to_string())).collect())
    }
}

impl PortNames for PortsOf {
    fn number(&self, name: &str) -> Option<OfPort> {
        self.0.iter().find(|(_, n)| n == name).map(|(p, _)| *p)
    }
    fn name(&self, port: OfPort) -> Option<&str> {
        self.0.iter().find(|(p, _)| *p == port).map(|(_, n)| n.as_str())
    }
}

impl Recorder {
    pub(super) fn new(bridge: Option<&Bridge>) -> Recorder {
        Recorder { steps: Vec::new(), ports: PortsOf::new(bridge), end: None }
    }

    /// What was written down. `before` is the packet with the bridge's port, `key` what the
    /// datapath looked up.
    pub(super) fn pass(self, before: &FlowKey, key: &FlowKey, out: &Translation) -> TracePass {
        let packet = |key: &FlowKey| {
            let mut text = String::new();
            show_packet(&mut text, key, &NoNames);
            text
        };
        let on = Match::new(key, &out.mask);
        let mut megaflow = String::new();
        show_megaflow(&mut megaflow, &on);
        let (flow, after) = (packet(before), self.end.as_ref().map(packet));
        TracePass {
            final_flow: after.filter(|f| *f != flow),
            flow,
            recirculation: 0,
            steps: self.steps,
            megaflow,
            actions: program_text(&out.program, &on),
            drop: out.drop.map(|why| report::TraceDrop {
                reason: why.name().to_owned(),
                description: why.text().to_owned(),
            }),
            sent: false,
        }
    }
}

impl Sink for Recorder {
    fn event(&mut self, depth: usize, event: Event<'_>) {
        let what = match event {
            Event::Bridge { bridge, in_port, .. } => {
                self.ports = PortsOf::new(Some(bridge));
                let mut port = String::new();
                match self.ports.name(in_port) {
                    Some(name) => port.push_str(name),
                    None => port = format!("{}", in_port.to_16()),
                }
                TraceWhat::Bridge { bridge: bridge.name.to_string(), in_port: port }
            }
            Event::Table { table, rule } => {
                let rule = rule.map(|r| {
                    let mut matches = String::new();
                    show_match(&mut matches, &r.matches, &self.ports);
                    TraceRule { priority: r.priority, cookie: r.cookie, matches }
                });
                TraceWhat::Table { table, rule }
            }
            Event::Action(action) => {
                let mut text = String::new();
                show_action(&mut text, action, &self.ports);
                TraceWhat::Action { action: text }
            }
            Event::Note(text) => TraceWhat::Note { text: text.to_string() },
            Event::End(key) => {
                self.end = Some(key.clone());
                return;
            }
        };
        match self.steps.len() {
            n if n < MAX_STEPS => self.steps.push(TraceStep { depth: depth as u32, what }),
            MAX_STEPS => {
                let text = format!("more than {MAX_STEPS} steps: the rest is not listed");
                self.steps.push(TraceStep { depth: 0, what: TraceWhat::Note { text } });
            }
            _ => {}
        }
    }
}
