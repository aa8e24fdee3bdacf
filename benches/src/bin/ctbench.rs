//! `ctbench [many] [expire] [workers]`: what a large table of connections costs, whole packets' paths
//! from memory ports.
//!
//! - `many`: cycles a packet of established, translated connections, both directions, each in an order of
//!   its own: 1,000 of them and 2,000,000; bytes resident for each of the two million.
//! - `expire`: packets a second over 1,000 established connections beside a million that live, and while
//!   these expire.
//! - `workers`: two workers on one table beside two workers with a table each, in turn.

use std::sync::Arc;
use std::time::Duration;

use benches::measure::median;
use benches::ours::{Bench, NAT, other};
use benches::pair::{self, Traffic};
use benches::trace::{frames, frames_shuffled};
use conntrack::{Commit, ConnRef, Event, Input, Millis, Policy, Timeout, Trust};
use flow::{FlowKey, extract};
use ports::trace::Trace;

type Run = fn() -> std::io::Result<()>;

fn main() -> std::io::Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let all: [(&str, Run); 3] = [("many", many), ("expire", expire), ("workers", workers)];
    for name in &wanted {
        if !all.iter().any(|(n, _)| n == name) {
            return Err(other(&format!("no part {name}: many, expire, workers")));
        }
    }
    for (name, run) in all {
        if wanted.is_empty() || wanted.iter().any(|w| w == name) {
            run()?;
        }
    }
    Ok(())
}

/// Bytes resident.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|p| p.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

fn trace(mix: &str, seed: u32) -> std::io::Result<Arc<Trace>> {
    let frames = frames_shuffled(mix, seed).map_err(|e| other(&e.to_string()))?;
    Ok(Arc::new(Trace::new(frames.iter().map(Vec::as_slice))))
}

/// Both directions of `n` established connections, in different orders: a burst of one has other
/// connections than the burst of the other beside it.
fn both(protocol: &str, n: u32) -> std::io::Result<Traffic> {
    let mix = format!("nat-{protocol}-{n}");
    Ok([trace(&mix, 1)?, trace(&format!("{mix}-reply"), 2)?])
}

/// A bench whose connections are established, all of them seen.
fn established(traffic: &Traffic) -> std::io::Result<(Bench, u64)> {
    let mut bench = Bench::new(traffic[0].clone())?;
    bench.second_input(traffic[1].clone())?;
    bench.flows(NAT)?;
    let before = resident();
    bench.publish();
    // Answers that came before their connection was there pass the second time.
    while bench.received() < 6 * traffic[0].len() as u64 {
        bench.rounds(64);
    }
    Ok((bench, resident().saturating_sub(before)))
}

fn many() -> std::io::Result<()> {
    const FEW: u32 = 1000;
    const MANY: u32 = 2_000_000;
    for protocol in ["udp", "tcp"] {
        let (mut few, _) = established(&both(protocol, FEW)?)?;
        let (mut many, bytes) = established(&both(protocol, MANY)?)?;
        let there = many.shared().tracker.len();
        if there != MANY as usize {
            return Err(other(&format!("{there} connections instead of {MANY}")));
        }
        let (mut costs, mut ratios) = ([Vec::new(), Vec::new()], Vec::new());
        for _ in 0..5 {
            let (a, b) = (measure(&mut few)?, measure(&mut many)?);
            costs[0].push(a);
            costs[1].push(b);
            ratios.push(b / a);
        }
        let [a, b] = costs.map(|c| median(&c).unwrap_or(0.0));
        let ratio = median(&ratios).unwrap_or(0.0);
        let each = bytes as f64 / f64::from(MANY);
        println!(
            "many: {protocol} {FEW} connections {a:.0} cycles a packet, {MANY} {b:.0}: {ratio:.2} times; {each:.0} bytes resident each"
        );
    }
    Ok(())
}

/// Cycles a packet, nothing lost.
fn measure(bench: &mut Bench) -> std::io::Result<f64> {
    let m = bench.measure(Duration::from_millis(500));
    if m.sent < 0.95 {
        return Err(other(&format!("only {:.0} % were sent", m.sent * 100.0)));
    }
    Ok(m.cycles)
}

