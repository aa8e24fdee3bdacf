//! Running other programs and reading what they say.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// What a program said and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit status; 128 + the signal's number for a program that a signal ended.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Run a program to its end, whatever its exit status.
pub fn output(args: &[&str]) -> Result<Output> {
    output_of(&mut command(args))
}

/// The same for a prepared command.
pub fn output_of(command: &mut Command) -> Result<Output> {
    use std::os::unix::process::ExitStatusExt;
    let name = command.get_program().to_string_lossy().into_owned();
    let out =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {name}"))?;
    let status = out.status.code().or(out.status.signal().map(|s| 128 + s)).unwrap_or(-1);
    Ok(Output {
        status,
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    })
}

/// Run a program that must succeed; its standard output.
pub fn run(args: &[&str]) -> Result<String> {
    let out = output(args)?;
    if out.status != 0 {
        bail!("`{}` ended with {}: {}{}", args.join(" "), out.status, out.stderr, out.stdout);
    }
    Ok(out.stdout)
}

/// A command of these words.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(args.first().copied().unwrap_or("true"));
    command.args(args.get(1..).unwrap_or_default());
    command
}
