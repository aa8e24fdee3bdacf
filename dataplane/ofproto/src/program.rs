//! What does the datapath do with a packet of a megaflow?
//!
//! An action program is what translation gives and what a megaflow carries: a short list of plain
//! steps with all decisions taken. Ports are datapath ports, recirculation names frozen state by
//! number. Nothing here refers to tables, bridges or OpenFlow.

use flow::edit::SetFields;
use flow::{Drop, Match};

use crate::recirc::Recirculation;

/// A datapath port: one number space for the whole process, dense, reused only after the port's
/// megaflows are gone. 0 is no port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct DpPort(pub u32);

/// One step of an action program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DpAction {
    /// Send the packet, as it is now, to a port.
    Output(DpPort),
    /// Put a VLAN tag in front of all others.
    PushVlan {
        /// 0x8100 or 0x88a8.
        tpid: u16,
        /// Priority, DEI and VLAN id as on the wire.
        tci: u16,
    },
    /// Take the outermost VLAN tag off.
    PopVlan,
    /// Set fields of headers (or of packet metadata).
    Set(Box<SetFields>),
    /// Cut the copies that later outputs send to that many bytes, until the next output.
    Truncate(u32),
    /// Cut the packet itself to that many bytes.
    Cut(u32),
    /// Do the steps on a copy; the packet itself stays as it is.
    Clone(Box<[DpAction]>),
    /// Track the packet's connection.
    Ct(Box<CtStep>),
    /// Forget what tracking said of the packet.
    CtClear,
    /// Look a copy of the packet up again, to go on with this state.
    Recirculate(std::sync::Arc<Recirculation>),
    /// Put the outer headers of a tunnel in front of the packet.
    TunnelPush(std::sync::Arc<Push>),
    /// Take the outer headers off a copy of the packet and look that up again, as one that came
    /// in by this listener ([`crate::underlay::listener`]).
    TunnelPop(DpPort),
    /// Keep the packet, a fragment, until its datagram is whole, and look that up again, to go on
    /// with this state. Only as the last step of a copy.
    Reassemble(std::sync::Arc<Recirculation>),
    /// Keep a copy of the packet until this neighbour's address is known, and look it up again
    /// then, to go on with this state.
    AwaitNeighbour(tunnel::neigh::Target, std::sync::Arc<Recirculation>),
    /// Let control hear an ARP packet or neighbour message that concerns one of the switch's own
    /// links ([`crate::underlay::own_link`]).
    Hear(u32),
    /// Hand a copy to the control side.
    Controller(std::sync::Arc<ToController>),
    /// Put an ICMP error in the packet's place, which goes on with the following steps.
    IcmpError(Box<IcmpStep>),
    /// If the packet, from its IP header on, has more bytes than this and must not be cut: do these
    /// steps, and no others.
    IfTooBig(u16, Box<[DpAction]>),
    /// If the packet, IPv4, has more bytes than this from its IP header on: do the following steps
    /// with each of its fragments.
    Fragment(u16),
    /// The packet ends here, for this reason. Only as the last step.
    Drop(Drop),
}

/// An outer header, and how large what it is put in front of may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// The header.
    pub encap: tunnel::Encap,
    /// Bytes of the largest frame, its Ethernet header included, that the path can carry.
    pub max_frame: u32,
    /// The tunnel's.
    pub counters: std::sync::Arc<crate::underlay::TunnelCounters>,
}

/// An ICMP error to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IcmpStep {
    /// What it says.
    pub says: crate::action::IcmpSays,
    /// Its source address.
    pub from: std::net::IpAddr,
    /// The reason that the packet itself is counted under.
    pub why: Drop,
}

/// What the tracker is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CtStep {
    /// The zone.
    pub zone: u16,
    /// The packet is translated as its connection says.
    pub nat: bool,
    /// Keep the connection, like this.
    pub commit: Option<conntrack::Commit>,
}

/// A packet on its way to the control side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToController {
    /// The bridge that sends it.
    pub bridge: u32,
    /// Number of the controller connection, from the action; 0 for all.
    pub controller: u16,
    /// Why (`OFPR_*`).
    pub reason: u8,
    /// Bytes to send at most.
    pub max_len: u16,
    /// Table of the rule.
    pub table: u8,
    /// Cookie of the rule.
    pub cookie: u64,
    /// OpenFlow port it came in by.
    pub in_port: u32,
    /// The metadata that the packet had (registers and the like), sparse.
    pub metadata: Match,
    /// What `controller(userdata=...)` carried.
    pub userdata: Box<[u8]>,
}

/// A program, shared by megaflows that have the same.
pub type Program = std::sync::Arc<[DpAction]>;
