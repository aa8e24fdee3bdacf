//! `cargo xtask test`: every test of the project, one tally at the end.
//!
//! The last line is `N passed, N failed` (`, N skipped` behind it when there are any), alone on its
//! line. A step that does not even build counts as one failure.
//!
//! Many tests wait for what kernels, daemons and other people's programs do beside them. One that fails
//! is run once more when all others are done, alone; passes it then, it counts as passed and a line
//! `unsteady` names it, for somebody to look into. More than [`FEW`] failures are no accident: nothing is
//! run again.
//!
//! Property tests make up other cases each time. Where `CI` is set they make up the same ones: there a
//! change is judged, not luck. `PROPTEST_RNG_SEED` chooses them anywhere.

use anyhow::Result;
use clap::Args;

use crate::instructions::{self, Outcome};
use crate::workspace::{self, PROFILE, cargo};
use crate::{packages, process};

#[derive(Args)]
pub struct TestArguments {
    /// Only the end-to-end tests
    #[arg(long, conflicts_with = "unit_only")]
    e2e_only: bool,
    /// Only format, lints, unit and property tests
    #[arg(long)]
    unit_only: bool,
    /// Only tests whose name contains one of these
    names: Vec<String>,
}

/// What property tests make up their cases from (proptest's documentation of `Config`).
const SEED: &str = "PROPTEST_RNG_SEED";

/// So many tests at most get their second run.
const FEW: usize = 5;

/// How many tests ended how.
#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// One check that is not a test program of its own.
    fn check(&mut self, name: &str, good: bool) {
        println!("{} {name}", if good { "ok     " } else { "FAILED " });
        self.passed += u64::from(good);
        self.failed += u64::from(!good);
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

/// Run what was asked for. `Ok(false)` when a test failed.
pub fn run(arguments: &TestArguments) -> Result<bool> {
    let mut tally = Tally::default();
    packages::ensure(packages::TESTS)?;
    if !arguments.e2e_only {
        if arguments.names.is_empty() {
            style(&mut tally)?;
        }
        unit(&mut tally, &arguments.names)?;
        if arguments.names.is_empty() {
            instructions(&mut tally)?;
        }
    }
    if !arguments.unit_only {
        let built = match arguments.e2e_only {
            true => workspace::build(&["ctl", "e2e", "benches"]).is_ok(),
            // Built beside the unit tests, with the same features of every dependency.
            false => process::succeeds(cargo().args(UNIT).args(["--no-run", "--quiet"]))?,
        };
        if built {
            end_to_end(&mut tally, &arguments.names)?;
        } else {
            tally.check("end-to-end tests: build", false);
        }
    }
    println!("\n{tally}");
    Ok(tally.failed == 0)
}

/// rustfmt and clippy, where the toolchain has them.
fn style(tally: &mut Tally) -> Result<()> {
    if packages::present("cargo-fmt") {
        let good = process::succeeds(cargo().args(["fmt", "--all", "--check"]))?;
        tally.check("format (cargo fmt)", good);
    }
    if packages::present("cargo-clippy") {
        let mut clippy = cargo();
        clippy.args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]);
        tally.check("lints (cargo clippy)", process::succeeds(&mut clippy)?);
    }
    Ok(())
}

/// Instructions per packet against those that are kept, where those are of this compiler.
fn instructions(tally: &mut Tally) -> Result<()> {
    const NAME: &str = "instructions per packet (cargo xtask instructions)";
    println!("\n{NAME}");
    match instructions::check()? {
        Outcome::Within => tally.check(NAME, true),
        Outcome::TooMany => tally.check(NAME, false),
        Outcome::NotCompared => {
            println!("skipped {NAME}");
            tally.skipped += 1;
        }
    }
    Ok(())
}

/// What builds every test, and the programs of packages that have integration tests: all that are needed.
pub const UNIT: [&str; 4] = ["test", "--workspace", "--profile", PROFILE];

fn unit(tally: &mut Tally, names: &[String]) -> Result<()> {
    let (mut sum, failed, good) = libtest(names)?;
    if !good && sum.failed == 0 {
        tally.check("unit tests: build or run", false);
    }
    // Names that were not read would be failures forgotten.
    if sum.failed == failed.len() as u64 && (1..=FEW).contains(&failed.len()) {
        println!("once more, alone: {}", failed.join(", "));
        let exactly = ["--exact", "--test-threads=1"].map(String::from);
        let (again, _, good) = libtest(&[&exactly[..], &failed[..]].concat())?;
        if good && again.failed == 0 && again.passed >= sum.failed {
            println!("unsteady: {}", failed.join(", "));
            sum.passed += std::mem::take(&mut sum.failed);
        }
    }
    tally.add(sum);
    Ok(())
}

