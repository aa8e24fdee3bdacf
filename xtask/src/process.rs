//! Running other programs with their output passed on as it comes.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

/// Run to the end; whether its exit status was 0.
pub fn succeeds(command: &mut Command) -> Result<bool> {
    Ok(status(command)? == Some(0))
}

/// Run to the end; its exit status, if no signal ended it.
pub fn status(command: &mut Command) -> Result<Option<i32>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot run {name}"))?;
    Ok(status.code())
}

/// Run to the end, pass every line of its standard output on, and give each to `line`.
/// Returns whether its exit status was 0.
pub fn lines(command: &mut Command, mut line: impl FnMut(&str)) -> Result<bool> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot run {name}"))?;
    let output = child.stdout.take().context("no standard output")?;
    let mut out = std::io::stdout();
    for text in BufReader::new(output).split(b'\n') {
        let text = text.with_context(|| format!("reading the output of {name}"))?;
        let text = String::from_utf8_lossy(&text);
        // A reader that has gone away must not end the tests.
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
        line(&text);
    }
    Ok(child.wait().with_context(|| format!("waiting for {name}"))?.success())
}
