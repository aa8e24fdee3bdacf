//! Routers as configuration: what they forward, answer, refuse and translate, on real kernels' frames.

use std::net::Ipv4Addr;

use crate::daemon::Daemon;
use crate::frame::{Mac, ethernet, ipv4, udp4};
use crate::lab::{Host, Lab};
use crate::runner::Case;
use crate::{Context, Result, cmd, ensure, wait};

pub const CASES: &[Case] = &[
    Case::new("router-forward", "two networks: TTL one less, ping of the router, errors", forward),
    Case::new("router-ipv6", "the same over IPv6, with neighbour discovery", ipv6),
    Case::new("router-refuses", "spoofed and martian sources are dropped and counted", refuses),
    Case::new(
        "router-config",
        "wrong words are refused; a router is there after a restart",
        stored,
    ),
    Case::new("router-nat", "SNAT, floating IP both ways, hairpin, DNAT", nat),
    Case::new("router-tenants", "two routers with the same inside network stay apart", tenants),
    Case::new("router-gateway-moves", "a gateway with another MAC is found again", moves),
];

/// A machine whose default route is the router.
fn behind(lab: &Lab, name: &str, cidr: &str, via: &str) -> Result<Host> {
    let host = lab.host(name, cidr)?;
    host.node.run(&["ip", "route", "add", "default", "via", via])?;
    Ok(host)
}

/// Networks 192.168.1.0/24 (machines a, b) and 192.168.2.0/24 (machine c) on br-int with tags 1 and 2,
/// 203.0.113.0/24 (machine out) on br-ex.
pub(super) struct Net {
    pub daemon: Daemon,
    pub a: Host,
    pub b: Host,
    pub c: Host,
    pub out: Host,
}

pub(super) fn net(lab: &Lab) -> Result<Net> {
    let a = behind(lab, "a", "192.168.1.11/24", "192.168.1.1")?;
    let b = behind(lab, "b", "192.168.1.12/24", "192.168.1.1")?;
    let c = behind(lab, "c", "192.168.2.13/24", "192.168.2.1")?;
    let out = lab.host("out", "203.0.113.1/24")?;
    let daemon = Daemon::start(lab)?;
    daemon.run(
        "add-br br-int -- add-br br-ex -- add-port br-int a tag=1 -- add-port br-int b tag=1 \
         -- add-port br-int c tag=2 -- add-port br-ex out",
    )?;
    daemon.run(
        "add-router r -- add-router-port r br-int r-1 ip=192.168.1.1/24 tag=1 \
         -- add-router-port r br-int r-2 ip=192.168.2.1/24 tag=2 \
         -- set-gateway r br-ex r-ext ip=203.0.113.101/24 via=203.0.113.1",
    )?;
    Ok(Net { daemon, a, b, c, out })
}

/// The line of a ping that says where its answer came from and with which TTL.
pub(super) fn answer(host: &Host, args: &[&str]) -> Result<String> {
    let out = host.node.output(&[&["ping", "-n", "-c", "1", "-W", "2"][..], args].concat())?;
    Ok(out.stdout)
}

fn forward(lab: &Lab) -> Result<()> {
    let Net { daemon, a, c, .. } = net(lab)?;
    a.ping("192.168.2.13", 20)?;
    let text = answer(&a, &["192.168.2.13"])?;
    ensure!(text.contains("ttl=63"), "not one hop: {text}");
    for own in ["192.168.1.1", "192.168.2.1"] {
        a.ping(own, 5)?;
    }
    let (_server, bytes) =
        (super::tcp::serve(&c)?, super::tcp::measure(&a, "192.168.2.13", &["-n", "8M"])?);
    ensure!(bytes >= 4 << 20, "only {bytes} bytes");
    let text = answer(&a, &["-t", "1", "192.168.2.13"])?;
    ensure!(text.contains("From 192.168.1.1") && text.contains("Time to live"), "{text}");
    // Nobody there: the router says so once it has asked in vain.
    wait::until("the router says that a host is unreachable", || {
        let text = answer(&a, &["-W", "5", "192.168.2.77"])?;
        Ok(text.contains("From 192.168.2.1") && text.contains("Unreachable"))
    })?;
    let flows = daemon.run("dump-flows --internal r table=6 --no-stats")?;
    ensure!(flows.contains("nw_dst=192.168.2.0/24"), "{flows}");
    let users = daemon.run("dump-flows br-int")?;
    ensure!(!users.contains("192.168"), "{users}");
    daemon.run("del-flows br-int -- add-flow br-int actions=NORMAL")?;
    a.ping("192.168.2.13", 5)?;
    let trace = daemon.run(
        "trace br-int in_port=a,icmp,icmp_type=8,nw_src=192.168.1.11,nw_dst=192.168.2.13,nw_ttl=64,\
         dl_src=02:00:00:00:01:01,dl_dst=ff:ff:ff:ff:ff:fe",
    )?;
    ensure!(trace.contains("router:r"), "{trace}");
    // Too big for the other network, and not to be cut.
    daemon.run(
        "del-router-port r r-2 -- add-router-port r br-int r-2 ip=192.168.2.1/24 tag=2 mtu=1400",
    )?;
    wait::until("the router tells the size that fits", || {
        let text = answer(&a, &["-M", "do", "-s", "1450", "192.168.2.13"])?;
        Ok(text.contains("mtu = 1400") || text.contains("mtu=1400"))
    })
}

