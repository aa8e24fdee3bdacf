//! What does a set of fields and values match, and may it be asked for?
//!
//! [`MatchBuilder`] gathers fields by name into places of the key, refuses what contradicts itself,
//! and answers whether a field's prerequisite is matched. A match that OpenFlow forbids because a
//! field's prerequisite is missing is refused here, where `ovs-ofctl` drops the field with a note.
//!
//! Must not know: text, tables.

use flow::extract::{FRAG_LATER, VLAN_PRESENT, eth_type, ip_proto};
use flow::{Field, FlowKey, Match};

use crate::action::OfPort;
use crate::mf::{Mf, Prereq, get_place, low128, set_place};

/// `dl_vlan` of a packet without a tag.
pub const DL_VLAN_NONE: u128 = 0xffff;
/// ICMPv6 type of a neighbour solicitation.
pub const ND_SOLICIT: u128 = 135;
/// ICMPv6 type of a neighbour advertisement.
pub const ND_ADVERT: u128 = 136;

/// Bit of `ct_state`: the packet is invalid to its tracker.
pub const CT_INV: u8 = 1 << 4;
/// Bit of `ct_state`: the packet was tracked.
pub const CT_TRK: u8 = 1 << 5;

/// A match while it is put together.
#[derive(Clone, Debug, Default)]
pub struct MatchBuilder {
    key: FlowKey,
    mask: FlowKey,
}

/// Why a field cannot be added to a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchError {
    /// The match already asks for another value of these bits.
    Contradiction,
    /// The field's values are smaller.
    TooLarge,
    /// The value has bits that the mask ignores only for this field: VLAN ids go to 4095.
    VlanId,
}

impl std::fmt::Display for MatchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            MatchError::Contradiction => "this contradicts what stands before it in the match",
            MatchError::TooLarge => "no packet's value is as large",
            MatchError::VlanId => "a VLAN id is 0 to 4095, or 0xffff for packets without a tag",
        })
    }
}

impl MatchBuilder {
    /// A match on everything.
    pub fn new() -> MatchBuilder {
        Self::default()
    }

    /// Also match `field` on `value`, under `mask` or whole.
    ///
    /// # Errors
    /// No packet can match; the builder is as it was.
    pub fn set(&mut self, mf: Mf, value: u128, mask: Option<u128>) -> Result<(), MatchError> {
        let (mf, value, mask) = in_place(mf, value, mask)?;
        let place = mf.info().place;
        let value = value & mask;
        let old = get_place(&self.mask, place);
        if (get_place(&self.key, place) ^ value) & old & mask != 0 {
            return Err(MatchError::Contradiction);
        }
        if mask != 0 {
            let value = get_place(&self.key, place) | value;
            set_place(&mut self.key, place, value);
            set_place(&mut self.mask, place, old | mask);
        }
        Ok(())
    }

    /// Whether the match asks for what `mf` needs.
    pub fn meets(&self, prereq: Prereq) -> bool {
        meets(&self.key, &self.mask, prereq)
    }

    /// The values; zero where nothing is matched.
    pub fn key(&self) -> &FlowKey {
        &self.key
    }

    /// The mask.
    pub fn mask(&self) -> &FlowKey {
        &self.mask
    }

    /// The values and the mask.
    pub fn into_parts(self) -> (FlowKey, FlowKey) {
        (self.key, self.mask)
    }

    /// The match.
    pub fn build(&self) -> Match {
        Match::new(&self.key, &self.mask)
    }
}

/// The field, value and mask in the key that stand for what was asked.
fn in_place(mf: Mf, value: u128, mask: Option<u128>) -> Result<(Mf, u128, u128), MatchError> {
    let present = u128::from(VLAN_PRESENT);
    let kept = low128(mf.info().place.bits);
    match mf {
        Mf::DlVlan if mask == Some(0) => Ok((Mf::VlanTci, 0, 0)),
        Mf::DlVlan if value == DL_VLAN_NONE => Ok((Mf::VlanTci, 0, 0xffff)),
        Mf::DlVlan if value > 0xfff => Err(MatchError::VlanId),
        Mf::DlVlan => Ok((Mf::VlanTci, value | present, 0x1fff)),
        Mf::VlanPcp | Mf::DlVlanPcp if mask == Some(0) => Ok((mf, 0, 0)),
        Mf::VlanPcp | Mf::DlVlanPcp => Ok((Mf::VlanTci, value << 13 | present, 0xf000)),
        // A port's 16-bit number stands for the port, and is matched whole or not at all.
        Mf::InPort if mask == Some(0) => Ok((mf, 0, 0)),
        Mf::InPort if value <= 0xffff => {
            Ok((mf, u128::from(OfPort::from_16(value as u16).0), kept))
        }
        // The ECN bits of a TOS are matched by their own name.
        Mf::NwTos => Ok((mf, value, mask.unwrap_or(0xfc) & 0xfc)),
        _ if value & mask.unwrap_or(u128::MAX) > kept => Err(MatchError::TooLarge),
        _ => Ok((mf, value, mask.unwrap_or(kept) & kept)),
    }
}

/// The Ethernet type that a match asks for.
pub fn matched_eth_type(key: &FlowKey, mask: &FlowKey) -> Option<u16> {
    exact(key, mask, Field::EthType).map(|v| v as u16)
}

/// The IP protocol that a match asks for, of IPv4 or IPv6.
pub fn matched_ip_proto(key: &FlowKey, mask: &FlowKey) -> Option<u8> {
    let is_ip = matches!(matched_eth_type(key, mask), Some(eth_type::IPV4 | eth_type::IPV6));
    exact(key, mask, Field::NwProto).filter(|_| is_ip).map(|v| v as u8)
}

