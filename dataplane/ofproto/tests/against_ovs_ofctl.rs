//! Is a flow the same flow here as in `ovs-ofctl`? Generated flows are read by both, and what both
//! write is compared. Without `ovs-ofctl` on the machine there is nothing to compare with, and
//! the tests say so.

mod common;

use std::io::Write;
use std::process::{Command, Stdio};

use common::{Rng, flow_text, match_text, packet_text, shown_parts};
use flow::{Field, FlowKey};
use ofproto::action::OfPort;
use ofproto::flowmod;
use ofproto::group::GroupCommand;
use ofproto::text::{NoNames, parse_flow, parse_group, parse_packet, show_group, show_packet};

/// Every version: what none can carry is refused.
const ANY: &str = "OpenFlow10,OpenFlow11,OpenFlow12,OpenFlow13,OpenFlow14,OpenFlow15";

/// `ovs-ofctl`'s answer to lines on its standard input; `None` if it is not there.
fn ovs_ofctl(args: &[&str], input: &str) -> Option<(String, String)> {
    let child = Command::new("ovs-ofctl")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("skipped: there is no ovs-ofctl to compare with");
        return None;
    };
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let feeder = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let out = child.wait_with_output().unwrap();
    let _ = feeder.join().unwrap();
    let text = |b: Vec<u8>| String::from_utf8_lossy(&b).into_owned();
    Some((text(out.stdout), text(out.stderr)))
}

/// Match and actions of a line like `OFPT_FLOW_MOD (OF1.5) (xid=0x2): ADD ip actions=drop`.
fn parts(line: &str) -> Option<(String, String)> {
    let (_, rest) = line.split_once(": ADD ")?;
    let (head, actions) = rest.split_once("actions=")?;
    let head = head.trim_end();
    let words = head.split(' ').filter(|w| !w.starts_with("table:"));
    let matched: Vec<&str> =
        words.flat_map(|w| w.split(',')).filter(|f| !f.starts_with("priority=")).collect();
    Some((matched.join(","), actions.to_owned()))
}

/// Compare what both make of the lines; `with` drops what one of them cannot carry.
fn compare(args: &[&str], lines: &[String], with: fn((String, String)) -> (String, String)) {
    let mut all = args.to_vec();
    all.extend(["parse-flows", "-"]);
    let Some((out, err)) = ovs_ofctl(&all, &(lines.join("\n") + "\n")) else { return };
    let theirs: Vec<_> = out.lines().filter_map(parts).map(with).collect();
    assert_eq!(theirs.len(), lines.len(), "{err}");
    let mut differ = Vec::new();
    for (line, theirs) in lines.iter().zip(&theirs) {
        let ours = match parse_flow(line, flowmod::Command::Add, &NoNames) {
            Ok(f) => with(shown_parts(&f)),
            Err(e) => (format!("refused: {e}"), String::new()),
        };
        if ours != *theirs {
            differ.push(format!("{line}\n  ours   {ours:?}\n  theirs {theirs:?}"));
        }
    }
    let shown = differ[..differ.len().min(12)].join("\n");
    assert!(differ.is_empty(), "{} differ, as\n{shown}", differ.len());
}

#[test]
fn generated_flows_are_the_same() {
    let mut r = Rng(1);
    let lines: Vec<String> = (0..4000).map(|_| flow_text(&mut r)).collect();
    compare(&["-O", "OpenFlow15"], &lines, |parts| parts);
}

/// The older encoding can carry every match on a VLAN's TCI.
#[test]
fn generated_matches_are_the_same() {
    let mut r = Rng(2);
    let mut lines = Vec::new();
    while lines.len() < 3000 {
        let (m, _) = match_text(&mut r);
        if m.contains("vlan") {
            continue;
        }
        let vlan = match r.below(8) {
            0 => "dl_vlan=0xffff".into(),
            1 => "vlan_tci=0".into(),
            2 => format!("vlan_tci={:#x}", r.number(16)),
            3 => format!("vlan_vid={}", r.number(13)),
            4 => format!("vlan_vid={}/{:#x}", r.number(13), r.number(13)),
            5 => format!("vlan_pcp={}", r.number(3)),
            _ => format!("vlan_tci={:#x}/{:#x}", r.number(16), r.number(16)),
        };
        lines.push(format!("{m},{vlan},actions=drop"));
    }
    compare(&["-F", "NXM"], &lines, |parts| parts);
}

