//! Tunnels over a card that the host goes on using (`options:share=tunnels`): its addresses, routes and
//! neighbours are the kernel's, and its own traffic is none of the switch's business.

use super::internal;
use super::tcp;
use super::tunnels::{V4, V6};
use crate::daemon::Daemon;
use crate::lab::{Host, Lab, Node};
use crate::ovs::Ovs;
use crate::runner::Case;
use crate::{Result, cmd, ensure, wait};

pub const CASES: &[Case] = &[
    Case::new(
        "tunnel-shared",
        "a card shared with its host: a kernel's VXLAN device, the host's own traffic meanwhile",
        shared,
    ),
    Case::new("tunnel-shared-ipv6", "the same over IPv6", shared_v6),
    Case::new(
        "tunnel-shared-changes",
        "a shared card whose remote, address and interface change",
        changes,
    ),
    Case::new("tunnel-shared-ovs", "VXLAN, GRE and Geneve of a shared card to stock OVS", ovs),
    Case::new("tunnel-shared-both", "two nodes, each with a shared card, both ways at once", both),
    Case::new(
        "tunnel-shared-fragments",
        "fragments of a tunnel's packets and of the host's, by one card",
        fragments,
    ),
    Case::new("tunnel-shared-refused", "what a shared port cannot be", refused),
];

/// An address on an interface of the switch's host or of a machine.
fn address(node: Option<&Node>, dev: &str, address: &str) -> Result<()> {
    let run = |words: &[&str]| match node {
        Some(node) => node.run(words).map(drop),
        None => cmd::run(words).map(drop),
    };
    if address.contains(':') {
        run(&["sysctl", "-q", "-w", &format!("net.ipv6.conf.{dev}.disable_ipv6=0")])?;
        return run(&["ip", "addr", "add", &format!("{address}/64"), "dev", dev, "nodad"]);
    }
    run(&["ip", "addr", "add", &format!("{address}/24"), "dev", dev])
}

/// A kernel's VXLAN device on the remote end of the card, with id 77 and 10.9.0.2.
fn remote_end(remote: &Host, [here, there]: [&str; 2]) -> Result<()> {
    let run = |args: &str| remote.node.run(&args.split(' ').collect::<Vec<_>>());
    address(Some(&remote.node), "eth0", there)?;
    run(&format!(
        "ip link add vx0 type vxlan id 77 local {there} remote {here} dstport 4789 dev eth0"
    ))?;
    run("ip addr add 10.9.0.2/24 dev vx0")?;
    run("ip link set dev vx0 mtu 1400 up")?;
    Ok(())
}

/// Machine `vm` (10.9.0.1) and interface `card` of the host on br-int, a tunnel there to the card's
/// other end.
fn layout(lab: &Lab, ends: [&str; 2]) -> Result<(Daemon, Host, Host)> {
    let vm = lab.host("vm", "10.9.0.1/24")?;
    vm.node.run(&["ip", "link", "set", "dev", "eth0", "mtu", "1400"])?;
    let remote = lab.host("card", "")?;
    address(None, "card", ends[0])?;
    remote_end(&remote, ends)?;
    let daemon = Daemon::start(lab)?;
    daemon
        .run("add-br br-int -- add-port br-int vm -- add-port br-int card options:share=tunnels")?;
    daemon.run(&format!(
        "add-port br-int vx type=vxlan options:remote_ip={} options:key=77",
        ends[1]
    ))?;
    Ok((daemon, vm, remote))
}

/// The switch's host reaches an address.
fn host_reaches(address: &str) -> Result<()> {
    wait::until(&format!("the host reaches {address}"), || {
        Ok(cmd::output(&["ping", "-q", "-c", "1", "-W", "1", address])?.status == 0)
    })
}

fn shared(lab: &Lab) -> Result<()> {
    through(lab, V4)
}

fn shared_v6(lab: &Lab) -> Result<()> {
    through(lab, V6)
}

