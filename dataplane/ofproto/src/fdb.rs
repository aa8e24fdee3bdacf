//! Which addresses does a bridge remember, and which does it give up?
//!
//! The entries themselves are in the bridge's snapshot; this is the control side's account of
//! them: how many each port has and in which order they came, for ageing and for making room. A
//! full table gives up an address of the port that has most of them, preferring one that has not
//! been used since it was learned or last considered, so that a port that makes up addresses
//! pushes out its own.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::snapshot::{FdbEntry, OfPort, fdb_key};

/// Addresses that a table holds unless `other_config:mac-table-size` says otherwise.
pub const DEFAULT_SIZE: usize = 8192;
/// Milliseconds after which an unused address goes, unless `other_config:mac-aging-time` says
/// otherwise.
pub const DEFAULT_AGING: u64 = 300_000;
/// Entries considered for one eviction at most.
const TRIES: usize = 8;

/// The persistent map of a bridge's snapshot.
pub type FdbMap = imbl::HashMap<u64, Arc<FdbEntry>>;

/// What became of the addresses so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FdbStats {
    /// Addresses learned.
    pub learned: u64,
    /// Addresses that aged out.
    pub expired: u64,
    /// Addresses given up to make room.
    pub evicted: u64,
    /// Addresses that moved to another port.
    pub moved: u64,
}

#[derive(Default)]
struct PortShare {
    count: usize,
    /// (key, `used` when it was put here), oldest first; may name entries that are gone.
    order: VecDeque<(u64, u64)>,
}

/// The control side's account of one bridge's addresses.
#[derive(Default)]
pub struct Fdb {
    ports: HashMap<OfPort, PortShare>,
    /// What became of them.
    pub stats: FdbStats,
}

/// The (VLAN, address) pairs whose entry is different now.
pub type Touched = Vec<(u16, u64)>;

fn split(key: u64) -> (u16, u64) {
    ((key >> 48) as u16, key & 0xffff_ffff_ffff)
}

impl Fdb {
    /// Note that an address is on a port. Returns what changed: nothing if that was known.
    pub fn learn(
        &mut self,
        map: &mut FdbMap,
        (vlan, mac): (u16, u64),
        port: OfPort,
        limit: usize,
        now: u64,
    ) -> Touched {
        let key = fdb_key(vlan, mac);
        let mut touched = Vec::new();
        match map.get(&key) {
            Some(e) if e.port == port || e.is_static => {
                e.used.fetch_max(now, Ordering::Relaxed);
                return touched;
            }
            Some(e) => {
                let from = e.port;
                self.forget_one(from);
                self.stats.moved += 1;
            }
            None => {
                while map.len() >= limit.max(1) {
                    match self.evict(map) {
                        Some(gone) => touched.push(split(gone)),
                        None => return touched,
                    }
                }
                self.stats.learned += 1;
            }
        }
        self.insert(map, FdbEntry { port, vlan, mac, is_static: false, used: now.into() });
        touched.push((vlan, mac));
        touched
    }

    /// Put a configured address in, whatever was there.
    pub fn add_static(&mut self, map: &mut FdbMap, vlan: u16, mac: u64, port: OfPort) -> Touched {
        if let Some(old) = map.get(&fdb_key(vlan, mac)) {
            let from = old.port;
            self.forget_one(from);
        }
        self.insert(map, FdbEntry { port, vlan, mac, is_static: true, used: AtomicU64::new(0) });
        vec![(vlan, mac)]
    }

    fn insert(&mut self, map: &mut FdbMap, entry: FdbEntry) {
        let key = fdb_key(entry.vlan, entry.mac);
        let share = self.ports.entry(entry.port).or_default();
        share.count += 1;
        if !entry.is_static {
            if share.order.len() > 2 * share.count + 64 {
                let port = entry.port;
                share.order.retain(|(k, _)| map.get(k).is_some_and(|e| e.port == port));
            }
            share.order.push_back((key, entry.used.load(Ordering::Relaxed)));
        }
        map.insert(key, Arc::new(entry));
    }

