//! Which connection is a packet of, and what does the packet do to it?
//!
//! [`Tracker`] is the table of all connections, shared by all workers. Looking a packet up takes
//! no lock but, for TCP, the connection's own. See [`crate::meta`] for the rules under which
//! entries are read and written, [`crate::index`] for how they are found, [`crate::commit`] for
//! how they are made.
//!
//! Time and randomness come from the caller. Must not know: rules, ports, workers.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use crate::entry::{Entry, Millis};
use crate::index::{Index, Place};
use crate::input::{Input, Invalid, Kind, Seen, read};
use crate::meta::{Guard, Snapshot, bit};
use crate::nat::NatEdit;
use crate::notice::{Notice, Notices};
use crate::pool::Pool;
use crate::stats::{Counters, Event};
use crate::tcp::{Outcome, Segment, Status, Tcp, TcpOptions};
use crate::timeout::{Lifetime, Timeout, Timeouts};
use crate::tuple::Tuple;
use crate::verdict::{ConnRef, CtState, Verdict};
use crate::zones::Zones;

/// The most connections that a tracker can be made for.
pub const MAX_CONNECTIONS: usize = 1 << 29;

/// UDP of both sides that has gone on for longer counts as a stream.
const STREAM_AFTER: u64 = 2000;

/// How a tracker is made.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The most connections, 1 to [`MAX_CONNECTIONS`]; address space for them is reserved.
    pub connections: usize,
    /// A secret from a random source, so that nobody can aim at one place of the index.
    pub seed: u64,
    /// How strict TCP is followed.
    pub tcp: TcpOptions,
}

/// All connections.
pub struct Tracker {
    pub(crate) index: Index,
    pub(crate) pool: Pool,
    pub(crate) zones: Zones,
    pub(crate) timeouts: Timeouts,
    pub(crate) counters: Counters,
    pub(crate) tcp: TcpOptions,
    pub(crate) seed: u64,
    /// Where the next sweep and the next search for a victim go on.
    pub(crate) sweep_at: AtomicUsize,
    pub(crate) evict_at: AtomicUsize,
    /// Until when nobody looks for a victim again: in the whole table, and by zone.
    pub(crate) no_victim: AtomicU64,
    pub(crate) no_victim_in: Box<[AtomicU64]>,
    pub(crate) notices: Notices,
    /// By range: until when the range counts as exhausted.
    pub(crate) exhausted: Box<[AtomicU64]>,
}

/// What a lookup found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The packet's connection, followed; the verdict is written.
    Conn,
    /// No connection.
    Nothing,
    Invalid(Invalid),
}

