//! The ioctls of network interfaces and taps (netdevice(7), `linux/if_tun.h`,
//! `linux/ethtool.h`), each with a safe signature.
//!
//! [`NetSocket`] belongs to the network namespace of the thread that made it, whatever thread
//! uses it. Names are those of that namespace.
//!
//! Must not know: what anybody wants with an interface.
#![allow(unsafe_code)] // ioctl(2) takes untyped pointers.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::{c_char, c_short, c_ulong};

/// A hardware address.
pub type Mac = [u8; 6];

const IFNAMSIZ: usize = libc::IFNAMSIZ;
const TUNSETIFF: c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: c_ulong = 0x4004_54d0;
const TUNGETIFF: c_ulong = 0x8004_54d2;
const TUNSETVNETHDRSZ: c_ulong = 0x4004_54d8;
const TUN_F_CSUM: c_ulong = 1;
const SIOCETHTOOL: c_ulong = 0x8946;

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETH_SS_FEATURES: u32 = 4;
/// `ETH_GSTRING_LEN`.
const GSTRING: usize = 32;

fn ifreq(name: &str) -> io::Result<libc::ifreq> {
    if name.is_empty() || name.len() >= IFNAMSIZ || name.bytes().any(|b| b == 0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: ifreq is a plain C struct of integers, for which all zeroes is a value.
    let mut req: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in req.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as c_char;
    }
    Ok(req)
}

