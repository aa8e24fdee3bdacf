//! One trial: packets at a rate for a time, and what became of each.
//!
//! Sending and receiving take turns on the calling thread, so both are timed by one clock, and a delay is the time
//! from the writing of a packet into the sender's ring to its being found in the receiver's: the time that the
//! kernel takes on both sides is in it, and what the thread does in between. Packets may come late by a grace, for
//! which RFC 2544 section 23 has two seconds.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use afxdp::Packet;
use anyhow::{Result, ensure};
use ports::{BURST, Burst};

use super::cpu::{Account, CoreUse};
use super::frames::Frames;
use super::rate::Rate;
use super::rig::Rig;
use super::sizes::FCS;
use super::stamp::Stamp;
use super::tracker::Tracker;

/// How long copies of packets may come behind the packets themselves.
const COPIES: Duration = Duration::from_millis(50);
/// Rounds without anything to do before the thread lets others run for a moment.
const IDLE: u32 = 64;

/// Set to end trials early: the signal handler of the program does.
pub static STOP: AtomicBool = AtomicBool::new(false);

/// How long to send.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    pub time: Option<Duration>,
    pub packets: Option<u64>,
}

/// What one trial is to do.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Different from that of the trial before.
    pub trial: u16,
    pub rate: Rate,
    pub limit: Limit,
    /// How long to wait for packets after the last was sent.
    pub grace: Duration,
}

/// What became of a trial's packets.
#[derive(Debug)]
pub struct Outcome {
    /// Packets a second that were wanted; none for as many as possible.
    pub wanted: Option<f64>,
    pub sent: u64,
    /// Bytes of those, check sequences included.
    pub sent_bytes: u64,
    /// Frames that the sender had no room for: not in `sent`.
    pub unsent: u64,
    /// Seconds of sending.
    pub seconds: f64,
    /// Packets that arrived, copies not counted.
    pub received: u64,
    pub lost: u64,
    pub reordered: u64,
    pub duplicated: u64,
    /// Packets that arrived too late to be told from copies.
    pub stale: u64,
    /// Frames that arrived and are no packets of this trial.
    pub foreign: u64,
    /// Delays in nanoseconds; empty for captured frames.
    pub latency: hdrhistogram::Histogram<u64>,
    pub cores: Vec<CoreUse>,
    /// Cycles a packet of the switch inside this process.
    pub cycles: Option<f64>,
}

impl Outcome {
    /// Packets a second that were sent.
    pub fn offered(&self) -> f64 {
        self.sent as f64 / self.seconds
    }

    /// Share of the packets that were lost.
    pub fn loss(&self) -> f64 {
        if self.sent == 0 { 0.0 } else { self.lost as f64 / self.sent as f64 }
    }

    /// Packets a second that came through.
    pub fn carried(&self) -> f64 {
        self.received as f64 / self.seconds
    }
}

/// The state of a trial, for who looks on.
#[derive(Debug, Clone, Copy)]
pub struct Glance {
    pub seconds: f64,
    pub sent: u64,
    pub received: u64,
    pub reordered: u64,
    pub duplicated: u64,
}

/// What receiving finds.
struct Seen {
    stamped: bool,
    trial: u16,
    tracker: Tracker,
    foreign: u64,
    /// Of captured frames: how many arrived.
    plain: u64,
    scratch: Vec<u8>,
}

impl Seen {
    #[inline]
    fn packet(&mut self, packet: &Packet, now: u64) {
        if !self.stamped {
            self.plain += 1;
            return;
        }
        let stamp = if packet.is_chained() {
            self.scratch.resize(packet.len(), 0);
            packet.copy_to(&mut self.scratch);
            Stamp::find(&self.scratch, self.trial)
        } else {
            Stamp::find(packet.data(), self.trial)
        };
        match stamp {
            Some(stamp) => self.tracker.arrived(stamp.number, now.saturating_sub(stamp.sent)),
            None => self.foreign += 1,
        }
    }

    fn received(&self) -> u64 {
        if self.stamped { self.tracker.unique } else { self.plain }
    }
}