/// Connections that expire, and as many that live, made in turn in stretches: the walk of the sweep meets
/// now one sort, now the other, and the traffic beside it is measured in short slices.
fn expire() -> std::io::Result<()> {
    const MILLION: u32 = 1_000_000;
    const STRETCH: u32 = 40_000;
    /// The zone of those that live, and of those that expire.
    const ZONES: [u16; 2] = [8, 9];
    const SECONDS: u32 = 15;
    let (mut bench, _) = established(&both("udp", 1000)?)?;
    let shared = bench.shared();
    let tracker = &shared.tracker;
    for (zone, seconds) in ZONES.into_iter().zip([3600, SECONDS]) {
        let mut policy = Policy::default();
        policy.set(Timeout::UdpFirst, seconds).map_err(|e| other(&e.to_string()))?;
        tracker.set_policy(zone as u8, &policy);
        tracker.set_zone_policy(zone, zone as u8);
    }
    let made = Millis(bench.now());
    let mut frame = frames("udp-1").map_err(|e| other(&e.to_string()))?.swap_remove(0);
    let off = extract(&frame, frame.len(), &mut FlowKey::default());
    for i in 0..2 * MILLION {
        // Another source address each, whose checksums nobody reads.
        frame[26..30].copy_from_slice(&i.to_be_bytes());
        let zone = ZONES[(i / STRETCH % 2) as usize];
        let input = Input { zone, data: &frame, off, total: frame.len(), trust: Trust::Good };
        let done = tracker.commit(made, &input, ConnRef::NONE, &Commit::default(), &mut || 1);
        done.map_err(|e| other(&format!("{e:?}")))?;
    }
    let alive = || u64::from(tracker.zone_use(ZONES[1]).0);
    let before = tracker.count(Event::Expired);
    while bench.now() < made.0 + u64::from(SECONDS) * 1000 {
        bench.run(Duration::from_millis(100));
    }
    if alive() + tracker.count(Event::Expired) - before != u64::from(MILLION) || alive() == 0 {
        return Err(other("it took longer to make the connections than they live"));
    }
    let (started, mut slices) = (bench.now(), Vec::new());
    while alive() > 0 {
        slices.push(Slice::run(&mut bench));
    }
    let seconds = (bench.now() - started) as f64 / 1e3;
    let kept = sorted(kept(&slices));
    let at = |of: usize| kept.get(kept.len() * of / 4).copied().unwrap_or(f64::NAN) * 100.0;
    println!(
        "expire: {MILLION} of {} in {seconds:.0} s beside traffic, which keeps {:.1} % of its throughput, quartiles {:.1} and {:.1} of {} comparisons",
        2 * MILLION,
        at(2),
        at(1),
        at(3),
        kept.len()
    );
    Ok(())
}

/// Some milliseconds of traffic.
struct Slice {
    /// Seconds of the processor a packet: what it does for others on the machine is left out.
    cost: f64,
    expiring: bool,
}

impl Slice {
    /// Long enough for several calls of the sweep, of which there is one in a millisecond.
    const LENGTH: Duration = Duration::from_millis(4);

    fn run(bench: &mut Bench) -> Slice {
        let shared = bench.shared();
        let (packets, expired) = (bench.received(), shared.tracker.count(Event::Expired));
        let before = on_processor();
        bench.run(Slice::LENGTH);
        let time = (on_processor() - before).as_secs_f64();
        let packets = (bench.received() - packets) as f64;
        let expiring = shared.tracker.count(Event::Expired) != expired;
        Slice { cost: time / packets, expiring }
    }
}

/// How long this thread has had a processor.
fn on_processor() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// For each stretch without expiry: the throughput in as many slices with it just before and after, as a
/// share of its own.
fn kept(slices: &[Slice]) -> Vec<f64> {
    let stretches: Vec<&[Slice]> = slices.chunk_by(|a, b| a.expiring == b.expiring).collect();
    let cost = |slices: &[&Slice]| median(&slices.iter().map(|s| s.cost).collect::<Vec<_>>());
    let compare = |w: &[&[Slice]]| {
        let [before, quiet, after] = w else { return None };
        if quiet[0].expiring {
            return None;
        }
        let beside = before.iter().rev().take(quiet.len()).chain(after.iter().take(quiet.len()));
        Some(cost(&quiet.iter().collect::<Vec<_>>())? / cost(&beside.collect::<Vec<_>>())?)
    };
    stretches.windows(3).filter_map(compare).collect()
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

fn workers() -> std::io::Result<()> {
    for protocol in ["udp", "tcp"] {
        let all = both(protocol, 20_000)?;
        // Every second connection is of the second worker.
        let of = |worker: usize| -> Traffic {
            all.each_ref().map(|t| {
                let own = |i: &usize| t.frame(*i).is_some_and(|f| owner(f) == worker);
                let frames = (0..t.len()).filter(own).filter_map(|i| t.frame(i));
                Arc::new(Trace::new(frames))
            })
        };
        let traffic = [of(0), of(1)];
        let (mut rates, mut shares) = ([Vec::new(), Vec::new()], Vec::new());
        for _ in 0..7 {
            let time = Duration::from_secs(1);
            let one = pair::rate(&traffic, true, time)?.rate;
            let each = pair::rate(&traffic, false, time)?.rate;
            rates[0].push(one);
            rates[1].push(each);
            shares.push(one / each);
        }
        let [one, each] = rates.map(|r| median(&r).unwrap_or(0.0));
        let share = median(&shares).unwrap_or(0.0);
        println!(
            "workers: {protocol} two on one table {one:.2} Mpps, on a table each {each:.2}: {share:.2}"
        );
    }
    Ok(())
}

/// Which of two workers has the connection of a frame of a mix `nat-*`: by the port of its inside end.
fn owner(frame: &[u8]) -> usize {
    let inside = if frame[26..30] == [198, 51, 100, 1] { 37 } else { 35 };
    usize::from(frame[inside] & 1)
}
