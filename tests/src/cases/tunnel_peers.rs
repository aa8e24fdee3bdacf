//! Tunnels to stock Open vSwitch (userspace) and to the kernel's external mode, and what tshark says of
//! every outer header.

use std::path::Path;
use std::time::Duration;

use super::internal;
use super::tcp;
use super::tunnels::{V4, V6};
use crate::daemon::Daemon;
use crate::lab::{Host, Lab, Node};
use crate::ovs::Ovs;
use crate::runner::{Case, Skip};
use crate::{Result, cmd, ensure, wait};

pub const CASES: &[Case] = &[
    Case::new("tunnel-ovs-vxlan", "VXLAN to stock Open vSwitch: keys, checksums, IPv6", vxlan),
    Case::new("tunnel-ovs-gre", "GRE to stock Open vSwitch: keys, checksums, IPv6", gre),
    Case::new("tunnel-ovs-geneve", "Geneve to stock Open vSwitch: keys, checksums, IPv6", geneve),
    Case::new("tunnel-external", "a kernel's VXLAN device in external mode, many ids", external),
    Case::new("tunnel-external-ipv6", "the same over IPv6", external_v6),
    Case::new("tunnel-tshark", "tshark has no complaint about any outer header", tshark),
];

/// A program of another package; without it there is nothing to test against.
pub(super) fn need(program: &str) -> Result<()> {
    let there = ["/usr/bin", "/usr/sbin"].iter().any(|d| Path::new(d).join(program).exists());
    ensure!(there, Skip(format!("{program} is not installed")));
    Ok(())
}

/// A bridge br-u with eth0 and the addresses of the underlay, and br-i with 10.9.0.2.
pub(super) fn bridges(ovs: &Ovs, peer: &Node) -> Result<()> {
    ovs.vsctl("add-br br-u -- set bridge br-u datapath_type=netdev -- add-port br-u eth0")?;
    ovs.vsctl("add-br br-i -- set bridge br-i datapath_type=netdev")?;
    for bridge in ["br-u", "br-i"] {
        // Its bridges' interfaces do not finish checksums.
        peer.run(&["ethtool", "-K", bridge, "tx", "off"])?;
        peer.run(&["sysctl", "-q", "-w", &format!("net.ipv6.conf.{bridge}.disable_ipv6=0")])?;
        peer.run(&["ip", "link", "set", "dev", bridge, "up"])?;
    }
    peer.run(&["ip", "addr", "add", "192.0.2.2/24", "dev", "br-u"])?;
    peer.run(&["ip", "addr", "add", "2001:db8::2/64", "dev", "br-u", "nodad"])?;
    peer.run(&["ip", "link", "set", "dev", "br-i", "mtu", "1400"])?;
    peer.run(&["ip", "addr", "add", "10.9.0.2/24", "dev", "br-i"])?;
    Ok(())
}

/// `vm` on br-int here, `peer` with an Open vSwitch whose br-i has 10.9.0.2.
fn layout(lab: &Lab) -> Result<(Daemon, Host, Host, Ovs)> {
    need("ovs-vswitchd")?;
    let vm = lab.host("vm", "10.9.0.1/24")?;
    vm.node.run(&["ip", "link", "set", "dev", "eth0", "mtu", "1400"])?;
    let peer = lab.host("peer", "")?;
    let ovs = Ovs::start_on(lab, &peer.node)?;
    bridges(&ovs, &peer.node)?;
    let daemon = Daemon::start(lab)?;
    daemon.run("add-br br-int -- add-br br-phy -- add-port br-int vm -- add-port br-phy peer")?;
    internal::address("br-phy", "192.0.2.1/24")?;
    cmd::run(&["sysctl", "-q", "-w", "net.ipv6.conf.br-phy.disable_ipv6=0"])?;
    cmd::run(&["ip", "addr", "add", "2001:db8::1/64", "dev", "br-phy", "nodad"])?;
    Ok((daemon, vm, peer, ovs))
}