#[test]
fn what_they_refuse_is_refused() {
    let file = include_str!("data/refused.flows");
    for line in file.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let ours = parse_flow(line, flowmod::Command::Add, &NoNames);
        assert!(ours.is_err(), "{line} was taken");
        let Some((out, err)) = ovs_ofctl(&["-O", ANY, "parse-flow", line], "") else { continue };
        assert!(!err.contains("Unknown OpenFlow version"), "{err}");
        let refused = err.contains("ovs-ofctl:") || out.contains("error");
        assert!(refused, "ovs-ofctl takes {line}: {out}{err}");
    }
}

#[test]
fn groups_are_the_same() {
    let file = include_str!("data/groups");
    for line in file.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let m = parse_group(line, GroupCommand::Add, &NoNames)
            .unwrap_or_else(|e| panic!("{line}: {e}"));
        let mut ours = String::new();
        show_group(&mut ours, &m.group, &NoNames);
        let again = parse_group(&ours, GroupCommand::Add, &NoNames).unwrap();
        assert_eq!(again, m, "{ours}");
        let Some((out, err)) = ovs_ofctl(&["-O", "OpenFlow15", "parse-group", line], "") else {
            continue;
        };
        let theirs = out.lines().find_map(|l| l.strip_prefix(" ADD ")).unwrap_or(&err);
        // A weight of 1 is not always written there.
        assert_eq!(ours.replace("weight:1,", ""), theirs.replace("weight:1,", ""), "{line}");
    }
}

/// The bytes of a hex dump: an offset, then pairs of digits up to two blanks.
fn bytes(dump: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for line in dump.lines() {
        let Some((offset, rest)) = line.split_once("  ") else { continue };
        if offset.len() == 8 && offset.bytes().all(|b| b.is_ascii_hexdigit()) {
            let pairs = rest.split([' ', '-']).take_while(|p| p.len() == 2);
            out.extend(pairs.filter_map(|p| u8::from_str_radix(p, 16).ok()));
        }
    }
    out
}

/// The text behind `label`, without the tag behind the outermost, which has no text here, and
/// without the link-layer addresses that a neighbour message does not have.
fn line<'a>(text: &'a str, label: &str) -> Option<String> {
    let at = text.find(label)? + label.len();
    let line: &'a str = text[at..].lines().next()?;
    let line = line.replace("vlan_tci1=0x0000,", "");
    let line =
        line.replace(",nd_sll=00:00:00:00:00:00", "").replace(",nd_tll=00:00:00:00:00:00", "");
    // A dump may begin right behind the last line.
    Some(match line.find("00000000  ") {
        Some(i) => line[..i].to_owned(),
        None => line,
    })
}

/// Packets are described alike, and a frame is read as the packet that it was made of.
#[test]
fn generated_packets_are_the_same() {
    let mut r = Rng(3);
    for _ in 0..300 {
        let text = packet_text(&mut r);
        let Some((out, err)) = ovs_ofctl(&["compose-packet", &text], "") else { return };
        // They differ in the port, which no frame carries, so both are written.
        let all = format!("{err}{out}");
        let specified = line(&all, "specified: ").unwrap_or_else(|| panic!("{text}: {all}"));
        let extracted = line(&all, "extracted: ").unwrap_or_else(|| panic!("{text}: {all}"));
        let mut ours = String::new();
        let key = parse_packet(&text, &NoNames).unwrap_or_else(|e| panic!("{text}: {e}"));
        show_packet(&mut ours, &key, &NoNames);
        assert_eq!(ours, specified, "{text}");

        let dump = all.find("00000000  ").map_or("", |i| &all[i..]);
        let frame = bytes(dump);
        assert!(frame.len() >= 14, "{all}");
        let mut key = FlowKey::ZERO;
        flow::extract(&frame, frame.len(), &mut key);
        key.set(Field::InPort, OfPort::NONE.0.into());
        ours.clear();
        show_packet(&mut ours, &key, &NoNames);
        // The options' type is written here only.
        let ours = ours.split(",nd_options_type=").next().unwrap_or_default();
        assert_eq!(ours, extracted, "{text}: {frame:02x?}");
    }
}
