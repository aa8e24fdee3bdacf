//! In which state is a port, and what has to be done when its interface comes, goes or changes?
//!
//! Control has one [`PortHandle`] per port and asks it with each [`LinkEvent`], and when a worker
//! says that a queue is gone. The handle answers with a [`Reaction`]; control carries it out, as
//! only control can take queues from workers:
//!
//! ```text
//!            open                       Reaction::Close: take the queues back, call `closed`
//!  (nothing) ----> Up <--> LinkDown  ------------------------------------------------> Missing
//!                   ^                                                                     |
//!                   +-------- `reopen` when `wants_reopen` (the interface is back) -------+
//!                                     |  it fails                                        ^
//!                                     +----> Failed: tried again after a while ----------+
//! ```
//!
//! A port keeps its name, its place in the configuration and its counters over all of that.
//!
//! Must not know: workers, bridges, how configuration is stored.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use afxdp::{FramePool, Region, TunnelEnd};

use crate::afxdp_port::{self, AfxdpConfig};
use crate::budget::FillBudget;
use crate::counters::{PortCounters, QueueCounters};
use crate::error::PortError;
use crate::links::{Change, LinkEvent, LinkWatcher};
use crate::memory::MemoryQueue;
use crate::netdev::NetDevs;
use crate::pcap::{PcapConfig, PcapQueue};
use crate::queue::Queue;
use crate::sys::Mac;
use crate::tap::{self, Tap, TapConfig};

/// How long to wait before a failed attempt is repeated: doubled each time, up to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// What ports are opened with: the frames, and the interfaces of the thread's network namespace.
#[derive(Debug)]
pub struct PortSystem {
    /// The memory of all frames.
    pub region: Arc<Region>,
    /// Interfaces by name.
    pub devs: NetDevs,
    /// Interfaces as they come and go.
    pub links: LinkWatcher,
    /// Frames that fill rings may hold in all.
    pub(crate) budget: FillBudget,
}

impl PortSystem {
    /// For this thread's network namespace.
    ///
    /// # Errors
    /// If the kernel refuses a socket or the list of interfaces.
    pub fn new(region: Arc<Region>) -> Result<PortSystem, PortError> {
        let budget = FillBudget::new(region.chunks());
        Ok(PortSystem { region, devs: NetDevs::new()?, links: LinkWatcher::new()?, budget })
    }
}

/// What a port is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// An interface that exists, by AF_XDP.
    Afxdp(AfxdpConfig),
    /// A tap that the switch creates and removes.
    Internal(TapConfig),
    /// Capture files.
    Pcap(PcapConfig),
    /// Receives nothing, forgets what is sent.
    Null,
}

impl PortKind {
    /// Its name in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            PortKind::Afxdp(_) => "afxdp",
            PortKind::Internal(_) => "internal",
            PortKind::Pcap(_) => "pcap",
            PortKind::Null => "null",
        }
    }
}

/// The state of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortState {
    /// It carries packets.
    Up,
    /// Its interface is down, or has no signal.
    LinkDown,
    /// Its interface is not there (any more).
    Missing,
    /// It could not be opened, for this reason; tried again from time to time.
    Failed(String),
}

/// What control has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Reaction {
    /// Nothing.
    None,
    /// The status has changed: see [`PortHandle::status`].
    Changed,
    /// Take the port's queues from the workers and call [`PortHandle::closed`]; then look at
    /// [`PortHandle::wants_reopen`].
    Close,
    /// Call [`PortHandle::reopen`].
    Reopen,
}

/// What people want to know of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortStatus {
    /// `afxdp`, `internal`, ...
    pub kind: &'static str,
    /// Its state.
    pub state: PortState,
    /// The interface's index, where there is one.
    pub ifindex: Option<u32>,
    /// The interface's name now, if it is another than the port's.
    pub interface: Option<String>,
    /// `native` or `generic`, for `afxdp`.
    pub xdp_mode: Option<&'static str>,
    /// Whether the driver works on the frames without a copy.
    pub zero_copy: bool,
    /// Receive queues.
    pub queues: usize,
    /// The interface's MTU in bytes.
    pub mtu: Option<u32>,
    /// Its hardware address.
    pub mac: Option<Mac>,
    /// The interface's driver.
    pub driver: String,
    /// What a user should know: degraded modes, addresses in the way.
    pub warnings: Vec<String>,
}

