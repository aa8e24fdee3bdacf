//! bpf(2) for XDP: maps, programs, links, test runs.
//!
//! Each function is one command with checked arguments. Descriptors close themselves; closing a
//! link's last descriptor detaches its program, so nothing stays behind a dead process.
//! Sources: `bpf(2)`, `linux/bpf.h`.
#![allow(unsafe_code)] // The system call takes addresses in integers.

pub mod btf;

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const MAP_CREATE: i32 = 0;
const MAP_UPDATE_ELEM: i32 = 2;
const MAP_DELETE_ELEM: i32 = 3;
const PROG_LOAD: i32 = 5;
const PROG_TEST_RUN: i32 = 10;
const OBJ_GET_INFO_BY_FD: i32 = 15;
const LINK_CREATE: i32 = 28;

/// A map of AF_XDP sockets.
pub const MAP_TYPE_XSKMAP: u32 = 17;
/// A hash map.
pub const MAP_TYPE_HASH: u32 = 1;
/// A hash map that forgets the least used entry when it is full.
pub const MAP_TYPE_LRU_HASH: u32 = 9;
/// Bytes of a hash map's key at most.
const LONGEST_KEY: usize = 64;
/// A traffic-control classifier.
pub const PROG_TYPE_SCHED_CLS: u32 = 3;
/// An XDP program.
pub const PROG_TYPE_XDP: u32 = 6;
/// Attach an XDP program.
pub const ATTACH_XDP: u32 = 37;
/// Attach a classifier to what an interface receives (kernel 6.6).
pub const ATTACH_TCX_INGRESS: u32 = 46;
/// Attach a classifier to what an interface sends (kernel 6.6).
pub const ATTACH_TCX_EGRESS: u32 = 47;

/// The program takes frames of several buffers.
const F_XDP_HAS_FRAGS: u32 = 1 << 5;
/// The program is loaded for one device and may ask its driver for metadata.
const F_XDP_DEV_BOUND_ONLY: u32 = 1 << 6;

/// Run in the driver.
pub const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
/// Run in the kernel's generic receive path.
pub const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;

/// Where the verifier's log is cut.
const LOG_BYTES: usize = 64 << 10;
/// Lines of the log's end that an error shows.
const LOG_LINES: usize = 6;

/// Memory that holds a command's attributes: integers only, every byte defined.
///
/// # Safety
/// `repr(C)` without padding, and every address in it is valid for what the command does.
unsafe trait Attr {}

fn bpf<A: Attr>(command: i32, attr: &mut A) -> io::Result<i32> {
    // SAFETY: attr is a live A of that size, whose addresses are valid as the trait demands.
    let r = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>() as u32)
    };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r as i32) }
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: a descriptor that the kernel has just made for this process.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// The first 15 bytes of a name, as the kernel keeps it.
fn short_name(name: &str) -> [u8; 16] {
    let mut out = [0; 16];
    let n = name.len().min(15);
    out[..n].copy_from_slice(&name.as_bytes()[..n]);
    out
}

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
    map_ifindex: u32,
}
// SAFETY: integers, no padding, no addresses.
unsafe impl Attr for MapCreate {}

/// Create a map with keys and values of 4 bytes.
///
/// # Errors
/// What bpf(2) answered.
pub fn create_map(map_type: u32, entries: u32, name: &str) -> io::Result<OwnedFd> {
    create(map_type, 4, entries, name)
}

