//! How does the kernel's view reach the switch?
//!
//! A [`Follower`] asks the kernel for all links, addresses, routes and neighbours of the network
//! namespace that it was opened in, and follows what changes. It belongs to one control thread,
//! which waits for its descriptor to become readable and then calls [`Follower::drain`].
//!
//! When messages were lost, or what is left cannot be known from them, everything is asked for
//! again; the old view stands until the new one is complete.
//!
//! Must not know: what the view is for.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::kernel::{Change, Kernel};

/// Multicast groups of rtnetlink (`RTNLGRP_*`): links, neighbours, IPv4 addresses and routes,
/// IPv6 addresses and routes.
const GROUPS: [u32; 6] = [1, 3, 5, 7, 9, 11];
/// Room for notifications that nobody has read yet, in bytes.
const RECEIVE_BUFFER: u32 = 1 << 20;
/// A dump that changes in the kernel's hands is asked for again, so often.
const DUMP_TRIES: usize = 10;
/// Messages taken in one [`Follower::drain`], so that a storm cannot hold its thread.
const DRAIN_LIMIT: usize = 4096;

/// The kernel's view, kept current.
pub struct Follower {
    socket: Socket,
    kernel: Kernel,
    /// A new dump is due.
    stale: bool,
    sequence: u32,
    unparsed: u64,
    dumps: u64,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower")
            .field("links", &self.kernel.links.len())
            .field("stale", &self.stale)
            .finish_non_exhaustive()
    }
}

/// What a datagram's message is.
enum Message {
    Inner(RouteNetlinkMessage),
    Done,
    Failed(io::Error),
    Other,
}

impl Follower {
    /// Open, and read everything once.
    ///
    /// # Errors
    /// What the system calls answered.
    pub fn open() -> io::Result<Follower> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_rx_buf_sz(RECEIVE_BUFFER)?;
        socket.bind_auto()?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        socket.connect(&SocketAddr::new(0, 0))?;
        let mut follower = Follower {
            socket,
            kernel: Kernel::default(),
            stale: true,
            sequence: 0,
            unparsed: 0,
            dumps: 0,
        };
        follower.resync()?;
        Ok(follower)
    }

    /// The view as of the last [`Follower::drain`]. Clone it for a snapshot.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Messages that could not be read and were passed over.
    pub fn unparsed(&self) -> u64 {
        self.unparsed
    }

    /// How often everything was asked for.
    pub fn dumps(&self) -> u64 {
        self.dumps
    }

    /// Take in all that has been said; whether the view may have changed. Never waits for
    /// something to be said.
    ///
    /// # Errors
    /// What the system calls answered. The view stays as it was, and the next call asks for
    /// everything again.
    pub fn drain(&mut self) -> io::Result<bool> {
        self.socket.set_non_blocking(true)?;
        let mut changed = false;
        for _ in 0..DRAIN_LIMIT {
            match self.socket.recv_from_full() {
                Ok((datagram, _)) => changed |= self.take_in(&datagram),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // ENOBUFS: messages were lost.
                Err(_) => {
                    self.stale = true;
                    break;
                }
            }
        }
        if self.stale {
            self.resync()?;
            changed = true;
        }
        Ok(changed)
    }

    /// Apply a datagram's notifications to the view.
    fn take_in(&mut self, datagram: &[u8]) -> bool {
        let mut changed = false;
        for (_, message) in messages(datagram, &mut self.unparsed) {
            if let Message::Inner(m) = message {
                match self.kernel.apply(&m) {
                    Change::None => {}
                    Change::Changed => changed = true,
                    Change::Doubtful => (changed, self.stale) = (true, true),
                }
            }
        }
        changed
    }

    /// Ask for everything again.
    fn resync(&mut self) -> io::Result<()> {
        self.stale = true;
        self.socket.set_non_blocking(false)?;
        for _ in 0..DUMP_TRIES {
            let mut fresh = Kernel::default();
            let whole = self
                .dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), &mut fresh)?
                && self
                    .dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), &mut fresh)?
                && self.dump(RouteNetlinkMessage::GetRoute(RouteMessage::default()), &mut fresh)?
                && self.dump(
                    RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
                    &mut fresh,
                )?;
            if whole {
                // Notifications that came in between are in the dump or were applied to it.
                (self.kernel, self.stale) = (fresh, false);
                self.dumps += 1;
                return Ok(());
            }
        }
        Err(io::Error::new(
            io::ErrorKind::Interrupted,
            "rtnetlink: the kernel's tables changed during each of several dumps",
        ))
    }

    /// Ask for one table; `false` if it changed while it was read.
    fn dump(&mut self, what: RouteNetlinkMessage, into: &mut Kernel) -> io::Result<bool> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(what));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut whole = true;
        loop {
            let datagram = match self.socket.recv_from_full() {
                Ok((datagram, _)) => datagram,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.raw_os_error() == Some(ENOBUFS) => {
                    whole = false;
                    continue;
                }
                Err(e) => return Err(e),
            };
            for (header, message) in messages(&datagram, &mut self.unparsed) {
                let ours = header.sequence_number == self.sequence;
                whole &= !(ours && header.flags & NLM_F_DUMP_INTR != 0);
                match message {
                    // A notification during the dump may be newer or older than what the dump
                    // says of it: applied now, and what the dump says later stands.
                    Message::Inner(m) => whole &= into.apply(&m) != Change::Doubtful || ours,
                    Message::Done if ours => return Ok(whole),
                    Message::Failed(e) if ours => return Err(e),
                    _ => {}
                }
            }
        }
    }
}

