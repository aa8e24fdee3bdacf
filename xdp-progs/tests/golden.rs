//! Every program as text, exactly; and the assembler's own mistakes.

use xdp_progs::{Asm, AsmError, Insn, RX_VLAN_TAG, Redirect, Reg, Select, Size, Symbol, XSKMAP};

const PLAIN: &str = include_str!("golden/redirect.txt");
const RESTORING: &str = include_str!("golden/redirect-vlan.txt");

/// A line of text, how to write it, its bits.
type Encoding = (&'static str, fn(&mut Asm), u64);

#[test]
fn redirect_plain() {
    assert_eq!(Redirect::default().program().to_string(), PLAIN);
}

#[test]
fn frags_change_no_instruction() {
    let frags = Redirect { frags: true, ..Redirect::default() };
    assert_eq!(frags.program(), Redirect::default().program());
}

#[test]
fn redirect_restoring_vlan() {
    let what = Redirect { restore_vlan: true, ..Redirect::default() };
    assert_eq!(what.program().to_string(), RESTORING);
}

#[test]
fn names_are_as_long_as_the_kernel_takes() {
    for select in [Select::Everything, Select::Tunnels] {
        for restore_vlan in [false, true] {
            let what = Redirect { select, restore_vlan, ..Redirect::default() };
            let name = what.name();
            assert!(!name.is_empty() && name.len() <= 15, "{name}");
            assert!(!what.program().is_empty());
        }
    }
}

#[test]
fn linking_fills_in_maps_and_functions() {
    let program = Redirect { restore_vlan: true, ..Redirect::default() }.program();
    let mut asked = Vec::new();
    let slots = program
        .link(|symbol| {
            asked.push(symbol);
            Some(if symbol == Symbol::Map(XSKMAP) { 0x1234 } else { 0x77_0055 })
        })
        .expect("all known");
    assert_eq!(asked, [Symbol::Kfunc(RX_VLAN_TAG), Symbol::Map(XSKMAP), Symbol::Map(XSKMAP)]);
    let call = Insn { code: 0x85, dst: 0, src: 2, off: 0, imm: 0x77_0055 }.encode();
    assert_eq!(slots.iter().filter(|s| **s == call).count(), 1);
    let map = Insn { code: 0x18, dst: 1, src: 1, off: 0, imm: 0x1234 }.encode();
    assert_eq!(slots.iter().filter(|s| **s == map).count(), 2);
    assert_eq!(program.link(|_| None), Err(Symbol::Kfunc(RX_VLAN_TAG)));
}

/// Encodings as RFC 9669 gives them, on a little-endian machine.
#[cfg(target_endian = "little")]
#[test]
fn encodings() {
    let table: &[Encoding] = &[
        ("r6 = r1", |a| a.mov(Reg::R6, Reg::R1, ""), 0x0000_0000_0000_16bf),
        ("r0 = -1", |a| a.mov_imm(Reg::R0, -1, ""), 0xffff_ffff_0000_00b7),
        ("r2 += -8", |a| a.add_imm(Reg::R2, -8, ""), 0xffff_fff8_0000_0207),
        ("r4 = be16 r4", |a| a.to_be(Reg::R4, 16, ""), 0x0000_0010_0000_04dc),
        (
            "r2 = *(u16 *)(r10 -8)",
            |a| a.load(Size::H, Reg::R2, Reg::R10, -8, ""),
            0x0000_0000_fff8_a269,
        ),
        (
            "*(u64 *)(r10 -8) = r1",
            |a| a.store(Size::DW, Reg::R10, -8, Reg::R1, ""),
            0x0000_0000_fff8_1a7b,
        ),
        ("*(u8 *)(r2 +3) = 7", |a| a.store_imm(Size::B, Reg::R2, 3, 7, ""), 0x0000_0007_0003_0272),
        ("exit", |a| a.exit(""), 0x0000_0000_0000_0095),
    ];
    for (text, write, bits) in table {
        let mut a = Asm::new();
        write(&mut a);
        let program = a.finish().expect("no labels");
        let slots = program.link(|_| None).expect("no symbols");
        assert_eq!(u64::from_le_bytes(slots[0]), *bits, "{text}");
        assert!(program.to_string().contains(text), "{program} has no {text}");
    }
}

#[test]
fn jumps_go_forward_to_labels_that_are_there_once() {
    let mut a = Asm::new();
    a.jump_eq(Reg::R0, 0, "nowhere", "");
    assert_eq!(a.finish(), Err(AsmError::NoSuchLabel("nowhere")));

    let mut a = Asm::new();
    a.label("here");
    a.jump("here", "");
    assert_eq!(a.finish(), Err(AsmError::Backwards("here")));

    let mut a = Asm::new();
    a.label("twice");
    a.exit("");
    a.label("twice");
    assert_eq!(a.finish(), Err(AsmError::LabelTwice("twice")));

    let mut a = Asm::new();
    a.jump("end", "over one");
    a.mov_imm(Reg::R0, 1, "");
    a.label("end");
    a.exit("");
    let slots = a.finish().expect("fine").link(|_| None).expect("no symbols");
    assert_eq!(slots[0], Insn { code: 5, off: 1, ..Insn::default() }.encode());
}
