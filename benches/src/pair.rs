//! Two workers, each with established connections of its own, on one table or on a table each.

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use afxdp::Region;
use engine::{Command, Poll, Shared, Worker, WorkerOptions};
use ofproto::flowmod::Command as FlowCommand;
use ofproto::program::DpPort;
use ofproto::snapshot::BridgeSettings;
use ofproto::switch::Switch;
use ofproto::text::{NoNames, parse_flows};
use ports::memory::MemoryQueue;
use ports::trace::Trace;
use ports::{Queue, QueueCounters};

use crate::measure::Measurement;
use crate::ours::{other, port};

/// Both directions of a worker's connections.
pub type Traffic = [Arc<Trace>; 2];

/// What a worker receives and sends.
struct Side {
    shared: Arc<Shared>,
    me: usize,
    received: Arc<QueueCounters>,
    sent: Arc<QueueCounters>,
}

/// The flows of a worker's ports: the first of three, whose numbers follow each other, receives, the
/// second sends, the third receives the answers.
fn flows(first: u32) -> String {
    let [input, out, answers] = [first, first + 1, first + 2];
    let (table, back) = (first, first + 1);
    format!(
        "table=0,in_port={input},ip,actions=ct(table={table},zone=1,nat)
         table=0,in_port={answers},ip,actions=ct(table={back},zone=1,nat)
         table={table},ip,ct_state=+trk+new,actions=ct(commit,zone=1,nat(src=203.0.113.1)),{out}
         table={table},ip,ct_state=+trk+est,actions={out}
         table={back},ip,ct_state=+trk+est,actions={out}"
    )
}

/// Workers of one switch, one for each traffic.
fn sides(traffic: &[Traffic]) -> std::io::Result<Vec<Side>> {
    let shared = Arc::new(Shared::new(Region::new(16 << 20)?, &vec![None; traffic.len()])?);
    let mut switch = Switch::default();
    let bridge =
        switch.add_bridge("b", BridgeSettings::default()).ok_or_else(|| other("no bridge"))?;
    let mut all = Vec::new();
    for (me, [there, back]) in traffic.iter().enumerate() {
        let first = 1 + 3 * me as u32;
        let (received, sent) = (Arc::<QueueCounters>::default(), Arc::<QueueCounters>::default());
        let queues = [
            MemoryQueue::replay(there.clone(), None, received.clone()),
            MemoryQueue::null(sent.clone()),
            MemoryQueue::replay(back.clone(), None, received.clone()),
        ];
        for (n, queue) in (first..).zip(queues) {
            switch.set_port(bridge, port(n));
            let queue = Box::new(Queue::Memory(queue));
            let added = shared.command(me, Command::AddQueue { port: DpPort(n), queue });
            added.map_err(|_| other("the mailbox is full"))?;
        }
        let mods = parse_flows(&flows(first), FlowCommand::Add, &NoNames);
        let mods = mods.map_err(|e| other(&e.to_string()))?;
        let done = switch.apply_flow_mods(bridge, &mods, 1);
        done.map_err(|(i, e)| other(&format!("flow {i}: {e}")))?;
        all.push(Side { shared: shared.clone(), me, received, sent });
    }
    if let Some(snapshot) = switch.commit() {
        shared.publish(snapshot);
    }
    Ok(all)
}

/// Million packets a second of all workers together, of which there is one for each traffic and core:
/// on one table, or on a table each.
///
/// # Errors
/// A worker cannot be made, or sends less than 95 % of what it receives.
pub fn rate(traffic: &[Traffic], one_table: bool, time: Duration) -> std::io::Result<Measurement> {
    let sides = if one_table {
        sides(traffic)?
    } else {
        let each: std::io::Result<Vec<Vec<Side>>> =
            traffic.iter().map(|t| sides(std::slice::from_ref(t))).collect();
        each?.into_iter().flatten().collect()
    };
    let packets = traffic.iter().flatten().map(|t| t.len() as u64).max().unwrap_or(0);
    let barrier = Barrier::new(sides.len());
    let rates: Vec<std::io::Result<f64>> = std::thread::scope(|s| {
        let drive = |(core, side)| {
            s.spawn({
                let barrier = &barrier;
                move || drive(core, side, packets, barrier, time)
            })
        };
        let threads: Vec<_> = sides.iter().enumerate().map(drive).collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(other("panicked")))).collect()
    });
    let mut rate = 0.0;
    for r in rates {
        rate += r?;
    }
    Ok(Measurement { rate, cycles: None })
}

/// One worker on one core: its connections are made, then it is measured together with the others.
fn drive(
    core: usize,
    side: &Side,
    packets: u64,
    barrier: &Barrier,
    time: Duration,
) -> std::io::Result<f64> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    // Not fatal: the figures are then noisier.
    let _ = rustix::thread::sched_setaffinity(None, &set);
    let options = WorkerOptions { poll: Poll::Busy };
    let mut worker = Worker::new(side.shared.clone(), side.me, options, Instant::now())?;
    let received = || side.received.read().rx_packets;
    while received() < 8 * packets {
        worker.round();
    }
    barrier.wait();
    let (rx, tx, start) = (received(), side.sent.read().tx_packets, Instant::now());
    while start.elapsed() < time {
        for _ in 0..64 {
            worker.round();
        }
    }
    let (seconds, rx) = (start.elapsed().as_secs_f64(), received() - rx);
    let tx = side.sent.read().tx_packets - tx;
    if tx * 100 < rx * 95 {
        return Err(other(&format!("worker {core} sent only {tx} of {rx} packets")));
    }
    Ok(rx as f64 / seconds / 1e6)
}
