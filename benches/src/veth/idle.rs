//! How much of a core does a switch take that has two ports and nothing to do?

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use e2e::lab::Lab;

use super::rig::{self, Running, Switch};
use crate::measure::Measurement;

/// After this a switch that comes to rest has come to rest.
const SETTLED: Duration = Duration::from_secs(2);

/// Percent of one core. Only inside a sandbox of its own.
pub fn measure(lab: &Lab, switch: Switch, seconds: u32) -> Result<Measurement> {
    for (here, there) in [("s0", "g0"), ("s1", "k0")] {
        let node = lab.node(there)?;
        lab.cable(here, &node, there)?;
    }
    let running = Running::start(switch, lab, &rig::programs()?)?;
    let pid = running.pid().context("this switch is no process")?;
    std::thread::sleep(SETTLED);
    let (start, before) = (Instant::now(), processor_time(pid)?);
    std::thread::sleep(Duration::from_secs(seconds.into()));
    let used = (processor_time(pid)? - before).as_secs_f64();
    Ok(Measurement { rate: 100.0 * used / start.elapsed().as_secs_f64(), cycles: None })
}

/// Processor time of all threads of a process so far (`/proc/PID/task/TID/schedstat`: nanoseconds on a processor).
fn processor_time(pid: i32) -> Result<Duration> {
    let mut sum = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        let time = text.split(' ').next().and_then(|n| n.parse::<u64>().ok());
        sum += time.with_context(|| format!("schedstat says {text}"))?;
    }
    Ok(Duration::from_nanos(sum))
}