fn name_of(req: &libc::ifreq) -> String {
    let bytes: Vec<u8> = req.ifr_name.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// ioctl(2) whose argument is an interface request.
fn if_ioctl(fd: BorrowedFd<'_>, request: c_ulong, req: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: `req` is a whole, initialised ifreq, valid for reads and writes for the call; all
    // requests passed here use no more than that. Where the request follows `ifr_data`, the
    // caller (`ethtool`) has made it point to a buffer that it borrows mutably.
    match unsafe { libc::ioctl(fd.as_raw_fd(), request as _, std::ptr::from_mut(req)) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Create a tap with virtio-net headers of [`crate::vnet::LEN`] bytes that asks the kernel for
/// checksum offload only. Fails with `EBUSY` if an interface of that name exists.
pub fn tap_create(name: &str) -> io::Result<OwnedFd> {
    const IFF_TUN_EXCL: libc::c_int = 0x8000;
    // SAFETY: a NUL-terminated path; the result is checked.
    let fd = unsafe {
        libc::open(c"/dev/net/tun".as_ptr(), libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut req = ifreq(name)?;
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | IFF_TUN_EXCL;
    req.ifr_ifru.ifru_flags = flags as c_short;
    if_ioctl(fd.as_fd(), TUNSETIFF, &mut req)?;
    let len = crate::vnet::LEN as libc::c_int;
    // SAFETY: the request reads one int, which `len` is.
    if unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETVNETHDRSZ as _, &raw const len) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the request takes its flags by value.
    if unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETOFFLOAD as _, TUN_F_CSUM) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(fd)
}

/// The name that a tap has now, wherever it was moved. `EBADFD` if it is gone.
pub fn tap_name(tap: BorrowedFd<'_>) -> io::Result<String> {
    // SAFETY: all zeroes is a value of ifreq.
    let mut req: libc::ifreq = unsafe { std::mem::zeroed() };
    if_ioctl(tap, TUNGETIFF, &mut req)?;
    Ok(name_of(&req))
}

/// Set a tap's hardware address through its descriptor, wherever it was moved.
pub fn tap_set_mac(tap: BorrowedFd<'_>, mac: Mac) -> io::Result<()> {
    // SAFETY: all zeroes is a value of ifreq.
    let mut req: libc::ifreq = unsafe { std::mem::zeroed() };
    set_hwaddr(&mut req, mac);
    if_ioctl(tap, libc::SIOCSIFHWADDR as c_ulong, &mut req)
}

fn set_hwaddr(req: &mut libc::ifreq, mac: Mac) {
    const ARPHRD_ETHER: u16 = 1;
    let mut address = libc::sockaddr { sa_family: ARPHRD_ETHER, sa_data: [0; 14] };
    for (to, from) in address.sa_data.iter_mut().zip(mac) {
        *to = from as c_char;
    }
    req.ifr_ifru.ifru_hwaddr = address;
}

/// One bit set of a device's features, as [`NetSocket::features`] numbers them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// Names by bit.
    pub names: Vec<String>,
    /// Bits that can be changed.
    pub available: Vec<u32>,
    /// Bits that are on.
    pub active: Vec<u32>,
}

impl Features {
    fn bit(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|n| n == name)
    }

    /// Whether a feature is on, if the device has it.
    pub fn is_on(&self, name: &str) -> bool {
        self.bit(name).is_some_and(|b| self.active[b / 32] >> (b % 32) & 1 == 1)
    }

    /// Whether a feature can be turned on and off.
    pub fn can_change(&self, name: &str) -> bool {
        self.bit(name).is_some_and(|b| self.available[b / 32] >> (b % 32) & 1 == 1)
    }
}

/// A socket to ask and set interfaces of one network namespace with.
#[derive(Debug)]
pub struct NetSocket(OwnedFd);

impl NetSocket {
    /// A socket in this thread's network namespace.
    pub fn new() -> io::Result<NetSocket> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
        Ok(NetSocket(socket_with(
            AddressFamily::INET,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )?))
    }

    /// The interface's index; `None` if there is none of that name.
    pub fn ifindex(&self, name: &str) -> io::Result<Option<u32>> {
        let mut req = ifreq(name)?;
        match if_ioctl(self.0.as_fd(), libc::SIOCGIFINDEX as c_ulong, &mut req) {
            // SAFETY: the request wrote the index.
            Ok(()) => Ok(u32::try_from(unsafe { req.ifr_ifru.ifru_ifindex }).ok()),
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The name of the interface of that index; `None` if there is none.
    pub fn name(&self, ifindex: u32) -> io::Result<Option<String>> {
        // SAFETY: all zeroes is a value of ifreq.
        let mut req: libc::ifreq = unsafe { std::mem::zeroed() };
        req.ifr_ifru.ifru_ifindex = ifindex as libc::c_int;
        match if_ioctl(self.0.as_fd(), libc::SIOCGIFNAME as c_ulong, &mut req) {
            Ok(()) => Ok(Some(name_of(&req))),
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The interface's `IFF_*` flags (the low 16 bits).
    pub fn flags(&self, name: &str) -> io::Result<i32> {
        let mut req = ifreq(name)?;
        if_ioctl(self.0.as_fd(), libc::SIOCGIFFLAGS as c_ulong, &mut req)?;
        // SAFETY: the request wrote the flags.
        Ok(i32::from(unsafe { req.ifr_ifru.ifru_flags }) & 0xffff)
    }

    /// Turn flags on and off; the others stay.
    pub fn change_flags(&self, name: &str, on: i32, off: i32) -> io::Result<()> {
        let now = self.flags(name)?;
        let new = (now | on) & !off;
        if new == now {
            return Ok(());
        }
        let mut req = ifreq(name)?;
        req.ifr_ifru.ifru_flags = new as c_short;
        if_ioctl(self.0.as_fd(), libc::SIOCSIFFLAGS as c_ulong, &mut req)
    }

    /// The interface's MTU in bytes.
    pub fn mtu(&self, name: &str) -> io::Result<u32> {
        let mut req = ifreq(name)?;
        if_ioctl(self.0.as_fd(), libc::SIOCGIFMTU as c_ulong, &mut req)?;
        // SAFETY: the request wrote the MTU.
        Ok(unsafe { req.ifr_ifru.ifru_mtu }.unsigned_abs())
    }

    /// Set the interface's MTU in bytes.
    pub fn set_mtu(&self, name: &str, mtu: u32) -> io::Result<()> {
        let mut req = ifreq(name)?;
        req.ifr_ifru.ifru_mtu =
            libc::c_int::try_from(mtu).map_err(|_| io::ErrorKind::InvalidInput)?;
        if_ioctl(self.0.as_fd(), libc::SIOCSIFMTU as c_ulong, &mut req)
    }

    /// The interface's hardware address.
    pub fn mac(&self, name: &str) -> io::Result<Mac> {
        let mut req = ifreq(name)?;
        if_ioctl(self.0.as_fd(), libc::SIOCGIFHWADDR as c_ulong, &mut req)?;
        // SAFETY: the request wrote the address.
        let data = unsafe { req.ifr_ifru.ifru_hwaddr.sa_data };
        Ok(std::array::from_fn(|i| data[i] as u8))
    }

    /// Set the interface's hardware address.
    pub fn set_mac(&self, name: &str, mac: Mac) -> io::Result<()> {
        let mut req = ifreq(name)?;
        set_hwaddr(&mut req, mac);
        if_ioctl(self.0.as_fd(), libc::SIOCSIFHWADDR as c_ulong, &mut req)
    }

    /// One ethtool command on a buffer whose first word is the command.
    ///
    /// The kernel writes as much as the command's structure has, so each caller below sizes the
    /// buffer for its command, as `linux/ethtool.h` lays it out.
    fn ethtool(&self, name: &str, buffer: &mut [u32]) -> io::Result<()> {
        let mut req = ifreq(name)?;
        req.ifr_ifru.ifru_data = buffer.as_mut_ptr().cast();
        if_ioctl(self.0.as_fd(), SIOCETHTOOL, &mut req)
    }

    /// The name of the interface's driver (`veth`, `tun`, `mlx5_core`); empty if it says none.
    pub fn driver(&self, name: &str) -> io::Result<String> {
        let mut b = [0u32; 49]; // struct ethtool_drvinfo: 196 bytes, driver[32] at 4
        b[0] = ETHTOOL_GDRVINFO;
        match self.ethtool(name, &mut b) {
            Ok(()) => Ok(text(&b[1..9])),
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(String::new()),
            Err(e) => Err(e),
        }
    }

    /// Receive queues in use (rx and combined channels); `None` if the driver does not say.
    pub fn rx_channels(&self, name: &str) -> io::Result<Option<u32>> {
        let mut b = [0u32; 9]; // struct ethtool_channels; rx_count is word 5, combined 8
        b[0] = ETHTOOL_GCHANNELS;
        match self.ethtool(name, &mut b) {
            Ok(()) => Ok(Some(b[5].saturating_add(b[8]).max(1))),
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The interface's features.
    pub fn features(&self, name: &str) -> io::Result<Features> {
        let n = self.feature_count(name)?;
        let mut strings = vec![0u32; 3 + n * GSTRING / 4];
        strings[0] = ETHTOOL_GSTRINGS;
        strings[1] = ETH_SS_FEATURES;
        strings[2] = n as u32;
        self.ethtool(name, &mut strings)?;
        let names = strings[3..].chunks(GSTRING / 4).map(text).collect();
        // Blocks of available, requested, active, never_changed.
        let blocks = n.div_ceil(32);
        let mut b = vec![0u32; 2 + blocks * 4];
        b[0] = ETHTOOL_GFEATURES;
        b[1] = blocks as u32;
        self.ethtool(name, &mut b)?;
        let word = |i: usize| b[2..].chunks(4).map(|c| c[i]).collect();
        Ok(Features { names, available: word(0), active: word(2) })
    }

    fn feature_count(&self, name: &str) -> io::Result<usize> {
        // struct ethtool_sset_info: cmd, reserved, mask (u64), then one count.
        let mut b = [ETHTOOL_GSSET_INFO, 0, 0, 0, 0];
        let mask = (1u64 << ETH_SS_FEATURES).to_ne_bytes();
        b[2] = u32::from_ne_bytes([mask[0], mask[1], mask[2], mask[3]]);
        b[3] = u32::from_ne_bytes([mask[4], mask[5], mask[6], mask[7]]);
        self.ethtool(name, &mut b)?;
        let n = b[4] as usize;
        if n == 0 || n > 4096 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(n)
    }

    /// Turn features on or off by name. Names that the device has not are left out.
    pub fn set_features(
        &self,
        name: &str,
        features: &Features,
        changes: &[(&str, bool)],
    ) -> io::Result<()> {
        let blocks = features.active.len();
        // Blocks of valid, requested.
        let mut b = vec![0u32; 2 + blocks * 2];
        b[0] = ETHTOOL_SFEATURES;
        b[1] = blocks as u32;
        for (feature, on) in changes {
            let Some(bit) = features.bit(feature) else { continue };
            b[2 + bit / 32 * 2] |= 1 << (bit % 32);
            if *on {
                b[3 + bit / 32 * 2] |= 1 << (bit % 32);
            }
        }
        self.ethtool(name, &mut b)
    }
}

/// A NUL-padded text in words.
fn text(words: &[u32]) -> String {
    let bytes: Vec<u8> =
        words.iter().flat_map(|w| w.to_ne_bytes()).take_while(|b| *b != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Put this thread into a network namespace of its own.
#[cfg(test)]
pub fn own_network_namespace() -> io::Result<()> {
    // SAFETY: only the network namespace of this thread changes; no memory or descriptor does.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
        .map_err(Into::into)
}