fn through(lab: &Lab, ends: [&str; 2]) -> Result<()> {
    let (daemon, vm, remote) = layout(lab, ends)?;
    let flags = std::fs::read_to_string("/sys/class/net/card/flags")?;
    let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16)?;
    ensure!(flags & 0x100 == 0, "the card is promiscuous: {flags:#x}");
    let wire = remote.raw()?;
    host_reaches(ends[1])?;
    vm.ping("10.9.0.2", 20)?;
    internal::tcp(&vm, "10.9.0.2", Some(&remote.node))?;
    // Broadcasts of the machine's go into the tunnel, not to the card.
    vm.node.output(&["ping", "-q", "-c", "1", "-W", "1", "10.9.0.77"])?;
    vm.ping("10.9.0.2", 2)?;
    while let Some(frame) = wire.receive(std::time::Duration::from_millis(10))? {
        ensure!(frame.get(6..12) != Some(&vm.mac.0[..]), "a frame of vm's went out of the card");
    }
    // The host's own TCP and UDP both ways, and the tunnel's beside it.
    let pings = {
        let vm = vm.clone();
        std::thread::spawn(move || vm.ping("10.9.0.2", 60))
    };
    let server = tcp::serve(&remote)?;
    for more in [&["-n", "32M"][..], &["-n", "32M", "-R"], &["-u", "-b", "10M", "-t", "1", "-R"]] {
        let bytes = tcp::measure_from(None, ends[1], more)?;
        ensure!(bytes > 500_000, "{more:?}: only {bytes} bytes of the host's arrived");
    }
    drop(server);
    pings.join().map_err(|_| anyhow::anyhow!("the pings panicked"))??;
    let shown = daemon.json("tunnels")?;
    let path = &shown["tunnels"][0]["path"];
    ensure!(shown["tunnels"][0]["state"] == "up" && path["interface"] == "card", "{shown}");
    ensure!(path["source"] == ends[0] && path["next_hop"] == ends[1], "{shown}");
    let into = format!("trace br-int in_port=vm,dl_src={},dl_dst=02:00:00:00:00:99", vm.mac);
    let text = daemon.run(&into)?;
    ensure!(text.contains("tnl_push(vxlan") && text.contains("by card, next hop"), "{text}");
    // Without the port the card is the host's alone, and the tunnel has no way.
    daemon.run("del-port card")?;
    vm.cannot_reach("10.9.0.2")?;
    host_reaches(ends[1])?;
    let shown = daemon.run("tunnels")?;
    ensure!(shown.contains("card, which is no port"), "{shown}");
    daemon.run("add-port br-int card options:share=tunnels")?;
    vm.ping("10.9.0.2", 5)
}

fn changes(lab: &Lab) -> Result<()> {
    let (daemon, vm, remote) = layout(lab, V4)?;
    let run = |args: &str| remote.node.run(&args.split(' ').collect::<Vec<_>>());
    vm.ping("10.9.0.2", 5)?;
    super::tunnels::found_again(&vm, &remote)?;
    // Another address of the card's: packets come from it and are taken there.
    cmd::run(&["ip", "addr", "flush", "dev", "card"])?;
    vm.cannot_reach("10.9.0.2")?;
    address(None, "card", "192.0.2.5")?;
    run("ip link set dev vx0 type vxlan remote 192.0.2.5")?;
    vm.ping("10.9.0.2", 5)?;
    host_reaches(V4[1])?;
    // The remote end behind a router.
    let far = "198.51.100.2";
    run(&format!("ip addr add {far}/32 dev lo"))?;
    cmd::run(&["ip", "route", "add", &format!("{far}/32"), "via", V4[1]])?;
    run("ip link del dev vx0")?;
    run(&format!("ip link add vx0 type vxlan id 77 local {far} remote 192.0.2.5 dstport 4789"))?;
    run("ip addr add 10.9.0.2/24 dev vx0")?;
    run("ip link set dev vx0 mtu 1400 up")?;
    daemon.run(&format!("set port vx options:remote_ip={far}"))?;
    vm.node.run(&["ip", "neigh", "flush", "all"])?;
    vm.ping("10.9.0.2", 5)?;
    let shown = daemon.json("tunnels")?;
    ensure!(shown["tunnels"][0]["path"]["next_hop"] == V4[1], "{shown}");
    daemon.run(&format!("set port vx options:remote_ip={}", V4[1]))?;
    run("ip link del dev vx0")?;
    run("ip addr flush dev eth0")?;
    // The card goes and comes back, and with it its address.
    cmd::run(&["ip", "link", "del", "dev", "card"])?;
    wait::until("the card is missed", || Ok(daemon.run("show")?.contains("missing")))?;
    lab.cable("card", &remote.node, "eth0")?;
    address(None, "card", V4[0])?;
    remote_end(&remote, V4)?;
    vm.node.run(&["ip", "neigh", "flush", "all"])?;
    vm.ping("10.9.0.2", 5)?;
    host_reaches(V4[1])
}

