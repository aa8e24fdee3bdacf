//! What do a frame's bytes say?
//!
//! [`extract`] reads each header once, bounds-checked, into a [`FlowKey`], and says where layers
//! begin. It never fails and never panics: a header that is cut short or lies about its length
//! leaves its own fields and all behind it zero, while what was sound before it stays (the
//! behaviour that `ovs-fields(7)` describes). [`Offsets::fault`] names the first fault.
//!
//! Must not know: ports, flows, or whether anybody will look at a field.

use crate::key::{FlowKey, Groups, word};

/// Ethernet types that matter to parsing.
pub mod eth_type {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// Reverse ARP.
    pub const RARP: u16 = 0x8035;
    /// IEEE 802.1Q customer tag.
    pub const VLAN: u16 = 0x8100;
    /// IEEE 802.1ad service tag.
    pub const QINQ: u16 = 0x88a8;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// MPLS, unicast.
    pub const MPLS: u16 = 0x8847;
    /// MPLS, multicast (upstream-assigned label).
    pub const MPLS_MCAST: u16 = 0x8848;
    /// Stands for an IEEE 802.3 frame without a SNAP header of OUI 0 (`OFP_DL_TYPE_NOT_ETH_TYPE`).
    pub const NOT_ETH_TYPE: u16 = 0x05ff;
    /// The lowest value that is a type and not a length.
    pub const MIN: u16 = 0x0600;
}

/// IP protocol numbers that matter to parsing.
pub mod ip_proto {
    /// IPv6 hop-by-hop options.
    pub const HOPOPTS: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IGMP.
    pub const IGMP: u8 = 2;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// GRE.
    pub const GRE: u8 = 47;
    /// Authentication header.
    pub const AH: u8 = 51;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// No next header.
    pub const NONE: u8 = 59;
    /// IPv6 destination options.
    pub const DSTOPTS: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// `nw_frag`: the packet is a fragment.
pub const FRAG_ANY: u8 = 1;
/// `nw_frag`: the packet is a fragment, and not the first.
pub const FRAG_LATER: u8 = 2;
/// Bit of a TCI in the key that says there is a tag.
pub const VLAN_PRESENT: u16 = 0x1000;
/// IPv6 extension headers that are walked before the packet counts as malformed.
pub const MAX_EXT_HEADERS: usize = 64;

/// What was wrong with the first header that was not sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Fewer than the 14 bytes of an Ethernet header.
    Ethernet,
    /// A VLAN tag is cut short.
    Vlan,
    /// An MPLS stack is cut short or has no bottom in the packet.
    Mpls,
    /// An IPv4 header is short, not version 4, or lies about a length.
    Ipv4,
    /// An IPv6 header is short, not version 6, lies about its length, or an extension header is
    /// cut short or one of too many.
    Ipv6,
    /// An ARP packet is cut short or not IPv4 over Ethernet.
    Arp,
    /// A TCP, UDP, SCTP, ICMP or IGMP header is cut short.
    L4,
}

/// Where layers begin, in bytes from the start of the frame; 0 where there is no such layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Offsets {
    /// The IP or ARP header.
    pub l3: u16,
    /// The transport header; also set for one that is cut short.
    pub l4: u16,
    /// End of the IP payload as IP's length says; what lies behind is padding.
    pub end: u16,
    /// The first fault.
    pub fault: Fault,
    /// The protocol (`ip_proto`) whose header at `l4` is there as far as the key reads it; 0 for
    /// protocols that the key has no fields of, later fragments, and headers cut short.
    pub proto: u8,
}

