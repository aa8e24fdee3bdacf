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
    if packet.data().len() < 14 {
        return Err(Drop::Runt);
    }
    packet.push_front(usize::from(TAG)).map_err(|_| Drop::NoHeadroom)?;
    let head = bytes::<16>(packet, 0)?;
    head.copy_within(4..16, 0);
    head[12..14].copy_from_slice(&tpid.to_be_bytes());
    head[14..16].copy_from_slice(&tci.to_be_bytes());
    shift(off, |x| x.saturating_add(TAG));
    Ok(())
}

/// Take the outermost tag off.
///
/// # Errors
/// [`Drop::Malformed`] without a whole tag.
#[inline]
pub fn pop_vlan(packet: &mut Packet, off: &mut Offsets) -> Result<(), Drop> {
    let head = bytes::<18>(packet, 0)?;
    if !is_tag(u16::from_be_bytes([head[12], head[13]])) {
        return Err(Drop::Malformed);
    }
    head.copy_within(0..12, 4);
    packet.pull_front(usize::from(TAG)).map_err(|_| Drop::Malformed)?;
    shift(off, |x| x.saturating_sub(TAG));
    Ok(())
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
