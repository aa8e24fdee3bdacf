//! What goes into a tunnel comes out of it; outer headers are right by other people's measure;
//! broken ones are refused for the right reason.

mod common;

use afxdp::{Checksum, Segmentation};
use common::*;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use flow::checksum::Sum;
use flow::extract::Fault;
use flow::{Drop, Field, FlowKey};
use proptest::prelude::*;
use proptest::sample::Index;
use tunnel::encap::{SRC_PORTS, Sequence, source_port};
use tunnel::{Encap, Kind, Sender, decap, flags};

/// Outer checksums and lengths, by etherparse and by plain sums.
fn check_outer(o: &tunnel::Outer, frame: &[u8]) {
    let s = SlicedPacket::from_ethernet(frame).unwrap();
    let payload = match s.net.unwrap() {
        NetSlice::Ipv4(ip) => {
            let h = ip.header();
            assert_eq!(h.header_checksum(), h.to_header().calc_header_checksum());
            assert_eq!(usize::from(h.total_len()), frame.len() - 14);
            assert_eq!(h.dont_fragment(), o.flags & flags::DF != 0);
            assert_eq!((h.slice()[1], h.ttl()), (o.tos, o.ttl));
            ip.payload().payload
        }
        NetSlice::Ipv6(ip) => {
            let h = ip.header();
            assert_eq!(usize::from(h.payload_length()), frame.len() - 54);
            assert_eq!((h.traffic_class(), h.hop_limit()), (o.tos, o.ttl));
            ip.payload().payload
        }
        other => panic!("{other:?}"),
    };
    let v6 = o.dst.is_ipv6();
    if o.kind == Kind::Gre {
        if o.flags & flags::CSUM != 0 {
            assert_eq!(Sum::new().bytes(payload).folded(), 0xffff);
        }
        return;
    }
    let Some(TransportSlice::Udp(udp)) = s.transport else { panic!("no UDP") };
    assert_eq!(usize::from(udp.length()), payload.len());
    assert_eq!(udp.destination_port(), o.dst_port);
    assert!(SRC_PORTS.contains(&udp.source_port()));
    assert_eq!(udp.checksum() != 0, v6 || o.flags & flags::CSUM != 0);
    let s = SlicedPacket::from_ethernet(frame).unwrap();
    let want = match s.net.unwrap() {
        NetSlice::Ipv4(ip) => {
            udp.to_header().calc_checksum_ipv4(&ip.header().to_header(), udp.payload())
        }
        NetSlice::Ipv6(ip) => {
            udp.to_header().calc_checksum_ipv6(&ip.header().to_header(), udp.payload())
        }
        NetSlice::Arp(_) => unreachable!(),
    };
    if udp.checksum() != 0 {
        assert_eq!(udp.checksum(), want.unwrap());
    }
}

