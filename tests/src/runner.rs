//! The list of tests, and running them one at a time, each in its sandbox.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::lab::Lab;
use crate::{cases, sandbox};

/// One end-to-end test.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    /// What it shows, in a sentence.
    pub about: &'static str,
    /// How long it may take before it counts as hung, in seconds.
    pub limit: u64,
    pub run: fn(&Lab) -> Result<()>,
}

impl Case {
    /// A test with the usual limit.
    pub const fn new(name: &'static str, about: &'static str, run: fn(&Lab) -> Result<()>) -> Self {
        Self { name, about, limit: 90, run }
    }

    /// The same with another limit.
    pub const fn limit(mut self, seconds: u64) -> Self {
        self.limit = seconds;
        self
    }
}

/// Exit status of a test that cannot be run on this machine.
const SKIPPED: i32 = 77;

/// An error that means "not possible on this machine", with the reason.
#[derive(Debug)]
pub struct Skip(pub String);

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// How the tests are to be run.
#[derive(Debug, Default)]
pub struct Options {
    /// Only tests whose name contains one of these; all when empty.
    pub names: Vec<String>,
    /// Show what each test prints, also when it passes.
    pub verbose: bool,
    /// Leave a failed test's sandbox standing until Enter.
    pub keep: bool,
}

enum End {
    Passed,
    Failed(String),
    Skipped(String),
}

/// So many tests that failed at most are run once more.
const FEW: usize = 5;

/// Run the chosen tests. `Ok(false)` when one failed. The last line printed is the tally.
///
/// A test that failed is run once more after all others, when there are only a [`FEW`]: what passes
/// then counts as passed, and a line `unsteady` names it.
pub fn run(options: &Options) -> Result<bool> {
    let all = cases::all();
    let mut seen = HashSet::new();
    if let Some(twice) = all.iter().find(|case| !seen.insert(case.name)) {
        bail!("two tests are named {}", twice.name);
    }
    let mut tally = Tally::default();
    for case in all.iter().filter(|case| chosen(case, &options.names)) {
        tally.count(case, run_and_report(case, options)?);
    }
    if tally.failed.len() <= FEW && !options.keep {
        let mut unsteady = Vec::new();
        for case in std::mem::take(&mut tally.failed) {
            println!("once more: {}", case.name);
            let end = run_and_report(&case, options)?;
            if matches!(end, End::Passed) {
                unsteady.push(case.name);
            }
            tally.count(&case, end);
        }
        if !unsteady.is_empty() {
            println!("unsteady: {}", unsteady.join(", "));
        }
    }
    println!("{tally}");
    Ok(tally.failed.is_empty())
}

#[derive(Default)]
struct Tally {
    passed: usize,
    skipped: usize,
    failed: Vec<Case>,
}

impl Tally {
    fn count(&mut self, case: &Case, end: End) {
        match end {
            End::Passed => self.passed += 1,
            End::Skipped(_) => self.skipped += 1,
            End::Failed(_) => self.failed.push(*case),
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed.len())?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

/// Run one test and print how it ended; what it printed too, when it failed.
fn run_and_report(case: &Case, options: &Options) -> Result<End> {
    let start = Instant::now();
    let (end, text) = run_one(case, options)?;
    let seconds = start.elapsed().as_secs_f32();
    match &end {
        End::Passed => println!("ok      {} ({seconds:.1} s)", case.name),
        End::Skipped(why) => println!("skipped {}: {why}", case.name),
        End::Failed(why) => println!("FAILED  {} ({seconds:.1} s): {why}", case.name),
    }
    if !text.is_empty() && (options.verbose || matches!(end, End::Failed(_))) {
        println!("------- {}: {}", case.name, case.about);
        println!("{}\n-------", text.trim_end());
    }
    let _ = std::io::stdout().flush();
    Ok(end)
}

fn chosen(case: &Case, names: &[String]) -> bool {
    names.is_empty() || names.iter().any(|name| case.name.contains(name.as_str()))
}

/// Run one test in its sandbox; how it ended and all that it printed.
fn run_one(case: &Case, options: &Options) -> Result<(End, String)> {
    let mut log = scratch_file()?;
    let mut args = vec!["inside", case.name];
    if options.keep {
        args.push("--keep");
    }
    let mut command = sandbox::command(&args)?;
    if options.keep {
        command.stdin(Stdio::inherit());
    } else {
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
    }
    let mut child = command.spawn().context("cannot run setpriv and unshare (util-linux)")?;
    let start = Instant::now();
    let limit = Duration::from_secs(case.limit);
    let end = loop {
        if let Some(status) = child.try_wait()? {
            break match status.code() {
                Some(0) => End::Passed,
                Some(SKIPPED) => End::Skipped(String::new()),
                _ => End::Failed(String::from("see below")),
            };
        }
        if start.elapsed() > limit && !options.keep {
            child.kill()?;
            child.wait()?;
            break End::Failed(format!("not done after {} s", case.limit));
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let mut text = Vec::new();
    log.rewind()?;
    log.read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let end = match end {
        End::Skipped(_) => End::Skipped(text.trim().to_owned()),
        other => other,
    };
    Ok((end, text))
}

/// A file without a name, for what a test prints.
fn scratch_file() -> Result<File> {
    let fd = rustix::fs::memfd_create("e2e-output", rustix::fs::MemfdFlags::CLOEXEC)?;
    Ok(File::from(fd))
}

/// Run one test here, in a sandbox that was made for it; the exit status to end with.
pub fn inside(name: &str, keep: bool) -> Result<i32> {
    sandbox::furnish()?;
    let all = cases::all();
    let case = all.iter().find(|case| case.name == name);
    let case = case.with_context(|| format!("there is no test named {name}"))?;
    let lab = Lab::new()?;
    let result = catch_unwind(AssertUnwindSafe(|| (case.run)(&lab)));
    let error = match result {
        Ok(Ok(())) => return Ok(0),
        Ok(Err(error)) => error,
        Err(_) => anyhow::anyhow!("the test panicked"),
    };
    if let Some(skip) = error.downcast_ref::<Skip>() {
        println!("{skip}");
        return Ok(SKIPPED);
    }
    println!("error: {error:#}");
    lab.describe();
    if keep {
        println!("look around with: nsenter -t {} -m -n -p", outer_pid());
        println!("Enter ends it");
        let _ = std::io::stdin().read_line(&mut String::new());
    }
    Ok(1)
}

/// A way to name this process from outside: the pid that the outer /proc shows cannot be read in here.
fn outer_pid() -> String {
    String::from("$(pgrep -f 'e2e inside' | tail -1)")
}
