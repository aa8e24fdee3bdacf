//! Ports of type `afxdp` on veth pairs against kernel stacks in other namespaces. Need root.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use afxdp::{AttachMode, FramePool, Region};
use common::*;
use ports::links::Change;
use ports::netdev::NetDevs;
use ports::tap::TapConfig;
use ports::{
    AfxdpConfig, Burst, PortDrop, PortError, PortHandle, PortKind, PortState, PortSystem, Queue,
    Reaction,
};

fn system() -> PortSystem {
    PortSystem::new(Region::new(16 << 20).unwrap()).unwrap()
}

fn afxdp() -> PortKind {
    PortKind::Afxdp(AfxdpConfig::default())
}

fn generic() -> PortKind {
    let mode = AttachMode::Generic;
    PortKind::Afxdp(AfxdpConfig { mode, accept_tag_loss: true, ..AfxdpConfig::default() })
}

/// Every frame is free again.
fn assert_all_home(system: &PortSystem, pool: FramePool) {
    drop(pool);
    assert_eq!(system.region.stored(), system.region.chunks());
}

/// A thread that forwards between two queues, both ways.
struct Forwarder {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(Queue, Queue, FramePool)>,
}

impl Forwarder {
    fn start(mut a: Queue, mut b: Queue, mut pool: FramePool) -> Forwarder {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut burst = Burst::new();
            while !stopped.load(Ordering::Relaxed) {
                for i in 0..2 {
                    let (from, to) = if i == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
                    from.set_ready();
                    from.rx_burst(&mut pool, &mut burst);
                    to.tx_burst(&mut pool, &mut burst);
                    from.flush(&mut pool);
                    to.flush(&mut pool);
                }
                if a.before_sleep(&mut pool) && b.before_sleep(&mut pool) {
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
            (a, b, pool)
        });
        Forwarder { stop, thread }
    }

