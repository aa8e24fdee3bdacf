//! Frames of every protocol that extraction reads, sound and broken, each with a name.
//!
//! Built by hand, byte by byte, so that nothing of the code under test takes part.
#![allow(dead_code)] // Each test crate uses some of it.

pub const SRC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
pub const DST: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];

pub fn cat(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// An Ethernet frame with that type (or length).
pub fn eth(ty: u16, payload: &[u8]) -> Vec<u8> {
    cat(&[&DST, &SRC, &ty.to_be_bytes(), payload])
}

/// A tag: what follows a tag's type, up to and with the next type.
pub fn tag(tci: u16, ty: u16, payload: &[u8]) -> Vec<u8> {
    cat(&[&tci.to_be_bytes(), &ty.to_be_bytes(), payload])
}

fn sum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut s = 0u32;
    for pair in bytes.chunks(2) {
        s += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        s = (s >> 16) + (s & 0xffff);
    }
    !(s as u16)
}

pub const IP4_SRC: [u8; 4] = [10, 0, 0, 1];
pub const IP4_DST: [u8; 4] = [10, 0, 0, 2];

/// An IPv4 packet; `frag` is the flags and offset field.
pub fn ip4_with(proto: u8, frag: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let ihl = 5 + options.len() / 4;
    let length = (ihl * 4 + payload.len()) as u16;
    let mut h = vec![0x40 | ihl as u8, 0xb8];
    h.extend(length.to_be_bytes());
    h.extend([0x12, 0x34]);
    h.extend(frag.to_be_bytes());
    h.extend([64, proto, 0, 0]);
    h.extend(IP4_SRC);
    h.extend(IP4_DST);
    h.extend(options);
    let check = sum(&[&h]);
    h[10..12].copy_from_slice(&check.to_be_bytes());
    h.extend(payload);
    h
}

pub fn ip4(proto: u8, payload: &[u8]) -> Vec<u8> {
    ip4_with(proto, 0x4000, &[], payload)
}

pub const IP6_SRC: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
pub const IP6_DST: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 2];

/// An IPv6 packet whose first next-header is `next`.
pub fn ip6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut h = vec![0x6b, 0x8a, 0xbc, 0xde];
    h.extend((payload.len() as u16).to_be_bytes());
    h.extend([next, 63]);
    h.extend(IP6_SRC);
    h.extend(IP6_DST);
    h.extend(payload);
    h
}

/// An IPv6 extension header of the usual form, `len` in units of 8 bytes beyond the first 8.
pub fn ext(next: u8, len: u8, payload: &[u8]) -> Vec<u8> {
    let mut h = vec![next, len];
    h.resize(8 + usize::from(len) * 8, 0);
    h.extend(payload);
    h
}

/// An IPv6 fragment header; `field` is offset and flags.
pub fn frag6(next: u8, field: u16, payload: &[u8]) -> Vec<u8> {
    let f = field.to_be_bytes();
    cat(&[&[next, 0, f[0], f[1], 0, 0, 0, 9], payload])
}

/// An authentication header with an ICV of 12 bytes.
pub fn ah(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut h = vec![next, 4];
    h.resize(24, 0);
    h.extend(payload);
    h
}

/// L4 bytes with their checksum, at `field`, filled in over IPv4.
pub fn sum4(proto: u8, mut l4: Vec<u8>, field: usize) -> Vec<u8> {
    l4[field..field + 2].fill(0);
    let len = (l4.len() as u16).to_be_bytes();
    let c = sum(&[&IP4_SRC, &IP4_DST, &[0, proto], &len, &l4]);
    l4[field..field + 2].copy_from_slice(&c.to_be_bytes());
    l4
}

/// L4 bytes with their checksum, at `field`, filled in over IPv6.
pub fn sum6(proto: u8, mut l4: Vec<u8>, field: usize) -> Vec<u8> {
    l4[field..field + 2].fill(0);
    let len = (l4.len() as u16).to_be_bytes();
    let c = sum(&[&IP6_SRC, &IP6_DST, &[0, proto], &len, &l4]);
    l4[field..field + 2].copy_from_slice(&c.to_be_bytes());
    l4
}

