// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Which frames of an interface that the host goes on using are the switch's tunnels'?
//!
//! Untagged IP packets to a tunnel's end ([`TUNNEL_ENDS`]): to a local address and UDP port, or to a local
//! address by GRE. Fragments too: of a datagram of UDP only the first one has the port, so what it
//! decided is kept in a second map ([`FRAGMENTS`]) for those that follow it. A fragment that
//! overtakes the first one stays with the kernel, whose reassembly gives it up; so does all else that
//! the program is not sure about, IPv4 headers with options and IPv6 ones with other extensions than
//! a fragment's among it.
//!
//! Invariant: what is not for a tunnel's end reaches the kernel untouched. An entry of
//! [`FRAGMENTS`] says of one datagram only that its first fragment was a tunnel's: the next first
//! fragment with that identification sets or removes it.

use crate::asm::{Asm, Helper};
use crate::insn::Reg::{R0, R1, R2, R3, R4, R6, R7, R8, R9, R10};
use crate::insn::Size;
use crate::redirect::{MAP_LOOKUP_ELEM, MD_DATA, MD_DATA_END, ask_for_tag};

/// The name under which a program that selects asks for its map of tunnel ends: a hash map, its keys
/// made by [`tunnel_end`], its values (4 bytes) of no meaning.
pub const TUNNEL_ENDS: &str = "tunnel_ends";
/// Bytes of a key of [`TUNNEL_ENDS`].
pub const TUNNEL_END: usize = 20;
/// The name under which it asks for its map of datagrams of which a fragment was a tunnel's: a hash
/// map that forgets the least used (`BPF_MAP_TYPE_LRU_HASH`), its values (4 bytes) of no meaning.
pub const FRAGMENTS: &str = "fragments";
/// Bytes of a key of [`FRAGMENTS`]: source and destination in 16 bytes each (an IPv4 address in the
/// first four), identification, IP version.
pub const FRAGMENT_KEY: usize = 40;

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

const MAP_UPDATE_ELEM: Helper = Helper("bpf_map_update_elem", 2);
const MAP_DELETE_ELEM: Helper = Helper("bpf_map_delete_elem", 3);

/// Bytes of an Ethernet header without a tag.
const ETHERNET: i32 = 14;
/// IP protocols.
const UDP: i32 = 17;
const FRAGMENT: i32 = 44;
const GRE: i32 = 47;

/// Where on the stack the key of [`TUNNEL_ENDS`] is, its protocol, its port.
const END: i16 = -24;
const PROTOCOL: i16 = -8;
const PORT: i16 = -6;
/// Where the tag beside the frame is put.
const BESIDE: i16 = -32;
/// Where the key of [`FRAGMENTS`] is: source, destination, identification, version.
const SOURCE: i16 = -72;
const DESTINATION: i16 = -56;
const IDENTIFICATION: i16 = -40;
const VERSION: i16 = -36;

/// Fall through with a later fragment of a tunnel's, jump to `redirect` with all else that is one's, to
/// `pass` with the rest. r9 is 1 for a first fragment.
pub(crate) fn tunnels(a: &mut Asm, tags: bool) {
    if tags {
        ask_for_tag(a, BESIDE);
        a.jump_eq(R0, 0, "pass", "one beside: not the interface's own packet");
    }
    a.load(Size::W, R7, R6, MD_DATA, "first byte");
    a.load(Size::W, R8, R6, MD_DATA_END, "behind the last byte");
    a.mov_imm(R9, 0, "no first fragment");
    a.mov_imm(R4, 0, "");
    a.store(Size::DW, R10, END, R4, "no address yet");
    a.store(Size::DW, R10, END + 8, R4, "");
    a.store(Size::W, R10, PROTOCOL, R4, "no protocol, no port");
    need(a, ETHERNET + 20);
    a.load(Size::H, R4, R7, 12, "Ethernet type");
    a.to_be(R4, 16, "");
    a.jump_eq(R4, 0x86dd, "ipv6", "");
    a.jump_ne(R4, 0x0800, "pass", "neither: not for a tunnel");
    ipv4(a);
    ipv6(a);
    a.label("look");
    a.load_map(R1, TUNNEL_ENDS, "addresses and ports of tunnels");
    a.mov(R2, R10, "");
    a.add_imm(R2, i32::from(END), "the key");
    a.call(MAP_LOOKUP_ELEM, "is it one of them?");
    a.jump_eq(R0, 0, "other", "no");
    a.jump_eq(R9, 0, "redirect", "nothing follows that is not known by itself");
    fragments(a, "those that follow are ours");
    a.mov(R3, R10, "");
    a.add_imm(R3, i32::from(PROTOCOL), "any value");
    a.mov_imm(R4, 0, "new or old");
    a.call(MAP_UPDATE_ELEM, "");
    a.jump("redirect", "");
    a.label("other");
    a.jump_eq(R9, 0, "pass", "");
    fragments(a, "those that follow are not ours");
    a.call(MAP_DELETE_ELEM, "");
    a.jump("pass", "");
    a.label("later");
    fragments(a, "what was the first one?");
    a.call(MAP_LOOKUP_ELEM, "");
    a.jump_eq(R0, 0, "pass", "not ours, or not seen");
}

