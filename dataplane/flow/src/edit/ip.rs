//! IPv4 and IPv6 headers.

use afxdp::Packet;

use super::{bytes, is_ipv4, is_ipv6, pseudo_changed, replace};
use crate::checksum::{update16, update64};
use crate::drops::Drop;
use crate::extract::{Offsets, ip_proto};

/// Where IPv4 keeps its header checksum, and IPv6 its source address.
const IPV4_CHECKSUM: usize = 10;
const IPV4_ADDRESSES: usize = 12;
const IPV6_SRC: usize = 8;
const IPV6_DST: usize = 24;

/// Set bits of both IPv4 addresses: the source in the high 32 bits of `value` and `mask`, the
/// destination in the low ones.
///
/// # Errors
/// [`Drop::Malformed`] if the packet is not IPv4.
#[inline]
pub fn set_ipv4(packet: &mut Packet, off: &Offsets, value: u64, mask: u64) -> Result<(), Drop> {
    if !is_ipv4(packet, off) {
        return Err(Drop::Malformed);
    }
    let l3 = usize::from(off.l3);
    let (old, new) = replace!(bytes::<8>(packet, l3 + IPV4_ADDRESSES)?, u64, value, mask);
    if old != new {
        header_checksum(packet, l3, |c| update64(c, old, new))?;
        pseudo_changed(packet, off, |c| update64(c, old, new));
    }
    Ok(())
}

/// Set bits of the IPv4 source address.
///
/// # Errors
/// [`Drop::Malformed`] if the packet is not IPv4.
#[inline]
pub fn set_ipv4_src(packet: &mut Packet, off: &Offsets, value: u32, mask: u32) -> Result<(), Drop> {
    set_ipv4(packet, off, u64::from(value) << 32, u64::from(mask) << 32)
}

/// Set bits of the IPv4 destination address.
///
/// # Errors
/// [`Drop::Malformed`] if the packet is not IPv4.
#[inline]
pub fn set_ipv4_dst(packet: &mut Packet, off: &Offsets, value: u32, mask: u32) -> Result<(), Drop> {
    set_ipv4(packet, off, u64::from(value), u64::from(mask))
}

/// Set bits of the byte of DSCP and ECN: IPv4's TOS, IPv6's traffic class.
///
/// # Errors
/// [`Drop::Malformed`] if the packet is not IP.
#[inline]
pub fn set_tos(packet: &mut Packet, off: &Offsets, value: u8, mask: u8) -> Result<(), Drop> {
    let l3 = usize::from(off.l3);
    if is_ipv4(packet, off) {
        return set_ipv4_word(packet, l3, 0, value.into(), mask.into());
    }
    if !is_ipv6(packet, off) {
        return Err(Drop::Malformed);
    }
    let word = bytes::<4>(packet, l3)?;
    replace!(word, u32, u32::from(value) << 20, u32::from(mask) << 20);
    Ok(())
}

/// Set bits of the time to live, or hop limit.
///
/// # Errors
/// [`Drop::Malformed`] if the packet is not IP.
#[inline]
pub fn set_ttl(packet: &mut Packet, off: &Offsets, value: u8, mask: u8) -> Result<(), Drop> {
    if off.end == 0 {
        return Err(Drop::Malformed); // As in `is_ipv4`.
    }
    // Both headers are longer, and are in the first buffer as a whole.
    let header = bytes::<12>(packet, usize::from(off.l3))?;
    match header[0] >> 4 {
        4 => set_ipv4_ttl(header, value, mask),
        6 => header[7] = header[7] & !mask | value & mask,
        _ => return Err(Drop::Malformed),
    }
    Ok(())
}

/// Take one off the time to live, or hop limit.
///
/// # Errors
/// [`Drop::TtlExpired`] if it is 0 or 1; the packet is unchanged then. [`Drop::Malformed`] if the
/// packet is not IP.
#[inline]
pub fn dec_ttl(packet: &mut Packet, off: &Offsets) -> Result<(), Drop> {
    let at = usize::from(off.l3) + if is_ipv4(packet, off) { 8 } else { 7 };
    let ttl = bytes::<1>(packet, at)?[0];
    if ttl <= 1 && off.end != 0 {
        return Err(Drop::TtlExpired);
    }
    set_ttl(packet, off, ttl.wrapping_sub(1), 0xff)
}

