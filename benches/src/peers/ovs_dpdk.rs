//! Stock OVS-DPDK as the peer of the memory rows: a trace replayed from memory (`net_pcap` with
//! `infinite_rx`: a copy of every frame on receive) into a null port (the buffer goes back), one
//! forwarding core.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::ovs::{Flavour, Ovs};
use crate::cloud::{self, Node};
use crate::measure::Measurement;
use crate::rows::{Row, Scene};

/// Huge pages of 2 MiB that it needs.
pub const HUGE_PAGES: u32 = 1536;

/// Where Linux is told how many there are.
pub const HUGE_PAGES_FILE: &str = "/proc/sys/vm/nr_hugepages";

/// A running OVS-DPDK with one row set up.
#[derive(Debug)]
pub struct OvsDpdk {
    ovs: Ovs,
    traces: PathBuf,
}

impl OvsDpdk {
    /// Start it; `traces` holds the mixes as pcap files. Only inside a sandbox.
    pub fn start(traces: &Path) -> Result<Self> {
        std::fs::create_dir_all("/dev/hugepages")?;
        e2e::cmd::run(&["mount", "-t", "hugetlbfs", "none", "/dev/hugepages"])?;
        let ovs = Ovs::start(Flavour::Dpdk).context("starting OVS-DPDK")?;
        Ok(Self { ovs, traces: traces.to_owned() })
    }

    /// Set a row up and let the traffic run.
    pub fn prepare(&self, row: &Row) -> Result<()> {
        self.ovs.stop(false)?;
        self.ovs.reset()?;
        match row.scene {
            Scene::Flows | Scene::Normal | Scene::Connections => self.plain(row),
            Scene::Encapsulate(kind) => self.encapsulate(row, kind),
            Scene::Decapsulate(kind) => self.decapsulate(row, kind),
            Scene::Cloud(node) => self.cloud(row, node),
        }
        .with_context(|| format!("setting up {} in OVS-DPDK", row.name))?;
        // A hundred thousand megaflows take the switch long to set up.
        sleep(Duration::from_secs(if row.flows().len() > 50_000 { 25 } else { 2 }));
        Ok(())
    }

    fn sink(&self, bridge: &str) -> Result<()> {
        self.ovs.port(bridge, "out", "type=dpdk options:dpdk-devargs=net_null9,no-rx=1")
    }

    fn source(&self, bridge: &str, port: &str, device: u32, mix: &str) -> Result<()> {
        let pcap = self.traces.join(format!("{mix}.pcap"));
        ensure!(pcap.exists(), "no {}", pcap.display());
        let device = format!("net_pcap{device},rx_pcap={},infinite_rx=1", pcap.display());
        self.ovs.port(bridge, port, &format!("type=dpdk options:dpdk-devargs={device}"))
    }

    /// Frames that are received once.
    fn once(&self, bridge: &str, port: &str, device: u32, mix: &str) -> Result<()> {
        let pcap = self.traces.join(format!("{mix}.pcap"));
        let device = format!("net_pcap{device},rx_pcap={}", pcap.display());
        self.ovs.port(bridge, port, &format!("type=dpdk options:dpdk-devargs={device}"))
    }

    fn plain(&self, row: &Row) -> Result<()> {
        self.ovs.bridge("b")?;
        self.sink("b")?;
        if row.scene == Scene::Normal {
            self.ovs.appctl("fdb/add b out 0 02:00:00:00:00:02")?;
        }
        self.source("b", "in", 0, &row.mix)?;
        if let Some(reply) = &row.reply {
            self.source("b", "in2", 1, reply)?;
        }
        self.ovs.flows("b", &row.flows())
    }

    /// The underlay's bridge, whose own interface has the tunnel's local address.
    fn underlay(&self, kind: &str) -> Result<()> {
        self.ovs.bridge("b")?;
        self.ovs.bridge("phy")?;
        self.own_address()?;
        self.ovs.port(
            "b",
            "vx",
            &format!("type={kind} options:remote_ip=172.16.0.2 options:key=100"),
        )
    }

    /// Give the underlay's bridge its address.
    fn own_address(&self) -> Result<()> {
        self.ovs.vsctl("set bridge phy other_config:hwaddr=02:00:00:00:aa:01")?;
        e2e::cmd::run(&["ip", "addr", "add", "172.16.0.1/24", "dev", "phy"])?;
        e2e::cmd::run(&["ip", "link", "set", "phy", "up"])?;
        self.ovs.ofctl("add-flow phy actions=normal")?;
        Ok(())
    }

    /// Make the remote end known.
    fn far_end(&self) -> Result<()> {
        sleep(Duration::from_secs(1));
        self.ovs.appctl("tnl/neigh/set phy 172.16.0.2 02:00:00:00:aa:02")?;
        self.ovs.appctl("fdb/add phy out 0 02:00:00:00:aa:02")?;
        Ok(())
    }

