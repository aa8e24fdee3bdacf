//! Two tiny BPF programs that tests put on interfaces: one that makes the kernel hold a VLAN tag beside
//! the frame, as VLAN subinterfaces and offloads do, and an XDP program that is in the way.
//!
//! Both are attached by bpf_link (bpf(2), BPF_LINK_CREATE) and gone when the value is dropped.
#![allow(unsafe_code)] // the bpf system call

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, bail};

const PROG_LOAD: i64 = 5;
const LINK_CREATE: i64 = 28;
const PROG_TYPE_SCHED_CLS: u32 = 3;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const ATTACH_TCX_EGRESS: u32 = 47;
const XDP_FLAGS_SKB_MODE: u32 = 2;

/// An attached program.
#[derive(Debug)]
pub struct Attached {
    _program: OwnedFd,
    _link: OwnedFd,
}

/// One instruction: opcode, registers (source in the high half), offset, immediate.
const fn instruction(op: u8, dst: u8, src: u8, imm: i32) -> u64 {
    let registers = (src << 4 | dst) as u64;
    op as u64 | registers << 8 | (imm as u32 as u64) << 32
}

/// All frames that `interface` of namespace `node` sends leave with VLAN tag `tci` *beside* their bytes.
pub fn hold_tag_beside(node: &str, interface: &str, tci: u16) -> Result<Attached> {
    const VLAN_PUSH: i32 = 18; // bpf_skb_vlan_push(skb, protocol, tci), bpf-helpers(7)
    let program = [
        instruction(0xb7, 2, 0, i32::from(0x8100_u16.to_be())), // r2 = htons(0x8100)
        instruction(0xb7, 3, 0, i32::from(tci)),                // r3 = tci
        instruction(0x85, 0, 0, VLAN_PUSH),                     // call
        instruction(0xb7, 0, 0, 0),                             // r0 = TC_ACT_OK
        instruction(0x95, 0, 0, 0),                             // exit
    ];
    let (node, name) = (node.to_owned(), interface.to_owned());
    let attached = std::thread::spawn(move || -> Result<Attached> {
        crate::raw::enter_network(&node)?;
        attach(&name, &program, PROG_TYPE_SCHED_CLS, ATTACH_TCX_EGRESS, 0)
    });
    match attached.join() {
        Ok(result) => result.with_context(|| format!("tc program on {interface}")),
        Err(_) => bail!("attaching to {interface} panicked"),
    }
}

/// An XDP program of somebody else's on `interface`, in generic mode; it passes everything on.
pub fn xdp_in_the_way(interface: &str) -> Result<Attached> {
    let program = [instruction(0xb7, 0, 0, 2), instruction(0x95, 0, 0, 0)]; // return XDP_PASS
    attach(interface, &program, PROG_TYPE_XDP, ATTACH_XDP, XDP_FLAGS_SKB_MODE)
        .with_context(|| format!("XDP program on {interface}"))
}

fn attach(interface: &str, code: &[u64], kind: u32, at: u32, flags: u32) -> Result<Attached> {
    let name = std::ffi::CString::new(interface)?;
    // SAFETY: a NUL-terminated string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        bail!("no interface {interface}");
    }
    let program = load(code, kind).context("loading")?;
    // struct { prog_fd, target_ifindex, attach_type, flags } of union bpf_attr, zeroes behind it
    let mut attr = [0_u32; 16];
    attr[..4].copy_from_slice(&[program.as_raw_fd() as u32, index, at, flags]);
    let link = bpf(LINK_CREATE, &attr).context("attaching")?;
    Ok(Attached { _program: program, _link: link })
}

fn load(code: &[u64], kind: u32) -> io::Result<OwnedFd> {
    let licence = c"GPL";
    // struct { prog_type, insn_cnt, insns, license, ... } of union bpf_attr
    let mut attr = [0_u64; 16];
    attr[0] = u64::from(kind) | (code.len() as u64) << 32;
    attr[1] = code.as_ptr() as u64;
    attr[2] = licence.as_ptr() as u64;
    bpf(PROG_LOAD, &attr)
}

fn bpf<T>(command: i64, attr: &[T]) -> io::Result<OwnedFd> {
    // SAFETY: attr and what it points to outlive the call; its length is given.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(attr)) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
