//! The short way for plain packets says what the way for every frame says.

use super::*;
use proptest::prelude::*;

/// A plain frame: Ethernet, IPv4, and UDP or TCP with some bytes behind.
fn frame(tcp: bool, payload: usize) -> Vec<u8> {
    let header = if tcp { 20 } else { 8 };
    let length = 20 + header + payload;
    let mut f: Vec<u8> = (1..=12).collect();
    f.extend([0x08, 0, 0x45, 0x10]);
    f.extend((length as u16).to_be_bytes());
    f.extend([0, 1, 0x40, 0, 64, if tcp { 6 } else { 17 }, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    f.extend([0x12, 0x34, 0x56, 0x78]);
    f.resize(14 + length, 0xa5);
    if tcp {
        f[46..48].copy_from_slice(&[0x50, 0x12]);
    }
    f
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]
    #[test]
    fn the_short_way_says_the_same(
        tcp in any::<bool>(),
        payload in 0usize..60,
        // Mostly where it matters: types, versions, lengths, fragments, header lengths.
        changes in prop::collection::vec(
            (prop_oneof![12usize..24, 34usize..48], any::<u8>()), 0..3),
        cut in prop_oneof![Just(usize::MAX), 0usize..100],
        more in prop_oneof![Just(0usize), 0usize..2000],
    ) {
        let mut f = frame(tcp, payload);
        for (at, value) in changes {
            if let Some(byte) = f.get_mut(at) {
                *byte = value;
            }
        }
        f.truncate(cut);
        let (mut short, mut long) = (FlowKey::ZERO, FlowKey::ZERO);
        short.set_word(word::META, 7 << 32);
        long.set_word(word::META, 7 << 32);
        let total = f.len() + more;
        let expected = extract_any(&f, total, &mut long);
        if let Some(off) = plain(&f, total, &mut short) {
            prop_assert_eq!(off, expected);
            prop_assert_eq!(short.words(), long.words());
        }
    }
}

#[test]
fn plain_frames_take_the_short_way() {
    for tcp in [false, true] {
        let f = frame(tcp, 6);
        assert!(plain(&f, f.len(), &mut FlowKey::default()).is_some());
        assert!(plain(&f[..f.len() - 1], f.len() - 1, &mut FlowKey::default()).is_none());
    }
}
