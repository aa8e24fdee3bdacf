//! Each edit is judged by a new extraction and by checksums computed anew.

use afxdp::{Checksum, FramePool, Packet, Region};
use proptest::prelude::*;

use super::*;
use crate::checksum::{self, Sum};
use crate::extract::{FRAG_LATER, extract};
use crate::fields::Field;
use crate::key::FlowKey;
use crate::sparse::Match;

#[path = "../../tests/common/mod.rs"]
mod common;

fn pool() -> FramePool {
    Region::new(2 << 20).unwrap().pool()
}

/// Read a packet as a worker does.
fn read(p: &Packet) -> (FlowKey, Offsets) {
    let mut key = FlowKey::default();
    let off = extract(p.data(), p.len(), &mut key);
    (key, off)
}

/// A packet of one or, with `split`, several buffers.
fn packet(pool: &mut FramePool, bytes: &[u8], split: Option<usize>) -> Packet {
    let at = split.unwrap_or(bytes.len()).min(bytes.len());
    let mut p = pool.packet_from(&bytes[..at]).unwrap();
    p.append_bytes(&bytes[at..], pool).unwrap();
    p
}

/// What there is to say about the packet's checksums: (IP header right, L4 right).
fn verify(bytes: &[u8]) -> (Option<bool>, Option<bool>) {
    let mut key = FlowKey::default();
    let off = extract(bytes, bytes.len(), &mut key);
    if off.end == 0 {
        return (None, None);
    }
    let (l3, l4, end) = (usize::from(off.l3), usize::from(off.l4), usize::from(off.end));
    let v4 = key.get64(Field::EthType) == 0x800;
    let header = v4.then(|| {
        let ihl = usize::from(bytes[l3] & 0xf) * 4;
        checksum::checksum(&bytes[l3..l3 + ihl]) == 0
    });
    if off.proto == 0 || key.get64(Field::NwFrag) != 0 {
        return (header, None);
    }
    let length = (end - l4) as u32;
    let pseudo = if v4 {
        let (src, dst) = (key.get64(Field::NwSrc) as u32, key.get64(Field::NwDst) as u32);
        Sum::pseudo_v4(src, dst, off.proto, length)
    } else {
        Sum::pseudo_v6(key.get(Field::Ipv6Src), key.get(Field::Ipv6Dst), off.proto, length)
    };
    let l4 = std::iter::once(&bytes[l4..end]);
    (header, checksum::verify_l4(off.proto, pseudo, l4, !v4))
}

#[test]
fn the_corpus_itself_is_right() {
    for (name, frame) in common::legal() {
        let (header, l4) = verify(&frame);
        assert_ne!(header, Some(false), "{name}");
        assert_ne!(l4, Some(false), "{name}");
    }
}

/// Fields that can be set, and those bits that a packet keeps.
fn settable() -> Vec<Field> {
    use Field::*;
    vec![
        EthDst,
        EthSrc,
        VlanTci,
        Vlan1Tci,
        NwSrc,
        NwDst,
        NwProto,
        NwTos,
        NwTtl,
        Ipv6Label,
        TpSrc,
        TpDst,
        Ipv6Src,
        Ipv6Dst,
        ArpSha,
        ArpTha,
        NdTarget,
        NdReserved,
        NdOptionsType,
        NwFrag,
        TcpFlags,
        EthType,
        VlanTpid,
        Mpls0,
    ]
}

/// Whether the packet has the field, so that setting it must work.
fn has(key: &FlowKey, off: &Offsets, f: Field) -> bool {
    use Field::*;
    let ty = key.get64(EthType);
    let ip = off.end != 0;
    let arp = matches!(ty, 0x806 | 0x8035) && off.fault == Fault::None;
    let nd = off.proto == 58 && key.get(NdTarget) != 0;
    match f {
        EthDst | EthSrc => true,
        VlanTci => key.get(VlanTci) != 0,
        Vlan1Tci => key.get(Vlan1Tci) != 0,
        NwSrc | NwDst => ip && ty == 0x800 || arp,
        NwProto => arp,
        NwTos | NwTtl => ip,
        Ipv6Label | Ipv6Src | Ipv6Dst => ip && ty == 0x86dd,
        TpSrc | TpDst => matches!(off.proto, 1 | 6 | 17 | 58 | 132),
        ArpSha | ArpTha => arp || nd,
        NdTarget | NdReserved => nd,
        NdOptionsType => nd,
        _ => false,
    }
}

