//! Decapsulation of bytes of any content: what was encapsulated here, mutated, and noise.
//!
//! `PROPTEST_CASES=10000000 cargo test -p tunnel --profile fast --test fuzz_decap` runs it long.

use afxdp::Region;
use flow::{Field, FlowKey, build, extract};
use proptest::prelude::*;
use proptest::sample::Index;
use tunnel::encap::{Link, Sequence};
use tunnel::{Encap, Kind, Outer, Sender, decap, flags};

const KINDS: [Kind; 3] = [Kind::Vxlan, Kind::Gre, Kind::Geneve];

#[derive(Clone, Debug)]
enum Mutation {
    Set(Index, u8),
    Flip(Index, u8),
    Cut(Index),
    Insert(Index, u8),
    Remove(Index),
    Grow(u8, u16),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    // Half of them where the outer headers are.
    prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(i, b)| Mutation::Set(i, b)),
        4 => (any::<Index>(), 0u8..8).prop_map(|(i, b)| Mutation::Flip(i, 1 << b)),
        2 => any::<Index>().prop_map(Mutation::Cut),
        1 => (any::<Index>(), any::<u8>()).prop_map(|(i, b)| Mutation::Insert(i, b)),
        1 => any::<Index>().prop_map(Mutation::Remove),
        1 => (any::<u8>(), 0u16..500).prop_map(|(b, n)| Mutation::Grow(b, n)),
    ]
}

fn mutate(frame: &mut Vec<u8>, m: &Mutation, headers_only: bool) {
    let n = if headers_only { frame.len().min(80) } else { frame.len() };
    if n == 0 {
        return;
    }
    match m {
        Mutation::Set(i, b) => frame[i.index(n)] = *b,
        Mutation::Flip(i, bit) => frame[i.index(n)] ^= bit,
        Mutation::Cut(i) => frame.truncate(i.index(n)),
        Mutation::Insert(i, b) => frame.insert(i.index(n), *b),
        Mutation::Remove(i) => drop(frame.remove(i.index(n))),
        Mutation::Grow(b, by) => frame.resize(frame.len() + usize::from(*by), *b),
    }
}

/// What a tunnel sends.
fn encapsulated(kind: Kind, v6: bool, csum: bool, key: bool, payload: usize) -> Vec<u8> {
    let (src, dst) = if v6 { ("fd00::1", "fd00::2") } else { ("10.0.0.1", "10.0.0.2") };
    let has = |on: bool, flag: u16| if on { flag } else { 0 };
    let outer = Outer {
        kind,
        dst: dst.parse().unwrap(),
        tos: 0,
        ttl: 64,
        flags: flags::DF | has(csum, flags::CSUM) | has(key, flags::KEY),
        id: 77,
        seq: csum && key,
        dst_port: kind.default_port().unwrap_or(0),
    };
    let link = Link { dst: 0x0200_0000_0002, src: 0x0200_0000_0001 };
    let src = src.parse().unwrap();
    let encap = Encap::new(&outer, src, link, &Sequence::default()).unwrap();
    let mut inner = FlowKey::ZERO;
    inner.set(Field::EthType, 0x800);
    inner.set(Field::NwProto, 17);
    let region = Region::new(1 << 20).unwrap();
    let mut pool = region.pool();
    let mut packet = pool.packet_from(&build::compose(&inner, &vec![7; payload])).unwrap();
    encap.push(&mut packet, 1, &mut Sender::default()).unwrap();
    let mut bytes = vec![0; packet.len()];
    packet.copy_to(&mut bytes);
    bytes
}

/// Whatever the bytes: no panic, nothing outside of the packet, and what is refused is unchanged.
fn take_in(bytes: &[u8], kind: Kind) -> bool {
    let region = Region::new(1 << 20).unwrap();
    let mut pool = region.pool();
    let Some(mut packet) = pool.packet_from(bytes) else { return false };
    let mut key = FlowKey::ZERO;
    let off = extract(packet.data(), packet.len(), &mut key);
    let taken = match decap(&mut packet, &off, &key, kind) {
        Ok(inner) => {
            assert!(inner.strip + 14 <= inner.end && inner.end <= bytes.len());
            let inside = bytes[inner.strip..inner.end].to_vec();
            inner.strip(&mut packet, &mut pool).unwrap();
            let mut left = vec![0; packet.len()];
            packet.copy_to(&mut left);
            assert_eq!(left, inside);
            inner.metadata(&key, &mut FlowKey::ZERO.clone());
            assert!(inner.id >> kind.id_bits() == 0);
            true
        }
        Err(_) => {
            let mut left = vec![0; packet.len()];
            packet.copy_to(&mut left);
            assert_eq!(left, bytes);
            false
        }
    };
    pool.free_packet(packet);
    taken
}

#[test]
fn what_was_encapsulated_is_taken_by_its_kind_only() {
    for kind in KINDS {
        for bits in 0..8 {
            let frame = encapsulated(kind, bits & 1 != 0, bits & 2 != 0, bits & 4 != 0, 60);
            assert!(take_in(&frame, kind), "{kind:?} {bits}");
            assert!(!take_in(&frame[..40], kind), "{kind:?} {bits}");
        }
    }
}

proptest! {
    #[test]
    fn mutated_packets_are_survived(
        kind in 0..3usize, v6: bool, csum: bool, key: bool, payload in 0..200usize,
        mutations in prop::collection::vec(mutation(), 1..6), headers_only: bool, as_kind in 0..3usize,
    ) {
        let mut frame = encapsulated(KINDS[kind], v6, csum, key, payload);
        for m in &mutations {
            mutate(&mut frame, m, headers_only);
        }
        take_in(&frame, KINDS[as_kind]);
        take_in(&frame, KINDS[kind]);
    }

    #[test]
    fn noise_behind_headers_is_survived(
        kind in 0..3usize, v6: bool, noise in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        // Outer Ethernet, IP and UDP or GRE are right, what follows is not.
        let mut frame = encapsulated(KINDS[kind], v6, false, true, 400);
        let at = 14 + if v6 { 40 } else { 20 } + if kind == 1 { 0 } else { 8 };
        for (to, from) in frame[at..].iter_mut().zip(&noise) {
            *to = *from;
        }
        take_in(&frame, KINDS[kind]);
    }
}
