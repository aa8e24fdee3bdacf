//! `tablebench [memory] [changes] [setup] [masks] [tunnels]`: what tables cost, not packets.
//!
//! - `memory`: bytes resident and seconds for a million rules with a simple match and action.
//! - `changes`: throughput over 100,000 live megaflows, alone and while another thread makes 50,000
//!   changes a second that they do not depend on, and how many of them were translated again.
//! - `setup`: new flows a second through a pipeline of ten tables as OpenStack's agent builds it (2,500
//!   rules, two of the tables a security group of 1,000 members and 500 ports), each flow with a
//!   megaflow of its own, and how many packets were lost.
//! - `tunnels`: how long it takes to add a tunnel beside 1 and beside 4,000 others.
//! - `masks`: cycles of a lookup that misses the cache, with 1, 16, 64 and 256 masks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use benches::ours::{Bench, on};
use flow::{Field, Match};
use ofproto::action::{Action, OfPort};
use ofproto::mf::Mf;
use ofproto::rules::RuleSpec;
use ports::trace::Trace;

const IP: (Field, u128, u128) = (Field::EthType, 0x0800, 0xffff);
const UDP: (Field, u128, u128) = (Field::NwProto, 17, 0xff);
const OUT: Action = Action::output(OfPort(2));

type Run = fn() -> std::io::Result<()>;

fn main() -> std::io::Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let all: [(&str, Run); 5] = [
        ("memory", memory),
        ("changes", changes),
        ("setup", setup),
        ("masks", masks),
        ("tunnels", add_tunnels),
    ];
    for (name, run) in all {
        if wanted.is_empty() || wanted.iter().any(|w| w == name) {
            run()?;
        }
    }
    Ok(())
}

fn add_tunnels() -> std::io::Result<()> {
    for n in [1, 4000] {
        let mut bench = Bench::new(trace(1, 1))?;
        let time = benches::tunnels::time_to_add(&mut bench, n)?;
        println!("tunnels: one more beside {n:>5} takes {:>7.1} us", time.as_secs_f64() * 1e6);
    }
    Ok(())
}

/// Bytes resident.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|p| p.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

