//! How a router makes itself known, and that connections through it outlive what changes around them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use super::routers::{Net, net, router_mac};
use crate::frame::Mac;
use crate::lab::{Host, Lab};
use crate::raw::Raw;
use crate::runner::Case;
use crate::{Context, Result, ensure, wait};

pub const CASES: &[Case] = &[
    Case::new("router-announces", "addresses that come up or move are announced", announces),
    Case::new("router-slaac", "IPv6 hosts get address and route from advertisements", slaac),
    Case::new("router-holds", "a TCP connection goes on while others' things change", holds),
];

/// Wait for a gratuitous ARP packet (RFC 5227: an announcement) of an address from this MAC.
fn announced(raw: &Raw, address: Ipv4Addr, mac: Mac) -> Result<()> {
    let ip = address.octets();
    wait::until(&format!("{address} is announced"), || {
        while let Some(f) = raw.receive(std::time::Duration::from_millis(200))? {
            let is_arp = f.len() >= 42 && f[12..14] == [8, 6];
            if is_arp && f[28..32] == ip && f[38..42] == ip && f[22..28] == mac.0 {
                ensure!(f[..6] == [0xff; 6], "an announcement to one host");
                return Ok(true);
            }
        }
        Ok(false)
    })
}

/// The MAC that a machine's kernel has for an address.
fn believes(host: &Host, address: &str) -> Result<String> {
    host.node.run(&["ip", "neigh", "show", address, "dev", "eth0"])
}

fn announces(lab: &Lab) -> Result<()> {
    let Net { daemon, a, out, .. } = net(lab)?;
    a.ping("192.168.1.1", 1)?;
    out.ping("203.0.113.101", 1)?;
    // Another host had the address before, as far as the outside knows.
    let stale = "02:00:00:00:0a:0a";
    let words =
        ["ip", "neigh", "replace", "203.0.113.102", "lladdr", stale, "dev", "eth0", "nud", "stale"];
    out.node.run(&words)?;
    let (outside, inside) = (out.raw()?, a.raw()?);
    daemon.run("add-floating-ip r 203.0.113.102 192.168.1.12")?;
    let mac = router_mac(&daemon, "r-ext")?;
    announced(&outside, Ipv4Addr::new(203, 0, 113, 102), mac)?;
    wait::until("the outside's kernel believes it", || {
        Ok(believes(&out, "203.0.113.102")?.contains(&mac.to_string()))
    })?;
    // The router's own port moves to another MAC.
    daemon.run(
        "del-router-port r r-1 -- add-router-port r br-int r-1 ip=192.168.1.1/24 tag=1 \
         mac=02:00:00:00:0b:0b",
    )?;
    let mac = router_mac(&daemon, "r-1")?;
    announced(&inside, Ipv4Addr::new(192, 168, 1, 1), mac)?;
    wait::until("the inside's kernel believes it", || {
        Ok(believes(&a, "192.168.1.1")?.contains(&mac.to_string()))
    })?;
    a.ping("192.168.1.1", 1)
}

fn slaac(lab: &Lab) -> Result<()> {
    let machine = |name: &str| -> Result<Host> {
        let host = lab.host(name, "")?;
        for setting in ["accept_ra=1", "autoconf=1", "disable_ipv6=0"] {
            let setting = format!("net.ipv6.conf.eth0.{setting}");
            host.node.run(&["sysctl", "-q", "-w", &setting])?;
        }
        Ok(host)
    };
    let (a, c) = (machine("a")?, machine("c")?);
    let daemon = crate::daemon::Daemon::start(lab)?;
    daemon.run("add-br br-int -- add-port br-int a tag=1 -- add-port br-int c tag=2")?;
    for (line, word) in [
        ("add-router-port r br-int p ip=10.0.0.1/24 ra=slaac", "IPv6"),
        ("add-router-port r br-int p ip=fd00::1/64 ra=slack", "slaac"),
    ] {
        daemon.run("--may-exist add-router r")?;
        daemon.refuses(line, 1, &[word])?;
    }
    daemon.run(
        "add-router-port r br-int r-1 ip=fd00:1::1/64 tag=1 ra=slaac mtu=1450 \
         -- add-router-port r br-int r-2 ip=fd00:2::1/64 tag=2 ra=dhcpv6-stateless",
    )?;
    let address = |host: &Host, network: &str| -> Result<String> {
        let mut found = None;
        wait::until(&format!("{} has an address of its own making", host.node.name), || {
            let words = ["ip", "-6", "-o", "addr", "show", "dev", "eth0", "scope", "global"];
            let text = host.node.run(&[&words[..], &["-tentative"]].concat())?;
            let cidr = text.split_whitespace().find(|w| w.starts_with(network));
            found = cidr.and_then(|c| c.split('/').next()).map(str::to_owned);
            Ok(found.is_some())
        })?;
        found.context("no address")
    };
    let (_, there) = (address(&a, "fd00:1:")?, address(&c, "fd00:2:")?);
    a.ping(&there, 3)?;
    let route = a.node.run(&["ip", "-6", "route", "show", "default"])?;
    ensure!(route.contains("via fe80::") && route.contains("proto ra"), "{route}");
    ensure!(route.contains("mtu 1450") || mtu(&a)? == 1450, "the MTU is not taken: {route}");
    // A host that comes later asks, and is answered long before the next one that is due.
    a.node.run(&["ip", "link", "set", "dev", "eth0", "down"])?;
    a.node.run(&["ip", "link", "set", "dev", "eth0", "up"])?;
    address(&a, "fd00:1:")?;
    a.ping(&there, 1)?;
    // Who ceases to route says so.
    daemon.run("del-router-port r r-1")?;
    wait::until("the default route is gone", || {
        Ok(a.node.run(&["ip", "-6", "route", "show", "default"])?.trim().is_empty())
    })
}

