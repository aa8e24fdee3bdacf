//! Which packet is this, and when was it sent?
//!
//! The last 14 bytes of every frame: a mark of two bytes, the trial's number, the packet's number, and when it
//! was sent in nanoseconds. At the end, so that they are found whatever a device puts in front (VLAN tags,
//! tunnels) or changes there (NAT); behind them there may be the padding of a frame that was cut below 60
//! bytes on its way. Numbers are little-endian.

/// Bytes of a stamp.
pub const LEN: usize = 14;
const MARK: [u8; 2] = [0x9e, 0x57];
/// Bytes of padding that may be behind a stamp: what fills an empty frame to 60 bytes.
const PADDING: usize = 46;

/// What is written into a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The trial, so that late packets of one before are known.
    pub trial: u16,
    /// The packet's number in its trial, the low 32 bits.
    pub number: u32,
    /// Nanoseconds since the trial's clock started; below 2^48, three days.
    pub sent: u64,
}

impl Stamp {
    /// Its bytes.
    pub fn bytes(self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..2].copy_from_slice(&MARK);
        bytes[2..4].copy_from_slice(&self.trial.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.number.to_le_bytes());
        bytes[8..].copy_from_slice(&self.sent.to_le_bytes()[..6]);
        bytes
    }

    /// The stamp of that trial in a received frame.
    pub fn find(frame: &[u8], trial: u16) -> Option<Stamp> {
        let last = frame.len().checked_sub(LEN)?;
        let first = last.saturating_sub(PADDING);
        (first..=last).rev().find_map(|at| Self::at(frame, at, trial))
    }

    fn at(frame: &[u8], at: usize, trial: u16) -> Option<Stamp> {
        let bytes: &[u8; LEN] = frame.get(at..)?.first_chunk()?;
        let [m0, m1, t0, t1, n0, n1, n2, n3, time @ ..] = *bytes;
        if [m0, m1] != MARK || u16::from_le_bytes([t0, t1]) != trial {
            return None;
        }
        let mut sent = [0; 8];
        sent[..6].copy_from_slice(&time);
        let number = u32::from_le_bytes([n0, n1, n2, n3]);
        Some(Stamp { trial, number, sent: u64::from_le_bytes(sent) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_found(
            trial: u16, number: u32, sent in 0u64..1 << 48,
            front in prop::collection::vec(any::<u8>(), 0..80), padding in 0usize..=PADDING,
        ) {
            let stamp = Stamp { trial, number, sent };
            let mut frame = front;
            frame.extend(stamp.bytes());
            frame.resize(frame.len() + padding, 0);
            prop_assert_eq!(Stamp::find(&frame, trial), Some(stamp));
            prop_assert_eq!(Stamp::find(&frame, trial.wrapping_add(1)), None);
        }

        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..100), trial: u16) {
            let _ = Stamp::find(&bytes, trial);
        }
    }
}
