//! The bridges of an OpenStack node, with the flows that its agents install: br-int with security groups
//! in flows, br-tun, br-ex and br-vlan, between real machines.
//!
//! The flows are those of `ofproto/tests/data/deployment.flows`, one of each kind, with the port, MAC
//! and address of the machine at hand put in: local VLAN 5, tunnel id 1001.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::internal;
use crate::daemon::Daemon;
use crate::frame::{Mac, dot1q, ethernet, tags};
use crate::lab::{Host, Lab, Node};
use crate::raw::enter_network;
use crate::runner::Case;
use crate::{Context, Result, cmd, ensure, wait};

pub const CASES: &[Case] = &[
    Case::new("neutron-load", "every flow of a deployment is taken, listed and taken again", load),
    Case::new(
        "neutron-compute",
        "br-int with security groups, br-tun: same node, through VXLAN, what is not allowed is not passed",
        compute,
    )
    .limit(180),
    Case::new("neutron-network", "br-ex and br-vlan: flat and VLAN networks from br-int", network),
    Case::new("neutron-spoofing", "br-int without security groups: only own addresses pass", spoofing),
];

const FLOWS: &str = include_str!("../../../dataplane/ofproto/tests/data/deployment.flows");
/// What the flows of the file are about.
const MAC: &str = "fa:16:3e:11:22:33";
const IP: &str = "10.1.2.3";

/// The flows of one bridge.
fn section(bridge: &str) -> Vec<&'static str> {
    let start = format!("# {bridge}");
    let lines = FLOWS.lines().skip_while(|l| *l != start).skip(1);
    lines.take_while(|l| !l.starts_with('#')).filter(|l| !l.is_empty()).collect()
}

/// A flow of the file for another port, MAC and address.
fn for_port(line: &str, port: u32, mac: &str, ip: &str) -> String {
    line.replace("in_port=7", &format!("in_port={port}"))
        .replace("reg5=0x7", &format!("reg5={port}"))
        .replace("set_field:0x7->reg5", &format!("set_field:{port}->reg5"))
        .replace("output:7", &format!("output:{port}"))
        .replace(MAC, mac)
        .replace("10.1.2.3", ip)
}

/// Install flows in a bridge that has none.
fn install(lab: &Lab, daemon: &Daemon, bridge: &str, flows: &[String]) -> Result<()> {
    let path = lab.dir().join(format!("{bridge}.flows"));
    std::fs::write(&path, flows.join("\n") + "\n")?;
    daemon.run(&format!("del-flows {bridge} -- add-flows {bridge} {}", path.display()))?;
    Ok(())
}

fn load(lab: &Lab) -> Result<()> {
    let daemon = Daemon::start(lab)?;
    for bridge in ["br-int", "br-tun", "br-ex", "br-vlan"] {
        daemon.run(&format!("add-br {bridge} fail_mode=secure"))?;
        let lines: Vec<String> = section(bridge).into_iter().map(str::to_owned).collect();
        ensure!(!lines.is_empty(), "no flows of {bridge}");
        install(lab, &daemon, bridge, &lines)?;
        let places = lines.iter().map(|l| l.split(" actions=").next().unwrap_or_default());
        let places: std::collections::BTreeSet<_> =
            places.map(|p| p.replace("hard_timeout=300, ", "")).collect();
        let sum = daemon.json(&format!("dump-aggregate {bridge}"))?;
        ensure!(sum["flows"] == places.len(), "{} flows of {bridge}: {sum}", places.len());
        let path = lab.dir().join("again");
        std::fs::write(&path, daemon.run(&format!("dump-flows {bridge}"))?)?;
        let same = daemon.run(&format!("diff-flows {bridge} {}", path.display()))?;
        ensure!(same.is_empty(), "{bridge}: {same}");
    }
    Ok(())
}

/// Flows of br-int for all ports, with security groups.
fn firewall() -> Vec<String> {
    let is_shared = |l: &&str| {
        let own = ["=7", "reg5", ":7", MAC, "10.1.2.3"].iter().any(|w| l.contains(w));
        !own && !l.contains("reg6=0x5")
    };
    section("br-int").into_iter().filter(is_shared).map(str::to_owned).collect()
}

/// Flows of br-int for one machine in VLAN 5.
fn instance(port: u32, host: &Host) -> Vec<String> {
    let mac = host.mac.to_string();
    let is_own = |l: &&str| {
        let table = l.strip_prefix("table=").and_then(|l| l.split(',').next()?.parse().ok());
        let own = ["=7", "reg5", ":7", MAC, "10.1.2.3"].iter().any(|w| l.contains(w));
        // Table 73 at once is for ports that are trusted.
        own && table.is_some_and(|t: u8| t >= 60) && !l.contains("->reg6,resubmit(,73)")
    };
    let lines = section("br-int").into_iter().filter(is_own);
    lines.map(|l| for_port(l, port, &mac, &host.address)).collect()
}

