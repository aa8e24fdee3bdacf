//! How many connections does each zone have, and how many may it have?
//!
//! Counts are changed by whoever makes or ends a connection, limits by control.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::mem::Mapped;

const ZONES: usize = 1 << 16;
/// As a zone's limit: the default one.
const DEFAULT: u32 = 0;
/// As the default limit: none.
const NO_LIMIT: u32 = u32::MAX;

/// Counts and limits of all zones.
pub(crate) struct Zones {
    counts: Mapped<AtomicU32>,
    /// A zone's limit and one more; [`DEFAULT`] if it has none of its own.
    limits: Mapped<AtomicU32>,
    default: AtomicU32,
}

impl Zones {
    pub(crate) fn new() -> io::Result<Zones> {
        Ok(Zones {
            counts: Mapped::new(ZONES)?,
            limits: Mapped::new(ZONES)?,
            default: AtomicU32::new(NO_LIMIT),
        })
    }

    pub(crate) fn count(&self, zone: u16) -> u32 {
        self.counts[usize::from(zone)].load(Ordering::Relaxed)
    }

    /// The limit in force for a zone; `None` if there is none.
    pub(crate) fn limit(&self, zone: u16) -> Option<u32> {
        let limit = match self.limits[usize::from(zone)].load(Ordering::Relaxed) {
            DEFAULT => self.default.load(Ordering::Relaxed),
            own => own - 1,
        };
        (limit != NO_LIMIT).then_some(limit)
    }

    /// A zone's own limit; `None` if the default holds.
    pub(crate) fn own_limit(&self, zone: u16) -> Option<u32> {
        self.limits[usize::from(zone)].load(Ordering::Relaxed).checked_sub(1)
    }

    /// Set a zone's own limit (at most 2^32 - 2), or let the default hold again.
    pub(crate) fn set_limit(&self, zone: u16, limit: Option<u32>) {
        let v = limit.map_or(DEFAULT, |l| l.min(NO_LIMIT - 1) + 1);
        self.limits[usize::from(zone)].store(v, Ordering::Relaxed);
    }

    /// The limit of zones that have none of their own.
    pub(crate) fn default_limit(&self) -> Option<u32> {
        let limit = self.default.load(Ordering::Relaxed);
        (limit != NO_LIMIT).then_some(limit)
    }

    pub(crate) fn set_default_limit(&self, limit: Option<u32>) {
        self.default.store(limit.map_or(NO_LIMIT, |l| l.min(NO_LIMIT - 1)), Ordering::Relaxed);
    }

    /// Count one more, if the limit allows.
    pub(crate) fn take(&self, zone: u16) -> bool {
        let count = &self.counts[usize::from(zone)];
        let before = count.fetch_add(1, Ordering::Relaxed);
        if self.limit(zone).is_some_and(|limit| before >= limit) {
            count.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        true
    }

    pub(crate) fn give(&self, zone: u16) {
        self.counts[usize::from(zone)].fetch_sub(1, Ordering::Relaxed);
    }

    /// Zones that have connections, with their numbers.
    pub(crate) fn in_use(&self) -> impl Iterator<Item = (u16, u32)> {
        (0..=u16::MAX).map(|z| (z, self.count(z))).filter(|(_, n)| *n != 0)
    }
}
