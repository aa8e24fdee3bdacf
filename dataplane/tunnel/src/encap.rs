//! How is an outer header put in front of a packet?
//!
//! An [`Encap`] is made once per (tunnel, next hop, fields that translation chose): the bytes of
//! all outer headers with sums taken as far as they can be. Per packet it is copied in front and
//! lengths, identification, source port and checksums are filled in.
//!
//! An unfinished checksum inside is finished first, since a checksum outside covers it and the
//! remote end cannot know of it.
//!
//! Must not know: how the next hop was found, which bridge the outer packet crosses.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use afxdp::{NoRoom, Packet, Segmentation};
use flow::checksum::{self, Sum};
use flow::extract::{eth_type, ip_proto};
use flow::{Drop, Offsets};

use crate::config::Kind;
use crate::flags;

/// Bytes of the longest header: Ethernet, IPv6, and UDP with VXLAN, or GRE with all its fields.
pub const MAX_HEADER: usize = 14 + 40 + 16;

/// Bytes of a template: the longest header, and few that are copied for nothing.
const BLOCK: usize = 80;

/// GRE flags (RFC 2784, RFC 2890).
pub(crate) const GRE_CSUM: u16 = 0x8000;
pub(crate) const GRE_KEY: u16 = 0x2000;
pub(crate) const GRE_SEQ: u16 = 0x1000;
/// Transparent Ethernet bridging: the payload is an Ethernet frame.
pub(crate) const ETH_TYPE_TEB: u16 = 0x6558;
/// VXLAN's I flag: there is a VNI.
pub(crate) const VXLAN_I: u8 = 0x08;

/// Where headers are in the template.
pub(crate) const L3: usize = 14;
pub(crate) const IPV4_LENGTH: usize = L3 + 2;
const IPV4_ID: usize = L3 + 4;
pub(crate) const IPV4_CHECKSUM: usize = L3 + 10;
const IPV6_LENGTH: usize = L3 + 4;

/// Source ports are spread over the range that hosts use for their own (as in Linux and Open
/// vSwitch).
pub const SRC_PORTS: std::ops::RangeInclusive<u16> = 32768..=60999;

/// The outer header's fields, as translation decides them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Encapsulation.
    pub kind: Kind,
    /// Remote address.
    pub dst: IpAddr,
    /// DSCP and ECN.
    pub tos: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// [`flags`]: `DF`, `CSUM`, `KEY`, `OAM`.
    pub flags: u16,
    /// Tunnel id; GRE has it if `KEY` is in the flags.
    pub id: u64,
    /// Whether GRE packets are numbered.
    pub seq: bool,
    /// UDP destination port.
    pub dst_port: u16,
}

/// The next hop's and the own Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Destination of the outer frame.
    pub dst: u64,
    /// Its source.
    pub src: u64,
}

/// What one worker remembers from packet to packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sender {
    /// The last identification of an IPv4 packet that may be fragmented.
    ip_id: u16,
}

/// A tunnel's GRE sequence number, counted by all workers. Equal only to itself.
#[derive(Clone, Debug, Default)]
pub struct Sequence(Arc<AtomicU32>);

impl PartialEq for Sequence {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Sequence {}

/// A header template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encap {
    /// The header's bytes, at the end.
    pub(crate) block: [u8; BLOCK],
    len: u8,
    pub(crate) kind: Kind,
    v6: bool,
    df: bool,
    csum: bool,
    seq: Option<Sequence>,
    /// IPv4: the header's sum without length and identification. IPv6: unused.
    ip_sum: u16,
    /// The pseudo header's sum without the length.
    pseudo: u16,
}

/// Local and remote address are of two families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the outer source and destination address are of different IP versions")]
pub struct FamilyMismatch;

