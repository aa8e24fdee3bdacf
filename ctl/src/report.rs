//! How the running switch's answers look, as data: what the backend fills, what the socket carries, what
//! `vswitchctl` prints. `docs/json.md` is the same for readers. New fields may be added; readers ignore
//! what they do not know.

mod conntrack;
mod flow;
pub mod router;
mod tunnel;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::config::{Bridge, Config, OFPORT_LOCAL, Peer};
use crate::schema::{BRIDGE, PORT, PortSettings, PortType, Value};

pub use conntrack::*;
pub use flow::*;
pub use tunnel::*;

/// The backend's part of `show`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Running {
    /// By port name, bridges' own ports included; patch ports may be left out.
    pub ports: BTreeMap<String, PortState>,
    /// What concerns the switch as a whole, one sentence each.
    pub warnings: Vec<String>,
}

/// How a port is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    Up,
    /// There, without carrier or set down.
    Down,
    /// Configured; no such interface here at present.
    Missing,
    /// There, but cannot be used; `error` says why.
    Error,
    #[default]
    Unknown,
}

impl LinkState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Missing => "missing",
            Self::Error => "error",
            Self::Unknown => "unknown",
        }
    }
}

/// What the running switch knows of a port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortState {
    pub state: LinkState,
    /// AF_XDP: `native` or `generic`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zero_copy: Option<bool>,
    /// Receive queues in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queues: Option<u32>,
    /// The workers that receive from it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub workers: Vec<u32>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Why the port cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What is not as it should be though the port works.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// `show`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShowReport {
    pub bridges: Vec<BridgeReport>,
    pub warnings: Vec<String>,
}

/// One bridge in `show`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BridgeReport {
    pub name: String,
    /// Every setting that is not at its default, by `column[:key]`.
    pub settings: Map<String, Json>,
    /// By OpenFlow number, the bridge's own port last.
    pub ports: Vec<PortReport>,
}

/// One port in `show`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortReport {
    pub name: String,
    /// OpenFlow port number; 65534 is the bridge's own port.
    pub ofport: u16,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(flatten)]
    pub running: PortState,
    /// Patch ports: the other end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<PeerReport>,
    /// Every setting that is not at its default, by `column[:key]`.
    pub settings: Map<String, Json>,
}

/// The other end of a patch port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerReport {
    pub port: String,
    /// The bridge of the other end, when both ends name each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// Why nothing passes, when the ends are not joined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl ShowReport {
    /// Joins what is configured with what is running. With `only`, that bridge alone.
    pub fn new(config: &Config, mut running: Running, only: Option<&str>) -> Self {
        let wanted = |name: &&String| only.is_none_or(|o| o == *name);
        let mut bridges = Vec::new();
        for name in config.bridges.keys().filter(wanted) {
            if let Some(bridge) = config.bridges.get(name) {
                bridges.push(bridge_report(config, name, bridge, &mut running));
            }
        }
        Self { bridges, warnings: running.warnings }
    }
}

fn bridge_report(
    config: &Config,
    name: &str,
    bridge: &Bridge,
    running: &mut Running,
) -> BridgeReport {
    let mut ports: Vec<PortReport> = bridge
        .ports
        .iter()
        .map(|(port, p)| {
            let state = running.ports.remove(port);
            let mut report = port_report(port, p.ofport, p.port_type(), &p.settings, state);
            report.peer = config.peer_of(port).map(peer_report);
            if let Some(peer) = &report.peer {
                report.running.state =
                    if peer.problem.is_none() { LinkState::Up } else { LinkState::Down };
            }
            if p.port_type() == PortType::Router {
                report.running.state = LinkState::Up;
            }
            report
        })
        .collect();
    ports.sort_by_key(|p| p.ofport);
    let state = running.ports.remove(name);
    ports.push(port_report(name, OFPORT_LOCAL, PortType::Internal, &bridge.local, state));
    BridgeReport {
        name: name.to_owned(),
        settings: settings(BRIDGE.settings(&bridge.settings)),
        ports,
    }
}

