//! How does a connection come into the table?
//!
//! [`Tracker::commit`] is `ct(commit)`: it follows the packet as [`Tracker::track`] does, makes
//! its connection if there is none, and sets mark and label. A new connection goes through these
//! steps, and each failure undoes those before it:
//!
//! 1. its zone's limit is counted;
//! 2. an entry is taken, if need be from a connection that matters least;
//! 3. its tuple goes into the index: from here on no other worker can make the same connection;
//! 4. a reply tuple is found that nobody has, by putting it into the index;
//! 5. state, mark and label are written, and the entry becomes live.
//!
//! A packet that should be translated and cannot be is an error, never a verdict without an edit.

use std::sync::atomic::Ordering;

use flow::drops::Drop;

use crate::entry::{Entry, Millis};
use crate::index::{Place, Refused};
use crate::input::{Input, Kind, Seen, read};
use crate::meta::{Snapshot, bit, wait};
use crate::nat::NatSpec;
use crate::nat::choose::{MAX_TRIES, Search, TRIES_WHEN_EXHAUSTED};
use crate::notice::Notice;
use crate::stats::Event;
use crate::tcp::Tcp;
use crate::timeout::{Lifetime, Timeout};
use crate::tracker::{Found, Tracker};
use crate::tuple::Tuple;
use crate::verdict::{ConnRef, Verdict};

/// For how long a range that was found exhausted is searched less, in milliseconds.
const EXHAUSTED_FOR: u64 = 1000;
/// How often the table is looked at again while another worker makes the same connection.
const PATIENCE: u32 = 10_000;

/// What a `nat` in the action says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Nat {
    /// There is none: packets are not translated.
    #[default]
    No,
    /// `nat`: as the connection says.
    Existing,
    /// `nat(...)`: the same, and a new connection is translated like this.
    New(NatSpec),
}

/// The arguments of `ct(commit)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Commit {
    /// A connection whose reply direction the packet is in is replaced by one in which the
    /// packet's direction is the original one.
    pub force: bool,
    /// Translation.
    pub nat: Nat,
    /// Value and mask for `ct_mark`.
    pub mark: Option<(u32, u32)>,
    /// Value and mask for `ct_label`.
    pub label: Option<(u128, u128)>,
}

/// Why a connection was not made.
enum Failure {
    /// Another packet has made it; or it is being made or ended.
    Lost,
    Drop(Drop),
}

impl Tracker {
    /// Track one packet and make its connection if there is none: `ct(commit)`.
    ///
    /// `prior`: the connection that an earlier verdict in the same zone named for this packet,
    /// or [`ConnRef::NONE`]; with it the packet is not counted a second time. `random` is asked
    /// only where a choice is to be random.
    ///
    /// # Errors
    /// The reason to drop the packet: [`Drop::CtFull`] if the table or the zone is full of
    /// connections that matter more, [`Drop::NatExhausted`] if no tuple is free,
    /// [`Drop::Unsupported`] if the addresses wanted are of the other IP version. An invalid
    /// packet is no error: it comes back as `+inv`.
    pub fn commit(
        &self,
        now: Millis,
        input: &Input<'_>,
        prior: ConnRef,
        args: &Commit,
        random: &mut dyn FnMut() -> u64,
    ) -> Result<Verdict, Drop> {
        let nat = args.nat != Nat::No;
        let known = self.resume(now, input.zone, prior, nat);
        if let Some(v) = known.filter(|_| !(args.force && prior.reply())) {
            return Ok(self.set_fields(v, args));
        }
        let mut seen = Seen::default();
        if let Err(why) = read(input, &mut seen) {
            return Ok(self.invalid(u64::from(input.zone), why));
        }
        let hash = seen.tuple.hash(self.seed);
        let mut v = Verdict::default();
        let mut patience = 0;
        loop {
            match self.find(now, &seen, hash, nat, &mut v) {
                Found::Conn if args.force && v.conn.reply() && !v.conn.related() => {
                    self.replace(v.conn);
                }
                Found::Conn => return Ok(self.set_fields(v, args)),
                Found::Invalid(why) => return Ok(self.invalid(hash, why)),
                Found::Nothing => {}
            }
            if let Err(why) = self.may_begin(&seen) {
                return Ok(self.invalid(hash, why));
            }
            match self.create(now, &seen, hash, args, random) {
                Ok(v) => return Ok(v),
                Err(Failure::Drop(why)) => return Err(why),
                Err(Failure::Lost) if patience < PATIENCE => wait(&mut patience),
                Err(Failure::Lost) => return Err(Drop::CtFull),
            }
        }
    }

