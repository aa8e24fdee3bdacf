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
#[cfg(test)]
mod tests;

use afxdp::{Checksum, Packet};

pub use arp_nd::{
    set_arp_op, set_arp_sha, set_arp_spa_tpa, set_arp_tha, set_nd, set_nd_sll, set_nd_target,
    set_nd_tll,
};
pub use endpoints::set_ipv4_endpoints;
pub use eth::{pop_vlan, push_vlan, set_eth_dst, set_eth_src, set_inner_vlan_tci, set_vlan_tci};
pub use ip::{
    dec_ttl, set_ipv4, set_ipv4_dst, set_ipv4_src, set_ipv6_dst, set_ipv6_label, set_ipv6_src,
    set_tos, set_ttl,
};
pub use l4::{set_icmp_id, set_icmp_type_code, set_ports};

use crate::drops::Drop;
use crate::extract::{Fault, Offsets, eth_type, ip_proto};
use crate::key::word;
use crate::sparse::Match;

/// Set the header fields that `set` matches to its values. Words of metadata (marks, tunnel,
/// connection, registers) are not in the packet's bytes and are passed over.
///
/// # Errors
/// [`Drop::Malformed`] if the packet has no such header, [`Drop::Unsupported`] for a field that
/// cannot be set. Fields of words before the failing one are changed; the packet is to be dropped.
pub fn set(packet: &mut Packet, off: &Offsets, set: &Match) -> Result<(), Drop> {
    for (w, value, mask) in set.iter() {
        set_word(packet, off, w, value, mask)?;
    }
    Ok(())
}

/// [`set`] for one word of the key.
fn set_word(p: &mut Packet, off: &Offsets, w: usize, v: u64, m: u64) -> Result<(), Drop> {
    const TCI: u64 = 0xffff;
    const IPV6_SRC_LOW: usize = word::IPV6_SRC + 1;
    const IPV6_DST_LOW: usize = word::IPV6_DST + 1;
    const ND_TARGET_LOW: usize = word::ND_TARGET + 1;
    match w {
        word::ETH_DST if m & TCI == 0 => set_eth_dst(p, v >> 16, m >> 16),
        word::ETH_SRC => {
            if m >> 16 != 0 {
                set_eth_src(p, v >> 16, m >> 16)?;
            }
            if m & TCI == 0 { Ok(()) } else { set_vlan_tci(p, v as u16, m as u16) }
        }
        word::VLAN if m & !(TCI << 32) == 0 => {
            set_inner_vlan_tci(p, (v >> 32) as u16, (m >> 32) as u16)
        }
        word::IPV4 if is_arp(p, off) => set_arp_spa_tpa(p, off, v, m),
        word::IPV4 => set_ipv4(p, off, v, m),
        word::NW => set_nw(p, off, v, m),
        word::L4 => set_l4(p, off, v, m),
        word::IPV6_SRC => set_ipv6_src(p, off, u128::from(v) << 64, u128::from(m) << 64),
        word::IPV6_DST => set_ipv6_dst(p, off, u128::from(v) << 64, u128::from(m) << 64),
        IPV6_SRC_LOW => set_ipv6_src(p, off, v.into(), m.into()),
        IPV6_DST_LOW => set_ipv6_dst(p, off, v.into(), m.into()),
        word::ARP_SHA if is_arp(p, off) => set_arp_sha(p, off, v >> 16, m >> 16),
        word::ARP_THA if is_arp(p, off) => set_arp_tha(p, off, v >> 16, m >> 16),
        word::ARP_SHA => set_nd_sll(p, off, v >> 16, m >> 16),
        word::ARP_THA => set_nd_tll(p, off, v >> 16, m >> 16),
        word::ND_TARGET => set_nd_target(p, off, u128::from(v) << 64, u128::from(m) << 64),
        ND_TARGET_LOW => set_nd_target(p, off, v.into(), m.into()),
        word::ND => set_nd(p, off, v, m),
        word::META => Ok(()),
        w if w >= word::MARK => Ok(()),
        _ => Err(Drop::Unsupported),
    }
}

/// The word of protocol, TOS, TTL, fragment and label.
fn set_nw(p: &mut Packet, off: &Offsets, v: u64, m: u64) -> Result<(), Drop> {
    const PROTO: u64 = 0xff << 56;
    const LABEL: u64 = 0xf_ffff;
    if is_arp(p, off) {
        // ARP's operation is where IP's protocol would be.
        if m & !PROTO != 0 {
            return Err(Drop::Unsupported);
        }
        return set_arp_op(p, off, (v >> 56) as u8, (m >> 56) as u8);
    }
    if m & !(0xffff << 40 | LABEL) != 0 {
        return Err(Drop::Unsupported);
    }
    if m >> 48 & 0xff != 0 {
        set_tos(p, off, (v >> 48) as u8, (m >> 48) as u8)?;
    }
    if m >> 40 & 0xff != 0 {
        set_ttl(p, off, (v >> 40) as u8, (m >> 40) as u8)?;
    }
    if m & LABEL != 0 {
        set_ipv6_label(p, off, v as u32, m as u32)?;
    }
    Ok(())
}

/// The word of ports, ICMP type and code.
fn set_l4(p: &mut Packet, off: &Offsets, v: u64, m: u64) -> Result<(), Drop> {
    if m & 0xffff_ffff != 0 {
        return Err(Drop::Unsupported);
    }
    match off.proto {
        ip_proto::ICMP | ip_proto::ICMPV6 => {
            let type_code = |x: u64| (x >> 40 & 0xff00 | x >> 32 & 0xff) as u16;
            set_icmp_type_code(p, off, type_code(v), type_code(m))
        }
        _ => set_ports(p, off, (v >> 32) as u32, (m >> 32) as u32),
    }
}

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
