//! The rows on tunnels: a second bridge, `phy`, whose own interface has the underlay's address 172.16.0.1;
//! the remote end is 172.16.0.2, its id 100.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ofproto::action::{Action, OfPort};
use ofproto::program::DpPort;
use ofproto::snapshot::{BridgeSettings, Port, PortKind};
use ofproto::underlay::TunnelPort;
use tunnel::TunnelConfig;
use tunnel::kernel::{Address, Kernel, LinkInfo};
use tunnel::neigh::Target;
use tunnel::route;

use crate::ours::{Bench, on, other, port};

/// The kernel's link behind `phy`.
const LINK: u32 = 7;
const HERE: [u8; 4] = [172, 16, 0, 1];
/// The remote end.
pub const THERE: [u8; 4] = [172, 16, 0, 2];
const HERE_MAC: u64 = 0x0200_0000_aa01;
const THERE_MAC: u64 = 0x0200_0000_aa02;
/// The port of the tunnel that packets take.
const TUNNEL: OfPort = OfPort(10);

/// Which way a row's packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From `in` into the tunnel, and out by `phy`.
    In,
    /// From `in` of `phy` out of the tunnel.
    Out,
}

/// What the name of a row says: encapsulation, way, and number of tunnels.
pub fn of_row(row: &str) -> Option<(&str, Way, u32)> {
    let mut words = row.split('-');
    let kind = words.next().filter(|k| ["vxlan", "gre", "geneve"].contains(k))?;
    match (words.next()?, words.next()?) {
        ("encap", _) => Some((kind, Way::In, 1)),
        ("decap", _) => Some((kind, Way::Out, 1)),
        ("tunnels", n) => Some((kind, Way::In, n.parse().ok()?)),
        _ => None,
    }
}

/// A tunnel of this type to a remote end, with a key (or `flow`).
///
/// # Errors
/// If there is no such tunnel.
pub fn kind(kind: &str, remote: IpAddr, key: &str) -> std::io::Result<PortKind> {
    let remote = remote.to_string();
    let options = [("remote_ip", remote.as_str()), ("key", key)];
    let config = TunnelConfig::new(kind, options).ok_or_else(|| other("no such tunnel"))?;
    let config = config.map_err(|e| other(&e.to_string()))?;
    let (sequence, counters) = Default::default();
    Ok(PortKind::Tunnel(Arc::new(TunnelPort { config, sequence, counters })))
}

fn kernel() -> Kernel {
    let mut kernel = Kernel::default();
    let info = LinkInfo { name: "phy".into(), mac: HERE_MAC, mtu: 1500, up: true, running: true };
    kernel.links.insert(LINK, info);
    let own = Address { address: HERE.into(), prefix_len: 24, usable: true };
    kernel.addresses.insert(LINK, vec![own]);
    if let Some(prefix) = route::Prefix::new(HERE.into(), 24) {
        kernel.routes.insert(route::Route {
            prefix,
            action: route::Action::Forward { link: LINK, via: None },
            src: None,
            metric: 0,
            mtu: None,
            origin: route::Origin::Kernel,
        });
    }
    kernel.neighbours.insert(Target { link: LINK, address: THERE.into() }, THERE_MAC);
    kernel
}

/// Set a row up.
///
/// # Errors
/// If there is no such tunnel.
pub fn set_up(b: &mut Bench, kind: &str, way: Way, tunnels: u32) -> std::io::Result<()> {
    let (crosses, in_b, actions) = match way {
        Way::In => (OfPort(2), OfPort(1), TUNNEL),
        Way::Out => (OfPort(1), TUNNEL, OfPort(2)),
    };
    underlay(b, crosses)?;
    let kind_of = self::kind(kind, THERE.into(), "100")?;
    b.switch.set_port(b.bridge, Port { kind: kind_of, ..port(TUNNEL.0) });
    more(b, kind, tunnels.saturating_sub(1))?;
    let from = (flow::Field::InPort, u128::from(in_b.0), u128::from(u32::MAX));
    b.rule(0, 100, on(&[from]), vec![Action::output(actions)]);
    Ok(())
}

/// Make the underlay's bridge, to which a port of the bench's own bridge moves.
///
/// # Errors
/// If there is no room for it.
pub fn underlay(b: &mut Bench, crosses: OfPort) -> std::io::Result<()> {
    let settings = BridgeSettings { mac_table_size: 1024, ..BridgeSettings::default() };
    let phy = b.switch.add_bridge("phy", settings).ok_or_else(|| other("no bridge"))?;
    b.switch.set_port(phy, Port { kind: PortKind::Datapath(DpPort(4)), ..port(OfPort::LOCAL.0) });
    b.switch.set_underlay(&kernel(), &[(LINK, phy, OfPort::LOCAL)]);
    b.switch.fdb_learn(phy, 0, HERE_MAC, OfPort::LOCAL, 1);
    let normal = vec![Action::output(OfPort::NORMAL)];
    let spec = ofproto::rules::RuleSpec::new(0, 0, on(&[]), normal);
    b.switch.add_rule(phy, spec, 1);
    b.switch.remove_port(b.bridge, crosses);
    b.switch.set_port(phy, port(crosses.0));
    b.switch.fdb_learn(phy, 0, THERE_MAC, crosses, 1);
    Ok(())
}

/// Add so many tunnels to other remote ends.
fn more(b: &mut Bench, kind: &str, n: u32) -> std::io::Result<()> {
    for i in 0..n {
        add(b, kind, i)?;
    }
    Ok(())
}

fn add(b: &mut Bench, kind: &str, i: u32) -> std::io::Result<()> {
    let remote = std::net::Ipv4Addr::from(0xac11_0001 + i);
    let kind = self::kind(kind, remote.into(), &i.to_string())?;
    b.switch.set_port(b.bridge, Port { kind, ..port(TUNNEL.0 + 1 + i) });
    Ok(())
}

/// How long it takes to add one tunnel beside so many others, until workers would see it; the median.
///
/// # Errors
/// If there is no such tunnel.
pub fn time_to_add(b: &mut Bench, tunnels: u32) -> std::io::Result<Duration> {
    set_up(b, "vxlan", Way::In, tunnels)?;
    b.publish();
    let mut times = Vec::new();
    for i in 0..101 {
        let started = Instant::now();
        add(b, "vxlan", tunnels + i)?;
        b.publish();
        times.push(started.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}