/// The tunnel with each of these options at both ends, over both families: ping, and TCP with the last.
fn against_ovs(lab: &Lab, kind: &str, options: &[&str]) -> Result<()> {
    let (daemon, vm, peer, ovs) = layout(lab)?;
    for ends in [V4, V6] {
        for more in options {
            let tunnel = |remote: &str| format!("type={kind} options:remote_ip={remote} {more}");
            daemon.run(&format!("add-port br-int t0 {}", tunnel(ends[1])))?;
            ovs.vsctl(&format!("add-port br-i t0 -- set interface t0 {}", tunnel(ends[0])))?;
            vm.ping("10.9.0.2", 20)?;
            if more == options.last().unwrap_or(&"") {
                internal::tcp(&vm, "10.9.0.2", Some(&peer.node))?;
                datagrams(&vm, &peer)?;
            }
            daemon.run("del-port t0")?;
            ovs.vsctl("del-port t0")?;
        }
    }
    Ok(())
}

/// UDP from and to a machine at once, at a rate that any machine carries.
fn datagrams(vm: &Host, peer: &Host) -> Result<()> {
    let _server = tcp::serve(peer)?;
    let more = ["-u", "-b", "5M", "-l", "1200", "-t", "1", "--bidir"];
    let bytes = tcp::measure(vm, "10.9.0.2", &more)?;
    ensure!(bytes > 100_000, "only {bytes} bytes of datagrams arrived");
    Ok(())
}

fn vxlan(lab: &Lab) -> Result<()> {
    let options = ["options:key=77", "options:key=16777215 options:csum=true", ""];
    against_ovs(lab, "vxlan", &options)
}

fn gre(lab: &Lab) -> Result<()> {
    let options =
        ["", "options:key=4294967295", "options:csum=true", "options:key=77 options:csum=true"];
    against_ovs(lab, "gre", &options)
}

fn geneve(lab: &Lab) -> Result<()> {
    let options = ["options:key=77", "options:key=16777215 options:csum=true", ""];
    against_ovs(lab, "geneve", &options)
}

fn external(lab: &Lab) -> Result<()> {
    with_external(lab, V4)
}

fn external_v6(lab: &Lab) -> Result<()> {
    with_external(lab, V6)
}

fn with_external(lab: &Lab, [here, there]: [&str; 2]) -> Result<()> {
    let vm = lab.host("vm", "10.9.0.1/24")?;
    vm.node.run(&["ip", "link", "set", "dev", "eth0", "mtu", "1400"])?;
    let remote = lab.host("remote", "")?;
    let daemon = Daemon::start(lab)?;
    daemon.run("add-br br-int -- add-br br-phy -- add-port br-int vm -- add-port br-phy remote")?;
    let run = |args: &str| remote.node.run(&args.split(' ').collect::<Vec<_>>());
    let (ip, field) = if here.contains(':') { ("ip6", "tun_ipv6") } else { ("ip", "tun") };
    if ip == "ip6" {
        cmd::run(&["sysctl", "-q", "-w", "net.ipv6.conf.br-phy.disable_ipv6=0"])?;
        cmd::run(&["ip", "addr", "add", &format!("{here}/64"), "dev", "br-phy", "nodad"])?;
        cmd::run(&["ip", "link", "set", "dev", "br-phy", "up"])?;
        run("sysctl -q -w net.ipv6.conf.eth0.disable_ipv6=0")?;
        run(&format!("ip addr add {there}/64 dev eth0 nodad"))?;
    } else {
        internal::address("br-phy", &format!("{here}/24"))?;
        run(&format!("ip addr add {there}/24 dev eth0"))?;
    }
    // The device takes every id; routes say which one a packet is sent with.
    run("ip link add vx0 type vxlan external dstport 4789")?;
    run("ip addr add 10.9.0.2/24 dev vx0")?;
    run("ip link set dev vx0 mtu 1400 address 02:00:00:00:00:99 up")?;
    run(&format!("ip neigh add 10.9.0.1 lladdr {} dev vx0", vm.mac))?;
    vm.node.run(&[
        "ip",
        "neigh",
        "add",
        "10.9.0.2",
        "lladdr",
        "02:00:00:00:00:99",
        "dev",
        "eth0",
    ])?;
    daemon.run("add-port br-int vx type=vxlan options:remote_ip=flow options:key=flow")?;
    daemon.run("del-flows br-int")?;
    for id in [1, 0xff_ffff] {
        run(&format!("ip route replace 10.9.0.1 encap {ip} id {id} dst {here} dev vx0"))?;
        daemon.run(&format!(
            "add-flow br-int in_port=vm,actions=set_field:{there}->{field}_dst,\
             set_field:{id}->tun_id,vx"
        ))?;
        daemon.run(&format!(
            "add-flow br-int in_port=vx,tun_id={id},{field}_src={there},actions=vm"
        ))?;
        vm.ping("10.9.0.2", 20)?;
        internal::tcp(&vm, "10.9.0.2", Some(&remote.node))?;
        daemon.run(&format!("del-flows br-int in_port=vx,tun_id={id}"))?;
        vm.cannot_reach("10.9.0.2")?;
    }
    Ok(())
}

