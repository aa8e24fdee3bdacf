//! The headers of a profile, and a frame of each size without what differs from packet to packet.

use flow::checksum::Sum;

use super::profile::{Profile, Protocol};
use super::sizes::FCS;
use super::stamp;

/// Source ports that flows have: 1024 to 65,023.
pub(super) const PORTS: u64 = 64_000;
/// Destination ports on top of the first.
pub(super) const DST_PORTS: u64 = 500;
const VXLAN_PORT: u16 = 4789;

/// Where headers are in a frame, in bytes from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// VLAN tag.
    pub(super) tag: Option<usize>,
    /// Outer IPv4 header of VXLAN.
    pub(super) outer: Option<usize>,
    /// Ethernet header of what is inside; the frame's own without a tunnel.
    pub(super) inner: usize,
    pub(super) ip: usize,
    pub(super) l4: usize,
    pub(super) payload: usize,
    pub(super) v6: bool,
    pub(super) tcp: bool,
}

impl Layout {
    /// The headers that a profile asks for.
    pub fn new(profile: &Profile) -> Self {
        let tag = profile.vlan.is_some().then_some(12);
        let network = 14 + if tag.is_some() { 4 } else { 0 };
        let outer = profile.vni.is_some().then_some(network);
        // IPv4, UDP, VXLAN.
        let inner = if outer.is_some() { network + 20 + 8 + 8 } else { 0 };
        let ip = if outer.is_some() { inner + 14 } else { network };
        let l4 = ip + if profile.ipv6 { 40 } else { 20 };
        let tcp = profile.protocol == Protocol::Tcp;
        let payload = l4 + if tcp { 20 } else { 8 };
        Self { tag, outer, inner, ip, l4, payload, v6: profile.ipv6, tcp }
    }

    /// Bytes of all headers.
    pub fn headers(&self) -> usize {
        self.payload
    }

    /// How many flows can be told apart.
    pub fn most_flows(&self, sources: u32) -> u64 {
        u64::from(sources) * PORTS * DST_PORTS
    }
}

/// A frame of one size without what differs from packet to packet.
#[derive(Debug)]
pub(super) struct Template {
    pub bytes: Vec<u8>,
    /// Sum over pseudo header, L4 header and payload up to the stamp, the differing words zero.
    pub l4: Sum,
}

impl Template {
    /// For frames of so many bytes, check sequence included; they must have room for the headers and a stamp.
    pub fn new(profile: &Profile, layout: &Layout, size: usize) -> Self {
        let len = size - FCS;
        let mut bytes = vec![0; len];
        if let Some(outer) = layout.outer {
            // The outer packet goes between machines of its own; the inner one has the profile's addresses.
            let words = ([2, 0, 0, 0, 0xaa, 1], [2, 0, 0, 0, 0xaa, 2]);
            ethernet(&mut bytes, words, layout.tag, 0x0800);
            let ends = (profile.tunnel[0].octets(), profile.tunnel[1].octets());
            ipv4(&mut bytes[outer..], 17, ends);
            let sum = Sum::new().bytes(&bytes[outer..outer + 20]).checksum();
            put(&mut bytes, outer + 10, &sum.to_be_bytes());
            let udp = (len - outer - 20) as u16;
            put(&mut bytes, outer + 22, &VXLAN_PORT.to_be_bytes());
            put(&mut bytes, outer + 24, &udp.to_be_bytes());
            put(&mut bytes, outer + 28, &[8]);
        }
        let tag = layout.tag.filter(|_| layout.outer.is_none());
        let kind = if layout.v6 { 0x86dd } else { 0x0800 };
        ethernet(&mut bytes[layout.inner..], (profile.dst_mac.0, profile.src_mac.0), tag, kind);
        let protocol = if layout.tcp { 6 } else { 17 };
        let l4_len = (len - layout.l4) as u32;
        let pseudo = if layout.v6 {
            let dst = u128::from(profile.dst_ip6);
            let at = layout.ip;
            put(&mut bytes, at, &[0x60]);
            put(&mut bytes, at + 4, &(l4_len as u16).to_be_bytes());
            put(&mut bytes, at + 6, &[protocol, 64]);
            put(&mut bytes, at + 24, &dst.to_be_bytes());
            Sum::pseudo_v6(0, dst, protocol, l4_len)
        } else {
            let dst = profile.dst_ip;
            ipv4(&mut bytes[layout.ip..], protocol, ([0; 4], dst.octets()));
            Sum::pseudo_v4(0, dst.into(), protocol, l4_len)
        };
        if layout.tcp {
            // Data offset 5, ACK, the largest window without scaling.
            put(&mut bytes, layout.l4 + 12, &[0x50, 0x10, 0xff, 0xff]);
        } else {
            put(&mut bytes, layout.l4 + 4, &(l4_len as u16).to_be_bytes());
        }
        let l4 = pseudo.bytes(&bytes[layout.l4..len - stamp::LEN]);
        Self { bytes, l4 }
    }
}

fn ethernet(to: &mut [u8], (dst, src): ([u8; 6], [u8; 6]), tag: Option<usize>, kind: u16) {
    put(to, 0, &dst);
    put(to, 6, &src);
    let mut at = 12;
    if tag.is_some() {
        put(to, at, &[0x81, 0]);
        at += 4;
    }
    put(to, at, &kind.to_be_bytes());
}

/// A header over all of `to`, its checksum zero; "don't fragment".
fn ipv4(to: &mut [u8], protocol: u8, (src, dst): ([u8; 4], [u8; 4])) {
    let len = to.len() as u16;
    put(to, 0, &[0x45, 0]);
    put(to, 2, &len.to_be_bytes());
    put(to, 6, &[0x40, 0, 64, protocol]);
    put(to, 12, &src);
    put(to, 16, &dst);
}

/// Write bytes at an offset.
#[inline]
pub(super) fn put(to: &mut [u8], at: usize, bytes: &[u8]) {
    to[at..at + bytes.len()].copy_from_slice(bytes);
}
