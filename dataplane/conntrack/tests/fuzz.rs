//! A bounded number of fuzzed scripts; see `common::fuzz`. `ctfuzz` runs on where this ends.

mod common;

#[path = "common/fuzz.rs"]
mod fuzz;

#[test]
fn scripts_of_any_bytes() {
    for number in 0..1500 {
        fuzz::one(&fuzz::script(number));
    }
}

#[test]
fn short_and_monotonous_scripts() {
    for byte in 0..=255 {
        for n in [0, 1, 2, 50, 400] {
            fuzz::one(&vec![byte; n]);
        }
    }
}
