//! `mktrace OUTDIR [MIX...]`: write the traffic mixes as pcap files.

use std::path::PathBuf;

use anyhow::Context;
use benches::trace;
use clap::Parser;

#[derive(Parser)]
#[command(about = "Write the traffic mixes that every switch under test replays")]
struct Arguments {
    /// Directory to write to; made when it is missing
    outdir: PathBuf,
    /// Only these, such as udp-1000; all when none is given
    mixes: Vec<String>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let dir = &arguments.outdir;
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    if arguments.mixes.is_empty() {
        for mix in trace::ALL {
            trace::write(dir, mix)?;
        }
    }
    for mix in &arguments.mixes {
        trace::write(dir, mix)?;
    }
    Ok(())
}