/// Whether a TCP connection from one machine to another's port comes about.
fn connects(from: &Node, to: &Node, address: &str, port: u16) -> Result<bool> {
    let at: SocketAddr = format!("{address}:{port}").parse()?;
    let name = to.name.clone();
    let listener = std::thread::spawn(move || -> Result<TcpListener> {
        enter_network(&name)?;
        Ok(TcpListener::bind(at)?)
    });
    let _listener = listener.join().ok().context("the server panicked")??;
    let name = from.name.clone();
    let client = std::thread::spawn(move || -> Result<bool> {
        enter_network(&name)?;
        Ok(TcpStream::connect_timeout(&at, Duration::from_secs(3)).is_ok())
    });
    client.join().ok().context("the client panicked")?
}

/// br-int with two machines in VLAN 5, br-tun, and a machine behind a VXLAN device of the kernel.
fn node(lab: &Lab) -> Result<(Daemon, [Host; 2], Host)> {
    let vms = [lab.host("vm1", "10.1.2.11/24")?, lab.host("vm2", "10.1.2.12/24")?];
    let remote = lab.host("remote", "192.0.2.2/24")?;
    let daemon = Daemon::start(lab)?;
    daemon.run(
        "add-br br-int fail_mode=secure -- add-br br-tun fail_mode=secure -- add-br br-phy \
         -- add-port br-int vm1 ofport_request=1 tag=5 -- add-port br-int vm2 ofport_request=2 tag=5 \
         -- add-port br-int patch-tun ofport_request=3 type=patch options:peer=patch-int \
         -- add-port br-tun patch-int ofport_request=1 type=patch options:peer=patch-tun \
         -- add-port br-phy remote",
    )?;
    internal::address("br-phy", "192.0.2.1/24")?;
    daemon.run(
        "add-port br-tun vxlan-1 ofport_request=2 type=vxlan options:df_default=true options:in_key=flow \
         options:out_key=flow options:local_ip=192.0.2.1 options:remote_ip=192.0.2.2",
    )?;
    for words in [
        "ip link add vx0 type vxlan id 1001 local 192.0.2.2 remote 192.0.2.1 dstport 4789 dev eth0",
        "ip addr add 10.1.2.13/24 dev vx0",
        "ip link set dev vx0 mtu 1450 up",
    ] {
        remote.node.run(&words.split(' ').collect::<Vec<_>>())?;
    }
    for vm in &vms {
        vm.node.run(&["ip", "link", "set", "dev", "eth0", "mtu", "1450"])?;
    }
    let mut flows = firewall();
    for (n, vm) in vms.iter().enumerate() {
        flows.extend(instance(n as u32 + 1, vm));
    }
    install(lab, &daemon, "br-int", &flows)?;
    install(lab, &daemon, "br-tun", &tunnel_flows())?;
    Ok((daemon, vms, remote))
}

/// Flows of br-tun: port 1 leads to br-int, port 2 is the tunnel.
fn tunnel_flows() -> Vec<String> {
    let mut flows = Vec::new();
    for line in section("br-tun") {
        let port = match line {
            // GRE is in another table, and nothing is known of addresses but what is learned.
            l if l.contains("goto_table:3") || l.contains(&format!("dl_dst={MAC}")) => continue,
            l if l.contains("goto_table:4") || l.starts_with("table=22") => 2,
            _ => 1,
        };
        flows.push(for_port(line, port, MAC, IP));
    }
    flows
}

