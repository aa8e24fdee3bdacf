//! The tracker under scripts of any bytes, for as many seconds as one likes, or one script again.
//!
//! `cargo run --release -p conntrack --example ctfuzz -- SECONDS [FIRST]`, or `-- FILE`: what a fuzzer
//! has found. Prints the number of the script that it is at; a panic says which one it was.

use std::time::{Duration, Instant};

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/common/fuzz.rs"]
mod fuzz;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some(first) = args.first() else {
        eprintln!("usage: ctfuzz SECONDS [FIRST] | FILE");
        std::process::exit(2);
    };
    let Ok(seconds) = first.parse::<u64>() else {
        match std::fs::read(first) {
            Ok(bytes) => return fuzz::one(&bytes),
            Err(e) => {
                eprintln!("ctfuzz: {first}: {e}");
                std::process::exit(1);
            }
        }
    };
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut number: u64 = args.get(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    while Instant::now() < end {
        let script = fuzz::script(number);
        if std::panic::catch_unwind(|| fuzz::one(&script)).is_err() {
            eprintln!("script {number}");
            std::process::exit(1);
        }
        number += 1;
    }
    println!("{number} scripts");
}
