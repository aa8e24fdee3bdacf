//! What the switch can be asked to do: one type for the socket's documents, the command line and error
//! messages. A transaction is a list of these.
//!
//! Commands on the configuration ([`Kind::Change`], [`Kind::Read`]) are carried out by
//! [`crate::config`]; the rest asks or changes the running switch and goes to the
//! [`crate::backend::Backend`]. A new command is a variant here with its row in [`NAMES`] and
//! [`Command::kind`], a subcommand in `cli::args` and a rendering in `cli::render`.

mod about;
mod names;
mod text;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::config::router::Proto;
use crate::config::security::Way;
use crate::error::{CtlError, quoted};

pub use about::Kind;
pub use names::NAMES;

/// Most commands in one transaction.
pub const COMMANDS_LIMIT: usize = 100_000;

/// Which table `set`, `get` and `clear` act on. An interface is its port here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Record {
    Bridge,
    Port,
    Interface,
}

impl Record {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Port => "port",
            Self::Interface => "interface",
        }
    }
}

/// A command with its arguments. `settings` are `column[:key]=value`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    AddBr {
        bridge: String,
        #[serde(default)]
        settings: Vec<String>,
        #[serde(default)]
        may_exist: bool,
    },
    DelBr {
        bridge: String,
        #[serde(default)]
        if_exists: bool,
    },
    ListBr {},
    BrExists {
        bridge: String,
    },
    AddPort {
        bridge: String,
        port: String,
        #[serde(default)]
        settings: Vec<String>,
        #[serde(default)]
        may_exist: bool,
    },
    DelPort {
        #[serde(default)]
        bridge: Option<String>,
        port: String,
        #[serde(default)]
        if_exists: bool,
    },
    ListPorts {
        bridge: String,
    },
    PortToBr {
        port: String,
    },
    Set {
        record: Record,
        name: String,
        settings: Vec<String>,
        #[serde(default)]
        if_exists: bool,
    },
    Get {
        record: Record,
        name: String,
        #[serde(default)]
        columns: Vec<String>,
        #[serde(default)]
        if_exists: bool,
    },
    Clear {
        record: Record,
        name: String,
        columns: Vec<String>,
        #[serde(default)]
        if_exists: bool,
    },
    Show {
        #[serde(default)]
        bridge: Option<String>,
    },
    FdbShow {
        bridge: String,
    },
    FdbFlush {
        bridge: String,
    },
    FdbStats {
        bridge: String,
    },
    DumpPorts {
        bridge: String,
        #[serde(default)]
        port: Option<String>,
    },
    Drops {
        /// With the latest dropped packets of each reason.
        #[serde(default)]
        why: bool,
    },
    DumpMegaflows {
        /// At most so many megaflows, the busiest first; all when absent.
        #[serde(default)]
        limit: Option<u64>,
    },
    /// Adds or replaces one flow, in `ovs-ofctl(8)`'s text.
    AddFlow {
        bridge: String,
        flow: String,
    },
    /// Adds, changes or removes flows, one a line, all or none.
    AddFlows {
        bridge: String,
        flows: String,
    },
    ModFlows {
        bridge: String,
        flow: String,
        #[serde(default)]
        strict: bool,
    },
    DelFlows {
        bridge: String,
        /// Which ones; all when absent.
        #[serde(default, rename = "match")]
        matches: Option<String>,
        #[serde(default)]
        strict: bool,
    },
    /// Makes the bridge's flows those of the text; flows that stay keep their counters.
    ReplaceFlows {
        bridge: String,
        flows: String,
    },
    DiffFlows {
        bridge: String,
        flows: String,
    },
    DumpFlows {
        bridge: String,
        #[serde(default, rename = "match")]
        matches: Option<String>,
        /// Of the router of that name, as it was compiled.
        #[serde(default)]
        internal: bool,
        /// Ports by name.
        #[serde(default)]
        names: bool,
        #[serde(default)]
        no_stats: bool,
        /// Fields to sort by, `priority` among them; a `-` before one turns its order.
        #[serde(default)]
        sort: Vec<String>,
    },
    DumpTables {
        bridge: String,
    },
    DumpAggregate {
        bridge: String,
        #[serde(default, rename = "match")]
        matches: Option<String>,
    },
    AddGroup {
        bridge: String,
        group: String,
    },
    /// Adds or changes groups, one a line, all or none.
    AddGroups {
        bridge: String,
        groups: String,
    },
    ModGroup {
        bridge: String,
        group: String,
        #[serde(default)]
        may_create: bool,
    },
    DelGroups {
        bridge: String,
        /// Which one; all when absent.
        #[serde(default)]
        group: Option<String>,
    },
    InsertBuckets {
        bridge: String,
        group: String,
    },
    RemoveBuckets {
        bridge: String,
        group: String,
    },
    DumpGroups {
        bridge: String,
        #[serde(default)]
        group: Option<String>,
        #[serde(default)]
        names: bool,
    },
    DumpGroupStats {
        bridge: String,
        #[serde(default)]
        group: Option<String>,
    },
    PacketOut {
        bridge: String,
        in_port: String,
        actions: String,
        /// In hexadecimal.
        packet: String,
    },
    /// What would happen to a packet.
    Trace {
        bridge: String,
        /// Its fields; with `packets` only the metadata among them counts, such as `in_port`.
        #[serde(default)]
        flow: Option<String>,
        /// Frames in hexadecimal.
        #[serde(default)]
        packets: Vec<String>,
        /// `ct_state` after each `ct()`, such as `trk,new`, in order.
        #[serde(default)]
        ct_next: Vec<String>,
        /// Send the packet for real.
        #[serde(default)]
        generate: bool,
    },
    /// One page of the connections that a filter means.
    ConntrackList {
        #[serde(default)]
        filter: Vec<String>,
        /// Where it begins, from the page before.
        #[serde(default)]
        from: Option<u64>,
    },
    ConntrackFlush {
        /// Which ones; all when empty.
        #[serde(default)]
        filter: Vec<String>,
    },
    ConntrackStats {},
    ConntrackLimit {},
    SetConntrackLimit {
        settings: Vec<String>,
    },
    ConntrackTimeout {
        #[serde(default)]
        zone: Option<u16>,
    },
    SetConntrackTimeout {
        #[serde(default)]
        zone: Option<u16>,
        settings: Vec<String>,
    },
    /// Tunnel ports: the way of each, and what became of its packets.
    Tunnels {
        #[serde(default)]
        port: Option<String>,
    },
    /// A way to tunnels' remote ends.
    RouteAdd {
        prefix: String,
        bridge: String,
        /// `via` and `src`.
        #[serde(default)]
        settings: Vec<String>,
    },
    RouteDel {
        prefix: String,
    },
    RouteShow {},
    NeighAdd {
        bridge: String,
        address: String,
        mac: String,
    },
    NeighDel {
        bridge: String,
        address: String,
    },
    NeighShow {
        #[serde(default)]
        bridge: Option<String>,
    },
    AddRouter {
        router: String,
        #[serde(default)]
        may_exist: bool,
    },
    DelRouter {
        router: String,
        #[serde(default)]
        if_exists: bool,
    },
    ListRouters {},
    ShowRouter {
        router: String,
    },
    AddRouterPort {
        router: String,
        bridge: String,
        port: String,
        /// `ip=`, `mac=`, `mtu=`, `tag=`.
        settings: Vec<String>,
        #[serde(default)]
        may_exist: bool,
    },
    DelRouterPort {
        router: String,
        port: String,
        #[serde(default)]
        if_exists: bool,
    },
    SetGateway {
        router: String,
        bridge: String,
        port: String,
        /// The same and `via=`.
        settings: Vec<String>,
    },
    DelGateway {
        router: String,
        #[serde(default)]
        if_exists: bool,
    },
    AddRoute {
        router: String,
        prefix: String,
        via: String,
        #[serde(default)]
        may_exist: bool,
    },
    DelRoute {
        router: String,
        prefix: String,
        #[serde(default)]
        if_exists: bool,
    },
    AddSnat {
        router: String,
        prefix: String,
        address: String,
        #[serde(default)]
        may_exist: bool,
    },
    DelSnat {
        router: String,
        prefix: String,
        #[serde(default)]
        if_exists: bool,
    },
    AddFloatingIp {
        router: String,
        external: String,
        internal: String,
        #[serde(default)]
        may_exist: bool,
    },
    DelFloatingIp {
        router: String,
        external: String,
        #[serde(default)]
        if_exists: bool,
    },
    AddDnat {
        router: String,
        proto: Proto,
        external: String,
        internal: String,
        #[serde(default)]
        may_exist: bool,
    },
    /// Who is behind a port; from now on only what its rules allow passes.
    SecurityGroupSet {
        port: String,
        /// `mac=` and `ip=`.
        settings: Vec<String>,
    },
    SecurityGroupRemove {
        port: String,
        #[serde(default)]
        if_exists: bool,
    },
    SecurityGroupAdd {
        port: String,
        way: Way,
        /// `proto=`, `port=`, `remote=`.
        #[serde(default)]
        rule: Vec<String>,
        #[serde(default)]
        may_exist: bool,
    },
    SecurityGroupDel {
        port: String,
        way: Way,
        #[serde(default)]
        rule: Vec<String>,
        #[serde(default)]
        if_exists: bool,
    },
    SecurityGroupShow {
        #[serde(default)]
        port: Option<String>,
    },
    DelDnat {
        router: String,
        proto: Proto,
        external: String,
        #[serde(default)]
        if_exists: bool,
    },
    Workers {
        /// With the cycles of each stage.
        #[serde(default)]
        stages: bool,
    },
    Version {},
    LogLevel {
        #[serde(default)]
        level: Option<String>,
    },
}