/// The flags that the receiving end can see.
fn seen(o: &tunnel::Outer) -> u16 {
    let csum = o.dst.is_ipv6() && o.kind != Kind::Gre;
    o.flags & !flags::DF | if csum { flags::CSUM } else { 0 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn what_goes_in_comes_out(
        o in any_outer(), which in any::<Index>(), split in prop::option::of(60usize..200),
        hash: u64, padding in 0usize..40,
    ) {
        let corpus: Vec<_> = frames::legal().into_iter().chain(frames::broken()).collect();
        let (_, inner) = &corpus[which.index(corpus.len())];
        let at = split.unwrap_or(inner.len()).min(inner.len());
        let mut pool = pool();
        let mut p = pool.packet_from(&inner[..at]).unwrap();
        p.append_bytes(&inner[at..], &mut pool).unwrap();
        let template = encap(&o);
        let off = template.push(&mut p, hash, &mut Sender::default()).unwrap();
        prop_assert_eq!(p.len(), inner.len() + template.overhead());
        check_outer(&o, &p.to_vec());
        // Padding that Ethernet adds is no part of the inner packet.
        p.append_bytes(&vec![0xee; padding], &mut pool).unwrap();

        let (key, found) = read(&p);
        prop_assert_eq!(found, off);
        let d = decap(&mut p, &off, &key, o.kind).unwrap();
        prop_assert_eq!((d.id, d.flags), (o.id, seen(&o)));
        let mut inner_key = FlowKey::default();
        d.metadata(&key, &mut inner_key);
        d.strip(&mut p, &mut pool).unwrap();
        prop_assert_eq!(&p.to_vec(), inner);
        pool.free_packet(p);

        let mut want = FlowKey::default();
        want.set(Field::TunId, o.id.into());
        want.set(Field::TunFlags, seen(&o).into());
        want.set(Field::TunTos, o.tos.into());
        want.set(Field::TunTtl, o.ttl.into());
        match (src(o.dst.is_ipv6()), o.dst) {
            (std::net::IpAddr::V4(s), std::net::IpAddr::V4(d)) => {
                want.set(Field::TunSrc, u32::from(s).into());
                want.set(Field::TunDst, u32::from(d).into());
            }
            (std::net::IpAddr::V6(s), std::net::IpAddr::V6(d)) => {
                want.set(Field::TunIpv6Src, s.into());
                want.set(Field::TunIpv6Dst, d.into());
            }
            _ => unreachable!(),
        }
        if o.kind != Kind::Gre {
            want.set(Field::TunTpSrc, source_port(hash).into());
            want.set(Field::TunTpDst, o.dst_port.into());
        }
        prop_assert_eq!(inner_key, want);
    }

    /// Mutated outer packets: an error or an inner packet inside the bytes, and no panic.
    #[test]
    fn bytes_of_any_content(
        o in any_outer(), which in any::<Index>(), as_kind in 0usize..4,
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..6), cut in any::<Index>(),
    ) {
        let corpus = frames::legal();
        let mut bytes = encapsulated(&o, &corpus[which.index(corpus.len())].1);
        for (at, b) in changes {
            // Mostly in the headers.
            let at = at.index(bytes.len().min(90));
            bytes[at] = b;
        }
        if cut.index(3) == 0 {
            bytes.truncate(cut.index(bytes.len()));
        }
        let kind = [o.kind, Kind::Vxlan, Kind::Gre, Kind::Geneve][as_kind];
        let mut pool = pool();
        let mut p = pool.packet_from(&bytes).unwrap();
        let (key, off) = read(&p);
        if let Ok(d) = decap(&mut p, &off, &key, kind) {
            prop_assert!(d.strip + 14 <= d.end && d.end <= bytes.len());
            d.strip(&mut p, &mut pool).unwrap();
            prop_assert_eq!(p.to_vec(), &bytes[d.strip..d.end]);
        } else {
            prop_assert_eq!(p.to_vec(), bytes);
        }
        pool.free_packet(p);
    }

    #[test]
    fn noise_into_decap(
        bytes in prop::collection::vec(any::<u8>(), 0..160), kind in 0usize..3,
        l4 in 0u16..170, end: u16, proto: bool,
    ) {
        let kind = [Kind::Vxlan, Kind::Gre, Kind::Geneve][kind];
        let mut pool = pool();
        let mut p = pool.packet_from(&bytes).unwrap();
        let (key, mut off) = read(&p);
        let _ = decap(&mut p, &off, &key, kind);
        (off.l4, off.end, off.proto) = (l4, end, if proto { 17 } else { 47 });
        let mut key = key.clone();
        key.set(Field::NwProto, 47);
        key.set(Field::NwFrag, 0);
        if let Ok(d) = decap(&mut p, &off, &key, kind) {
            let _ = d.strip(&mut p, &mut pool);
        }
        pool.free_packet(p);
    }
}

/// One legal inner frame.
fn inner() -> Vec<u8> {
    frames::legal()[0].1.clone()
}

fn try_decap(bytes: &[u8], kind: Kind) -> Result<tunnel::Decap, Drop> {
    let mut pool = pool();
    let mut p = pool.packet_from(bytes).unwrap();
    let (key, off) = read(&p);
    let result = decap(&mut p, &off, &key, kind);
    pool.free_packet(p);
    result
}

/// Repair IP's and UDP's lengths after the frame has been cut or grown, IPv4 only.
fn fix_lengths(frame: &mut [u8]) {
    let ip = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&ip.to_be_bytes());
    if frame[23] == 17 {
        frame[38..40].copy_from_slice(&(ip - 20).to_be_bytes());
    }
}

