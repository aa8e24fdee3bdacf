//! Flow tables on the socket: flows are read from text, changed as one batch, and written back as text.
//!
//! A text is read twice: in [`EngineBackend::check_flows`] before anything of a transaction happens, and
//! when it is carried out. Names of ports are those of the configuration at that place of the transaction.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ofproto::action::OfPort;
use ofproto::flow_table::{FlowModError, Outcome, sort_rules};
use ofproto::flowmod::{Command as Do, FlowFilter, FlowMod};
use ofproto::mf::Mf;
use ofproto::rule::Rule;
use ofproto::text::{
    FlowTimes, NoNames, PortNames, ShownFlow, TextError, field_by_name, line_of_flow, parse_filter,
    parse_flow, parse_flows, show_flow,
};
use serde_json::value::RawValue;

use super::EngineBackend;
use crate::backend::answer;
use crate::command::Command;
use crate::config::{Config, OFPORT_LOCAL};
use crate::error::{CtlError, quoted};
use crate::report;

/// The names of a bridge's ports, its own included.
pub(super) struct Names {
    by_number: HashMap<OfPort, String>,
    by_name: HashMap<String, OfPort>,
}

impl Names {
    pub(super) fn of(config: &Config, bridge: &str) -> Result<Names, CtlError> {
        let ports = &config.bridge(bridge)?.ports;
        let all = ports.iter().map(|(name, p)| (name.as_str(), p.ofport));
        let pair = |(name, n): (&str, u16)| (OfPort::from_16(n), name.to_owned());
        let by_number: HashMap<_, _> = all.chain([(bridge, OFPORT_LOCAL)]).map(pair).collect();
        let by_name = by_number.iter().map(|(p, n)| (n.clone(), *p)).collect();
        Ok(Names { by_number, by_name })
    }
}

impl PortNames for Names {
    fn number(&self, name: &str) -> Option<OfPort> {
        self.by_name.get(name).copied()
    }
    fn name(&self, port: OfPort) -> Option<&str> {
        self.by_number.get(&port).map(String::as_str)
    }
}

/// A text that is refused, as an error of the command.
pub(super) fn refused(what: &str, e: &TextError) -> CtlError {
    let found = if e.found.is_empty() { "the end".to_owned() } else { quoted(&e.found) };
    let place = format!("{what}, line {}, column {}: at {found}", e.line, e.column);
    let error = CtlError::invalid(format!("{place}: {}", e.message));
    match &e.hint {
        Some(hint) => error.with_hint(&**hint),
        None => error,
    }
}

/// What a command wants done with flows.
pub(super) enum Wanted {
    Mods(Vec<FlowMod>),
    Replace(Vec<FlowMod>),
    Diff(Vec<FlowMod>),
    Dump { filter: FlowFilter, names: bool, no_stats: bool, sort: Vec<SortKey> },
    Tables,
    Aggregate(FlowFilter),
}

/// One of the fields to sort by.
pub(super) struct SortKey {
    /// `None` is the priority.
    field: Option<Mf>,
    descending: bool,
}

/// Read what a command says about flows; `None` if it is about something else.
pub(super) fn read(config: &Config, command: &Command) -> Result<Option<Wanted>, CtlError> {
    let flows = |bridge: &str, text: &str, command| {
        let names = Names::of(config, bridge)?;
        parse_flows(text, command, &names).map_err(|e| refused("flows", &e))
    };
    let one = |bridge: &str, text: &str, command| {
        let names = Names::of(config, bridge)?;
        let read = parse_flow(text, command, &names);
        read.map(|m| Wanted::Mods(vec![m])).map_err(|e| refused("flow", &e))
    };
    let filter = |bridge: &str, text: &Option<String>| {
        let names = Names::of(config, bridge)?;
        parse_filter(text.as_deref().unwrap_or_default(), &names).map_err(|e| refused("match", &e))
    };
    Ok(Some(match command {
        Command::AddFlow { bridge, flow } => one(bridge, flow, Do::Add)?,
        Command::AddFlows { bridge, flows: text } => Wanted::Mods(flows(bridge, text, Do::Add)?),
        Command::ModFlows { bridge, flow, strict: false } => one(bridge, flow, Do::Modify)?,
        Command::ModFlows { bridge, flow, strict: true } => one(bridge, flow, Do::ModifyStrict)?,
        Command::DelFlows { bridge, matches, strict } => {
            let text = matches.as_deref().unwrap_or_default();
            one(bridge, text, if *strict { Do::DeleteStrict } else { Do::Delete })?
        }
        Command::ReplaceFlows { bridge, flows: text } => {
            Wanted::Replace(only_additions(flows(bridge, text, Do::Add)?, text)?)
        }
        Command::DiffFlows { bridge, flows: text } => {
            Wanted::Diff(only_additions(flows(bridge, text, Do::Add)?, text)?)
        }
        Command::DumpFlows { bridge, matches, internal, names, no_stats, sort } => Wanted::Dump {
            filter: match internal {
                true => {
                    config.router(bridge)?;
                    let text = matches.as_deref().unwrap_or_default();
                    parse_filter(text, &NoNames).map_err(|e| refused("match", &e))?
                }
                false => filter(bridge, matches)?,
            },
            names: *names,
            no_stats: *no_stats,
            sort: sort.iter().map(|s| sort_key(s)).collect::<Result<_, _>>()?,
        },
        Command::DumpTables { .. } => Wanted::Tables,
        Command::DumpAggregate { bridge, matches } => Wanted::Aggregate(filter(bridge, matches)?),
        _ => return Ok(None),
    }))
}