/// A UDP frame from host `i` to a port, 60 bytes.
fn frame(i: u32, port: u16) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    f.extend([0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    f.extend((0x0a00_0000 | i).to_be_bytes());
    f.extend([10, 100, 0, 1, 4, 0]);
    f.extend(port.to_be_bytes());
    f.extend([0, 26, 0, 0]);
    f.resize(60, 0);
    f
}

/// Frames from `n` hosts to each of so many ports.
fn trace(n: u32, ports: u16) -> Arc<Trace> {
    let of = |i| (0..ports).map(move |port| frame(i, 5120 + port));
    let frames: Vec<Vec<u8>> = (0..n).flat_map(of).collect();
    Arc::new(Trace::new(frames.iter().map(Vec::as_slice)))
}

fn memory() -> std::io::Result<()> {
    const N: u32 = 1_000_000;
    let mut b = Bench::new(trace(1, 1))?;
    let before = resident();
    let started = Instant::now();
    for i in 0..N {
        let dst = (Field::NwDst, u128::from(0x0b00_0000 | i), 0xffff_ffff);
        b.rule(0, 100, on(&[IP, dst]), vec![OUT]);
    }
    b.publish();
    let seconds = started.elapsed().as_secs_f64();
    let bytes = (resident() - before) as f64 / f64::from(N);
    println!("memory: {N} rules, {bytes:.0} bytes each, added in {seconds:.2} s");
    Ok(())
}

fn changes() -> std::io::Result<()> {
    const FLOWS: u32 = 100_000;
    const RATE: u32 = 50_000;
    let mut b = Bench::new(trace(FLOWS, 1))?;
    for i in 0..FLOWS {
        let src = (Field::NwSrc, u128::from(0x0a00_0000 | i), 0xffff_ffff);
        b.rule(0, 100, on(&[IP, UDP, src]), vec![OUT]);
    }
    let alone = b.measure(Duration::from_secs(3));
    let c = b.counters();
    let before = (c.upcalls.load(Ordering::Relaxed), c.marked_stale.load(Ordering::Relaxed));
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let (mut switch, bridge) = (std::mem::take(&mut b.switch), b.bridge);
    let shared = b.shared();
    let changer = std::thread::spawn(move || {
        let (started, mut n) = (Instant::now(), 0u32);
        while !flag.load(Ordering::Relaxed) {
            let due = (started.elapsed().as_secs_f64() * f64::from(RATE)) as u32;
            while n < due && !flag.load(Ordering::Relaxed) {
                // A rule that comes, and goes with the next change; each is acknowledged.
                let host = n / 2 % 1000;
                let dst = (Field::NwDst, u128::from(0x0c00_0000 | host), 0xffff_ffff);
                let m = on(&[IP, (Field::NwProto, 6, 0xff), dst]);
                if n.is_multiple_of(2) {
                    switch.add_rule(bridge, RuleSpec::new(0, 200, m, vec![OUT]), 1);
                } else {
                    let tables = switch.bridge(bridge).map(|b| b.tables.clone());
                    let rule = tables.as_ref().and_then(|t| t.get(0)?.find_exact(&m, 200).cloned());
                    if let Some(rule) = rule {
                        switch.remove_rule(bridge, &rule);
                    }
                }
                if let Some(snapshot) = switch.commit() {
                    let version = snapshot.version;
                    shared.publish(snapshot);
                    let _ = shared.wait_adopted(version, Duration::from_secs(1));
                }
                n += 1;
            }
            std::hint::spin_loop();
        }
        f64::from(n) / started.elapsed().as_secs_f64()
    });
    let under = b.measure(Duration::from_secs(3));
    stop.store(true, Ordering::Relaxed);
    b.rounds(1000);
    let rate = changer.join().unwrap_or(0.0);
    let c = b.counters();
    let again = c.upcalls.load(Ordering::Relaxed) - before.0;
    let stale = c.marked_stale.load(Ordering::Relaxed) - before.1;
    println!(
        "changes: {:.2} Mpps alone, {:.2} with {rate:.0} changes a second ({:.1} %); {stale} marked \
         stale, {again} translated again of {FLOWS}",
        alone.mpps,
        under.mpps,
        100.0 * under.mpps / alone.mpps,
    );
    Ok(())
}

fn setup() -> std::io::Result<()> {
    const HOSTS: u32 = 1000;
    const PORTS: u16 = 500;
    const FLOWS: u32 = HOSTS * PORTS as u32;
    let mut b = Bench::replay(trace(HOSTS, PORTS), Some(1))?;
    let go = |t| Action::Resubmit { in_port: None, table: Some(t), ct: false };
    let load = |f, v| Action::set(f, v);
    b.rule(0, 3, on(&[(Field::InPort, 1, 0xffff_ffff)]), vec![go(59)]);
    b.rule(59, 0, Match::default(), vec![go(60)]);
    let port = (Field::InPort, 1, 0xffff_ffff);
    b.rule(60, 100, on(&[port]), vec![load(Mf::Reg5, 1), load(Mf::Reg6, 7), go(71)]);
    b.rule(60, 3, Match::default(), vec![Action::output(OfPort::NORMAL)]);
    let reg5 = (Field::Reg5, 1, 0xffff_ffff);
    let mac = (Field::EthSrc, 0x0200_0000_0001, 0xffff_ffff_ffff);
    for i in 0..1000u128 {
        let m = on(&[(Field::Reg5, i + 10, 0xffff_ffff), (Field::EthSrc, i, 0xffff_ffff_ffff)]);
        b.rule(71, 65, m, vec![go(72)]);
    }
    b.rule(71, 65, on(&[IP, reg5, mac]), vec![go(72)]);
    b.rule(72, 74, on(&[IP, reg5]), vec![go(73)]);
    b.rule(73, 90, on(&[IP, reg5]), vec![go(81)]);
    // A security group: its members, and what they may reach. So each flow has a megaflow of its own.
    for i in 0..HOSTS {
        let src = (Field::NwSrc, u128::from(0x0a00_0000 | i), 0xffff_ffff);
        b.rule(81, 80, on(&[IP, reg5, src]), vec![go(82)]);
    }
    for i in 0..PORTS {
        let dst = (Field::TpDst, u128::from(5120 + i), 0xffff);
        b.rule(82, 75, on(&[IP, UDP, reg5, dst]), vec![go(94)]);
    }
    b.rule(94, 1, Match::default(), vec![OUT]);
    b.publish();
    let started = Instant::now();
    let mut last = (0, started.elapsed());
    loop {
        b.rounds(64);
        let done = b.sent();
        if done == last.0 && started.elapsed() > last.1 + Duration::from_millis(300) {
            break;
        }
        if done != last.0 {
            last = (done, started.elapsed());
        }
        if done >= u64::from(FLOWS) {
            break;
        }
    }
    let seconds = last.1.as_secs_f64();
    let upcalls = b.counters().upcalls.load(Ordering::Relaxed);
    println!(
        "setup: {upcalls} flows set up in {seconds:.2} s, {:.0} a second; {} of {FLOWS} packets \
         forwarded; {} MiB resident",
        upcalls as f64 / seconds,
        b.sent(),
        resident() >> 20,
    );
    Ok(())
}

fn masks() -> std::io::Result<()> {
    for n in [1u32, 16, 64, 256] {
        // More flows than the cache has entries.
        let mut b = Bench::new(trace(500_000, 1))?;
        for i in 0..n {
            // Disjoint by the address's low bits; each looks at other bits of the port.
            let low = n.next_power_of_two() - 1;
            let bits = u128::from(0x8000 | i);
            let m = on(&[
                IP,
                UDP,
                (Field::NwSrc, u128::from(i), u128::from(low)),
                (Field::TpSrc, 0x0400 & bits, bits),
            ]);
            b.rule(0, 100, m, vec![OUT]);
        }
        let m = b.measure(Duration::from_secs(1));
        let masks = b.counters().masks.load(Ordering::Relaxed);
        println!("masks: {n} rule masks, {masks} megaflow masks: {:.0} cycles a packet", m.cycles);
    }
    Ok(())
}
