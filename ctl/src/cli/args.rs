//! The grammar of the command line: options and commands, `--` between the commands of a transaction.
//! Every mistake found here is one of usage (exit status 2); what only the daemon can judge is not
//! judged here.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

mod conntrack;
mod flow;
mod paths;
mod router;

use super::help;
use crate::command::{Command, Record};
use crate::options::RUN_DIR;

use conntrack::ConntrackVerb;
pub(super) use conntrack::Listing;
pub(super) use flow::File;
use flow::FlowVerb;
use paths::{NeighVerb, RouteVerb};
use router::{RouterVerb, SecurityVerb};

/// Options for the whole call.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Options {
    pub(super) run_dir: PathBuf,
    pub(super) format: Format,
    /// Zero: none.
    pub(super) timeout: Duration,
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    // Plain comments: documented values would make every command's help twice as long.
    // For people.
    Table,
    // One document per command.
    Json,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(super) enum Invocation {
    Completions(Shell),
    /// `files`: what commands, by their index, lack and where it is.
    Commands {
        options: Options,
        commands: Vec<Command>,
        files: Vec<(usize, File)>,
    },
    Monitor {
        options: Options,
        bridge: String,
    },
    List {
        options: Options,
        listing: Listing,
    },
}

/// Heading of the options that every command takes.
const COMMON: &str = "Options before or after any command";

