//! `membench TRACES [--seconds S] [--stages] [ROW ...]`: the switch's rows from memory, one line each. A row is
//! named by the beginning of its name, or with `=` before its whole name. `empty` receives and sends, and
//! does nothing between. With `--stages` the cycles a packet of each stage are behind the others.
//!
//! `membench TRACES --rounds N ROW`: that many rounds of a worker that is warm, and how many packets they
//! were; for counting instructions, which [`counted`] marks for callgrind's `--toggle-collect`.
//!
//! `membench TRACES --megaflows ROW`: the megaflows that the row's packets meet.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use benches::ours;
use engine::stages::Stage;
use ports::trace::Trace;

fn main() -> ExitCode {
    let mut seconds = 2.0;
    let mut rounds = None;
    let (mut megaflows, mut stages) = (false, false);
    let mut rest = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(a) = args.next() {
        if a == "--seconds" {
            match args.next().and_then(|s| s.parse().ok()) {
                Some(s) => seconds = s,
                None => return usage(),
            }
        } else if a == "--rounds" {
            match args.next().and_then(|s| s.parse().ok()) {
                Some(n) => rounds = Some(n),
                None => return usage(),
            }
        } else if a == "--stages" {
            stages = true;
        } else if a == "--megaflows" {
            megaflows = true;
        } else {
            rest.push(a);
        }
    }
    let Some((traces, rows)) = rest.split_first() else { return usage() };
    let traces = PathBuf::from(traces);
    for (row, _) in ours::ROWS {
        if !rows.is_empty() && !rows.iter().any(|r| names(r, row)) {
            continue;
        }
        let mut bench = match ours::bench(row, &traces) {
            Ok(b) => b,
            Err(e) => {
                eprintln!("membench: {row}: {e}");
                return ExitCode::FAILURE;
            }
        };
        let flows = row.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        if megaflows {
            bench.warm_up(flows);
            match bench.megaflows() {
                Ok(found) => found.iter().for_each(|m| println!("{m}")),
                Err(e) => eprintln!("membench: {row}: {e}"),
            }
            continue;
        }
        if let Some(rounds) = rounds {
            bench.warm_up(flows);
            let before = bench.received();
            counted(&mut bench, rounds);
            println!("{row:<22} {:>9} packets", bench.received() - before);
            continue;
        }
        print(row, bench.measure(Duration::from_secs_f64(seconds)), stages);
    }
    if rows.iter().any(|r| names(r, EMPTY)) {
        let file = traces.join("udp-1000.pcap");
        let time = Duration::from_secs_f64(seconds);
        let trace = Trace::from_pcap(&file).map_err(std::io::Error::other);
        match trace.and_then(|t| ours::empty_loop(Arc::new(t), time)) {
            Ok(m) => print(EMPTY, m, false),
            Err(e) => {
                eprintln!("membench: {EMPTY}: {e}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// The limit of all rows: receive and send, and nothing between.
const EMPTY: &str = "empty";

fn print(row: &str, m: ours::Measured, stages: bool) {
    let sent = m.sent * 100.0;
    print!("{row:<22} {:>7.2} Mpps {:>7.0} cycles/pkt  sent {sent:>3.0}%", m.mpps, m.cycles);
    for (stage, cycles) in Stage::ALL.into_iter().zip(m.stages).filter(|_| stages) {
        print!("  {} {cycles:.1}", stage.name());
    }
    println!();
}

/// The rounds whose instructions are counted.
#[inline(never)]
fn counted(bench: &mut ours::Bench, rounds: usize) {
    bench.same_rounds(rounds);
}

/// Whether `wanted` names the row.
fn names(wanted: &str, row: &str) -> bool {
    match wanted.strip_prefix('=') {
        Some(whole) => whole == row,
        None => row.starts_with(wanted),
    }
}

fn usage() -> ExitCode {
    eprintln!(
        "usage: membench TRACES [--seconds S] [--stages] | --rounds N | --megaflows [ROW ...]"
    );
    ExitCode::from(2)
}