/// Frames of each encapsulation, family and option, caught where they arrive.
fn tshark(lab: &Lab) -> Result<()> {
    need("tshark")?;
    let vm = lab.host("vm", "10.9.0.1/24")?;
    let remote = lab.host("remote", "192.0.2.2/24")?;
    remote.node.run(&["sysctl", "-q", "-w", "net.ipv6.conf.eth0.disable_ipv6=0"])?;
    remote.node.run(&["ip", "addr", "add", "2001:db8::2/64", "dev", "eth0", "nodad"])?;
    let daemon = Daemon::start(lab)?;
    daemon.run(
        "add-br br-int -- add-br br-phy -- add-port br-int vm -- add-port br-phy remote -- \
         route add 192.0.2.0/24 br-phy src=192.0.2.1 -- \
         route add 2001:db8::/64 br-phy src=2001:db8::1 -- del-flows br-int",
    )?;
    vm.node.run(&[
        "ip",
        "neigh",
        "add",
        "10.9.0.2",
        "lladdr",
        "02:00:00:00:00:99",
        "dev",
        "eth0",
    ])?;
    // One packet into every tunnel at a time.
    let mut names = Vec::new();
    for kind in ["vxlan", "gre", "geneve"] {
        for (family, ends) in [("4", V4), ("6", V6)] {
            for (key, more) in
                ["", "options:key=7", "options:csum=true options:key=8"].iter().enumerate()
            {
                let name = format!("{kind}{family}{key}");
                let remote = ends[1];
                daemon.run(&format!(
                    "add-port br-int {name} type={kind} options:remote_ip={remote} {more}"
                ))?;
                names.push(name);
            }
        }
    }
    daemon.run(&format!("add-flow br-int in_port=vm,actions={}", names.join(",")))?;
    let wire = remote.raw()?;
    vm.node.output(&["ping", "-q", "-c", "3", "-i", "0.1", "-W", "1", "-s", "301", "10.9.0.2"])?;
    let mut frames = Vec::new();
    wait::until("packets of all tunnels arrive", || {
        while let Some(frame) = wire.receive(Duration::from_millis(50))? {
            if frame.len() > 340 {
                frames.push(frame);
            }
        }
        Ok(frames.len() >= 3 * names.len())
    })?;
    let file = lab.dir().join("outer.pcap").display().to_string();
    std::fs::write(&file, pcap(&frames))?;
    #[rustfmt::skip]
    let words = [
        "tshark", "-r", &file, "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE",
        "-T", "fields", "-e", "frame.protocols", "-e", "_ws.expert.message",
    ];
    let text = cmd::run(&words)?;
    for kind in ["vxlan", "gre", "geneve"] {
        let of_kind = text.lines().filter(|l| l.contains(&format!(":{kind}:"))).count();
        ensure!(of_kind == 3 * 6, "{of_kind} of {kind}:\n{text}");
    }
    for line in text.lines() {
        let (protocols, complaint) = line.split_once('\t').unwrap_or((line, ""));
        // The packet inside is not answered, which is no fault of the header's.
        let complaint = complaint.replace("No response seen to ICMP request", "");
        let sound = protocols.contains("icmp") && complaint.trim_matches([',', ' ']).is_empty();
        ensure!(sound, "{line}");
    }
    Ok(())
}

/// A capture file of Ethernet frames.
fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(word.to_le_bytes());
    }
    for frame in frames {
        let len = frame.len() as u32;
        for word in [0, 0, len, len] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    file
}
