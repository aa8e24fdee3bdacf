//! The rows on a whole cloud's path: an instance's packets out of a compute node, and through a network node.
//!
//! ```text
//! cloud-out:   in ─ br-int ═ br-tun ─ vxlan ─ phy ─ out
//! cloud-snat:  in ─ phy ─ vxlan ─ br-tun ═ br-int ═ router ═ br-ex ─ out     (in2 has the answers)
//! ```
//! The router is what the switch itself makes of its configuration: one that translates 10.0.0.0/16 to
//! 203.0.113.101 on the way to 203.0.113.1. A peer gets the same flows as text ([`Node::flows`]), what is only
//! the switch's own aside: the ICMP errors, and reasons of drops.

use std::net::IpAddr;

use anyhow::{Context, Result};
use ctl::{Command, Config};
use ofproto::action::{Action, OfPort};
use ofproto::flowmod::FlowMod;
use ofproto::snapshot::{BridgeId, BridgeSettings, Port, PortKind};
use ofproto::text::{NoNames, ShownFlow, show_flow};
use ofproto::vlan::{VlanConfig, VlanMode};

use crate::ours::{Bench, other, port};
use crate::tunnels;

/// Which node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    Compute,
    Network,
}

/// A bridge's port that leads to another bridge.
pub struct Patch {
    pub bridge: &'static str,
    pub name: &'static str,
    pub number: u32,
    pub peer: &'static str,
    /// The VLAN that it is an access port of.
    pub tag: Option<u16>,
}

/// The instance's network on the node.
pub const TAG: u16 = 5;
/// Its number in tunnels, as the mixes of tunnels have it.
const VNI: u32 = 100;
/// Number of the tunnel port on br-tun; its patch port is 1.
pub const TUNNEL: u32 = 10;
/// The router's port in the network, and on br-ex.
pub const INSIDE_MAC: &str = "02:00:00:00:00:02";
pub const OUTSIDE_MAC: &str = "02:00:00:00:00:0e";
/// The next hop outside.
pub const GATEWAY_MAC: &str = "02:00:00:00:00:0f";

const fn patch(
    bridge: &'static str,
    name: &'static str,
    number: u32,
    peer: &'static str,
    tag: Option<u16>,
) -> Patch {
    Patch { bridge, name, number, peer, tag }
}

const JOINED: [Patch; 2] =
    [patch("br-int", "to-tun", 10, "to-int", None), patch("br-tun", "to-int", 1, "to-tun", None)];
const ROUTED: [Patch; 4] = [
    patch("br-int", "r-1", 11, "inside", Some(TAG)),
    patch("router", "inside", 1, "r-1", None),
    patch("router", "outside", 2, "r-ext", None),
    patch("br-ex", "r-ext", 11, "outside", None),
];

impl Node {
    /// What the name of a row says.
    pub fn of_row(row: &str) -> Option<Node> {
        match row {
            "cloud-out-1000" => Some(Node::Compute),
            "cloud-snat-1000" => Some(Node::Network),
            _ => None,
        }
    }

    /// Its bridges, the underlay's aside.
    pub fn bridges(self) -> &'static [&'static str] {
        match self {
            Node::Compute => &["br-int", "br-tun"],
            Node::Network => &["br-int", "br-tun", "router", "br-ex"],
        }
    }

    /// The ports that join them.
    pub fn patches(self) -> impl Iterator<Item = &'static Patch> {
        let routed: &[Patch] = if self == Node::Network { &ROUTED } else { &[] };
        JOINED.iter().chain(routed)
    }

    /// Addresses that are known: bridge, port, VLAN, address.
    pub fn addresses(self) -> &'static [(&'static str, &'static str, u16, &'static str)] {
        match self {
            Node::Compute => &[("br-int", "to-tun", TAG, INSIDE_MAC)],
            Node::Network => {
                &[("br-int", "r-1", TAG, INSIDE_MAC), ("br-ex", "out", 0, GATEWAY_MAC)]
            }
        }
    }

    /// A bridge's flows, in the text of `ovs-ofctl(8)`.
    ///
    /// # Errors
    /// None of the configuration's that is compiled in.
    pub fn flows(self, bridge: &str) -> Result<Vec<String>> {
        Ok(match bridge {
            "br-tun" => tunnel_flows(),
            "router" => router()?.iter().map(text).collect(),
            _ => vec!["priority=0,actions=NORMAL".to_owned()],
        })
    }
}

/// The local tag becomes the tunnel's id, and back; where answers come from is learned.
fn tunnel_flows() -> Vec<String> {
    [
        "table=0,in_port=1,actions=resubmit(,2)".to_owned(),
        format!("table=0,in_port={TUNNEL},actions=resubmit(,4)"),
        "table=2,dl_dst=00:00:00:00:00:00/01:00:00:00:00:00,actions=resubmit(,20)".to_owned(),
        "table=2,dl_dst=01:00:00:00:00:00/01:00:00:00:00:00,actions=resubmit(,22)".to_owned(),
        format!("table=4,tun_id={VNI},actions=mod_vlan_vid:{TAG},resubmit(,10)"),
        "table=10,priority=1,actions=learn(table=20,hard_timeout=300,priority=1,\
         NXM_OF_VLAN_TCI[0..11],NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],load:0->NXM_OF_VLAN_TCI[],\
         load:NXM_NX_TUN_ID[]->NXM_NX_TUN_ID[],output:NXM_OF_IN_PORT[]),output:1"
            .to_owned(),
        format!(
            "table=20,priority=2,dl_vlan={TAG},dl_dst={INSIDE_MAC},\
             actions=strip_vlan,set_tunnel:{VNI},output:{TUNNEL}"
        ),
        "table=20,priority=0,actions=resubmit(,22)".to_owned(),
        format!("table=22,dl_vlan={TAG},actions=strip_vlan,set_tunnel:{VNI},output:{TUNNEL}"),
    ]
    .into()
}

