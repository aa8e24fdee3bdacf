//! Answers as text for people. One function a command; each takes the report as the daemon sent it.

pub(super) mod conntrack;
pub(super) mod flow;
mod router;
mod tunnel;

use std::fmt::Write;

use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use serde_json::value::RawValue;

use super::paint::Paint;
use super::table::{Cell, Table};
use crate::command::Command;
use crate::config::OFPORT_LOCAL;
use crate::report::{
    BridgeReport, ConnectionsFlushed, ConnectionsReport, DropsReport, FdbFlushed, FdbReport,
    FdbStats, LinkState, LogLevelReport, Megaflow, MegaflowsReport, PortReport, PortsReport,
    ShowReport, VersionReport, WorkerReport, WorkersReport,
};
use crate::schema::Value;

type Rendered = Result<String, serde_json::Error>;

/// The answer to `command` as text, empty or ending in a newline.
pub(super) fn render(command: &Command, raw: &RawValue, paint: Paint) -> Rendered {
    match command {
        Command::ListBr {} => names(raw, "bridges"),
        Command::ListPorts { .. } => names(raw, "ports"),
        Command::ListRouters {} => names(raw, "routers"),
        Command::SecurityGroupShow { .. } => Ok(router::groups(&read(raw)?)),
        Command::ShowRouter { .. } => Ok(router::router(&read(raw)?)),
        Command::PortToBr { .. } => {
            let json: Json = read(raw)?;
            Ok(json["bridge"].as_str().map(|b| format!("{b}\n")).unwrap_or_default())
        }
        Command::Get { columns, .. } => get(raw, columns.is_empty()),
        Command::Show { .. } => Ok(show(&read(raw)?, paint)),
        Command::FdbShow { .. } => Ok(fdb(&read(raw)?)),
        Command::FdbFlush { .. } => {
            let report: FdbFlushed = read(raw)?;
            Ok(format!("{} entries flushed\n", report.flushed))
        }
        Command::FdbStats { .. } => Ok(fdb_stats(&read(raw)?)),
        Command::DumpPorts { .. } => Ok(ports(&read(raw)?, paint)),
        Command::Drops { .. } => Ok(drops(&read(raw)?, paint)),
        Command::DumpFlows { .. } => Ok(flow::flows(&read(raw)?)),
        Command::DiffFlows { .. } => Ok(flow::diff(&read(raw)?, paint)),
        Command::DumpTables { .. } => Ok(flow::tables(&read(raw)?)),
        Command::DumpAggregate { .. } => Ok(flow::aggregate(&read(raw)?)),
        Command::DumpGroups { .. } => Ok(flow::groups(&read(raw)?)),
        Command::DumpGroupStats { .. } => Ok(flow::group_stats(&read(raw)?)),
        Command::PacketOut { .. } => Ok(flow::packet_out(&read(raw)?)),
        Command::Trace { .. } => Ok(flow::trace(&read(raw)?, paint)),
        Command::ConntrackList { .. } => {
            let page: ConnectionsReport = read(raw)?;
            Ok(page.connections.iter().map(conntrack::connection).collect())
        }
        Command::ConntrackFlush { .. } => {
            let report: ConnectionsFlushed = read(raw)?;
            Ok(format!("{} connections ended\n", report.flushed))
        }
        Command::ConntrackStats {} => Ok(conntrack::stats(&read(raw)?)),
        Command::ConntrackLimit {} => Ok(conntrack::limits(&read(raw)?)),
        Command::ConntrackTimeout { .. } => Ok(conntrack::timeouts(&read(raw)?)),
        Command::DumpMegaflows { .. } => Ok(megaflows(&read(raw)?, paint)),
        Command::Tunnels { .. } => Ok(tunnel::tunnels(&read(raw)?, paint)),
        Command::RouteShow {} => Ok(tunnel::routes(&read(raw)?)),
        Command::NeighShow { .. } => Ok(tunnel::neighbours(&read(raw)?)),
        Command::Workers { stages: true } => Ok(stages(&read(raw)?)),
        Command::Workers { .. } => Ok(workers(&read(raw)?)),
        Command::Version {} => {
            let v: VersionReport = read(raw)?;
            let (own, uptime) = (env!("CARGO_PKG_VERSION"), duration(v.uptime));
            Ok(format!("vswitchctl {own}\nvswitchd {} (pid {}, up {uptime})\n", v.version, v.pid))
        }
        Command::LogLevel { level } => {
            let report: LogLevelReport = read(raw)?;
            Ok(if level.is_none() { format!("{}\n", report.level) } else { String::new() })
        }
        Command::AddBr { .. }
        | Command::DelBr { .. }
        | Command::AddPort { .. }
        | Command::DelPort { .. }
        | Command::Set { .. }
        | Command::Clear { .. }
        | Command::SetConntrackLimit { .. }
        | Command::SetConntrackTimeout { .. }
        | Command::RouteAdd { .. }
        | Command::RouteDel { .. }
        | Command::NeighAdd { .. }
        | Command::NeighDel { .. }
        | Command::BrExists { .. }
        | Command::AddFlow { .. }
        | Command::AddFlows { .. }
        | Command::ModFlows { .. }
        | Command::DelFlows { .. }
        | Command::ReplaceFlows { .. }
        | Command::AddGroup { .. }
        | Command::AddGroups { .. }
        | Command::ModGroup { .. }
        | Command::DelGroups { .. }
        | Command::InsertBuckets { .. }
        | Command::RemoveBuckets { .. }
        | Command::AddRouter { .. }
        | Command::DelRouter { .. }
        | Command::AddRouterPort { .. }
        | Command::DelRouterPort { .. }
        | Command::SetGateway { .. }
        | Command::DelGateway { .. }
        | Command::AddRoute { .. }
        | Command::DelRoute { .. }
        | Command::AddSnat { .. }
        | Command::DelSnat { .. }
        | Command::AddFloatingIp { .. }
        | Command::DelFloatingIp { .. }
        | Command::AddDnat { .. }
        | Command::DelDnat { .. }
        | Command::SecurityGroupSet { .. }
        | Command::SecurityGroupRemove { .. }
        | Command::SecurityGroupAdd { .. }
        | Command::SecurityGroupDel { .. } => Ok(String::new()),
    }
}

