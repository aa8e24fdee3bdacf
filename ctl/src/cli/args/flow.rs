//! The commands on flows, groups and packets: what their words mean.

use std::path::PathBuf;

use clap::Subcommand;

use crate::command::Command;

/// Commands of OpenFlow, in `ovs-ofctl(8)`'s words.
#[derive(Debug, Subcommand)]
pub(super) enum FlowVerb {
    /// Add a flow, or replace the one with its match and priority
    #[command(after_help = "Examples:
  vswitchctl add-flow br0 'priority=10,ip,nw_dst=10.0.0.0/8,actions=output:2'
  vswitchctl add-flow br0 in_port=eth1,actions=drop")]
    AddFlow {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
        /// Match, settings and actions
        #[arg(value_name = "FLOW")]
        flow: String,
    },
    /// Add flows from a file, one a line: all of them, or none
    #[command(after_help = "Examples:
  vswitchctl add-flows br0 flows.txt
  vswitchctl dump-flows br1 --no-stats | vswitchctl add-flows br0 -")]
    AddFlows {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
        /// The file; - is standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Change the actions of flows, or add one where there is none
    #[command(after_help = "Examples:
  vswitchctl mod-flows br0 ip,actions=output:3
  vswitchctl --strict mod-flows br0 priority=10,ip,actions=drop")]
    ModFlows {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
        /// Match, settings and actions
        #[arg(value_name = "FLOW")]
        flow: String,
        /// Only the flow with exactly this match and priority
        #[arg(long)]
        strict: bool,
    },
    /// Remove flows: those within a match, or all
    #[command(after_help = "Examples:
  vswitchctl del-flows br0
  vswitchctl del-flows br0 table=3,cookie=0x10/0xf0
  vswitchctl del-flows br0 --strict priority=10,ip")]
    DelFlows {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
        /// Which flows
        #[arg(value_name = "MATCH")]
        matches: Option<String>,
        /// Only the flow with exactly this match and priority
        #[arg(long)]
        strict: bool,
    },
    /// Make a bridge's flows those of a file; flows that stay keep their counters
    #[command(after_help = "Example:
  vswitchctl replace-flows br0 flows.txt")]
    ReplaceFlows {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
        /// The file; - is standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Compare a bridge's flows (-) with a file's (+); exit status 2 if they differ
    #[command(after_help = "Example:
  vswitchctl diff-flows br0 flows.txt")]
    DiffFlows {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
        /// The file; - is standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// List flows, one a line, by table, priority and match
    #[command(after_help = "Examples:
  vswitchctl dump-flows br0
  vswitchctl dump-flows br0 table=0,ip --names
  vswitchctl dump-flows --internal r1
  vswitchctl dump-flows br0 --no-stats --rsort=priority --sort=nw_dst")]
    DumpFlows {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
        /// Which flows
        #[arg(value_name = "MATCH")]
        matches: Option<String>,
        /// BR is a router: the flows that it was compiled to
        #[arg(long, conflicts_with = "names")]
        internal: bool,
        /// Ports by name
        #[arg(long)]
        names: bool,
        /// Ports by number, as is the default
        #[arg(long, conflicts_with = "names")]
        no_names: bool,
        /// Without counters and times
        #[arg(long, visible_alias = "no-statistics")]
        no_stats: bool,
        /// Lowest value first, of a field or of the priority
        #[arg(long, value_name = "FIELD", num_args = 0..=1, require_equals = true, default_missing_value = "priority")]
        sort: Vec<String>,
        /// Highest value first
        #[arg(long, value_name = "FIELD", num_args = 0..=1, require_equals = true, default_missing_value = "priority")]
        rsort: Vec<String>,
    },
    /// Count flows, masks and packets of each table
    #[command(after_help = "Example:
  vswitchctl dump-tables br0")]
    DumpTables {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
    },
    /// Sum up the counters of flows
    #[command(after_help = "Example:
  vswitchctl dump-aggregate br0 table=2")]
    DumpAggregate {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
        /// Which flows
        #[arg(value_name = "MATCH")]
        matches: Option<String>,
    },
    /// Add a group
    #[command(after_help = "Examples:
  vswitchctl add-group br0 group_id=1,type=all,bucket=output:1,bucket=output:2
  vswitchctl add-group br0 group_id=2,type=select,bucket=weight:3,output:1,bucket=output:2
  vswitchctl add-group br0 group_id=3,type=ff,bucket=watch_port:1,output:1,bucket=watch_port:2,output:2")]
    AddGroup {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
        /// Number, type and buckets
        #[arg(value_name = "GROUP")]
        group: String,
    },
    /// Add groups from a file, one a line: all of them, or none
    #[command(after_help = "Example:
  vswitchctl add-groups br0 groups.txt")]
    AddGroups {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
        /// The file; - is standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Change a group
    #[command(after_help = "Example:
  vswitchctl mod-group br0 --may-create group_id=1,type=indirect,bucket=output:3")]
    ModGroup {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
        /// Number, type and buckets
        #[arg(value_name = "GROUP")]
        group: String,
        /// Add it if it does not exist
        #[arg(long)]
        may_create: bool,
    },
    /// Remove groups, and the flows that go to them
    #[command(after_help = "Examples:
  vswitchctl del-groups br0
  vswitchctl del-groups br0 group_id=1")]
    DelGroups {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
        /// Which one; all without it
        #[arg(value_name = "GROUP")]
        group: Option<String>,
    },
    /// Put buckets into a group
    #[command(after_help = "Example:
  vswitchctl insert-buckets br0 group_id=1,command_bucket_id=last,bucket=bucket_id:7,output:3")]
    InsertBuckets {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
        /// The group and its new buckets
        #[arg(value_name = "GROUP")]
        group: String,
    },
    /// Take a bucket out of a group
    #[command(after_help = "Example:
  vswitchctl remove-buckets br0 group_id=1,command_bucket_id=7")]
    RemoveBuckets {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
        /// The group and the bucket
        #[arg(value_name = "GROUP")]
        group: String,
    },
    /// List groups, one a line
    #[command(after_help = "Example:
  vswitchctl dump-groups br0")]
    DumpGroups {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
        /// This one only, such as group_id=1
        #[arg(value_name = "GROUP")]
        group: Option<String>,
        /// Ports by name
        #[arg(long)]
        names: bool,
    },
    /// Counters of groups and their buckets
    #[command(after_help = "Example:
  vswitchctl dump-group-stats br0 group_id=1")]
    DumpGroupStats {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
        /// This one only, such as group_id=1
        #[arg(value_name = "GROUP")]
        group: Option<String>,
    },
    /// Send a packet as if a controller had
    #[command(after_help = "Example:
  vswitchctl packet-out br0 none output:2 ffffffffffff0200000000010800")]
    PacketOut {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
        /// The port that it came by, or none
        #[arg(value_name = "IN_PORT")]
        in_port: String,
        /// What to do with it
        #[arg(value_name = "ACTIONS")]
        actions: String,
        /// The frame, in hexadecimal
        #[arg(value_name = "PACKET")]
        packet: String,
    },
    /// Show what happens to a packet: bridge by bridge, table by table
    #[command(after_help = "Examples:
  vswitchctl trace br0 in_port=1,tcp,nw_src=10.0.0.1,nw_dst=10.0.0.2,tp_dst=80
  vswitchctl trace br0 in_port=eth1 --packet ffffffffffff0200000000010806...
  vswitchctl trace br0 in_port=1 --pcap packets.pcap --format json
  vswitchctl trace br-int in_port=vm1,icmp --ct-next trk,est --generate")]
    Trace {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
        /// The packet's fields; what is not given is zero
        #[arg(value_name = "FLOW")]
        flow: Option<String>,
        /// The frame, in hexadecimal
        #[arg(long, value_name = "HEX", conflicts_with = "pcap")]
        packet: Option<String>,
        /// Every packet of a pcap file
        #[arg(long, value_name = "FILE")]
        pcap: Option<PathBuf>,
        /// What connection tracking says, for each ct() in turn (default: trk,new)
        #[arg(long, value_name = "STATES")]
        ct_next: Vec<String>,
        /// Send the packet for real
        #[arg(long)]
        generate: bool,
    },
}

/// A file that a command's text is in.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::cli) enum File {
    /// One text.
    Text(PathBuf),
    /// Packets.
    Pcap(PathBuf),
}

/// The command, and the file whose content it lacks.
pub(super) fn to_command(verb: FlowVerb) -> (Command, Option<File>) {
    let text = String::new;
    let mut from = None;
    let mut file = |f: PathBuf| from = Some(File::Text(f));
    let command = match verb {
        FlowVerb::AddFlow { bridge, flow } => Command::AddFlow { bridge, flow },
        FlowVerb::AddFlows { bridge, file: f } => {
            file(f);
            Command::AddFlows { bridge, flows: text() }
        }
        FlowVerb::ModFlows { bridge, flow, strict } => Command::ModFlows { bridge, flow, strict },
        FlowVerb::DelFlows { bridge, matches, strict } => {
            Command::DelFlows { bridge, matches, strict }
        }
        FlowVerb::ReplaceFlows { bridge, file: f } => {
            file(f);
            Command::ReplaceFlows { bridge, flows: text() }
        }
        FlowVerb::DiffFlows { bridge, file: f } => {
            file(f);
            Command::DiffFlows { bridge, flows: text() }
        }
        FlowVerb::DumpFlows {
            bridge,
            matches,
            internal,
            names,
            no_names: _,
            no_stats,
            sort,
            rsort,
        } => {
            let down = rsort.into_iter().map(|f| format!("-{f}"));
            let sort = sort.into_iter().chain(down).collect();
            Command::DumpFlows { bridge, matches, internal, names, no_stats, sort }
        }
        FlowVerb::DumpTables { bridge } => Command::DumpTables { bridge },
        FlowVerb::DumpAggregate { bridge, matches } => Command::DumpAggregate { bridge, matches },
        FlowVerb::AddGroup { bridge, group } => Command::AddGroup { bridge, group },
        FlowVerb::AddGroups { bridge, file: f } => {
            file(f);
            Command::AddGroups { bridge, groups: text() }
        }
        FlowVerb::ModGroup { bridge, group, may_create } => {
            Command::ModGroup { bridge, group, may_create }
        }
        FlowVerb::DelGroups { bridge, group } => Command::DelGroups { bridge, group },
        FlowVerb::InsertBuckets { bridge, group } => Command::InsertBuckets { bridge, group },
        FlowVerb::RemoveBuckets { bridge, group } => Command::RemoveBuckets { bridge, group },
        FlowVerb::DumpGroups { bridge, group, names } => {
            Command::DumpGroups { bridge, group, names }
        }
        FlowVerb::DumpGroupStats { bridge, group } => Command::DumpGroupStats { bridge, group },
        FlowVerb::PacketOut { bridge, in_port, actions, packet } => {
            Command::PacketOut { bridge, in_port, actions, packet }
        }
        FlowVerb::Trace { bridge, flow, packet, pcap, ct_next, generate } => {
            from = pcap.map(File::Pcap);
            let packets = packet.into_iter().collect();
            Command::Trace { bridge, flow, packets, ct_next, generate }
        }
    };
    (command, from)
}
