//! What holds for any text: what is written is read as the same, and no text at all is more than
//! an error with a place in it.

mod common;

use common::{Rng, flow_text, match_text, shown};
use flow::{Field, FlowKey};
use ofproto::check::Shape;
use ofproto::flowmod::Command;
use ofproto::group::GroupCommand;
use ofproto::text::{
    NoNames, TextError, parse_actions, parse_flow, parse_flows, parse_group, parse_packet,
    show_group, show_match, show_packet,
};
use proptest::prelude::*;

/// Words and marks that flows are made of: texts of them get further into the parsers than
/// plain noise.
const WORDS: &[&str] = &[
    "actions=",
    "in_port=",
    "tcp",
    "ip",
    "nw_src=",
    "10.0.0.0/8",
    ",",
    " ",
    "(",
    ")",
    "\"",
    "/",
    "->",
    ":",
    "=",
    "output",
    "learn",
    "ct",
    "nat",
    "commit",
    "zone",
    "exec",
    "clone",
    "reg0",
    "NXM_NX_REG0[",
    "]",
    "0..15",
    "set_field",
    "load",
    "move",
    "conjunction",
    "1/2",
    "note",
    "group_id=",
    "bucket=",
    "type=select",
    "fe80::1",
    "1:2:3:4:5:6",
    "0x",
    "-1",
    "4294967295",
    "18446744073709551616",
    "write_actions",
    "resubmit",
    "priority",
    "cookie",
    "#",
    "\n",
    "+trk",
    "[fe80::1]",
    "é",
    "\u{1f980}",
    "\\",
    "dl_vlan",
    "vlan_tci",
    "ct_state",
    "tcp_flags",
    "drop",
];

/// The error's place is in the text.
fn is_placed(text: &str, e: &TextError) {
    let line = text.split('\n').nth(e.line - 1).unwrap_or_else(|| panic!("{e}: {text:?}"));
    assert!(e.column <= line.chars().count() + 1, "{e}: {text:?}");
    assert!(e.column >= 1 && !e.message.is_empty());
    if !e.found.is_empty() && !e.found.ends_with("...") {
        let at: String = line.chars().skip(e.column - 1).collect();
        let first = e.found.lines().next().unwrap_or_default();
        assert!(at.starts_with(first), "{e}: {text:?}");
    }
}

/// Read a text in every way.
fn read_all(text: &str) {
    if let Err(e) = parse_flows(text, Command::Add, &NoNames) {
        is_placed(text, &e);
    }
    for command in [Command::Add, Command::Delete, Command::ModifyStrict] {
        match parse_flow(text, command, &NoNames) {
            Err(e) => is_placed(text, &e),
            Ok(f) if command == Command::Add => {
                let first = shown(&f);
                let again = parse_flow(&first, command, &NoNames)
                    .unwrap_or_else(|e| panic!("{text:?} was written as {first:?}: {e}"));
                assert_eq!(shown(&again), first, "{text:?}");
                assert_eq!((again.matches, again.actions), (f.matches, f.actions), "{text:?}");
            }
            Ok(_) => {}
        }
    }
    if let Err(e) = parse_actions(text, &FlowKey::ZERO, &NoNames) {
        is_placed(text, &e);
    }
    if let Err(e) = parse_packet(text, &NoNames) {
        is_placed(text, &e);
    }
    match parse_group(text, GroupCommand::AddOrModify, &NoNames) {
        Err(e) => is_placed(text, &e),
        Ok(g) => {
            let mut out = String::new();
            show_group(&mut out, &g.group, &NoNames);
            let again = parse_group(&out, GroupCommand::AddOrModify, &NoNames)
                .unwrap_or_else(|e| panic!("{text:?} was written as {out:?}: {e}"));
            assert_eq!(again, g, "{text:?}");
        }
    }
}

/// Change a text here and there.
fn mutate(text: &str, r: &mut Rng) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for _ in 0..1 + r.below(4) {
        let at = r.below(chars.len() as u64 + 1) as usize;
        match r.below(4) {
            0 if at < chars.len() => drop(chars.remove(at)),
            1 => {
                let word: Vec<char> = r.pick(WORDS).chars().collect();
                chars.splice(at..at, word);
            }
            2 if at < chars.len() => chars[at] = char::from(32 + r.below(95) as u8),
            _ => chars.truncate(at),
        }
    }
    chars.into_iter().collect()
}