/// A trial that is running.
struct Running<'a> {
    rig: &'a mut Rig,
    frames: &'a Frames,
    trial: u16,
    start: Instant,
    seen: Seen,
    sent: u64,
    sent_bytes: u64,
    bytes: Vec<u8>,
}

/// Do a trial; `look` is called about ten times a second.
///
/// # Errors
/// If nothing could be sent at all.
pub fn run(
    rig: &mut Rig,
    frames: &Frames,
    plan: &Plan,
    mut look: impl FnMut(Glance),
) -> Result<Outcome> {
    // What is left over from before.
    while rig.receive(|_| {}) > 0 {}
    let wanted = plan.rate.packets(frames.mean_size());
    let (unsent, cycles, account) = (rig.unsent(), rig.cycles(), Account::now());
    let seen = Seen {
        stamped: frames.are_stamped(),
        trial: plan.trial,
        tracker: Tracker::default(),
        foreign: 0,
        plain: 0,
        scratch: Vec::new(),
    };
    let start = Instant::now();
    let mut running = Running {
        rig,
        frames,
        trial: plan.trial,
        start,
        seen,
        sent: 0,
        sent_bytes: 0,
        bytes: Vec::new(),
    };
    let seconds = running.send(wanted, &plan.limit, &mut look);
    let cores = account.since();
    running.wait(plan.grace);
    let unsent = running.rig.unsent() - unsent;
    let outcome = running.outcome(wanted, seconds, unsent, cores, cycles);
    ensure!(outcome.sent > 0, "nothing could be sent in {seconds:.1} s");
    Ok(outcome)
}

