//! The figures in the repository, and what is said of those that have changed.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::TOLERANCE;

/// What is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// What compiled the program, as `rustc --version` says.
    pub compiler: String,
    /// The processor's architecture.
    pub target: String,
    pub rows: BTreeMap<String, Row>,
}

/// Instructions per packet in one row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub instructions: f64,
    /// The functions with the most of them, without what they called.
    pub functions: BTreeMap<String, f64>,
}

impl Row {
    /// The row of these counts over so many packets, with its `most` dearest functions.
    pub fn new(counts: &BTreeMap<String, u64>, packets: f64, most: usize) -> Row {
        let per_packet = |n: u64| (n as f64 / packets * 10.0).round() / 10.0;
        let mut dearest: Vec<(&String, u64)> = counts.iter().map(|(f, n)| (f, *n)).collect();
        dearest.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        let named = dearest.into_iter().take(most).map(|(f, n)| (f.clone(), per_packet(n)));
        let functions = named.filter(|(_, n)| *n > 0.0).collect();
        Row { instructions: per_packet(counts.values().sum()), functions }
    }

    /// The functions that cost more than in `before`, most first: name, before, now.
    fn grown<'a>(&'a self, before: &'a Row) -> Vec<(&'a str, f64, f64)> {
        let mut grown: Vec<(&str, f64, f64)> = self
            .functions
            .iter()
            .map(|(f, now)| (f.as_str(), before.functions.get(f).copied().unwrap_or(0.0), *now))
            .filter(|(_, before, now)| now > before)
            .collect();
        grown.sort_by(|a, b| (b.2 - b.1).total_cmp(&(a.2 - a.1)));
        grown
    }
}

impl Kept {
    /// Read what is kept.
    ///
    /// # Errors
    /// If the file is not there or not one of these.
    pub fn read(file: &Path) -> Result<Kept> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        serde_json::from_str(&text).with_context(|| file.display().to_string())
    }

    /// Write it.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(file, text).with_context(|| file.display().to_string())
    }
}

/// How a row stands against what is kept of it: `Err` with what is to be said if it costs too much or is
/// not kept, `Ok` with one line otherwise.
pub fn compare(name: &str, now: &Row, kept: Option<&Row>) -> Result<String, String> {
    const MOST: usize = 8;
    let Some(kept) = kept else {
        return Err(format!("{name}: {:.1} a packet, nothing is kept of it", now.instructions));
    };
    let change = now.instructions / kept.instructions - 1.0;
    let line = format!(
        "{name}: {:.1} a packet, {:.1} kept ({:+.1} %)",
        now.instructions,
        kept.instructions,
        change * 100.0
    );
    if change <= TOLERANCE {
        return Ok(line);
    }
    let grown = now.grown(kept);
    let named = grown.iter().take(MOST);
    let list = named.map(|(f, a, b)| format!("\n    {:+7.1} ({a:.1} to {b:.1}) {f}", b - a));
    Err(line + &list.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(functions: &[(&str, u64)]) -> Row {
        let counts = functions.iter().map(|(f, n)| ((*f).to_owned(), *n)).collect();
        Row::new(&counts, 10.0, 3)
    }

    #[test]
    fn a_row_that_grew_fails_and_says_where() {
        let kept = row(&[("extract", 1000), ("lookup", 1000), ("small", 3), ("tiny", 2)]);
        assert_eq!(kept.instructions, 200.5);
        assert_eq!(kept.functions.len(), 3, "the dearest");
        let same = compare("r", &row(&[("extract", 1030), ("lookup", 1020)]), Some(&kept));
        assert!(same.is_ok(), "within the limit: {same:?}");
        let now = row(&[("extract", 1100), ("lookup", 900), ("fresh", 200), ("small", 3)]);
        let said = compare("r", &now, Some(&kept)).expect_err("10 % more");
        assert!(said.starts_with("r: 220.3 a packet, 200.5 kept (+9.9 %)"), "{said}");
        let (fresh, extract) = (said.find("fresh").unwrap(), said.find("extract").unwrap());
        assert!(fresh < extract && !said.contains("lookup"), "{said}");
        assert!(compare("r", &now, None).is_err());
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("kept.json");
        assert!(Kept::read(&file).is_err());
        let rows = BTreeMap::from([("forward-1".to_owned(), row(&[("extract", 1234)]))]);
        let kept = Kept { compiler: "rustc 1".into(), target: "x86_64".into(), rows };
        kept.write(&file).expect("written");
        assert_eq!(Kept::read(&file).expect("read"), kept);
    }
}
