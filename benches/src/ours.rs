//! The switch's own rows: a trace replayed from memory through one worker into a null port.
//!
//! The whole path is there: frames are copied in on receive, keys extracted, looked up, counted,
//! changed and transmitted, buffers given back. The worker is driven on the calling thread, so
//! that nothing else is measured.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use afxdp::Region;
use engine::stages::Stage;
use engine::{Command, MegaflowDump, Poll, Shared, Worker, WorkerOptions};
use flow::{Field, FlowKey, Match};
use ofproto::action::{Action, OfPort};
use ofproto::flowmod::Command as FlowCommand;
use ofproto::mf::Mf;
use ofproto::program::DpPort;
use ofproto::rules::RuleSpec;
use ofproto::snapshot::{BridgeId, BridgeSettings, Port, PortKind};
use ofproto::switch::Switch;
use ofproto::text::{NoNames, parse_flows, show_megaflow, show_program};
use ports::memory::MemoryQueue;
use ports::trace::Trace;
use ports::{Queue, QueueCounters};

use crate::cloud::{self, Node};
use crate::stages::Stages;
use crate::tunnels;

/// Bytes of frame memory: what a small node would have.
const REGION: usize = 16 << 20;
/// Rounds between two looks at the clock.
const CHUNK: usize = 256;
/// Seed of all hashes: every run does the same.
const SEED: u64 = 0x5eed;
/// What [`Bench::warm_up`] does at least: by its clock two seconds, in which caches are tuned four times.
const WARM_ROUNDS: u64 = 2_000;

/// One row's result.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Million packets a second.
    pub mpps: f64,
    /// Cycles of the constant-rate counter per packet.
    pub cycles: f64,
    /// Share of packets that left.
    pub sent: f64,
    /// Cycles a packet of each stage, in the order of [`Stage::ALL`].
    pub stages: [f64; Stage::COUNT],
}

/// A switch of one bridge with port 1 (`in`), port 2 (`out`) and maybe port 3 (`in2`), and one
/// worker.
pub struct Bench {
    /// The bridge's configuration.
    pub switch: Switch,
    /// The bridge.
    pub bridge: BridgeId,
    shared: Arc<Shared>,
    worker: Worker,
    started: Instant,
    input: Arc<QueueCounters>,
    output: Arc<QueueCounters>,
    /// What the worker's clock shows in rounds that are counted, in milliseconds.
    clock: u64,
}

impl Bench {
    /// A bench that replays a trace for ever.
    ///
    /// # Errors
    /// If memory or descriptors cannot be had.
    pub fn new(trace: Arc<Trace>) -> std::io::Result<Bench> {
        Bench::replay(trace, None)
    }

    /// A bench that replays a trace that often.
    ///
    /// # Errors
    /// If memory or descriptors cannot be had.
    pub fn replay(trace: Arc<Trace>, rounds: Option<u64>) -> std::io::Result<Bench> {
        let shared = Arc::new(Shared::with_seed(Region::new(REGION)?, &[None], SEED)?);
        let options = WorkerOptions { poll: Poll::Busy };
        let started = Instant::now();
        let worker = Worker::new(shared.clone(), 0, options, started)?;
        let mut switch = Switch::default();
        let settings = BridgeSettings {
            mac_table_size: 1 << 20,
            mac_aging: 300_000,
            ..BridgeSettings::default()
        };
        let bridge = switch.add_bridge("b", settings).ok_or_else(|| other("no bridge"))?;
        for n in [1, 2] {
            switch.set_port(bridge, port(n));
        }
        let (input, output) = (Arc::<QueueCounters>::default(), Arc::<QueueCounters>::default());
        let queues = [
            (1, MemoryQueue::replay(trace, rounds, input.clone())),
            (2, MemoryQueue::null(output.clone())),
        ];
        for (n, q) in queues {
            let queue = Box::new(Queue::Memory(q));
            let added = shared.command(0, Command::AddQueue { port: DpPort(n), queue });
            added.map_err(|_| other("the mailbox is full"))?;
        }
        Ok(Bench { switch, bridge, shared, worker, started, input, output, clock: 1 })
    }