/// Set bits of the IPv6 flow label (20 bits).
///
/// # Errors
/// [`Drop::Malformed`] if the packet is not IPv6.
#[inline]
pub fn set_ipv6_label(
    packet: &mut Packet,
    off: &Offsets,
    value: u32,
    mask: u32,
) -> Result<(), Drop> {
    if !is_ipv6(packet, off) {
        return Err(Drop::Malformed);
    }
    replace!(bytes::<4>(packet, usize::from(off.l3))?, u32, value, mask & 0xf_ffff);
    Ok(())
}

/// Set bits of the IPv6 source address.
///
/// # Errors
/// [`Drop::Malformed`] if the packet is not IPv6.
#[inline]
pub fn set_ipv6_src(
    packet: &mut Packet,
    off: &Offsets,
    value: u128,
    mask: u128,
) -> Result<(), Drop> {
    set_ipv6_address(packet, off, IPV6_SRC, value, mask)
}

/// Set bits of the IPv6 destination address. L4 checksums cover the final destination, so where
/// a routing header still names another one they stay as they are.
///
/// # Errors
/// [`Drop::Malformed`] if the packet is not IPv6.
#[inline]
pub fn set_ipv6_dst(
    packet: &mut Packet,
    off: &Offsets,
    value: u128,
    mask: u128,
) -> Result<(), Drop> {
    set_ipv6_address(packet, off, IPV6_DST, value, mask)
}

#[inline]
fn set_ipv6_address(
    packet: &mut Packet,
    off: &Offsets,
    field: usize,
    value: u128,
    mask: u128,
) -> Result<(), Drop> {
    if !is_ipv6(packet, off) {
        return Err(Drop::Malformed);
    }
    let at = usize::from(off.l3) + field;
    let (old, new) = replace!(bytes::<16>(packet, at)?, u128, value, mask);
    let covered = field == IPV6_SRC || !is_routed_on(packet.data(), off);
    if old != new && covered {
        pseudo_changed(packet, off, |c| crate::checksum::update128(c, old, new));
    }
    Ok(())
}

/// Whether a routing header with segments left is in front of L4.
#[inline]
fn is_routed_on(data: &[u8], off: &Offsets) -> bool {
    let (l3, l4) = (usize::from(off.l3), usize::from(off.l4));
    l4 > l3 + 40 && routing_segments_left(data, l3, l4)
}

#[cold]
fn routing_segments_left(data: &[u8], l3: usize, l4: usize) -> bool {
    let Some(mut next) = data.get(l3 + 6).copied() else { return false };
    let mut at = l3 + 40;
    // Extraction has walked these headers: each moves `at` by 8 or more.
    while at < l4 {
        let Some(h) = data.get(at..).and_then(|d| d.first_chunk::<4>()) else { return false };
        let len = match next {
            ip_proto::ROUTING if h[3] != 0 => return true,
            ip_proto::AH => 8 + usize::from(h[1]) * 4,
            ip_proto::FRAGMENT => 8,
            _ => 8 + usize::from(h[1]) * 8,
        };
        next = h[0];
        at += len;
    }
    false
}

/// The TTL, and the checksum, which is in the same four bytes.
#[inline(always)]
fn set_ipv4_ttl(header: &mut [u8; 12], value: u8, mask: u8) {
    const TTL: u32 = 24;
    let Some(field) = header.last_chunk_mut::<4>() else { return };
    let old = u32::from_be_bytes(*field);
    let new = old & !(u32::from(mask) << TTL) | u32::from(value & mask) << TTL;
    if old != new {
        let checksum = update16(old as u16, (old >> 16) as u16, (new >> 16) as u16);
        *field = (new & 0xffff_0000 | u32::from(checksum)).to_be_bytes();
    }
}

/// Set bits of a 16-bit word of the IPv4 header.
#[inline(always)]
fn set_ipv4_word(p: &mut Packet, l3: usize, at: usize, value: u16, mask: u16) -> Result<(), Drop> {
    let (old, new) = replace!(bytes::<2>(p, l3 + at)?, u16, value, mask);
    if old != new {
        header_checksum(p, l3, |c| update16(c, old, new))?;
    }
    Ok(())
}

#[inline(always)]
fn header_checksum(p: &mut Packet, l3: usize, update: impl Fn(u16) -> u16) -> Result<(), Drop> {
    let field = bytes::<2>(p, l3 + IPV4_CHECKSUM)?;
    *field = update(u16::from_be_bytes(*field)).to_be_bytes();
    Ok(())
}
