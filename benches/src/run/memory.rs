//! The rows from memory: `membench` in a process of its own on core 1, and OVS-DPDK.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use e2e::cmd;

use super::{Plan, Report, Side, line};
use crate::measure::Measurement;
use crate::peers::ovs_dpdk::OvsDpdk;
use crate::results::{Line, Unit};
use crate::rows::{self, Row};
use crate::trace;
use crate::veth::rig;
use crate::{instructions, ours};

const PEER: &str = "ovs-dpdk";
/// The row beside which the limit is shown, and the limit: a loop that receives and sends.
const LIMITED: &str = "forward-1000";
const LIMIT: &str = "empty";

/// All rows of the plan.
pub(super) fn all(report: &mut Report<'_>) -> Result<()> {
    let plan = report.plan;
    let rows: Vec<Row> = rows::memory().into_iter().filter(|r| plan.has_row(&r.name)).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let traces = traces()?;
    for mix in rows.iter().flat_map(|r| [Some(&r.mix), r.reply.as_ref()]).flatten() {
        if !traces.join(format!("{mix}.pcap")).exists() {
            trace::write(&traces, mix)?;
        }
    }
    // Started with the first row; a machine that cannot run it says so in every line.
    let peer = plan.has_peer(PEER).then(|| OvsDpdk::start(&traces));
    for row in &rows {
        let measured = one(plan, row, peer.as_ref(), &traces);
        report.line(measured.clone())?;
        if row.name == LIMITED && plan.has_peer("bare") {
            report.line(beside_limit(plan, &measured, &traces))?;
        }
    }
    Ok(())
}

/// The directory of traces.
pub(super) fn traces() -> Result<PathBuf> {
    let traces = PathBuf::from("/run/traces");
    std::fs::create_dir_all(&traces)?;
    Ok(traces)
}

fn one(plan: &Plan, row: &Row, peer: Option<&Result<OvsDpdk>>, traces: &Path) -> Line {
    let (mut ours, mut theirs, mut stages) = (Side::default(), Side::default(), None);
    let prepared = match peer {
        Some(Ok(peer)) => match peer.prepare(row) {
            Ok(()) => Some(peer),
            Err(error) => {
                theirs.wrong = Some(format!("{error:#}"));
                None
            }
        },
        Some(Err(error)) => {
            theirs.wrong = Some(format!("{error:#}"));
            None
        }
        None => None,
    };
    for _ in 0..plan.rounds {
        if let Some(peer) = prepared {
            theirs.keep(peer.measure(plan.seconds));
        }
        if plan.ours && ours::ROWS.iter().any(|(name, _)| *name == row.name) {
            let measured = membench(&row.name, traces, plan.seconds);
            if let Ok((_, by_stage)) = &measured {
                stages = Some(by_stage.clone());
            }
            ours.keep(measured.map(|(measurement, _)| measurement));
        }
    }
    let name = if peer.is_some() { PEER } else { "none" };
    let mut line = line(&row.name, name, Unit::MPPS, &ours, &theirs);
    line.stages = stages;
    if plan.instructions && line.mpps.is_some() {
        match instructions(&row.name) {
            Ok(count) => line.instructions = Some(count),
            Err(error) => line.failed = Some(format!("{error:#}")),
        }
    }
    line
}

/// The row's figure beside the limit.
fn beside_limit(plan: &Plan, row: &Line, traces: &Path) -> Line {
    let mut limit = Side::default();
    for _ in 0..plan.rounds {
        limit.keep(membench(LIMIT, traces, plan.seconds).map(|(measurement, _)| measurement));
    }
    let mut ours = Side::default();
    if let Some(rate) = row.mpps {
        ours.keep(Ok(Measurement { rate, cycles: row.cycles }));
    }
    line(&row.row, "bare", Unit::MPPS, &ours, &limit)
}

/// Instructions per packet of a warm worker.
fn instructions(row: &str) -> Result<f64> {
    let counted = instructions::count(&rig::programs()?.join("membench"), &[row], |_, _| ())?;
    counted.get(row).map(|r| r.instructions).context("nothing was counted")
}

/// The switch's own figure, and that of its stages, from a process of its own on core 1.
fn membench(
    row: &str,
    traces: &Path,
    seconds: u32,
) -> Result<(Measurement, BTreeMap<String, f64>)> {
    let mut command = Command::new("taskset");
    command.args(["-c", "1"]).arg(rig::programs()?.join("membench")).arg(traces);
    let named = if row == LIMIT { row.to_owned() } else { format!("={row}") };
    command.args(["--stages", "--seconds", &seconds.to_string(), &named]);
    let out = cmd::output_of(&mut command)?;
    ensure!(out.status == 0, "membench ended with {}: {}", out.status, out.stderr);
    let words: Vec<&str> = out.stdout.split_whitespace().collect();
    match words.as_slice() {
        [name, rate, "Mpps", cycles, "cycles/pkt", "sent", sent, stages @ ..] if *name == row => {
            let sent: f64 = sent.trim_end_matches('%').parse().context("share sent")?;
            ensure!(sent >= 95.0, "the switch sent only {sent} % of the packets");
            let measurement = Measurement { rate: rate.parse()?, cycles: Some(cycles.parse()?) };
            let (pairs, _) = stages.as_chunks::<2>();
            let cost = |[name, cost]: &[&str; 2]| Ok(((*name).to_owned(), cost.parse()?));
            Ok((measurement, pairs.iter().map(cost).collect::<Result<_>>()?))
        }
        _ => bail!("membench said: {}", out.stdout),
    }
}
