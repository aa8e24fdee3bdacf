//! Taking turns: for each row, round by round, the switch and then its peer.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use e2e::lab::Lab;
use e2e::{cmd, sandbox};

use crate::measure::{Measurement, Rounds};
use crate::ours;
use crate::peers::ovs_dpdk::OvsDpdk;
use crate::results::{Line, Results};
use crate::rows::{self, Row};
use crate::trace;
use crate::veth::rig::{self, Switch};
use crate::veth::{memory, tcp, vxlan};

/// What is to be measured.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Rows by the beginning of their names; all when empty.
    pub rows: Vec<String>,
    /// Peers by name; all when empty.
    pub peers: Vec<String>,
    /// Whether the switch itself is measured.
    pub ours: bool,
    pub rounds: u32,
    /// Seconds for each measurement.
    pub seconds: u32,
    /// Count instructions per packet too, by callgrind.
    pub instructions: bool,
}

impl Plan {
    fn has_row(&self, name: &str) -> bool {
        // A whole name means that row only, also where another one begins with it.
        let exact = |wanted: &&String| all_rows().iter().any(|row| row == *wanted);
        self.rows.is_empty()
            || self.rows.iter().any(|wanted| match exact(&wanted) {
                true => wanted == name,
                false => name.starts_with(wanted.as_str()),
            })
    }

    fn has_peer(&self, name: &str) -> bool {
        self.peers.is_empty() || self.peers.iter().any(|wanted| wanted == name)
    }
}

/// The rows on veth, with the number of flows.
const VETH: &[(&str, u32)] = &[("veth-forward-1", 1), ("veth-forward-1024", 1024)];
const TCP: &str = "veth-tcp";
const VXLAN: &str = "veth-vxlan-tcp";
/// MiB resident with 8 ports and 100,000 megaflows.
const MEMORY: &str = "resident-100000";

/// The names of all rows.
fn all_rows() -> Vec<String> {
    let veth = VETH.iter().map(|(name, _)| *name).chain([TCP, VXLAN, MEMORY]).map(str::to_owned);
    rows::memory().into_iter().map(|row| row.name).chain(veth).collect()
}

/// Measure all that is planned and print it line by line. `Ok(false)` when something could not be
/// measured. Only inside a sandbox.
pub fn all(plan: &Plan, results: &mut Results) -> Result<bool> {
    for wanted in &plan.rows {
        ensure!(all_rows().iter().any(|row| row.starts_with(wanted.as_str())), "no row {wanted}");
    }
    for wanted in &plan.peers {
        let known = ["ovs-dpdk", "ovs-afxdp", "linux", "bare", "none"];
        ensure!(known.contains(&wanted.as_str()), "no peer {wanted}: {}", known.join(", "));
    }
    println!("{}\n{}, commit {}", results.machine, results.kernel, results.commit);
    println!("{}", Line::HEAD);
    let memory = memory_rows(plan, results)?;
    let veth = veth_rows(plan, results)?;
    Ok(memory && veth)
}

/// Print a line and keep it.
fn report(results: &mut Results, line: Line) {
    println!("{}", line.text());
    results.rows.push(line);
}

/// Print what went wrong; the run goes on.
fn failed(row: &str, error: &anyhow::Error) {
    println!("{row:22} {error:#}");
}

fn memory_rows(plan: &Plan, results: &mut Results) -> Result<bool> {
    let rows: Vec<Row> = rows::memory().into_iter().filter(|r| plan.has_row(&r.name)).collect();
    if rows.is_empty() {
        return Ok(true);
    }
    let traces = PathBuf::from("/run/traces");
    std::fs::create_dir_all(&traces)?;
    for mix in rows.iter().flat_map(|r| [Some(&r.mix), r.reply.as_ref()]).flatten() {
        if !traces.join(format!("{mix}.pcap")).exists() {
            trace::write(&traces, mix)?;
        }
    }
    let peer = match plan.has_peer("ovs-dpdk") {
        true => Some(OvsDpdk::start(&traces)?),
        false => None,
    };
    let mut complete = true;
    for row in &rows {
        match memory_row(plan, row, peer.as_ref(), &traces) {
            Ok(line) => report(results, line),
            Err(error) => {
                failed(&row.name, &error);
                complete = false;
            }
        }
    }
    Ok(complete)
}

fn memory_row(plan: &Plan, row: &Row, peer: Option<&OvsDpdk>, traces: &Path) -> Result<Line> {
    let (mut ours, mut theirs) = (Rounds::default(), Rounds::default());
    if let Some(peer) = peer {
        peer.prepare(row)?;
    }
    for _ in 0..plan.rounds {
        if let Some(peer) = peer {
            theirs.add(peer.measure(plan.seconds)?);
        }
        if plan.ours && ours::ROWS.iter().any(|(name, _)| *name == row.name) {
            ours.add(membench(&row.name, traces, plan.seconds)?);
        }
    }
    let name = if peer.is_some() { "ovs-dpdk" } else { "none" };
    let mut line = Line::new(&row.name, name, "Mpps", &ours, &theirs);
    if plan.instructions && ours.rate().is_some() {
        line.instructions = Some(instructions(&row.name, traces)?);
    }
    Ok(line)
}

/// Rounds of a worker whose instructions are counted.
const COUNTED_ROUNDS: &str = "2000";

