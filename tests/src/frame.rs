//! Ethernet frames as bytes: good ones with right checksums, and their parts for making bad ones.

use std::net::Ipv4Addr;
use std::str::FromStr;

use anyhow::Context;

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    pub const BROADCAST: Mac = Mac([0xff; 6]);
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = text.trim().split(':').map(|part| u8::from_str_radix(part, 16).ok());
        let mac: Option<Vec<u8>> = bytes.collect();
        let mac = mac.and_then(|bytes| bytes.try_into().ok());
        let wrong = || anyhow::anyhow!("`{text}` is no MAC address, such as 02:00:00:00:00:01");
        mac.map(Mac).with_context(wrong)
    }
}

/// A VLAN tag: its protocol (0x8100, 0x88a8) and control information.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    pub tpid: u16,
    pub tci: u16,
}

/// The 802.1Q tag of VLAN `vid`, priority 0.
pub const fn dot1q(vid: u16) -> Tag {
    Tag { tpid: 0x8100, tci: vid }
}

/// The 802.1ad (service) tag of VLAN `vid`, priority 0.
pub const fn dot1ad(vid: u16) -> Tag {
    Tag { tpid: 0x88a8, tci: vid }
}

/// Destination, source, tags, type, payload.
pub fn ethernet(dst: Mac, src: Mac, tags: &[Tag], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(18 + 4 * tags.len() + payload.len());
    frame.extend(dst.0);
    frame.extend(src.0);
    for tag in tags {
        frame.extend(tag.tpid.to_be_bytes());
        frame.extend(tag.tci.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The Internet checksum (RFC 1071) of `bytes`, complemented.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An IPv4 packet without options around `payload`.
pub fn ipv4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap_or(u16::MAX);
    let mut header = vec![0x45, 0];
    header.extend(length.to_be_bytes());
    header.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
    header.extend(src.octets());
    header.extend(dst.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header.extend(payload);
    header
}

/// A UDP datagram with its checksum over the IPv4 pseudo header.
pub fn udp4(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + data.len()).unwrap_or(u16::MAX);
    let mut segment = Vec::new();
    segment.extend(src.1.to_be_bytes());
    segment.extend(dst.1.to_be_bytes());
    segment.extend(length.to_be_bytes());
    segment.extend([0, 0]);
    segment.extend(data);
    let mut sum = checksum(&[&pseudo(src.0, dst.0, 17, length)[..], &segment].concat());
    if sum == 0 {
        sum = 0xffff;
    }
    segment[6..8].copy_from_slice(&sum.to_be_bytes());
    ipv4(src.0, dst.0, 17, &segment)
}

/// What a TCP segment says; no options.
pub struct Tcp<'a> {
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    pub payload: &'a [u8],
}

/// A TCP segment with its checksum over the IPv4 pseudo header.
pub fn tcp4(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), tcp: &Tcp<'_>) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(src.1.to_be_bytes());
    segment.extend(dst.1.to_be_bytes());
    segment.extend(tcp.seq.to_be_bytes());
    segment.extend(tcp.ack.to_be_bytes());
    segment.extend([0x50, tcp.flags]);
    segment.extend(tcp.window.to_be_bytes());
    segment.extend([0, 0, 0, 0]);
    segment.extend(tcp.payload);
    let length = u16::try_from(segment.len()).unwrap_or(u16::MAX);
    let sum = checksum(&[&pseudo(src.0, dst.0, 6, length)[..], &segment].concat());
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    ipv4(src.0, dst.0, 6, &segment)
}

/// An ICMP message, its checksum put right.
pub fn icmp4(src: Ipv4Addr, dst: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    message[2..4].fill(0);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ipv4(src, dst, 1, &message)
}

/// The IPv4 pseudo header that TCP and UDP checksums cover.
pub fn pseudo(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, length: u16) -> [u8; 12] {
    let (s, d, l) = (src.octets(), dst.octets(), length.to_be_bytes());
    [s[0], s[1], s[2], s[3], d[0], d[1], d[2], d[3], 0, protocol, l[0], l[1]]
}

/// A UDP/IPv4 frame between two MAC addresses that carries `mark`, by which it is known again.
pub fn marked(dst: Mac, src: Mac, tags: &[Tag], mark: &str) -> Vec<u8> {
    let (a, b) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
    let mut frame = ethernet(dst, src, tags, 0x0800, &udp4((a, 1024), (b, 9), mark.as_bytes()));
    let short = 60_usize.saturating_sub(frame.len());
    frame.extend(vec![0; short]);
    frame
}

/// Whether `frame` carries `mark` anywhere.
pub fn has_mark(frame: &[u8], mark: &str) -> bool {
    !mark.is_empty() && frame.windows(mark.len()).any(|part| part == mark.as_bytes())
}

/// The tags of a frame, outermost first.
pub fn tags(frame: &[u8]) -> Vec<Tag> {
    let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let mut tags = Vec::new();
    let mut at = 12;
    while let (Some(tpid @ (0x8100 | 0x88a8)), Some(tci)) = (word(at), word(at + 2)) {
        tags.push(Tag { tpid, tci });
        at += 4;
    }
    tags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_checksums_verify() {
        let a = Ipv4Addr::new(10, 0, 0, 1);
        let packet = udp4((a, 5), (Ipv4Addr::new(10, 0, 0, 2), 6), b"hello");
        assert_eq!(checksum(&packet[..20]), 0);
        let pseudo = pseudo(a, Ipv4Addr::new(10, 0, 0, 2), 17, 13);
        assert_eq!(checksum(&[&pseudo[..], &packet[20..]].concat()), 0);
    }

    #[test]
    fn tags_are_found_again() {
        let (a, b) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
        let frame = marked(a, b, &[dot1ad(7), dot1q(9)], "mark");
        assert_eq!(tags(&frame), [dot1ad(7), dot1q(9)]);
        assert!(has_mark(&frame, "mark") && !has_mark(&frame, "other"));
        assert_eq!(tags(&frame[..13]), []);
        assert_eq!("02:00:00:00:00:01".parse::<Mac>().ok(), Some(a));
    }
}
