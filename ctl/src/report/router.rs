//! How a router looks as data.

use serde::{Deserialize, Serialize};

/// `show-router`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouterReport {
    pub name: String,
    /// Zone of its connections, and of connections from the inside to its outside addresses.
    pub zone: u16,
    pub hairpin_zone: u16,
    pub ports: Vec<RouterPortReport>,
    pub routes: Vec<RouteReport>,
    pub snat: Vec<SnatReport>,
    pub floating_ips: Vec<FloatingReport>,
    pub dnat: Vec<DnatReport>,
    pub neighbours: Vec<NeighbourReport>,
}

/// One port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouterPortReport {
    pub name: String,
    pub bridge: String,
    /// `in_port` in the router's own flows.
    pub number: u16,
    pub ip: Vec<String>,
    pub mac: String,
    pub mtu: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<u16>,
    /// Next hops of what has no other route.
    pub via: Vec<String>,
    /// How it advertises itself to IPv6 hosts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ra: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteReport {
    pub prefix: String,
    pub via: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SnatReport {
    pub prefix: String,
    pub address: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FloatingReport {
    pub external: String,
    pub internal: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnatReport {
    pub protocol: String,
    pub external: String,
    pub internal: String,
}

/// A host that the router sends to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NeighbourReport {
    pub port: String,
    pub address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// `incomplete`, `reachable`, `stale`, `probe` or `failed`.
    pub state: String,
    /// Packets that wait for its address.
    pub waiting: u64,
}
