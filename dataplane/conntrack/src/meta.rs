//! Who may change a connection, and how does a reader know that it saw one state of it?
//!
//! The first word of every entry: a lock bit, the phase of its life, status bits, a version that
//! changes with the data behind it, and a generation that changes with the connection that lives
//! there. The two tuples of a connection never change within a generation, so a reader that
//! compared tuples needs only to see the same generation again.
//!
//! Rules: the word changes only by compare-and-swap from an unlocked value, or by the holder of
//! the lock. Who changes mark, label or the timeout policy changes the version. Readers without
//! the lock take a [`Meta::read`] before and check it with [`Meta::unchanged`] after.
//!
//! The lock is held for some tens of nanoseconds, by the worker that has a packet of this very
//! connection.
//!
//! Must not know: what the other words mean.

use crate::sync::{AtomicU64, Ordering, fence, spin_loop, yield_now};

/// Bits of the word.
pub(crate) mod bit {
    pub(crate) const LOCK: u64 = 1;
    /// Two bits: one of the phases.
    pub(crate) const PHASE: u64 = 3 << 1;
    /// On the free list, or never used.
    pub(crate) const FREE: u64 = 0;
    /// Being made or being taken apart: its tuples are taken, but it answers no lookup.
    pub(crate) const RESERVED: u64 = 1 << 1;
    /// A connection.
    pub(crate) const LIVE: u64 = 2 << 1;
    /// Four bits: the protocol's state.
    pub(crate) const STATE_SHIFT: u32 = 3;
    pub(crate) const STATE: u64 = 0xf << STATE_SHIFT;
    /// A packet in reply direction was seen.
    pub(crate) const SEEN_REPLY: u64 = 1 << 7;
    /// Worth keeping: handshake done, or a stream.
    pub(crate) const ASSURED: u64 = 1 << 8;
    /// The original direction's source is translated.
    pub(crate) const SNAT: u64 = 1 << 9;
    /// The original direction's destination is translated.
    pub(crate) const DNAT: u64 = 1 << 10;
    /// The label is not zero.
    pub(crate) const LABEL: u64 = 1 << 11;
    /// More than one packet was seen in original direction.
    pub(crate) const SEEN_MORE: u64 = 1 << 12;
    /// Both tuples are the same, and only the original one is in the index.
    pub(crate) const SELF: u64 = 1 << 13;
    /// Eight bits: the timeout policy.
    pub(crate) const POLICY_SHIFT: u32 = 16;
    /// Sixteen bits, changed with the data.
    pub(crate) const VERSION_ONE: u64 = 1 << 24;
    pub(crate) const VERSION: u64 = 0xffff << 24;
    /// Twenty-four bits, changed with the connection.
    pub(crate) const GENERATION_SHIFT: u32 = 40;
    pub(crate) const GENERATION: u64 = 0xff_ffff << GENERATION_SHIFT;
}

/// The sides of a packet, as bits.
pub(crate) mod side {
    pub(crate) const SRC: u8 = 1;
    pub(crate) const DST: u8 = 2;
}

/// A word as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot(pub(crate) u64);

impl Snapshot {
    #[inline(always)]
    pub(crate) fn is_live(self) -> bool {
        self.0 & bit::PHASE == bit::LIVE
    }
    #[inline(always)]
    pub(crate) fn has(self, bits: u64) -> bool {
        self.0 & bits != 0
    }
    #[inline(always)]
    pub(crate) fn generation(self) -> u32 {
        (self.0 >> bit::GENERATION_SHIFT) as u32
    }
    #[inline(always)]
    pub(crate) fn state(self) -> u8 {
        ((self.0 & bit::STATE) >> bit::STATE_SHIFT) as u8
    }
    #[inline(always)]
    pub(crate) fn policy(self) -> u8 {
        (self.0 >> bit::POLICY_SHIFT) as u8
    }
    /// Which sides of a packet are translated: [`side::SRC`], [`side::DST`], or both.
    #[inline(always)]
    pub(crate) fn translated(self, reply: bool) -> u8 {
        // The answer's destination is the original source.
        const SWAPPED: [u8; 4] = [0, side::DST, side::SRC, side::SRC | side::DST];
        let what = (self.0 / bit::SNAT) as u8 & (side::SRC | side::DST);
        if reply { SWAPPED[usize::from(what)] } else { what }
    }
    /// What a reserved entry becomes, with these status bits.
    pub(crate) fn live(self, status: u64) -> Snapshot {
        Snapshot(self.0 & !bit::PHASE | bit::LIVE | status)
    }
    /// The same connection, whatever has happened to it.
    #[inline(always)]
    pub(crate) fn same_connection(self, other: Snapshot) -> bool {
        (self.0 ^ other.0) & (bit::GENERATION | bit::PHASE) == 0
    }
}