/// The router's flows as the switch has them, its next hop outside known.
fn router() -> Result<Vec<FlowMod>> {
    let mut config = Config::default();
    for command in [
        r#"{"command":"add-br","bridge":"i"}"#.to_owned(),
        r#"{"command":"add-router","router":"r"}"#.to_owned(),
        format!(
            r#"{{"command":"add-router-port","router":"r","bridge":"i","port":"inside",
                "settings":["ip=10.0.0.254/16","mac={INSIDE_MAC}"]}}"#
        ),
        format!(
            r#"{{"command":"set-gateway","router":"r","bridge":"i","port":"outside",
                "settings":["ip=203.0.113.101/24","via=203.0.113.1","mac={OUTSIDE_MAC}"]}}"#
        ),
        r#"{"command":"add-snat","router":"r","prefix":"10.0.0.0/16","address":"203.0.113.101"}"#
            .to_owned(),
    ] {
        let command = Command::from_json(serde_json::from_str(&command)?);
        let command = command.map_err(|e| anyhow::anyhow!("{e}"))?;
        ctl::config::apply(&mut config, &command).map_err(|e| anyhow::anyhow!("{e}"))?;
    }
    let router = config.routers.get("r").context("no router")?;
    let gateway = ("203.0.113.1".parse::<IpAddr>()?, number(GATEWAY_MAC));
    ctl::engine_backend::router_flows(router, &[gateway]).map_err(|e| anyhow::anyhow!("{e}"))
}

/// A flow without what only the switch knows.
fn text(flow: &FlowMod) -> String {
    let own = |a: &Action| matches!(a, Action::IcmpError(_) | Action::Refuse(_));
    let actions: Vec<Action> = match flow.actions.iter().any(own) {
        true => Vec::new(),
        false => flow.actions.iter().map(plain).collect(),
    };
    let mut out = String::new();
    let shown = ShownFlow { cookie: 0, actions: &actions, ..ShownFlow::from(flow) };
    show_flow(&mut out, &shown, &NoNames);
    out
}

fn plain(action: &Action) -> Action {
    match action {
        Action::DecTtl(_) => Action::DecTtl(None),
        other => other.clone(),
    }
}

/// An Ethernet address as a number.
fn number(mac: &str) -> u64 {
    mac.split(':').fold(0, |n, byte| n << 8 | u64::from_str_radix(byte, 16).unwrap_or(0))
}

/// Set a node up in the switch. Its bridge `br-int` is the bench's own.
///
/// # Errors
/// If there is no room for it.
pub fn set_up(b: &mut Bench, node: Node) -> Result<()> {
    tunnels::underlay(b, OfPort(if node == Node::Compute { 2 } else { 1 }))?;
    let mut ids: Vec<(&str, BridgeId)> = Vec::new();
    for name in node.bridges() {
        let settings = BridgeSettings { mac_table_size: 1024, ..BridgeSettings::default() };
        let id = match *name {
            "br-int" => b.bridge,
            _ => b.switch.add_bridge(name, settings).ok_or_else(|| other("no bridge"))?,
        };
        ids.push((name, id));
        let flows = if *name == "router" { router()? } else { Vec::new() };
        b.switch.apply_flow_mods(id, &flows, 1).map_err(|(i, e)| other(&format!("{i}: {e}")))?;
        if *name != "router" {
            b.flows_of(id, &node.flows(name)?.join("\n"))?;
        }
    }
    let id = |bridge: &str| ids.iter().find(|(n, _)| *n == bridge).map(|(_, id)| *id);
    let access = |tag| VlanConfig { mode: VlanMode::Access, tag, ..VlanConfig::default() };
    for p in node.patches() {
        let there = node.patches().find(|o| o.name == p.peer).context("no peer")?;
        let to = (id(there.bridge).context("no bridge")?, OfPort(there.number));
        let entry = Port {
            vlan: p.tag.map_or_else(VlanConfig::default, access),
            ..Port::new(OfPort(p.number), p.name, PortKind::Patch(Some(to)))
        };
        b.switch.set_port(id(p.bridge).context("no bridge")?, entry);
    }
    let tun = id("br-tun").context("no br-tun")?;
    let kind = tunnels::kind("vxlan", tunnels::THERE.into(), "flow")?;
    b.switch.set_port(tun, Port { kind, ..port(TUNNEL) });
    match node {
        Node::Compute => {
            b.switch.set_port(b.bridge, Port { vlan: access(TAG), ..port(1) });
        }
        Node::Network => {
            b.switch.remove_port(b.bridge, OfPort(2));
            b.switch.set_port(id("br-ex").context("no br-ex")?, port(2));
        }
    }
    for (bridge, name, vlan, mac) in node.addresses() {
        let patch = node.patches().find(|p| p.name == *name).map_or(2, |p| p.number);
        let bridge = id(bridge).context("no bridge")?;
        b.switch.fdb_learn(bridge, *vlan, number(mac), OfPort(patch), 1);
    }
    Ok(())
}

/// The bridge outside of a node that is set up.
pub fn outside(b: &Bench) -> Option<BridgeId> {
    b.switch.bridge_id("br-ex")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_gets_flows_that_it_can_read() {
        let flows = Node::Network.flows("router").expect("flows");
        assert!(flows.len() > 50, "{}", flows.len());
        assert!(flows.iter().any(|f| f.contains("ct(commit") && f.contains("203.0.113.101")));
        for own in ["icmp_error", "drop(", "fragment"] {
            assert!(!flows.iter().any(|f| f.contains(own)), "{own}");
        }
    }
}
