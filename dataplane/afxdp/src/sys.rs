//! The system calls of AF_XDP sockets, as safe functions.
//!
//! Each function is one call with checked arguments and an `io::Result`; nothing is decided here.
//! Sources: `if_xdp.h`, the kernel's `Documentation/networking/af_xdp.rst`.
#![allow(unsafe_code)] // System calls.

use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

use libc::{c_int, c_void};

/// How many frames one `sendto` may move in copy mode (`XDP_MAX_TX_SKB_BUDGET`, kernel 6.17).
pub(crate) const XDP_MAX_TX_SKB_BUDGET: c_int = 9;

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A new AF_XDP socket.
pub(crate) fn socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the result is checked.
    let fd = check(unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Types whose bytes the kernel may read or write as they are.
///
/// # Safety
/// Every bit pattern is a value of the type, and it has no padding that must not be read.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: integers.
unsafe impl Plain for u32 {}
// SAFETY: integers.
unsafe impl Plain for i32 {}
// SAFETY: integers only, no padding: 2 x u64 and 4 x u32.
unsafe impl Plain for libc::xdp_umem_reg {}
// SAFETY: u64 only.
unsafe impl Plain for libc::xdp_mmap_offsets {}
// SAFETY: u64 only.
unsafe impl Plain for libc::xdp_statistics {}
// SAFETY: one u32.
unsafe impl Plain for libc::xdp_options {}

/// Set an option of level `SOL_XDP`.
pub(crate) fn set<T: Plain>(fd: BorrowedFd<'_>, name: c_int, value: &T) -> io::Result<()> {
    // SAFETY: value is a live T of that size.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_XDP,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as u32,
        )
    })?;
    Ok(())
}

/// Read an option. The kernel may know fewer fields than `T` has: those stay as in `value`.
pub(crate) fn get<T: Plain>(
    fd: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    mut value: T,
) -> io::Result<T> {
    let mut len = size_of::<T>() as u32;
    // SAFETY: value is a live T of `len` bytes, any bytes make a T.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_mut(&mut value).cast(),
            &mut len,
        )
    })?;
    Ok(value)
}

/// Bind to a queue of an interface.
pub(crate) fn bind(fd: BorrowedFd<'_>, ifindex: u32, queue: u32, flags: u16) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: ifindex,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: 0,
    };
    // SAFETY: a live sockaddr of that size.
    check(unsafe {
        libc::bind(
            fd.as_raw_fd(),
            std::ptr::from_ref(&address).cast(),
            size_of::<libc::sockaddr_xdp>() as u32,
        )
    })?;
    Ok(())
}

/// Ask the kernel to look at the TX ring. `Err` with the errno.
#[inline]
pub(crate) fn kick_tx(fd: BorrowedFd<'_>) -> Result<(), c_int> {
    // SAFETY: a send of no bytes to no address.
    let r = unsafe {
        libc::sendto(fd.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0)
    };
    if r < 0 { Err(errno()) } else { Ok(()) }
}

/// Ask the kernel to look at the fill ring. `Err` with the errno.
#[inline]
pub(crate) fn kick_rx(fd: BorrowedFd<'_>) -> Result<(), c_int> {
    let null = std::ptr::null_mut::<c_void>();
    // SAFETY: a receive of no bytes, without an address.
    let r = unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            null,
            0,
            libc::MSG_DONTWAIT,
            null.cast(),
            std::ptr::null_mut(),
        )
    };
    if r < 0 { Err(errno()) } else { Ok(()) }
}

fn errno() -> c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// A shared mapping of a part of a file, unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is plain memory of the process; access to it is its user's matter.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Map `len` bytes at `offset` of the descriptor, readable and writable.
    pub(crate) fn new(fd: BorrowedFd<'_>, len: usize, offset: i64) -> io::Result<Mapping> {
        // SAFETY: a new mapping at an address the kernel picks.
        let p = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                fd.as_raw_fd(),
                offset,
            )
        };
        if p == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(p.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Mapping { base, len })
    }

    /// Memory of no file.
    pub(crate) fn anonymous(len: usize) -> io::Result<Mapping> {
        let (prot, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address the kernel picks.
        let p = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) };
        if p == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(p.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Mapping { base, len })
    }

    /// The first byte.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes mapped.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` and is unmapped once.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// The name of an interface in the thread's network namespace, or `interface N`.
pub(crate) fn interface_name(ifindex: u32) -> String {
    let mut name = [0u8; libc::IF_NAMESIZE];
    // SAFETY: the buffer has IF_NAMESIZE bytes.
    let found = unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr().cast()) };
    if found.is_null() {
        return format!("interface {ifindex}");
    }
    match CStr::from_bytes_until_nul(&name) {
        Ok(name) => name.to_string_lossy().into_owned(),
        Err(_) => format!("interface {ifindex}"),
    }
}

/// The index of an interface of the thread's network namespace.
pub(crate) fn interface_index(name: &str) -> io::Result<u32> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: a NUL-terminated name.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// A netlink socket of that protocol. Needs no bind or address: requests go to the kernel.
pub(crate) fn netlink(protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the result is checked.
    let fd = check(unsafe {
        libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol)
    })?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether a device stands behind the interface (in the thread's mount's sysfs).
pub(crate) fn is_hardware(ifindex: u32) -> bool {
    let name = interface_name(ifindex);
    std::path::Path::new("/sys/class/net").join(name).join("device").exists()
}

/// Whether the interface takes VLAN tags out of received frames (`ethtool -K ... rxvlan`).
pub(crate) fn strips_vlan(ifindex: u32) -> io::Result<bool> {
    const ETHTOOL_GFLAGS: u32 = 0x25;
    const ETH_FLAG_RXVLAN: u32 = 1 << 8;
    #[repr(C)]
    struct Value {
        cmd: u32,
        data: u32,
    }
    let mut value = Value { cmd: ETHTOOL_GFLAGS, data: 0 };
    // SAFETY: zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: ifr_name has IF_NAMESIZE bytes.
    let found = unsafe { libc::if_indextoname(ifindex, request.ifr_name.as_mut_ptr()) };
    if found.is_null() {
        return Err(io::Error::last_os_error());
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut value).cast();
    // SAFETY: no pointers; the result is checked.
    let fd =
        check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: an ethtool request whose data is a live ethtool_value.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCETHTOOL as _, &mut request) })?;
    Ok(value.data & ETH_FLAG_RXVLAN != 0)
}