    /// Add port 3, which replays another trace for ever.
    ///
    /// # Errors
    /// If the worker takes no queue.
    pub fn second_input(&mut self, trace: Arc<Trace>) -> std::io::Result<()> {
        self.more_input(self.bridge, trace, None)
    }

    /// Add port 3 to a bridge, which replays another trace that often, or for ever.
    ///
    /// # Errors
    /// If the worker takes no queue.
    pub fn more_input(
        &mut self,
        bridge: BridgeId,
        trace: Arc<Trace>,
        rounds: Option<u64>,
    ) -> std::io::Result<()> {
        self.switch.set_port(bridge, port(3));
        let queue = MemoryQueue::replay(trace, rounds, self.input.clone());
        let queue = Box::new(Queue::Memory(queue));
        let added = self.shared.command(0, Command::AddQueue { port: DpPort(3), queue });
        added.map_err(|_| other("the mailbox is full"))
    }

    /// Add flows, one a line.
    ///
    /// # Errors
    /// The text is wrong, or a flow is refused.
    pub fn flows(&mut self, text: &str) -> std::io::Result<()> {
        self.flows_of(self.bridge, text)
    }

    /// The same for any bridge.
    ///
    /// # Errors
    /// The text is wrong, or a flow is refused.
    pub fn flows_of(&mut self, bridge: BridgeId, text: &str) -> std::io::Result<()> {
        let mods = parse_flows(text, FlowCommand::Add, &NoNames);
        let mods = mods.map_err(|e| other(&e.to_string()))?;
        let done = self.switch.apply_flow_mods(bridge, &mods, 1);
        done.map(|_| ()).map_err(|(i, e)| other(&format!("flow {i}: {e}")))
    }

    /// Add a rule.
    pub fn rule(&mut self, table: u8, priority: u16, matches: Match, actions: Vec<Action>) {
        let spec = RuleSpec::new(table, priority, matches, actions);
        self.switch.add_rule(self.bridge, spec, 1);
    }

    /// Publish what was changed.
    pub fn publish(&mut self) {
        if let Some(snapshot) = self.switch.commit() {
            self.shared.publish(snapshot);
        }
    }

    /// Let the worker do rounds for about that long.
    pub fn run(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            for _ in 0..CHUNK {
                self.worker.round();
            }
        }
    }

    /// Let the worker do rounds until so many more packets were received.
    pub fn receive(&mut self, packets: u64) {
        let end = self.received() + packets;
        while self.received() < end {
            self.worker.round();
        }
    }

    /// Exactly that many rounds.
    pub fn rounds(&mut self, n: usize) {
        for _ in 0..n {
            self.worker.round();
        }
    }

    /// Rounds until so many flows have been seen twice and the caches are tuned, by a clock that goes on
    /// by a millisecond with each. Before [`Bench::same_rounds`], and not beside [`Bench::rounds`].
    pub fn warm_up(&mut self, flows: u64) {
        self.publish();
        let mut rounds = 0;
        while rounds < WARM_ROUNDS || self.received() < 2 * flows {
            self.clock += 1;
            self.worker.round_at(self.clock);
            rounds += 1;
        }
    }

    /// Rounds in which no time passes: the same instructions in every run.
    pub fn same_rounds(&mut self, n: usize) {
        for _ in 0..n {
            self.worker.round_at(self.clock);
        }
    }

    /// Measure for that long, after a warm-up of the same length at most one second.
    pub fn measure(&mut self, time: Duration) -> Measured {
        self.publish();
        self.run(time.min(Duration::from_secs(1)));
        let (rx, tx) = (self.input.read().rx_packets, self.output.read().tx_packets);
        let stages = Stages::read(&self.shared.workers[0].stages);
        let (started, cycles) = (Instant::now(), flow::cpu::cycles());
        self.run(time);
        let cycles = flow::cpu::cycles().wrapping_sub(cycles) as f64;
        let seconds = started.elapsed().as_secs_f64();
        let packets = (self.input.read().rx_packets - rx) as f64;
        let sent = (self.output.read().tx_packets - tx) as f64;
        let stages = Stages::read(&self.shared.workers[0].stages).since(&stages);
        let (mpps, cycles) = (packets / seconds / 1e6, cycles / packets);
        Measured { mpps, cycles, sent: sent / packets, stages }
    }

    /// The megaflows there are, as `dump-megaflows` shows them.
    ///
    /// # Errors
    /// If the worker takes no command, or gives no answer.
    pub fn megaflows(&mut self) -> std::io::Result<Vec<String>> {
        let (reply, answer) = std::sync::mpsc::sync_channel(1);
        let asked = self.shared.command(0, Command::Dump { max: usize::MAX, reply });
        asked.map_err(|_| other("the mailbox is full"))?;
        for _ in 0..1 << 20 {
            self.worker.round_at(self.clock);
            if let Ok(found) = answer.try_recv() {
                return Ok(found.iter().map(line).collect());
            }
        }
        Err(other("the worker gives no answer"))
    }

    /// What control and the worker share, for a thread that plays control.
    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Milliseconds since the worker was made: its clock.
    pub fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Packets sent so far.
    pub fn sent(&self) -> u64 {
        self.output.read().tx_packets
    }

    /// Packets received so far.
    pub fn received(&self) -> u64 {
        self.input.read().rx_packets
    }

    /// The worker's counters.
    pub fn counters(&self) -> &engine::WorkerCounters {
        &self.shared.workers[0].counters
    }
}

