//! Capture files (classic pcap, little-endian, microseconds, Ethernet) whose frames have no time.
//!
//! The same frames give the same bytes, so files can be compared as they are.

use anyhow::{Context, Result, ensure};

/// Magic number, version 2.4, time zone and accuracy 0, longest frame 65535, Ethernet.
const HEADER: [u32; 6] = [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1];

/// The frames of a file of exactly the kind that [`write`] makes, times aside.
pub fn read(bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    let header: Vec<u8> = HEADER.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut rest = bytes.strip_prefix(&header[..]).context("not such a pcap file")?;
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let (record, data) = rest.split_first_chunk::<16>().context("a record is cut")?;
        let word = |at: usize| {
            u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]])
        };
        ensure!(word(8) == word(12), "frame {} is not whole", frames.len() + 1);
        let (frame, after) = data.split_at_checked(word(8) as usize).context("a frame is cut")?;
        frames.push(frame.to_vec());
        rest = after;
    }
    Ok(frames)
}

/// A file of these frames.
pub fn write(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes: Vec<u8> = HEADER.iter().flat_map(|word| word.to_le_bytes()).collect();
    for frame in frames {
        let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        bytes.extend([0, 0, len, len].iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(frame);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_cut_is_refused() {
        let frames = vec![vec![1; 60], vec![], vec![2; 1514]];
        let file = write(&frames);
        assert_eq!(read(&file).unwrap(), frames);
        for cut in [0, 23, 30, 70, file.len() - 1] {
            assert!(read(&file[..cut]).is_err(), "cut at {cut}");
        }
    }
}
