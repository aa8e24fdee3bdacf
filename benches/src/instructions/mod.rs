//! How many instructions does a packet cost, row by row, and has that grown?
//!
//! Callgrind counts the instructions of a warm worker (`membench --rounds`) in rows from memory: the
//! same in every run of the same program, however busy the machine is. What is kept in the repository
//! ([`Kept`]) is the limit: a row that costs more than [`TOLERANCE`] over it has to be made cheaper, or
//! be kept anew and explained in the commit.
//!
//! Only what is in the program itself counts: the C library chooses its copying routines by the
//! processor. Figures of another compiler or target are not compared.

pub mod callgrind;
mod kept;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use e2e::cmd;

pub use kept::{Kept, Row, compare};

use crate::ours;

/// By how much a row may cost more than what is kept.
pub const TOLERANCE: f64 = 0.03;
/// Rounds of 32 packets that are counted.
const ROUNDS: &str = "500";
/// Functions that are kept of each row: all that matter.
const FUNCTIONS: usize = 24;

/// The rows that are counted: each way that a packet can take once.
pub const ROWS: &[&str] = &[
    "forward-1",
    "megaflow-1000",
    "l2-1000",
    "vlan-push-1000",
    "vlan-pop-1000",
    "route-1000",
    "many-megaflows-1000",
    "acl-10000",
    "vxlan-encap-1000",
    "vxlan-decap-1000",
    "gre-encap-1000",
    "gre-decap-1000",
    "geneve-encap-1000",
    "geneve-decap-1000",
    "ct-est-udp-1000",
    "ct-est-tcp-1000",
    "neutron-1000",
];

/// Count rows with `membench`; `each` sees them as they come.
///
/// # Errors
/// If callgrind or `membench` fail.
pub fn count(
    membench: &Path,
    rows: &[&str],
    mut each: impl FnMut(&str, &Row),
) -> Result<BTreeMap<String, Row>> {
    let dir = tempfile::tempdir().context("a directory for traces")?;
    let mut counted = BTreeMap::new();
    for row in rows {
        let found = count_row(membench, row, dir.path()).with_context(|| format!("row {row}"))?;
        each(row, &found);
        counted.insert((*row).to_owned(), found);
    }
    Ok(counted)
}

fn count_row(membench: &Path, row: &str, dir: &Path) -> Result<Row> {
    ours::write_traces(row, dir)?;
    let out = dir.join("callgrind.out");
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--collect-atstart=no"]);
    command.arg("--toggle-collect=membench::counted");
    command.arg(format!("--callgrind-out-file={}", out.display()));
    command.arg(membench).arg(dir).args(["--rounds", ROUNDS, &format!("={row}")]);
    let ran = cmd::output_of(&mut command)?;
    ensure!(ran.status == 0, "membench under callgrind ended with {}: {}", ran.status, ran.stderr);
    let words: Vec<&str> = ran.stdout.split_whitespace().collect();
    let packets: f64 = match words.as_slice() {
        [name, packets, "packets"] if *name == row => packets.parse()?,
        _ => bail!("membench said: {}", ran.stdout),
    };
    let profile = std::fs::read_to_string(&out).context("what callgrind wrote")?;
    let program = membench.file_name().and_then(|n| n.to_str()).unwrap_or("membench");
    let functions = callgrind::by_function(&profile, program);
    ensure!(!functions.is_empty(), "callgrind counted nothing");
    Ok(Row::new(&functions, packets, FUNCTIONS))
}