/// What stands behind an open port.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // One a port; most are of the large kind.
enum Device {
    None,
    Afxdp(afxdp_port::Device),
    Tap {
        tap: Tap,
        ifindex: u32,
    },
    /// Files and such, which are always there.
    Static,
}

/// Control's handle on a port.
#[derive(Debug)]
pub struct PortHandle {
    name: String,
    kind: PortKind,
    state: PortState,
    device: Device,
    counters: Vec<Arc<QueueCounters>>,
    /// When to try again, and how long to wait after that.
    retry: Option<(Instant, Duration)>,
    mtu: Option<u32>,
    mac: Option<Mac>,
    warnings: Vec<String>,
}

impl PortHandle {
    /// A port that is not open.
    pub fn new(name: &str, kind: PortKind) -> PortHandle {
        PortHandle {
            name: name.to_owned(),
            kind,
            state: PortState::Missing,
            device: Device::None,
            counters: Vec::new(),
            retry: None,
            mtu: None,
            mac: None,
            warnings: Vec::new(),
        }
    }

    /// Open a port.
    ///
    /// # Errors
    /// Why it cannot be opened; nothing is left behind then.
    pub fn open(
        name: &str,
        kind: PortKind,
        system: &mut PortSystem,
    ) -> Result<(PortHandle, Vec<Queue>), PortError> {
        let mut handle = PortHandle::new(name, kind);
        let queues = handle.open_device(system)?;
        Ok((handle, queues))
    }

