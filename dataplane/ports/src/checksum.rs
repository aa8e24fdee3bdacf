//! Has the sender's kernel left this packet's checksum unfinished?
//!
//! A kernel stack behind a veth pair hands over TCP and UDP packets whose checksum field holds
//! only the folded sum of the pseudo header, not complemented, as it counts on hardware to add
//! the rest. AF_XDP does not say so, but the field does: [`settle`] compares it with that sum. A
//! packet with a valid checksum in which the two happen to be equal loses nothing: finishing it
//! gives the bytes that it had.
//!
//! What is recognised becomes [`Checksum::Partial`], to be handed on or finished where it leaves.
//! It is finished here and now if it sits inside a tunnel (innermost first: only then can an outer
//! checksum be judged), if bytes lie behind the IP packet, and for SCTP, whose CRC comes as 0.
//!
//! Only unfragmented IPv4 and IPv6 is judged, over IP's own length. Only for ports whose other end
//! is a kernel stack on the same machine: on a wire, no checksum is unfinished.
//!
//! Must not know: ports, sockets.

use afxdp::{Checksum, Packet};
use flow::checksum::{Sum, nonzero, slices, sum_from};
use flow::crc32c;
use flow::extract::{eth_type, ip_proto};

/// VLAN tags that are looked behind.
const MAX_TAGS: usize = 2;
/// Tunnels within tunnels that are looked into.
const MAX_NESTING: u32 = 4;
/// IPv6 extension headers that are walked.
const MAX_EXT_HEADERS: usize = 16;
const IPIP: u8 = 4;
const IP6IP: u8 = 41;
const GENEVE: u16 = 6081;

/// UDP destination ports behind which VXLAN is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VxlanPorts(pub [u16; 4]);

impl Default for VxlanPorts {
    /// The assigned port, and the one that Linux used before.
    fn default() -> Self {
        VxlanPorts([4789, 8472, 0, 0])
    }
}

/// What was found and done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Nothing was unfinished.
    AsItWas,
    /// The packet is now marked [`Checksum::Partial`].
    Partial,
    /// One or more checksums were finished in the bytes.
    Finished,
}

/// An IP packet that can be judged.
struct Ip {
    proto: u8,
    /// Where its payload begins and ends in the frame.
    l4: usize,
    end: usize,
    /// The pseudo header's sum without the protocol.
    addresses: Sum,
}

#[inline(always)]
fn be16(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*data.get(at..)?.first_chunk()?))
}

#[inline(always)]
fn be32(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*data.get(at..)?.first_chunk()?))
}

#[inline(always)]
fn be128(data: &[u8], at: usize) -> Option<u128> {
    Some(u128::from_be_bytes(*data.get(at..)?.first_chunk()?))
}

/// Find out whether the packet's checksums are unfinished, and mark or finish them.
#[inline]
pub fn settle(packet: &mut Packet, vxlan: &VxlanPorts) -> Settled {
    if is_plainly_finished(packet.data(), vxlan) {
        return Settled::AsItWas;
    }
    ethernet(packet, 0, vxlan, 0).unwrap_or(Settled::AsItWas)
}

/// Whether this is TCP or UDP over IPv4, without tags, options, fragments or a tunnel, whose
/// checksum field is not the pseudo header's sum. It says `false` to all else, and costs little.
#[inline(always)]
fn is_plainly_finished(data: &[u8], vxlan: &VxlanPorts) -> bool {
    // Ethernet, IPv4 and TCP headers; for UDP the bytes behind its header are not looked at.
    let Some(h) = data.first_chunk::<54>() else { return false };
    let word = |at: usize| u64::from(u32::from_ne_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]));
    let half = |at: usize| u16::from_ne_bytes([h[at], h[at + 1]]);
    let fragment = half(20) & 0x3fff_u16.to_be() != 0;
    if h[12] != 0x08 || h[13] != 0 || h[14] != 0x45 || fragment {
        return false;
    }
    let is = match h[23] {
        ip_proto::TCP => half(50),
        ip_proto::UDP => {
            let port = u16::from_be(half(36));
            if vxlan.0.contains(&port) || port == GENEVE {
                return false;
            }
            half(40)
        }
        _ => return false,
    };
    // A sum in memory order (RFC 1071 section 2): addresses, protocol, length.
    let length = u16::from_be(half(16)).wrapping_sub(20);
    let sum =
        word(26) + word(30) + u64::from((u16::from(h[23])).to_be()) + u64::from(length.to_be());
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16 != is
}

