//! A packet socket: frames out as given, frames in as they were on the wire.
//!
//! The kernel takes the outer VLAN tag of a received frame out of its bytes and reports it beside them
//! (PACKET_AUXDATA, packet(7)); [`Raw`] puts it back, so that what a test sees is what arrived.
#![allow(unsafe_code)] // socket calls on sockaddr_ll and control messages, which no safe wrapper has

use std::fs::File;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::frame::has_mark;

/// A socket that sends to and receives from one interface.
#[derive(Debug)]
pub struct Raw {
    fd: OwnedFd,
}

/// Longest frame received whole.
const MAX_FRAME: usize = 65_600;

impl Raw {
    /// Open on `interface` in network namespace `node`, or in the own one.
    pub fn open(node: Option<&str>, interface: &str) -> Result<Self> {
        let (node, name) = (node.map(str::to_owned), interface.to_owned());
        // Only the thread that opens the socket enters the namespace; the socket stays in it.
        let opened = std::thread::spawn(move || -> Result<Self> {
            if let Some(node) = node {
                enter_network(&node)?;
            }
            Self::open_here(&name)
        });
        match opened.join() {
            Ok(result) => result.with_context(|| format!("packet socket on {interface}")),
            Err(_) => bail!("opening a packet socket on {interface} panicked"),
        }
    }

    fn open_here(interface: &str) -> Result<Self> {
        let all = libc::c_int::from((libc::ETH_P_ALL as u16).to_be());
        // SAFETY: no pointers.
        let fd = check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, all) })?;
        // SAFETY: just made, owned by nobody else.
        let raw = Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } };
        for option in [libc::PACKET_AUXDATA, libc::PACKET_IGNORE_OUTGOING] {
            raw.set(libc::SOL_PACKET, option, 1)?;
        }
        raw.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20)?;
        let name = std::ffi::CString::new(interface)?;
        // SAFETY: a NUL-terminated string that outlives the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            bail!("no interface {interface}");
        }
        // SAFETY: sockaddr_ll is plain data for which zeroes are valid.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index as i32;
        // SAFETY: a valid address of the length said.
        check(unsafe {
            libc::bind(
                fd,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        })?;
        Ok(raw)
    }

    fn set(&self, level: i32, option: i32, value: i32) -> Result<()> {
        // SAFETY: value outlives the call and has the length said.
        check(unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                size_of::<i32>() as libc::socklen_t,
            )
        })?;
        Ok(())
    }

    /// Send one frame exactly as given.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        self.try_send(frame).with_context(|| format!("sending a frame of {} bytes", frame.len()))
    }

    /// Send one frame; the kernel's answer when it refuses it (shorter than 14 bytes, over the MTU).
    pub fn try_send(&self, frame: &[u8]) -> io::Result<()> {
        loop {
            // SAFETY: frame outlives the call.
            let sent =
                unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
            if sent >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                // The interface's queue is full: its driver will make room.
                Some(libc::ENOBUFS | libc::EAGAIN) => std::thread::sleep(Duration::from_micros(50)),
                _ => return Err(error),
            }
        }
    }

    /// The next frame within `limit`, as it was on the wire.
    pub fn receive(&self, limit: Duration) -> Result<Option<Vec<u8>>> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let mut poll =
                libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            let ms = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
            // SAFETY: one pollfd that outlives the call.
            let ready = check(unsafe { libc::poll(&mut poll, 1, ms) })?;
            if ready == 0 {
                return Ok(None);
            }
            if let Some(frame) = self.read()? {
                return Ok(Some(frame));
            }
        }
    }

    fn read(&self) -> Result<Option<Vec<u8>>> {
        let mut data = vec![0_u8; MAX_FRAME];
        let mut control = [0_u64; 16];
        let mut part = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
        // SAFETY: msghdr is plain data for which zeroes are valid.
        let mut message: libc::msghdr = unsafe { zeroed() };
        message.msg_iov = &mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: all pointers of the message are to live buffers of the lengths said.
        let got = unsafe { libc::recvmsg(self.fd.as_raw_fd(), &mut message, libc::MSG_DONTWAIT) };
        if got < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                // ENETDOWN is said once when the interface goes down.
                Some(libc::EAGAIN | libc::ENETDOWN) => Ok(None),
                _ => Err(error.into()),
            };
        }
        data.truncate(got as usize);
        if let Some((tpid, tci)) = beside(&message) {
            let mut tag = tpid.to_be_bytes().to_vec();
            tag.extend(tci.to_be_bytes());
            let at = data.len().min(12);
            data.splice(at..at, tag);
        }
        Ok(Some(data))
    }

    /// All frames until one comes that carries `mark`, that one last. Fails when it does not come soon.
    pub fn until_mark(&self, mark: &str) -> Result<Vec<Vec<u8>>> {
        let end = Instant::now() + crate::wait::SOON;
        let mut frames = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Some(frame) = self.receive(left)? else {
                bail!("no frame with the mark {mark} came; {} others did", frames.len());
            };
            let found = has_mark(&frame, mark);
            frames.push(frame);
            if found {
                return Ok(frames);
            }
        }
    }

    /// The frame that carries `mark`. Fails when it does not come soon.
    pub fn expect(&self, mark: &str) -> Result<Vec<u8>> {
        Ok(self.until_mark(mark)?.pop().unwrap_or_default())
    }

    /// Throw away what has arrived so far.
    pub fn drain(&self) -> Result<()> {
        while self.receive(Duration::ZERO)?.is_some() {}
        Ok(())
    }
}

/// Move the calling thread into the network namespace named `node`.
pub fn enter_network(node: &str) -> Result<()> {
    let path = format!("/run/netns/{node}");
    let file = File::open(&path).with_context(|| path.clone())?;
    let network = Some(rustix::thread::LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), network)
        .with_context(|| format!("entering namespace {node}"))
}

/// The VLAN tag that the kernel reports beside a received frame: (TPID, TCI).
fn beside(message: &libc::msghdr) -> Option<(u16, u16)> {
    // SAFETY: the kernel filled the control buffer of this message, and it is still alive.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: not null, so it points to a whole header inside the control buffer.
        let (level, kind) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
        if level == libc::SOL_PACKET && kind == libc::PACKET_AUXDATA {
            // SAFETY: a message of this kind carries a tpacket_auxdata, possibly unaligned.
            let data: libc::tpacket_auxdata =
                unsafe { libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>().read_unaligned() };
            if data.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                let tpid = if data.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0 {
                    data.tp_vlan_tpid
                } else {
                    0x8100
                };
                return Some((tpid, data.tp_vlan_tci));
            }
        }
        // SAFETY: header is a valid header of this message.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    None
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