/// A megaflow in one line: packets, what it matches, what is done.
fn line(m: &MegaflowDump) -> String {
    let mut out = format!("{:>10} ", m.packets);
    show_megaflow(&mut out, &m.matches);
    out.push_str(" -> ");
    show_program(&mut out, &m.program, &m.matches);
    out
}

/// The limit of rows from memory: bursts of a trace are received and sent, and nothing is asked of them.
///
/// # Errors
/// If there is no memory.
pub fn empty_loop(trace: Arc<Trace>, time: Duration) -> std::io::Result<Measured> {
    let region = Region::new(REGION)?;
    let mut pool = region.pool();
    let (input, output) = (Arc::<QueueCounters>::default(), Arc::<QueueCounters>::default());
    let mut from = Queue::Memory(MemoryQueue::replay(trace, None, input.clone()));
    let mut to = Queue::Memory(MemoryQueue::null(output.clone()));
    let mut burst = ports::Burst::default();
    let (started, cycles) = (Instant::now(), flow::cpu::cycles());
    while started.elapsed() < time {
        for _ in 0..CHUNK {
            from.rx_burst(&mut pool, &mut burst);
            to.tx_burst(&mut pool, &mut burst);
        }
    }
    let cycles = flow::cpu::cycles().wrapping_sub(cycles) as f64;
    let seconds = started.elapsed().as_secs_f64();
    let (packets, sent) = (input.read().rx_packets as f64, output.read().tx_packets as f64);
    from.close(&mut pool);
    to.close(&mut pool);
    let (mpps, cycles) = (packets / seconds / 1e6, cycles / packets);
    Ok(Measured { mpps, cycles, sent: sent / packets, stages: [0.0; Stage::COUNT] })
}

/// An error that says this.
pub fn other(what: &str) -> std::io::Error {
    std::io::Error::other(what.to_owned())
}

pub(crate) fn port(n: u32) -> Port {
    Port::new(OfPort(n), format!("p{n}"), PortKind::Datapath(DpPort(n)))
}

/// A match on fields: (field, value, mask).
pub fn on(fields: &[(Field, u128, u128)]) -> Match {
    let (mut key, mut mask) = (FlowKey::ZERO, FlowKey::ZERO);
    for (field, value, m) in fields {
        key.set(*field, *value);
        mask.set(*field, *m);
    }
    Match::new(&key, &mask)
}

const OUT: Action = Action::output(OfPort(2));
const IN: (Field, u128, u128) = (Field::InPort, 1, u32::MAX as u128);
const IP: (Field, u128, u128) = (Field::EthType, 0x0800, 0xffff);
const UDP: (Field, u128, u128) = (Field::NwProto, 17, 0xff);

