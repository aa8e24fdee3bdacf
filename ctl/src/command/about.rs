//! Who carries a command out, and what is it about? The configuration, a router, a bridge that must be there.

use super::Command;

/// Who carries a command out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Changes the configuration.
    Change,
    /// Reads the configuration.
    Read,
    /// Answered by the daemon itself.
    Daemon,
    /// Answered by the running switch.
    Runtime,
}

impl Command {
    pub const fn kind(&self) -> Kind {
        match self {
            Self::AddBr { .. }
            | Self::DelBr { .. }
            | Self::AddPort { .. }
            | Self::DelPort { .. }
            | Self::Set { .. }
            | Self::Clear { .. }
            | Self::SetConntrackLimit { .. }
            | Self::SetConntrackTimeout { .. }
            | Self::RouteAdd { .. }
            | Self::RouteDel { .. }
            | Self::NeighAdd { .. }
            | Self::NeighDel { .. }
            | Self::AddRouter { .. }
            | Self::DelRouter { .. }
            | Self::AddRouterPort { .. }
            | Self::DelRouterPort { .. }
            | Self::SetGateway { .. }
            | Self::DelGateway { .. }
            | Self::AddRoute { .. }
            | Self::DelRoute { .. }
            | Self::AddSnat { .. }
            | Self::DelSnat { .. }
            | Self::AddFloatingIp { .. }
            | Self::DelFloatingIp { .. }
            | Self::AddDnat { .. }
            | Self::DelDnat { .. }
            | Self::SecurityGroupSet { .. }
            | Self::SecurityGroupRemove { .. }
            | Self::SecurityGroupAdd { .. }
            | Self::SecurityGroupDel { .. } => Kind::Change,
            Self::ListBr {}
            | Self::ListRouters {}
            | Self::SecurityGroupShow { .. }
            | Self::BrExists { .. }
            | Self::ListPorts { .. }
            | Self::PortToBr { .. }
            | Self::Get { .. } => Kind::Read,
            Self::Show { .. } | Self::Version {} | Self::LogLevel { .. } => Kind::Daemon,
            Self::FdbShow { .. }
            | Self::FdbFlush { .. }
            | Self::FdbStats { .. }
            | Self::DumpPorts { .. }
            | Self::Drops { .. }
            | Self::DumpMegaflows { .. }
            | Self::AddFlow { .. }
            | Self::AddFlows { .. }
            | Self::ModFlows { .. }
            | Self::DelFlows { .. }
            | Self::ReplaceFlows { .. }
            | Self::DiffFlows { .. }
            | Self::DumpFlows { .. }
            | Self::DumpTables { .. }
            | Self::DumpAggregate { .. }
            | Self::AddGroup { .. }
            | Self::AddGroups { .. }
            | Self::ModGroup { .. }
            | Self::DelGroups { .. }
            | Self::InsertBuckets { .. }
            | Self::RemoveBuckets { .. }
            | Self::DumpGroups { .. }
            | Self::DumpGroupStats { .. }
            | Self::PacketOut { .. }
            | Self::Trace { .. }
            | Self::ConntrackList { .. }
            | Self::ConntrackFlush { .. }
            | Self::ConntrackStats {}
            | Self::ConntrackLimit {}
            | Self::ConntrackTimeout { .. }
            | Self::Tunnels { .. }
            | Self::RouteShow {}
            | Self::NeighShow { .. }
            | Self::ShowRouter { .. }
            | Self::Workers { .. } => Kind::Runtime,
        }
    }

    /// The router that a command is about; empty for the list of all.
    pub fn router(&self) -> Option<&str> {
        match self {
            Self::AddRouter { router, .. }
            | Self::DelRouter { router, .. }
            | Self::ShowRouter { router }
            | Self::AddRouterPort { router, .. }
            | Self::DelRouterPort { router, .. }
            | Self::SetGateway { router, .. }
            | Self::DelGateway { router, .. }
            | Self::AddRoute { router, .. }
            | Self::DelRoute { router, .. }
            | Self::AddSnat { router, .. }
            | Self::DelSnat { router, .. }
            | Self::AddFloatingIp { router, .. }
            | Self::DelFloatingIp { router, .. }
            | Self::AddDnat { router, .. }
            | Self::DelDnat { router, .. } => Some(router),
            Self::ListRouters {} => Some(""),
            _ => None,
        }
    }

    /// The bridge that a runtime command is about: it must exist where the command stands.
    pub fn runtime_bridge(&self) -> Option<&str> {
        match self {
            Self::FdbShow { bridge }
            | Self::FdbFlush { bridge }
            | Self::FdbStats { bridge }
            | Self::DumpPorts { bridge, .. }
            | Self::AddFlow { bridge, .. }
            | Self::AddFlows { bridge, .. }
            | Self::ModFlows { bridge, .. }
            | Self::DelFlows { bridge, .. }
            | Self::ReplaceFlows { bridge, .. }
            | Self::DiffFlows { bridge, .. }
            | Self::DumpFlows { bridge, internal: false, .. }
            | Self::DumpTables { bridge }
            | Self::DumpAggregate { bridge, .. }
            | Self::AddGroup { bridge, .. }
            | Self::AddGroups { bridge, .. }
            | Self::ModGroup { bridge, .. }
            | Self::DelGroups { bridge, .. }
            | Self::InsertBuckets { bridge, .. }
            | Self::RemoveBuckets { bridge, .. }
            | Self::DumpGroups { bridge, .. }
            | Self::DumpGroupStats { bridge, .. }
            | Self::PacketOut { bridge, .. }
            | Self::Trace { bridge, .. } => Some(bridge),
            Self::Show { bridge } | Self::NeighShow { bridge } => bridge.as_deref(),
            _ => None,
        }
    }
}
