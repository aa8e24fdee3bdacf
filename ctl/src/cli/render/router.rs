//! Routers and security groups as text.

use std::fmt::Write;

use serde_json::Value as Json;

use crate::cli::table::Table;
use crate::report::router::RouterReport;

pub(super) fn router(r: &RouterReport) -> String {
    let mut out = format!("Router {}  zones {}, {}\n", r.name, r.zone, r.hairpin_zone);
    let mut ports =
        Table::new(&["PORT", "BRIDGE", ">TAG", "ADDRESS", "MAC", ">MTU", "VIA", "RA"]).indent(2);
    for p in &r.ports {
        ports.row(vec![
            p.name.as_str().into(),
            p.bridge.as_str().into(),
            p.tag.map_or_else(String::new, |t| t.to_string()).into(),
            p.ip.join(",").into(),
            p.mac.as_str().into(),
            p.mtu.into(),
            p.via.join(",").into(),
            p.ra.as_deref().unwrap_or("").into(),
        ]);
    }
    out.push_str(&ports.render());
    for route in &r.routes {
        let _ = writeln!(out, "  route {} via {}", route.prefix, route.via);
    }
    for s in &r.snat {
        let _ = writeln!(out, "  snat {} to {}", s.prefix, s.address);
    }
    for f in &r.floating_ips {
        let _ = writeln!(out, "  floating IP {} of {}", f.external, f.internal);
    }
    for d in &r.dnat {
        let _ = writeln!(out, "  dnat {} {} to {}", d.protocol, d.external, d.internal);
    }
    if r.neighbours.is_empty() {
        return out;
    }
    let mut neighbours = Table::new(&["NEIGHBOUR", "PORT", "MAC", "STATE", ">WAITING"]).indent(2);
    for n in &r.neighbours {
        neighbours.row(vec![
            n.address.as_str().into(),
            n.port.as_str().into(),
            n.mac.as_deref().unwrap_or("").into(),
            n.state.as_str().into(),
            n.waiting.into(),
        ]);
    }
    out.push_str(&neighbours.render());
    out
}

/// Security groups: who is behind each port, and its rules.
pub(super) fn groups(json: &Json) -> String {
    let list = |json: &Json| -> Vec<String> {
        let all = json.as_array().into_iter().flatten();
        all.filter_map(Json::as_str).map(str::to_owned).collect()
    };
    let mut out = String::new();
    for group in json["security_groups"].as_array().into_iter().flatten() {
        let (port, mac) = (&group["port"], &group["mac"]);
        let (port, mac) = (port.as_str().unwrap_or_default(), mac.as_str().unwrap_or_default());
        let _ = writeln!(out, "Port {port}  {mac}  {}", list(&group["ip"]).join(","));
        for rule in list(&group["rules"]) {
            let _ = writeln!(out, "  {rule}");
        }
    }
    out
}