impl Encap {
    /// The template for packets from `src`. `seq` is the tunnel's counter, used if the header has
    /// a sequence number.
    ///
    /// # Errors
    /// If `src` is of another family than the destination.
    pub fn new(
        outer: &Outer,
        src: IpAddr,
        link: Link,
        seq: &Sequence,
    ) -> Result<Encap, FamilyMismatch> {
        let mut h = Vec::with_capacity(MAX_HEADER);
        h.extend_from_slice(&link.dst.to_be_bytes()[2..]);
        h.extend_from_slice(&link.src.to_be_bytes()[2..]);
        let proto = if outer.kind == Kind::Gre { ip_proto::GRE } else { ip_proto::UDP };
        let pseudo = ip_header(&mut h, outer, src, proto).ok_or(FamilyMismatch)?;
        let v6 = outer.dst.is_ipv6();
        // UDP over IPv6 has a checksum (RFC 8200), and receivers may insist on it.
        let csum = outer.flags & flags::CSUM != 0 || v6 && outer.kind != Kind::Gre;
        match outer.kind {
            Kind::Vxlan => {
                udp_header(&mut h, outer.dst_port);
                h.extend_from_slice(&[VXLAN_I, 0, 0, 0]);
                h.extend_from_slice(&((outer.id as u32) << 8).to_be_bytes());
            }
            Kind::Geneve => {
                udp_header(&mut h, outer.dst_port);
                let oam = if outer.flags & flags::OAM != 0 { 0x80 } else { 0 };
                h.extend_from_slice(&[0, oam]);
                h.extend_from_slice(&ETH_TYPE_TEB.to_be_bytes());
                h.extend_from_slice(&((outer.id as u32) << 8).to_be_bytes());
            }
            Kind::Gre => gre_header(&mut h, outer),
        }
        let mut block = [0; BLOCK];
        block[BLOCK - h.len()..].copy_from_slice(&h);
        Ok(Encap {
            len: h.len() as u8,
            kind: outer.kind,
            v6,
            df: outer.flags & flags::DF != 0,
            csum,
            seq: (outer.seq && outer.kind == Kind::Gre).then(|| seq.clone()),
            ip_sum: Sum::new().bytes(&h[L3..L3 + 20]).folded(),
            pseudo: pseudo.folded(),
            block,
        })
    }

    /// Bytes put in front of a packet, the outer Ethernet header with them.
    #[inline]
    pub fn overhead(&self) -> usize {
        usize::from(self.len)
    }

    /// The longest inner frame, Ethernet header included, whose outer IP packet fits an MTU.
    pub fn max_frame(&self, mtu: usize) -> usize {
        (mtu + L3).saturating_sub(self.overhead())
    }

    /// Whether outer packets may not be fragmented on their way.
    pub fn df(&self) -> bool {
        self.df || self.v6
    }