impl Tracker {
    /// An empty tracker.
    ///
    /// # Errors
    /// The address space for the tables cannot be reserved, or `connections` is out of range.
    pub fn new(config: Config) -> io::Result<Tracker> {
        let n = config.connections;
        if n == 0 || n > MAX_CONNECTIONS {
            let why = format!("{n} connections: not from 1 to {MAX_CONNECTIONS}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let pool = Pool::new(n)?;
        Ok(Tracker {
            index: Index::new(pool.capacity())?,
            pool,
            zones: Zones::new()?,
            timeouts: Timeouts::new()?,
            counters: Counters::new(),
            tcp: config.tcp,
            seed: config.seed,
            sweep_at: AtomicUsize::new(0),
            evict_at: AtomicUsize::new(0),
            no_victim: AtomicU64::new(0),
            no_victim_in: (0..64).map(|_| AtomicU64::new(0)).collect(),
            notices: Notices::new(),
            exhausted: (0..256).map(|_| AtomicU64::new(0)).collect(),
        })
    }

    /// Track one packet without making a connection: `ct()` without `commit`.
    ///
    /// `nat`: whether the action says `nat`; only then does the verdict hold an edit, and
    /// `ct_state` its bits. A packet that cannot be tracked, or is no part of its connection,
    /// comes back as `+inv` and unchanged.
    #[inline]
    pub fn track(&self, now: Millis, input: &Input<'_>, nat: bool) -> Verdict {
        let (mut v, mut seen) = (Verdict::default(), Seen::default());
        match read(input, &mut seen) {
            Ok(()) => {
                self.conclude_other(now, &seen, seen.tuple.hash(self.seed), None, nat, &mut v);
            }
            Err(why) => v = self.invalid(u64::from(input.zone), why),
        }
        v
    }

    /// The verdict for a packet that was read. `likely`: where its connection may be.
    #[inline(always)]
    pub(crate) fn conclude(
        &self,
        now: Millis,
        seen: &Seen,
        hash: u64,
        likely: Option<Place>,
        nat: bool,
        v: &mut Verdict,
    ) {
        let at = likely.and_then(|place| self.matching(now, place, &seen.tuple));
        let found = at.and_then(|(place, m)| self.follow(now, seen, place, m, nat, v));
        if found != Some(Found::Conn) {
            self.conclude_other(now, seen, hash, found, nat, v);
        }
    }

    /// [`Tracker::conclude`] for a packet that was not found to be of its likely connection; `found`: what
    /// else it was found to be there.
    #[inline(never)]
    fn conclude_other(
        &self,
        now: Millis,
        seen: &Seen,
        hash: u64,
        found: Option<Found>,
        nat: bool,
        v: &mut Verdict,
    ) {
        match found.unwrap_or_else(|| self.find(now, seen, hash, nat, v)) {
            Found::Conn => {}
            Found::Nothing => {
                *v = match self.may_begin(seen) {
                    Ok(()) => Verdict::new(&seen.tuple),
                    Err(why) => self.invalid(hash, why),
                };
            }
            Found::Invalid(why) => *v = self.invalid(hash, why),
        }
    }

    /// Whether a packet without a connection can begin one.
    pub(crate) fn may_begin(&self, seen: &Seen) -> Result<(), Invalid> {
        match &seen.kind {
            Kind::Error => Err(Invalid::Unrelated),
            Kind::Icmp { query: false } => Err(Invalid::NotNew),
            Kind::Tcp(s) if Tcp::first(s, &self.tcp).is_none() => Err(Invalid::NotNew),
            _ => Ok(()),
        }
    }

    #[cold]
    pub(crate) fn invalid(&self, stripe: u64, why: Invalid) -> Verdict {
        self.counters.invalid(stripe, why);
        Verdict::INVALID
    }

    /// Find a packet's connection and follow it.
    #[inline(always)]
    pub(crate) fn find(
        &self,
        now: Millis,
        seen: &Seen,
        hash: u64,
        nat: bool,
        v: &mut Verdict,
    ) -> Found {
        loop {
            let found = self.index.find(hash, |place| self.matching(now, place, &seen.tuple));
            let Some((place, m)) = found else { return Found::Nothing };
            if let Some(found) = self.follow(now, seen, place, m, nat, v) {
                return found;
            }
            // It ended, or changed while it was read: look again.
        }
    }

    /// Whether that entry is a living connection with this tuple.
    #[inline(always)]
    pub(crate) fn matching(
        &self,
        now: Millis,
        place: Place,
        tuple: &Tuple,
    ) -> Option<(Place, Snapshot)> {
        let e = self.pool.entry(place.id);
        let m = e.meta().peek();
        let is = m.is_live() && e.tuple_is(place.reply, tuple) && !e.is_expired(now);
        is.then_some((place, m))
    }

    /// Let a packet act on its connection. `None` if the entry is not that connection any more.
    #[inline(always)]
    pub(crate) fn follow(
        &self,
        now: Millis,
        seen: &Seen,
        place: Place,
        m: Snapshot,
        nat: bool,
        v: &mut Verdict,
    ) -> Option<Found> {
        let e = self.pool.entry(place.id);
        let (m, related) = match &seen.kind {
            Kind::Tcp(s) => return self.follow_tcp(now, e, place, m, s, nat, v),
            Kind::Error => (m, true),
            kind => (self.refresh(now, e, place, m, kind)?, false),
        };
        self.read_verdict(e, place, m, related, nat, v).then_some(Found::Conn)
    }

    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // One caller, inlined.
    fn follow_tcp(
        &self,
        now: Millis,
        e: &Entry,
        place: Place,
        m: Snapshot,
        s: &Segment,
        nat: bool,
        v: &mut Verdict,
    ) -> Option<Found> {
        const SETTLED: u64 = bit::SEEN_REPLY | bit::ASSURED;
        let mut g = e.meta().lock(m)?;
        let m = g.snapshot();
        if m.0 & SETTLED == SETTLED
            && let Some(lifetime) = e.tcp(&mut g).in_order(place.reply, s, &self.tcp)
        {
            e.set_expires(now.plus(self.timeouts.millis(m.policy(), lifetime)));
            self.verdict(e, place, m, false, nat, v);
            return Some(Found::Conn);
        }
        Some(self.follow_any_tcp(now, e, place, g, s, nat, v))
    }

    /// [`Tracker::follow_tcp`] for every segment.
    #[inline(never)]
    #[allow(clippy::too_many_arguments)] // One caller; what it has is what this needs.
    fn follow_any_tcp(
        &self,
        now: Millis,
        e: &Entry,
        place: Place,
        mut g: Guard<'_>,
        s: &Segment,
        nat: bool,
        v: &mut Verdict,
    ) -> Found {
        let m = g.snapshot();
        let status = Status { seen_reply: m.has(bit::SEEN_REPLY), assured: m.has(bit::ASSURED) };
        let tcp = e.tcp(&mut g);
        let outcome = tcp.packet(place.reply, s, status, &self.tcp);
        let state = tcp.state;
        match outcome {
            Outcome::Reopen => {
                g.kill();
                self.bury(place.id, Event::Closed);
                return Found::Nothing;
            }
            Outcome::Invalid(why) => return Found::Invalid(why),
            Outcome::OutOfStep => {
                let soon = now.plus(self.timeouts.millis(m.policy(), Timeout::TcpUnack.into()));
                if e.expires() > soon {
                    e.set_expires(soon);
                }
                return Found::Invalid(Invalid::TcpWindow);
            }
            _ => {}
        }
        if place.reply {
            g.word |= bit::SEEN_REPLY;
        }
        if let Outcome::Accepted { lifetime, assured } = outcome {
            g.set_state(state as u8);
            if assured {
                g.word |= bit::ASSURED;
            }
            if let Some(lifetime) = lifetime {
                e.set_expires(now.plus(self.timeouts.millis(m.policy(), lifetime)));
            }
        }
        self.verdict(e, place, g.snapshot(), false, nat, v);
        if outcome == Outcome::Over {
            g.kill();
            self.bury(place.id, Event::Closed);
        }
        Found::Conn
    }

    /// Renew the time of a connection that is not TCP, and note what the packet says of it.
    #[inline(always)]
    fn refresh(
        &self,
        now: Millis,
        e: &Entry,
        place: Place,
        m: Snapshot,
        kind: &Kind,
    ) -> Option<Snapshot> {
        let stream = m.has(bit::ASSURED);
        let settled = stream || now.0.saturating_sub(e.made().0) <= STREAM_AFTER;
        if matches!(kind, Kind::Udp) && m.has(bit::SEEN_REPLY) && settled {
            let t = if stream { Timeout::UdpStream } else { Timeout::UdpMultiple };
            e.set_expires(now.plus(self.timeouts.millis(m.policy(), t.into())));
            return Some(m);
        }
        self.refresh_any(now, e, place, m, kind)
    }

    /// [`Tracker::refresh`] for every packet.
    #[inline(never)]
    fn refresh_any(
        &self,
        now: Millis,
        e: &Entry,
        place: Place,
        m: Snapshot,
        kind: &Kind,
    ) -> Option<Snapshot> {
        let mut wanted = 0;
        if place.reply {
            wanted |= bit::SEEN_REPLY;
        } else if !m.has(bit::SEEN_REPLY) {
            wanted |= bit::SEEN_MORE;
        }
        let answered = m.has(bit::SEEN_REPLY) || place.reply;
        let mut stream = m.has(bit::ASSURED);
        if answered && !stream && matches!(kind, Kind::Udp) {
            stream = now.0.saturating_sub(e.made().0) > STREAM_AFTER;
            if stream {
                wanted |= bit::ASSURED;
            }
        }
        let m = if m.0 & wanted == wanted { m } else { note(e, m, wanted)? };
        let t: Lifetime = match (kind, answered) {
            (Kind::Udp, true) if stream => Timeout::UdpStream,
            (Kind::Udp, true) => Timeout::UdpMultiple,
            (Kind::Udp, false) => Timeout::UdpSingle,
            (Kind::Icmp { .. }, true) => Timeout::IcmpReply,
            (Kind::Icmp { .. }, false) => Timeout::IcmpFirst,
            (_, true) => Timeout::OtherReply,
            (_, false) => Timeout::OtherFirst,
        }
        .into();
        // Should the entry be another connection by now, it gets this one's time once, and its
        // own with its next packet.
        e.set_expires(now.plus(self.timeouts.millis(m.policy(), t)));
        Some(m)
    }

    /// Write the verdict for a packet of the connection, read without the lock. Whether it still
    /// was that connection, and nothing changed meanwhile.
    #[inline(always)]
    pub(crate) fn read_verdict(
        &self,
        e: &Entry,
        place: Place,
        seen: Snapshot,
        related: bool,
        nat: bool,
        v: &mut Verdict,
    ) -> bool {
        let m = e.meta().read();
        if !m.same_connection(seen) {
            return false;
        }
        self.verdict(e, place, m, related, nat, v);
        e.meta().unchanged(m)
    }

    /// Write the verdict for a packet of the connection as it is.
    #[inline(always)]
    pub(crate) fn verdict(
        &self,
        e: &Entry,
        place: Place,
        m: Snapshot,
        related: bool,
        nat: bool,
        v: &mut Verdict,
    ) {
        let reply = place.reply;
        let answered = m.has(bit::SEEN_REPLY) || reply;
        let mut state = CtState::TRK.0;
        state |= match (related, answered) {
            (true, _) => CtState::REL.0,
            (false, true) => CtState::EST.0,
            (false, false) => CtState::NEW.0,
        };
        if reply {
            state |= CtState::RPL.0;
        }
        v.orig = e.tuple(false);
        v.nat = NatEdit::NONE;
        let what = if nat { m.translated(reply) } else { 0 };
        if what != 0 {
            let to = if reply { v.orig.inverse() } else { e.tuple(true).inverse() };
            v.nat = NatEdit::new(to, what, related);
            state |= CtState::of_translation(what).0;
        }
        v.state = CtState(state);
        v.mark = e.mark();
        v.label = e.label(m);
        v.conn = ConnRef::new(place.id, m.generation(), reply, related);
    }

    /// Take a connection apart that [`crate::meta::Guard::kill`] has ended, and count why.
    pub(crate) fn bury(&self, id: u32, why: Event) {
        let e = self.pool.entry(id);
        let (orig, reply) = (e.tuple(false), e.tuple(true));
        self.counters.count(u64::from(id), why);
        if self.notices.are_wanted() {
            let label = e.label(e.meta().peek());
            self.notices.push(Notice { what: why, orig, reply, mark: e.mark(), label });
        }
        self.index.remove(orig.hash(self.seed), Place { id, reply: false });
        if !e.meta().peek().has(bit::SELF) {
            self.index.remove(reply.hash(self.seed), Place { id, reply: true });
        }
        e.meta().release();
        self.zones.give(orig.zone());
        self.pool.give(id);
    }

    /// End a connection for that reason, unless it has ended already.
    pub(crate) fn end(&self, id: u32, seen: Snapshot, why: Event) -> bool {
        let Some(g) = self.pool.entry(id).meta().lock(seen) else { return false };
        g.kill();
        self.bury(id, why);
        true
    }
}

/// Set status bits of a connection.
#[cold]
fn note(e: &Entry, seen: Snapshot, bits: u64) -> Option<Snapshot> {
    let mut g = e.meta().lock(seen)?;
    g.word |= bits;
    Some(g.snapshot())
}