fn ipv6(lab: &Lab) -> Result<()> {
    let machine = |name: &str, own: &str, via: &str| -> Result<Host> {
        let host = lab.host(name, "")?;
        host.node.run(&["sysctl", "-q", "-w", "net.ipv6.conf.eth0.disable_ipv6=0"])?;
        host.node.run(&["ip", "addr", "add", own, "dev", "eth0", "nodad"])?;
        host.node.run(&["ip", "-6", "route", "add", "default", "via", via])?;
        Ok(host)
    };
    let a = machine("a", "fd00:1::11/64", "fd00:1::1")?;
    let c = machine("c", "fd00:2::13/64", "fd00:2::1")?;
    let daemon = Daemon::start(lab)?;
    daemon.run("add-br br-int -- add-port br-int a tag=1 -- add-port br-int c tag=2")?;
    daemon.run(
        "add-router r -- add-router-port r br-int r-1 ip=fd00:1::1/64 tag=1 \
         -- add-router-port r br-int r-2 ip=fd00:2::1/64 tag=2",
    )?;
    a.ping("fd00:2::13", 20)?;
    a.ping("fd00:2::1", 5)?;
    c.ping("fd00:1::11", 5)?;
    let text = answer(&a, &["-t", "1", "fd00:2::13"])?;
    ensure!(text.contains("From fd00:1::1") && text.contains("Time exceeded"), "{text}");
    let shown = daemon.json("show-router r")?;
    let known = shown["neighbours"].as_array().context("no neighbours")?;
    ensure!(known.iter().any(|n| n["address"] == "fd00:2::13" && n["mac"].is_string()), "{shown}");
    Ok(())
}

pub(super) fn router_mac(daemon: &Daemon, port: &str) -> Result<Mac> {
    let shown = daemon.json("show-router r")?;
    let ports = shown["ports"].as_array().context("no ports")?;
    let mac = ports.iter().find(|p| p["name"] == port).and_then(|p| p["mac"].as_str());
    let text = mac.context("no such port")?;
    let bytes: Vec<u8> =
        text.split(':').map(|b| u8::from_str_radix(b, 16)).collect::<Result<_, _>>()?;
    Ok(Mac(bytes.try_into().ok().context("six bytes")?))
}

fn refuses(lab: &Lab) -> Result<()> {
    let Net { daemon, a, c, .. } = net(lab)?;
    a.ping("192.168.2.13", 5)?;
    let (to, raw, there) = (router_mac(&daemon, "r-1")?, a.raw()?, c.raw()?);
    let dst = Ipv4Addr::new(192, 168, 2, 13);
    let cases = [
        (Ipv4Addr::new(127, 0, 0, 1), "martian"),
        (Ipv4Addr::new(0, 0, 0, 1), "martian"),
        (Ipv4Addr::new(224, 0, 0, 1), "martian"),
        (Ipv4Addr::new(255, 255, 255, 255), "martian"),
        (Ipv4Addr::new(192, 168, 1, 1), "spoofed"),
        (Ipv4Addr::new(192, 168, 2, 99), "spoofed"),
        (Ipv4Addr::new(8, 8, 8, 8), "spoofed"),
    ];
    for (src, reason) in cases {
        let before = daemon.drops(reason)?;
        let mark = format!("from {src} ");
        let frame = ethernet(to, a.mac, &[], 0x0800, &udp4((src, 7), (dst, 7), mark.as_bytes()));
        raw.send(&frame)?;
        wait::until(&format!("a packet from {src} is dropped as {reason}"), || {
            Ok(daemon.drops(reason)? > before)
        })?;
    }
    // What is not malicious passes, and nothing before it has.
    let good = udp4((Ipv4Addr::new(192, 168, 1, 11), 7), (dst, 7), b"a good packet");
    raw.send(&ethernet(to, a.mac, &[], 0x0800, &good))?;
    let seen = there.until_mark("a good packet")?;
    let bad = seen.iter().filter(|f| crate::frame::has_mark(f, "from ")).count();
    ensure!(bad == 0, "{bad} of the packets to be dropped arrived");
    // Broadcast and what it is not for: no copy comes back.
    let own = ipv4(Ipv4Addr::new(192, 168, 1, 11), Ipv4Addr::new(192, 168, 1, 255), 17, &[0; 20]);
    let before = daemon.drops("not_for_router")?;
    raw.send(&ethernet(to, a.mac, &[], 0x0800, &own))?;
    wait::until("a directed broadcast is dropped", || Ok(daemon.drops("not_for_router")? > before))
}

