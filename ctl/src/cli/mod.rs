//! `vswitchctl`: words to commands, commands to the daemon, answers to text.

mod args;
mod connections;
mod files;
mod help;
mod paint;
mod render;
mod table;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use serde_json::value::RawValue;

use crate::client::{Connection, Failure};
use crate::command::Command;
use crate::error::CtlError;
use crate::options::SOCKET;
use crate::report::{FlowsDiff, MonitorEvent};
use crate::streams::MONITOR;
use crate::transact::Outcome;
use args::{Format, Invocation, Options};
use paint::Paint;

/// The daemon refused, or does not answer.
const FAILED: u8 = 1;
/// The command line is wrong.
const USAGE: u8 = 2;

/// The flows differ, as with `ovs-ofctl diff-flows`.
const DIFFERENT: u8 = 2;

/// Runs the command line; gives the exit status.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let invocation = match args::parse(args) {
        Ok(invocation) => invocation,
        Err(error) => {
            // Help and version are "errors" that go to standard output with status 0.
            let code = if error.use_stderr() { USAGE } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match invocation {
        Invocation::Completions(shell) => {
            let status = write_out(&args::completions(shell));
            ExitCode::from(status)
        }
        Invocation::Commands { options, mut commands, files } => {
            for (index, file) in &files {
                let loaded = commands.get_mut(*index).map(|c| files::load(c, file));
                if let Some(Err(e)) = loaded {
                    report(options.format, &e.into());
                    return ExitCode::from(FAILED);
                }
            }
            run(&options, &commands)
        }
        Invocation::Monitor { options, bridge } => monitor(&options, &bridge),
        Invocation::List { options, listing } => connections::list(&options, &listing),
    }
}

fn run(options: &Options, commands: &[Command]) -> ExitCode {
    let socket = options.run_dir.join(SOCKET);
    let outcome = Connection::open(&socket, options.timeout)
        .map_err(Failure::from)
        .and_then(|mut connection| connection.transact(commands));
    match outcome {
        Ok(outcome) => {
            for warning in &outcome.warnings {
                let paint = Paint::for_stream(io::stderr().is_terminal());
                write_err(&format!("vswitchctl: {} {warning}\n", paint.yellow("warning:")));
            }
            print(options, commands, &outcome)
        }
        Err(failure) => {
            report(options.format, &failure);
            ExitCode::from(FAILED)
        }
    }
}

/// Prints what happens in a bridge, until the daemon ends or nobody reads it any more.
fn monitor(options: &Options, bridge: &str) -> ExitCode {
    match events(options, &json!({"bridge": bridge}), |_| true) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(options.format, &failure);
            ExitCode::from(FAILED)
        }
    }
}

/// Prints events until the daemon ends or nobody reads them any more. `on_event` is told before each,
/// and says whether it is to be printed.
fn events(
    options: &Options,
    what: &serde_json::Value,
    mut on_event: impl FnMut(&MonitorEvent) -> bool,
) -> Result<(), Failure> {
    let socket = options.run_dir.join(SOCKET);
    let paint = Paint::for_stream(io::stdout().is_terminal());
    let print = |event: &MonitorEvent, raw: Option<&RawValue>| {
        let text = match (options.format, raw) {
            (Format::Table, _) => render::flow::event(event, paint),
            (Format::Json, Some(raw)) => format!("{raw}\n"),
            (Format::Json, None) => format!("{}\n", json!(event)),
        };
        let mut out = io::stdout().lock();
        if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
            // Whoever read this has left.
            std::process::exit(0);
        }
    };
    let on_event = |lost: u64, raw: &RawValue| {
        if lost > 0 {
            print(&MonitorEvent::Lost { events: lost }, None);
        }
        // Events of a newer daemon that are not known here are passed over.
        if let Ok(event) = serde_json::from_str::<MonitorEvent>(raw.get())
            && on_event(&event)
        {
            print(&event, Some(raw));
        }
    };
    let mut connection = Connection::open(&socket, Duration::ZERO)?;
    connection.call(MONITOR, what, on_event).map(drop)
}

/// Prints one answer a command. The status is 1 when `br-exists` was answered with no.
fn print(options: &Options, commands: &[Command], outcome: &Outcome) -> ExitCode {
    let paint = Paint::for_stream(io::stdout().is_terminal());
    let mut text = String::new();
    let mut status = 0;
    for (command, result) in commands.iter().zip(&outcome.results) {
        if matches!(command, Command::BrExists { .. }) && result.get() != r#"{"exists":true}"# {
            status = FAILED;
        }
        if matches!(command, Command::DiffFlows { .. }) && differ(result) {
            status = DIFFERENT;
        }
        if options.format == Format::Json {
            text.push_str(result.get());
            text.push('\n');
            continue;
        }
        match render::render(command, result, paint) {
            Ok(rendered) => text.push_str(&rendered),
            Err(e) => {
                write_out(&text);
                let message =
                    format!("{}: the daemon's answer cannot be read: {e}", command.text());
                report(options.format, &CtlError::protocol(message).into());
                return ExitCode::from(FAILED);
            }
        }
    }
    ExitCode::from(status.max(write_out(&text)))
}

/// Whether `diff-flows` found something.
fn differ(result: &RawValue) -> bool {
    serde_json::from_str::<FlowsDiff>(result.get())
        .is_ok_and(|d| !d.added.is_empty() || !d.removed.is_empty())
}

/// Says what failed, on standard error.
fn report(format: Format, failure: &Failure) {
    let error = &failure.error;
    if format == Format::Json {
        let mut fields = json!({"message": error.message, "kind": error.kind});
        if let (Some(hint), Some(object)) = (&error.hint, fields.as_object_mut()) {
            object.insert("hint".to_owned(), json!(hint));
        }
        if let (Some(index), Some(object)) = (failure.index, fields.as_object_mut()) {
            object.insert("index".to_owned(), json!(index));
            object.insert("command".to_owned(), json!(failure.command));
        }
        write_err(&format!("{}\n", json!({"error": fields})));
        return;
    }
    let paint = Paint::for_stream(io::stderr().is_terminal());
    let mut text = format!("{} {}\n", paint.red("vswitchctl:"), error.message);
    if let Some(hint) = &error.hint {
        text.push_str(&format!("  {hint}\n"));
    }
    write_err(&text);
}

/// Writes to standard output; gives the exit status. A reader that has left, as `head` does, is no
/// failure.
fn write_out(text: &str) -> u8 {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            write_err(&format!("vswitchctl: cannot write the answer: {e}\n"));
            FAILED
        }
        _ => 0,
    }
}

fn write_err(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
