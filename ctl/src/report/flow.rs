//! What is answered about flow tables, groups, traces and dropped packets, and the events of `monitor`.

use serde::{Deserialize, Serialize};

/// `dump-flows`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowsReport {
    pub bridge: String,
    pub flows: Vec<FlowReport>,
}

/// One flow. What `--no-stats` leaves out is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowReport {
    pub table: u8,
    pub priority: u16,
    pub cookie: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Seconds since it was added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<f64>,
    /// The line of `ovs-ofctl dump-flows`; `add-flows` takes it.
    pub flow: String,
}

/// What a change of flows or groups did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowsChanged {
    pub bridge: String,
    /// Added, replaced or modified.
    pub changed: u64,
    pub removed: u64,
}

/// `diff-flows`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowsDiff {
    pub bridge: String,
    /// Flows that only the bridge has.
    pub removed: Vec<String>,
    /// Flows that only the text has.
    pub added: Vec<String>,
}

/// `dump-tables`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TablesReport {
    pub bridge: String,
    /// Tables that have flows.
    pub tables: Vec<TableReport>,
}

/// One flow table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TableReport {
    pub table: u8,
    pub flows: u64,
    /// Different masks among its flows.
    pub masks: u64,
    /// Packets that were looked up in it.
    pub lookups: u64,
    /// Packets that a flow matched, also one that is gone.
    pub matched: u64,
    /// Packets and bytes of the flows that it has now.
    pub packets: u64,
    pub bytes: u64,
}

/// `dump-aggregate`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AggregateReport {
    pub bridge: String,
    pub packets: u64,
    pub bytes: u64,
    pub flows: u64,
}

/// `dump-groups`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupsReport {
    pub bridge: String,
    /// Each as `add-group` takes it.
    pub groups: Vec<String>,
}

/// `dump-group-stats`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupStatsReport {
    pub bridge: String,
    pub groups: Vec<GroupStats>,
}

/// Counters of a group since it was added or changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupStats {
    pub group: u32,
    /// Seconds since it was added or changed.
    pub duration: f64,
    /// Flows that go to it.
    pub references: u64,
    pub packets: u64,
    pub bytes: u64,
    pub buckets: Vec<BucketStats>,
}

/// Counters of a bucket.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BucketStats {
    pub bucket: u32,
    pub packets: u64,
    pub bytes: u64,
}

/// `packet-out`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PacketOutReport {
    pub bridge: String,
    /// What the datapath did, as text.
    pub actions: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop: Option<String>,
}

/// `trace`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TraceReport {
    pub bridge: String,
    /// One a packet, and one more each time that a packet comes back to the tables.
    pub passes: Vec<TracePass>,
}

/// One way through the tables.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TracePass {
    /// The packet, or what is known of it when it comes back.
    pub flow: String,
    /// What the packet waited for, when it came back: 0 is a packet that comes in.
    pub recirculation: u32,
    pub steps: Vec<TraceStep>,
    /// The fields after all actions; absent when they are as before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_flow: Option<String>,
    /// What the megaflow for such packets matches.
    pub megaflow: String,
    /// What it does.
    pub actions: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop: Option<TraceDrop>,
    /// It was sent for real.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub sent: bool,
}

/// Why a packet, or a part of its way, ends.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TraceDrop {
    pub reason: String,
    pub description: String,
}

/// One step of a trace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TraceStep {
    /// How deep it is nested.
    pub depth: u32,
    #[serde(flatten)]
    pub what: TraceWhat,
}

/// What happens in a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum TraceWhat {
    /// Processing starts in a bridge.
    Bridge { bridge: String, in_port: String },
    /// A table was searched.
    Table {
        table: u8,
        /// The flow that matched; absent when none did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<TraceRule>,
    },
    /// An action is done.
    Action { action: String },
    /// Something worth knowing.
    Note { text: String },
}

/// The flow that matched.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TraceRule {
    pub priority: u16,
    pub cookie: u64,
    #[serde(rename = "match")]
    pub matches: String,
}

/// A packet that was dropped lately.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DroppedPacket {
    pub reason: String,
    /// Seconds since then.
    pub age: f64,
    /// Where it came in.
    pub port: String,
    /// Its bytes.
    pub bytes: u64,
    /// Its fields.
    pub flow: String,
    /// The last flow that it matched, where it matched one: bridge, table, cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie: Option<u64>,
}

/// An event of `monitor`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum MonitorEvent {
    /// A packet for the controller.
    PacketIn {
        bridge: String,
        in_port: u32,
        port: String,
        reason: String,
        table: u8,
        cookie: u64,
        controller: u16,
        /// Its fields.
        flow: String,
        /// Registers and the like.
        metadata: String,
        /// Its first bytes, in hexadecimal.
        packet: String,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        userdata: String,
    },
    /// A flow with `send_flow_rem` went.
    FlowRemoved {
        bridge: String,
        /// `idle`, `hard`, `delete` or `group_delete`.
        reason: String,
        flow: String,
    },
    /// From here on events are sent, of this bridge or else of connections.
    Started {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bridge: Option<String>,
    },
    /// A connection came or went.
    Connection {
        /// `inserted`, or why it went.
        what: String,
        connection: super::Connection,
    },
    /// Events that did not reach this client before the next one.
    Lost { events: u64 },
}
