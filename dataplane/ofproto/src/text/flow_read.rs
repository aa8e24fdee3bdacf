//! How is the text of a flow read?
//!
//! A flow is a list of match fields and settings, then `actions=` and actions up to the end of the
//! line. The lines of `dump-flows` are flows too: their counters and times are passed over.

use flow::{FlowKey, Match};

use super::action_read::{ActionReader, Place};
use super::error::{Fault, Parsed, TextError};
use super::match_read::{MatchReader, Purpose, not_known};
use super::names::{PortNames, parse_port};
use super::scan::{Form, Item, Items, is_separator};
use super::value::{number, number_or_all, ranged};
use crate::action::{Action, GroupId};
use crate::check::Shape;
use crate::flowmod::{Command, DEFAULT_PRIORITY, FlowFilter, FlowFlags, FlowMod};

/// Settings that only tell what was, as `dump-flows` writes them.
const TOLD: &[&str] = &[
    "duration",
    "n_packets",
    "n_bytes",
    "n_offload_packets",
    "n_offload_bytes",
    "idle_age",
    "hard_age",
];

/// Words besides those of matches, for suggestions.
const WORDS: &[&str] = &[
    "table",
    "priority",
    "cookie",
    "idle_timeout",
    "hard_timeout",
    "importance",
    "out_port",
    "out_group",
    "actions",
    "send_flow_rem",
    "check_overlap",
    "reset_counts",
    "no_packet_counts",
    "no_byte_counts",
];

/// Lines longer than this are refused, so that one line cannot hold a whole file.
pub const MAX_LINE: usize = 1 << 20;

/// Read one flow, as `add-flow`, `mod-flows` and `del-flows` take it.
///
/// # Errors
/// Where the text is wrong and why.
pub fn parse_flow(
    text: &str,
    command: Command,
    ports: &dyn PortNames,
) -> Result<FlowMod, TextError> {
    flow(text, command, ports).map_err(|f| f.locate(text))
}

/// Read a file of flows, one a line, as `add-flows` takes it. `#` begins a comment; a line may
/// begin with `add`, `modify`, `modify_strict`, `delete` or `delete_strict` in place of
/// `command`.
///
/// # Errors
/// The first line that is wrong, where in it and why.
pub fn parse_flows(
    text: &str,
    command: Command,
    ports: &dyn PortNames,
) -> Result<Vec<FlowMod>, TextError> {
    let mut out = Vec::new();
    for (_, body) in flow_lines(text) {
        if body.len() > MAX_LINE {
            let fault = Fault::new(body, format_args!("a line has at most {MAX_LINE} bytes"));
            return Err(fault.locate(text));
        }
        let (command, body) = command_word(body).unwrap_or((command, body));
        out.push(flow(body, command, ports).map_err(|f| f.locate(text))?);
    }
    Ok(out)
}

/// The lines of a file that are flows, with their numbers from 1.
fn flow_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().filter_map(|(i, line)| {
        let line = without_comment(line);
        let body = line.trim_start_matches(|c: char| u8::try_from(c).is_ok_and(is_separator));
        // The heading of a listing by `ovs-ofctl`.
        let heading = body.starts_with("NXST_FLOW ") || body.starts_with("OFPST_FLOW ");
        (!body.is_empty() && !heading).then_some((i + 1, body))
    })
}

/// The line, from 1, and text of the flow of that index in what [`parse_flows`] takes.
pub fn line_of_flow(text: &str, index: usize) -> Option<(usize, &str)> {
    flow_lines(text).nth(index)
}

/// Read which flows a listing is about: a match with `table=`, `cookie=X/MASK`, `out_port=` and
/// `out_group=`. The empty text is every flow.
///
/// # Errors
/// Where the text is wrong and why.
pub fn parse_filter(text: &str, ports: &dyn PortNames) -> Result<FlowFilter, TextError> {
    parse_flow(text, Command::Delete, ports).map(|m| m.filter())
}

/// Read actions by themselves, as in a packet-out for a packet with `key`.
///
/// # Errors
/// Where the text is wrong and why.
pub fn parse_actions(
    text: &str,
    key: &FlowKey,
    ports: &dyn PortNames,
) -> Result<Box<[Action]>, TextError> {
    let mut all = FlowKey::ZERO;
    for i in 0..flow::key::WORDS {
        all.set_word(i, u64::MAX);
    }
    let mut shape = Shape::from_parts(key.clone(), all, None);
    let list = ActionReader::new(ports).list(text, Place::List, &mut shape, 0);
    list.map(Into::into).map_err(|f| f.locate(text))
}

/// The line up to a `#` that is not inside quotes.
pub(crate) fn without_comment(line: &str) -> &str {
    let mut quoted = false;
    for (i, b) in line.bytes().enumerate() {
        match b {
            b'"' => quoted = !quoted,
            b'#' if !quoted => return &line[..i],
            _ => {}
        }
    }
    line
}

