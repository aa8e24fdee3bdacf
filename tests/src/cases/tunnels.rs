//! Tunnels, against implementations that were not written here.

use super::internal;
use crate::daemon::Daemon;
use crate::lab::{Host, Lab};
use crate::runner::Case;
use crate::{Result, cmd, ensure, wait};

pub const CASES: &[Case] = &[
    Case::new("tunnel-vxlan", "a kernel's VXLAN device over IPv4: ping, MTU edge, TCP", over_ipv4),
    Case::new("tunnel-vxlan-ipv6", "the same over IPv6", over_ipv6),
    Case::new("tunnel-flow", "flows choose remote and id of a tunnel, and match them", by_flow),
    Case::new("tunnel-moves", "a remote end with another MAC is found again", moves),
    Case::new("tunnel-refused", "what cannot be a tunnel is refused and not stored", refused),
];

pub(super) const V4: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
pub(super) const V6: [&str; 2] = ["2001:db8::1", "2001:db8::2"];

/// Machine `vm` (10.9.0.1) on br-int, and `remote` behind br-phy with a VXLAN device of the kernel
/// (10.9.0.2, id 77). br-int has no tunnel port yet.
fn underlay(lab: &Lab, [here, there]: [&str; 2]) -> Result<(Daemon, Host, Host)> {
    let vm = lab.host("vm", "10.9.0.1/24")?;
    let remote = lab.host("remote", "")?;
    let daemon = Daemon::start(lab)?;
    daemon.run("add-br br-int -- add-br br-phy -- add-port br-int vm -- add-port br-phy remote")?;
    let run = |args: &str| remote.node.run(&args.split(' ').collect::<Vec<_>>());
    if here.contains(':') {
        cmd::run(&["sysctl", "-q", "-w", "net.ipv6.conf.br-phy.disable_ipv6=0"])?;
        run("sysctl -q -w net.ipv6.conf.eth0.disable_ipv6=0")?;
        cmd::run(&["ip", "addr", "add", &format!("{here}/64"), "dev", "br-phy", "nodad"])?;
        cmd::run(&["ip", "link", "set", "dev", "br-phy", "up"])?;
        run(&format!("ip addr add {there}/64 dev eth0 nodad"))?;
    } else {
        internal::address("br-phy", &format!("{here}/24"))?;
        run(&format!("ip addr add {there}/24 dev eth0"))?;
    }
    run(&format!(
        "ip link add vx0 type vxlan id 77 local {there} remote {here} dstport 4789 dev eth0"
    ))?;
    run("ip addr add 10.9.0.2/24 dev vx0")?;
    run("ip link set dev vx0 up")?;
    Ok((daemon, vm, remote))
}

fn over_ipv4(lab: &Lab) -> Result<()> {
    through(lab, V4, 1450)
}

fn over_ipv6(lab: &Lab) -> Result<()> {
    through(lab, V6, 1430)
}

/// Ping, the largest packets that fit, and TCP both ways.
fn through(lab: &Lab, ends: [&str; 2], mtu: usize) -> Result<()> {
    let (daemon, vm, remote) = underlay(lab, ends)?;
    daemon.run(&format!(
        "add-port br-int vx type=vxlan options:remote_ip={} options:key=77",
        ends[1]
    ))?;
    let mtu = mtu.to_string();
    vm.node.run(&["ip", "link", "set", "dev", "eth0", "mtu", &mtu])?;
    remote.node.run(&["ip", "link", "set", "dev", "vx0", "mtu", &mtu])?;
    vm.ping("10.9.0.2", 50)?;
    let largest = (mtu.parse::<usize>().unwrap_or(0) - 28).to_string();
    let words = ["ping", "-q", "-M", "do", "-s", &largest, "-c", "5", "-i", "0.05", "-W", "2"];
    let text = vm.node.run(&[&words[..], &["10.9.0.2"]].concat())?;
    ensure!(text.contains(" 0% packet loss"), "the largest packets: {text}");
    internal::tcp(&vm, "10.9.0.2", Some(&remote.node))
}

fn by_flow(lab: &Lab) -> Result<()> {
    let (daemon, vm, _remote) = underlay(lab, V4)?;
    daemon.run(
        "add-port br-int vx type=vxlan ofport_request=9 options:remote_ip=flow options:key=flow",
    )?;
    daemon.run("del-flows br-int")?;
    daemon.run(
        "add-flow br-int in_port=vm,actions=set_field:192.0.2.2->tun_dst,set_field:77->tun_id,9",
    )?;
    daemon.run("add-flow br-int in_port=9,tun_id=77,tun_src=192.0.2.2,actions=vm")?;
    vm.ping("10.9.0.2", 20)?;
    daemon.run("add-flow br-int priority=40000,in_port=9,tun_id=77,actions=drop")?;
    vm.cannot_reach("10.9.0.2")
}

fn moves(lab: &Lab) -> Result<()> {
    let (daemon, vm, remote) = underlay(lab, V4)?;
    daemon.run("add-port br-int vx type=vxlan options:remote_ip=192.0.2.2 options:key=77")?;
    found_again(&vm, &remote)
}

/// The remote end of a tunnel that is in use changes its Ethernet address in silence, twice: traffic
/// resumes long before its neighbour entry has aged, which takes half a minute.
pub(super) fn found_again(vm: &Host, remote: &Host) -> Result<()> {
    vm.ping("10.9.0.2", 10)?;
    for address in ["02:00:00:00:77:77", "02:00:00:00:88:88"] {
        let stream = ["ping", "-q", "-i", "0.05", "-c", "2000", "10.9.0.2"];
        let _stream = vm.node.start(&stream)?;
        vm.ping("10.9.0.2", 10)?;
        remote.node.run(&["ip", "link", "set", "dev", "eth0", "address", address])?;
        let since = std::time::Instant::now();
        wait::until("the remote end is found again", || {
            let out = vm.node.output(&["ping", "-q", "-c", "1", "-W", "0.1", "10.9.0.2"])?;
            Ok(out.status == 0)
        })?;
        println!("found again after {:.2} s", since.elapsed().as_secs_f64());
    }
    vm.ping("10.9.0.2", 10)
}

fn refused(lab: &Lab) -> Result<()> {
    let daemon = Daemon::start(lab)?;
    daemon.run("add-br br-int")?;
    for (command, why) in [
        ("add-port br-int t type=vxlan", "options:remote_ip"),
        ("add-port br-int t type=gre options:remote_ip=1.2.3", "options:remote_ip"),
        ("add-port br-int t type=vxlan options:remote_ip=192.0.2.2 options:key=16777216", "key"),
        ("add-port br-int t type=geneve options:remote_ip=192.0.2.2 options:ttl=0", "options:ttl"),
    ] {
        let out = daemon.ctl(&command.split(' ').collect::<Vec<_>>())?;
        ensure!(out.status != 0 && out.stderr.contains(why), "{command}: {}", out.stderr);
    }
    daemon.run("add-port br-int t type=vxlan options:remote_ip=192.0.2.2 options:key=5")?;
    let twice = "add-port br-int u type=vxlan options:remote_ip=192.0.2.2 options:key=5";
    let out = daemon.ctl(&twice.split(' ').collect::<Vec<_>>())?;
    ensure!(out.status != 0 && out.stderr.contains("\"t\""), "{}", out.stderr);
    let ports = daemon.run("list-ports br-int")?;
    ensure!(ports.trim() == "t", "list-ports: {ports}");
    Ok(())
}
