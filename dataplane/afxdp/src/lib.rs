//! AF_XDP sockets in which every frame is owned by exactly one place.
mod attach;
pub mod bpf;
mod census;
pub mod error;
pub mod netlink;
pub mod packet;
mod pool;
pub mod region;
mod ring;
pub mod socket;
mod sys;

pub use attach::{
    AttachMode, AttachOptions, Attachment, VlanGap, VlanRestore, XdpMode, interface_index,
};
pub use error::{Error, Operation};
pub use packet::{Checksum, NoRoom, Packet, Segmentation};
pub use pool::FramePool;
pub use region::{CHUNK_DATA, CHUNK_SIZE, Frame, HEADROOM, Region, leaked_frames};
pub use socket::{
    BindMode, Closed, Counters, FramesHeld, Kick, MAX_BUFFERS, Socket, SocketConfig, Statistics,
};
