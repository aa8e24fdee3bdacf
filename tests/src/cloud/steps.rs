//! What the cloud is shown to do, measured on the wire. Each gives what it measured.

use std::time::Duration;

use super::{Cloud, NET1, PROVIDER_VLAN, Tunnels};
use crate::frame::{Mac, tags};
use crate::raw::Raw;
use crate::{Context, Result, ensure, http, wait};

/// Longest wait for the next frame of a capture.
const QUIET: Duration = Duration::from_millis(500);

/// A frame that was seen on the underlay, without its outer headers.
struct Inner {
    /// The node that the outer packet is for.
    to: [u8; 4],
    id: u32,
    frame: Vec<u8>,
}

/// What an outer frame carries, if it is one of VXLAN or GRE over IPv4.
fn inner(frame: &[u8]) -> Option<Inner> {
    let word = |at: usize| Some(u32::from_be_bytes(frame.get(at..at + 4)?.try_into().ok()?));
    if frame.get(12..14)? != [8, 0] {
        return None;
    }
    let to = frame.get(30..34)?.try_into().ok()?;
    let l4 = 14 + usize::from(frame.get(14)? & 15) * 4;
    match frame.get(23)? {
        17 if word(l4)? & 0xffff == 4789 => {
            Some(Inner { to, id: word(l4 + 12)? >> 8, frame: frame.get(l4 + 16..)?.to_vec() })
        }
        47 if word(l4)? == 0x2000_6558 => {
            Some(Inner { to, id: word(l4 + 4)?, frame: frame.get(l4 + 8..)?.to_vec() })
        }
        _ => None,
    }
}

/// What the underlay gets from the two compute nodes.
struct Underlay([Raw; 2]);

impl Underlay {
    fn new() -> Result<Underlay> {
        let of = |node: &str| Raw::open(None, &format!("underlay-{node}"));
        let both = Underlay([of("one")?, of("two")?]);
        both.drain()?;
        Ok(both)
    }

    fn drain(&self) -> Result<()> {
        self.0.iter().try_for_each(Raw::drain)
    }

    /// The encapsulated frames that it got since then.
    fn all(&self) -> Result<Vec<Inner>> {
        let mut found = Vec::new();
        for raw in &self.0 {
            while let Some(frame) = raw.receive(QUIET)? {
                found.extend(inner(&frame).filter(|i| i.frame.len() >= 14));
            }
        }
        Ok(found)
    }

    /// Those between two instances.
    fn between(&self, a: Mac, b: Mac) -> Result<Vec<Inner>> {
        let mut all = self.all()?;
        let is = |f: &[u8], to: Mac, from: Mac| f[..6] == to.0 && f[6..12] == from.0;
        all.retain(|i| is(&i.frame, a, b) || is(&i.frame, b, a));
        Ok(all)
    }
}

/// How many of these went to the network node.
fn to_net(frames: &[Inner]) -> usize {
    frames.iter().filter(|i| i.to == [192, 0, 2, 3]).count()
}

/// Instances of one network on two nodes talk by these tunnels.
pub fn tunnels(cloud: &Cloud, kind: Tunnels) -> Result<String> {
    cloud.tunnels(kind)?;
    for h in [&cloud.one, &cloud.two, &cloud.net] {
        h.daemon.run("fdb flush br-int")?;
    }
    cloud.a2.node.run(&["ip", "neigh", "flush", "all"])?;
    let wire = Underlay::new()?;
    cloud.a2.reaches("192.168.1.13")?;
    let (a, b) = (cloud.a2.mac, cloud.b1.mac);
    let mut first = wire.all()?;
    first.retain(|i| i.frame.starts_with(&[0xff; 6]) && i.frame[6..12] == a.0);
    let nodes: std::collections::BTreeSet<[u8; 4]> = first.iter().map(|i| i.to).collect();
    let flooded = nodes.len();
    ensure!(flooded == 2, "the first broadcast went to {flooded} nodes, not to 2");
    wait::until("the destination is learned", || {
        Ok(cloud.one.daemon.run("dump-flows br-tun table=20")?.contains(&b.to_string()))
    })?;
    wire.drain()?;
    cloud.a2.node.run(&["ping", "-q", "-c", "5", "-i", "0.1", "192.168.1.13"])?;
    let seen = wire.between(a, b)?;
    ensure!(seen.len() >= 5, "only {} packets on the underlay", seen.len());
    for packet in &seen {
        ensure!(packet.id == NET1, "tunnel id {:#x}", packet.id);
        ensure!(tags(&packet.frame).is_empty(), "a local tag is on the wire");
    }
    let stray = to_net(&seen);
    ensure!(stray == 0, "{stray} packets went to a node that has neither end");
    let n = seen.len();
    Ok(format!(
        "{n} packets between one and two with id {NET1:#x} and no tag; ARP flooded to {flooded} nodes, then learned"
    ))
}

