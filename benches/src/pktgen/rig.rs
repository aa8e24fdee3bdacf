//! Between which two ports is the device, and how do packets get to it and from it?
//!
//! Ports are interfaces by AF_XDP, opened as the switch itself opens them (`ports::PortHandle`: up, promiscuous,
//! tags kept, all put back at the end), or the two ends of memory cables to a switch inside this process that
//! has a worker thread of its own.
//!
//! Invariant: everything is driven by one thread, which owns the pool.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use afxdp::{AttachMode, FramePool, Packet, Region};
use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use engine::{Engine, Poll};
use ofproto::flowmod::Command as FlowCommand;
use ofproto::program::DpPort;
use ofproto::snapshot::BridgeSettings;
use ofproto::switch::Switch;
use ofproto::text::{NoNames, parse_flows};
use ports::memory::MemoryQueue;
use ports::{AfxdpConfig, BURST, Burst, PortError, PortHandle, PortKind, PortSystem, Queue};
use serde::Serialize;

use super::sizes::FCS;
use crate::ours::port;
use crate::stages::Stages;

/// Bytes of frame memory.
const REGION: usize = 64 << 20;
/// Packets on their way on a memory cable at most.
const CABLE: usize = 4096;
/// Packets that wait for the switch inside at most: fewer, so that what it makes of them fits the cable back.
const AHEAD: usize = 1024;
/// How long a link may take to come up.
const LINK_UP: Duration = Duration::from_secs(10);

/// Where XDP programs are to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum XdpMode {
    /// In the driver where it can, else in the generic path
    #[default]
    Best,
    /// In the driver, or not at all
    Native,
    /// In the kernel's generic path
    Generic,
}

/// What the device is attached to.
#[derive(Debug, Clone)]
pub enum Ends {
    /// Interfaces: packets go into the first and come out of the second (which may be the same one).
    Interfaces { tx: String, rx: String, mode: XdpMode },
    /// A switch inside this process with these flows, one a line: packets go into port 1.
    Inside { flows: String, core: Option<usize> },
}

/// What a port is, for reports.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PortInfo {
    pub name: String,
    /// `veth`, `ixgbe`, ..., or `memory`.
    pub driver: String,
    /// `native`, `generic`, or `memory`.
    pub mode: &'static str,
    /// Whether the driver works on frames without a copy.
    pub zero_copy: bool,
    pub queues: usize,
    pub mtu: Option<u32>,
}

struct Port {
    handle: Option<PortHandle>,
    queues: Vec<Queue>,
}

/// The switch of [`Ends::Inside`].
struct Inside {
    engine: Engine,
    _switch: Switch,
    /// Packets given to it, and the round in which it was first seen to have received all of them.
    sent: u64,
    done: Option<u64>,
}

impl Inside {
    /// Whether everything that was sent has left the switch or been dropped: it has received all of it, and has
    /// finished the round of the last.
    fn is_settled(&mut self) -> bool {
        let counters = &self.engine.shared().workers[0].counters;
        if counters.packets.load(Ordering::Acquire) < self.sent {
            return false;
        }
        let round = counters.rounds.load(Ordering::Acquire);
        round > *self.done.get_or_insert(round) + 1
    }
}

/// The two ends of a device.
pub struct Rig {
    /// `ports[0]` sends; the last one receives.
    ports: Vec<Port>,
    info: Vec<PortInfo>,
    pool: FramePool,
    system: Option<PortSystem>,
    inside: Option<Inside>,
}

impl Rig {
    /// Open both ends, for frames of up to so many bytes (check sequence included).
    ///
    /// # Errors
    /// Why one cannot be opened, or does not carry such frames.
    pub fn open(ends: &Ends, largest: usize) -> Result<Self> {
        let region = Region::new(REGION).context("memory for frames")?;
        match ends {
            Ends::Interfaces { tx, rx, mode } => Self::interfaces(region, tx, rx, *mode, largest),
            Ends::Inside { flows, core } => Self::inside(region, flows, *core),
        }
    }

    fn interfaces(
        region: Arc<Region>,
        tx: &str,
        rx: &str,
        mode: XdpMode,
        largest: usize,
    ) -> Result<Self> {
        let mut system = PortSystem::new(region.clone())?;
        let mode = match mode {
            XdpMode::Best => AttachMode::Best,
            XdpMode::Native => AttachMode::Native,
            XdpMode::Generic => AttachMode::Generic,
        };
        // A generator's own port separates nothing by VLANs.
        let config = AfxdpConfig { mode, accept_tag_loss: true, ..AfxdpConfig::default() };
        let names = if tx == rx { vec![tx] } else { vec![tx, rx] };
        let mut rig = Self {
            ports: Vec::new(),
            info: Vec::new(),
            pool: region.pool(),
            system: None,
            inside: None,
        };
        for name in names {
            let added = PortHandle::open(name, PortKind::Afxdp(config.clone()), &mut system)
                .map_err(|e| explain(e, name, &system))
                .and_then(|(handle, queues)| {
                    rig.info.push(info(name, &handle, queues.len()));
                    let fits = check_mtu(&handle, name, largest);
                    // It is the rig's from here on, which gives it back whatever comes.
                    rig.ports.push(Port { handle: Some(handle), queues });
                    fits.and_then(|()| wait_for_link(&mut system, name))
                });
            if let Err(e) = added {
                rig.system = Some(system);
                rig.close();
                return Err(e);
            }
        }
        rig.system = Some(system);
        Ok(rig)
    }