/// Ask and configure a running vswitchd
#[derive(Debug, Parser)]
#[command(
    name = "vswitchctl",
    version,
    disable_version_flag = true,
    after_help = help::EXAMPLES,
    infer_long_args = false,
    max_term_width = 100
)]
struct Args {
    /// Directory of the daemon's socket
    #[arg(long, value_name = "DIR", global = true, help_heading = COMMON, env = "VSWITCH_RUN_DIR", default_value = RUN_DIR)]
    run_dir: PathBuf,
    /// How answers are printed: for people, or one JSON document per command
    #[arg(long, value_name = "FORMAT", global = true, help_heading = COMMON, default_value = "table")]
    format: Format,
    /// Seconds to wait for the daemon; 0: without end
    #[arg(long, value_name = "S", global = true, help_heading = COMMON, default_value = "60", value_parser = seconds)]
    timeout: Duration,
    /// With commands that add: what exists already is no error
    #[arg(long, global = true, help_heading = COMMON)]
    may_exist: bool,
    /// With commands that remove, and set, get and clear: what does not exist is no error
    #[arg(long, global = true, help_heading = COMMON)]
    if_exists: bool,
    /// Print the version of vswitchctl ("vswitchctl version" asks the daemon too)
    #[arg(short = 'V', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a bridge, with its own interface of the same name
    #[command(after_help = "Examples:
  vswitchctl add-br br0
  vswitchctl add-br br-int fail_mode=secure other_config:mac-aging-time=600
  vswitchctl --may-exist add-br br0")]
    AddBr {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
        /// Settings, such as fail_mode=secure
        #[arg(value_name = "KEY=VALUE")]
        settings: Vec<String>,
    },
    /// Remove a bridge with its ports
    #[command(after_help = "Examples:
  vswitchctl del-br br0
  vswitchctl --if-exists del-br br0")]
    DelBr {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
    },
    /// List the bridges
    #[command(after_help = "Example:
  vswitchctl list-br")]
    ListBr,
    /// Exit with status 0 if the bridge exists, 1 if not
    #[command(after_help = "Example:
  vswitchctl br-exists br0 && echo there")]
    BrExists {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
    },
    /// Add a port to a bridge: by default the network interface of that name
    #[command(after_help = "Examples:
  vswitchctl add-port br0 eth1
  vswitchctl add-port br0 vnet3 tag=10
  vswitchctl add-port br0 eth2 trunks=10,20 vlan_mode=native-untagged tag=1
  vswitchctl add-port br0 dhcp0 type=internal
  vswitchctl add-port br-int to-tun type=patch options:peer=to-int -- \\
             add-port br-tun to-int type=patch options:peer=to-tun")]
    AddPort {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
        /// A port
        #[arg(value_name = "PORT")]
        port: String,
        /// Settings, such as tag=5 or type=internal
        #[arg(value_name = "KEY=VALUE")]
        settings: Vec<String>,
    },
    /// Remove a port
    #[command(
        after_help = "Examples:
  vswitchctl del-port br0 eth1
  vswitchctl --if-exists del-port eth1",
        override_usage = "vswitchctl del-port [OPTIONS] [BR] PORT"
    )]
    DelPort {
        /// The port, perhaps after the bridge that it must be in
        #[arg(value_name = "[BR] PORT", required = true, num_args = 1..=2)]
        names: Vec<String>,
    },
    /// List the ports of a bridge, its own not included
    #[command(after_help = "Example:
  vswitchctl list-ports br0")]
    ListPorts {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
    },
    /// Print the bridge that a port is in
    #[command(after_help = "Example:
  vswitchctl port-to-br eth1")]
    PortToBr {
        /// A port
        #[arg(value_name = "PORT")]
        port: String,
    },
    /// Change settings of a bridge or port
    Set {
        /// Whether NAME is a bridge or a port (interface: the same as port)
        #[arg(value_name = "bridge|port", value_parser = record)]
        record: Record,
        /// Which one
        #[arg(value_name = "NAME")]
        name: String,
        /// Settings, such as tag=5
        #[arg(value_name = "KEY=VALUE", required = true)]
        settings: Vec<String>,
    },
    /// Print settings of a bridge or port: the given ones, or all that are set
    #[command(after_help = "Examples:
  vswitchctl get bridge br0 fail_mode
  vswitchctl get port eth1 ofport tag
  vswitchctl --if-exists get port eth1 external_ids:iface-id
  vswitchctl get port eth1")]
    Get {
        /// Whether NAME is a bridge or a port (interface: the same as port)
        #[arg(value_name = "bridge|port", value_parser = record)]
        record: Record,
        /// Which one
        #[arg(value_name = "NAME")]
        name: String,
        /// Settings, such as tag or other_config:mac-aging-time
        #[arg(value_name = "KEY")]
        columns: Vec<String>,
    },
    /// Take settings of a bridge or port back to their defaults
    #[command(after_help = "Examples:
  vswitchctl clear port eth1 tag trunks
  vswitchctl clear bridge br0 other_config:mac-aging-time")]
    Clear {
        /// Whether NAME is a bridge or a port (interface: the same as port)
        #[arg(value_name = "bridge|port", value_parser = record)]
        record: Record,
        /// Which one
        #[arg(value_name = "NAME")]
        name: String,
        /// Settings, such as tag or other_config:mac-aging-time
        #[arg(value_name = "KEY", required = true)]
        columns: Vec<String>,
    },
    /// Show bridges and ports: how they are configured and how they are
    #[command(after_help = "Examples:
  vswitchctl show
  vswitchctl show br0 --format json")]
    Show {
        /// This bridge only
        #[arg(value_name = "BR")]
        bridge: Option<String>,
    },
    /// Learned MAC addresses
    #[command(after_help = "Examples:
  vswitchctl fdb show br0
  vswitchctl fdb flush br0
  vswitchctl fdb stats br0")]
    Fdb {
        #[command(subcommand)]
        verb: FdbVerb,
    },
    /// Counters of a bridge's ports, with drops by reason
    #[command(after_help = "Examples:
  vswitchctl dump-ports br0
  vswitchctl dump-ports br0 eth1")]
    DumpPorts {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
        /// This port only
        #[arg(value_name = "PORT")]
        port: Option<String>,
    },
    #[command(flatten)]
    Flow(FlowVerb),
    #[command(flatten)]
    Router(RouterVerb),
    /// What instances may claim to be, and which connections pass
    #[command(after_help = "Examples:
  vswitchctl security-group set tap1 mac=fa:16:3e:00:00:01 ip=192.168.1.11
  vswitchctl security-group add tap1 in proto=tcp port=22
  vswitchctl security-group show tap1")]
    SecurityGroup {
        #[command(subcommand)]
        verb: SecurityVerb,
    },
    /// Show packets for a controller and flows that go, as it happens
    #[command(after_help = "Example:
  vswitchctl monitor br0")]
    Monitor {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
    },
    /// Tracked connections: list, end, count, limits and timeouts
    #[command(after_help = "Examples:
  vswitchctl conntrack list zone=5 proto=tcp
  vswitchctl conntrack flush zone=5
  vswitchctl conntrack stats
  vswitchctl conntrack limit zone:5=1000
  vswitchctl conntrack timeout udp_single=30")]
    Conntrack {
        #[command(subcommand)]
        verb: ConntrackVerb,
    },
    /// Tunnel ports: next hop, state, packets, last error
    #[command(after_help = "Examples:
  vswitchctl tunnels
  vswitchctl tunnels vx0 --format json")]
    Tunnels {
        /// This one only
        #[arg(value_name = "PORT")]
        port: Option<String>,
    },
    /// Routes of tunnels' packets
    #[command(after_help = "Examples:
  vswitchctl route add 192.0.2.0/24 br-phy src=192.0.2.1
  vswitchctl route del 192.0.2.0/24
  vswitchctl route show")]
    Route {
        #[command(subcommand)]
        verb: RouteVerb,
    },
    /// Neighbours of tunnels' packets
    #[command(after_help = "Examples:
  vswitchctl neigh add br-phy 192.0.2.2 02:00:00:00:00:02
  vswitchctl neigh del br-phy 192.0.2.2
  vswitchctl neigh show")]
    Neigh {
        #[command(subcommand)]
        verb: NeighVerb,
    },
    /// Dropped packets of the whole switch, by reason
    #[command(after_help = "Examples:
  vswitchctl drops
  vswitchctl drops --why")]
    Drops {
        /// With the latest packets of each reason
        #[arg(long)]
        why: bool,
    },
    /// Cached forwarding decisions: match, actions, hits, what each was made from
    #[command(after_help = "Examples:
  vswitchctl dump-megaflows
  vswitchctl dump-megaflows --limit 20")]
    DumpMegaflows {
        /// At most N, the busiest first
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
    },
    /// Forwarding threads: packets, cycles per packet, cache hits, bursts, idle time
    #[command(after_help = "Examples:
  vswitchctl workers
  vswitchctl workers --stages")]
    Workers {
        /// Where the cycles go: per packet in receive, extract, cache, classifier, upcall, actions,
        /// conntrack, transmit
        #[arg(long)]
        stages: bool,
    },
    /// Print the daemon's version; fails when no daemon answers
    #[command(after_help = "Example:
  vswitchctl --run-dir /run/vswitch version")]
    Version,
    /// Print or change how much the daemon logs
    #[command(after_help = "Examples:
  vswitchctl log-level
  vswitchctl log-level debug
  vswitchctl log-level info,engine=trace")]
    LogLevel {
        /// off, error, warn, info, debug or trace, and MODULE=LEVEL after commas
        #[arg(value_name = "LEVEL")]
        level: Option<String>,
    },
    /// Print a script that completes vswitchctl's words in a shell
    #[command(after_help = "Example:
  vswitchctl completions bash > /etc/bash_completion.d/vswitchctl")]
    Completions {
        /// Which shell
        #[arg(value_name = "SHELL")]
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
enum FdbVerb {
    /// List the learned addresses of a bridge
    Show {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
    },
    /// Forget the learned addresses of a bridge
    Flush {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
    },
    /// Count what was learned, moved, expired and evicted
    Stats {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
    },
}

/// The grammar with the help that is made from the schema.
fn grammar() -> clap::Command {
    Args::command().mut_subcommand("set", |set| set.after_help(help::keys()))
}

/// Reads the whole command line.
pub(super) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    let mut args = args.into_iter();
    let program = args.next().unwrap_or_else(|| "vswitchctl".into());
    let words: Vec<OsString> = args.collect();
    let mut commands = Vec::new();
    let mut files = Vec::new();
    let mut monitored = None;
    let mut listed = None;
    let mut options: Option<Options> = None;
    let segments: Vec<&[OsString]> = words.split(|w| w == "--").collect();
    let count = segments.len();
    for (index, segment) in segments.into_iter().enumerate() {
        let line = std::iter::once(program.clone()).chain(segment.iter().cloned());
        let matches = grammar().try_get_matches_from(line)?;
        let args = <Args as clap::FromArgMatches>::from_arg_matches(&matches)?;
        merge(&mut options, &args, &matches);
        match args.verb {
            Some(Verb::Completions { shell }) if count == 1 => {
                return Ok(Invocation::Completions(shell));
            }
            Some(Verb::Monitor { bridge }) if count == 1 => {
                monitored = Some(bridge);
            }
            Some(Verb::Conntrack { verb }) => match conntrack::to_command(verb) {
                _ if args.may_exist || args.if_exists => {
                    let message = "--may-exist and --if-exists do not go with conntrack";
                    return Err(usage(ErrorKind::ArgumentConflict, message));
                }
                Ok(command) => commands.push(command),
                Err(listing) if count == 1 => listed = Some(listing),
                Err(_) => {
                    let message = "conntrack list stands alone";
                    return Err(usage(ErrorKind::ArgumentConflict, message));
                }
            },
            Some(verb) => {
                let (command, file) = to_command(verb, args.may_exist, args.if_exists)?;
                files.extend(file.map(|f| (commands.len(), f)));
                commands.push(command);
            }
            // Options alone before the first `--`, as ovs-vsctl takes them.
            None if index == 0 && count > 1 && !args.may_exist && !args.if_exists => {}
            None if count == 1 => {
                return Err(usage(ErrorKind::MissingSubcommand, "a command is missing"));
            }
            None => {
                let message = format!("command {} between -- is missing", index + 1);
                return Err(usage(ErrorKind::MissingSubcommand, &message));
            }
        }
    }
    match (options, monitored, listed) {
        (Some(options), Some(bridge), _) => Ok(Invocation::Monitor { options, bridge }),
        (Some(options), _, Some(listing)) => Ok(Invocation::List { options, listing }),
        (Some(options), None, None) if !commands.is_empty() => {
            Ok(Invocation::Commands { options, commands, files })
        }
        _ => Err(usage(ErrorKind::MissingSubcommand, "a command is missing")),
    }
}

