//! What does the tracker read in a packet?
//!
//! [`Input`] is what the caller hands over; [`Seen`] is what was read of it, checked: the tuple,
//! and what the protocol's state machine needs. Everything is read from the bytes, never from a
//! flow key, so that header edits before tracking are seen.
//!
//! Whatever is wrong with the packet gives an [`Invalid`], never a panic: lengths are believed
//! only after they were compared with the bytes that are there.
//!
//! Must not know: connections.

mod invalid;
mod quote;

use afxdp::{Checksum, Packet};
use flow::checksum::{Sum, slices, verify_l4};
use flow::extract::{Fault, Offsets, ext_headers, ip_proto};

pub use invalid::Invalid;
pub(crate) use quote::Quote;
use quote::gre_key;

use crate::tcp::Segment;
use crate::tuple::{Tuple, is_answer, is_error, is_query};

/// What is known of a packet's checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The L4 checksum is right, or is still to be filled in.
    Good,
    /// It is wrong.
    Bad,
    /// Nobody has checked; the tracker does, and the bytes handed to it are the whole packet.
    Unknown,
}

/// A packet for the tracker.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The connection tracking zone.
    pub zone: u16,
    /// The frame's first buffer, with all headers.
    pub data: &'a [u8],
    /// Where layers begin, as [`flow::extract()`] found for these bytes.
    pub off: Offsets,
    /// Length of the whole frame in bytes.
    pub total: usize,
    /// What is known of the L4 checksum.
    pub trust: Trust,
}

impl<'a> Input<'a> {
    /// The input for a packet. Where the packet has several buffers its checksum is verified
    /// here, as the tracker sees only the first.
    #[inline]
    pub fn of(packet: &'a Packet, off: &Offsets, zone: u16) -> Input<'a> {
        let trust = match packet.checksum() {
            Checksum::Verified | Checksum::Partial { .. } => Trust::Good,
            Checksum::Complete if packet.is_chained() => verify_chain(packet, off),
            Checksum::Complete => Trust::Unknown,
        };
        Input { zone, data: packet.data(), off: *off, total: packet.len(), trust }
    }

    /// The tracker has verified the packet's checksums before.
    #[inline(always)]
    pub fn was_verified(&mut self) {
        if self.trust == Trust::Unknown {
            self.trust = Trust::Good;
        }
    }
}

#[cold]
fn verify_chain(packet: &Packet, off: &Offsets) -> Trust {
    let ip = Ip::of(packet.data(), off, packet.len());
    let Ok(ip) = ip else { return Trust::Bad };
    let len = ip.end - ip.l4;
    let l4 = slices(packet.buffers(), ip.l4, len);
    let first = packet.data().get(ip.l4..).unwrap_or_default();
    let pieces: Vec<&[u8]> = l4.filter(|p| !p.is_empty()).collect();
    if first.is_empty() || off.proto == 0 {
        return Trust::Good;
    }
    match verify_l4(off.proto, ip.pseudo(off.proto, len), pieces.into_iter(), ip.v6) {
        Some(false) => Trust::Bad,
        _ => Trust::Good,
    }
}

/// What the state machine of the packet's protocol needs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Kind {
    Tcp(Segment),
    Udp,
    /// An ICMP query or its answer; only a query begins a connection.
    Icmp {
        query: bool,
    },
    /// Any other protocol.
    #[default]
    Other,
    /// An ICMP error. The tuple is the inverse of the quoted packet's: that of the direction
    /// that the error travels in.
    Error,
}

/// What was read of a packet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) tuple: Tuple,
    pub(crate) kind: Kind,
}

#[inline(always)]
fn be16(b: &[u8], at: usize) -> Option<u16> {
    b.get(at..)?.first_chunk().map(|c| u16::from_be_bytes(*c))
}
#[inline(always)]
fn be32(b: &[u8], at: usize) -> Option<u32> {
    b.get(at..)?.first_chunk().map(|c| u32::from_be_bytes(*c))
}
#[inline(always)]
fn be128(b: &[u8], at: usize) -> Option<u128> {
    b.get(at..)?.first_chunk().map(|c| u128::from_be_bytes(*c))
}

/// IPv4's fragment offset and "more fragments", in the word with the identifier.
const OFFSET_OR_MORE: u32 = 0x3fff;

/// The IP header, checked.
struct Ip {
    v6: bool,
    src: u128,
    dst: u128,
    proto: u8,
    l4: usize,
    /// End of IP's payload, in the frame.
    end: usize,
}