    fn encapsulate(&self, row: &Row, kind: &str) -> Result<()> {
        self.underlay(kind)?;
        self.sink("phy")?;
        self.source("b", "in", 0, &row.mix)?;
        self.ovs.ofctl("add-flow b in_port=in,actions=vx")?;
        self.far_end()
    }

    fn decapsulate(&self, row: &Row, kind: &str) -> Result<()> {
        self.underlay(kind)?;
        self.sink("b")?;
        self.source("phy", "in", 0, &row.mix)?;
        self.ovs.ofctl("add-flow b in_port=vx,actions=out")?;
        Ok(())
    }

    /// A node of a cloud; where there are answers, each of them comes once before anything is measured.
    fn cloud(&self, row: &Row, node: Node) -> Result<()> {
        self.ovs.bridge("phy")?;
        for bridge in node.bridges() {
            self.ovs.bridge(bridge)?;
        }
        self.own_address()?;
        self.ovs.port(
            "br-tun",
            "vx",
            &format!(
                "ofport_request={} type=vxlan options:remote_ip=172.16.0.2 options:key=flow",
                cloud::TUNNEL
            ),
        )?;
        for p in node.patches() {
            let tag = p.tag.map(|t| format!(" tag={t}")).unwrap_or_default();
            self.ovs.vsctl(&format!(
                "add-port {} {}{tag} -- set interface {} ofport_request={} type=patch options:peer={}",
                p.bridge, p.name, p.name, p.number, p.peer
            ))?;
        }
        let (from, to) = match node {
            Node::Compute => ("br-int", "phy"),
            Node::Network => ("phy", "br-ex"),
        };
        self.sink(to)?;
        for bridge in node.bridges() {
            self.ovs.flows(bridge, &node.flows(bridge)?)?;
        }
        self.source(from, "in", 0, &row.mix)?;
        if node == Node::Compute {
            self.ovs.vsctl(&format!("set port in tag={}", cloud::TAG))?;
            self.far_end()?;
        }
        for (bridge, port, vlan, mac) in node.addresses() {
            self.ovs.appctl(&format!("fdb/add {bridge} {port} {vlan} {mac}"))?;
        }
        if let Some(reply) = &row.reply {
            // Until every connection has begun.
            sleep(Duration::from_secs(2));
            self.once("br-ex", "in2", 1, reply)?;
            sleep(Duration::from_secs(2));
            self.ovs.vsctl("del-port br-ex in2")?;
        }
        Ok(())
    }

    /// Measure what is set up, then put it to rest.
    pub fn measure(&self, seconds: u32) -> Result<Measurement> {
        self.ovs.stop(false)?;
        sleep(Duration::from_secs(1));
        self.ovs.appctl("dpif-netdev/pmd-stats-clear")?;
        sleep(Duration::from_secs(seconds.into()));
        let text = self.ovs.appctl("dpif-netdev/pmd-perf-show -nh")?;
        self.ovs.stop(true)?;
        let seen = Seen::read(&text).with_context(|| format!("reading:\n{text}"))?;
        ensure!(
            seen.sent * 100.0 >= seen.received * 95.0,
            "only {} of {} packets were sent",
            seen.sent,
            seen.received
        );
        Ok(Measurement { rate: seen.kpps / 1000.0, cycles: Some(seen.cycles) })
    }
}

/// What `pmd-perf-show` says of the one forwarding thread.
#[derive(Debug, PartialEq)]
struct Seen {
    received: f64,
    kpps: f64,
    cycles: f64,
    sent: f64,
}

impl Seen {
    /// `Rx packets:  46599088  (15533 Kpps, 144 cycles/pkt)` and `Tx packets:  46599088 (...)`.
    fn read(text: &str) -> Option<Self> {
        let line = |key: &str| -> Option<Vec<f64>> {
            let line = text.lines().find(|line| line.trim_start().starts_with(key))?;
            let words = line.split(|c: char| c.is_whitespace() || "(),".contains(c));
            Some(words.filter_map(|word| word.parse().ok()).collect())
        };
        let (rx, tx) = (line("Rx packets:")?, line("Tx packets:")?);
        Some(Self {
            received: *rx.first()?,
            kpps: *rx.get(1)?,
            cycles: *rx.get(2)?,
            sent: *tx.first()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_the_forwarding_thread_are_read() {
        let text = "\nTime: 12:00:00.000\nMeasurement duration: 3.001 s\n\npmd thread numa_id 0 core_id 1:\n\n  \
                    Iterations:         1456221  (2.06 us/it)\n  Rx packets:        46599088  (15533 Kpps, 144 cycles/pkt)\n  \
                    Datapath passes:   46599088  (1.00 passes/pkt)\n  Tx packets:        46599000  (15533 Kpps)\n";
        let seen = Seen::read(text).expect("readable");
        assert_eq!(
            seen,
            Seen { received: 46_599_088.0, kpps: 15_533.0, cycles: 144.0, sent: 46_599_000.0 }
        );
        assert_eq!(Seen::read("pmd thread"), None);
    }
}