#[test]
fn broken_outer_headers_have_their_reasons() {
    const V: usize = 42; // The tunnel header behind UDP over IPv4.
    const G: usize = 34; // GRE's over IPv4.
    let vxlan = encapsulated(&outer(Kind::Vxlan, false), &inner());
    let geneve = encapsulated(&outer(Kind::Geneve, false), &inner());
    let gre = encapsulated(&outer(Kind::Gre, false), &inner());
    for (frame, kind) in [(&vxlan, Kind::Vxlan), (&geneve, Kind::Geneve), (&gre, Kind::Gre)] {
        assert!(try_decap(frame, kind).is_ok());
    }
    let with = |frame: &[u8], edits: &[(usize, u8)]| {
        let mut f = frame.to_vec();
        for (at, b) in edits {
            f[*at] = *b;
        }
        f
    };
    let cut = |frame: &[u8], len: usize| {
        let mut f = frame[..len].to_vec();
        fix_lengths(&mut f);
        f
    };
    use Drop::*;
    for (what, frame, kind, want) in [
        ("no I flag", with(&vxlan, &[(V, 0)]), Kind::Vxlan, TunnelMalformed),
        ("reserved flag", with(&vxlan, &[(V, 0x0c)]), Kind::Vxlan, TunnelMalformed),
        ("reserved byte 3", with(&vxlan, &[(V + 3, 1)]), Kind::Vxlan, TunnelMalformed),
        ("reserved byte 7", with(&vxlan, &[(V + 7, 1)]), Kind::Vxlan, TunnelMalformed),
        ("inner of 13 bytes", cut(&vxlan, V + 8 + 13), Kind::Vxlan, TunnelMalformed),
        ("half a VXLAN header", cut(&vxlan, V + 4), Kind::Vxlan, TunnelMalformed),
        ("UDP length 0", with(&vxlan, &[(38, 0), (39, 0)]), Kind::Vxlan, TunnelMalformed),
        ("UDP length 7", with(&vxlan, &[(38, 0), (39, 7)]), Kind::Vxlan, TunnelMalformed),
        ("UDP length over", with(&vxlan, &[(38, 9)]), Kind::Vxlan, TunnelMalformed),
        ("UDP checksum", with(&vxlan, &[(40, 0xab), (41, 0xcd)]), Kind::Vxlan, TunnelChecksum),
        ("first fragment", with(&vxlan, &[(20, 0x20)]), Kind::Vxlan, TunnelMalformed),
        ("later fragment", with(&vxlan, &[(21, 9)]), Kind::Vxlan, TunnelMalformed),
        ("IP version", with(&vxlan, &[(14, 0x65)]), Kind::Vxlan, TunnelMalformed),
        ("GRE taken for VXLAN", gre.clone(), Kind::Vxlan, TunnelMalformed),
        ("VXLAN taken for GRE", vxlan.clone(), Kind::Gre, TunnelMalformed),
        ("Geneve version 1", with(&geneve, &[(V, 0x40)]), Kind::Geneve, TunnelMalformed),
        ("Geneve options over", with(&geneve, &[(V, 0x3f)]), Kind::Geneve, TunnelMalformed),
        (
            "Geneve options lie",
            with(&geneve, &[(V, 1), (V + 11, 9)]),
            Kind::Geneve,
            TunnelMalformed,
        ),
        ("Geneve of IPv4", with(&geneve, &[(V + 2, 8), (V + 3, 0)]), Kind::Geneve, TunnelNoPort),
        ("Geneve critical", with(&geneve, &[(V + 1, 0x40)]), Kind::Geneve, Unsupported),
        ("GRE version 1", with(&gre, &[(G + 1, 1)]), Kind::Gre, TunnelMalformed),
        ("GRE routing", with(&gre, &[(G, 0x60)]), Kind::Gre, TunnelMalformed),
        ("GRE recursion", with(&gre, &[(G, 0x21)]), Kind::Gre, TunnelMalformed),
        ("GRE of IPv4", with(&gre, &[(G + 2, 8), (G + 3, 0)]), Kind::Gre, TunnelNoPort),
        ("GRE checksum", with(&gre, &[(G, 0xa0)]), Kind::Gre, TunnelChecksum),
        ("GRE cut in its key", cut(&gre, G + 6), Kind::Gre, TunnelMalformed),
        ("GRE of 3 bytes", cut(&gre, G + 3), Kind::Gre, TunnelMalformed),
        ("GRE and nothing", cut(&gre, G + 8), Kind::Gre, TunnelMalformed),
    ] {
        assert_eq!(try_decap(&frame, kind), Err(want), "{what}");
    }
}