pub fn tcp_with(offset_flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut h = vec![0x04, 0xd2, 0x00, 0x50, 1, 2, 3, 4, 5, 6, 7, 8];
    h.extend(offset_flags.to_be_bytes());
    h.extend([0x20, 0, 0, 0, 0, 0]);
    h.extend(payload);
    h
}

pub fn tcp(payload: &[u8]) -> Vec<u8> {
    tcp_with(0x5018, payload)
}

pub fn udp_with(length: u16, payload: &[u8]) -> Vec<u8> {
    cat(&[&[0x04, 0xd2, 0x00, 0x35], &length.to_be_bytes(), &[0, 0], payload])
}

pub fn udp(payload: &[u8]) -> Vec<u8> {
    udp_with(payload.len() as u16 + 8, payload)
}

/// An SCTP packet with the right CRC32c (RFC 9260 appendix A, bit by bit).
pub fn sctp(payload: &[u8]) -> Vec<u8> {
    let mut p = cat(&[&[0x0b, 0xb8, 0x0b, 0xb9, 0, 0, 0, 7, 0, 0, 0, 0], payload]);
    let crc = crc32c(&p);
    p[8..12].copy_from_slice(&crc.to_le_bytes());
    p
}

pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for b in bytes {
        crc ^= u32::from(*b);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

pub fn icmp(ty: u8, code: u8, payload: &[u8]) -> Vec<u8> {
    let mut p = cat(&[&[ty, code, 0, 0, 0, 1, 0, 2], payload]);
    let c = sum(&[&p]);
    p[2..4].copy_from_slice(&c.to_be_bytes());
    p
}

pub fn icmp6(ty: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    sum6(58, cat(&[&[ty, code, 0, 0], rest]), 2)
}

/// A neighbour message with those options.
pub fn nd(ty: u8, options: &[u8]) -> Vec<u8> {
    icmp6(ty, 0, &cat(&[&[0xe0, 0, 0, 0], &IP6_DST, options]))
}

pub const SLL: [u8; 8] = [1, 1, 2, 0, 0, 0, 0, 0x11];
pub const TLL: [u8; 8] = [2, 1, 2, 0, 0, 0, 0, 0x22];
pub const NONCE: [u8; 8] = [14, 1, 9, 8, 7, 6, 5, 4];

pub fn arp(op: u16) -> Vec<u8> {
    let op = op.to_be_bytes();
    cat(&[&[0, 1, 8, 0, 6, 4], &op, &SRC, &IP4_SRC, &[0; 6], &IP4_DST])
}

/// Every legal kind of frame, by name.
pub fn legal() -> Vec<(&'static str, Vec<u8>)> {
    let data = *b"some payload";
    let tcp4 = ip4(6, &sum4(6, tcp(&data), 16));
    let udp4 = ip4(17, &sum4(17, udp(&data), 6));
    let tcp6 = ip6(6, &sum6(6, tcp(&data), 16));
    let udp6 = ip6(17, &sum6(17, udp(&data), 6));
    let chain = ext(43, 0, &ext(60, 0, &ext(6, 2, &sum6(6, tcp(&data), 16))));
    vec![
        ("tcp4", eth(0x800, &tcp4)),
        ("udp4", eth(0x800, &udp4)),
        ("udp4_no_checksum", eth(0x800, &ip4(17, &udp(&data)))),
        ("sctp4", eth(0x800, &ip4(132, &sctp(&data)))),
        ("icmp4", eth(0x800, &ip4(1, &icmp(8, 0, &data)))),
        ("icmp4_error", eth(0x800, &ip4(1, &icmp(3, 4, &tcp4)))),
        ("igmp4", eth(0x800, &ip4(2, &icmp(0x16, 0, b"")))),
        ("gre4", eth(0x800, &ip4(47, &data))),
        ("esp4", eth(0x800, &ip4(50, &data))),
        ("proto0_4", eth(0x800, &ip4(0, &data))),
        ("proto255_4", eth(0x800, &ip4(255, &data))),
        ("options4", eth(0x800, &ip4_with(6, 0, &[1; 8], &sum4(6, tcp(&data), 16)))),
        ("first_frag4", eth(0x800, &ip4_with(17, 0x2000, &[], &sum4(17, udp(&data), 6)))),
        ("later_frag4", eth(0x800, &ip4_with(17, 0x00b9, &[], &data))),
        ("middle_frag4", eth(0x800, &ip4_with(17, 0x20b9, &[], &data))),
        ("padding_1", cat(&[&eth(0x800, &tcp4), &[0xee]])),
        ("padding_255", cat(&[&eth(0x800, &udp4), &[0xee; 255]])),
        ("padding_256", cat(&[&eth(0x800, &udp4), &[0xee; 256]])),
        ("padding_1400", cat(&[&eth(0x800, &tcp4), &[0xee; 1400]])),
        ("tcp6", eth(0x86dd, &tcp6)),
        ("udp6", eth(0x86dd, &udp6)),
        ("udp6_padded", cat(&[&eth(0x86dd, &udp6), &[0xee; 300]])),
        ("sctp6", eth(0x86dd, &ip6(132, &sctp(&data)))),
        ("icmp6_echo", eth(0x86dd, &ip6(58, &icmp6(128, 0, &[0, 1, 0, 2])))),
        ("ns", eth(0x86dd, &ip6(58, &nd(135, &SLL)))),
        ("na", eth(0x86dd, &ip6(58, &nd(136, &TLL)))),
        ("ns_bare", eth(0x86dd, &ip6(58, &nd(135, &[])))),
        ("ns_nonce_first", eth(0x86dd, &ip6(58, &nd(135, &cat(&[&NONCE, &SLL]))))),
        ("na_both", eth(0x86dd, &ip6(58, &nd(136, &cat(&[&SLL, &TLL]))))),
        ("ext6", eth(0x86dd, &ip6(0, &chain))),
        ("ah6", eth(0x86dd, &ip6(51, &ah(17, &sum6(17, udp(&data), 6))))),
        ("no_next6", eth(0x86dd, &ip6(59, &data))),
        ("esp6", eth(0x86dd, &ip6(50, &data))),
        ("first_frag6", eth(0x86dd, &ip6(44, &frag6(17, 1, &udp(&data))))),
        ("later_frag6", eth(0x86dd, &ip6(44, &frag6(17, 0x0b9 << 3, &data)))),
        ("atomic_frag6", eth(0x86dd, &ip6(44, &frag6(6, 0, &sum6(6, tcp(&data), 16))))),
        ("frag6_after_ext", eth(0x86dd, &ip6(60, &ext(44, 0, &frag6(17, 0x11, &data))))),
        ("arp_request", eth(0x806, &arp(1))),
        ("arp_reply_padded", cat(&[&eth(0x806, &arp(2)), &[0; 18]])),
        ("rarp", eth(0x8035, &arp(3))),
        ("vlan", eth(0x8100, &tag(0x6064, 0x800, &udp4))),
        ("vlan_dei", eth(0x8100, &tag(0x7064, 0x800, &udp4))),
        ("priority_tag", eth(0x8100, &tag(0xa000, 0x800, &udp4))),
        ("qinq", eth(0x88a8, &tag(0x0064, 0x8100, &tag(0x20c8, 0x86dd, &tcp6)))),
        ("vlan_in_vlan", eth(0x8100, &tag(0x0064, 0x8100, &tag(0x20c8, 0x806, &arp(1))))),
        ("three_tags", eth(0x8100, &tag(1, 0x8100, &tag(2, 0x8100, &tag(3, 0x800, &udp4))))),
        ("mpls_1", eth(0x8847, &cat(&[&[0, 1, 0x01, 64], &udp4]))),
        ("mpls_3", eth(0x8847, &cat(&[&[0, 1, 0, 64, 0, 2, 0, 63, 0, 3, 1, 62], &udp4]))),
        ("mpls_5", eth(0x8848, &cat(&[&[0, 1, 0, 64].repeat(4), &[0, 9, 1, 62], &data]))),
        ("snap", eth(8 + 40, &cat(&[&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0], &udp4]))),
        ("snap_vlan", eth(0x8100, &tag(5, 48, &cat(&[&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0], &udp4])))),
        ("snap_other_oui", eth(20, &cat(&[&[0xaa, 0xaa, 3, 0, 0, 0xc, 8, 0], &data]))),
        ("llc", eth(12, &cat(&[&[0x42, 0x42, 3], &data]))),
        ("lldp", eth(0x88cc, &data)),
        ("unknown_type", eth(0x1234, &data)),
    ]
}

