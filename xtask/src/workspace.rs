//! Where the workspace and its programs are, and how they are built: always in profile `fast`,
//! which is also the profile this program itself is run in (`.cargo/config.toml`).

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// The Cargo profile of tests, demo and daily work.
pub const PROFILE: &str = "fast";

/// The root of the source tree.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// A `cargo` command in the root of the workspace.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// The directory with the programs of `profile`: beside the one this program was built into.
pub fn programs(profile: &str) -> Result<PathBuf> {
    let me = std::env::current_exe().context("where this program is")?;
    let target =
        me.parent().and_then(Path::parent).context("this program is outside a target directory")?;
    Ok(target.join(profile))
}

/// The path of a built program of profile `fast`.
pub fn program(name: &str) -> Result<PathBuf> {
    Ok(programs(PROFILE)?.join(name))
}

/// Build the programs of `packages`.
pub fn build(packages: &[&str]) -> Result<()> {
    build_profile(PROFILE, packages)
}

/// Build the programs of `packages` in `profile`.
pub fn build_profile(profile: &str, packages: &[&str]) -> Result<()> {
    let mut command = cargo();
    command.args(["build", "--profile", profile, "--bins"]);
    for package in packages {
        command.args(["--package", package]);
    }
    if !process::succeeds(&mut command)? {
        bail!("the build of {} failed", packages.join(", "));
    }
    Ok(())
}
