//! `cargo xtask bench`: builds everything in release and hands over to `benchrun`, which runs the
//! switch and its peers in turn (see benches/README.md).

use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;

use crate::workspace::{self, cargo};
use crate::{packages, process};

#[derive(Args)]
pub struct BenchArguments {
    /// Only these rows, by name or by the beginning of a name: `forward-1,megaflow`
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Only this peer; `none` measures the switch alone
    #[arg(long, value_delimiter = ',', value_parser = ["ovs-dpdk", "ovs-afxdp", "linux", "bare", "none"])]
    peer: Vec<String>,
    /// Rounds; the switch and the peer take turns within each
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of measurement for each row and round
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Count instructions per packet too (callgrind; slow)
    #[arg(long)]
    instructions: bool,
    /// Do not write benches/results/DATE.json and the plots beside it
    #[arg(long)]
    no_save: bool,
}

/// Build, then measure. `Ok(false)` when a row could not be measured.
pub fn run(arguments: &BenchArguments) -> Result<bool> {
    if !packages::is_root()? {
        bail!("the bench needs root: huge pages, namespaces, XDP");
    }
    packages::ensure(packages::TESTS)?;
    // A peer that is not there is absent from the report, with the reason.
    if let Err(error) = packages::ensure(packages::PEERS) {
        println!("without some peers: {error:#}");
    }
    workspace::build_profile("release", &["ctl", "benches"])?;
    if !process::succeeds(cargo().args([
        "build",
        "--release",
        "--package",
        "afxdp",
        "--example",
        "forward",
    ]))? {
        bail!("the build of the bare AF_XDP forwarder failed");
    }
    let mut command = Command::new(workspace::programs("release")?.join("benchrun"));
    command.arg("--rounds").arg(arguments.rounds.to_string());
    command.arg("--seconds").arg(arguments.seconds.to_string());
    for row in &arguments.rows {
        command.arg("--row").arg(row);
    }
    for peer in &arguments.peer {
        command.arg("--peer").arg(peer);
    }
    if arguments.instructions {
        command.arg("--instructions");
    }
    if !arguments.no_save {
        command.arg("--results").arg(workspace::root().join("benches/results"));
    }
    process::succeeds(&mut command)
}
