//! The project's own commands: `cargo xtask setup | test | demo | instructions | bench`.
//!
//! Each of them can be called on a fresh clone: what is missing on the machine is installed first
//! (without starting any service of the host), what has to be built is built, and then the work is
//! handed to the program that does it (`cargo test`, `e2e`, `benchrun`). This crate knows how to call
//! those and how to add up their results; it knows nothing about the switch.

mod bench;
mod instructions;
mod packages;
mod process;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set up, test, show and measure the switch")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install the Debian packages that tests, demo and benches use, and nothing else
    Setup {
        /// Also install the stock switches that the benches compare with
        #[arg(long)]
        peers: bool,
    },
    /// Run all tests: format, lints, unit and property tests, then the end-to-end tests
    Test(test::TestArguments),
    /// Two namespaces joined by the switch, then a small cloud of three nodes; leaves nothing behind
    Demo {
        /// Leave everything running until Enter or Ctrl-C, to look around in it
        #[arg(long)]
        keep: bool,
    },
    /// Instructions per packet of the rows from memory, beside those in benches/instructions.json
    Instructions(instructions::InstructionsArguments),
    /// Measure the switch beside its peers on the same traffic, in turn
    Bench(bench::BenchArguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Setup { peers } => setup(peers).map(|()| true),
        Command::Test(arguments) => test::run(&arguments),
        Command::Demo { keep } => demo(keep),
        Command::Instructions(arguments) => instructions::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn setup(peers: bool) -> anyhow::Result<()> {
    packages::ensure(packages::TESTS)?;
    if peers {
        packages::ensure(packages::PEERS)?;
    }
    println!("everything needed is installed");
    Ok(())
}

fn demo(keep: bool) -> anyhow::Result<bool> {
    packages::ensure(packages::TESTS)?;
    workspace::build(&["ctl", "e2e"])?;
    let mut command = std::process::Command::new(workspace::program("e2e")?);
    command.arg("demo");
    if keep {
        command.arg("--keep");
    }
    process::succeeds(&mut command)
}