fn ovs(lab: &Lab) -> Result<()> {
    super::tunnel_peers::need("ovs-vswitchd")?;
    let vm = lab.host("vm", "10.9.0.1/24")?;
    vm.node.run(&["ip", "link", "set", "dev", "eth0", "mtu", "1400"])?;
    let peer = lab.host("card", "")?;
    address(None, "card", V4[0])?;
    let ovs = Ovs::start_on(lab, &peer.node)?;
    super::tunnel_peers::bridges(&ovs, &peer.node)?;
    let daemon = Daemon::start(lab)?;
    daemon
        .run("add-br br-int -- add-port br-int vm -- add-port br-int card options:share=tunnels")?;
    for (kind, more) in [
        ("vxlan", "options:key=77"),
        ("gre", ""),
        ("gre", "options:key=77 options:csum=true"),
        ("geneve", "options:key=77 options:csum=true"),
    ] {
        let tunnel = |remote: &str| format!("type={kind} options:remote_ip={remote} {more}");
        daemon.run(&format!("add-port br-int t0 {}", tunnel(V4[1])))?;
        ovs.vsctl(&format!("add-port br-i t0 -- set interface t0 {}", tunnel(V4[0])))?;
        vm.ping("10.9.0.2", 10)?;
        daemon.run("del-port t0")?;
        ovs.vsctl("del-port t0")?;
    }
    host_reaches(V4[1])
}

fn both(lab: &Lab) -> Result<()> {
    let nodes = [lab.node("n1")?, lab.node("n2")?];
    cmd::run(&[
        "ip", "link", "add", "name", "card", "netns", "n1", "type", "veth", "peer", "name", "card",
        "netns", "n2",
    ])?;
    let mut vms = Vec::new();
    let mut daemons = Vec::new();
    for (i, node) in nodes.iter().enumerate() {
        node.run(&["ip", "link", "set", "dev", "card", "up"])?;
        address(Some(node), "card", V4[i])?;
        let name = format!("vm{i}");
        let vm = lab.host(&name, &format!("10.9.0.{}/24", i + 1))?;
        vm.node.run(&["ip", "link", "set", "dev", "eth0", "mtu", "1400"])?;
        cmd::run(&["ip", "link", "set", "dev", &name, "netns", &node.name])?;
        let daemon = Daemon::start_on(lab, node, &[])?;
        daemon.run(&format!(
            "add-br br-int -- add-port br-int {name} -- add-br br-tun -- \
             add-port br-tun card options:share=tunnels -- \
             add-port br-int tun type=geneve options:remote_ip={} options:key=5",
            V4[1 - i]
        ))?;
        vms.push(vm);
        daemons.push(daemon);
    }
    vms[0].ping("10.9.0.2", 20)?;
    internal::tcp(&vms[0], "10.9.0.2", Some(&vms[1].node))?;
    let other = vms[1].clone();
    let back = std::thread::spawn(move || other.ping("10.9.0.1", 60));
    vms[0].ping("10.9.0.2", 60)?;
    back.join().map_err(|_| anyhow::anyhow!("the other direction panicked"))??;
    nodes[0].run(&["ping", "-q", "-c", "3", "-i", "0.1", "-W", "5", V4[1]])?;
    Ok(())
}