    /// Whether [`Tracker::commit`] would change nothing and say again what an earlier verdict in the same
    /// zone has said: the connection that it named, `prior`, is there, and `args` ask for no more than that.
    #[inline]
    pub fn is_committed(&self, now: Millis, prior: ConnRef, args: &Commit) -> bool {
        let Commit { force, nat, mark, label } = args;
        if *force || *nat != Nat::No || mark.is_some() || label.is_some() {
            return false;
        }
        let Some(id) = prior.id().filter(|id| (*id as usize) < self.pool.capacity()) else {
            return false;
        };
        let e = self.pool.entry(id);
        let m = e.meta().read();
        let lives = m.is_live() && m.generation() == prior.generation() && !e.is_expired(now);
        lives && e.meta().unchanged(m)
    }

    /// The verdict of the connection that a packet is known to belong to, with nothing counted
    /// again: for a packet that comes to the same zone a second time. `None` if that connection
    /// is not there any more or of another zone.
    #[inline]
    pub fn resume(&self, now: Millis, zone: u16, prior: ConnRef, nat: bool) -> Option<Verdict> {
        let id = prior.id().filter(|id| (*id as usize) < self.pool.capacity())?;
        let e = self.pool.entry(id);
        let place = Place { id, reply: prior.reply() };
        let mut v = Verdict::default();
        loop {
            let m = e.meta().read();
            if !m.is_live() || m.generation() != prior.generation() {
                return None;
            }
            self.verdict(e, place, m, prior.related(), nat, &mut v);
            let expired = e.is_expired(now);
            if e.meta().unchanged(m) {
                return (v.orig.zone() == zone && !expired).then_some(v);
            }
        }
    }

    /// End the connection that stands in the way of `force`.
    fn replace(&self, conn: ConnRef) {
        let Some(id) = conn.id() else { return };
        let m = self.pool.entry(id).meta().peek();
        if m.generation() == conn.generation() && m.is_live() {
            self.end(id, m, Event::Replaced);
        }
    }

    /// Set mark and label of a connection.
    fn set_fields(&self, mut v: Verdict, args: &Commit) -> Verdict {
        let mark = args.mark.map_or(v.mark, |(x, mask)| v.mark & !mask | x & mask);
        let label = args.label.map_or(v.label, |(x, mask)| v.label & !mask | x & mask);
        if mark == v.mark && label == v.label {
            return v;
        }
        if let Some(id) = v.conn.id() {
            let e = self.pool.entry(id);
            let m = e.meta().peek();
            if m.generation() == v.conn.generation()
                && let Some(mut g) = e.meta().lock(m)
            {
                g.will_change();
                // What another worker has set since the verdict was read stays under the mask.
                let old = e.mark();
                e.set_mark(args.mark.map_or(old, |(x, mask)| old & !mask | x & mask));
                let old = e.label(g.snapshot());
                let label = args.label.map_or(old, |(x, mask)| old & !mask | x & mask);
                e.set_label(label);
                g.word = if label == 0 { g.word & !bit::LABEL } else { g.word | bit::LABEL };
                (v.mark, v.label) = (e.mark(), label);
            }
        }
        v
    }

