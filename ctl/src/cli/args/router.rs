//! The commands on routers and security groups: what their words mean.

use clap::{Args, Subcommand, ValueEnum};

use crate::command::Command;
use crate::config::router::Proto;
use crate::config::security::Way;

/// Commands about routers.
#[derive(Debug, Subcommand)]
pub(super) enum RouterVerb {
    /// Make a router without ports
    #[command(after_help = "Examples:
  vswitchctl add-router r1
  vswitchctl --may-exist add-router r1")]
    AddRouter {
        /// A router
        #[arg(value_name = "R")]
        router: String,
    },
    /// Remove a router with its ports
    #[command(after_help = "Example:
  vswitchctl --if-exists del-router r1")]
    DelRouter {
        /// A router
        #[arg(value_name = "R")]
        router: String,
    },
    /// List the routers
    #[command(after_help = "Example:
  vswitchctl list-routers")]
    ListRouters,
    /// Show a router: ports, routes, translations, neighbours
    #[command(after_help = "Examples:
  vswitchctl show-router r1
  vswitchctl dump-flows --internal r1")]
    ShowRouter {
        /// A router
        #[arg(value_name = "R")]
        router: String,
    },
    /// Add a port to a router, on a bridge
    #[command(after_help = "Examples:
  vswitchctl add-router-port r1 br-int r1-net1 ip=192.168.1.1/24 tag=1
  vswitchctl add-router-port r1 br-int r1-net2 ip=192.168.2.1/24 mac=02:00:00:00:00:01 mtu=1450
  vswitchctl add-router-port r1 br-int r1-net3 ip=192.168.3.1/24,fd00:3::1/64 ra=slaac")]
    AddRouterPort {
        #[command(flatten)]
        at: NewPort,
        /// ip=ADDRESS/LENGTH[,...], and perhaps tag=N, mac=MAC, mtu=N, and ra=slaac, dhcpv6-stateless or
        /// dhcpv6-stateful to advertise the router to IPv6 hosts
        #[arg(value_name = "KEY=VALUE", required = true)]
        settings: Vec<String>,
    },
    /// Remove a port of a router
    #[command(after_help = "Example:
  vswitchctl del-router-port r1 r1-net1")]
    DelRouterPort {
        /// A router
        #[arg(value_name = "R")]
        router: String,
        /// The port
        #[arg(value_name = "NAME")]
        port: String,
    },
    /// Give a router its way out: a port, and the next hop of everything that has no other route
    #[command(after_help = "Examples:
  vswitchctl set-gateway r1 br-ex r1-ext ip=203.0.113.101/24 via=203.0.113.1
  vswitchctl set-gateway r1 br-ex r1-ext ip=203.0.113.101/24,2001:db8::2/64 via=203.0.113.1,2001:db8::1")]
    SetGateway {
        #[command(flatten)]
        at: NewPort,
        /// ip=ADDRESS/LENGTH[,...] and via=ADDRESS[,...], and perhaps tag=N, mac=MAC, mtu=N
        #[arg(value_name = "KEY=VALUE", required = true)]
        settings: Vec<String>,
    },
    /// Take a router's way out away, with its port
    #[command(after_help = "Example:
  vswitchctl del-gateway r1")]
    DelGateway {
        /// A router
        #[arg(value_name = "R")]
        router: String,
    },
    /// Add a route: the longest prefix that holds the destination decides
    #[command(after_help = "Example:
  vswitchctl add-route r1 10.20.0.0/16 via 192.168.1.254")]
    AddRoute {
        /// A router
        #[arg(value_name = "R")]
        router: String,
        /// The destinations
        #[arg(value_name = "PREFIX")]
        prefix: String,
        /// The word \"via\"
        #[arg(value_name = "via", value_parser = ["via"], hide_possible_values = true)]
        word: String,
        /// The next hop
        #[arg(value_name = "ADDRESS")]
        via: String,
    },
    /// Remove a route
    #[command(after_help = "Example:
  vswitchctl del-route r1 10.20.0.0/16")]
    DelRoute {
        /// A router
        #[arg(value_name = "R")]
        router: String,
        /// The destinations
        #[arg(value_name = "PREFIX")]
        prefix: String,
    },
    /// Let a network go out under an outside address
    #[command(after_help = "Example:
  vswitchctl add-snat r1 192.168.1.0/24 203.0.113.101")]
    AddSnat {
        /// A router
        #[arg(value_name = "R")]
        router: String,
        /// The inside network
        #[arg(value_name = "PREFIX")]
        prefix: String,
        /// The outside address
        #[arg(value_name = "ADDRESS")]
        address: String,
    },
    /// Remove the translation of a network
    #[command(after_help = "Example:
  vswitchctl del-snat r1 192.168.1.0/24")]
    DelSnat {
        /// A router
        #[arg(value_name = "R")]
        router: String,
        /// The inside network
        #[arg(value_name = "PREFIX")]
        prefix: String,
    },
    /// Give an instance an outside address of its own, both ways
    #[command(after_help = "Example:
  vswitchctl add-floating-ip r1 203.0.113.102 192.168.1.11")]
    AddFloatingIp {
        /// A router
        #[arg(value_name = "R")]
        router: String,
        /// The outside address
        #[arg(value_name = "OUTSIDE")]
        external: String,
        /// The instance's address
        #[arg(value_name = "INSIDE")]
        internal: String,
    },
    /// Take an outside address away
    #[command(after_help = "Example:
  vswitchctl del-floating-ip r1 203.0.113.102")]
    DelFloatingIp {
        /// A router
        #[arg(value_name = "R")]
        router: String,
        /// The outside address
        #[arg(value_name = "OUTSIDE")]
        external: String,
    },
    /// Send connections to an outside address and port to an instance
    #[command(after_help = "Example:
  vswitchctl add-dnat r1 tcp 203.0.113.101:8080 192.168.1.11:80")]
    AddDnat {
        /// A router
        #[arg(value_name = "R")]
        router: String,
        /// tcp or udp
        #[arg(value_name = "tcp|udp")]
        proto: ProtoArg,
        /// The outside address and port
        #[arg(value_name = "OUTSIDE:PORT")]
        external: String,
        /// The instance's
        #[arg(value_name = "INSIDE:PORT")]
        internal: String,
    },
    /// Remove what add-dnat made
    #[command(after_help = "Example:
  vswitchctl del-dnat r1 tcp 203.0.113.101:8080")]
    DelDnat {
        /// A router
        #[arg(value_name = "R")]
        router: String,
        /// tcp or udp
        #[arg(value_name = "tcp|udp")]
        proto: ProtoArg,
        /// The outside address and port
        #[arg(value_name = "OUTSIDE:PORT")]
        external: String,
    },
}

