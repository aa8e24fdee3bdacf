//! Taps against the kernel, in network namespaces of the tests' own. Need root.

mod common;

use std::net::UdpSocket;
use std::sync::Arc;

use afxdp::{Checksum, Packet, Region};
use common::*;
use etherparse::PacketBuilder;
use ports::netdev::NetDevs;
use ports::tap::{self, Tap, TapConfig};
use ports::{Burst, PortDrop, PortError, Queue, RxStatus};

const US: [u8; 6] = [0x02, 0, 0, 0, 0, 0x22];
const KERNEL: [u8; 6] = [0x02, 0, 0, 0, 0, 0x11];

fn config(mtu: u32) -> TapConfig {
    TapConfig { name: "t0".into(), mac: Some(KERNEL), mtu: Some(mtu) }
}

fn open(mtu: u32) -> (Tap, Queue) {
    let devs = NetDevs::new().unwrap();
    let (tap, q) = tap::open(&config(mtu), &devs, Arc::default()).unwrap();
    (tap, Queue::Tap(q))
}

/// With address 10.9.0.1, and 10.9.0.2 as us.
fn up() {
    ip("link set t0 up");
    ip("addr add 10.9.0.1/24 dev t0");
    ip("neigh add 10.9.0.2 lladdr 02:00:00:00:00:22 dev t0");
}

#[test]
fn answers_arp_and_ping() {
    if !enter() {
        return;
    }
    let region = Region::new(1 << 21).unwrap();
    let mut pool = region.pool();
    let (tap, mut q) = open(1500);
    assert_eq!(tap.name().as_deref(), Some("t0"));
    up();
    send(&mut q, &mut pool, &[&arp_request(US, [10, 9, 0, 2], [10, 9, 0, 1])]);
    receive(&mut q, &mut pool, "an ARP reply", |p| is_arp_reply(p.data(), [10, 9, 0, 1])).unwrap();

    let echo = PacketBuilder::ethernet2(US, KERNEL)
        .ipv4([10, 9, 0, 2], [10, 9, 0, 1], 64)
        .icmpv4_echo_request(7, 9);
    let mut frame = Vec::new();
    echo.write(&mut frame, &[0xab; 1400]).unwrap();
    send(&mut q, &mut pool, &[&frame]);
    let reply = receive(&mut q, &mut pool, "an echo reply", |p| {
        p.data()[12..14] == [8, 0] && p.data()[23] == 1
    })
    .unwrap();
    assert_eq!(reply[34], 0, "type is echo reply");
    assert_eq!(&reply[42..], &[0xab; 1400][..]);
    let c = q.counters().read();
    assert_eq!((c.tx_packets, c.tx_bytes), (2, 42 + frame.len() as u64));
    assert!(c.rx_packets >= 2);
    q.close(&mut pool);
    drop(tap);
    assert_eq!(NetDevs::new().unwrap().ifindex("t0").unwrap(), None, "gone with its last holder");
    drop(pool);
    assert_eq!(region.stored(), region.chunks());
}

#[test]
fn unfinished_checksums_go_both_ways() {
    if !enter() {
        return;
    }
    let region = Region::new(1 << 21).unwrap();
    let mut pool = region.pool();
    let (_tap, mut q) = open(1500);
    up();
    let socket = UdpSocket::bind("10.9.0.1:4000").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(b"an unfinished checksum", "10.9.0.2:5000").unwrap();
    let finished = receive(&mut q, &mut pool, "the datagram", |p| {
        if !is_udp_to(p.data(), 5000) {
            return false;
        }
        assert_eq!(p.checksum(), Checksum::Partial { start: 34, offset: 6 });
        assert!(!l4_checksum_is_right(p.data()));
        assert!(flow::checksum::finish_partial(p));
        true
    })
    .unwrap();
    assert!(l4_checksum_is_right(&finished));
    assert_eq!(q.counters().read().rx_partial, 1);

    // And back: the kernel takes our word for a checksum that is not there.
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(US, KERNEL)
        .ipv4([10, 9, 0, 2], [10, 9, 0, 1], 64)
        .udp(5000, 4000)
        .write(&mut frame, b"and back")
        .unwrap();
    frame[40..42].copy_from_slice(&[0x12, 0x34]);
    let mut partial = pool.packet_from(&frame).unwrap();
    partial.set_checksum(Checksum::Partial { start: 34, offset: 6 });
    q.tx_burst(&mut pool, &mut Burst::from_iter([partial]));
    let mut got = [0; 100];
    let n = socket.recv(&mut got).unwrap();
    assert_eq!(&got[..n], b"and back");
    assert_eq!(q.counters().read().tx_partial, 1);

    // A request that points outside the frame is refused by the kernel and counted.
    let mut bad = pool.packet_from(&frame).unwrap();
    bad.set_checksum(Checksum::Partial { start: 60_000, offset: 6 });
    q.tx_burst(&mut pool, &mut Burst::from_iter([bad]));
    assert_eq!(q.counters().dropped(PortDrop::TxInvalid), 1);
}

