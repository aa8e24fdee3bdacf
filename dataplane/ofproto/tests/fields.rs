//! Fields by name: each is found by every one of its names, keeps what is set, and looking at it
//! says which bits were looked at.

use flow::{Field, FlowKey};
use ofproto::flowmod::Command;
use ofproto::mf::{Mf, Subfield};
use ofproto::text::{NoNames, parse_flow};
use proptest::prelude::*;

#[test]
fn no_two_fields_share_a_name() {
    let mut names: Vec<&str> = Vec::new();
    for mf in Mf::ALL {
        let info = mf.info();
        names.push(info.name);
        names.extend(info.aliases);
        if info.nxm != info.name {
            names.push(info.nxm);
        }
    }
    let n = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), n);
}

#[test]
fn every_name_is_read() {
    for mf in Mf::ALL {
        let info = mf.info();
        for name in info.aliases.iter().chain([&info.name, &info.nxm]) {
            let text = format!("actions=move:{name}[]->NXM_NX_XXREG0[0..{}]", mf.bits() - 1);
            let message = match parse_flow(&text, Command::Add, &NoNames) {
                Ok(_) => continue,
                Err(e) => e.to_string(),
            };
            // The field may need a header, but it is known.
            assert!(message.contains("need not have"), "{name}: {message}");
        }
    }
}

fn key(words: &[u64]) -> FlowKey {
    let mut k = FlowKey::ZERO;
    for (i, w) in words.iter().enumerate() {
        k.set_word(i, *w);
    }
    k
}

fn subfield() -> impl Strategy<Value = Subfield> {
    (0..Mf::ALL.len(), any::<u8>(), any::<u8>()).prop_map(|(i, a, b)| {
        let field = Mf::ALL[i];
        let ofs = u32::from(a) % field.bits();
        let n_bits = 1 + u32::from(b) % (field.bits() - ofs);
        Subfield { field, ofs: ofs as u8, n_bits: n_bits as u8 }
    })
}

proptest! {
    /// Bits that were not looked at do not change what was seen.
    #[test]
    fn what_is_consulted_decides(
        sf in subfield(),
        a in prop::collection::vec(any::<u64>(), flow::key::WORDS),
        b in prop::collection::vec(any::<u64>(), flow::key::WORDS),
    ) {
        let (a, b) = (key(&a), key(&b));
        let mut wc = FlowKey::ZERO;
        sf.consult(&mut wc);
        let mut mixed = FlowKey::ZERO;
        for i in 0..flow::key::WORDS {
            mixed.set_word(i, a.word(i) & wc.word(i) | b.word(i) & !wc.word(i));
        }
        prop_assert_eq!(sf.get(&mixed), sf.get(&a));
    }

    /// What is set is there, and nothing outside the field changes.
    #[test]
    fn what_is_set_is_kept(
        sf in subfield(),
        a in prop::collection::vec(any::<u64>(), flow::key::WORDS),
        value in any::<u128>(),
    ) {
        let before = key(&a);
        let mut after = before.clone();
        let value = value & (sf.mask() >> sf.ofs);
        sf.set(&mut after, value);
        // ECN is not part of a TOS; and not every bit that a field may have is kept.
        let kept = match (sf.field, sf.field.info().place.bits) {
            (Mf::NwTos, _) => 0xfc,
            (_, 128) => u128::MAX,
            (_, bits) => (1 << bits) - 1,
        };
        let seen = (value << sf.ofs & kept) >> sf.ofs;
        prop_assert_eq!(sf.get(&after), seen);
        let mut touched = FlowKey::ZERO;
        Subfield::whole(sf.field).consult(&mut touched);
        let vlan = matches!(sf.field, Mf::VlanVid | Mf::VlanPcp | Mf::DlVlan | Mf::DlVlanPcp);
        for i in 0..flow::key::WORDS {
            let tag = if vlan && i == Field::VlanTci.place().word { 0x1000 } else { 0 };
            prop_assert_eq!((before.word(i) ^ after.word(i)) & !(touched.word(i) | tag), 0);
        }
    }
}
