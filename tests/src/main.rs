//! `e2e list`, `e2e run [NAME...]`: the end-to-end tests; `e2e demo`: the demonstration.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use e2e::{cases, demo, runner};

#[derive(Parser)]
#[command(name = "e2e", about = "End-to-end tests of the switch, each in namespaces of its own")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The names of all tests and what each shows
    List,
    /// Run all tests, or those whose name contains one of NAMES
    Run {
        names: Vec<String>,
        /// Show what each test prints, also when it passes
        #[arg(long)]
        verbose: bool,
        /// Leave a failed test's namespaces standing until Enter
        #[arg(long)]
        keep: bool,
    },
    /// Two namespaces joined by the switch, then a small cloud of three nodes
    Demo {
        /// Leave everything running until Enter
        #[arg(long)]
        keep: bool,
    },
    /// Run one test right here; only inside a sandbox
    #[command(hide = true)]
    Inside {
        name: String,
        #[arg(long)]
        keep: bool,
    },
    /// Hold so many connections to a port at once, then answer a byte on each
    #[command(hide = true)]
    Hold { port: u16, connections: usize },
    /// The demonstration right here; only inside a sandbox
    #[command(hide = true)]
    DemoInside {
        #[arg(long)]
        keep: bool,
    },
}

fn main() -> ExitCode {
    let status = match Arguments::parse().command {
        Command::List => {
            list();
            Ok(0)
        }
        Command::Run { names, verbose, keep } => {
            runner::run(&runner::Options { names, verbose, keep }).map(|good| i32::from(!good))
        }
        Command::Demo { keep } => demo::outside(keep),
        Command::Inside { name, keep } => runner::inside(&name, keep),
        Command::Hold { port, connections } => cases::nat::hold(port, connections).map(|()| 0),
        Command::DemoInside { keep } => demo::inside(keep),
    };
    match status {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(1)),
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn list() {
    for case in cases::all() {
        println!("{:32} {}", case.name, case.about);
    }
}
