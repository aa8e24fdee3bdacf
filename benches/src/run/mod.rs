//! Taking turns: for each row, round by round, the switch and then its peer.
//!
//! A side that cannot be measured is said in its line, and the run goes on; what is there is written after every
//! row, so that a run that is ended keeps what it has.

pub mod interfaces;
pub mod memory;
mod plots;
pub mod tables;

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::measure::Rounds;
use crate::results::{Line, Results, Unit};

/// Those that the switch is measured beside.
pub const PEERS: [&str; 4] = ["ovs-dpdk", "ovs-afxdp", "linux", "bare"];

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
    /// Where results are written.
    pub results: Option<PathBuf>,
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

/// The names of all rows, in the order in which they are measured.
pub fn all_rows() -> Vec<String> {
    let memory = crate::rows::memory().into_iter().map(|row| row.name);
    let tables = tables::ROWS.iter().map(|row| row.name.to_owned());
    memory.chain(tables).chain(interfaces::names()).collect()
}

/// What a run has so far.
#[derive(Debug)]
struct Report<'a> {
    plan: &'a Plan,
    results: &'a mut Results,
    /// Everything that was wanted is there.
    complete: bool,
}

impl Report<'_> {
    /// Print a line and keep it.
    fn line(&mut self, line: Line) -> Result<()> {
        self.complete &= line.failed.is_none();
        println!("{}", line.text());
        self.results.rows.push(line);
        if let Some(dir) = &self.plan.results {
            self.results.save(dir)?;
        }
        Ok(())
    }
}

/// One side of a row: its rounds, and why there are none.
#[derive(Debug, Default)]
struct Side {
    rounds: Rounds,
    wrong: Option<String>,
}

impl Side {
    /// Keep a measurement, or the reason why there is none.
    fn keep(&mut self, measured: Result<crate::measure::Measurement>) {
        match measured {
            Ok(measurement) => self.rounds.add(measurement),
            Err(error) => self.wrong = Some(format!("{error:#}")),
        }
    }

    /// The reason, if no round was measured.
    fn reason(&self) -> Option<String> {
        self.wrong.clone().filter(|_| self.rounds.rate().is_none())
    }
}

/// A row's line beside one peer.
fn line(row: &str, peer: &str, unit: Unit, ours: &Side, theirs: &Side) -> Line {
    let mut line = Line::new(row, peer, unit, &ours.rounds, &theirs.rounds);
    (line.failed, line.absent) = (ours.reason(), theirs.reason());
    line
}

/// Measure all that is planned and print it line by line. `Ok(false)` when a figure of the switch could not be
/// had. Only inside a sandbox.
pub fn all(plan: &Plan, results: &mut Results) -> Result<bool> {
    for wanted in &plan.rows {
        let known = all_rows();
        let begins = |row: &&String| row.starts_with(wanted.as_str());
        ensure!(
            known.iter().any(|row| begins(&row)),
            "no row {wanted}; there are: {}",
            known.join(", ")
        );
    }
    for wanted in &plan.peers {
        let known = wanted == "none" || PEERS.contains(&wanted.as_str());
        ensure!(known, "no peer {wanted}: {}, none", PEERS.join(", "));
    }
    println!("{}\n{}, commit {}", results.machine, results.kernel, results.commit);
    println!("{}", Line::HEAD);
    let mut report = Report { plan, results, complete: true };
    memory::all(&mut report)?;
    tables::all(&mut report)?;
    interfaces::all(&mut report)?;
    let complete = report.complete;
    if let Some(dir) = &plan.results {
        println!("\nwritten to {}", results.save(dir)?.display());
        for path in plots::draw(results, dir)? {
            println!("drawn in {}", path.display());
        }
    }
    Ok(complete)
}
