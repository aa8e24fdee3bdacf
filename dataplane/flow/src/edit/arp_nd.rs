//! ARP packets and neighbour discovery messages.

use afxdp::Packet;

use super::{bytes, is_arp, l4_changed, replace};
use crate::checksum::{update16, update32, update64, update128};
use crate::drops::Drop;
use crate::extract::{Offsets, ip_proto, is_nd};

/// Where a neighbour message's fields are, from the ICMPv6 header on.
const ND_RESERVED: usize = 4;
const ND_TARGET: usize = 8;
const ND_OPTIONS: usize = 24;
const SOURCE_LL: u8 = 1;
const TARGET_LL: u8 = 2;

fn arp(packet: &Packet, off: &Offsets, field: usize) -> Result<usize, Drop> {
    if is_arp(packet, off) { Ok(usize::from(off.l3) + field) } else { Err(Drop::Malformed) }
}

/// Set bits of the operation's low byte; the high byte becomes zero, as the key reads operations
/// over 255 as 0.
///
/// # Errors
/// [`Drop::Malformed`] if the packet is not ARP.
pub fn set_arp_op(packet: &mut Packet, off: &Offsets, value: u8, mask: u8) -> Result<(), Drop> {
    let at = arp(packet, off, 6)?;
    let op = bytes::<2>(packet, at)?;
    if op[0] != 0 {
        *op = [0, 0];
    }
    replace!(op, u16, u16::from(value), u16::from(mask));
    Ok(())
}

/// Set bits of both protocol addresses: the sender's in the high 32 bits of `value` and `mask`,
/// the target's in the low ones.
///
/// # Errors
/// [`Drop::Malformed`] if the packet is not ARP.
pub fn set_arp_spa_tpa(
    packet: &mut Packet,
    off: &Offsets,
    value: u64,
    mask: u64,
) -> Result<(), Drop> {
    let at = arp(packet, off, 0)?;
    let whole = bytes::<28>(packet, at)?;
    if let Some((spa, _)) = whole[14..].split_first_chunk_mut::<4>() {
        replace!(spa, u32, (value >> 32) as u32, (mask >> 32) as u32);
    }
    if let Some(tpa) = whole.last_chunk_mut::<4>() {
        replace!(tpa, u32, value as u32, mask as u32);
    }
    Ok(())
}

/// Set bits of the sender's hardware address.
///
/// # Errors
/// [`Drop::Malformed`] if the packet is not ARP.
pub fn set_arp_sha(packet: &mut Packet, off: &Offsets, value: u64, mask: u64) -> Result<(), Drop> {
    let at = arp(packet, off, 8)?;
    replace!(bytes::<8>(packet, at)?, u64, value << 16, mask << 16);
    Ok(())
}

/// Set bits of the target's hardware address.
///
/// # Errors
/// [`Drop::Malformed`] if the packet is not ARP.
pub fn set_arp_tha(packet: &mut Packet, off: &Offsets, value: u64, mask: u64) -> Result<(), Drop> {
    let at = arp(packet, off, 18)?;
    replace!(bytes::<8>(packet, at)?, u64, value << 16, mask << 16);
    Ok(())
}

/// The offset of a neighbour solicitation's or advertisement's header.
fn nd(packet: &Packet, off: &Offsets) -> Result<usize, Drop> {
    let at = usize::from(off.l4);
    let end = usize::from(off.end).min(packet.data().len());
    match packet.data().get(at..end) {
        Some(message) if off.proto == ip_proto::ICMPV6 && is_nd(message) => Ok(at),
        _ => Err(Drop::Malformed),
    }
}

/// Set bits of a neighbour message's target address.
///
/// # Errors
/// [`Drop::Malformed`] if the packet is no neighbour solicitation or advertisement.
pub fn set_nd_target(
    packet: &mut Packet,
    off: &Offsets,
    value: u128,
    mask: u128,
) -> Result<(), Drop> {
    let at = nd(packet, off)? + ND_TARGET;
    let (old, new) = replace!(bytes::<16>(packet, at)?, u128, value, mask);
    if old != new {
        l4_changed(packet, off, |c| update128(c, old, new));
    }
    Ok(())
}

/// Set bits of the source link-layer address option. A message without that option stays as it
/// is: there is nothing to set.
///
/// # Errors
/// [`Drop::Malformed`] if the packet is no neighbour solicitation or advertisement.
pub fn set_nd_sll(packet: &mut Packet, off: &Offsets, value: u64, mask: u64) -> Result<(), Drop> {
    set_nd_option(packet, off, SOURCE_LL, value, mask)
}

/// Set bits of the target link-layer address option. A message without that option stays as it
/// is: there is nothing to set.
///
/// # Errors
/// [`Drop::Malformed`] if the packet is no neighbour solicitation or advertisement.
pub fn set_nd_tll(packet: &mut Packet, off: &Offsets, value: u64, mask: u64) -> Result<(), Drop> {
    set_nd_option(packet, off, TARGET_LL, value, mask)
}

fn set_nd_option(
    packet: &mut Packet,
    off: &Offsets,
    option: u8,
    value: u64,
    mask: u64,
) -> Result<(), Drop> {
    let at = nd(packet, off)?;
    let end = usize::from(off.end).min(packet.data().len());
    let Some(option) = find_option(&packet.data()[at..end], option) else { return Ok(()) };
    // The whole option as one word: type and length in front stay.
    let low = (1 << 48) - 1;
    let (old, new) = replace!(bytes::<8>(packet, at + option)?, u64, value, mask & low);
    if old != new {
        l4_changed(packet, off, |c| update64(c, old, new));
    }
    Ok(())
}

/// Offset of the first 8-byte option of that type in a neighbour message.
fn find_option(message: &[u8], option: u8) -> Option<usize> {
    let mut at = ND_OPTIONS;
    loop {
        let h = message.get(at..)?.first_chunk::<8>()?;
        if h[0] == option && h[1] == 1 {
            return Some(at);
        }
        if h[1] == 0 {
            return None;
        }
        at += usize::from(h[1]) * 8;
    }
}

/// Set bits of a neighbour message's flags and reserved bits, and of its first option's type, in
/// the places of the key's word.
///
/// # Errors
/// [`Drop::Malformed`] if the packet is no neighbour solicitation or advertisement.
/// [`Drop::Unsupported`] if the mask has bits that are in neither field.
pub fn set_nd(packet: &mut Packet, off: &Offsets, value: u64, mask: u64) -> Result<(), Drop> {
    if mask & 0xff_ffff != 0 {
        return Err(Drop::Unsupported);
    }
    let at = nd(packet, off)?;
    let flags = bytes::<4>(packet, at + ND_RESERVED)?;
    let (old, new) = replace!(flags, u32, (value >> 32) as u32, (mask >> 32) as u32);
    if old != new {
        l4_changed(packet, off, |c| update32(c, old, new));
    }
    let mask = (mask >> 16) as u16 & 0xff00;
    if mask != 0 && at + ND_OPTIONS + 8 <= usize::from(off.end) {
        let option = bytes::<2>(packet, at + ND_OPTIONS)?;
        let (old, new) = replace!(option, u16, (value >> 16) as u16, mask);
        if old != new {
            l4_changed(packet, off, |c| update16(c, old, new));
        }
    }
    Ok(())
}
