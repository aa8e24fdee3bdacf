//! What does the kernel know of links, addresses, routes and neighbours?
//!
//! A [`Kernel`] is what the messages of rtnetlink add up to; cloned, it is a snapshot that costs
//! nothing. It covers what the kernel does without saying: the IPv4 routes of a link that goes
//! down, or of an address that goes away, vanish with no message of their own.
//!
//! Must not know: sockets ([`crate::netlink`] has them), bridges, tunnels.

use std::net::IpAddr;

use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHop,
    RouteNextHopFlags, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::neigh::Target;
use crate::route::{Action, Origin, Prefix, Route, RouteTable};

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// Its name.
    pub name: String,
    /// Its Ethernet address; 0 if it has none.
    pub mac: u64,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Set up by the administrator.
    pub up: bool,
    /// Up and with a carrier.
    pub running: bool,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// Length of the link's prefix.
    pub prefix_len: u8,
    /// Not tentative, duplicate or deprecated: to be sent from.
    pub usable: bool,
}

/// The kernel's view, by interface index.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    /// Interfaces.
    pub links: imbl::HashMap<u32, LinkInfo>,
    /// Their addresses.
    pub addresses: imbl::HashMap<u32, Vec<Address>>,
    /// The main table's routes.
    pub routes: RouteTable,
    /// Resolved neighbours.
    pub neighbours: imbl::HashMap<Target, u64>,
    /// What the kernel thinks of them.
    pub trust: imbl::HashMap<Target, Trust>,
}

/// What the kernel thinks of a resolved neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It is not the kernel's to doubt: set by an administrator, or of a link without neighbours.
    Fixed,
    /// It has answered lately.
    Confirmed,
    /// It has not.
    Doubted,
}

/// The way to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Interface index.
    pub link: u32,
    /// The address to ask that link for.
    pub next_hop: IpAddr,
    /// The address to send from.
    pub src: IpAddr,
    /// Largest IP packet.
    pub mtu: u32,
}

/// What a message did to the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// Something.
    Changed,
    /// Something, but what is left cannot be known from messages: ask for everything again.
    Doubtful,
}

impl Kernel {
    /// Take a message in.
    pub fn apply(&mut self, message: &RouteNetlinkMessage) -> Change {
        use RouteNetlinkMessage::*;
        match message {
            NewLink(m) => self.new_link(m),
            DelLink(m) => self.del_link(m),
            NewAddress(m) => self.new_address(m),
            DelAddress(m) => self.del_address(m),
            NewRoute(m) => self.new_route(m),
            DelRoute(m) => self.del_route(m),
            NewNeighbour(m) => self.new_neighbour(m),
            DelNeighbour(m) => self.del_neighbour(m),
            _ => Change::None,
        }
    }

    /// Whether links, addresses and routes are those of `other`. May say no where they are, never
    /// yes where they are not.
    pub fn same_paths(&self, other: &Kernel) -> bool {
        self.links.ptr_eq(&other.links)
            && self.addresses.ptr_eq(&other.addresses)
            && self.routes.is_same(&other.routes)
    }

    /// The way to an address, if there is a route by a link that is up and an address to send
    /// from.
    pub fn path(&self, dst: IpAddr) -> Option<Path> {
        let route = self.routes.lookup(dst).0?;
        let (link, next_hop) = route.next_hop(dst)?;
        let info = self.links.get(&link).filter(|l| l.up)?;
        // An IPv4 destination may have an IPv6 next hop (RFC 5549).
        let near = if next_hop.is_ipv4() == dst.is_ipv4() { next_hop } else { dst };
        let src = route.src.or_else(|| self.source(link, near))?;
        let mtu = route.mtu.filter(|m| *m != 0).map_or(info.mtu, |m| m.min(info.mtu));
        Some(Path { link, next_hop, src, mtu })
    }

    /// The address of a link to send to `near` from: one in its prefix, else of its scope, else
    /// any of its family.
    pub fn source(&self, link: u32, near: IpAddr) -> Option<IpAddr> {
        let local = |a: IpAddr| matches!(a, IpAddr::V6(a) if a.is_unicast_link_local());
        let all = self.addresses.get(&link)?;
        all.iter()
            .filter(|a| a.usable && a.address.is_ipv4() == near.is_ipv4())
            .max_by_key(|a| {
                let prefix = Prefix::new(a.address, a.prefix_len);
                let inside = prefix.is_some_and(|p| p.contains(near));
                (inside, local(a.address) == local(near))
            })
            .map(|a| a.address)
    }

