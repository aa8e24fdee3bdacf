//! How many TCP connections a second does a device let through, whole lives from SYN to the last
//! acknowledgement, and how long does it take to open one?
//!
//! ```text
//! client   SYN            ACK, FIN+ACK            ACK
//! server        SYN+ACK               FIN+ACK
//! ```
//! The client's sequence numbers say which connection a segment belongs to, as they come back in
//! acknowledgements; the server answers what it sees, so that addresses may be translated on the way. Neither
//! end sends anything twice: what is lost makes a connection that is not completed.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use flow::checksum::Sum;
use hdrhistogram::Histogram;
use ports::{BURST, Burst};
use serde::Serialize;

use super::frames::Frames;
use super::profile::{Profile, Protocol};
use super::progress::Progress;
use super::rate::scaled;
use super::report::{Latency, Place};
use super::rig::{Ends, Rig};
use super::template::Layout;
use super::trial::STOP;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// Sequence numbers that one connection has for itself.
const NUMBERS: u32 = 8;
/// Connections whose beginning is remembered.
const REMEMBERED: usize = 1 << 20;
/// Smallest frame, without check sequence.
const SMALLEST: usize = 60;
/// Answers that are made before they are sent at most.
const ANSWERS: usize = 4096;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub place: Place,
    pub wanted_per_second: f64,
    pub seconds: f64,
    /// SYNs sent.
    pub opened: u64,
    /// SYN+ACKs received.
    pub established: u64,
    /// Connections that were closed by both ends.
    pub completed: u64,
    pub completed_per_second: f64,
    /// Opened and not completed.
    pub failed: u64,
    /// From SYN to SYN+ACK.
    pub latency_us: Option<Latency>,
}

impl Report {
    /// Lines for people.
    pub fn text(&self) -> String {
        let mut text = self.place.text();
        text += &format!(
            "opened     {} in {:.2} s, {} wanted\n",
            self.opened,
            self.seconds,
            scaled(self.wanted_per_second, "conn/s")
        );
        text += &format!(
            "answered   {}\ncompleted  {}: {}\nfailed     {}\n",
            self.established,
            self.completed,
            scaled(self.completed_per_second, "conn/s"),
            self.failed
        );
        if let Some(l) = &self.latency_us {
            text += &format!(
                "to open    min {:.1}, p50 {:.1}, p99 {:.1}, max {:.1} us\n",
                l.min, l.p50, l.p99, l.max
            );
        }
        text
    }

    /// Head and one line.
    pub fn csv(&self) -> String {
        let latency = |of: fn(&Latency) -> f64| {
            self.latency_us.as_ref().map_or_else(String::new, |l| format!("{:.3}", of(l)))
        };
        format!(
            "wanted_per_second,seconds,opened,established,completed,completed_per_second,failed,\
             latency_min_us,latency_p50_us,latency_p99_us,latency_max_us\n\
             {},{:.6},{},{},{},{:.3},{},{},{},{},{}\n",
            self.wanted_per_second,
            self.seconds,
            self.opened,
            self.established,
            self.completed,
            self.completed_per_second,
            self.failed,
            latency(|l| l.min),
            latency(|l| l.p50),
            latency(|l| l.p99),
            latency(|l| l.max)
        )
    }
}

/// A TCP segment in a frame, as far as it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    ip: usize,
    l4: usize,
    v6: bool,
    seq: u32,
    ack: u32,
    flags: u8,
}

