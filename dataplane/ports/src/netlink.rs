//! Requests to rtnetlink(7) and what it says, as far as ports need it: links and addresses.
//!
//! Only the attributes that are needed are looked at, one by one, so that an attribute which a
//! newer kernel adds or shapes differently hides nothing else.
//!
//! Must not know: ports, what a link is used for.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::NlasIterator;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::sys::Mac;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTNLGRP_LINK: u32 = 1;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_NEW_NETNSID: u16 = 45;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTEXT_FILTER_SKIP_STATS: u32 = 8;

const HEADER: usize = 16;
/// `struct ifinfomsg`.
const LINK: usize = 16;
/// `struct ifaddrmsg`.
const ADDR: usize = 8;
/// Tries of a dump that the kernel says changed while it was made.
const DUMP_TRIES: usize = 5;
/// Bytes that the kernel may queue for a watcher before it says `ENOBUFS`.
const RECEIVE_BUFFER: u32 = 1 << 20;

/// An interface as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index in its namespace.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Set up by the administrator.
    pub up: bool,
    /// There is a signal, or what stands for one.
    pub carrier: bool,
    /// Bytes of payload in a frame at most.
    pub mtu: u32,
    /// Hardware address, if it has one of six bytes.
    pub mac: Option<Mac>,
    /// Index of the bridge or bond that it belongs to.
    pub master: Option<u32>,
    /// Receive queues that it was made with, used or not.
    pub rx_queues: u32,
}

/// What a message says about links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkMessage {
    /// It exists, as described.
    New(Link),
    /// It has left this namespace, by deletion or by a move.
    Del { ifindex: u32, moved: bool },
}

fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*b.get(at..)?.first_chunk()?))
}

fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*b.get(at..)?.first_chunk()?))
}

/// The messages of a datagram: type, flags and body.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = u32_at(datagram, 0)? as usize;
        let message = datagram.get(..len).filter(|m| m.len() >= HEADER)?;
        datagram = &datagram[len.next_multiple_of(4).min(datagram.len())..];
        Some((u16_at(message, 4)?, u16_at(message, 6)?, &message[HEADER..]))
    })
}

/// The attributes behind `skip` bytes: kind and value.
fn attributes(body: &[u8], skip: usize) -> impl Iterator<Item = (u16, Vec<u8>)> {
    let rest = body.get(skip..).unwrap_or_default();
    NlasIterator::new(rest).map_while(Result::ok).map(|a| (a.kind(), a.value().to_vec()))
}

/// What a message of the links' group says; `None` if nothing about a link of this namespace.
fn link_message(kind: u16, body: &[u8]) -> Option<LinkMessage> {
    // Bridges and others report their own view of a port under their own family.
    if *body.first()? != libc::AF_UNSPEC as u8 {
        return None;
    }
    let ifindex = u32_at(body, 4)?;
    match kind {
        RTM_NEWLINK => Some(LinkMessage::New(link(ifindex, body)?)),
        RTM_DELLINK => {
            let moved = attributes(body, LINK).any(|(k, _)| k == IFLA_NEW_NETNSID);
            Some(LinkMessage::Del { ifindex, moved })
        }
        _ => None,
    }
}

fn link(ifindex: u32, body: &[u8]) -> Option<Link> {
    const UP: u32 = libc::IFF_UP as u32;
    const LOWER_UP: u32 = 1 << 16;
    let flags = u32_at(body, 8)?;
    let mut link = Link {
        ifindex,
        name: String::new(),
        up: flags & UP != 0,
        carrier: flags & LOWER_UP != 0,
        mtu: 0,
        mac: None,
        master: None,
        rx_queues: 1,
    };
    for (kind, value) in attributes(body, LINK) {
        match kind {
            IFLA_IFNAME => {
                let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
                link.name = String::from_utf8_lossy(&value[..end]).into_owned();
            }
            IFLA_MTU => link.mtu = u32_at(&value, 0)?,
            IFLA_ADDRESS => link.mac = value.try_into().ok(),
            IFLA_MASTER => link.master = u32_at(&value, 0),
            IFLA_NUM_RX_QUEUES => link.rx_queues = u32_at(&value, 0)?.max(1),
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn address(body: &[u8], ifindex: u32) -> Option<IpAddr> {
    if u32_at(body, 4)? != ifindex {
        return None;
    }
    let mut found = None;
    for (kind, value) in attributes(body, ADDR) {
        let ip = match (i32::from(*body.first()?), kind) {
            (libc::AF_INET, IFA_LOCAL) => {
                IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?))
            }
            (libc::AF_INET6, IFA_ADDRESS) => {
                IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?))
            }
            _ => continue,
        };
        found = Some(ip);
    }
    found
}

