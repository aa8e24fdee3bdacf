//! A packet that no megaflow covers: translate, install, and remember what it depended on.
//!
//! A stale megaflow comes here too. If its new translation has the same mask it is kept, with its
//! counters, and only its program and dependencies are exchanged.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use classifier::{Change as Rules, Footprints};
use flow::{Drop, FlowKey};
use ofproto::program::{DpAction, Program};
use ofproto::recirc::{Frozen, Recirculations};
use ofproto::rule::{Rule, RuleStats};
use ofproto::snapshot::{Change, Dep, Snapshot};
use ofproto::xlate::{Effect, Translation, resume, translate};

use super::transmit::Transmit;
use crate::megaflow::Megaflows;
use crate::shared::{Event, add};

/// FIN and RST.
const ENDS: u16 = 0x05;
/// Lists of dependencies that are at hand to be shared.
const SHARED: usize = 64;

/// What a worker keeps with a megaflow besides what hits need. There are many of them: what is mostly
/// empty costs two words each.
pub(super) struct Note {
    /// The rules that count its packets, in the order in which they matched.
    pub rules: Box<[Arc<Rule>]>,
    /// Counters of groups and buckets.
    pub counters: Box<[Arc<RuleStats>]>,
    pub effects: Box<[Effect]>,
    pub depends: Arc<[Dep]>,
    pub created: u64,
    /// Packets and bytes that the rules have been told of.
    pub pushed: (u64, u64),
}

impl Note {
    /// The last rule that matched, for the drops that its program makes.
    pub fn last_rule(&self) -> Option<(u32, u64)> {
        self.rules.last().map(|rule| rule.place())
    }
}

/// A worker's megaflows and what is needed to make them.
pub(super) struct Flows {
    pub snapshot: Arc<Snapshot>,
    pub mega: Megaflows<Note>,
    pub feet: Footprints,
    pub out: Translation,
    /// What megaflows of late depended on: most have the same ports and bridges, and share the list.
    depends: [Arc<[Dep]>; SHARED],
}

impl Flows {
    /// No megaflows; `seed` as for [`Megaflows::new`].
    pub fn new(snapshot: Arc<Snapshot>, cache_buckets: usize, seed: u64) -> Flows {
        let none: Arc<[Dep]> = Arc::from([]);
        Flows {
            snapshot,
            mega: Megaflows::new(cache_buckets, seed),
            feet: Footprints::new(),
            out: Translation::default(),
            depends: std::array::from_fn(|_| none.clone()),
        }
    }

    /// Translate for `key` and install the result. The megaflow, or if it could not be installed
    /// the program for this one packet.
    pub fn upcall(
        &mut self,
        key: &FlowKey,
        frozen: Option<&Frozen>,
        stale: Option<u32>,
        tx: &mut Transmit,
    ) -> Result<u32, Program> {
        match frozen {
            None => translate(&self.snapshot, key, None, &mut self.out),
            Some(frozen) => resume(&self.snapshot, key, frozen, None, &mut self.out),
        }
        number_states(&mut self.out.program, &tx.shared.recirculations);
        add(&tx.worker().counters.upcalls, 1);
        for effect in &self.out.effects {
            apply(effect, tx.now, tx);
        }
        let program: Program = self.out.program.drain(..).collect();
        if let Some(id) = stale {
            if self.mega.same_mask(id, &self.out.mask) {
                self.renew(id, program, tx);
                return Ok(id);
            }
            self.remove(id, tx.now);
        }
        let limit = tx.shared.megaflow_limit.load(Ordering::Relaxed);
        if self.mega.len() as u64 >= limit || !self.mega.has_room_for_mask() {
            add(&tx.worker().counters.not_installed, 1);
            return Err(program);
        }
        let note = self.take_note(tx.now);
        let id = self.mega.insert(key, &self.out.mask, program, tx.now, note);
        self.remember(id);
        Ok(id)
    }

    /// What the last translation found that a megaflow keeps.
    fn take_note(&mut self, created: u64) -> Note {
        Note {
            rules: self.out.rules.drain(..).collect(),
            counters: self.out.counters.drain(..).collect(),
            effects: self.out.effects.drain(..).collect(),
            depends: self.shared_depends(),
            created,
            pushed: (0, 0),
        }
    }

    /// What the last translation depended on, in a list that others may have too.
    fn shared_depends(&mut self) -> Arc<[Dep]> {
        let now = self.out.depends.as_slice();
        let slot = now.last().map_or(0, |dep| dep.key()) as usize % SHARED;
        if *self.depends[slot] != *now {
            self.depends[slot] = Arc::from(now);
        }
        self.depends[slot].clone()
    }

    fn renew(&mut self, id: u32, program: Program, tx: &mut Transmit) {
        let mut note = self.take_note(tx.now);
        self.push_stats(id, tx.now);
        if **self.mega.hot(id).program() == *program {
            add(&tx.worker().counters.renewed, 1);
        }
        self.feet.remove(id);
        if let Some(old) = self.mega.note(id) {
            note.pushed = old.pushed;
            note.created = old.created;
        }
        self.mega.renew(id, program, note);
        self.remember(id);
    }