impl Command {
    /// The command's name and its other fields, as [`crate::backend::Backend::call`] takes them.
    pub fn to_call(&self) -> Result<(String, Json), CtlError> {
        let json = serde_json::to_value(self).map_err(|e| CtlError::internal(e.to_string()))?;
        let Json::Object(mut fields) = json else {
            return Err(CtlError::internal("a command that is no object"));
        };
        match fields.remove("command") {
            Some(Json::String(name)) => Ok((name, Json::Object(fields))),
            _ => Err(CtlError::internal("a command without a name")),
        }
    }

    /// Reads a command from an object with `command` and its fields.
    pub fn from_json(json: Json) -> Result<Self, CtlError> {
        let Some(name) = json.get("command").and_then(Json::as_str).map(str::to_owned) else {
            return Err(CtlError::protocol(
                "a command is an object with a string \"command\", such as {\"command\":\"list-br\"}",
            ));
        };
        if !NAMES.contains(&name.as_str()) {
            let error = CtlError::not_found(format!("unknown command {}", quoted(&name)));
            return Err(error.suggest(&name, NAMES.iter().copied()));
        }
        serde_json::from_value(json).map_err(|e| CtlError::protocol(format!("{name}: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_what_it_writes() {
        let add = Command::AddPort {
            bridge: "br0".into(),
            port: "p 1".into(),
            settings: vec!["tag=5".into()],
            may_exist: true,
        };
        let json = serde_json::to_value(&add).expect("json");
        assert_eq!(json["command"], "add-port");
        assert_eq!(Command::from_json(json).expect("a command"), add);
        assert_eq!(add.text(), "--may-exist add-port br0 \"p 1\" tag=5");
        let (name, params) = Command::FdbShow { bridge: "br0".into() }.to_call().expect("call");
        assert_eq!((name.as_str(), params), ("fdb-show", json!({"bridge": "br0"})));
    }

    #[test]
    fn bad_documents_are_refused_with_reasons() {
        let refuse = |j: Json| Command::from_json(j).expect_err("refused");
        assert_eq!(
            refuse(json!({"command": "add-bt"})).hint.as_deref(),
            Some("did you mean \"add-br\"?")
        );
        assert!(refuse(json!({"command": "add-br"})).message.contains("bridge"));
        assert!(
            refuse(json!({"command": "list-br", "x": 1})).message.contains("unknown field `x`")
        );
        assert!(refuse(json!([1])).message.contains("an object"));
        assert!(refuse(json!({"command": 5})).message.contains("an object"));
    }

    #[test]
    fn every_name_is_a_variant() {
        for name in NAMES {
            let error = Command::from_json(json!({"command": name, "nonsense": 1}));
            let message = error.expect_err("an unknown field").message;
            assert!(message.contains("nonsense") || message.contains("missing"), "{message}");
        }
    }
}
