//! Keys, masks and matches against their definitions, bit by bit.

use flow::{DP_WORDS, Field, FlowKey, Groups, MaskWords, Match, WORDS};
use proptest::prelude::*;

/// Fields with few values each, so that matches meet often.
fn key() -> impl Strategy<Value = FlowKey> {
    let field = (prop::sample::select(Field::ALL), prop_oneof![0u128..4, any::<u128>()]);
    prop::collection::vec(field, 0..8).prop_map(|fields| {
        let mut k = FlowKey::default();
        for (f, v) in fields {
            k.set(f, v);
        }
        k
    })
}

fn mask() -> impl Strategy<Value = FlowKey> {
    let bits = prop_oneof![Just(u128::MAX), Just(!3u128), 0u128..4, any::<u128>()];
    prop::collection::vec((prop::sample::select(Field::ALL), bits), 0..8).prop_map(|fields| {
        let mut k = FlowKey::default();
        for (f, v) in fields {
            k.set(f, v);
        }
        k
    })
}

fn matches_naively(key: &FlowKey, value: &FlowKey, mask: &FlowKey) -> bool {
    (0..WORDS).all(|i| (key.word(i) ^ value.word(i)) & mask.word(i) == 0)
}

#[test]
fn places_do_not_overlap() {
    let mut taken = [0u64; WORDS];
    for f in Field::ALL {
        let p = f.place();
        for bit in 0..p.bits {
            let (word, at) = match p.bits {
                128 => (p.word + (bit / 64) as usize, bit % 64),
                _ => (p.word, p.shift + bit),
            };
            assert_eq!(taken[word] >> at & 1, 0, "{} bit {bit}", f.name());
            taken[word] |= 1 << at;
        }
    }
}

#[test]
fn every_word_has_its_group() {
    for w in 0..WORDS {
        let groups = Groups::of_word(w);
        assert_eq!(groups.is_empty(), w < 6, "word {w}");
        assert!(groups.0.count_ones() <= 1);
        assert!(groups.is_empty() || groups.ranges().any(|(from, to)| from <= w && w < to));
    }
    assert_eq!(Groups::of_word(DP_WORDS), Groups::XLATE);
    assert_ne!(Groups::of_word(DP_WORDS - 1), Groups::XLATE);
}

