//! ARP packets (RFC 826, RFC 5227) and neighbour messages (RFC 4861) as the table needs them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flow::build::{self, Neighbour};
use flow::checksum::Sum;
use flow::extract::{Fault, eth_type, ip_proto};
use flow::key::word;
use flow::{Field, FlowKey, Offsets};

const ARP_REQUEST: u64 = 1;
const ARP_REPLY: u64 = 2;
const SOLICIT: u64 = 135;
const ADVERT: u64 = 136;
const BROADCAST: u64 = 0xffff_ffff_ffff;
const GROUP: u64 = 1 << 40;
/// All nodes on the link.
const ALL_NODES: u128 = 0xff02 << 112 | 1;

/// What a message says of its sender's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Whose.
    pub address: IpAddr,
    /// Where.
    pub mac: u64,
    /// It answers a request, so the way there and back is known to work.
    pub solicited: bool,
    /// It may replace what is known.
    pub overrides: bool,
}

/// The addresses that the switch speaks from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// Its Ethernet address on the link.
    pub mac: u64,
    /// Its IP address, of the family that is asked for.
    pub address: IpAddr,
}

/// What an ARP packet or neighbour message says; `None` for anything else, and for what RFC 4861
/// says is not to be believed. `data` is the frame (its first buffer), extracted before.
pub fn hear(data: &[u8], off: &Offsets, key: &FlowKey) -> Option<Heard> {
    let heard = if key.get64(Field::EthType) == u64::from(eth_type::ARP) {
        hear_arp(off, key)?
    } else {
        hear_nd(data, off, key)?
    };
    let host = match heard.address {
        IpAddr::V4(a) => !a.is_unspecified() && !a.is_multicast() && !a.is_broadcast(),
        IpAddr::V6(a) => !a.is_unspecified() && !a.is_multicast(),
    };
    (host && heard.mac != 0 && heard.mac & GROUP == 0).then_some(heard)
}

fn hear_arp(off: &Offsets, key: &FlowKey) -> Option<Heard> {
    let op = key.get64(Field::NwProto);
    if off.fault != Fault::None || !matches!(op, ARP_REQUEST | ARP_REPLY) {
        return None;
    }
    let unicast = key.get64(Field::EthDst) & GROUP == 0;
    Some(Heard {
        address: v4(key, Field::NwSrc),
        mac: key.get64(Field::ArpSha),
        solicited: op == ARP_REPLY && unicast,
        overrides: true,
    })
}

fn hear_nd(data: &[u8], off: &Offsets, key: &FlowKey) -> Option<Heard> {
    const SOLICITED: u64 = 1 << 30;
    const OVERRIDE: u64 = 1 << 29;
    if !sound_nd(data, off, key) {
        return None;
    }
    let flags = key.get64(Field::NdReserved);
    if key.get64(Field::TpSrc) == ADVERT {
        let multicast = key.get(Field::Ipv6Dst) >> 120 == 0xff;
        let solicited = flags & SOLICITED != 0;
        return (!(multicast && solicited)).then(|| Heard {
            address: v6(key, Field::NdTarget),
            mac: key.get64(Field::ArpTha),
            solicited,
            overrides: flags & OVERRIDE != 0,
        });
    }
    Some(Heard {
        address: v6(key, Field::Ipv6Src),
        mac: key.get64(Field::ArpSha),
        solicited: false,
        overrides: true,
    })
}

/// The checks of RFC 4861 sections 7.1.1 and 7.1.2 that extraction has not made.
fn sound_nd(data: &[u8], off: &Offsets, key: &FlowKey) -> bool {
    let ty = key.get64(Field::TpSrc);
    let target = key.get(Field::NdTarget);
    if off.proto != ip_proto::ICMPV6
        || !matches!(ty, SOLICIT | ADVERT)
        || target == 0
        || target >> 120 == 0xff
        || key.get64(Field::NwTtl) != 255
        || key.get64(Field::NwFrag) != 0
    {
        return false;
    }
    let Some(message) = data.get(usize::from(off.l4)..usize::from(off.end)) else { return false };
    let (src, dst) = (key.get(Field::Ipv6Src), key.get(Field::Ipv6Dst));
    let sum = Sum::pseudo_v6(src, dst, ip_proto::ICMPV6, message.len() as u32);
    sum.bytes(message).folded() == 0xffff
}

