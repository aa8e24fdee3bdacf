//! The figures of one run: printed as a table, and kept as a JSON document.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use e2e::cmd;
use serde::Serialize;

use crate::measure::Rounds;

/// What a row's figures are in, and which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    pub name: &'static str,
    /// More is better.
    pub more: bool,
}

impl Unit {
    /// Million packets a second: the rows whose figures are `mpps` and `peer_mpps`.
    pub const MPPS: Unit = Unit { name: "Mpps", more: true };
    /// TCP.
    pub const GBIT: Unit = Unit { name: "Gbit/s", more: true };
    /// Thousands a second: connections, flows, changes.
    pub const THOUSANDS: Unit = Unit { name: "k/s", more: true };
    /// Throughput kept, of 100.
    pub const KEPT: Unit = Unit { name: "% kept", more: true };
    /// Delays.
    pub const MICROSECONDS: Unit = Unit { name: "us", more: false };
    /// Memory.
    pub const MIB: Unit = Unit { name: "MiB", more: false };
    /// Processor time of one core, of 100.
    pub const CORE: Unit = Unit { name: "% core", more: false };

    /// How many times better the first figure is than the second: above 1 is better, whichever way.
    fn ratio(self, ours: f64, theirs: f64) -> Option<f64> {
        let (above, below) = if self.more { (ours, theirs) } else { (theirs, ours) };
        (below > 0.0).then_some(above / below)
    }
}

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
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    pub row: String,
    pub peer: String,
    /// Million packets a second, median of the rounds; null where it was not measured, or the row is no rate of
    /// packets.
    pub mpps: Option<f64>,
    pub peer_mpps: Option<f64>,
    /// What `value` and `peer_value` are in; left out of rows that are rates of packets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_value: Option<f64>,
    /// How many times better than the peer: above 1 is better in every row.
    pub ratio: Option<f64>,
    /// Cycles of the constant-rate counter per packet.
    pub cycles: Option<f64>,
    pub peer_cycles: Option<f64>,
    /// Instructions per packet of the switch, counted by callgrind where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<f64>,
    /// Cycles a packet of the switch's stages, by name: of the last round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stages: Option<BTreeMap<String, f64>>,
    /// (largest − smallest) / median of the rounds, the larger of both sides.
    pub spread: Option<f64>,
    /// Why there is no figure of the peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub absent: Option<String>,
    /// Why there is no figure of the switch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

impl Line {
    /// What the rounds of both sides come to.
    pub fn new(row: &str, peer: &str, unit: Unit, ours: &Rounds, theirs: &Rounds) -> Self {
        let (rate, peer_rate) = (ours.rate(), theirs.rate());
        let spreads = [ours.spread(), theirs.spread()];
        let packets = unit == Unit::MPPS;
        let (mpps, value) = if packets { (rate, None) } else { (None, rate) };
        let (peer_mpps, peer_value) = if packets { (peer_rate, None) } else { (None, peer_rate) };
        Self {
            row: row.to_owned(),
            peer: peer.to_owned(),
            mpps,
            peer_mpps,
            unit: (!packets).then_some(unit.name),
            value,
            peer_value,
            ratio: rate.zip(peer_rate).and_then(|(a, b)| unit.ratio(a, b)),
            cycles: ours.cycles(),
            peer_cycles: theirs.cycles(),
            instructions: None,
            stages: None,
            spread: spreads.into_iter().flatten().reduce(f64::max),
            absent: None,
            failed: None,
        }
    }

    /// The switch's figure, whatever it is in.
    pub fn ours(&self) -> Option<f64> {
        self.mpps.or(self.value)
    }

    /// The peer's figure.
    pub fn theirs(&self) -> Option<f64> {
        self.peer_mpps.or(self.peer_value)
    }

    /// Above the lines of a table.
    pub const HEAD: &str = "row                    peer          ours     peer  unit    ratio  cycles    \
                            peer  spread  instr";

