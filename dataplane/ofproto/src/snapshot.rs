//! What do translation and workers know of the configuration?
//!
//! A [`Snapshot`] is one immutable version of everything that decides about packets: ports,
//! bridges, their tables, learned addresses. Control makes the next one from a clone of the last,
//! which shares all that did not change, and publishes it together with the list of [`Change`]s
//! that lead to it ([`LogNode`]), so that each worker can find the megaflows that they touch.
//!
//! Must not know: workers, caches, sockets.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use classifier::RuleTable;
use flow::Match;
use flow::key::mix;

use crate::group_table::GroupEntry;
use crate::program::DpPort;
use crate::rule::{Rule, RuleStats};
use crate::underlay::{TunnelPort, Underlay};
use crate::vlan::VlanConfig;

/// Number of OpenFlow tables of a bridge (0 to 254).
pub const TABLES: usize = 255;

/// A bridge: an index that stays with it for its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BridgeId(pub u16);

/// An OpenFlow port number of some bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OfPort(pub u32);

/// Where a packet goes that leaves by a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// To a datapath port (a network device, a tap, a memory port).
    Datapath(DpPort),
    /// Into another bridge, by that bridge's port; `None` while the peer does not exist.
    Patch(Option<(BridgeId, OfPort)>),
    /// Into a tunnel: with an outer header, into the bridge that the route leads to.
    Tunnel(Arc<TunnelPort>),
}

/// One port of a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its number in the bridge.
    pub ofport: OfPort,
    /// Its name, unique in the process.
    pub name: Box<str>,
    /// What it is.
    pub kind: PortKind,
    /// Its VLANs.
    pub vlan: VlanConfig,
    /// Whether frames are sent and received (link and administrative state).
    pub up: bool,
    /// `OFPPC_NO_FLOOD`: left out of flooding.
    pub no_flood: bool,
    /// `OFPPC_NO_FWD`: nothing is sent to it.
    pub no_forward: bool,
    /// `OFPPC_NO_RECV`: what comes in is dropped.
    pub no_receive: bool,
    /// Largest frame without Ethernet header that leaves by it; 0 for no limit.
    pub mtu: u32,
    /// Shared with the host, for tunnels alone: their packets come in and leave by it past the bridge's
    /// flows, nothing else is sent to it.
    pub shared: bool,
}

impl Port {
    /// A port that is up, a trunk for every VLAN, without a limit of size.
    pub fn new(ofport: OfPort, name: impl Into<Box<str>>, kind: PortKind) -> Port {
        Port {
            ofport,
            name: name.into(),
            kind,
            vlan: VlanConfig::default(),
            up: true,
            no_flood: false,
            no_forward: false,
            no_receive: false,
            mtu: 0,
            shared: false,
        }
    }
}

/// A learned address.
#[derive(Debug)]
pub struct FdbEntry {
    /// Where it is.
    pub port: OfPort,
    /// The VLAN.
    pub vlan: u16,
    /// The address, in the low 48 bits.
    pub mac: u64,
    /// Configured, so it does not age.
    pub is_static: bool,
    /// When a packet from it was last seen, in milliseconds of the switch's clock.
    pub used: AtomicU64,
}

/// The key of an address in a bridge's forwarding database.
pub fn fdb_key(vlan: u16, mac: u64) -> u64 {
    u64::from(vlan) << 48 | mac & 0xffff_ffff_ffff
}

/// A bridge's settings that decide about packets.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct BridgeSettings {
    /// `other_config:forward-bpdu`.
    pub forward_bpdu: bool,
    /// Addresses that may be learned (`other_config:mac-table-size`).
    pub mac_table_size: usize,
    /// Age in milliseconds at which an address is forgotten (`other_config:mac-aging-time`).
    pub mac_aging: u64,
    /// VLANs on which every packet is flooded (`flood_vlans`).
    pub flood_vlans: Option<crate::vlan::VlanSet>,
}

/// The tables of a bridge, in pages, so that a clone for one change copies little.
#[derive(Clone, Default)]
pub struct Tables {
    pages: [Option<Arc<Page>>; 16],
}

type Page = [Option<RuleTable<Rule>>; 16];

