//! One worker, driven on the test's thread, between memory ports of two bridges that a patch port joins.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use afxdp::Region;
use engine::{Command, Event, Poll, Shared, Worker, WorkerOptions};
use ofproto::action::OfPort;
use ofproto::flowmod::{FlowFilter, FlowMod};
use ofproto::group::Group;
use ofproto::program::DpPort;
use ofproto::rule::Rule;
use ofproto::snapshot::{BridgeId, BridgeSettings, Port, PortKind};
use ofproto::switch::Switch;
use ofproto::text::{NoNames, ShownFlow, show_flow};
use ofproto::vlan::{VlanConfig, VlanMode};
use ports::memory::{MemoryPort, MemoryQueue};
use ports::{Queue, QueueCounters};

/// Ports of the first bridge that frames come in by: 1 to this. The next one is the patch port.
pub const PORTS: u32 = 4;
/// Ports of each bridge: 1 to this. Of the second bridge, 1 is the patch port.
pub const ALL_PORTS: [u32; 2] = [PORTS + 1, 3];
/// The patch port of each bridge.
pub const PATCH: [u32; 2] = [PORTS + 1, 1];
/// Ports that carry one VLAN, with its number: (bridge, port, VLAN). All others carry all.
pub const ACCESS: [(usize, u32, u16); 2] = [(0, 3, 2), (1, 2, 1)];

/// Datapath ports of both bridges: 1 to this.
pub const DATAPATH_PORTS: u32 = PORTS + 2;

/// The datapath port behind a port of a bridge.
pub fn datapath(bridge: usize, port: u32) -> u32 {
    if bridge == 0 { port } else { PORTS + port - 1 }
}

pub struct Rig {
    switch: Switch,
    bridges: [BridgeId; 2],
    shared: Arc<Shared>,
    worker: Worker,
    ports: Vec<MemoryPort>,
}

impl Rig {
    pub fn new() -> Rig {
        let region = Region::new(2 << 20).expect("memory");
        let shared = Arc::new(Shared::new(region, &[None]).expect("descriptors"));
        let options = WorkerOptions { poll: Poll::Busy };
        let worker = Worker::new(shared.clone(), 0, options, Instant::now()).expect("a worker");
        let mut switch = Switch::default();
        let settings = BridgeSettings {
            mac_table_size: 1024,
            mac_aging: 3_600_000,
            ..BridgeSettings::default()
        };
        let bridges =
            ["a", "b"].map(|name| switch.add_bridge(name, settings.clone()).expect("a bridge"));
        let mut ports = Vec::new();
        for (b, last) in ALL_PORTS.into_iter().enumerate() {
            for n in 1..=last {
                let kind = match n == PATCH[b] {
                    true => PortKind::Patch(Some((bridges[1 - b], OfPort(PATCH[1 - b])))),
                    false => PortKind::Datapath(DpPort(datapath(b, n))),
                };
                let mut port = Port::new(OfPort(n), format!("p{b}-{n}"), kind);
                if let Some((.., tag)) = ACCESS.iter().find(|(of, p, _)| (*of, *p) == (b, n)) {
                    port.vlan =
                        VlanConfig { mode: VlanMode::Access, tag: *tag, ..VlanConfig::default() };
                }
                switch.set_port(bridges[b], port);
                if n != PATCH[b] {
                    let (port, queue) =
                        MemoryQueue::channel(256, Arc::<QueueCounters>::default()).expect("a port");
                    ports.push(port);
                    let queue = Box::new(Queue::Memory(queue));
                    let port = DpPort(datapath(b, n));
                    let added = shared.command(0, Command::AddQueue { port, queue });
                    assert!(added.is_ok(), "the mailbox is full");
                }
            }
        }
        let mut rig = Rig { switch, bridges, shared, worker, ports };
        rig.publish();
        rig
    }

    pub fn group(&mut self, group: Group) {
        for bridge in self.bridges {
            self.switch.set_group(bridge, group.clone(), false, false, 1).expect("a group");
        }
    }

    pub fn apply(&mut self, bridge: usize, m: &FlowMod) -> bool {
        let bridge = self.bridges[bridge];
        self.switch.apply_flow_mods(bridge, std::slice::from_ref(m), 1).is_ok()
    }

    pub fn publish(&mut self) {
        if let Some(snapshot) = self.switch.commit() {
            self.shared.publish(snapshot);
        }
        self.worker.round();
    }

    /// Do what the worker asks for, as control does: addresses and flows are learned.
    fn hear(&mut self) {
        let mut events = Vec::new();
        self.shared.take_events(usize::MAX, |e| events.push(e));
        for event in events {
            match event {
                Event::LearnMac { bridge, vlan, mac, port } => {
                    self.switch.fdb_learn(bridge, vlan, mac, port, 1);
                }
                Event::LearnFlow { bridge, flow } => self.switch.learn_flow(bridge, &flow, 1),
                _ => {}
            }
        }
        self.publish();
    }

    /// What leaves by each datapath port, in order, when this frame comes in by `port`. What is learned
    /// of it is known when this returns.
    pub fn pass(&mut self, port: u32, frame: &[u8]) -> Vec<(u32, Vec<u8>)> {
        assert!(self.ports[port as usize - 1].inject(frame).is_ok(), "the port is full");
        for _ in 0..3 {
            self.worker.round();
        }
        let mut out = Vec::new();
        for (n, p) in (1..).zip(&self.ports) {
            while let Some(f) = p.take() {
                out.push((n, f.bytes));
            }
        }
        self.hear();
        out
    }

    /// Packets and bytes of each rule, with its bridge.
    pub fn counters(&mut self) -> Vec<(usize, Arc<Rule>, u64, u64)> {
        let (reply, done) = std::sync::mpsc::sync_channel(1);
        assert!(self.shared.command(0, Command::PushStats(reply)).is_ok());
        while done.try_recv().is_err() {
            self.worker.round();
        }
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let mut all = Vec::new();
        for (b, id) in self.bridges.into_iter().enumerate() {
            for rule in self.switch.select(id, &FlowFilter::default()) {
                let (packets, bytes) = (load(&rule.stats.packets), load(&rule.stats.bytes));
                all.push((b, rule, packets, bytes));
            }
        }
        all
    }

    /// What was dropped so far, for failures.
    pub fn drops(&self) -> String {
        let count =
            |d: &flow::Drop| self.shared.workers[0].drops[*d as usize].load(Ordering::Relaxed);
        let seen = flow::Drop::ALL.iter().filter(|d| count(d) > 0);
        seen.map(|d| format!("{}: {} ", d.name(), count(d))).collect()
    }

    /// The rules as text, for failures.
    pub fn rules(&self) -> String {
        let mut text = String::new();
        for (b, id) in self.bridges.into_iter().enumerate() {
            text.push_str(&format!("bridge {b}\n{}", self.rules_of(id)));
        }
        text
    }

    fn rules_of(&self, id: BridgeId) -> String {
        let mut rules = self.switch.select(id, &FlowFilter::default());
        ofproto::flow_table::sort_rules(&mut rules);
        let mut text = String::new();
        for r in &rules {
            let shown = ShownFlow { cookie: 0, ..ShownFlow::from(&**r) };
            show_flow(&mut text, &shown, &NoNames);
            text.push('\n');
        }
        text
    }
}
