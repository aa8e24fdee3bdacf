//! What came of trials, for people and for programs.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::cpu::CoreUse;
use super::rate::scaled;
use super::rig::{PortInfo, Rig};
use super::trial::Outcome;

/// The share of the rate wanted from which on the sender has kept up.
pub const KEPT_UP: f64 = 0.98;

/// Where a measurement was made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Place {
    /// Processor and number of cores.
    pub machine: String,
    pub kernel: String,
    pub ports: Vec<PortInfo>,
    /// Cores that this program may run on.
    pub cores: Vec<usize>,
    /// What the user says of the device: where it runs, how it is set.
    pub device: Option<String>,
}

impl Place {
    /// This machine, with the ports of a rig.
    pub fn here(rig: &Rig, device: Option<&str>) -> Self {
        let kernel = rustix::system::uname();
        Self {
            machine: crate::results::machine(),
            kernel: kernel.release().to_string_lossy().into_owned(),
            ports: rig.info().to_vec(),
            cores: allowed_cores(),
            device: device.map(str::to_owned),
        }
    }

    /// Lines for people.
    pub fn text(&self) -> String {
        let mut text = format!("{}, kernel {}\n", self.machine, self.kernel);
        for port in &self.ports {
            if port.mode == "memory" {
                text += &format!("{}: in memory\n", port.name);
                continue;
            }
            let copy = if port.zero_copy { "zero-copy" } else { "copy" };
            let mtu = port.mtu.map_or_else(String::new, |mtu| format!(", MTU {mtu}"));
            let queues = if port.queues == 1 { "queue" } else { "queues" };
            let driver = if port.driver.is_empty() { "unknown driver" } else { &port.driver };
            text += &format!(
                "{}: {driver}, {} XDP, {copy}, {} {queues}{mtu}\n",
                port.name, port.mode, port.queues
            );
        }
        let cores = if self.cores.len() == 1 { "core" } else { "cores" };
        text += &format!("generator on {cores} {}", list(&self.cores));
        match &self.device {
            Some(device) => text + &format!("; device: {device}\n"),
            None => text + "\n",
        }
    }
}

/// Cores that the calling thread may run on.
pub fn allowed_cores() -> Vec<usize> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else { return Vec::new() };
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()
}

/// Numbers of cores: `0, 1`.
pub fn list(cores: &[usize]) -> String {
    cores.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

/// Delays in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Latency {
    pub min: f64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub p99_99: f64,
    pub max: f64,
}

impl Latency {
    /// Of recorded nanoseconds; none without a record.
    pub fn of(histogram: &Histogram<u64>) -> Option<Self> {
        if histogram.is_empty() {
            return None;
        }
        let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Some(Self {
            min: histogram.min() as f64 / 1000.0,
            mean: histogram.mean() / 1000.0,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: histogram.max() as f64 / 1000.0,
        })
    }
}

/// One trial's figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Packets a second wanted; null for as many as possible.
    pub wanted_pps: Option<f64>,
    pub offered_pps: f64,
    pub carried_pps: f64,
    /// Bits a second of the frames that were sent, check sequence included.
    pub offered_bits: f64,
    pub seconds: f64,
    pub sent: u64,
    pub received: u64,
    pub lost: u64,
    /// Of those sent, 0 to 1.
    pub loss: f64,
    pub reordered: u64,
    pub duplicated: u64,
    /// Arrived too late to be judged; counted as lost too.
    pub stale: u64,
    /// Frames of others.
    pub foreign: u64,
    /// Packets for which the sender had no room; not counted as sent.
    pub unsent: u64,
    /// Microseconds; null for captured frames.
    pub latency_us: Option<Latency>,
    /// How busy each core of the machine was.
    pub cores: Vec<CoreUse>,
    /// Cycles a packet of a switch inside this program.
    pub cycles: Option<f64>,
}

impl Figures {
    /// Of a trial.
    pub fn of(outcome: &Outcome) -> Self {
        Self {
            wanted_pps: outcome.wanted,
            offered_pps: outcome.offered(),
            carried_pps: outcome.carried(),
            offered_bits: outcome.sent_bytes as f64 * 8.0 / outcome.seconds,
            seconds: outcome.seconds,
            sent: outcome.sent,
            received: outcome.received,
            lost: outcome.lost,
            loss: outcome.loss(),
            reordered: outcome.reordered,
            duplicated: outcome.duplicated,
            stale: outcome.stale,
            foreign: outcome.foreign,
            unsent: outcome.unsent,
            latency_us: Latency::of(&outcome.latency),
            cores: outcome.cores.clone(),
            cycles: outcome.cycles,
        }
    }

