//! A network namespace for one test, and a raw socket in it.
#![allow(dead_code)]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

/// Run `body` on a thread in a network namespace of its own, which ends with it; or print why
/// that cannot be done here.
pub fn isolated(body: impl FnOnce() + Send + 'static) {
    // SAFETY: no arguments.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("skipped: network namespaces need root");
        return;
    }
    let run = std::thread::spawn(move || {
        // SAFETY: no pointers; this thread alone leaves the network namespace.
        let r = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(r, 0, "unshare: {}", std::io::Error::last_os_error());
        body();
    });
    if let Err(panic) = run.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Run a command of those words; it must succeed.
pub fn run(words: &str) {
    let mut words = words.split(' ');
    let program = words.next().unwrap();
    let args: Vec<_> = words.collect();
    let out = Command::new(program).args(&args).output();
    let out = out.unwrap_or_else(|e| panic!("{program} is needed: {e}"));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {}: {said}", args.join(" "));
}

/// A raw socket on one interface.
pub struct Wire(OwnedFd);

impl Wire {
    pub fn open(interface: &str) -> Wire {
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(protocol)) };
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        // SAFETY: just opened, and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let name = std::ffi::CString::new(interface).unwrap();
        // SAFETY: all bytes zero is a valid address.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        // SAFETY: a NUL-terminated name.
        address.sll_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) } as i32;
        let timeout = libc::timeval { tv_sec: 0, tv_usec: 100_000 };
        // SAFETY: both pointers are to values of the lengths given.
        let ok = unsafe {
            libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as u32)
                == 0
                && libc::setsockopt(
                    fd.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_RCVTIMEO,
                    (&raw const timeout).cast(),
                    size_of_val(&timeout) as u32,
                ) == 0
        };
        assert!(ok, "{}", std::io::Error::last_os_error());
        Wire(fd)
    }

    pub fn send(&self, frame: &[u8]) {
        // SAFETY: a pointer to that many bytes.
        let n = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(n, frame.len() as isize, "{}", std::io::Error::last_os_error());
    }

    /// The next frame; `None` if none comes for a while.
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0u8; 65_536];
        // SAFETY: a pointer to that many bytes.
        let n =
            unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        buffer.truncate(usize::try_from(n).ok()?);
        Some(buffer)
    }
}

/// Ask, and look at each frame that comes for what is `wanted`; ask again each half second.
pub fn ask<T>(
    what: &str,
    wire: &Wire,
    mut ask: impl FnMut(),
    mut wanted: impl FnMut(&[u8]) -> Option<T>,
) -> T {
    let end = Instant::now() + Duration::from_secs(30);
    while Instant::now() < end {
        ask();
        let again = Instant::now() + Duration::from_millis(500);
        while Instant::now() < again {
            if let Some(found) = wire.receive().and_then(|frame| wanted(&frame)) {
                return found;
            }
        }
    }
    panic!("not seen: {what}");
}
