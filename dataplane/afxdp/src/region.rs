//! Which memory do frames live in, and which frames are free?
//!
//! One [`Region`] is a memfd mapped once, cut into chunks of [`CHUNK_SIZE`] bytes. Every AF_XDP
//! socket registers the same memory, so a frame crosses from one port to another by address.
//! Free frames are kept in one lock-free store, in whole batches; whoever works with frames keeps
//! a [`FramePool`] of its own and meets the store only when that runs empty or full. What a dropped
//! pool leaves over is less than a batch and waits behind a lock, which is taken only for that and
//! when the store has nothing else.
//!
//! Invariants: a chunk's address is in exactly one place at any time (the store, a pool, a
//! `Packet`, a socket's rings); only [`Frame`] values give access to a chunk's bytes, and a
//! `Frame` is neither `Clone` nor `Copy`. The mapping is released only when all frames are back
//! in the store; otherwise it stays mapped for the life of the process.
//!
//! Must not know: sockets, ports, packet formats.
#![allow(unsafe_code)] // Owns the mapping and hands out exclusive views of its chunks.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam::queue::ArrayQueue;

use crate::pool::FramePool;

/// Bytes in one chunk: headroom, data and tailroom together.
pub const CHUNK_SIZE: usize = 2048;
/// Where received data starts in a chunk (`XDP_PACKET_HEADROOM`), so the room for encapsulation.
pub const HEADROOM: usize = 256;
/// Bytes of packet data that one chunk holds behind its headroom.
pub const CHUNK_DATA: usize = CHUNK_SIZE - HEADROOM;

/// Frames move between a pool and the store in batches of this many.
pub(crate) const BATCH: usize = 64;

/// One chunk of the region, owned by whoever holds this value.
///
/// There is no `Drop`: a frame goes back by [`FramePool::free`]. A debug build counts frames that
/// were dropped instead ([`leaked_frames`]).
#[derive(Debug)]
pub struct Frame {
    base: NonNull<u8>,
}

// SAFETY: a Frame is the only way to its chunk's bytes, so moving it to another thread moves the
// exclusive access with it.
unsafe impl Send for Frame {}

#[cfg(debug_assertions)]
static LEAKED: AtomicUsize = AtomicUsize::new(0);

