//! What bytes does a flow key describe, and what messages does the switch itself send?
//!
//! For the control side: traces that generate a packet, neighbour requests and answers, ICMP
//! errors. Frames are plain vectors; nothing here runs per packet.
//!
//! Invariant: a composed frame is sound, its checksums are right, and extraction gives back the
//! packet fields of the key as far as they can stand in one frame.
//!
//! Must not know: ports, tables, who the frame is for.

use crate::checksum::{Sum, checksum, nonzero};
use crate::crc32c::of_sctp;
use crate::extract::{FRAG_ANY, FRAG_LATER, VLAN_PRESENT, eth_type, ip_proto};
use crate::fields::Field;
use crate::key::FlowKey;

/// Length of an Ethernet frame without its FCS that is not too short for a wire.
pub const MIN_FRAME: usize = 60;

/// The frame that a key describes, with that payload behind its innermost header.
///
/// Fields that the key's type and protocol have no place for are passed over. IPv4 fragments that
/// are not the first get an offset of 1480 bytes. Not padded to [`MIN_FRAME`].
pub fn compose(key: &FlowKey, payload: &[u8]) -> Vec<u8> {
    let ty = key.get64(Field::EthType) as u16;
    let body = match ty {
        eth_type::IPV4 => ipv4(key, payload),
        eth_type::IPV6 => ipv6(key, payload),
        eth_type::ARP | eth_type::RARP => arp(key),
        eth_type::MPLS | eth_type::MPLS_MCAST => mpls(key, payload),
        _ => payload.to_vec(),
    };
    let mut frame = Vec::with_capacity(body.len() + 22);
    put(&mut frame, key.get(Field::EthDst), 6);
    put(&mut frame, key.get(Field::EthSrc), 6);
    for (tci, tpid) in [(Field::VlanTci, Field::VlanTpid), (Field::Vlan1Tci, Field::Vlan1Tpid)] {
        let (tci, tpid) = (key.get64(tci) as u16, key.get64(tpid) as u16);
        if tci & VLAN_PRESENT == 0 {
            break;
        }
        put(&mut frame, if tpid == 0 { eth_type::VLAN } else { tpid }, 2);
        put(&mut frame, tci & !VLAN_PRESENT, 2);
    }
    // An 802.3 frame has its length where others have the type.
    let ty = if ty < eth_type::MIN { body.len().min(1500) as u16 } else { ty };
    put(&mut frame, ty, 2);
    frame.extend(body);
    frame
}

/// Append the low `bytes` bytes of a number.
fn put(out: &mut Vec<u8>, value: impl Into<u128>, bytes: usize) {
    out.extend_from_slice(&value.into().to_be_bytes()[16 - bytes..]);
}

fn ipv4(key: &FlowKey, payload: &[u8]) -> Vec<u8> {
    let (src, dst) = (key.get64(Field::NwSrc) as u32, key.get64(Field::NwDst) as u32);
    let proto = key.get64(Field::NwProto) as u8;
    let frag = key.get64(Field::NwFrag) as u8;
    let pseudo = |length| Sum::pseudo_v4(src, dst, proto, length);
    let l4 = l4(key, proto, frag, payload, pseudo);
    let mut h = vec![0x45];
    put(&mut h, key.get(Field::NwTos), 1);
    put(&mut h, (20 + l4.len()).min(0xffff) as u16, 2);
    put(&mut h, 0u16, 2);
    let offset = if frag & FRAG_LATER != 0 { 1480 / 8 } else { 0 };
    let first = frag & FRAG_ANY != 0 && frag & FRAG_LATER == 0;
    put(&mut h, offset | if first { 0x2000u16 } else { 0 }, 2);
    put(&mut h, key.get(Field::NwTtl), 1);
    put(&mut h, proto, 1);
    put(&mut h, 0u16, 2);
    put(&mut h, src, 4);
    put(&mut h, dst, 4);
    let sum = checksum(&h).to_be_bytes();
    h[10..12].copy_from_slice(&sum);
    h.extend(l4);
    h
}