fn read<T: DeserializeOwned>(raw: &RawValue) -> Result<T, serde_json::Error> {
    serde_json::from_str(raw.get())
}

fn names(raw: &RawValue, field: &str) -> Rendered {
    let json: Json = read(raw)?;
    let list = json[field].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(list.iter().filter_map(Json::as_str).map(|name| format!("{name}\n")).collect())
}

/// A value a line; with its key where all were asked for. A key that is not there is an empty line.
fn get(raw: &RawValue, with_keys: bool) -> Rendered {
    let json: Json = read(raw)?;
    let mut out = String::new();
    for entry in json["values"].as_array().map(Vec::as_slice).unwrap_or_default() {
        if with_keys && let Some(column) = entry["column"].as_str() {
            let _ = write!(out, "{column}=");
        }
        if let Some(value) = entry.get("value") {
            let _ = write!(out, "{}", Value::from_json(value));
        }
        out.push('\n');
    }
    Ok(out)
}

fn show(report: &ShowReport, paint: Paint) -> String {
    let mut out = String::new();
    for (index, bridge) in report.bridges.iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        out.push_str(&show_bridge(bridge, paint));
    }
    for warning in &report.warnings {
        let _ = writeln!(out, "{} {warning}", paint.yellow("warning:"));
    }
    out
}

fn show_bridge(bridge: &BridgeReport, paint: Paint) -> String {
    let settings = settings(&bridge.settings);
    let mut out = format!("{} {}", paint.dim("Bridge"), paint.bold(&bridge.name));
    if !settings.is_empty() {
        let _ = write!(out, "  {}", settings.join(" "));
    }
    out.push('\n');
    let mut table = Table::new(&["PORT", ">OFPORT", "TYPE", "STATE", "DETAILS"]).indent(2);
    let mut notes = String::new();
    for port in &bridge.ports {
        let number = match port.ofport {
            OFPORT_LOCAL => "LOCAL".to_owned(),
            number => number.to_string(),
        };
        let state = port.running.state.as_str();
        let painted = match port.running.state {
            LinkState::Up => paint.green(state),
            LinkState::Missing | LinkState::Error => paint.red(state),
            LinkState::Down | LinkState::Unknown => paint.yellow(state),
        };
        table.row(vec![
            Cell::from(&port.name),
            number.into(),
            Cell::from(&port.kind),
            Cell::painted(state, painted),
            details(port).into(),
        ]);
        let problem = port.peer.as_ref().and_then(|p| p.problem.as_ref());
        for error in port.running.error.iter().chain(problem) {
            let _ = writeln!(notes, "  {} {}: {error}", paint.red("error:"), port.name);
        }
        for warning in &port.running.warnings {
            let _ = writeln!(notes, "  {} {}: {warning}", paint.yellow("warning:"), port.name);
        }
    }
    out + &table.render() + &notes
}