    /// Put the outer headers in front of `packet`. `hash` is its flow's
    /// ([`flow::FlowKey::flow_hash`]), for the entropy of the outer header.
    ///
    /// # Errors
    /// The packet is unchanged, but for a finished checksum: [`Drop::TooBig`] if no IP packet can
    /// hold it, [`Drop::NoHeadroom`] without room in front, [`Drop::Unsupported`] for a packet
    /// that is still to be cut into segments.
    #[inline]
    pub fn push(
        &self,
        packet: &mut Packet,
        hash: u64,
        sender: &mut Sender,
    ) -> Result<Offsets, Drop> {
        if packet.segmentation() != Segmentation::None {
            return Err(Drop::Unsupported);
        }
        checksum::finish_partial(packet);
        let n = self.overhead();
        let ip_length = packet.len() + n - L3;
        if ip_length > usize::from(u16::MAX) {
            return Err(Drop::TooBig);
        }
        let head = match packet.push_front_block(&self.block, n) {
            Ok(block) => &mut block[BLOCK - n..],
            Err(NoRoom) => {
                let head = packet.push_front(n).map_err(|_| Drop::NoHeadroom)?;
                head.copy_from_slice(&self.block[BLOCK - n..]);
                head
            }
        };
        let l4 = if self.v6 {
            let Some(ip) = head.first_chunk_mut::<{ L3 + 40 }>() else {
                return Err(Drop::NoHeadroom);
            };
            put16(ip, IPV6_LENGTH, (ip_length - 40) as u16);
            // The flow label carries the entropy too (RFC 6438), beside what is there.
            let label = (hash >> 32) as u32 & 0xf_ffff;
            ip[L3 + 1] |= (label >> 16) as u8;
            put16(ip, L3 + 2, label as u16);
            L3 + 40
        } else {
            let Some(ip) = head.first_chunk_mut::<{ L3 + 20 }>() else {
                return Err(Drop::NoHeadroom);
            };
            let id = if self.df { 0 } else { sender.next_id() };
            put16(ip, IPV4_LENGTH, ip_length as u16);
            put16(ip, IPV4_ID, id);
            put16(ip, IPV4_CHECKSUM, self.ipv4_checksum(ip_length as u16, id));
            L3 + 20
        };
        let l4_length = ip_length + L3 - l4;
        if self.kind == Kind::Gre {
            if let Some(Sequence(seq)) = &self.seq {
                let number = seq.fetch_add(1, Ordering::Relaxed);
                head[n - 4..].copy_from_slice(&number.to_be_bytes());
            }
        } else if let Some(udp) = head.get_mut(l4..).and_then(|h| h.first_chunk_mut::<8>()) {
            put16(udp, 0, source_port(hash));
            put16(udp, 4, l4_length as u16);
        }
        if self.csum {
            self.l4_checksum(packet, l4, l4_length);
        }
        Ok(self.offsets(packet.len()))
    }

    /// What is where in a packet of that length that has the outer headers in front.
    #[inline]
    pub fn offsets(&self, len: usize) -> Offsets {
        let l4 = (L3 + if self.v6 { 40 } else { 20 }) as u16;
        let proto = if self.kind == Kind::Gre { 0 } else { ip_proto::UDP };
        let end = len.min(usize::from(u16::MAX)) as u16;
        Offsets { l3: L3 as u16, l4, end, proto, ..Offsets::default() }
    }

    /// Whether headers differ from packet to packet in no more than lengths, their checksum and the source
    /// port.
    #[inline]
    pub(crate) fn is_same_for_all(&self) -> bool {
        self.df && !self.v6 && !self.csum && self.seq.is_none()
    }

    #[inline(always)]
    pub(crate) fn ipv4_checksum(&self, length: u16, id: u16) -> u16 {
        Sum::new().u16(self.ip_sum).u16(length).u16(id).checksum()
    }

    fn l4_checksum(&self, packet: &mut Packet, l4: usize, length: usize) {
        let sum = checksum::sum_from(packet, l4, length);
        if self.kind == Kind::Gre {
            put_at(packet, l4 + 4, sum.checksum());
        } else {
            let sum = sum.folded();
            let whole = Sum::new().u16(sum).u16(self.pseudo).u16(length as u16);
            put_at(packet, l4 + 6, whole.udp_checksum());
        }
    }
}

impl std::fmt::Display for Encap {
    /// `vxlan(src=10.0.0.1,dst=10.0.0.2,id=5,eth_dst=02:00:00:00:00:01)`, an id only if there is
    /// one.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let h = &self.block[BLOCK - usize::from(self.len)..];
        let address = |at: usize| -> IpAddr {
            if self.v6 {
                let a: [u8; 16] = std::array::from_fn(|i| h[L3 + 8 + 16 * at + i]);
                a.into()
            } else {
                let a: [u8; 4] = std::array::from_fn(|i| h[L3 + 12 + 4 * at + i]);
                a.into()
            }
        };
        write!(f, "{}(src={},dst={}", self.kind.name(), address(0), address(1))?;
        let word = |at: usize| u32::from_be_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
        let l4 = L3 + if self.v6 { 40 } else { 20 };
        match self.kind {
            Kind::Vxlan | Kind::Geneve => write!(f, ",id={}", word(l4 + 12) >> 8)?,
            Kind::Gre => {
                let bits = u16::from_be_bytes([h[l4], h[l4 + 1]]);
                let at = l4 + 4 + if bits & GRE_CSUM != 0 { 4 } else { 0 };
                if bits & GRE_KEY != 0 {
                    write!(f, ",id={}", word(at))?;
                }
            }
        }
        let mac: Vec<String> = h[..6].iter().map(|b| format!("{b:02x}")).collect();
        write!(f, ",eth_dst={})", mac.join(":"))
    }
}

