//! A fast traffic source on veth: BPF_PROG_TEST_RUN with live frames of an XDP program that writes a
//! random UDP source port and redirects to an interface (Documentation/bpf/bpf_prog_run.rst). The
//! interface's peer must have native XDP attached or GRO on, or the frames vanish.
//!
//! Also the program that drops whatever arrives, for the sink.
#![allow(unsafe_code)] // the bpf system call

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

const PROG_LOAD: i64 = 5;
const PROG_TEST_RUN: i64 = 10;
const LINK_CREATE: i64 = 28;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const XDP_FLAGS_DRV_MODE: u32 = 4;
const LIVE_FRAMES: u32 = 2;
/// Frames in one call of the kernel, which takes about a second: a call begins and ends with a wait for a
/// grace period, in which nothing is sent.
const REPEAT: u32 = 1 << 22;
/// The same where only a few are wanted.
const SHORT: u32 = 1 << 16;
const BATCH: u32 = 64;

/// One instruction: opcode, registers, offset, immediate.
const fn instruction(op: u8, dst: u8, src: u8, offset: i16, imm: i32) -> u64 {
    let registers = (src << 4 | dst) as u64;
    op as u64 | registers << 8 | (offset as u16 as u64) << 16 | (imm as u32 as u64) << 32
}

/// What differs between the frames.
#[derive(Debug, Clone, Copy)]
pub enum Vary {
    /// One of so many UDP source ports, a power of two up to 32,768.
    Ports(u32),
    /// A random UDP source port and lower half of the IPv4 source address: each frame is a connection of
    /// its own. The identifier takes the address up, so that the header's checksum stays right; it is
    /// 0xffff and the half is 0 in the frame that is given.
    Connections,
}

const RANDOM: i32 = 7; // bpf_get_prandom_u32
const REDIRECT: i32 = 23; // bpf_redirect

/// Write what differs into a frame whose first bytes are at r2, with the context in r6 and a random number
/// in r7. The kernel uses a frame's memory again as it was left: who forwards it has written its own
/// addresses, time to live and checksum into it.
fn changes(vary: Vary, frame: &[u8]) -> Vec<u64> {
    let byte = |at: usize| i32::from(frame.get(at).copied().unwrap_or_default());
    let half = |at: usize| byte(at) | byte(at + 1) << 8;
    match vary {
        Vary::Ports(flows) => vec![
            instruction(0x57, 7, 0, 0, flows as i32 - 1), // r7 &= flows - 1
            instruction(0x07, 7, 0, 0, 0x400),            // r7 += 1024
            instruction(0xdc, 7, 0, 0, 16),               // r7 = htons(r7)
            instruction(0x6b, 2, 7, 34, 0),               // *(u16 *)(data + 34) = r7
        ],
        Vary::Connections => vec![
            instruction(0x62, 2, 0, 0, half(0) | half(2) << 16), // the first four bytes
            instruction(0x6a, 2, 0, 4, half(4)),                 // and the next two
            instruction(0x72, 2, 0, 22, byte(22)),               // time to live
            instruction(0x6a, 2, 0, 24, half(24)),               // checksum of the header
            instruction(0x6b, 2, 7, 28, 0),                      // *(u16 *)(data + 28) = r7
            instruction(0xa7, 7, 0, 0, 0xffff),                  // r7 ^= 0xffff
            instruction(0x6b, 2, 7, 18, 0),                      // *(u16 *)(data + 18) = r7
            instruction(0x77, 7, 0, 0, 16),                      // r7 >>= 16
            instruction(0x47, 7, 0, 0, 0x0004),                  // r7 |= htons(1024)
            instruction(0x6b, 2, 7, 34, 0),                      // *(u16 *)(data + 34) = r7
        ],
    }
}

/// Redirect to `interface` what differs.
fn program(interface: u32, vary: Vary, frame: &[u8]) -> Vec<u64> {
    let changes = changes(vary, frame);
    let mut program = vec![
        instruction(0xbf, 6, 1, 0, 0),                    // r6 = r1 (context)
        instruction(0x85, 0, 0, 0, RANDOM),               // r0 = random
        instruction(0xbf, 7, 0, 0, 0),                    // r7 = r0
        instruction(0x61, 2, 6, 0, 0),                    // r2 = data
        instruction(0x61, 3, 6, 4, 0),                    // r3 = data_end
        instruction(0xbf, 4, 2, 0, 0),                    // r4 = r2
        instruction(0x07, 4, 0, 0, 38),                   // r4 += 38
        instruction(0x2d, 4, 3, changes.len() as i16, 0), // if r4 > r3 skip the changes
    ];
    program.extend(changes);
    program.extend([
        instruction(0xb7, 1, 0, 0, interface as i32), // r1 = interface
        instruction(0xb7, 2, 0, 0, 0),                // r2 = 0
        instruction(0x85, 0, 0, 0, REDIRECT),         // r0 = redirect
        instruction(0x95, 0, 0, 0, 0),                // exit
    ]);
    program
}

