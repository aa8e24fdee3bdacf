//! Capture files (the classic pcap format, draft-ietf-opsawg-pcap) as ports, for tests.
//!
//! Reading takes both byte orders, micro- and nanoseconds, Ethernet only; anything else is an
//! error that says where in the file. A file is read whole, before the port exists.
//!
//! Must not know: flows, workers.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use afxdp::FramePool;

use crate::counters::{PortDrop, QueueCounters};
use crate::error::PortError;
use crate::memory::Replay;
use crate::queue::{Burst, RxStatus};
use crate::trace::Trace;

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
const PCAPNG: u32 = 0x0a0d_0d0a;
const ETHERNET: u32 = 1;
/// The largest record that is read, in bytes, as tcpdump's largest snapshot.
const MAX_RECORD: u32 = 262_144;
/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 30;

/// Read all frames of a capture file.
///
/// # Errors
/// [`PortError::File`] if the file cannot be read, [`PortError::Capture`] if it is not sound. The
/// frames before the fault have been given to `frame` by then.
pub fn read_file(path: &Path, frame: impl FnMut(&[u8])) -> Result<(), PortError> {
    let io = |operation, source| PortError::File { path: path.to_owned(), operation, source };
    let file = File::open(path).map_err(|e| io("open", e))?;
    let len = file.metadata().map_err(|e| io("read", e))?.len();
    if len > MAX_FILE {
        return Err(PortError::Capture {
            path: path.to_owned(),
            offset: MAX_FILE,
            what: format!("the file has {len} bytes, more than the limit of {MAX_FILE}"),
        });
    }
    read(BufReader::new(file), frame).map_err(|fault| match fault {
        Fault::Io(e) => io("read", e),
        Fault::At(offset, what) => PortError::Capture { path: path.to_owned(), offset, what },
    })
}

#[derive(Debug)]
enum Fault {
    Io(io::Error),
    /// At this offset in the file: what.
    At(u64, String),
}

impl From<io::Error> for Fault {
    fn from(e: io::Error) -> Fault {
        Fault::Io(e)
    }
}

fn read(mut from: impl Read, mut frame: impl FnMut(&[u8])) -> Result<(), Fault> {
    let mut header = [0; 24];
    let got = fill(&mut from, &mut header)?;
    let magic = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    if got >= 4 && magic == PCAPNG {
        return Err(Fault::At(0, "this is pcapng; convert it: editcap -F pcap IN OUT".into()));
    }
    if got < 24 {
        return Err(Fault::At(got as u64, format!("the file header has {got} of 24 bytes")));
    }
    let swapped = match (magic, magic.swap_bytes()) {
        (MICROSECONDS | NANOSECONDS, _) => false,
        (_, MICROSECONDS | NANOSECONDS) => true,
        _ => return Err(Fault::At(0, format!("not a pcap file (it begins with {magic:#010x})"))),
    };
    let word = |b: &[u8], at: usize| {
        let v = u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        if swapped { v.swap_bytes() } else { v }
    };
    // The upper bits say whether frames have a check sequence behind them.
    let link = word(&header, 20) & 0x0fff_ffff;
    if link != ETHERNET {
        return Err(Fault::At(20, format!("the link type is {link}, not Ethernet ({ETHERNET})")));
    }
    let mut at = 24;
    let mut record = [0; 16];
    let mut bytes = Vec::new();
    loop {
        match fill(&mut from, &mut record)? {
            0 => return Ok(()),
            16 => {}
            n => return Err(Fault::At(at + n as u64, format!("a record has {n} of 16 bytes"))),
        }
        let len = word(&record, 8);
        if len > MAX_RECORD {
            return Err(Fault::At(
                at + 8,
                format!("a record of {len} bytes, more than the limit of {MAX_RECORD}"),
            ));
        }
        bytes.resize(len as usize, 0);
        let got = fill(&mut from, &mut bytes)?;
        if got < bytes.len() {
            return Err(Fault::At(
                at + 16 + got as u64,
                format!("a frame has {got} of {len} bytes"),
            ));
        }
        frame(&bytes);
        at += 16 + u64::from(len);
    }
}

/// Read until the buffer is full or the file ends; returns how much.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match from.read(&mut buffer[done..]) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// Writes a capture file: Ethernet, nanoseconds, little-endian.
#[derive(Debug)]
pub struct PcapWriter<W: Write> {
    to: W,
}