/// The Ethernet frame at `at`. `None`: not to be judged.
#[inline]
fn ethernet(p: &mut Packet, at: usize, vxlan: &VxlanPorts, depth: u32) -> Option<Settled> {
    let data = p.data();
    let mut at = at + 12;
    let mut ty = be16(data, at)?;
    for _ in 0..MAX_TAGS {
        if ty != eth_type::VLAN && ty != eth_type::QINQ {
            break;
        }
        at += 4;
        ty = be16(data, at)?;
    }
    network(p, ty, at + 2, vxlan, depth)
}

/// The packet of Ethernet type `ty` at `at`.
#[inline]
fn network(p: &mut Packet, ty: u16, at: usize, vxlan: &VxlanPorts, depth: u32) -> Option<Settled> {
    let ip = match ty {
        eth_type::IPV4 => ipv4(p.data(), at, p.len())?,
        eth_type::IPV6 => ipv6(p.data(), at, p.len())?,
        _ => return None,
    };
    match ip.proto {
        ip_proto::TCP => judge(p, &ip, 16, 20, depth),
        ip_proto::UDP => {
            let inner = udp_tunnel(p.data(), &ip, vxlan)
                .and_then(|at| nested(p, depth, |p, d| ethernet(p, at, vxlan, d)));
            // A datagram that does not fill its IP packet was made by no kernel stack.
            if usize::from(be16(p.data(), ip.l4 + 4)?) != ip.end - ip.l4 {
                return inner;
            }
            either(inner, judge(p, &ip, 6, 8, depth))
        }
        ip_proto::GRE => {
            let (ty, at) = gre(p.data(), ip.l4)?;
            nested(p, depth, |p, d| match ty {
                TRANSPARENT_ETHERNET => ethernet(p, at, vxlan, d),
                _ => network(p, ty, at, vxlan, d),
            })
        }
        IPIP => nested(p, depth, |p, d| network(p, eth_type::IPV4, ip.l4, vxlan, d)),
        IP6IP => nested(p, depth, |p, d| network(p, eth_type::IPV6, ip.l4, vxlan, d)),
        ip_proto::SCTP => sctp(p, &ip),
        _ => None,
    }
}

fn nested(
    p: &mut Packet,
    depth: u32,
    f: impl FnOnce(&mut Packet, u32) -> Option<Settled>,
) -> Option<Settled> {
    if depth < MAX_NESTING { f(p, depth + 1) } else { None }
}

/// The outer packet's result, unless only the inner one had something to do.
fn either(inner: Option<Settled>, outer: Option<Settled>) -> Option<Settled> {
    match outer {
        None | Some(Settled::AsItWas) => inner,
        _ => outer,
    }
}

#[inline]
fn ipv4(data: &[u8], at: usize, total: usize) -> Option<Ip> {
    let h: &[u8; 20] = data.get(at..)?.first_chunk()?;
    let header = usize::from(h[0] & 0xf) * 4;
    let length = usize::from(u16::from_be_bytes([h[2], h[3]]));
    let fragment = u16::from_be_bytes([h[6], h[7]]) & 0x3fff != 0;
    if h[0] >> 4 != 4 || header < 20 || length < header || length > total - at || fragment {
        return None;
    }
    let mut dst = be32(h, 16)?;
    if header > 20 {
        dst = source_routed_to(data.get(at + 20..at + header)?).unwrap_or(dst);
    }
    let addresses = Sum::new().u32(be32(h, 12)?).u32(dst);
    Some(Ip { proto: h[9], l4: at + header, end: at + length, addresses })
}

/// The last hop of a source route that is not used up (RFC 791): the pseudo header has that
/// address.
fn source_routed_to(mut options: &[u8]) -> Option<u32> {
    const LOOSE: u8 = 131;
    const STRICT: u8 = 137;
    loop {
        match *options.first()? {
            0 => return None,
            1 => options = &options[1..],
            kind => {
                let len = usize::from(*options.get(1)?);
                let option = options.get(..len.max(2))?;
                let route = len >= 7 && (kind == LOOSE || kind == STRICT);
                if route && usize::from(option[2]) + 3 <= len {
                    return be32(option, len - 4);
                }
                options = &options[len.max(2)..];
            }
        }
    }
}

