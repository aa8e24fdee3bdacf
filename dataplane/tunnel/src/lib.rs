//! What does a tunnel do to a packet, and where does the outer packet go?
//!
//! - [`config`]: a tunnel port's options as an operator gives them.
//! - [`table`]: which tunnel port does a received packet belong to?
//! - [`send`]: which outer header fields does a packet sent to a tunnel port get?
//! - [`encap`], [`mod@decap`]: outer headers put on, to several packets at once, and taken off.
//! - [`ecn`]: congestion marks across tunnels. [`pmtu`]: answers to packets that are too big.
//! - [`route`], [`neigh`], [`kernel`], [`netlink`], [`ask`]: the way to the remote address, from own tables and the
//!   kernel's.
//!
//! All of it is called from above with time as a parameter; nothing here knows ports' queues,
//! bridges or OpenFlow tables.

pub mod ask;
pub mod config;
pub mod decap;
pub mod ecn;
pub mod encap;
pub mod kernel;
pub mod neigh;
pub mod netlink;
pub mod pmtu;
pub mod route;
pub mod send;
pub mod table;
mod together;

pub use config::{Kind, TunnelConfig};
pub use decap::{Decap, decap};
pub use encap::{Encap, Outer, Sender};
pub use neigh::NeighTable;
pub use route::RouteTable;
pub use table::TunnelTable;

/// Bits of a tunnel's flags in the flow key (`tun_flags`). The first is the only one that
/// OpenFlow can match.
pub mod flags {
    /// Geneve's O bit: a control packet.
    pub const OAM: u16 = 1;
    /// The outer packet must not be fragmented.
    pub const DF: u16 = 1 << 1;
    /// The outer packet has a UDP or GRE checksum.
    pub const CSUM: u16 = 1 << 2;
    /// The outer header has a key (always so for VXLAN and Geneve).
    pub const KEY: u16 = 1 << 3;
}