/// A socket that hears of links.
#[derive(Debug)]
pub(crate) struct LinkSocket(Socket);

impl LinkSocket {
    /// In this thread's network namespace.
    pub(crate) fn new() -> io::Result<LinkSocket> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        // Asking for more than the system's limit is no error.
        socket.set_rx_buf_sz(RECEIVE_BUFFER)?;
        socket.add_membership(RTNLGRP_LINK)?;
        socket.set_non_blocking(true)?;
        Ok(LinkSocket(socket))
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Take what waits. `ENOBUFS` if messages were lost: dump again.
    pub(crate) fn take(&self, mut f: impl FnMut(LinkMessage)) -> io::Result<()> {
        loop {
            match receive(&self.0) {
                Ok(datagram) => {
                    for (kind, _, body) in messages(&datagram) {
                        if let Some(message) = link_message(kind, body) {
                            f(message);
                        }
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
        }
    }
}

impl LinkSocket {
    /// Throw away what waits.
    pub(crate) fn discard(&self) -> io::Result<()> {
        loop {
            match self.take(|_| {}) {
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {}
                other => return other,
            }
        }
    }
}

/// One whole datagram, of the kernel's.
fn receive(socket: &Socket) -> io::Result<Vec<u8>> {
    loop {
        match socket.recv_from_full() {
            // Any process may send to a netlink socket; only port 0 is the kernel.
            Ok((datagram, from)) if from.port_number() == 0 => return Ok(datagram),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// A socket for requests.
#[derive(Debug)]
pub(crate) struct Requests {
    socket: Socket,
    sequence: u32,
}

impl Requests {
    /// In this thread's network namespace.
    pub(crate) fn new() -> io::Result<Requests> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Lets the kernel filter a dump by interface; without it (before 4.20), we do.
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(Requests { socket, sequence: 0 })
    }

    /// One link; `None` if there is none of that index.
    pub(crate) fn link(&mut self, ifindex: u32) -> io::Result<Option<Link>> {
        let mut body = [0; LINK];
        body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
        self.send(RTM_GETLINK, 0, &body)?;
        let mut found = None;
        for (kind, _, body) in messages(&receive(&self.socket)?) {
            match (kind, link_message(kind, body)) {
                (NLMSG_ERROR, _) => match errno(body) {
                    Err(e) if e.raw_os_error() == Some(libc::ENODEV) => {}
                    other => other?,
                },
                (_, Some(LinkMessage::New(link))) => found = Some(link),
                _ => {}
            }
        }
        Ok(found)
    }

    /// All links of the namespace.
    pub(crate) fn links(&mut self) -> io::Result<Vec<Link>> {
        let mut body = vec![0; LINK];
        body.extend(8u16.to_ne_bytes());
        body.extend(IFLA_EXT_MASK.to_ne_bytes());
        body.extend(RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
        let mut links = Vec::new();
        self.dump(RTM_GETLINK, &body, |kind, body| match link_message(kind, body) {
            Some(LinkMessage::New(link)) => links.push(link),
            _ => {
                links.clear(); // Reached only at the start of another try: see `dump`.
            }
        })?;
        Ok(links)
    }

    /// IP addresses of an interface.
    pub(crate) fn addresses(&mut self, ifindex: u32) -> io::Result<Vec<IpAddr>> {
        let mut found = Vec::new();
        let mut body = [0; ADDR];
        body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
        self.dump(RTM_GETADDR, &body, |kind, body| {
            if kind == RTM_NEWADDR {
                found.extend(address(body, ifindex));
            } else {
                found.clear();
            }
        })?;
        Ok(found)
    }

    /// Delete an interface.
    pub(crate) fn delete(&mut self, ifindex: u32) -> io::Result<()> {
        let mut body = [0; LINK];
        body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
        self.send(RTM_DELLINK, libc::NLM_F_ACK, &body)?;
        loop {
            let datagram = receive(&self.socket)?;
            for (kind, _, body) in messages(&datagram) {
                if kind == NLMSG_ERROR {
                    return errno(body);
                }
            }
        }
    }

    /// Dump; if the kernel says that things changed meanwhile, once more, which is told by a
    /// message of type `NLMSG_DONE`.
    fn dump(&mut self, request: u16, body: &[u8], mut f: impl FnMut(u16, &[u8])) -> io::Result<()> {
        for _ in 0..DUMP_TRIES {
            self.send(request, libc::NLM_F_DUMP, body)?;
            if self.answers(&mut f)? {
                return Ok(());
            }
            f(NLMSG_DONE, &[]);
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "interfaces change faster than they are listed",
        ))
    }

    /// Take a dump's answers; whether they are of one piece.
    fn answers(&mut self, f: &mut impl FnMut(u16, &[u8])) -> io::Result<bool> {
        const NLM_F_DUMP_INTR: u16 = 0x10;
        let mut whole = true;
        loop {
            let datagram = receive(&self.socket)?;
            for (kind, flags, body) in messages(&datagram) {
                whole &= flags & NLM_F_DUMP_INTR == 0;
                match kind {
                    NLMSG_DONE => return Ok(whole),
                    NLMSG_ERROR => return errno(body).map(|()| whole),
                    _ => f(kind, body),
                }
            }
        }
    }

    fn send(&mut self, kind: u16, flags: libc::c_int, body: &[u8]) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut m = Vec::with_capacity(HEADER + body.len());
        m.extend(((HEADER + body.len()) as u32).to_ne_bytes());
        m.extend(kind.to_ne_bytes());
        m.extend(((flags | libc::NLM_F_REQUEST) as u16).to_ne_bytes());
        m.extend(self.sequence.to_ne_bytes());
        m.extend(0u32.to_ne_bytes());
        m.extend(body);
        self.socket.send(&m, 0).map(|_| ())
    }
}

/// The outcome that an `NLMSG_ERROR` tells.
fn errno(body: &[u8]) -> io::Result<()> {
    match u32_at(body, 0).map(|e| e as i32) {
        Some(0) => Ok(()),
        Some(e) => Err(io::Error::from_raw_os_error(e.wrapping_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for (kind, _, body) in messages(&bytes) {
                let _ = link_message(kind, body);
            }
            for kind in [RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR] {
                let _ = link_message(kind, &bytes);
                let _ = address(&bytes, 1);
                let _ = errno(&bytes);
            }
        }

        #[test]
        fn a_datagram_is_cut_into_its_messages(bodies in prop::collection::vec(
            prop::collection::vec(any::<u8>(), 0..40), 0..5)) {
            let mut datagram = Vec::new();
            for (i, b) in bodies.iter().enumerate() {
                datagram.extend(((HEADER + b.len()) as u32).to_ne_bytes());
                datagram.extend((i as u16).to_ne_bytes());
                datagram.extend([0; 10]);
                datagram.extend(b);
                datagram.resize(datagram.len().next_multiple_of(4), 0);
            }
            let got: Vec<_> = messages(&datagram).map(|(k, _, b)| (usize::from(k), b.to_vec())).collect();
            prop_assert_eq!(got, bodies.into_iter().enumerate().collect::<Vec<_>>());
        }
    }
}
