//! What does the tracker say of these frames? One frame a line in hexadecimal on standard input,
//! one `ct_state` a line on standard output; each frame is committed, in zone 1, a millisecond
//! after the one before. An empty line begins with an empty table. For comparing with others.

use std::io::BufRead;

use conntrack::{Commit, ConnRef, Millis};

#[path = "../tests/common/mod.rs"]
mod common;

fn main() {
    let mut t = common::tracker(1000);
    for (n, line) in std::io::stdin().lock().lines().map_while(Result::ok).enumerate() {
        let line = line.trim();
        if line.is_empty() {
            t = common::tracker(1000);
            println!();
            continue;
        }
        let byte = |i: usize| line.get(i..i + 2).and_then(|h| u8::from_str_radix(h, 16).ok());
        let Some(frame) = (0..line.len()).step_by(2).map(byte).collect::<Option<Vec<u8>>>() else {
            eprintln!("line {}: not hexadecimal", n + 1);
            std::process::exit(2);
        };
        let (input, none) = (common::input(1, &frame), Commit::default());
        match t.commit(Millis(n as u64), &input, ConnRef::NONE, &none, &mut || 0) {
            Ok(v) => println!("{}", v.state),
            Err(why) => println!("drop {}", why.name()),
        }
    }
}