#[test]
fn generated_flows_are_written_and_read_alike() {
    let mut r = Rng(11);
    for _ in 0..3000 {
        let text = flow_text(&mut r);
        let f = parse_flow(&text, Command::Add, &NoNames).unwrap_or_else(|e| panic!("{text}: {e}"));
        let first = shown(&f);
        let again = parse_flow(&first, Command::Add, &NoNames).unwrap();
        assert_eq!((&again.matches, &again.actions), (&f.matches, &f.actions), "{text}");
        assert_eq!(shown(&again), first, "{text}");
    }
}

#[test]
fn mutated_flows_are_read_or_refused() {
    let mut r = Rng(12);
    for _ in 0..5000 {
        let text = flow_text(&mut r);
        read_all(&mutate(&text, &mut r));
    }
    let groups = include_str!("data/groups");
    for _ in 0..50 {
        for line in groups.lines() {
            read_all(&mutate(line, &mut r));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_text_is_read_or_refused(text in ".{0,200}") {
        read_all(&text);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read_all(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_words_are_read_or_refused(
        words in prop::collection::vec(prop::sample::select(WORDS), 0..40)
    ) {
        read_all(&words.concat());
    }
}

#[test]
fn deep_and_long_texts_are_refused() {
    for text in [
        "actions=".to_owned() + &"clone(".repeat(100_000) + &")".repeat(100_000),
        "actions=".to_owned() + &"clone(".repeat(100_000),
        "actions=".to_owned() + &"output:1,".repeat(5000),
        "actions=clone(".to_owned() + &"output:1,".repeat(5000) + ")",
    ] {
        let e = parse_flow(&text, Command::Add, &NoNames).unwrap_err();
        is_placed(&text, &e);
    }
    let long = "a".repeat(2 << 20);
    let e = parse_flows(&long, Command::Add, &NoNames).unwrap_err();
    assert!(e.message.contains("at most"), "{e}");
}

/// A packet's description matches the match of the same text.
#[test]
fn a_packet_is_what_its_text_matches() {
    let mut r = Rng(13);
    let mut n = 0;
    while n < 1000 {
        let (text, _) = match_text(&mut r);
        let Ok(key) = parse_packet(&text, &NoNames) else { continue };
        let f = parse_flow(&format!("{text},actions=drop"), Command::Add, &NoNames);
        let Ok(f) = f else { continue };
        let tagged = f.matches.field(Field::VlanTci);
        // A TCI without the tag bit matches no packet.
        if tagged.0 & 0x1000 != 0 || tagged.1 == 0 || tagged.0 == 0 {
            assert!(f.matches.matches(&key), "{text}: {:?} and {key:?}", f.matches);
            n += 1;
        }
    }
}

/// What is known of a packet is written with all of it.
#[test]
fn packets_are_written_and_read_alike() {
    let mut r = Rng(14);
    let mut n = 0;
    while n < 2000 {
        let (text, _) = match_text(&mut r);
        let Ok(key) = parse_packet(&text, &NoNames) else { continue };
        let mut out = String::new();
        show_packet(&mut out, &key, &NoNames);
        let again = parse_packet(&out, &NoNames).unwrap_or_else(|e| panic!("{text}: {out}: {e}"));
        assert_eq!(again, key, "{text}: {out}");
        n += 1;
    }
}

/// Checks without the text come to the same.
#[test]
fn rules_that_are_read_pass_the_checks() {
    let mut r = Rng(15);
    for _ in 0..3000 {
        let text = flow_text(&mut r);
        let f = parse_flow(&text, Command::Add, &NoNames).unwrap();
        let checked = Shape::of(&f.matches, 0).check_all(&f.actions);
        assert_eq!(checked, Ok(()), "{text}");
    }
}

#[test]
fn writing_a_match_does_not_depend_on_what_is_written_before() {
    let f = parse_flow("tcp,tp_dst=80,actions=drop", Command::Add, &NoNames).unwrap();
    let mut out = String::from("x");
    show_match(&mut out, &f.matches, &NoNames);
    assert_eq!(out, "xtcp,tp_dst=80");
}