#[cfg(debug_assertions)]
impl Drop for Frame {
    fn drop(&mut self) {
        LEAKED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Frames that were dropped and not given back since the process started. Always 0 in release
/// builds, which do not count.
pub fn leaked_frames() -> usize {
    #[cfg(debug_assertions)]
    return LEAKED.load(Ordering::Relaxed);
    #[cfg(not(debug_assertions))]
    0
}

impl Frame {
    /// The chunk's first byte.
    #[inline]
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Give up the value, keep the address: the chunk now belongs to the place the address is
    /// written to.
    #[inline]
    pub(crate) fn into_raw(self) -> NonNull<u8> {
        let base = self.base;
        std::mem::forget(self);
        base
    }

    /// Take ownership of a chunk by its address.
    ///
    /// # Safety
    /// `base` is the first byte of a chunk of a live region, and no other place holds it.
    #[inline]
    pub(crate) unsafe fn from_raw(base: NonNull<u8>) -> Frame {
        Frame { base }
    }
}

/// A whole batch of free chunks in the store, by their numbers.
pub(crate) type Batch = [u32; BATCH];

/// The memory of all frames, and the store of the free ones.
pub struct Region {
    memfd: File,
    base: NonNull<u8>,
    len: usize,
    huge: bool,
    /// Free frames in whole batches. A batch holds [`BATCH`] frames that are nowhere else, so there
    /// are never more of them than `chunks / BATCH`, and a push never finds the queue full.
    store: ArrayQueue<Batch>,
    /// Free frames that do not make a batch, and how many (read without the lock).
    loose: Mutex<Vec<u32>>,
    loose_len: AtomicUsize,
    /// Free frames in both, for the accounting.
    stored: AtomicUsize,
}

// SAFETY: the raw base pointer is only used to derive chunk addresses; the bytes behind it are
// reached through Frame values alone, and the store is a concurrent queue.
unsafe impl Send for Region {}
// SAFETY: as for Send.
unsafe impl Sync for Region {}

impl Region {
    /// Make a region of `bytes`, rounded up to whole huge pages (2 MiB). Huge pages are used if
    /// the system has enough of them free; [`Region::is_huge`] says which it became.
    ///
    /// # Errors
    /// What `memfd_create(2)`, `ftruncate(2)` or `mmap(2)` answered.
    pub fn new(bytes: usize) -> io::Result<Arc<Region>> {
        const HUGE: usize = 2 << 20;
        let len = bytes.max(1).checked_next_multiple_of(HUGE).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "frame region size overflows")
        })?;
        match Self::map(len, true) {
            Ok(r) => Ok(Arc::new(r)),
            Err(_) => Self::map(len, false).map(Arc::new),
        }
    }

    #[cfg(not(miri))]
    fn map(len: usize, huge: bool) -> io::Result<Region> {
        let flags = libc::MFD_CLOEXEC | if huge { libc::MFD_HUGETLB } else { 0 };
        // SAFETY: a valid NUL-terminated name; the result is checked.
        let fd = unsafe { libc::memfd_create(c"vswitch-frames".as_ptr(), flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: fd was just opened and belongs to nobody else.
        let memfd = unsafe { File::from_raw_fd(fd) };
        memfd.set_len(len as u64)?;
        let populate = if huge { libc::MAP_POPULATE } else { 0 };
        // SAFETY: a fresh shared mapping of a file of that length, at an address the kernel picks.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | populate,
                fd,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast::<u8>()).ok_or_else(io::Error::last_os_error)?;
        if !huge {
            // Transparent huge pages, where the system gives them to shared memory; no matter else.
            // SAFETY: the mapping just made.
            unsafe { libc::madvise(base.as_ptr().cast(), len, libc::MADV_HUGEPAGE) };
        }
        Region::over(memfd, base, len, huge)
    }

    /// Memory of the allocator instead: Miri knows no memfd.
    #[cfg(miri)]
    fn map(len: usize, _huge: bool) -> io::Result<Region> {
        // SAFETY: the size is not zero.
        let base = unsafe { std::alloc::alloc_zeroed(Self::layout(len)) };
        let base = NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)?;
        Region::over(File::open("/dev/null")?, base, len, false)
    }

    #[cfg(miri)]
    fn layout(len: usize) -> std::alloc::Layout {
        std::alloc::Layout::from_size_align(len, CHUNK_SIZE).expect("a size that fits")
    }

    /// A region over that memory, all of it free.
    fn over(memfd: File, base: NonNull<u8>, len: usize, huge: bool) -> io::Result<Region> {
        let chunks = u32::try_from(len / CHUNK_SIZE).map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, "frame region has too many frames")
        })?;
        let region = Region {
            memfd,
            base,
            len,
            huge,
            // Twice the batches there are: who is stopped while it takes one holds up nobody.
            store: ArrayQueue::new((2 * chunks as usize / BATCH).max(2)),
            loose: Mutex::new(Vec::with_capacity(2 * BATCH)),
            loose_len: AtomicUsize::new(0),
            stored: AtomicUsize::new(0),
        };
        for first in (0..chunks).step_by(BATCH) {
            let all: Vec<u32> = (first..chunks.min(first + BATCH as u32)).collect();
            region.put(&all);
        }
        Ok(region)
    }

    /// Take free frames in, at most a batch.
    pub(crate) fn put(&self, chunks: &[u32]) {
        if let Ok(batch) = Batch::try_from(chunks) {
            self.put_batch(batch);
        } else {
            self.put_loose(chunks);
        }
        self.stored.fetch_add(chunks.len(), Ordering::Release);
    }

    fn put_batch(&self, mut batch: Batch) {
        // By the invariant of `store` this is never full; another thread in the middle of its turn
        // can make it look so for a moment.
        while let Err(again) = self.store.push(batch) {
            batch = again;
            std::hint::spin_loop();
        }
    }

    #[cold]
    fn put_loose(&self, chunks: &[u32]) {
        let mut loose = self.loose.lock().unwrap_or_else(PoisonError::into_inner);
        loose.extend_from_slice(chunks);
        if let Some((rest, batch)) = loose.split_last_chunk::<BATCH>() {
            let (left, batch) = (rest.len(), *batch);
            loose.truncate(left);
            self.put_batch(batch);
        }
        self.loose_len.store(loose.len(), Ordering::Release);
    }

    /// Hand out free frames, at most a batch; returns how many.
    pub(crate) fn take(&self, mut to: impl FnMut(Frame)) -> usize {
        let mut hand_out = |chunks: &[u32]| {
            self.stored.fetch_sub(chunks.len(), Ordering::Relaxed);
            for number in chunks {
                let base = self.chunk(*number);
                // SAFETY: the store owned the chunk and has just given it up.
                to(unsafe { Frame::from_raw(base) });
            }
            chunks.len()
        };
        if let Some(batch) = self.store.pop() {
            return hand_out(&batch);
        }
        if self.loose_len.load(Ordering::Acquire) == 0 {
            return 0;
        }
        let mut loose = self.loose.lock().unwrap_or_else(PoisonError::into_inner);
        let n = hand_out(&loose);
        loose.clear();
        self.loose_len.store(0, Ordering::Release);
        n
    }

    /// The first byte of a chunk by its number.
    fn chunk(&self, number: u32) -> NonNull<u8> {
        let offset = number as usize * CHUNK_SIZE;
        debug_assert!(offset < self.len);
        // SAFETY: numbers are made from chunks of this region, so this is inside the mapping.
        unsafe { self.base.add(offset) }
    }

    /// The number of a chunk.
    pub(crate) fn number(&self, chunk: NonNull<u8>) -> u32 {
        (self.offset_of(chunk) / CHUNK_SIZE as u64) as u32
    }

    /// Number of chunks in the region.
    pub fn chunks(&self) -> usize {
        self.len / CHUNK_SIZE
    }

    /// Free frames in the shared store (pools hold more). Exact once all threads are still.
    pub fn stored(&self) -> usize {
        self.stored.load(Ordering::Acquire)
    }

    /// Bytes of the region.
    pub fn size(&self) -> usize {
        self.len
    }

    /// Whether the region sits on huge pages.
    pub fn is_huge(&self) -> bool {
        self.huge
    }

    /// The memfd behind the region.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }

    /// The first byte of the region, as `XDP_UMEM_REG` wants it.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The offset of a chunk in the region: what an AF_XDP descriptor calls its address.
    #[inline]
    pub(crate) fn offset_of(&self, chunk: NonNull<u8>) -> u64 {
        let off = chunk.as_ptr() as usize - self.base.as_ptr() as usize;
        debug_assert!(off < self.len);
        off as u64
    }

    /// The chunk that holds the byte at `offset`; `None` beyond the region.
    #[inline]
    pub(crate) fn chunk_at(&self, offset: u64) -> Option<NonNull<u8>> {
        if offset as usize >= self.len {
            return None;
        }
        // SAFETY: inside the mapping, as just checked.
        Some(unsafe { self.base.add(offset as usize & !(CHUNK_SIZE - 1)) })
    }

    /// A pool over this region's store, for one thread.
    pub fn pool(self: &Arc<Self>) -> FramePool {
        FramePool::new(self.clone())
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if *self.stored.get_mut() != self.chunks() {
            return; // Frames are still out: their bytes must stay mapped.
        }
        #[cfg(miri)]
        // SAFETY: allocated in `map` with that layout, and no frame of it is left anywhere.
        unsafe {
            std::alloc::dealloc(self.base.as_ptr(), Self::layout(self.len));
        }
        #[cfg(not(miri))]
        // SAFETY: this mapping was made in `map`, and no frame of it is left anywhere.
        unsafe {
            libc::munmap(self.base.as_ptr().cast(), self.len)
        };
    }
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Region")
            .field("fd", &self.memfd.as_raw_fd())
            .field("chunks", &self.chunks())
            .field("stored", &self.stored())
            .field("huge", &self.huge)
            .finish()
    }
}
