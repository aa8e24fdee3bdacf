// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! How is a program written down so that a person can read it?
//!
//! [`Asm`] collects instructions, each with a comment; jumps name labels, which may come later;
//! maps and kernel functions are named and get their numbers when the program is loaded
//! ([`Program::link`]). [`Asm::finish`] turns labels into offsets.
//!
//! Invariants: a finished program has no open label, and every jump goes forward (so that it ends).
//!
//! Must not know: bpf(2), which programs there are.

use std::fmt;

use crate::insn::{Insn, PSEUDO_KFUNC_CALL, PSEUDO_MAP_FD, Reg, Size, code};

/// Something that gets its number only when the program is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symbol {
    /// A map by its name here; its number is a file descriptor.
    Map(&'static str),
    /// A kernel function; its number is its type id in the kernel's BTF.
    Kfunc(&'static str),
}

/// A helper function of the kernel, by name and number (`bpf-helpers(7)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Helper(pub &'static str, pub i32);

/// A mistake in a program's source, found when it is finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AsmError {
    /// A jump to a label that was never placed.
    NoSuchLabel(&'static str),
    /// A label placed twice.
    LabelTwice(&'static str),
    /// A jump to a place at or before it.
    Backwards(&'static str),
}

impl fmt::Display for AsmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AsmError::NoSuchLabel(l) => write!(f, "jump to label `{l}`, which is not there"),
            AsmError::LabelTwice(l) => write!(f, "label `{l}` is there twice"),
            AsmError::Backwards(l) => write!(f, "jump backwards to label `{l}`"),
        }
    }
}

impl std::error::Error for AsmError {}

/// One line of the source: an instruction and all that is said beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    insn: Insn,
    comment: &'static str,
    /// Where it jumps to.
    target: Option<&'static str>,
    /// What its immediate stands for.
    symbol: Option<Symbol>,
    /// Name of the helper it calls.
    helper: Option<&'static str>,
}

/// A program being written.
#[derive(Debug, Default)]
pub struct Asm {
    lines: Vec<Line>,
    labels: Vec<(&'static str, usize)>,
}

impl Asm {
    /// An empty program.
    pub fn new() -> Asm {
        Asm::default()
    }

    fn push(&mut self, insn: Insn, comment: &'static str) -> &mut Line {
        self.lines.push(Line { insn, comment, target: None, symbol: None, helper: None });
        let last = self.lines.len() - 1;
        &mut self.lines[last]
    }

    /// `dst = src`
    pub fn mov(&mut self, dst: Reg, src: Reg, comment: &'static str) {
        let insn =
            Insn { code: code::ALU64_MOV_X, dst: dst as u8, src: src as u8, ..Insn::default() };
        self.push(insn, comment);
    }

    /// `dst = imm`
    pub fn mov_imm(&mut self, dst: Reg, imm: i32, comment: &'static str) {
        self.push(
            Insn { code: code::ALU64_MOV_K, dst: dst as u8, imm, ..Insn::default() },
            comment,
        );
    }

    /// `dst += imm`
    pub fn add_imm(&mut self, dst: Reg, imm: i32, comment: &'static str) {
        self.push(
            Insn { code: code::ALU64_ADD_K, dst: dst as u8, imm, ..Insn::default() },
            comment,
        );
    }

    /// `dst &= imm`.
    pub fn and_imm(&mut self, dst: Reg, imm: i32, comment: &'static str) {
        self.push(
            Insn { code: code::ALU64_AND_K, dst: dst as u8, imm, ..Insn::default() },
            comment,
        );
    }

    /// `dst = (bits-wide value of dst, in network order)`
    pub fn to_be(&mut self, dst: Reg, bits: i32, comment: &'static str) {
        let insn = Insn { code: code::ALU_TO_BE, dst: dst as u8, imm: bits, ..Insn::default() };
        self.push(insn, comment);
    }

    /// `dst = *(size *)(src + off)`
    pub fn load(&mut self, size: Size, dst: Reg, src: Reg, off: i16, comment: &'static str) {
        let code = code::LDX_MEM | size.bits();
        self.push(Insn { code, dst: dst as u8, src: src as u8, off, imm: 0 }, comment);
    }

    /// `*(size *)(dst + off) = src`
    pub fn store(&mut self, size: Size, dst: Reg, off: i16, src: Reg, comment: &'static str) {
        let code = code::STX_MEM | size.bits();
        self.push(Insn { code, dst: dst as u8, src: src as u8, off, imm: 0 }, comment);
    }

    /// `*(size *)(dst + off) = imm`
    pub fn store_imm(&mut self, size: Size, dst: Reg, off: i16, imm: i32, comment: &'static str) {
        let code = code::ST_MEM | size.bits();
        self.push(Insn { code, dst: dst as u8, src: 0, off, imm }, comment);
    }

    /// `dst = map`
    pub fn load_map(&mut self, dst: Reg, map: &'static str, comment: &'static str) {
        let insn =
            Insn { code: code::LD_IMM64, dst: dst as u8, src: PSEUDO_MAP_FD, ..Insn::default() };
        self.push(insn, comment).symbol = Some(Symbol::Map(map));
        self.push(Insn::default(), "");
    }

