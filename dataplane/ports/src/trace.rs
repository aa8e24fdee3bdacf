//! Frames in one piece of memory, to be received again and again.
//!
//! A [`Trace`] is built once, from frames or a capture file, and then only read; queues on any
//! number of workers share it. Frames lie behind each other in the order they are played, so that
//! the processor's own prefetching follows, and there are always [`PAD`] bytes to read from a
//! frame's start on, so that a small frame is copied by a copy of fixed size.
//!
//! Must not know: ports.

use std::path::Path;

use crate::error::PortError;
use crate::pcap;

/// Frames of up to this many bytes are copied as if they had as many.
pub(crate) const PAD: usize = 64;

/// Frames in one piece of memory.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    bytes: Vec<u8>,
    /// (offset, length) of each frame.
    frames: Vec<(u32, u32)>,
}

impl Trace {
    /// A trace of these frames.
    ///
    /// # Panics
    /// If they are more than 4 GiB together.
    pub fn new<'a>(frames: impl IntoIterator<Item = &'a [u8]>) -> Trace {
        let mut trace = Trace::default();
        for frame in frames {
            trace.push(frame);
        }
        trace
    }

    /// A trace of the frames of a capture file.
    ///
    /// # Errors
    /// If the file cannot be read or is not a sound pcap file of Ethernet frames.
    pub fn from_pcap(path: &Path) -> Result<Trace, PortError> {
        let mut trace = Trace::default();
        pcap::read_file(path, |frame| trace.push(frame))?;
        Ok(trace)
    }

    fn push(&mut self, frame: &[u8]) {
        let at = self.bytes.len();
        let offset = u32::try_from(at).expect("a trace is smaller than 4 GiB");
        self.bytes.extend_from_slice(frame);
        // Whole cache lines: no frame shares one, and PAD bytes are always there.
        self.bytes.resize(at + frame.len().next_multiple_of(PAD).max(PAD), 0);
        self.frames.push((offset, frame.len() as u32));
    }

    /// Number of frames.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there is no frame.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// A frame's bytes.
    pub fn frame(&self, i: usize) -> Option<&[u8]> {
        let (offset, len) = *self.frames.get(i)?;
        Some(&self.bytes[offset as usize..][..len as usize])
    }

    /// `n` frames from that one on, as they are best copied.
    #[inline]
    pub(crate) fn frames(&self, from: usize, n: usize) -> impl Iterator<Item = Played<'_>> {
        self.frames[from..from + n].iter().map(|(offset, len)| {
            let bytes = &self.bytes[*offset as usize..];
            let len = *len as usize;
            match bytes.first_chunk::<PAD>() {
                Some(block) if len <= PAD => Played::Small(block, len),
                _ => Played::Large(&bytes[..len]),
            }
        })
    }
}

/// A frame of a trace.
pub(crate) enum Played<'a> {
    /// Its bytes, with zeroes behind, and its length.
    Small(&'a [u8; PAD], usize),
    Large(&'a [u8]),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_come_back(frames in prop::collection::vec(
            prop::collection::vec(any::<u8>(), 0..200), 0..20)) {
            let t = Trace::new(frames.iter().map(Vec::as_slice));
            prop_assert_eq!(t.len(), frames.len());
            for (i, f) in frames.iter().enumerate() {
                prop_assert_eq!(t.frame(i).unwrap(), &f[..]);
            }
            for (f, played) in frames.iter().zip(t.frames(0, frames.len())) {
                match played {
                    Played::Small(block, len) => prop_assert_eq!(&block[..len], &f[..]),
                    Played::Large(bytes) => prop_assert_eq!(bytes, &f[..]),
                }
                prop_assert_eq!(matches!(played, Played::Small(..)), f.len() <= PAD);
            }
            prop_assert!(t.frame(frames.len()).is_none());
        }
    }
}
