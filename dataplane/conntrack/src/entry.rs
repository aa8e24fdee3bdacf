//! Where is each fact of a connection kept?
//!
//! An entry is three cache lines, 192 bytes; with its two slots in the index a
//! connection takes 224. The first line has all that a translated IPv4 packet without window
//! tracking needs, the second is TCP's, the third has what is left of IPv6 addresses, and the
//! label.
//!
//! Who may write what, and when, is said in [`crate::meta`].
//!
//! Must not know: how a connection's state changes.

use crate::cell::Cell;
use crate::meta::{Guard, Meta, Snapshot, bit};
use crate::sync::{AtomicU64, Ordering};
use crate::tcp::Tcp;
use crate::tuple::Tuple;
use flow::cpu::prefetch;

// Words of the first line, behind the one of the lock.
const EXPIRES: usize = 0;
const PORTS: [usize; 2] = [1, 2];
/// IPv4: both addresses. IPv6: the source's high half.
const ADDRESS: [usize; 2] = [3, 4];
const MARK: usize = 5;
/// When the connection was made; in a free entry, the next free one.
const MADE: usize = 6;

// Words of the third line.
/// IPv6: the three other halves.
const MORE_ADDRESS: [usize; 2] = [0, 3];
const LABEL: usize = 6;

/// A time in milliseconds from a start that the caller chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Millis(pub u64);

impl Millis {
    /// This time and so many milliseconds.
    #[inline(always)]
    #[must_use]
    pub const fn plus(self, ms: u64) -> Millis {
        Millis(self.0.saturating_add(ms))
    }
}

/// Expiry times are kept in steps of this many milliseconds, rounded up, so that a busy
/// connection's cache line is written only when the step changes.
pub(crate) const STEP: u64 = 256;

/// One connection, or a free place for one.
#[repr(C, align(64))]
pub(crate) struct Entry {
    cell: Cell<Tcp>,
    more: [AtomicU64; 8],
}

