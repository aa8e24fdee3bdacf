//! Which Ethernet address has the next hop?
//!
//! A [`NeighTable`] is a state machine per (link, address): asked for, known, doubted, asked
//! again, given up. It sends nothing and reads no clock: time comes in as a parameter (since any
//! fixed moment, never going back), and what is to be done comes out as [`Event`]s. Packets that
//! wait for an answer are values of a type `T` that the table only keeps, in bounded queues.
//!
//! ```text
//!            wait()             answer                   30 s                used()
//! (unknown) ───────▶ Incomplete ──────▶ Reachable ───────────────▶ Stale ─────────▶ Probe
//!                       │ 3 tries           ▲                                        │ │
//!                       ▼                   └──────────── answer ────────────────────┘ │
//!                     Failed ◀────────────────────────────── 4 tries ──────────────────┘
//! ```
//!
//! A doubted address is still used until the doubt is settled. The first probe goes to the known
//! address, the later ones to all, so that a host that changed its address without saying so is
//! found. What arrives unasked (gratuitous ARP, unsolicited advertisements) changes entries but
//! makes none, so that no stranger fills the table.
//!
//! Must not know: how requests are sent, whose address it is, the kernel's neighbours.

mod message;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use flow::Drop;

pub use message::{Heard, Own, answer, hear, request};

/// Times and limits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// An answer is believed so long without doubt.
    pub reachable: Duration,
    /// Between two requests.
    pub retry: Duration,
    /// Between a request to a neighbour that is missed ([`NeighTable::missed`]) and one to everybody.
    pub hasty: Duration,
    /// A neighbour that is missed is not asked more often than this (RFC 1122, section 2.3.2.1; RFC
    /// 4861, section 7.2.2).
    pub patience: Duration,
    /// Requests for an unknown address, all to everybody.
    pub tries: u32,
    /// Requests for a doubted address: the first to itself, the rest to everybody.
    pub probes: u32,
    /// A neighbour that did not answer is not asked again for so long.
    pub hold: Duration,
    /// An entry that nobody used goes after this.
    pub idle: Duration,
    /// Entries.
    pub entries: usize,
    /// Packets that wait for one neighbour.
    pub queue: usize,
    /// Packets that wait in all.
    pub queued: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            reachable: Duration::from_secs(30),
            retry: Duration::from_millis(500),
            hasty: Duration::from_millis(100),
            patience: Duration::from_secs(1),
            tries: 3,
            probes: 4,
            hold: Duration::from_secs(1),
            idle: Duration::from_secs(600),
            entries: 8192,
            queue: 16,
            queued: 1024,
        }
    }
}

/// A neighbour: an address on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// The link's number, the caller's.
    pub link: u32,
    /// The address.
    pub address: IpAddr,
}

/// What is known of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Asked for, no answer yet.
    Incomplete,
    /// Answered not long ago.
    Reachable,
    /// Answered, but not lately.
    Stale,
    /// In use, stale, and being asked.
    Probe,
    /// Set by a user; never asked.
    Static,
    /// Did not answer.
    Failed,
}

impl State {
    /// Its name, as shown to a user.
    pub const fn name(self) -> &'static str {
        match self {
            State::Incomplete => "incomplete",
            State::Reachable => "reachable",
            State::Stale => "stale",
            State::Probe => "probe",
            State::Static => "static",
            State::Failed => "failed",
        }
    }
}

/// Something for the caller to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<T> {
    /// Send a request: to that Ethernet address, or to everybody.
    Request {
        /// Who is asked for.
        target: Target,
        /// Where the request goes.
        to: Option<u64>,
    },
    /// The address is known or has changed; these packets waited for it.
    Resolved {
        /// Who.
        target: Target,
        /// Where.
        mac: u64,
        /// In the order in which they came.
        waiting: Vec<T>,
    },
    /// There is no address any more, or none was found; these packets waited in vain.
    Lost {
        /// Who.
        target: Target,
        /// To be dropped as [`Drop::NeighbourFailed`].
        waiting: Vec<T>,
    },
}

/// What became of a packet for a neighbour.
#[derive(Debug, PartialEq, Eq)]
pub enum Wait<T> {
    /// The address is known: send it.
    Known(u64, T),
    /// It waits.
    Queued,
    /// It cannot wait, and why.
    Refused(Drop, T),
}

#[derive(Debug)]
struct Entry<T> {
    state: State,
    /// 0 where none is known.
    mac: u64,
    /// Requests sent since the last answer.
    tries: u32,
    /// When the state ends or the next request goes.
    due: Duration,
    /// When the last request went.
    asked: Duration,
    used: Duration,
    waiting: VecDeque<T>,
}

/// The neighbours.
#[derive(Debug)]
pub struct NeighTable<T> {
    entries: HashMap<Target, Entry<T>>,
    limits: Limits,
    queued: usize,
}

/// One neighbour, as shown to a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Who.
    pub target: Target,
    /// Where, if known.
    pub mac: Option<u64>,
    /// What is known.
    pub state: State,
    /// Packets that wait.
    pub waiting: usize,
    /// When a packet last needed it.
    pub used: Duration,
}