    /// Make a packet's connection.
    fn create(
        &self,
        now: Millis,
        seen: &Seen,
        hash: u64,
        args: &Commit,
        random: &mut dyn FnMut() -> u64,
    ) -> Result<Verdict, Failure> {
        let zone = seen.tuple.zone();
        let admitted =
            self.zones.take(zone) || self.evict(now, Some(zone)) && self.zones.take(zone);
        if !admitted {
            self.counters.count(hash, Event::FullZone);
            return Err(Failure::Drop(Drop::CtFull));
        }
        let again = || if self.evict(now, None) { self.pool.take(hash) } else { None };
        let Some(id) = self.pool.take(hash).or_else(again) else {
            self.zones.give(zone);
            self.counters.count(hash, Event::FullTable);
            return Err(Failure::Drop(Drop::CtFull));
        };
        let e = self.pool.entry(id);
        let reserved = e.meta().reserve();
        match self.occupy(now, id, e, seen, hash, args, random) {
            Ok(status) => Ok(self.fill(now, id, e, reserved, seen, args, status)),
            Err(why) => {
                e.meta().release();
                self.pool.give(id);
                self.zones.give(zone);
                Err(why)
            }
        }
    }

    /// Put both tuples into the index. The status bits that come of it.
    #[allow(clippy::too_many_arguments)] // One caller; what it has is what this needs.
    fn occupy(
        &self,
        now: Millis,
        id: u32,
        e: &Entry,
        seen: &Seen,
        hash: u64,
        args: &Commit,
        random: &mut dyn FnMut() -> u64,
    ) -> Result<u64, Failure> {
        e.set_tuple(false, &seen.tuple);
        // Until it has its own, a reply tuple that is nobody's.
        e.set_tuple(true, &Tuple { ports: 0, addresses: [0; 4] });
        let place = Place { id, reply: false };
        match self.insert(now, hash, place, &seen.tuple) {
            Ok(()) => {}
            Err(Refused::Full) => {
                self.counters.count(hash, Event::FullIndex);
                return Err(Failure::Drop(Drop::CtFull));
            }
            Err(Refused::Taken(_)) => {
                self.counters.count(hash, Event::Clash);
                return Err(Failure::Lost);
            }
        }
        match self.find_reply(now, id, e, &seen.tuple, args, random) {
            Ok(status) => Ok(status),
            Err(why) => {
                self.index.remove(hash, place);
                Err(Failure::Drop(why))
            }
        }
    }

    /// Find a reply tuple that nobody has and put it into the index.
    fn find_reply(
        &self,
        now: Millis,
        id: u32,
        e: &Entry,
        orig: &Tuple,
        args: &Commit,
        random: &mut dyn FnMut() -> u64,
    ) -> Result<u64, Drop> {
        let spec = match &args.nat {
            Nat::New(spec) => Some(spec),
            _ => None,
        };
        let wants_random = spec.is_some_and(|s| s.choice == crate::nat::Choice::Random);
        let r = if wants_random { Some(random()) } else { None };
        let Some(mut search) = Search::new(orig, spec, self.seed, r, MAX_TRIES) else {
            self.counters.count(orig.ports, Event::WrongFamily);
            return Err(Drop::Unsupported);
        };
        let range = search.range_id(self.seed);
        let exhausted = &self.exhausted[range as usize % self.exhausted.len()];
        if spec.is_some() && exhausted.load(Ordering::Relaxed) > now.0 {
            let short = Search::new(orig, spec, self.seed, Some(random()), TRIES_WHEN_EXHAUSTED);
            search = short.unwrap_or(search);
        }
        for reply in search {
            e.set_tuple(true, &reply);
            let (hash, place) = (reply.hash(self.seed), Place { id, reply: true });
            if reply == *orig {
                return Ok(bit::SELF);
            }
            match self.insert(now, hash, place, &reply) {
                Ok(()) => return Ok(self.status(orig, &reply)),
                Err(Refused::Taken(_)) => {}
                Err(Refused::Full) => {
                    self.counters.count(hash, Event::FullIndex);
                    return Err(Drop::CtFull);
                }
            }
        }
        if spec.is_some() {
            exhausted.store(now.plus(EXHAUSTED_FOR).0, Ordering::Relaxed);
        }
        self.counters.count(orig.ports, Event::Exhausted);
        Err(Drop::NatExhausted)
    }