/// The provider's VLAN on the wire in place of the local tag.
pub fn provider(cloud: &Cloud) -> Result<String> {
    let raw = Raw::open(None, "provider-one")?;
    raw.drain()?;
    cloud.v1.reaches("10.3.0.2")?;
    cloud.v1.node.run(&["ping", "-q", "-c", "5", "-i", "0.1", "10.3.0.2"])?;
    let mut seen = 0;
    while let Some(frame) = raw.receive(QUIET)? {
        let vlans: Vec<u16> = tags(&frame).iter().map(|t| t.tci & 0xfff).collect();
        ensure!(vlans == [PROVIDER_VLAN], "a frame with tags {vlans:?}");
        seen += 1;
    }
    ensure!(seen >= 5, "only {seen} frames");
    Ok(format!(
        "{seen} frames with VLAN {PROVIDER_VLAN}, local tags {} and {}",
        cloud.one.tags[2], cloud.two.tags[2]
    ))
}

/// SNAT: curl and ping, under the router's address.
pub fn snat(cloud: &Cloud) -> Result<String> {
    cloud.a1.reaches("203.0.113.1")?;
    let seen = http::get(&cloud.a1.node, "203.0.113.1")?;
    ensure!(seen == "203.0.113.101", "the host outside sees {seen}");
    Ok(format!("ping answered; curl from {} is seen as {seen}", cloud.a1.address))
}

/// A floating IP, both ways and from inside.
pub fn floating(cloud: &Cloud) -> Result<String> {
    let instance = &cloud.b1;
    cloud
        .net
        .daemon
        .run(&format!("--may-exist add-floating-ip r 203.0.113.102 {}", instance.address))?;
    cloud.out.reaches("203.0.113.102")?;
    let inward = http::get(&cloud.out.node, "203.0.113.102")?;
    ensure!(inward == "203.0.113.1", "the instance sees {inward}");
    let outward = http::get(&instance.node, "203.0.113.1")?;
    ensure!(outward == "203.0.113.102", "the host outside sees {outward}");
    let turned = http::get(&cloud.a1.node, "203.0.113.102")?;
    ensure!(turned == "203.0.113.101", "from inside the instance sees {turned}");
    Ok(format!("in as {inward}, out as {outward}, from inside as {turned}"))
}

