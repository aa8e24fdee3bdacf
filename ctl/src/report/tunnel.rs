//! How tunnels, routes and neighbours look as data.

use serde::{Deserialize, Serialize};

/// `tunnels`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TunnelsReport {
    pub tunnels: Vec<TunnelReport>,
}

/// One tunnel port. Bytes are those of the packets inside.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TunnelReport {
    pub bridge: String,
    pub port: String,
    #[serde(rename = "type")]
    pub kind: String,
    /// An address, or `flow`.
    pub remote: String,
    /// An address, `flow`, or `any`.
    pub local: String,
    /// A number, `flow`, or absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp_port: Option<u16>,
    pub state: TunnelState,
    /// The way to the remote address, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<TunnelPath>,
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    /// Packets that waited for the next hop's address.
    pub waited: u64,
    /// Packets for which there was no route, or whose fields do not fit the header.
    pub no_route: u64,
    /// Packets that were too big for the path.
    pub too_big: u64,
    /// Packets that left in several fragments.
    pub fragmented: u64,
    /// Why nothing can be sent now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The last packet that could not be sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<TunnelError>,
}

/// Whether a tunnel can send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TunnelState {
    /// Route and next hop are known.
    Up,
    /// The next hop's address is not known; it is asked for when there is a packet.
    Unresolved,
    /// There is no way.
    Down,
    /// Each packet brings its own remote address.
    #[default]
    Flow,
}

impl TunnelState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Unresolved => "unresolved",
            Self::Down => "down",
            Self::Flow => "flow",
        }
    }
}

/// The way of a tunnel's packets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TunnelPath {
    /// The bridge and port that they leave by.
    pub bridge: String,
    pub interface: String,
    pub source: String,
    pub next_hop: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Bytes of the largest inner IP packet, for an untagged frame.
    pub mtu: u32,
}

/// A packet that could not be sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TunnelError {
    pub reason: String,
    /// Seconds ago.
    pub age: f64,
}

/// `route show`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoutesReport {
    pub routes: Vec<RouteReport>,
}

/// A route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteReport {
    pub prefix: String,
    /// `user` or `kernel`.
    pub origin: String,
    /// The interface; a route that rejects has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    pub metric: u32,
    /// The bridge by which its packets leave, if they can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// Why it is not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// `neigh show`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NeighboursReport {
    pub neighbours: Vec<NeighbourReport>,
}

/// A neighbour on a bridge.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NeighbourReport {
    pub bridge: String,
    pub address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// `static`, `kernel` (it says so), or what the switch itself found: `incomplete`, `reachable`, `stale`,
    /// `probe`, `failed`.
    pub state: String,
}
