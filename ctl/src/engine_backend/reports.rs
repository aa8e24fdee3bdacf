//! Answers to what is asked of the running switch.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use engine::stages::Stage;
use flow::Drop;
use ofproto::action::OfPort;
use ofproto::snapshot::FdbEntry;
use ports::{PortCounters as Counters, PortDrop};
use serde_json::value::RawValue;

use super::EngineBackend;
use crate::backend::answer;
use crate::command::Command;
use crate::config::{Config, OFPORT_LOCAL};
use crate::error::CtlError;
use crate::report;

/// Megaflows of one worker that are listed at most, unless fewer are asked for.
const MEGAFLOWS: usize = 1_000_000;

/// Counters of the workers as they were a moment ago, to make rates of.
#[derive(Default)]
pub struct Rates {
    before: Vec<WorkerThen>,
}

#[derive(Clone, Copy)]
struct WorkerThen {
    at: Instant,
    packets: u64,
    busy: u64,
    idle: u64,
    /// As last computed: packets per second, idle share.
    rates: (f64, f64),
}

fn read(c: &AtomicU64) -> u64 {
    c.load(Ordering::Relaxed)
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// The text of an Ethernet address.
pub fn mac_text(mac: u64) -> String {
    let b = mac.to_be_bytes();
    format!("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", b[2], b[3], b[4], b[5], b[6], b[7])
}

impl EngineBackend {
    pub(super) fn report(
        &mut self,
        config: &Config,
        command: &Command,
    ) -> Result<Box<RawValue>, CtlError> {
        match command {
            Command::Show { .. } => answer(&self.running()),
            Command::FdbShow { bridge } => answer(&self.fdb_show(config, bridge)?),
            Command::FdbFlush { bridge } => answer(&self.fdb_flush(bridge)?),
            Command::FdbStats { bridge } => answer(&self.fdb_stats(bridge)?),
            Command::DumpPorts { bridge, .. } => answer(&self.dump_ports(config, bridge)?),
            Command::Drops { why } => answer(&self.drops(*why)),
            Command::DumpMegaflows { limit } => {
                let max = limit.map_or(MEGAFLOWS, |m| usize::try_from(m).unwrap_or(usize::MAX));
                answer(&self.megaflows(max)?)
            }
            Command::Tunnels { port } => answer(&self.tunnels(config, port.as_deref())?),
            Command::RouteShow {} => answer(&self.routes()),
            Command::NeighShow { bridge } => answer(&self.neighbours(bridge.as_deref())),
            Command::Workers { stages } => answer(&self.workers(*stages)),
            other => Err(CtlError::internal(format!("nobody carries out \"{}\"", other.text()))),
        }
    }

    fn running(&mut self) -> report::Running {
        let mut ports = BTreeMap::new();
        for (name, opened) in &self.open {
            let mut state = opened.state();
            if let Some(engine) = &self.engine {
                state.workers = engine.workers_of(opened.dp);
            }
            ports.insert(name.clone(), state);
        }
        ports.extend(self.tunnel_states());
        report::Running { ports, warnings: Vec::new() }
    }

    fn fdb_show(&self, config: &Config, bridge: &str) -> Result<report::FdbReport, CtlError> {
        let now = self.now();
        let id = self.bridge_id(bridge)?;
        let ports = &config.bridge(bridge)?.ports;
        let name = |port: OfPort| {
            let of = |(n, p): (&String, &crate::config::Port)| {
                (u32::from(p.ofport) == port.0).then(|| n.clone())
            };
            ports.iter().find_map(of).unwrap_or_else(|| bridge.to_owned())
        };
        let entry = |e: &FdbEntry| report::FdbEntry {
            port: name(e.port),
            ofport: e.port.to_16(),
            vlan: e.vlan,
            mac: mac_text(e.mac),
            age: now.saturating_sub(read(&e.used)) / 1000,
        };
        let fdb = self.switch.bridge(id).map(|b| &b.fdb);
        let mut entries: Vec<_> =
            fdb.into_iter().flat_map(|f| f.values()).map(|e| entry(e)).collect();
        entries.sort_by(|a, b| (a.vlan, &a.mac).cmp(&(b.vlan, &b.mac)));
        Ok(report::FdbReport { bridge: bridge.to_owned(), entries })
    }

    fn fdb_flush(&mut self, bridge: &str) -> Result<report::FdbFlushed, CtlError> {
        let id = self.bridge_id(bridge)?;
        let flushed = self.switch.fdb_remove(id, |e| !e.is_static) as u64;
        self.publish()?;
        Ok(report::FdbFlushed { bridge: bridge.to_owned(), flushed })
    }

    fn fdb_stats(&self, bridge: &str) -> Result<report::FdbStats, CtlError> {
        let id = self.bridge_id(bridge)?;
        let b = self.switch.bridge(id);
        let stats = self.switch.fdb_stats(id);
        let lost = self.engine.iter().flat_map(|e| &e.shared().workers);
        Ok(report::FdbStats {
            bridge: bridge.to_owned(),
            entries: b.map_or(0, |b| b.fdb.len() as u64),
            max_entries: b.map_or(0, |b| b.settings.mac_table_size as u64),
            aging_time: b.map_or(0, |b| b.settings.mac_aging / 1000),
            learned: stats.learned,
            moved: stats.moved,
            expired: stats.expired,
            evicted: stats.evicted,
            refused: lost.map(|w| read(&w.counters.events_lost)).sum(),
        })
    }

    fn dump_ports(&self, config: &Config, bridge: &str) -> Result<report::PortsReport, CtlError> {
        let b = config.bridge(bridge)?;
        let mut ports: Vec<_> =
            b.ports.iter().map(|(name, p)| self.port_counters(name, p.ofport)).collect();
        ports.sort_by_key(|p| p.ofport);
        ports.push(self.port_counters(bridge, OFPORT_LOCAL));
        Ok(report::PortsReport { bridge: bridge.to_owned(), ports })
    }

    fn port_counters(&self, name: &str, ofport: u16) -> report::PortCounters {
        if let Some(report) = self.tunnel_port(name, ofport) {
            return report;
        }
        let n = self.open.get(name).map(|o| o.counters()).unwrap_or_default();
        report::PortCounters {
            name: name.to_owned(),
            ofport,
            rx_packets: n.rx_packets,
            rx_bytes: n.rx_bytes,
            tx_packets: n.tx_packets,
            tx_bytes: n.tx_bytes,
            drops: n
                .drops_seen()
                .map(|(d, packets)| report::DropCount { reason: d.name().into(), packets })
                .collect(),
        }
    }

    fn drops(&self, why: bool) -> report::DropsReport {
        let mut reasons = Vec::new();
        let workers = || self.engine.iter().flat_map(|e| &e.shared().workers);
        for why in Drop::ALL {
            let packets = workers().map(|w| read(&w.drops[*why as usize])).sum();
            reasons.push((why.name(), why.text(), packets));
        }
        reasons.push((
            "no_monitor",
            "a packet for a controller while nobody monitored its bridge",
            self.monitors.unheard(),
        ));
        let mut total = Counters::default();
        for o in self.open.values() {
            total += o.counters();
        }
        total += self.devices.closed;
        for why in PortDrop::ALL {
            reasons.push((why.name(), why.text(), total.dropped(*why)));
        }
        // A full transmit ring and the like occur in both lists under one name.
        let mut by_name: BTreeMap<&str, (&str, u64)> = BTreeMap::new();
        for (name, text, packets) in reasons {
            by_name.entry(name).or_insert((text, 0)).1 += packets;
        }
        let mut reasons: Vec<_> = by_name
            .into_iter()
            .filter(|(_, (_, packets))| *packets > 0)
            .map(|(name, (text, packets))| report::DropReason {
                reason: name.into(),
                packets,
                description: text.into(),
            })
            .collect();
        reasons.sort_by_key(|r| std::cmp::Reverse(r.packets));
        report::DropsReport { reasons, latest: why.then(|| self.latest_drops()) }
    }

    fn megaflows(&mut self, max: usize) -> Result<report::MegaflowsReport, CtlError> {
        let engine = self.engine()?;
        let dumps = engine.dump(max).map_err(|e| CtlError::internal(e.to_string()))?;
        let total =
            engine.shared().workers.iter().map(|w| read(&w.counters.megaflows)).sum::<u64>();
        let listed = dumps.iter().map(|d| d.len() as u64).sum();
        let mut megaflows = Vec::new();
        for (worker, dump) in dumps.iter().enumerate() {
            for m in dump {
                megaflows.push(self.megaflow(worker, m));
            }
        }
        megaflows.truncate(max);
        Ok(report::MegaflowsReport { total: total.max(listed), megaflows })
    }

    fn megaflow(&self, worker: usize, m: &engine::MegaflowDump) -> report::Megaflow {
        let rule = |(table, cookie): &(u32, u64)| {
            let bridge = ofproto::snapshot::BridgeId((table >> 8) as u16);
            let name = self.switch.bridge(bridge).map_or("?", |b| &*b.name);
            format!("rule {name} table={} cookie={cookie:#x}", table & 0xff)
        };
        let depends = m.rules.iter().map(rule).chain(m.depends.iter().map(|d| self.dep_text(d)));
        report::Megaflow {
            worker: worker as u32,
            matches: super::text::megaflow(&m.matches),
            actions: super::text::program(&m.program, &m.matches),
            packets: m.packets,
            bytes: m.bytes,
            used: (m.packets > 0).then_some(m.idle as f64 / 1000.0),
            age: m.age as f64 / 1000.0,
            depends: depends.collect(),
        }
    }

    fn dep_text(&self, dep: &ofproto::snapshot::Dep) -> String {
        use ofproto::snapshot::Dep;
        let bridge = |id| self.switch.bridge(id).map_or("?", |b| &*b.name).to_owned();
        match dep {
            Dep::Ingress(p) => format!("ingress of datapath port {}", p.0),
            Dep::Bridge(b) => format!("bridge {}", bridge(*b)),
            Dep::Port(b, p) => format!("port {} of {}", p.0, bridge(*b)),
            Dep::Fdb(b, vlan, mac) => {
                format!("fdb {} vlan={vlan} mac={}", bridge(*b), mac_text(*mac))
            }
            Dep::Group(b, g) => format!("group {g} of {}", bridge(*b)),
            Dep::Listener(kind, 0) => format!("tunnels of type {}", kind.name()),
            Dep::Listener(kind, port) => format!("tunnels of type {}, port {port}", kind.name()),
            Dep::Limited(b, table, cookie) => {
                format!("limit of learned flows in {} table={table} cookie={cookie:#x}", bridge(*b))
            }
            Dep::Routes => "routes".to_owned(),
            Dep::Neigh(t) => format!("neighbour {} on link {}", t.address, t.link),
        }
    }

    fn workers(&mut self, stages: bool) -> report::WorkersReport {
        let Some(engine) = &self.engine else { return report::WorkersReport::default() };
        let shared = engine.shared().clone();
        let mut workers = Vec::new();
        for w in &shared.workers {
            let c = &w.counters;
            let packets = read(&c.packets);
            let (busy, idle) = (read(&c.busy_cycles), read(&c.idle_cycles));
            let (pps, idle_share) = self.rates.of(w.index, packets, busy, idle);
            let (bursts, upcalls) = (read(&c.bursts), read(&c.upcalls));
            // What finds nothing, or something stale, is looked up again: there are more answers than packets.
            let (exact, classifier) = (read(&c.cache_hits), read(&c.classifier_hits));
            let lookups = exact + classifier + upcalls;
            let queues = self.queues_of(w.index);
            workers.push(report::WorkerReport {
                worker: w.index as u32,
                core: w.core.unwrap_or(0) as u32,
                queues,
                packets,
                packets_per_second: pps,
                cycles_per_packet: share(busy, packets),
                exact_hit_rate: share(exact, lookups),
                megaflow_hit_rate: share(classifier, lookups),
                upcalls,
                megaflows: read(&c.megaflows),
                masks: read(&c.masks),
                bursts,
                packets_per_burst: share(packets, bursts),
                burst_sizes: (0..c.burst_sizes.len())
                    .map(|i| (i as u32, read(&c.burst_sizes[i])))
                    .filter(|(_, n)| *n > 0)
                    .map(|(packets, bursts)| report::BurstSize { packets, bursts })
                    .collect(),
                idle: idle_share,
                stages: stages.then(|| stages_of(&w.stages)),
            });
        }
        let (region, pools) = (&shared.region, &shared.workers);
        let frames = report::FramesReport {
            total: region.chunks() as u64,
            free: region.stored() as u64,
            pools: pools.iter().map(|w| read(&w.counters.pool_frames)).sum::<u64>()
                + self.pool.len() as u64,
            queues: pools.iter().map(|w| read(&w.counters.queue_frames)).sum(),
            between: shared.rings.waiting() as u64,
        };
        report::WorkersReport { workers, frames }
    }

    fn queues_of(&self, worker: usize) -> Vec<String> {
        let Some(engine) = &self.engine else { return Vec::new() };
        let mut out = Vec::new();
        for (name, opened) in &self.open {
            for (queue, w) in engine.workers_of(opened.dp).into_iter().enumerate() {
                if w as usize == worker {
                    out.push(format!("{name}/{queue}"));
                }
            }
        }
        out
    }
}

impl Rates {
    /// Packets per second and idle share of a worker since at least a second ago.
    fn of(&mut self, worker: usize, packets: u64, busy: u64, idle: u64) -> (f64, f64) {
        let now = Instant::now();
        let fresh =
            WorkerThen { at: now, packets, busy, idle, rates: (0.0, share(idle, busy + idle)) };
        if self.before.len() <= worker {
            self.before.resize(worker + 1, fresh);
            return fresh.rates;
        }
        let then = self.before[worker];
        let seconds = now.duration_since(then.at).as_secs_f64();
        if seconds < 1.0 {
            return then.rates;
        }
        let (b, i) = (busy.wrapping_sub(then.busy), idle.wrapping_sub(then.idle));
        let rates = (packets.wrapping_sub(then.packets) as f64 / seconds, share(i, b + i));
        self.before[worker] = WorkerThen { rates, ..fresh };
        rates
    }
}

/// Where a worker's cycles went.
fn stages_of(timed: &engine::stages::StageCounters) -> report::StagesReport {
    let packets = read(&timed.packets);
    let cycles = |stage| share(timed.cycles(stage), packets);
    let stages = Stage::ALL.map(|s| (s.name().to_owned(), cycles(s))).into();
    report::StagesReport { packets, cycles_per_packet: stages }
}
