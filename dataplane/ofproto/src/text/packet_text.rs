//! How is a packet described by a flow's text?
//!
//! `trace` takes `in_port=1,tcp,nw_src=192.0.2.1`: a match whose every field has one value. What
//! is not given is zero, as with `ofproto/trace`. A packet is described with all the fields that
//! its headers have, and with the metadata that is not zero.

use flow::extract::{FRAG_LATER, VLAN_PRESENT, eth_type, ip_proto};
use flow::{Field, FlowKey};

use super::error::{Fault, Parsed, TextError};
use super::match_read::{MatchReader, Purpose, not_known};
use super::match_show::show_masked;
use super::names::PortNames;
use super::scan::Items;
use crate::action::OfPort;
use crate::matching::{ND_ADVERT, ND_SOLICIT};

/// Read the description of a packet. Without `in_port` it comes from no port
/// ([`OfPort::NONE`]).
///
/// # Errors
/// Where the text is wrong and why.
pub fn parse_packet(text: &str, ports: &dyn PortNames) -> Result<FlowKey, TextError> {
    packet(text, ports).map_err(|f| f.locate(text))
}

fn packet<'a>(text: &'a str, ports: &dyn PortNames) -> Parsed<'a, FlowKey> {
    let mut reader = MatchReader::new(ports, Purpose::Packet);
    let mut items = Items::new(text);
    while let Some(item) = items.next()? {
        if !reader.take(&item)? {
            if item.key.starts_with("action") {
                return Err(Fault::new(item.all, "a packet has no actions"));
            }
            return Err(not_known(&item, &[]));
        }
    }
    reader.check()?;
    let (mut key, mask) = reader.into_parts();
    if mask.get(Field::InPort) == 0 {
        key.set(Field::InPort, u128::from(OfPort::NONE.0));
    }
    let is_tagged = key.get(Field::VlanTci) & u128::from(VLAN_PRESENT) != 0;
    if !is_tagged && key.get(Field::VlanTci) != 0 {
        // Priority or id without the bit that says so still mean a tag.
        let tci = key.get(Field::VlanTci) | u128::from(VLAN_PRESENT);
        key.set(Field::VlanTci, tci);
    }
    if key.get(Field::VlanTci) != 0 && key.get(Field::VlanTpid) == 0 {
        key.set(Field::VlanTpid, 0x8100);
    }
    Ok(key)
}

/// Fields that every frame has.
const FRAME: &[Field] =
    &[Field::InPort, Field::EthSrc, Field::EthDst, Field::EthType, Field::VlanTci];
/// Fields of IPv4 and IPv6.
const IP: &[Field] = &[Field::NwProto, Field::NwTos, Field::NwTtl, Field::NwFrag];
const IPV4: &[Field] = &[Field::NwSrc, Field::NwDst];
const IPV6: &[Field] = &[Field::Ipv6Src, Field::Ipv6Dst, Field::Ipv6Label];
const ARP: &[Field] = &[Field::NwSrc, Field::NwDst, Field::NwProto, Field::ArpSha, Field::ArpTha];
const PORTS: &[Field] = &[Field::TpSrc, Field::TpDst];

/// Write what is known of a packet; [`parse_packet`] takes it back. Tags behind the outermost and
/// labels behind the first have no text.
pub fn show_packet(out: &mut String, key: &FlowKey, ports: &dyn PortNames) {
    let mut mask = FlowKey::ZERO;
    let mut show = |fields: &[Field]| {
        for f in fields {
            mask.set(*f, f.full());
        }
    };
    // What has a value belongs to the packet, whatever its headers are.
    let known = Field::ALL.iter().filter(|f| key.get(**f) != 0).copied().collect::<Vec<_>>();
    show(&known);
    show(FRAME);
    let ty = key.get(Field::EthType) as u16;
    let is_ip = matches!(ty, eth_type::IPV4 | eth_type::IPV6);
    match ty {
        eth_type::IPV4 => show(IPV4),
        eth_type::IPV6 => show(IPV6),
        eth_type::ARP | eth_type::RARP => show(ARP),
        eth_type::MPLS | eth_type::MPLS_MCAST => show(&[Field::Mpls0]),
        _ => {}
    }
    if is_ip {
        show(IP);
        let later = key.get(Field::NwFrag) & u128::from(FRAG_LATER) != 0;
        match key.get(Field::NwProto) as u8 {
            // A later fragment has no such header.
            _ if later => {}
            ip_proto::TCP => {
                show(PORTS);
                show(&[Field::TcpFlags]);
            }
            ip_proto::UDP | ip_proto::SCTP | ip_proto::ICMP => show(PORTS),
            ip_proto::ICMPV6 => {
                show(PORTS);
                let (kind, code) = (key.get(Field::TpSrc), key.get(Field::TpDst));
                if ty == eth_type::IPV6 && matches!(kind, ND_SOLICIT | ND_ADVERT) && code == 0 {
                    show(&[Field::NdTarget]);
                }
            }
            _ => {}
        }
    }
    show_masked(out, key, &mask, ports);
}
