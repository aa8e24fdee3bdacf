//! How connections and the tracker's state look as data.

use serde::{Deserialize, Serialize};

/// A page of `conntrack list`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionsReport {
    pub connections: Vec<Connection>,
    /// Where the next page begins; absent with the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// One connection.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Connection {
    /// `tcp`, `udp`, `icmp`, ..., or the number.
    pub protocol: String,
    pub zone: u16,
    pub orig: Direction,
    /// As replies come in.
    pub reply: Direction,
    pub mark: u32,
    /// Hexadecimal.
    pub label: String,
    /// What is known of a connection that is still there.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub life: Option<Life>,
}

/// Addresses and what the protocol has for ports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Direction {
    pub src: String,
    pub dst: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sport: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dport: Option<u16>,
    /// ICMP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u16>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub ty: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// GRE.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<u32>,
}

/// How a connection is doing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Life {
    /// TCP's state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// A packet in reply direction was seen.
    pub answered: bool,
    /// It makes no room for others in a full table.
    pub assured: bool,
    /// Seconds until it ends, should no packet come.
    pub expires: f64,
    /// Seconds.
    pub age: f64,
}

/// `conntrack flush`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionsFlushed {
    pub flushed: u64,
}

/// `conntrack stats`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConntrackStats {
    pub connections: u64,
    pub limit: u64,
    pub unanswered: u64,
    pub translated: u64,
    /// TCP connections by state, others by protocol; only what there is.
    pub states: Vec<Named>,
    pub protocols: Vec<Named>,
    /// Zones with connections.
    pub zones: Vec<ZoneUse>,
    /// The original sources with the most connections.
    pub top_sources: Vec<TopSource>,
    /// What happened since the daemon started; only what did.
    pub events: Vec<Named>,
    /// Packets that were `+inv`, by reason.
    pub invalid: Vec<Named>,
    /// Packets that connection tracking had dropped, by reason.
    pub drops: Vec<Named>,
}

/// A count with its name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Named {
    pub name: String,
    pub count: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// A zone's connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ZoneUse {
    pub zone: u16,
    pub connections: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// Who fills the table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TopSource {
    pub zone: u16,
    pub source: String,
    pub connections: u64,
}

/// `conntrack limit`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitsReport {
    pub connections: u64,
    pub total: u64,
    /// The limit of zones that have none of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<u64>,
    /// Zones with connections or a limit of their own.
    pub zones: Vec<ZoneUse>,
}

/// `conntrack timeout`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TimeoutsReport {
    /// Absent: of zones that have none of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<u16>,
    pub timeouts: Vec<TimeoutEntry>,
    /// Zones with timeouts of their own.
    pub zones: Vec<u16>,
}

/// One timeout.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TimeoutEntry {
    pub name: String,
    pub seconds: u32,
    /// It is not the default.
    pub set: bool,
    pub description: String,
}
