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
//! Or only those of tunnels ([`Select::Tunnels`]): what is sent to an address and UDP port, or to an
//! address by GRE, that a map names. Whatever the program is not sure about stays with the kernel.
//!
//! Must not know: bpf(2), sockets, how programs are attached.

use crate::asm::{Asm, Helper, Program};
use crate::insn::Reg::{R0, R1, R2, R3, R4, R6, R7, R8, R10};
use crate::insn::Size;

/// The name under which a program here asks for its map of sockets
/// (`BPF_MAP_TYPE_XSKMAP`, indexed by receive queue).
pub const XSKMAP: &str = "xskmap";
/// The name under which a program that selects asks for its map of tunnel ends: a hash map, its keys
/// made by [`tunnel_end`], its values of no meaning.
pub const TUNNEL_ENDS: &str = "tunnel_ends";
/// Bytes of a key of [`TUNNEL_ENDS`].
pub const TUNNEL_END: usize = 20;

/// A key of [`TUNNEL_ENDS`]: a local address, the number of the IP protocol (17: UDP, 47: GRE), and
/// the UDP port, 0 for GRE. An IPv4 address is written as an IPv6 one (RFC 4291, section 2.5.5.2).
pub fn tunnel_end(address: std::net::IpAddr, protocol: u8, port: u16) -> [u8; TUNNEL_END] {
    let address = match address {
        std::net::IpAddr::V4(a) => a.to_ipv6_mapped(),
        std::net::IpAddr::V6(a) => a,
    };
    let mut key = [0; TUNNEL_END];
    key[..16].copy_from_slice(&address.octets());
    key[16] = protocol;
    key[18..].copy_from_slice(&port.to_be_bytes());
    key
}

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

const MAP_LOOKUP_ELEM: Helper = Helper("bpf_map_lookup_elem", 1);
const XDP_ADJUST_HEAD: Helper = Helper("bpf_xdp_adjust_head", 44);
const REDIRECT_MAP: Helper = Helper("bpf_redirect_map", 51);

/// Offsets in `struct xdp_md`.
const MD_DATA: i16 = 0;
const MD_DATA_END: i16 = 4;
const MD_RX_QUEUE_INDEX: i16 = 16;

/// Bytes of a VLAN tag, and of an Ethernet header with one.
const TAG: i32 = 4;
const TAGGED_HEADER: i32 = 18;
/// Bytes of an Ethernet header without one.
const ETHERNET: i32 = 14;
/// IP protocols.
const UDP: i32 = 17;
const FRAGMENT: i32 = 44;
const GRE: i32 = 47;

/// Which frames the program takes for the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Select {
    /// All of them.
    #[default]
    Everything,
    /// Untagged IP packets to a tunnel's end ([`TUNNEL_ENDS`]): UDP in whole datagrams, GRE also in
    /// fragments. A fragment of UDP stays with the kernel, as most have no port to tell whose they
    /// are; so do IPv4 headers with options and IPv6 ones with extensions, but a fragment's.
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

/// Go on only with what is for a tunnel's end. The stack from -24 is the key to look for.
fn tunnels(a: &mut Asm, tags: bool) {
    if tags {
        ask_for_tag(a, -32);
        a.jump_eq(R0, 0, "pass", "one beside: not the interface's own packet");
    }
    a.load(Size::W, R7, R6, MD_DATA, "first byte");
    a.load(Size::W, R8, R6, MD_DATA_END, "behind the last byte");
    a.mov_imm(R4, 0, "");
    a.store(Size::DW, R10, -24, R4, "no address yet");
    a.store(Size::DW, R10, -16, R4, "");
    a.store(Size::W, R10, -8, R4, "no protocol, no port");
    need(a, ETHERNET + 20);
    a.load(Size::H, R4, R7, 12, "Ethernet type");
    a.to_be(R4, 16, "");
    a.jump_eq(R4, 0x86dd, "ipv6", "");
    a.jump_ne(R4, 0x0800, "pass", "neither: not for a tunnel");
    tunnels_ipv4(a);
    tunnels_ipv6(a);
    a.label("look");
    a.load_map(R1, TUNNEL_ENDS, "addresses and ports of tunnels");
    a.mov(R2, R10, "");
    a.add_imm(R2, -24, "the key");
    a.call(MAP_LOOKUP_ELEM, "is it one of them?");
    a.jump_eq(R0, 0, "pass", "no");
}

/// The frame's first bytes are there, or it stays with the kernel.
fn need(a: &mut Asm, bytes: i32) {
    a.mov(R2, R7, "");
    a.add_imm(R2, bytes, "behind what is read now");
    a.jump_gt(R2, R8, "pass", "too short");
}

fn tunnels_ipv4(a: &mut Asm) {
    a.load(Size::B, R4, R7, 14, "version and length");
    a.jump_ne(R4, 0x45, "pass", "options, or no IPv4");
    a.store_imm(Size::B, R10, -14, 0xff, "an IPv4-mapped address");
    a.store_imm(Size::B, R10, -13, 0xff, "");
    a.load(Size::W, R4, R7, 30, "destination");
    a.store(Size::W, R10, -12, R4, "");
    a.load(Size::B, R4, R7, 23, "protocol");
    a.store(Size::B, R10, -8, R4, "");
    a.jump_eq(R4, GRE, "look", "GRE has no ports: fragments too");
    a.jump_ne(R4, UDP, "pass", "");
    a.load(Size::B, R4, R7, 20, "flags and offset of fragments:");
    a.jump_eq(R4, 0, "whole4", "none");
    a.jump_ne(R4, 0x40, "pass", "more than `do not fragment`");
    a.label("whole4");
    a.load(Size::B, R4, R7, 21, "");
    a.jump_ne(R4, 0, "pass", "a later fragment");
    need(a, ETHERNET + 20 + 8);
    a.load(Size::H, R4, R7, 36, "UDP port");
    a.store(Size::H, R10, -6, R4, "");
    a.jump("look", "");
}

fn tunnels_ipv6(a: &mut Asm) {
    a.label("ipv6");
    need(a, ETHERNET + 40 + 8);
    for part in [0, 4, 8, 12] {
        let comment = if part == 0 { "destination" } else { "" };
        a.load(Size::W, R4, R7, 38 + part, comment);
        a.store(Size::W, R10, -24 + part, R4, "");
    }
    a.load(Size::B, R4, R7, 20, "next header");
    a.jump_ne(R4, FRAGMENT, "whole6", "");
    a.load(Size::B, R4, R7, 54, "what it is a fragment of");
    a.jump_ne(R4, GRE, "pass", "UDP's have no port");
    a.label("whole6");
    a.store(Size::B, R10, -8, R4, "");
    a.jump_eq(R4, GRE, "look", "GRE has no ports");
    a.jump_ne(R4, UDP, "pass", "");
    a.load(Size::H, R4, R7, 56, "UDP port");
    a.store(Size::H, R10, -6, R4, "");
}

/// Ask for the tag beside the frame: protocol to `at` on the stack, control information behind it,
/// 0 to r0 if there is one.
fn ask_for_tag(a: &mut Asm, at: i16) {
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
