//! Both ends of an IPv4 connection at once: what address translation changes.

use afxdp::Packet;

use super::{is_partial, replace, set_ipv4, set_ports, updated};
use crate::checksum::Change;
use crate::drops::Drop;
use crate::extract::{Offsets, ip_proto};

/// Set bits of both addresses and both ports: as [`set_ipv4`] and then [`set_ports`], with each
/// checksum changed once.
///
/// # Errors
/// As theirs.
#[inline(always)]
pub fn set_ipv4_endpoints(
    packet: &mut Packet,
    off: &Offsets,
    addresses: (u64, u64),
    ports: (u32, u32),
) -> Result<(), Drop> {
    match set_plain(packet, off, addresses, ports) {
        Some(()) => Ok(()),
        None => set_any(packet, off, addresses, ports),
    }
}

/// [`set_ipv4_endpoints`] for every packet.
#[inline(never)]
fn set_any(
    packet: &mut Packet,
    off: &Offsets,
    (addresses, address_mask): (u64, u64),
    (ports, port_mask): (u32, u32),
) -> Result<(), Drop> {
    set_ipv4(packet, off, addresses, address_mask)?;
    set_ports(packet, off, ports, port_mask)
}

/// [`set_ipv4_endpoints`] for TCP and UDP behind an IPv4 header without options, with a complete checksum.
/// `None`, and nothing has changed, for all else.
#[inline(always)]
fn set_plain(
    packet: &mut Packet,
    off: &Offsets,
    addresses: (u64, u64),
    ports: (u32, u32),
) -> Option<()> {
    if off.end == 0 || off.l4 != off.l3.wrapping_add(20) || is_partial(packet, off) {
        return None;
    }
    let headers = packet.data_mut().get_mut(usize::from(off.l3)..)?;
    match off.proto {
        ip_proto::TCP => set_in::<38, 16>(headers, ip_proto::TCP, addresses, ports),
        ip_proto::UDP => set_in::<28, 6>(headers, ip_proto::UDP, addresses, ports),
        _ => None,
    }
}

/// [`set_plain`] in an IPv4 header and `N` - 20 bytes of L4, whose checksum is at `SUM`.
#[inline(always)]
fn set_in<const N: usize, const SUM: usize>(
    headers: &mut [u8],
    proto: u8,
    (addresses, address_mask): (u64, u64),
    (ports, port_mask): (u32, u32),
) -> Option<()> {
    let headers = headers.first_chunk_mut::<N>().filter(|h| h[0] == 0x45)?;
    let (header_sum, rest) = headers[10..].split_first_chunk_mut::<2>()?;
    let (at, l4) = rest.split_first_chunk_mut()?;
    let (at_ports, rest) = l4.split_first_chunk_mut()?;
    let sum = rest.get_mut(SUM - 4..)?.first_chunk_mut::<2>()?;
    let (was, is) = replace!(at, u64, addresses, address_mask);
    let (old, new) = replace!(at_ports, u32, ports, port_mask);
    let change = Change::of64(was, is);
    if was != is {
        *header_sum = change.apply(u16::from_be_bytes(*header_sum)).to_be_bytes();
    }
    if was != is || old != new {
        let update = |c| change.and32(old, new).apply(c);
        *sum = updated(proto, u16::from_be_bytes(*sum), update).to_be_bytes();
    }
    Some(())
}