/// Two networks: through the router, and only then through the network node.
pub fn routed(cloud: &Cloud) -> Result<String> {
    cloud.a2.reaches("192.168.2.14")?;
    let text = cloud.a2.ping_text("192.168.2.14")?;
    ensure!(text.contains("ttl=63"), "not one hop: {text}");
    let wire = Underlay::new()?;
    cloud.a2.node.run(&["ping", "-q", "-c", "5", "-i", "0.1", "192.168.2.14"])?;
    let through = to_net(&wire.all()?);
    ensure!(through >= 10, "only {through} routed packets went to the network node");
    let same = cloud.a2.ping_text("192.168.1.13")?;
    ensure!(same.contains("ttl=64"), "inside a network: {same}");
    cloud.a2.reaches(&cloud.a1.address)?;
    let wire = Underlay::new()?;
    cloud.a2.node.run(&["ping", "-q", "-c", "5", "-i", "0.1", &cloud.a1.address])?;
    let left = wire.between(cloud.a1.mac, cloud.a2.mac)?.len();
    ensure!(left == 0, "{left} packets between instances of one node left it");
    cloud.a2.node.run(&["ping", "-q", "-c", "5", "-i", "0.1", "192.168.1.13"])?;
    let direct = wire.between(cloud.a2.mac, cloud.b1.mac)?;
    ensure!(direct.len() >= 10, "only {} packets between the nodes", direct.len());
    let strayed = to_net(&direct);
    ensure!(strayed == 0, "{strayed} packets of one network passed the network node");
    Ok(format!(
        "routed with ttl 63 and {through} packets to the network node; inside a network ttl 64, {} packets \
         and 0 to it; 0 between instances of one node left it",
        direct.len()
    ))
}

/// A security group: what it drops, what it allows, and an answer that passes because it is tracked.
pub fn guarded(cloud: &Cloud) -> Result<String> {
    let (one, a2) = (&cloud.one.daemon, &cloud.a2);
    http::serve(&a2.node, 80)?;
    http::serve(&a2.node, 8080)?;
    one.run(&format!("security-group set a2 mac={} ip={}", a2.mac, a2.address))?;
    one.run("security-group add a2 out -- security-group add a2 in proto=tcp port=80")?;
    let seen = http::get(&cloud.b1.node, &a2.address)?;
    ensure!(seen == "192.168.1.13", "allowed, but seen as {seen}");
    // The answers of its own connections pass, though no rule lets anything like them begin.
    a2.reaches("192.168.1.13")?;
    let out = http::get(&a2.node, "192.168.1.13")?;
    let before = one.drops("security_group")?;
    let refused = cloud.b1.node.output(&[
        "curl",
        "-s",
        "--max-time",
        "2",
        &format!("http://{}:8080/", a2.address),
    ])?;
    ensure!(refused.status != 0, "port 8080 is open");
    ensure!(!cloud.b1.pings(&a2.address)?, "ping is open");
    let dropped = one.drops("security_group")? - before;
    ensure!(dropped > 0, "nothing was counted as dropped by a security group");
    one.run("security-group remove a2")?;
    cloud.b1.reaches(&a2.address)?;
    Ok(format!(
        "port 80 open to {seen}; 8080 and ping dropped, {dropped} packets counted; its own curl answered ({out})"
    ))
}

/// The way of a packet from an instance's port on one node, and on the network node to the outside.
pub fn trace(cloud: &Cloud) -> Result<(String, String)> {
    let shown = cloud.net.daemon.json("show-router r")?;
    let ports = shown["ports"].as_array().context("no ports")?;
    let mac = ports.iter().find(|p| p["name"] == "r-1").and_then(|p| p["mac"].as_str());
    let mac = mac.context("no port r-1")?;
    let packet = format!(
        "tcp,dl_src={},dl_dst={mac},nw_src={},nw_dst=203.0.113.1,nw_ttl=64,tp_src=40000,tp_dst=80",
        cloud.a1.mac, cloud.a1.address
    );
    let first = cloud.one.daemon.run(&format!("trace br-int in_port=a1,{packet}"))?;
    ensure!(first.contains("tnl_push"), "not sent into a tunnel:\n{first}");
    let tag = cloud.net.tags[0];
    let second = cloud
        .net
        .daemon
        .run(&format!("trace br-int in_port=to-tun,dl_vlan={tag},dl_vlan_pcp=0,{packet}"))?;
    ensure!(second.contains("router:r"), "not through the router:\n{second}");
    ensure!(second.contains("203.0.113.101"), "not translated:\n{second}");
    let lines = first.lines().count() + second.lines().count();
    Ok((
        format!("{first}\n{second}"),
        format!("{lines} lines from a1 by br-int, br-tun, router to br-ex"),
    ))
}