/// A command in front of a flow, and what follows.
fn command_word(text: &str) -> Option<(Command, &str)> {
    let end = text.bytes().position(is_separator).unwrap_or(text.len());
    let command = match &text[..end] {
        "add" => Command::Add,
        "modify" => Command::Modify,
        "modify_strict" => Command::ModifyStrict,
        "delete" => Command::Delete,
        "delete_strict" => Command::DeleteStrict,
        _ => return None,
    };
    Some((command, &text[end..]))
}

/// A flow while it is read.
struct FlowReader<'p> {
    flow: FlowMod,
    ports: &'p dyn PortNames,
}

fn flow<'a>(text: &'a str, command: Command, ports: &dyn PortNames) -> Parsed<'a, FlowMod> {
    let flow = FlowMod {
        command,
        table: None,
        priority: DEFAULT_PRIORITY,
        matches: Match::default(),
        new_cookie: None,
        cookie: 0,
        cookie_mask: 0,
        idle_timeout: 0,
        hard_timeout: 0,
        importance: 0,
        out_port: None,
        out_group: None,
        flags: FlowFlags::default(),
        actions: Box::default(),
    };
    let mut r = FlowReader { flow, ports };
    let mut matches = MatchReader::new(ports, Purpose::Rule);
    let mut items = Items::new(text);
    let mut actions = None;
    loop {
        if let Some(rest) = actions_text(items.rest()) {
            actions = Some(rest);
            break;
        }
        let Some(item) = items.next()? else { break };
        if !matches.take(&item)? && !r.setting(&item)? {
            return Err(not_known(&item, WORDS));
        }
    }
    matches.check()?;
    let (key, mask) = matches.into_parts();
    r.flow.matches = Match::new(&key, &mask);
    match actions {
        Some(rest) if command.is_delete() => {
            Err(Fault::new(rest, "a deletion or a listing takes no actions"))
        }
        Some(rest) => {
            let mut shape = Shape::from_parts(key, mask, r.flow.table.or(Some(0)));
            let list = ActionReader::new(ports).list(rest, Place::Rule, &mut shape, 0)?;
            r.flow.actions = list.into();
            Ok(r.flow)
        }
        None if command.is_delete() => Ok(r.flow),
        None => Err(Fault::new(&text[text.len()..], "actions are missing")
            .hint("end the flow with actions=..., to drop packets with actions=drop")),
    }
}

/// What follows `actions=`, if that is next.
fn actions_text(rest: &str) -> Option<&str> {
    let rest = rest.trim_start_matches(|c: char| u8::try_from(c).is_ok_and(is_separator));
    let rest = rest.strip_prefix("action")?;
    rest.strip_prefix("s").unwrap_or(rest).strip_prefix('=')
}

impl FlowReader<'_> {
    /// Take a setting; `false` if it is none.
    fn setting<'a>(&mut self, item: &Item<'a>) -> Parsed<'a, bool> {
        let f = &mut self.flow;
        let u16_of = |what: &str| ranged(item.value, what, 0, 0xffff).map(|n| n as u16);
        match item.key {
            "table" => {
                let n = ranged(item.need("a table")?, "a table", 0, 255)? as u8;
                f.table = Some(n).filter(|n| *n != 255);
            }
            "priority" if f.command == Command::Delete => {
                return Err(Fault::new(item.all, "only strict deletions have a priority"));
            }
            "priority" => f.priority = u16_of("a priority")?,
            "cookie" => self.cookie(item)?,
            "idle_timeout" => f.idle_timeout = u16_of("a time-out")?,
            "hard_timeout" => f.hard_timeout = u16_of("a time-out")?,
            "importance" => f.importance = u16_of("an importance")?,
            "out_port" | "out_group" if !f.command.is_delete() => {
                return Err(Fault::new(item.all, "this chooses flows to delete or to list only"));
            }
            "out_port" => f.out_port = Some(parse_port(item.need("a port")?, self.ports)?),
            "out_group" => {
                f.out_group = Some(GroupId(number(item.need("a group's number")?, 32)? as u32));
            }
            "allow_hidden_fields" => item.bare()?,
            key if TOLD.contains(&key) && item.form == Form::Equals => {}
            key => {
                let Some((_, flag)) = FlowFlags::ALL.iter().find(|(n, _)| *n == key) else {
                    return Ok(false);
                };
                item.bare()?;
                f.flags.insert(*flag);
            }
        }
        Ok(true)
    }

    /// `cookie=X` is a new cookie, `cookie=X/MASK` chooses flows.
    fn cookie<'a>(&mut self, item: &Item<'a>) -> Parsed<'a, ()> {
        let f = &mut self.flow;
        let text = item.need("a cookie")?;
        match text.split_once('/') {
            Some(_) if f.command == Command::Add => {
                return Err(Fault::new(text, "a new flow's cookie has no mask"));
            }
            Some((cookie, mask)) => {
                f.cookie_mask = number_or_all(mask)?;
                f.cookie = number_or_all(cookie)? & f.cookie_mask;
            }
            None if f.command.is_delete() => {
                return Err(Fault::new(text, "a cookie that chooses flows needs a mask")
                    .hint(format_args!("write cookie={text}/-1")));
            }
            None => f.new_cookie = Some(number_or_all(text)?),
        }
        Ok(())
    }
}