impl Running<'_> {
    /// Send until the limit is reached; the seconds that it took.
    fn send(&mut self, wanted: Option<f64>, limit: &Limit, look: &mut impl FnMut(Glance)) -> f64 {
        let end = limit.time.map_or(u64::MAX, |time| time.as_nanos() as u64);
        let most = limit.packets.unwrap_or(u64::MAX);
        let (mut idle, mut looked) = (0, 0);
        loop {
            let now = self.now();
            if now >= end || self.sent >= most || STOP.load(Ordering::Relaxed) {
                return now as f64 / 1e9;
            }
            let due = wanted.map_or(u64::MAX, |pps| (now as f64 / 1e9 * pps) as u64 + 1);
            let n = due.min(most).saturating_sub(self.sent).min(BURST as u64);
            let sent = self.burst(n as usize, now);
            let got = self.receive();
            idle = if sent + got > 0 { 0 } else { idle + 1 };
            if idle > IDLE {
                // On a machine with few cores the device may be waiting for this one.
                std::thread::yield_now();
            }
            if now > looked + 100_000_000 {
                looked = now;
                look(self.glance(now));
            }
        }
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn glance(&self, now: u64) -> Glance {
        Glance {
            seconds: now as f64 / 1e9,
            sent: self.sent,
            received: self.seen.received(),
            reordered: self.seen.tracker.reordered,
            duplicated: self.seen.tracker.duplicated,
        }
    }

    /// Send up to `n` packets, as far as there is room; how many.
    #[inline]
    fn burst(&mut self, n: usize, now: u64) -> usize {
        let n = n.min(self.rig.room());
        if n == 0 {
            return 0;
        }
        let mut burst = Burst::new();
        for _ in 0..n {
            self.frames.write(self.sent, self.trial, now, &mut self.bytes);
            let Some(packet) = self.rig.packet(&self.bytes) else { break };
            self.sent += 1;
            self.sent_bytes += (self.bytes.len() + FCS) as u64;
            burst.push(packet);
        }
        let sent = burst.len();
        self.rig.send(&mut burst);
        sent
    }

    #[inline]
    fn receive(&mut self) -> usize {
        let (start, seen) = (self.start, &mut self.seen);
        let mut now = None;
        self.rig.receive(|packet| {
            // One look at the clock for all that was found at once.
            let now = *now.get_or_insert_with(|| start.elapsed().as_nanos() as u64);
            seen.packet(packet, now);
        })
    }

    /// Wait for what is still on its way.
    fn wait(&mut self, grace: Duration) {
        let end = Instant::now() + grace;
        while self.seen.received() < self.sent && Instant::now() < end {
            let settled = self.rig.is_settled();
            if self.receive() > 0 {
                continue;
            }
            if settled {
                break;
            }
            // An empty burst lets the kernel go on with what it had no room for.
            self.rig.resume();
            std::thread::yield_now();
        }
        let mut quiet = Instant::now();
        while quiet.elapsed() < COPIES && !self.rig.is_settled() && Instant::now() < end {
            if self.receive() > 0 {
                quiet = Instant::now();
            }
            std::thread::yield_now();
        }
        while self.receive() > 0 {}
    }

    fn outcome(
        self,
        wanted: Option<f64>,
        seconds: f64,
        unsent: u64,
        cores: Vec<CoreUse>,
        before: Option<(u64, u64)>,
    ) -> Outcome {
        let cycles = self.rig.cycles().zip(before).and_then(|(after, before)| {
            let packets = after.1.saturating_sub(before.1);
            (packets > 0).then(|| (after.0 - before.0) as f64 / packets as f64)
        });
        let sent = self.sent.saturating_sub(unsent);
        let seen = self.seen;
        let received = seen.received();
        // Without stamps a copy cannot be told from another packet.
        let extra = if seen.stamped { 0 } else { received.saturating_sub(sent) };
        Outcome {
            wanted,
            sent,
            sent_bytes: self.sent_bytes,
            unsent,
            seconds: seconds.max(1e-9),
            received: received - extra,
            lost: sent.saturating_sub(received),
            reordered: seen.tracker.reordered,
            duplicated: seen.tracker.duplicated + extra,
            stale: seen.tracker.stale,
            foreign: seen.foreign,
            latency: seen.tracker.latency,
            cores,
            cycles,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pktgen::profile::tests::profile;
    use crate::pktgen::rig::Ends;

    fn inside(flows: &str, words: &str, packets: u64) -> Outcome {
        let profile = profile(words).expect(words);
        let frames = Frames::new(&profile, Some(1e6)).expect(words);
        let ends = Ends::Inside { flows: flows.to_owned(), core: None };
        let mut rig = Rig::open(&ends, frames.largest()).expect("a switch inside");
        let limit = Limit { time: None, packets: Some(packets) };
        let grace = Duration::from_secs(20);
        let plan = Plan { trial: 1, rate: Rate::Max, limit, grace };
        let outcome = run(&mut rig, &frames, &plan, |_| {}).expect("a trial");
        rig.close();
        outcome
    }

    #[test]
    fn everything_comes_through_a_switch_inside() {
        for words in
            ["--flows 100", "--size imix --sources 20", "--size 9000", "--vni 5 --size 200"]
        {
            let outcome = inside("in_port=1,actions=output:2", words, 5000);
            assert_eq!((outcome.sent, outcome.received, outcome.lost), (5000, 5000, 0), "{words}");
            assert_eq!(
                (outcome.reordered, outcome.duplicated, outcome.foreign),
                (0, 0, 0),
                "{words}"
            );
            assert_eq!(outcome.latency.len(), 5000);
            assert!(outcome.cycles.is_some_and(|c| c > 0.0));
        }
    }

    #[test]
    fn what_a_switch_drops_and_copies_is_found() {
        let flows = "in_port=1,priority=1,actions=output:2
            in_port=1,priority=5,udp,tp_src=1024,actions=drop";
        let outcome = inside(flows, "--flows 10", 3000);
        assert_eq!((outcome.lost, outcome.received, outcome.duplicated), (300, 2700, 0));
        let outcome = inside("in_port=1,actions=output:2,output:2", "--flows 10", 900);
        assert_eq!((outcome.lost, outcome.received, outcome.duplicated), (0, 900, 900));
        let tagged = inside("in_port=1,actions=mod_vlan_vid:7,output:2", "--flows 10", 1000);
        assert_eq!((tagged.lost, tagged.foreign), (0, 0), "stamps are found behind a new tag");
    }
}