/// No buffer space: the socket's buffer has overflown and messages are lost.
const ENOBUFS: i32 = 105;

/// The messages of a datagram; those that cannot be read are counted and passed over.
fn messages(datagram: &[u8], unparsed: &mut u64) -> Vec<(NetlinkHeader, Message)> {
    const HEADER: usize = 16;
    let mut out = Vec::new();
    let mut rest = datagram;
    while let Some(length) = rest.first_chunk::<4>() {
        let length = u32::from_ne_bytes(*length) as usize;
        if length < HEADER || length > rest.len() {
            *unparsed += 1;
            break;
        }
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&rest[..length]) {
            Ok(m) => out.push((m.header, message(m.payload))),
            Err(_) => *unparsed += 1,
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    out
}

fn message(payload: NetlinkPayload<RouteNetlinkMessage>) -> Message {
    match payload {
        NetlinkPayload::InnerMessage(m) => Message::Inner(m),
        NetlinkPayload::Done(_) => Message::Done,
        NetlinkPayload::Error(e) if e.code.is_some() => Message::Failed(e.to_io()),
        _ => Message::Other,
    }
}

impl AsFd for Follower {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Follower {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_datagram_is_survived() {
        let mut unparsed = 0;
        assert!(messages(&[], &mut unparsed).is_empty());
        // A length of 0, one beyond the end, one shorter than a header.
        for length in [0u32, 1000, 8] {
            let mut d = vec![0; 20];
            d[..4].copy_from_slice(&length.to_ne_bytes());
            assert!(messages(&d, &mut unparsed).is_empty());
        }
        assert_eq!(unparsed, 3);
        // A link message of noise: passed over, and what follows is read.
        let mut d = vec![0; 24];
        d[..4].copy_from_slice(&21u32.to_ne_bytes());
        d[4..6].copy_from_slice(&16u16.to_ne_bytes());
        let mut done = vec![0; 20];
        done[..4].copy_from_slice(&20u32.to_ne_bytes());
        done[4..6].copy_from_slice(&3u16.to_ne_bytes());
        d.extend(done);
        let read = messages(&d, &mut unparsed);
        assert!(matches!(read[..], [(_, Message::Done)]));
        assert_eq!(unparsed, 4);
    }
}
