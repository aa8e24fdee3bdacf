//! Extraction on bytes of any content: mutated frames of the corpus and noise.
//!
//! `PROPTEST_CASES=10000000 cargo test -p flow --profile fast --test fuzz_extract` runs it long.

mod common;

use flow::extract::Fault;
use flow::{Field, FlowKey, Groups, Offsets};
use proptest::prelude::*;
use proptest::sample::Index;

#[derive(Clone, Debug)]
enum Mutation {
    Set(Index, u8),
    Flip(Index, u8),
    Cut(Index),
    Insert(Index, u8),
    Remove(Index),
    Splice(Index, Index),
    Grow(u8, u16),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(i, b)| Mutation::Set(i, b)),
        4 => (any::<Index>(), 0u8..8).prop_map(|(i, b)| Mutation::Flip(i, 1 << b)),
        2 => any::<Index>().prop_map(Mutation::Cut),
        1 => (any::<Index>(), any::<u8>()).prop_map(|(i, b)| Mutation::Insert(i, b)),
        1 => any::<Index>().prop_map(Mutation::Remove),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Mutation::Splice(a, b)),
        1 => (any::<u8>(), 0u16..2000).prop_map(|(b, n)| Mutation::Grow(b, n)),
    ]
}

fn mutate(frame: &mut Vec<u8>, others: &[Vec<u8>], m: &Mutation) {
    let n = frame.len();
    if n == 0 {
        return;
    }
    match m {
        Mutation::Set(i, b) => frame[i.index(n)] = *b,
        Mutation::Flip(i, bit) => frame[i.index(n)] ^= bit,
        Mutation::Cut(i) => frame.truncate(i.index(n)),
        Mutation::Insert(i, b) => frame.insert(i.index(n), *b),
        Mutation::Remove(i) => {
            frame.remove(i.index(n));
        }
        Mutation::Splice(at, from) => {
            let other = &others[from.index(others.len())];
            frame.truncate(at.index(n));
            frame.extend(&other[at.index(n).min(other.len())..]);
        }
        Mutation::Grow(b, by) => frame.resize(n + usize::from(*by), *b),
    }
}

fn corpus() -> Vec<Vec<u8>> {
    common::legal().into_iter().chain(common::broken()).map(|(_, f)| f).collect()
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let corpus = corpus();
    let mutated =
        (any::<Index>(), prop::collection::vec(mutation(), 0..8)).prop_map(move |(i, ms)| {
            let mut frame = corpus[i.index(corpus.len())].clone();
            for m in &ms {
                mutate(&mut frame, &corpus, m);
            }
            frame
        });
    prop_oneof![8 => mutated, 1 => prop::collection::vec(any::<u8>(), 0..200)]
}

fn check_offsets(key: &FlowKey, off: &Offsets, total: usize) {
    let (l3, l4, end) = (usize::from(off.l3), usize::from(off.l4), usize::from(off.end));
    if off.fault == Fault::Ethernet {
        assert_eq!(*off, Offsets { fault: Fault::Ethernet, ..Offsets::default() });
        return;
    }
    assert!(l3 >= 14 && l3 <= total, "{off:?} of {total}");
    if end != 0 {
        assert!(end <= total && end >= l3 + 20, "{off:?} of {total}");
        assert!(l4 == 0 || l4 >= l3 + 20 && l4 <= end, "{off:?}");
        assert!(matches!(off.fault, Fault::None | Fault::L4), "{off:?}");
    } else {
        assert_eq!((l4, off.proto), (0, 0), "{off:?}");
        assert!(!matches!(key.get64(Field::EthType), 0x800 | 0x86dd) || off.fault != Fault::None);
        assert_eq!(key.get(Field::NwTtl), 0);
    }
    if off.proto != 0 {
        assert!(l4 + 8 <= end, "{off:?}");
        assert_eq!(off.fault, Fault::None);
        assert_eq!(key.get64(Field::NwProto), u64::from(off.proto));
    }
    if key.get64(Field::TpSrc) | key.get64(Field::TpDst) | key.get64(Field::TcpFlags) != 0 {
        assert!(l4 != 0 && key.get64(Field::NwFrag) & 2 == 0);
    }
}

/// A key full of another packet's values and metadata.
fn stale_key() -> FlowKey {
    let mut key = FlowKey::default();
    for f in Field::ALL {
        key.set(*f, f.full());
    }
    key
}

fn packet_groups() -> [Groups; 4] {
    [Groups::VLAN, Groups::IPV6, Groups::ARP_ND, Groups::MPLS]
}

fn check(data: &[u8], total: usize) {
    let mut key = FlowKey::default();
    let off = flow::extract(data, total, &mut key);
    check_offsets(&key, &off, total);
    // Words outside the noted groups are zero.
    for w in 6..flow::WORDS {
        if !key.groups().contains(Groups::of_word(w)) {
            assert_eq!(key.word(w), 0, "word {w}");
        }
    }
    // What was in the key before makes no difference, and metadata stays.
    let mut again = stale_key();
    assert_eq!(flow::extract(data, total, &mut again), off);
    let stale = stale_key();
    for w in 0..flow::WORDS {
        let of_packet =
            (1..6).contains(&w) || packet_groups().iter().any(|g| Groups::of_word(w) == *g);
        assert_eq!(again.word(w), if of_packet { key.word(w) } else { stale.word(w) }, "word {w}");
    }
}

/// `PROPTEST_CASES` if it is set, else some thousands.
fn config() -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let default = ProptestConfig::default();
    ProptestConfig { cases: if asked { default.cases } else { 20_000 }, ..default }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn bytes_of_any_content(frame in any_frame()) {
        check(&frame, frame.len());
    }

    /// The first buffer of a longer packet.
    #[test]
    fn first_buffers_of_any_content(frame in any_frame(), cut in any::<Index>(), more in 0usize..70_000) {
        let first = &frame[..cut.index(frame.len() + 1)];
        check(first, frame.len());
        check(first, first.len() + more);
    }

    /// Bytes behind the end of what IP or ARP says is its packet never reach the key.
    #[test]
    fn padding_never_matters(which in any::<Index>(), noise in prop::collection::vec(any::<u8>(), 1..300)) {
        let mut corpus = common::legal();
        corpus.retain(|(_, f)| matches!((f[12], f[13]), (8, 0 | 6) | (0x86, 0xdd)));
        let (name, frame) = &corpus[which.index(corpus.len())];
        let mut key = FlowKey::default();
        let off = flow::extract(frame, frame.len(), &mut key);
        let mut padded = frame.clone();
        padded.extend(noise);
        let mut other = FlowKey::default();
        prop_assert_eq!(flow::extract(&padded, padded.len(), &mut other), off, "{}", name);
        prop_assert_eq!(other, key, "{}", name);
    }
}

#[test]
fn every_truncation_of_the_corpus() {
    for frame in corpus() {
        for len in 0..=frame.len() {
            check(&frame[..len], len);
            check(&frame[..len], frame.len());
            // A total that is less than what is there cannot be, and is survived.
            let mut key = FlowKey::default();
            flow::extract(&frame[..len], len / 2, &mut key);
        }
    }
}