#[inline(always)]
fn be16(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

#[inline(always)]
fn be32(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

#[inline(always)]
fn be64(b: &[u8], at: usize) -> u64 {
    u64::from_be_bytes([
        b[at],
        b[at + 1],
        b[at + 2],
        b[at + 3],
        b[at + 4],
        b[at + 5],
        b[at + 6],
        b[at + 7],
    ])
}

/// How much of a packet is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Depth {
    /// Not a byte.
    Nothing,
    /// The Ethernet header and its tags.
    Link,
    /// All headers that a key has fields of.
    #[default]
    Whole,
}

impl Depth {
    /// How much has to be read for these words of a key, given as bits.
    pub fn of_words(map: u64) -> Depth {
        const LINK: u64 = 1 << word::ETH_DST | 1 << word::ETH_SRC | 1 << word::VLAN;
        /// What comes from elsewhere: port, marks, connection, tunnel, registers.
        const ELSEWHERE: u64 = 1 << word::META | !0 << word::MARK;
        match map & !ELSEWHERE {
            0 => Depth::Nothing,
            headers if headers & !LINK == 0 => Depth::Link,
            _ => Depth::Whole,
        }
    }
}

/// Six bytes as a number.
#[inline(always)]
pub fn mac(b: &[u8], at: usize) -> u64 {
    u64::from(be32(b, at)) << 16 | u64::from(be16(b, at + 4))
}

/// Read a frame's headers into `key`.
///
/// `data` is the frame's first buffer, `total` the length of the whole frame. The word
/// [`word::META`] and the groups for metadata (marks, connection, tunnel, registers) are left as
/// the caller set them; all other words are written.
#[inline(always)]
pub fn extract(data: &[u8], total: usize, key: &mut FlowKey) -> Offsets {
    match plain::<14, 42>(data, total, key) {
        Some(off) => off,
        None => extract_other(data, total, key),
    }
}

/// Read as much of a frame's headers into `key` as `depth` says, as [`extract`] does. The words of headers
/// that are not read are zero, and layers begin nowhere.
#[inline(always)]
pub fn extract_to(depth: Depth, data: &[u8], total: usize, key: &mut FlowKey) -> Offsets {
    match depth {
        Depth::Nothing => key.clear_headers(),
        Depth::Link => link(data, total, key),
        Depth::Whole => return extract(data, total, key),
    }
    Offsets::default()
}

/// The Ethernet header and one tag. Of other frames (short ones, those with two tags, IEEE 802.3's) more is
/// read at once.
#[inline(always)]
fn link(data: &[u8], total: usize, key: &mut FlowKey) {
    let is_tag = |ty| ty == eth_type::VLAN || ty == eth_type::QINQ;
    let Some(h) = data.first_chunk::<18>() else {
        return link_of_other(data, total, key);
    };
    let outer = be16(h, 12);
    let tagged = is_tag(outer);
    let (ty, tci) = if tagged { (be16(h, 16), be16(h, 14) | VLAN_PRESENT) } else { (outer, 0) };
    if ty < eth_type::MIN || tagged && is_tag(ty) {
        return link_of_other(data, total, key);
    }
    if tagged {
        key.clear_groups(Groups(Groups::PACKET.0 & !Groups::VLAN.0));
        key.set_word(word::VLAN, u64::from(outer) << 48);
    } else {
        key.clear_groups(Groups::PACKET);
    }
    key.set_word(word::ETH_DST, be64(h, 0) >> 16 << 16 | u64::from(ty));
    key.set_word(word::ETH_SRC, be64(h, 6) >> 16 << 16 | u64::from(tci));
    for w in [word::IPV4, word::NW, word::L4] {
        key.set_word(w, 0);
    }
}

#[inline(never)]
fn link_of_other(data: &[u8], total: usize, key: &mut FlowKey) {
    extract_any(data, total, key);
}

#[inline(never)]
fn extract_other(data: &[u8], total: usize, key: &mut FlowKey) -> Offsets {
    let tag = data.len() > 14 && matches!(be16(data, 12), eth_type::VLAN | eth_type::QINQ);
    if tag && let Some(off) = plain::<18, 46>(data, total, key) {
        return off;
    }
    extract_any(data, total, key)
}

/// TCP, UDP or GRE over IPv4 at offset `L3`, whole and sound, without options or fragments, behind a
/// single tag if there is room for one: what most packets are. `N` is where a UDP header would end. `None`
/// for all else, with nothing written.
#[inline(always)]
fn plain<const L3: usize, const N: usize>(
    data: &[u8],
    total: usize,
    key: &mut FlowKey,
) -> Option<Offsets> {
    let tag = L3 == 18;
    let l4 = L3 + 20;
    let h = data.first_chunk::<N>()?;
    let length = usize::from(be16(h, L3 + 2));
    let total = total.max(data.len());
    let fragment = be16(h, L3 + 6) & 0x3fff != 0;
    let (ty, tci) = if tag { (be16(h, 16), be16(h, 14) | VLAN_PRESENT) } else { (be16(h, 12), 0) };
    if ty != eth_type::IPV4 || h[L3] != 0x45 || fragment || length > total - L3 {
        return None;
    }
    let proto = h[L3 + 9];
    let ports = u64::from(be32(h, l4)) << 32;
    let (transport, read) = match proto {
        ip_proto::UDP if length >= 28 => (ports, proto),
        ip_proto::TCP if length >= 40 && data.len() >= l4 + 20 => {
            let flags = be16(data, l4 + 12);
            let header = usize::from(flags >> 12) * 4;
            if header < 20 || header > length - 20 {
                return None;
            }
            (ports | u64::from(flags & 0x0fff) << 16, proto)
        }
        // The key has no field of it.
        ip_proto::GRE if length >= 20 => (0, 0),
        _ => return None,
    };
    if tag {
        key.clear_groups(Groups(Groups::PACKET.0 & !Groups::VLAN.0));
        key.set_word(word::VLAN, u64::from(be16(h, 12)) << 48);
    } else {
        key.clear_groups(Groups::PACKET);
    }
    key.set_word(word::ETH_DST, be64(h, 0) >> 16 << 16 | u64::from(eth_type::IPV4));
    key.set_word(word::ETH_SRC, be64(h, 6) >> 16 << 16 | u64::from(tci));
    key.set_word(word::IPV4, be64(h, L3 + 12));
    key.set_word(word::NW, nw(proto, h[L3 + 1], h[L3 + 8], 0));
    key.set_word(word::L4, transport);
    let end = (L3 + length).min(usize::from(u16::MAX)) as u16;
    Some(Offsets { l3: L3 as u16, l4: l4 as u16, end, fault: Fault::None, proto: read })
}

/// [`extract`] for every frame.
fn extract_any(data: &[u8], total: usize, key: &mut FlowKey) -> Offsets {
    key.clear_groups(Groups::PACKET);
    let total = total.max(data.len());
    let Some(eth) = data.first_chunk::<14>() else {
        return short_ethernet(key);
    };
    let mut at = 14;
    let mut ty = be16(eth, 12);
    let mut tci = 0u16;
    let mut fault = Fault::None;
    if ty == eth_type::VLAN || ty == eth_type::QINQ {
        (ty, tci, at, fault) = vlans(data, ty, key);
    }
    if ty < eth_type::MIN {
        (ty, at) = llc(data, at);
    }
    key.set_word(word::ETH_DST, mac(eth, 0) << 16 | u64::from(ty));
    key.set_word(word::ETH_SRC, mac(eth, 6) << 16 | u64::from(tci));
    let mut off = Offsets { l3: at as u16, fault, ..Offsets::default() };
    let sound = match ty {
        eth_type::IPV4 => ipv4(data, at, total, key, &mut off),
        eth_type::IPV6 => ipv6(data, at, total, key, &mut off),
        eth_type::ARP | eth_type::RARP => arp(data, at, key, &mut off),
        eth_type::MPLS | eth_type::MPLS_MCAST => mpls(data, at, key, &mut off),
        _ => false,
    };
    if sound {
        return off;
    }
    key.set_word(word::IPV4, 0);
    key.set_word(word::NW, 0);
    key.set_word(word::L4, 0);
    off.l4 = 0;
    off
}

#[cold]
fn short_ethernet(key: &mut FlowKey) -> Offsets {
    for w in [word::ETH_DST, word::ETH_SRC, word::IPV4, word::NW, word::L4] {
        key.set_word(w, 0);
    }
    Offsets { fault: Fault::Ethernet, ..Offsets::default() }
}

/// Up to two tags: (type behind them, outer TCI, offset behind them, fault).
fn vlans(data: &[u8], outer: u16, key: &mut FlowKey) -> (u16, u16, usize, Fault) {
    if data.len() < 18 {
        // A tag's type with no whole tag behind it.
        return (outer, 0, 14, Fault::Vlan);
    }
    let tci = be16(data, 14) | VLAN_PRESENT;
    let inner = be16(data, 16);
    let mut w = u64::from(outer) << 48;
    let (mut ty, mut at, mut fault) = (inner, 18, Fault::None);
    if inner == eth_type::VLAN || inner == eth_type::QINQ {
        if data.len() < 22 {
            fault = Fault::Vlan;
        } else {
            w |= u64::from(be16(data, 18) | VLAN_PRESENT) << 32 | u64::from(inner) << 16;
            ty = be16(data, 20);
            at = 22;
        }
    }
    key.set_word(word::VLAN, w);
    (ty, tci, at, fault)
}

/// An IEEE 802.3 frame: the type from a SNAP header with OUI 0, else [`eth_type::NOT_ETH_TYPE`].
fn llc(data: &[u8], at: usize) -> (u16, usize) {
    const SNAP: [u8; 6] = [0xaa, 0xaa, 0x03, 0, 0, 0];
    match data.get(at..at + 8) {
        Some(h) if h[..6] == SNAP && be16(h, 6) >= eth_type::MIN => (be16(h, 6), at + 8),
        _ => (eth_type::NOT_ETH_TYPE, at),
    }
}

/// Whether the header was sound; then all three words are written.
#[inline(always)]
fn ipv4(data: &[u8], at: usize, total: usize, key: &mut FlowKey, off: &mut Offsets) -> bool {
    let Some(h) = data.get(at..).and_then(|d| d.first_chunk::<20>()) else {
        off.fault = Fault::Ipv4;
        return false;
    };
    let ihl = usize::from(h[0] & 0xf) * 4;
    let length = usize::from(be16(h, 2));
    if h[0] >> 4 != 4 || ihl < 20 || length < ihl || length > total - at || at + ihl > data.len() {
        off.fault = Fault::Ipv4;
        return false;
    }
    let frag_field = be16(h, 6);
    let mut frag = 0;
    if frag_field & 0x3fff != 0 {
        frag = FRAG_ANY | if frag_field & 0x1fff != 0 { FRAG_LATER } else { 0 };
    }
    key.set_word(word::IPV4, be64(h, 12));
    let proto = h[9];
    key.set_word(word::NW, nw(proto, h[1], h[8], frag));
    off.end = (at + length).min(usize::from(u16::MAX)) as u16;
    transport(data, at + ihl, length - ihl, proto, frag, false, key, off);
    true
}

#[inline(always)]
fn nw(proto: u8, tos: u8, ttl: u8, frag: u8) -> u64 {
    u64::from(proto) << 56 | u64::from(tos) << 48 | u64::from(ttl) << 40 | u64::from(frag) << 32
}

/// Write the L4 word. `length` is IP's payload length from `at` on.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // One caller each for IPv4 and IPv6, inlined.
fn transport(
    data: &[u8],
    at: usize,
    length: usize,
    proto: u8,
    frag: u8,
    v6: bool,
    key: &mut FlowKey,
    off: &mut Offsets,
) {
    key.set_word(word::L4, 0);
    if frag & FRAG_LATER != 0 {
        return;
    }
    off.l4 = at as u16;
    let l4 = data.get(at..).unwrap_or_default();
    let l4 = &l4[..length.min(l4.len())];
    let need = match proto {
        ip_proto::TCP => 20,
        ip_proto::SCTP => 12,
        ip_proto::UDP | ip_proto::ICMP | ip_proto::ICMPV6 | ip_proto::IGMP => 8,
        _ => return,
    };
    if l4.len() < need {
        off.fault = Fault::L4;
        return;
    }
    let ports = match proto {
        ip_proto::TCP => {
            let offset = usize::from(l4[12] >> 4) * 4;
            if offset < 20 || offset > length {
                off.fault = Fault::L4;
                return;
            }
            u64::from(be32(l4, 0)) << 32 | u64::from(be16(l4, 12) & 0x0fff) << 16
        }
        ip_proto::UDP | ip_proto::SCTP => u64::from(be32(l4, 0)) << 32,
        _ => u64::from(l4[0]) << 48 | u64::from(l4[1]) << 32,
    };
    key.set_word(word::L4, ports);
    match proto {
        ip_proto::ICMPV6 if v6 => neighbour_discovery(l4, key),
        // The key reads type and code whatever carries them, but they are no such message.
        ip_proto::ICMPV6 => return,
        ip_proto::ICMP | ip_proto::IGMP if v6 => return,
        _ => {}
    }
    off.proto = proto;
}

/// Whether the header and its extension headers were sound; then all words are written.
fn ipv6(data: &[u8], at: usize, total: usize, key: &mut FlowKey, off: &mut Offsets) -> bool {
    let Some(h) = data.get(at..).and_then(|d| d.first_chunk::<40>()) else {
        off.fault = Fault::Ipv6;
        return false;
    };
    let length = usize::from(be16(h, 4));
    if h[0] >> 4 != 6 || length > total - at - 40 {
        off.fault = Fault::Ipv6;
        return false;
    }
    key.set_word(word::IPV6_SRC, be64(h, 8));
    key.set_word(word::IPV6_SRC + 1, be64(h, 16));
    key.set_word(word::IPV6_DST, be64(h, 24));
    key.set_word(word::IPV6_DST + 1, be64(h, 32));
    let first = be32(h, 0);
    let end = at + 40 + length;
    let Some((proto, l4, frag)) = ext_headers(data, at + 40, end, h[6]) else {
        off.fault = Fault::Ipv6;
        return false;
    };
    key.set_word(word::IPV4, 0);
    let label = u64::from(first & 0xf_ffff);
    key.set_word(word::NW, nw(proto, (first >> 20) as u8, h[7], frag) | label);
    off.end = end.min(usize::from(u16::MAX)) as u16;
    transport(data, l4, end - l4, proto, frag, true, key, off);
    true
}

/// Walk IPv6 extension headers from `at`: (final protocol, its offset, `nw_frag`).
pub fn ext_headers(
    data: &[u8],
    mut at: usize,
    end: usize,
    mut next: u8,
) -> Option<(u8, usize, u8)> {
    let end = end.min(data.len());
    let mut frag = 0;
    for _ in 0..=MAX_EXT_HEADERS {
        let len = match next {
            ip_proto::HOPOPTS | ip_proto::ROUTING | ip_proto::DSTOPTS => {
                let h = data.get(at..end)?.first_chunk::<8>()?;
                (h[0], 8 + usize::from(h[1]) * 8)
            }
            ip_proto::AH => {
                let h = data.get(at..end)?.first_chunk::<8>()?;
                (h[0], 8 + usize::from(h[1]) * 4)
            }
            ip_proto::FRAGMENT => {
                let h = data.get(at..end)?.first_chunk::<8>()?;
                let field = be16(h, 2);
                // An atomic fragment (RFC 6946: offset 0, no more) is no fragment.
                if field & 0xfff8 != 0 {
                    // Nothing behind a later fragment's header is a header, and its protocol is
                    // that of the fragment header, as in Open vSwitch.
                    return Some((ip_proto::FRAGMENT, at + 8, FRAG_ANY | FRAG_LATER));
                }
                if field & 1 != 0 {
                    frag = FRAG_ANY;
                }
                (h[0], 8)
            }
            _ => return Some((next, at, frag)),
        };
        if at + len.1 > end {
            return None;
        }
        next = len.0;
        at += len.1;
    }
    None
}

/// `nw_frag` of the IPv6 packet whose header is at `at`; 0 if its headers are not sound.
pub(crate) fn ipv6_frag(data: &[u8], at: usize, end: usize) -> u8 {
    let next = data.get(at + 6).copied().unwrap_or(ip_proto::NONE);
    ext_headers(data, at + 40, end, next).map_or(0, |(_, _, frag)| frag)
}

/// Whether an ICMPv6 message is a whole neighbour solicitation or advertisement.
pub(crate) fn is_nd(icmp: &[u8]) -> bool {
    const SOLICIT: u8 = 135;
    const ADVERT: u8 = 136;
    icmp.len() >= 24 && (icmp[0] == SOLICIT || icmp[0] == ADVERT) && icmp[1] == 0
}

/// Target and link-layer options of a neighbour solicitation or advertisement (RFC 4861).
fn neighbour_discovery(icmp: &[u8], key: &mut FlowKey) {
    const SOURCE_LL: u8 = 1;
    const TARGET_LL: u8 = 2;
    if !is_nd(icmp) {
        return;
    }
    let (mut sll, mut tll, mut first) = (0, 0, 0u8);
    let mut rest = &icmp[24..];
    while rest.len() >= 8 {
        let len = usize::from(rest[1]) * 8;
        if len == 0 || len > rest.len() {
            break; // The option lies: what stood before it stays, as in Open vSwitch.
        }
        let address = mac(rest, 2);
        if len == 8 && (rest[0] == SOURCE_LL || rest[0] == TARGET_LL) {
            let slot = if rest[0] == SOURCE_LL { &mut sll } else { &mut tll };
            if *slot != 0 {
                return; // Twice: nothing of the message is believed.
            }
            *slot = address;
            first = if first == 0 { rest[0] } else { first };
        }
        rest = &rest[len..];
    }
    key.set_word(word::ND_TARGET, be64(icmp, 8));
    key.set_word(word::ND_TARGET + 1, be64(icmp, 16));
    key.set_word(word::ARP_SHA, sll << 16);
    key.set_word(word::ARP_THA, tll << 16);
    key.set_word(word::ND, u64::from(be32(icmp, 4)) << 32 | u64::from(first) << 24);
}

/// Whether it was IPv4 over Ethernet and whole; then all words are written.
fn arp(data: &[u8], at: usize, key: &mut FlowKey, off: &mut Offsets) -> bool {
    off.fault = Fault::Arp;
    let Some(a) = data.get(at..).and_then(|d| d.first_chunk::<28>()) else { return false };
    if be16(a, 0) != 1 || be16(a, 2) != eth_type::IPV4 || a[4] != 6 || a[5] != 4 {
        return false;
    }
    let op = be16(a, 6);
    let proto = if op <= 0xff { op as u8 } else { 0 };
    key.set_word(word::IPV4, u64::from(be32(a, 14)) << 32 | u64::from(be32(a, 24)));
    key.set_word(word::NW, nw(proto, 0, 0, 0));
    key.set_word(word::L4, 0);
    key.set_word(word::ARP_SHA, mac(a, 8) << 16);
    key.set_word(word::ARP_THA, mac(a, 18) << 16);
    off.fault = Fault::None;
    true
}

/// Up to three label stack entries. `false`, as nothing behind the labels is looked at.
fn mpls(data: &[u8], at: usize, key: &mut FlowKey, off: &mut Offsets) -> bool {
    const BOTTOM: u32 = 0x100;
    let mut lse = [0u32; 3];
    for (i, slot) in lse.iter_mut().enumerate() {
        let Some(b) = data.get(at + 4 * i..).and_then(|d| d.first_chunk::<4>()) else {
            off.fault = Fault::Mpls;
            break;
        };
        *slot = u32::from_be_bytes(*b);
        if *slot & BOTTOM != 0 {
            break;
        }
    }
    key.set_word(word::MPLS, u64::from(lse[0]) << 32 | u64::from(lse[1]));
    key.set_word(word::MPLS2, u64::from(lse[2]) << 32);
    false
}

#[cfg(test)]
mod tests;
