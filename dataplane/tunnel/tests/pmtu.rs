//! Answers to packets that do not fit: legal, complete, and only where there may be one.

mod common;

use common::frames::*;
use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice};
use flow::{Field, FlowKey, Offsets};
use tunnel::pmtu::{NoAnswer, too_big};

fn read(f: &[u8]) -> (FlowKey, Offsets) {
    let mut key = FlowKey::default();
    let off = flow::extract(f, f.len(), &mut key);
    (key, off)
}

fn answer(f: &[u8], max: usize) -> Result<Vec<u8>, NoAnswer> {
    let (key, off) = read(f);
    too_big(f, &off, &key, max)
}

fn big4(frag: u16) -> Vec<u8> {
    ip4_with(17, frag, &[], &udp(&[7; 1472]))
}

#[test]
fn fragmentation_needed() {
    for tags in 0..3 {
        let packet = big4(0x4000);
        let frame = match tags {
            0 => eth(0x800, &packet),
            1 => eth(0x8100, &tag(0x6005, 0x800, &packet)),
            _ => eth(0x88a8, &tag(0x6005, 0x8100, &tag(6, 0x800, &packet))),
        };
        let l3 = 14 + 4 * tags;
        let a = answer(&frame, 1450 + l3).unwrap();
        assert_eq!(a[..6], frame[6..12]);
        assert_eq!(a[6..12], frame[..6]);
        assert_eq!(a[12..l3], frame[12..l3], "type and tags");
        let s = SlicedPacket::from_ip(&a[l3..]).unwrap();
        let Some(NetSlice::Ipv4(ip)) = &s.net else { panic!() };
        assert_eq!(ip.header().source(), IP4_DST);
        assert_eq!(ip.header().destination(), IP4_SRC);
        assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
        let Some(TransportSlice::Icmpv4(icmp)) = &s.transport else { panic!() };
        let Icmpv4Type::DestinationUnreachable(
            etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu },
        ) = icmp.icmp_type()
        else {
            panic!("{:?}", icmp.icmp_type())
        };
        assert_eq!(next_hop_mtu, 1450);
        assert_eq!(icmp.payload(), &packet[..548]);
        let sum = etherparse::checksum::Sum16BitWords::new().add_slice(icmp.slice());
        assert_eq!(sum.ones_complement(), 0);
    }
}

#[test]
fn packet_too_big() {
    let packet = ip6(17, &udp(&[7; 1452]));
    let frame = eth(0x8100, &tag(0x6005, 0x86dd, &packet));
    for (max, told) in [(1430 + 18, 1430), (900, 1280)] {
        let a = answer(&frame, max).unwrap();
        let s = SlicedPacket::from_ip(&a[18..]).unwrap();
        let Some(TransportSlice::Icmpv6(icmp)) = &s.transport else { panic!() };
        assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu: told });
        assert!(icmp.is_checksum_valid(IP6_DST, IP6_SRC));
        assert_eq!(icmp.payload(), &packet[..1232]);
        let (key, _) = read(&a);
        assert_eq!(key.get(Field::VlanTci), 0x7005);
        assert_eq!(key.get(Field::Ipv6Dst), u128::from_be_bytes(IP6_SRC));
    }
}

