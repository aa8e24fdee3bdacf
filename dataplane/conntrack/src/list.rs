//! What connections are there?
//!
//! A walk over the entries, one by one and without stopping workers: each [`Connection`] is one
//! moment's truth of its own, and connections that come or go during the walk may or may not be
//! in it.

use std::collections::HashMap;
use std::net::IpAddr;

use flow::extract::ip_proto;

use crate::entry::Millis;
use crate::meta::{Snapshot, bit};
use crate::stats::Event;
use crate::tcp::TcpState;
use crate::tracker::Tracker;
use crate::tuple::Tuple;

/// One connection, as it was at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Tuple of the original direction.
    pub orig: Tuple,
    /// Tuple of the reply direction, as replies come in.
    pub reply: Tuple,
    /// TCP's state; `None` for other protocols.
    pub tcp: Option<TcpState>,
    /// Window scale of both sides; `None` for other protocols.
    pub scale: Option<(u8, u8)>,
    /// A packet in reply direction was seen.
    pub seen_reply: bool,
    /// It would not be ended to make room: handshake done, or a UDP stream.
    pub assured: bool,
    /// `ct_mark`.
    pub mark: u32,
    /// `ct_label`.
    pub label: u128,
    /// Number of its timeout policy.
    pub policy: u8,
    /// Milliseconds until it expires.
    pub expires_in: u64,
    /// Milliseconds since it was made.
    pub age: u64,
}

/// Which connections a command means; fields that are `None` match all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The zone.
    pub zone: Option<u16>,
    /// The mark, under a mask.
    pub mark: Option<(u32, u32)>,
    /// The label, under a mask.
    pub label: Option<(u128, u128)>,
    /// The IP protocol.
    pub proto: Option<u8>,
    /// Source address of the original direction.
    pub src: Option<IpAddr>,
    /// Destination address of the original direction.
    pub dst: Option<IpAddr>,
    /// Source port (ICMP: identifier) of the original direction.
    pub sport: Option<u16>,
    /// Destination port of the original direction.
    pub dport: Option<u16>,
    /// Source address of the reply direction.
    pub reply_src: Option<IpAddr>,
    /// Destination address of the reply direction.
    pub reply_dst: Option<IpAddr>,
    /// Source port of the reply direction.
    pub reply_sport: Option<u16>,
    /// Destination port of the reply direction.
    pub reply_dport: Option<u16>,
}

impl Filter {
    /// Whether a connection is meant.
    pub fn matches(&self, c: &Connection) -> bool {
        fn is<T: PartialEq>(want: Option<T>, have: T) -> bool {
            want.is_none_or(|w| w == have)
        }
        let (o, r) = (&c.orig, &c.reply);
        is(self.zone, o.zone())
            && is(self.proto, o.proto())
            && is(self.src, o.src_ip())
            && is(self.dst, o.dst_ip())
            && is(self.sport, o.sport())
            && is(self.dport, o.dport())
            && is(self.reply_src, r.src_ip())
            && is(self.reply_dst, r.dst_ip())
            && is(self.reply_sport, r.sport())
            && is(self.reply_dport, r.dport())
            && self.mark.is_none_or(|(v, mask)| c.mark & mask == v & mask)
            && self.label.is_none_or(|(v, mask)| c.label & mask == v & mask)
    }
}

/// Where a walk over the connections goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor(usize);

impl Cursor {
    /// The place as a number, to be handed out.
    pub fn number(self) -> u64 {
        self.0 as u64
    }
    /// The place of that number; any number is one, perhaps beyond the end.
    pub fn from_number(n: u64) -> Cursor {
        Cursor(usize::try_from(n).unwrap_or(usize::MAX))
    }
}

/// How many connections there are, counted by a walk.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// All of them.
    pub total: usize,
    /// TCP connections by state, numbered as [`TcpState`].
    pub tcp: [usize; TcpState::ALL.len()],
    /// By IP protocol.
    pub protocols: HashMap<u8, usize>,
    /// By zone.
    pub zones: HashMap<u16, usize>,
    /// Without a reply so far.
    pub unanswered: usize,
    /// Translated.
    pub translated: usize,
    /// The original sources with the most connections, most first.
    pub top_sources: Vec<(u16, IpAddr, usize)>,
}