    /// Which sides are translated.
    fn status(&self, orig: &Tuple, reply: &Tuple) -> u64 {
        let to = reply.inverse();
        let mut status = 0;
        let src = to.src() != orig.src() || to.sport() != orig.sport();
        let dst = to.dst() != orig.dst() || to.dport() != orig.dport();
        if src {
            status |= bit::SNAT;
        }
        if dst {
            status |= bit::DNAT;
        }
        if to.sport() != orig.sport() {
            self.counters.count(orig.ports, Event::PortChanged);
        }
        status
    }

    /// Insert a tuple; one that an expired connection still holds is taken from it.
    fn insert(&self, now: Millis, hash: u64, place: Place, t: &Tuple) -> Result<(), Refused> {
        for _ in 0..4 {
            let same = |p: Place| p != place && self.holds(p, t);
            let taken = match self.index.insert(hash, place, same) {
                Err(Refused::Taken(p)) => p,
                done => return done,
            };
            let e = self.pool.entry(taken.id);
            let m = e.meta().peek();
            if !(m.is_live() && e.is_expired(now) && e.tuple_is(taken.reply, t)) {
                return Err(Refused::Taken(taken));
            }
            self.end(taken.id, m, Event::Expired);
        }
        Err(Refused::Taken(place))
    }

    /// Whether an entry holds this tuple, living or on its way into or out of life.
    fn holds(&self, p: Place, t: &Tuple) -> bool {
        let e = self.pool.entry(p.id);
        e.meta().peek().0 & bit::PHASE != bit::FREE && e.tuple_is(p.reply, t)
    }

    /// Write the connection's data and make it live.
    #[allow(clippy::too_many_arguments)] // One caller; what it has is what this needs.
    fn fill(
        &self,
        now: Millis,
        id: u32,
        e: &Entry,
        reserved: Snapshot,
        seen: &Seen,
        args: &Commit,
        mut status: u64,
    ) -> Verdict {
        let policy = self.timeouts.policy_of(seen.tuple.zone());
        let lifetime: Lifetime = match &seen.kind {
            Kind::Tcp(s) => {
                // `may_begin` has seen that it can be the first.
                let begun = Tcp::first(s, &self.tcp);
                let (tcp, lifetime) = begun.unwrap_or((Tcp::default(), Timeout::TcpSynSent.into()));
                // Nobody else can lock an entry that is reserved.
                if let Some(mut g) = e.meta().lock(reserved) {
                    *e.tcp(&mut g) = tcp;
                }
                status |= u64::from(tcp.state as u8) << bit::STATE_SHIFT;
                lifetime
            }
            Kind::Udp => Timeout::UdpFirst.into(),
            Kind::Icmp { .. } => Timeout::IcmpFirst.into(),
            Kind::Other | Kind::Error => Timeout::OtherFirst.into(),
        };
        e.set_made(now);
        e.set_expires(now.plus(self.timeouts.millis(policy, lifetime)));
        e.set_mark(args.mark.map_or(0, |(x, mask)| x & mask));
        let label = args.label.map_or(0, |(x, mask)| x & mask);
        if label != 0 {
            e.set_label(label);
            status |= bit::LABEL;
        }
        status |= u64::from(policy) << bit::POLICY_SHIFT;
        // Read while nobody else can find the connection.
        let m = reserved.live(status);
        let (mut v, place) = (Verdict::default(), Place { id, reply: false });
        self.verdict(e, place, m, false, args.nat != Nat::No, &mut v);
        let notice = self.notices.are_wanted().then(|| {
            let (orig, reply) = (v.orig, e.tuple(true));
            Notice { what: Event::Inserted, orig, reply, mark: v.mark, label: v.label }
        });
        e.meta().publish(m);
        self.counters.count(u64::from(id), Event::Inserted);
        notice.into_iter().for_each(|n| self.notices.push(n));
        v
    }
}
