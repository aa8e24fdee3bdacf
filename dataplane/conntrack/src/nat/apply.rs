//! How does a translation get into the packet's bytes?
//!
//! Checksums follow incrementally (a damaged packet stays damaged); those that are still to be
//! filled in by a port stay so.

use afxdp::Packet;
use flow::drops::Drop;
use flow::edit;
use flow::extract::{Offsets, ip_proto};

use super::{NatEdit, quote};

/// Change a whole packet as the tracker said.
///
/// # Errors
/// The reason why it cannot be done; the packet is to be dropped, as it may be changed in part.
#[inline(always)]
pub fn apply(packet: &mut Packet, off: &Offsets, e: &NatEdit) -> Result<(), Drop> {
    let plain = matches!(e.to.proto(), ip_proto::TCP | ip_proto::UDP) && !e.to.is_v6();
    if plain && !e.is_error() {
        let (addresses, ports) = ((e.to.addresses[0], e.address_mask()), (e.to.ports >> 32) as u32);
        return edit::set_ipv4_endpoints(packet, off, addresses, (ports, e.port_mask()));
    }
    apply_other(packet, off, e)
}

/// [`apply`] for any packet.
#[inline(never)]
fn apply_other(packet: &mut Packet, off: &Offsets, e: &NatEdit) -> Result<(), Drop> {
    if e.is_none() {
        return Ok(());
    }
    if e.is_error() {
        quote::apply(packet, off, e)?;
        return addresses(packet, off, e);
    }
    addresses(packet, off, e)?;
    ports(packet, off, e)
}

/// Change one fragment of a packet that was tracked as a whole. The one with the L4 header must
/// hold all of it.
///
/// # Errors
/// As [`apply`].
pub fn apply_fragment(packet: &mut Packet, off: &Offsets, e: &NatEdit) -> Result<(), Drop> {
    if e.is_none() {
        return Ok(());
    }
    // Extraction gives a later fragment no protocol.
    if off.proto == 0 { addresses(packet, off, e) } else { apply(packet, off, e) }
}

#[inline(always)]
fn addresses(packet: &mut Packet, off: &Offsets, e: &NatEdit) -> Result<(), Drop> {
    if !e.to.is_v6() {
        return edit::set_ipv4(packet, off, e.to.addresses[0], e.address_mask());
    }
    let (src, dst) = (e.changes_src(), e.changes_dst());
    if src {
        edit::set_ipv6_src(packet, off, e.to.src(), u128::MAX)?;
    }
    if dst {
        edit::set_ipv6_dst(packet, off, e.to.dst(), u128::MAX)?;
    }
    Ok(())
}

#[inline(always)]
fn ports(packet: &mut Packet, off: &Offsets, e: &NatEdit) -> Result<(), Drop> {
    match e.to.proto() {
        ip_proto::TCP | ip_proto::UDP | ip_proto::SCTP => {
            edit::set_ports(packet, off, (e.to.ports >> 32) as u32, e.port_mask())
        }
        ip_proto::ICMP | ip_proto::ICMPV6 => edit::set_icmp_id(packet, off, e.to.sport()),
        _ => Ok(()),
    }
}
