//! `membench TRACES [--seconds S] [ROW ...]`: the switch's rows from memory, one line each. A row is
//! named by the beginning of its name, or with `=` before its whole name.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use benches::ours;

fn main() -> ExitCode {
    let mut seconds = 2.0;
    let mut rest = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(a) = args.next() {
        if a == "--seconds" {
            match args.next().and_then(|s| s.parse().ok()) {
                Some(s) => seconds = s,
                None => return usage(),
            }
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
        let m = bench.measure(Duration::from_secs_f64(seconds));
        println!(
            "{row:<22} {:>7.2} Mpps {:>7.0} cycles/pkt  sent {:>3.0}%",
            m.mpps,
            m.cycles,
            m.sent * 100.0
        );
    }
    ExitCode::SUCCESS
}

/// Whether `wanted` names the row.
fn names(wanted: &str, row: &str) -> bool {
    match wanted.strip_prefix('=') {
        Some(whole) => whole == row,
        None => row.starts_with(wanted),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: membench TRACES [--seconds S] [ROW ...]");
    ExitCode::from(2)
}
