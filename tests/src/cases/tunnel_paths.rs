//! The ways of tunnels where the kernel knows nothing of them: own routes, own addresses, own neighbours;
//! underlays with VLANs and patch ports; two switches with each other.

use super::internal;
use crate::daemon::Daemon;
use crate::lab::{Host, Lab};
use crate::runner::Case;
use crate::{Context, Result, cmd, ensure, wait};

pub const CASES: &[Case] = &[
    Case::new("tunnel-own-path", "a route and an address of the switch's own, over IPv4", own_v4),
    Case::new("tunnel-own-path-ipv6", "the same over IPv6", own_v6),
    Case::new(
        "tunnel-neighbour",
        "a neighbour that was added; one that does not answer",
        neighbours,
    ),
    Case::new(
        "tunnel-restart",
        "the remote end restarts with another MAC: traffic resumes",
        restart,
    ),
    Case::new(
        "tunnel-silent-move",
        "the remote end has another MAC and does not say so: found on the switch's own link",
        silent,
    ),
    Case::new("tunnel-two-switches", "two switches, their underlay tagged and behind a patch", two),
    Case::new(
        "tunnel-too-big",
        "who sends too much for the path is told, over IPv4 and IPv6",
        too_big,
    ),
    Case::new("tunnel-trace", "a trace goes into tunnels and out of them", trace),
];

/// Machine `vm` (10.9.0.1) on br-int; `remote` behind br-phy, with a VXLAN device of the kernel (10.9.0.2,
/// id 77). The kernel here has no address of the underlay.
fn underlay(lab: &Lab, [here, there]: [&str; 2]) -> Result<(Daemon, Host, Host)> {
    let vm = lab.host("vm", "10.9.0.1/24")?;
    let remote = lab.host("remote", "")?;
    let daemon = Daemon::start(lab)?;
    daemon.run("add-br br-int -- add-br br-phy -- add-port br-int vm -- add-port br-phy remote")?;
    remote_end(&remote, [here, there])?;
    let prefix = if here.contains(':') { "2001:db8::/64" } else { "192.0.2.0/24" };
    daemon.run(&format!(
        "add-port br-int vx type=vxlan options:remote_ip={there} options:key=77 -- \
         route add {prefix} br-phy src={here}"
    ))?;
    Ok((daemon, vm, remote))
}

fn remote_end(remote: &Host, [here, there]: [&str; 2]) -> Result<()> {
    let run = |args: &str| remote.node.run(&args.split(' ').collect::<Vec<_>>());
    if here.contains(':') {
        run("sysctl -q -w net.ipv6.conf.eth0.disable_ipv6=0")?;
        run(&format!("ip addr add {there}/64 dev eth0 nodad"))?;
    } else {
        run(&format!("ip addr add {there}/24 dev eth0"))?;
    }
    run(&format!(
        "ip link add vx0 type vxlan id 77 local {there} remote {here} dstport 4789 dev eth0"
    ))?;
    run("ip addr add 10.9.0.2/24 dev vx0")?;
    run("ip link set dev vx0 mtu 1430 up")?;
    Ok(())
}

fn own_v4(lab: &Lab) -> Result<()> {
    own(lab, super::tunnels::V4)
}

fn own_v6(lab: &Lab) -> Result<()> {
    own(lab, super::tunnels::V6)
}

fn own(lab: &Lab, ends: [&str; 2]) -> Result<()> {
    let (daemon, vm, remote) = underlay(lab, ends)?;
    vm.node.run(&["ip", "link", "set", "dev", "eth0", "mtu", "1430"])?;
    // The first packet waits for the neighbour: no ping is lost.
    let first = vm.node.run(&["ping", "-q", "-c", "3", "-i", "0.2", "-W", "5", "10.9.0.2"])?;
    ensure!(first.contains(" 0% packet loss"), "{first}");
    vm.ping("10.9.0.2", 30)?;
    internal::tcp(&vm, "10.9.0.2", Some(&remote.node))?;
    let shown = daemon.json("neigh show br-phy")?;
    let n = &shown["neighbours"][0];
    ensure!(n["address"] == ends[1] && n["mac"] == remote.mac.to_string(), "{shown}");
    ensure!(
        ["reachable", "stale", "probe"].contains(&n["state"].as_str().unwrap_or("")),
        "{shown}"
    );
    let shown = daemon.json("tunnels")?;
    let t = &shown["tunnels"][0];
    ensure!(t["state"] == "up" && t["path"]["next_hop"] == ends[1], "{shown}");
    ensure!(t["path"]["source"] == ends[0] && t["path"]["bridge"] == "br-phy", "{shown}");
    ensure!(t["rx_packets"].as_u64() > Some(33) && t["tx_packets"].as_u64() > Some(33), "{shown}");
    let routes = daemon.run("route show")?;
    ensure!(routes.lines().any(|l| l.contains("user") && l.contains("br-phy")), "{routes}");
    // Without the route there is no way, and it says so.
    let prefix = if ends[0].contains(':') { "2001:db8::/64" } else { "192.0.2.0/24" };
    daemon.run(&format!("route del {prefix}"))?;
    vm.cannot_reach("10.9.0.2")?;
    let shown = daemon.run("tunnels")?;
    ensure!(shown.contains("down") && shown.contains("no route"), "{shown}");
    let show = daemon.json("show br-int")?;
    let vx =
        show["bridges"][0]["ports"].as_array().context("ports")?.iter().find(|p| p["name"] == "vx");
    ensure!(vx.is_some_and(|p| p["state"] == "down"), "{show}");
    Ok(())
}

