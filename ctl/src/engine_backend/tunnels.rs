//! Tunnel ports, and the network that their packets cross.
//!
//! While there are tunnel ports or routes of the switch's own, the kernel's links, addresses, routes and
//! neighbours are followed, and handed to translation with the bridge port behind each link that is the
//! switch's own. What was configured of routes and neighbours is laid over the kernel's view: a route
//! whose source address the kernel does not have gives the bridge a link of the switch's own with that
//! address (`ofproto::underlay::own_link`).
//!
//! A link that is the switch's own is that of an internal port, or of a port that is shared with the
//! host: the XDP program of such a one is told the ends of tunnels on its addresses, and everything
//! else goes by the kernel.
//!
//! A neighbour on the kernel's links is asked for by the kernel, which answers for its own addresses too;
//! one that is in use is kept fresh the same way. Those on the switch's own links are
//! [`super::neighbours`]' business.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use afxdp::TunnelEnd;
use ofproto::action::OfPort;
use ofproto::snapshot::{BridgeId, Port as OfPortEntry, PortKind};
use ofproto::underlay::{TunnelPort, is_own, own_link};
use tunnel::Kind;
use tunnel::ask::Asker;
use tunnel::kernel::{Address, Kernel, LinkInfo};
use tunnel::neigh::{Limits, NeighTable, Target};
use tunnel::netlink::Follower;
use tunnel::route::{Action, Origin, Prefix, Route};

use super::probes::Probes;
use super::{EngineBackend, translate};
use crate::config::{Config, Paths, Port};
use crate::error::CtlError;

/// Milliseconds between two checks of a neighbour that is in use.
const REFRESH: u64 = 1000;
/// Largest IP packet where an interface does not say.
const DEFAULT_MTU: u32 = 1500;

/// What is known of the network below tunnels.
pub struct Below {
    /// `None` until it is needed first.
    pub(super) kernel: Option<(Follower, Asker)>,
    /// As configured.
    pub(super) paths: Paths,
    /// Neighbours on the switch's own links.
    pub(super) own: NeighTable<()>,
    /// Something may be different.
    stale: bool,
    /// When neighbours were checked last.
    refreshed: u64,
    /// Neighbours to ask for.
    wanted: Vec<Target>,
    /// Neighbours that were missed.
    pub(super) probes: Probes,
    /// Addresses of the switch's own that were made known.
    announced: Vec<Target>,
}

impl Default for Below {
    fn default() -> Below {
        Below {
            kernel: None,
            paths: Paths::default(),
            own: NeighTable::new(Limits::default()),
            stale: false,
            refreshed: 0,
            wanted: Vec::new(),
            probes: Probes::default(),
            announced: Vec::new(),
        }
    }
}

impl Below {
    /// Readable when the kernel has something to tell.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.kernel.as_ref().map(|(follower, _)| follower.as_fd())
    }

    /// The next [`EngineBackend::follow_kernel`] is to look at everything.
    pub fn touch(&mut self) {
        self.stale = true;
    }

    /// A packet needs a neighbour's address.
    pub fn want(&mut self, target: Target) {
        if !self.wanted.contains(&target) {
            self.wanted.push(target);
        }
    }
}

/// A bridge's own port as tunnels' packets leave by it.
#[derive(Clone, Copy)]
struct Local {
    id: BridgeId,
    /// The kernel's link, while its interface is here.
    link: Option<u32>,
    mac: u64,
    mtu: u32,
}

/// The port behind each link.
type LinkPorts = Vec<(u32, BridgeId, OfPort)>;

impl EngineBackend {
    /// What a new configuration says of routes and neighbours.
    pub(super) fn configure_paths(&mut self, config: &Config) -> Result<(), CtlError> {
        let needs = |p: &Port| p.port_type().is_tunnel() || p.settings.share.is_some();
        let tunnels = config.ports().any(|(_, _, p)| needs(p));
        if self.below.kernel.is_none() && (tunnels || !config.paths.is_empty()) {
            let open = || Ok((Follower::open()?, Asker::open()?));
            let opened = open().map_err(|e: std::io::Error| {
                CtlError::system(format!("cannot follow the kernel's routes: {e}"))
            })?;
            self.below.kernel = Some(opened);
        }
        if self.below.paths != config.paths {
            self.below.paths = config.paths.clone();
        }
        self.below.touch();
        Ok(())
    }

