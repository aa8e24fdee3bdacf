// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Which frames of an interface go to the switch?
//!
//! All frames of every queue that has an AF_XDP socket; the kernel's stack gets the others. A VLAN
//! tag that the kernel holds beside the frame would be lost on the way, so the program can put it
//! back into the bytes first: a tagged frame must never arrive untagged.
//!
//! Invariants: a frame whose tag cannot be put back is dropped, never passed on without it; a frame
//! that stays with the kernel is not touched.
//!
//! Or only those of tunnels ([`Select::Tunnels`], [`crate::tunnels`]).
//!
//! Must not know: bpf(2), sockets, how programs are attached.

use crate::asm::{Asm, Helper, Program};
use crate::insn::Reg::{R0, R1, R2, R3, R4, R6, R10};
use crate::insn::Size;
use crate::tunnels::tunnels;

/// The name under which a program here asks for its map of sockets
/// (`BPF_MAP_TYPE_XSKMAP`, indexed by receive queue).
pub const XSKMAP: &str = "xskmap";
/// The kernel function that gives the VLAN tag held beside a frame (kernel 6.8 and later, in
/// programs bound to a device).
pub const RX_VLAN_TAG: &str = "bpf_xdp_metadata_rx_vlan_tag";

/// Verdicts (`enum xdp_action`).
pub mod verdict {
    /// Drop the frame.
    pub const DROP: u32 = 1;
    /// Leave the frame to the kernel's stack.
    pub const PASS: u32 = 2;
    /// Hand the frame to what `bpf_redirect_map` found.
    pub const REDIRECT: u32 = 4;
}

pub(crate) const MAP_LOOKUP_ELEM: Helper = Helper("bpf_map_lookup_elem", 1);
const XDP_ADJUST_HEAD: Helper = Helper("bpf_xdp_adjust_head", 44);
const REDIRECT_MAP: Helper = Helper("bpf_redirect_map", 51);

/// Offsets in `struct xdp_md`.
pub(crate) const MD_DATA: i16 = 0;
pub(crate) const MD_DATA_END: i16 = 4;
const MD_RX_QUEUE_INDEX: i16 = 16;

/// Bytes of a VLAN tag, and of an Ethernet header with one.
const TAG: i32 = 4;
const TAGGED_HEADER: i32 = 18;

/// Which frames the program takes for the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Select {
    /// All of them.
    #[default]
    Everything,
    /// Those of tunnels, as [`crate::tunnels`] says.
    Tunnels,
}

/// What the program is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Redirect {
    /// Which frames go to the switch.
    pub select: Select,
    /// Put a VLAN tag that the kernel holds beside the frame back into its bytes. The program then
    /// calls [`RX_VLAN_TAG`] and has to be loaded for one device (`BPF_F_XDP_DEV_BOUND_ONLY`).
    pub restore_vlan: bool,
    /// The program is to be attached where frames come in several buffers (`BPF_F_XDP_HAS_FRAGS`,
    /// needed for an MTU above what one page holds). The instructions are the same: all that is
    /// looked at lies in the first buffer.
    pub frags: bool,
}

impl Redirect {
    /// Name of the program, as the kernel shows it (at most 15 characters).
    pub fn name(&self) -> &'static str {
        match (self.select, self.restore_vlan) {
            (Select::Everything, false) => "vswitch_rx",
            (Select::Everything, true) => "vswitch_rx_vlan",
            (Select::Tunnels, false) => "vswitch_tnl",
            (Select::Tunnels, true) => "vswitch_tnl_vln",
        }
    }

    /// The program.
    pub fn program(&self) -> Program {
        let mut a = Asm::new();
        a.mov(R6, R1, "keep the context over calls");
        match (self.select, self.restore_vlan) {
            (Select::Everything, false) => {}
            (Select::Everything, true) => restore_vlan(&mut a),
            (Select::Tunnels, tags) => tunnels(&mut a, tags),
        }
        a.label("redirect");
        a.load(Size::W, R2, R6, MD_RX_QUEUE_INDEX, "the queue is the index of its socket");
        a.load_map(R1, XSKMAP, "sockets by queue");
        a.mov_imm(R3, verdict::PASS as i32, "no socket: the kernel's stack has it");
        a.call(REDIRECT_MAP, "to the socket");
        a.exit("its verdict");
        if self.restore_vlan && self.select == Select::Everything {
            a.label("drop");
            a.mov_imm(R0, verdict::DROP as i32, "better lost than without its tag");
            a.exit("");
        }
        if self.restore_vlan || self.select == Select::Tunnels {
            a.label("pass");
            a.mov_imm(R0, verdict::PASS as i32, "the kernel's stack has it, tag beside");
            a.exit("");
        }
        match a.finish() {
            Ok(program) => program,
            // Labels are constants of this file, and a test builds every variant.
            Err(e) => unreachable!("{e}"),
        }
    }
}

/// Ask for the tag beside the frame: protocol to `at` on the stack, control information behind it,
/// 0 to r0 if there is one.
pub(crate) fn ask_for_tag(a: &mut Asm, at: i16) {
    a.store_imm(Size::W, R10, at, 0, "no protocol, no tag yet");
    a.mov(R1, R6, "context");
    a.mov(R2, R10, "");
    a.add_imm(R2, i32::from(at), "where the tag's protocol goes");
    a.mov(R3, R10, "");
    a.add_imm(R3, i32::from(at) + 2, "where its control information goes");
    a.call_kfunc(RX_VLAN_TAG, "the tag beside the frame");
}

/// If the kernel holds a tag beside the frame, put it behind the MAC addresses.
fn restore_vlan(a: &mut Asm) {
    // Stack: u32 queue at -4, __be16 protocol at -8, u16 tag control information at -6.
    ask_for_tag(a, -8);
    a.jump_ne(R0, 0, "redirect", "none: the bytes are whole");

    a.load(Size::W, R2, R6, MD_RX_QUEUE_INDEX, "a frame that stays is left as it is:");
    a.store(Size::W, R10, -4, R2, "the stack would see the tag twice");
    a.load_map(R1, XSKMAP, "sockets by queue");
    a.mov(R2, R10, "");
    a.add_imm(R2, -4, "the queue");
    a.call(MAP_LOOKUP_ELEM, "is there a socket?");
    a.jump_eq(R0, 0, "pass", "no (one that comes now has the next frame)");

    a.mov(R1, R6, "context");
    a.mov_imm(R2, -TAG, "room for a tag");
    a.call(XDP_ADJUST_HEAD, "in front");
    a.jump_ne(R0, 0, "drop", "there is none");
    a.load(Size::W, R2, R6, MD_DATA, "first byte");
    a.load(Size::W, R3, R6, MD_DATA_END, "behind the last byte");
    a.mov(R4, R2, "");
    a.add_imm(R4, TAGGED_HEADER, "behind the tagged header");
    a.jump_gt(R4, R3, "drop", "a runt");
    a.load(Size::W, R4, R2, 4, "both MAC addresses");
    a.store(Size::W, R2, 0, R4, "go to the front");
    a.load(Size::W, R4, R2, 8, "");
    a.store(Size::W, R2, 4, R4, "");
    a.load(Size::W, R4, R2, 12, "");
    a.store(Size::W, R2, 8, R4, "");
    a.load(Size::H, R4, R10, -8, "protocol, in network order");
    a.store(Size::H, R2, 12, R4, "");
    a.load(Size::H, R4, R10, -6, "priority and VLAN, in host order");
    a.to_be(R4, 16, "");
    a.store(Size::H, R2, 14, R4, "");
}
