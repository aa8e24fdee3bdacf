//! Composed frames read as the key they were made from; own messages are what they should be.

mod common;

use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice};
use flow::build::{self, IcmpError, Neighbour};
use flow::extract::Fault;
use flow::{Field, FlowKey};

fn extracted(frame: &[u8]) -> (FlowKey, Fault) {
    let mut key = FlowKey::default();
    let off = flow::extract(frame, frame.len(), &mut key);
    (key, off.fault)
}

#[test]
fn what_is_composed_reads_as_the_key() {
    for (name, frame) in common::legal() {
        let (key, fault) = extracted(&frame);
        if matches!(name, "three_tags" | "snap_other_oui") || fault != Fault::None {
            continue; // Cannot be composed from a key alone.
        }
        for payload in [&b""[..], b"x", &[0x42; 100]] {
            let composed = build::compose(&key, payload);
            let (again, fault) = extracted(&composed);
            // Without payload there may be no header left to read.
            if name == "llc" && payload.is_empty() {
                continue;
            }
            // Options of a neighbour message, and echo ids, are payload of the message.
            let nd = key.get64(Field::NdTarget) != 0;
            if nd && !payload.is_empty() {
                continue;
            }
            assert_eq!(fault, Fault::None, "{name}");
            assert_eq!(again, key, "{name}");
        }
    }
}

#[test]
fn composed_checksums_are_right() {
    for (name, frame) in common::legal() {
        let (key, fault) = extracted(&frame);
        if fault != Fault::None || key.get(Field::NwFrag) != 0 || key.get(Field::Vlan1Tci) != 0 {
            continue;
        }
        let composed = build::compose(&key, b"odd length");
        let sliced =
            SlicedPacket::from_ethernet(&composed).unwrap_or_else(|e| panic!("{name}: {e}"));
        if let Some(NetSlice::Ipv4(ip)) = &sliced.net {
            assert_eq!(
                ip.header().header_checksum(),
                ip.header().to_header().calc_header_checksum()
            );
        }
        let l4 = match (&sliced.net, &sliced.transport) {
            (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(t))) => {
                let h = ip.header().to_header();
                (t.checksum(), t.to_header().calc_checksum_ipv4(&h, t.payload()).unwrap())
            }
            (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(u))) => {
                let h = ip.header().to_header();
                (u.checksum(), u.to_header().calc_checksum_ipv4(&h, u.payload()).unwrap())
            }
            (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Tcp(t))) => {
                let h = ip.header().to_header();
                (t.checksum(), t.to_header().calc_checksum_ipv6(&h, t.payload()).unwrap())
            }
            (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Udp(u))) => {
                let h = ip.header().to_header();
                (u.checksum(), u.to_header().calc_checksum_ipv6(&h, u.payload()).unwrap())
            }
            _ => continue,
        };
        assert_eq!(l4.0, l4.1, "{name}");
    }
}

#[test]
fn arp_request_is_one() {
    let frame =
        build::arp_frame(1, 0xffff_ffff_ffff, 0x0200_0000_0001, 0x0a00_0001, 0, 0x0a00_0002);
    assert_eq!(frame.len(), 60);
    let (key, fault) = extracted(&frame);
    assert_eq!(fault, Fault::None);
    assert_eq!(key.get(Field::NwProto), 1);
    assert_eq!(key.get(Field::NwDst), 0x0a00_0002);
    assert_eq!(key.get(Field::ArpSha), 0x0200_0000_0001);
    assert_eq!(key.get(Field::EthDst), 0xffff_ffff_ffff);
}

#[test]
fn neighbour_messages_are_valid() {
    let target = 0xfe80_0000_0000_0000_0000_0000_0012_3456;
    let dst = build::solicited_node(target);
    assert_eq!(dst, 0xff02_0000_0000_0000_0000_0001_ff12_3456);
    assert_eq!(build::multicast_mac(dst), 0x3333_ff12_3456);
    let n = Neighbour {
        eth_dst: build::multicast_mac(dst),
        eth_src: 0x0200_0000_0001,
        src: 0xfe80 << 112 | 1,
        dst,
        target,
    };
    for (frame, ty, flags) in
        [(n.solicit(), 135, 0), (n.advertise(true, false), 136, 0xa000_0000u128)]
    {
        let (key, fault) = extracted(&frame);
        assert_eq!(fault, Fault::None);
        assert_eq!(key.get(Field::NwTtl), 255);
        assert_eq!(key.get(Field::TpSrc), ty);
        assert_eq!(key.get(Field::NdTarget), target);
        assert_eq!(key.get(Field::NdReserved), flags);
        let option = if ty == 135 { Field::ArpSha } else { Field::ArpTha };
        assert_eq!(key.get(option), 0x0200_0000_0001);
        let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else { panic!() };
        assert!(icmp.is_checksum_valid(n.src.to_be_bytes(), n.dst.to_be_bytes()));
    }
    let from_nobody = Neighbour { src: 0, ..n }.solicit();
    assert_eq!(extracted(&from_nobody).0.get(Field::ArpSha), 0);
}

#[test]
fn icmp_errors_quote_within_limits() {
    let original = common::ip4(17, &common::udp(&[7; 1400]));
    let p = IcmpError::too_big(false, 1450).packet_v4(0x0a00_0002, 0x0a00_0001, 64, &original);
    assert_eq!(p.len(), 576);
    let sliced = SlicedPacket::from_ip(&p).unwrap();
    let Some(TransportSlice::Icmpv4(icmp)) = sliced.transport else { panic!() };
    assert_eq!(
        etherparse::checksum::Sum16BitWords::new().add_slice(icmp.slice()).ones_complement(),
        0
    );
    let Icmpv4Type::DestinationUnreachable(
        etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu },
    ) = icmp.icmp_type()
    else {
        panic!("{:?}", icmp.icmp_type())
    };
    assert_eq!(next_hop_mtu, 1450);
    assert_eq!(icmp.payload(), &original[..548]);

    let original = common::ip6(17, &common::udp(&[7; 1400]));
    let p = IcmpError::too_big(true, 1430).packet_v6(2, 1, 64, &original);
    assert_eq!(p.len(), 1280);
    let sliced = SlicedPacket::from_ip(&p).unwrap();
    let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else { panic!() };
    assert!(icmp.is_checksum_valid(2u128.to_be_bytes(), 1u128.to_be_bytes()));
    assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu: 1430 });
    assert_eq!(icmp.payload(), &original[..1232]);

    let short = IcmpError::time_exceeded(false).packet_v4(1, 2, 64, &[0x45; 20]);
    assert_eq!(short.len(), 48);
}
