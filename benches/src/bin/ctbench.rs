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
use benches::trace::frames_shuffled;
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

fn expire() -> std::io::Result<()> {
    const ZONE: u16 = 9;
    const MILLION: u32 = 1_000_000;
    const SECONDS: u32 = 10;
    let (mut bench, _) = established(&both("udp", 1000)?)?;
    let shared = bench.shared();
    let tracker = &shared.tracker;
    let mut policy = Policy::default();
    policy.set(Timeout::UdpFirst, SECONDS).map_err(|e| other(&e.to_string()))?;
    tracker.set_policy(1, &policy);
    tracker.set_zone_policy(ZONE, 1);
    let made = Millis(bench.now());
    for frame in frames_shuffled("udp-1000000", 1).map_err(|e| other(&e.to_string()))? {
        let mut key = FlowKey::ZERO;
        let off = extract(&frame, frame.len(), &mut key);
        let input = Input { zone: ZONE, data: &frame, off, total: frame.len(), trust: Trust::Good };
        let done = tracker.commit(made, &input, ConnRef::NONE, &Commit::default(), &mut || 1);
        done.map_err(|e| other(&format!("{e:?}")))?;
    }
    let there = tracker.zone_use(ZONE).0;
    // Some flows of the mix are the same.
    if there < MILLION / 10 * 9 {
        return Err(other(&format!("{there} connections instead of {MILLION}")));
    }
    let (mut alive, mut expiring, mut ended) = (Vec::new(), Vec::new(), 0);
    while expiring.len() < 10 {
        let before = tracker.count(Event::Expired);
        let rate = bench.measure(Duration::from_millis(250)).mpps;
        match tracker.count(Event::Expired) - before {
            0 if expiring.is_empty() => alive.push(rate),
            0 => break,
            n => {
                ended += n;
                expiring.push(rate);
            }
        }
    }
    let (Some(a), Some(b)) = (median(&alive), median(&expiring)) else {
        return Err(other("it took longer to make the connections than they live"));
    };
    println!(
        "expire: {a:.2} Mpps beside {there} that live, {b:.2} while {ended} of them expire: {:.1} %",
        b / a * 100.0
    );
    Ok(())
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
