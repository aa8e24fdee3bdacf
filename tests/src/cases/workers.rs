//! More than one worker, and how workers poll.

use crate::daemon::Daemon;
use crate::frame::{Mac, marked};
use crate::lab::Lab;
use crate::runner::Case;
use crate::{Context, Result, cmd, ensure, report, wait};

pub const CASES: &[Case] = &[
    Case::new("two-workers", "frames cross from one worker to the other", two),
    Case::new("two-workers-order", "a flow's frames stay in order across workers", order),
    Case::new("two-workers-tcp", "TCP between ports of different workers", tcp),
    Case::new("worker-cores", "--workers cores:0 pins to that core", cores),
    Case::new("poll-busy", "--poll busy forwards too", busy),
    Case::new(
        "megaflows",
        "dump-megaflows shows what is cached, and the caches are hit",
        megaflows,
    ),
];

/// Skip where there is only one core.
pub(super) fn two_cores() -> Result<()> {
    let n = std::thread::available_parallelism().map_or(1, usize::from);
    if n < 2 {
        return Err(crate::runner::Skip(format!("two workers need two cores, here is {n}")).into());
    }
    Ok(())
}

/// A daemon with two workers and four machines on one bridge.
fn four(lab: &Lab) -> Result<(Daemon, Vec<crate::lab::Host>)> {
    two_cores()?;
    let mut hosts = Vec::new();
    for n in 1..=4 {
        hosts.push(lab.host(&format!("h{n}"), &format!("10.0.0.{n}/24"))?);
    }
    let daemon = Daemon::start_as(lab, "sw", &["--workers", "2"])?;
    daemon.run("add-br br0")?;
    for n in 1..=4 {
        daemon.run(&format!("add-port br0 h{n}"))?;
    }
    Ok((daemon, hosts))
}

fn two(lab: &Lab) -> Result<()> {
    let (daemon, hosts) = four(lab)?;
    for from in &hosts {
        for to in hosts.iter().filter(|to| to.address != from.address) {
            from.ping(&to.address, 5)?;
        }
    }
    // Both of them had work.
    let document = daemon.json("workers")?;
    let busy = report::objects(&document)
        .iter()
        .filter(|map| map.contains_key("core"))
        .filter(|map| map.get("packets").and_then(|p| p.as_u64()).unwrap_or(0) > 0)
        .count();
    ensure!(busy == 2, "{busy} workers had packets: {document}");
    // What a worker that has just started looked up twice is no second packet: these are shares of lookups.
    for worker in document["workers"].as_array().context("workers")? {
        let (exact, megaflow) = (&worker["exact_hit_rate"], &worker["megaflow_hit_rate"]);
        let shares = exact.as_f64().zip(megaflow.as_f64()).context("hit rates")?;
        ensure!((0.0..=1.0 + 1e-9).contains(&(shares.0 + shares.1)), "{worker}");
    }
    Ok(())
}

/// Frames of a flow, and how many of them are on their way at most: fewer than any queue on it holds (a veth's has
/// 256), so that none is lost however long a worker is kept from its core.
const FLOW: u32 = 2000;
const ON_THE_WAY: u32 = 128;

fn order(lab: &Lab) -> Result<()> {
    let (_daemon, hosts) = four(lab)?;
    for from in &hosts {
        for to in hosts.iter().filter(|to| to.address != from.address) {
            from.ping(&to.address, 1)?;
            let (source, sink) = (from.raw()?, to.raw()?);
            let (mut sent, mut came) = (0, 0);
            while came < FLOW {
                while sent < FLOW.min(came + ON_THE_WAY) {
                    let text = format!("<seq-{sent:08}>");
                    source.send(&marked(to.mac, from.mac, &[], &text))?;
                    sent += 1;
                }
                let which = || format!("{} to {}: frame {came}", from.address, to.address);
                let frame = sink.receive(wait::SOON)?;
                let frame = frame.with_context(|| format!("{} did not come", which()))?;
                // The kernel sends frames of its own.
                let Some(number) = number(&frame) else { continue };
                ensure!(number == came, "{}: {number} came instead", which());
                came += 1;
            }
        }
    }
    Ok(())
}

