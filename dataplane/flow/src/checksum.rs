//! What is the internet checksum of these bytes, and what does it become when a field changes?
//!
//! Sums are kept as the machine loads the words and turned to network order at the end (the sum
//! does not care: RFC 1071 section 2), so whole words are added with no swap per word. Values
//! given as numbers are in host order, checksums too.
//!
//! Changes follow RFC 1624, equation 3, so a checksum that was wrong stays wrong: an edit never
//! launders a damaged packet.
//!
//! Must not know: where in a packet a checksum is; [`crate::edit`] does.

use afxdp::{Checksum, Packet};

use crate::crc32c;
use crate::extract::ip_proto;

/// A ones' complement sum over bytes and numbers, not folded yet.
///
/// Bytes may come in pieces of any length, as from a chain of buffers; numbers are added as if
/// they stood at an even offset.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    acc: u64,
    odd: bool,
}

impl Sum {
    /// The sum of nothing.
    pub const fn new() -> Sum {
        Sum { acc: 0, odd: false }
    }

    /// The pseudo header of TCP and UDP over IPv4 (RFC 9293 section 3.1): addresses, protocol,
    /// and length of L4 header and data.
    #[inline]
    pub fn pseudo_v4(src: u32, dst: u32, proto: u8, length: u32) -> Sum {
        Sum::new().u32(src).u32(dst).u32(u32::from(proto)).u32(length)
    }

    /// The pseudo header of L4 protocols over IPv6 (RFC 8200 section 8.1).
    #[inline]
    pub fn pseudo_v6(src: u128, dst: u128, proto: u8, length: u32) -> Sum {
        Sum::new().u128(src).u128(dst).u32(u32::from(proto)).u32(length)
    }

    /// Add bytes behind those added before.
    #[inline]
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Sum {
        let piece = sum_words(bytes);
        // Bytes that start at an odd offset stand in the other half of each 16-bit word.
        let piece = if self.odd { u64::from(fold(piece).swap_bytes()) } else { piece };
        Sum { acc: add(self.acc, piece), odd: self.odd ^ (bytes.len() & 1 == 1) }
    }

    /// Add several pieces, as of a chain of buffers.
    #[must_use]
    pub fn pieces<'a>(self, pieces: impl IntoIterator<Item = &'a [u8]>) -> Sum {
        pieces.into_iter().fold(self, Sum::bytes)
    }

    /// Add a 16-bit number.
    #[inline]
    #[must_use]
    pub fn u16(self, v: u16) -> Sum {
        Sum { acc: add(self.acc, u64::from(v.to_be())), ..self }
    }

    /// Add a 32-bit number.
    #[inline]
    #[must_use]
    pub fn u32(self, v: u32) -> Sum {
        Sum { acc: add(self.acc, u64::from(v.to_be())), ..self }
    }

    /// Add a 64-bit number.
    #[inline]
    #[must_use]
    pub fn u64(self, v: u64) -> Sum {
        Sum { acc: add(self.acc, v.to_be()), ..self }
    }

    /// Add a 128-bit number.
    #[inline]
    #[must_use]
    pub fn u128(self, v: u128) -> Sum {
        self.u64((v >> 64) as u64).u64(v as u64)
    }

    /// The folded sum: what a partial checksum field holds. All bytes with their right checksum
    /// among them give 0xffff.
    #[inline]
    pub fn folded(self) -> u16 {
        u16::from_be(fold(self.acc))
    }

    /// The checksum: the folded sum's complement.
    #[inline]
    pub fn checksum(self) -> u16 {
        !self.folded()
    }

    /// The checksum as UDP sends it, where 0 means that there is none (RFC 768).
    #[inline]
    pub fn udp_checksum(self) -> u16 {
        nonzero(self.checksum())
    }
}

/// A UDP checksum that came out as 0 is sent as its equal 0xffff.
#[inline(always)]
pub const fn nonzero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// The checksum of bytes.
#[inline]
pub fn checksum(bytes: &[u8]) -> u16 {
    Sum::new().bytes(bytes).checksum()
}

/// What a checksum becomes when a 16-bit word of its data changes.
#[inline(always)]
#[must_use]
pub fn update16(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    !fold(u64::from(sum))
}