    fn stop(self) -> (Queue, Queue, FramePool) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Carry `bytes` by TCP from one namespace to the other and back, and check them.
fn tcp_echo(from: &OtherNs, to: &OtherNs, to_address: &str, bytes: usize) {
    let address: SocketAddr = to_address.parse().unwrap();
    let data: Vec<u8> = (0..bytes).map(|i| ((i * 31) >> 3) as u8).collect();
    let want = data.clone();
    let listener = to.within(move || TcpListener::bind(address).unwrap());
    let server = std::thread::spawn(move || {
        let (mut s, _) = listener.accept().unwrap();
        s.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut got = vec![0; want.len()];
        s.read_exact(&mut got).unwrap();
        assert!(got == want);
        s.write_all(&got).unwrap();
    });
    let got = from.within(move || {
        let mut s = TcpStream::connect_timeout(&address, PATIENCE).expect("connect");
        s.set_read_timeout(Some(PATIENCE)).unwrap();
        s.set_write_timeout(Some(PATIENCE)).unwrap();
        s.write_all(&data).unwrap();
        let mut got = vec![0; data.len()];
        s.read_exact(&mut got).unwrap();
        got == data
    });
    assert!(got);
    server.join().unwrap();
}

/// One datagram there and back.
fn udp_echo(from: &OtherNs, to: &OtherNs, from_address: &str, to_address: &str, size: usize) {
    let (a, b): (SocketAddr, SocketAddr) =
        (from_address.parse().unwrap(), to_address.parse().unwrap());
    let server = to.within(move || UdpSocket::bind(b).unwrap());
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let client = from.within(move || UdpSocket::bind(a).unwrap());
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let data: Vec<u8> = (0..size).map(|i| i as u8).collect();
    client.send_to(&data, b).unwrap();
    let mut got = vec![0; size + 1];
    let (n, peer) = server.recv_from(&mut got).unwrap();
    assert_eq!(&got[..n], &data[..]);
    server.send_to(&got[..n], peer).unwrap();
    let n = client.recv(&mut got).unwrap();
    assert_eq!(&got[..n], &data[..]);
}

#[test]
fn tcp_and_udp_with_default_offloads() {
    if !enter() {
        return;
    }
    let (a, b) = (host("v0", "10.0.0.1/24"), host("v1", "10.0.0.2/24"));
    a.run("ip addr add fd00::1/64 dev eth0 nodad");
    b.run("ip addr add fd00::2/64 dev eth0 nodad");
    let mut system = system();
    let (p0, q0) = PortHandle::open("v0", afxdp(), &mut system).unwrap();
    let (p1, q1) = PortHandle::open("v1", afxdp(), &mut system).unwrap();
    assert_eq!(p0.status().xdp_mode, Some("native"));
    assert_eq!((p0.status().queues, p0.status().driver.as_str()), (1, "veth"));
    let f = Forwarder::start(one(q0), one(q1), system.region.pool());
    tcp_echo(&a, &b, "10.0.0.2:80", 4_000_000);
    tcp_echo(&a, &b, "[fd00::2]:80", 1_000_000);
    udp_echo(&a, &b, "10.0.0.1:90", "10.0.0.2:90", 1400);
    udp_echo(&a, &b, "[fd00::1]:90", "[fd00::2]:90", 1400);
    udp_echo(&a, &b, "10.0.0.1:91", "10.0.0.2:91", 0);
    let (q0, q1, mut pool) = f.stop();
    let c = p0.counters();
    assert!(c.rx_partial > 0, "no checksum was unfinished: the test tests nothing: {c:?}");
    assert!(c.tx_partial > 0);
    assert_eq!(c.dropped(PortDrop::TxInvalid) + c.dropped(PortDrop::RxBroken), 0);
    p0.close(vec![q0], &mut pool, &system);
    p1.close(vec![q1], &mut pool, &system);
    assert_all_home(&system, pool);
}

fn one(mut queues: Vec<Queue>) -> Queue {
    assert_eq!(queues.len(), 1);
    queues.pop().unwrap()
}

#[test]
fn tcp_inside_a_kernels_vxlan() {
    if !enter() {
        return;
    }
    let (a, b) = (host("v0", "10.0.0.1/24"), host("v1", "10.0.0.2/24"));
    let mut system = system();
    let (p0, q0) = PortHandle::open("v0", afxdp(), &mut system).unwrap();
    let (p1, q1) = PortHandle::open("v1", afxdp(), &mut system).unwrap();
    for (id, sum) in [(7, "noudpcsum"), (8, "udpcsum")] {
        for (ns, own, other) in [(&a, 1, 2), (&b, 2, 1)] {
            ns.run(&format!(
                "ip link add x{id} type vxlan id {id} dstport 4789 {sum} remote 10.0.0.{other}"
            ));
            ns.run(&format!("ip addr add 10.{id}.0.{own}/24 dev x{id}"));
            ns.run(&format!("ip link set x{id} up"));
        }
    }
    let f = Forwarder::start(one(q0), one(q1), system.region.pool());
    tcp_echo(&a, &b, "10.7.0.2:80", 300_000);
    tcp_echo(&a, &b, "10.8.0.2:80", 300_000);
    // ICMP has no unfinished checksum: with udpcsum it is the outer one that is.
    a.run("ping -c 1 -W 10 10.8.0.2");
    let (q0, q1, mut pool) = f.stop();
    assert!(p0.counters().checksums_finished > 0);
    p0.close(vec![q0], &mut pool, &system);
    p1.close(vec![q1], &mut pool, &system);
    assert_all_home(&system, pool);
}

#[test]
fn tcp_between_a_tap_and_a_veth() {
    if !enter() {
        return;
    }
    let a = host("v0", "10.0.0.1/24");
    let b = OtherNs::new();
    let mut system = system();
    let (p0, q0) = PortHandle::open("v0", afxdp(), &mut system).unwrap();
    let tap = PortKind::Internal(TapConfig { name: "t0".into(), ..TapConfig::default() });
    let (mut p1, q1) = PortHandle::open("t0", tap, &mut system).unwrap();
    assert_eq!(p1.state(), &PortState::LinkDown);
    ip(&format!("link set t0 netns {}", b.pid()));
    let event = wait_for("the move", || {
        let gone =
            |e: &ports::links::LinkEvent| e.name == "t0" && matches!(e.change, Change::Gone(_));
        system.links.drain().unwrap().into_iter().find(gone)
    });
    assert_eq!(p1.on_event(&event), Reaction::Changed);
    assert!(p1.status().warnings[0].contains("another network namespace"));
    b.run("ip link set t0 up");
    b.run("ip addr add 10.0.0.2/24 dev t0");
    let f = Forwarder::start(one(q0), one(q1), system.region.pool());
    tcp_echo(&a, &b, "10.0.0.2:80", 1_000_000);
    let (q0, q1, mut pool) = f.stop();
    assert!(p1.counters().tx_partial > 0 && p1.counters().rx_partial > 0);
    p0.close(vec![q0], &mut pool, &system);
    p1.close(vec![q1], &mut pool, &system);
    assert!(!b.run("ip link").contains("t0"), "the tap goes with its port");
    assert_all_home(&system, pool);
}

#[test]
fn generic_mode_works_where_tags_do_not_matter() {
    if !enter() {
        return;
    }
    let (a, b) = (host("v0", "10.0.0.1/24"), host("v1", "10.0.0.2/24"));
    let mut system = system();
    let refused = PortKind::Afxdp(AfxdpConfig { mode: AttachMode::Generic, ..Default::default() });
    let e = PortHandle::open("v0", refused, &mut system).unwrap_err();
    assert!(e.to_string().contains("VLAN tags could be lost"), "{e}");
    let (p0, q0) = PortHandle::open("v0", generic(), &mut system).unwrap();
    let (p1, q1) = PortHandle::open("v1", generic(), &mut system).unwrap();
    assert_eq!(p0.status().xdp_mode, Some("generic"));
    assert!(p0.status().warnings.iter().any(|w| w.contains("tags may be lost")));
    let f = Forwarder::start(one(q0), one(q1), system.region.pool());
    udp_echo(&a, &b, "10.0.0.1:90", "10.0.0.2:90", 1400);
    let (q0, q1, mut pool) = f.stop();
    p0.close(vec![q0], &mut pool, &system);
    p1.close(vec![q1], &mut pool, &system);
    assert_all_home(&system, pool);
}

#[test]
fn the_interface_is_given_back_as_it_was() {
    if !enter() {
        return;
    }
    let _a = host("v0", "10.0.0.1/24");
    ip("addr add 10.0.0.9/24 dev v0");
    let describe = || {
        // An interface that was up once has another idle queue discipline.
        let link = run("ip", "-d link show v0").replace("qdisc noop", "qdisc noqueue");
        (link, run("ethtool", "-k v0"))
    };
    let mut system = system();
    for kind in [afxdp(), generic()] {
        let before = describe();
        let (p, q) = PortHandle::open("v0", kind, &mut system).unwrap();
        let taken = describe();
        assert!(taken.0.contains("PROMISC") && taken.0.contains("xdp"), "{}", taken.0);
        assert!(taken.1.contains("rx-vlan-offload: off"), "{}", taken.1);
        assert!(p.status().warnings.iter().any(|w| w.contains("10.0.0.9")), "{:?}", p.status());
        // A second port on it is refused and leaves it alone.
        let e = PortHandle::open("v0", afxdp(), &mut system).unwrap_err();
        assert!(e.to_string().contains("already has an XDP program"), "{e}");
        assert_eq!(describe(), taken);
        let mut pool = system.region.pool();
        p.close(q, &mut pool, &system);
        // The state that `ip` shows follows the flags a moment later.
        wait_for("the link to settle", || (describe().0 == before.0).then_some(()));
        assert_eq!(describe(), before);
        assert_all_home(&system, pool);
    }
}

#[test]
fn what_cannot_be_opened_says_why() {
    if !enter() {
        return;
    }
    let mut system = system();
    let e = PortHandle::open("none0", afxdp(), &mut system).unwrap_err();
    assert!(matches!(&e, PortError::NoSuchInterface { interface } if interface == "none0"), "{e}");
    let e = PortHandle::open("a/b", afxdp(), &mut system).unwrap_err();
    assert!(matches!(&e, PortError::BadName { .. }), "{e}");
    // Loopback has no hardware address and no VLANs, but generic XDP.
    let e = PortHandle::open("lo", afxdp(), &mut system).unwrap_err();
    assert!(e.to_string().starts_with("lo: "), "{e}");
    // No frames: 4 MiB are 2048, of which half may wait in fill rings.
    let mut small = PortSystem::new(Region::new(4 << 20).unwrap()).unwrap();
    let _hosts: Vec<_> = (0..8).map(|i| host(&format!("v{i}"), "10.0.0.1/24")).collect();
    let mut open = Vec::new();
    let e = loop {
        match PortHandle::open(&format!("v{}", open.len()), afxdp(), &mut small) {
            Ok(p) => open.push(p),
            Err(e) => break e,
        }
        if open.len() == 8 {
            // Eight ports fit into the smallest region: their shares shrink.
            let mut pool = small.region.pool();
            for (p, q) in open {
                p.close(q, &mut pool, &small);
            }
            return assert_all_home(&small, pool);
        }
    };
    panic!("{e}");
}

#[test]
fn jumbo_frames_after_a_change_of_mtu() {
    if !enter() {
        return;
    }
    let (a, b) = (host("v0", "10.0.0.1/24"), host("v1", "10.0.0.2/24"));
    let mut system = system();
    let (mut p0, q0) = PortHandle::open("v0", afxdp(), &mut system).unwrap();
    let (mut p1, q1) = PortHandle::open("v1", afxdp(), &mut system).unwrap();
    for v in ["v0", "v1"] {
        ip(&format!("link set {v} mtu 9000"));
    }
    for ns in [&a, &b] {
        ns.run("ip link set eth0 mtu 9000");
    }
    wait_for("the new MTU", || {
        for e in system.links.drain().unwrap() {
            for p in [&mut p0, &mut p1] {
                assert_ne!(p.on_event(&e), Reaction::Close);
            }
        }
        (p0.status().mtu == Some(9000) && p1.status().mtu == Some(9000)).then_some(())
    });
    let f = Forwarder::start(one(q0), one(q1), system.region.pool());
    udp_echo(&a, &b, "10.0.0.1:90", "10.0.0.2:90", 8900);
    tcp_echo(&a, &b, "10.0.0.2:80", 1_000_000);
    // Back to small ones: too large frames are dropped and counted.
    ip("link set v1 mtu 1400");
    wait_for("the small MTU", || {
        for e in system.links.drain().unwrap() {
            let _ = p1.on_event(&e);
        }
        (p1.status().mtu == Some(1400)).then_some(())
    });
    let s = a.within(|| UdpSocket::bind("10.0.0.1:95").unwrap());
    s.send_to(&[1; 3000], "10.0.0.2:95").unwrap();
    wait_for("the drop", || (p1.counters().dropped(PortDrop::TxTooBig) > 0).then_some(()));
    let (q0, q1, mut pool) = f.stop();
    p0.close(vec![q0], &mut pool, &system);
    p1.close(vec![q1], &mut pool, &system);
    assert_all_home(&system, pool);
}

/// Interfaces are deleted, moved away and come back under load: the port follows, and no frame is
/// lost from the accounting.
#[test]
fn comes_back_after_deletion_and_moves_under_load() {
    if !enter() {
        return;
    }
    let mut system = system();
    let mut pool = system.region.pool();
    let other = OtherNs::new();
    let mut a = host("v0", "10.0.0.1/24");
    a.run("ip neigh add 10.0.0.2 lladdr 02:00:00:00:00:22 dev eth0");
    let (mut port, queues) = PortHandle::open("v0", afxdp(), &mut system).unwrap();
    let mut queue = Some(one(queues));
    let mut received_before = 0;
    for round in 0..4 {
        // Load both ways.
        let flood = a.within(|| UdpSocket::bind("10.0.0.1:0").unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let flooder = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let _ = flood.send_to(&[0; 1000], "10.0.0.2:9");
            }
        });
        let q = queue.as_mut().unwrap();
        let mut burst = Burst::new();
        let mut seen = 0;
        wait_for("load", || {
            q.rx_burst(&mut pool, &mut burst);
            seen += burst.len();
            q.tx_burst(&mut pool, &mut burst);
            q.flush(&mut pool);
            (seen > 200).then_some(())
        });
        assert!(q.frames_held() > 0);
        let moved = round % 2 == 1;
        let script = if moved {
            format!("link set v0 netns {}", other.pid())
        } else {
            "link del v0".to_owned()
        };
        let changer = {
            let ns = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
            std::thread::spawn(move || {
                use std::os::fd::AsFd;
                let net = rustix::thread::LinkNameSpaceType::Network;
                rustix::thread::move_into_link_name_space(ns.as_fd(), Some(net)).unwrap();
                ip(&script);
            })
        };
        wait_for("the end of the interface", || {
            q.rx_burst(&mut pool, &mut burst);
            q.tx_burst(&mut pool, &mut burst);
            q.flush(&mut pool);
            let events = system.links.drain().unwrap();
            events.iter().any(|e| port.on_event(e) == Reaction::Close).then_some(())
        });
        changer.join().unwrap();
        stop.store(true, Ordering::Relaxed);
        flooder.join().unwrap();
        port.closed(vec![queue.take().unwrap()], &mut pool, &system, Instant::now());
        assert_eq!(port.state(), &PortState::Missing);
        assert!(!port.is_open() && port.status().ifindex.is_none());
        let held: usize = system.region.chunks() - system.region.stored() - pool.len();
        assert_eq!(held, 0, "round {round}: frames are missing");
        if moved {
            assert!(!other.run("ip -d link show v0").contains("xdp"), "the program is off there");
            other.run("ip link del v0");
        }
        assert!(!port.wants_reopen(&system, Instant::now() + PATIENCE), "it is not there");

