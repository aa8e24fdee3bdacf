//! Which connections leave the table?
//!
//! Expired ones, found by a walk that goes a few entries further with each call, so that no call
//! takes long; and when the table is full and a new connection comes, the one that matters least
//! of some that are looked at; when a zone is full, one of that zone. An established connection
//! never makes room for another.

use std::ops::Range;
use std::sync::atomic::Ordering;

use flow::extract::ip_proto;

use crate::entry::{Entry, Millis};
use crate::meta::Snapshot;
use crate::meta::bit;
use crate::stats::Event;
use crate::tcp::TcpState;
use crate::tracker::Tracker;

/// Entries that are looked at for one that may make room.
const VICTIMS: usize = 128;
/// As many, for one of a zone that is full: its entries are among others.
const VICTIMS_IN_ZONE: usize = 512;
/// When the whole table is full, room is made for so many at once at most, as new connections come in
/// floods; and for one of so many that there are.
const ROOM: usize = 16;
const SHARE_OF_ROOM: usize = 4096;
/// Milliseconds in which nobody looks again after none was found.
const GIVE_UP_FOR: u64 = 1;
/// Entries of a sweep that are looked at together.
const LOT: usize = 8;
/// An ended connection counts for this many entries more of a sweep's budget.
const COST_OF_ENDING: usize = 2;

/// What a sweep did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Swept {
    /// Entries that were looked at.
    pub seen: usize,
    /// Connections whose time was over.
    pub expired: usize,
    /// Whether the walk came to its end and begins anew.
    pub wrapped: bool,
}

/// How little a connection matters: lower ones make room first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Expired,
    Closed,
    Unanswered,
    Opening,
}

impl Class {
    /// What is counted when one of this class makes room.
    fn event(self) -> Event {
        match self {
            Class::Expired => Event::Expired,
            Class::Closed => Event::EvictedClosed,
            Class::Unanswered => Event::EvictedUnanswered,
            Class::Opening => Event::EvictedOpening,
        }
    }
}

/// A connection's class; `None` if it is established.
fn class(e: &Entry, m: Snapshot, now: Millis) -> Option<Class> {
    if e.is_expired(now) {
        return Some(Class::Expired);
    }
    let proto = e.proto();
    if proto == ip_proto::TCP {
        match TcpState::from_u8(m.state()) {
            TcpState::TimeWait | TcpState::Close | TcpState::LastAck => return Some(Class::Closed),
            TcpState::None | TcpState::SynSent => return Some(Class::Unanswered),
            TcpState::SynRecv | TcpState::SynSent2 => return Some(Class::Opening),
            _ => {}
        }
    }
    if !m.has(bit::SEEN_REPLY) {
        return Some(Class::Unanswered);
    }
    // Queries that were answered have done what they were for.
    matches!(proto, ip_proto::ICMP | ip_proto::ICMPV6).then_some(Class::Opening)
}

impl Tracker {
    /// Look at some entries, in their turn, and end those whose time is over.
    ///
    /// To be called by every worker between bursts, or by one thread alone, often enough that
    /// the whole table is seen every few seconds; `budget` bounds the work: about that many
    /// entries are looked at, fewer where many have expired. It ends where the walk begins anew.
    pub fn sweep(&self, now: Millis, budget: usize) -> Swept {
        let mut done = Swept::default();
        let mut left = budget;
        while left > 0 && !done.wrapped {
            let Some(lot) = self.next_lot(left.min(LOT)) else { break };
            left -= lot.len();
            done.seen += lot.len();
            done.wrapped = lot.end == self.pool.touched();
            let (mut over, mut n) = ([0; LOT], 0);
            for id in lot.filter_map(|n| self.pool.nth_touched(n)) {
                let e = self.pool.entry(id);
                if e.meta().peek().is_live() && e.is_expired(now) {
                    // Its places in the index are needed soon, and wait for memory together.
                    for reply in [false, true] {
                        self.index.prefetch(e.tuple(reply).hash(self.seed));
                    }
                    over[n] = id;
                    n += 1;
                }
            }
            for id in &over[..n] {
                done.expired += usize::from(self.expire(now, *id));
            }
            left = left.saturating_sub(n * COST_OF_ENDING);
        }
        done
    }

