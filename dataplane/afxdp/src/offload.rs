//! What work on a packet's bytes has been left to whoever sends it?
//!
//! [`Offload`] is eight bytes, all of them zero for a plain packet: whether there is anything left to do
//! is one comparison ([`Offload::is_plain`]).

/// State of the packet's L4 checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Checksum {
    /// The bytes are as they would be on a wire; nobody has checked them.
    #[default]
    Complete,
    /// As `Complete`, and the receiver has found it right.
    Verified,
    /// The field at `start + offset` holds the folded pseudo-header sum only; the sum of the
    /// bytes from `start` to the end has to be added (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    Partial {
        /// Offset of the first summed byte from the start of the frame.
        start: u16,
        /// Offset of the checksum field from `start`.
        offset: u16,
    },
}

/// A segmentation request: the packet is to leave as segments of `size` payload bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Segmentation {
    /// One frame, sent as it is.
    #[default]
    None,
    /// TCP over IPv4, segments of that many payload bytes.
    Tcp4(u16),
    /// TCP over IPv6, segments of that many payload bytes.
    Tcp6(u16),
    /// UDP, datagrams of that many payload bytes.
    Udp(u16),
}

/// Checksum and segmentation of a packet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Offload {
    /// Bits [`VERIFIED`], [`PARTIAL`], and one of those of a segmentation request.
    flags: u16,
    /// Segment size; 0 without a request.
    size: u16,
    /// As in [`Checksum::Partial`]; 0 otherwise.
    start: u16,
    offset: u16,
}

const VERIFIED: u16 = 1;
const PARTIAL: u16 = 2;
const TCP4: u16 = 4;
const TCP6: u16 = 8;
const UDP: u16 = 16;

impl Offload {
    /// Whether nothing is left to do: checksum complete, and one frame.
    #[inline(always)]
    pub fn is_plain(self) -> bool {
        self.flags & !VERIFIED == 0
    }

    #[inline(always)]
    pub fn checksum(self) -> Checksum {
        match self.flags & (VERIFIED | PARTIAL) {
            0 => Checksum::Complete,
            VERIFIED => Checksum::Verified,
            _ => Checksum::Partial { start: self.start, offset: self.offset },
        }
    }

    #[inline(always)]
    pub fn set_checksum(&mut self, checksum: Checksum) {
        let (bits, start, offset) = match checksum {
            Checksum::Complete => (0, 0, 0),
            Checksum::Verified => (VERIFIED, 0, 0),
            Checksum::Partial { start, offset } => (PARTIAL, start, offset),
        };
        self.flags = self.flags & !(VERIFIED | PARTIAL) | bits;
        (self.start, self.offset) = (start, offset);
    }

    #[inline(always)]
    pub fn segmentation(self) -> Segmentation {
        match self.flags & (TCP4 | TCP6 | UDP) {
            0 => Segmentation::None,
            TCP4 => Segmentation::Tcp4(self.size),
            TCP6 => Segmentation::Tcp6(self.size),
            _ => Segmentation::Udp(self.size),
        }
    }

    #[inline(always)]
    pub fn set_segmentation(&mut self, segmentation: Segmentation) {
        let (bit, size) = match segmentation {
            Segmentation::None => (0, 0),
            Segmentation::Tcp4(size) => (TCP4, size),
            Segmentation::Tcp6(size) => (TCP6, size),
            Segmentation::Udp(size) => (UDP, size),
        };
        self.flags = self.flags & !(TCP4 | TCP6 | UDP) | bit;
        self.size = size;
    }

    /// The packet's first byte is now another one, so many bytes further to the front: what an unfinished
    /// checksum covers starts that much later. One whose start is no place in the packet any more is none.
    #[inline(always)]
    pub fn shift(&mut self, by: i32) {
        if self.flags & PARTIAL != 0 {
            self.shift_partial(by);
        }
    }

    #[cold]
    fn shift_partial(&mut self, by: i32) {
        match u16::try_from(i32::from(self.start) + by) {
            Ok(start) => self.start = start,
            Err(_) => self.set_checksum(Checksum::Complete),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_do_not_disturb_each_other() {
        let checksums = [
            Checksum::Complete,
            Checksum::Verified,
            Checksum::Partial { start: 34, offset: 16 },
            Checksum::Partial { start: 0, offset: 0 },
        ];
        let segmentations = [
            Segmentation::None,
            Segmentation::Tcp4(1400),
            Segmentation::Tcp6(1),
            Segmentation::Udp(0),
        ];
        let mut o = Offload::default();
        assert!(o.is_plain());
        for checksum in checksums {
            for segmentation in segmentations {
                o.set_checksum(checksum);
                o.set_segmentation(segmentation);
                assert_eq!((o.checksum(), o.segmentation()), (checksum, segmentation));
                let partial = matches!(checksum, Checksum::Partial { .. });
                assert_eq!(o.is_plain(), !partial && segmentation == Segmentation::None);
            }
        }
    }

    #[test]
    fn what_a_checksum_covers_moves_along() {
        let mut o = Offload::default();
        o.shift(4);
        assert_eq!(o.checksum(), Checksum::Complete);
        o.set_checksum(Checksum::Partial { start: 34, offset: 16 });
        o.shift(50);
        assert_eq!(o.checksum(), Checksum::Partial { start: 84, offset: 16 });
        o.shift(-84);
        assert_eq!(o.checksum(), Checksum::Partial { start: 0, offset: 16 });
        o.shift(-1);
        assert_eq!(o.checksum(), Checksum::Complete);
    }
}