/// A list of flows that a bridge is to have holds no deletions.
fn only_additions(mods: Vec<FlowMod>, text: &str) -> Result<Vec<FlowMod>, CtlError> {
    match mods.iter().position(|m| m.command != Do::Add) {
        None => Ok(mods),
        Some(i) => {
            let line = line_of_flow(text, i).map_or(0, |(n, _)| n);
            let message = format!("flows, line {line}: expected a flow, not a change of flows");
            Err(CtlError::invalid(message))
        }
    }
}

fn sort_key(text: &str) -> Result<SortKey, CtlError> {
    let (descending, name) = match text.strip_prefix('-') {
        Some(name) => (true, name),
        None => (false, text),
    };
    if name == "priority" {
        return Ok(SortKey { field: None, descending });
    }
    match field_by_name(name) {
        Some(field) => Ok(SortKey { field: Some(field), descending }),
        None => {
            let names = Mf::ALL.iter().map(|f| f.name()).chain(["priority"]);
            let message = format!("sort: there is no field {}", quoted(name));
            Err(CtlError::invalid(message).suggest(name, names))
        }
    }
}

impl EngineBackend {
    /// Carry out a command about flows.
    pub(super) fn flows(
        &mut self,
        config: &Config,
        bridge: &str,
        command: &Command,
        wanted: Wanted,
    ) -> Result<Box<RawValue>, CtlError> {
        let now = self.now();
        let id = match command {
            Command::DumpFlows { bridge: router, internal: true, .. } => self.router_bridge(router),
            _ => None,
        };
        let (bridge, id) = match (id, command) {
            (Some(id), Command::DumpFlows { bridge, .. }) => (bridge.as_str(), id),
            _ => (bridge, self.bridge_id(bridge)?),
        };
        match wanted {
            Wanted::Mods(mods) => {
                let done = self.switch.apply_flow_mods(id, &mods, now);
                self.changed_flows(bridge, done.map_err(|e| at_flow(command, e))?)
            }
            Wanted::Replace(mods) => {
                let done = self.switch.replace_flows(id, &mods, now);
                self.changed_flows(bridge, done.map_err(|e| at_flow(command, e))?)
            }
            Wanted::Diff(mods) => {
                let rules = self.switch.select(id, &FlowFilter::default());
                answer(&diff(bridge, rules, mods))
            }
            Wanted::Dump { filter, names, no_stats, sort } => {
                self.count_all()?;
                let mut rules = self.switch.select(id, &filter);
                sort_rules(&mut rules);
                sort_by(&mut rules, &sort);
                let names = if names { Some(Names::of(config, bridge)?) } else { None };
                let ports: &dyn PortNames = names.as_ref().map_or(&NoNames, |n| n);
                let flows = rules.iter().map(|r| flow_report(r, now, no_stats, ports)).collect();
                answer(&report::FlowsReport { bridge: bridge.to_owned(), flows })
            }
            Wanted::Tables => {
                self.count_all()?;
                answer(&self.tables(bridge)?)
            }
            Wanted::Aggregate(filter) => {
                self.count_all()?;
                let mut sum =
                    report::AggregateReport { bridge: bridge.to_owned(), ..Default::default() };
                for rule in self.switch.select(id, &filter) {
                    sum.flows += 1;
                    sum.packets += rule.stats.packets.load(Ordering::Relaxed);
                    sum.bytes += rule.stats.bytes.load(Ordering::Relaxed);
                }
                answer(&sum)
            }
        }
    }

    /// Let rules know what was counted in caches.
    pub(super) fn count_all(&mut self) -> Result<(), CtlError> {
        self.engine()?.push_stats().map_err(|e| CtlError::internal(e.to_string()))
    }

    pub(super) fn changed_flows(
        &mut self,
        bridge: &str,
        outcome: Outcome,
    ) -> Result<Box<RawValue>, CtlError> {
        let done = report::FlowsChanged {
            bridge: bridge.to_owned(),
            changed: outcome.changed as u64,
            removed: outcome.removed.len() as u64,
        };
        let id = self.bridge_id(bridge)?;
        self.removed.extend(outcome.removed.into_iter().map(|r| (id, r)));
        answer(&done)
    }