    /// The link that has an address.
    pub fn owner(&self, address: IpAddr) -> Option<u32> {
        let has = |list: &Vec<Address>| list.iter().any(|a| a.address == address);
        self.addresses.iter().find(|(_, list)| has(list)).map(|(link, _)| *link)
    }

    /// The link of that name.
    pub fn link_named(&self, name: &str) -> Option<u32> {
        self.links.iter().find(|(_, l)| l.name == name).map(|(i, _)| *i)
    }

    fn new_link(&mut self, m: &LinkMessage) -> Change {
        if m.header.interface_family != AddressFamily::Unspec {
            return Change::None; // A bridge speaking of its port.
        }
        let has = |f| m.header.flags.contains(f);
        let mut info = LinkInfo {
            name: String::new(),
            mac: 0,
            mtu: 0,
            up: has(LinkFlags::Up),
            running: has(LinkFlags::Up) && has(LinkFlags::LowerUp),
        };
        for a in &m.attributes {
            match a {
                LinkAttribute::IfName(name) => info.name.clone_from(name),
                LinkAttribute::Address(mac) => info.mac = ethernet(mac),
                LinkAttribute::Mtu(mtu) => info.mtu = *mtu,
                _ => {}
            }
        }
        let index = m.header.index;
        if !info.up {
            self.drop_routes(|r| matches!(r.action, Action::Forward { link, .. } if link == index));
        }
        if self.links.get(&index) == Some(&info) {
            return Change::None;
        }
        self.links.insert(index, info);
        Change::Changed
    }

    fn del_link(&mut self, m: &LinkMessage) -> Change {
        if m.header.interface_family != AddressFamily::Unspec {
            return Change::None;
        }
        let index = m.header.index;
        self.drop_routes(|r| matches!(r.action, Action::Forward { link, .. } if link == index));
        self.addresses.remove(&index);
        self.neighbours.retain(|t, _| t.link != index);
        self.trust.retain(|t, _| t.link != index);
        self.links.remove(&index).map_or(Change::None, |_| Change::Changed)
    }

    fn drop_routes(&mut self, gone: impl Fn(&Route) -> bool) {
        self.routes.retain(|r| r.origin != Origin::Kernel || !gone(r));
    }

    fn new_address(&mut self, m: &AddressMessage) -> Change {
        let Some(new) = address(m) else { return Change::None };
        let list = self.addresses.entry(m.header.index).or_default();
        match list.iter_mut().find(|a| a.address == new.address) {
            Some(old) if *old == new => return Change::None,
            Some(old) => *old = new,
            None => list.push(new),
        }
        Change::Changed
    }

    fn del_address(&mut self, m: &AddressMessage) -> Change {
        let Some(gone) = address(m) else { return Change::None };
        let Some(list) = self.addresses.get_mut(&m.header.index) else { return Change::None };
        let before = list.len();
        list.retain(|a| a.address != gone.address);
        if list.len() == before {
            return Change::None;
        }
        // Unless another link still has it.
        if self.owner(gone.address).is_none() {
            self.drop_routes(|r| r.src == Some(gone.address));
        }
        Change::Changed
    }

    fn new_route(&mut self, m: &RouteMessage) -> Change {
        match route(m) {
            Some(r) if self.routes.insert(r.clone()).as_ref() == Some(&r) => Change::None,
            Some(_) => Change::Changed,
            None => Change::None,
        }
    }

    fn del_route(&mut self, m: &RouteMessage) -> Change {
        let Some(r) = route(m) else { return Change::None };
        if self.routes.remove(r.prefix, r.origin, r.metric).is_none() {
            return Change::None;
        }
        // Another of the same prefix and metric (a second next hop) may still be there.
        Change::Doubtful
    }

    fn new_neighbour(&mut self, m: &NeighbourMessage) -> Change {
        use NeighbourState::*;
        let Some((target, mac)) = neighbour(m) else { return Change::None };
        let trust = match m.header.state {
            Permanent | Noarp => Trust::Fixed,
            Reachable => Trust::Confirmed,
            Stale | Delay | Probe => Trust::Doubted,
            _ => return self.forget_neighbour(&target),
        };
        if mac == 0 {
            return self.forget_neighbour(&target);
        }
        self.trust.insert(target, trust);
        match self.neighbours.insert(target, mac) {
            Some(old) if old == mac => Change::None,
            _ => Change::Changed,
        }
    }