fn fragments(lab: &Lab) -> Result<()> {
    let (daemon, vm, remote) = layout(lab, V4)?;
    vm.ping("10.9.0.2", 3)?;
    // The kernel's device, bound to no card, sends what is too big for one in fragments.
    let run = |args: &str| remote.node.run(&args.split(' ').collect::<Vec<_>>());
    run("ip link del dev vx0")?;
    run("ip link add vx0 type vxlan id 77 local 192.0.2.2 remote 192.0.2.1 dstport 4789")?;
    run("ip addr add 10.9.0.2/24 dev vx0")?;
    run("ip link set dev vx0 mtu 1500 up")?;
    vm.node.run(&["ip", "neigh", "flush", "all"])?;
    vm.node.run(&["ip", "link", "set", "dev", "eth0", "mtu", "1500"])?;
    // So does the switch, if it may.
    daemon.run("set port vx options:df_default=false")?;
    let before = fragmented(&remote.node)?;
    wait::until("a packet in fragments is answered in fragments", || {
        let words = ["ping", "-q", "-M", "do", "-s", "1460", "-c", "1", "-W", "1", "10.9.0.1"];
        Ok(remote.node.output(&words)?.status == 0)
    })?;
    ensure!(fragmented(&remote.node)? > before, "nothing was sent in fragments");
    let shown = daemon.json("tunnels")?;
    ensure!(shown["tunnels"][0]["fragmented"].as_u64() > Some(0), "{shown}");
    ensure!(shown["tunnels"][0]["too_big"] == 0, "{shown}");
    internal::tcp(&vm, "10.9.0.2", Some(&remote.node))?;
    // Fragments of the host's own datagrams stay with it.
    let server = tcp::serve(&remote)?;
    let more = ["-u", "-l", "4000", "-b", "5M", "-t", "1", "-R"];
    let bytes = tcp::measure_from(None, V4[1], &more)?;
    ensure!(bytes > 300_000, "only {bytes} bytes of the host's datagrams arrived");
    drop(server);
    ensure!(daemon.drops("shared_port")? == 0, "the switch took what was the host's");
    Ok(())
}

/// Packets that a machine has sent in fragments.
fn fragmented(node: &Node) -> Result<u64> {
    let text = node.run(&["cat", "/proc/net/snmp"])?;
    let mut ip = text.lines().filter(|l| l.starts_with("Ip:"));
    let (names, values) = (ip.next().unwrap_or(""), ip.next().unwrap_or(""));
    let at = names.split(' ').position(|n| n == "FragOKs");
    Ok(at.and_then(|at| values.split(' ').nth(at)?.parse().ok()).unwrap_or(0))
}

fn refused(lab: &Lab) -> Result<()> {
    let _card = lab.host("card", "")?;
    let daemon = Daemon::start(lab)?;
    daemon.run("add-br br0")?;
    daemon.refuses(
        "add-port br0 card options:share=all",
        1,
        &["options:share=\"all\"", "expected tunnels"],
    )?;
    daemon.refuses("add-port br0 in0 type=internal options:share=tunnels", 1, &["applies to"])?;
    daemon.run("add-port br0 card options:share=tunnels")?;
    daemon.refuses(
        "security-group set card mac=02:00:00:00:00:07 ip=192.168.1.7",
        1,
        &["shared with the host"],
    )?;
    // The whole interface, and shared again: promiscuous only in between.
    let flags = || std::fs::read_to_string("/sys/class/net/card/flags");
    let shared = flags()?;
    daemon.run("clear port card options:share")?;
    ensure!(flags()? != shared, "the interface is not taken whole");
    daemon.run("set port card options:share=tunnels")?;
    ensure!(flags()? == shared, "the interface is still taken whole");
    Ok(())
}
