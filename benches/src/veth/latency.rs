//! How late are packets at 10, 50 and 90 % of a load? `pktgen` on core 0 in front of and behind each switch in
//! turn, which has core 1.
//!
//! Full load is the same for all: what the slowest of them carries when it is offered all that the generator has.
//!
//! A delay of milliseconds is that of a scheduler that gives the core to another process, and says nothing of a switch:
//! on both cores something else wants to run now and then. So the generator and the switch run as real-time threads,
//! for stretches that are shorter, with the start of the generator, than what the kernel lets such threads have at once
//! (0.95 of each second). The figure is the median of the stretches.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::frame::{Mac, marked};
use e2e::lab::{Lab, Node};

use super::rig::{self, Running, Switch};
use crate::measure::{Measurement, Rounds};
use crate::run::interfaces::Ask;

/// Median and 99th percentile at each load.
pub const ROWS: [&str; 6] = [
    "latency-10",
    "latency-10-p99",
    "latency-50",
    "latency-50-p99",
    "latency-90",
    "latency-90-p99",
];
const SHARES: [f64; 3] = [0.1, 0.5, 0.9];
/// Seconds of a stretch, and what others have after it; a second that is asked for has two of them.
const STRETCH: f64 = 0.5;
const REST: Duration = Duration::from_millis(400);
/// What runs a program as a real-time thread.
const REAL_TIME: [&str; 3] = ["chrt", "--fifo", rig::PRIORITY];
/// Source and destination of the generator, as it has them unless told otherwise.
const SOURCE: Mac = Mac([2, 0, 0, 0, 0, 1]);
const TARGET: Mac = Mac([2, 0, 1, 0, 0, 1]);

/// Microseconds for each row; without a load, the one figure of millions of packets a second that were carried.
/// Only inside a sandbox of its own.
pub fn measure(lab: &Lab, switch: Switch, ask: &Ask) -> Result<Vec<Measurement>> {
    let node = lab.node("gen")?;
    lab.cable("s0", &node, "g0")?;
    lab.cable("s1", &node, "k0")?;
    let running = Running::start(switch, lab, &rig::programs()?)?;
    // The switch learns where the far end is.
    node.raw("k0")?.send(&marked(SOURCE, TARGET, &[], "here"))?;
    let warm = pktgen(&node, &[], "max", 0.2)?;
    let measured = match ask.load > 0.0 {
        true => at_loads(&node, &running, ask),
        false => {
            ensure!(warm["received"].as_u64() > Some(0), "nothing came through: {warm:#}");
            let report = pktgen(&node, &[], "max", ask.seconds.into())?;
            let carried = report["carried_pps"].as_f64().context("carried_pps")?;
            Ok(vec![Measurement { rate: carried / 1e6, cycles: None }])
        }
    };
    drop(running);
    measured
}

fn at_loads(node: &Node, running: &Running, ask: &Ask) -> Result<Vec<Measurement>> {
    let mut measured = Vec::new();
    for share in SHARES {
        let rate = format!("{:.0}", (ask.load * share).max(1.0));
        let mut stretches = [Rounds::default(), Rounds::default()];
        for _ in 0..2 * ask.seconds {
            running.set_real_time(true)?;
            let report = pktgen(node, &REAL_TIME, &rate, STRETCH);
            running.set_real_time(false)?;
            std::thread::sleep(REST);
            let report = report?;
            for (percentile, of) in ["p50", "p99"].iter().zip(&mut stretches) {
                let value = report["latency_us"][percentile].as_f64();
                let rate = value.with_context(|| format!("no {percentile}: {report:#}"))?;
                of.add(Measurement { rate, cycles: None });
            }
        }
        for of in stretches {
            let rate = of.rate().context("not a second to measure in")?;
            measured.push(Measurement { rate, cycles: None });
        }
    }
    Ok(measured)
}

/// Run the generator, behind these words; its document.
fn pktgen(node: &Node, how: &[&str], rate: &str, seconds: f64) -> Result<serde_json::Value> {
    let program = rig::programs()?.join("pktgen").display().to_string();
    let seconds = seconds.to_string();
    let mut words = how.to_vec();
    #[rustfmt::skip]
    words.extend([
        &*program, "run", "g0", "k0", "--core", "0", "--rate", rate, "--seconds", &seconds, "--format", "json",
    ]);
    let text = node.run(&words)?;
    serde_json::from_str(&text).with_context(|| format!("pktgen said: {text}"))
}