        a = host("v0", "10.0.0.1/24");
        a.run("ip neigh add 10.0.0.2 lladdr 02:00:00:00:00:22 dev eth0");
        wait_for("its return", || {
            let events = system.links.drain().unwrap();
            events.iter().any(|e| port.on_event(e) == Reaction::Reopen).then_some(())
        });
        assert!(port.wants_reopen(&system, Instant::now() + PATIENCE));
        queue = Some(one(port.reopen(&mut system, Instant::now()).unwrap()));
        let c = port.counters();
        assert!(c.rx_packets > received_before, "counters go on");
        received_before = c.rx_packets;
    }
    port.close(vec![queue.take().unwrap()], &mut pool, &system);
    assert_all_home(&system, pool);
}

#[test]
fn link_state_is_followed_and_sending_to_a_link_that_is_down_is_counted() {
    if !enter() {
        return;
    }
    let a = host("v0", "10.0.0.1/24");
    let mut system = system();
    let mut pool = system.region.pool();
    let (mut port, queues) = PortHandle::open("v0", afxdp(), &mut system).unwrap();
    let mut q = one(queues);
    let follow = |port: &mut PortHandle, system: &mut PortSystem, want: PortState| {
        wait_for(&format!("{want:?}"), || {
            for e in system.links.drain().unwrap() {
                let _ = port.on_event(&e);
            }
            (*port.state() == want).then_some(())
        });
    };
    ip("link set v0 down");
    follow(&mut port, &mut system, PortState::LinkDown);
    let frame = arp_request([2, 0, 0, 0, 0, 9], [10, 0, 0, 9], [10, 0, 0, 1]);
    for _ in 0..3 {
        send(&mut q, &mut pool, &[&frame]);
    }
    assert!(port.counters().dropped(PortDrop::TxDown) > 0);
    // What the other end's kernel sent by itself while the link was up may still lie in the ring.
    let mut burst = Burst::new();
    wait_for("nothing to stay awake for", || {
        q.rx_burst(&mut pool, &mut burst);
        burst.drain(..).for_each(|p| pool.free_packet(p));
        q.before_sleep(&mut pool).then_some(())
    });
    ip("link set v0 up");
    follow(&mut port, &mut system, PortState::Up);
    send(&mut q, &mut pool, &[&frame]);
    receive(&mut q, &mut pool, "an answer", |p| is_arp_reply(p.data(), [10, 0, 0, 1])).unwrap();
    a.run("ip link set eth0 down");
    follow(&mut port, &mut system, PortState::LinkDown);
    a.run("ip link set eth0 up");
    follow(&mut port, &mut system, PortState::Up);
    port.close(vec![q], &mut pool, &system);
    assert_all_home(&system, pool);
}

