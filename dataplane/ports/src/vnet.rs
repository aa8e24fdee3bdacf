//! The virtio-net header that tap devices put before each frame (virtio 1.3, section 5.1.6;
//! `linux/virtio_net.h`), and a packet's offload state in its terms.
//!
//! Numbers are in the machine's byte order, as tap keeps them unless told otherwise.
//!
//! Must not know: devices.

use afxdp::Checksum;

/// Bytes of the header (`struct virtio_net_hdr_v1`: with `num_buffers`, which stays 0).
pub const LEN: usize = 12;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;

/// What a header says, as far as the switch agreed on it: checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The state of the frame's L4 checksum.
    pub checksum: Checksum,
    /// The frame is to be cut into segments, which was not agreed on.
    pub segmentation: bool,
}

/// Read a header.
pub fn decode(h: &[u8; LEN]) -> Decoded {
    let word = |at: usize| u16::from_ne_bytes([h[at], h[at + 1]]);
    let checksum = if h[0] & NEEDS_CSUM != 0 {
        Checksum::Partial { start: word(6), offset: word(8) }
    } else if h[0] & DATA_VALID != 0 {
        Checksum::Verified
    } else {
        Checksum::Complete
    };
    Decoded { checksum, segmentation: h[1] != 0 }
}

/// The header for a frame with that checksum state.
pub fn encode(checksum: Checksum) -> [u8; LEN] {
    let mut h = [0; LEN];
    match checksum {
        Checksum::Complete => {}
        Checksum::Verified => h[0] = DATA_VALID,
        Checksum::Partial { start, offset } => {
            h[0] = NEEDS_CSUM;
            h[6..8].copy_from_slice(&start.to_ne_bytes());
            h[8..10].copy_from_slice(&offset.to_ne_bytes());
        }
    }
    h
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn there_and_back(start: u16, offset: u16, kind in 0..3) {
            let c = match kind {
                0 => Checksum::Complete,
                1 => Checksum::Verified,
                _ => Checksum::Partial { start, offset },
            };
            prop_assert_eq!(decode(&encode(c)), Decoded { checksum: c, segmentation: false });
        }
    }

    #[test]
    fn segmentation_is_seen() {
        let mut h = encode(Checksum::Complete);
        h[1] = 1; // VIRTIO_NET_HDR_GSO_TCPV4
        assert!(decode(&h).segmentation);
    }
}
