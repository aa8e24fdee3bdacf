//! AF_XDP sockets in which every frame is owned by exactly one place.
pub mod packet;
pub mod region;

pub use packet::{Checksum, NoRoom, Packet, Segmentation};
pub use region::{CHUNK_DATA, CHUNK_SIZE, Frame, FramePool, HEADROOM, Region};
