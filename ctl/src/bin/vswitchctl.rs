//! The command `vswitchctl`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ctl::cli::main(std::env::args_os())
}
