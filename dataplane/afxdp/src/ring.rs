//! How are entries exchanged with the kernel?
//!
//! One [`Ring`] is one of a socket's four rings: a power of two of entries in memory shared with
//! the kernel, a producer and a consumer index, and flags. This process produces into fill and TX
//! and consumes from RX and completion; the kernel is at the other end.
//!
//! A burst costs at most one acquire load (only if what was seen last time is not enough) and one
//! release store: the indexes are cached here.
//!
//! Invariants: only the entries between the two indexes belong to this side; the producer writes
//! entries before it publishes the index, the consumer reads them before it gives them back.
//! Indexes run over 2^32 and are compared by wrapping subtraction.
//!
//! Must not know: frames, sockets.
#![allow(unsafe_code)] // Memory shared with the kernel.

use std::io;
use std::mem::size_of;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::sys::{self, Mapping, Plain};

/// An entry of the RX and TX rings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Desc {
    /// Offset of the first byte in the socket's memory.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// `XDP_PKT_CONTD`, `XDP_TX_METADATA`.
    pub options: u32,
}

// SAFETY: integers without padding.
unsafe impl Plain for Desc {}
// SAFETY: an integer.
unsafe impl Plain for u64 {}

/// Which of the four rings: what the socket's options and the mapping call it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Rx,
    Tx,
    Fill,
    Completion,
}

/// One ring.
#[derive(Debug)]
pub(crate) struct Ring<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
    /// The kernel's index as last seen, and this side's own.
    theirs: u32,
    ours: u32,
    _mapping: Mapping,
}

// SAFETY: the pointers lead into the mapping, which moves along; the value is used by one thread.
unsafe impl<T: Plain> Send for Ring<T> {}

impl<T: Plain> Ring<T> {
    /// Make the ring with `size` entries on the socket and map it.
    pub(crate) fn new(fd: BorrowedFd<'_>, kind: Kind, size: u32) -> io::Result<Ring<T>> {
        let (option, page) = match kind {
            Kind::Rx => (libc::XDP_RX_RING, libc::XDP_PGOFF_RX_RING),
            Kind::Tx => (libc::XDP_TX_RING, libc::XDP_PGOFF_TX_RING),
            Kind::Fill => (libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_PGOFF_FILL_RING as i64),
            Kind::Completion => {
                (libc::XDP_UMEM_COMPLETION_RING, libc::XDP_UMEM_PGOFF_COMPLETION_RING as i64)
            }
        };
        sys::set(fd, option, &size)?;
        let offsets = sys::get(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, NO_OFFSETS)?;
        let at = match kind {
            Kind::Rx => offsets.rx,
            Kind::Tx => offsets.tx,
            Kind::Fill => offsets.fr,
            Kind::Completion => offsets.cr,
        };
        let len = at.desc as usize + size as usize * size_of::<T>();
        let mapping = Mapping::new(fd, len, page)?;
        let index = |offset: u64| -> io::Result<NonNull<AtomicU32>> {
            let fits = offset as usize + 4 <= mapping.len() && offset.is_multiple_of(4);
            if !fits {
                return Err(io::Error::from_raw_os_error(libc::EPROTO));
            }
            // SAFETY: inside the mapping and aligned, as just checked.
            Ok(unsafe { mapping.base().add(offset as usize) }.cast())
        };
        if !at.desc.is_multiple_of(size_of::<u64>() as u64) {
            return Err(io::Error::from_raw_os_error(libc::EPROTO));
        }
        let (producer, consumer, flags) =
            (index(at.producer)?, index(at.consumer)?, index(at.flags)?);
        // SAFETY: the mapping was made long enough for the entries.
        let entries = unsafe { mapping.base().add(at.desc as usize) }.cast();
        Ok(Ring { producer, consumer, flags, entries, size, theirs: 0, ours: 0, _mapping: mapping })
    }

    #[inline]
    fn index(&self, which: NonNull<AtomicU32>) -> &AtomicU32 {
        // SAFETY: points into the mapping, which lives as long as self; the kernel accesses it
        // atomically too.
        unsafe { which.as_ref() }
    }

    #[inline]
    fn slot(&self, at: u32) -> NonNull<T> {
        // SAFETY: masked by the ring's size, so one of its entries.
        unsafe { self.entries.add((at & (self.size - 1)) as usize) }
    }

    /// Whether the kernel asks to be woken for this ring.
    #[inline]
    pub(crate) fn needs_wakeup(&self) -> bool {
        self.index(self.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    /// Producer: entries that can be written now; looks at the kernel's index only if fewer than
    /// `want` are known to be free.
    #[inline]
    pub(crate) fn room(&mut self, want: u32) -> u32 {
        let free = self.size - self.ours.wrapping_sub(self.theirs);
        if free >= want {
            return free;
        }
        self.theirs = self.index(self.consumer).load(Ordering::Acquire);
        self.size - self.ours.wrapping_sub(self.theirs).min(self.size)
    }

    /// Producer: write the next entry. There must be room for it.
    #[inline]
    pub(crate) fn push(&mut self, entry: T) {
        debug_assert!(self.ours.wrapping_sub(self.theirs) < self.size);
        // SAFETY: the slot is inside the mapping and belongs to this side.
        unsafe { self.slot(self.ours).write(entry) };
        self.ours = self.ours.wrapping_add(1);
    }

    /// Producer: let the kernel see what was written.
    #[inline]
    pub(crate) fn publish(&mut self) {
        self.index(self.producer).store(self.ours, Ordering::Release);
    }

    /// Producer: entries that the kernel has not taken yet.
    #[inline]
    pub(crate) fn pending(&mut self) -> u32 {
        self.theirs = self.index(self.consumer).load(Ordering::Acquire);
        self.ours.wrapping_sub(self.theirs)
    }

    /// Consumer: entries that can be read now; looks at the kernel's index only if none is known.
    #[inline]
    pub(crate) fn ready(&mut self) -> u32 {
        let known = self.theirs.wrapping_sub(self.ours);
        if known > 0 {
            return known;
        }
        self.theirs = self.index(self.producer).load(Ordering::Acquire);
        self.theirs.wrapping_sub(self.ours).min(self.size)
    }

    /// Consumer: read the next entry. One must be ready.
    #[inline]
    pub(crate) fn pop(&mut self) -> T {
        debug_assert!(self.theirs != self.ours);
        // SAFETY: the slot is inside the mapping and the kernel has published it; any bytes
        // make a T.
        let entry = unsafe { self.slot(self.ours).read() };
        self.ours = self.ours.wrapping_add(1);
        entry
    }

    /// Consumer: give the entries that were read back to the kernel.
    #[inline]
    pub(crate) fn release(&mut self) {
        self.index(self.consumer).store(self.ours, Ordering::Release);
    }
}

const NO_OFFSET: libc::xdp_ring_offset =
    libc::xdp_ring_offset { producer: 0, consumer: 0, desc: 0, flags: 0 };
const NO_OFFSETS: libc::xdp_mmap_offsets =
    libc::xdp_mmap_offsets { rx: NO_OFFSET, tx: NO_OFFSET, fr: NO_OFFSET, cr: NO_OFFSET };
