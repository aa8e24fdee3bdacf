//! `cargo xtask instructions`: what a packet costs, counted and not timed (see benches/README.md). The
//! same is a part of `cargo xtask test`.

use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;

use crate::workspace::{self, cargo};
use crate::{packages, process, test};

#[derive(Args)]
pub struct InstructionsArguments {
    /// Keep the figures: they are the limit from now on
    #[arg(long)]
    keep: bool,
    /// Only these rows
    rows: Vec<String>,
}

/// How the figures stand against those that are kept.
pub enum Outcome {
    Within,
    TooMany,
    /// Those that are kept are of another compiler or processor, or there is no valgrind.
    NotCompared,
}

/// Build, count and compare, or keep. `Ok(false)` when a row costs too much.
pub fn run(arguments: &InstructionsArguments) -> Result<bool> {
    packages::ensure(packages::TESTS)?;
    // Built as for the tests: with the same features of every dependency.
    if !process::succeeds(cargo().args(test::UNIT).args(["--no-run", "--quiet"]))? {
        bail!("the build failed");
    }
    let keep = arguments.keep.then_some("--keep");
    Ok(!matches!(count(keep, &arguments.rows)?, Outcome::TooMany))
}

/// Count with the programs that the unit tests have built.
pub fn check() -> Result<Outcome> {
    count(None, &[])
}

fn count(keep: Option<&str>, rows: &[String]) -> Result<Outcome> {
    if !packages::present("valgrind") {
        println!("not counted: there is no valgrind");
        return Ok(Outcome::NotCompared);
    }
    let file = workspace::root().join("benches/instructions.json");
    let mut command = Command::new(workspace::program("instructions")?);
    command.arg(file).args(keep).args(rows);
    Ok(match process::status(&mut command)? {
        Some(0) => Outcome::Within,
        Some(3) => Outcome::NotCompared,
        _ => Outcome::TooMany,
    })
}
