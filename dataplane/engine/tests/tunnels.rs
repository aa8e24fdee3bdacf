//! Tunnels through the whole packet path, from memory ports: two bridges on each of two switches,
//! what one encapsulates the other decapsulates.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use afxdp::Region;
use engine::{Command, Poll, Shared, Worker, WorkerOptions};
use flow::Drop;
use ofproto::action::OfPort;
use ofproto::flowmod::Command as FlowCommand;
use ofproto::program::DpPort;
use ofproto::snapshot::{BridgeId, BridgeSettings, Port, PortKind};
use ofproto::switch::Switch;
use ofproto::text::{NoNames, parse_flows};
use ofproto::underlay::TunnelPort;
use ports::memory::{MemoryPort, MemoryQueue};
use ports::{Queue, QueueCounters};
use tunnel::TunnelConfig;
use tunnel::kernel::{Address, Kernel, LinkInfo};
use tunnel::neigh::Target;
use tunnel::route::{Action, Origin, Prefix, Route};

const LINK: u32 = 7;
const MACS: [u64; 2] = [0x0200_0000_00a1, 0x0200_0000_00a2];

/// A switch with br-int (port 1, tunnel port 10) and br-phy (LOCAL, port 2).
struct Node {
    switch: Switch,
    int: BridgeId,
    shared: Arc<Shared>,
    worker: Worker,
    vm: MemoryPort,
    wire: MemoryPort,
    local: MemoryPort,
    kernel: Kernel,
}

fn port(n: u32, kind: PortKind) -> Port {
    Port::new(OfPort(n), format!("p{n}"), kind)
}

impl Node {
    /// The node `me` (0 or 1) of a pair of addresses.
    fn new(me: usize, addresses: [&str; 2], kind: &str, options: &[(&str, &str)]) -> Node {
        let region = Region::new(4 << 20).unwrap();
        let shared = Arc::new(Shared::new(region, &[None]).unwrap());
        let options_of_worker = WorkerOptions { poll: Poll::Busy };
        let worker = Worker::new(shared.clone(), 0, options_of_worker, Instant::now()).unwrap();
        let mut switch = Switch::default();
        let int = switch.add_bridge("br-int", BridgeSettings::default()).unwrap();
        let phy = switch.add_bridge("br-phy", BridgeSettings::default()).unwrap();
        let mut ends = Vec::new();
        let memory = [(int, 1, 1), (phy, 2, 2), (phy, OfPort::LOCAL.0, 3)];
        for (bridge, number, dp) in memory {
            switch.set_port(bridge, port(number, PortKind::Datapath(DpPort(dp))));
            let counters = Arc::<QueueCounters>::default();
            let (end, queue) = MemoryQueue::channel(64, counters).unwrap();
            ends.push(end);
            let queue = Box::new(Queue::Memory(queue));
            assert!(shared.command(0, Command::AddQueue { port: DpPort(dp), queue }).is_ok());
        }
        let config = TunnelConfig::new(kind, options.iter().copied()).unwrap().unwrap();
        let tunnel =
            TunnelPort { config, sequence: Default::default(), counters: Default::default() };
        switch.set_port(int, port(10, PortKind::Tunnel(Arc::new(tunnel))));
        let kernel = kernel(me, addresses);
        switch.set_underlay(&kernel, &[(LINK, phy, OfPort::LOCAL)]);
        let local = ends.pop().unwrap();
        let wire = ends.pop().unwrap();
        let vm = ends.pop().unwrap();
        let mut node = Node { switch, int, shared, worker, vm, wire, local, kernel };
        node.flows(phy, "actions=NORMAL");
        node
    }

    fn flows(&mut self, bridge: BridgeId, flows: &str) {
        let mods = parse_flows(flows, FlowCommand::Add, &NoNames).unwrap();
        self.switch.apply_flow_mods(bridge, &mods, 1).unwrap();
        self.publish();
    }

    fn publish(&mut self) {
        if let Some(s) = self.switch.commit() {
            self.shared.publish(s);
        }
    }

    fn run(&mut self) {
        for _ in 0..3 {
            self.worker.round();
        }
    }