fn compute(lab: &Lab) -> Result<()> {
    let (daemon, [vm1, vm2], remote) = node(lab)?;
    let (one, two) = (&vm1.node, &vm2.node);
    // On the node, and through the tunnel, both ways.
    vm1.ping(&vm2.address, 10)?;
    vm1.ping("10.1.2.13", 10)?;
    wait::until("the machine behind the tunnel reaches vm2", || {
        let words = ["ping", "-q", "-c", "1", "-W", "1", &vm2.address];
        Ok(remote.node.output(&words)?.status == 0)
    })?;
    let learned = daemon.run("dump-flows br-tun table=20 --no-stats")?;
    ensure!(
        learned.contains("vlan_tci=0x0005/0x0fff")
            && learned.contains("load:0x3e9->NXM_NX_TUN_ID[]"),
        "nothing was learned in br-tun:\n{learned}"
    );
    // What rules allow: 22 from all, 443 from the network, 8000 to 8009 from members of the group.
    for port in [22, 443, 8000, 8009] {
        ensure!(connects(one, two, &vm2.address, port)?, "port {port} of vm2 is closed to vm1");
    }
    ensure!(
        connects(&remote.node, two, &vm2.address, 22)?,
        "port 22 is closed to the remote machine"
    );
    ensure!(connects(two, &remote.node, "10.1.2.13", 5000)?, "vm2 cannot get out");
    for (from, port) in [(one, 23), (one, 8010), (&remote.node, 8000)] {
        ensure!(
            !connects(from, two, &vm2.address, port)?,
            "port {port} of vm2 is open to {}",
            from.name
        );
    }
    // Another's address is not believed.
    vm1.node.run(&["ip", "addr", "add", "10.1.2.99/24", "dev", "eth0"])?;
    let words = ["ping", "-q", "-c", "2", "-i", "0.2", "-W", "1", "-I", "10.1.2.99", &vm2.address];
    ensure!(vm1.node.output(&words)?.status != 0, "a spoofed address passed");
    // Who has 10.1.2.3? br-tun answers.
    let raw = vm1.raw()?;
    let address: std::net::Ipv4Addr = vm1.address.parse()?;
    let ask = arp_request(&vm1, address.octets(), [10, 1, 2, 3]);
    raw.send(&ethernet(Mac::BROADCAST, vm1.mac, &[], 0x0806, &ask))?;
    let mac: Mac = MAC.parse()?;
    wait::until("the ARP responder answers", || {
        let frame = raw.receive(Duration::from_millis(500))?;
        Ok(frame.is_some_and(|f| f[..6] == vm1.mac.0 && f[12..14] == [8, 6] && f[22..28] == mac.0))
    })?;
    // TCP at full size, both ways, through connection tracking and the tunnel.
    let mut allowed =
        "table=82,priority=77,ct_state=+est-rel-rpl,tcp,reg5=1,tp_dst=5201".to_owned();
    daemon.run(&format!("add-flow br-int {allowed},actions=output:1"))?;
    allowed = allowed.replace("+est-rel-rpl", "+new-est");
    let commit = "ct(commit,zone=NXM_NX_REG6[0..15]),output:1,resubmit(,92)";
    daemon.run(&format!("add-flow br-int {allowed},actions={commit}"))?;
    internal::tcp(&vm1, "10.1.2.13", Some(&remote.node))
}

/// An interface of the switch's in a namespace of its own, with an address.
fn agent_port(lab: &Lab, daemon: &Daemon, name: &str, tag: u16, cidr: &str) -> Result<Node> {
    daemon.run(&format!("add-port br-int {name} type=internal tag={tag}"))?;
    let node = lab.node(&format!("ns-{name}"))?;
    cmd::run(&["ip", "link", "set", "dev", name, "netns", &node.name])?;
    node.run(&["ip", "addr", "add", cidr, "dev", name])?;
    node.run(&["ip", "link", "set", "dev", name, "up"])?;
    Ok(node)
}