/// Create a map with keys of `key` bytes (64 at most) and values of 4: [`MAP_TYPE_HASH`] or
/// [`MAP_TYPE_LRU_HASH`].
///
/// # Errors
/// What bpf(2) answered.
pub fn create_hash(map_type: u32, key: usize, entries: u32, name: &str) -> io::Result<OwnedFd> {
    if key > LONGEST_KEY {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    create(map_type, key as u32, entries, name)
}

fn create(map_type: u32, key_size: u32, entries: u32, name: &str) -> io::Result<OwnedFd> {
    let mut attr = MapCreate {
        map_type,
        key_size,
        value_size: 4,
        max_entries: entries,
        map_flags: 0,
        inner_map_fd: 0,
        numa_node: 0,
        map_name: short_name(name),
        map_ifindex: 0,
    };
    bpf(MAP_CREATE, &mut attr).map(owned)
}

#[repr(C)]
struct MapElem {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}
// SAFETY: no padding; made only below, where key and value point to 64 live bytes and the map is
// one of those made here.
unsafe impl Attr for MapElem {}

/// Set an entry of a map made by [`create_map`].
///
/// # Errors
/// What bpf(2) answered.
pub fn update(map: BorrowedFd<'_>, key: u32, value: u32) -> io::Result<()> {
    set(map, &wide(key), value)
}

/// Set an entry of a map made by [`create_hash`].
///
/// # Errors
/// What bpf(2) answered: E2BIG if it is full.
pub fn update_hash(map: BorrowedFd<'_>, key: &[u8], value: u32) -> io::Result<()> {
    set(map, &wide_key(key)?, value)
}

/// Remove an entry of a map made by [`create_hash`].
///
/// # Errors
/// What bpf(2) answered: ENOENT if there is none.
pub fn delete_hash(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<()> {
    unset(map, &wide_key(key)?)
}

/// Room for a key of any length that a map may have.
fn wide_key(key: &[u8]) -> io::Result<[u32; 16]> {
    let mut bytes = [0; LONGEST_KEY];
    bytes.get_mut(..key.len()).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(key);
    let mut room = [0; 16];
    for (to, from) in room.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *to = u32::from_ne_bytes(*from);
    }
    Ok(room)
}

fn set(map: BorrowedFd<'_>, key: &[u32; 16], value: u32) -> io::Result<()> {
    let value = wide(value);
    let mut attr = MapElem {
        map_fd: map.as_raw_fd() as u32,
        pad: 0,
        key: key.as_ptr() as u64,
        value: value.as_ptr() as u64,
        flags: 0,
    };
    bpf(MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Remove an entry of a map made by [`create_map`].
///
/// # Errors
/// What bpf(2) answered: ENOENT if there is none.
pub fn delete(map: BorrowedFd<'_>, key: u32) -> io::Result<()> {
    unset(map, &wide(key))
}

fn unset(map: BorrowedFd<'_>, key: &[u32; 16]) -> io::Result<()> {
    let mut attr = MapElem {
        map_fd: map.as_raw_fd() as u32,
        pad: 0,
        key: key.as_ptr() as u64,
        value: 0,
        flags: 0,
    };
    bpf(MAP_DELETE_ELEM, &mut attr).map(drop)
}

/// Room for whatever sizes the map really has, if it is none of ours.
fn wide(value: u32) -> [u32; 16] {
    let mut out = [0; 16];
    out[0] = value;
    out
}

/// What to load.
#[derive(Clone, Copy, Debug)]
pub struct Load<'a> {
    /// [`PROG_TYPE_XDP`] or [`PROG_TYPE_SCHED_CLS`].
    pub program_type: u32,
    /// The linked instructions.
    pub slots: &'a [[u8; 8]],
    /// Name shown by the kernel, at most 15 bytes.
    pub name: &'a str,
    /// XDP: takes frames of several buffers.
    pub frags: bool,
    /// XDP: may ask this interface's driver for metadata, and runs on it only.
    pub bound_to: Option<u32>,
}

#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}
// SAFETY: no padding; made only in `load`, where the addresses are those of live slices and the
// sizes theirs.
unsafe impl Attr for ProgLoad {}

/// Load a program.
///
/// # Errors
/// What bpf(2) answered, and the end of the verifier's log (empty if it said nothing).
pub fn load(what: &Load<'_>) -> Result<OwnedFd, (io::Error, String)> {
    let license = std::ffi::CString::new(xdp_progs::LICENSE).unwrap_or_default();
    let xdp = what.program_type == PROG_TYPE_XDP;
    let mut attr = ProgLoad {
        prog_type: what.program_type,
        insn_cnt: what.slots.len() as u32,
        insns: what.slots.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name: short_name(what.name),
        prog_ifindex: what.bound_to.unwrap_or(0),
        expected_attach_type: if xdp { ATTACH_XDP } else { 0 },
    };
    if what.frags {
        attr.prog_flags |= F_XDP_HAS_FRAGS;
    }
    if what.bound_to.is_some() {
        attr.prog_flags |= F_XDP_DEV_BOUND_ONLY;
    }
    let first = match bpf(PROG_LOAD, &mut attr) {
        Ok(fd) => return Ok(owned(fd)),
        Err(e) => e,
    };
    // Once more, for what the verifier has to say.
    let mut log = vec![0u8; LOG_BYTES];
    attr.log_level = 1;
    attr.log_size = LOG_BYTES as u32;
    attr.log_buf = log.as_mut_ptr() as u64;
    match bpf(PROG_LOAD, &mut attr) {
        Ok(fd) => Ok(owned(fd)),
        Err(_) => Err((first, tail(&log))),
    }
}

/// The last lines of a log, joined.
fn tail(log: &[u8]) -> String {
    let end = log.iter().position(|b| *b == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[..end]);
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("; ")
}

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}
// SAFETY: integers, no padding, no addresses.
unsafe impl Attr for LinkCreate {}

/// Attach a program to an interface, as long as the returned link is open. `attach_type` is
/// [`ATTACH_XDP`] with an XDP mode in `flags`, or [`ATTACH_TCX_INGRESS`] or [`ATTACH_TCX_EGRESS`]
/// with none.
///
/// # Errors
/// What bpf(2) answered: EBUSY and EEXIST where there is an XDP program already.
pub fn attach(
    program: BorrowedFd<'_>,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let mut attr = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target_ifindex: ifindex,
        attach_type,
        flags,
    };
    bpf(LINK_CREATE, &mut attr).map(owned)
}