    /// One line of the table.
    pub fn text(&self) -> String {
        let number = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| String::from("-"), |v| format!("{v:.digits$}"))
        };
        let line = format!(
            "{:22} {:10} {:>7} {:>8}  {:6} {:>6} {:>7} {:>7} {:>7} {:>6}",
            self.row,
            self.peer,
            number(self.ours(), 2),
            number(self.theirs(), 2),
            self.unit.unwrap_or(Unit::MPPS.name),
            number(self.ratio, 2),
            number(self.cycles, 0),
            number(self.peer_cycles, 0),
            self.spread.map_or_else(|| String::from("-"), |s| format!("{:.0} %", s * 100.0)),
            number(self.instructions, 0),
        );
        let why = |who: &str, why: &Option<String>| match why {
            Some(why) => format!("\n    {who}: {}", why.replace('\n', "\n      ")),
            None => String::new(),
        };
        line + &why("peer absent", &self.absent) + &why("not measured", &self.failed)
    }
}

impl Results {
    /// An empty report of this machine and source tree.
    pub fn here(source: &Path, rounds: u32) -> Self {
        let text = |words: &[&str]| {
            cmd::run(words).map(|t| t.trim().to_owned()).unwrap_or_else(|_| "unknown".into())
        };
        let tree = source.display().to_string();
        let head = text(&["git", "-C", &tree, "rev-parse", "--short=12", "HEAD"]);
        let changed = text(&["git", "-C", &tree, "status", "--porcelain", "--untracked-files=no"]);
        Self {
            machine: machine(),
            kernel: text(&["uname", "-r"]),
            commit: if changed.is_empty() { head } else { head + "+" },
            date: text(&["date", "-u", "+%Y-%m-%dT%H:%M:%SZ"]),
            rounds,
            rows: Vec::new(),
        }
    }

    /// Where a file of this run is in a directory.
    pub fn path(&self, dir: &Path, ending: &str) -> PathBuf {
        dir.join(format!("{}{ending}", self.date.replace(':', "")))
    }

    /// Write to `DIR/DATE.json`; the file's path.
    pub fn save(&self, dir: &Path) -> Result<PathBuf> {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let path = self.path(dir, ".json");
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}

/// Processor and number of cores.
pub fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map(|m| m.trim_start_matches([' ', '\t', ':'])).unwrap_or("unknown");
    // All of them, whichever this program may run on.
    let cores = cpus.lines().filter(|line| line.starts_with("processor")).count();
    format!("{model}, {cores} cores")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Measurement;

    fn rounds(rate: f64) -> Rounds {
        let mut rounds = Rounds::default();
        rounds.add(Measurement { rate, cycles: None });
        rounds
    }

    #[test]
    fn above_one_is_better_in_every_unit() {
        let line = |unit| Line::new("row", "peer", unit, &rounds(2.0), &rounds(4.0));
        assert_eq!(line(Unit::MPPS).ratio, Some(0.5));
        assert_eq!(line(Unit::MICROSECONDS).ratio, Some(2.0));
        assert_eq!(line(Unit::MIB).ratio, Some(2.0));
        let nothing = Line::new("row", "peer", Unit::CORE, &rounds(0.0), &rounds(4.0));
        assert_eq!(nothing.ratio, None, "nothing is no number of times better");
    }

    #[test]
    fn rates_of_packets_have_other_names_than_the_rest() {
        let json = |unit| {
            let line = Line::new("row", "peer", unit, &rounds(2.0), &rounds(4.0));
            serde_json::to_value(line).expect("a document")
        };
        let packets = json(Unit::MPPS);
        assert_eq!(
            (packets["mpps"].as_f64(), packets["peer_mpps"].as_f64()),
            (Some(2.0), Some(4.0))
        );
        assert!(packets.get("unit").is_none() && packets.get("value").is_none());
        let memory = json(Unit::MIB);
        assert_eq!((memory["unit"].as_str(), memory["value"].as_f64()), (Some("MiB"), Some(2.0)));
        assert!(memory["mpps"].is_null());
    }
}