/// The first word of an entry.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Meta(pub(crate) AtomicU64);

impl Meta {
    /// The word as it is now, locked or not.
    #[inline(always)]
    pub(crate) fn peek(&self) -> Snapshot {
        Snapshot(self.0.load(Ordering::Acquire))
    }

    /// The word at a moment when nobody holds the lock.
    #[inline(always)]
    pub(crate) fn read(&self) -> Snapshot {
        let m = self.peek();
        if !m.has(bit::LOCK) { m } else { self.read_slow() }
    }

    #[cold]
    fn read_slow(&self) -> Snapshot {
        let mut spins = 0;
        loop {
            let m = self.peek();
            if !m.has(bit::LOCK) {
                return m;
            }
            wait(&mut spins);
        }
    }

    /// Whether what was read since `before` belongs together and to the same connection.
    #[inline(always)]
    pub(crate) fn unchanged(&self, before: Snapshot) -> bool {
        fence(Ordering::Acquire);
        let now = self.0.load(Ordering::Relaxed);
        (now ^ before.0) & (bit::GENERATION | bit::VERSION | bit::PHASE | bit::LOCK) == 0
    }

    /// Lock the entry if it still is the connection that `seen` was.
    #[inline(always)]
    pub(crate) fn lock(&self, seen: Snapshot) -> Option<Guard<'_>> {
        let mut spins = 0;
        loop {
            let m = self.0.load(Ordering::Relaxed);
            if !Snapshot(m).same_connection(seen) {
                return None;
            }
            if m & bit::LOCK == 0
                && self
                    .0
                    .compare_exchange_weak(m, m | bit::LOCK, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
            {
                return Some(Guard { meta: self, word: m });
            }
            if m & bit::LOCK != 0 {
                wait(&mut spins);
            }
        }
    }

    /// Make a free entry a reserved one of a new generation. The caller has it from the free
    /// list, so nobody else changes the word.
    pub(crate) fn reserve(&self) -> Snapshot {
        let old = self.0.load(Ordering::Relaxed);
        debug_assert_eq!(old & bit::PHASE, bit::FREE);
        let generation = (old & bit::GENERATION).wrapping_add(1 << bit::GENERATION_SHIFT);
        let m = generation | old & bit::VERSION | bit::RESERVED;
        self.0.store(m, Ordering::Relaxed);
        // A reader that sees any word of the new connection sees the new generation.
        fence(Ordering::Release);
        Snapshot(m)
    }

    /// Make the reserved entry a live one.
    pub(crate) fn publish(&self, live: Snapshot) {
        self.0.store(live.0, Ordering::Release);
    }

    /// Make a reserved entry free; it must be in no index any more.
    pub(crate) fn release(&self) {
        let m = self.0.load(Ordering::Relaxed);
        self.0.store(m & (bit::GENERATION | bit::VERSION), Ordering::Release);
    }
}

/// The lock on an entry. `word` is what the word becomes when the lock is given back.
pub(crate) struct Guard<'a> {
    meta: &'a Meta,
    pub(crate) word: u64,
}

impl Guard<'_> {
    /// The word that is locked.
    #[inline(always)]
    pub(crate) fn meta(&self) -> &Meta {
        self.meta
    }
    #[inline(always)]
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot(self.word)
    }
    /// Must be called before mark, label or anything else that is read without the lock changes.
    pub(crate) fn will_change(&mut self) {
        let v = self.word.wrapping_add(bit::VERSION_ONE) & bit::VERSION;
        self.word = self.word & !bit::VERSION | v;
        fence(Ordering::Release);
    }
    #[inline(always)]
    pub(crate) fn set_state(&mut self, state: u8) {
        self.word = self.word & !bit::STATE | u64::from(state & 0xf) << bit::STATE_SHIFT;
    }
    /// Take the connection out of life; who does this takes it out of the index and frees it.
    pub(crate) fn kill(mut self) {
        self.word = self.word & !bit::PHASE | bit::RESERVED;
    }
}

impl Drop for Guard<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.meta.0.store(self.word, Ordering::Release);
    }
}

/// Wait a moment for a lock; its holder may have been taken off its processor.
#[cold]
pub(crate) fn wait(spins: &mut u32) {
    *spins += 1;
    if spins.is_multiple_of(64) { yield_now() } else { spin_loop() }
}
