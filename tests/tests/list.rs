//! The list of end-to-end tests as the program tells it.

use std::collections::HashSet;
use std::process::Command;

#[test]
fn every_test_has_a_name_of_its_own_and_says_what_it_shows() {
    let out = Command::new(env!("CARGO_BIN_EXE_e2e")).arg("list").output().expect("e2e runs");
    assert!(out.status.success());
    let text = String::from_utf8(out.stdout).expect("text");
    let mut names = HashSet::new();
    for line in text.lines() {
        let (name, about) = line.split_once(' ').expect("name and sentence");
        assert!(about.trim().len() > 10, "{name} says little");
        assert!(names.insert(name), "two tests are named {name}");
    }
    assert!(names.len() > 50, "only {} tests", names.len());
}

#[test]
fn a_name_that_no_test_has_runs_none() {
    let out = Command::new(env!("CARGO_BIN_EXE_e2e")).args(["run", "no-such-test"]).output();
    let out = out.expect("e2e runs");
    assert_eq!(String::from_utf8_lossy(&out.stdout), "0 passed, 0 failed\n");
}