fn details(port: &PortReport) -> String {
    let mut words = Vec::new();
    let running = &port.running;
    if let Some(mode) = &running.mode {
        let copy = match running.zero_copy {
            Some(true) => " zero-copy",
            Some(false) => " copy",
            None => "",
        };
        words.push(format!("{mode}{copy}"));
    }
    if let Some(queues) = running.queues {
        words.push(format!("{queues} queue{}", if queues == 1 { "" } else { "s" }));
    }
    if !running.workers.is_empty() {
        let list: Vec<_> = running.workers.iter().map(u32::to_string).collect();
        words.push(format!("worker {}", list.join(",")));
    }
    if let Some(mtu) = running.mtu {
        words.push(format!("mtu {mtu}"));
    }
    if let Some(peer) = &port.peer {
        words.push(match &peer.bridge {
            Some(bridge) => format!("peer {} ({bridge})", peer.port),
            None => format!("peer {}", peer.port),
        });
    }
    words.extend(settings(&port.settings));
    words.join(", ")
}

/// `key=value` of every setting.
fn settings(map: &serde_json::Map<String, Json>) -> Vec<String> {
    map.iter().map(|(key, value)| format!("{key}={}", bare(value))).collect()
}

/// A value as it would be typed: `1,2` rather than `[1, 2]`.
fn bare(value: &Json) -> String {
    match value {
        Json::Array(items) => items.iter().map(bare).collect::<Vec<_>>().join(","),
        other => Value::from_json(other).to_string(),
    }
}

fn fdb(report: &FdbReport) -> String {
    let mut table = Table::new(&["PORT", ">OFPORT", ">VLAN", "MAC", ">AGE"]);
    for entry in &report.entries {
        table.row(vec![
            Cell::from(&entry.port),
            entry.ofport.into(),
            entry.vlan.into(),
            Cell::from(&entry.mac),
            entry.age.into(),
        ]);
    }
    table.render()
}

fn fdb_stats(s: &FdbStats) -> String {
    let rows = [
        ("entries", format!("{} of {}", s.entries, s.max_entries)),
        ("aging time", format!("{} s", s.aging_time)),
        ("learned", s.learned.to_string()),
        ("moved", s.moved.to_string()),
        ("expired", s.expired.to_string()),
        ("evicted", s.evicted.to_string()),
        ("refused", s.refused.to_string()),
    ];
    rows.iter().map(|(name, value)| format!("{:<12}{value}\n", format!("{name}:"))).collect()
}

fn ports(report: &PortsReport, paint: Paint) -> String {
    let headings =
        ["PORT", ">OFPORT", ">RX-PACKETS", ">RX-BYTES", ">TX-PACKETS", ">TX-BYTES", ">DROPPED"];
    let mut table = Table::new(&headings);
    let mut reasons = String::new();
    for port in &report.ports {
        let dropped: u64 = port.drops.iter().map(|d| d.packets).sum();
        table.row(vec![
            Cell::from(&port.name),
            port.ofport.into(),
            port.rx_packets.into(),
            port.rx_bytes.into(),
            port.tx_packets.into(),
            port.tx_bytes.into(),
            dropped.into(),
        ]);
        for drop in &port.drops {
            let _ = writeln!(reasons, "  {}: {} {}", port.name, drop.packets, drop.reason);
        }
    }
    let mut out = table.render();
    if !reasons.is_empty() {
        let _ = write!(out, "{}\n{reasons}", paint.bold("dropped, by reason:"));
    }
    out
}

fn drops(report: &DropsReport, paint: Paint) -> String {
    if report.reasons.is_empty() {
        return "nothing was dropped\n".to_owned();
    }
    let latest = report.latest.as_deref().filter(|l| !l.is_empty());
    let latest = latest.map(|l| format!("\n{}", flow::dropped(l, paint)));
    drop_reasons(report) + &latest.unwrap_or_default()
}