impl<W: Write> PcapWriter<W> {
    /// Begin a file.
    ///
    /// # Errors
    /// If it cannot be written to; so for all methods.
    pub fn new(mut to: W) -> io::Result<PcapWriter<W>> {
        let mut header = [0; 24];
        header[0..4].copy_from_slice(&NANOSECONDS.to_le_bytes());
        header[4..6].copy_from_slice(&2u16.to_le_bytes());
        header[6..8].copy_from_slice(&4u16.to_le_bytes());
        header[16..20].copy_from_slice(&MAX_RECORD.to_le_bytes());
        header[20..24].copy_from_slice(&ETHERNET.to_le_bytes());
        to.write_all(&header)?;
        Ok(PcapWriter { to })
    }

    /// Add a frame that was seen at `time`, in pieces.
    pub fn frame<'a>(
        &mut self,
        time: SystemTime,
        len: usize,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> io::Result<()> {
        let time = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let len = u32::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut record = [0; 16];
        record[0..4].copy_from_slice(&(time.as_secs() as u32).to_le_bytes());
        record[4..8].copy_from_slice(&time.subsec_nanos().to_le_bytes());
        record[8..12].copy_from_slice(&len.to_le_bytes());
        record[12..16].copy_from_slice(&len.to_le_bytes());
        self.to.write_all(&record)?;
        for piece in pieces {
            self.to.write_all(piece)?;
        }
        Ok(())
    }

    /// Write out what is buffered.
    pub fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// How a pcap port is to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PcapConfig {
    /// The file to receive from.
    pub rx: Option<PathBuf>,
    /// Receive the file again and again.
    pub infinite: bool,
    /// The file to write what is sent to; one that exists is replaced.
    pub tx: Option<PathBuf>,
}

/// The queue of a port that receives from one capture file and sends to another.
#[derive(Debug)]
pub struct PcapQueue {
    rx: Option<Replay>,
    tx: Option<PcapWriter<BufWriter<File>>>,
    unflushed: bool,
    counters: Arc<QueueCounters>,
}

impl PcapQueue {
    /// Read the file to receive, make the file to send to.
    ///
    /// # Errors
    /// As [`read_file`], and if the other file cannot be made.
    pub fn open(config: &PcapConfig, counters: Arc<QueueCounters>) -> Result<Self, PortError> {
        let rounds = if config.infinite { None } else { Some(1) };
        let rx = match &config.rx {
            Some(path) => Some(Replay::new(Arc::new(Trace::from_pcap(path)?), rounds)),
            None => None,
        };
        let tx = match &config.tx {
            Some(path) => {
                let made = File::create(path).and_then(|f| PcapWriter::new(BufWriter::new(f)));
                Some(made.map_err(|source| PortError::File {
                    path: path.clone(),
                    operation: "create",
                    source,
                })?)
            }
            None => None,
        };
        Ok(PcapQueue { rx, tx, unflushed: false, counters })
    }

    pub(crate) fn rx_burst(&mut self, pool: &mut FramePool, burst: &mut Burst) -> RxStatus {
        match &mut self.rx {
            Some(replay) => replay.rx_burst(&self.counters, pool, burst),
            None => RxStatus::Idle,
        }
    }

    pub(crate) fn tx_burst(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        let now = SystemTime::now();
        for mut packet in burst.drain(..) {
            // A file holds what a wire would.
            if flow::checksum::finish_partial(&mut packet) {
                crate::counters::add(&self.counters.checksums_finished, 1);
            }
            match &mut self.tx {
                None => self.counters.count_drop(PortDrop::TxReceiveOnly, 1),
                Some(to) => match to.frame(now, packet.len(), packet.buffers()) {
                    Ok(()) => self.counters.sent(1, packet.len() as u64),
                    Err(_) => self.counters.count_drop(PortDrop::TxError, 1),
                },
            }
            pool.free_packet(packet);
        }
        self.unflushed = true;
    }

    fn write_out(&mut self) {
        if std::mem::take(&mut self.unflushed)
            && let Some(Err(e)) = self.tx.as_mut().map(PcapWriter::flush)
        {
            tracing::warn!("capture file: write: {e}");
            self.counters.count_drop(PortDrop::TxError, 1);
        }
    }

    pub(crate) fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    pub(crate) fn before_sleep(&mut self, _: &mut FramePool) -> bool {
        self.write_out();
        self.rx.as_ref().is_none_or(Replay::is_done)
    }

    pub(crate) fn counters(&self) -> &Arc<QueueCounters> {
        &self.counters
    }