    /// Add a tunnel port, or change its settings.
    pub(super) fn add_tunnel(
        &mut self,
        bridge: &str,
        name: &str,
        port: &Port,
    ) -> Result<(), CtlError> {
        let id = self.bridge_id(bridge)?;
        let config = port.settings.tunnel(name)?;
        let ofport = OfPort(u32::from(port.ofport));
        let known = self.switch.bridge(id).and_then(|b| b.ports.get(&ofport));
        let (sequence, counters) = match known.map(|p| &p.kind) {
            Some(PortKind::Tunnel(t)) => (t.sequence.clone(), t.counters.clone()),
            _ => Default::default(),
        };
        let entry = OfPortEntry {
            vlan: translate::vlan(&port.settings),
            ..OfPortEntry::new(
                ofport,
                name,
                PortKind::Tunnel(Arc::new(TunnelPort { config, sequence, counters })),
            )
        };
        self.switch.set_port(id, entry);
        Ok(())
    }

    /// Take over what the kernel has told, and find out about neighbours.
    pub(super) fn follow_kernel(&mut self) {
        let now = self.now();
        let Some((follower, _)) = &mut self.below.kernel else { return };
        match follower.drain() {
            Ok(changed) => self.below.stale |= changed,
            Err(e) => tracing::warn!("the kernel's routes and neighbours: {e}"),
        }
        if std::mem::take(&mut self.below.stale) {
            let (kernel, ports) = self.compose();
            self.switch.set_underlay(&kernel, &ports);
            self.share(&kernel);
            self.announce(&kernel);
        }
        if now >= self.below.refreshed + REFRESH {
            let used = self.switch.neighbours_in_use(self.below.refreshed);
            used.into_iter().for_each(|t| self.below.want(t));
            self.below.refreshed = now;
        }
        for target in std::mem::take(&mut self.below.wanted) {
            if is_own(target.link) {
                self.resolve(target);
            } else if let Some((_, asker)) = &self.below.kernel
                && let Err(e) = asker.ask(&target)
            {
                tracing::warn!("asking for {}: {e}", target.address);
            }
        }
    }

    /// The bridges that configured routes and neighbours are on.
    fn locals(&self) -> BTreeMap<&str, Local> {
        let paths = &self.below.paths;
        let named = paths.routes.values().map(|r| r.bridge.as_str());
        let names = named.chain(paths.neighbours.keys().map(String::as_str));
        let local = |name| {
            let (id, opened) = (self.switch.bridge_id(name)?, self.open.get(name)?);
            let (mac, mtu) = opened.local_link();
            let local = Local {
                id,
                link: opened.internal_link(),
                mac: mac?,
                mtu: mtu.unwrap_or(DEFAULT_MTU),
            };
            Some((name, local))
        };
        names.filter_map(local).collect()
    }

