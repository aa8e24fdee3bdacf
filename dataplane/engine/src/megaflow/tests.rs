//! Whatever is installed is found until it is removed, by every way of looking.

use flow::{Field, FlowKey, word};
use ofproto::program::{DpAction, DpPort, Program};
use proptest::prelude::*;

use super::*;

/// Fields that the tests' masks look at; each value is a small number, so that packets repeat.
const FIELDS: [Field; 11] = [
    Field::EthSrc,
    Field::NwSrc,
    Field::NwDst,
    Field::NwProto,
    Field::TpDst,
    Field::Ipv6Src,
    Field::CtState,
    Field::CtMark,
    Field::TunId,
    Field::ArpSha,
    Field::Vlan1Tci,
];

fn packet(meta: u64, values: &[u8]) -> FlowKey {
    let mut key = FlowKey::ZERO;
    for (f, v) in FIELDS.iter().zip(values) {
        key.set(*f, u128::from(*v));
    }
    key.set_word(word::META, meta);
    key
}

fn mask(fields: u16) -> FlowKey {
    let mut mask = FlowKey::ZERO;
    for (i, f) in FIELDS.iter().enumerate().filter(|(i, _)| fields >> i & 1 != 0) {
        let _ = i;
        mask.set(*f, f.full());
    }
    mask.set_word(word::META, u64::MAX);
    mask
}

fn agrees(a: &FlowKey, b: &FlowKey, mask: &FlowKey) -> bool {
    (0..flow::WORDS).all(|w| (a.word(w) ^ b.word(w)) & mask.word(w) == 0)
}