fn port_report(
    name: &str,
    ofport: u16,
    kind: PortType,
    configured: &PortSettings,
    running: Option<PortState>,
) -> PortReport {
    PortReport {
        name: name.to_owned(),
        ofport,
        kind: kind.to_string(),
        running: running.unwrap_or_default(),
        peer: None,
        settings: settings(PORT.settings(configured)),
    }
}

fn peer_report(peer: Peer<'_>) -> PeerReport {
    let (port, bridge, problem) = match peer {
        Peer::Joined { bridge, port } => (port, Some(bridge.to_owned()), None),
        Peer::Missing { port } => (port, None, Some(format!("no port \"{port}\" is configured"))),
        Peer::NotPatch { port } => (port, None, Some(format!("\"{port}\" is no patch port"))),
        Peer::Elsewhere { port, its_peer } => {
            (port, None, Some(format!("the peer of \"{port}\" is \"{its_peer}\"")))
        }
    };
    PeerReport { port: port.to_owned(), bridge, problem }
}

fn settings(list: Vec<(String, Value)>) -> Map<String, Json> {
    let shown = |(label, _): &(String, Value)| !matches!(label.as_str(), "type" | "options:peer");
    list.into_iter().filter(shown).map(|(label, value)| (label, value.to_json())).collect()
}

/// `fdb-show`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FdbReport {
    pub bridge: String,
    pub entries: Vec<FdbEntry>,
}

/// A learned MAC.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FdbEntry {
    pub port: String,
    pub ofport: u16,
    pub vlan: u16,
    pub mac: String,
    /// Seconds since a packet of it was seen.
    pub age: u64,
}

/// `fdb-flush`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FdbFlushed {
    pub bridge: String,
    /// How many entries were forgotten.
    pub flushed: u64,
}

/// `fdb-stats`. Counts are since the bridge was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FdbStats {
    pub bridge: String,
    pub entries: u64,
    pub max_entries: u64,
    /// Seconds.
    pub aging_time: u64,
    pub learned: u64,
    /// Entries that changed their port.
    pub moved: u64,
    pub expired: u64,
    /// Entries that made room for others when the table was full.
    pub evicted: u64,
    /// Learning that was refused or lost, by a limit.
    pub refused: u64,
}

/// `dump-ports`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortsReport {
    pub bridge: String,
    pub ports: Vec<PortCounters>,
}

/// What went through a port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortCounters {
    pub name: String,
    pub ofport: u16,
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    /// Dropped frames that came in by this port or were to leave by it; only reasons that occurred.
    pub drops: Vec<DropCount>,
}

/// How many frames were dropped for a reason.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DropCount {
    pub reason: String,
    pub packets: u64,
}

/// `drops`: the whole switch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DropsReport {
    /// Reasons that occurred, most frequent first.
    pub reasons: Vec<DropReason>,
    /// With `--why`: the latest dropped packets, newest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latest: Option<Vec<DroppedPacket>>,
}

/// A reason for dropping, explained.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DropReason {
    pub reason: String,
    pub packets: u64,
    /// One sentence that a person understands.
    pub description: String,
}

/// `dump-megaflows`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MegaflowsReport {
    /// How many there are; more than are listed, when a limit was asked for.
    pub total: u64,
    pub megaflows: Vec<Megaflow>,
}

/// A cached decision of one worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Megaflow {
    pub worker: u32,
    /// Key with mask, as match text.
    #[serde(rename = "match")]
    pub matches: String,
    pub actions: String,
    pub packets: u64,
    pub bytes: u64,
    /// Seconds since it was last hit; absent when it never was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<f64>,
    /// Seconds since it was installed.
    pub age: f64,
    /// What the decision was made from: rules, MACs, groups, routes.
    pub depends: Vec<String>,
}

/// `workers`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkersReport {
    pub workers: Vec<WorkerReport>,
    pub frames: FramesReport,
}