fn ipv6(key: &FlowKey, payload: &[u8]) -> Vec<u8> {
    let (src, dst) = (key.get(Field::Ipv6Src), key.get(Field::Ipv6Dst));
    let proto = key.get64(Field::NwProto) as u8;
    let frag = key.get64(Field::NwFrag) as u8;
    let pseudo = |length| Sum::pseudo_v6(src, dst, proto, length);
    let mut l4 = l4(key, proto, frag, payload, pseudo);
    let mut next = proto;
    if frag & FRAG_ANY != 0 {
        let later = frag & FRAG_LATER != 0;
        let inner = if proto == ip_proto::FRAGMENT { ip_proto::NONE } else { proto };
        let field = if later { 1480 } else { 1u16 };
        let mut header = vec![inner, 0];
        put(&mut header, field, 2);
        put(&mut header, 0u32, 4);
        l4.splice(0..0, header);
        next = ip_proto::FRAGMENT;
    }
    let mut h = Vec::with_capacity(40 + l4.len());
    let tos = key.get64(Field::NwTos) as u32;
    put(&mut h, 6 << 28 | tos << 20 | key.get64(Field::Ipv6Label) as u32 & 0xf_ffff, 4);
    put(&mut h, l4.len().min(0xffff) as u16, 2);
    put(&mut h, next, 1);
    put(&mut h, key.get(Field::NwTtl), 1);
    put(&mut h, src, 16);
    put(&mut h, dst, 16);
    h.extend(l4);
    h
}

