//! TCP, UDP and SCTP ports, ICMP type, code and identifier.

use afxdp::Packet;

use super::{bytes, l4_changed, replace};
use crate::checksum::{slices, update16, update32};
use crate::crc32c::of_sctp;
use crate::drops::Drop;
use crate::extract::{FRAG_ANY, Offsets, ip_proto};

/// Set bits of both ports: the source in the high 16 bits of `value` and `mask`, the destination
/// in the low ones.
///
/// # Errors
/// [`Drop::Malformed`] if the packet has no such header. [`Drop::Unsupported`] for a fragment of
/// an SCTP packet, whose CRC would need the bytes of all the others.
#[inline]
pub fn set_ports(packet: &mut Packet, off: &Offsets, value: u32, mask: u32) -> Result<(), Drop> {
    let at = usize::from(off.l4);
    match off.proto {
        ip_proto::TCP | ip_proto::UDP => {
            let (old, new) = replace!(bytes::<4>(packet, at)?, u32, value, mask);
            if old != new {
                l4_changed(packet, off, |c| update32(c, old, new));
            }
            Ok(())
        }
        ip_proto::SCTP => set_sctp_ports(packet, off, value, mask),
        _ => Err(Drop::Malformed),
    }
}

#[cold]
fn set_sctp_ports(packet: &mut Packet, off: &Offsets, value: u32, mask: u32) -> Result<(), Drop> {
    let at = usize::from(off.l4);
    if is_fragment(packet.data(), off) {
        return Err(Drop::Unsupported);
    }
    let before = sctp_crc(packet, off);
    replace!(bytes::<4>(packet, at)?, u32, value, mask);
    let after = sctp_crc(packet, off);
    let field = bytes::<4>(packet, at + 8)?;
    // A CRC that was wrong stays wrong by the same bits.
    *field = (u32::from_le_bytes(*field) ^ before ^ after).to_le_bytes();
    Ok(())
}

/// The CRC that the SCTP packet should have.
fn sctp_crc(packet: &Packet, off: &Offsets) -> u32 {
    let (from, to) = (usize::from(off.l4), usize::from(off.end));
    of_sctp(slices(packet.buffers(), from, to.saturating_sub(from)))
}

/// Whether the packet with an L4 header is a first fragment.
fn is_fragment(data: &[u8], off: &Offsets) -> bool {
    let l3 = usize::from(off.l3);
    let Some(ip) = data.get(l3..) else { return true };
    if ip.first().is_some_and(|b| b >> 4 == 4) {
        const MORE: u8 = 0x20;
        return ip.get(6).is_none_or(|b| b & MORE != 0);
    }
    crate::extract::ipv6_frag(data, l3, usize::from(off.end)) & FRAG_ANY != 0
}

/// Set bits of ICMP's or ICMPv6's type (high byte) and code (low byte).
///
/// # Errors
/// [`Drop::Malformed`] if the packet has no such header.
#[inline]
pub fn set_icmp_type_code(
    packet: &mut Packet,
    off: &Offsets,
    value: u16,
    mask: u16,
) -> Result<(), Drop> {
    set_icmp_word(packet, off, 0, value, mask)
}

/// Set the identifier of an ICMP or ICMPv6 echo message, or of any other that has one there.
///
/// # Errors
/// [`Drop::Malformed`] if the packet has no such header.
#[inline]
pub fn set_icmp_id(packet: &mut Packet, off: &Offsets, value: u16) -> Result<(), Drop> {
    const ID: usize = 4;
    if usize::from(off.l4) + ID + 2 > usize::from(off.end) {
        return Err(Drop::Malformed);
    }
    set_icmp_word(packet, off, ID, value, 0xffff)
}

#[inline]
fn set_icmp_word(
    packet: &mut Packet,
    off: &Offsets,
    at: usize,
    value: u16,
    mask: u16,
) -> Result<(), Drop> {
    if !matches!(off.proto, ip_proto::ICMP | ip_proto::ICMPV6) {
        return Err(Drop::Malformed);
    }
    let (old, new) = replace!(bytes::<2>(packet, usize::from(off.l4) + at)?, u16, value, mask);
    if old != new {
        l4_changed(packet, off, |c| update16(c, old, new));
    }
    Ok(())
}