#[test]
fn several_queues_are_several_sockets() {
    if !enter() {
        return;
    }
    let ns = OtherNs::new();
    ip(&format!(
        "link add v0 numrxqueues 4 numtxqueues 4 type veth \
         peer name eth0 numrxqueues 4 numtxqueues 4 netns {}",
        ns.pid()
    ));
    run("ethtool", "-L v0 rx 3 tx 3");
    // Native XDP wants as many queues as the other end may send on.
    let e = PortHandle::open("v0", afxdp(), &mut system()).unwrap_err();
    assert!(e.to_string().contains("native mode was refused"), "{e}");
    ns.run("ethtool -L eth0 rx 3 tx 3");
    let mut system = system();
    let wants = |n_rxq| PortKind::Afxdp(AfxdpConfig { n_rxq, ..AfxdpConfig::default() });
    let e = PortHandle::open("v0", wants(Some(2)), &mut system).unwrap_err();
    assert!(e.to_string().contains("n_rxq=2: the interface has 3"), "{e}");
    let copies = AfxdpConfig { require_zero_copy: true, ..AfxdpConfig::default() };
    let e = PortHandle::open("v0", PortKind::Afxdp(copies), &mut system).unwrap_err();
    assert!(e.to_string().contains("without a copy"), "{e}");
    let (p, q) = PortHandle::open("v0", wants(Some(3)), &mut system).unwrap();
    assert_eq!((p.status().queues, q.len()), (3, 3));
    let mut pool = system.region.pool();
    p.close(q, &mut pool, &system);
    assert_all_home(&system, pool);
}