    fn forget_one(&mut self, port: OfPort) {
        if let Some(share) = self.ports.get_mut(&port) {
            share.count = share.count.saturating_sub(1);
            if share.count == 0 {
                self.ports.remove(&port);
            }
        }
    }

    /// Give up one address of the port that has most; its key.
    fn evict(&mut self, map: &mut FdbMap) -> Option<u64> {
        let (&port, share) = self
            .ports
            .iter_mut()
            .filter(|(_, s)| !s.order.is_empty())
            .max_by_key(|(p, s)| (s.count, p.0))?;
        let mut tries = 0;
        while let Some((key, stamp)) = share.order.pop_front() {
            let Some(e) = map.get(&key).filter(|e| e.port == port && !e.is_static) else {
                continue;
            };
            let used = e.used.load(Ordering::Relaxed);
            tries += 1;
            if used > stamp && tries < TRIES {
                share.order.push_back((key, used));
                continue;
            }
            map.remove(&key);
            self.forget_one(port);
            self.stats.evicted += 1;
            return Some(key);
        }
        None
    }

    /// Remove what `which` chooses; what changed.
    pub fn remove_if(
        &mut self,
        map: &mut FdbMap,
        mut which: impl FnMut(&FdbEntry) -> bool,
    ) -> Touched {
        let gone: Vec<(u64, OfPort)> =
            map.iter().filter(|(_, e)| which(e)).map(|(k, e)| (*k, e.port)).collect();
        for (key, port) in &gone {
            map.remove(key);
            self.forget_one(*port);
        }
        gone.into_iter().map(|(key, _)| split(key)).collect()
    }

    /// Remove what has not been used for `aging` milliseconds; what changed.
    pub fn age(&mut self, map: &mut FdbMap, aging: u64, now: u64) -> Touched {
        let old = |e: &FdbEntry| {
            !e.is_static && e.used.load(Ordering::Relaxed).saturating_add(aging) < now
        };
        let touched = self.remove_if(map, old);
        self.stats.expired += touched.len() as u64;
        touched
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: OfPort = OfPort(1);
    const B: OfPort = OfPort(2);

    #[test]
    fn learning_what_is_known_changes_nothing() {
        let (mut fdb, mut map) = (Fdb::default(), FdbMap::new());
        assert_eq!(fdb.learn(&mut map, (5, 1), A, 10, 1), [(5, 1)]);
        assert_eq!(fdb.learn(&mut map, (5, 1), A, 10, 2), []);
        assert_eq!(fdb.learn(&mut map, (6, 1), A, 10, 2), [(6, 1)]);
        assert_eq!(fdb.learn(&mut map, (5, 1), B, 10, 3), [(5, 1)]);
        assert_eq!(map.get(&fdb_key(5, 1)).unwrap().port, B);
        assert_eq!(fdb.stats, FdbStats { learned: 2, moved: 1, ..Default::default() });
    }

    #[test]
    fn a_full_table_takes_from_the_port_that_has_most() {
        let (mut fdb, mut map) = (Fdb::default(), FdbMap::new());
        fdb.learn(&mut map, (0, 1000), B, 10, 1);
        for mac in 0..500 {
            fdb.learn(&mut map, (0, mac), A, 10, 2 + mac);
            assert!(map.len() <= 10);
        }
        assert_eq!(map.get(&fdb_key(0, 1000)).unwrap().port, B);
        assert!(map.contains_key(&fdb_key(0, 499)));
        assert_eq!(fdb.stats.evicted, 491);
    }

    #[test]
    fn unused_addresses_age_and_static_ones_do_not() {
        let (mut fdb, mut map) = (Fdb::default(), FdbMap::new());
        fdb.learn(&mut map, (0, 1), A, 10, 1);
        fdb.learn(&mut map, (0, 2), A, 10, 1);
        fdb.add_static(&mut map, 0, 3, A);
        map.get(&fdb_key(0, 2)).unwrap().used.store(900, Ordering::Relaxed);
        assert_eq!(fdb.age(&mut map, 300, 1000), [(0, 1)]);
        assert_eq!(map.len(), 2);
        assert_eq!(fdb.remove_if(&mut map, |e| e.port == A).len(), 2);
        assert!(map.is_empty());
    }
}
