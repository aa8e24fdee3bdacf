//! `instructions FILE [--keep] [ROW...]`: count the instructions per packet of the rows from memory, and
//! compare them with what FILE keeps, or keep them there.
//!
//! Ends with 0 if no row costs too much, with 1 if one does, with 2 if nothing could be counted, and with
//! 3 if FILE's figures are of another compiler or processor and say nothing here.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use benches::instructions::{self, Kept, compare};
use clap::Parser;

#[derive(Parser)]
#[command(about = "Instructions per packet, beside those that are kept")]
struct Arguments {
    /// The file with the figures
    file: PathBuf,
    /// Write the figures into the file
    #[arg(long)]
    keep: bool,
    /// Only these rows
    rows: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("instructions: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<u8> {
    let all = instructions::ROWS.to_vec();
    let wanted: Vec<&str> = match arguments.rows.is_empty() {
        true => all.clone(),
        false => arguments.rows.iter().map(String::as_str).collect(),
    };
    for row in &wanted {
        ensure!(all.contains(row), "no row {row}: {}", all.join(", "));
    }
    let me = std::env::current_exe().context("where this program is")?;
    let membench = me.with_file_name("membench");
    let (compiler, target) = (compiler()?, std::env::consts::ARCH.to_owned());
    if arguments.keep {
        return keep(arguments, &membench, &wanted, compiler, target);
    }
    let kept = Kept::read(&arguments.file)?;
    if kept.compiler != compiler || kept.target != target {
        println!(
            "not compared: the figures are of {} on {}, this is {compiler} on {target}",
            kept.compiler, kept.target
        );
        return Ok(3);
    }
    let mut grown = 0;
    instructions::count(&membench, &wanted, |name, row| {
        match compare(name, row, kept.rows.get(name)) {
            Ok(line) => println!("  {line}"),
            Err(more) => {
                grown += 1;
                println!("TOO MUCH {more}");
            }
        }
    })?;
    if grown > 0 {
        println!(
            "If that is what something is worth: cargo xtask instructions --keep, and the reason in the commit."
        );
    }
    Ok(u8::from(grown > 0))
}

fn keep(
    arguments: &Arguments,
    membench: &Path,
    wanted: &[&str],
    compiler: String,
    target: String,
) -> Result<u8> {
    // Rows that were not asked for stay, if they are of the same compiler.
    let same = |k: &Kept| k.compiler == compiler && k.target == target;
    let old = Kept::read(&arguments.file).ok().filter(same);
    let mut rows = old.map(|k| k.rows).unwrap_or_default();
    let counted = instructions::count(membench, wanted, |name, row| {
        println!("  {}", compare(name, row, rows.get(name)).unwrap_or_else(|said| said));
    })?;
    rows.extend(counted);
    rows.retain(|name, _| instructions::ROWS.contains(&name.as_str()));
    Kept { compiler, target, rows }.write(&arguments.file)?;
    println!("written to {}", arguments.file.display());
    Ok(0)
}

/// What compiles here, as it says itself.
fn compiler() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = Command::new(rustc).arg("--version").output().context("rustc")?;
    ensure!(said.status.success(), "rustc --version failed");
    Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}
