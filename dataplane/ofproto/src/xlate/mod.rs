//! What is to be done with packets like this one?
//!
//! [`translate`] walks a packet's key through the tables of its bridge, over patch ports into
//! others, and gives an action program for the datapath, the mask of every bit that the decision
//! depended on, and, as data, everything else that follows: which rules count the packet, which
//! addresses are to be learned, and what the decision was made from, so that a change can find
//! it. It reads the snapshot and changes nothing.
//!
//! Two masks carry the bookkeeping. `wc` has the bits of the *received* packet that were
//! consulted: it becomes the megaflow's mask. `fixed` has the bits of the *current* key whose
//! value no longer comes from the packet but from an action: consulting those adds nothing to
//! `wc`. `dirty` has the bits that the packet in the datapath does not have yet: they are
//! committed, as one masked set, before anything looks at the packet's bytes.
//!
//! Tracing is a [`Sink`] handed to this same code.
//!
//! Must not know: caches, workers, sockets, time beyond the `now` it is given.

mod actions;
mod commit;
mod ct;
mod group;
mod icmp;
mod learn;
mod lookup;
mod normal;
mod output;
mod tunnel;

use std::sync::Arc;

use ::tunnel::config::Remote;
use classifier::Visits;
use flow::{Drop, FlowKey, word};

pub use learn::LearnedFlow;

use crate::action::Action;
use crate::program::{DpAction, DpPort};
use crate::recirc::Frozen;
use crate::rule::{Rule, RuleStats};
use crate::snapshot::{Bridge, BridgeId, Dep, FdbEntry, OfPort, Port, PortKind, Snapshot};
use crate::underlay;
use crate::vlan::Tags;

/// Resubmits, gotos, groups and patch crossings nested in each other at most.
pub const MAX_DEPTH: usize = 64;
/// Table lookups in one translation at most.
pub const MAX_LOOKUPS: usize = 4096;
/// Steps of one action program at most.
pub const MAX_STEPS: usize = 4096;

/// Something that follows from a packet of this kind, besides what happens to it.
#[derive(Clone, Debug)]
pub enum Effect {
    /// The source address is to be learned on this port.
    LearnMac {
        /// In this bridge.
        bridge: BridgeId,
        /// In this VLAN.
        vlan: u16,
        /// The address.
        mac: u64,
        /// Where it is.
        port: OfPort,
    },
    /// The source address was seen where it is known to be.
    RefreshMac(Arc<FdbEntry>),
    /// A neighbour is to be asked for its address.
    NeedNeighbour(::tunnel::neigh::Target),
    /// A packet goes to a neighbour.
    RefreshNeighbour(Arc<crate::underlay::Neighbour>),
    /// A packet has come from a neighbour, or from behind it.
    HeardNeighbour(Arc<crate::underlay::Neighbour>),
    /// Packets with FIN or RST shorten the timeouts of the rule that they matched.
    FinTimeout {
        /// The rule.
        rule: Arc<Rule>,
        /// Its idle timeout in seconds from then on; 0 for no change.
        idle: u16,
        /// Its hard timeout in seconds from then on; 0 for no change.
        hard: u16,
    },
    /// A `learn` action: the flow it makes for this packet.
    LearnFlow {
        /// In this bridge.
        bridge: BridgeId,
        /// The flow.
        flow: Arc<LearnedFlow>,
    },
}

/// What translation found out. Reused from one translation to the next.
#[derive(Default)]
pub struct Translation {
    /// What the datapath does.
    pub program: Vec<DpAction>,
    /// Every bit of the packet that this depended on.
    pub mask: FlowKey,
    /// Table lookups.
    pub visits: Visits,
    /// Everything else that was looked at.
    pub depends: Vec<Dep>,
    /// Rules that count the packet, in the order in which they matched.
    pub rules: Vec<Arc<Rule>>,
    /// Groups and buckets that count the packet.
    pub counters: Vec<Arc<RuleStats>>,
    /// What else follows.
    pub effects: Vec<Effect>,
    /// Why nothing was done, or why a part was cut.
    pub drop: Option<Drop>,
}

impl Translation {
    fn clear(&mut self) {
        self.program.clear();
        self.mask.clear();
        self.visits.clear();
        self.depends.clear();
        self.rules.clear();
        self.counters.clear();
        self.effects.clear();
        self.drop = None;
    }
}

