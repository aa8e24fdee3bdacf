//! The commands on tracked connections: what their words mean.

use clap::Subcommand;

use crate::command::Command;

/// Commands about connections.
#[derive(Debug, Subcommand)]
pub(super) enum ConntrackVerb {
    /// List connections; filters are KEY=VALUE, joined by blanks or commas
    #[command(
        after_help = "Keys: zone, proto, src, dst, sport, dport, reply-src, reply-dst, reply-sport, reply-dport,
mark and label (VALUE or VALUE/MASK). The names of ovs-fields(7), such as ct_nw_src, are taken too.

Examples:
  vswitchctl conntrack list
  vswitchctl conntrack list zone=5 proto=tcp dport=443
  vswitchctl conntrack list src=10.0.0.7 --limit 20
  vswitchctl conntrack list zone=5 --follow"
    )]
    List {
        /// Which connections; all when absent
        #[arg(value_name = "FILTER")]
        filter: Vec<String>,
        /// At most N
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        /// Go on with connections that come and go
        #[arg(long, short)]
        follow: bool,
    },
    /// End connections: those of a filter, or all
    #[command(after_help = "Examples:
  vswitchctl conntrack flush
  vswitchctl conntrack flush zone=5
  vswitchctl conntrack flush zone=5 proto=tcp src=10.0.0.7 sport=40000 dst=192.0.2.1 dport=443")]
    Flush {
        /// Which connections; all when absent. Keys are those of list
        #[arg(value_name = "FILTER")]
        filter: Vec<String>,
    },
    /// Count connections by state, protocol and zone, refusals, drops, and who fills the table
    #[command(after_help = "Examples:
  vswitchctl conntrack stats
  vswitchctl conntrack stats --format json")]
    Stats,
    /// Print or change how many connections there may be
    #[command(after_help = "Examples:
  vswitchctl conntrack limit
  vswitchctl conntrack limit total=1000000 zone=100000
  vswitchctl conntrack limit zone:5=1000 zone:6=none

zone=N is for each zone without a limit of its own. Connections that are there stay.")]
    Limit {
        /// total=N, zone=N or zone:5=N; none for N is the default again
        #[arg(value_name = "LIMIT=N")]
        settings: Vec<String>,
    },
    /// Print or change how long connections live without a packet
    #[command(after_help = "Examples:
  vswitchctl conntrack timeout
  vswitchctl conntrack timeout tcp_established=7200 udp_single=30
  vswitchctl conntrack timeout --zone 5 udp_first=10
  vswitchctl conntrack timeout --zone 5 udp_first=none

Names are those of the table CT_Timeout_Policy of ovs-vswitchd.conf.db(5), and a few more. A change is in
force from a connection's next packet on.")]
    Timeout {
        /// Of this zone; else of all zones that have none of their own
        #[arg(long, value_name = "ZONE")]
        zone: Option<u16>,
        /// Seconds; none is the default again
        #[arg(value_name = "NAME=SECONDS")]
        settings: Vec<String>,
    },
}

/// A list, which takes as many answers as it has pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Listing {
    pub(in crate::cli) filter: Vec<String>,
    pub(in crate::cli) limit: Option<u64>,
    pub(in crate::cli) follow: bool,
}

/// The command, or the listing that stands alone.
pub(super) fn to_command(verb: ConntrackVerb) -> Result<Command, Listing> {
    Ok(match verb {
        ConntrackVerb::List { filter, limit, follow } => {
            return Err(Listing { filter, limit, follow });
        }
        ConntrackVerb::Flush { filter } => Command::ConntrackFlush { filter },
        ConntrackVerb::Stats => Command::ConntrackStats {},
        ConntrackVerb::Limit { settings } if settings.is_empty() => Command::ConntrackLimit {},
        ConntrackVerb::Limit { settings } => Command::SetConntrackLimit { settings },
        ConntrackVerb::Timeout { zone, settings } if settings.is_empty() => {
            Command::ConntrackTimeout { zone }
        }
        ConntrackVerb::Timeout { zone, settings } => {
            Command::SetConntrackTimeout { zone, settings }
        }
    })
}