/// Send `frame` from `interface` of namespace `node` for at least `span` (one short call if that is zero),
/// as fast as the kernel can. Returns how many were made, and in how long.
pub fn flood(
    node: &str,
    interface: &str,
    frame: &[u8],
    vary: Vary,
    span: Duration,
) -> Result<(u64, Duration)> {
    if let Vary::Ports(flows) = vary {
        ensure!(
            flows.is_power_of_two() && flows <= 32_768,
            "{flows} flows: a power of two to 32,768"
        );
    }
    let (interface, frame) = (interface.to_owned(), frame.to_vec());
    inside(node, move || {
        let program = load(&program(index(&interface)?, vary, &frame)).context("loading")?;
        let start = Instant::now();
        let repeat = if span.is_zero() { SHORT } else { REPEAT };
        let mut made = 0;
        loop {
            run(&program, &frame, repeat).context("BPF_PROG_TEST_RUN with live frames")?;
            made += u64::from(repeat);
            if start.elapsed() >= span {
                return Ok((made, start.elapsed()));
            }
        }
    })
}

/// A program in the driver of an interface that drops everything. Detached when dropped.
#[derive(Debug)]
pub struct Drain {
    _program: OwnedFd,
    _link: OwnedFd,
}

/// Let `interface` of namespace `node` drop what arrives.
pub fn drain(node: &str, interface: &str) -> Result<Drain> {
    let interface = interface.to_owned();
    inside(node, move || {
        let program = load(&[instruction(0xb7, 0, 0, 0, 1), instruction(0x95, 0, 0, 0, 0)])?;
        let mut attr = [0_u32; 16];
        let fd = program.as_raw_fd() as u32;
        attr[..4].copy_from_slice(&[fd, index(&interface)?, ATTACH_XDP, XDP_FLAGS_DRV_MODE]);
        let link = owned(bpf(LINK_CREATE, &mut attr)?);
        Ok(Drain { _program: program, _link: link })
    })
    .context("attaching the program that drops")
}

/// Do something in another network namespace, on a thread of its own.
fn inside<T: Send + 'static>(
    node: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let name = node.to_owned();
    let thread = std::thread::spawn(move || {
        e2e::raw::enter_network(&name)?;
        work()
    });
    match thread.join() {
        Ok(result) => result,
        Err(_) => bail!("a thread in namespace {node} panicked"),
    }
}

fn index(interface: &str) -> Result<u32> {
    let name = std::ffi::CString::new(interface)?;
    // SAFETY: a NUL-terminated string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    ensure!(index != 0, "no interface {interface}");
    Ok(index)
}

fn load(code: &[u64]) -> io::Result<OwnedFd> {
    let licence = c"GPL";
    let mut attr = [0_u64; 16];
    attr[0] = u64::from(PROG_TYPE_XDP) | (code.len() as u64) << 32;
    attr[1] = code.as_ptr() as u64;
    attr[2] = licence.as_ptr() as u64;
    Ok(owned(bpf(PROG_LOAD, &mut attr)?))
}

fn run(program: &OwnedFd, frame: &[u8], repeat: u32) -> io::Result<()> {
    // struct { prog_fd, retval, data_size_in, data_size_out, data_in, data_out, repeat, duration,
    // ctx_size_in, ctx_size_out, ctx_in, ctx_out, flags, cpu, batch_size } of union bpf_attr
    let mut attr = [0_u64; 10];
    attr[0] = program.as_raw_fd() as u64;
    attr[1] = frame.len() as u64;
    attr[2] = frame.as_ptr() as u64;
    attr[4] = u64::from(repeat);
    attr[8] = u64::from(LIVE_FRAMES);
    attr[9] = u64::from(BATCH);
    bpf(PROG_TEST_RUN, &mut attr)?;
    Ok(())
}

fn bpf<T>(command: i64, attr: &mut [T]) -> io::Result<i32> {
    // SAFETY: attr and what it points to outlive the call; its length is given.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), std::mem::size_of_val(attr))
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as i32)
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: called only with a new descriptor from the kernel that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