#[test]
fn ids_of_every_width() {
    for (kind, id) in [
        (Kind::Vxlan, 0),
        (Kind::Vxlan, 0xff_ffff),
        (Kind::Geneve, 0xff_ffff),
        (Kind::Gre, 0xffff_ffff),
        (Kind::Gre, 0),
    ] {
        let o = tunnel::Outer { id, ..outer(kind, false) };
        assert_eq!(try_decap(&encapsulated(&o, &inner()), kind).unwrap().id, id);
    }
}

#[test]
fn geneve_options_are_passed_over() {
    let mut frame = encapsulated(&outer(Kind::Geneve, false), &inner());
    let options = [1, 2, 3, 1, 9, 9, 9, 9, 1, 2, 4, 0];
    frame.splice(50..50, options);
    frame[42] = 3;
    fix_lengths(&mut frame);
    let d = try_decap(&frame, Kind::Geneve).unwrap();
    assert_eq!(frame[d.strip..d.end], inner());
}

#[test]
fn zero_checksums_are_taken() {
    let mut frame = encapsulated(&outer(Kind::Vxlan, true), &inner());
    assert_ne!(frame[60..62], [0, 0]);
    frame[60..62].fill(0);
    let d = try_decap(&frame, Kind::Vxlan).unwrap();
    assert_eq!(d.flags & flags::CSUM, 0);
    frame[60] = 1;
    assert_eq!(try_decap(&frame, Kind::Vxlan), Err(Drop::TunnelChecksum));
}

/// TCP over IPv4 whose checksum is still to be finished: (frame, start, offset).
fn partial_inner() -> (Vec<u8>, u16, u16) {
    let mut f = inner();
    let length = (f.len() - 34) as u32;
    let sum = Sum::pseudo_v4(0x0a00_0001, 0x0a00_0002, 6, length).folded();
    f[50..52].copy_from_slice(&sum.to_be_bytes());
    (f, 34, 16)
}

#[test]
fn a_partial_checksum_is_finished_on_the_way_in() {
    let (bytes, start, offset) = partial_inner();
    for kind in [Kind::Vxlan, Kind::Gre, Kind::Geneve] {
        for csum in [0, flags::CSUM] {
            let mut o = outer(kind, false);
            o.flags |= csum;
            let mut pool = pool();
            let mut p = pool.packet_from(&bytes).unwrap();
            p.set_checksum(Checksum::Partial { start, offset });
            encap(&o).push(&mut p, 1, &mut Sender::default()).unwrap();
            assert_eq!(p.checksum(), Checksum::Complete);
            check_outer(&o, &p.to_vec());
            let (key, off) = read(&p);
            let d = decap(&mut p, &off, &key, kind).unwrap();
            d.strip(&mut p, &mut pool).unwrap();
            assert_eq!(p.to_vec(), inner(), "as a sender without offload makes it");
            pool.free_packet(p);
        }
    }
}

#[test]
fn a_partial_checksum_inside_is_finished_before_the_outer_is_judged() {
    // As a kernel's VXLAN device sends it: the outer sum is over the finished bytes.
    let o = tunnel::Outer { flags: flags::CSUM | flags::KEY, ..outer(Kind::Vxlan, false) };
    let mut bytes = encapsulated(&o, &inner());
    let (unfinished, start, offset) = partial_inner();
    bytes[50..].copy_from_slice(&unfinished);
    let mut pool = pool();
    let mut p = pool.packet_from(&bytes).unwrap();
    p.set_checksum(Checksum::Partial { start: 50 + start, offset });
    let (key, off) = read(&p);
    let d = decap(&mut p, &off, &key, Kind::Vxlan).unwrap();
    d.strip(&mut p, &mut pool).unwrap();
    assert_eq!(p.to_vec(), inner());
    assert_eq!(p.checksum(), Checksum::Complete);
    pool.free_packet(p);
    // Without the note that it is unfinished, the outer sum is wrong.
    assert_eq!(try_decap(&bytes, Kind::Vxlan), Err(Drop::TunnelChecksum));
}