#[derive(Clone, Debug)]
enum Op {
    Install(Vec<u8>, u16),
    Remove(usize),
    Stale(usize),
    Tune,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let values = || prop::collection::vec(0u8..3, FIELDS.len());
    let op = prop_oneof![
        6 => (values(), 0u16..1 << 11).prop_map(|(v, m)| Op::Install(v, m)),
        1 => (0usize..100).prop_map(Op::Remove),
        1 => (0usize..100).prop_map(Op::Stale),
        1 => Just(Op::Tune),
    ];
    prop::collection::vec(op, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn lookup_agrees_with_a_list(
        ops in ops(),
        packets in prop::collection::vec(prop::collection::vec(0u8..3, FIELDS.len()), 1..BURST),
        cached in any::<bool>(),
    ) {
        let meta = 1 << 32;
        let mut mega: Megaflows<usize> = Megaflows::new(4, 7);
        // (id, key, mask, stale)
        let mut naive: Vec<(u32, FlowKey, FlowKey, bool)> = Vec::new();
        for op in ops {
            match op {
                Op::Install(values, fields) => {
                    let (key, mask) = (packet(meta, &values), mask(fields));
                    // Megaflows never disagree, so they must not overlap.
                    let overlaps = naive.iter().any(|(_, k, m, _)| {
                        (0..flow::WORDS).all(|w| (k.word(w) ^ key.word(w)) & m.word(w) & mask.word(w) == 0)
                    });
                    if !overlaps {
                        let program = Program::from([DpAction::Output(DpPort(7))]);
                        let id = mega.insert(&key, &mask, program, 1, naive.len());
                        naive.push((id, key, mask, false));
                    }
                }
                Op::Remove(i) if !naive.is_empty() => {
                    let (id, ..) = naive.swap_remove(i % naive.len());
                    prop_assert!(mega.remove(id).is_some());
                    prop_assert!(mega.remove(id).is_none());
                }
                Op::Stale(i) if !naive.is_empty() => {
                    let at = i % naive.len();
                    mega.mark_stale(naive[at].0);
                    naive[at].3 = true;
                }
                Op::Tune => mega.tune(),
                _ => {}
            }
            for c in &mut mega.classifiers {
                c.use_cache = cached;
            }
            let keys: Vec<FlowKey> = packets.iter().map(|v| packet(meta, v)).collect();
            let mut found = vec![Found::Miss; keys.len()];
            // Twice: what the first look put into the cache answers the second.
            for _ in 0..2 {
                mega.lookup(meta, &keys[..], &mut found, &mut Default::default());
                for (key, found) in keys.iter().zip(&found) {
                    let want = naive.iter().find(|(_, k, m, _)| agrees(k, key, m));
                    let want = match want {
                        None => Found::Miss,
                        Some((id, _, _, true)) => Found::Stale(*id),
                        Some((id, ..)) => Found::Hit(*id),
                    };
                    prop_assert_eq!(*found, want);
                }
            }
            prop_assert_eq!(mega.len(), naive.len());
            // Outputs look at nothing themselves.
            let depths = naive.iter().map(|(_, _, mask, _)| Depth::of_words(mask.nonzero_map()));
            prop_assert_eq!(mega.depth(meta), depths.max().unwrap_or(Depth::Whole));
            // Packets that came another way match nothing.
            let other = packet(meta + 1, &packets[0]);
            mega.lookup(meta + 1, std::slice::from_ref(&other), &mut found[..1], &mut Default::default());
            prop_assert_eq!(found[0], Found::Miss);
        }
        for (id, key, mask, _) in &naive {
            let m = mega.matched(*id);
            prop_assert!(m.matches(key));
            prop_assert_eq!(m.mask_key(), mask.clone());
        }
    }
}

#[test]
fn past_the_limit_of_masks_megaflows_match_exactly() {
    let mut mega: Megaflows<()> = Megaflows::new(4, 7);
    for i in 0..MAX_SUBTABLES as u64 + 50 {
        let mut key = packet(1 << 32, &[]);
        key.set_word(word::IPV4, i);
        let mut mask = FlowKey::ZERO;
        mask.set_word(word::META, u64::MAX);
        mask.set_word(word::IPV4, u64::MAX);
        mask.set_word(word::L4, i + 1);
        mega.insert(&key, &mask, Program::from([]), 1, ());
        let mut found = [Found::Miss];
        mega.lookup(1 << 32, std::slice::from_ref(&key), &mut found, &mut Default::default());
        assert!(matches!(found[0], Found::Hit(_)));
    }
    assert!(mega.subtable_count() <= MAX_SUBTABLES + 1);
}

/// The megaflow that was found last goes, and another way in gets its slot: neither is found for the other.
#[test]
fn what_was_found_last_is_not_believed_when_its_slot_is_anothers() {
    let mut mega: Megaflows<()> = Megaflows::new(4, 7);
    let (one, other) = (packet(1 << 32, &[1]), packet(2 << 32, &[1]));
    let look = |mega: &mut Megaflows<()>, key: &FlowKey| {
        let mut found = [Found::Miss];
        let key = std::slice::from_ref(key);
        mega.lookup(key[0].word(word::META), key, &mut found, &mut Default::default());
        found[0]
    };
    let first = mega.insert(&one, &mask(1), Program::from([]), 1, ());
    assert_eq!(look(&mut mega, &one), Found::Hit(first));
    assert!(mega.remove(first).is_some());
    assert_eq!(look(&mut mega, &one), Found::Miss);
    let second = mega.insert(&one, &mask(1), Program::from([]), 1, ());
    assert_eq!(look(&mut mega, &one), Found::Hit(second));
    assert!(mega.remove(second).is_some());
    let third = mega.insert(&other, &mask(1), Program::from([]), 1, ());
    assert_eq!(third, second, "the slot is used again");
    assert_eq!(look(&mut mega, &one), Found::Miss);
    assert_eq!(look(&mut mega, &other), Found::Hit(third));
}

/// Hosts and ports that count up, as a scan of a network has them, fall into buckets evenly.
#[test]
fn regular_values_do_not_collide() {
    let mut mega: Megaflows<()> = Megaflows::new(4, 7);
    let mut mask = FlowKey::ZERO;
    mask.set_word(word::META, u64::MAX);
    for f in [Field::NwSrc, Field::NwDst, Field::TpDst] {
        mask.set(f, f.full());
    }
    let mut key = packet(1 << 32, &[]);
    mega.insert(&key, &mask, Program::from([]), 1, ());
    let mut buckets = vec![0u32; 16_384];
    let mut seen = std::collections::HashSet::new();
    for host in 0..256u32 {
        for port in 0..256u32 {
            key.set(Field::NwSrc, u128::from(0x0a00_0000 + host));
            key.set(Field::NwDst, u128::from(0x0a00_0000 + host * 3));
            key.set(Field::TpDst, u128::from(port));
            let hash = mega.subtables[0].hash(&mega.subtables[0].layout.pack(&key));
            buckets[hash as usize % 16_384] += 1;
            seen.insert(hash >> 32);
        }
    }
    // Four in each on average; of 65,536 random signatures of 32 bits one or none is taken twice.
    let fullest = buckets.iter().max().copied().unwrap_or(0);
    assert!(fullest < 24, "{fullest} in one bucket");
    assert!(seen.len() > 65_536 - 16, "{} signatures", seen.len());
}
