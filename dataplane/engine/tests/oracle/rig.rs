//! One worker, driven on the test's thread, between memory ports.

use std::sync::Arc;
use std::time::Instant;

use afxdp::Region;
use engine::{Command, Poll, Shared, Worker, WorkerOptions};
use ofproto::action::OfPort;
use ofproto::flowmod::{FlowFilter, FlowMod};
use ofproto::group::Group;
use ofproto::program::DpPort;
use ofproto::snapshot::{BridgeId, BridgeSettings, Port, PortKind};
use ofproto::switch::Switch;
use ofproto::text::{FlowTimes, NoNames, ShownFlow, show_flow};
use ports::memory::{MemoryPort, MemoryQueue};
use ports::{Queue, QueueCounters};

/// Ports of the bridge: 1 to this.
pub const PORTS: u32 = 4;

pub struct Rig {
    switch: Switch,
    bridge: BridgeId,
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
        let bridge = switch.add_bridge("b", BridgeSettings::default()).expect("a bridge");
        let mut ports = Vec::new();
        for n in 1..=PORTS {
            let (port, queue) =
                MemoryQueue::channel(256, Arc::<QueueCounters>::default()).expect("a port");
            ports.push(port);
            switch.set_port(bridge, described(n));
            let queue = Box::new(Queue::Memory(queue));
            let added = shared.command(0, Command::AddQueue { port: DpPort(n), queue });
            assert!(added.is_ok(), "the mailbox is full");
        }
        let mut rig = Rig { switch, bridge, shared, worker, ports };
        rig.publish();
        rig
    }

    pub fn group(&mut self, group: Group) {
        self.switch.set_group(self.bridge, group, false, false, 1).expect("a group");
    }

    pub fn apply(&mut self, m: &FlowMod) -> bool {
        self.switch.apply_flow_mods(self.bridge, std::slice::from_ref(m), 1).is_ok()
    }

    pub fn publish(&mut self) {
        if let Some(snapshot) = self.switch.commit() {
            self.shared.publish(snapshot);
        }
        self.worker.round();
    }

    /// What leaves, in order for each port, when this frame comes in by `port`.
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
        out
    }

    /// Packets and bytes of each rule, with its table and priority.
    pub fn counters(&mut self) -> Vec<(u8, u16, u64, u64)> {
        let (reply, done) = std::sync::mpsc::sync_channel(1);
        assert!(self.shared.command(0, Command::PushStats(reply)).is_ok());
        while done.try_recv().is_err() {
            self.worker.round();
        }
        let rules = self.switch.select(self.bridge, &FlowFilter::default());
        let load = std::sync::atomic::Ordering::Relaxed;
        rules
            .iter()
            .map(|r| (r.table, r.priority, r.stats.packets.load(load), r.stats.bytes.load(load)))
            .collect()
    }

    /// What was dropped so far, for failures.
    pub fn drops(&self) -> String {
        let count = |d: &flow::Drop| {
            self.shared.workers[0].drops[*d as usize].load(std::sync::atomic::Ordering::Relaxed)
        };
        let seen = flow::Drop::ALL.iter().filter(|d| count(d) > 0);
        seen.map(|d| format!("{}: {} ", d.name(), count(d))).collect()
    }

    /// The rules as text, for failures.
    pub fn rules(&self) -> String {
        let mut rules = self.switch.select(self.bridge, &FlowFilter::default());
        ofproto::flow_table::sort_rules(&mut rules);
        let mut text = String::new();
        for r in &rules {
            let shown = ShownFlow {
                table: r.table,
                priority: r.priority,
                cookie: 0,
                idle_timeout: 0,
                hard_timeout: 0,
                importance: 0,
                flags: Default::default(),
                matches: &r.matches,
                actions: &r.actions,
                times: None::<FlowTimes>,
            };
            show_flow(&mut text, &shown, &NoNames);
            text.push('\n');
        }
        text
    }
}

fn described(n: u32) -> Port {
    Port::new(OfPort(n), format!("p{n}"), PortKind::Datapath(DpPort(n)))
}