fn exact(key: &FlowKey, mask: &FlowKey, field: Field) -> Option<u128> {
    (mask.get(field) == field.full()).then(|| key.get(field))
}

/// Whether every packet of the match `key` under `mask` has the fields that need `prereq`.
pub fn meets(key: &FlowKey, mask: &FlowKey, prereq: Prereq) -> bool {
    let ty = matched_eth_type(key, mask);
    let is_ip = matches!(ty, Some(eth_type::IPV4 | eth_type::IPV6));
    let proto = |p: u8| matched_ip_proto(key, mask) == Some(p);
    let tracked = || {
        let (state, matched) = (key.get(Field::CtState), mask.get(Field::CtState));
        let known = state & !u128::from(CT_INV | CT_TRK) != 0;
        known || state & u128::from(CT_TRK) != 0 && matched & !state & u128::from(CT_INV) != 0
    };
    // Later fragments have no ports.
    let ports = |p: u8| proto(p) && key.get(Field::NwFrag) & u128::from(FRAG_LATER) == 0;
    let nd = |types: &[u128]| {
        ty == Some(eth_type::IPV6)
            && proto(ip_proto::ICMPV6)
            && exact(key, mask, Field::TpSrc).is_some_and(|t| types.contains(&t))
            && key.get(Field::TpDst) == 0
    };
    match prereq {
        Prereq::None => true,
        Prereq::Vlan => {
            let present = u128::from(VLAN_PRESENT);
            key.get(Field::VlanTci) & mask.get(Field::VlanTci) & present != 0
        }
        Prereq::Mpls => matches!(ty, Some(eth_type::MPLS | eth_type::MPLS_MCAST)),
        Prereq::Arp => matches!(ty, Some(eth_type::ARP | eth_type::RARP)),
        Prereq::Ipv4 => ty == Some(eth_type::IPV4),
        Prereq::Ipv6 => ty == Some(eth_type::IPV6),
        Prereq::Ip => is_ip,
        Prereq::Tcp => ports(ip_proto::TCP),
        Prereq::Udp => ports(ip_proto::UDP),
        Prereq::Sctp => ports(ip_proto::SCTP),
        Prereq::Icmp4 => ty == Some(eth_type::IPV4) && proto(ip_proto::ICMP),
        Prereq::Icmp6 => ty == Some(eth_type::IPV6) && proto(ip_proto::ICMPV6),
        Prereq::Nd => nd(&[ND_SOLICIT, ND_ADVERT]),
        Prereq::NdSolicit => nd(&[ND_SOLICIT]),
        Prereq::NdAdvert => nd(&[ND_ADVERT]),
        Prereq::Ct => is_ip && tracked(),
        Prereq::Ct4 => ty == Some(eth_type::IPV4) && tracked(),
        Prereq::Ct6 => ty == Some(eth_type::IPV6) && tracked(),
    }
}

/// Whether a match may ask for `mf`. Older names are not strict: `nw_src` is an ARP packet's
/// sender too, `tp_src` any transport's source port or an ICMP type.
pub fn may_match(b: &MatchBuilder, mf: Mf) -> bool {
    let prereq = mf.info().prereq;
    if b.meets(prereq) {
        return true;
    }
    match prereq {
        Prereq::Ipv4 => b.meets(Prereq::Arp) && matches!(mf, Mf::IpSrc | Mf::IpDst),
        Prereq::Ip => b.meets(Prereq::Arp) && mf == Mf::NwProto,
        Prereq::Tcp if mf == Mf::TcpFlags => false,
        Prereq::Tcp | Prereq::Udp | Prereq::Sctp | Prereq::Icmp4 | Prereq::Icmp6 => {
            [Prereq::Tcp, Prereq::Udp, Prereq::Sctp, Prereq::Icmp4, Prereq::Icmp6]
                .iter()
                .any(|p| b.meets(*p))
        }
        Prereq::Vlan => mf == Mf::VlanPcp,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vlans_as_the_manual_has_them() {
        let tci = |mf, v, m| {
            let mut b = MatchBuilder::new();
            b.set(mf, v, m).map(|()| (b.key.get(Field::VlanTci), b.mask.get(Field::VlanTci)))
        };
        assert_eq!(tci(Mf::DlVlan, 5, None), Ok((0x1005, 0x1fff)));
        assert_eq!(tci(Mf::DlVlan, 0xffff, None), Ok((0, 0xffff)));
        assert_eq!(tci(Mf::DlVlan, 4096, None), Err(MatchError::VlanId));
        assert_eq!(tci(Mf::DlVlanPcp, 3, None), Ok((0x7000, 0xf000)));
        assert_eq!(tci(Mf::VlanVid, 0, None), Ok((0, 0x1fff)));
        assert_eq!(tci(Mf::VlanVid, 0x1000, Some(0x1000)), Ok((0x1000, 0x1000)));
        assert_eq!(tci(Mf::VlanTci, 0, Some(0x1fff)), Ok((0, 0x1fff)));
    }

    #[test]
    fn contradictions_are_found_across_names() {
        let mut b = MatchBuilder::new();
        b.set(Mf::Xreg0, 5, None).unwrap();
        assert_eq!(b.set(Mf::Reg1, 3, None), Err(MatchError::Contradiction));
        b.set(Mf::Reg1, 5, None).unwrap();
        b.set(Mf::DlVlan, 5, None).unwrap();
        b.set(Mf::DlVlanPcp, 3, None).unwrap();
        b.set(Mf::VlanVid, 0x1000, Some(0x1000)).unwrap();
        assert_eq!(b.set(Mf::VlanTci, 0, Some(0x1fff)), Err(MatchError::Contradiction));
    }
}