/// The number in `<seq-NNNNNNNN>`.
fn number(frame: &[u8]) -> Option<u32> {
    let at = frame.windows(5).position(|part| part == b"<seq-")? + 5;
    std::str::from_utf8(frame.get(at..at + 8)?).ok()?.parse().ok()
}

fn tcp(lab: &Lab) -> Result<()> {
    let (daemon, hosts) = four(lab)?;
    for pair in [[0, 1], [1, 2], [3, 0]] {
        let (from, to) = (&hosts[pair[0]], &hosts[pair[1]]);
        from.ping(&to.address, 1)?;
        let _server = super::tcp::serve(to)?;
        let bytes = super::tcp::measure(from, &to.address, &["-n", "32M"])?;
        ensure!(bytes >= 16 << 20, "only {bytes} bytes arrived");
    }
    // Tens of thousands of packets: one round of 32 is timed.
    let document = daemon.json("workers --stages")?;
    let spent = |pointer: &str| {
        let of = |n: u32| document.pointer(&format!("/workers/{n}/stages/{pointer}"));
        [0, 1].into_iter().filter_map(of).filter_map(|v| v.as_f64()).sum::<f64>()
    };
    for some in ["packets", "cycles_per_packet/receive", "cycles_per_packet/transmit"] {
        ensure!(spent(some) > 0.0, "no {some} of any worker's stages: {document}");
    }
    ensure!(spent("cycles_per_packet/conntrack") == 0.0, "nothing was tracked: {document}");
    Ok(())
}

/// The cores that the daemon's threads named as workers may run on, from /proc.
fn cores(lab: &Lab) -> Result<()> {
    let h1 = lab.host("h1", "10.0.0.1/24")?;
    let h2 = lab.host("h2", "10.0.0.2/24")?;
    let daemon = Daemon::start_as(lab, "sw", &["--workers", "cores:0"])?;
    daemon.run("add-br br0 -- add-port br0 h1 -- add-port br0 h2")?;
    h1.ping(&h2.address, 5)?;
    let mut pinned = 0;
    for task in std::fs::read_dir(format!("/proc/{}/task", daemon.pid()))? {
        let status = std::fs::read_to_string(task?.path().join("status"))?;
        let allowed = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:"));
        let name = status.lines().find_map(|l| l.strip_prefix("Name:")).unwrap_or_default();
        if name.contains("worker") {
            ensure!(allowed.map(str::trim) == Some("0"), "a worker may run on {allowed:?}");
            pinned += 1;
        }
    }
    ensure!(pinned == 1, "{pinned} threads are named as workers");
    Ok(())
}

fn busy(lab: &Lab) -> Result<()> {
    let h1 = lab.host("h1", "10.0.0.1/24")?;
    let h2 = lab.host("h2", "10.0.0.2/24")?;
    let mut daemon = Daemon::start_as(lab, "sw", &["--poll", "busy"])?;
    daemon.run("add-br br0 -- add-port br0 h1 -- add-port br0 h2")?;
    h1.ping(&h2.address, 20)?;
    daemon.terminate()?;
    ensure!(!cmd::run(&["ip", "link", "show", "dev", "h1"])?.contains("xdp"), "a program is left");
    Ok(())
}

fn megaflows(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = super::pair(lab)?;
    h1.ping(&h2.address, 100)?;
    let text = daemon.run("dump-megaflows")?;
    ensure!(text.contains("in_port"), "{text}");
    // Two machines that talk need a handful of megaflows, however many packets they exchange.
    let document = daemon.json("dump-megaflows")?;
    let flows = report::objects(&document).iter().filter(|map| map.contains_key("actions")).count();
    ensure!((1..60).contains(&flows), "{flows} megaflows");
    // Megaflows of an address that moved are not used again.
    let raw = h1.raw()?;
    raw.send(&marked(Mac::BROADCAST, h2.mac, &[], "<stolen>"))?;
    wait::until("the address is found at h1", || {
        let fdb = daemon.json("fdb show br0")?;
        let entry = report::object(&fdb, "mac", &h2.mac.to_string())?;
        Ok(report::text(entry, "port") == "h1")
    })?;
    // And back, as soon as its owner speaks.
    h2.ping(&h1.address, 5)
}