/// A tap that another program deletes is made again.
#[test]
fn a_deleted_tap_is_made_again() {
    if !enter() {
        return;
    }
    let mut system = system();
    let mut pool = system.region.pool();
    let kind = PortKind::Internal(TapConfig {
        name: "t0".into(),
        mac: Some([2, 0, 0, 0, 0, 7]),
        mtu: Some(1400),
    });
    let (mut p, q) = PortHandle::open("t0", kind, &mut system).unwrap();
    p.set_mtu(1300, &system).unwrap();
    ip("link del t0");
    wait_for("its end", || {
        let events = system.links.drain().unwrap();
        events.iter().any(|e| p.on_event(e) == Reaction::Close).then_some(())
    });
    let now = Instant::now();
    p.closed(q, &mut pool, &system, now);
    assert!(!p.wants_reopen(&system, now), "not at once");
    // While the name is taken by another, it fails and says so.
    ip("link add t0 type veth peer name t1");
    p.reopen(&mut system, now).unwrap_err();
    assert!(matches!(p.state(), PortState::Failed(why) if why.contains("exists already")));
    ip("link del t0");
    assert!(p.wants_reopen(&system, now + PATIENCE));
    let q = p.reopen(&mut system, now).unwrap();
    let devs = NetDevs::new().unwrap();
    assert_eq!(devs.mac("t0").unwrap(), [2, 0, 0, 0, 0, 7]);
    assert_eq!(devs.mtu("t0").unwrap(), 1300);
    p.close(q, &mut pool, &system);
    assert_all_home(&system, pool);
}