/// Where the frames are. Read while packets flow, so the sum may be off by those that move.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FramesReport {
    /// Frames of the whole region (`--umem`).
    pub total: u64,
    /// Free, in the shared store.
    pub free: u64,
    /// Free, in workers' and control's own pools.
    pub pools: u64,
    /// In the ports' queues: to be filled, received, sent, or completed.
    pub queues: u64,
    /// On their way from one worker to another.
    pub between: u64,
}

/// One forwarding thread. Counts are since it started; rates and shares over the last second or more.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerReport {
    pub worker: u32,
    pub core: u32,
    /// Receive queues that it polls, as `port/queue`.
    pub queues: Vec<String>,
    pub packets: u64,
    pub packets_per_second: f64,
    /// Busy cycles by packets; 0 without packets.
    pub cycles_per_packet: f64,
    /// Share of lookups (packets, and tracked ones again) that the exact-match cache answered, 0 to 1.
    pub exact_hit_rate: f64,
    /// Share that the megaflow classifier answered, 0 to 1; the rest were upcalls.
    pub megaflow_hit_rate: f64,
    pub upcalls: u64,
    pub megaflows: u64,
    /// Different masks among its megaflows.
    pub masks: u64,
    pub bursts: u64,
    /// Mean packets in a burst that was not empty.
    pub packets_per_burst: f64,
    /// How many bursts had so many packets; sizes in order, only those that occurred.
    pub burst_sizes: Vec<BurstSize>,
    /// Share of time without work, 0 to 1.
    pub idle: f64,
    /// Where the cycles went, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stages: Option<StagesReport>,
}

/// Where a worker's cycles went since it started, from the rounds that were timed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StagesReport {
    /// Packets received in the rounds that were timed.
    pub packets: u64,
    /// Cycles per packet received, by the name of the stage.
    pub cycles_per_packet: BTreeMap<String, f64>,
}

/// A bar of the histogram of bursts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BurstSize {
    pub packets: u32,
    pub bursts: u64,
}

/// `version`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VersionReport {
    /// The daemon's.
    pub version: String,
    pub pid: u32,
    /// Seconds since the daemon started.
    pub uptime: u64,
}

/// `log-level`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogLevelReport {
    pub level: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;

    fn config(commands: &[(&str, &str, &[&str])]) -> Config {
        let mut config = Config::default();
        for (bridge, port, settings) in commands {
            let own = settings.iter().map(|s| (*s).to_owned()).collect();
            let command = match *port {
                "" => Command::AddBr { bridge: (*bridge).into(), settings: own, may_exist: false },
                port => Command::AddPort {
                    bridge: (*bridge).into(),
                    port: port.into(),
                    settings: own,
                    may_exist: false,
                },
            };
            crate::config::apply(&mut config, &command).expect("good");
        }
        config.finish().expect("good");
        config
    }

    #[test]
    fn show_joins_configured_and_running() {
        let config = config(&[
            ("br0", "", &["fail_mode=secure"]),
            ("br1", "", &[]),
            ("br0", "eth9", &["tag=5"]),
            ("br0", "pa", &["type=patch", "options:peer=pb"]),
            ("br0", "a", &["ofport_request=9"]),
        ]);
        let up = PortState { state: LinkState::Up, mtu: Some(1500), ..PortState::default() };
        let running = Running { ports: [("eth9".to_owned(), up)].into(), ..Running::default() };
        let show = ShowReport::new(&config, running, Some("br0"));
        assert_eq!(show.bridges.len(), 1);
        let names: Vec<_> = show.bridges[0].ports.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["eth9", "pa", "a", "br0"]);
        let json = serde_json::to_value(&show).expect("json");
        let port = &json["bridges"][0]["ports"][0];
        assert_eq!((&port["state"], &port["mtu"]), (&Json::from("up"), &Json::from(1500)));
        assert_eq!(port["settings"], serde_json::json!({"tag": 5}));
        let patch = &json["bridges"][0]["ports"][1];
        assert_eq!(patch["state"], "down");
        assert_eq!(patch["peer"]["problem"], "no port \"pb\" is configured");
        let back: ShowReport = serde_json::from_value(json).expect("reads back");
        assert_eq!(back, show);
    }
}