type Events<T> = Vec<Event<T>>;

impl<T> NeighTable<T> {
    /// An empty table.
    pub fn new(limits: Limits) -> NeighTable<T> {
        NeighTable { entries: HashMap::new(), limits, queued: 0 }
    }

    /// The neighbour's address, if one is known, doubted or not.
    pub fn lookup(&self, target: &Target) -> Option<u64> {
        self.entries.get(target).map(|e| e.mac).filter(|m| *m != 0)
    }

    /// A packet for a neighbour: asks for an unknown one, and keeps the packet until then.
    pub fn wait(
        &mut self,
        target: Target,
        packet: T,
        now: Duration,
        events: &mut Events<T>,
    ) -> Wait<T> {
        self.used(&target, now, events);
        if !self.entries.contains_key(&target) && !self.begin(target, now, events) {
            return Wait::Refused(Drop::NeighbourPending, packet);
        }
        let full = self.queued >= self.limits.queued;
        let queue = self.limits.queue;
        let Some(e) = self.entries.get_mut(&target) else {
            return Wait::Refused(Drop::NeighbourPending, packet);
        };
        if e.mac != 0 {
            return Wait::Known(e.mac, packet);
        }
        if e.state == State::Failed {
            return Wait::Refused(Drop::NeighbourFailed, packet);
        }
        if full || e.waiting.len() >= queue {
            return Wait::Refused(Drop::NeighbourPending, packet);
        }
        e.waiting.push_back(packet);
        self.queued += 1;
        Wait::Queued
    }

    /// Ask for a neighbour before a packet needs it, as for a tunnel's next hop.
    pub fn resolve(&mut self, target: Target, now: Duration, events: &mut Events<T>) {
        self.used(&target, now, events);
        if !self.entries.contains_key(&target) {
            self.begin(target, now, events);
        }
    }

    /// Packets went to a neighbour lately; a stale one is asked again.
    pub fn used(&mut self, target: &Target, now: Duration, events: &mut Events<T>) {
        let Some(e) = self.entries.get_mut(target) else { return };
        e.used = now;
        match e.state {
            State::Reachable if now >= e.due => e.probe(*target, now, &self.limits, events),
            State::Stale => e.probe(*target, now, &self.limits, events),
            State::Failed if now >= e.due => {
                e.state = State::Incomplete;
                e.ask(*target, now, &self.limits, events);
            }
            _ => {}
        }
    }

    /// A new entry, asked for; `false` if there is no room.
    fn begin(&mut self, target: Target, now: Duration, events: &mut Events<T>) -> bool {
        if self.entries.len() >= self.limits.entries && !self.make_room() {
            return false;
        }
        let mut e = Entry::new(State::Incomplete, 0, now);
        e.ask(target, now, &self.limits, events);
        self.entries.insert(target, e);
        true
    }

    /// Let the entry go that is missed least: failed ones first, then the longest unused. Entries
    /// that packets wait for, and static ones, stay.
    fn make_room(&mut self) -> bool {
        let rank = |e: &Entry<T>| (e.state != State::Failed, e.used);
        let victim = self
            .entries
            .iter()
            .filter(|(_, e)| e.state != State::Static && e.waiting.is_empty())
            .filter(|(_, e)| e.state != State::Incomplete)
            .min_by_key(|(_, e)| rank(e))
            .map(|(t, _)| *t);
        victim.is_some_and(|t| self.entries.remove(&t).is_some())
    }

    /// Something was heard of a neighbour ([`hear`]). Only an answer makes an entry certain; what
    /// came unasked changes the address and leaves it to be confirmed.
    pub fn heard(&mut self, link: u32, heard: &Heard, now: Duration, events: &mut Events<T>) {
        let target = Target { link, address: heard.address };
        let Some(e) = self.entries.get_mut(&target) else { return };
        if e.state == State::Static || heard.mac == 0 {
            return;
        }
        let changes = e.mac != heard.mac;
        if changes && e.mac != 0 && !heard.overrides {
            // RFC 4861 section 7.2.5: not to be believed against what is known, but a reason for
            // doubt.
            if e.state == State::Reachable {
                e.state = State::Stale;
            }
            return;
        }
        let limits = self.limits;
        if heard.solicited {
            (e.state, e.due) = (State::Reachable, now + limits.reachable);
            e.tries = 0;
        } else if changes {
            (e.state, e.due) = (State::Stale, now + limits.idle);
            e.tries = 0;
        }
        e.mac = heard.mac;
        if changes || !e.waiting.is_empty() {
            self.queued -= e.waiting.len();
            let waiting = std::mem::take(&mut e.waiting).into();
            events.push(Event::Resolved { target, mac: heard.mac, waiting });
        }
    }