fn neighbours(lab: &Lab) -> Result<()> {
    let (daemon, vm, remote) = underlay(lab, super::tunnels::V4)?;
    // Nobody has this address.
    daemon.run("add-port br-int nowhere type=vxlan options:remote_ip=192.0.2.9 options:key=1")?;
    daemon.run("add-flow br-int priority=9,in_port=vm,ip,nw_dst=10.9.9.9,actions=nowhere")?;
    vm.node.run(&["ip", "route", "add", "10.9.9.9/32", "via", "10.9.0.2"])?;
    wait::until("the neighbour is given up", || {
        vm.node.output(&["ping", "-q", "-c", "1", "-W", "1", "10.9.9.9"])?;
        let shown = daemon.json("tunnels nowhere")?;
        Ok(shown["tunnels"][0]["state"] == "down")
    })?;
    wait::until("packets that waited for it are dropped", || {
        Ok(daemon.run("drops")?.contains("neighbour_failed"))
    })?;
    // One that does not answer ARP, but was added.
    remote.node.run(&["ip", "link", "set", "dev", "eth0", "arp", "off"])?;
    remote.node.run(&[
        "ip",
        "neigh",
        "replace",
        "192.0.2.1",
        "lladdr",
        &mac_of("br-phy")?,
        "dev",
        "eth0",
    ])?;
    daemon.run(&format!("neigh add br-phy 192.0.2.2 {}", remote.mac))?;
    vm.ping("10.9.0.2", 10)?;
    let shown = daemon.run("neigh show")?;
    ensure!(shown.lines().any(|l| l.contains("192.0.2.2") && l.contains("static")), "{shown}");
    daemon.refuses("neigh del br-phy 192.0.2.3", 1, &["192.0.2.3"])?;
    daemon.run("neigh del br-phy 192.0.2.2")?;
    daemon.refuses("route add 192.0.2.0/24 br-pyh", 1, &["br-phy"])
}

/// The Ethernet address of an interface of the switch's host.
fn mac_of(interface: &str) -> Result<String> {
    Ok(std::fs::read_to_string(format!("/sys/class/net/{interface}/address"))?.trim().to_owned())
}

fn restart(lab: &Lab) -> Result<()> {
    let (_daemon, vm, mut remote) = underlay(lab, super::tunnels::V4)?;
    vm.ping("10.9.0.2", 5)?;
    remote.node.run(&["ip", "link", "del", "dev", "vx0"])?;
    remote.node.run(&["ip", "addr", "flush", "dev", "eth0"])?;
    remote.mac = crate::frame::Mac([2, 0, 0, 0, 0x77, 0x77]);
    remote.node.run(&["ip", "link", "set", "dev", "eth0", "address", "02:00:00:00:77:77"])?;
    remote_end(&remote, super::tunnels::V4)?;
    vm.node.run(&["ip", "neigh", "flush", "all"])?;
    // It sends, as a host that starts does, and so asks for the switch's address.
    remote.node.output(&["ping", "-q", "-c", "1", "-W", "1", "10.9.0.1"])?;
    vm.ping("10.9.0.2", 10)
}

fn silent(lab: &Lab) -> Result<()> {
    let (_daemon, vm, remote) = underlay(lab, super::tunnels::V4)?;
    super::tunnels::found_again(&vm, &remote)
}