#[test]
fn many_ports_are_closed_side_by_side() {
    if !enter() {
        return;
    }
    let mut system = system();
    let mut ports = Vec::new();
    let _hosts: Vec<_> = (0..4).map(|i| host(&format!("v{i}"), "10.0.0.1/24")).collect();
    for i in 0..4 {
        ports.push(PortHandle::open(&format!("v{i}"), afxdp(), &mut system).unwrap());
    }
    for i in 0..100 {
        let name = format!("t{i}");
        let kind = PortKind::Internal(TapConfig { name: name.clone(), ..TapConfig::default() });
        ports.push(PortHandle::open(&name, kind, &mut system).unwrap());
    }
    assert_eq!(run("ip", "-br link").lines().count(), 105);
    ports::close_all(ports, &system);
    assert_eq!(run("ip", "-br link").lines().count(), 5);
    assert!(!run("ip", "-d link").contains("xdp"));
    let pool = system.region.pool();
    assert_all_home(&system, pool);
}

/// A queue that ran out of free frames goes on when there are some again.
#[test]
fn starvation_ends_with_new_frames() {
    if !enter() {
        return;
    }
    let a = host("v0", "10.0.0.1/24");
    a.run("ip neigh add 10.0.0.2 lladdr 02:00:00:00:00:22 dev eth0");
    let mut system = system();
    let mut pool = system.region.pool();
    let (port, queues) = PortHandle::open("v0", afxdp(), &mut system).unwrap();
    let mut q = one(queues);
    let held: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
    let s = a.within(|| UdpSocket::bind("10.0.0.1:0").unwrap());
    let mut kept = Vec::new();
    let mut burst = Burst::new();
    let again = wait_for("starvation", || {
        for _ in 0..64 {
            s.send_to(&[0; 100], "10.0.0.2:9").unwrap();
        }
        q.rx_burst(&mut pool, &mut burst);
        kept.extend(burst.drain(..));
        let again = q.flush(&mut pool);
        q.housekeeping();
        (port.counters().dropped(PortDrop::RxFillEmpty) > 0).then_some(again)
    });
    assert!(again, "the queue asks to be tended again");
    held.into_iter().for_each(|f| pool.free(f));
    kept.into_iter().for_each(|p| pool.free_packet(p));
    q.flush(&mut pool);
    s.send_to(b"after", "10.0.0.2:77").unwrap();
    receive(&mut q, &mut pool, "a packet", |p| is_udp_to(p.data(), 77)).unwrap();
    port.close(vec![q], &mut pool, &system);
    assert_all_home(&system, pool);
}