    /// A packet of the neighbour's came from that Ethernet address. It proves nothing, but one
    /// that is not the known address is a reason to ask everybody at once.
    pub fn seen(&mut self, target: Target, mac: u64, now: Duration, events: &mut Events<T>) {
        let Some(e) = self.entries.get_mut(&target) else { return };
        let certain = matches!(e.state, State::Reachable | State::Stale);
        if certain && e.mac != mac && now >= e.asked + self.limits.retry {
            e.state = State::Probe;
            // The first probe, which would go to the known address, counts as done.
            e.tries = 1;
            e.ask(target, now, &self.limits, events);
        }
    }

    /// Packets go to a neighbour and nothing comes from it: it is asked at its known address, and soon
    /// after, if it does not answer, everybody is.
    pub fn missed(&mut self, target: &Target, now: Duration, events: &mut Events<T>) {
        let Some(e) = self.entries.get_mut(target) else { return };
        let certain = matches!(e.state, State::Reachable | State::Stale);
        if certain && now >= e.asked + self.limits.patience {
            e.probe(*target, now, &self.limits, events);
            e.due = now + self.limits.hasty;
        }
    }

    /// Set an address that is never asked for.
    pub fn set_static(&mut self, target: Target, mac: u64, now: Duration, events: &mut Events<T>) {
        let e = self.entries.entry(target).or_insert_with(|| Entry::new(State::Static, 0, now));
        let changes = e.mac != mac;
        (e.state, e.mac) = (State::Static, mac);
        if changes || !e.waiting.is_empty() {
            self.queued -= e.waiting.len();
            let waiting = std::mem::take(&mut e.waiting).into();
            events.push(Event::Resolved { target, mac, waiting });
        }
    }

    /// Forget a neighbour; whether there was one.
    pub fn remove(&mut self, target: &Target, events: &mut Events<T>) -> bool {
        let Some(e) = self.entries.remove(target) else { return false };
        self.queued -= e.waiting.len();
        events.push(Event::Lost { target: *target, waiting: e.waiting.into() });
        true
    }

    /// Forget all neighbours of a link, as when it goes down.
    pub fn flush(&mut self, link: u32, events: &mut Events<T>) {
        let of_link: Vec<Target> =
            self.entries.keys().filter(|t| t.link == link).copied().collect();
        for t in of_link {
            self.remove(&t, events);
        }
    }

    /// Do what time demands: ask again, give up, doubt, forget. Call it when [`NeighTable::due`]
    /// says, or more often.
    pub fn tick(&mut self, now: Duration, events: &mut Events<T>) {
        let limits = self.limits;
        let mut forgotten = Vec::new();
        for (target, e) in &mut self.entries {
            if e.state == State::Static || now < e.due {
                continue;
            }
            match e.state {
                State::Incomplete if e.tries < limits.tries => e.ask(*target, now, &limits, events),
                State::Probe if e.tries < limits.probes => e.ask(*target, now, &limits, events),
                State::Incomplete | State::Probe => {
                    self.queued -= e.waiting.len();
                    let waiting = std::mem::take(&mut e.waiting).into();
                    (e.state, e.mac, e.tries, e.due) = (State::Failed, 0, 0, now + limits.hold);
                    events.push(Event::Lost { target: *target, waiting });
                }
                State::Reachable => (e.state, e.due) = (State::Stale, e.used + limits.idle),
                State::Stale if now < e.used + limits.idle => e.due = e.used + limits.idle,
                State::Stale | State::Failed | State::Static => forgotten.push(*target),
            }
        }
        for target in forgotten {
            let Some(e) = self.entries.remove(&target) else { continue };
            // That a failed one is lost was said when it failed.
            if e.state != State::Failed {
                events.push(Event::Lost { target, waiting: Vec::new() });
            }
        }
    }

    /// When [`NeighTable::tick`] has something to do next.
    pub fn due(&self) -> Option<Duration> {
        self.entries.values().filter(|e| e.state != State::Static).map(|e| e.due).min()
    }

    /// All neighbours, in no order.
    pub fn iter(&self) -> impl Iterator<Item = Shown> + '_ {
        self.entries.iter().map(|(target, e)| Shown {
            target: *target,
            mac: (e.mac != 0).then_some(e.mac),
            state: e.state,
            waiting: e.waiting.len(),
            used: e.used,
        })
    }

    /// Packets that wait in all.
    pub fn queued(&self) -> usize {
        self.queued
    }
}

impl<T> Entry<T> {
    fn new(state: State, mac: u64, now: Duration) -> Entry<T> {
        Entry { state, mac, tries: 0, due: now, asked: now, used: now, waiting: VecDeque::new() }
    }

    fn probe(&mut self, target: Target, now: Duration, limits: &Limits, events: &mut Events<T>) {
        (self.state, self.tries) = (State::Probe, 0);
        self.ask(target, now, limits, events);
    }

    /// Send one more request: to the known address first, then to everybody.
    fn ask(&mut self, target: Target, now: Duration, limits: &Limits, events: &mut Events<T>) {
        let to = (self.mac != 0 && self.tries == 0).then_some(self.mac);
        self.tries += 1;
        self.asked = now;
        self.due = now + limits.retry;
        events.push(Event::Request { target, to });
    }
}