    pub(crate) fn close(mut self) {
        self.write_out();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(frames: &[Vec<u8>], big_endian: bool, magic: u32) -> Vec<u8> {
        let word = |v: u32| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
        let mut f = Vec::new();
        for v in [magic, 0, 0, 0, 65535, 1] {
            f.extend(word(v));
        }
        for b in frames {
            for v in [0, 0, b.len() as u32, b.len() as u32] {
                f.extend(word(v));
            }
            f.extend(b);
        }
        f
    }

    fn frames_of(bytes: &[u8]) -> Result<Vec<Vec<u8>>, Fault> {
        let mut got = Vec::new();
        read(bytes, |f| got.push(f.to_vec())).map(|()| got)
    }

    fn fault(bytes: &[u8]) -> (u64, String) {
        match frames_of(bytes) {
            Err(Fault::At(at, what)) => (at, what),
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn reads_all_four_kinds(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..10),
            big_endian: bool, nano: bool,
        ) {
            let magic = if nano { NANOSECONDS } else { MICROSECONDS };
            prop_assert_eq!(frames_of(&file(&frames, big_endian, magic)).unwrap(), frames);
        }

        #[test]
        fn a_cut_file_says_where(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 1..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let whole = file(&frames, false, MICROSECONDS);
            let cut = cut.index(whole.len());
            let at_a_record = (0..=frames.len())
                .any(|n| cut == 24 + frames[..n].iter().map(|f| 16 + f.len()).sum::<usize>());
            match frames_of(&whole[..cut]) {
                Ok(_) => prop_assert!(at_a_record),
                Err(Fault::At(at, _)) => prop_assert_eq!(at, cut as u64),
                Err(Fault::Io(e)) => prop_assert!(false, "{}", e),
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = frames_of(&bytes);
            let mut with_header = file(&[], false, MICROSECONDS);
            with_header.extend(&bytes);
            let _ = frames_of(&with_header);
        }

        #[test]
        fn written_files_are_read(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..10),
        ) {
            let mut w = PcapWriter::new(Vec::new()).unwrap();
            for f in &frames {
                let (a, b) = f.split_at(f.len() / 2);
                w.frame(SystemTime::now(), f.len(), [a, b]).unwrap();
            }
            prop_assert_eq!(frames_of(&w.to).unwrap(), frames);
        }
    }

    #[test]
    fn other_formats_are_named() {
        let mut ng = file(&[], false, PCAPNG);
        assert!(fault(&ng).1.contains("pcapng"));
        ng.truncate(5);
        assert!(fault(&ng).1.contains("pcapng"));
        let (at, what) = fault(b"GIF89a, and so on and so on");
        assert_eq!(at, 0);
        assert!(what.contains("not a pcap file"));
        let mut wifi = file(&[], false, MICROSECONDS);
        wifi[20] = 105;
        assert_eq!(fault(&wifi).0, 20);
        let mut huge = file(&[vec![1, 2, 3]], true, MICROSECONDS);
        huge[32] = 0xff;
        assert_eq!(fault(&huge).0, 32);
    }

    #[test]
    fn from_file_to_file() {
        let dir = tempfile::tempdir().unwrap();
        let frames: Vec<Vec<u8>> = (0..100u8).map(|i| vec![i; 60 + usize::from(i) * 40]).collect();
        let (rx, tx) = (dir.path().join("in.pcap"), dir.path().join("out.pcap"));
        std::fs::write(&rx, file(&frames, true, NANOSECONDS)).unwrap();
        let region = afxdp::Region::new(1 << 21).unwrap();
        let mut pool = region.pool();
        let config = PcapConfig { rx: Some(rx), infinite: false, tx: Some(tx.clone()) };
        let mut q = PcapQueue::open(&config, Arc::default()).unwrap();
        let mut burst = Burst::new();
        while q.rx_burst(&mut pool, &mut burst) == RxStatus::Received {
            q.tx_burst(&mut pool, &mut burst);
        }
        assert!(q.before_sleep(&mut pool));
        let mut got = Vec::new();
        read_file(&tx, |f| got.push(f.to_vec())).unwrap();
        assert_eq!(got, frames);
        assert_eq!(q.counters().read().tx_packets, 100);
    }

    #[test]
    fn a_missing_file_is_named() {
        let config = PcapConfig { rx: Some("/nonexistent.pcap".into()), ..Default::default() };
        let e = PcapQueue::open(&config, Arc::default()).unwrap_err();
        assert!(e.to_string().starts_with("/nonexistent.pcap: open: "), "{e}");
    }
}
