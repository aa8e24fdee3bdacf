//! What does translation know of tunnels and of the ways to their remote ends?
//!
//! An [`Underlay`] is the part of a snapshot that tunnels need: the tunnel ports by what they
//! accept, the UDP ports (and GRE) that are listened on, and the kernel's view of routes,
//! addresses and neighbours, with the bridge port behind each of its links. All of it is made of
//! persistent maps, so that a clone for one change costs little.
//!
//! A packet that was decapsulated is looked up again as one that came in by a *listener*: a
//! datapath port number that stands for an encapsulation and a UDP port ([`listener`]). Which
//! tunnel port it belongs to is decided by translation, from the tunnel fields of its key.
//!
//! A bridge may have addresses that the kernel knows nothing of: those of routes that were given
//! to the switch. They are on a link of the switch's own ([`own_link`]), behind the bridge's LOCAL
//! port beside the kernel's.
//!
//! Written by control only, through [`crate::switch::Switch`]. Must not know: netlink, workers.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tunnel::encap::Sequence;
use tunnel::kernel::{Kernel, Path};
use tunnel::neigh::Target;
use tunnel::{Kind, TunnelConfig, TunnelTable};

use crate::program::DpPort;
use crate::rule::RuleStats;
use crate::snapshot::{BridgeId, OfPort};

/// A tunnel port's own part of a [`crate::snapshot::Port`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelPort {
    /// Its options.
    pub config: TunnelConfig,
    /// Numbers its GRE packets, if they are numbered.
    pub sequence: Sequence,
    /// What became of its packets.
    pub counters: Arc<TunnelCounters>,
}

/// What became of a tunnel's packets; bytes are those of the packets inside. Equal only to itself.
#[derive(Debug, Default)]
pub struct TunnelCounters {
    /// Came out of the tunnel.
    pub received: Arc<RuleStats>,
    /// Were sent into it, or were to be and were too big.
    pub sent: Arc<RuleStats>,
    /// Could not be sent for want of a route, or because their fields do not fit the header.
    pub no_route: Arc<RuleStats>,
    /// Waited for the next hop's address.
    pub waited: Arc<RuleStats>,
    /// Were too big for the path.
    pub too_big: RuleStats,
    /// Left in several fragments.
    pub fragmented: RuleStats,
}

impl PartialEq for TunnelCounters {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for TunnelCounters {}

/// A neighbour whose address is known.
#[derive(Debug, Default)]
pub struct Neighbour {
    /// Its Ethernet address.
    pub mac: u64,
    /// When a packet was last sent to it, in milliseconds of the switch's clock.
    pub used: AtomicU64,
    /// When a packet last came out of a tunnel whose other end is it, or is behind it.
    pub heard: AtomicU64,
}

/// Milliseconds in which a neighbour that packets go to is expected to be heard.
const SILENCE: u64 = 150;
/// Milliseconds after which packets do not go to a neighbour any more: longer than it takes until what
/// the workers have counted is seen.
const LATELY: u64 = 800;

/// Neighbours that packets go to and that nothing comes from.
#[derive(Debug, Default)]
pub struct Missed {
    /// With their addresses.
    pub neighbours: Vec<(Target, u64)>,
    /// Whether packets go to any neighbour at all.
    pub busy: bool,
}

/// Everything that tunnels look at besides flow tables.
#[derive(Clone, Default)]
pub struct Underlay {
    /// Tunnel ports by what they accept.
    pub table: TunnelTable<(BridgeId, OfPort)>,
    /// How many tunnel ports listen on each UDP port (0 for GRE).
    pub listeners: imbl::HashMap<(Kind, u16), u32>,
    /// Links, addresses and routes; its neighbours are not used.
    pub kernel: Kernel,
    /// Resolved neighbours.
    pub neighbours: imbl::HashMap<Target, Arc<Neighbour>>,
    /// The port behind each link of the kernel that is the switch's own.
    pub ports: imbl::HashMap<u32, (BridgeId, OfPort)>,
    /// The same, from the port to its links.
    pub links: imbl::HashMap<(BridgeId, OfPort), PortLinks>,
}

/// The links behind a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortLinks {
    /// The kernel's.
    pub kernel: Option<u32>,
    /// The switch's own.
    pub own: Option<u32>,
}