impl Tables {
    /// A table, if it ever had a rule.
    #[inline]
    pub fn get(&self, table: u8) -> Option<&RuleTable<Rule>> {
        self.pages[usize::from(table >> 4)].as_ref()?[usize::from(table & 15)].as_ref()
    }

    /// A table to change, made if need be.
    pub fn get_mut(&mut self, table: u8) -> &mut RuleTable<Rule> {
        let page = self.pages[usize::from(table >> 4)].get_or_insert_with(Default::default);
        Arc::make_mut(page)[usize::from(table & 15)].get_or_insert_with(Default::default)
    }

    /// The tables there are, with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &RuleTable<Rule>)> {
        (0..TABLES as u8).filter_map(|t| Some((t, self.get(t)?)))
    }
}

/// One version of a bridge.
#[derive(Clone)]
pub struct Bridge {
    /// Its index.
    pub id: BridgeId,
    /// Its name.
    pub name: Arc<str>,
    /// Settings.
    pub settings: Arc<BridgeSettings>,
    /// Its OpenFlow tables.
    pub tables: Tables,
    /// Its ports by number.
    pub ports: Arc<BTreeMap<OfPort, Arc<Port>>>,
    /// Learned addresses by [`fdb_key`].
    pub fdb: imbl::HashMap<u64, Arc<FdbEntry>>,
    /// Groups by number.
    pub groups: imbl::HashMap<u32, Arc<GroupEntry>>,
    /// Rules by table and cookie, where a `learn(limit)` counts them.
    pub limited: imbl::HashMap<(u8, u64), Limited>,
    /// Packets by table that rules had matched which are gone.
    pub gone: imbl::HashMap<u8, u64>,
    /// Packets by table that no rule matched; the same for all versions of the bridge.
    pub missed: Arc<Missed>,
}

/// Counters of the packets that no rule of a table matched.
pub struct Missed([OnceLock<Arc<RuleStats>>; TABLES]);

impl Missed {
    /// A table's counter, made if need be; `None` for 255, which is no table.
    pub fn of(&self, table: u8) -> Option<&Arc<RuleStats>> {
        Some(self.0.get(usize::from(table))?.get_or_init(Arc::default))
    }
}

impl Default for Missed {
    fn default() -> Self {
        Missed([const { OnceLock::new() }; TABLES])
    }
}

/// How many rules of a cookie a table has, for the `learn` actions with a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limited {
    /// Rules with the cookie.
    pub rules: u32,
    /// Rules whose actions have such a `learn`.
    pub learns: u32,
    /// The limit of the one that came last.
    pub limit: u32,
}

impl Bridge {
    /// A number for one of the bridge's tables, unique in the process.
    #[inline]
    pub fn table_id(&self, table: u8) -> u32 {
        u32::from(self.id.0) << 8 | u32::from(table)
    }
}

/// One immutable version of everything that decides about packets.
#[derive(Clone)]
pub struct Snapshot {
    /// Counts publications, from 1.
    pub version: u64,
    /// Bridges by index.
    pub bridges: Arc<Vec<Option<Arc<Bridge>>>>,
    /// Where packets from a datapath port enter: by `DpPort`.
    pub ingress: Arc<Vec<Option<(BridgeId, OfPort)>>>,
    /// What tunnels need.
    pub underlay: Arc<Underlay>,
    /// The end of the change log that belongs to this version.
    pub log: Arc<LogNode>,
}

impl Snapshot {
    /// The version before any configuration.
    pub fn empty() -> Snapshot {
        Snapshot {
            version: 0,
            bridges: Arc::default(),
            ingress: Arc::default(),
            underlay: Arc::default(),
            log: Arc::new(LogNode::new(0, Vec::new())),
        }
    }

    /// A bridge by its index.
    #[inline]
    pub fn bridge(&self, id: BridgeId) -> Option<&Arc<Bridge>> {
        self.bridges.get(usize::from(id.0))?.as_ref()
    }

    /// Where a packet from a datapath port enters.
    #[inline]
    pub fn entry(&self, port: DpPort) -> Option<(BridgeId, OfPort)> {
        *self.ingress.get(port.0 as usize)?
    }
}

