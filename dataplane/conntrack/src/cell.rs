//! How is what an entry's lock guards read and changed in place?
//!
//! A [`Cell`] is the word of [`crate::meta`] with a value beside it that nobody touches without
//! the word's lock: who holds the [`Guard`] of this very word gets the value, for as long as it
//! holds it. So TCP's state is followed where it stands, neither loaded nor stored as a whole.
//!
//! Must not know: what the value means.
#![allow(unsafe_code)] // Lends a value under a lock.

use std::cell::UnsafeCell;
use std::ptr;

use crate::meta::{Guard, Meta};
use crate::sync::AtomicU64;

/// Words beside the lock's own that fill its cache line.
pub(crate) const LINE: usize = 7;

/// A cache line whose first word is a lock, and what it guards in the lines behind.
#[repr(C, align(64))]
pub(crate) struct Cell<T> {
    pub(crate) meta: Meta,
    /// Read and written by anybody, as [`crate::meta`] says.
    pub(crate) words: [AtomicU64; LINE],
    guarded: UnsafeCell<T>,
}

// SAFETY: `guarded` is reached through `guarded()` alone, which takes the guard of the cell's own
// lock, of which there is one at a time; the lock is taken with acquire and given back with
// release ordering.
unsafe impl<T: Send> Sync for Cell<T> {}

impl<T> Cell<T> {
    /// The guarded value.
    ///
    /// # Panics
    /// If the guard is of another cell's lock.
    #[inline(always)]
    pub(crate) fn guarded<'a>(&'a self, guard: &'a mut Guard<'_>) -> &'a mut T {
        assert!(ptr::eq(guard.meta(), &self.meta), "the lock of this very cell");
        // SAFETY: the guard proves that this thread holds the lock, and it is borrowed for as
        // long as the value is, so that there is no second reference.
        unsafe { &mut *self.guarded.get() }
    }

    /// The first bytes of the guarded value, to be brought near.
    #[inline(always)]
    pub(crate) fn prefetch_guarded(&self) {
        flow::cpu::prefetch(&self.guarded);
    }
}