fn network(lab: &Lab) -> Result<()> {
    let outside = lab.host("ext", "203.0.113.1/24")?;
    let provider = lab.host("prov", "")?;
    let daemon = Daemon::start(lab)?;
    daemon.run("add-br br-int fail_mode=secure -- add-br br-ex fail_mode=secure -- add-br br-vlan fail_mode=secure")?;
    for (bridge, n, machine) in [("br-ex", 11, "ext"), ("br-vlan", 12, "prov")] {
        daemon.run(&format!(
            "add-port br-int int-{bridge} ofport_request={n} type=patch options:peer=phy-{bridge} \
             -- add-port {bridge} phy-{bridge} ofport_request=7 type=patch options:peer=int-{bridge} \
             -- add-port {bridge} {machine}"
        ))?;
    }
    let own = |bridge: &str| section(bridge).into_iter().map(str::to_owned).collect::<Vec<_>>();
    install(lab, &daemon, "br-ex", &own("br-ex"))?;
    // Local VLAN 6 is 205 out there.
    let exchanged = own("br-vlan").into_iter().map(|l| l.replace("dl_vlan=5", "dl_vlan=6"));
    let exchanged: Vec<String> = exchanged.map(|l| l.replace("4101", "4301")).collect();
    install(lab, &daemon, "br-vlan", &exchanged)?;
    let mut flows = vec!["table=60, priority=3 actions=NORMAL".to_owned()];
    for line in section("br-int") {
        let table = line.strip_prefix("table=").map_or("0", |l| l.split(',').next().unwrap_or("0"));
        match (table, line.contains("in_port")) {
            ("59", _) | ("0", false) => flows.push(line.to_owned()),
            ("0", true) if line.starts_with("priority=2,") => {
                flows.extend([11, 12].map(|p| for_port(line, p, MAC, IP)));
            }
            ("0", true) if line.contains("vlan_tci=0x0000/0x1fff") => {
                flows.push(for_port(line, 11, MAC, IP));
            }
            ("0", true) if line.contains("dl_vlan=5") => {
                let line = line.replace("dl_vlan=5", "dl_vlan=205").replace("4101", "4102");
                flows.push(for_port(&line, 12, MAC, IP));
            }
            _ => {}
        }
    }
    install(lab, &daemon, "br-int", &flows)?;
    let flat = agent_port(lab, &daemon, "qg-1", 5, "203.0.113.2/24")?;
    let tagged = agent_port(lab, &daemon, "qr-1", 6, "10.6.0.1/24")?;
    outside.ping("203.0.113.2", 10)?;
    wait::until("from br-int outwards", || {
        let words = ["ping", "-q", "-c", "1", "-W", "1", "203.0.113.1"];
        Ok(flat.output(&words)?.status == 0)
    })?;
    // The machine of the VLAN network asks, tagged as it is out there, and is answered and asked so.
    let raw = provider.raw()?;
    let ask = |vlan: u16| {
        let request = arp_request(&provider, [10, 6, 0, 2], [10, 6, 0, 1]);
        raw.send(&ethernet(Mac::BROADCAST, provider.mac, &[dot1q(vlan)], 0x0806, &request))
    };
    let told = |what: &str, operation: u8| {
        wait::until(what, || {
            if operation == 2 {
                ask(205)?;
            } else {
                tagged.output(&["ping", "-q", "-c", "1", "-W", "1", "10.6.0.3"])?;
            }
            let mut found = false;
            while let Some(f) = raw.receive(Duration::from_millis(200))? {
                found |= tags(&f) == [dot1q(205)] && f[16..18] == [8, 6] && f[25] == operation;
            }
            Ok(found)
        })
    };
    told("an answer in the provider's VLAN", 2)?;
    told("a question in the provider's VLAN", 1)?;
    // A VLAN that is nobody's ends at the patch port.
    ask(206)?;
    wait::until("VLAN 206 is dropped and counted", || {
        let dropped = daemon.json("dump-flows br-int in_port=12")?;
        let flows = dropped["flows"].as_array().context("no flows")?;
        let mut drops =
            flows.iter().filter(|f| f["flow"].as_str().is_some_and(|t| t.contains("actions=drop")));
        Ok(drops.any(|f| f["packets"].as_u64() > Some(0)))
    })
}

/// An ARP request for an address, from a machine.
fn arp_request(from: &Host, sender: [u8; 4], wanted: [u8; 4]) -> Vec<u8> {
    let mut request = vec![0, 1, 8, 0, 6, 4, 0, 1];
    request.extend(from.mac.0);
    request.extend(sender);
    request.extend([0; 6]);
    request.extend(wanted);
    request
}

fn spoofing(lab: &Lab) -> Result<()> {
    let (good, other) = (lab.host("vm1", "10.1.2.11/24")?, lab.host("vm2", "10.1.2.12/24")?);
    let daemon = Daemon::start(lab)?;
    daemon.run(
        "add-br br-int fail_mode=secure -- add-port br-int vm1 ofport_request=1 tag=5 \
         -- add-port br-int vm2 ofport_request=2 tag=5",
    )?;
    let is_noop = |l: &&str| {
        let starts = ["priority=0 ", "priority=9,", "priority=10,", "priority=65535,"];
        let tables = ["table=24", "table=25", "table=30", "table=59", "table=60, priority=3 "];
        starts.iter().chain(&tables).any(|s| l.starts_with(s))
    };
    let mut flows = Vec::new();
    for (port, host) in [(1, &good), (2, &other)] {
        let mac = host.mac.to_string();
        let lines = section("br-int").into_iter().filter(is_noop);
        flows.extend(lines.map(|l| for_port(l, port, &mac, &host.address)));
    }
    install(lab, &daemon, "br-int", &flows)?;
    good.ping(&other.address, 10)?;
    // ARP for an address that is not its own, and a MAC that is not.
    good.node.run(&["ip", "addr", "add", "10.1.2.77/24", "dev", "eth0"])?;
    other.node.run(&["ip", "neigh", "flush", "all"])?;
    let words = ["ping", "-q", "-c", "2", "-i", "0.2", "-W", "1", "10.1.2.77"];
    ensure!(other.node.output(&words)?.status != 0, "a spoofed ARP reply passed");
    good.node.run(&["ip", "link", "set", "dev", "eth0", "address", "02:00:00:00:66:66"])?;
    good.cannot_reach(&other.address)?;
    let mac = good.mac.to_string();
    good.node.run(&["ip", "link", "set", "dev", "eth0", "address", &mac])?;
    good.ping(&other.address, 5)
}