impl PortLinks {
    /// Add one.
    pub fn add(&mut self, link: u32) {
        match is_own(link) {
            true => self.own = Some(link),
            false => self.kernel = Some(link),
        }
    }
}

/// Bit of a link's number that says that it is the switch's own; the kernel's are below.
const OWN: u32 = 1 << 31;

/// The switch's own link of a bridge.
pub fn own_link(bridge: BridgeId) -> u32 {
    OWN | u32::from(bridge.0)
}

/// Whether a link is the switch's own.
pub fn is_own(link: u32) -> bool {
    link & OWN != 0
}

impl Underlay {
    /// The way to an address, to be sent from `src` if one is given.
    pub fn path(&self, dst: IpAddr, src: Option<IpAddr>) -> Option<Path> {
        let path = self.kernel.path(dst)?;
        Some(Path { src: src.unwrap_or(path.src), ..path })
    }

    /// The neighbours that are missed at a time, in milliseconds of the switch's clock.
    pub fn missed(&self, now: u64) -> Missed {
        let mut missed = Missed::default();
        for (target, n) in &self.neighbours {
            let used = n.used.load(Ordering::Relaxed);
            if used == 0 || used + LATELY < now {
                continue;
            }
            missed.busy = true;
            if used > n.heard.load(Ordering::Relaxed) + SILENCE {
                missed.neighbours.push((*target, n.mac));
            }
        }
        missed
    }

    /// Whether a link has this address.
    pub fn owns(&self, link: u32, address: IpAddr) -> bool {
        let all = self.kernel.addresses.get(&link);
        all.is_some_and(|list| list.iter().any(|a| a.address == address))
    }
}

/// In the place of a listener's UDP port: all of them.
pub const ANY_PORT: u16 = 0;

/// Bit of a datapath port number that says it is a listener.
const LISTENER: u32 = 1 << 31;

/// The datapath port by which packets come in that were received as `kind` on a UDP port (0 for
/// GRE).
pub fn listener(kind: Kind, port: u16) -> DpPort {
    DpPort(LISTENER | (kind as u32) << 16 | u32::from(port))
}

/// The encapsulation and UDP port of a listener.
pub fn listens(dp: DpPort) -> Option<(Kind, u16)> {
    if dp.0 & LISTENER == 0 {
        return None;
    }
    let kinds = [Kind::Vxlan, Kind::Gre, Kind::Geneve];
    let kind = kinds.into_iter().find(|k| *k as u32 == dp.0 >> 16 & 0x7fff)?;
    Some((kind, dp.0 as u16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_sent_to_and_not_heard_is_missed() {
        let mut underlay = Underlay::default();
        let target = |n: u8| Target { link: 1, address: [192, 0, 2, n].into() };
        // Never used; used and heard; used, not heard; used long ago; heard a little earlier.
        for (n, used, heard) in
            [(1, 0, 0), (2, 9900, 9800), (3, 9900, 9000), (4, 9000, 0), (5, 9900, 9750)]
        {
            let (used, heard) = (AtomicU64::new(used), AtomicU64::new(heard));
            let neighbour = Neighbour { mac: u64::from(n), used, heard };
            underlay.neighbours.insert(target(n), Arc::new(neighbour));
        }
        let missed = underlay.missed(10_000);
        assert_eq!((missed.neighbours, missed.busy), (vec![(target(3), 3)], true));
        let missed = underlay.missed(11_000);
        assert_eq!((missed.neighbours, missed.busy), (vec![], false));
    }

    #[test]
    fn listeners_are_told_apart_from_ports() {
        for kind in [Kind::Vxlan, Kind::Gre, Kind::Geneve] {
            for port in [0, 1, 4789, 65535] {
                assert_eq!(listens(listener(kind, port)), Some((kind, port)));
            }
        }
        assert_eq!(listens(DpPort(4789)), None);
        assert_eq!(listens(DpPort(LISTENER | 7 << 16)), None);
    }
}