#[test]
fn a_partial_checksum_inside_stays_so_when_nothing_covers_it() {
    let (unfinished, start, offset) = partial_inner();
    let bytes = encapsulated(&outer(Kind::Vxlan, false), &unfinished);
    let mut pool = pool();
    let mut p = pool.packet_from(&bytes).unwrap();
    p.set_checksum(Checksum::Partial { start: 50 + start, offset });
    let (key, off) = read(&p);
    let d = decap(&mut p, &off, &key, Kind::Vxlan).unwrap();
    d.strip(&mut p, &mut pool).unwrap();
    assert_eq!(p.checksum(), Checksum::Partial { start, offset });
    pool.free_packet(p);
}

#[test]
fn an_outer_partial_checksum_is_not_judged() {
    let o = tunnel::Outer { flags: flags::CSUM | flags::KEY, ..outer(Kind::Vxlan, false) };
    let mut bytes = encapsulated(&o, &inner());
    bytes[40..42].copy_from_slice(&[0x12, 0x34]);
    let mut pool = pool();
    let mut p = pool.packet_from(&bytes).unwrap();
    p.set_checksum(Checksum::Partial { start: 34, offset: 6 });
    let (key, off) = read(&p);
    let d = decap(&mut p, &off, &key, Kind::Vxlan).unwrap();
    d.strip(&mut p, &mut pool).unwrap();
    assert_eq!(p.checksum(), Checksum::Complete);
    pool.free_packet(p);
}

#[test]
fn what_cannot_be_sent_is_refused_untouched() {
    let mut pool = pool();
    let template = encap(&outer(Kind::Vxlan, true));
    let sender = &mut Sender::default();
    let mut p = pool.packet_from(&inner()).unwrap();
    p.set_segmentation(Segmentation::Tcp4(1400));
    assert_eq!(template.push(&mut p, 0, sender), Err(Drop::Unsupported));
    p.set_segmentation(Segmentation::None);
    while p.push_front(16).is_ok() {}
    let before = p.to_vec();
    assert_eq!(template.push(&mut p, 0, sender), Err(Drop::NoHeadroom));
    assert_eq!(p.to_vec(), before);
    pool.free_packet(p);
    let mut huge = pool.packet_from(&vec![0; 65_535 - 20]).unwrap();
    assert_eq!(template.push(&mut huge, 0, sender), Err(Drop::TooBig));
    assert_eq!(huge.len(), 65_515);
    pool.free_packet(huge);
}

#[test]
fn the_biggest_frame_fits_the_mtu() {
    for (kind, v6) in [(Kind::Vxlan, false), (Kind::Vxlan, true), (Kind::Gre, false)] {
        let o = outer(kind, v6);
        let most = encap(&o).max_frame(1500);
        assert_eq!(encapsulated(&o, &vec![1; most]).len(), 1514);
    }
    assert_eq!(encap(&outer(Kind::Vxlan, false)).max_frame(1500), 1464);
    assert_eq!(encap(&outer(Kind::Vxlan, false)).max_frame(10), 0);
}

#[test]
fn packets_that_may_be_fragmented_are_identified() {
    let o = tunnel::Outer { flags: flags::KEY, ..outer(Kind::Vxlan, false) };
    let (template, mut sender, mut pool) = (encap(&o), Sender::default(), pool());
    let mut ids = Vec::new();
    for _ in 0..3 {
        let mut p = pool.packet_from(&inner()).unwrap();
        template.push(&mut p, 0, &mut sender).unwrap();
        check_outer(&o, &p.to_vec());
        ids.push([p.data()[18], p.data()[19]]);
        pool.free_packet(p);
    }
    assert_eq!(ids, [[0, 1], [0, 2], [0, 3]]);
    assert!(!template.df());
}

