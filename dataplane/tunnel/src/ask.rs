//! How is the kernel made to find out a neighbour's address?
//!
//! By a neighbour entry that is marked as in use (`NTF_USE`, rtnetlink(7)): the kernel asks by
//! ARP or ND if it does not know the address or is no longer sure of it, as it would for a packet
//! of its own. What comes of it is said to [`crate::netlink::Follower`].

use std::io;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::neigh::Target;

/// A socket to ask by.
pub struct Asker(Socket);

impl Asker {
    /// Open it.
    ///
    /// # Errors
    /// What the system calls answered.
    pub fn open() -> io::Result<Asker> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        Ok(Asker(socket))
    }

    /// Have the kernel find out, or make sure of, a neighbour's address. Whether it does is not
    /// waited for; the kernel retries and gives up as for its own packets.
    ///
    /// # Errors
    /// What the system call answered.
    pub fn ask(&self, target: &Target) -> io::Result<()> {
        self.send(target, NeighbourFlags::Use, NeighbourState::None, NLM_F_CREATE)
    }

    /// Have the kernel ask a neighbour at its known address, at once (`NUD_PROBE`). It stays in use
    /// meanwhile; an answer makes it reachable. Not for one that is [`crate::kernel::Trust::Fixed`].
    ///
    /// # Errors
    /// What the system call answered.
    pub fn probe(&self, target: &Target) -> io::Result<()> {
        self.send(target, NeighbourFlags::empty(), NeighbourState::Probe, 0)
    }

    /// Have the kernel forget a neighbour's address and ask everybody for it, at once. Not for one
    /// that is [`crate::kernel::Trust::Fixed`].
    ///
    /// # Errors
    /// What the system calls answered.
    pub fn renew(&self, target: &Target) -> io::Result<()> {
        self.send(target, NeighbourFlags::empty(), NeighbourState::Failed, 0)?;
        self.ask(target)
    }

    fn send(
        &self,
        target: &Target,
        flags: NeighbourFlags,
        state: NeighbourState,
        create: u16,
    ) -> io::Result<()> {
        let mut m = NeighbourMessage::default();
        let (family, address) = match target.address {
            std::net::IpAddr::V4(a) => (AddressFamily::Inet, NeighbourAddress::Inet(a)),
            std::net::IpAddr::V6(a) => (AddressFamily::Inet6, NeighbourAddress::Inet6(a)),
        };
        m.header.family = family;
        m.header.ifindex = target.link;
        m.header.flags = flags;
        m.header.state = state;
        m.attributes.push(NeighbourAttribute::Destination(address));
        let mut message = NetlinkMessage::new(
            NetlinkHeader::default(),
            RouteNetlinkMessage::NewNeighbour(m).into(),
        );
        message.header.flags = NLM_F_REQUEST | create;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.0.send(&bytes, 0).map(|_| ())
    }
}