    fn inside(region: Arc<Region>, flows: &str, core: Option<usize>) -> Result<Self> {
        let mut engine = Engine::start(region.clone(), &[core], Poll::Busy)?;
        let mut switch = Switch::default();
        let settings = BridgeSettings {
            mac_table_size: 1 << 20,
            mac_aging: 300_000,
            ..BridgeSettings::default()
        };
        let bridge = switch.add_bridge("b", settings).context("no bridge")?;
        let (mut ports, mut infos) = (Vec::new(), Vec::new());
        for n in [1, 2] {
            switch.set_port(bridge, port(n));
            let [near, far] = MemoryQueue::cable(CABLE, Default::default());
            engine.add_queues(DpPort(n), vec![Queue::Memory(far)])?;
            ports.push(Port { handle: None, queues: vec![Queue::Memory(near)] });
            infos.push(PortInfo {
                name: format!("port {n}"),
                driver: "memory".into(),
                mode: "memory",
                zero_copy: true,
                queues: 1,
                mtu: None,
            });
        }
        let mods = parse_flows(flows, FlowCommand::Add, &NoNames);
        let mods = mods.map_err(|e| anyhow::anyhow!("--inside: {e}"))?;
        let done = switch.apply_flow_mods(bridge, &mods, 1);
        done.map_err(|(line, e)| anyhow::anyhow!("--inside: flow {}: {e}", line + 1))?;
        if let Some(snapshot) = switch.commit() {
            engine.publish(snapshot)?;
        }
        let inside = Some(Inside { engine, _switch: switch, sent: 0, done: None });
        Ok(Self { ports, info: infos, pool: region.pool(), system: None, inside })
    }

    /// What the ports are: the sending one, and the receiving one if it is another.
    pub fn info(&self) -> &[PortInfo] {
        &self.info
    }

    /// Packets that the sender takes now without a loss.
    #[inline]
    pub fn room(&mut self) -> usize {
        let room = self.ports[0].queues.first_mut().map_or(0, Queue::tx_room);
        if self.inside.is_some() { room.saturating_sub(CABLE - AHEAD) } else { room }
    }

    /// Packets that the far end takes now without a loss.
    #[inline]
    pub fn room_back(&mut self) -> usize {
        let port = self.ports.last_mut();
        port.and_then(|p| p.queues.first_mut()).map_or(0, Queue::tx_room)
    }

    /// A packet of these bytes; none if all frames are in use.
    #[inline]
    pub fn packet(&mut self, bytes: &[u8]) -> Option<Packet> {
        self.pool.packet_from(bytes)
    }

    /// Send packets into the device; fewer than [`Rig::room`].
    #[inline]
    pub fn send(&mut self, burst: &mut Burst) {
        self.gave(burst.len());
        send(&mut self.ports[0], &mut self.pool, burst);
    }

    #[inline]
    fn gave(&mut self, packets: usize) {
        if let Some(inside) = &mut self.inside
            && packets > 0
        {
            inside.sent += packets as u64;
            inside.done = None;
        }
    }

    /// Let the kernel go on with what it had no room for.
    pub fn resume(&mut self) {
        send(&mut self.ports[0], &mut self.pool, &mut Burst::new());
    }

    /// Send packets from the far end; fewer than [`Rig::room_back`].
    #[inline]
    pub fn send_back(&mut self, burst: &mut Burst) {
        self.gave(burst.len());
        if let Some(port) = self.ports.last_mut() {
            send(port, &mut self.pool, burst);
        }
    }

    /// Packets that the sending port could not put on its way since it was opened.
    pub fn unsent(&self) -> u64 {
        let drops = |q: &Queue| {
            q.counters()
                .read()
                .drops_seen()
                .filter(|(why, _)| is_ours(*why))
                .map(|(_, n)| n)
                .sum::<u64>()
        };
        self.ports[0].queues.iter().map(drops).sum()
    }