    /// Note what the last translation depended on as what this megaflow depends on.
    fn remember(&mut self, id: u32) {
        self.feet.add(id, &self.out.visits, self.out.depends.iter().map(|d| d.key()));
    }

    /// Remove a megaflow; its rules get what it counted.
    pub fn remove(&mut self, id: u32, now: u64) {
        self.push_stats(id, now);
        self.feet.remove(id);
        self.mega.remove(id);
    }

    /// Add what a megaflow has counted since the last time to its rules. Whether it had packets.
    pub fn push_stats(&mut self, id: u32, now: u64) -> bool {
        let hot = self.mega.hot(id);
        let (packets, bytes, used, flags) = (hot.packets, hot.bytes, hot.used, hot.tcp_flags);
        let Some(note) = self.mega.note(id) else { return false };
        let (p, b) = (packets - note.pushed.0, bytes - note.pushed.1);
        if p == 0 {
            return false;
        }
        note.pushed = (packets, bytes);
        for rule in &*note.rules {
            rule.stats.add(p, b, used.min(now));
        }
        for counter in &*note.counters {
            counter.add(p, b, used.min(now));
        }
        if flags & ENDS != 0 {
            for effect in &*note.effects {
                if let Effect::FinTimeout { rule, idle, hard } = effect {
                    rule.shorten(*idle, *hard);
                }
            }
        }
        true
    }

    /// A sweep found a megaflow with new packets: what follows from them follows again.
    pub fn repeat_effects(&mut self, id: u32, tx: &mut Transmit) {
        let used = self.mega.hot(id).used.min(tx.now);
        let Some(note) = self.mega.note(id) else { return };
        for effect in &*note.effects {
            apply(effect, used, tx);
        }
    }

    /// Mark what the changes of one version touch; how many.
    pub fn apply_changes(&mut self, changes: &[Change]) -> u64 {
        let Flows { mega, feet, .. } = self;
        let slots = mega.slots();
        let mut n = 0;
        for change in changes {
            let mut mark = |id: u32| {
                n += 1;
                mega.mark_stale(id);
            };
            match change {
                Change::RuleAdded { table, matches, priority } => {
                    feet.touched(*table, matches, Rules::Add { priority: *priority }, &mut mark);
                }
                Change::RuleGone { table, matches, rule } => {
                    feet.touched(*table, matches, Rules::Gone { rule: *rule }, &mut mark);
                }
                Change::Dep(dep) => feet.touched_dep(dep.key(), &mut mark),
                Change::All => (0..slots).for_each(mark),
            }
        }
        n
    }

    /// Forget all megaflows.
    pub fn flush(&mut self, now: u64) {
        for id in 0..self.mega.slots() {
            if self.mega.is_live(id) {
                self.remove(id, now);
            }
        }
    }
}

/// Give the states that packets of this program come back with their ids.
pub(super) fn number_states(program: &mut Vec<DpAction>, all: &Recirculations) {
    for step in program.iter_mut() {
        let waiting = match step {
            DpAction::Recirculate(waiting)
            | DpAction::Reassemble(waiting)
            | DpAction::AwaitNeighbour(_, waiting) => waiting,
            DpAction::Clone(steps) | DpAction::IfTooBig(_, steps) => {
                let mut nested = std::mem::take(steps).into_vec();
                number_states(&mut nested, all);
                *steps = nested.into();
                continue;
            }
            _ => continue,
        };
        match all.intern(&waiting.state) {
            Some(known) => *waiting = known,
            None => {
                program.clear();
                return program.push(DpAction::Drop(Drop::Recirculation));
            }
        }
    }
}

/// Let follow what follows from a packet that was there at `used`.
fn apply(effect: &Effect, used: u64, tx: &mut Transmit) {
    match effect {
        Effect::RefreshMac(entry) => entry.used.store(tx.now, Ordering::Relaxed),
        Effect::LearnMac { bridge, vlan, mac, port } => {
            tx.tell(Event::LearnMac { bridge: *bridge, vlan: *vlan, mac: *mac, port: *port });
        }
        Effect::NeedNeighbour(target) => {
            tx.tell(Event::NeedNeighbour(*target));
        }
        // Follows from the flags that a megaflow has seen, when it tells its rules what it counted.
        Effect::FinTimeout { .. } => {}
        // Of several megaflows the last packet counts.
        Effect::RefreshNeighbour(n) => {
            n.used.fetch_max(used, Ordering::Relaxed);
        }
        Effect::HeardNeighbour(n) => {
            n.heard.fetch_max(used, Ordering::Relaxed);
        }
        Effect::LearnFlow { bridge, flow } => {
            tx.tell(Event::LearnFlow { bridge: *bridge, flow: flow.clone() });
        }
    }
}