#[inline(always)]
fn get(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

impl Entry {
    /// The word that says who may change the entry, and more.
    #[inline(always)]
    pub(crate) fn meta(&self) -> &Meta {
        &self.cell.meta
    }
    /// TCP's state; `guard` is that of [`Entry::meta`].
    #[inline(always)]
    pub(crate) fn tcp<'a>(&'a self, guard: &'a mut Guard<'_>) -> &'a mut Tcp {
        self.cell.guarded(guard)
    }

    #[inline(always)]
    fn get(&self, word: usize) -> u64 {
        get(&self.cell.words[word])
    }
    #[inline(always)]
    fn set(&self, word: usize, value: u64) {
        self.cell.words[word].store(value, Ordering::Relaxed);
    }
    #[inline(always)]
    fn more(&self, word: usize) -> u64 {
        get(&self.more[word])
    }
    #[inline(always)]
    fn set_more(&self, word: usize, value: u64) {
        self.more[word].store(value, Ordering::Relaxed);
    }

    /// Bring the lines near that a packet of this protocol and version needs.
    #[inline(always)]
    pub(crate) fn prefetch(&self, tcp: bool, v6: bool) {
        prefetch(self.meta());
        if tcp {
            self.cell.prefetch_guarded();
        }
        if v6 {
            prefetch(&self.more);
        }
    }

    /// The tuple of a direction.
    #[inline(always)]
    pub(crate) fn tuple(&self, reply: bool) -> Tuple {
        let d = usize::from(reply);
        let ports = self.get(PORTS[d]);
        let mut addresses = [self.get(ADDRESS[d]), 0, 0, 0];
        if ports as u8 == 6 {
            for i in 0..3 {
                addresses[i + 1] = self.more(MORE_ADDRESS[d] + i);
            }
        }
        Tuple { ports, addresses }
    }

    /// The IP protocol.
    pub(crate) fn proto(&self) -> u8 {
        (self.get(PORTS[0]) >> 8) as u8
    }
    /// The zone.
    pub(crate) fn zone(&self) -> u16 {
        (self.get(PORTS[0]) >> 16) as u16
    }

    /// Whether a direction's tuple is this one.
    #[inline(always)]
    pub(crate) fn tuple_is(&self, reply: bool, t: &Tuple) -> bool {
        let d = usize::from(reply);
        self.get(PORTS[d]) == t.ports
            && self.get(ADDRESS[d]) == t.addresses[0]
            && (!t.is_v6() || (0..3).all(|i| self.more(MORE_ADDRESS[d] + i) == t.addresses[i + 1]))
    }

    /// Write a direction's tuple; only into a reserved entry whose old tuple is in no index.
    pub(crate) fn set_tuple(&self, reply: bool, t: &Tuple) {
        let d = usize::from(reply);
        self.set(PORTS[d], t.ports);
        self.set(ADDRESS[d], t.addresses[0]);
        if t.is_v6() {
            for i in 0..3 {
                self.set_more(MORE_ADDRESS[d] + i, t.addresses[i + 1]);
            }
        }
    }

    #[inline(always)]
    pub(crate) fn expires(&self) -> Millis {
        Millis(self.get(EXPIRES))
    }
    #[inline(always)]
    pub(crate) fn is_expired(&self, now: Millis) -> bool {
        self.get(EXPIRES) <= now.0
    }
    /// Let the connection live until `at`, rounded up to the next [`STEP`].
    #[inline(always)]
    pub(crate) fn set_expires(&self, at: Millis) {
        let at = (at.0 | (STEP - 1)).saturating_add(1);
        if self.get(EXPIRES) != at {
            self.set(EXPIRES, at);
        }
    }

    #[inline(always)]
    pub(crate) fn made(&self) -> Millis {
        Millis(self.get(MADE))
    }
    pub(crate) fn set_made(&self, at: Millis) {
        self.set(MADE, at.0);
    }

    /// In a free entry: the number of the next free one and one more, 0 for none.
    pub(crate) fn next_free(&self) -> u32 {
        self.get(MADE) as u32
    }
    pub(crate) fn set_next_free(&self, next: u32) {
        self.set(MADE, u64::from(next));
    }

    #[inline(always)]
    pub(crate) fn mark(&self) -> u32 {
        self.get(MARK) as u32
    }
    pub(crate) fn set_mark(&self, mark: u32) {
        self.set(MARK, u64::from(mark));
    }

    #[inline(always)]
    pub(crate) fn label(&self, m: Snapshot) -> u128 {
        if !m.has(bit::LABEL) {
            return 0;
        }
        u128::from(self.more(LABEL)) << 64 | u128::from(self.more(LABEL + 1))
    }
    pub(crate) fn set_label(&self, label: u128) {
        self.set_more(LABEL, (label >> 64) as u64);
        self.set_more(LABEL + 1, label as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::Mapped;

    #[test]
    fn an_entry_and_its_slots_stay_under_256_bytes() {
        assert_eq!(size_of::<Entry>(), 192);
        assert!(size_of::<Tcp>() <= 64);
        assert_eq!(align_of::<Entry>(), 64);
        let slots = 2.0 / 0.57 * 64.0 / 7.0;
        assert!(size_of::<Entry>() as f64 + slots <= 256.0);
    }

    #[test]
    fn gives_back_what_was_put_in() {
        let m = Mapped::<Entry>::new(3).unwrap();
        let e = &m[1];
        let o = Tuple::v6(1, 6, u128::MAX - 1, 1 << 127 | 3, 4, 5);
        let r = Tuple::v6(1, 6, 77, 1 << 99, 5, 4);
        e.set_tuple(false, &o);
        e.set_tuple(true, &r);
        e.set_label(1 << 127 | 9);
        e.set_mark(0xdead_beef);
        assert_eq!((e.tuple(false), e.tuple(true)), (o, r));
        assert!(e.tuple_is(false, &o) && e.tuple_is(true, &r) && !e.tuple_is(false, &r));
        assert_eq!(e.label(Snapshot(bit::LABEL)), 1 << 127 | 9);
        assert_eq!(e.mark(), 0xdead_beef);
    }

    #[test]
    fn never_expires_early() {
        let m = Mapped::<Entry>::new(1).unwrap();
        for at in [0, 1, 255, 256, 257, 1_000_000] {
            m[0].set_expires(Millis(at));
            assert!(!m[0].is_expired(Millis(at)));
            assert!(m[0].is_expired(Millis(at + STEP)));
        }
    }
}