fn v4(key: &FlowKey, field: Field) -> IpAddr {
    Ipv4Addr::from(key.get64(field) as u32).into()
}

fn v6(key: &FlowKey, field: Field) -> IpAddr {
    Ipv6Addr::from(key.get(field)).into()
}

/// The frame that asks for an address: everybody, or the one who had it. `None` if the own
/// address is of another family.
pub fn request(target: IpAddr, own: &Own, to: Option<u64>) -> Option<Vec<u8>> {
    match (target, own.address) {
        (IpAddr::V4(target), IpAddr::V4(src)) => {
            let dst = to.unwrap_or(BROADCAST);
            let (spa, tpa) = (src.into(), target.into());
            Some(build::arp_frame(ARP_REQUEST as u8, dst, own.mac, spa, 0, tpa))
        }
        (IpAddr::V6(target), IpAddr::V6(src)) => {
            let target = u128::from(target);
            let dst = if to.is_some() { target } else { build::solicited_node(target) };
            let eth_dst = to.unwrap_or(build::multicast_mac(dst));
            Some(Neighbour { eth_dst, eth_src: own.mac, src: src.into(), dst, target }.solicit())
        }
        _ => None,
    }
}

/// The frame that answers a request for one of the switch's own addresses, tags as on the
/// request; `None` if it is no request, or for none of them. `mac_of` gives the Ethernet address
/// of an own IP address; `router` is whether neighbours are told that they may route by it, without which
/// an IPv6 host gives its default route up (RFC 4861 section 7.2.5).
pub fn answer(
    data: &[u8],
    off: &Offsets,
    key: &FlowKey,
    router: bool,
    mac_of: impl Fn(IpAddr) -> Option<u64>,
) -> Option<Vec<u8>> {
    if key.get64(Field::EthType) == u64::from(eth_type::ARP) {
        return answer_arp(off, key, mac_of);
    }
    if !sound_nd(data, off, key) || key.get64(Field::TpSrc) != SOLICIT {
        return None;
    }
    let mac = mac_of(v6(key, Field::NdTarget))?;
    let asker = key.get(Field::Ipv6Src);
    let sll = key.get64(Field::ArpSha);
    // Asked by nobody: somebody wants to take the address, and all are told that it is taken.
    let (dst, eth_dst) = match asker {
        0 => (ALL_NODES, build::multicast_mac(ALL_NODES)),
        _ => (asker, if sll != 0 { sll } else { key.get64(Field::EthSrc) }),
    };
    let (src, target) = (key.get(Field::NdTarget), key.get(Field::NdTarget));
    let frame = Neighbour { eth_dst, eth_src: mac, src, dst, target }.advertise(router, asker != 0);
    Some(tagged(frame, key))
}

fn answer_arp(
    off: &Offsets,
    key: &FlowKey,
    mac_of: impl Fn(IpAddr) -> Option<u64>,
) -> Option<Vec<u8>> {
    if off.fault != Fault::None || key.get64(Field::NwProto) != ARP_REQUEST {
        return None;
    }
    let mac = mac_of(v4(key, Field::NwDst))?;
    if mac_of(v4(key, Field::NwSrc)).is_some() {
        return None; // From one of our own addresses: a conflict, or ourselves.
    }
    let (asker, spa) = (key.get64(Field::ArpSha), key.get64(Field::NwSrc) as u32);
    if asker == 0 || asker & GROUP != 0 {
        return None;
    }
    let tpa = key.get64(Field::NwDst) as u32;
    Some(tagged(build::arp_frame(ARP_REPLY as u8, asker, mac, tpa, asker, spa), key))
}

/// The frame with the tags of the packet that it answers.
fn tagged(frame: Vec<u8>, request: &FlowKey) -> Vec<u8> {
    let tci = request.get64(Field::VlanTci) as u16;
    if tci == 0 {
        return frame;
    }
    let tag = |tpid: u64, tci: u16| {
        let tci = tci & !flow::extract::VLAN_PRESENT;
        [(tpid as u16).to_be_bytes(), tci.to_be_bytes()].concat()
    };
    let mut tags = tag(request.get64(Field::VlanTpid), tci);
    let inner = (request.word(word::VLAN) >> 32) as u16;
    if inner != 0 {
        tags.extend(tag(request.get64(Field::Vlan1Tpid), inner));
    }
    [&frame[..12], &tags, &frame[12..]].concat()
}