impl Segment {
    fn parse(frame: &[u8]) -> Option<Self> {
        let half = |at: usize| Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?));
        let word = |at: usize| Some(u32::from_be_bytes(*frame.get(at..)?.first_chunk()?));
        let ip = if half(12)? == 0x8100 { 18 } else { 14 };
        let (l4, protocol, v6) = match half(ip - 2)? {
            0x0800 => (ip + 4 * usize::from(frame.get(ip)? & 15), *frame.get(ip + 9)?, false),
            0x86dd => (ip + 40, *frame.get(ip + 6)?, true),
            _ => return None,
        };
        if protocol != 6 || frame.len() < l4 + 20 {
            return None;
        }
        Some(Self {
            ip,
            l4,
            v6,
            seq: word(l4 + 4)?,
            ack: word(l4 + 8)?,
            flags: *frame.get(l4 + 13)?,
        })
    }

    /// Append a segment without data to `to`: the headers of `frame`, other numbers and flags, and both ends
    /// exchanged if it is an answer. Returns its length.
    fn make(
        &self,
        frame: &[u8],
        answer: bool,
        (seq, ack, flags): (u32, u32, u8),
        to: &mut Vec<u8>,
    ) -> usize {
        let start = to.len();
        to.extend_from_slice(&frame[..self.l4 + 20]);
        to.resize(start + (self.l4 + 20).max(SMALLEST), 0);
        let made = &mut to[start..];
        if answer {
            swap(made, 0, 6);
            let (at, len) = if self.v6 { (self.ip + 8, 16) } else { (self.ip + 12, 4) };
            swap(made, at, len);
            swap(made, self.l4, 2);
        }
        let mut put = |at: usize, bytes: &[u8]| made[at..at + bytes.len()].copy_from_slice(bytes);
        put(self.l4 + 4, &seq.to_be_bytes());
        put(self.l4 + 8, &ack.to_be_bytes());
        put(self.l4 + 12, &[0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        let header = self.l4 - self.ip;
        if self.v6 {
            put(self.ip + 4, &20u16.to_be_bytes());
        } else {
            put(self.ip + 2, &(header as u16 + 20).to_be_bytes());
            put(self.ip + 10, &[0, 0]);
            let sum = Sum::new().bytes(&made[self.ip..self.l4]).checksum();
            made[self.ip + 10..self.ip + 12].copy_from_slice(&sum.to_be_bytes());
        }
        let addresses =
            if self.v6 { self.ip + 8..self.ip + 40 } else { self.ip + 12..self.ip + 20 };
        let sum = Sum::new().bytes(&made[addresses]).u32(20).u32(6);
        let sum = sum.bytes(&made[self.l4..self.l4 + 20]).checksum();
        made[self.l4 + 16..self.l4 + 18].copy_from_slice(&sum.to_be_bytes());
        made.len()
    }
}

fn swap(bytes: &mut [u8], at: usize, len: usize) {
    let (a, b) = bytes[at..at + 2 * len].split_at_mut(len);
    a.swap_with_slice(b);
}

/// Segments that wait to be sent.
#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    lengths: Vec<usize>,
    /// What had no room.
    dropped: u64,
}

impl Waiting {
    fn add(&mut self, segment: &Segment, frame: &[u8], answer: bool, what: (u32, u32, u8)) {
        if self.lengths.len() >= ANSWERS {
            self.dropped += 1;
            return;
        }
        let len = segment.make(frame, answer, what, &mut self.bytes);
        self.lengths.push(len);
    }

    /// Send all of it.
    fn send(&mut self, rig: &mut Rig, back: bool) {
        let (mut at, mut burst) = (0, Burst::new());
        for len in self.lengths.drain(..) {
            if let Some(packet) = rig.packet(&self.bytes[at..at + len]) {
                burst.push(packet);
            }
            at += len;
            if burst.is_full() {
                send(rig, back, &mut burst);
            }
        }
        if !burst.is_empty() {
            send(rig, back, &mut burst);
        }
        self.bytes.clear();
    }
}

fn send(rig: &mut Rig, back: bool, burst: &mut Burst) {
    if back { rig.send_back(burst) } else { rig.send(burst) }
}

/// The client's side of all connections.
struct Client {
    /// When connection N was opened, at N mod the length.
    begun: Vec<u64>,
    opened: u64,
    established: u64,
    completed: u64,
    latency: Histogram<u64>,
    waiting: Waiting,
}

impl Client {
    /// The number of a connection, of which these are the low bits.
    fn number(&self, ack: u32) -> Option<u64> {
        let number = u64::from(ack / NUMBERS);
        let span = u64::from(u32::MAX / NUMBERS) + 1;
        // The newest that was opened with these bits.
        let newest = self.opened.checked_sub(1)?;
        let round = newest / span * span;
        let found = if round + number <= newest {
            round + number
        } else {
            (round + number).checked_sub(span)?
        };
        (newest - found < REMEMBERED as u64).then_some(found)
    }