/// The L4 header, its checksum filled in, and the payload.
fn l4(key: &FlowKey, proto: u8, frag: u8, payload: &[u8], pseudo: impl Fn(u32) -> Sum) -> Vec<u8> {
    if frag & FRAG_LATER != 0 {
        return payload.to_vec();
    }
    let mut h = Vec::new();
    let (src, dst) = (key.get(Field::TpSrc), key.get(Field::TpDst));
    let checksum_at = match proto {
        ip_proto::TCP => {
            put(&mut h, src, 2);
            put(&mut h, dst, 2);
            h.extend([0; 8]);
            put(&mut h, 0x5000 | key.get(Field::TcpFlags) & 0xfff, 2);
            h.extend([0xff, 0xff, 0, 0, 0, 0]);
            16
        }
        ip_proto::UDP => {
            put(&mut h, src, 2);
            put(&mut h, dst, 2);
            put(&mut h, (8 + payload.len()).min(0xffff) as u16, 2);
            h.extend([0, 0]);
            6
        }
        ip_proto::SCTP => {
            put(&mut h, src, 2);
            put(&mut h, dst, 2);
            h.extend([0; 8]);
            h.extend_from_slice(payload);
            let crc = of_sctp(std::iter::once(&h[..]));
            h[8..12].copy_from_slice(&crc.to_le_bytes());
            return h;
        }
        ip_proto::ICMP | ip_proto::IGMP | ip_proto::ICMPV6 => {
            h.extend([src as u8, dst as u8, 0, 0]);
            icmp_rest(key, proto, &mut h);
            2
        }
        _ => return payload.to_vec(),
    };
    h.extend_from_slice(payload);
    let sum = match proto {
        ip_proto::ICMP | ip_proto::IGMP => Sum::new(),
        _ => pseudo(h.len() as u32),
    };
    let sum = sum.bytes(&h).checksum();
    let sum = if proto == ip_proto::UDP { nonzero(sum) } else { sum };
    h[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
    h
}

/// What follows an ICMP checksum: four bytes, and the rest of a neighbour message.
fn icmp_rest(key: &FlowKey, proto: u8, h: &mut Vec<u8>) {
    const SOURCE_LL: u8 = 1;
    const TARGET_LL: u8 = 2;
    put(h, key.get(Field::NdReserved), 4);
    let target = key.get(Field::NdTarget);
    if proto != ip_proto::ICMPV6 || !matches!(h[0], 135 | 136) || h[1] != 0 || target == 0 {
        return;
    }
    put(h, target, 16);
    let mut options = [(SOURCE_LL, key.get(Field::ArpSha)), (TARGET_LL, key.get(Field::ArpTha))];
    if key.get(Field::NdOptionsType) == u128::from(TARGET_LL) {
        options.reverse();
    }
    for (option, address) in options {
        if address != 0 {
            h.extend([option, 1]);
            put(h, address, 6);
        }
    }
}

fn arp(key: &FlowKey) -> Vec<u8> {
    let mut a = vec![0, 1, 8, 0, 6, 4, 0];
    put(&mut a, key.get(Field::NwProto), 1);
    put(&mut a, key.get(Field::ArpSha), 6);
    put(&mut a, key.get(Field::NwSrc), 4);
    put(&mut a, key.get(Field::ArpTha), 6);
    put(&mut a, key.get(Field::NwDst), 4);
    a
}

fn mpls(key: &FlowKey, payload: &[u8]) -> Vec<u8> {
    const BOTTOM: u128 = 0x100;
    let mut out = Vec::new();
    for f in [Field::Mpls0, Field::Mpls1, Field::Mpls2] {
        put(&mut out, key.get(f), 4);
        if key.get(f) & BOTTOM != 0 {
            break;
        }
    }
    out.extend_from_slice(payload);
    out
}

/// The IP packet of a TCP segment without payload or options, of a key's addresses, ports and flags.
pub fn tcp_packet(key: &FlowKey, seq: u32, ack: u32) -> Vec<u8> {
    let v6 = key.get64(Field::EthType) as u16 == eth_type::IPV6;
    let mut packet = if v6 { ipv6(key, &[]) } else { ipv4(key, &[]) };
    let at = if v6 { 40 } else { 20 };
    let window = 0u16;
    packet[at + 4..at + 8].copy_from_slice(&seq.to_be_bytes());
    packet[at + 8..at + 12].copy_from_slice(&ack.to_be_bytes());
    packet[at + 14..at + 16].copy_from_slice(&window.to_be_bytes());
    packet[at + 16..at + 18].fill(0);
    let pseudo = match v6 {
        true => Sum::pseudo_v6(key.get(Field::Ipv6Src), key.get(Field::Ipv6Dst), ip_proto::TCP, 20),
        false => {
            let (src, dst) = (key.get64(Field::NwSrc) as u32, key.get64(Field::NwDst) as u32);
            Sum::pseudo_v4(src, dst, ip_proto::TCP, 20)
        }
    };
    let sum = pseudo.bytes(&packet[at..]).checksum().to_be_bytes();
    packet[at + 16..at + 18].copy_from_slice(&sum);
    packet
}

/// An ARP packet in a frame of [`MIN_FRAME`] bytes. Addresses are numbers as in the key.
pub fn arp_frame(op: u8, eth_dst: u64, sha: u64, spa: u32, tha: u64, tpa: u32) -> Vec<u8> {
    let mut k = FlowKey::default();
    k.set(Field::EthDst, eth_dst.into());
    k.set(Field::EthSrc, sha.into());
    k.set(Field::EthType, eth_type::ARP.into());
    k.set(Field::NwProto, op.into());
    k.set(Field::ArpSha, sha.into());
    k.set(Field::NwSrc, spa.into());
    k.set(Field::ArpTha, tha.into());
    k.set(Field::NwDst, tpa.into());
    let mut frame = compose(&k, &[]);
    frame.resize(MIN_FRAME, 0);
    frame
}

/// The solicited-node multicast address of an IPv6 address (RFC 4291 section 2.7.1).
pub const fn solicited_node(address: u128) -> u128 {
    0xff02_0000_0000_0000_0000_0001_ff00_0000 | address & 0xff_ffff
}

/// The Ethernet address of an IPv6 multicast address (RFC 2464 section 7).
pub const fn multicast_mac(address: u128) -> u64 {
    0x3333_0000_0000 | (address as u64 & 0xffff_ffff)
}

/// A neighbour solicitation or advertisement (RFC 4861 sections 4.3 and 4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The frame's addresses.
    pub eth_dst: u64,
    /// The sender's Ethernet address; also the link-layer option's.
    pub eth_src: u64,
    /// The packet's addresses.
    pub src: u128,
    /// Destination: a host, solicited-node or all-nodes address.
    pub dst: u128,
    /// Whose address is asked for or told.
    pub target: u128,
}

