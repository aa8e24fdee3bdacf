//! Commands as they would be typed, for messages and the log.

mod router;

use super::Command;
use crate::error::quoted;

impl Command {
    /// The command as it would be typed, for messages.
    pub fn text(&self) -> String {
        let mut words = Words(Vec::new());
        match self {
            Self::AddBr { bridge, settings, may_exist } => {
                words.flag("--may-exist", *may_exist).word("add-br").word(bridge).list(settings);
            }
            Self::DelBr { bridge, if_exists } => {
                words.flag("--if-exists", *if_exists).word("del-br").word(bridge);
            }
            Self::AddPort { bridge, port, settings, may_exist } => {
                words.flag("--may-exist", *may_exist).word("add-port").word(bridge).word(port);
                words.list(settings);
            }
            Self::DelPort { bridge, port, if_exists } => {
                words.flag("--if-exists", *if_exists).word("del-port");
                words.list(bridge.as_slice()).word(port);
            }
            Self::BrExists { bridge } => {
                words.word("br-exists").word(bridge);
            }
            Self::ListPorts { bridge } => {
                words.word("list-ports").word(bridge);
            }
            Self::PortToBr { port } => {
                words.word("port-to-br").word(port);
            }
            Self::Set { record, name, settings, if_exists } => {
                words.flag("--if-exists", *if_exists).word("set").word(record.as_str());
                words.word(name).list(settings);
            }
            Self::Get { record, name, columns, if_exists } => {
                words.flag("--if-exists", *if_exists).word("get").word(record.as_str());
                words.word(name).list(columns);
            }
            Self::Clear { record, name, columns, if_exists } => {
                words.flag("--if-exists", *if_exists).word("clear").word(record.as_str());
                words.word(name).list(columns);
            }
            Self::Show { bridge } => {
                words.word("show").list(bridge.as_slice());
            }
            Self::FdbShow { bridge } => {
                words.word("fdb show").word(bridge);
            }
            Self::FdbFlush { bridge } => {
                words.word("fdb flush").word(bridge);
            }
            Self::FdbStats { bridge } => {
                words.word("fdb stats").word(bridge);
            }
            Self::DumpPorts { bridge, port } => {
                words.word("dump-ports").word(bridge).list(port.as_slice());
            }
            Self::AddFlow { bridge, flow } => {
                words.word("add-flow").word(bridge).word(flow);
            }
            Self::AddFlows { bridge, .. } => drop(words.word("add-flows").word(bridge)),
            Self::ModFlows { bridge, flow, strict } => {
                words.flag("--strict", *strict).word("mod-flows").word(bridge).word(flow);
            }
            Self::DelFlows { bridge, matches, strict } => {
                words.flag("--strict", *strict).word("del-flows").word(bridge);
                words.list(matches.as_slice());
            }
            Self::ReplaceFlows { bridge, .. } => drop(words.word("replace-flows").word(bridge)),
            Self::DiffFlows { bridge, .. } => drop(words.word("diff-flows").word(bridge)),
            Self::DumpFlows { bridge, matches, .. } => {
                words.word("dump-flows").word(bridge).list(matches.as_slice());
            }
            Self::DumpTables { bridge } => drop(words.word("dump-tables").word(bridge)),
            Self::DumpAggregate { bridge, matches } => {
                words.word("dump-aggregate").word(bridge).list(matches.as_slice());
            }
            Self::AddGroup { bridge, group } => {
                words.word("add-group").word(bridge).word(group);
            }
            Self::AddGroups { bridge, .. } => drop(words.word("add-groups").word(bridge)),
            Self::ModGroup { bridge, group, may_create } => {
                words.flag("--may-create", *may_create).word("mod-group").word(bridge).word(group);
            }
            Self::DelGroups { bridge, group } => {
                words.word("del-groups").word(bridge).list(group.as_slice());
            }
            Self::InsertBuckets { bridge, group } => {
                words.word("insert-buckets").word(bridge).word(group);
            }
            Self::RemoveBuckets { bridge, group } => {
                words.word("remove-buckets").word(bridge).word(group);
            }
            Self::DumpGroups { bridge, group, .. } => {
                words.word("dump-groups").word(bridge).list(group.as_slice());
            }
            Self::DumpGroupStats { bridge, group } => {
                words.word("dump-group-stats").word(bridge).list(group.as_slice());
            }
            Self::PacketOut { bridge, in_port, actions, .. } => {
                words.word("packet-out").word(bridge).word(in_port).word(actions);
            }
            Self::Trace { bridge, flow, .. } => {
                words.word("trace").word(bridge).list(flow.as_slice());
            }
            Self::LogLevel { level } => {
                words.word("log-level").list(level.as_slice());
            }
            Self::ListBr {} => drop(words.word("list-br")),
            Self::Drops { why } => drop(words.word("drops").flag("--why", *why)),
            Self::DumpMegaflows { .. } => drop(words.word("dump-megaflows")),
            Self::ConntrackList { filter, .. } => {
                words.word("conntrack").word("list").list(filter);
            }
            Self::ConntrackFlush { filter } => {
                words.word("conntrack").word("flush").list(filter);
            }
            Self::ConntrackStats {} => drop(words.word("conntrack").word("stats")),
            Self::ConntrackLimit {} => drop(words.word("conntrack").word("limit")),
            Self::SetConntrackLimit { settings } => {
                words.word("conntrack").word("limit").list(settings);
            }
            Self::ConntrackTimeout { zone } => {
                words.word("conntrack").word("timeout").list(&zone_option(*zone));
            }
            Self::SetConntrackTimeout { zone, settings } => {
                words.word("conntrack").word("timeout").list(&zone_option(*zone)).list(settings);
            }
            Self::Tunnels { port } => drop(words.word("tunnels").list(port.as_slice())),
            Self::RouteAdd { prefix, bridge, settings } => {
                words.word("route").word("add").word(prefix).word(bridge).list(settings);
            }
            Self::RouteDel { prefix } => drop(words.word("route").word("del").word(prefix)),
            Self::RouteShow {} => drop(words.word("route").word("show")),
            Self::NeighAdd { bridge, address, mac } => {
                words.word("neigh").word("add").word(bridge).word(address).word(mac);
            }
            Self::NeighDel { bridge, address } => {
                words.word("neigh").word("del").word(bridge).word(address);
            }
            Self::NeighShow { bridge } => {
                words.word("neigh").word("show").list(bridge.as_slice());
            }
            Self::Workers { stages } => drop(words.word("workers").flag("--stages", *stages)),
            Self::Version {} => drop(words.word("version")),
            router => router::words(router, &mut words),
        }
        words.0.join(" ")
    }
}

fn zone_option(zone: Option<u16>) -> Vec<String> {
    zone.map(|z| format!("--zone={z}")).into_iter().collect()
}

/// Collects the words of [`Command::text`].
struct Words(Vec<String>);

impl Words {
    fn word(&mut self, word: &str) -> &mut Self {
        let plain = |c: char| c.is_ascii_graphic() && !"\"'\\$`".contains(c);
        if !word.is_empty() && (word.starts_with("fdb ") || word.chars().all(plain)) {
            self.0.push(word.to_owned());
        } else {
            self.0.push(quoted(word));
        }
        self
    }

    fn flag(&mut self, name: &str, given: bool) -> &mut Self {
        if given { self.word(name) } else { self }
    }

    fn list(&mut self, words: &[String]) -> &mut Self {
        for word in words {
            self.word(word);
        }
        self
    }
}
