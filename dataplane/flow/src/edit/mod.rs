//! How do a packet's bytes change when a header field is set?
//!
//! Each function changes one thing in place, given the [`Offsets`] that extraction found, with no
//! second parse. Values and masks are in the form of the key's words or fields; only bits under
//! the mask change. Every checksum that covers the bytes is changed with them: of the IP header,
//! of L4 with its pseudo header, SCTP's CRC. A UDP checksum of 0 stays absent, one that comes
//! out as 0 becomes 0xffff. Where the packet's checksum is [`Checksum::Partial`], only the pseudo
//! header's part is in the field, so only addresses change it. Checksums change incrementally, so
//! a damaged packet stays damaged.
//!
//! Invariant: an edit whose header is not in the packet, or not in its first buffer, returns
//! `Err` and changes no byte.
//!
//! Must not know: the flow key's values, flows, ports.

mod arp_nd;
mod endpoints;
mod eth;
mod ip;
mod l4;
mod set;
#[cfg(test)]
mod tests;

use afxdp::{Checksum, Packet};

pub use arp_nd::{
    set_arp_op, set_arp_sha, set_arp_spa_tpa, set_arp_tha, set_nd, set_nd_sll, set_nd_target,
    set_nd_tll,
};
pub use endpoints::set_ipv4_endpoints;
pub use eth::{
    pop_vlan, push_vlan, put_vlan, set_eth_dst, set_eth_src, set_inner_vlan_tci, set_vlan_tci,
    take_vlan, vlan_put, vlan_taken,
};
pub use ip::{
    dec_ttl, set_ipv4, set_ipv4_dst, set_ipv4_src, set_ipv6_dst, set_ipv6_label, set_ipv6_src,
    set_tos, set_ttl,
};
pub use l4::{set_icmp_id, set_icmp_type_code, set_ports};
pub use set::{SetFields, done_until};

use crate::drops::Drop;
use crate::extract::{Fault, Offsets, eth_type, ip_proto};

/// `N` bytes of the packet's first buffer at `at`, to change in place.
#[inline(always)]
fn bytes<const N: usize>(packet: &mut Packet, at: usize) -> Result<&mut [u8; N], Drop> {
    packet.data_mut().get_mut(at..).and_then(|d| d.first_chunk_mut()).ok_or(Drop::Malformed)
}

/// Old and new value of a big-endian field of which the bits under `mask` were set.
macro_rules! replace {
    ($bytes:expr, $ty:ty, $value:expr, $mask:expr) => {{
        let b = $bytes;
        let old = <$ty>::from_be_bytes(*b);
        let mask: $ty = $mask;
        let new = old & !mask | $value & mask;
        *b = new.to_be_bytes();
        (old, new)
    }};
}
pub(crate) use replace;

/// Whether the L3 header is a sound IPv4 header.
#[inline(always)]
fn is_ipv4(packet: &Packet, off: &Offsets) -> bool {
    // `end` is only set for a sound IP header, whose version was checked then.
    off.end != 0 && packet.data().get(usize::from(off.l3)).is_some_and(|b| b >> 4 == 4)
}

/// Whether the L3 header is a sound IPv6 header.
#[inline(always)]
fn is_ipv6(packet: &Packet, off: &Offsets) -> bool {
    off.end != 0 && packet.data().get(usize::from(off.l3)).is_some_and(|b| b >> 4 == 6)
}

/// Whether a sound ARP packet is behind the Ethernet header.
#[inline(always)]
fn is_arp(packet: &Packet, off: &Offsets) -> bool {
    if off.end != 0 || off.fault != Fault::None {
        return false;
    }
    let at = usize::from(off.l3);
    let ty = packet.data().get(at.wrapping_sub(2)..at);
    ty.is_some_and(|t| matches!(u16::from_be_bytes([t[0], t[1]]), eth_type::ARP | eth_type::RARP))
}

/// Whether the checksum of the header at `off.l4` is still to be finished.
#[inline(always)]
fn is_partial(packet: &Packet, off: &Offsets) -> bool {
    matches!(packet.checksum(), Checksum::Partial { start, .. } if start == off.l4)
}

/// Change the L4 checksum after the pseudo header has changed; `update` gives the new checksum
/// for an old one. Nothing happens where there is no such checksum in this packet (later
/// fragments, other protocols, UDP without).
#[inline(always)]
fn pseudo_changed(packet: &mut Packet, off: &Offsets, update: impl Fn(u16) -> u16) {
    if off.proto == ip_proto::ICMP {
        return; // No pseudo header.
    }
    let partial = is_partial(packet, off);
    if let Some(field) = checksum_field(packet, off) {
        let old = u16::from_be_bytes(*field);
        // A partial field holds the sum itself, not its complement.
        let new = if partial { !update(!old) } else { updated(off.proto, old, update) };
        *field = new.to_be_bytes();
    }
}

/// Change the L4 checksum after bytes that it covers have changed.
#[inline(always)]
fn l4_changed(packet: &mut Packet, off: &Offsets, update: impl Fn(u16) -> u16) {
    if is_partial(packet, off) {
        return;
    }
    if let Some(field) = checksum_field(packet, off) {
        *field = updated(off.proto, u16::from_be_bytes(*field), update).to_be_bytes();
    }
}

#[inline(always)]
fn updated(proto: u8, old: u16, update: impl Fn(u16) -> u16) -> u16 {
    if proto != ip_proto::UDP {
        return update(old);
    }
    if old == 0 { 0 } else { crate::checksum::nonzero(update(old)) }
}

/// The internet checksum field of the L4 header.
#[inline(always)]
fn checksum_field<'a>(packet: &'a mut Packet, off: &Offsets) -> Option<&'a mut [u8; 2]> {
    let at = match off.proto {
        ip_proto::TCP => 16,
        ip_proto::UDP => 6,
        ip_proto::ICMP | ip_proto::ICMPV6 => 2,
        _ => return None,
    };
    packet.data_mut().get_mut(usize::from(off.l4) + at..).and_then(|d| d.first_chunk_mut())
}