/// The rows, with the trace that each replays.
pub const ROWS: &[(&str, &str)] = &[
    ("forward-1", "udp-1"),
    ("forward-1000", "udp-1000"),
    ("forward-10000", "udp-10000"),
    ("forward-100000", "udp-100000"),
    ("l2-1000", "udp-1000"),
    ("megaflow-1000", "udp-1000"),
    ("megaflow-10000", "udp-10000"),
    ("megaflow-100000", "udp-100000"),
    ("vlan-push-1000", "udp-1000"),
    ("vlan-pop-1000", "vlan-1000"),
    ("route-1000", "udp-1000"),
    ("many-megaflows-1000", "udp-1000"),
    ("many-megaflows-10000", "udp-10000"),
    ("many-megaflows-100000", "udp-100000"),
    ("acl-10000", "acl-10000"),
    ("vxlan-encap-1000", "udp-1000"),
    ("vxlan-decap-1000", "vxlan-1000"),
    ("gre-encap-1000", "udp-1000"),
    ("gre-decap-1000", "gre-1000"),
    ("geneve-encap-1000", "udp-1000"),
    ("geneve-decap-1000", "geneve-1000"),
    ("vxlan-tunnels-4000", "udp-1000"),
    ("ct-est-udp-1000", "nat-udp-1000"),
    ("ct-est-udp-10000", "nat-udp-10000"),
    ("ct-est-udp-100000", "nat-udp-100000"),
    ("ct-est-tcp-1000", "nat-tcp-1000"),
    ("ct-est-tcp-10000", "nat-tcp-10000"),
    ("ct-est-tcp-100000", "nat-tcp-100000"),
    ("ct-new-8192", "life-8192"),
    ("ct-new-nat-8192", "life-nat-8192"),
    ("neutron-1000", "udp-1000"),
    ("cloud-out-1000", "udp-1000"),
    ("cloud-snat-1000", "vxlan-1000"),
    ("ct-unanswered-10000", "udp-10000"),
];

/// New connections are kept with SNAT, replies are translated back.
pub const NAT: &str = "\
    table=0,in_port=1,ip,actions=ct(table=1,zone=1,nat)
    table=0,in_port=3,ip,actions=ct(table=2,zone=1,nat)
    table=1,ip,ct_state=+trk+new,actions=ct(commit,zone=1,nat(src=203.0.113.1)),2
    table=1,ip,ct_state=+trk+est,actions=2
    table=2,ip,ct_state=+trk+est,actions=2";

/// The trace of a row's answers, beside the one of its packets.
fn reply(row: &str, trace: &str) -> Option<String> {
    match Node::of_row(row) {
        Some(Node::Network) => Some("cloud-1000-reply".to_owned()),
        _ => row.starts_with("ct-est").then(|| format!("{trace}-reply")),
    }
}

/// Write the traces that [`bench`] reads for a row.
///
/// # Errors
/// If there is no such row, or a file cannot be written.
pub fn write_traces(row: &str, dir: &Path) -> anyhow::Result<()> {
    let (_, trace) = ROWS.iter().find(|(r, _)| *r == row).ok_or_else(|| other("no such row"))?;
    crate::trace::write(dir, trace)?;
    reply(row, trace).map_or(Ok(()), |reply| crate::trace::write(dir, &reply))
}

/// A bench with the rules of a row.
///
/// # Errors
/// If there is no such row, or the trace cannot be read.
pub fn bench(row: &str, traces: &Path) -> std::io::Result<Bench> {
    let (_, trace) = ROWS.iter().find(|(r, _)| *r == row).ok_or_else(|| other("no such row"))?;
    let read = |name: String| {
        let path = traces.join(format!("{name}.pcap"));
        Trace::from_pcap(&path).map(Arc::new).map_err(|e| other(&e.to_string()))
    };
    let mut b = Bench::new(read(trace.to_string())?)?;
    if row.starts_with("ct-est") || row.starts_with("ct-unanswered") {
        b.flows(NAT)?;
    }
    let reply = reply(row, trace).map(read).transpose()?;
    if row.starts_with("ct-est")
        && let Some(reply) = reply.clone()
    {
        b.second_input(reply)?;
    }
    if let Some(node) = Node::of_row(row) {
        cloud::set_up(&mut b, node).map_err(|e| other(&format!("{e:#}")))?;
        if let (Some(outside), Some(reply)) = (cloud::outside(&b), reply) {
            answer_once(&mut b, outside, reply)?;
        }
    } else if let Some((kind, way, tunnels)) = tunnels::of_row(row) {
        tunnels::set_up(&mut b, kind, way, tunnels)?;
    } else if ["neutron-", "vlan-pop-", "ct-new-"].iter().any(|r| row.starts_with(r)) {
        let rows = crate::rows::memory();
        let flows = rows.iter().find(|r| r.name == row).map(crate::rows::Row::flows);
        b.flows(&flows.unwrap_or_default().iter().map(|f| numbered(f) + "\n").collect::<String>())?;
    } else {
        rules(row, &mut b);
    }
    Ok(b)
}