#[test]
fn jumbo_frames_are_chains() {
    if !enter() {
        return;
    }
    let region = Region::new(1 << 21).unwrap();
    let mut pool = region.pool();
    let (_tap, mut q) = open(9000);
    up();
    let socket = UdpSocket::bind("10.9.0.1:4000").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let data: Vec<u8> = (0..8900u32).map(|i| (i * 7) as u8).collect();
    socket.send_to(&data, "10.9.0.2:5000").unwrap();
    let got = receive(&mut q, &mut pool, "the datagram", |p: &mut Packet| {
        let wanted = is_udp_to(p.data(), 5000);
        assert!(!wanted || p.buffer_count() == 5);
        flow::checksum::finish_partial(p);
        wanted
    })
    .unwrap();
    assert_eq!(&got[42..], &data[..]);
    assert!(l4_checksum_is_right(&got));

    let mut frame = Vec::new();
    PacketBuilder::ethernet2(US, KERNEL)
        .ipv4([10, 9, 0, 2], [10, 9, 0, 1], 64)
        .udp(5000, 4000)
        .write(&mut frame, &data)
        .unwrap();
    send(&mut q, &mut pool, &[&frame]);
    let mut got = vec![0; 10_000];
    let n = socket.recv(&mut got).unwrap();
    assert_eq!(&got[..n], &data[..]);
}

#[test]
fn works_on_after_a_move_and_ends_with_the_interface() {
    if !enter() {
        return;
    }
    let region = Region::new(1 << 21).unwrap();
    let mut pool = region.pool();
    let (tap, mut q) = open(1500);
    let other = OtherNs::new();
    ip(&format!("link set t0 netns {}", other.pid()));
    assert_eq!(NetDevs::new().unwrap().ifindex("t0").unwrap(), None);
    assert!(tap.is_alive());
    other.run("ip link set t0 name moved0");
    other.run("ip link set moved0 up");
    other.run("ip addr add 10.9.0.1/24 dev moved0");
    assert_eq!(tap.name().as_deref(), Some("moved0"));
    send(&mut q, &mut pool, &[&arp_request(US, [10, 9, 0, 2], [10, 9, 0, 1])]);
    receive(&mut q, &mut pool, "an ARP reply", |p| is_arp_reply(p.data(), [10, 9, 0, 1])).unwrap();
    // Its address can be set from here.
    tap.set_mac([2, 0, 0, 0, 0, 0x33]).unwrap();
    assert!(other.run("ip link show moved0").contains("02:00:00:00:00:33"));

    other.run("ip link set moved0 down");
    send(&mut q, &mut pool, &[&arp_request(US, [10, 9, 0, 2], [10, 9, 0, 1])]);
    assert_eq!(q.counters().dropped(PortDrop::TxDown), 1);
    other.run("ip link del moved0");
    assert_eq!(receive(&mut q, &mut pool, "the end", |_| false), None);
    assert_eq!(q.rx_burst(&mut pool, &mut Burst::new()), RxStatus::Gone);
    assert!(!tap.is_alive());
    send(&mut q, &mut pool, &[&arp_request(US, [10, 9, 0, 2], [10, 9, 0, 1])]);
    assert_eq!(q.counters().dropped(PortDrop::Gone), 1);
    q.close(&mut pool);
    drop(pool);
    assert_eq!(region.stored(), region.chunks());
}

#[test]
fn a_namespace_that_ends_takes_its_tap_along() {
    if !enter() {
        return;
    }
    let region = Region::new(1 << 21).unwrap();
    let mut pool = region.pool();
    let (tap, mut q) = open(1500);
    let other = OtherNs::new();
    ip(&format!("link set t0 netns {}", other.pid()));
    drop(other);
    wait_for("the tap to go", || (!tap.is_alive()).then_some(()));
    assert_eq!(receive(&mut q, &mut pool, "the end", |_| false), None);
}

#[test]
fn names_that_are_taken_are_refused() {
    if !enter() {
        return;
    }
    let devs = NetDevs::new().unwrap();
    ip("link add t0 type veth peer name p0");
    let e = tap::open(&config(1500), &devs, Arc::default()).unwrap_err();
    assert!(matches!(&e, PortError::Exists { interface } if interface == "t0"), "{e}");
    ip("link del t0");
    // Also another program's tap, persistent or not.
    ip("tuntap add dev t0 mode tap");
    let e = tap::open(&config(1500), &devs, Arc::default()).unwrap_err();
    assert!(matches!(&e, PortError::Exists { .. }), "{e}");
    ip("link del t0");
    let e = tap::open(&config(10), &devs, Arc::default()).unwrap_err();
    assert!(e.to_string().contains("t0: mtu=10: "), "{e}");
    assert_eq!(devs.ifindex("t0").unwrap(), None, "nothing is left behind");
    let multicast = TapConfig { mac: Some([1, 0, 0, 0, 0, 1]), ..config(1500) };
    let e = tap::open(&multicast, &devs, Arc::default()).unwrap_err();
    assert!(e.to_string().contains("mac=01:00:00:00:00:01"), "{e}");
}

#[test]
fn idle_taps_are_not_read_and_floods_are_dropped_without_frames() {
    if !enter() {
        return;
    }
    let region = Region::new(1 << 21).unwrap();
    let mut pool = region.pool();
    let (_tap, mut q) = open(1500);
    up();
    let mut burst = Burst::new();
    // Read empty once; then it is left alone until the poll says so.
    while q.rx_burst(&mut pool, &mut burst) != RxStatus::Idle {
        burst.drain(..).for_each(|p| pool.free_packet(p));
    }
    assert!(q.needs_readiness() && q.before_sleep(&mut pool));
    let socket = UdpSocket::bind("10.9.0.1:4000").unwrap();
    for _ in 0..50 {
        socket.send_to(b"x", "10.9.0.2:5000").unwrap();
    }
    assert_eq!(q.rx_burst(&mut pool, &mut burst), RxStatus::Idle);
    q.set_ready();
    assert!(!q.before_sleep(&mut pool));
    let held: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
    while q.rx_burst(&mut pool, &mut burst) != RxStatus::Idle {
        assert!(burst.is_empty());
    }
    assert!(q.counters().dropped(PortDrop::RxNoFrame) >= 50);
    held.into_iter().for_each(|f| pool.free(f));
}