impl Neighbour {
    /// A solicitation with the source link-layer option (which RFC 4861 forbids from the
    /// unspecified address, so it is left out there).
    pub fn solicit(&self) -> Vec<u8> {
        self.frame(135, 0, if self.src == 0 { None } else { Some(Field::ArpSha) })
    }

    /// A solicited, overriding advertisement with the target link-layer option. `router` says
    /// that the sender routes; `solicited` that it answers somebody.
    pub fn advertise(&self, router: bool, solicited: bool) -> Vec<u8> {
        const OVERRIDE: u32 = 1 << 29;
        let flags = u32::from(router) << 31 | u32::from(solicited) << 30 | OVERRIDE;
        self.frame(136, flags, Some(Field::ArpTha))
    }

    fn frame(&self, ty: u8, flags: u32, option: Option<Field>) -> Vec<u8> {
        let mut k = FlowKey::default();
        k.set(Field::EthDst, self.eth_dst.into());
        k.set(Field::EthSrc, self.eth_src.into());
        k.set(Field::EthType, eth_type::IPV6.into());
        k.set(Field::Ipv6Src, self.src);
        k.set(Field::Ipv6Dst, self.dst);
        k.set(Field::NwProto, ip_proto::ICMPV6.into());
        k.set(Field::NwTtl, 255);
        k.set(Field::TpSrc, ty.into());
        k.set(Field::NdReserved, flags.into());
        k.set(Field::NdTarget, self.target);
        if let Some(option) = option {
            k.set(option, self.eth_src.into());
        }
        compose(&k, &[])
    }
}

/// An ICMP or ICMPv6 error about a packet, quoting it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// ICMP type.
    pub ty: u8,
    /// ICMP code.
    pub code: u8,
    /// The four bytes behind the checksum: the MTU for "too big", else 0.
    pub rest: u32,
}

/// Bytes of an ICMP error's whole IPv4 packet (RFC 1812 section 4.3.2.3) and IPv6 packet
/// (RFC 4443 section 2.4).
const ICMP_MAX: usize = 576;
const ICMPV6_MAX: usize = 1280;

impl IcmpError {
    /// IPv4: fragmentation needed and DF set (RFC 1191); IPv6: packet too big (RFC 4443).
    pub fn too_big(v6: bool, mtu: u16) -> IcmpError {
        let (ty, code) = if v6 { (2, 0) } else { (3, 4) };
        IcmpError { ty, code, rest: mtu.into() }
    }

    /// Time exceeded in transit.
    pub fn time_exceeded(v6: bool) -> IcmpError {
        IcmpError { ty: if v6 { 3 } else { 11 }, code: 0, rest: 0 }
    }

    /// The error as an IP packet from `src` to `dst`, about `original`, an IP packet from its
    /// first header on, quoted as far as the limits allow.
    pub fn packet_v4(&self, src: u32, dst: u32, ttl: u8, original: &[u8]) -> Vec<u8> {
        let mut k = FlowKey::default();
        k.set(Field::NwSrc, src.into());
        k.set(Field::NwDst, dst.into());
        k.set(Field::NwProto, ip_proto::ICMP.into());
        ipv4(&self.key(k, ttl), &original[..original.len().min(ICMP_MAX - 28)])
    }

    /// [`IcmpError::packet_v4`] for IPv6.
    pub fn packet_v6(&self, src: u128, dst: u128, ttl: u8, original: &[u8]) -> Vec<u8> {
        let mut k = FlowKey::default();
        k.set(Field::Ipv6Src, src);
        k.set(Field::Ipv6Dst, dst);
        k.set(Field::NwProto, ip_proto::ICMPV6.into());
        ipv6(&self.key(k, ttl), &original[..original.len().min(ICMPV6_MAX - 48)])
    }

    fn key(&self, mut k: FlowKey, ttl: u8) -> FlowKey {
        k.set(Field::NwTtl, ttl.into());
        // Precedence "internetwork control" (RFC 1812 section 4.3.2.5).
        k.set(Field::NwTos, 0xc0);
        k.set(Field::TpSrc, self.ty.into());
        k.set(Field::TpDst, self.code.into());
        k.set(Field::NdReserved, self.rest.into());
        k
    }
}