impl Sender {
    #[inline]
    fn next_id(&mut self) -> u16 {
        self.ip_id = self.ip_id.wrapping_add(1);
        self.ip_id
    }
}

/// The outer source port of a flow.
#[inline]
pub fn source_port(hash: u64) -> u16 {
    let (first, last) = (*SRC_PORTS.start(), *SRC_PORTS.end());
    let span = u64::from(last - first) + 1;
    first + (((hash & 0xffff_ffff) * span) >> 32) as u16
}

#[inline(always)]
pub(crate) fn put16<const N: usize>(bytes: &mut [u8; N], at: usize, value: u16) {
    [bytes[at], bytes[at + 1]] = value.to_be_bytes();
}

fn put_at(packet: &mut Packet, at: usize, value: u16) {
    packet.data_mut()[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Ethernet type and IP header, lengths and identification zero. The pseudo header's sum, or
/// `None` if the families differ.
fn ip_header(h: &mut Vec<u8>, outer: &Outer, src: IpAddr, proto: u8) -> Option<Sum> {
    match (src, outer.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let df = if outer.flags & flags::DF != 0 { 0x40 } else { 0 };
            h.extend_from_slice(&eth_type::IPV4.to_be_bytes());
            h.extend_from_slice(&[0x45, outer.tos, 0, 0, 0, 0, df, 0, outer.ttl, proto, 0, 0]);
            h.extend_from_slice(&src.octets());
            h.extend_from_slice(&dst.octets());
            Some(Sum::pseudo_v4(src.into(), dst.into(), proto, 0))
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            h.extend_from_slice(&eth_type::IPV6.to_be_bytes());
            h.extend_from_slice(&(6 << 28 | u32::from(outer.tos) << 20).to_be_bytes());
            h.extend_from_slice(&[0, 0, proto, outer.ttl]);
            h.extend_from_slice(&src.octets());
            h.extend_from_slice(&dst.octets());
            Some(Sum::pseudo_v6(src.into(), dst.into(), proto, 0))
        }
        _ => None,
    }
}

/// Ports, with source port, length and checksum zero.
fn udp_header(h: &mut Vec<u8>, dst_port: u16) {
    h.extend_from_slice(&[0, 0]);
    h.extend_from_slice(&dst_port.to_be_bytes());
    h.extend_from_slice(&[0; 4]);
}

fn gre_header(h: &mut Vec<u8>, outer: &Outer) {
    let has = |bit, gre| if outer.flags & bit != 0 { gre } else { 0 };
    let seq = if outer.seq { GRE_SEQ } else { 0 };
    let f = has(flags::CSUM, GRE_CSUM) | has(flags::KEY, GRE_KEY) | seq;
    h.extend_from_slice(&f.to_be_bytes());
    h.extend_from_slice(&ETH_TYPE_TEB.to_be_bytes());
    if f & GRE_CSUM != 0 {
        h.extend_from_slice(&[0; 4]);
    }
    if f & GRE_KEY != 0 {
        h.extend_from_slice(&(outer.id as u32).to_be_bytes());
    }
    if f & GRE_SEQ != 0 {
        h.extend_from_slice(&[0; 4]);
    }
}