fn stored(lab: &Lab) -> Result<()> {
    let Net { mut daemon, a, .. } = net(lab)?;
    daemon.run(
        "add-route r 10.20.0.0/16 via 192.168.2.13 -- add-snat r 192.168.1.0/24 203.0.113.101",
    )?;
    for (line, words) in [
        ("add-router r", &["exists", "--may-exist"][..]),
        ("show-router q", &["no router"]),
        ("add-router-port r br-int p ip=192.168.1.9/25", &["overlaps", "r-1"]),
        ("add-router-port r br-int p ip=192.168.3.0/24", &["no host"]),
        ("add-router-port r br-int p", &["KEY=VALUE"]),
        ("add-router-port r br-int p ip=1.2.3.4/24 colour=red", &["colour"]),
        ("add-route r 10.0.0.1/8 via 192.168.2.13", &["10.0.0.0/8"]),
        ("add-route r 10.0.0.0/8 via 9.9.9.9", &["next hop"]),
        ("add-floating-ip r 192.168.2.1 192.168.1.11", &["own address"]),
        ("add-dnat r tcp 203.0.113.101 192.168.1.11:80", &["ADDRESS:PORT"]),
        ("del-port r-1", &["belongs to router", "del-router-port"]),
        ("add-port br-int x type=router", &["type"]),
        ("del-br br-int", &["del-router-port"]),
        ("del-snat r 10.0.0.0/8", &["--if-exists"]),
    ] {
        let out = daemon.ctl(&line.split(' ').collect::<Vec<_>>())?;
        ensure!(out.status != 0, "{line} was taken");
        for word in words {
            ensure!(out.stderr.contains(word), "{line} does not say {word}: {}", out.stderr);
        }
    }
    daemon.run("--may-exist add-router r -- --if-exists del-snat r 10.0.0.0/8")?;
    let before = daemon.json("show-router r")?;
    daemon.murder()?;
    let mut daemon = daemon.again()?;
    let after = daemon.json("show-router r")?;
    for part in ["ports", "routes", "snat", "zone"] {
        ensure!(before[part] == after[part], "{part}: {before} became {after}");
    }
    a.ping("192.168.2.13", 10)?;
    daemon.run("del-router r")?;
    a.cannot_reach("192.168.2.13")?;
    ensure!(daemon.run("list-routers")?.is_empty(), "a router is left");
    ensure!(!daemon.run("list-ports br-int")?.contains("r-1"), "a router's port is left");
    daemon.terminate()
}

/// The source address under which `out` sees a ping from `from`.
fn seen_by(out: &Host, from: &Host, to: &str) -> Result<String> {
    let raw = out.raw()?;
    raw.drain()?;
    from.ping(to, 1)?;
    while let Some(frame) = raw.receive(std::time::Duration::from_secs(2))? {
        if frame.len() > 34 && frame[12..14] == [8, 0] && frame[23] == 1 && frame[34] == 8 {
            return Ok(Ipv4Addr::new(frame[26], frame[27], frame[28], frame[29]).to_string());
        }
    }
    Ok("nothing".to_owned())
}

