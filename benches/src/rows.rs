//! The rows of the benches: which traffic goes through which flows.
//!
//! Flows are in the text of `ovs-ofctl(8)`, so that the switch and its peers get the same ones. Ports
//! are called `in`, `in2` and `out`.

use crate::cloud::Node;
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
    /// A node of a cloud with all its bridges, see [`crate::cloud`]. What `in2` receives, it receives once.
    Cloud(crate::cloud::Node),
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
    VlanPop,
    Route,
    Normal,
    Tunnel,
    Acl,
    Connections { answered: bool },
    Lives { translated: bool },
    Neutron,
    Cloud,
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
            Kind::VlanPop => one("in_port=in,dl_vlan=100,actions=strip_vlan,out"),
            Kind::Route => {
                let macs = "mod_dl_src:02:00:00:00:00:09,mod_dl_dst:02:00:00:00:00:08";
                vec![format!("in_port=in,actions={macs},dec_ttl,out")]
            }
            Kind::Normal => one("priority=0,actions=NORMAL"),
            Kind::Tunnel | Kind::Cloud => Vec::new(),
            Kind::Acl => acl(),
            Kind::Connections { answered } => connections(answered),
            Kind::Lives { translated } => lives(translated),
            Kind::Neutron => neutron(),
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

/// The integration bridge of an OpenStack node with security groups in flows: `in` is an instance's port in
/// VLAN 5 that may send what it likes with its own addresses, `out` the way to other nodes.
fn neutron() -> Vec<String> {
    let network = (0..16).map(|i| format!("10.0.{i}.0/24"));
    let mut flows: Vec<String> = [
        "priority=0,actions=goto_table:59",
        "priority=65535,dl_vlan=4095,actions=drop",
        "table=59,priority=0,actions=goto_table:60",
        "table=60,priority=3,actions=NORMAL",
        "table=60,priority=100,in_port=in,actions=set_field:1->reg5,set_field:5->reg6,resubmit(,71)",
        "table=71,priority=0,actions=drop",
        "table=71,priority=110,ct_state=+trk,actions=ct_clear,resubmit(,71)",
        "table=71,priority=95,arp,reg5=1,in_port=in,actions=resubmit(,94)",
        "table=71,priority=80,udp,reg5=1,in_port=in,tp_src=68,tp_dst=67,actions=resubmit(,73)",
        "table=71,priority=70,udp,reg5=1,in_port=in,tp_src=67,tp_dst=68,actions=drop",
        "table=72,priority=0,actions=drop",
        "table=72,priority=50,ct_state=+inv+trk,actions=drop",
        "table=72,priority=50,ct_mark=1,reg5=1,actions=drop",
        "table=72,priority=50,ct_state=+est-rel+rpl,ct_zone=5,ct_mark=0,reg5=1,actions=resubmit(,94)",
        "table=72,priority=74,ct_state=+est-rel-rpl,ip,reg5=1,actions=resubmit(,73)",
        "table=72,priority=74,ct_state=+new-est,ip,reg5=1,actions=resubmit(,73)",
        "table=72,priority=40,ct_state=-est,reg5=1,actions=drop",
        "table=73,priority=0,actions=drop",
        "table=73,priority=100,reg6=5,dl_dst=fa:16:3e:11:22:33,actions=set_field:2->reg5,resubmit(,81)",
        "table=73,priority=90,ct_state=+new-est,ip,reg5=1,actions=ct(commit,zone=NXM_NX_REG6[0..15]),resubmit(,91)",
        "table=73,priority=80,reg5=1,actions=resubmit(,94)",
        "table=91,priority=1,actions=resubmit(,94)",
        "table=94,priority=1,actions=mod_vlan_vid:5,out",
    ]
    .map(str::to_owned)
    .into();
    flows.extend(network.map(|net| {
        let to = "ct(table=72,zone=NXM_NX_REG6[0..15])";
        format!("table=71,priority=65,ip,reg5=1,in_port=in,nw_src={net},actions={to}")
    }));
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

/// Both directions of whole lives of TCP by one port. A SYN passes only if it begins a connection, so that
/// a row in which they did not would lose an eighth of its packets. The translated ones are this switch's
/// alone: when a closed connection begins again, stock Open vSwitch gives it another port, as the old one's
/// tuples stay until it is swept, and the answers of the trace are invalid; three packets of eight pass.
fn lives(translated: bool) -> Vec<String> {
    let (look, nat) = if translated { (",nat", ",nat(src=203.0.113.1)") } else { ("", "") };
    vec![
        format!("table=0,in_port=in,ip,actions=ct(table=1,zone=1{look})"),
        format!(
            "table=1,tcp,ct_state=+trk+new,tcp_flags=+syn-ack,actions=ct(commit,zone=1{nat}),out"
        ),
        "table=1,tcp,ct_state=+trk+est-rpl,tcp_flags=-syn,actions=out".to_owned(),
        "table=1,tcp,ct_state=+trk+est+rpl,actions=out".to_owned(),
    ]
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
    rows.push(row("vlan-pop-1000".into(), "vlan-1000".into(), Kind::VlanPop));
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
    for (name, mix, translated) in
        [("ct-new-8192", "life-8192", false), ("ct-new-nat-8192", "life-nat-8192", true)]
    {
        rows.push(row(name.into(), mix.into(), Kind::Lives { translated }));
    }
    rows.push(row("neutron-1000".into(), udp(), Kind::Neutron));
    for (name, mix, reply) in [
        ("cloud-out-1000", "udp-1000", None),
        ("cloud-snat-1000", "vxlan-1000", Some("cloud-1000-reply".to_owned())),
    ] {
        let node = Node::of_row(name).map_or(Scene::Flows, Scene::Cloud);
        rows.push(Row { reply, ..Row::new(name.into(), mix.into(), Kind::Cloud, node) });
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