/// What a trace is told.
pub enum Event<'a> {
    /// Processing starts in a bridge.
    Bridge {
        /// The bridge.
        bridge: &'a Bridge,
        /// By this port.
        in_port: OfPort,
        /// With this key.
        key: &'a FlowKey,
    },
    /// A table was looked up.
    Table {
        /// Its number.
        table: u8,
        /// The rule that matched.
        rule: Option<&'a Rule>,
    },
    /// An action is about to be done.
    Action(&'a Action),
    /// Something worth saying.
    Note(std::fmt::Arguments<'a>),
    /// All is done; the packet's fields as they are now.
    End(&'a FlowKey),
}

/// Follows a translation.
pub trait Sink {
    /// One step, `depth` levels deep.
    fn event(&mut self, depth: usize, event: Event<'_>);
}

/// State of one translation.
pub(crate) struct Ctx<'a> {
    snapshot: &'a Snapshot,
    out: &'a mut Translation,
    sink: Option<&'a mut (dyn Sink + 'a)>,
    bridge: &'a Arc<Bridge>,
    in_port: OfPort,
    key: FlowKey,
    fixed: FlowKey,
    dirty: FlowKey,
    /// Bits that the last table lookup consulted.
    consulted: FlowKey,
    /// Bits that were committed, for putting them back after a patch port or clone.
    committed: FlowKey,
    /// The tags that the packet in the datapath has.
    base_tags: Tags,
    tags_dirty: bool,
    tags_committed: bool,
    depth: usize,
    lookups: usize,
    /// Outputs, or anything else that makes the packet not a dropped one.
    used: usize,
    exit: bool,
    /// Actions of write_actions so far.
    action_set: actions::ActionSet,
    /// Bytes that outputs send at most.
    truncate: Option<u32>,
    /// Tunnel ports that the packet is being sent into.
    inside: smallvec::SmallVec<[(BridgeId, OfPort); 2]>,
    table: u8,
    rule: Option<&'a Arc<Rule>>,
}

/// Translate a packet that came in by a datapath port. `key` has that port in `in_port`.
pub fn translate<'a>(
    snapshot: &'a Snapshot,
    key: &FlowKey,
    sink: Option<&'a mut (dyn Sink + 'a)>,
    out: &'a mut Translation,
) {
    out.clear();
    let port = DpPort(key.get(flow::Field::InPort) as u32);
    out.depends.push(Dep::Ingress(port));
    let entry = match underlay::listens(port) {
        None => snapshot.entry(port),
        Some((kind, udp)) => {
            out.depends.push(Dep::Listener(kind, udp));
            snapshot.underlay.table.lookup(kind, udp, key, &mut out.mask).copied()
        }
    };
    let Some((bridge, in_port)) = entry.and_then(|(b, p)| Some((snapshot.bridge(b)?, p))) else {
        let is_tunnel = underlay::listens(port).is_some();
        let why = if is_tunnel { Drop::TunnelNoPort } else { Drop::PortGone };
        return finish_dropped(out, why);
    };
    let mut ctx = Ctx::new(snapshot, bridge, in_port, key, sink, out);
    ctx.enter_bridge();
    ctx.finish();
}

/// Translate a packet that begins in a bridge, by one of its ports or by none
/// ([`OfPort::NONE`], [`OfPort::CONTROLLER`]): for traces and packet-outs. With `actions`, these are
/// done in place of the tables' rules. `key` has in `in_port` whatever the megaflow is to match.
pub fn translate_in<'a>(
    snapshot: &'a Snapshot,
    (bridge, in_port): (BridgeId, OfPort),
    key: &FlowKey,
    actions: Option<&[Action]>,
    sink: Option<&'a mut (dyn Sink + 'a)>,
    out: &'a mut Translation,
) {
    out.clear();
    let Some(bridge) = snapshot.bridge(bridge) else { return finish_dropped(out, Drop::PortGone) };
    let mut ctx = Ctx::new(snapshot, bridge, in_port, key, sink, out);
    match actions {
        Some(actions) => {
            ctx.run_actions(actions);
            ctx.run_action_set();
        }
        None => ctx.enter_bridge(),
    }
    ctx.finish();
}

/// Translate a packet that comes back with a frozen state.
pub fn resume<'a>(
    snapshot: &'a Snapshot,
    key: &FlowKey,
    frozen: &Frozen,
    sink: Option<&'a mut (dyn Sink + 'a)>,
    out: &'a mut Translation,
) {
    out.clear();
    let Some(bridge) = snapshot.bridge(frozen.bridge) else {
        return finish_dropped(out, Drop::Recirculation);
    };
    let mut ctx = Ctx::new(snapshot, bridge, frozen.in_port, key, sink, out);
    for (w, value, mask) in frozen.metadata.iter() {
        if (word::TUN_ID..word::METADATA).contains(&w) {
            ctx.write_word(w, value, mask);
        } else {
            ctx.key.set_word(w, value);
        }
    }
    ctx.action_set.write(&frozen.action_set);
    ctx.depend(Dep::Port(frozen.bridge, frozen.in_port));
    match frozen.output {
        Some(port) => ctx.output_port(port),
        None => {
            ctx.run_table(frozen.table);
            ctx.run_action_set();
        }
    }
    ctx.finish();
}

fn finish_dropped(out: &mut Translation, why: Drop) {
    out.program.clear();
    out.program.push(DpAction::Drop(why));
    out.drop = Some(why);
    out.mask.set_word(word::META, u64::MAX);
}

