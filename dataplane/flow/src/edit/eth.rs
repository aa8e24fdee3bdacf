//! Ethernet addresses and VLAN tags.

use afxdp::Packet;

use super::{bytes, replace};
use crate::drops::Drop;
use crate::extract::{Offsets, VLAN_PRESENT, eth_type};

/// Bytes of a tag.
const TAG: u16 = 4;

/// Put a tag in front of all others: the addresses move, nothing else does. `tci` is as on the
/// wire.
///
/// # Errors
/// [`Drop::Runt`] without an Ethernet header, [`Drop::NoHeadroom`] without room in front.
#[inline]
pub fn push_vlan(packet: &mut Packet, off: &mut Offsets, tpid: u16, tci: u16) -> Result<(), Drop> {
    put_vlan(packet, tpid, tci)?;
    vlan_put(off);
    Ok(())
}

/// [`push_vlan`], where nobody asks for the offsets behind it.
///
/// # Errors
/// As [`push_vlan`].
#[inline(always)]
pub fn put_vlan(packet: &mut Packet, tpid: u16, tci: u16) -> Result<(), Drop> {
    let head = bytes::<14>(packet, 0).map_err(|_| Drop::Runt)?;
    let (first, last): ([u8; 4], [u8; 8]) =
        (std::array::from_fn(|i| head[i]), std::array::from_fn(|i| head[4 + i]));
    packet.push_front(usize::from(TAG)).map_err(|_| Drop::NoHeadroom)?;
    let head = bytes::<16>(packet, 0)?;
    // A received frame begins with a cache line: no store is to reach over its border.
    head[..4].copy_from_slice(&first);
    head[4..12].copy_from_slice(&last);
    let tag = u32::from(tpid) << 16 | u32::from(tci);
    head[12..].copy_from_slice(&tag.to_be_bytes());
    Ok(())
}

/// Take the outermost tag off.
///
/// # Errors
/// [`Drop::Malformed`] without a whole tag.
#[inline]
pub fn pop_vlan(packet: &mut Packet, off: &mut Offsets) -> Result<(), Drop> {
    take_vlan(packet)?;
    vlan_taken(off);
    Ok(())
}

/// [`pop_vlan`], where nobody asks for the offsets behind it.
///
/// # Errors
/// As [`pop_vlan`].
#[inline(always)]
pub fn take_vlan(packet: &mut Packet) -> Result<(), Drop> {
    let head = bytes::<18>(packet, 0)?;
    if !is_tag(u16::from_be_bytes([head[12], head[13]])) {
        return Err(Drop::Malformed);
    }
    let addresses: [u8; 12] = std::array::from_fn(|i| head[i]);
    head[4..16].copy_from_slice(&addresses);
    packet.pull_front(usize::from(TAG)).map_err(|_| Drop::Malformed)
}

/// What is where once [`put_vlan`] has put a tag in front.
#[inline(always)]
pub fn vlan_put(off: &mut Offsets) {
    shift(off, |x| x.saturating_add(TAG));
}

/// What is where once [`take_vlan`] has taken a tag off.
#[inline(always)]
pub fn vlan_taken(off: &mut Offsets) {
    shift(off, |x| x.saturating_sub(TAG));
}

#[inline(always)]
fn shift(off: &mut Offsets, by: impl Fn(u16) -> u16) {
    for o in [&mut off.l3, &mut off.l4, &mut off.end] {
        // 0 stands for a layer that is not there.
        if *o != 0 {
            *o = by(*o);
        }
    }
}

#[inline(always)]
fn is_tag(ty: u16) -> bool {
    ty == eth_type::VLAN || ty == eth_type::QINQ
}

/// Set bits of the outermost tag's TCI. The bit that says in the key that there is a tag is not
/// in the packet: the drop-eligible bit in its place stays as it is.
///
/// # Errors
/// [`Drop::Malformed`] without a whole tag.
#[inline]
pub fn set_vlan_tci(packet: &mut Packet, value: u16, mask: u16) -> Result<(), Drop> {
    let head = bytes::<18>(packet, 0)?;
    set_tci(head.last_chunk_mut().ok_or(Drop::Malformed)?, value, mask)
}

/// [`set_vlan_tci`] for the second tag.
#[inline]
pub fn set_inner_vlan_tci(packet: &mut Packet, value: u16, mask: u16) -> Result<(), Drop> {
    let head = bytes::<22>(packet, 0)?;
    if !is_tag(u16::from_be_bytes([head[12], head[13]])) {
        return Err(Drop::Malformed);
    }
    set_tci(head.last_chunk_mut().ok_or(Drop::Malformed)?, value, mask)
}

/// `tag`: type, TCI and the type behind it.
#[inline(always)]
fn set_tci(tag: &mut [u8; 6], value: u16, mask: u16) -> Result<(), Drop> {
    if !is_tag(u16::from_be_bytes([tag[0], tag[1]])) {
        return Err(Drop::Malformed);
    }
    if let Some((tci, _)) = tag[2..].split_first_chunk_mut::<2>() {
        replace!(tci, u16, value, mask & !VLAN_PRESENT);
    }
    Ok(())
}

/// Set bits of the destination address, which is in the low 48 bits of `value`.
///
/// # Errors
/// [`Drop::Runt`] without an Ethernet header.
#[inline]
pub fn set_eth_dst(packet: &mut Packet, value: u64, mask: u64) -> Result<(), Drop> {
    let head = bytes::<14>(packet, 0).map_err(|_| Drop::Runt)?;
    if let Some(b) = head.first_chunk_mut::<8>() {
        replace!(b, u64, value << 16, mask << 16);
    }
    Ok(())
}

/// Set bits of the source address, which is in the low 48 bits of `value`.
///
/// # Errors
/// [`Drop::Runt`] without an Ethernet header.
#[inline]
pub fn set_eth_src(packet: &mut Packet, value: u64, mask: u64) -> Result<(), Drop> {
    let head = bytes::<14>(packet, 0).map_err(|_| Drop::Runt)?;
    if let Some(b) = head.last_chunk_mut::<8>() {
        replace!(b, u64, value << 16, mask << 16);
    }
    Ok(())
}
