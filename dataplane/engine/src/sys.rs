//! The system calls of a worker: eventfd, epoll, poll.
#![allow(unsafe_code)] // Thin wrappers over system calls.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

fn owned(fd: libc::c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened fd, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor that one thread signals and another waits on.
pub fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    owned(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })
}

/// Signal an eventfd.
pub fn eventfd_signal(fd: &OwnedFd) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: the buffer is eight readable bytes. A full counter is a pending signal already.
    unsafe { libc::write(fd.as_raw_fd(), one.as_ptr().cast(), 8) };
}

/// Take all signals off an eventfd.
pub fn eventfd_clear(fd: &OwnedFd) {
    let mut buf = [0u8; 8];
    // SAFETY: the buffer is eight writable bytes.
    unsafe { libc::read(fd.as_raw_fd(), buf.as_mut_ptr().cast(), 8) };
}

/// An epoll set of descriptors to read from.
pub struct Poller {
    fd: OwnedFd,
    ready: Vec<libc::epoll_event>,
}

impl Poller {
    /// An empty set.
    pub fn new() -> io::Result<Poller> {
        // SAFETY: no pointers.
        let fd = owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        Ok(Poller { fd, ready: vec![libc::epoll_event { events: 0, u64: 0 }; 64] })
    }

    /// The set's own descriptor: readable when one of its descriptors is.
    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Watch a descriptor, under a number of the caller's.
    pub fn add(&self, fd: RawFd, token: u64) -> io::Result<()> {
        let mut e = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token };
        // SAFETY: e is valid for the call.
        let r = unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut e) };
        if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Stop watching a descriptor; nothing happens if it was not watched.
    pub fn remove(&self, fd: RawFd) {
        // SAFETY: no event is needed for DEL.
        unsafe {
            libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut())
        };
    }

    /// Wait up to `ms` milliseconds (-1: for ever); the numbers of the descriptors that are ready.
    pub fn wait(&mut self, ms: i32) -> impl Iterator<Item = u64> + '_ {
        let n = self.ready.len() as libc::c_int;
        // SAFETY: `ready` has room for n events.
        let got = unsafe { libc::epoll_wait(self.fd.as_raw_fd(), self.ready.as_mut_ptr(), n, ms) };
        // An error is EINTR: as if nothing were ready.
        self.ready[..got.max(0) as usize].iter().map(|e| e.u64)
    }
}

/// Descriptors to read from that the kernel knows of only while somebody waits.
#[derive(Default)]
pub struct PollSet {
    fds: Vec<libc::pollfd>,
}

impl PollSet {
    /// Watch a descriptor.
    pub fn add(&mut self, fd: RawFd) {
        self.fds.push(libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    }

    /// Stop watching a descriptor; nothing happens if it was not watched.
    pub fn remove(&mut self, fd: RawFd) {
        self.fds.retain(|p| p.fd != fd);
    }

    /// Wait up to `ms` milliseconds (-1: for ever) until one is readable, or has an error.
    pub fn wait(&mut self, ms: i32) {
        // SAFETY: the descriptors are an array of that length. An error is EINTR: as if one were readable.
        unsafe { libc::poll(self.fds.as_mut_ptr(), self.fds.len() as libc::nfds_t, ms) };
    }
}