    /// Call a helper: arguments in r1 to r5, which are lost; result in r0.
    pub fn call(&mut self, helper: Helper, comment: &'static str) {
        let line = self.push(Insn { code: code::CALL, imm: helper.1, ..Insn::default() }, comment);
        line.helper = Some(helper.0);
    }

    /// Call a kernel function by its name in the kernel's BTF.
    pub fn call_kfunc(&mut self, name: &'static str, comment: &'static str) {
        let insn = Insn { code: code::CALL, src: PSEUDO_KFUNC_CALL, ..Insn::default() };
        self.push(insn, comment).symbol = Some(Symbol::Kfunc(name));
    }

    /// `if dst == imm goto target`
    pub fn jump_eq(&mut self, dst: Reg, imm: i32, target: &'static str, comment: &'static str) {
        let insn = Insn { code: code::JEQ_K, dst: dst as u8, imm, ..Insn::default() };
        self.push(insn, comment).target = Some(target);
    }

    /// `if dst != imm goto target`
    pub fn jump_ne(&mut self, dst: Reg, imm: i32, target: &'static str, comment: &'static str) {
        let insn = Insn { code: code::JNE_K, dst: dst as u8, imm, ..Insn::default() };
        self.push(insn, comment).target = Some(target);
    }

    /// `if dst > src goto target`, unsigned
    pub fn jump_gt(&mut self, dst: Reg, src: Reg, target: &'static str, comment: &'static str) {
        let insn = Insn { code: code::JGT_X, dst: dst as u8, src: src as u8, ..Insn::default() };
        self.push(insn, comment).target = Some(target);
    }

    /// `goto target`
    pub fn jump(&mut self, target: &'static str, comment: &'static str) {
        self.push(Insn { code: code::JA, ..Insn::default() }, comment).target = Some(target);
    }

    /// Leave the program with the verdict in r0.
    pub fn exit(&mut self, comment: &'static str) {
        self.push(Insn { code: code::EXIT, ..Insn::default() }, comment);
    }

    /// Name the place of the next instruction.
    pub fn label(&mut self, name: &'static str) {
        self.labels.push((name, self.lines.len()));
    }

    /// Turn labels into offsets.
    ///
    /// # Errors
    /// The first mistake in labels and jumps.
    pub fn finish(mut self) -> Result<Program, AsmError> {
        for (i, (name, _)) in self.labels.iter().enumerate() {
            if self.labels[..i].iter().any(|(n, _)| n == name) {
                return Err(AsmError::LabelTwice(name));
            }
        }
        for (at, line) in self.lines.iter_mut().enumerate() {
            let Some(name) = line.target else { continue };
            let (_, to) =
                self.labels.iter().find(|(n, _)| *n == name).ok_or(AsmError::NoSuchLabel(name))?;
            let over = to.checked_sub(at + 1).ok_or(AsmError::Backwards(name))?;
            // The kernel's limit of instructions keeps an offset far below 2^15.
            line.insn.off = i16::try_from(over).map_err(|_| AsmError::NoSuchLabel(name))?;
        }
        Ok(Program { lines: self.lines, labels: self.labels })
    }
}

/// A finished program: instructions, and the numbers that are still to be filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    lines: Vec<Line>,
    labels: Vec<(&'static str, usize)>,
}

impl Program {
    /// The instruction slots with every symbol replaced by the number that `resolve` gives.
    ///
    /// # Errors
    /// The first symbol that `resolve` does not know.
    pub fn link(
        &self,
        mut resolve: impl FnMut(Symbol) -> Option<i32>,
    ) -> Result<Vec<[u8; 8]>, Symbol> {
        self.lines
            .iter()
            .map(|line| {
                let mut insn = line.insn;
                if let Some(symbol) = line.symbol {
                    insn.imm = resolve(symbol).ok_or(symbol)?;
                }
                Ok(insn.encode())
            })
            .collect()
    }

    /// Number of instruction slots.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is no instruction.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

/// The listing: labels, instructions in the verifier's notation, comments.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, line) in self.lines.iter().enumerate() {
            for (name, _) in self.labels.iter().filter(|(_, to)| *to == at) {
                writeln!(f, "{name}:")?;
            }
            if line.insn == Insn::default() {
                continue; // The second slot of a wide load.
            }
            let text = line.insn.to_string();
            let text = match (line.symbol, line.target, line.helper) {
                (Some(Symbol::Map(m)), _, _) => format!("r{} = map {m} ll", line.insn.dst),
                (Some(Symbol::Kfunc(k)), _, _) => format!("call kfunc {k}"),
                (_, Some(label), _) => {
                    let keep = text.rfind("goto ").map_or(0, |i| i + 5);
                    format!("{}{label}", &text[..keep])
                }
                (_, _, Some(helper)) => format!("{text} ({helper})"),
                _ => text,
            };
            match line.comment {
                "" => writeln!(f, "{at:4}: {text}")?,
                comment => writeln!(f, "{at:4}: {text:<44}; {comment}")?,
            }
        }
        Ok(())
    }
}
