//! Packets that get their outer headers together get the same ones as each by itself would.

mod common;

use afxdp::{Checksum, FramePool, Packet, Segmentation};
use common::*;
use proptest::prelude::*;
use tunnel::{Encap, Kind, Outer, Sender, flags};

/// What a packet is like: its length, whether it has so little room in front, and what is left to do.
type Kinds = (usize, Option<usize>, u8);

fn any_packet() -> impl Strategy<Value = Kinds> {
    let len = prop_oneof![4 => Just(60usize), 1 => Just(61), 1 => 14usize..2200];
    (len, prop::option::weighted(0.1, 0usize..90), 0u8..40)
}

fn packet(pool: &mut FramePool, (len, room, left): Kinds, number: usize) -> Packet {
    let bytes: Vec<u8> = (0..len).map(|i| (i * 7 + number) as u8).collect();
    // What is moved to the front takes the room that is not to be there.
    let taken = room.map_or(0, |room| (afxdp::HEADROOM - room).min(len));
    let mut p = pool.packet_from(&bytes[taken..]).unwrap();
    p.push_front(taken).unwrap().copy_from_slice(&bytes[..taken]);
    match left {
        0 if len >= 40 => p.set_checksum(Checksum::Partial { start: 20, offset: 16 }),
        1 => p.set_checksum(Checksum::Verified),
        2 => p.set_segmentation(Segmentation::Tcp4(1000)),
        _ => {}
    }
    p
}

/// Headers that differ in no more than the source port.
fn simplest() -> impl Strategy<Value = Outer> {
    prop::sample::select(vec![Kind::Vxlan, Kind::Gre, Kind::Geneve]).prop_map(|kind| {
        let mut o = outer(kind, false);
        o.flags = flags::DF | flags::KEY;
        o
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn together_as_one_by_one(
        o in prop_oneof![simplest(), any_outer()],
        kinds in prop::collection::vec(any_packet(), 0..12),
        most in prop_oneof![Just(usize::MAX), 50usize..1500],
        seed: u64,
    ) {
        let mut pool = pool();
        let hash = |i: usize| seed.wrapping_mul(2 * i as u64 + 1);
        let mut make = || -> Vec<Packet> {
            kinds.iter().enumerate().map(|(i, k)| packet(&mut pool, *k, i)).collect()
        };
        let (mut together, mut alone) = (make(), make());
        let done = encap(&o).push_all(&mut together, most, hash, &mut Sender::default());

        let template: Encap = encap(&o);
        let sender = &mut Sender::default();
        let (mut wanted, mut stopped) = (0, None);
        for (i, p) in alone.iter_mut().enumerate() {
            if p.len() > most {
                break;
            }
            match template.push(p, hash(i), sender) {
                Ok(off) => prop_assert_eq!(off, template.offsets(p.len())),
                Err(why) => {
                    stopped = Some(why);
                    break;
                }
            }
            wanted += 1;
        }
        prop_assert_eq!(done, wanted);
        for (i, (a, b)) in together.iter_mut().zip(&alone).enumerate() {
            prop_assert_eq!(a.to_vec(), b.to_vec(), "packet {}", i);
            prop_assert_eq!((a.checksum(), a.segmentation()), (b.checksum(), b.segmentation()));
            // By itself it fails, if it does, in the same way.
            if i == done && let Some(why) = stopped {
                prop_assert_eq!(template.push(a, hash(i), sender), Err(why));
            }
        }
        together.into_iter().chain(alone).for_each(|p| pool.free_packet(p));
    }
}
