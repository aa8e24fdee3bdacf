//! Megaflows and their programs as text, in the datapath's grammar.

use flow::Match;
use ofproto::program::DpAction;

/// What a megaflow matches.
pub fn megaflow(m: &Match) -> String {
    let mut out = String::new();
    ofproto::text::show_megaflow(&mut out, m);
    out
}

/// What the program of a megaflow that matches `on` does.
pub fn program(steps: &[DpAction], on: &Match) -> String {
    let mut out = String::new();
    ofproto::text::show_program(&mut out, steps, on);
    out
}