impl Ip {
    #[inline(always)]
    fn of(data: &[u8], off: &Offsets, total: usize) -> Result<Ip, Invalid> {
        let l3 = usize::from(off.l3);
        if off.end == 0 || matches!(off.fault, Fault::Ipv4 | Fault::Ipv6) {
            return Err(Invalid::NotIp);
        }
        let h = data.get(l3..).unwrap_or_default();
        match h.first().map(|b| b >> 4) {
            Some(4) => Ip::v4(h, l3, off, total).ok_or(Invalid::NotIp)?,
            Some(6) => Ip::v6(data, h, l3, off, total).ok_or(Invalid::NotIp)?,
            _ => Err(Invalid::NotIp),
        }
    }

    #[inline(always)]
    fn v4(h: &[u8], l3: usize, off: &Offsets, total: usize) -> Option<Result<Ip, Invalid>> {
        let h = h.first_chunk::<20>()?;
        if be32(h, 4)? & OFFSET_OR_MORE != 0 {
            return Some(Err(Invalid::Fragment));
        }
        let l4 = l3 + usize::from(h[0] & 0xf) * 4;
        let end = l3 + usize::from(be16(h, 2)?);
        if usize::from(off.l4) != l4 || l4 > end || end > total {
            return None;
        }
        let (src, dst) = (be32(h, 12)?.into(), be32(h, 16)?.into());
        Some(Ok(Ip { v6: false, src, dst, proto: h[9], l4, end }))
    }

    #[inline(always)]
    fn v6(
        data: &[u8],
        h: &[u8],
        l3: usize,
        off: &Offsets,
        total: usize,
    ) -> Option<Result<Ip, Invalid>> {
        let h = h.first_chunk::<40>()?;
        let end = l3 + 40 + usize::from(be16(h, 4)?);
        if end > total {
            return None;
        }
        let (mut proto, mut l4) = (h[6], l3 + 40);
        if off.proto == 0 || usize::from(off.l4) != l4 {
            let frag;
            (proto, l4, frag) = ext_headers(data, l4, end, proto)?;
            if frag != 0 {
                return Some(Err(Invalid::Fragment));
            }
            if l4 != usize::from(off.l4) {
                return None;
            }
        }
        let (src, dst) = (be128(h, 8)?, be128(h, 24)?);
        Some(Ok(Ip { v6: true, src, dst, proto, l4, end }))
    }

    #[inline(always)]
    fn tuple(&self, zone: u16, sport: u16, dport: u16) -> Tuple {
        if self.v6 {
            Tuple::v6(zone, self.proto, self.src, self.dst, sport, dport)
        } else {
            Tuple::v4(zone, self.proto, self.src as u32, self.dst as u32, sport, dport)
        }
    }

    #[inline(always)]
    fn pseudo(&self, proto: u8, len: usize) -> Sum {
        if self.v6 {
            Sum::pseudo_v6(self.src, self.dst, proto, len as u32)
        } else {
            Sum::pseudo_v4(self.src as u32, self.dst as u32, proto, len as u32)
        }
    }
}

/// Read and check a packet. What is in `seen` counts only if it can be tracked.
///
/// Most packets are TCP or UDP behind an IPv4 header without options: these are read here, with
/// one check of bounds for both headers.
#[inline(always)]
pub(crate) fn read(p: &Input<'_>, seen: &mut Seen) -> Result<(), Invalid> {
    let l3 = usize::from(p.off.l3);
    let headers = p.data.get(l3..).unwrap_or_default();
    // IPv4's header, and UDP's.
    let Some(h) = headers.first_chunk::<28>() else { return read_any(p, seen) };
    let sound = p.off.end != 0 && p.off.fault == Fault::None;
    if h[0] != 0x45 || !sound || p.off.l4 != p.off.l3.wrapping_add(20) || h[9] != p.off.proto {
        return read_any(p, seen);
    }
    let word = |at: usize| u32::from_be_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
    let total = (word(0) & 0xffff) as usize;
    if word(4) & OFFSET_OR_MORE != 0 || total < 28 || l3 + total > p.total {
        return read_any(p, seen);
    }
    let len = total - 20;
    if p.trust == Trust::Unknown && !ipv4_header_is_right(h) {
        return Err(Invalid::IpChecksum);
    }
    let addresses = u64::from(word(12)) << 32 | u64::from(word(16));
    let ports = word(20);
    let l4 = &headers[20..];
    match h[9] {
        ip_proto::TCP => {
            let l4 = &l4[..len.min(l4.len())];
            seen.kind = Kind::Tcp(tcp(l4, len)?);
            verify(p, l4, len, Sum::new().bytes(&h[12..20]).u32(6).u32(len as u32))?;
        }
        ip_proto::UDP => {
            // The pseudo header counts UDP's own length.
            let own = (word(24) >> 16) as usize;
            if own < 8 || own > len {
                return Err(Invalid::Truncated);
            }
            let l4 = &l4[..own.min(l4.len())];
            if word(24) as u16 == 0 {
                checksum(p, l4, own, |_| true)?;
            } else {
                verify(p, l4, own, Sum::new().bytes(&h[12..20]).u32(17).u32(own as u32))?;
            }
            seen.kind = Kind::Udp;
        }
        _ => return read_any(p, seen),
    }
    if ports & 0xffff == 0 || ports >> 16 == 0 {
        return Err(Invalid::PortZero);
    }
    seen.tuple = Tuple::v4_words(p.zone, h[9], addresses, ports);
    Ok(())
}

