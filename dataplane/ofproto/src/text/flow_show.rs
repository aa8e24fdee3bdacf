//! How is a flow written?
//!
//! In the words of `ovs-ofctl dump-flows`, one a line; [`parse_flow`](super::parse_flow) takes it
//! back with or without the statistics.

use std::fmt::Write;

use flow::Match;

use super::action_show::show_actions;
use super::match_show::show_match;
use super::names::PortNames;
use crate::action::Action;
use crate::flowmod::{DEFAULT_PRIORITY, FlowFlags, FlowMod};
use crate::rule::Rule;

/// What happened to a flow so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FlowTimes {
    /// Milliseconds since it was added.
    pub duration: u64,
    /// Packets that it handled.
    pub packets: u64,
    /// Bytes of those packets.
    pub bytes: u64,
    /// Seconds since the last packet (or since it was added), if known.
    pub idle_age: Option<u64>,
    /// Seconds since it was modified, if it was.
    pub hard_age: Option<u64>,
}

/// A flow that is to be written.
#[derive(Clone, Copy, Debug)]
pub struct ShownFlow<'a> {
    /// Its table.
    pub table: u8,
    /// Its priority.
    pub priority: u16,
    /// Its mark.
    pub cookie: u64,
    /// Seconds; 0 for none.
    pub idle_timeout: u16,
    /// Seconds; 0 for none.
    pub hard_timeout: u16,
    /// For eviction.
    pub importance: u16,
    /// Its flags.
    pub flags: FlowFlags,
    /// Its match.
    pub matches: &'a Match,
    /// Its actions.
    pub actions: &'a [Action],
    /// Its statistics; `None` leaves them, a cookie of 0 and table 0 out.
    pub times: Option<FlowTimes>,
}

impl<'a> From<&'a FlowMod> for ShownFlow<'a> {
    /// The flow as it would be added, without statistics.
    fn from(m: &'a FlowMod) -> ShownFlow<'a> {
        ShownFlow {
            table: m.table.unwrap_or(0),
            priority: m.priority,
            cookie: m.new_cookie.unwrap_or(0),
            idle_timeout: m.idle_timeout,
            hard_timeout: m.hard_timeout,
            importance: m.importance,
            flags: m.flags,
            matches: &m.matches,
            actions: &m.actions,
            times: None,
        }
    }
}

impl<'a> From<&'a Rule> for ShownFlow<'a> {
    /// The rule as it is, without statistics.
    fn from(rule: &'a Rule) -> ShownFlow<'a> {
        ShownFlow {
            table: rule.table,
            priority: rule.priority,
            cookie: rule.cookie,
            idle_timeout: rule.idle_timeout(),
            hard_timeout: rule.hard_timeout(),
            importance: rule.importance,
            flags: FlowFlags(rule.flags),
            matches: &rule.matches,
            actions: &rule.actions,
            times: None,
        }
    }
}

/// Write a flow, without a line break.
pub fn show_flow(out: &mut String, flow: &ShownFlow<'_>, ports: &dyn PortNames) {
    if flow.times.is_some() || flow.cookie != 0 {
        let _ = write!(out, "cookie={:#x}, ", flow.cookie);
    }
    if let Some(t) = &flow.times {
        out.push_str("duration=");
        show_seconds(out, t.duration);
        out.push_str(", ");
    }
    if flow.times.is_some() || flow.table != 0 {
        let _ = write!(out, "table={}, ", flow.table);
    }
    if let Some(t) = &flow.times {
        let _ = write!(out, "n_packets={}, n_bytes={}, ", t.packets, t.bytes);
    }
    for (name, n) in [("idle_timeout", flow.idle_timeout), ("hard_timeout", flow.hard_timeout)] {
        if n != 0 {
            let _ = write!(out, "{name}={n}, ");
        }
    }
    for (name, _) in FlowFlags::ALL.iter().filter(|(_, f)| flow.flags.contains(*f)) {
        let _ = write!(out, "{name} ");
    }
    if flow.importance != 0 {
        let _ = write!(out, "importance={}, ", flow.importance);
    }
    if let Some(age) = flow.times.and_then(|t| t.idle_age) {
        let _ = write!(out, "idle_age={age}, ");
    }
    if let Some(age) = flow.times.and_then(|t| t.hard_age) {
        let _ = write!(out, "hard_age={age}, ");
    }
    show_flow_match(out, flow.priority, flow.matches, ports);
    out.push_str("actions=");
    show_actions(out, flow.actions, ports);
}

/// Write priority and match with a blank behind them, or nothing if both are the default.
fn show_flow_match(out: &mut String, priority: u16, matches: &Match, ports: &dyn PortNames) {
    let start = out.len();
    if priority != DEFAULT_PRIORITY {
        let _ = write!(out, "priority={priority}");
    }
    let middle = out.len();
    if middle > start {
        out.push(',');
    }
    let from = out.len();
    show_match(out, matches, ports);
    if out.len() == from {
        out.truncate(middle);
    }
    if out.len() > start {
        out.push(' ');
    }
}

/// Milliseconds as seconds, without zeros at the end.
fn show_seconds(out: &mut String, ms: u64) {
    let _ = write!(out, "{}", ms / 1000);
    let rest = format!(".{:03}", ms % 1000);
    out.push_str(rest.trim_end_matches('0').trim_end_matches('.'));
    out.push('s');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_short() {
        for (ms, text) in [(0, "0s"), (1200, "1.2s"), (1234, "1.234s"), (10_000, "10s")] {
            let mut out = String::new();
            show_seconds(&mut out, ms);
            assert_eq!(out, text);
        }
    }
}
