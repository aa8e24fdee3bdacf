//! Flows, groups, traces and events as text for people.

use std::fmt::Write;

use crate::cli::paint::Paint;
use crate::cli::table::{Cell, Table};
use crate::report::{
    AggregateReport, DroppedPacket, FlowsDiff, FlowsReport, GroupStatsReport, GroupsReport,
    MonitorEvent, PacketOutReport, TablesReport, TracePass, TraceReport, TraceStep, TraceWhat,
};

pub(super) fn flows(report: &FlowsReport) -> String {
    lines(report.flows.iter().map(|f| f.flow.as_str()))
}

pub(super) fn groups(report: &GroupsReport) -> String {
    lines(report.groups.iter().map(String::as_str))
}

fn lines<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    texts.fold(String::new(), |mut out, text| {
        out.push_str(text);
        out.push('\n');
        out
    })
}

pub(super) fn diff(report: &FlowsDiff, paint: Paint) -> String {
    let removed = report.removed.iter().map(|f| paint.red(format!("-{f}")) + "\n");
    removed.chain(report.added.iter().map(|f| paint.green(format!("+{f}")) + "\n")).collect()
}

pub(super) fn tables(report: &TablesReport) -> String {
    let mut table =
        Table::new(&[">TABLE", ">FLOWS", ">MASKS", ">LOOKUPS", ">MATCHED", ">PACKETS", ">BYTES"]);
    for t in &report.tables {
        table.row(vec![
            t.table.into(),
            t.flows.into(),
            t.masks.into(),
            t.lookups.into(),
            t.matched.into(),
            t.packets.into(),
            t.bytes.into(),
        ]);
    }
    table.render()
}

pub(super) fn aggregate(r: &AggregateReport) -> String {
    format!("packet_count={} byte_count={} flow_count={}\n", r.packets, r.bytes, r.flows)
}

pub(super) fn group_stats(report: &GroupStatsReport) -> String {
    let mut out = String::new();
    for g in &report.groups {
        let _ = write!(
            out,
            "group_id={},duration={:.3}s,ref_count={},packet_count={},byte_count={}",
            g.group, g.duration, g.references, g.packets, g.bytes
        );
        for b in &g.buckets {
            let _ = write!(
                out,
                ",bucket{}:packet_count={},byte_count={}",
                b.bucket, b.packets, b.bytes
            );
        }
        out.push('\n');
    }
    out
}

pub(super) fn packet_out(report: &PacketOutReport) -> String {
    match &report.drop {
        Some(why) => format!("not sent: {why}\n"),
        None => String::new(),
    }
}

pub(super) fn dropped(packets: &[DroppedPacket], paint: Paint) -> String {
    let mut table = Table::new(&["REASON", ">AGO", "PORT", "BRIDGE", ">TABLE", "COOKIE", "FLOW"]);
    for p in packets {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        table.row(vec![
            Cell::painted(&p.reason, paint.yellow(&p.reason)),
            format!("{:.1}s", p.age).into(),
            Cell::from(&p.port),
            or_none(p.bridge.clone()).into(),
            or_none(p.table.map(|t| t.to_string())).into(),
            or_none(p.cookie.map(|c| format!("{c:#x}"))).into(),
            Cell::from(&p.flow),
        ]);
    }
    table.render()
}

pub(super) fn trace(report: &TraceReport, paint: Paint) -> String {
    let mut out = String::new();
    for (i, pass) in report.passes.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        trace_pass(&mut out, pass, paint);
    }
    out
}

fn trace_pass(out: &mut String, pass: &TracePass, paint: Paint) {
    if pass.recirculation > 0 {
        let _ = writeln!(out, "{} {}", paint.bold("Back after ct:"), pass.recirculation);
    }
    let _ = writeln!(out, "{} {}", paint.bold("Flow:"), pass.flow);
    for step in &pass.steps {
        trace_step(out, step, paint);
    }
    out.push('\n');
    let end = pass.final_flow.as_deref().unwrap_or("unchanged");
    let _ = writeln!(out, "{} {end}", paint.bold("Final flow:"));
    let _ = writeln!(out, "{} {}", paint.bold("Megaflow:"), pass.megaflow);
    let _ = writeln!(out, "{} {}", paint.bold("Datapath actions:"), paint.green(&pass.actions));
    if let Some(why) = &pass.drop {
        let text = format!("{} ({})", why.reason, why.description);
        let _ = writeln!(out, "{} {}", paint.bold("Dropped:"), paint.red(text));
    }
    if pass.sent {
        let _ = writeln!(out, "The packet was sent.");
    }
}

fn trace_step(out: &mut String, step: &TraceStep, paint: Paint) {
    let indent = "    ".repeat(step.depth.min(64) as usize);
    match &step.what {
        TraceWhat::Bridge { bridge, in_port } => {
            let title = format!("bridge(\"{bridge}\"), in_port={in_port}");
            let _ = writeln!(out, "\n{indent}{}", paint.bold(title));
        }
        TraceWhat::Table { table, rule: Some(rule) } => {
            let mut text = format!("{table}. ");
            if !rule.matches.is_empty() {
                let _ = write!(text, "{}, ", rule.matches);
            }
            let _ = write!(text, "priority {}", rule.priority);
            if rule.cookie != 0 {
                let _ = write!(text, ", cookie {:#x}", rule.cookie);
            }
            let _ = writeln!(out, "{}{}", shorter(&indent), paint.bold(text));
        }
        TraceWhat::Table { table, rule: None } => {
            let text = paint.yellow(format!("{table}. no match"));
            let _ = writeln!(out, "{}{text}", shorter(&indent));
        }
        TraceWhat::Action { action } => {
            let _ = writeln!(out, "{indent}{action}");
        }
        TraceWhat::Note { text } => {
            let _ = writeln!(out, "{indent}{}", paint.dim(format!(" >> {text}")));
        }
    }
}

/// A table stands one level before its actions.
fn shorter(indent: &str) -> &str {
    indent.strip_prefix("    ").unwrap_or(indent)
}

/// One event a line.
pub(in crate::cli) fn event(event: &MonitorEvent, paint: Paint) -> String {
    match event {
        MonitorEvent::Started { bridge } => {
            let what = bridge.as_deref().unwrap_or("connections");
            format!("{}\n", paint.dim(format!("monitoring {what}")))
        }
        MonitorEvent::Connection { what, connection } => {
            format!("{:<18} {}", what.to_uppercase(), super::conntrack::connection(connection))
        }
        MonitorEvent::Lost { events } => {
            format!("{}\n", paint.yellow(format!("{events} events were lost")))
        }
        MonitorEvent::FlowRemoved { bridge, reason, flow } => {
            format!("{} {bridge}: reason={reason} {flow}\n", paint.bold("FLOW_REMOVED"))
        }
        MonitorEvent::PacketIn {
            bridge,
            in_port,
            reason,
            table,
            cookie,
            flow,
            metadata,
            packet,
            ..
        } => {
            let mut text = format!(
                "{} {bridge}: in_port={in_port} table={table} cookie={cookie:#x} reason={reason} \
                 len={}",
                paint.bold("PACKET_IN"),
                packet.len() / 2
            );
            if !metadata.is_empty() {
                let _ = write!(text, " metadata({metadata})");
            }
            format!("{text} {flow}\n")
        }
    }
}