/// One thing that is different from the version before, as far as decisions depend on it.
#[derive(Clone, Debug)]
pub enum Change {
    /// A rule was added.
    RuleAdded {
        /// [`Bridge::table_id`].
        table: u32,
        /// What it matches.
        matches: Match,
        /// Its priority.
        priority: u16,
    },
    /// A rule was removed, or its actions were changed.
    RuleGone {
        /// [`Bridge::table_id`].
        table: u32,
        /// What it matched.
        matches: Match,
        /// Its id.
        rule: u64,
    },
    /// Something outside of the tables is different.
    Dep(Dep),
    /// Everything may be different.
    All,
}

/// Something outside of the tables that a translation looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dep {
    /// Where packets from a datapath port enter.
    Ingress(DpPort),
    /// A bridge's settings and its list of ports.
    Bridge(BridgeId),
    /// One port's configuration and state.
    Port(BridgeId, OfPort),
    /// What a bridge knows of an address in a VLAN: (bridge, VLAN, address).
    Fdb(BridgeId, u16, u64),
    /// A group.
    Group(BridgeId, u32),
    /// Whether a table has as many rules of a cookie as `learn` may make.
    Limited(BridgeId, u8, u64),
    /// The tunnel ports of an encapsulation and a UDP port (0 for GRE).
    Listener(tunnel::Kind, u16),
    /// The ways to tunnels' remote addresses: links, addresses and routes.
    Routes,
    /// A neighbour's address.
    Neigh(tunnel::neigh::Target),
}

impl Dep {
    /// A hash that stands for it. Two things with the same only cost a translation.
    pub fn key(self) -> u64 {
        let (kind, a, b) = match self {
            Dep::Ingress(p) => (1, 0, u64::from(p.0)),
            Dep::Bridge(b) => (2, u64::from(b.0), 0),
            Dep::Port(b, p) => (3, u64::from(b.0), u64::from(p.0)),
            Dep::Fdb(b, vlan, mac) => (4, u64::from(b.0), fdb_key(vlan, mac)),
            Dep::Group(b, g) => (5, u64::from(b.0), u64::from(g)),
            Dep::Listener(kind, port) => (6, kind as u64, u64::from(port)),
            Dep::Limited(b, table, cookie) => (9, u64::from(b.0) << 8 | u64::from(table), cookie),
            Dep::Routes => (7, 0, 0),
            Dep::Neigh(t) => {
                let address = tunnel::table::number(t.address);
                (8, u64::from(t.link) ^ (address >> 64) as u64, address as u64)
            }
        };
        mix(mix(kind ^ 0x9e37_79b9_7f4a_7c15, a ^ 0xa076_1d64_78bd_642f), b ^ 0x8ebc_6af0_9c88_c6e3)
    }
}

/// One version's changes, linked to those of the next version once there is one.
///
/// A worker keeps the node of the version it has adopted and walks forward from it, so nodes live
/// exactly as long as somebody has still to read them.
pub struct LogNode {
    /// The version that these changes lead to.
    pub version: u64,
    /// The changes.
    pub changes: Vec<Change>,
    next: OnceLock<Arc<LogNode>>,
}

impl LogNode {
    /// A node without a successor.
    pub fn new(version: u64, changes: Vec<Change>) -> LogNode {
        LogNode { version, changes, next: OnceLock::new() }
    }

    /// Link the next version's node. Only the publisher calls this, once.
    pub fn link(&self, next: Arc<LogNode>) {
        let _ = self.next.set(next);
    }

    /// The next version's node.
    pub fn next(&self) -> Option<&Arc<LogNode>> {
        self.next.get()
    }
}

impl Drop for LogNode {
    fn drop(&mut self) {
        // A long chain whose head goes must not recurse.
        let mut next = self.next.take();
        while let Some(node) = next {
            next = Arc::try_unwrap(node).ok().and_then(|mut n| n.next.take());
        }
    }
}

/// The switch's clock as the snapshot's users share it: milliseconds since it started, from 1.
#[derive(Debug, Default)]
pub struct Clock(AtomicU64);

impl Clock {
    /// The time that was last set.
    #[inline]
    pub fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Set the time; it never goes back.
    pub fn set(&self, ms: u64) {
        self.0.fetch_max(ms, Ordering::Relaxed);
    }
}
