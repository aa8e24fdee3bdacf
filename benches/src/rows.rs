//! The rows of the benches: which traffic goes through which flows.
//!
//! Flows are in the text of `ovs-ofctl(8)`, so that the switch and its peers get the same ones. Ports
//! are called `in`, `in2` and `out`.

use crate::trace::udp_flow;

/// What a row is about, as far as it takes more than flows to set it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scene {
    /// One bridge, `in` to `out`, [`Row::flows`].
    Flows,
    /// The same, and 02:00:00:00:00:02 is known behind `out`.
    Normal,
    /// `in` to a tunnel port of this type, whose packets leave by `out` of the underlay's bridge.
    Encapsulate(&'static str),
    /// Tunnel packets into the underlay's bridge, the inner ones from the tunnel port to `out`.
    Decapsulate(&'static str),
    /// Two inputs, `in` and `in2`, the two directions of the same connections.
    Connections,
}

/// One row.
#[derive(Debug, Clone)]
pub struct Row {
    pub name: String,
    /// The mix that `in` receives, see [`crate::trace`].
    pub mix: String,
    /// The mix that `in2` receives.
    pub reply: Option<String>,
    pub scene: Scene,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Forward,
    Megaflow,
    Many(u32),
    VlanPush,
    Route,
    Normal,
    Tunnel,
    Acl,
    Connections { answered: bool },
}

impl Row {
    fn new(name: String, mix: String, kind: Kind, scene: Scene) -> Self {
        Self { name, mix, reply: None, scene, kind }
    }

    /// The flows of the bridge, one each. Up to 100,000.
    pub fn flows(&self) -> Vec<String> {
        let one = |flow: &str| vec![flow.to_owned()];
        match self.kind {
            Kind::Forward => one("in_port=in,actions=out"),
            Kind::Megaflow => one("udp,in_port=in,nw_dst=10.100.0.0/16,actions=out"),
            Kind::Many(n) => (0..n).map(exact).collect(),
            Kind::VlanPush => one("in_port=in,actions=mod_vlan_vid:100,out"),
            Kind::Route => {
                let macs = "mod_dl_src:02:00:00:00:00:09,mod_dl_dst:02:00:00:00:00:08";
                vec![format!("in_port=in,actions={macs},dec_ttl,out")]
            }
            Kind::Normal => one("priority=0,actions=NORMAL"),
            Kind::Tunnel => Vec::new(),
            Kind::Acl => acl(),
            Kind::Connections { answered } => connections(answered),
        }
    }
}

/// One flow per flow of the mix `udp-N`.
fn exact(i: u32) -> String {
    let (src, _, sport, _) = udp_flow(i);
    format!("udp,nw_src={},tp_src={sport},actions=out", std::net::Ipv4Addr::from(src))
}

/// 64 prefixes of 8 lengths, then 64 port rules of 4 masks.
fn acl() -> Vec<String> {
    let mut flows = Vec::new();
    for i in 0..64_u32 {
        let (priority, length) = (i + 100, 24 - i % 8);
        let (port, mask) = (1000 + i, 0xffff << (i % 4) & 0xffff);
        flows.push(format!(
            "priority={priority},udp,nw_src=10.0.{i}.0/{length},actions=resubmit(,1)"
        ));
        flows.push(format!("table=1,priority={priority},udp,tp_dst={port}/0x{mask:x},actions=out"));
    }
    flows
}

/// New connections are committed with SNAT, replies translated back.
fn connections(answered: bool) -> Vec<String> {
    let mut flows = vec![
        "table=0,in_port=in,ip,actions=ct(table=1,zone=1,nat)",
        "table=1,ip,ct_state=+trk+new,actions=ct(commit,zone=1,nat(src=203.0.113.1)),out",
        "table=1,ip,ct_state=+trk+est,actions=out",
        "table=2,ip,ct_state=+trk+est,actions=out",
    ];
    if answered {
        flows.push("table=0,in_port=in2,ip,actions=ct(table=2,zone=1,nat)");
    }
    flows.into_iter().map(str::to_owned).collect()
}

/// Every row from memory to memory, in the order of the report.
pub fn memory() -> Vec<Row> {
    let row = |name: String, mix: String, kind| Row::new(name, mix, kind, Scene::Flows);
    let mut rows = Vec::new();
    for n in [1, 1000, 10_000, 100_000] {
        rows.push(row(format!("forward-{n}"), format!("udp-{n}"), Kind::Forward));
    }
    for n in [1000, 10_000, 100_000] {
        rows.push(row(format!("megaflow-{n}"), format!("udp-{n}"), Kind::Megaflow));
    }
    for n in [1000, 10_000, 100_000] {
        rows.push(row(format!("many-megaflows-{n}"), format!("udp-{n}"), Kind::Many(n)));
    }
    let udp = || String::from("udp-1000");
    rows.push(row("vlan-push-1000".into(), udp(), Kind::VlanPush));
    rows.push(Row::new("l2-1000".into(), udp(), Kind::Normal, Scene::Normal));
    rows.push(row("route-1000".into(), udp(), Kind::Route));
    rows.push(row("acl-10000".into(), "acl-10000".into(), Kind::Acl));
    for kind in ["vxlan", "gre", "geneve"] {
        let (into, out) = (Scene::Encapsulate(kind), Scene::Decapsulate(kind));
        rows.push(Row::new(format!("{kind}-encap-1000"), udp(), Kind::Tunnel, into));
        let mix = format!("{kind}-1000");
        rows.push(Row::new(format!("{kind}-decap-1000"), mix, Kind::Tunnel, out));
    }
    for protocol in ["udp", "tcp"] {
        for n in [1000, 10_000, 100_000] {
            let (name, mix) = (format!("ct-est-{protocol}-{n}"), format!("nat-{protocol}-{n}"));
            let kind = Kind::Connections { answered: true };
            let mut row = Row::new(name, mix, kind, Scene::Connections);
            row.reply = Some(format!("nat-{protocol}-{n}-reply"));
            rows.push(row);
        }
    }
    let kind = Kind::Connections { answered: false };
    rows.push(row("ct-unanswered-10000".into(), "udp-10000".into(), kind));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mix_of_a_row_is_written() {
        for row in memory() {
            for mix in [Some(row.mix), row.reply].into_iter().flatten() {
                assert!(crate::trace::ALL.contains(&mix.as_str()), "{}: {mix}", row.name);
            }
        }
    }

    #[test]
    fn flows_are_those_of_the_row() {
        let flows = |name: &str| memory().iter().find(|r| r.name == name).map(Row::flows);
        assert_eq!(flows("many-megaflows-1000").map(|f| f.len()), Some(1000));
        let exact = flows("many-megaflows-1000").expect("row");
        assert_eq!(exact[250], "udp,nw_src=10.0.1.1,tp_src=8774,actions=out");
        let acl = flows("acl-10000").expect("row");
        assert_eq!(acl[2], "priority=101,udp,nw_src=10.0.1.0/23,actions=resubmit(,1)");
        assert_eq!(acl[3], "table=1,priority=101,udp,tp_dst=1001/0xfffe,actions=out");
    }
}