impl<'a> Ctx<'a> {
    fn new(
        snapshot: &'a Snapshot,
        bridge: &'a Arc<Bridge>,
        in_port: OfPort,
        key: &FlowKey,
        sink: Option<&'a mut (dyn Sink + 'a)>,
        out: &'a mut Translation,
    ) -> Ctx<'a> {
        let mut key = key.clone();
        key.set(flow::Field::InPort, u128::from(in_port.0));
        let mut fixed = FlowKey::ZERO;
        // The way in is matched exactly by every megaflow; registers start from zero.
        fixed.set_word(word::META, u64::MAX);
        for w in word::METADATA..flow::WORDS {
            fixed.set_word(w, u64::MAX);
        }
        let base_tags = crate::vlan::tags(&key);
        Ctx {
            snapshot,
            out,
            sink,
            bridge,
            in_port,
            key,
            fixed,
            dirty: FlowKey::ZERO,
            consulted: FlowKey::ZERO,
            committed: FlowKey::ZERO,
            base_tags,
            tags_dirty: false,
            tags_committed: false,
            depth: 0,
            lookups: 0,
            used: 0,
            exit: false,
            action_set: Default::default(),
            table: 0,
            rule: None,
            truncate: None,
            inside: Default::default(),
        }
    }

    fn trace(&mut self, event: Event<'_>) {
        if let Some(sink) = self.sink.as_mut() {
            sink.event(self.depth, event);
        }
    }

    /// Note a fact for a trace; nothing is formatted without one.
    fn say(&mut self, text: std::fmt::Arguments<'_>) {
        self.trace(Event::Note(text));
    }

    /// A part of the packet's way ends here, for this reason.
    fn drop(&mut self, why: Drop) {
        self.out.drop = Some(why);
        self.say(format_args!("dropped: {} ({})", why.name(), why.text()));
    }

    /// The decision depends on these bits of one word of the current key.
    #[inline]
    fn consult_word(&mut self, w: usize, mask: u64) {
        let mask = mask & !self.fixed.word(w);
        if mask != 0 {
            let m = self.out.mask.word(w) | mask;
            self.out.mask.set_word(w, m);
        }
    }

    /// The decision depends on a field of the current key; its value.
    fn consult(&mut self, field: flow::Field) -> u128 {
        let p = field.place();
        if p.bits > 64 {
            self.consult_word(p.word, u64::MAX);
            self.consult_word(p.word + 1, u64::MAX);
        } else {
            self.consult_word(p.word, (field.full() as u64) << p.shift);
        }
        self.key.get(field)
    }

    /// The decision depends on all bits of a mask.
    fn consult_mask(&mut self, mask: &FlowKey) {
        for w in flow::sparse::bits(mask.nonzero_map()) {
            self.consult_word(w, mask.word(w));
        }
    }

    /// Give bits of a word a value of ours.
    fn write_word(&mut self, w: usize, value: u64, mask: u64) {
        let v = self.key.word(w) & !mask | value & mask;
        self.key.set_word(w, v);
        let f = self.fixed.word(w) | mask;
        self.fixed.set_word(w, f);
        let d = self.dirty.word(w) | mask;
        self.dirty.set_word(w, d);
    }

    fn depend(&mut self, on: Dep) {
        if !self.out.depends.contains(&on) {
            self.out.depends.push(on);
        }
    }

    /// A port of the current bridge, noted as something that the decision depends on.
    fn port(&mut self, port: OfPort) -> Option<&'a Arc<Port>> {
        self.depend(Dep::Port(self.bridge.id, port));
        self.bridge.ports.get(&port)
    }

    /// Whether the packet came by no port: from a controller, or described in a trace.
    fn is_from_nowhere(&self) -> bool {
        matches!(self.in_port, OfPort::NONE | OfPort::CONTROLLER)
    }

    fn enter_bridge(&mut self) {
        if self.sink.is_some() {
            let (bridge, in_port, key) = (self.bridge.clone(), self.in_port, self.key.clone());
            self.trace(Event::Bridge { bridge: &bridge, in_port, key: &key });
        }
        if !self.is_from_nowhere() {
            let Some(port) = self.port(self.in_port) else { return self.drop(Drop::PortGone) };
            if port.no_receive {
                return self.drop(Drop::PortDown);
            }
            if let PortKind::Tunnel(tunnel) = &port.kind {
                self.out.counters.push(tunnel.counters.received.clone());
                if let Remote::Address(remote) = tunnel.config.remote {
                    self.heard_from(remote);
                }
            }
            if port.shared {
                // What comes by it is a tunnel's, or what the host should have got.
                self.say(format_args!("{} is shared with the host: no flows", port.name));
                return self.output_port(self.in_port);
            }
        }
        self.run_table(0);
        self.run_action_set();
    }

    /// Close the translation: what was not used is dropped, for the reason that was found.
    fn finish(&mut self) {
        if self.sink.is_some() {
            let key = self.key.clone();
            self.trace(Event::End(&key));
        }
        self.out.mask.set_word(word::META, u64::MAX);
        self.out.mask.clear_groups(flow::Groups::XLATE);
        if self.out.program.len() > MAX_STEPS {
            return finish_dropped(self.out, Drop::TooManyActions);
        }
        if self.used == 0 {
            // Header changes that nobody gets to see are not done.
            let why = self.out.drop.unwrap_or(Drop::FlowDrop);
            self.out.program.clear();
            self.out.program.push(DpAction::Drop(why));
            self.out.drop = Some(why);
        }
    }
}
