//! Packets against a plain vector of bytes, and frames against arithmetic.

use std::sync::Arc;

use afxdp::{CHUNK_DATA, CHUNK_SIZE, Checksum, FramePool, HEADROOM, NoRoom, Packet, Region};
use proptest::prelude::*;

fn region() -> (Arc<Region>, FramePool) {
    let region = Region::new(2 << 20).expect("region");
    let pool = region.pool();
    (region, pool)
}

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 + i / 251) as u8).collect()
}

/// What may be done to a packet.
#[derive(Clone, Debug)]
enum Op {
    Push(Vec<u8>),
    Pull(usize),
    Truncate(usize),
    Append(Vec<u8>),
    Duplicate,
    Poke(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let some = |n| proptest::collection::vec(any::<u8>(), 0..n);
    prop_oneof![
        some(80).prop_map(Op::Push),
        (0usize..200).prop_map(Op::Pull),
        (0usize..12_000).prop_map(Op::Truncate),
        some(4000).prop_map(Op::Append),
        Just(Op::Duplicate),
        (0usize..2000).prop_map(Op::Poke),
    ]
}

/// Do it to the packet and to the model; both must agree on whether it can be done.
fn apply(op: Op, packet: &mut Packet, model: &mut Vec<u8>, pool: &mut FramePool) {
    match op {
        Op::Push(new) => {
            let room = packet.headroom() >= new.len();
            match packet.push_front(new.len()) {
                Ok(front) => {
                    assert!(room);
                    front.copy_from_slice(&new);
                    model.splice(..0, new);
                }
                Err(NoRoom) => assert!(!room),
            }
        }
        Op::Pull(n) => {
            let can = n <= packet.data().len();
            assert_eq!(packet.pull_front(n).is_ok(), can);
            if can {
                model.drain(..n);
            }
        }
        Op::Truncate(n) => {
            packet.truncate(n, pool);
            model.truncate(n);
        }
        Op::Append(new) => {
            packet.append_bytes(&new, pool).expect("frames enough");
            model.extend(new);
        }
        Op::Duplicate => {
            let copy = packet.duplicate(pool).expect("frames enough");
            assert_eq!(copy.headroom(), packet.headroom());
            assert_eq!(copy.checksum(), packet.checksum());
            pool.free_packet(std::mem::replace(packet, copy));
        }
        Op::Poke(at) => {
            if let Some(b) = packet.data_mut().get_mut(at) {
                *b = !*b;
                model[at] = !model[at];
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 256 }, ..ProptestConfig::default() })]

    #[test]
    fn a_packet_is_its_bytes(
        start in 0usize..6000,
        ops in proptest::collection::vec(op(), 0..24),
    ) {
        let (region, mut pool) = region();
        let mut model = bytes(start);
        let mut packet = pool.packet_from(&model).expect("frames enough");
        for op in ops {
            apply(op, &mut packet, &mut model, &mut pool);
            prop_assert_eq!(packet.to_vec(), model.clone());
            prop_assert_eq!(packet.len(), model.len());
            let buffers: Vec<usize> = packet.buffers().map(<[u8]>::len).collect();
            prop_assert_eq!(buffers.len(), packet.buffer_count());
            prop_assert_eq!(buffers.iter().sum::<usize>(), model.len());
            prop_assert_eq!(packet.is_chained(), buffers.len() > 1);
            prop_assert!(buffers[1..].iter().all(|n| *n > 0), "an empty buffer: {:?}", buffers);
        }
        pool.free_packet(packet);
        drop(pool);
        prop_assert_eq!(region.stored(), region.chunks());
    }

    /// Pools of several threads, in any order of taking and giving: nothing is lost or made.
    #[test]
    fn pools_keep_the_sum(steps in proptest::collection::vec((0usize..3, 0usize..400), 1..30)) {
        let (region, first) = region();
        let mut pools = [first, region.pool(), region.pool()];
        let mut out: Vec<Vec<_>> = vec![Vec::new(), Vec::new(), Vec::new()];
        for (who, n) in steps {
            if n % 2 == 0 {
                (0..n).for_each(|_| out[who].extend(pools[who].alloc()));
            } else {
                // Given back by another than who took them.
                for _ in 0..n {
                    if let Some(f) = out[who].pop() {
                        pools[(who + 1) % 3].free(f);
                    }
                }
            }
            if n % 5 == 0 {
                pools[who] = region.pool(); // The old one gives back what it has.
            }
            let held: usize = pools.iter().map(FramePool::len).sum();
            let taken: usize = out.iter().map(Vec::len).sum();
            prop_assert_eq!(region.stored() + held + taken, region.chunks());
        }
        out.into_iter().flatten().for_each(|f| pools[0].free(f));
        drop(pools);
        prop_assert_eq!(region.stored(), region.chunks());
    }
}

