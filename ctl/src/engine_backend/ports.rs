//! The devices behind ports: opened, closed, lost and found again.
//!
//! An [`Opened`] is a port that needs a device, whether the device is there or not. While it is, its
//! queues are with the workers; when it goes, they are taken back and all of their frames with them,
//! the port stays configured, and it is opened again when an interface of its name appears.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use afxdp::Region;
use ofproto::action::OfPort;
use ofproto::program::DpPort;
use ofproto::snapshot::{BridgeId, Port, PortKind};
use ofproto::vlan::VlanConfig;
use ports::links::{Change, LinkEvent, LinkWatcher};
use ports::netdev::{NetDevs, format_mac};
use ports::tap::{self, Tap, TapConfig};
use ports::{PortCounters, PortError, Queue, QueueCounters};

use super::{EngineBackend, translate};
use crate::config::Config;
use crate::error::{CtlError, ErrorKind};
use crate::report::{LinkState, PortState};
use crate::schema::{PortSettings, PortType};

/// What opening devices needs, and what is known of the kernel's interfaces.
pub struct Devices {
    region: Arc<Region>,
    devs: NetDevs,
    links: LinkWatcher,
    /// Datapath port numbers that were used and are free again.
    free: Vec<DpPort>,
    next: u32,
    /// What devices counted that are closed for good.
    closed: PortCounters,
}

/// An open device.
enum Device {
    Tap(Tap),
}

/// A port with a device, or with one that should be there.
pub struct Opened {
    pub dp: DpPort,
    pub bridge: BridgeId,
    pub ofport: OfPort,
    pub vlan: VlanConfig,
    kind: PortType,
    settings: PortSettings,
    device: Option<Device>,
    up: bool,
    mtu: u32,
    counters: Vec<Arc<QueueCounters>>,
    /// Why there is no device.
    error: Option<String>,
    warnings: Vec<String>,
}

/// Whether a change of settings means closing and opening the device.
pub fn needs_reopen(old: &PortSettings, new: &PortSettings) -> bool {
    old.xdp_mode != new.xdp_mode || old.n_rxq != new.n_rxq
}

/// A port's error as the user's.
fn refused(e: PortError) -> CtlError {
    let kind = match &e {
        PortError::NoSuchInterface { .. } => ErrorKind::NotFound,
        PortError::Exists { .. } => ErrorKind::Exists,
        PortError::System { .. } => ErrorKind::System,
        _ => ErrorKind::Invalid,
    };
    CtlError::new(kind, e.to_string())
}

impl Devices {
    pub fn new(region: Arc<Region>) -> Result<Devices, CtlError> {
        Ok(Devices {
            region,
            devs: NetDevs::new().map_err(refused)?,
            links: LinkWatcher::new().map_err(refused)?,
            free: Vec::new(),
            next: 1,
            closed: PortCounters::default(),
        })
    }

    pub fn link_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.links.fd())
    }

    /// What devices counted that are closed for good.
    pub fn closed_counters(&self) -> PortCounters {
        self.closed
    }

    fn number(&mut self) -> DpPort {
        self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            DpPort(self.next - 1)
        })
    }
}

impl Opened {
    /// The port as translation sees it.
    pub fn port(&self, name: &str) -> Port {
        Port {
            ofport: self.ofport,
            name: name.into(),
            kind: PortKind::Datapath(self.dp),
            vlan: self.vlan.clone(),
            up: self.up && self.device.is_some(),
            no_flood: false,
            no_forward: false,
            no_receive: false,
            mtu: self.mtu,
        }
    }

    /// What went through the port since it was added.
    pub fn counters(&self) -> PortCounters {
        let mut sum = PortCounters::default();
        for c in &self.counters {
            sum += c.read();
        }
        sum
    }

    /// How it is doing.
    pub fn state(&self, name: &str, devices: &Devices) -> PortState {
        let link = match (&self.device, &self.error) {
            (Some(_), _) if self.up => LinkState::Up,
            (Some(_), _) => LinkState::Down,
            (None, Some(_)) if devices.devs.ifindex(name).ok().flatten().is_some() => {
                LinkState::Error
            }
            (None, _) => LinkState::Missing,
        };
        PortState {
            state: link,
            mtu: devices.devs.mtu(name).ok(),
            mac: devices.devs.mac(name).ok().map(format_mac),
            error: self.error.clone(),
            warnings: self.warnings.clone(),
            ..PortState::default()
        }
    }

    /// Settings that change the device without opening it anew.
    pub fn set_interface(
        &mut self,
        name: &str,
        settings: &PortSettings,
        devices: &Devices,
    ) -> Result<(), CtlError> {
        if self.device.is_some() {
            if let Some(mac) = settings.mac.filter(|m| self.settings.mac != Some(*m)) {
                devices.devs.set_mac(name, mac.bytes()).map_err(refused)?;
            }
            if let Some(mtu) =
                settings.mtu_request.filter(|m| self.settings.mtu_request != Some(*m))
            {
                devices.devs.set_mtu(name, mtu).map_err(refused)?;
                self.mtu = mtu;
            }
        }
        self.settings = settings.clone();
        Ok(())
    }

    /// Let the device go; its queues have been closed.
    pub fn close(self, _name: &str, _devices: &Devices) {
        match self.device {
            Some(Device::Tap(tap)) => drop(tap),
            None => {}
        }
    }
}

