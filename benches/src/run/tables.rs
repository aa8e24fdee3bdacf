//! Rows about tables, by `tablebench` in a process of its own: flows set up a second, and throughput while tables
//! change. The switch alone.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::cmd;

use super::{Report, Side, line};
use crate::measure::Measurement;
use crate::results::Unit;
use crate::veth::rig;

/// A row, and where its figure stands in what `tablebench` says.
#[derive(Debug)]
pub struct TableRow {
    pub name: &'static str,
    /// What `tablebench` is asked for.
    part: &'static str,
    unit: Unit,
    /// The figure is the number in front of these words.
    before: &'static str,
    /// What it is multiplied by.
    factor: f64,
}

/// All of them.
pub const ROWS: &[TableRow] = &[
    TableRow {
        name: "flow-setup",
        part: "setup",
        unit: Unit::THOUSANDS,
        before: " a second; ",
        factor: 0.001,
    },
    TableRow {
        name: "table-changes-50000",
        part: "changes",
        unit: Unit::KEPT,
        before: " %); ",
        factor: 1.0,
    },
];

/// Those of the plan.
pub(super) fn all(report: &mut Report<'_>) -> Result<()> {
    let plan = report.plan;
    for row in ROWS.iter().filter(|row| plan.ours && plan.has_row(row.name)) {
        let mut ours = Side::default();
        for _ in 0..plan.rounds {
            ours.keep(measure(row));
        }
        report.line(line(row.name, "none", row.unit, &ours, &Side::default()))?;
    }
    Ok(())
}

fn measure(row: &TableRow) -> Result<Measurement> {
    let out = cmd::output_of(Command::new(rig::programs()?.join("tablebench")).arg(row.part))?;
    ensure!(out.status == 0, "tablebench ended with {}: {}", out.status, out.stderr);
    let value = figure(&out.stdout, row.before);
    let value = value.with_context(|| format!("tablebench said: {}", out.stdout))?;
    Ok(Measurement { rate: value * row.factor, cycles: None })
}

/// The number in front of these words.
fn figure(text: &str, before: &str) -> Option<f64> {
    let (head, _) = text.split_once(before)?;
    head.rsplit([' ', '(']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_in_sentences() {
        let setup =
            "setup: 500000 flows set up in 1.40 s, 357142 a second; 500000 of 500000 packets";
        assert_eq!(figure(setup, ROWS[0].before), Some(357_142.0));
        let changes =
            "changes: 10.0 Mpps alone, 9.6 with 50000 changes a second (96.0 %); 0 marked";
        assert_eq!(figure(changes, ROWS[1].before), Some(96.0));
        assert_eq!(figure("nothing", ROWS[0].before), None);
    }
}