/// The map of fragments and the key of this one, as arguments.
fn fragments(a: &mut Asm, comment: &'static str) {
    a.load_map(R1, FRAGMENTS, comment);
    a.mov(R2, R10, "");
    a.add_imm(R2, i32::from(SOURCE), "the datagram");
}

/// The frame's first bytes are there, or it stays with the kernel.
fn need(a: &mut Asm, bytes: i32) {
    a.mov(R2, R7, "");
    a.add_imm(R2, bytes, "behind what is read now");
    a.jump_gt(R2, R8, "pass", "too short");
}

fn ipv4(a: &mut Asm) {
    a.load(Size::B, R4, R7, 14, "version and length");
    a.jump_ne(R4, 0x45, "pass", "options, or no IPv4");
    a.store_imm(Size::B, R10, END + 10, 0xff, "an IPv4-mapped address");
    a.store_imm(Size::B, R10, END + 11, 0xff, "");
    a.load(Size::W, R4, R7, 30, "destination");
    a.store(Size::W, R10, END + 12, R4, "");
    a.load(Size::B, R4, R7, 23, "protocol");
    a.store(Size::B, R10, PROTOCOL, R4, "");
    a.jump_eq(R4, GRE, "look", "GRE has no ports: fragments too");
    a.jump_ne(R4, UDP, "pass", "");
    a.load(Size::H, R4, R7, 20, "flags and offset of fragments");
    a.to_be(R4, 16, "");
    a.and_imm(R4, 0x3fff, "without `do not fragment`");
    a.jump_eq(R4, 0, "udp4", "a whole datagram");
    a.mov_imm(R3, 0, "");
    for at in [0, 8, 16, 24, 32] {
        a.store(Size::DW, R10, SOURCE + at, R3, "");
    }
    a.load(Size::W, R3, R7, 26, "source");
    a.store(Size::W, R10, SOURCE, R3, "");
    a.load(Size::W, R3, R7, 30, "destination");
    a.store(Size::W, R10, DESTINATION, R3, "");
    a.load(Size::H, R3, R7, 18, "identification");
    a.store(Size::H, R10, IDENTIFICATION, R3, "");
    a.store_imm(Size::W, R10, VERSION, 4, "");
    a.and_imm(R4, 0x1fff, "the offset");
    a.jump_ne(R4, 0, "later", "");
    a.mov_imm(R9, 1, "a first fragment");
    a.label("udp4");
    need(a, ETHERNET + 20 + 8);
    a.load(Size::H, R4, R7, 36, "UDP port");
    a.store(Size::H, R10, PORT, R4, "");
    a.jump("look", "");
}

fn ipv6(a: &mut Asm) {
    a.label("ipv6");
    need(a, ETHERNET + 40 + 8);
    for part in [0, 4, 8, 12] {
        let comment = if part == 0 { "destination" } else { "" };
        a.load(Size::W, R4, R7, 38 + part, comment);
        a.store(Size::W, R10, END + part, R4, "");
    }
    a.load(Size::B, R4, R7, 20, "next header");
    a.jump_ne(R4, FRAGMENT, "whole6", "");
    a.load(Size::B, R4, R7, 54, "what it is a fragment of");
    a.jump_eq(R4, GRE, "whole6", "GRE has no ports: fragments too");
    a.jump_ne(R4, UDP, "pass", "");
    a.store(Size::B, R10, PROTOCOL, R4, "");
    for part in [0, 4, 8, 12, 16, 20, 24, 28] {
        let comment = if part == 0 { "source and destination" } else { "" };
        a.load(Size::W, R4, R7, 22 + part, comment);
        a.store(Size::W, R10, SOURCE + part, R4, "");
    }
    a.load(Size::W, R4, R7, 58, "identification");
    a.store(Size::W, R10, IDENTIFICATION, R4, "");
    a.store_imm(Size::W, R10, VERSION, 6, "");
    a.load(Size::H, R4, R7, 56, "offset and flag of fragments");
    a.to_be(R4, 16, "");
    a.and_imm(R4, 0xfff8, "the offset");
    a.jump_ne(R4, 0, "later", "");
    a.mov_imm(R9, 1, "a first fragment");
    need(a, ETHERNET + 40 + 8 + 8);
    a.load(Size::H, R4, R7, 64, "UDP port");
    a.store(Size::H, R10, PORT, R4, "");
    a.jump("look", "");
    a.label("whole6");
    a.store(Size::B, R10, PROTOCOL, R4, "");
    a.jump_eq(R4, GRE, "look", "GRE has no ports");
    a.jump_ne(R4, UDP, "pass", "");
    a.load(Size::H, R4, R7, 56, "UDP port");
    a.store(Size::H, R10, PORT, R4, "");
}
