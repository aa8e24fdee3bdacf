//! Frames are built twice, as a kernel without and with checksum offload would send them; settled,
//! the second must become the first. The checksums here are naive ones.

use afxdp::{FramePool, Region};
use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::*;

/// Ones' complement sum, word by word in network order, folded.
fn sum(pieces: &[&[u8]]) -> u16 {
    let bytes = pieces.concat();
    let mut sum = 0u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum >> 16 != 0 {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fill {
    Right,
    Unfinished,
}

#[derive(Clone, Debug)]
enum L4 {
    Tcp,
    Udp,
    Sctp,
    /// UDP tunnel with this frame inside; its own checksum none, right or as `Fill` says.
    Vxlan(Box<Frame>, OuterSum),
    Gre(Box<Frame>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum OuterSum {
    None,
    Right,
    AsFill,
}

#[derive(Clone, Debug)]
struct Frame {
    tags: usize,
    v6: bool,
    /// IPv6 extension headers (type), or 4-byte no-operation options of IPv4.
    options: Vec<u8>,
    l4: L4,
    payload: Vec<u8>,
    padding: usize,
}

const EXT: [u8; 4] = [ip_proto::HOPOPTS, ip_proto::DSTOPTS, ip_proto::ROUTING, ip_proto::FRAGMENT];

impl Frame {
    /// The frame as a kernel with (`Unfinished`) or without checksum offload sends it.
    fn bytes(&self, fill: Fill) -> Vec<u8> {
        let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for i in 0..self.tags {
            f.extend([0x81, 0x00, 0, i as u8 + 1]);
        }
        f.extend(if self.v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        let (src, dst) = self.addresses();
        let (proto, l4) = self.l4(fill, &src, &dst);
        if self.v6 {
            self.ipv6(&mut f, proto, &l4)
        } else {
            self.ipv4(&mut f, proto, &l4)
        }
        f.extend(vec![0xee; self.padding]);
        f
    }

    fn addresses(&self) -> (Vec<u8>, Vec<u8>) {
        if self.v6 {
            ([[0x20, 1], [0; 2]].concat().repeat(4), [[0x20, 2], [9; 2]].concat().repeat(4))
        } else {
            (vec![10, 0, 0, 1], vec![10, 0, 0, 2])
        }
    }

    fn ipv4(&self, f: &mut Vec<u8>, proto: u8, l4: &[u8]) {
        let words = self.options.len();
        let (src, dst) = self.addresses();
        let mut h = vec![0x45 + words as u8, 0];
        h.extend(((20 + words * 4 + l4.len()) as u16).to_be_bytes());
        h.extend([0, 7, 0x40, 0, 64, proto, 0, 0]);
        h.extend(src);
        h.extend(dst);
        h.extend([1, 1, 1, 1].repeat(words));
        let check = !sum(&[&h]);
        h[10..12].copy_from_slice(&check.to_be_bytes());
        f.extend(h);
        f.extend(l4);
    }

    fn ipv6(&self, f: &mut Vec<u8>, proto: u8, l4: &[u8]) {
        let (src, dst) = self.addresses();
        let mut rest = Vec::new();
        let mut chain = self.options.clone();
        chain.push(proto);
        for pair in chain.windows(2) {
            // Two blocks of 8, but for the fragment header, which has a fixed length (atomic).
            // A routing header has no segments left.
            match pair[0] {
                ip_proto::FRAGMENT => rest.extend([pair[1], 0, 0, 0, 1, 2, 3, 4]),
                ip_proto::ROUTING => rest.extend([&[pair[1], 1, 9, 0][..], &[5; 12]].concat()),
                _ => rest.extend([&[pair[1], 1, 1, 12][..], &[0; 12]].concat()),
            }
        }
        f.extend([0x60, 0, 0, 0]);
        f.extend(((rest.len() + l4.len()) as u16).to_be_bytes());
        f.extend([chain[0], 64]);
        f.extend(src);
        f.extend(dst);
        f.extend(rest);
        f.extend(l4);
    }

    /// Protocol and bytes.
    fn l4(&self, fill: Fill, src: &[u8], dst: &[u8]) -> (u8, Vec<u8>) {
        let udp = |port: u16, data: &[u8]| {
            let mut h = vec![0x30, 0x39];
            h.extend(port.to_be_bytes());
            h.extend((data.len() as u16 + 8).to_be_bytes());
            h.extend([0, 0]);
            h.extend(data);
            h
        };
        let (proto, field, mut bytes) = match &self.l4 {
            L4::Tcp => {
                let h = [4, 210, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0];
                (ip_proto::TCP, 16, [&h[..], &self.payload].concat())
            }
            L4::Udp => (ip_proto::UDP, 6, udp(53, &self.payload)),
            L4::Sctp => {
                let mut b = [&[1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0][..], &self.payload].concat();
                if fill == Fill::Right {
                    let crc = naive_crc32c(&b);
                    b[8..12].copy_from_slice(&crc.to_le_bytes());
                }
                return (ip_proto::SCTP, b);
            }
            L4::Gre(inner) => {
                let inner = inner.bytes(fill);
                let h = [0x20, 0, 0x65, 0x58, 0, 0, 0, 42];
                return (ip_proto::GRE, [&h[..], &inner].concat());
            }
            L4::Vxlan(inner, outer) => {
                let data = [&[8, 0, 0, 0, 0, 0, 7, 0][..], &inner.bytes(fill)].concat();
                let mut b = udp(4789, &data);
                let right = [&[8, 0, 0, 0, 0, 0, 7, 0][..], &inner.bytes(Fill::Right)].concat();
                match outer {
                    OuterSum::None => return (ip_proto::UDP, b),
                    OuterSum::Right => {
                        // As the kernel: over the bytes that the inner packet will have.
                        let whole = udp(4789, &right);
                        let c = nonzero(!(sum(&[&pseudo(17, &whole, src, dst), &whole])));
                        b[6..8].copy_from_slice(&c.to_be_bytes());
                        return (ip_proto::UDP, b);
                    }
                    OuterSum::AsFill => (ip_proto::UDP, 6, b),
                }
            }
        };
        let pseudo = pseudo(proto, &bytes, src, dst);
        let c = match fill {
            Fill::Unfinished => sum(&[&pseudo]),
            Fill::Right => nonzero(!sum(&[&pseudo, &bytes])),
        };
        bytes[field..field + 2].copy_from_slice(&c.to_be_bytes());
        (proto, bytes)
    }
}

fn pseudo(proto: u8, l4: &[u8], src: &[u8], dst: &[u8]) -> Vec<u8> {
    let len = (l4.len() as u32).to_be_bytes();
    [src, dst, &len, &[0, 0, 0, proto]].concat()
}

fn naive_crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for b in bytes {
        crc ^= u32::from(*b);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

fn frame(l4: impl Strategy<Value = L4>) -> impl Strategy<Value = Frame> {
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..80),
        prop::collection::vec(any::<u8>(), 1500..5000),
    ];
    let options = prop::collection::vec(prop::sample::select(&EXT[..]), 0..5);
    (0..=2usize, any::<bool>(), options, l4, payload, prop_oneof![Just(0), 1..60usize]).prop_map(
        |(tags, v6, options, l4, payload, padding)| Frame {
            tags,
            v6,
            options,
            l4,
            payload,
            padding,
        },
    )
}

fn plain() -> impl Strategy<Value = Frame> {
    frame(prop_oneof![Just(L4::Tcp), Just(L4::Udp), Just(L4::Sctp)])
}

/// Plain frames, and such in one or two tunnels.
fn any_frame() -> impl Strategy<Value = Frame> {
    fn wrap(inner: BoxedStrategy<Frame>) -> BoxedStrategy<Frame> {
        let inside = inner.prop_map(|mut f| {
            f.padding = 0;
            Box::new(f)
        });
        let sum = prop::sample::select(&[OuterSum::None, OuterSum::Right][..]);
        let vxlan = (inside.clone(), sum).prop_map(|(f, s)| L4::Vxlan(f, s));
        frame(prop_oneof![vxlan, inside.prop_map(L4::Gre)]).boxed()
    }
    prop_oneof![
        4 => plain().boxed(),
        2 => wrap(plain().boxed()),
        1 => wrap(wrap(plain().boxed())),
    ]
}

/// Settle the bytes and finish what is marked: what would leave by a wire.
fn settled(pool: &mut FramePool, bytes: &[u8]) -> (Vec<u8>, Settled) {
    let mut p = pool.packet_from(bytes).unwrap();
    let what = settle(&mut p, &VxlanPorts::default());
    assert_eq!(what == Settled::Partial, matches!(p.checksum(), Checksum::Partial { .. }));
    flow::checksum::finish_partial(&mut p);
    let out = p.to_vec();
    pool.free_packet(p);
    (out, what)
}

fn pool() -> FramePool {
    Region::new(1 << 21).unwrap().pool()
}

proptest! {
    #[test]
    fn unfinished_becomes_what_it_would_have_been(f in any_frame()) {
        let mut pool = pool();
        let (out, what) = settled(&mut pool, &f.bytes(Fill::Unfinished));
        prop_assert_eq!(out, f.bytes(Fill::Right));
        prop_assert_ne!(what, Settled::AsItWas);
        let lazy = matches!(f.l4, L4::Tcp | L4::Udp) && f.padding == 0;
        prop_assert_eq!(what == Settled::Partial, lazy);
    }

    #[test]
    fn finished_stays_as_it_is(f in any_frame()) {
        let bytes = f.bytes(Fill::Right);
        prop_assert_eq!(settled(&mut pool(), &bytes).0, bytes);
    }

    /// As a kernel's VXLAN does it for an inner packet that has no checksum of its own to finish.
    #[test]
    fn an_outer_checksum_is_finished_over_a_finished_inner(inner in plain(), mut f in plain()) {
        let mut inner = inner;
        inner.padding = 0;
        let right = inner.bytes(Fill::Right);
        f.padding = 0;
        f.options.clear();
        f.l4 = L4::Vxlan(Box::new(inner), OuterSum::AsFill);
        let mut unfinished = f.bytes(Fill::Unfinished);
        let at = unfinished.len() - right.len();
        unfinished[at..].copy_from_slice(&right);
        prop_assert_eq!(settled(&mut pool(), &unfinished).0, f.bytes(Fill::Right));
    }

    /// The quick answer is never given to a packet that the whole walk would touch.
    #[test]
    fn the_short_cut_leads_to_the_same_place(
        f in any_frame(), fill in 0..2, hit in prop::option::of((0..80usize, any::<u8>())),
    ) {
        let mut bytes = f.bytes(if fill == 0 { Fill::Right } else { Fill::Unfinished });
        if let Some((at, value)) = hit {
            let last = bytes.len() - 1;
            bytes[at.min(last)] = value;
        }
        let mut pool = pool();
        let mut p = pool.packet_from(&bytes).unwrap();
        let walked = ethernet(&mut p, 0, &VxlanPorts::default(), 0).unwrap_or(Settled::AsItWas);
        prop_assert!(
            walked == Settled::AsItWas || !is_plainly_finished(&bytes, &VxlanPorts::default())
        );
        pool.free_packet(p);
    }

    #[test]
    fn any_bytes_keep_their_length(mut bytes in prop::collection::vec(any::<u8>(), 0..200), ty in 0..4) {
        // Mostly something that is looked into.
        if bytes.len() > 24 {
            bytes[12..14].copy_from_slice(&[[8, 0], [0x86, 0xdd], [0x81, 0], [0, 0]][ty as usize]);
        }
        prop_assert_eq!(settled(&mut pool(), &bytes).0.len(), bytes.len());
    }

    #[test]
    fn cut_and_damaged_frames_do_no_harm(
        f in any_frame(), cut: prop::sample::Index, hit: prop::sample::Index, value: u8,
    ) {
        let mut bytes = f.bytes(Fill::Unfinished);
        let hit = hit.index(bytes.len().min(120));
        bytes[hit] = value;
        bytes.truncate(cut.index(bytes.len()) + 1);
        prop_assert_eq!(settled(&mut pool(), &bytes).0.len(), bytes.len());
    }
}

#[test]
fn agrees_with_etherparse() {
    let mut pool = pool();
    for payload in [&b""[..], b"x", b"some bytes", &[0xff; 1400]] {
        let eth = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let (mut tcp, mut udp) = (Vec::new(), Vec::new());
        eth()
            .ipv4([10, 1, 2, 3], [10, 4, 5, 6], 64)
            .tcp(80, 81, 5, 6)
            .write(&mut tcp, payload)
            .unwrap();
        eth().ipv6([3; 16], [4; 16], 64).udp(80, 81).write(&mut udp, payload).unwrap();
        for (right, at, pseudo_at, proto, l4) in
            [(tcp, 50, 26..34, 6u8, 34usize), (udp, 60, 22..54, 17, 54)]
        {
            assert_eq!(settled(&mut pool, &right), (right.clone(), Settled::AsItWas));
            let v4 = right[12] == 8;
            assert_eq!(
                is_plainly_finished(&right, &VxlanPorts::default()),
                v4 && right.len() >= 54
            );
            let length = ((right.len() - l4) as u32).to_be_bytes();
            let partial = sum(&[&right[pseudo_at], &length, &[0, proto]]);
            let mut unfinished = right.clone();
            unfinished[at..at + 2].copy_from_slice(&partial.to_be_bytes());
            assert_eq!(settled(&mut pool, &unfinished), (right, Settled::Partial));
        }
    }
}

#[test]
fn a_udp_checksum_of_zero_is_sent_as_ffff() {
    let f =
        Frame { tags: 0, v6: false, options: vec![], l4: L4::Udp, payload: vec![0, 0], padding: 0 };
    // Choose the payload so that the sum comes out as 0xffff.
    let mut bytes = f.bytes(Fill::Unfinished);
    let rest = sum(&[&bytes[34..]]);
    bytes[42..44].copy_from_slice(&(!rest).to_be_bytes());
    assert_eq!(sum(&[&bytes[34..]]), 0xffff);
    let (out, _) = settled(&mut pool(), &bytes);
    assert_eq!(&out[40..42], &[0xff, 0xff]);
}

#[test]
fn fragments_are_left_alone() {
    let f = Frame {
        tags: 0,
        v6: false,
        options: vec![],
        l4: L4::Udp,
        payload: vec![7; 100],
        padding: 0,
    };
    let mut bytes = f.bytes(Fill::Unfinished);
    bytes[20] = 0x20; // more fragments
    assert_eq!(settled(&mut pool(), &bytes), (bytes.clone(), Settled::AsItWas));
    let mut v6 = Frame { v6: true, options: vec![ip_proto::FRAGMENT], ..f }.bytes(Fill::Unfinished);
    v6[57] |= 1; // more fragments
    assert_eq!(settled(&mut pool(), &v6), (v6.clone(), Settled::AsItWas));
}

/// The pseudo header has the final destination, not the next hop.
#[test]
fn source_routes_are_followed() {
    let last = [0x20, 0x99, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7];
    for kind in [0u8, 2, 4] {
        let src = [0x20u8; 16];
        let next_hop = [0x21u8; 16];
        let udp = [0x30, 0x39, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4];
        let routing = [&[ip_proto::UDP, 2, kind, 1, 0, 0, 0, 0][..], &last].concat();
        let mut f =
            vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 36, 43, 64];
        f.extend(src);
        f.extend(next_hop);
        f.extend(&routing);
        f.extend(udp);
        let check = sum(&[&src, &last, &[0, 12, 0, 17]]);
        let at = f.len() - 6;
        f[at..at + 2].copy_from_slice(&check.to_be_bytes());
        assert_eq!(settled(&mut pool(), &f).1, Settled::Partial, "type {kind}");
    }
}