/// What the field is expected to read as afterwards.
fn expected(before: &FlowKey, off: &Offsets, f: Field, value: u128, mask: u128) -> u128 {
    use Field::*;
    let old = before.get(f);
    let mut mask = mask & f.full();
    let nd = off.proto == 58;
    match f {
        // The bit says only that there is a tag.
        VlanTci | Vlan1Tci => mask &= !0x1000,
        // Type and code are bytes.
        TpSrc | TpDst if matches!(off.proto, 1 | 58) => mask &= 0xff,
        // No option, nothing to set.
        ArpSha | ArpTha if nd && old == 0 => mask = 0,
        NdOptionsType if old == 0 => mask = 0,
        _ => {}
    }
    old & !mask | value & mask
}

fn set_one(p: &mut Packet, off: &Offsets, f: Field, value: u128, mask: u128) -> Result<(), Drop> {
    let (mut k, mut m) = (FlowKey::default(), FlowKey::default());
    k.set(f, value);
    m.set(f, mask);
    SetFields::new(Match::new(&k, &m)).set(p, off)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    /// Both ends at once give what one edit after the other gives, to the byte.
    #[test]
    fn both_ends_at_once(
        which in any::<prop::sample::Index>(), addresses: (u64, u64), ports: (u32, u32),
        spoil in prop::option::of(0usize..80), partial: bool,
    ) {
        let frames: Vec<_> = common::legal().into_iter().chain(common::broken()).collect();
        let (name, mut frame) = frames[which.index(frames.len())].clone();
        if let Some(at) = spoil.filter(|at| *at < frame.len()) {
            frame[at] ^= 0x11;
        }
        let mut pool = pool();
        let mut made = || {
            let mut p = packet(&mut pool, &frame, None);
            let (_, off) = read(&p);
            if partial {
                p.set_checksum(Checksum::Partial { start: off.l4, offset: 16 });
            }
            (p, off)
        };
        let ((mut one, off), (mut other, _)) = (made(), made());
        let first = set_ipv4(&mut one, &off, addresses.0, addresses.1);
        let after = first.and_then(|()| set_ports(&mut one, &off, ports.0, ports.1));
        let at_once = set_ipv4_endpoints(&mut other, &off, addresses, ports);
        let (one, other) = ((after, one.to_vec(), pool.free_packet(one)), (at_once, other.to_vec(), pool.free_packet(other)));
        prop_assert_eq!(one, other, "{}", name);
    }

    /// Any field, value and mask on any frame: it reads as set, all else as before, checksums as
    /// right or wrong as before; or an error and not a byte changed.
    #[test]
    fn a_field_reads_as_set(
        which in any::<prop::sample::Index>(), field in any::<prop::sample::Index>(),
        value: u128, mask: u128, spoil in prop::option::of(0usize..80),
    ) {
        let frames: Vec<_> = common::legal().into_iter().chain(common::broken()).collect();
        let (name, mut frame) = frames[which.index(frames.len())].clone();
        let fields = settable();
        let f = fields[field.index(fields.len())];
        prop_assume!(name != "nd_option_twice"); // Has a target, and reads as having none.
        if let Some(at) = spoil.filter(|at| *at < frame.len()) {
            frame[at] ^= 0x11;
        }
        let mut pool = pool();
        let mut p = packet(&mut pool, &frame, None);
        let (before, off) = read(&p);
        // The label's place is wider than the field.
        let mask = if f == Field::Ipv6Label { mask & 0xf_ffff } else { mask };
        let wanted = mask & f.full() != 0;
        let result = set_one(&mut p, &off, f, value, mask);
        let (after, off2) = read(&p);
        let bytes = p.to_vec();
        pool.free_packet(p);
        if !wanted {
            prop_assert_eq!(result, Ok(()));
        } else {
            prop_assert_eq!(result.is_ok(), has(&before, &off, f), "{} {:?} {:?}", name, f, result);
        }
        if result.is_err() || !wanted {
            prop_assert_eq!(bytes, frame);
            return Ok(());
        }
        // Another type makes another message, read in another way.
        let retyped = f == Field::TpSrc && matches!(off.proto, 1 | 58) || f == Field::NdOptionsType;
        if !retyped {
            let mut want = before.clone();
            want.set(f, expected(&before, &off, f, value, mask));
            if f == Field::TpDst && off.proto == 58 && want != before {
                return Ok(()); // A code makes it no neighbour message.
            }
            if matches!(f, Field::ArpSha | Field::ArpTha) && after.get(Field::NdTarget) == 0
                && off.proto == 58 {
                return Ok(()); // Set to zero, the option counts as never seen.
            }
            prop_assert_eq!(&after, &want, "{} {:?}", name, f);
            prop_assert_eq!(off2, off);
        }
        prop_assert_eq!(verify(&bytes), verify(&frame), "{} {:?}", name, f);
    }

    /// Fields set in several packets are what they are when set in one after the other, up to the first
    /// that cannot have them; those behind it can be set then.
    #[test]
    fn several_packets_as_one_by_one(
        which in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        fields in prop::collection::vec((any::<prop::sample::Index>(), any::<u128>(), any::<u128>()), 1..4),
    ) {
        let frames: Vec<_> = common::legal().into_iter().chain(common::broken()).collect();
        let (mut k, mut m) = (FlowKey::default(), FlowKey::default());
        for (f, value, mask) in fields {
            let f = settable()[f.index(settable().len())];
            k.set(f, value);
            m.set(f, mask);
        }
        let set = SetFields::new(Match::new(&k, &m));
        let mut pool = pool();
        let mut made = || -> (Vec<Packet>, Vec<Offsets>) {
            let frame = |w: &prop::sample::Index| packet(&mut pool, &frames[w.index(frames.len())].1, None);
            let packets: Vec<_> = which.iter().map(frame).collect();
            let off = packets.iter().map(|p| read(p).1).collect();
            (packets, off)
        };
        let ((mut one, off), (mut all, _)) = (made(), made());
        let results: Vec<_> = one.iter_mut().zip(&off).map(|(p, off)| set.set(p, off)).collect();
        let done = set.set_all(&mut all, &off);
        prop_assert_eq!(done, results.iter().position(|r| r.is_err()).unwrap_or(all.len()));
        for i in done..all.len() {
            prop_assert_eq!(set.set(&mut all[i], &off[i]), results[i]);
        }
        for (one, all) in one.iter().zip(&all) {
            prop_assert_eq!(one.to_vec(), all.to_vec());
        }
        one.into_iter().chain(all).for_each(|p| pool.free_packet(p));
    }

    /// The same over several buffers: only the bytes of the first are touched, sums are right.
    #[test]
    fn chained_packets_too(
        which in any::<prop::sample::Index>(), split in 54usize..90,
        ports: u32, addresses: u64, v6: u128,
    ) {
        let frames = common::legal();
        let (_, frame) = &frames[which.index(frames.len())];
        let mut pool = pool();
        let mut p = packet(&mut pool, frame, Some(split));
        let (_, off) = read(&p);
        let _ = set_ports(&mut p, &off, ports, u32::MAX);
        let _ = set_ipv4(&mut p, &off, addresses, u64::MAX);
        let _ = set_ipv6_src(&mut p, &off, v6, u128::MAX);
        let _ = set_ipv6_dst(&mut p, &off, !v6, u128::MAX);
        let bytes = p.to_vec();
        pool.free_packet(p);
        if off.fault == Fault::None {
            prop_assert_eq!(verify(&bytes), verify(frame));
        }
    }

    /// Pushing a tag and popping it gives the frame back; between them it reads as tagged.
    #[test]
    fn tags_go_on_and_off(
        which in any::<prop::sample::Index>(), tci: u16, service: bool,
    ) {
        let frames: Vec<_> = common::legal().into_iter().chain(common::broken()).collect();
        let (name, frame) = &frames[which.index(frames.len())];
        let mut pool = pool();
        let mut p = packet(&mut pool, frame, None);
        let (before, mut off) = read(&p);
        let first = off;
        let tpid = if service { 0x88a8 } else { 0x8100 };
        push_vlan(&mut p, &mut off, tpid, tci).unwrap();
        let (tagged, found) = read(&p);
        prop_assert_eq!(p.len(), frame.len() + 4);
        prop_assert_eq!(&p.data()[12..16], &[(tpid >> 8) as u8, tpid as u8, (tci >> 8) as u8, tci as u8]);
        prop_assert_eq!(tagged.get64(Field::VlanTci), u64::from(tci | 0x1000));
        prop_assert_eq!(tagged.get64(Field::VlanTpid), u64::from(tpid));
        if before.get(Field::Vlan1Tci) == 0 && before.get64(Field::EthType) != 0x8100 {
            prop_assert_eq!(tagged.get(Field::Vlan1Tci), before.get(Field::VlanTci));
            prop_assert_eq!(tagged.get(Field::NwSrc), before.get(Field::NwSrc));
            prop_assert_eq!(found, off, "{}", name);
        }
        pop_vlan(&mut p, &mut off).unwrap();
        prop_assert_eq!(off, first);
        prop_assert_eq!(&p.to_vec(), frame);
        pool.free_packet(p);
    }

    /// With an unfinished checksum, edits first and finishing then gives what finishing first
    /// and edits then give.
    #[test]
    fn partial_checksums_finish_right(
        which in any::<prop::sample::Index>(), addresses: u64, v6: u128, ports: u32, tag: bool,
    ) {
        const NAMES: [&str; 9] =
            ["tcp4", "udp4", "options4", "vlan", "tcp6", "udp6", "qinq", "ext6", "ah6"];
        let name = NAMES[which.index(NAMES.len())];
        let (_, frame) = common::legal().into_iter().find(|(n, _)| *n == name).unwrap();
        let mut pool = pool();
        let mut p = packet(&mut pool, &frame, None);
        let (key, mut off) = read(&p);
        let field = if off.proto == 6 { 16 } else { 6 };
        let at = usize::from(off.l4) + field;
        let length = u32::from(off.end - off.l4);
        let pseudo = if key.get64(Field::EthType) == 0x800 {
            let (s, d) = (key.get64(Field::NwSrc) as u32, key.get64(Field::NwDst) as u32);
            Sum::pseudo_v4(s, d, off.proto, length)
        } else {
            Sum::pseudo_v6(key.get(Field::Ipv6Src), key.get(Field::Ipv6Dst), off.proto, length)
        };
        p.data_mut()[at..at + 2].copy_from_slice(&pseudo.folded().to_be_bytes());
        p.set_checksum(Checksum::Partial { start: off.l4, offset: field as u16 });
        let _ = set_ipv4(&mut p, &off, addresses, u64::MAX);
        let _ = set_ipv6_src(&mut p, &off, v6, u128::MAX);
        let _ = set_ipv6_dst(&mut p, &off, !v6, u128::MAX);
        if tag {
            push_vlan(&mut p, &mut off, 0x8100, 7).unwrap();
        }
        set_ports(&mut p, &off, ports, u32::MAX).unwrap();
        prop_assert!(checksum::finish_partial(&mut p));
        prop_assert_eq!(p.checksum(), Checksum::Complete);
        let mut bytes = p.to_vec();
        pool.free_packet(p);
        if tag && name == "qinq" {
            bytes.drain(12..16); // A third tag hides the rest from the check.
        }
        prop_assert_eq!(verify(&bytes).1, Some(true), "{}", name);
    }

    /// Every edit on arbitrary bytes with arbitrary offsets: no panic, and nothing beyond.
    #[test]
    fn nonsense_is_survived(
        bytes in prop::collection::vec(any::<u8>(), 0..120),
        l3: u8, l4: u8, end: u16, proto: u8, value: u128, mask: u128,
        field in any::<prop::sample::Index>(),
    ) {
        let mut pool = pool();
        let mut p = packet(&mut pool, &bytes, None);
        let mut off = Offsets { l3: l3.into(), l4: l4.into(), end, fault: Fault::None, proto };
        let f = Field::ALL[field.index(Field::ALL.len())];
        let _ = set_one(&mut p, &off, f, value, mask);
        let _ = dec_ttl(&mut p, &off);
        let _ = set_icmp_id(&mut p, &off, value as u16);
        prop_assert_eq!(p.len(), bytes.len());
        let _ = pop_vlan(&mut p, &mut off);
        let _ = push_vlan(&mut p, &mut off, 0x8100, value as u16);
        pool.free_packet(p);
    }
}