    /// How many entries [`Tracker::sweep`] goes through until it begins anew: all that were ever used.
    pub fn sweep_length(&self) -> usize {
        self.pool.touched()
    }

    /// The next entries of the walk over all that were ever used, at most so many.
    fn next_lot(&self, most: usize) -> Option<Range<usize>> {
        let touched = self.pool.touched();
        let mut lot = 0..0;
        let next = |at: usize| {
            let from = if at < touched { at } else { 0 };
            lot = from..touched.min(from + most);
            (!lot.is_empty()).then_some(lot.end)
        };
        self.sweep_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok()?;
        Some(lot)
    }

    fn expire(&self, now: Millis, id: u32) -> bool {
        let e = self.pool.entry(id);
        let m = e.meta().peek();
        if !m.is_live() || !e.is_expired(now) {
            return false;
        }
        let Some(g) = e.meta().lock(m) else { return false };
        if !e.is_expired(now) {
            return false; // A packet was faster.
        }
        g.kill();
        self.bury(id, Event::Expired);
        true
    }

    /// Make room for one connection, in the table or in a zone. Whether there is any.
    pub(crate) fn evict(&self, now: Millis, zone: Option<u16>) -> bool {
        let touched = self.pool.touched();
        let (given_up, victims) = match zone {
            None => (&self.no_victim, VICTIMS),
            Some(z) => {
                (&self.no_victim_in[usize::from(z) % self.no_victim_in.len()], VICTIMS_IN_ZONE)
            }
        };
        if touched == 0 || given_up.load(Ordering::Relaxed) > now.0 {
            return false;
        }
        // Twice, as the one that was chosen may be gone or answered by the time it is locked.
        for _ in 0..2 {
            let victims = victims.min(touched);
            let from = self.evict_at.fetch_add(victims, Ordering::Relaxed);
            let all = (from..from.wrapping_add(victims)).filter_map(|n| {
                let id = self.pool.nth_touched(n % touched)?;
                let e = self.pool.entry(id);
                let m = e.meta().peek();
                if !m.is_live() || zone.is_some_and(|z| e.zone() != z) {
                    return None;
                }
                Some((class(e, m, now)?, e.made(), id, m))
            });
            let Some((chosen, _, id, m)) = all.min_by_key(|v| (v.0, v.1)) else {
                given_up.store(now.plus(GIVE_UP_FOR).0, Ordering::Relaxed);
                return false;
            };
            let e = self.pool.entry(id);
            let Some(g) = e.meta().lock(m) else { continue };
            if class(e, g.snapshot(), now) != Some(chosen) {
                continue;
            }
            g.kill();
            self.bury(id, chosen.event());
            if zone.is_none() {
                let seen = (from..from.wrapping_add(victims)).map(|n| n % touched);
                self.evict_more(now, seen, chosen, (touched / SHARE_OF_ROOM).min(ROOM));
            }
            return true;
        }
        false
    }

    /// End up to so many other connections of a class among those that were looked at.
    fn evict_more(
        &self,
        now: Millis,
        seen: impl Iterator<Item = usize>,
        chosen: Class,
        mut left: usize,
    ) {
        for id in seen.filter_map(|n| self.pool.nth_touched(n)) {
            if left == 0 {
                return;
            }
            let e = self.pool.entry(id);
            let m = e.meta().peek();
            if m.is_live()
                && class(e, m, now) == Some(chosen)
                && let Some(g) = e.meta().lock(m)
                && class(e, g.snapshot(), now) == Some(chosen)
            {
                g.kill();
                self.bury(id, chosen.event());
                left -= 1;
            }
        }
    }
}
