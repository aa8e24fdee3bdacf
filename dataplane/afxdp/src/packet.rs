//! What is a packet while the switch holds it?
//!
//! A [`Packet`] owns a chain of one or more chunks and the offload state that belongs to the
//! bytes: an unfinished checksum and a segmentation request. It is 32 bytes, moved by value from
//! ring to ring. The common packet has one chunk and no offload state, and pays nothing for the
//! rest.
//!
//! Invariants: `head + len <= CHUNK_SIZE` in each buffer; `total` is the sum of all `len`; a
//! later buffer keeps its own link, head and length in the first 16 bytes of its chunk (its
//! headroom, which nothing else uses). A VLAN tag is always in the bytes: a port that receives
//! one beside the frame puts it back before it makes a `Packet`.
//!
//! Must not know: sockets, ports, protocols.
#![allow(unsafe_code)] // Turns owned chunks into byte slices.

use std::ptr::NonNull;

use crate::offload::{Checksum, Offload, Segmentation};
use crate::pool::FramePool;
use crate::region::{CHUNK_DATA, CHUNK_SIZE, Frame, HEADROOM};

/// The link in the head of every buffer but the first.
#[repr(C)]
#[derive(Clone, Copy)]
struct Link {
    next: Option<NonNull<u8>>,
    head: u16,
    len: u16,
}

/// There was no room in front of the data, or behind it, or no free frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// A packet: owned bytes in one or more chunks, with offload state.
#[derive(Debug)]
pub struct Packet {
    frame: Frame,
    next: Option<NonNull<u8>>,
    total: u32,
    head: u16,
    len: u16,
    offload: Offload,
}

const _: () = assert!(size_of::<Packet>() == 32);

// SAFETY: `next` is owned by the packet as `frame` is.
unsafe impl Send for Packet {}

/// One buffer taken off a packet: its frame, and where the bytes are in it.
#[derive(Debug)]
pub(crate) struct Buffer {
    pub frame: Frame,
    pub head: u16,
    pub len: u16,
}

/// The buffers behind a packet's first one, still owned.
#[derive(Debug)]
pub(crate) struct Rest(Option<NonNull<u8>>);

impl Rest {
    /// The next buffer and the rest behind it.
    #[inline]
    pub(crate) fn split_first(self) -> Option<(Buffer, Rest)> {
        let base = self.0?;
        // SAFETY: `base` is a chunk owned by this chain, whose link was written by `push_buffer`.
        let link = unsafe { base.cast::<Link>().read() };
        // SAFETY: the chain gives the chunk up here and holds it nowhere else.
        let frame = unsafe { Frame::from_raw(base) };
        Some((Buffer { frame, head: link.head, len: link.len }, Rest(link.next)))
    }
}

impl Packet {
    /// A packet of one buffer with the first `len` bytes of `block` behind the usual headroom.
    /// Copying a block of a known size costs less than copying `len` bytes.
    ///
    /// # Panics
    /// If `len` is larger than the block, or the block larger than [`CHUNK_DATA`].
    #[inline]
    pub fn from_block<const N: usize>(frame: Frame, block: &[u8; N], len: usize) -> Packet {
        assert!(N <= CHUNK_DATA && len <= N);
        // SAFETY: the block fits behind the headroom of the chunk, which is owned here; bytes have
        // no alignment.
        unsafe { frame.base().as_ptr().add(HEADROOM).cast::<[u8; N]>().write(*block) };
        Packet::new(frame, HEADROOM, len)
    }

    /// A packet of one buffer: `len` bytes at offset `head` of the frame's chunk.
    ///
    /// # Panics
    /// If the bytes do not fit into the chunk.
    #[inline]
    pub fn new(frame: Frame, head: usize, len: usize) -> Packet {
        assert!(head <= CHUNK_SIZE && len <= CHUNK_SIZE - head);
        Packet {
            frame,
            next: None,
            total: len as u32,
            head: head as u16,
            len: len as u16,
            offload: Offload::default(),
        }
    }

