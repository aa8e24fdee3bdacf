//! AF_XDP sockets in which every frame is owned by exactly one place.
//!
//! AF_XDP (`Documentation/networking/af_xdp.rst` of the kernel) gives a process the frames of an
//! interface's queue in memory of its own, and takes frames to send from there. What travels in
//! its rings are addresses, and who holds an address may write to its bytes: the kernel, one of
//! several sockets, or a part of this process. This crate gives such an address out only as a
//! value that cannot be copied ([`Frame`], [`Packet`]), so that safe code can neither use a frame
//! that the kernel has, nor give one to two places, nor lose one when a socket or its interface
//! ends.
//!
//! - [`Region`] is the memory of all frames, registered by any number of sockets on any number of
//!   interfaces; a packet received by one is sent by another without a copy.
//! - [`FramePool`] is one thread's supply of free frames.
//! - [`Packet`] is a received or made frame: a chain of buffers, with what is known of its
//!   checksum and segmentation.
//! - [`Socket`] is one queue of one interface: receive, refill, send, complete, kick.
//! - [`Attachment`] is the XDP program that sends an interface's frames to its sockets, and says
//!   whether VLAN tags survive the way ([`VlanRestore`]).
//!
//! Needs Linux 6.6 for everything but VLAN tags beside the frame (6.8) and checksum requests (6.11);
//! CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF; and CAP_IPC_LOCK or a high RLIMIT_MEMLOCK.
//!
//! A program that sends every frame of an interface back where it came from:
//!
//! ```no_run
//! use afxdp::{AttachOptions, Attachment, Region, Socket, SocketConfig, interface_index};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let region = Region::new(16 << 20)?; // 8192 frames
//! let mut pool = region.pool();
//! let ifindex = interface_index("veth0")?;
//! let attachment = Attachment::attach(ifindex, &AttachOptions::default())?;
//! let mut socket = Socket::open(ifindex, 0, region, SocketConfig::default())?;
//! attachment.insert(0, &socket)?;
//! let mut burst = Vec::with_capacity(32);
//! while socket.error().is_none() {
//!     socket.refill(&mut pool); // empty frames for the kernel to fill
//!     socket.rx_burst(&mut pool, 32, |packet| burst.push(packet));
//!     for packet in &mut burst {
//!         if let Some((to, from)) = packet.data_mut().get_mut(..12).map(|a| a.split_at_mut(6)) {
//!             to.swap_with_slice(from); // the two MAC addresses
//!         }
//!     }
//!     let mut packets = burst.drain(..);
//!     socket.tx_burst(&mut packets, &mut pool);
//!     packets.for_each(|packet| pool.free_packet(packet)); // what the ring had no room for
//!     let _ = socket.kick_tx();
//!     socket.complete(&mut pool); // frames that were sent
//! }
//! drop(attachment);
//! socket.close(&mut pool); // the frames that the kernel still had
//! # Ok(()) }
//! ```
//!
//! `examples/forward.rs` is a forwarder between two interfaces, `examples/generate.rs` a generator.
mod attach;
pub mod bpf;
mod census;
pub mod error;
pub mod netlink;
mod offload;
pub mod packet;
mod pool;
pub mod region;
mod ring;
pub mod socket;
mod sys;

pub use attach::{
    AttachMode, AttachOptions, Attachment, TunnelEnd, VlanGap, VlanRestore, XdpMode,
    interface_index,
};
pub use error::{Error, Operation};
pub use offload::{Checksum, Segmentation};
pub use packet::{NoRoom, Packet};
pub use pool::FramePool;
pub use region::{CHUNK_DATA, CHUNK_SIZE, Frame, HEADROOM, Region, leaked_frames};
pub use socket::{
    BindMode, Closed, Counters, FramesHeld, Kick, MAX_BUFFERS, Socket, SocketConfig, Statistics,
};
pub use xdp_progs::Select;
