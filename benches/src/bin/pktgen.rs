//! `pktgen`: send packets through a device and find out what becomes of each; see `pktgen --help`.

use std::process::ExitCode;

use benches::pktgen::cli::{self, Arguments};
use clap::Parser;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // What was opened is put back also when somebody ends it.
    let handled = ctrlc::set_handler(cli::stop);
    let done = handled.map_err(anyhow::Error::from).and_then(|()| cli::run(&arguments));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pktgen: {error:#}");
            ExitCode::FAILURE
        }
    }
}