fn ipv6(data: &[u8], at: usize, total: usize) -> Option<Ip> {
    let h: &[u8; 40] = data.get(at..)?.first_chunk()?;
    let length = usize::from(u16::from_be_bytes([h[4], h[5]]));
    if h[0] >> 4 != 6 || length > total.checked_sub(at + 40)? {
        return None;
    }
    let end = at + 40 + length;
    let mut dst = be128(h, 24)?;
    let (mut next, mut l4) = (h[6], at + 40);
    for _ in 0..=MAX_EXT_HEADERS {
        let len = match next {
            ip_proto::HOPOPTS | ip_proto::DSTOPTS => 8 + usize::from(*data.get(l4 + 1)?) * 8,
            ip_proto::ROUTING => {
                if *data.get(l4 + 3)? > 0 {
                    dst = routed_to(data, l4)?;
                }
                8 + usize::from(*data.get(l4 + 1)?) * 8
            }
            ip_proto::AH => 8 + usize::from(*data.get(l4 + 1)?) * 4,
            // An atomic fragment (RFC 6946) is a whole packet.
            ip_proto::FRAGMENT if be16(data, l4 + 2)? & 0xfff9 == 0 => 8,
            ip_proto::FRAGMENT => return None,
            _ => {
                let addresses = Sum::new().u128(be128(h, 8)?).u128(dst);
                return (l4 <= end).then_some(Ip { proto: next, l4, end, addresses });
            }
        };
        next = *data.get(l4)?;
        l4 += len;
    }
    None
}

/// The final destination that a routing header with segments left names: the pseudo header has
/// that address (RFC 8200 section 8.1).
fn routed_to(data: &[u8], at: usize) -> Option<u128> {
    match *data.get(at + 2)? {
        // Type 0 (RFC 5095 deprecates it): the last address.
        0 => be128(data, at + 8 + (usize::from(*data.get(at + 1)?) / 2).checked_sub(1)? * 16),
        // Type 2 (RFC 6275) has one; a segment list (RFC 8754) begins with the last.
        2 | 4 => be128(data, at + 8),
        _ => None,
    }
}

/// The frame inside a VXLAN or Geneve packet.
fn udp_tunnel(data: &[u8], ip: &Ip, vxlan: &VxlanPorts) -> Option<usize> {
    const HAS_VNI: u8 = 0x08;
    const ETHERNET_INSIDE: [u8; 2] = [0x65, 0x58];
    let port = be16(data, ip.l4 + 2)?;
    if port == 0 {
        return None;
    }
    let h: &[u8; 8] = data.get(ip.l4 + 8..)?.first_chunk()?;
    if vxlan.0.contains(&port) {
        return (h[0] & HAS_VNI != 0).then_some(ip.l4 + 16);
    }
    if port == GENEVE && h[0] >> 6 == 0 && h[2..4] == ETHERNET_INSIDE {
        return Some(ip.l4 + 16 + usize::from(h[0] & 0x3f) * 4);
    }
    None
}

const TRANSPARENT_ETHERNET: u16 = 0x6558;

/// Type and place of what a GRE packet carries (RFC 2784, 2890).
fn gre(data: &[u8], at: usize) -> Option<(u16, usize)> {
    let flags = be16(data, at)?;
    // Reserved bits, routing and versions other than 0 are not for us.
    if flags & 0x4fff != 0 {
        return None;
    }
    let optional = [0x8000, 0x2000, 0x1000].iter().filter(|f| flags & **f != 0).count();
    Some((be16(data, at + 2)?, at + 4 + optional * 4))
}

/// Compare the checksum field at `field` behind the L4 header's start, which has `header` bytes.
#[inline]
fn judge(p: &mut Packet, ip: &Ip, field: usize, header: usize, depth: u32) -> Option<Settled> {
    let length = ip.end.checked_sub(ip.l4)?;
    if length < header {
        return None;
    }
    let at = ip.l4 + field;
    let is = be16(p.data(), at)?;
    let pseudo = ip.addresses.u32(u32::from(ip.proto)).u32(length as u32);
    if is != pseudo.folded() {
        return Some(Settled::AsItWas);
    }
    if depth == 0 && ip.end == p.len() {
        let (start, offset) = (u16::try_from(ip.l4).ok()?, field as u16);
        p.set_checksum(Checksum::Partial { start, offset });
        return Some(Settled::Partial);
    }
    let checksum = nonzero(sum_from(p, ip.l4, length).checksum());
    p.data_mut()[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    Some(Settled::Finished)
}

/// An SCTP packet whose CRC is 0 was left unfinished.
fn sctp(p: &mut Packet, ip: &Ip) -> Option<Settled> {
    let length = ip.end.checked_sub(ip.l4)?;
    let at = ip.l4 + 8;
    if length < 12 || be32(p.data(), at)? != 0 {
        return None;
    }
    let crc = crc32c::of_sctp(slices(p.buffers(), ip.l4, length).filter(|b| !b.is_empty()));
    p.data_mut()[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    Some(Settled::Finished)
}

#[cfg(test)]
mod tests;