fn two(lab: &Lab) -> Result<()> {
    let nodes = [("a", "192.0.2.1", "10.9.0.1/24"), ("b", "192.0.2.2", "10.9.0.2/24")];
    cmd::run(&["ip", "link", "add", "name", "wire-a", "type", "veth", "peer", "name", "wire-b"])?;
    let mut hosts = Vec::new();
    let mut daemons = Vec::new();
    for (i, (n, address, inner)) in nodes.into_iter().enumerate() {
        let vm = lab.host(&format!("vm-{n}"), inner)?;
        vm.node.run(&["ip", "link", "set", "dev", "eth0", "mtu", "1400"])?;
        let daemon = Daemon::start_as(lab, &format!("sw-{n}"), &[])?;
        let remote = nodes[1 - i].1;
        // Underlay in VLAN 42, behind a patch from br-ex, which has the wire.
        daemon.run(&format!(
            "add-br int-{n} -- add-br phy-{n} -- add-br ex-{n} -- add-port int-{n} vm-{n} -- \
             add-port ex-{n} wire-{n} -- \
             add-port phy-{n} to-ex-{n} type=patch options:peer=to-phy-{n} -- \
             add-port ex-{n} to-phy-{n} type=patch options:peer=to-ex-{n} -- set port phy-{n} tag=42 -- \
             add-port int-{n} tun-{n} type=geneve options:remote_ip={remote} options:key=5 \
             options:csum=true -- route add 192.0.2.0/24 phy-{n} src={address}"
        ))?;
        hosts.push(vm);
        daemons.push(daemon);
    }
    hosts[0].ping("10.9.0.2", 30)?;
    internal::tcp(&hosts[0], "10.9.0.2", Some(&hosts[1].node))?;
    // Both directions at once.
    let other = hosts[1].clone();
    let back = std::thread::spawn(move || other.ping("10.9.0.1", 100));
    hosts[0].ping("10.9.0.2", 100)?;
    back.join().map_err(|_| anyhow::anyhow!("the other direction panicked"))?
}

fn too_big(lab: &Lab) -> Result<()> {
    let (daemon, vm, remote) = underlay(lab, super::tunnels::V4)?;
    vm.ping("10.9.0.2", 3)?;
    for host in [&vm, &remote] {
        let dev = if host.node.name == "vm" { "eth0" } else { "vx0" };
        host.node.run(&["sysctl", "-q", "-w", &format!("net.ipv6.conf.{dev}.disable_ipv6=0")])?;
        let address = if dev == "eth0" { "fd09::1/64" } else { "fd09::2/64" };
        host.node.run(&["ip", "addr", "add", address, "dev", dev, "nodad"])?;
    }
    remote.node.run(&["ip", "link", "set", "dev", "vx0", "mtu", "1450"])?;
    vm.ping("fd09::2", 3)?;
    for (address, told) in [("10.9.0.2", "10.9.0.2 "), ("fd09::2", "fd09::2 ")] {
        // Larger than the tunnel's path: refused by the switch, which says how much fits, so that the
        // kernel then knows.
        wait::until("the sender is told", || {
            let words = ["ping", "-q", "-M", "do", "-s", "1440", "-c", "1", "-W", "1", address];
            vm.node.output(&words)?;
            let route = vm.node.run(&["ip", "route", "get", address])?;
            Ok(route.contains(told) && route.contains("mtu 1450"))
        })?;
    }
    let shown = daemon.json("tunnels")?;
    ensure!(shown["tunnels"][0]["too_big"].as_u64() >= Some(2), "{shown}");
    ensure!(shown["tunnels"][0]["path"]["mtu"] == 1450, "{shown}");
    ensure!(daemon.run("drops")?.contains("too_big"), "too_big is not counted");
    Ok(())
}

fn trace(lab: &Lab) -> Result<()> {
    let (daemon, vm, remote) = underlay(lab, super::tunnels::V4)?;
    let into = format!("trace br-int in_port=vm,dl_src={},dl_dst=02:00:00:00:00:99", vm.mac);
    let before = daemon.run(&into)?;
    ensure!(before.contains("192.0.2.2 is asked for its address"), "{before}");
    vm.ping("10.9.0.2", 3)?;
    let text = daemon.run(&into)?;
    for word in ["tnl_push(vxlan(src=192.0.2.1,dst=192.0.2.2,id=77", "br-phy", "next hop 192.0.2.2"]
    {
        ensure!(text.contains(word), "{word} is missing:\n{text}");
    }
    // A VXLAN packet of the remote end's, with an Ethernet frame inside.
    let mac = |text: &str| text.replace(':', "");
    let (here, there) = (mac(&mac_of("br-phy")?), mac(&remote.mac.to_string()));
    let inner = format!(
        "{}02000000009908060001080006040001{}0a090002{}0a090001",
        "ffffffffffff", "020000000099", "000000000000"
    );
    let bytes = inner.len() / 2;
    let ip =
        format!("4500{:04x}000040004011000 0c0000202c0000201", 20 + 16 + bytes).replace(' ', "");
    let udp = format!("c00012b5{:04x}0000", 16 + bytes);
    let frame = format!("{here}{there}0800{ip}{udp}0800000000004d00{inner}");
    let out = daemon.ctl(&["trace", "br-phy", "in_port=remote", "--packet", &frame])?;
    ensure!(out.status == 0, "{}", out.stderr);
    for word in ["tnl_pop", "bridge(\"br-int\")", "tun_id=0x4d", "arp"] {
        ensure!(out.stdout.contains(word), "{word} is missing:\n{}", out.stdout);
    }
    Ok(())
}
