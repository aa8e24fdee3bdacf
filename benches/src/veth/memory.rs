//! How much memory the daemon takes with 8 ports and 100,000 megaflows, frame memory included.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::daemon::Daemon;
use e2e::frame::{Mac, marked};
use e2e::lab::Lab;
use e2e::{report, wait};

use crate::measure::Measurement;

const PORTS: u32 = 8;
const MEGAFLOWS: u32 = 100_000;

/// MiB resident. Only inside a sandbox of its own.
pub fn resident(lab: &Lab) -> Result<Measurement> {
    let daemon = Daemon::start(lab)?;
    daemon.run("add-br br0 other_config:mac-table-size=200000")?;
    let mut hosts = Vec::new();
    for n in 0..PORTS {
        let name = format!("m{n}");
        hosts.push(lab.host(&name, "")?);
        daemon.run(&format!("add-port br0 {name}"))?;
    }
    let raw = hosts.first().context("no host")?.raw()?;
    // Each source address is a megaflow of its own; some frames of a burst may be dropped, so again.
    let mut seen = 0;
    let result = wait::until_for(Duration::from_secs(120), "100,000 megaflows", || {
        for n in 0..MEGAFLOWS {
            let [_, a, b, c] = n.to_be_bytes();
            raw.send(&marked(Mac::BROADCAST, Mac([2, 0, 1, a, b, c]), &[], "m"))?;
        }
        seen = report::total(&daemon.json("workers")?, "megaflows");
        Ok((seen >= u64::from(MEGAFLOWS)).then_some(()))
    });
    result.with_context(|| format!("there are {seen}"))?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS")?;
    ensure!(kib > 0.0, "VmRSS is {line}");
    Ok(Measurement { rate: kib / 1024.0, cycles: None })
}