/// Let every connection begin, then each have an answer: what follows is established.
fn answer_once(b: &mut Bench, from: BridgeId, answers: Arc<Trace>) -> std::io::Result<()> {
    b.publish();
    b.receive(2 * answers.len() as u64);
    let more = answers.len() as u64;
    b.more_input(from, answers, Some(1))?;
    b.publish();
    // Both inputs take turns.
    b.receive(2 * more);
    Ok(())
}

/// A row's flow with the numbers of its ports.
fn numbered(flow: &str) -> String {
    let flow = flow.replace("in_port=in,", "in_port=1,");
    match flow.strip_suffix("out").filter(|head| head.ends_with([',', '='])) {
        Some(head) => format!("{head}output:2"),
        None => flow,
    }
}

fn rules(row: &str, b: &mut Bench) {
    let (kind, n) = row.rsplit_once('-').unwrap_or((row, "0"));
    let n: u128 = n.parse().unwrap_or(0);
    match kind {
        "forward" => b.rule(0, 100, on(&[IN]), vec![OUT]),
        "megaflow" => {
            let net = (Field::NwDst, 0x0a64_0000, 0xffff_0000);
            b.rule(0, 100, on(&[IN, IP, UDP, net]), vec![OUT]);
        }
        "vlan-push" => {
            b.rule(0, 100, on(&[IN]), vec![Action::SetVlanVid(100), OUT]);
        }
        "route" => {
            let mac = |f, v| Action::set(f, v);
            let acts = vec![
                mac(Mf::EthSrc, 0x0200_0000_0009),
                mac(Mf::EthDst, 0x0200_0000_0008),
                Action::DecTtl(None),
                OUT,
            ];
            b.rule(0, 100, on(&[IN]), acts);
        }
        "l2" => {
            b.rule(0, 0, Match::default(), vec![Action::output(OfPort::NORMAL)]);
            // Both addresses of the trace are known, the destination behind `out`.
            b.switch.fdb_learn(b.bridge, 0, 0x0200_0000_0001, OfPort(1), 1);
            b.switch.fdb_learn(b.bridge, 0, 0x0200_0000_0002, OfPort(2), 1);
        }
        "many-megaflows" => {
            for i in 0..n {
                let src = 10 << 24 | (i / 62500) << 16 | (i / 250 % 250) << 8 | (1 + i % 250);
                let src = (Field::NwSrc, src, 0xffff_ffff);
                let port = (Field::TpSrc, 1024 + i * 31 % 60000, 0xffff);
                b.rule(0, 100, on(&[IP, UDP, src, port]), vec![OUT]);
            }
        }
        "acl" => {
            let go = Action::Resubmit { in_port: None, table: Some(1), ct: false };
            for i in 0..64u128 {
                let len = 24 - i % 8;
                let mask = 0xffff_ffff << (32 - len) & 0xffff_ffff;
                let src = (Field::NwSrc, (10 << 24 | i << 8) & mask, mask);
                b.rule(0, 100 + i as u16, on(&[IP, UDP, src]), vec![go.clone()]);
                let mask = 0xffff << (i % 4) & 0xffff;
                let dst = (Field::TpDst, (1000 + i) & mask, mask);
                b.rule(1, 100 + i as u16, on(&[IP, UDP, dst]), vec![OUT]);
            }
        }
        _ => {}
    }
}