/// What a checksum becomes when 32 bits of its data, at an even offset, change.
#[inline(always)]
#[must_use]
pub fn update32(checksum: u16, old: u32, new: u32) -> u16 {
    !fold(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

/// What a checksum becomes when 64 bits of its data, at an even offset, change.
#[inline(always)]
#[must_use]
pub fn update64(checksum: u16, old: u64, new: u64) -> u16 {
    Change::of64(old, new).apply(checksum)
}

/// A change of data, at even offsets, that several checksums cover.
#[derive(Clone, Copy, Debug)]
pub struct Change(u64);

impl Change {
    /// 64 bits become others.
    #[inline(always)]
    pub fn of64(old: u64, new: u64) -> Change {
        Change(add(!old, new))
    }

    /// 32 bits more become others.
    #[inline(always)]
    #[must_use]
    pub fn and32(self, old: u32, new: u32) -> Change {
        Change(add(self.0, u64::from(!old) + u64::from(new)))
    }

    /// What a checksum over the data becomes.
    #[inline(always)]
    #[must_use]
    pub fn apply(self, checksum: u16) -> u16 {
        !fold(add(self.0, u64::from(!checksum)))
    }
}

/// What a checksum becomes when 128 bits of its data, at an even offset, change.
#[inline]
#[must_use]
pub fn update128(checksum: u16, old: u128, new: u128) -> u16 {
    let high = update64(checksum, (old >> 64) as u64, (new >> 64) as u64);
    update64(high, old as u64, new as u64)
}

/// Finish a [`Checksum::Partial`] in software: sum up from where it says, write the field, and
/// leave [`Checksum::Complete`] behind. As the kernel does, a result of 0 is written as 0xffff,
/// which is the same number and not "no checksum".
///
/// A request that points outside the first buffer cannot be fulfilled; it is dropped and the
/// bytes stay as they are. Returns whether a checksum was written.
#[inline]
pub fn finish_partial(packet: &mut Packet) -> bool {
    match packet.checksum() {
        Checksum::Partial { start, offset } => finish(packet, start, offset),
        _ => false,
    }
}

fn finish(packet: &mut Packet, start: u16, offset: u16) -> bool {
    packet.set_checksum(Checksum::Complete);
    let (start, field) = (usize::from(start), usize::from(start) + usize::from(offset));
    if field + 2 > packet.data().len() {
        return false;
    }
    let sum = sum_from(packet, start, packet.len() - start);
    packet.data_mut()[field..field + 2].copy_from_slice(&nonzero(sum.checksum()).to_be_bytes());
    true
}

/// The sum of `len` bytes of a packet from `start` on, over all its buffers; fewer if the packet
/// ends before.
#[inline]
pub fn sum_from(packet: &Packet, start: usize, len: usize) -> Sum {
    let data = packet.data();
    if start + len <= data.len() {
        return Sum::new().bytes(&data[start..start + len]);
    }
    Sum::new().pieces(slices(packet.buffers(), start, len))
}

/// Those parts of `buffers` that hold the `len` bytes from `start` on.
pub fn slices<'a>(
    buffers: impl Iterator<Item = &'a [u8]>,
    start: usize,
    len: usize,
) -> impl Iterator<Item = &'a [u8]> {
    let (mut skip, mut left) = (start, len);
    buffers.map(move |b| {
        let from = skip.min(b.len());
        skip -= from;
        let to = from + left.min(b.len() - from);
        left -= to - from;
        &b[from..to]
    })
}

/// Whether an L4 checksum is right; `None` for protocols that have none, or a UDP packet over
/// IPv4 that was sent without. `l4` gives the bytes from the L4 header to the end of IP's payload,
/// in pieces, the header whole in the first one; `pseudo` is the pseudo header's sum (unused for
/// ICMP and SCTP).
pub fn verify_l4<'a>(
    proto: u8,
    pseudo: Sum,
    l4: impl Iterator<Item = &'a [u8]> + Clone,
    v6: bool,
) -> Option<bool> {
    let head = l4.clone().next().unwrap_or_default();
    match proto {
        ip_proto::UDP if head.get(6..8)? == [0, 0] => v6.then_some(false),
        ip_proto::TCP | ip_proto::UDP | ip_proto::ICMPV6 => {
            Some(pseudo.pieces(l4).folded() == 0xffff)
        }
        ip_proto::ICMP | ip_proto::IGMP => Some(Sum::new().pieces(l4).folded() == 0xffff),
        ip_proto::SCTP => {
            let stored = u32::from_le_bytes(head.get(8..12)?.try_into().ok()?);
            Some(crc32c::of_sctp(l4) == stored)
        }
        _ => None,
    }
}

