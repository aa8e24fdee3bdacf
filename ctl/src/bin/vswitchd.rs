//! The daemon `vswitchd`.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use ctl::backend::Backend;
use ctl::engine_backend::EngineBackend;
use ctl::logging::LogLevel;
use ctl::{CtlError, DaemonOptions, daemon, preflight};

fn main() -> ExitCode {
    let options = DaemonOptions::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let hint = error.hint.as_ref().map(|h| format!("\n  {h}")).unwrap_or_default();
            let _ = writeln!(std::io::stderr(), "vswitchd: {error}{hint}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &DaemonOptions) -> Result<(), CtlError> {
    let log_level = LogLevel::install(&options.log_level)?;
    for warning in preflight::check()? {
        tracing::warn!("{warning}");
    }
    preflight::raise_limits();
    daemon::run(options, log_level, backend)
}

/// The running switch that the daemon controls.
fn backend(options: &DaemonOptions) -> Result<Box<dyn Backend>, CtlError> {
    Ok(Box::new(EngineBackend::start(options)?))
}