    /// How it goes, for a terminal, so many nanoseconds after the start.
    fn line(&self, now: u64) -> String {
        format!(
            "{:6.1} s  opened {}  established {}  completed {}",
            now as f64 / 1e9,
            self.opened,
            self.established,
            self.completed
        )
    }

    fn answer(&mut self, frame: &[u8], now: u64) {
        let Some(segment) = Segment::parse(frame) else { return };
        let Some(number) = self.number(segment.ack) else { return };
        match (segment.flags, segment.ack % NUMBERS) {
            (flags, 1) if flags == SYN | ACK => {
                self.established += 1;
                let begun = self.begun[number as usize % REMEMBERED];
                self.latency.saturating_record(now.saturating_sub(begun).max(1));
                let (seq, ack) = (segment.ack, segment.seq.wrapping_add(1));
                self.waiting.add(&segment, frame, true, (seq, ack, ACK));
                self.waiting.add(&segment, frame, true, (seq, ack, FIN | ACK));
            }
            (flags, 2) if flags == FIN | ACK => {
                self.completed += 1;
                let what = (segment.ack, segment.seq.wrapping_add(1), ACK);
                self.waiting.add(&segment, frame, true, what);
            }
            _ => {}
        }
    }
}

/// What the server answers to a segment.
fn serve(frame: &[u8], waiting: &mut Waiting) {
    let Some(segment) = Segment::parse(frame) else { return };
    match segment.flags {
        SYN => {
            let seq = segment.seq.wrapping_mul(0x9e37_79b1);
            let what = (seq, segment.seq.wrapping_add(1), SYN | ACK);
            waiting.add(&segment, frame, true, what);
        }
        flags if flags == FIN | ACK => {
            let what = (segment.ack, segment.seq.wrapping_add(1), FIN | ACK);
            waiting.add(&segment, frame, true, what);
        }
        _ => {}
    }
}

/// Open so many connections a second, for so long, and wait as long again as `grace` for the last to end.
///
/// # Errors
/// If the rig cannot be opened, has one port only, or the profile cannot be sent.
pub fn run(
    ends: &Ends,
    profile: &Profile,
    per_second: f64,
    (time, grace): (Duration, Duration),
    device: Option<&str>,
    progress: &mut Progress,
) -> Result<Report> {
    ensure!(profile.vni.is_none(), "connections inside VXLAN cannot be opened: leave --vni out");
    ensure!(profile.pcap.is_none(), "connections are not taken from a file: leave --pcap out");
    ensure!(profile.new_flows.is_none(), "each connection is a new flow: leave --new-flows out");
    let mut profile = Profile { protocol: Protocol::Tcp, ..profile.clone() };
    profile.size = "128".parse().map_err(anyhow::Error::msg)?;
    if profile.flows == 1 {
        let most = Layout::new(&profile).most_flows(profile.sources);
        profile.flows = most.min(10_000_000) as u32;
    }
    let frames = Frames::new(&profile, None)?;
    let mut rig = Rig::open(ends, 128)?;
    let place = Place::here(&rig, device);
    let result = drive(&mut rig, &frames, per_second, (time, grace), progress);
    rig.close();
    progress.end();
    let (client, seconds) = result?;
    Ok(Report {
        place,
        wanted_per_second: per_second,
        seconds,
        opened: client.opened,
        established: client.established,
        completed: client.completed,
        completed_per_second: client.completed as f64 / seconds,
        failed: client.opened - client.completed.min(client.opened),
        latency_us: Latency::of(&client.latency),
    })
}

