//! Where do the tables live?
//!
//! A [`Mapped`] is a fixed array that is all zero at first and takes memory only where it has
//! been written: address space for the limit is reserved at the start, pages come as entries are
//! used. Huge pages are asked for, as random access to millions of entries is bound by TLB misses
//! otherwise.
//!
//! Must not know: what the elements mean.
#![allow(unsafe_code)] // Maps memory, and prefetches.

use std::io;
use std::ops::Deref;
use std::ptr::NonNull;

use crate::bucket::Bucket;
use crate::entry::Entry;

/// Huge pages are of this size; arrays below it do without.
const HUGE: usize = 2 << 20;

/// Types for which all bytes zero is a value.
///
/// # Safety
/// The implementor may be shared, and all bytes zero is a value of it.
pub(crate) unsafe trait Zeroable: Sync {}
// SAFETY: atomic integers, and a TCP state of integers and an enumeration whose first value is 0.
unsafe impl Zeroable for Entry {}
// SAFETY: a bucket is made of atomic integers.
unsafe impl Zeroable for Bucket {}
// SAFETY: an atomic integer.
unsafe impl Zeroable for std::sync::atomic::AtomicU32 {}
// SAFETY: an atomic integer.
unsafe impl Zeroable for std::sync::atomic::AtomicU8 {}

/// A fixed array of zeroed elements in memory that is committed page by page.
pub(crate) struct Mapped<T: Zeroable> {
    base: NonNull<T>,
    len: usize,
    bytes: usize,
}

// SAFETY: the memory is owned by the value and T is Sync.
unsafe impl<T: Zeroable> Send for Mapped<T> {}
// SAFETY: only shared references to T, which is Sync, are handed out.
unsafe impl<T: Zeroable> Sync for Mapped<T> {}

impl<T: Zeroable> Mapped<T> {
    /// Reserve an array of `len` elements.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub(crate) fn new(len: usize) -> io::Result<Mapped<T>> {
        let too_big = || io::Error::from(io::ErrorKind::OutOfMemory);
        let size = size_of::<T>().checked_mul(len.max(1)).ok_or_else(too_big)?;
        let huge = size >= HUGE;
        let unit = if huge { HUGE } else { 4096 };
        let bytes = size.checked_next_multiple_of(unit).ok_or_else(too_big)?;
        let extra = if huge { HUGE } else { 0 };
        let all = bytes.checked_add(extra).ok_or_else(too_big)?;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let p = unsafe { libc::mmap(std::ptr::null_mut(), all, prot, flags, -1, 0) };
        if p == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = p as usize;
        let from = start.next_multiple_of(unit);
        // SAFETY: these are the ends of the mapping just made that are beyond the aligned part.
        unsafe {
            if from > start {
                libc::munmap(p, from - start);
            }
            if start + all > from + bytes {
                libc::munmap((from + bytes) as *mut _, start + all - from - bytes);
            }
            if huge {
                // Advice only: without huge pages it works too, slower.
                libc::madvise(from as *mut _, bytes, libc::MADV_HUGEPAGE);
            }
        }
        let base = NonNull::new(from as *mut T).ok_or_else(too_big)?;
        Ok(Mapped { base, len, bytes })
    }
}

impl<T: Zeroable> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `new` kept, and nobody borrows it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

impl<T: Zeroable> Deref for Mapped<T> {
    type Target = [T];
    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: `len` elements are mapped, page-aligned, and zero bytes are valid values of T.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}