fn edited(name: &str, edit: impl Fn(&mut Packet, &Offsets) -> Result<(), Drop>) -> Vec<u8> {
    let frames: Vec<_> = common::legal().into_iter().chain(common::broken()).collect();
    let frame = &frames.iter().find(|(n, _)| *n == name).unwrap().1;
    let mut pool = pool();
    let mut p = packet(&mut pool, frame, None);
    let (_, off) = read(&p);
    edit(&mut p, &off).unwrap();
    let bytes = p.to_vec();
    pool.free_packet(p);
    bytes
}

#[test]
fn ttl_counts_down_to_one() {
    let mut pool = pool();
    for name in ["tcp4", "tcp6"] {
        let (_, frame) = common::legal().into_iter().find(|(n, _)| *n == name).unwrap();
        let mut p = packet(&mut pool, &frame, None);
        let (_, off) = read(&p);
        set_ttl(&mut p, &off, 2, 0xff).unwrap();
        dec_ttl(&mut p, &off).unwrap();
        assert_eq!(read(&p).0.get(Field::NwTtl), 1);
        assert_eq!(dec_ttl(&mut p, &off), Err(Drop::TtlExpired));
        assert_eq!(read(&p).0.get(Field::NwTtl), 1);
        assert_ne!(verify(p.data()).0, Some(false));
        pool.free_packet(p);
    }
}