#[test]
fn registers_by_number() {
    for n in 0..16 {
        assert_eq!(Field::reg(n).unwrap().name(), format!("reg{n}"));
    }
    assert_eq!(Field::reg(16), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn fields_keep_to_their_place(mut k in key(), f in prop::sample::select(Field::ALL), v: u128) {
        let before = k.clone();
        k.set(f, v);
        prop_assert_eq!(k.get(f), v & f.full());
        for other in Field::ALL {
            if *other != f {
                prop_assert_eq!(k.get(*other), before.get(*other));
            }
        }
    }

    #[test]
    fn equal_keys_hash_equally(k in key(), noted in 0u32..256) {
        // The same words, but with more groups noted.
        let mut other = k.clone();
        other.touch(Groups(noted));
        prop_assert_eq!(&other, &k);
        prop_assert_eq!(other.hash(), k.hash());
        prop_assert_eq!(other.nonzero_map(), k.nonzero_map());
    }

    #[test]
    fn hash_sees_each_datapath_bit(k in key(), word in 0..DP_WORDS, bit in 0u32..64) {
        let mut other = k.clone();
        other.set_word(word, k.word(word) ^ 1 << bit);
        prop_assert_ne!(other.hash(), k.hash());
    }

    #[test]
    fn conversations_hash_alike(
        addresses: u64, v6: u128, ports: u32, proto in 0u8..3, is6: bool, ttl: u8, flags in 0u16..4096,
    ) {
        let mut k = FlowKey::default();
        k.set(Field::NwProto, u128::from([6u8, 17, 132][usize::from(proto)]));
        if is6 {
            k.set(Field::Ipv6Src, v6);
        } else {
            k.set(Field::NwSrc, u128::from(addresses >> 32));
            k.set(Field::NwDst, addresses.into());
        }
        k.set(Field::TpSrc, u128::from(ports >> 16));
        k.set(Field::TpDst, ports.into());
        let mut same = k.clone();
        same.set(Field::NwTtl, ttl.into());
        same.set(Field::NwTos, ttl.into());
        same.set(Field::TcpFlags, flags.into());
        same.set(Field::InPort, ttl.into());
        prop_assert_eq!(same.flow_hash(), k.flow_hash());
        let mut other = k.clone();
        other.set(Field::TpSrc, u128::from(ports >> 16 ^ 1));
        prop_assert_ne!(other.flow_hash(), k.flow_hash());
        let (mut first, mut later) = (k.clone(), k.clone());
        first.set(Field::NwFrag, 1);
        later.set(Field::NwFrag, 3);
        later.set(Field::TpSrc, 0);
        later.set(Field::TpDst, 0);
        prop_assert_eq!(first.flow_hash(), later.flow_hash());
    }

    #[test]
    fn or_is_the_union(a in key(), b in key()) {
        let mut both = a.clone();
        both.or(&b);
        for i in 0..WORDS {
            prop_assert_eq!(both.word(i), a.word(i) | b.word(i));
        }
        prop_assert!(both.groups().contains(a.groups()) && both.groups().contains(b.groups()));
    }

    #[test]
    fn clearing_groups_leaves_the_base(mut k in key()) {
        let before = k.clone();
        k.clear_groups(Groups::ALL);
        for i in 0..WORDS {
            prop_assert_eq!(k.word(i), if i < 6 { before.word(i) } else { 0 });
        }
        prop_assert!(k.groups().is_empty());
    }

    #[test]
    fn masks_keep_their_words(m in mask(), n in mask()) {
        let a = MaskWords::new(&m);
        prop_assert_eq!(&a.expand(), &m);
        prop_assert_eq!(a.is_empty(), m == FlowKey::ZERO);
        prop_assert_eq!(a.len(), (0..WORDS).filter(|i| m.word(*i) != 0).count());
        for i in 0..WORDS {
            prop_assert_eq!(a.word(i), m.word(i));
        }
        let both = a.and(&MaskWords::new(&n)).expand();
        for i in 0..WORDS {
            prop_assert_eq!(both.word(i), m.word(i) & n.word(i));
        }
    }

    #[test]
    fn matches_as_defined(k in key(), v in key(), m in mask()) {
        let rule = Match::new(&v, &m);
        prop_assert_eq!(rule.matches(&k), matches_naively(&k, &v, &m));
        prop_assert!(rule.matches(&v));
        prop_assert_eq!(rule.mask(), MaskWords::new(&m));
        prop_assert_eq!(&rule.mask_key(), &m);
        // A match is the same whatever bits the value had outside the mask.
        prop_assert_eq!(&Match::new(&rule.key(), &m), &rule);
        for f in Field::ALL {
            prop_assert_eq!(rule.field(*f), (v.get(*f) & m.get(*f), m.get(*f)));
        }
    }

    #[test]
    fn hash_of_a_match_is_that_of_its_keys(k in key(), v in key(), m in mask()) {
        let rule = Match::new(&v, &m);
        let mask = MaskWords::new(&m);
        prop_assert_eq!(mask.hash(&v), rule.hash());
        if rule.matches(&k) {
            prop_assert_eq!(mask.hash(&k), rule.hash());
        }
        let mut far = v.clone();
        if let Some((i, bits)) = mask.iter().next() {
            far.set_word(i, v.word(i) ^ bits & bits.wrapping_neg());
            prop_assert_ne!(mask.hash(&far), rule.hash());
        }
    }

    #[test]
    fn overlap_has_a_witness(v in key(), m in mask(), w in key(), n in mask(), k in key()) {
        let (a, b) = (Match::new(&v, &m), Match::new(&w, &n));
        prop_assert_eq!(a.overlaps(&b), b.overlaps(&a));
        if a.overlaps(&b) {
            let mut both = a.key();
            both.or(&b.key());
            prop_assert!(a.matches(&both) && b.matches(&both));
        } else {
            prop_assert!(!(a.matches(&k) && b.matches(&k)));
            prop_assert!(!b.matches(&v) && !a.matches(&w));
        }
    }

    #[test]
    fn within_means_every_key(v in key(), m in mask(), n in mask(), w in key(), k in key()) {
        let tight = {
            let mut both = m.clone();
            both.or(&n);
            Match::new(&v, &both)
        };
        let loose = Match::new(&v, &m);
        prop_assert!(tight.is_within(&loose) && tight.is_within(&tight));
        prop_assert!(tight.is_within(&Match::default()));
        let other = Match::new(&w, &n);
        if other.is_within(&loose) {
            prop_assert!(loose.matches(&w));
            prop_assert!(!other.matches(&k) || loose.matches(&k));
        } else {
            // Some key in `other` is outside `loose`: one bit that only `loose` looks at, or
            // where they disagree.
            let mut witness = other.key();
            if let Some((i, value, mask)) = loose.iter().find(|(i, value, mask)| {
                let (ov, om) = other.word(*i);
                mask & !om != 0 || (ov ^ value) & mask != 0
            }) {
                let om = other.word(i).1;
                witness.set_word(i, witness.word(i) | !value & mask & !om);
            }
            prop_assert!(other.matches(&witness) && !loose.matches(&witness));
        }
        prop_assert_eq!(loose.same_mask(&Match::new(&w, &m)), true);
        prop_assert_eq!(loose.same_mask(&other), m == n);
    }
}