fn drop_reasons(report: &DropsReport) -> String {
    let mut table = Table::new(&[">PACKETS", "REASON", "MEANING"]);
    for reason in &report.reasons {
        table.row(vec![
            reason.packets.into(),
            Cell::from(&reason.reason),
            Cell::from(&reason.description),
        ]);
    }
    table.render()
}

fn megaflows(report: &MegaflowsReport, paint: Paint) -> String {
    let mut out = String::new();
    for flow in &report.megaflows {
        megaflow(&mut out, flow, paint);
    }
    let shown = report.megaflows.len() as u64;
    if shown < report.total {
        let _ = writeln!(out, "{shown} of {} megaflows", report.total);
    }
    out
}

fn megaflow(out: &mut String, flow: &Megaflow, paint: Paint) {
    let used = flow.used.map_or_else(|| "never".to_owned(), |s| format!("{s:.3}s"));
    let _ = writeln!(
        out,
        "{}, packets:{}, bytes:{}, used:{used}, age:{:.3}s, worker:{}, actions:{}",
        flow.matches,
        flow.packets,
        flow.bytes,
        flow.age,
        flow.worker,
        paint.bold(&flow.actions)
    );
    if !flow.depends.is_empty() {
        let _ = writeln!(out, "  {} {}", paint.dim("depends on:"), flow.depends.join("; "));
    }
}

fn workers(report: &WorkersReport) -> String {
    let mut table = Table::new(&[
        ">WORKER",
        ">CORE",
        ">PACKETS",
        ">PACKETS/S",
        ">CYCLES/PKT",
        ">EXACT",
        ">MEGAFLOW",
        ">UPCALLS",
        ">MEGAFLOWS",
        ">MASKS",
        ">PKTS/BURST",
        ">IDLE",
    ]);
    for w in &report.workers {
        table.row(vec![
            w.worker.into(),
            w.core.into(),
            w.packets.into(),
            format!("{:.0}", w.packets_per_second).into(),
            format!("{:.0}", w.cycles_per_packet).into(),
            percent(w.exact_hit_rate).into(),
            percent(w.megaflow_hit_rate).into(),
            w.upcalls.into(),
            w.megaflows.into(),
            w.masks.into(),
            format!("{:.1}", w.packets_per_burst).into(),
            percent(w.idle).into(),
        ]);
    }
    report.workers.iter().fold(table.render(), |out, w| out + &worker_lines(w))
}

/// The stages in the order in which packets meet them, and all together.
fn stages(report: &WorkersReport) -> String {
    const STAGES: [&str; 8] =
        ["receive", "extract", "cache", "classifier", "upcall", "actions", "conntrack", "transmit"];
    let names = STAGES.map(|s| format!(">{}", s.to_uppercase()));
    let mut heads = vec![">WORKER", ">TIMED"];
    heads.extend(names.iter().map(String::as_str));
    heads.push(">ALL");
    let mut table = Table::new(&heads);
    for w in &report.workers {
        let Some(s) = &w.stages else { continue };
        let cycles = STAGES.map(|n| s.cycles_per_packet.get(n).copied().unwrap_or(0.0));
        let mut row = vec![w.worker.into(), s.packets.into()];
        row.extend(cycles.iter().chain([&cycles.iter().sum()]).map(|c| format!("{c:.1}").into()));
        table.row(row);
    }
    table.render()
}

fn worker_lines(w: &WorkerReport) -> String {
    let mut out = String::new();
    if !w.queues.is_empty() {
        let _ = writeln!(out, "worker {} polls {}", w.worker, w.queues.join(" "));
    }
    if !w.burst_sizes.is_empty() {
        let sizes: Vec<_> =
            w.burst_sizes.iter().map(|b| format!("{}:{}", b.packets, b.bursts)).collect();
        let _ = writeln!(out, "worker {} bursts by size {}", w.worker, sizes.join(" "));
    }
    out
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

/// `3d 4h`, `4h 5m`, `5m 6s`, `6s`.
fn duration(seconds: u64) -> String {
    let (d, h, m, s) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match (d, h, m) {
        (0, 0, 0) => format!("{s}s"),
        (0, 0, _) => format!("{m}m {s}s"),
        (0, _, _) => format!("{h}h {m}m"),
        _ => format!("{d}d {h}h"),
    }
}

#[cfg(test)]
mod tests;