/// Add with the carry brought around.
#[inline(always)]
fn add(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u64::from(carry)
}

/// Fold to 16 bits, bringing carries around. Only 0 gives 0.
#[inline(always)]
fn fold(acc: u64) -> u16 {
    // The upper half of a number and itself with the halves exchanged is their sum, and the carry
    // of the lower halves: the same sum.
    let s = (acc.wrapping_add(acc.rotate_left(32)) >> 32) as u32;
    (s.wrapping_add(s.rotate_left(16)) >> 16) as u16
}

/// Sum of the 16-bit words as the machine loads them, a last odd byte padded with a zero behind.
#[inline]
fn sum_words(bytes: &[u8]) -> u64 {
    let mut acc = 0u64;
    let mut blocks = bytes.chunks_exact(32);
    for block in &mut blocks {
        // 32-bit words into 64-bit lanes: no carry to lose for 2^32 words, and the compiler
        // does several lanes at once.
        for w in block.as_chunks::<4>().0 {
            acc += u64::from(u32::from_ne_bytes(*w));
        }
    }
    let mut tail = blocks.remainder();
    while let Some((word, rest)) = tail.split_first_chunk() {
        acc = add(acc, u64::from_ne_bytes(*word));
        tail = rest;
    }
    if tail.is_empty() { acc } else { add(acc, last_words(bytes, tail)) }
}

/// The last up to seven bytes, zeros behind.
#[inline(always)]
fn last_words(bytes: &[u8], tail: &[u8]) -> u64 {
    if let Some(last) = bytes.last_chunk::<8>() {
        // The bytes in front of the tail are shifted out.
        let kept = u64::from_le_bytes(*last) >> (64 - 8 * tail.len() as u32);
        return u64::from_ne_bytes(kept.to_le_bytes());
    }
    let mut padded = [0; 8];
    for (p, b) in padded.iter_mut().zip(tail) {
        *p = *b;
    }
    u64::from_ne_bytes(padded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071, word by word in network order.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u64;
        for pair in bytes.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        while sum >> 16 != 0 {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        !(sum as u16)
    }

    #[test]
    fn rfc_1071_example() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn rfc_1624_example() {
        // Section 4: the equation of RFC 1141 gives 0xffff here, the right one 0.
        assert_eq!(update16(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    proptest! {
        #[test]
        fn sums_as_the_naive_one(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(checksum(&bytes), naive(&bytes));
        }

        #[test]
        fn pieces_of_any_length_sum_as_the_whole(
            bytes in prop::collection::vec(any::<u8>(), 0..500),
            cuts in prop::collection::vec(0usize..500, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort();
            let pieces = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]);
            prop_assert_eq!(Sum::new().pieces(pieces).checksum(), naive(&bytes));
        }

        #[test]
        fn slices_cut_what_was_asked(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            size in 1usize..50, start in 0usize..220, len in 0usize..220,
        ) {
            let cut: Vec<u8> = slices(bytes.chunks(size), start, len).flatten().copied().collect();
            let from = start.min(bytes.len());
            prop_assert_eq!(&cut[..], &bytes[from..(from + len).min(bytes.len())]);
        }

        #[test]
        fn updates_equal_a_new_sum(
            bytes in prop::collection::vec(1u8.., 40..80),
            at in 0usize..12, new in any::<u128>(), width in 0usize..4,
        ) {
            let at = at * 2;
            let n = 2 << width;
            let before = naive(&bytes);
            let mut old = [0u8; 16];
            old[16 - n..].copy_from_slice(&bytes[at..at + n]);
            let old = u128::from_be_bytes(old);
            let mut changed = bytes.clone();
            changed[at..at + n].copy_from_slice(&new.to_be_bytes()[16 - n..]);
            let after = match width {
                0 => update16(before, old as u16, new as u16),
                1 => update32(before, old as u32, new as u32),
                2 => update64(before, old as u64, new as u64),
                _ => update128(before, old, new),
            };
            prop_assert_eq!(after, naive(&changed));
        }

        #[test]
        fn numbers_sum_as_their_bytes(a: u16, b: u32, c: u64, d: u128) {
            let mut bytes = a.to_be_bytes().to_vec();
            bytes.extend(b.to_be_bytes());
            bytes.extend(c.to_be_bytes());
            bytes.extend(d.to_be_bytes());
            prop_assert_eq!(Sum::new().u16(a).u32(b).u64(c).u128(d).checksum(), naive(&bytes));
        }
    }
}
