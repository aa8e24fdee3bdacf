//! Both ends of an IPv4 connection at once: what address translation changes.

use afxdp::Packet;

use super::{is_partial, replace, set_ipv4, set_ports, updated};
use crate::checksum::{update64, update96};
use crate::drops::Drop;
use crate::extract::{Offsets, ip_proto};

/// Set bits of both addresses and both ports: as [`set_ipv4`] and then [`set_ports`], with each
/// checksum changed once.
///
/// # Errors
/// As theirs.
#[inline]
pub fn set_ipv4_endpoints(
    packet: &mut Packet,
    off: &Offsets,
    (addresses, address_mask): (u64, u64),
    (ports, port_mask): (u32, u32),
) -> Result<(), Drop> {
    let Some(p) = Plain::of(packet, off) else {
        set_ipv4(packet, off, addresses, address_mask)?;
        return set_ports(packet, off, ports, port_mask);
    };
    let (was, is) = replace!(p.addresses, u64, addresses, address_mask);
    if was != is {
        let sum = update64(u16::from_be_bytes(*p.header_sum), was, is);
        *p.header_sum = sum.to_be_bytes();
    }
    let (old, new) = replace!(p.ports, u32, ports, port_mask);
    if was != is || old != new {
        let update = |c| update96(c, (was, old), (is, new));
        *p.sum = updated(off.proto, u16::from_be_bytes(*p.sum), update).to_be_bytes();
    }
    Ok(())
}

/// What changes in a packet of TCP or UDP whose checksum is complete.
struct Plain<'a> {
    header_sum: &'a mut [u8; 2],
    addresses: &'a mut [u8; 8],
    ports: &'a mut [u8; 4],
    sum: &'a mut [u8; 2],
}

impl<'a> Plain<'a> {
    #[inline(always)]
    fn of(packet: &'a mut Packet, off: &Offsets) -> Option<Plain<'a>> {
        // Behind the ports.
        let at = match off.proto {
            ip_proto::TCP => 12,
            ip_proto::UDP => 2,
            _ => return None,
        };
        if off.end == 0 || is_partial(packet, off) {
            return None;
        }
        let (ip, l4) = packet.data_mut().split_at_mut_checked(off.l4.into())?;
        let ip = ip.get_mut(usize::from(off.l3)..)?.first_chunk_mut::<20>()?;
        if ip[0] >> 4 != 4 {
            return None;
        }
        let (header_sum, rest) = ip[10..].split_first_chunk_mut()?;
        let addresses = rest.first_chunk_mut()?;
        let (ports, rest) = l4.split_first_chunk_mut()?;
        let sum = rest.get_mut(at..)?.first_chunk_mut()?;
        Some(Plain { header_sum, addresses, ports, sum })
    }
}