fn nat(lab: &Lab) -> Result<()> {
    let Net { daemon, a, b, out, .. } = net(lab)?;
    daemon.run(
        "add-snat r 192.168.1.0/24 203.0.113.101 -- add-snat r 192.168.2.0/24 203.0.113.101",
    )?;
    a.ping("203.0.113.1", 20)?;
    let seen = seen_by(&out, &a, "203.0.113.1")?;
    ensure!(seen == "203.0.113.101", "SNAT: seen as {seen}");
    {
        let _server = super::tcp::serve(&out)?;
        let bytes = super::tcp::measure(&a, "203.0.113.1", &["-n", "8M"])?;
        ensure!(bytes >= 4 << 20, "only {bytes} bytes through SNAT");
    }
    out.ping("203.0.113.101", 3)?;
    // traceroute's first hop, with SNAT in place.
    let text = answer(&a, &["-t", "1", "203.0.113.1"])?;
    ensure!(text.contains("From 192.168.1.1"), "{text}");
    // An unreachable host outside is told to the one inside that asked.
    wait::until("the inside hears of a host outside that is not there", || {
        let text = answer(&a, &["-W", "5", "203.0.113.77"])?;
        Ok(text.contains("Unreachable"))
    })?;

    daemon.run("add-floating-ip r 203.0.113.102 192.168.1.12")?;
    out.ping("203.0.113.102", 10)?;
    // Several packets of a new connection before its first answer.
    for (from, to) in [(&out, "203.0.113.102"), (&a, "203.0.113.102"), (&a, "203.0.113.1")] {
        let text = from.node.run(&["ping", "-q", "-c", "8", "-l", "8", "-W", "10", to])?;
        ensure!(text.contains("8 received"), "{text}");
    }
    let seen = seen_by(&out, &b, "203.0.113.1")?;
    ensure!(seen == "203.0.113.102", "floating IP: seen as {seen}");
    let seen = seen_by(&b, &out, "203.0.113.102")?;
    ensure!(seen == "203.0.113.1", "the instance sees {seen}");
    // From inside to a floating IP, and to its own.
    let seen = seen_by(&b, &a, "203.0.113.102")?;
    ensure!(seen == "203.0.113.101", "hairpin: seen as {seen}");
    b.ping("203.0.113.102", 3)?;
    a.ping("203.0.113.102", 10)?;

    daemon.run("add-dnat r tcp 203.0.113.101:8080 192.168.1.11:5201")?;
    let _server = super::tcp::serve(&a)?;
    let bytes = super::tcp::measure(&out, "203.0.113.101", &["-p", "8080", "-n", "16M"])?;
    ensure!(bytes >= 2 << 20, "only {bytes} bytes through DNAT");

    // Others' changes leave connections alone; the floating IP's end with it.
    daemon.run(
        "add-floating-ip r 203.0.113.103 192.168.1.11 -- add-route r 10.9.0.0/16 via 192.168.2.13",
    )?;
    out.ping("203.0.113.103", 3)?;
    out.ping("203.0.113.102", 3)?;
    daemon.run("del-floating-ip r 203.0.113.102")?;
    out.cannot_reach("203.0.113.102")?;
    let left = daemon.json("conntrack list dst=203.0.113.102")?;
    ensure!(left["connections"].as_array().is_some_and(Vec::is_empty), "{left}");
    Ok(())
}

fn tenants(lab: &Lab) -> Result<()> {
    let Net { daemon, a, out, .. } = net(lab)?;
    let z = behind(lab, "z", "192.168.1.11/24", "192.168.1.1")?;
    daemon.run("add-snat r 192.168.1.0/24 203.0.113.101 -- add-port br-int z tag=9")?;
    daemon.run(
        "add-router s -- add-router-port s br-int s-1 ip=192.168.1.1/24 tag=9 \
         -- set-gateway s br-ex s-ext ip=203.0.113.201/24 via=203.0.113.1 \
         -- add-snat s 192.168.1.0/24 203.0.113.201",
    )?;
    a.ping("203.0.113.1", 10)?;
    z.ping("203.0.113.1", 10)?;
    let (first, second) = (seen_by(&out, &a, "203.0.113.1")?, seen_by(&out, &z, "203.0.113.1")?);
    ensure!(first == "203.0.113.101" && second == "203.0.113.201", "{first}, {second}");
    z.cannot_reach("192.168.2.13")?;
    a.ping("192.168.2.13", 3)
}

fn moves(lab: &Lab) -> Result<()> {
    let Net { daemon, a, out, .. } = net(lab)?;
    daemon.run("add-snat r 192.168.1.0/24 203.0.113.101")?;
    a.ping("203.0.113.1", 5)?;
    out.node.run(&["ip", "link", "set", "dev", "eth0", "address", "02:00:00:00:77:77"])?;
    // A next hop is believed for 10 s, then asked again.
    wait::until_for(wait::SOON * 4, "the gateway is found under its new address", || {
        let text = answer(&a, &["203.0.113.1"])?;
        Ok(text.contains("1 received").then_some(()))
    })?;
    a.ping("203.0.113.1", 10)?;
    // A cable that is pulled and put back.
    cmd::run(&["ip", "link", "set", "dev", "out", "down"])?;
    a.cannot_reach("203.0.113.1")?;
    cmd::run(&["ip", "link", "set", "dev", "out", "up"])?;
    a.ping("203.0.113.1", 5)
}