impl EngineBackend {
    /// Open a port's device and give its queues to the workers.
    #[allow(clippy::too_many_arguments)] // What a port is.
    pub(super) fn open_device(
        &mut self,
        name: &str,
        ofport: OfPort,
        bridge: BridgeId,
        kind: PortType,
        settings: &PortSettings,
        restore: bool,
        warnings: &mut Vec<String>,
    ) -> Result<(), CtlError> {
        let dp = self.devices.number();
        let mut opened = Opened {
            dp,
            bridge,
            ofport,
            vlan: translate::vlan(settings),
            kind,
            settings: settings.clone(),
            device: None,
            up: false,
            mtu: 0,
            counters: Vec::new(),
            error: None,
            warnings: Vec::new(),
        };
        match self.attach(name, &mut opened) {
            Ok(()) => {
                warnings.extend(opened.warnings.iter().map(|w| format!("port \"{name}\": {w}")))
            }
            Err(e) if restore => opened.error = Some(e.to_string()),
            Err(e) => {
                self.devices.free.push(dp);
                return Err(e);
            }
        }
        self.switch.set_port(bridge, opened.port(name));
        self.open.insert(name.to_owned(), opened);
        Ok(())
    }

    /// Open the device of a port that has none.
    fn attach(&mut self, name: &str, opened: &mut Opened) -> Result<(), CtlError> {
        let counters = |opened: &mut Opened, n: usize| {
            while opened.counters.len() <= n {
                opened.counters.push(Arc::default());
            }
            opened.counters[n].clone()
        };
        let (device, queues) = match opened.kind {
            PortType::Internal => {
                let config = TapConfig {
                    name: name.to_owned(),
                    mac: opened.settings.mac.map(|m| m.bytes()),
                    mtu: opened.settings.mtu_request,
                };
                let (tap, queue) =
                    tap::open(&config, &self.devices.devs, counters(opened, 0)).map_err(refused)?;
                (Device::Tap(tap), vec![Queue::Tap(queue)])
            }
            kind => {
                return Err(CtlError::unsupported(format!(
                    "port \"{name}\": type {kind} has no device"
                )));
            }
        };
        opened.mtu = self.devices.devs.mtu(name).unwrap_or(0);
        opened.up = self.devices.devs.is_up(name).unwrap_or(false);
        let added = self.engine()?.add_queues(opened.dp, queues);
        opened.device = Some(device);
        opened.error = None;
        added.map_err(|e| CtlError::internal(e.to_string()))
    }

    /// Take a port's queues back from the workers, and all of their frames.
    fn take_queues(&mut self, dp: DpPort) -> Result<(), CtlError> {
        let Some(engine) = self.engine.as_mut() else { return Ok(()) };
        let queues = engine.remove_port(dp).map_err(|e| CtlError::internal(e.to_string()))?;
        queues.into_iter().for_each(|q| q.close(&mut self.pool));
        Ok(())
    }

    /// Remove a port and its device.
    pub(super) fn close_device(&mut self, name: &str) -> Result<(), CtlError> {
        let Some(opened) = self.open.remove(name) else { return Ok(()) };
        // First nothing is sent to it any more, then it goes.
        self.switch.remove_port(opened.bridge, opened.ofport);
        self.publish()?;
        self.take_queues(opened.dp)?;
        self.devices.free.push(opened.dp);
        self.devices.closed += opened.counters();
        opened.close(name, &self.devices);
        Ok(())
    }

    /// A port's device is gone; the port stays.
    pub(super) fn lose_device(&mut self, name: &str, why: &str) {
        let Some(mut opened) = self.open.remove(name) else { return };
        if opened.device.take().is_some() {
            tracing::info!("port {name}: {why}");
            if let Err(e) = self.take_queues(opened.dp) {
                tracing::error!("port {name}: {e}");
            }
        }
        opened.error = Some(why.to_owned());
        opened.up = false;
        self.switch.set_port(opened.bridge, opened.port(name));
        self.open.insert(name.to_owned(), opened);
    }

    /// An interface of a port's name appeared: use it.
    fn find_device(&mut self, name: &str) {
        let Some(mut opened) = self.open.remove(name) else { return };
        if opened.device.is_none() {
            match self.attach(name, &mut opened) {
                Ok(()) => tracing::info!("port {name}: the interface is back"),
                Err(e) => {
                    tracing::warn!("port {name}: {e}");
                    opened.error = Some(e.to_string());
                }
            }
            self.switch.set_port(opened.bridge, opened.port(name));
        }
        self.open.insert(name.to_owned(), opened);
    }

    /// Handle what has happened to the kernel's interfaces.
    pub(super) fn follow_links(&mut self, _config: &Config) {
        let events = match self.devices.links.drain() {
            Ok(events) => events,
            Err(e) => return tracing::warn!("{e}"),
        };
        for event in events {
            self.link_event(&event);
        }
    }

    fn link_event(&mut self, event: &LinkEvent) {
        let name = event.name.clone();
        let Some(opened) = self.open.get_mut(&name) else { return };
        match &event.change {
            Change::Appeared => self.find_device(&name),
            Change::Gone(_) => {
                // The descriptor of our own tap is the truth: it may only have been moved.
                if let Some(Device::Tap(tap)) = &opened.device
                    && tap.is_alive()
                {
                    opened.warnings = vec!["moved to another network namespace".into()];
                    opened.up = true;
                    let (bridge, port) = (opened.bridge, opened.port(&name));
                    return self.switch.set_port(bridge, port);
                }
                self.lose_device(&name, "the interface is gone");
            }
            Change::Up | Change::Down => {
                opened.up = matches!(event.change, Change::Up);
                let (bridge, port) = (opened.bridge, opened.port(&name));
                self.switch.set_port(bridge, port);
            }
            Change::Mtu(mtu) => {
                opened.mtu = *mtu;
                let (bridge, port) = (opened.bridge, opened.port(&name));
                self.switch.set_port(bridge, port);
            }
        }
    }
}
