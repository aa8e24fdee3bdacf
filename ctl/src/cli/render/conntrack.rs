//! Connections as text for people: one a line, as `ovs-appctl dpctl/dump-conntrack` writes them.

use std::fmt::Write;

use crate::cli::table::{Cell, Table};
use crate::report::{
    Connection, ConntrackStats, Direction, LimitsReport, Named, TimeoutsReport, ZoneUse,
};

pub(in crate::cli) fn connection(c: &Connection) -> String {
    let mut out =
        format!("{},orig=({}),reply=({})", c.protocol, direction(&c.orig), direction(&c.reply));
    if c.zone != 0 {
        let _ = write!(out, ",zone={}", c.zone);
    }
    if c.mark != 0 {
        let _ = write!(out, ",mark={:#x}", c.mark);
    }
    if !matches!(c.label.as_str(), "" | "0x0") {
        let _ = write!(out, ",labels={}", c.label);
    }
    if let Some(life) = &c.life {
        if let Some(state) = &life.state {
            let _ = write!(out, ",protoinfo=(state={})", state.to_uppercase());
        }
        let _ = write!(out, ",timeout={:.0}", life.expires.floor());
        if !life.answered {
            out.push_str(",unanswered");
        }
    }
    out.push('\n');
    out
}

fn direction(d: &Direction) -> String {
    let mut out = format!("src={},dst={}", d.src, d.dst);
    let numbers =
        [("sport", d.sport), ("dport", d.dport), ("id", d.id), ("type", d.ty), ("code", d.code)];
    for (name, value) in numbers {
        if let Some(value) = value {
            let _ = write!(out, ",{name}={value}");
        }
    }
    if let Some(key) = d.key {
        let _ = write!(out, ",key={key:#x}");
    }
    out
}

pub(super) fn stats(s: &ConntrackStats) -> String {
    let mut out = format!(
        "connections: {} of {}, {} unanswered, {} translated\n",
        s.connections, s.limit, s.unanswered, s.translated
    );
    let list = |named: &[Named]| {
        let words: Vec<_> = named.iter().map(|n| format!("{} {}", n.name, n.count)).collect();
        words.join(", ")
    };
    for (title, named) in [("protocols", &s.protocols), ("tcp states", &s.states)] {
        if !named.is_empty() {
            let _ = writeln!(out, "{title}: {}", list(named));
        }
    }
    if !s.zones.is_empty() {
        let _ = write!(out, "\n{}", zones(&s.zones));
    }
    if !s.top_sources.is_empty() {
        let mut table = Table::new(&[">ZONE", "SOURCE", ">CONNECTIONS"]);
        for t in &s.top_sources {
            table.row(vec![t.zone.into(), Cell::from(&t.source), t.connections.into()]);
        }
        let _ = write!(out, "\n{}", table.render());
    }
    let counts = [("EVENT", &s.events), ("INVALID", &s.invalid), ("DROPPED", &s.drops)];
    for (title, named) in counts {
        if !named.is_empty() {
            let mut table = Table::new(&[">COUNT", title, "MEANING"]);
            for n in named {
                table.row(vec![n.count.into(), Cell::from(&n.name), Cell::from(&n.description)]);
            }
            let _ = write!(out, "\n{}", table.render());
        }
    }
    out
}

fn zones(list: &[ZoneUse]) -> String {
    let mut table = Table::new(&[">ZONE", ">CONNECTIONS", ">LIMIT"]);
    for z in list {
        let limit = z.limit.map_or_else(|| "none".to_owned(), |l| l.to_string());
        table.row(vec![z.zone.into(), z.connections.into(), limit.into()]);
    }
    table.render()
}

pub(super) fn limits(r: &LimitsReport) -> String {
    let zone = r.zone.map_or_else(|| "none".to_owned(), |l| l.to_string());
    let mut out = format!("total: {} of {}\nzone: {zone}\n", r.connections, r.total);
    if !r.zones.is_empty() {
        let _ = write!(out, "\n{}", zones(&r.zones));
    }
    out
}

pub(super) fn timeouts(r: &TimeoutsReport) -> String {
    let mut table = Table::new(&["TIMEOUT", ">SECONDS", "SET", "MEANING"]);
    for t in &r.timeouts {
        table.row(vec![
            Cell::from(&t.name),
            t.seconds.into(),
            if t.set { "set" } else { "" }.into(),
            Cell::from(&t.description),
        ]);
    }
    let mut out = table.render();
    if r.zone.is_none() && !r.zones.is_empty() {
        let zones: Vec<_> = r.zones.iter().map(u16::to_string).collect();
        let _ = writeln!(out, "\nzones with timeouts of their own: {}", zones.join(" "));
    }
    out
}