/// Instructions per packet of a warm worker, by callgrind: the same on every machine that runs the same
/// code, however busy it is.
fn instructions(row: &str, traces: &Path) -> Result<f64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"]);
    command.arg("--toggle-collect=membench::counted").arg(rig::programs()?.join("membench"));
    command.arg(traces).args(["--rounds", COUNTED_ROUNDS, &format!("={row}")]);
    let out = cmd::output_of(&mut command)?;
    ensure!(out.status == 0, "membench under callgrind ended with {}: {}", out.status, out.stderr);
    let collected = out.stderr.lines().find_map(|line| line.split_once("Collected : "));
    let (_, collected) = collected.context("callgrind does not say what it collected")?;
    let words: Vec<&str> = out.stdout.split_whitespace().collect();
    match words.as_slice() {
        [name, packets, "packets"] if *name == row => {
            Ok(collected.trim().parse::<f64>()? / packets.parse::<f64>()?)
        }
        _ => bail!("membench said: {}", out.stdout),
    }
}

/// The switch's own figure, from a process of its own on core 1.
fn membench(row: &str, traces: &Path, seconds: u32) -> Result<Measurement> {
    let mut command = Command::new("taskset");
    command.args(["-c", "1"]).arg(rig::programs()?.join("membench")).arg(traces);
    command.args(["--seconds", &seconds.to_string(), &format!("={row}")]);
    let out = cmd::output_of(&mut command)?;
    ensure!(out.status == 0, "membench ended with {}: {}", out.status, out.stderr);
    let words: Vec<&str> = out.stdout.split_whitespace().collect();
    match words.as_slice() {
        [name, rate, "Mpps", cycles, "cycles/pkt", "sent", sent] if *name == row => {
            let sent: f64 = sent.trim_end_matches('%').parse().context("share sent")?;
            ensure!(sent >= 95.0, "the switch sent only {sent} % of the packets");
            Ok(Measurement { rate: rate.parse()?, cycles: Some(cycles.parse()?) })
        }
        _ => bail!("membench said: {}", out.stdout),
    }
}

fn veth_rows(plan: &Plan, results: &mut Results) -> Result<bool> {
    let mut complete = true;
    for (row, _) in VETH.iter().filter(|(row, _)| plan.has_row(row)) {
        complete &= beside(plan, results, row, "Mpps", &["ovs-afxdp", "bare", "linux"]);
    }
    if plan.has_row(TCP) {
        complete &= beside(plan, results, TCP, "Gbit/s", &["linux"]);
    }
    if plan.has_row(VXLAN) {
        complete &= beside(plan, results, VXLAN, "Gbit/s", &["ovs-afxdp"]);
    }
    if plan.has_row(MEMORY) && plan.ours {
        complete &= beside(plan, results, MEMORY, "MiB", &[]);
    }
    Ok(complete)
}

/// Measure one row on veth of one contender, in a sandbox of its own.
fn veth(row: &str, who: &str, seconds: u32) -> Result<Measurement> {
    let seconds = seconds.to_string();
    let mut command = sandbox::command(&["--veth", row, "--who", who, "--seconds", &seconds])?;
    let out = cmd::output_of(&mut command)?;
    ensure!(out.status == 0, "{}{}", out.stdout, out.stderr);
    serde_json::from_str(&out.stdout).with_context(|| format!("{who} said: {}", out.stdout))
}

/// The inside of [`veth`]: only in a sandbox of its own.
pub fn veth_here(row: &str, who: &str, seconds: u32) -> Result<Measurement> {
    let lab = Lab::new()?;
    match (row, who) {
        (TCP, "ours") => return tcp::ours(&lab, seconds),
        (TCP, _) => return tcp::linux(&lab, seconds),
        (VXLAN, "ours") => return vxlan::ours(&lab, seconds),
        (VXLAN, _) => return vxlan::ovs(&lab, seconds),
        (MEMORY, _) => return memory::resident(&lab),
        _ => {}
    }
    let flows = VETH.iter().find(|(name, _)| *name == row).map(|(_, flows)| *flows);
    let switch = match who {
        "ours" => Switch::Ours,
        "ovs-afxdp" => Switch::OvsAfxdp,
        "bare" => Switch::Bare,
        "linux" => Switch::Linux,
        _ => bail!("nobody is called {who}"),
    };
    let flows = flows.with_context(|| format!("no row {row}"))?;
    let measured = rig::forward(&lab, switch, flows, seconds, &rig::programs()?);
    if measured.is_err() {
        lab.describe();
    }
    measured
}

/// One row beside several peers, round by round. A side that fails is said and left out.
fn beside(
    plan: &Plan,
    results: &mut Results,
    row: &str,
    unit: &'static str,
    peers: &[&str],
) -> bool {
    let peers: Vec<&str> = peers.iter().copied().filter(|name| plan.has_peer(name)).collect();
    let mut ours = Rounds::default();
    let mut theirs = vec![Rounds::default(); peers.len()];
    let mut complete = true;
    let mut keep = |who: &str, rounds: &mut Rounds| match veth(row, who, plan.seconds) {
        Ok(measurement) => rounds.add(measurement),
        Err(error) => {
            failed(row, &error.context(who.to_owned()));
            complete = false;
        }
    };
    for _ in 0..plan.rounds {
        if plan.ours {
            keep("ours", &mut ours);
        }
        for (name, rounds) in peers.iter().zip(&mut theirs) {
            keep(name, rounds);
        }
    }
    for (name, rounds) in peers.iter().zip(&theirs) {
        report(results, Line::new(row, name, unit, &ours, rounds));
    }
    if peers.is_empty() {
        report(results, Line::new(row, "none", unit, &ours, &Rounds::default()));
    }
    complete
}
