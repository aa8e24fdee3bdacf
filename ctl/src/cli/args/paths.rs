//! The commands on the ways of tunnels: routes and neighbours.

use clap::Subcommand;

use crate::command::Command;

/// Commands about routes.
#[derive(Debug, Subcommand)]
pub(super) enum RouteVerb {
    /// Add a route for tunnels, by a bridge's own port
    #[command(after_help = "Examples:
  vswitchctl route add 192.0.2.0/24 br-phy src=192.0.2.1
  vswitchctl route add 0.0.0.0/0 br-phy via=192.0.2.254 src=192.0.2.1
  vswitchctl route add 2001:db8::/64 br-phy src=2001:db8::1

An src that the kernel does not have becomes an address of the switch itself, with the MAC of the bridge's
interface: the switch answers ARP and ND for it on that bridge, and asks by itself for neighbours. Without
src, the kernel's address on the bridge's interface is used.")]
    Add {
        /// Destinations, ADDRESS/LENGTH
        #[arg(value_name = "PREFIX")]
        prefix: String,
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
        /// via=ADDRESS, src=ADDRESS
        #[arg(value_name = "KEY=VALUE")]
        settings: Vec<String>,
    },
    /// Remove a route that was added
    #[command(after_help = "Example:
  vswitchctl route del 192.0.2.0/24")]
    Del {
        /// Destinations, ADDRESS/LENGTH
        #[arg(value_name = "PREFIX")]
        prefix: String,
    },
    /// List routes, the kernel's too
    #[command(after_help = "Examples:
  vswitchctl route show
  vswitchctl route show --format json")]
    Show,
}

/// Commands about neighbours.
#[derive(Debug, Subcommand)]
pub(super) enum NeighVerb {
    /// Say which MAC address a neighbour has; it is never asked for then
    #[command(after_help = "Example:
  vswitchctl neigh add br-phy 192.0.2.2 02:00:00:00:00:02")]
    Add {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
        /// Its IP address
        #[arg(value_name = "ADDRESS")]
        address: String,
        /// Its MAC address
        #[arg(value_name = "MAC")]
        mac: String,
    },
    /// Remove a neighbour that was added
    #[command(after_help = "Example:
  vswitchctl neigh del br-phy 192.0.2.2")]
    Del {
        /// A bridge
        #[arg(value_name = "BR")]
        bridge: String,
        /// Its IP address
        #[arg(value_name = "ADDRESS")]
        address: String,
    },
    /// List neighbours: added, found by the switch, and the kernel's
    #[command(after_help = "Examples:
  vswitchctl neigh show
  vswitchctl neigh show br-phy")]
    Show {
        /// Of this bridge only
        #[arg(value_name = "BR")]
        bridge: Option<String>,
    },
}

pub(super) fn route(verb: RouteVerb) -> Command {
    match verb {
        RouteVerb::Add { prefix, bridge, settings } => {
            Command::RouteAdd { prefix, bridge, settings }
        }
        RouteVerb::Del { prefix } => Command::RouteDel { prefix },
        RouteVerb::Show => Command::RouteShow {},
    }
}

pub(super) fn neigh(verb: NeighVerb) -> Command {
    match verb {
        NeighVerb::Add { bridge, address, mac } => Command::NeighAdd { bridge, address, mac },
        NeighVerb::Del { bridge, address } => Command::NeighDel { bridge, address },
        NeighVerb::Show { bridge } => Command::NeighShow { bridge },
    }
}