    /// Length of the whole packet in bytes.
    #[inline]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.total as usize
    }

    /// Whether the packet has more than one buffer.
    #[inline]
    pub fn is_chained(&self) -> bool {
        self.next.is_some()
    }

    /// The bytes of the first buffer: all of the packet unless [`Packet::is_chained`].
    #[inline]
    pub fn data(&self) -> &[u8] {
        // SAFETY: head + len <= CHUNK_SIZE, and the chunk is exclusively owned by self.
        unsafe {
            let p = self.frame.base().as_ptr().add(self.head as usize);
            std::slice::from_raw_parts(p, self.len as usize)
        }
    }

    /// The bytes of the first buffer, to change in place.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `data`, and self is borrowed mutably.
        unsafe {
            let p = self.frame.base().as_ptr().add(self.head as usize);
            std::slice::from_raw_parts_mut(p, self.len as usize)
        }
    }

    /// Offset of the first byte in its chunk: the room in front.
    #[inline]
    pub fn headroom(&self) -> usize {
        self.head as usize
    }

    /// Make room for `n` bytes in front and return them; their content is left from before.
    /// A partial checksum moves along.
    ///
    /// # Errors
    /// [`NoRoom`] if there are no `n` bytes in front.
    #[inline(always)]
    pub fn push_front(&mut self, n: usize) -> Result<&mut [u8], NoRoom> {
        if n > self.head as usize {
            return Err(NoRoom);
        }
        // What was in front and what was behind lie in one chunk, so that their sum is no more than that.
        self.head -= n as u16;
        self.len += n as u16;
        self.total += n as u32;
        self.offload.shift(n as i32);
        // SAFETY: the first `n` bytes of the data, which is as long at least, lie in the owned chunk.
        Ok(unsafe {
            let p = self.frame.base().as_ptr().add(self.head as usize);
            std::slice::from_raw_parts_mut(p, n)
        })
    }

    /// Put the last `n` bytes of `block` in front, and return all that was written: the whole block,
    /// since a copy of fixed size costs less. What is in front of the packet is not kept. A partial
    /// checksum moves along.
    ///
    /// # Errors
    /// [`NoRoom`] if there is no room in front for the whole block; the packet is unchanged.
    ///
    /// # Panics
    /// If `n` is more than the block has.
    #[inline(always)]
    pub fn push_front_block<const N: usize>(
        &mut self,
        block: &[u8; N],
        n: usize,
    ) -> Result<&mut [u8; N], NoRoom> {
        assert!(n <= N);
        let head = self.head as usize;
        if head < N {
            return Err(NoRoom);
        }
        self.push_front(n)?;
        // SAFETY: the `N` bytes in front of `head` lie inside the owned chunk, and there was no data in them
        // before; bytes have no alignment.
        Ok(unsafe {
            let to = self.frame.base().as_ptr().add(head - N).cast::<[u8; N]>();
            to.write(*block);
            &mut *to
        })
    }

    /// Take `n` bytes off the front; they must be in the first buffer.
    #[inline]
    pub fn pull_front(&mut self, n: usize) -> Result<(), NoRoom> {
        if n > self.len as usize {
            return Err(NoRoom);
        }
        self.head += n as u16;
        self.len -= n as u16;
        self.total -= n as u32;
        self.offload.shift(-(n as i32));
        Ok(())
    }

    /// Cut the packet to `len` bytes (nothing happens if it is not longer). Buffers that become
    /// empty go back to `pool`.
    #[inline(always)]
    pub fn truncate(&mut self, len: usize, pool: &mut FramePool) {
        if len < self.total as usize {
            self.cut(len, pool);
        }
    }

    fn cut(&mut self, len: usize, pool: &mut FramePool) {
        if len <= self.len as usize {
            self.len = len as u16;
            self.total = len as u32;
            free_chain(self.next.take(), pool);
            return;
        }
        let mut left = len - self.len as usize;
        let mut at = self.next;
        while let Some(base) = at {
            // SAFETY: `base` is a chunk of this chain; self is borrowed mutably.
            let link = unsafe { base.cast::<Link>().as_mut() };
            if left <= link.len as usize {
                link.len = left as u16;
                free_chain(link.next.take(), pool);
                break;
            }
            left -= link.len as usize;
            at = link.next;
        }
        self.total = len as u32;
    }

    /// Whether the bytes are what is to be sent: a complete checksum, and no request for segments.
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        self.offload.is_plain()
    }

    /// The unfinished or known state of the L4 checksum.
    #[inline]
    pub fn checksum(&self) -> Checksum {
        self.offload.checksum()
    }

    /// Set the state of the L4 checksum.
    #[inline]
    pub fn set_checksum(&mut self, checksum: Checksum) {
        self.offload.set_checksum(checksum);
    }

    /// The segmentation request.
    #[inline]
    pub fn segmentation(&self) -> Segmentation {
        self.offload.segmentation()
    }

    /// Set the segmentation request.
    #[inline]
    pub fn set_segmentation(&mut self, segmentation: Segmentation) {
        self.offload.set_segmentation(segmentation);
    }

    /// All buffers' bytes, in order.
    #[inline]
    pub fn buffers(&self) -> Buffers<'_> {
        Buffers { first: Some(self.data()), next: self.next, _of: std::marker::PhantomData }
    }

    /// Number of buffers.
    pub fn buffer_count(&self) -> usize {
        self.buffers().count()
    }

    /// Copy all bytes into `out`, as far as it reaches; returns how many.
    pub fn copy_to(&self, out: &mut [u8]) -> usize {
        let mut done = 0;
        for b in self.buffers() {
            let n = b.len().min(out.len() - done);
            out[done..done + n].copy_from_slice(&b[..n]);
            done += n;
        }
        done
    }

    /// All bytes as one vector; for the control side and tests.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut v = vec![0; self.len()];
        self.copy_to(&mut v);
        v
    }

    /// A second packet with the same bytes and state; `None` if frames run out.
    #[inline]
    pub fn duplicate(&self, pool: &mut FramePool) -> Option<Packet> {
        let frame = pool.alloc()?;
        // Keep the offset, so that the copy has the same room in front.
        let mut copy = Packet::new(frame, self.head as usize, 0);
        copy.extend_first(self.data());
        let mut at = self.next;
        while let Some(base) = at {
            // SAFETY: `base` is a chunk of this chain, owned by self, with its link written.
            let (bytes, next) = unsafe { chunk_bytes(base) };
            if copy.append_bytes(bytes, pool).is_err() {
                pool.free_packet(copy);
                return None;
            }
            at = next;
        }
        copy.offload = self.offload;
        Some(copy)
    }

    /// Append bytes to the first buffer, which must be the only one and have the room.
    #[inline]
    pub(crate) fn extend_first(&mut self, bytes: &[u8]) {
        let at = self.head as usize + self.len as usize;
        assert!(self.next.is_none() && bytes.len() <= CHUNK_SIZE - at);
        // SAFETY: the target lies inside the owned chunk, as asserted.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                self.frame.base().as_ptr().add(at),
                bytes.len(),
            );
        }
        self.len += bytes.len() as u16;
        self.total += bytes.len() as u32;
    }

    /// Append bytes at the end, in new buffers.
    ///
    /// # Errors
    /// [`NoRoom`] if frames run out; the packet then has as many of the bytes as fitted.
    pub fn append_bytes(&mut self, bytes: &[u8], pool: &mut FramePool) -> Result<(), NoRoom> {
        for piece in bytes.chunks(CHUNK_DATA) {
            let frame = pool.alloc().ok_or(NoRoom)?;
            // SAFETY: HEADROOM + piece.len() <= CHUNK_SIZE, and the frame is owned here.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    piece.as_ptr(),
                    frame.base().as_ptr().add(HEADROOM),
                    piece.len(),
                );
            }
            self.push_buffer(frame, HEADROOM, piece.len());
        }
        Ok(())
    }

    /// Chain one more buffer behind the last: `len` bytes at `head` of the frame's chunk.
    ///
    /// # Panics
    /// If the bytes do not fit, or `head` leaves no room for the link.
    pub fn push_buffer(&mut self, frame: Frame, head: usize, len: usize) {
        assert!(head >= size_of::<Link>() && head <= CHUNK_SIZE && len <= CHUNK_SIZE - head);
        let base = frame.into_raw();
        let link = Link { next: None, head: head as u16, len: len as u16 };
        // SAFETY: the chunk is owned and aligned to CHUNK_SIZE; its head is free for the link.
        unsafe { base.cast::<Link>().write(link) };
        let mut slot = &mut self.next;
        while let Some(at) = slot {
            // SAFETY: chunks of this chain are owned by self, which is borrowed mutably.
            slot = unsafe { &mut at.cast::<Link>().as_mut().next };
        }
        *slot = Some(base);
        self.total += len as u32;
    }

    /// Chain a buffer that the kernel filled.
    ///
    /// # Errors
    /// The frame, if `head` leaves no room for the link or there are `max` buffers already.
    pub(crate) fn push_received(
        &mut self,
        frame: Frame,
        head: usize,
        len: usize,
        max: usize,
    ) -> Result<(), Frame> {
        if head < size_of::<Link>() || self.buffer_count() >= max {
            return Err(frame);
        }
        self.push_buffer(frame, head, len);
        Ok(())
    }

    /// Take the packet apart: its first buffer and the rest of the chain.
    #[inline]
    pub(crate) fn into_parts(self) -> (Buffer, Rest) {
        (Buffer { frame: self.frame, head: self.head, len: self.len }, Rest(self.next))
    }

    /// Move the bytes of the only buffer back in its chunk so that `room` bytes are free in front.
    ///
    /// # Errors
    /// [`NoRoom`] if the packet is chained or the chunk is too short for that.
    #[cold]
    pub(crate) fn make_headroom(&mut self, room: usize) -> Result<(), NoRoom> {
        let (head, len) = (self.head as usize, self.len as usize);
        if head >= room {
            return Ok(());
        }
        if self.is_chained() || room + len > CHUNK_SIZE {
            return Err(NoRoom);
        }
        // SAFETY: both places lie inside the owned chunk, as just checked; `copy` lets them overlap.
        unsafe {
            let base = self.frame.base().as_ptr();
            std::ptr::copy(base.add(head), base.add(room), len);
        }
        self.head = room as u16;
        Ok(())
    }

    /// Write bytes directly in front of the data, without making them part of the packet.
    ///
    /// # Panics
    /// If there is not that much room in front.
    #[inline]
    pub(crate) fn write_before(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.head as usize);
        // SAFETY: the target lies inside the owned chunk, in front of the data, as asserted.
        unsafe {
            let to = self.frame.base().as_ptr().add(self.head as usize - bytes.len());
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }
}