#[test]
fn no_answer_where_there_must_be_none() {
    let with = |edits: &[(usize, u8)]| {
        let mut f = eth(0x800, &big4(0x4000));
        for (at, b) in edits {
            f[*at] = *b;
        }
        f
    };
    let error = ip4_with(1, 0x4000, &[], &icmp(3, 4, &[0; 1400]));
    let echo = ip4_with(1, 0x4000, &[], &icmp(8, 0, &[0; 1400]));
    let mut snap = vec![0xaa, 0xaa, 3, 0, 0, 0, 8, 0];
    snap.extend(big4(0x4000));
    let error6 = ip6(58, &icmp6(1, 0, &[0; 1400]));
    let mut multicast6 = ip6(17, &udp(&[0; 1400]));
    multicast6[24] = 0xff;
    for (what, frame, want) in [
        ("without DF", eth(0x800, &big4(0)), NoAnswer::MayFragment),
        ("a later fragment", eth(0x800, &big4(0x40b9)), NoAnswer::LaterFragment),
        ("to a multicast address", with(&[(30, 224)]), NoAnswer::NotUnicast),
        ("to the broadcast address", with(&[(30, 255)]), NoAnswer::NotUnicast),
        ("from nobody", with(&[(26, 0), (29, 0)]), NoAnswer::NotUnicast),
        ("from loopback", with(&[(26, 127)]), NoAnswer::NotUnicast),
        ("to a group of stations", with(&[(0, 1)]), NoAnswer::NotUnicast),
        ("an error", eth(0x800, &error), NoAnswer::Error),
        ("an ICMPv6 error", eth(0x86dd, &error6), NoAnswer::Error),
        ("IPv6 multicast", eth(0x86dd, &multicast6), NoAnswer::NotUnicast),
        ("ARP", eth(0x806, &arp(1)), NoAnswer::NotIp),
        ("SNAP", eth(1500, &snap), NoAnswer::NotIp),
        ("malformed", with(&[(14, 0x42)]), NoAnswer::NotIp),
        ("small enough", eth(0x800, &ip4(17, &udp(&[0; 30]))), NoAnswer::TooSmall),
    ] {
        assert_eq!(answer(&frame, 1000), Err(want), "{what}");
    }
    assert!(answer(&eth(0x800, &echo), 1000).is_ok());
    assert!(answer(&eth(0x800, &big4(0x4000)), 0).is_ok(), "at least 68 is told");
}

#[test]
fn any_content_is_survived() {
    for (_, frame) in legal().into_iter().chain(broken()) {
        for len in 0..=frame.len() {
            let (key, off) = read(&frame[..len]);
            let _ = too_big(&frame[..len], &off, &key, 60);
            // The first buffer of a longer one.
            let mut key = FlowKey::default();
            let off = flow::extract(&frame[..len], frame.len() + 9000, &mut key);
            let _ = too_big(&frame[..len], &off, &key, 60);
        }
    }
}

/// A TCP segment that is sound as far as an answer looks at it.
fn segment(flags: u8, seq: u32, ack: u32, data: &[u8]) -> Vec<u8> {
    let mut s = vec![0x30, 0x39, 0, 80];
    s.extend(seq.to_be_bytes());
    s.extend(ack.to_be_bytes());
    s.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    s.extend(data);
    s
}

#[test]
fn resets_are_as_the_rfc_says() {
    // Flags, data, and what the answer's sequence number, acknowledgement and flags are.
    for (flags, data, seq, ack, answer) in [
        (0x02, 0, 0, 1001, 0x14),
        (0x10, 0, 5000, 0, 0x04),
        (0x12, 0, 5000, 0, 0x04),
        (0x18, 6, 5000, 0, 0x04),
        (0x01, 6, 0, 1007, 0x14),
    ] {
        let s = segment(flags, 1000, 5000, &vec![1; data]);
        for frame in [eth(0x800, &ip4_with(6, 0, &[], &s)), eth(0x86dd, &ip6(6, &s))] {
            let (key, off) = read(&frame);
            let a = tunnel::pmtu::reset(&frame, &off, &key).expect("an answer");
            assert_eq!((&a[..6], &a[6..12]), (&frame[6..12], &frame[..6]));
            let sliced = SlicedPacket::from_ethernet(&a).unwrap();
            let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("no TCP") };
            assert_eq!((tcp.source_port(), tcp.destination_port()), (80, 12345));
            assert_eq!((tcp.sequence_number(), tcp.acknowledgment_number()), (seq, ack));
            assert_eq!(tcp.slice()[13], answer, "flags {flags:#x}");
            let header = tcp.to_header();
            let sum = match &sliced.net {
                Some(NetSlice::Ipv4(ip)) => {
                    let ip = ip.header();
                    assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum());
                    header.calc_checksum_ipv4_raw(ip.source(), ip.destination(), &[])
                }
                Some(NetSlice::Ipv6(ip)) => {
                    let ip = ip.header();
                    header.calc_checksum_ipv6_raw(ip.source(), ip.destination(), &[])
                }
                _ => panic!("no IP"),
            };
            assert_eq!(Ok(tcp.checksum()), sum);
        }
    }
    // A reset is not answered, nor is anything that is not TCP.
    for (proto, flags) in [(6, 0x04), (6, 0x14), (17, 0x02)] {
        let frame = eth(0x800, &ip4_with(proto, 0, &[], &segment(flags, 1, 1, &[])));
        let (key, off) = read(&frame);
        assert_eq!(tunnel::pmtu::reset(&frame, &off, &key), Err(NoAnswer::Error));
    }
}
