//! The figures of one run: printed as a table, and kept as a JSON document.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use e2e::cmd;
use serde::Serialize;

use crate::measure::Rounds;

/// One run.
#[derive(Debug, Serialize)]
pub struct Results {
    /// Processor and number of cores.
    pub machine: String,
    pub kernel: String,
    /// The commit measured, with `+` behind it when files were changed since.
    pub commit: String,
    /// When, UTC.
    pub date: String,
    pub rounds: u32,
    pub rows: Vec<Line>,
}

/// One row beside one peer.
#[derive(Debug, Serialize)]
pub struct Line {
    pub row: String,
    pub peer: String,
    /// What `mpps` and `peer_mpps` are in: `Mpps`, `Gbit/s` for TCP, `MiB` for memory.
    pub unit: &'static str,
    /// The switch's rate, median of the rounds; none when it was not measured.
    pub mpps: Option<f64>,
    pub peer_mpps: Option<f64>,
    /// `mpps` by `peer_mpps`.
    pub ratio: Option<f64>,
    /// TSC cycles per packet.
    pub cycles: Option<f64>,
    pub peer_cycles: Option<f64>,
    /// Instructions per packet of the switch, counted by callgrind where that was asked for.
    pub instructions: Option<f64>,
    /// (largest − smallest) / median of the rounds, the larger of both sides.
    pub spread: Option<f64>,
}

impl Line {
    /// What the rounds of both sides come to.
    pub fn new(row: &str, peer: &str, unit: &'static str, ours: &Rounds, theirs: &Rounds) -> Self {
        let (rate, peer_rate) = (ours.rate(), theirs.rate());
        let spreads = [ours.spread(), theirs.spread()];
        Self {
            row: row.to_owned(),
            peer: peer.to_owned(),
            unit,
            mpps: rate,
            peer_mpps: peer_rate,
            ratio: rate.zip(peer_rate).map(|(a, b)| a / b),
            cycles: ours.cycles(),
            peer_cycles: theirs.cycles(),
            instructions: None,
            spread: spreads.into_iter().flatten().reduce(f64::max),
        }
    }

    /// Above the lines of a table.
    pub const HEAD: &str = "row                    peer          ours     peer  unit    ratio  cycles    \
                            peer  spread  instr";

    /// One line of the table.
    pub fn text(&self) -> String {
        let number = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| String::from("-"), |v| format!("{v:.digits$}"))
        };
        format!(
            "{:22} {:10} {:>7} {:>8}  {:6} {:>6} {:>7} {:>7} {:>7} {:>6}",
            self.row,
            self.peer,
            number(self.mpps, 2),
            number(self.peer_mpps, 2),
            self.unit,
            number(self.ratio, 2),
            number(self.cycles, 0),
            number(self.peer_cycles, 0),
            self.spread.map_or_else(|| String::from("-"), |s| format!("{:.0} %", s * 100.0)),
            number(self.instructions, 0),
        )
    }
}

impl Results {
    /// An empty report of this machine and source tree.
    pub fn here(source: &Path, rounds: u32) -> Self {
        let text = |words: &[&str]| {
            cmd::run(words).map(|t| t.trim().to_owned()).unwrap_or_else(|_| "unknown".into())
        };
        let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name"));
        let model = model.map(|m| m.trim_start_matches([' ', '\t', ':'])).unwrap_or("unknown");
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let tree = source.display().to_string();
        let head = text(&["git", "-C", &tree, "rev-parse", "--short=12", "HEAD"]);
        let changed = text(&["git", "-C", &tree, "status", "--porcelain", "--untracked-files=no"]);
        Self {
            machine: format!("{model}, {cores} cores"),
            kernel: text(&["uname", "-r"]),
            commit: if changed.is_empty() { head } else { head + "+" },
            date: text(&["date", "-u", "+%Y-%m-%dT%H:%M:%SZ"]),
            rounds,
            rows: Vec::new(),
        }
    }

    /// Write to `DIR/DATE.json`; the file's path.
    pub fn save(&self, dir: &Path) -> Result<PathBuf> {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let path = dir.join(format!("{}.json", self.date.replace(':', "")));
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}
