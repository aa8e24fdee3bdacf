//! Our end of a tunnel against the kernel's VXLAN device, over veth: neighbours resolved and
//! answered, ARP and pings through the tunnel, with and without checksums, over IPv4 and IPv6.
//! Needs root, iproute2 and ethtool.
#![allow(unsafe_code)] // unshare(2), raw sockets.

#[path = "common/netns.rs"]
mod netns;
#[path = "common/talk.rs"]
mod talk;

use netns::{isolated, run};
use talk::{ID, Tunnel, talk};
use tunnel::Kind;

fn underlay(v6: bool, csum: bool) -> Tunnel {
    let (us, them, len) =
        if v6 { ("fd00::1", "fd00::2", 64) } else { ("192.0.2.1", "192.0.2.2", 24) };
    run("ip link add u0 type veth peer name k0");
    run("ethtool -K k0 tx off");
    run("ip link set u0 up");
    run("ip link set k0 up");
    run(&format!("ip addr add {them}/{len} dev k0{}", if v6 { " nodad" } else { "" }));
    let sum = match (v6, csum) {
        (false, true) => " udpcsum",
        (false, false) => " noudpcsum",
        (true, _) => "",
    };
    run(&format!("ip link add vx0 type vxlan id {ID} local {them} remote {us} dstport 4789{sum}"));
    run("ip addr add 10.0.0.2/24 dev vx0");
    run("ip link set vx0 up");
    let (us, them) = (us.parse().unwrap(), them.parse().unwrap());
    Tunnel { kind: Kind::Vxlan, us, them, csum, key: true }
}

#[test]
fn vxlan_over_ipv4() {
    isolated(|| talk("u0", underlay(false, false)));
}

#[test]
fn vxlan_over_ipv4_with_checksums() {
    isolated(|| talk("u0", underlay(false, true)));
}

#[test]
fn vxlan_over_ipv6() {
    isolated(|| talk("u0", underlay(true, true)));
}