impl Tracker {
    /// Call `visit` for connections from `cursor` on, looking at no more than `budget` entries.
    /// Where to go on, or `None` at the end.
    pub fn walk(
        &self,
        now: Millis,
        cursor: Cursor,
        budget: usize,
        mut visit: impl FnMut(&Connection),
    ) -> Option<Cursor> {
        self.walk_entries(now, cursor, budget, |_, _, c| visit(c))
    }

    fn walk_entries(
        &self,
        now: Millis,
        Cursor(from): Cursor,
        budget: usize,
        mut visit: impl FnMut(u32, Snapshot, &Connection),
    ) -> Option<Cursor> {
        for n in from..from.saturating_add(budget) {
            let id = self.pool.nth_touched(n)?;
            if let Some((m, c)) = self.read_connection(now, id) {
                visit(id, m, &c);
            }
        }
        Some(Cursor(from.saturating_add(budget)))
    }

    /// The connection in an entry, read under its lock.
    fn read_connection(&self, now: Millis, id: u32) -> Option<(Snapshot, Connection)> {
        let e = self.pool.entry(id);
        let m = e.meta().peek();
        if !m.is_live() || e.is_expired(now) {
            return None;
        }
        let mut g = e.meta().lock(m)?;
        let m = g.snapshot();
        let orig = e.tuple(false);
        let is_tcp = orig.proto() == ip_proto::TCP;
        let tcp = is_tcp.then(|| *e.tcp(&mut g));
        let c = Connection {
            orig,
            reply: e.tuple(true),
            tcp: tcp.map(|t| t.state),
            scale: tcp.map(|t| (t.peers[0].scale, t.peers[1].scale)),
            seen_reply: m.has(bit::SEEN_REPLY),
            assured: m.has(bit::ASSURED),
            mark: e.mark(),
            label: e.label(m),
            policy: m.policy(),
            expires_in: e.expires().0.saturating_sub(now.0),
            age: now.0.saturating_sub(e.made().0),
        };
        drop(g);
        Some((m, c))
    }

    /// End all connections that are meant, looking at no more than `budget` entries from
    /// `cursor` on. How many were ended, and where to go on (`None`: done).
    pub fn flush(
        &self,
        now: Millis,
        filter: &Filter,
        cursor: Cursor,
        budget: usize,
    ) -> (usize, Option<Cursor>) {
        let mut ended = 0;
        let next = self.walk_entries(now, cursor, budget, |id, m, c| {
            if filter.matches(c) && self.end(id, m, Event::Flushed) {
                ended += 1;
            }
        });
        (ended, next)
    }

    /// End the connection that has this tuple in either direction. Whether there was one.
    pub fn flush_tuple(&self, now: Millis, tuple: &Tuple) -> bool {
        let hash = tuple.hash(self.seed);
        let found = self.index.find(hash, |place| self.matching(now, place, tuple));
        let Some((place, m)) = found else { return false };
        self.end(place.id, m, Event::Flushed)
    }

    /// Count the connections; `top` is how many sources are to be named.
    pub fn census(&self, now: Millis, top: usize) -> Census {
        let mut census = Census::default();
        let mut sources: HashMap<(u16, IpAddr), usize> = HashMap::new();
        self.walk(now, Cursor::default(), usize::MAX, |c| {
            census.total += 1;
            if let Some(state) = c.tcp {
                census.tcp[state as usize] += 1;
            }
            *census.protocols.entry(c.orig.proto()).or_default() += 1;
            *census.zones.entry(c.orig.zone()).or_default() += 1;
            census.unanswered += usize::from(!c.seen_reply);
            census.translated += usize::from(c.reply != c.orig.inverse());
            if top > 0 {
                *sources.entry((c.orig.zone(), c.orig.src_ip())).or_default() += 1;
            }
        });
        let mut all: Vec<_> = sources.into_iter().map(|((z, ip), n)| (z, ip, n)).collect();
        all.sort_unstable_by(|a, b| b.2.cmp(&a.2).then(a.1.cmp(&b.1)).then(a.0.cmp(&b.0)));
        all.truncate(top);
        census.top_sources = all;
        census
    }
}