/// Frames that lie or break off, by name.
pub fn broken() -> Vec<(&'static str, Vec<u8>)> {
    let data = *b"some payload";
    let ip4_of = |at: usize, byte: u8| {
        let mut p = ip4(6, &tcp(&data));
        p[at] = byte;
        eth(0x800, &p)
    };
    let nd_of = |options: &[u8]| eth(0x86dd, &ip6(58, &nd(136, options)));
    let exts = |n: usize| {
        let tcp = tcp(&data);
        let chain = (0..n).fold(tcp, |p, i| ext(if i == 0 { 6 } else { 60 }, 0, &p));
        eth(0x86dd, &ip6(60, &chain))
    };
    vec![
        ("snap_length_over", eth(0x5dc, &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0])),
        ("snap_type_a_length", eth(20, &cat(&[&[0xaa, 0xaa, 3, 0, 0, 0, 0, 9], &data]))),
        ("tag_and_nothing", eth(0x8100, &[])),
        ("tag_cut", eth(0x8100, &[0, 5, 8])),
        ("second_tag_cut", eth(0x8100, &tag(5, 0x8100, &[0, 6, 8]))),
        ("mpls_no_bottom", eth(0x8847, &[0, 1, 0, 64, 0, 2, 0, 63])),
        ("ihl_4", ip4_of(0, 0x44)),
        ("ihl_15", ip4_of(0, 0x4f)),
        ("length_over", ip4_of(3, 200)),
        ("length_under_header", ip4_of(3, 19)),
        ("length_header_only", ip4_of(3, 20)),
        ("bad_header_checksum", ip4_of(10, 0xff)),
        ("ttl_0", ip4_of(8, 0)),
        ("first_frag_8_bytes", eth(0x800, &ip4_with(6, 0x2000, &[], &tcp(b"")[..8]))),
        ("tcp_cut_19", eth(0x800, &ip4(6, &tcp(b"")[..19]))),
        ("tcp_cut_inside_padding", cat(&[&eth(0x800, &ip4(6, &tcp(b"")[..12])), &[0; 20]])),
        ("tcp_offset_4", eth(0x800, &ip4(6, &tcp_with(0x4002, &data)))),
        ("tcp_offset_15", eth(0x800, &ip4(6, &tcp_with(0xf002, &data)))),
        ("tcp_null", eth(0x800, &ip4(6, &tcp_with(0x5000, &data)))),
        ("tcp_all_flags", eth(0x800, &ip4(6, &tcp_with(0x5fff, &data)))),
        ("udp_cut_7", eth(0x800, &ip4(17, &udp(b"")[..7]))),
        ("udp_length_0", eth(0x800, &ip4(17, &udp_with(0, &data)))),
        ("udp_length_7", eth(0x800, &ip4(17, &udp_with(7, &data)))),
        ("udp_length_over", eth(0x800, &ip4(17, &udp_with(2000, &data)))),
        ("sctp_cut_11", eth(0x800, &ip4(132, &sctp(b"")[..11]))),
        ("icmp_cut_7", eth(0x800, &ip4(1, &icmp(8, 0, b"")[..7]))),
        ("igmp_cut_7", eth(0x800, &ip4(2, &icmp(0x16, 0, b"")[..7]))),
        ("icmp6_cut_3", eth(0x86dd, &ip6(58, &[128, 0, 0]))),
        ("icmp6_4_bytes", eth(0x86dd, &ip6(58, &[128, 0, 0, 0]))),
        ("icmp6_7_bytes", eth(0x86dd, &ip6(58, &[128, 0, 0, 0, 0, 0, 0]))),
        ("icmp6_8_bytes", eth(0x86dd, &ip6(58, &[128, 0, 0, 0, 0, 0, 0, 1]))),
        ("icmp6_over_ip4", eth(0x800, &ip4(58, &icmp6(128, 0, &data)))),
        ("icmp_over_ip6", eth(0x86dd, &ip6(1, &icmp(8, 0, &data)))),
        ("igmp_over_ip6", eth(0x86dd, &ip6(2, &icmp(0x16, 0, &data)))),
        ("ip6_length_over", {
            let mut p = ip6(17, &udp(&data));
            p[5] += 1;
            eth(0x86dd, &p)
        }),
        ("ip6_jumbogram", {
            let mut p = ip6(0, &ext(6, 0, &tcp(&data)));
            p[4..6].fill(0);
            eth(0x86dd, &p)
        }),
        ("ext6_cut", eth(0x86dd, &ip6(0, &[6, 0, 0, 0, 0, 0]))),
        ("ext6_over", eth(0x86dd, &ip6(0, &[6, 9, 0, 0, 0, 0, 0, 0]))),
        ("ext6_to_the_end", eth(0x86dd, &ip6(0, &ext(6, 0, &[])))),
        ("ah6_over", eth(0x86dd, &ip6(51, &[6, 9, 0, 0, 0, 0, 0, 0]))),
        ("frag6_cut", eth(0x86dd, &ip6(44, &[6, 0, 0, 0, 0]))),
        ("hop_by_hop_second", eth(0x86dd, &ip6(60, &ext(0, 0, &ext(6, 0, &tcp(&data)))))),
        ("routing_0", eth(0x86dd, &ip6(43, &ext(6, 2, &tcp(&data))))),
        ("ext6_8", exts(8)),
        ("ext6_32", exts(32)),
        ("ext6_50", exts(50)),
        ("nd_option_0", nd_of(&[2, 0, 1, 2, 3, 4, 5, 6])),
        ("nd_option_over", nd_of(&[2, 2, 1, 2, 3, 4, 5, 6])),
        ("nd_option_over_after_good", nd_of(&cat(&[&TLL, &[14, 9, 1, 2, 3, 4, 5, 6]]))),
        ("nd_option_0_after_good", nd_of(&cat(&[&TLL, &[14, 0, 1, 2, 3, 4, 5, 6]]))),
        ("nd_option_twice", nd_of(&cat(&[&TLL, &TLL]))),
        ("nd_option_16_bytes", nd_of(&cat(&[&[2, 2], &[7; 14]]))),
        ("nd_option_4_bytes", nd_of(&[2, 1, 1, 2])),
        ("nd_code_1", eth(0x86dd, &ip6(58, &icmp6(135, 1, &cat(&[&[0; 4], &IP6_DST, &SLL]))))),
        ("nd_no_target", eth(0x86dd, &ip6(58, &icmp6(135, 0, &[0xe0, 0, 0, 0])))),
        ("nd_target_cut", eth(0x86dd, &ip6(58, &icmp6(135, 0, &[0xe0, 0, 0, 0, 1, 2, 3, 4])))),
        ("arp_op_0", eth(0x806, &arp(0))),
        ("arp_op_255", eth(0x806, &arp(255))),
        ("arp_op_256", eth(0x806, &arp(256))),
        ("arp_op_65535", eth(0x806, &arp(65535))),
        ("arp_short", eth(0x806, &arp(1)[..27])),
        ("arp_hw_5", {
            let mut p = arp(1);
            p[4] = 5;
            eth(0x806, &p)
        }),
        ("arp_hw_type", {
            let mut p = arp(1);
            p[1] = 6;
            eth(0x806, &p)
        }),
    ]
}