/// The script for `shell`.
pub(super) fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut grammar(), "vswitchctl", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Options given with any command are for the whole call; the last one counts.
fn merge(options: &mut Option<Options>, args: &Args, matches: &clap::ArgMatches) {
    let target = options.get_or_insert_with(|| Options {
        run_dir: args.run_dir.clone(),
        format: args.format,
        timeout: args.timeout,
    });
    let given = |id: &str| given(matches, id);
    if given("run_dir") {
        target.run_dir.clone_from(&args.run_dir);
    }
    if given("format") {
        target.format = args.format;
    }
    if given("timeout") {
        target.timeout = args.timeout;
    }
}

/// Was the option on the command line, before the command or after it?
fn given(matches: &clap::ArgMatches, id: &str) -> bool {
    let here = matches.value_source(id) == Some(clap::parser::ValueSource::CommandLine);
    here || matches
        .subcommand()
        .is_some_and(|(_, sub)| sub.try_contains_id(id).is_ok() && given(sub, id))
}

fn to_command(
    verb: Verb,
    may_exist: bool,
    if_exists: bool,
) -> Result<(Command, Option<File>), clap::Error> {
    let router = match &verb {
        Verb::Router(verb) => Some(verb),
        _ => None,
    };
    let takes_may = matches!(verb, Verb::AddBr { .. } | Verb::AddPort { .. })
        || matches!(verb, Verb::SecurityGroup { verb: SecurityVerb::Add { .. } })
        || router.is_some_and(RouterVerb::takes_may_exist);
    let of_group = matches!(
        verb,
        Verb::SecurityGroup { verb: SecurityVerb::Del { .. } | SecurityVerb::Remove { .. } }
    );
    let takes_if = of_group
        || router.is_some_and(RouterVerb::takes_if_exists)
        || matches!(
            verb,
            Verb::DelBr { .. }
                | Verb::DelPort { .. }
                | Verb::Set { .. }
                | Verb::Get { .. }
                | Verb::Clear { .. }
        );
    if (may_exist && !takes_may) || (if_exists && !takes_if) {
        let (flag, takers) = match may_exist && !takes_may {
            true => ("--may-exist", "add-br, add-port and what adds to routers"),
            false => {
                ("--if-exists", "del-br, del-port, set, get, clear and what removes from routers")
            }
        };
        return Err(usage(ErrorKind::ArgumentConflict, &format!("{flag} goes with {takers}")));
    }
    let command = match verb {
        Verb::AddBr { bridge, settings } => Command::AddBr { bridge, settings, may_exist },
        Verb::DelBr { bridge } => Command::DelBr { bridge, if_exists },
        Verb::ListBr => Command::ListBr {},
        Verb::BrExists { bridge } => Command::BrExists { bridge },
        Verb::AddPort { bridge, port, settings } => {
            Command::AddPort { bridge, port, settings, may_exist }
        }
        Verb::DelPort { mut names } => {
            let port = names.pop().unwrap_or_default();
            Command::DelPort { bridge: names.pop(), port, if_exists }
        }
        Verb::ListPorts { bridge } => Command::ListPorts { bridge },
        Verb::PortToBr { port } => Command::PortToBr { port },
        Verb::Set { record, name, settings } => Command::Set { record, name, settings, if_exists },
        Verb::Get { record, name, columns } => Command::Get { record, name, columns, if_exists },
        Verb::Clear { record, name, columns } => {
            Command::Clear { record, name, columns, if_exists }
        }
        Verb::Show { bridge } => Command::Show { bridge },
        Verb::Fdb { verb: FdbVerb::Show { bridge } } => Command::FdbShow { bridge },
        Verb::Fdb { verb: FdbVerb::Flush { bridge } } => Command::FdbFlush { bridge },
        Verb::Fdb { verb: FdbVerb::Stats { bridge } } => Command::FdbStats { bridge },
        Verb::DumpPorts { bridge, port } => Command::DumpPorts { bridge, port },
        Verb::Drops { why } => Command::Drops { why },
        Verb::DumpMegaflows { limit } => Command::DumpMegaflows { limit },
        Verb::Tunnels { port } => Command::Tunnels { port },
        Verb::Route { verb } => paths::route(verb),
        Verb::Neigh { verb } => paths::neigh(verb),
        Verb::Workers { stages } => Command::Workers { stages },
        Verb::Version => Command::Version {},
        Verb::LogLevel { level } => Command::LogLevel { level },
        Verb::Flow(verb) => return Ok(flow::to_command(verb)),
        Verb::Router(verb) => router::to_command(verb, may_exist, if_exists),
        Verb::SecurityGroup { verb } => router::security_command(verb, may_exist, if_exists),
        Verb::Monitor { .. } => {
            return Err(usage(ErrorKind::ArgumentConflict, "monitor stands alone"));
        }
        // The caller has taken it.
        Verb::Conntrack { .. } | Verb::Completions { .. } => {
            return Err(usage(ErrorKind::ArgumentConflict, "completions stands alone"));
        }
    };
    Ok((command, None))
}

fn usage(kind: ErrorKind, message: &str) -> clap::Error {
    grammar().error(kind, message)
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok();
    match seconds.filter(|s| (0.0..=86400.0).contains(s)) {
        Some(seconds) => Ok(Duration::from_secs_f64(seconds)),
        None => Err("expected a number of seconds from 0 to 86400".to_owned()),
    }
}

/// Table names are taken in any case, as `ovs-vsctl` does.
fn record(text: &str) -> Result<Record, String> {
    let lower = text.to_ascii_lowercase();
    match lower.as_str() {
        "bridge" => Ok(Record::Bridge),
        "port" => Ok(Record::Port),
        "interface" => Ok(Record::Interface),
        _ => {
            let near = crate::suggest::closest(&lower, ["bridge", "port", "interface"]);
            let hint = near.map(|n| format!("; did you mean \"{n}\"?")).unwrap_or_default();
            Err(format!("expected bridge, port or interface{hint}"))
        }
    }
}

#[cfg(test)]
mod tests;
