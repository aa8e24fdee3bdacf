//! Tunnels, routes and neighbours as text for people.

use crate::cli::paint::Paint;
use crate::cli::table::{Cell, Table};
use crate::report::{NeighboursReport, RoutesReport, TunnelReport, TunnelState, TunnelsReport};

fn or_dash(text: Option<&str>) -> Cell {
    Cell::from(text.unwrap_or("-"))
}

pub(super) fn tunnels(r: &TunnelsReport, paint: Paint) -> String {
    let mut table = Table::new(&[
        "PORT",
        "TYPE",
        "REMOTE",
        "KEY",
        "STATE",
        "NEXT HOP",
        "BY",
        ">RX",
        ">TX",
        "LAST ERROR",
    ]);
    for t in &r.tunnels {
        let state = t.state.as_str();
        let painted = match t.state {
            TunnelState::Up => paint.green(state),
            TunnelState::Down => paint.red(state),
            TunnelState::Unresolved | TunnelState::Flow => state.to_owned(),
        };
        let path = t.path.as_ref();
        table.row(vec![
            Cell::from(&t.port),
            Cell::from(&t.kind),
            Cell::from(&t.remote),
            Cell::from(key(t)),
            Cell::painted(state, painted),
            or_dash(path.map(|p| p.next_hop.as_str())),
            or_dash(path.map(|p| p.interface.as_str())),
            t.rx_packets.into(),
            t.tx_packets.into(),
            Cell::from(trouble(t)),
        ]);
    }
    table.render()
}

fn key(t: &TunnelReport) -> String {
    match (t.in_key.as_deref(), t.out_key.as_deref()) {
        (None, None) => "-".to_owned(),
        (Some(a), Some(b)) if a == b => a.to_owned(),
        (a, b) => format!("{}/{}", a.unwrap_or("-"), b.unwrap_or("-")),
    }
}

fn trouble(t: &TunnelReport) -> String {
    let last = t.last_error.as_ref().map(|e| format!("{} {:.0} s ago", e.reason, e.age));
    t.error.clone().or(last).unwrap_or_default()
}

pub(super) fn routes(r: &RoutesReport) -> String {
    let mut table =
        Table::new(&["PREFIX", "ORIGIN", "INTERFACE", "VIA", "SOURCE", ">METRIC", "BRIDGE", ""]);
    for route in &r.routes {
        table.row(vec![
            Cell::from(&route.prefix),
            Cell::from(&route.origin),
            or_dash(route.interface.as_deref()),
            or_dash(route.via.as_deref()),
            or_dash(route.source.as_deref()),
            route.metric.into(),
            or_dash(route.bridge.as_deref()),
            Cell::from(route.problem.as_deref().unwrap_or("")),
        ]);
    }
    table.render()
}

pub(super) fn neighbours(r: &NeighboursReport) -> String {
    let mut table = Table::new(&["BRIDGE", "ADDRESS", "MAC", "STATE"]);
    for n in &r.neighbours {
        table.row(vec![
            Cell::from(&n.bridge),
            Cell::from(&n.address),
            or_dash(n.mac.as_deref()),
            Cell::from(&n.state),
        ]);
    }
    table.render()
}
