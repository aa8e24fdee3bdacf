//! The follower against the kernel, in a network namespace of its own. Needs root and iproute2.
#![allow(unsafe_code)] // unshare(2), raw sockets.

#[path = "common/netns.rs"]
mod netns;

use std::net::IpAddr;

use netns::{isolated, run};
use tunnel::kernel::Kernel;
use tunnel::neigh::Target;
use tunnel::netlink::Follower;

fn ip(args: &str) {
    run(&format!("ip {args}"));
}

fn a(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn path(k: &Kernel, dst: &str) -> Option<(String, IpAddr, IpAddr, u32)> {
    let p = k.path(a(dst))?;
    Some((k.links[&p.link].name.clone(), p.next_hop, p.src, p.mtu))
}

/// Drain until the kernel has said what makes `wanted` true. Most of it is said before the
/// command returns; duplicate address detection takes its time.
fn until(f: &mut Follower, what: &str, wanted: impl Fn(&Kernel) -> bool) {
    for _ in 0..100 {
        f.drain().unwrap();
        if wanted(f.kernel()) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("{what}: {:#?}", f.kernel());
}

#[test]
fn follows_the_kernel() {
    isolated(|| {
        ip("link add v0 type veth peer name v1");
        ip("link set v0 address 02:00:00:00:00:01");
        ip("addr add 10.1.0.1/24 dev v0");
        let mut f = Follower::open().unwrap();
        let v0 = f.kernel().link_named("v0").unwrap();
        assert_eq!(f.kernel().links[&v0].mac, 0x0200_0000_0001);
        assert!(!f.kernel().links[&v0].up);
        assert_eq!(f.kernel().owner(a("10.1.0.1")), Some(v0));
        assert_eq!(path(f.kernel(), "10.1.0.2"), None);

        ip("link set v0 up");
        ip("link set v1 up");
        f.drain().unwrap();
        let want = ("v0".to_owned(), a("10.1.0.2"), a("10.1.0.1"), 1500);
        assert_eq!(path(f.kernel(), "10.1.0.2"), Some(want));

        ip("addr add 10.1.0.5/32 dev v0");
        ip("route add 10.9.0.0/16 via 10.1.0.254 src 10.1.0.5 mtu 1400");
        ip("route add default via 10.1.0.253 metric 10");
        ip("route add unreachable 10.9.9.0/24");
        ip("route add 10.8.0.0/16 via 10.1.0.252 table 77");
        let before = f.kernel().clone();
        f.drain().unwrap();
        let want = ("v0".to_owned(), a("10.1.0.254"), a("10.1.0.5"), 1400);
        assert_eq!(path(f.kernel(), "10.9.1.1"), Some(want));
        let want = ("v0".to_owned(), a("10.1.0.253"), a("10.1.0.1"), 1500);
        assert_eq!(path(f.kernel(), "10.8.1.1"), Some(want), "not from table 77");
        assert_eq!(path(f.kernel(), "10.9.9.9"), None);
        assert_eq!(path(&before, "10.9.1.1"), None, "a snapshot stays");

        ip("neigh add 10.1.0.254 lladdr 02:00:00:00:00:fe dev v0");
        f.drain().unwrap();
        let gw = Target { link: v0, address: a("10.1.0.254") };
        assert_eq!(f.kernel().neighbours.get(&gw), Some(&0x0200_0000_00fe));
        ip("neigh change 10.1.0.254 lladdr 02:00:00:00:00:ff dev v0");
        f.drain().unwrap();
        assert_eq!(f.kernel().neighbours.get(&gw), Some(&0x0200_0000_00ff));
        ip("neigh del 10.1.0.254 dev v0");
        f.drain().unwrap();
        assert_eq!(f.kernel().neighbours.get(&gw), None);

        // Its routes go with the address, without a word of their own.
        ip("addr del 10.1.0.5/32 dev v0");
        f.drain().unwrap();
        assert_eq!(path(f.kernel(), "10.9.1.1").map(|p| p.1), Some(a("10.1.0.253")));

        ip("link set v0 mtu 9000");
        f.drain().unwrap();
        assert_eq!(path(f.kernel(), "10.1.0.2").map(|p| p.3), Some(9000));

        ip("link set v0 down");
        f.drain().unwrap();
        assert_eq!(path(f.kernel(), "10.1.0.2"), None);
        assert!(f.kernel().routes.lookup(a("10.1.0.2")).0.is_none());

        ip("link set v0 name other");
        f.drain().unwrap();
        assert_eq!(f.kernel().link_named("other"), Some(v0));
        ip("link del other");
        f.drain().unwrap();
        assert_eq!(f.kernel().link_named("other"), None);
        assert_eq!(f.kernel().owner(a("10.1.0.1")), None);
        assert_eq!(f.unparsed(), 0);
    });
}

#[test]
fn follows_ipv6_and_next_hops() {
    isolated(|| {
        ip("link add v0 type veth peer name v1");
        ip("link set v0 up");
        ip("link set v1 up");
        let mut f = Follower::open().unwrap();
        ip("addr add fd00::1/64 dev v0 nodad");
        ip("route add fd01::/64 via fd00::fe dev v0");
        until(&mut f, "IPv6 path", |k| {
            path(k, "fd01::9") == Some(("v0".to_owned(), a("fd00::fe"), a("fd00::1"), 1500))
        });
        let v0 = f.kernel().link_named("v0").unwrap();
        until(&mut f, "link-local address", |k| {
            k.source(v0, a("fe80::9")).is_some_and(|s| s.to_string().starts_with("fe80:"))
        });
        // Two next hops of one prefix: the one that is left is found.
        ip("route append fd01::/64 via fd00::fd dev v0");
        ip("route del fd01::/64 via fd00::fe dev v0");
        until(&mut f, "second next hop", |k| {
            path(k, "fd01::9").map(|p| p.1) == Some(a("fd00::fd"))
        });
        ip("route del fd01::/64");
        until(&mut f, "no route", |k| path(k, "fd01::9").is_none());

        ip("addr add 10.1.0.1/24 dev v0");
        ip("route add 10.9.0.0/16 nexthop via 10.1.0.2 nexthop via 10.1.0.3");
        ip("route add 10.7.0.0/16 via inet6 fd00::fe dev v0");
        f.drain().unwrap();
        assert_eq!(path(f.kernel(), "10.9.0.1").map(|p| p.1), Some(a("10.1.0.2")));
        let want = ("v0".to_owned(), a("fd00::fe"), a("10.1.0.1"), 1500);
        assert_eq!(path(f.kernel(), "10.7.0.1"), Some(want));
        assert_eq!(f.unparsed(), 0);
    });
}

#[test]
fn overrun_is_survived() {
    isolated(|| {
        ip("link add v0 type veth peer name v1");
        ip("link set v0 up");
        ip("addr add 10.1.0.1/16 dev v0");
        let mut f = Follower::open().unwrap();
        let dumps = f.dumps();
        // More notifications than the socket has room for.
        let dir = std::env::temp_dir().join(format!("tunnel-batch-{}", std::process::id()));
        let mut batch = String::new();
        for round in 0..8 {
            for i in 0..2000 {
                let n = round * 2000 + i;
                batch += &format!("route add 10.9.{}.{}/32 via 10.1.0.2\n", n / 250, n % 250 + 1);
            }
        }
        std::fs::write(&dir, batch).unwrap();
        ip(&format!("-batch {}", dir.display()));
        std::fs::remove_file(&dir).unwrap();
        f.drain().unwrap();
        assert_eq!(f.kernel().routes.iter().filter(|r| r.prefix.len() == 32).count(), 16_000);
        assert!(f.dumps() > dumps, "or it was no overrun");
        assert_eq!(path(f.kernel(), "10.9.63.250").map(|p| p.1), Some(a("10.1.0.2")));
    });
}
