//! A run's figures drawn, in files beside its document.

use std::path::{Path, PathBuf};

use anyhow::Result;
use engine::stages::Stage;

use crate::pktgen::plots::{self, Labels, Line as Curve};
use crate::results::{Line, Results, Unit};

/// Rows whose names end in a number of flows, drawn over that number.
const OVER_FLOWS: [&str; 5] = ["forward", "megaflow", "many-megaflows", "ct-est-udp", "ct-est-tcp"];

/// Draw what the run has figures for; the files.
pub(super) fn draw(results: &Results, dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let curves = over_flows(&results.rows);
    if !curves.is_empty() {
        let path = results.path(dir, "-flows.svg");
        let labels = Labels { title: "Throughput against flows", x: "flows", y: "Mpps" };
        plots::lines(&path, labels, &curves)?;
        files.push(path);
    }
    let ratios = ("-ratios.svg", "Times better than the peer", "ratio", bars(&results.rows, ratio));
    let cycles =
        ("-cycles.svg", "Cost of a packet", "cycles", bars(&results.rows, |line| line.cycles));
    for (ending, title, x, bars) in [ratios, cycles] {
        if !bars.is_empty() {
            let path = results.path(dir, ending);
            plots::stacks(&path, Labels { title, x, y: "" }, &[x], &bars)?;
            files.push(path);
        }
    }
    let stages: Vec<_> = results.rows.iter().rev().filter_map(by_stage).collect();
    if !stages.is_empty() {
        let path = results.path(dir, "-stages.svg");
        plots::stages(&path, &stages)?;
        files.push(path);
    }
    Ok(files)
}

/// A row's bar of what each stage cost.
fn by_stage(line: &Line) -> Option<(String, Vec<f64>)> {
    let stages = line.stages.as_ref()?;
    let cost = |stage: Stage| stages.get(stage.name()).copied().unwrap_or_default();
    Some((line.row.clone(), Stage::ALL.map(cost).to_vec()))
}

/// One bar for each line that has the figure, the first one on top.
fn bars(rows: &[Line], figure: fn(&Line) -> Option<f64>) -> Vec<(String, Vec<f64>)> {
    let bar = |line: &Line| {
        let value = figure(line).filter(|value| *value > 0.0)?;
        Some((format!("{} / {}", line.row, line.peer), vec![value]))
    };
    rows.iter().rev().filter_map(bar).collect()
}

/// Of rates only: a delay or an idle core may be a thousand times better, which would dwarf the rest.
fn ratio(line: &Line) -> Option<f64> {
    line.ratio.filter(|_| line.unit.is_none_or(|unit| unit == Unit::GBIT.name))
}

/// A curve for the switch and one for the peer of each kind that was measured with several numbers of flows.
fn over_flows(rows: &[Line]) -> Vec<Curve> {
    let mut curves = Vec::new();
    for kind in OVER_FLOWS {
        let numbered = |line: &&Line| {
            let (name, flows) = line.row.rsplit_once('-')?;
            (name == kind).then(|| flows.parse::<f64>().ok())?
        };
        let mut curve = |who: &str, figure: fn(&Line) -> Option<f64>| {
            let points = rows.iter().filter_map(|line| Some((numbered(&line)?, figure(line)?)));
            let points: Vec<(f64, f64)> = points.collect();
            if points.len() > 1 {
                curves.push((format!("{kind}, {who}"), points));
            }
        };
        curve("vswitch", |line| line.mpps);
        curve("OVS-DPDK", |line| line.peer_mpps.filter(|_| line.peer == "ovs-dpdk"));
    }
    curves
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Measurement, Rounds};

    fn line(row: &str, ours: f64, theirs: f64) -> Line {
        let rounds = |rate| {
            let mut rounds = Rounds::default();
            rounds.add(Measurement { rate, cycles: Some(2300.0 / rate) });
            rounds
        };
        Line::new(row, "ovs-dpdk", Unit::MPPS, &rounds(ours), &rounds(theirs))
    }

    #[test]
    fn a_run_is_drawn() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut results = Results::here(dir.path(), 1);
        assert!(draw(&results, dir.path()).expect("nothing to draw").is_empty());
        results.rows = vec![
            line("megaflow-1000", 20.0, 10.0),
            line("megaflow-10000", 18.0, 8.0),
            line("many-megaflows-1000", 9.0, 8.0),
            line("acl-10000", 20.0, 5.0),
        ];
        let curves = over_flows(&results.rows);
        assert_eq!(curves.len(), 2, "of one kind there are two numbers");
        assert_eq!(curves[0].1, [(1000.0, 20.0), (10_000.0, 18.0)]);
        let costs = [("receive", 20.0), ("conntrack", 70.5)];
        results.rows[0].stages = Some(costs.map(|(name, cost)| (name.to_owned(), cost)).into());
        let files = draw(&results, dir.path()).expect("plots");
        assert_eq!(files.len(), 4);
        let text = std::fs::read_to_string(&files[3]).expect("a file");
        assert!(text.contains("megaflow-1000") && text.contains("conntrack"));
        let text = std::fs::read_to_string(&files[1]).expect("a file");
        assert!(text.contains("acl-10000 / ovs-dpdk"));
    }
}