#[test]
fn absent_udp_checksum_stays_absent() {
    let bytes = edited("udp4_no_checksum", |p, off| {
        set_ports(p, off, 0x1111_2222, u32::MAX)?;
        set_ipv4_src(p, off, 0x0102_0304, u32::MAX)
    });
    assert_eq!(bytes[40..42], [0, 0]);
    assert_eq!(verify(&bytes), (Some(true), None));
}

#[test]
fn udp_checksum_is_never_made_zero() {
    // Over all source ports the checksum passes through each value once.
    let (_, frame) = common::legal().into_iter().find(|(n, _)| *n == "udp4").unwrap();
    let mut pool = pool();
    let mut p = packet(&mut pool, &frame, None);
    let (_, off) = read(&p);
    let mut all_ones = 0;
    for port in 0..=u16::MAX {
        set_ports(&mut p, &off, u32::from(port) << 16, 0xffff_0000).unwrap();
        assert_ne!(p.data()[40..42], [0, 0], "port {port}");
        all_ones += u32::from(p.data()[40..42] == [0xff, 0xff]);
    }
    assert_eq!(verify(p.data()).1, Some(true));
    assert!(all_ones > 0);
    pool.free_packet(p);
}

#[test]
fn later_fragments_have_no_l4() {
    let later = edited("later_frag4", |p, off| set_ipv4_src(p, off, 0x0102_0304, u32::MAX));
    let (_, original) = common::legal().into_iter().find(|(n, _)| *n == "later_frag4").unwrap();
    assert_eq!(later[34..], original[34..]);
    assert_eq!(verify(&later).0, Some(true));
    let mut pool = pool();
    let mut p = packet(&mut pool, &original, None);
    let (key, off) = read(&p);
    assert_eq!(key.get64(Field::NwFrag) as u8 & FRAG_LATER, FRAG_LATER);
    assert_eq!(set_ports(&mut p, &off, 1, 1), Err(Drop::Malformed));
    assert_eq!(p.to_vec(), original);
    pool.free_packet(p);
}

