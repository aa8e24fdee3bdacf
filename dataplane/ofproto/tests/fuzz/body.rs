//! What fuzzers do with bytes: read them as text, and as tables with packets.
//!
//! Whatever the bytes are, nothing panics or hangs; what is taken is written as a text that is taken for
//! the same again, what is refused is refused at a place in the text; and two packets that a
//! megaflow covers are treated alike.

use flow::{Field, FlowKey, extract};
use ofproto::action::OfPort;
use ofproto::flowmod::{Command, FlowMod};
use ofproto::group::GroupCommand;
use ofproto::program::{DpAction, DpPort};
use ofproto::snapshot::{BridgeId, BridgeSettings, Port, PortKind, Snapshot};
use ofproto::switch::Switch;
use ofproto::text::{
    NoNames, TextError, parse_actions, parse_filter, parse_flow, parse_flows, parse_group,
    parse_packet, show_flow, show_group, show_packet,
};
use ofproto::xlate::{MAX_STEPS, Translation, resume, translate};

/// Ports of the first bridge; the last leads to the second bridge and back.
const PORTS: u32 = 4;

/// Read bytes as everything that has a text.
pub fn text(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for command in [Command::Add, Command::ModifyStrict, Command::Delete] {
        match parse_flow(&text, command, &NoNames) {
            Ok(flow) => same_flow(&flow, command),
            Err(e) => is_place(&e, &text),
        }
    }
    if let Err(e) = parse_flows(&text, Command::Add, &NoNames) {
        is_place(&e, &text);
    }
    if let Err(e) = parse_filter(&text, &NoNames) {
        is_place(&e, &text);
    }
    if let Err(e) = parse_actions(&text, &FlowKey::ZERO, &NoNames) {
        is_place(&e, &text);
    }
    match parse_group(&text, GroupCommand::Add, &NoNames) {
        Ok(read) => {
            let mut shown = String::new();
            show_group(&mut shown, &read.group, &NoNames);
            let again = parse_group(&shown, GroupCommand::Add, &NoNames);
            assert_eq!(again.map(|m| m.group).as_ref(), Ok(&read.group), "{shown}");
        }
        Err(e) => is_place(&e, &text),
    }
    match parse_packet(&text, &NoNames) {
        // Not every legal description is of a packet that there can be.
        Ok(key) => show_packet(&mut String::new(), &key, &NoNames),
        Err(e) => is_place(&e, &text),
    }
}

fn same_flow(flow: &FlowMod, command: Command) {
    let mut shown = String::new();
    show_flow(&mut shown, &flow.into(), &NoNames);
    if command != Command::Add {
        return;
    }
    let again = parse_flow(&shown, command, &NoNames);
    let again = again.unwrap_or_else(|e| panic!("{shown}: {e}"));
    assert_eq!(again.matches, flow.matches, "{shown}");
    assert_eq!(again.actions, flow.actions, "{shown}");
    assert_eq!(again.priority, flow.priority, "{shown}");
}

fn is_place(e: &TextError, text: &str) {
    let line = text.split('\n').nth(e.line - 1);
    let line = line.unwrap_or_else(|| panic!("line {} of {text:?}: {e}", e.line));
    assert!(e.column <= line.chars().count() + 1, "column {} of {line:?}: {e}", e.column);
}

/// Read bytes as flows, up to an empty line, and frames of which each follows a byte for its port and one
/// for its length; let them through two bridges. How many pairs of packets one megaflow covers.
pub fn tables(data: &[u8]) -> usize {
    let end = data.windows(2).position(|w| w == b"\n\n").unwrap_or(data.len());
    let text = String::from_utf8_lossy(&data[..end]);
    let (mut switch, bridges) = switch();
    for (i, line) in text.lines().take(64).enumerate() {
        let bridge = bridges[usize::from(i % 4 == 3)];
        if let Ok(read) = parse_group(line, GroupCommand::Add, &NoNames) {
            let _ = switch.apply_group_mods(bridge, &[read], 1);
        }
        if let Ok(flow) = parse_flow(line, Command::Add, &NoNames) {
            let _ = switch.apply_flow_mods(bridge, &[flow], 1);
        }
    }
    let snapshot = switch.commit().expect("bridges are a change");
    let mut rest = data.get(end + 2..).unwrap_or_default();
    let mut keys = Vec::new();
    while let [port, len, more @ ..] = rest {
        let (frame, behind) = more.split_at(usize::from(*len).min(more.len()));
        let mut key = FlowKey::ZERO;
        extract(frame, frame.len(), &mut key);
        key.set(Field::InPort, u128::from(1 + u32::from(*port) % (PORTS - 1)));
        keys.push(key);
        rest = behind;
    }
    keys.truncate(32);
    packets(&snapshot, &keys)
}

/// Two bridges: three ports of the datapath each, and a patch pair.
fn switch() -> (Switch, [BridgeId; 2]) {
    let mut switch = Switch::default();
    let bridges = ["a", "b"].map(|name| {
        switch.add_bridge(name, BridgeSettings::default()).expect("two bridges are not many")
    });
    for (b, bridge) in bridges.into_iter().enumerate() {
        for n in 1..=PORTS {
            let kind = match n {
                PORTS => PortKind::Patch(Some((bridges[1 - b], OfPort(PORTS)))),
                _ => PortKind::Datapath(DpPort(b as u32 * PORTS + n)),
            };
            let port = Port::new(OfPort(n), format!("p{n}"), kind);
            switch.set_port(bridge, port);
        }
    }
    (switch, bridges)
}

/// Whether two keys are one under a mask.
fn covers(mask: &FlowKey, a: &FlowKey, b: &FlowKey) -> bool {
    (0..flow::WORDS).all(|w| (a.word(w) ^ b.word(w)) & mask.word(w) == 0)
}

fn packets(snapshot: &Snapshot, keys: &[FlowKey]) -> usize {
    let mut pairs = 0;
    let mut done: Vec<(FlowKey, FlowKey, Vec<DpAction>)> = Vec::new();
    for key in keys {
        let mut out = Translation::default();
        translate(snapshot, key, None, &mut out);
        assert!(out.program.len() <= MAX_STEPS, "{} steps", out.program.len());
        for (other, mask, program) in &done {
            if covers(mask, other, key) {
                pairs += 1;
                assert_eq!(&out.program, program, "{key:?} and {other:?} are one megaflow's");
            }
        }
        // What comes back is taken up again, with any state.
        for step in &out.program {
            if let DpAction::Recirculate(waiting) = step {
                let mut tracked = key.clone();
                tracked.set(Field::CtState, 0x21);
                tracked.set(Field::RecircId, 1);
                resume(snapshot, &tracked, &waiting.state, None, &mut Translation::default());
            }
        }
        done.push((key.clone(), out.mask.clone(), out.program));
    }
    pairs
}