#[repr(C)]
struct GetInfo {
    fd: u32,
    info_len: u32,
    info: u64,
}
// SAFETY: no padding; made only below, with the address and size of a live buffer.
unsafe impl Attr for GetInfo {}

/// The id of a loaded program, as `ip link` shows it.
///
/// # Errors
/// What bpf(2) answered.
pub fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = [0u32; 2]; // struct bpf_prog_info: type, id, ...
    let mut attr = GetInfo {
        fd: program.as_raw_fd() as u32,
        info_len: size_of_val(&info) as u32,
        info: info.as_mut_ptr() as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info[1])
}

/// `struct xdp_md` as a test run takes it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct XdpMd {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

#[repr(C)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}
// SAFETY: no padding (the last word is explicit); made only below, with the addresses and sizes of
// live buffers.
unsafe impl Attr for TestRun {}

/// Flag of a test run: frames are real, and the verdict is carried out.
const TEST_XDP_LIVE_FRAMES: u32 = 2;

impl TestRun {
    /// One run over a frame, with nothing else asked for.
    fn new(program: BorrowedFd<'_>, frame: &[u8]) -> TestRun {
        TestRun {
            prog_fd: program.as_raw_fd() as u32,
            retval: 0,
            data_size_in: frame.len() as u32,
            data_size_out: 0,
            data_in: frame.as_ptr() as u64,
            data_out: 0,
            repeat: 1,
            duration: 0,
            ctx_size_in: 0,
            ctx_size_out: 0,
            ctx_in: 0,
            ctx_out: 0,
            flags: 0,
            cpu: 0,
            batch_size: 0,
            pad: 0,
        }
    }
}

/// Run an XDP program once on a frame, as if it had been received by interface `ifindex` on
/// `queue`: its verdict and the frame afterwards.
///
/// # Errors
/// What bpf(2) answered: EINVAL for a frame under 14 bytes, a queue that the interface does not
/// have, or a program bound to a device, which cannot be run.
pub fn test_run(
    program: BorrowedFd<'_>,
    frame: &[u8],
    ifindex: u32,
    queue: u32,
) -> io::Result<(u32, Vec<u8>)> {
    let mut out = vec![0u8; frame.len() + 256];
    let ctx = XdpMd {
        data_end: frame.len() as u32,
        ingress_ifindex: ifindex,
        rx_queue_index: queue,
        ..XdpMd::default()
    };
    let mut attr = TestRun {
        data_size_out: out.len() as u32,
        data_out: out.as_mut_ptr() as u64,
        ctx_size_in: size_of::<XdpMd>() as u32,
        ctx_in: std::ptr::from_ref(&ctx) as u64,
        ..TestRun::new(program, frame)
    };
    bpf(PROG_TEST_RUN, &mut attr)?;
    out.truncate(attr.data_size_out as usize);
    Ok((attr.retval, out))
}

/// Run an XDP program on `count` copies of a frame, `batch` (1 to 256) at a time, and carry its
/// verdicts out: with a program that redirects to an interface, the fastest generator there is.
/// Returns when all are done.
///
/// # Errors
/// What bpf(2) answered; EINTR after a signal.
pub fn run_live(program: BorrowedFd<'_>, frame: &[u8], count: u32, batch: u32) -> io::Result<()> {
    let mut attr = TestRun {
        repeat: count,
        flags: TEST_XDP_LIVE_FRAMES,
        batch_size: batch,
        ..TestRun::new(program, frame)
    };
    bpf(PROG_TEST_RUN, &mut attr).map(drop)
}
