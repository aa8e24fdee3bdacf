//! `benchrun`: the switch and its peers in turn on the same rows; medians, spreads, ratios.
//!
//! Everything runs in a sandbox (network, mount and pid namespaces), so that nothing is left behind. The
//! one thing outside it is the number of huge pages, which is put back.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use benches::peers::ovs_dpdk::{HUGE_PAGES, HUGE_PAGES_FILE};
use benches::results::Results;
use benches::run::interfaces::{self, Ask};
use benches::run::{self, Plan};
use clap::Parser;
use e2e::sandbox;

#[derive(Parser)]
#[command(about = "Measure the switch beside its peers on the same traffic, in turn")]
struct Arguments {
    /// Only these rows, by name or by the beginning of a name
    #[arg(long = "row")]
    rows: Vec<String>,
    /// Only these peers: ovs-dpdk, ovs-afxdp, linux, bare; `none` for the switch alone
    #[arg(long = "peer")]
    peers: Vec<String>,
    /// Rounds; both sides take turns within each
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of measurement for each row and round
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Count instructions per packet too (callgrind; slow)
    #[arg(long)]
    instructions: bool,
    /// Write DIR/DATE.json
    #[arg(long)]
    results: Option<PathBuf>,
    /// Only the peers, not the switch
    #[arg(long)]
    peers_only: bool,
    /// One measurement on veth, in a sandbox of its own
    #[arg(long, hide = true, requires = "who")]
    veth: Option<String>,
    #[arg(long, hide = true)]
    who: Option<String>,
    #[arg(long, hide = true, default_value_t = 0.0)]
    load: f64,
    /// Already inside the sandbox
    #[arg(long, hide = true)]
    inside: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match (&arguments.veth, &arguments.who) {
        (Some(group), Some(who)) => {
            veth(group, who, &Ask { seconds: arguments.seconds, load: arguments.load })
        }
        _ if arguments.inside => inside(&arguments),
        _ => outside(),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("benchrun: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Reserve huge pages, run this program again in a sandbox, put the pages back.
fn outside() -> Result<bool> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut words: Vec<&str> = vec!["--inside"];
    words.extend(args.iter().map(String::as_str));
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed)).context("signal handler")?;
    let _pages = HugePages::reserve()?;
    let mut child =
        sandbox::command(&words)?.spawn().context("setpriv and unshare (util-linux)")?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if stop.load(Ordering::Relaxed) {
            child.kill()?;
            child.wait()?;
            bail!("interrupted");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The host's huge pages, as they were when this is dropped.
struct HugePages {
    before: u32,
}

impl HugePages {
    fn reserve() -> Result<Self> {
        let count = || -> Result<u32> {
            let text = std::fs::read_to_string(HUGE_PAGES_FILE).context(HUGE_PAGES_FILE)?;
            text.trim().parse().context(HUGE_PAGES_FILE)
        };
        let pages = Self { before: count()? };
        if pages.before < HUGE_PAGES {
            std::fs::write(HUGE_PAGES_FILE, HUGE_PAGES.to_string()).context(HUGE_PAGES_FILE)?;
            let now = count()?;
            if now < HUGE_PAGES {
                // OVS-DPDK will say that it cannot start; every other row can be measured.
                println!("the kernel gives {now} huge pages, {HUGE_PAGES} are needed by OVS-DPDK");
            }
        }
        Ok(pages)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(HUGE_PAGES_FILE, self.before.to_string()) {
            eprintln!(
                "benchrun: {HUGE_PAGES_FILE} could not be set back to {}: {error}",
                self.before
            );
        }
    }
}

/// Print one contender's measurements as JSON.
fn veth(group: &str, who: &str, ask: &Ask) -> Result<bool> {
    sandbox::furnish()?;
    println!("{}", serde_json::to_string(&interfaces::inside(group, who, ask)?)?);
    Ok(true)
}

fn inside(arguments: &Arguments) -> Result<bool> {
    sandbox::furnish()?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"));
    let mut results = Results::here(source, arguments.rounds);
    let plan = Plan {
        rows: arguments.rows.clone(),
        peers: arguments.peers.clone(),
        ours: !arguments.peers_only,
        rounds: arguments.rounds,
        seconds: arguments.seconds,
        instructions: arguments.instructions,
        results: arguments.results.clone(),
    };
    run::all(&plan, &mut results)
}