#[test]
fn first_fragments_carry_the_change() {
    // The checksum covers the whole datagram: it must move by exactly the change.
    let (_, before) = common::legal().into_iter().find(|(n, _)| *n == "first_frag4").unwrap();
    let after = edited("first_frag4", |p, off| {
        set_ipv4_dst(p, off, 0x0a00_0003, u32::MAX)?; // From 10.0.0.2: one more.
        set_ports(p, off, 54, 0xffff) // From 53: one more.
    });
    let field = |b: &[u8]| u16::from_be_bytes([b[40], b[41]]);
    assert_eq!(field(&after), field(&before) - 2);
}

#[test]
fn sctp_fragments_are_refused() {
    let packet_of = |frag| common::ip4_with(132, frag, &[], &common::sctp(b"some payload"));
    let mut pool = pool();
    let first = common::eth(0x800, &packet_of(0x2000));
    let mut p = packet(&mut pool, &first, None);
    let (_, off) = read(&p);
    assert_eq!(set_ports(&mut p, &off, 1, 1), Err(Drop::Unsupported));
    assert_eq!(p.to_vec(), first);
    pool.free_packet(p);
    let six = common::ip6(44, &common::frag6(132, 1, &common::sctp(b"some payload")));
    let mut p = packet(&mut pool, &common::eth(0x86dd, &six), None);
    let (_, off) = read(&p);
    assert_eq!(set_ports(&mut p, &off, 1, 1), Err(Drop::Unsupported));
    pool.free_packet(p);
}