    /// Lines for people.
    pub fn text(&self) -> String {
        let short = |wanted: &f64| self.offered_pps < wanted * KEPT_UP;
        let mut lines = vec![
            format!(
                "sent       {} packets in {:.2} s: {}, {}",
                self.sent,
                self.seconds,
                scaled(self.offered_pps, "pps"),
                scaled(self.offered_bits, "bit/s")
            ),
            format!("received   {}: {}", self.received, scaled(self.carried_pps, "pps")),
            format!("lost       {} ({:.4} %)", self.lost, self.loss * 100.0),
            format!("reordered  {}, duplicated {}", self.reordered, self.duplicated),
        ];
        if let Some(wanted) = self.wanted_pps.filter(short) {
            let wanted = scaled(wanted, "pps");
            lines.insert(1, format!("           {wanted} were wanted: the sender did not keep up"));
        }
        if let Some(l) = &self.latency_us {
            lines.push(format!(
                "latency    min {:.1}, p50 {:.1}, p90 {:.1}, p99 {:.1}, p99.9 {:.1}, max {:.1} us",
                l.min, l.p50, l.p90, l.p99, l.p99_9, l.max
            ));
        }
        if let Some(cycles) = self.cycles {
            lines.push(format!("switch     {cycles:.0} cycles a packet"));
        }
        for (count, what) in [
            (self.stale, "arrived too late to be judged"),
            (self.foreign, "frames of others arrived"),
            (self.unsent, "had no room in the sender and were not sent"),
        ] {
            if count > 0 {
                lines.push(format!("           {count} {what}"));
            }
        }
        let cores: Vec<String> =
            self.cores.iter().map(|c| format!("{}: {:.0} %", c.core, c.busy_percent)).collect();
        if !cores.is_empty() {
            lines.push(format!("cores      {}", cores.join(", ")));
        }
        lines.join("\n") + "\n"
    }

    /// Head of a CSV table.
    pub const CSV: &str = "wanted_pps,offered_pps,carried_pps,offered_bits,seconds,sent,received,lost,loss,\
                           reordered,duplicated,stale,foreign,unsent,latency_min_us,latency_p50_us,\
                           latency_p90_us,latency_p99_us,latency_p99_9_us,latency_max_us";

    /// One line of it; what is not known is empty.
    pub fn csv(&self) -> String {
        let known = |value: Option<f64>| value.map_or_else(String::new, |v| format!("{v:.3}"));
        let latency = |of: fn(&Latency) -> f64| known(self.latency_us.as_ref().map(of));
        [
            known(self.wanted_pps),
            format!("{:.3}", self.offered_pps),
            format!("{:.3}", self.carried_pps),
            format!("{:.0}", self.offered_bits),
            format!("{:.6}", self.seconds),
            self.sent.to_string(),
            self.received.to_string(),
            self.lost.to_string(),
            format!("{:.9}", self.loss),
            self.reordered.to_string(),
            self.duplicated.to_string(),
            self.stale.to_string(),
            self.foreign.to_string(),
            self.unsent.to_string(),
            latency(|l| l.min),
            latency(|l| l.p50),
            latency(|l| l.p90),
            latency(|l| l.p99),
            latency(|l| l.p99_9),
            latency(|l| l.max),
        ]
        .join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_csv_has_as_many_fields_as_its_head() {
        let mut latency = Histogram::new(3).expect("a histogram");
        latency.record(1500).expect("in range");
        let mut outcome = Outcome {
            wanted: None,
            sent: 10,
            sent_bytes: 640,
            unsent: 0,
            seconds: 0.5,
            received: 9,
            lost: 1,
            reordered: 0,
            duplicated: 0,
            stale: 0,
            foreign: 0,
            latency,
            cores: Vec::new(),
            cycles: None,
        };
        let fields = |line: &str| line.split(',').count();
        let figures = Figures::of(&outcome);
        assert_eq!(fields(&figures.csv()), fields(Figures::CSV));
        assert_eq!((figures.loss, figures.offered_pps), (0.1, 20.0));
        assert_eq!(figures.latency_us.as_ref().map(|l| l.p50.round()), Some(2.0));
        assert!(figures.text().contains("1 (10.0000 %)"));
        outcome.latency.reset();
        assert_eq!(fields(&Figures::of(&outcome).csv()), fields(Figures::CSV));
    }
}