/// Whether the checksum of an IPv4 header of 20 bytes is right.
#[inline(always)]
fn ipv4_header_is_right(h: &[u8; 28]) -> bool {
    Sum::new().bytes(&h[..20]).folded() == 0xffff
}

/// [`read`] for any packet.
#[inline(never)]
fn read_any(p: &Input<'_>, seen: &mut Seen) -> Result<(), Invalid> {
    *seen = read_other(p)?;
    Ok(())
}

fn read_other(p: &Input<'_>) -> Result<Seen, Invalid> {
    let ip = Ip::of(p.data, &p.off, p.total)?;
    if !ip.v6 && p.trust == Trust::Unknown {
        check_ipv4_header(p.data, usize::from(p.off.l3), ip.l4)?;
    }
    if p.off.fault == Fault::L4 {
        return Err(Invalid::Truncated);
    }
    // The bytes of L4 that are here; `len` is how many there are in the whole packet.
    let len = ip.end - ip.l4;
    let l4 = p.data.get(ip.l4..).unwrap_or_default();
    let l4 = &l4[..len.min(l4.len())];
    let verify = |l4: &[u8], len: usize| {
        checksum(p, l4, len, |l4| {
            let pseudo = ip.pseudo(ip.proto, len);
            verify_l4(ip.proto, pseudo, std::iter::once(l4), ip.v6) != Some(false)
        })
    };
    let (ports, kind) = match ip.proto {
        ip_proto::TCP if p.off.proto == ip_proto::TCP => {
            let segment = tcp(l4, len)?;
            (be32(l4, 0).ok_or(Invalid::Truncated)?, Kind::Tcp(segment))
        }
        ip_proto::UDP if p.off.proto == ip_proto::UDP => {
            let (ports, own) = udp(l4, len)?;
            verify(&l4[..own.min(l4.len())], own)?;
            return with_ports(&ip, p.zone, ports, Kind::Udp);
        }
        ip_proto::ICMP | ip_proto::ICMPV6 if p.off.proto == ip.proto => {
            verify(l4, len)?;
            return icmp(p, &ip, l4);
        }
        ip_proto::TCP | ip_proto::UDP | ip_proto::ICMP | ip_proto::ICMPV6 => {
            return Err(Invalid::Truncated);
        }
        ip_proto::SCTP => (be32(l4, 0).ok_or(Invalid::Truncated)?, Kind::Other),
        ip_proto::GRE => {
            let key = gre_key(l4).ok_or(Invalid::Truncated)?;
            verify(l4, len)?;
            let tuple = ip.tuple(p.zone, (key >> 16) as u16, key as u16);
            return Ok(Seen { tuple, kind: Kind::Other });
        }
        _ => return Ok(Seen { tuple: ip.tuple(p.zone, 0, 0), kind: Kind::Other }),
    };
    verify(l4, len)?;
    with_ports(&ip, p.zone, ports, kind)
}

/// A packet with these ports, none of which may be 0.
fn with_ports(ip: &Ip, zone: u16, ports: u32, kind: Kind) -> Result<Seen, Invalid> {
    let (sport, dport) = ((ports >> 16) as u16, ports as u16);
    if sport == 0 || dport == 0 {
        return Err(Invalid::PortZero);
    }
    Ok(Seen { tuple: ip.tuple(zone, sport, dport), kind })
}