    /// Open the port again, now. A failure is remembered in the state and tried again.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn reopen(
        &mut self,
        system: &mut PortSystem,
        now: Instant,
    ) -> Result<Vec<Queue>, PortError> {
        self.open_device(system).inspect_err(|e| {
            self.state = match e {
                PortError::NoSuchInterface { .. } => PortState::Missing,
                e => PortState::Failed(e.to_string()),
            };
            let wait = self.retry.map_or(RETRY.0, |(_, wait)| (wait * 2).min(RETRY.1));
            self.retry = Some((now + wait, wait));
        })
    }

    fn open_device(&mut self, system: &mut PortSystem) -> Result<Vec<Queue>, PortError> {
        let name = self.name.clone();
        let queues = match self.kind.clone() {
            PortKind::Afxdp(config) => {
                let opened = afxdp_port::open(&name, &config, system, &mut self.counters)?;
                self.device = Device::Afxdp(opened.device);
                self.warnings = opened.warnings;
                opened.queues.into_iter().map(Queue::Afxdp).collect()
            }
            PortKind::Internal(config) => {
                let counters = self.counter(0);
                let (tap, queue) = tap::open(&config, &system.devs, counters)?;
                let ifindex = system.devs.require(&config.name)?;
                self.device = Device::Tap { tap, ifindex };
                vec![Queue::Tap(queue)]
            }
            PortKind::Pcap(config) => {
                let queue = PcapQueue::open(&config, self.counter(0))?;
                self.device = Device::Static;
                vec![Queue::Pcap(queue)]
            }
            PortKind::Null => {
                self.device = Device::Static;
                vec![Queue::Memory(MemoryQueue::null(self.counter(0)))]
            }
        };
        self.retry = None;
        self.look(system);
        Ok(queues)
    }

    /// The counters of the queue of that number, kept over reopening.
    fn counter(&mut self, queue: usize) -> Arc<QueueCounters> {
        counter(&mut self.counters, queue)
    }

    /// See how the interface is.
    fn look(&mut self, system: &mut PortSystem) {
        self.state = PortState::Up;
        let Some(name) = self.ifindex().and_then(|i| system.devs.name(i)) else { return };
        self.mtu = system.devs.mtu(&name).ok();
        self.mac = system.devs.mac(&name).ok();
        const RUNNING: i32 = libc::IFF_UP | libc::IFF_RUNNING;
        if system.devs.flags(&name).is_ok_and(|f| f & RUNNING != RUNNING) {
            self.state = PortState::LinkDown;
        }
    }

    /// The index of the interface behind the port, while it is in this namespace.
    pub fn ifindex(&self) -> Option<u32> {
        match &self.device {
            Device::Afxdp(d) => Some(d.ifindex()),
            Device::Tap { ifindex, .. } => Some(*ifindex).filter(|i| *i != 0),
            Device::None | Device::Static => None,
        }
    }

    /// The port's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the port is open: has queues.
    pub fn is_open(&self) -> bool {
        !matches!(self.device, Device::None)
    }

    /// The port's state.
    pub fn state(&self) -> &PortState {
        &self.state
    }

    /// An interface has changed: does it concern this port, and what is to be done?
    pub fn on_event(&mut self, event: &LinkEvent) -> Reaction {
        if !self.is_open() {
            let waits = matches!(self.kind, PortKind::Afxdp(_)) && event.name == self.name;
            let back = waits && event.change == Change::Appeared;
            return if back { Reaction::Reopen } else { Reaction::None };
        }
        if self.ifindex() != Some(event.ifindex) {
            return Reaction::None;
        }
        match event.change {
            // An interface that changes its name while it is open: `Gone` has come before.
            Change::Appeared => Reaction::None,
            Change::Up => self.becomes(PortState::Up),
            Change::Down => self.becomes(PortState::LinkDown),
            Change::Mtu(mtu) => self.on_mtu(mtu),
            Change::Gone(_) => self.on_gone(),
        }
    }

    fn becomes(&mut self, state: PortState) -> Reaction {
        if self.state == state {
            return Reaction::None;
        }
        self.state = state;
        Reaction::Changed
    }

    fn on_mtu(&mut self, mtu: u32) -> Reaction {
        self.mtu = Some(mtu);
        match &self.device {
            Device::Afxdp(d) if !d.set_mtu(mtu) => Reaction::Close,
            _ => Reaction::Changed,
        }
    }

    /// The interface has left this namespace, or a worker has said that a queue is gone.
    pub fn on_gone(&mut self) -> Reaction {
        match &mut self.device {
            Device::None | Device::Static => Reaction::None,
            Device::Afxdp(_) => Reaction::Close,
            Device::Tap { tap, ifindex } => {
                if !tap.is_alive() {
                    return Reaction::Close;
                }
                // Moved: the descriptor goes on working, its link is out of sight.
                *ifindex = 0;
                self.state = PortState::Up;
                Reaction::Changed
            }
        }
    }

    /// The queues are back from the workers: close what is left of the port. The port waits for its
    /// interface then.
    pub fn closed(
        &mut self,
        queues: Vec<Queue>,
        pool: &mut FramePool,
        system: &PortSystem,
        now: Instant,
    ) {
        self.close_device(queues, pool, system);
        self.state = PortState::Missing;
        self.retry = Some((now + RETRY.0, RETRY.0));
    }

    fn close_device(&mut self, queues: Vec<Queue>, pool: &mut FramePool, system: &PortSystem) {
        let device = std::mem::replace(&mut self.device, Device::None);
        let device = match device {
            // No new packets first, then the sockets.
            Device::Afxdp(d) => Some(d.detach()),
            _ => None,
        };
        for queue in queues {
            queue.close(pool);
        }
        if let Some(d) = device {
            d.restore(system);
        }
        self.warnings.clear();
    }

    /// Whether [`PortHandle::reopen`] should be tried now. To be asked about twice a second while
    /// the port is not open; a port whose interface does not exist says no.
    pub fn wants_reopen(&self, system: &PortSystem, now: Instant) -> bool {
        if self.is_open() || self.retry.is_some_and(|(at, _)| now < at) {
            return false;
        }
        match &self.kind {
            PortKind::Afxdp(_) => system.links.by_name(&self.name).is_some(),
            _ => true,
        }
    }

    /// Close the port for good; its interface is left as it was found, a tap is removed.
    pub fn close(mut self, queues: Vec<Queue>, pool: &mut FramePool, system: &PortSystem) {
        self.close_device(queues, pool, system);
    }

    /// The sum of the queues' counters, since the port was made.
    pub fn counters(&self) -> PortCounters {
        let mut sum = PortCounters::default();
        for c in &self.counters {
            sum += c.read();
        }
        sum
    }

    /// Set the interface's MTU, in bytes.
    ///
    /// # Errors
    /// What the kernel refuses; and for a tap in another namespace, whose MTU is set there.
    pub fn set_mtu(&mut self, mtu: u32, system: &PortSystem) -> Result<(), PortError> {
        let name = self.ifindex().and_then(|i| system.devs.name(i));
        let name =
            name.ok_or_else(|| PortError::NoSuchInterface { interface: self.name.clone() })?;
        system.devs.set_mtu(&name, mtu)?;
        if let PortKind::Internal(config) = &mut self.kind {
            config.mtu = Some(mtu);
        }
        self.mtu = Some(mtu);
        Ok(())
    }

    /// Set the interface's hardware address, for a tap wherever it is.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn set_mac(&mut self, mac: Mac, system: &PortSystem) -> Result<(), PortError> {
        if let Device::Tap { tap, .. } = &self.device {
            tap.set_mac(mac).map_err(|e| PortError::system(&self.name, "set the address", e))?;
        } else {
            system.devs.set_mac(&self.name, mac)?;
        }
        if let PortKind::Internal(config) = &mut self.kind {
            config.mac = Some(mac);
        }
        self.mac = Some(mac);
        Ok(())
    }

    /// The local ends of tunnels whose packets a shared interface gives to the switch; for any other
    /// port nothing.
    ///
    /// # Errors
    /// What the kernel refuses; and more than it has room for.
    pub fn set_tunnel_ends(&mut self, ends: &HashSet<TunnelEnd>) -> Result<(), PortError> {
        match &mut self.device {
            Device::Afxdp(d) => Ok(d.set_tunnel_ends(ends)?),
            _ => Ok(()),
        }
    }

    /// What people want to know.
    pub fn status(&self) -> PortStatus {
        let mut status = PortStatus {
            kind: self.kind.name(),
            state: self.state.clone(),
            ifindex: self.ifindex(),
            interface: None,
            xdp_mode: None,
            zero_copy: false,
            queues: if self.is_open() { self.counters.len() } else { 0 },
            mtu: self.mtu,
            mac: self.mac,
            driver: String::new(),
            warnings: self.warnings.clone(),
        };
        match &self.device {
            Device::Afxdp(d) => {
                status.xdp_mode = Some(d.xdp_mode());
                status.zero_copy = d.is_zero_copy();
                status.queues = d.queues();
                status.driver = d.driver().to_owned();
            }
            Device::Tap { tap, ifindex } => {
                status.driver = "tun".to_owned();
                status.interface = tap.name().filter(|n| *n != self.name);
                if *ifindex == 0 {
                    status.warnings.push("the interface is in another network namespace".into());
                }
            }
            Device::None | Device::Static => {}
        }
        status
    }
}

/// Close many ports for good, with their queues. The kernel takes some 20 ms for each, which are
/// spent side by side.
pub fn close_all(ports: Vec<(PortHandle, Vec<Queue>)>, system: &PortSystem) {
    const THREADS: usize = 32;
    let threads = ports.len().min(THREADS);
    let ports = Mutex::new(ports);
    let next = || ports.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let work = || {
        let mut pool = system.region.pool();
        while let Some((port, queues)) = next() {
            port.close(queues, &mut pool, system);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Without a thread there is one fewer to share the work.
            let _ = std::thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
}

/// The counters of a port's queue of that number.
pub(crate) fn counter(counters: &mut Vec<Arc<QueueCounters>>, queue: usize) -> Arc<QueueCounters> {
    while counters.len() <= queue {
        counters.push(Arc::default());
    }
    counters[queue].clone()
}
