//! The short way for plain packets says what the way for every frame says.

use super::*;
use proptest::prelude::*;

/// A plain frame: Ethernet, perhaps a tag, IPv4, and that protocol with some bytes behind.
fn frame(tag: bool, proto: u8, payload: usize) -> Vec<u8> {
    let header = if proto == ip_proto::TCP { 20 } else { 8 };
    let length = 20 + header + payload;
    let mut f: Vec<u8> = (1..=12).collect();
    if tag {
        f.extend([0x81, 0, 0x60, 0x64]);
    }
    f.extend([0x08, 0]);
    let l3 = f.len();
    f.extend([0x45, 0x10]);
    f.extend((length as u16).to_be_bytes());
    f.extend([0, 1, 0x40, 0, 64, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    f.extend([0x12, 0x34, 0x56, 0x78]);
    f.resize(l3 + length, 0xa5);
    if proto == ip_proto::TCP {
        f[l3 + 32..l3 + 34].copy_from_slice(&[0x50, 0x12]);
    }
    f
}

/// The protocols that are read the short way.
const PROTOS: [u8; 3] = [ip_proto::UDP, ip_proto::TCP, ip_proto::GRE];

fn short_way(f: &[u8], total: usize, key: &mut FlowKey) -> Option<Offsets> {
    plain::<14, 42>(f, total, key).or_else(|| {
        let tag = f.get(12..14).is_some_and(|ty| ty == [0x81, 0] || ty == [0x88, 0xa8]);
        tag.then(|| plain::<18, 46>(f, total, key)).flatten()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6000, ..ProptestConfig::default() })]
    #[test]
    fn the_short_way_says_the_same(
        tag in any::<bool>(),
        proto in prop::sample::select(&PROTOS[..]),
        payload in 0usize..60,
        // Mostly where it matters: types, versions, lengths, fragments, header lengths.
        changes in prop::collection::vec(
            (prop_oneof![12usize..28, 34usize..52], any::<u8>()), 0..3),
        cut in prop_oneof![Just(usize::MAX), 0usize..100],
        more in prop_oneof![Just(0usize), 0usize..2000],
        before in prop::collection::vec(word::VLAN..word::MARK, 0..4),
    ) {
        let mut f = frame(tag, proto, payload);
        for (at, value) in changes {
            if let Some(byte) = f.get_mut(at) {
                *byte = value;
            }
        }
        f.truncate(cut);
        let (mut short, mut long) = (FlowKey::ZERO, FlowKey::ZERO);
        short.set_word(word::META, 7 << 32);
        long.set_word(word::META, 7 << 32);
        // What the last packet in this place left.
        for w in before {
            short.set_word(w, 0x5a5a);
        }
        let total = f.len() + more;
        let expected = extract_any(&f, total, &mut long);
        if let Some(off) = short_way(&f, total, &mut short) {
            prop_assert_eq!(off, expected);
            prop_assert_eq!(short.words(), long.words());
        } else {
            prop_assert_eq!(extract(&f, total, &mut short), expected);
            prop_assert_eq!(short.words(), long.words());
        }
    }
}

#[test]
fn plain_frames_take_the_short_way() {
    for (tag, proto) in [false, true].into_iter().flat_map(|t| PROTOS.map(|p| (t, p))) {
        let f = frame(tag, proto, 6);
        let key = &mut FlowKey::default();
        assert!(short_way(&f, f.len(), key).is_some(), "{proto}");
        assert!(short_way(&f[..f.len() - 1], f.len() - 1, key).is_none(), "{proto}");
    }
}

/// The words that come from the Ethernet header and its tags.
const LINK: [usize; 3] = [word::ETH_DST, word::ETH_SRC, word::VLAN];

proptest! {
    #![proptest_config(ProptestConfig { cases: 6000, ..ProptestConfig::default() })]
    #[test]
    fn the_ethernet_header_alone_says_the_same(
        tag in any::<bool>(),
        changes in prop::collection::vec((12usize..24, any::<u8>()), 0..3),
        types in prop::collection::vec(
            (prop::sample::select(&[12usize, 16, 20][..]),
             prop::sample::select(&[0x8100u16, 0x88a8, 0x0800, 0x86dd, 0x0806, 0x05ff, 0x0040][..])),
            0..3),
        cut in prop_oneof![Just(usize::MAX), 0usize..40],
        before in prop::collection::vec(word::ETH_DST..word::MARK, 0..6),
    ) {
        let mut f = frame(tag, ip_proto::UDP, 10);
        for (at, value) in changes {
            f[at] = value;
        }
        for (at, ty) in types {
            f[at..at + 2].copy_from_slice(&ty.to_be_bytes());
        }
        f.truncate(cut);
        let (mut link, mut whole) = (FlowKey::ZERO, FlowKey::ZERO);
        // What the last packet in this place left.
        before.iter().for_each(|w| link.set_word(*w, 0x5a5a));
        link.set_word(word::META, 7 << 32);
        let off = extract_to(Depth::Link, &f, f.len(), &mut link);
        prop_assert_eq!(off, Offsets::default());
        extract(&f, f.len(), &mut whole);
        for w in LINK {
            prop_assert_eq!(link.word(w), whole.word(w));
        }
        prop_assert_eq!(link.word(word::META), 7 << 32);
        // Nothing of another packet is left.
        for w in (word::ETH_DST..word::MARK).filter(|w| !LINK.contains(w)) {
            prop_assert!(link.word(w) == 0 || link.word(w) == whole.word(w));
        }
    }
}

#[test]
fn what_words_need_of_a_packet() {
    let of = |words: &[usize]| Depth::of_words(words.iter().map(|w| 1 << w).sum());
    assert_eq!(of(&[]), Depth::Nothing);
    assert_eq!(of(&[word::META, word::CT, word::TUN_ID, word::MARK, word::CONJ]), Depth::Nothing);
    assert_eq!(of(&[word::ETH_DST, word::CT_NW]), Depth::Link);
    assert_eq!(of(&[word::ETH_SRC, word::VLAN]), Depth::Link);
    let deeper = (0..word::MARK).filter(|w| *w != word::META && !LINK.contains(w));
    for w in deeper {
        assert_eq!(of(&[word::ETH_DST, w]), Depth::Whole, "word {w}");
    }
}