    fn tables(&self, bridge: &str) -> Result<report::TablesReport, CtlError> {
        let id = self.bridge_id(bridge)?;
        let all = self.switch.bridge(id).into_iter();
        let all = all.flat_map(|b| b.tables.iter().map(move |(n, t)| (b, n, t)));
        let tables = all.filter(|(.., t)| !t.is_empty()).map(|(b, table, t)| {
            let sum = |of: fn(&Rule) -> u64| t.iter().map(|r| of(r)).sum::<u64>();
            let missed = b.missed.of(table).map_or(0, |m| m.packets.load(Ordering::Relaxed));
            let matched = b.gone.get(&table).copied().unwrap_or(0)
                + sum(|r| r.stats.packets.load(Ordering::Relaxed));
            report::TableReport {
                table,
                flows: t.len() as u64,
                masks: t.masks() as u64,
                lookups: matched + missed,
                matched,
                packets: sum(|r| r.stats.packets.load(Ordering::Relaxed)),
                bytes: sum(|r| r.stats.bytes.load(Ordering::Relaxed)),
            }
        });
        Ok(report::TablesReport { bridge: bridge.to_owned(), tables: tables.collect() })
    }
}

/// A change that the tables refused, with the flow that it is.
fn at_flow(command: &Command, (index, e): (usize, FlowModError)) -> CtlError {
    match command {
        Command::AddFlows { flows, .. } | Command::ReplaceFlows { flows, .. } => {
            let (line, text) = line_of_flow(flows, index).unwrap_or_default();
            CtlError::invalid(format!("flows, line {line}: {}: {e}", quoted(text)))
        }
        _ => CtlError::invalid(format!("flow: {e}")),
    }
}

/// Sort by fields; among equals, as the list is sorted already. Flows without a field come last.
fn sort_by(rules: &mut [Arc<Rule>], keys: &[SortKey]) {
    for key in keys.iter().rev() {
        match (key.field, key.descending) {
            (None, false) => rules.sort_by_key(|r| r.priority),
            (None, true) => rules.sort_by_key(|r| Reverse(r.priority)),
            (Some(f), descending) => rules.sort_by_cached_key(|r| {
                let (value, mask) = (f.get(&r.matches.key()), f.get(&r.matches.mask_key()));
                let turn = |v: u128| if descending { !v } else { v };
                (mask == 0, turn(value), turn(mask))
            }),
        }
    }
}

/// What `flow` is as text.
pub(super) fn flow_text(rule: &Rule, times: Option<FlowTimes>, ports: &dyn PortNames) -> String {
    let shown = ShownFlow { times, ..ShownFlow::from(rule) };
    let mut text = String::with_capacity(160);
    show_flow(&mut text, &shown, ports);
    text
}

/// What happened to a rule until `now`.
pub(super) fn times(rule: &Rule, now: u64) -> FlowTimes {
    let modified = rule.modified.load(Ordering::Relaxed);
    let used = rule.stats.used.load(Ordering::Relaxed).max(rule.created);
    let duration = now.saturating_sub(rule.created);
    let hard_age = now.saturating_sub(modified) / 1000;
    FlowTimes {
        duration,
        packets: rule.stats.packets.load(Ordering::Relaxed),
        bytes: rule.stats.bytes.load(Ordering::Relaxed),
        idle_age: Some(now.saturating_sub(used) / 1000),
        hard_age: (modified > rule.created && hard_age != duration / 1000).then_some(hard_age),
    }
}

fn flow_report(rule: &Rule, now: u64, no_stats: bool, ports: &dyn PortNames) -> report::FlowReport {
    let times = (!no_stats).then(|| times(rule, now));
    report::FlowReport {
        table: rule.table,
        priority: rule.priority,
        cookie: rule.cookie,
        packets: times.map(|t| t.packets),
        bytes: times.map(|t| t.bytes),
        duration: times.map(|t| t.duration as f64 / 1000.0),
        flow: flow_text(rule, times, ports),
    }
}

/// How a bridge's flows differ from those of a text.
fn diff(bridge: &str, mut rules: Vec<Arc<Rule>>, mods: Vec<FlowMod>) -> report::FlowsDiff {
    sort_rules(&mut rules);
    // Of flows with the same match and priority the last one counts.
    let mut wanted: HashMap<_, FlowMod> = mods
        .into_iter()
        .map(|m| ((m.table.unwrap_or(0), m.priority, m.matches.clone()), m))
        .collect();
    let mut report = report::FlowsDiff { bridge: bridge.to_owned(), ..Default::default() };
    for rule in &rules {
        let key = (rule.table, rule.priority, rule.matches.clone());
        match wanted.remove(&key) {
            Some(m) if m.makes(rule) => {}
            other => {
                report.removed.push(flow_text(rule, None, &NoNames));
                report.added.extend(other.as_ref().map(mod_text));
            }
        }
    }
    let mut rest: Vec<_> = wanted.into_iter().collect();
    rest.sort_by(|(a, _), (b, _)| (a.0, Reverse(a.1), &a.2).cmp(&(b.0, Reverse(b.1), &b.2)));
    report.added.extend(rest.iter().map(|(_, m)| mod_text(m)));
    report
}

fn mod_text(m: &FlowMod) -> String {
    let mut text = String::new();
    show_flow(&mut text, &m.into(), &NoNames);
    text
}