fn mtu(host: &Host) -> Result<u32> {
    let text = host.node.run(&["sysctl", "-n", "net.ipv6.conf.eth0.mtu"])?;
    Ok(text.trim().parse()?)
}

/// Send a line over a connection to a server that echoes, and have it back.
fn echo(stream: &mut TcpStream, line: &str) -> Result<()> {
    stream.write_all(line.as_bytes())?;
    let mut back = vec![0; line.len()];
    stream.read_exact(&mut back).with_context(|| format!("after {line}"))?;
    ensure!(back == line.as_bytes(), "{line}: other bytes came back");
    Ok(())
}

/// A server on a machine that echoes what its first client says; its port.
fn echo_server(host: &Host) -> Result<u16> {
    let bound = host.node.inside(|| Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?));
    let listener = bound.join().ok().context("binding panicked")??;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        if let Ok((mut stream, _)) = listener.accept() {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = stream.read(&mut bytes) {
                if stream.write_all(&bytes[..n]).is_err() {
                    break;
                }
            }
        }
    });
    Ok(port)
}

fn connect(host: &Host, to: &str, port: u16) -> Result<TcpStream> {
    let to = (to.parse::<Ipv4Addr>()?, port).into();
    let made = host.node.inside(move || {
        let stream = TcpStream::connect_timeout(&to, wait::SOON)?;
        stream.set_read_timeout(Some(wait::SOON))?;
        Ok(stream)
    });
    made.join().ok().context("connecting panicked")?
}

fn holds(lab: &Lab) -> Result<()> {
    let Net { daemon, a, b, c, out } = net(lab)?;
    let late = lab.host("late", "192.168.1.14/24")?;
    daemon.run(
        "add-snat r 192.168.1.0/24 203.0.113.101 -- add-floating-ip r 203.0.113.102 192.168.1.12",
    )?;
    a.ping("203.0.113.1", 1)?;
    out.ping("203.0.113.102", 1)?;
    let (server, inner) = (echo_server(&out)?, echo_server(&b)?);
    let mut snat = connect(&a, "203.0.113.1", server)?;
    let mut floating = connect(&out, "203.0.113.102", inner)?;
    let routed = echo_server(&c)?;
    let mut routed = connect(&a, "192.168.2.13", routed)?;
    let guarded = format!("security-group set c mac={} ip={}", c.mac, c.address);
    for change in [
        "add-route r 10.9.0.0/16 via 192.168.2.13",
        "add-floating-ip r 203.0.113.103 192.168.1.77",
        "add-router-port r br-int r-3 ip=192.168.3.1/24 tag=3 mtu=1400",
        "add-port br-int late tag=1",
        "add-dnat r tcp 203.0.113.101:8080 192.168.1.12:80",
        "set-gateway r br-ex r-ext ip=203.0.113.101/24 via=203.0.113.1 mtu=1450",
        "add-router s -- add-router-port s br-int s-1 ip=192.168.1.1/24 tag=9",
        &guarded,
        "del-flows br-int -- add-flow br-int priority=1,actions=NORMAL",
        "set port late tag=2",
        "del-port late",
        "del-dnat r tcp 203.0.113.101:8080",
        "del-floating-ip r 203.0.113.103",
        "del-router s",
        "del-router-port r r-3",
        "del-route r 10.9.0.0/16",
    ] {
        daemon.run(change)?;
        echo(&mut snat, &format!("translated, {change}"))?;
        echo(&mut floating, &format!("floating IP, {change}"))?;
        // Its port is guarded in between: what began before the guard is not known to it.
        if change != guarded {
            continue;
        }
        daemon.run("security-group add c in proto=tcp -- security-group add c out")?;
        echo(&mut routed, "routed")?;
    }
    drop(late);
    // Its own floating IP's end is the end of what came by it, and of nothing else.
    daemon.run("del-floating-ip r 203.0.113.102")?;
    let tracked = |words: &str| -> Result<usize> {
        let list = daemon.json(&format!("conntrack list proto=tcp {words}"))?;
        Ok(list["connections"].as_array().map_or(0, Vec::len))
    };
    ensure!(tracked("dst=203.0.113.102")? == 0, "a connection outlives its floating IP");
    echo(&mut snat, "translated, still")?;
    echo(&mut routed, "routed, still")
}