#[inline(always)]
fn check_ipv4_header(data: &[u8], l3: usize, l4: usize) -> Result<(), Invalid> {
    let right = data.get(l3..l4).is_some_and(|h| flow::checksum::checksum(h) == 0);
    if right { Ok(()) } else { Err(Invalid::IpChecksum) }
}

/// [`checksum`] of TCP and UDP.
#[inline(always)]
fn verify(p: &Input<'_>, l4: &[u8], len: usize, pseudo: Sum) -> Result<(), Invalid> {
    checksum(p, l4, len, |l4| pseudo.bytes(l4).folded() == 0xffff)
}

/// Whether the L4 checksum is right, as `right` finds for the bytes if nobody has yet.
#[inline(always)]
fn checksum(
    p: &Input<'_>,
    l4: &[u8],
    len: usize,
    right: impl FnOnce(&[u8]) -> bool,
) -> Result<(), Invalid> {
    match p.trust {
        Trust::Good => Ok(()),
        Trust::Bad => Err(Invalid::Checksum),
        Trust::Unknown if l4.len() < len => Err(Invalid::Truncated),
        Trust::Unknown if right(l4) => Ok(()),
        Trust::Unknown => Err(Invalid::Checksum),
    }
}

/// Flags that make sense together: FIN 1, SYN 2, RST 4, ACK 16, URG 32. The others may be added.
#[inline(always)]
fn flags_are_sane(flags: u8) -> bool {
    const SANE: u64 = 1 << 0x02 // SYN
        | 1 << 0x22 // SYN URG
        | 1 << 0x12 // SYN ACK
        | 1 << 0x04 // RST
        | 1 << 0x14 // RST ACK
        | 1 << 0x11 // FIN ACK
        | 1 << 0x31 // FIN ACK URG
        | 1 << 0x10 // ACK
        | 1 << 0x30; // ACK URG
    SANE >> (flags & 0x37) & 1 != 0
}

/// What a TCP header says, its ports aside; `len` is how many bytes L4 has in the whole packet.
#[inline(always)]
fn tcp(l4: &[u8], len: usize) -> Result<Segment, Invalid> {
    let Some((h, rest)) = l4.split_first_chunk::<20>() else { return Err(Invalid::Truncated) };
    let header = usize::from(h[12] >> 4) * 4;
    if header < 20 || header > len {
        return Err(Invalid::Truncated);
    }
    let Some(options) = rest.get(..header - 20) else { return Err(Invalid::Truncated) };
    if !flags_are_sane(h[13]) {
        return Err(Invalid::TcpFlags);
    }
    let word = |at: usize| u32::from_be_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
    let win = u16::from_be_bytes([h[14], h[15]]);
    Ok(Segment::new(word(4), word(8), win, h[13], (len - header) as u32, options))
}

/// Ports, the source's in the high half, and the length that the header names.
#[inline(always)]
fn udp(l4: &[u8], len: usize) -> Result<(u32, usize), Invalid> {
    let Some(h) = l4.first_chunk::<8>() else { return Err(Invalid::Truncated) };
    let own = usize::from(u16::from_be_bytes([h[4], h[5]]));
    if own < 8 || own > len {
        return Err(Invalid::Truncated);
    }
    Ok((u32::from_be_bytes([h[0], h[1], h[2], h[3]]), own))
}

fn icmp(p: &Input<'_>, ip: &Ip, l4: &[u8]) -> Result<Seen, Invalid> {
    let Some(h) = l4.first_chunk::<8>() else { return Err(Invalid::Truncated) };
    let type_code = u16::from_be_bytes([h[0], h[1]]);
    let (proto, ty) = (ip.proto, h[0]);
    if is_error(proto, ty) {
        return icmp_error(p, ip, &l4[8..]);
    }
    let query = is_query(proto, ty);
    if !query && !is_answer(proto, ty) {
        return Err(Invalid::IcmpType);
    }
    let id = u16::from_be_bytes([h[4], h[5]]);
    Ok(Seen { tuple: ip.tuple(p.zone, id, type_code), kind: Kind::Icmp { query } })
}

fn icmp_error(p: &Input<'_>, outer: &Ip, quote: &[u8]) -> Result<Seen, Invalid> {
    let q = Quote::of(quote, outer.v6).ok_or(Invalid::Quote)?;
    // An error goes to the sender of what it quotes.
    if outer.dst != q.tuple(p.zone).src() {
        return Err(Invalid::Unrelated);
    }
    Ok(Seen { tuple: q.tuple(p.zone).inverse(), kind: Kind::Error })
}