    /// The kernel's view with what was configured laid over it, and the port behind each link.
    fn compose(&self) -> (Kernel, LinkPorts) {
        let follower = self.below.kernel.as_ref().map(|(follower, _)| follower.kernel());
        let mut kernel = follower.cloned().unwrap_or_default();
        let linked = self.open.values().filter_map(|o| Some((o.underlay_link()?, o)));
        let mut ports: LinkPorts = linked.map(|(link, o)| (link, o.bridge, o.ofport)).collect();
        let locals = self.locals();
        // First all addresses, then the routes that may do with them.
        for (prefix, route) in self.configured_routes() {
            let (Some(local), Some(src)) = (locals.get(route.bridge.as_str()), route.src) else {
                continue;
            };
            if !has(&kernel, local.link, src) {
                add_own(&mut kernel, &mut ports, &route.bridge, local, (src, prefix.len()));
            }
        }
        for (prefix, route) in self.configured_routes() {
            let Some(local) = locals.get(route.bridge.as_str()) else { continue };
            let near = route.via.unwrap_or(prefix.address());
            let fits = |link: &u32| match route.src {
                Some(src) => has(&kernel, Some(*link), src),
                None => kernel.source(*link, near).is_some(),
            };
            let links = [local.link, Some(own_link(local.id))];
            let Some(link) = links.into_iter().flatten().find(fits) else { continue };
            kernel.routes.insert(Route {
                prefix,
                action: Action::Forward { link, via: route.via },
                src: route.src,
                metric: 0,
                mtu: None,
                origin: Origin::User,
            });
        }
        let resolved = self.below.own.iter().filter_map(|n| Some((n.target, n.mac?)));
        kernel.neighbours.extend(resolved);
        self.below.probes.keep(&mut kernel);
        for (bridge, list) in &self.below.paths.neighbours {
            let Some(local) = locals.get(bridge.as_str()) else { continue };
            for link in [local.link, Some(own_link(local.id))].into_iter().flatten() {
                let entry = |(a, mac): (&IpAddr, &crate::schema::Mac)| {
                    (Target { link, address: *a }, number(mac.bytes()))
                };
                kernel.neighbours.extend(list.iter().map(entry));
            }
        }
        (kernel, ports)
    }

    /// Tell the interfaces that are shared with the host which packets are tunnels'.
    fn share(&mut self, kernel: &Kernel) {
        let listeners: Vec<(Kind, u16)> =
            self.switch.preview().underlay.listeners.keys().copied().collect();
        for (name, opened) in self.open.iter_mut().filter(|(_, o)| o.is_shared()) {
            let addresses = opened.underlay_link().and_then(|l| kernel.addresses.get(&l));
            let mut ends = HashSet::new();
            for a in addresses.into_iter().flatten() {
                ends.extend(listeners.iter().map(|(kind, port)| match kind {
                    Kind::Gre => TunnelEnd::Gre(a.address),
                    _ => TunnelEnd::Udp(a.address, *port),
                }));
            }
            if let Err(e) = opened.set_tunnel_ends(&ends) {
                tracing::warn!("{name}: packets of some tunnels stay with the host: {e}");
            }
        }
    }

    pub(super) fn configured_routes(
        &self,
    ) -> impl Iterator<Item = (Prefix, &crate::config::Route)> {
        self.below.paths.routes.iter().filter_map(|(p, r)| Some((p.parse().ok()?, r)))
    }

    /// Let the network know of addresses of the switch's own that are new.
    fn announce(&mut self, kernel: &Kernel) {
        let of_own = kernel.addresses.iter().filter(|(link, _)| is_own(**link));
        let all: Vec<Target> = of_own
            .flat_map(|(link, list)| {
                list.iter().map(|a| Target { link: *link, address: a.address })
            })
            .collect();
        let new: Vec<Target> =
            all.iter().filter(|t| !self.below.announced.contains(t)).copied().collect();
        self.below.announced = all;
        for target in new {
            self.announce_address(target);
        }
    }
}

/// Whether a link has an address.
fn has(kernel: &Kernel, link: Option<u32>, address: IpAddr) -> bool {
    let list = link.and_then(|l| kernel.addresses.get(&l));
    list.is_some_and(|l| l.iter().any(|a| a.address == address))
}

/// Give a bridge an address of the switch's own.
fn add_own(
    kernel: &mut Kernel,
    ports: &mut LinkPorts,
    bridge: &str,
    local: &Local,
    (address, prefix_len): (IpAddr, u8),
) {
    let link = own_link(local.id);
    if !kernel.links.contains_key(&link) {
        ports.push((link, local.id, OfPort::LOCAL));
        let (mac, mtu) = (local.mac, local.mtu);
        let info = LinkInfo { name: bridge.to_owned(), mac, mtu, up: true, running: true };
        kernel.links.insert(link, info);
    }
    if !has(kernel, Some(link), address) {
        let address = Address { address, prefix_len, usable: true };
        kernel.addresses.entry(link).or_default().push(address);
    }
}

/// An Ethernet address as a number.
pub(super) fn number(mac: [u8; 6]) -> u64 {
    mac.iter().fold(0, |n, b| n << 8 | u64::from(*b))
}
