// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What does one eBPF instruction look like, in bits and in words?
//!
//! Encoding: RFC 9669 (BPF Instruction Set Architecture). Only the instructions that the programs
//! of this crate use have constructors (in [`crate::asm`]); each of them also has its text.
//!
//! Must not know: XDP, maps, what a program is for.

use std::fmt;

/// A register of the eBPF machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reg {
    /// Return value of calls and of the program.
    R0 = 0,
    /// First argument; the context at the program's start.
    R1,
    /// Second argument.
    R2,
    /// Third argument.
    R3,
    /// Fourth argument.
    R4,
    /// Fifth argument.
    R5,
    /// Kept over calls.
    R6,
    /// Kept over calls.
    R7,
    /// Kept over calls.
    R8,
    /// Kept over calls.
    R9,
    /// The stack's top, read only.
    R10,
}

/// Width of a load or store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// 1 byte.
    B,
    /// 2 bytes.
    H,
    /// 4 bytes.
    W,
    /// 8 bytes.
    DW,
}

impl Size {
    pub(crate) fn bits(self) -> u8 {
        match self {
            Size::W => 0x00,
            Size::H => 0x08,
            Size::B => 0x10,
            Size::DW => 0x18,
        }
    }

    fn from_code(code: u8) -> &'static str {
        match code & 0x18 {
            0x00 => "u32",
            0x08 => "u16",
            0x10 => "u8",
            _ => "u64",
        }
    }
}

/// Instruction classes and modes (RFC 9669, sections 3 to 5).
pub(crate) mod code {
    pub const LD_IMM64: u8 = 0x18; // LD | IMM | DW
    pub const LDX_MEM: u8 = 0x61; // LDX | MEM, size to be added
    pub const STX_MEM: u8 = 0x63; // STX | MEM, size to be added
    pub const ST_MEM: u8 = 0x62; // ST | MEM, size to be added
    pub const ALU64_ADD_K: u8 = 0x07;
    pub const ALU64_AND_K: u8 = 0x57;
    pub const ALU64_MOV_K: u8 = 0xb7;
    pub const ALU64_MOV_X: u8 = 0xbf;
    pub const ALU_TO_BE: u8 = 0xdc; // ALU | END | TO_BE
    pub const JA: u8 = 0x05;
    pub const JEQ_K: u8 = 0x15;
    pub const JNE_K: u8 = 0x55;
    pub const JGT_X: u8 = 0x2d;
    pub const CALL: u8 = 0x85;
    pub const EXIT: u8 = 0x95;
}

/// `src` of a [`code::LD_IMM64`] whose immediate is a map's descriptor (`BPF_PSEUDO_MAP_FD`).
pub(crate) const PSEUDO_MAP_FD: u8 = 1;
/// `src` of a [`code::CALL`] whose immediate is a kernel function's BTF id
/// (`BPF_PSEUDO_KFUNC_CALL`).
pub(crate) const PSEUDO_KFUNC_CALL: u8 = 2;

/// One instruction slot of 8 bytes; `LD_IMM64` takes two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Insn {
    /// Operation code.
    pub code: u8,
    /// Destination register.
    pub dst: u8,
    /// Source register, or what the immediate is.
    pub src: u8,
    /// Offset of a load, store or jump.
    pub off: i16,
    /// Immediate.
    pub imm: i32,
}

impl Insn {
    /// The slot as `struct bpf_insn` lies in memory on this machine.
    pub fn encode(self) -> [u8; 8] {
        let regs = if cfg!(target_endian = "little") {
            self.src << 4 | self.dst
        } else {
            self.dst << 4 | self.src
        };
        let (off, imm) = (self.off.to_ne_bytes(), self.imm.to_ne_bytes());
        [self.code, regs, off[0], off[1], imm[0], imm[1], imm[2], imm[3]]
    }
}

/// The instruction in the notation of the kernel's verifier log. Jumps show their relative target;
/// [`crate::Program`]'s text puts the label in its place.
impl fmt::Display for Insn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Insn { code, dst, src, off, imm } = *self;
        match code {
            code::ALU64_MOV_X => write!(f, "r{dst} = r{src}"),
            code::ALU64_MOV_K => write!(f, "r{dst} = {imm}"),
            code::ALU64_ADD_K => write!(f, "r{dst} += {imm}"),
            code::ALU64_AND_K => write!(f, "r{dst} &= {imm:#x}"),
            code::ALU_TO_BE => write!(f, "r{dst} = be{imm} r{dst}"),
            code::JA => write!(f, "goto {off:+}"),
            code::JEQ_K => write!(f, "if r{dst} == {imm} goto {off:+}"),
            code::JNE_K => write!(f, "if r{dst} != {imm} goto {off:+}"),
            code::JGT_X => write!(f, "if r{dst} > r{src} goto {off:+}"),
            code::CALL => write!(f, "call {imm}"),
            code::EXIT => f.write_str("exit"),
            code::LD_IMM64 => write!(f, "r{dst} = {imm} ll"),
            c if c & !0x18 == code::LDX_MEM => {
                write!(f, "r{dst} = *({} *)(r{src} {off:+})", Size::from_code(c))
            }
            c if c & !0x18 == code::STX_MEM => {
                write!(f, "*({} *)(r{dst} {off:+}) = r{src}", Size::from_code(c))
            }
            c if c & !0x18 == code::ST_MEM => {
                write!(f, "*({} *)(r{dst} {off:+}) = {imm}", Size::from_code(c))
            }
            c => write!(f, "code {c:#04x} r{dst} r{src} {off} {imm}"),
        }
    }
}
