//! A switch of two memory ports, and frames.
#![allow(dead_code)] // Each test uses a part of it.

use std::sync::Arc;
use std::time::Instant;

use afxdp::Region;
use engine::{Command, Poll, Shared, Worker, WorkerOptions};
use flow::checksum::Sum;
use ofproto::action::OfPort;
use ofproto::flowmod::Command as FlowCommand;
use ofproto::program::DpPort;
use ofproto::snapshot::{BridgeId, BridgeSettings, Port, PortKind};
use ofproto::switch::Switch;
use ofproto::text::{NoNames, parse_flows};
use ports::memory::{MemoryPort, MemoryQueue};
use ports::{Queue, QueueCounters};

/// A bridge, its worker on the calling thread, and the far ends of ports 1 and 2.
pub struct Rig {
    switch: Switch,
    bridge: BridgeId,
    pub shared: Arc<Shared>,
    pub worker: Worker,
    pub ports: Vec<MemoryPort>,
}

impl Rig {
    /// A bridge with two ports and these flows.
    pub fn new(flows: &str) -> Rig {
        let region = Region::new(4 << 20).unwrap();
        let shared = Arc::new(Shared::new(region, &[None]).unwrap());
        let options = WorkerOptions { poll: Poll::Busy };
        let worker = Worker::new(shared.clone(), 0, options, Instant::now()).unwrap();
        let mut switch = Switch::default();
        let bridge = switch.add_bridge("b", BridgeSettings::default()).unwrap();
        let mut ports = Vec::new();
        for n in [1u32, 2] {
            switch.set_port(
                bridge,
                Port::new(OfPort(n), format!("p{n}"), PortKind::Datapath(DpPort(n))),
            );
            let counters = Arc::<QueueCounters>::default();
            let (port, queue) = MemoryQueue::channel(64, counters).unwrap();
            ports.push(port);
            let queue = Box::new(Queue::Memory(queue));
            assert!(shared.command(0, Command::AddQueue { port: DpPort(n), queue }).is_ok());
        }
        let mut rig = Rig { switch, bridge, shared, worker, ports };
        rig.add(flows);
        rig
    }

    /// Add flows, one a line.
    pub fn add(&mut self, flows: &str) {
        let mods = parse_flows(flows, FlowCommand::Add, &NoNames).unwrap();
        self.switch.apply_flow_mods(self.bridge, &mods, 1).unwrap();
        if let Some(s) = self.switch.commit() {
            self.shared.publish(s);
        }
    }

    /// Idle timeouts of all flows, in seconds.
    pub fn idle_timeouts(&self) -> Vec<u16> {
        let bridge = self.switch.bridge(self.bridge).unwrap();
        let rules = bridge.tables.iter().flat_map(|(_, table)| table.iter());
        rules.map(|rule| rule.idle_timeout()).collect()
    }

    /// Let the worker go round a few times.
    pub fn rounds(&mut self) {
        for _ in 0..3 {
            self.worker.round();
        }
    }

    /// What comes out of the other port when this goes in by a port (1 or 2).
    pub fn send(&mut self, port: usize, frame: &[u8]) -> Option<Vec<u8>> {
        self.ports[port - 1].inject(frame).unwrap();
        self.rounds();
        assert_eq!(self.ports[port - 1].take(), None, "nothing goes back");
        self.ports[2 - port].take().map(|f| f.bytes)
    }
}

/// A UDP frame with right checksums.
pub fn udp(src: [u8; 4], dst: [u8; 4], sport: u16, dport: u16) -> Vec<u8> {
    udp_with(src, dst, sport, dport, b"hiz{")
}

/// The same with this payload.
pub fn udp_with(src: [u8; 4], dst: [u8; 4], sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    let mut ip = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 17, 0, 0];
    let len = 8 + payload.len();
    ip[2..4].copy_from_slice(&(20 + len as u16).to_be_bytes());
    ip.extend(src);
    ip.extend(dst);
    let sum = flow::checksum::checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    f.extend(&ip);
    f.extend(l4(pseudo(&ip, len), sport, dport, payload));
    f
}

/// A UDP header and its payload.
fn l4(pseudo: Sum, sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
    let mut l4 = Vec::new();
    for v in [sport, dport, 8 + payload.len() as u16, 0] {
        l4.extend(v.to_be_bytes());
    }
    l4.extend(payload);
    let sum = pseudo.bytes(&l4).udp_checksum();
    l4[6..8].copy_from_slice(&sum.to_be_bytes());
    l4
}

fn pseudo(ip: &[u8], len: usize) -> Sum {
    let a = |at: usize| u32::from_be_bytes([ip[at], ip[at + 1], ip[at + 2], ip[at + 3]]);
    Sum::pseudo_v4(a(12), a(16), 17, len as u32)
}

/// Whether the frame's checksums are right.
pub fn sound(f: &[u8]) -> bool {
    let (ip, l4) = (&f[14..34], &f[34..46]);
    flow::checksum::checksum(ip) == 0 && pseudo(ip, 12).bytes(l4).checksum() == 0
}

/// A UDP frame over IPv6 with a right checksum.
pub fn udp6(src: u128, dst: u128, sport: u16, dport: u16) -> Vec<u8> {
    udp6_with(src, dst, sport, dport, b"hiz{")
}

/// The same with this payload.
pub fn udp6_with(src: u128, dst: u128, sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd];
    let len = 8 + payload.len();
    f.extend([0x60, 0, 0, 0]);
    f.extend((len as u16).to_be_bytes());
    f.extend([17, 64]);
    f.extend(src.to_be_bytes());
    f.extend(dst.to_be_bytes());
    f.extend(l4(Sum::pseudo_v6(src, dst, 17, len as u32), sport, dport, payload));
    f
}