/// Run the unit tests with these arguments for libtest: the tally, the tests that failed, and whether
/// all went well.
fn libtest(arguments: &[String]) -> Result<(Tally, Vec<String>, bool)> {
    let mut command = cargo();
    // libtest takes any number of filters.
    command.args(UNIT).arg("--no-fail-fast").arg("--").args(arguments);
    if std::env::var_os("CI").is_some() && std::env::var_os(SEED).is_none() {
        command.env(SEED, "1");
    }
    let (mut sum, mut failed) = (Tally::default(), Vec::new());
    let good = process::lines(&mut command, |line| {
        if let Some(result) = libtest_result(line) {
            sum.add(result);
        }
        if let Some(name) = libtest_failure(line) {
            failed.push(name.to_owned());
        }
    })?;
    Ok((sum, failed, good))
}

fn end_to_end(tally: &mut Tally, names: &[String]) -> Result<()> {
    let mut command = std::process::Command::new(workspace::program("e2e")?);
    command.arg("run").args(names);
    let mut last = None;
    let good = process::lines(&mut command, |line| {
        if let Some(result) = closing_line(line) {
            last = Some(result);
        }
    })?;
    match last {
        Some(result) => {
            tally.add(result);
            if !good && result.failed == 0 {
                tally.check("end-to-end tests: exit status", false);
            }
        }
        None => tally.check("end-to-end tests: run to the end", false),
    }
    Ok(())
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; ...` of one test program.
fn libtest_result(line: &str) -> Option<Tally> {
    let rest = line.trim().strip_prefix("test result: ")?;
    let (_, counts) = rest.split_once(". ")?;
    let mut tally = Tally::default();
    for count in counts.split(';') {
        let (number, what) = count.trim().split_once(' ')?;
        match (number.parse::<u64>(), what) {
            (Ok(n), "passed") => tally.passed = n,
            (Ok(n), "failed") => tally.failed = n,
            (Ok(n), "ignored") => tally.skipped = n,
            _ => {}
        }
    }
    Some(tally)
}

/// `test NAME ... FAILED`; for one that should have panicked the name has ` - should panic` behind it.
fn libtest_failure(line: &str) -> Option<&str> {
    let name = line.trim().strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
    Some(name.strip_suffix(" - should panic").unwrap_or(name))
}

/// `N passed, N failed[, N skipped]`, the last line of the end-to-end tests.
fn closing_line(line: &str) -> Option<Tally> {
    let mut tally = Tally::default();
    for (position, part) in line.trim().split(", ").enumerate() {
        let (number, what) = part.split_once(' ')?;
        let number = number.parse().ok()?;
        match (position, what) {
            (0, "passed") => tally.passed = number,
            (1, "failed") => tally.failed = number,
            (2, "skipped") => tally.skipped = number,
            _ => return None,
        }
    }
    line.contains(", ").then_some(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_test_programs_are_read() {
        let line = "test result: FAILED. 12 passed; 2 failed; 3 ignored; 0 measured; 0 filtered out; \
                    finished in 0.01s";
        assert_eq!(libtest_result(line), Some(Tally { passed: 12, failed: 2, skipped: 3 }));
        assert_eq!(libtest_result("test frame::tests::chain ... ok"), None);
    }

    #[test]
    fn names_of_tests_that_failed_are_read() {
        assert_eq!(libtest_failure("test ring::tests::full ... FAILED"), Some("ring::tests::full"));
        assert_eq!(libtest_failure("test a::b - should panic ... FAILED"), Some("a::b"));
        assert_eq!(libtest_failure("test a::b ... ok"), None);
        assert_eq!(libtest_failure("test result: FAILED. 1 passed; 1 failed"), None);
    }

    #[test]
    fn the_closing_line_is_read_back() {
        let tally = Tally { passed: 31, failed: 0, skipped: 2 };
        assert_eq!(closing_line(&tally.to_string()), Some(tally));
        assert_eq!(
            closing_line("4 passed, 1 failed"),
            Some(Tally { passed: 4, failed: 1, skipped: 0 })
        );
        assert_eq!(closing_line("4 passed"), None);
        assert_eq!(closing_line("ok      ping (1.2 s)"), None);
    }
}