fn drive(
    rig: &mut Rig,
    frames: &Frames,
    per_second: f64,
    (time, grace): (Duration, Duration),
    progress: &mut Progress,
) -> Result<(Client, f64)> {
    let mut client = Client {
        begun: vec![0; REMEMBERED],
        opened: 0,
        established: 0,
        completed: 0,
        latency: Histogram::new_with_bounds(1, 60_000_000_000, 3)?,
        waiting: Waiting::default(),
    };
    let mut server = Waiting::default();
    let mut bytes = Vec::new();
    let start = Instant::now();
    let now = || start.elapsed().as_nanos() as u64;
    let end = time.as_nanos() as u64;
    let (mut stopped, mut quiet) = (None, false);
    loop {
        let at = now();
        let over = at >= end || STOP.load(Ordering::Relaxed);
        if over {
            let stopped = *stopped.get_or_insert(at);
            let late = at > stopped + grace.as_nanos() as u64;
            if client.completed >= client.opened || quiet || late {
                return Ok((client, stopped as f64 / 1e9));
            }
        }
        let due = (at as f64 / 1e9 * per_second) as u64 + 1;
        let room = rig.room().saturating_sub(ANSWERS.min(512));
        let n = due.saturating_sub(client.opened).min(BURST as u64).min(room as u64);
        for _ in 0..if over { 0 } else { n } {
            frames.write(client.opened, 0, 0, &mut bytes);
            let Some(segment) = Segment::parse(&bytes) else { break };
            let first = (client.opened as u32).wrapping_mul(NUMBERS);
            client.begun[client.opened as usize % REMEMBERED] = at;
            client.opened += 1;
            client.waiting.add(&segment, &bytes, false, (first, 0, SYN));
        }
        progress.line(|| client.line(at));
        client.waiting.send(rig, false);
        let settled = rig.is_settled();
        let got = rig.receive_both(
            |packet| client.answer(packet.data(), now()),
            |packet| serve(packet.data(), &mut server),
        )?;
        server.send(rig, true);
        quiet = settled && got == 0;
        if got == 0 && n == 0 {
            rig.resume();
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pktgen::profile::tests::profile;

    /// A switch inside says when nothing more comes; the patience is for a machine that is busy.
    const TIMES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

    #[test]
    fn connections_are_opened_and_closed_through_a_switch_inside() {
        for words in ["", "--ipv6 --size 128", "--vlan 5 --sources 3"] {
            let profile = profile(words).expect(words);
            let flows = "in_port=1,actions=output:2
                in_port=2,actions=output:1";
            let ends = Ends::Inside { flows: flows.into(), core: None };
            let report =
                run(&ends, &profile, 2000.0, TIMES, None, &mut Progress::none()).expect(words);
            assert!(report.opened > 0, "{words}");
            assert_eq!((report.completed, report.established), (report.opened, report.opened));
            assert_eq!(report.failed, 0, "{words}");
        }
    }

    #[test]
    fn connections_that_a_switch_tracks_and_translates_are_completed() {
        let flows = "table=0,in_port=1,tcp,actions=ct(table=1,zone=1,nat)
            table=0,in_port=2,tcp,actions=ct(table=2,zone=1,nat)
            table=1,tcp,ct_state=+trk+new,actions=ct(commit,zone=1,nat(src=203.0.113.1)),output:2
            table=1,tcp,ct_state=+trk+est,actions=output:2
            table=2,tcp,ct_state=+trk+est,actions=output:1";
        let ends = Ends::Inside { flows: flows.into(), core: None };
        let profile = profile("--sources 5").expect("a profile");
        let report =
            run(&ends, &profile, 2000.0, TIMES, None, &mut Progress::none()).expect("a report");
        assert!(report.opened > 0);
        assert_eq!(report.completed, report.opened);
    }

    #[test]
    fn what_is_dropped_is_not_completed() {
        let flows = "in_port=1,tcp,tcp_flags=+fin,actions=drop
            in_port=1,priority=1,actions=output:2
            in_port=2,actions=output:1";
        let ends = Ends::Inside { flows: flows.into(), core: None };
        let report =
            run(&ends, &profile("").expect("a profile"), 500.0, TIMES, None, &mut Progress::none());
        let report = report.expect("a report");
        assert_eq!((report.completed, report.failed), (0, report.opened));
        assert_eq!(report.established, report.opened);
    }
}