    /// What came out of the device since the last time; returns how many packets.
    #[inline]
    pub fn receive(&mut self, mut packet: impl FnMut(&Packet)) -> usize {
        let Some(last) = self.ports.len().checked_sub(1) else { return 0 };
        // What comes back to the sender is nobody's, but holds frames.
        for at in 0..last {
            take(&mut self.ports[at], &mut self.pool, |_| {});
        }
        take(&mut self.ports[last], &mut self.pool, &mut packet)
    }

    /// The same at both ends: what came to the sender, and what came to the far end.
    #[inline]
    pub fn receive_both(
        &mut self,
        near: impl FnMut(&Packet),
        far: impl FnMut(&Packet),
    ) -> Result<usize> {
        let [a, b] = self.ports.as_mut_slice() else { bail!("two ports are needed") };
        Ok(take(a, &mut self.pool, near) + take(b, &mut self.pool, far))
    }

    /// Whether nothing more can come of what was sent; known only of a switch inside.
    pub fn is_settled(&mut self) -> bool {
        self.inside.as_mut().is_some_and(Inside::is_settled)
    }

    /// What the packets have cost the switch inside so far, by stage.
    pub fn stages(&self) -> Option<Stages> {
        let inside = self.inside.as_ref()?;
        Some(Stages::read(&inside.engine.shared().workers[0].stages))
    }

    /// Cycles and packets of the switch inside so far.
    pub fn cycles(&self) -> Option<(u64, u64)> {
        let counters = &self.inside.as_ref()?.engine.shared().workers[0].counters;
        let read = |c: &std::sync::atomic::AtomicU64| c.load(Ordering::Relaxed);
        Some((read(&counters.busy_cycles), read(&counters.packets)))
    }

    /// Give everything back.
    pub fn close(mut self) {
        let mut pool = self.pool;
        if let Some(inside) = self.inside.take()
            && let Ok(queues) = inside.engine.stop()
        {
            queues.into_iter().for_each(|q| q.close(&mut pool));
        }
        for port in self.ports {
            match (port.handle, &self.system) {
                (Some(handle), Some(system)) => handle.close(port.queues, &mut pool, system),
                _ => port.queues.into_iter().for_each(|q| q.close(&mut pool)),
            }
        }
    }
}

/// Whether a drop is the sender's own doing, not the device's.
fn is_ours(why: ports::PortDrop) -> bool {
    use ports::PortDrop as P;
    matches!(why, P::TxFull | P::TxDown | P::TxTooBig | P::TxInvalid | P::Gone)
}

#[inline]
fn send(port: &mut Port, pool: &mut FramePool, burst: &mut Burst) {
    if let Some(queue) = port.queues.first_mut() {
        queue.tx_burst(pool, burst);
        queue.flush(pool);
    }
}

#[inline]
fn take(port: &mut Port, pool: &mut FramePool, mut packet: impl FnMut(&Packet)) -> usize {
    let mut burst = Burst::new();
    let mut n = 0;
    for queue in &mut port.queues {
        for _ in 0..CABLE / BURST {
            queue.rx_burst(pool, &mut burst);
            let got = burst.len();
            for received in burst.drain(..) {
                packet(&received);
                pool.free_packet(received);
            }
            if got > 0 {
                queue.flush(pool);
            }
            n += got;
            if got < BURST {
                break;
            }
        }
    }
    n
}

/// The interfaces there are, for somebody who asked for another.
fn explain(error: PortError, name: &str, system: &PortSystem) -> anyhow::Error {
    if !matches!(error, PortError::NoSuchInterface { .. }) {
        // Its text has its cause in it.
        return anyhow::anyhow!("{error}");
    }
    let mut there: Vec<&str> = system.links.links().map(|l| l.name.as_str()).collect();
    there.sort_unstable();
    anyhow::anyhow!(
        "no interface {name} in this network namespace; there are: {}",
        there.join(", ")
    )
}

fn wait_for_link(system: &mut PortSystem, name: &str) -> Result<()> {
    let index = system.devs.require(name)?;
    let end = Instant::now() + LINK_UP;
    loop {
        let link = system.links.ask(index)?;
        let link = link.with_context(|| format!("{name} is gone"))?;
        if link.up && link.carrier {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{name} has no signal: is its other end up?");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn check_mtu(handle: &PortHandle, name: &str, largest: usize) -> Result<()> {
    let Some(mtu) = handle.status().mtu else { return Ok(()) };
    let need = largest - FCS - 14;
    ensure!(
        need <= mtu as usize + 4,
        "frames of {largest} bytes do not fit {name}, whose MTU is {mtu}: ip link set {name} mtu {need}"
    );
    Ok(())
}

fn info(name: &str, handle: &PortHandle, queues: usize) -> PortInfo {
    let status = handle.status();
    PortInfo {
        name: name.to_owned(),
        driver: status.driver,
        mode: status.xdp_mode.unwrap_or("unknown"),
        zero_copy: status.zero_copy,
        queues,
        mtu: status.mtu,
    }
}