    fn all_drops(&self) -> String {
        let some = Drop::ALL.iter().filter(|why| self.drops(**why) > 0);
        some.map(|why| why.name()).collect::<Vec<_>>().join(", ")
    }

    fn drops(&self, why: Drop) -> u64 {
        self.shared.workers[0].drops[why as usize].load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// What the kernel of node `me` knows: its address, the link's route, the other's MAC.
fn kernel(me: usize, addresses: [&str; 2]) -> Kernel {
    let mut kernel = Kernel::default();
    let mac = MACS[me];
    let info = LinkInfo { name: "br-phy".into(), mac, mtu: 1600, up: true, running: true };
    kernel.links.insert(LINK, info);
    let address: IpAddr = addresses[me].parse().unwrap();
    let prefix_len = if address.is_ipv4() { 24 } else { 64 };
    let own = Address { address, prefix_len, usable: true };
    kernel.addresses.insert(LINK, vec![own]);
    kernel.routes.insert(Route {
        prefix: Prefix::new(address, prefix_len).unwrap(),
        action: Action::Forward { link: LINK, via: None },
        src: None,
        metric: 0,
        mtu: None,
        origin: Origin::Kernel,
    });
    let other = addresses[1 - me].parse().unwrap();
    kernel.neighbours.insert(Target { link: LINK, address: other }, MACS[1 - me]);
    kernel
}

/// Two nodes with flows in br-int; `options` may have {remote} and {local}.
fn nodes(addresses: [&str; 2], kind: &str, options: &str, flows: &str) -> [Node; 2] {
    let nodes = [0, 1].map(|me| {
        let text = options.replace("{remote}", addresses[1 - me]).replace("{local}", addresses[me]);
        let options: Vec<(&str, &str)> =
            text.split_whitespace().map(|o| o.split_once('=').unwrap()).collect();
        let mut node = Node::new(me, addresses, kind, &options);
        let int = node.int;
        node.flows(int, flows);
        node
    });
    // Past the time in which queues count as competing for flow set-ups.
    std::thread::sleep(std::time::Duration::from_millis(12));
    nodes
}

/// A UDP frame of `len` bytes.
fn frame(len: usize, tos: u8) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    let total = (len - 14) as u16;
    let mut ip = vec![0x45, tos, 0, 0, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    let sum = flow::checksum::checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    f.extend(ip);
    for v in [5000, 53, total - 20, 0] {
        f.extend(v.to_be_bytes());
    }
    f.extend((f.len()..len).map(|i| i as u8));
    f
}

/// Send from the first node's machine; what is on the wire, and what the second's machine gets.
fn send(nodes: &mut [Node; 2], bytes: &[u8]) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    nodes[0].vm.inject(bytes).unwrap();
    nodes[0].run();
    let Some(outer) = nodes[0].wire.take().map(|f| f.bytes) else { return (None, None) };
    nodes[1].wire.inject(outer.as_slice()).unwrap();
    nodes[1].run();
    assert_eq!(nodes[1].local.take(), None, "nothing of a tunnel reaches the kernel");
    (Some(outer), nodes[1].vm.take().map(|f| f.bytes))
}

const V4: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
const V6: [&str; 2] = ["2001:db8::1", "2001:db8::2"];
const CROSS: &str = "in_port=1,actions=10
    in_port=10,actions=1";

#[test]
fn every_encapsulation_carries_frames_over_both_families() {
    for kind in ["vxlan", "geneve", "gre"] {
        for addresses in [V4, V6] {
            for more in ["", "key=77", "key=77 csum=true", "local_ip={local} key=5"] {
                let options = format!("remote_ip={{remote}} {more}");
                let mut nodes = nodes(addresses, kind, &options, CROSS);
                for len in [60, 61, 1000, 1514] {
                    let inner = frame(len, 0);
                    let (outer, got) = send(&mut nodes, &inner);
                    let outer = outer.unwrap_or_else(|| panic!("{kind} {options}: not sent"));
                    assert_eq!(outer[..6], MACS[1].to_be_bytes()[2..]);
                    assert!(outer.len() > len + 34);
                    assert_eq!(got, Some(inner), "{kind} {options}");
                }
            }
        }
    }
}

#[test]
fn flows_choose_remote_and_key_and_see_them_again() {
    for addresses in [V4, V6] {
        let (set, seen) =
            if addresses == V4 { ("tun_dst", "tun_src") } else { ("tun_ipv6_dst", "tun_ipv6_src") };
        for kind in ["vxlan", "geneve", "gre"] {
            let flows = format!(
                "in_port=1,actions=set_field:{}->{set},set_field:0x123456->tun_id,10
                 in_port=10,tun_id=0x123456,{seen}={},actions=1",
                addresses[1], addresses[0]
            );
            let mut nodes = nodes(addresses, kind, "remote_ip=flow key=flow", &flows);
            let inner = frame(100, 0);
            for _ in 0..2 {
                let (outer, got) = send(&mut nodes, &inner);
                assert!(outer.is_some(), "{kind}: {}", nodes[0].all_drops());
                assert_eq!(got.as_ref(), Some(&inner), "{kind}: {}", nodes[1].all_drops());
            }
        }
    }
}

#[test]
fn another_key_is_not_let_in() {
    let mut pair = nodes(V4, "vxlan", "remote_ip={remote} key=77", CROSS);
    let mut other = nodes(V4, "vxlan", "remote_ip={remote} key=78", CROSS);
    std::mem::swap(&mut pair[1], &mut other[1]);
    let (outer, got) = send(&mut pair, &frame(100, 0));
    assert!(outer.is_some());
    assert_eq!(got, None);
    assert_eq!(pair[1].drops(Drop::TunnelNoPort), 1);
}

#[test]
fn a_neighbour_that_comes_goes_and_moves_is_followed() {
    let mut nodes = nodes(V4, "vxlan", "remote_ip={remote}", CROSS);
    let inner = frame(100, 0);
    assert!(send(&mut nodes, &inner).1.is_some());
    let target = Target { link: LINK, address: V4[1].parse().unwrap() };
    let phy = nodes[0].switch.bridge_id("br-phy").unwrap();
    let follow = |node: &mut Node, mac: Option<u64>| {
        match mac {
            Some(mac) => node.kernel.neighbours.insert(target, mac),
            None => node.kernel.neighbours.remove(&target),
        };
        let kernel = node.kernel.clone();
        node.switch.set_underlay(&kernel, &[(LINK, phy, OfPort::LOCAL)]);
        node.publish();
    };
    follow(&mut nodes[0], None);
    assert_eq!(send(&mut nodes, &inner), (None, None), "it waits");
    let mut asked = Vec::new();
    nodes[0].shared.take_events(100, |e| asked.push(e));
    assert!(
        asked.iter().any(|e| matches!(e, engine::Event::NeedNeighbour(t) if *t == target)),
        "{asked:?}"
    );
    follow(&mut nodes[0], Some(0x0200_0000_00b7));
    nodes[0].vm.inject(inner.as_slice()).unwrap();
    nodes[0].run();
    for _ in 0..2 {
        let outer = nodes[0].wire.take().expect("sent").bytes;
        assert_eq!(outer[..6], [2, 0, 0, 0, 0, 0xb7]);
        assert!(outer.ends_with(&inner), "as it was when it began to wait");
    }
    follow(&mut nodes[0], Some(MACS[1]));
    assert_eq!(send(&mut nodes, &inner).1, Some(inner));
    assert_eq!(nodes[0].all_drops(), "");
}

#[test]
fn packets_wait_in_bounded_queues_with_what_flows_have_made_of_them() {
    // Sent to a port too, which must not happen again when the wait is over.
    let flows =
        "in_port=1,actions=set_field:5->tun_id,set_field:02:00:00:00:00:99->eth_src,in_port,10";
    let mut pair = nodes(V4, "vxlan", "remote_ip={remote} key=flow", flows);
    let target = Target { link: LINK, address: V4[1].parse().unwrap() };
    let mac = pair[0].kernel.neighbours.remove(&target).unwrap();
    let phy = pair[0].switch.bridge_id("br-phy").unwrap();
    let follow = |node: &mut Node| {
        let kernel = node.kernel.clone();
        node.switch.set_underlay(&kernel, &[(LINK, phy, OfPort::LOCAL)]);
        node.publish();
    };
    follow(&mut pair[0]);
    for _ in 0..20 {
        pair[0].vm.inject(frame(100, 0).as_slice()).unwrap();
    }
    pair[0].run();
    assert_eq!(pair[0].drops(Drop::NeighbourPending), 4, "16 may wait");
    assert_eq!(std::iter::from_fn(|| pair[0].vm.take()).count(), 20);
    pair[0].kernel.neighbours.insert(target, mac);
    follow(&mut pair[0]);
    pair[0].run();
    let outers: Vec<_> = std::iter::from_fn(|| pair[0].wire.take()).collect();
    assert_eq!((outers.len(), pair[0].vm.take()), (16, None));
    for outer in &outers {
        assert_eq!((outer.bytes[48], outer.bytes[50 + 11]), (5, 0x99));
    }
}

#[test]
fn congestion_marks_cross() {
    let mut nodes = nodes(V4, "vxlan", "remote_ip={remote} tos=inherit", CROSS);
    let mut mark = |inner_tos: u8, set: Option<u8>| {
        nodes[0].vm.inject(frame(100, inner_tos).as_slice()).unwrap();
        nodes[0].run();
        let mut outer = nodes[0].wire.take().unwrap().bytes;
        assert_eq!(outer[15], inner_tos);
        if let Some(tos) = set {
            outer[15] = tos;
            outer[24..26].fill(0);
            let sum = flow::checksum::checksum(&outer[14..34]);
            outer[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        nodes[1].wire.inject(outer.as_slice()).unwrap();
        nodes[1].run();
        nodes[1].vm.take().map(|f| f.bytes)
    };
    assert_eq!(mark(0xb8, None), Some(frame(100, 0xb8)));
    assert_eq!(mark(2, Some(3)), Some(frame(100, 3)), "congestion is told to the inside");
    assert_eq!(mark(0, Some(3)), None, "a packet that cannot be told is dropped");
    assert_eq!(nodes[1].drops(Drop::TunnelEcn), 1);
}

#[test]
fn too_big_loops_and_no_route_are_dropped_with_their_reasons() {
    let mut pair = nodes(V4, "vxlan", "remote_ip={remote}", CROSS);
    assert_eq!(send(&mut pair, &frame(1600 - 36 + 1, 0)), (None, None));
    assert_eq!(pair[0].drops(Drop::TooBig), 1);
    // The sender hears how large its packets may be, from the one that it meant.
    let told = pair[0].vm.take().expect("an answer").bytes;
    assert_eq!(told[..12], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    assert_eq!(told[26..34], [10, 0, 0, 2, 10, 0, 0, 1]);
    assert_eq!((told[23], told[34], told[35]), (1, 3, 4), "ICMP, fragmentation needed");
    assert_eq!(told[40..42], 1550u16.to_be_bytes());
    assert!(send(&mut pair, &frame(1600 - 36, 0)).1.is_some());

    // The underlay sends what the tunnel gives it back into the tunnel.
    let phy = pair[0].switch.bridge_id("br-phy").unwrap();
    let config = TunnelConfig::new("geneve", [("remote_ip", V4[1])]).unwrap().unwrap();
    let tunnel = TunnelPort { config, sequence: Default::default(), counters: Default::default() };
    pair[0].switch.set_port(phy, port(20, PortKind::Tunnel(Arc::new(tunnel))));
    pair[0].flows(phy, "priority=40007,in_port=LOCAL,actions=20");
    assert_eq!(send(&mut pair, &frame(100, 0)), (None, None));
    assert_eq!(pair[0].drops(Drop::TunnelLoop), 1);

    let mut far = nodes(V4, "vxlan", "remote_ip=198.51.100.1", CROSS);
    assert_eq!(send(&mut far, &frame(100, 0)), (None, None));
    assert_eq!(far[0].drops(Drop::NoRoute), 1);
}

#[test]
fn the_inner_packet_is_itself_again_behind_a_tunnel_output() {
    // Into two tunnels with different keys and tags, and then to a port.
    let flows = "in_port=1,actions=push_vlan:0x8100,set_field:4099->vlan_vid,set_field:7->tun_id,10,\
                 pop_vlan,set_field:8->tun_id,10,set_field:02:00:00:00:00:99->eth_src,in_port";
    let mut pair = nodes(V4, "vxlan", "remote_ip={remote} key=flow", flows);
    let inner = frame(100, 0);
    pair[0].vm.inject(inner.as_slice()).unwrap();
    pair[0].run();
    let outers: Vec<_> = std::iter::from_fn(|| pair[0].wire.take()).map(|f| f.bytes).collect();
    assert_eq!(outers.len(), 2);
    assert_eq!((outers[0][48], outers[1][48]), (7, 8), "{outers:02x?}");
    assert_eq!(outers[0][62..66], [0x81, 0, 0, 3]);
    assert_eq!(&outers[1][50..], &inner);
    let mut changed = inner.clone();
    changed[11] = 0x99;
    assert_eq!(pair[0].vm.take().map(|f| f.bytes), Some(changed));
}

#[test]
fn outer_packets_meet_the_flows_of_their_bridge() {
    let mut pair = nodes(V4, "vxlan", "remote_ip={remote} key=9", CROSS);
    for node in &mut pair {
        let phy = node.switch.bridge_id("br-phy").unwrap();
        node.flows(
            phy,
            "priority=40009,in_port=LOCAL,udp,tp_dst=4789,actions=mod_vlan_vid:42,2
             priority=40009,in_port=2,dl_vlan=42,actions=pop_vlan,LOCAL
             priority=40008,actions=drop",
        );
    }
    let inner = frame(100, 0);
    let (outer, got) = send(&mut pair, &inner);
    assert_eq!(outer.expect("sent")[12..16], [0x81, 0, 0, 42]);
    assert_eq!(got, Some(inner));
}

/// An IPv4 packet in fragments of at most `size` bytes of payload each.
fn fragmented(whole: &[u8], size: usize) -> Vec<Vec<u8>> {
    let payload: Vec<&[u8]> = whole[34..].chunks(size).collect();
    let last = payload.len() - 1;
    let one = |(i, part): (usize, &&[u8])| {
        let mut f = [&whole[..34], part].concat();
        f[16..18].copy_from_slice(&((20 + part.len()) as u16).to_be_bytes());
        let offset = (i * size / 8) as u16 | if i < last { 0x2000 } else { 0 };
        f[18..20].copy_from_slice(&7u16.to_be_bytes());
        f[20..22].copy_from_slice(&offset.to_be_bytes());
        f[24..26].fill(0);
        let sum = flow::checksum::checksum(&f[14..34]);
        f[24..26].copy_from_slice(&sum.to_be_bytes());
        f
    };
    payload.iter().enumerate().map(one).collect()
}

#[test]
fn outer_packets_in_fragments_are_put_together() {
    for kind in ["vxlan", "gre", "geneve"] {
        let mut pair = nodes(V4, kind, "remote_ip={remote} key=9 csum=true", CROSS);
        let inner = frame(1514, 0);
        pair[0].vm.inject(inner.as_slice()).unwrap();
        pair[0].run();
        let outer = pair[0].wire.take().expect("sent").bytes;
        for order in [[0, 1, 2], [2, 0, 1]] {
            let parts = fragmented(&outer, 600);
            assert_eq!(parts.len(), 3);
            for i in order {
                assert_eq!(pair[1].vm.take(), None);
                pair[1].wire.inject(parts[i].as_slice()).unwrap();
                pair[1].run();
            }
            let got = pair[1].vm.take().map(|f| f.bytes);
            assert_eq!(got.as_ref(), Some(&inner), "{kind}: {}", pair[1].all_drops());
        }
        assert_eq!(pair[1].local.take(), None);
        // A datagram of another protocol's port is the kernel's, whole.
        let mut other = frame(1000, 0);
        other[..6].copy_from_slice(&MACS[1].to_be_bytes()[2..]);
        other[30..34].copy_from_slice(&[192, 0, 2, 2]);
        for part in fragmented(&other, 600) {
            pair[1].wire.inject(part.as_slice()).unwrap();
            pair[1].run();
        }
        let got: Vec<_> = std::iter::from_fn(|| pair[1].local.take()).collect();
        let bytes: usize = got.iter().map(|f| f.bytes.len() - 34).sum();
        assert_eq!(bytes, 1000 - 34, "{kind}: {}", pair[1].all_drops());
    }
}

#[test]
fn packets_are_cut_on_their_way_into_a_tunnel() {
    let flows = "in_port=1,actions=output(port=10,max_len=100),in_port";
    let mut pair = nodes(V4, "vxlan", "remote_ip={remote}", flows);
    let inner = frame(1000, 0);
    pair[0].vm.inject(inner.as_slice()).unwrap();
    pair[0].run();
    let outer = pair[0].wire.take().expect("sent").bytes;
    assert_eq!(outer[50..], inner[..100]);
    assert_eq!(pair[0].vm.take().map(|f| f.bytes), Some(inner), "the packet itself is whole");
}

#[test]
fn outer_packets_that_may_be_cut_are() {
    for (kind, options) in [
        ("vxlan", "remote_ip={remote} df_default=false"),
        ("gre", "remote_ip={remote} df_default=false key=9 csum=true"),
        ("geneve", "remote_ip={remote} df_default=false csum=true"),
    ] {
        let mut pair = nodes(V4, kind, options, CROSS);
        // One that fits, one that does not, and what takes several buffers.
        for (len, parts) in [(1400, 1), (1590, 2), (3000, 2), (9000, 6)] {
            let inner = frame(len, 0);
            pair[0].vm.inject(inner.as_slice()).unwrap();
            pair[0].run();
            let outer: Vec<_> = std::iter::from_fn(|| pair[0].wire.take()).collect();
            assert_eq!(outer.len(), parts, "{kind} {len}: {}", pair[0].all_drops());
            for part in outer {
                assert!(part.bytes.len() <= 1614, "{kind} {len}: {}", part.bytes.len());
                assert_eq!(flow::checksum::checksum(&part.bytes[14..34]), 0);
                pair[1].wire.inject(part.bytes.as_slice()).unwrap();
                pair[1].run();
            }
            let got = pair[1].vm.take().map(|f| f.bytes);
            assert_eq!(got, Some(inner), "{kind} {len}: {}", pair[1].all_drops());
        }
        assert_eq!(pair.iter().map(|n| n.all_drops()).collect::<String>(), "", "{kind}");
    }
    // Over IPv6 the sender is told.
    let mut pair = nodes(V6, "vxlan", "remote_ip={remote} df_default=false", CROSS);
    pair[0].vm.inject(frame(1590, 0).as_slice()).unwrap();
    pair[0].run();
    assert_eq!((pair[0].wire.take(), pair[0].drops(Drop::TooBig)), (None, 1));
}

/// Packets of one burst and one megaflow, some of them too big for the tunnel: each leaves, or does not, in
/// its place.
#[test]
fn a_run_with_packets_that_are_too_big_keeps_its_order() {
    const LENGTHS: [usize; 7] = [1400, 1401, 1590, 1402, 3000, 1403, 1404];
    // What of it arrives: what is up to so many bytes.
    for (options, most) in
        [("remote_ip={remote} df_default=false", 3000), ("remote_ip={remote}", 1550)]
    {
        let mut pair = nodes(V4, "vxlan", options, CROSS);
        // The first packet brings the megaflow.
        assert!(send(&mut pair, &frame(100, 0)).1.is_some());
        for len in LENGTHS {
            pair[0].vm.inject(frame(len, 0).as_slice()).unwrap();
        }
        pair[0].run();
        let mut got = Vec::new();
        while let Some(outer) = pair[0].wire.take() {
            pair[1].wire.inject(outer.bytes.as_slice()).unwrap();
            pair[1].run();
            got.extend(std::iter::from_fn(|| pair[1].vm.take()).map(|f| f.bytes));
        }
        let passing = LENGTHS.into_iter().filter(|len| *len <= most);
        let sent: Vec<_> = passing.map(|len| frame(len, 0)).collect();
        assert_eq!(
            got.iter().map(Vec::len).collect::<Vec<_>>(),
            sent.iter().map(Vec::len).collect::<Vec<_>>()
        );
        assert_eq!(got, sent, "{options}");
        let stopped = LENGTHS.len() - sent.len();
        assert_eq!(pair[0].drops(Drop::TooBig), stopped as u64, "{options}");
    }
}
