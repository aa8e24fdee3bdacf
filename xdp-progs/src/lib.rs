// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The switch's XDP programs, written as instructions by a small assembler.
//!
//! A program is plain data here: built from options ([`Redirect`]), shown as text by `Display`,
//! turned into instruction slots by [`Program::link`] once maps and kernel functions have numbers.
//! Loading and attaching are the business of who calls bpf(2).
//!
//! ```
//! let program = xdp_progs::Redirect::default().program();
//! let slots = program.link(|symbol| match symbol {
//!     xdp_progs::Symbol::Map(xdp_progs::XSKMAP) => Some(5), // the map's descriptor
//!     _ => None,
//! });
//! assert_eq!(slots.unwrap().len(), program.len());
//! ```
pub mod asm;
pub mod insn;
pub mod redirect;
pub mod tunnels;

pub use asm::{Asm, AsmError, Helper, Program, Symbol};
pub use insn::{Insn, Reg, Size};
pub use redirect::{RX_VLAN_TAG, Redirect, Select, XSKMAP, verdict};
pub use tunnels::{FRAGMENT_KEY, FRAGMENTS, TUNNEL_END, TUNNEL_ENDS, tunnel_end};

/// The licence that a program is loaded with. The helpers in use do not demand a GPL-compatible
/// one; kernel functions do.
pub const LICENSE: &str = "Dual MIT/GPL";