#[test]
fn every_frame_can_be_had_and_is_distinct() {
    let (region, mut pool) = region();
    let mut packets = Vec::new();
    while let Some(frame) = pool.alloc() {
        let mut packet = Packet::new(frame, HEADROOM, 8);
        packet.data_mut().copy_from_slice(&packets.len().to_ne_bytes());
        packets.push(packet);
    }
    assert_eq!(packets.len(), region.chunks());
    for (i, packet) in packets.iter().enumerate() {
        assert_eq!(packet.data(), i.to_ne_bytes(), "two frames share bytes");
    }
    assert!(pool.packet_from(&[1]).is_none());
    packets.into_iter().for_each(|p| pool.free_packet(p));
    drop(pool);
    assert_eq!(region.stored(), region.chunks());
}

#[test]
fn running_out_inside_a_packet_keeps_nothing() {
    let (region, mut pool) = region();
    let mut held = Vec::new();
    while held.len() < region.chunks() - 2 {
        held.extend(pool.alloc());
    }
    assert!(pool.packet_from(&bytes(3 * CHUNK_DATA)).is_none(), "three frames of two");
    let long = pool.packet_from(&bytes(2 * CHUNK_DATA)).expect("two frames of two");
    assert!(long.duplicate(&mut pool).is_none());
    pool.free_packet(long);
    let short = pool.packet_from(&bytes(100)).expect("one of two");
    let mut grows = short;
    assert_eq!(grows.append_bytes(&bytes(2 * CHUNK_DATA), &mut pool), Err(NoRoom));
    assert_eq!(grows.len(), 100 + CHUNK_DATA, "what fitted is there");
    pool.free_packet(grows);
    held.into_iter().for_each(|f| pool.free(f));
    drop(pool);
    assert_eq!(region.stored(), region.chunks());
}

#[test]
fn a_partial_checksum_moves_with_the_front() {
    let (_region, mut pool) = region();
    let mut packet = pool.packet_from(&bytes(100)).expect("a frame");
    packet.set_checksum(Checksum::Partial { start: 34, offset: 16 });
    packet.push_front(4).expect("room");
    assert_eq!(packet.checksum(), Checksum::Partial { start: 38, offset: 16 });
    packet.pull_front(18).expect("bytes");
    assert_eq!(packet.checksum(), Checksum::Partial { start: 20, offset: 16 });
    pool.free_packet(packet);
}

#[test]
fn room_in_front_and_behind_ends_where_the_chunk_does() {
    let (_region, mut pool) = region();
    let mut packet = pool.packet_from(&bytes(CHUNK_DATA)).expect("a frame");
    assert!(!packet.is_chained());
    assert_eq!(packet.push_front(HEADROOM + 1), Err(NoRoom));
    assert_eq!(packet.push_front(HEADROOM).map(|b| b.len()), Ok(HEADROOM));
    assert_eq!(packet.data().len(), CHUNK_SIZE);
    assert_eq!(packet.push_front(1), Err(NoRoom));
    assert_eq!(packet.pull_front(CHUNK_SIZE + 1), Err(NoRoom));
    packet.pull_front(CHUNK_SIZE).expect("all of it");
    assert_eq!(packet.len(), 0);
    pool.free_packet(packet);
}

#[cfg(not(miri))] // It would call the region's memory leaked.
#[test]
#[should_panic(expected = "head <= CHUNK_SIZE")]
fn bytes_beyond_the_chunk_are_refused() {
    let (_region, mut pool) = region();
    let frame = pool.alloc().expect("a frame");
    drop(pool);
    let _ = Packet::new(frame, 2000, 100); // The frame is lost, and the region stays for it.
}

/// Two threads exchange all frames through the store.
#[test]
fn threads_exchange_frames_by_the_store() {
    let (region, pool) = region();
    drop(pool);
    let rounds = if cfg!(miri) { 10 } else { 2000 };
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                let mut pool = region.pool();
                for round in 0..rounds {
                    let mut taken = Vec::new();
                    (0..300).for_each(|_| taken.extend(pool.alloc()));
                    taken.into_iter().for_each(|f| pool.free(f));
                    if round % 7 == 0 {
                        pool = region.pool();
                    }
                }
            });
        }
    });
    assert_eq!(region.stored(), region.chunks());
}

#[test]
fn a_region_is_whole_huge_pages() {
    let region = Region::new(1).expect("region");
    assert_eq!(region.size(), 2 << 20);
    assert_eq!(region.chunks(), 1024);
    assert!(Region::new(usize::MAX).is_err());
}
