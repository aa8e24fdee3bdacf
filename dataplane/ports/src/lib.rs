//! Ports: how packets come into the switch and leave it.
//!
//! A worker drives [`Queue`]s: it takes bursts from them and gives bursts to them. Control opens
//! and closes ports through [`PortHandle`], follows the kernel's interfaces with
//! [`links::LinkWatcher`], and shows what [`PortHandle::status`] says.
//!
//! Kinds of port: `afxdp` (any existing interface), `internal` (a tap that the switch owns),
//! `memory` and `pcap` (in-process, for tests and benchmarks). Patch and tunnel ports exist only
//! in translation and are not here.
//!
//! Must not know: flows, bridges, workers, configuration files.

mod afxdp_port;
mod afxdp_queue;
mod budget;
pub mod checksum;
pub mod counters;
pub mod error;
mod handle;
pub mod links;
pub mod memory;
pub mod netdev;
mod netlink;
pub mod pcap;
pub mod queue;
mod sys;
mod takeover;
pub mod tap;
pub mod trace;
pub mod vnet;

pub use afxdp_port::AfxdpConfig;
pub use afxdp_queue::AfxdpQueue;
pub use counters::{PortCounters, PortDrop, QueueCounters};
pub use error::PortError;
pub use handle::{PortHandle, PortKind, PortState, PortStatus, PortSystem, Reaction, close_all};
pub use queue::{BURST, Burst, Queue, RxStatus};