/// More bursts in a round than the transmit ring holds: sent or counted, never kept.
#[test]
fn a_full_ring_is_kicked_or_drops() {
    if !enter() {
        return;
    }
    let _a = host("v0", "10.0.0.1/24");
    let mut system = system();
    let mut pool = system.region.pool();
    let (port, queues) = PortHandle::open("v0", afxdp(), &mut system).unwrap();
    let mut q = one(queues);
    let frame = arp_request([2, 0, 0, 0, 0, 9], [10, 0, 0, 9], [10, 0, 0, 77]);
    for _ in 0..5000 / ports::BURST {
        let mut burst: Burst =
            (0..ports::BURST).map(|_| pool.packet_from(&frame).unwrap()).collect();
        q.tx_burst(&mut pool, &mut burst);
        assert!(burst.is_empty());
    }
    while q.flush(&mut pool) {}
    q.housekeeping();
    let c = port.counters();
    let all = (5000 / ports::BURST * ports::BURST) as u64;
    assert_eq!(c.tx_packets + c.dropped(PortDrop::TxFull), all, "{c:?}");
    assert_eq!(c.tx_bytes, c.tx_packets * frame.len() as u64);
    assert!(c.tx_packets > 1024, "the ring was never emptied: {c:?}");
    port.close(vec![q], &mut pool, &system);
    assert_all_home(&system, pool);
}