    fn del_neighbour(&mut self, m: &NeighbourMessage) -> Change {
        match neighbour(m) {
            Some((target, _)) => self.forget_neighbour(&target),
            None => Change::None,
        }
    }

    fn forget_neighbour(&mut self, target: &Target) -> Change {
        self.trust.remove(target);
        self.neighbours.remove(target).map_or(Change::None, |_| Change::Changed)
    }
}

/// An Ethernet address as a number; 0 for addresses of other lengths.
fn ethernet(bytes: &[u8]) -> u64 {
    match bytes {
        [a, b, c, d, e, f] => u64::from_be_bytes([0, 0, *a, *b, *c, *d, *e, *f]),
        _ => 0,
    }
}

fn address(m: &AddressMessage) -> Option<Address> {
    let (mut local, mut peer) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(u32::from(m.header.flags.bits()));
    for a in &m.attributes {
        match a {
            AddressAttribute::Local(a) => local = Some(*a),
            AddressAttribute::Address(a) => peer = Some(*a),
            AddressAttribute::Flags(f) => flags = *f,
            _ => {}
        }
    }
    let bad = AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated;
    let usable = !flags.intersects(bad) || flags.contains(AddressFlags::Optimistic);
    let prefix_len = m.header.prefix_len;
    // On a point-to-point link the own address is the local one, the other is the peer's.
    local.or(peer).map(|address| Address { address, prefix_len, usable })
}

fn ip(a: &RouteAddress) -> Option<IpAddr> {
    match a {
        RouteAddress::Inet(a) => Some((*a).into()),
        RouteAddress::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}

/// The gateway that attributes name.
fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|a| match a {
        RouteAttribute::Gateway(a) => ip(a),
        RouteAttribute::Via(RouteVia::Inet(a)) => Some((*a).into()),
        RouteAttribute::Via(RouteVia::Inet6(a)) => Some((*a).into()),
        _ => None,
    })
}

/// The first next hop that works, else the first.
fn next_hop(hops: &[RouteNextHop]) -> Option<Action> {
    let dead = RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown;
    let hop = hops.iter().find(|h| !h.flags.intersects(dead)).or(hops.first())?;
    Some(Action::Forward { link: hop.interface_index, via: gateway(&hop.attributes) })
}

/// A route of the main table; `None` for others and for kinds that do not forward.
fn route(m: &RouteMessage) -> Option<Route> {
    let mut table = u32::from(m.header.table);
    let unspecified = match m.header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let (mut dst, mut link, mut hops, mut mtu) = (unspecified, None, None, None);
    let (mut src, mut metric) = (None, 0);
    for a in &m.attributes {
        match a {
            RouteAttribute::Table(t) => table = *t,
            RouteAttribute::Destination(a) => dst = ip(a)?,
            RouteAttribute::Oif(i) => link = Some(*i),
            RouteAttribute::MultiPath(h) => hops = next_hop(h),
            RouteAttribute::PrefSource(a) => src = ip(a),
            RouteAttribute::Priority(p) => metric = *p,
            RouteAttribute::Metrics(all) => {
                mtu = all.iter().find_map(|m| match m {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let header = &m.header;
    let special = header.tos != 0
        || header.source_prefix_length != 0
        || header.flags.contains(RouteFlags::Cloned);
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) || special {
        return None;
    }
    let action = match header.kind {
        RouteType::Unicast => match (link, hops) {
            (_, Some(hop)) => hop,
            (Some(link), None) => Action::Forward { link, via: gateway(&m.attributes) },
            (None, None) => return None,
        },
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => Action::Reject,
        _ => return None,
    };
    let prefix = Prefix::new(dst, header.destination_prefix_length)?;
    Some(Route { prefix, action, src, metric, mtu, origin: Origin::Kernel })
}

fn neighbour(m: &NeighbourMessage) -> Option<(Target, u64)> {
    let (mut who, mut mac) = (None, 0);
    if !matches!(m.header.family, AddressFamily::Inet | AddressFamily::Inet6) {
        return None; // A bridge's forwarding entry.
    }
    for a in &m.attributes {
        match a {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => who = Some((*a).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => who = Some((*a).into()),
            NeighbourAttribute::LinkLayerAddress(a) => mac = ethernet(a),
            _ => {}
        }
    }
    who.map(|address| (Target { link: m.header.ifindex, address }, mac))
}