#[test]
fn gre_packets_are_numbered() {
    let o = tunnel::Outer { seq: true, ..outer(Kind::Gre, false) };
    let seq = Sequence::default();
    let template = Encap::new(&o, src(false), LINK, &seq).unwrap();
    assert_eq!(template, Encap::new(&o, src(false), LINK, &seq).unwrap());
    assert_ne!(template, Encap::new(&o, src(false), LINK, &Sequence::default()).unwrap());
    let mut pool = pool();
    for n in 0..3u32 {
        let mut p = pool.packet_from(&inner()).unwrap();
        template.push(&mut p, 0, &mut Sender::default()).unwrap();
        assert_eq!(p.data()[42..46], n.to_be_bytes());
        pool.free_packet(p);
    }
    assert!(Encap::new(&o, src(true), LINK, &seq).is_err());
}

/// Whatever it is that flows differ in, their source ports are as many as if drawn by lot.
#[test]
fn source_ports_spread() {
    let v4 = |src: u32, dst: u32, ports: u32| {
        let mut k = FlowKey::default();
        k.set(Field::EthType, 0x800);
        k.set(Field::NwProto, 6);
        k.set(Field::NwSrc, src.into());
        k.set(Field::NwDst, dst.into());
        k.set(Field::TpSrc, u128::from(ports >> 16));
        k.set(Field::TpDst, ports.into());
        k
    };
    let v6 = |low: u32, ports: u32| {
        let mut k = v4(0, 0, ports);
        k.set(Field::EthType, 0x86dd);
        k.set(Field::Ipv6Src, 0xfd00 << 112 | u128::from(low));
        k.set(Field::Ipv6Dst, 0xfd01 << 112 | 1);
        k
    };
    let ethernet = |low: u32| {
        let mut k = FlowKey::default();
        k.set(Field::EthType, 0x88b5);
        k.set(Field::EthSrc, 0x0200_0000_0000 | u128::from(low));
        k.set(Field::EthDst, 0x0200_0000_ffff);
        k
    };
    type Flow<'a> = &'a dyn Fn(u32) -> FlowKey;
    let ways: [(&str, Flow<'_>); 8] = [
        ("few addresses", &|i| v4(i >> 16, 0, i << 16)),
        ("source port", &|i| v4(0x0a00_0001, 0x0a00_0002, i << 16 | 443)),
        ("destination port", &|i| v4(0xc0a8_0001, 0xc0a8_0102, 50_000 << 16 | i & 0xffff)),
        ("source", &|i| v4(0x0a00_0000 + i, 0x0a80_0001, 0x1234_0035)),
        ("destination", &|i| v4(0x0a80_0001, 0x0a00_0000 + i * 256, 0x1234_0035)),
        ("IPv6 source", &|i| v6(i, 0x1234_0035)),
        ("IPv6 source port", &|i| v6(1, i << 16 | 443)),
        ("Ethernet source", &|i| ethernet(i)),
    ];
    for (way, flow) in ways {
        let mut seen = std::collections::BTreeSet::new();
        for i in 0..60_000 {
            let port = source_port(flow(i).flow_hash());
            assert!(SRC_PORTS.contains(&port));
            seen.insert(port);
        }
        // Of 28,232 ports, 24,861 by lot.
        assert!(seen.len() > 23_500, "{way}: {}", seen.len());
    }
}

#[test]
fn tunnels_in_tunnels() {
    let mut frame = inner();
    let layers = [Kind::Vxlan, Kind::Vxlan, Kind::Gre];
    let mut pool = pool();
    for kind in layers {
        frame = encapsulated(&outer(kind, false), &frame);
    }
    let mut p = pool.packet_from(&frame).unwrap();
    for kind in layers.iter().rev() {
        let (key, off) = read(&p);
        assert_eq!(off.fault, Fault::None);
        decap(&mut p, &off, &key, *kind).unwrap().strip(&mut p, &mut pool).unwrap();
    }
    assert_eq!(p.to_vec(), inner());
    pool.free_packet(p);
}