#[test]
fn routing_header_keeps_the_final_destinations_sum() {
    let mut routing = vec![6, 2, 2, 1, 0, 0, 0, 0]; // One segment left.
    routing.extend(common::IP6_DST);
    routing.extend(common::sum6(6, common::tcp(b"x"), 16));
    let frame = common::eth(0x86dd, &common::ip6(43, &routing));
    let mut pool = pool();
    let mut p = packet(&mut pool, &frame, None);
    let (_, off) = read(&p);
    let sum_at = usize::from(off.l4) + 16;
    set_ipv6_dst(&mut p, &off, 5, u128::MAX).unwrap();
    assert_eq!(p.data()[sum_at..sum_at + 2], frame[sum_at..sum_at + 2]);
    set_ipv6_src(&mut p, &off, 5, u128::MAX).unwrap();
    assert_ne!(p.data()[sum_at..sum_at + 2], frame[sum_at..sum_at + 2]);
    pool.free_packet(p);
}

#[test]
fn echo_id_of_both_icmps() {
    for name in ["icmp4", "icmp6_echo"] {
        let bytes = edited(name, |p, off| set_icmp_id(p, off, 0xbeef));
        assert_eq!(verify(&bytes).1, Some(true), "{name}");
        assert!(bytes.windows(2).any(|w| w == [0xbe, 0xef]));
    }
}

#[test]
fn no_headroom_is_said_and_harms_nothing() {
    let mut pool = pool();
    let mut p = pool.packet_from(&common::legal()[0].1).unwrap();
    while p.push_front(16).is_ok() {}
    p.data_mut()[..14].fill(2);
    let before = p.to_vec();
    let mut off = Offsets::default();
    let mut last = Ok(());
    for _ in 0..5 {
        last = push_vlan(&mut p, &mut off, 0x8100, 1);
    }
    assert_eq!(last, Err(Drop::NoHeadroom));
    assert!(p.len() - before.len() < 16);
    pool.free_packet(p);
}