/// Commands about security groups.
#[derive(Debug, Subcommand)]
pub(super) enum SecurityVerb {
    /// Say who is behind a port; from now on only that, and what rules allow, passes
    #[command(after_help = "Examples:
  vswitchctl security-group set tap1 mac=fa:16:3e:00:00:01 ip=192.168.1.11
  vswitchctl security-group set tap1 mac=fa:16:3e:00:00:01 ip=192.168.1.11,fd00::11,10.9.0.0/24")]
    Set {
        /// A port
        #[arg(value_name = "PORT")]
        port: String,
        /// mac=MAC and ip=ADDRESS[/LENGTH][,...]
        #[arg(value_name = "KEY=VALUE", required = true)]
        settings: Vec<String>,
    },
    /// Let everything pass again
    #[command(after_help = "Example:
  vswitchctl --if-exists security-group remove tap1")]
    Remove {
        /// A port
        #[arg(value_name = "PORT")]
        port: String,
    },
    /// Allow connections to the instance (in) or from it (out); their answers pass
    #[command(after_help = "Examples:
  vswitchctl security-group add tap1 out
  vswitchctl security-group add tap1 in proto=tcp port=80-90 remote=10.0.0.0/8
  vswitchctl security-group add tap1 in proto=icmp")]
    Add {
        /// A port
        #[arg(value_name = "PORT")]
        port: String,
        /// Which way connections begin
        #[arg(value_name = "in|out")]
        way: WayArg,
        /// proto=tcp, udp or icmp; port=N or N-M; remote=PREFIX
        #[arg(value_name = "KEY=VALUE")]
        rule: Vec<String>,
    },
    /// Remove a rule, given as it was added
    #[command(after_help = "Example:
  vswitchctl security-group del tap1 in proto=icmp")]
    Del {
        /// A port
        #[arg(value_name = "PORT")]
        port: String,
        /// Which way connections begin
        #[arg(value_name = "in|out")]
        way: WayArg,
        /// proto=tcp, udp or icmp; port=N or N-M; remote=PREFIX
        #[arg(value_name = "KEY=VALUE")]
        rule: Vec<String>,
    },
    /// Show who is behind ports, and the rules
    #[command(after_help = "Examples:
  vswitchctl security-group show
  vswitchctl security-group show tap1")]
    Show {
        /// This port only
        #[arg(value_name = "PORT")]
        port: Option<String>,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum WayArg {
    In,
    Out,
}

impl From<WayArg> for Way {
    fn from(arg: WayArg) -> Way {
        match arg {
            WayArg::In => Way::In,
            WayArg::Out => Way::Out,
        }
    }
}

pub(super) fn security_command(verb: SecurityVerb, may_exist: bool, if_exists: bool) -> Command {
    match verb {
        SecurityVerb::Set { port, settings } => Command::SecurityGroupSet { port, settings },
        SecurityVerb::Remove { port } => Command::SecurityGroupRemove { port, if_exists },
        SecurityVerb::Add { port, way, rule } => {
            Command::SecurityGroupAdd { port, way: way.into(), rule, may_exist }
        }
        SecurityVerb::Del { port, way, rule } => {
            Command::SecurityGroupDel { port, way: way.into(), rule, if_exists }
        }
        SecurityVerb::Show { port } => Command::SecurityGroupShow { port },
    }
}

/// A port that a router is to have.
#[derive(Debug, Args)]
pub(super) struct NewPort {
    /// A router
    #[arg(value_name = "R")]
    router: String,
    /// The bridge that the port is on
    #[arg(value_name = "BR")]
    bridge: String,
    /// The port
    #[arg(value_name = "NAME")]
    port: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum ProtoArg {
    Tcp,
    Udp,
}

impl From<ProtoArg> for Proto {
    fn from(arg: ProtoArg) -> Proto {
        match arg {
            ProtoArg::Tcp => Proto::Tcp,
            ProtoArg::Udp => Proto::Udp,
        }
    }
}

impl RouterVerb {
    /// Whether `--may-exist` goes with it.
    pub(super) fn takes_may_exist(&self) -> bool {
        use RouterVerb as V;
        matches!(
            self,
            V::AddRouter { .. }
                | V::AddRouterPort { .. }
                | V::AddRoute { .. }
                | V::AddSnat { .. }
                | V::AddFloatingIp { .. }
                | V::AddDnat { .. }
        )
    }

    /// Whether `--if-exists` goes with it.
    pub(super) fn takes_if_exists(&self) -> bool {
        use RouterVerb as V;
        matches!(
            self,
            V::DelRouter { .. }
                | V::DelRouterPort { .. }
                | V::DelGateway { .. }
                | V::DelRoute { .. }
                | V::DelSnat { .. }
                | V::DelFloatingIp { .. }
                | V::DelDnat { .. }
        )
    }
}

pub(super) fn to_command(verb: RouterVerb, may_exist: bool, if_exists: bool) -> Command {
    use RouterVerb as V;
    match verb {
        V::AddRouter { router } => Command::AddRouter { router, may_exist },
        V::DelRouter { router } => Command::DelRouter { router, if_exists },
        V::ListRouters => Command::ListRouters {},
        V::ShowRouter { router } => Command::ShowRouter { router },
        V::AddRouterPort { at: NewPort { router, bridge, port }, settings } => {
            Command::AddRouterPort { router, bridge, port, settings, may_exist }
        }
        V::DelRouterPort { router, port } => Command::DelRouterPort { router, port, if_exists },
        V::SetGateway { at: NewPort { router, bridge, port }, settings } => {
            Command::SetGateway { router, bridge, port, settings }
        }
        V::DelGateway { router } => Command::DelGateway { router, if_exists },
        V::AddRoute { router, prefix, word: _, via } => {
            Command::AddRoute { router, prefix, via, may_exist }
        }
        V::DelRoute { router, prefix } => Command::DelRoute { router, prefix, if_exists },
        V::AddSnat { router, prefix, address } => {
            Command::AddSnat { router, prefix, address, may_exist }
        }
        V::DelSnat { router, prefix } => Command::DelSnat { router, prefix, if_exists },
        V::AddFloatingIp { router, external, internal } => {
            Command::AddFloatingIp { router, external, internal, may_exist }
        }
        V::DelFloatingIp { router, external } => {
            Command::DelFloatingIp { router, external, if_exists }
        }
        V::AddDnat { router, proto, external, internal } => {
            Command::AddDnat { router, proto: proto.into(), external, internal, may_exist }
        }
        V::DelDnat { router, proto, external } => {
            Command::DelDnat { router, proto: proto.into(), external, if_exists }
        }
    }
}
