//! Which memory do frames live in, and which frames are free?
//!
//! One [`Region`] is a memfd mapped once, cut into chunks of [`CHUNK_SIZE`] bytes. Every AF_XDP
//! socket registers the same memory, so a frame crosses from one port to another by address.
//! Free frames are kept in one lock-free store, in batches; whoever works with frames keeps a
//! [`FramePool`] of its own and meets the store only when that runs empty or full.
//!
//! Invariants: a chunk's address is in exactly one place at any time (the store, a pool, a
//! [`Packet`], a socket's rings); only [`Frame`] values give access to a chunk's bytes, and a
//! `Frame` is neither `Clone` nor `Copy`. The mapping is released only when all frames are back
//! in the store; otherwise it stays mapped for the life of the process.
//!
//! Must not know: sockets, ports, packet formats.
#![allow(unsafe_code)] // Owns the mapping and hands out exclusive views of its chunks.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::packet::Packet;

/// Bytes in one chunk: headroom, data and tailroom together.
pub const CHUNK_SIZE: usize = 2048;
/// Where received data starts in a chunk (`XDP_PACKET_HEADROOM`), so the room for encapsulation.
pub const HEADROOM: usize = 256;
/// Bytes of packet data that one chunk holds behind its headroom.
pub const CHUNK_DATA: usize = CHUNK_SIZE - HEADROOM;

/// Frames move between a pool and the store in batches of this many.
const BATCH: usize = 64;

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

/// A batch of free chunks' addresses in the store.
struct FreeBatch {
    len: usize,
    chunks: [Option<NonNull<u8>>; BATCH],
}

// SAFETY: the addresses in a batch are owned by it alone (see Frame).
unsafe impl Send for FreeBatch {}

/// The memory of all frames, and the store of the free ones.
pub struct Region {
    memfd: File,
    base: NonNull<u8>,
    len: usize,
    huge: bool,
    store: ArrayQueue<FreeBatch>,
    /// Frames in the store, for the accounting.
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
        let chunks = len / CHUNK_SIZE;
        let store = ArrayQueue::new(chunks.div_ceil(BATCH) * 2 + 64);
        let region = Region { memfd, base, len, huge, store, stored: AtomicUsize::new(0) };
        for first in (0..chunks).step_by(BATCH) {
            let mut batch = FreeBatch { len: 0, chunks: [None; BATCH] };
            for i in first..(first + BATCH).min(chunks) {
                // SAFETY: i < chunks, so the offset stays inside the mapping.
                let chunk = unsafe { base.add(i * CHUNK_SIZE) };
                batch.chunks[batch.len] = Some(chunk);
                batch.len += 1;
            }
            region.put(batch);
        }
        Ok(region)
    }

    fn put(&self, batch: FreeBatch) {
        let n = batch.len;
        // Every pool holds back less than a batch, so the store has room for all batches there
        // can be as long as pools are fewer than its spare slots; past that, keep retrying: the
        // takers make room.
        let mut batch = batch;
        while let Err(b) = self.store.push(batch) {
            batch = b;
            std::thread::yield_now();
        }
        self.stored.fetch_add(n, Ordering::Relaxed);
    }

    fn take(&self) -> Option<FreeBatch> {
        let b = self.store.pop()?;
        self.stored.fetch_sub(b.len, Ordering::Relaxed);
        Some(b)
    }

    /// Number of chunks in the region.
    pub fn chunks(&self) -> usize {
        self.len / CHUNK_SIZE
    }

    /// Free frames in the shared store (pools hold more).
    pub fn stored(&self) -> usize {
        self.stored.load(Ordering::Relaxed)
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
        FramePool { region: self.clone(), free: Vec::with_capacity(4 * BATCH) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if *self.stored.get_mut() != self.chunks() {
            return; // Frames are still out: their bytes must stay mapped.
        }
        // SAFETY: this mapping was made in `map`, and no frame of it is left anywhere.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
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

/// One thread's stack of free frames.
///
/// Holds at most four batches; dropped, it gives all of them back to the store.
#[derive(Debug)]
pub struct FramePool {
    region: Arc<Region>,
    free: Vec<Frame>,
}

impl FramePool {
    /// The region that the frames belong to.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// A free frame, or `None` if there is none left in this pool or the store.
    #[inline]
    pub fn alloc(&mut self) -> Option<Frame> {
        if self.free.is_empty() {
            self.refill();
        }
        self.free.pop()
    }

    #[cold]
    fn refill(&mut self) {
        if let Some(batch) = self.region.take() {
            for chunk in batch.chunks.into_iter().take(batch.len).flatten() {
                // SAFETY: the store owned the chunk and has just given it up.
                self.free.push(unsafe { Frame::from_raw(chunk) });
            }
        }
    }

    /// Give a frame back.
    #[inline]
    pub fn free(&mut self, frame: Frame) {
        self.free.push(frame);
        if self.free.len() >= 4 * BATCH {
            self.spill(2 * BATCH);
        }
    }

    /// Give all buffers of a packet back.
    #[inline]
    pub fn free_packet(&mut self, packet: Packet) {
        let (first, mut rest) = packet.into_parts();
        self.free(first.frame);
        while let Some((buffer, next)) = rest.split_first() {
            self.free(buffer.frame);
            rest = next;
        }
    }

    /// A new packet of `bytes`, copied in behind the usual headroom, over as many buffers as
    /// needed; `None` if frames run out (nothing is kept then).
    #[inline]
    pub fn packet_from(&mut self, bytes: &[u8]) -> Option<Packet> {
        let mut packet = Packet::new(self.alloc()?, HEADROOM, 0);
        let first = bytes.len().min(CHUNK_DATA);
        packet.extend_first(&bytes[..first]);
        if first < bytes.len() && packet.append_bytes(&bytes[first..], self).is_err() {
            self.free_packet(packet);
            return None;
        }
        Some(packet)
    }

    /// Free frames that this pool holds now.
    pub fn len(&self) -> usize {
        self.free.len()
    }

    /// Whether this pool holds no frame (the store may).
    pub fn is_empty(&self) -> bool {
        self.free.is_empty()
    }

    #[cold]
    fn spill(&mut self, mut n: usize) {
        while n > 0 {
            let mut batch = FreeBatch { len: 0, chunks: [None; BATCH] };
            while batch.len < BATCH && n > 0 {
                let Some(frame) = self.free.pop() else { break };
                batch.chunks[batch.len] = Some(frame.into_raw());
                batch.len += 1;
                n -= 1;
            }
            if batch.len == 0 {
                return;
            }
            self.region.put(batch);
        }
    }
}

impl Drop for FramePool {
    fn drop(&mut self) {
        self.spill(self.free.len());
    }
}