/// The bytes of a chained chunk and the chunk behind it.
///
/// # Safety
/// `base` is a chunk of a chain that outlives `'a`, with its link written.
unsafe fn chunk_bytes<'a>(base: NonNull<u8>) -> (&'a [u8], Option<NonNull<u8>>) {
    // SAFETY: per this function's contract.
    unsafe {
        let link = base.cast::<Link>().read();
        let p = base.as_ptr().add(link.head as usize);
        (std::slice::from_raw_parts(p, link.len as usize), link.next)
    }
}

fn free_chain(next: Option<NonNull<u8>>, pool: &mut FramePool) {
    let mut rest = Rest(next);
    while let Some((buffer, behind)) = rest.split_first() {
        pool.free(buffer.frame);
        rest = behind;
    }
}

/// Iterator over a packet's buffers.
#[derive(Debug)]
pub struct Buffers<'a> {
    first: Option<&'a [u8]>,
    next: Option<NonNull<u8>>,
    _of: std::marker::PhantomData<&'a Packet>,
}

impl<'a> Iterator for Buffers<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        let base = self.next?;
        // SAFETY: the chain belongs to the packet borrowed for 'a.
        let (bytes, next) = unsafe { chunk_bytes(base) };
        self.next = next;
        Some(bytes)
    }
}
