//! The devices behind ports: opened, closed, lost and found again.
//!
//! An [`Opened`] is a port that needs a device, whether the device is there or not. While it is, its
//! queues are with the workers; when it goes, they are taken back and all of their frames with them,
//! the port stays configured, and it is opened again when an interface of its name appears.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use afxdp::{AttachMode, Region, TunnelEnd};
use ofproto::action::OfPort;
use ofproto::program::DpPort;
use ofproto::snapshot::{BridgeId, Port, PortKind as OfKind};
use ofproto::vlan::VlanConfig;
use ports::links::LinkEvent;
use ports::netdev::format_mac;
use ports::tap::TapConfig;
use ports::{
    AfxdpConfig, PortCounters, PortError, PortHandle, PortKind, PortState as Device, PortSystem,
    Queue, Reaction,
};

use super::{EngineBackend, translate};
use crate::error::{CtlError, ErrorKind};
use crate::report::{LinkState, PortState};
use crate::schema::{PortSettings, PortType, XdpMode};

/// What opening devices needs, and the numbers that are free.
pub struct Devices {
    pub system: PortSystem,
    /// Datapath port numbers that were used and are free again.
    free: Vec<DpPort>,
    next: u32,
    /// What devices counted that are closed for good.
    pub closed: PortCounters,
}

/// A port with a device, or with one that should be there.
pub struct Opened {
    pub dp: DpPort,
    pub bridge: BridgeId,
    pub ofport: OfPort,
    pub vlan: VlanConfig,
    settings: PortSettings,
    is_internal: bool,
    handle: PortHandle,
}

/// Whether a change of settings means closing and opening the device.
pub fn needs_reopen(old: &PortSettings, new: &PortSettings) -> bool {
    old.xdp_mode != new.xdp_mode
        || old.n_rxq != new.n_rxq
        || old.accept_tag_loss != new.accept_tag_loss
        || old.share != new.share
}

/// A port's error as the user's.
fn refused(e: PortError) -> CtlError {
    let kind = match &e {
        PortError::NoSuchInterface { .. } => ErrorKind::NotFound,
        PortError::Exists { .. } => ErrorKind::Exists,
        PortError::System { .. } => ErrorKind::System,
        _ => ErrorKind::Invalid,
    };
    CtlError::new(kind, format!("port {e}"))
}

/// What a port is made of, from its settings.
fn device(name: &str, kind: PortType, settings: &PortSettings) -> Result<PortKind, CtlError> {
    match kind {
        PortType::Afxdp => {
            let mode = match settings.xdp_mode.unwrap_or(XdpMode::BestEffort) {
                XdpMode::BestEffort => AttachMode::Best,
                XdpMode::Native | XdpMode::NativeZerocopy => AttachMode::Native,
                XdpMode::Generic => AttachMode::Generic,
            };
            let accept_tag_loss = settings.accept_tag_loss.unwrap_or(false);
            Ok(PortKind::Afxdp(AfxdpConfig {
                mode,
                accept_tag_loss,
                share_tunnels: settings.share.is_some(),
                require_zero_copy: settings.xdp_mode == Some(XdpMode::NativeZerocopy),
                n_rxq: settings.n_rxq.map(u32::from),
                ..AfxdpConfig::default()
            }))
        }
        PortType::Internal => Ok(PortKind::Internal(TapConfig {
            name: name.to_owned(),
            mac: settings.mac.map(|m| m.bytes()),
            mtu: settings.mtu_request,
        })),
        kind => {
            Err(CtlError::internal(format!("port \"{name}\": type {kind} has no device to open")))
        }
    }
}

impl Devices {
    pub fn new(region: Arc<Region>) -> Result<Devices, CtlError> {
        let system = PortSystem::new(region).map_err(refused)?;
        Ok(Devices { system, free: Vec::new(), next: 1, closed: PortCounters::default() })
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
            vlan: self.vlan.clone(),
            up: *self.handle.state() == Device::Up,
            mtu: self.handle.status().mtu.unwrap_or(0),
            shared: self.is_shared(),
            ..Port::new(self.ofport, name, OfKind::Datapath(self.dp))
        }
    }

    /// What went through the port since it was added.
    pub fn counters(&self) -> PortCounters {
        self.handle.counters()
    }

    /// How it is doing.
    pub fn state(&self) -> PortState {
        let status = self.handle.status();
        let (state, error) = match status.state {
            Device::Up => (LinkState::Up, None),
            Device::LinkDown => (LinkState::Down, None),
            Device::Missing => (LinkState::Missing, None),
            Device::Failed(why) => (LinkState::Error, Some(why)),
        };
        let afxdp = status.xdp_mode.is_some();
        PortState {
            state,
            mode: status.xdp_mode.map(str::to_owned),
            zero_copy: afxdp.then_some(status.zero_copy),
            queues: afxdp.then_some(status.queues as u32),
            workers: Vec::new(),
            mtu: status.mtu,
            mac: status.mac.map(format_mac),
            error,
            warnings: status.warnings,
        }
    }

    /// Settings that change the device without opening it anew.
    pub fn set_interface(
        &mut self,
        settings: &PortSettings,
        system: &PortSystem,
    ) -> Result<(), CtlError> {
        if self.handle.is_open() {
            if let Some(mac) = settings.mac.filter(|m| self.settings.mac != Some(*m)) {
                self.handle.set_mac(mac.bytes(), system).map_err(refused)?;
            }
            let mtu = settings.mtu_request.filter(|m| self.settings.mtu_request != Some(*m));
            if let Some(mtu) = mtu {
                self.handle.set_mtu(mtu, system).map_err(refused)?;
            }
        }
        self.settings = settings.clone();
        Ok(())
    }

    /// The kernel's link behind an internal port, while it is in this namespace.
    pub fn internal_link(&self) -> Option<u32> {
        self.is_internal.then(|| self.handle.ifindex()).flatten()
    }

    /// The kernel's link whose addresses are ends of tunnels here: an internal port's, or one that is
    /// shared with the host.
    pub fn underlay_link(&self) -> Option<u32> {
        (self.is_internal || self.is_shared()).then(|| self.handle.ifindex()).flatten()
    }

    /// The tunnels whose packets a shared interface gives to the switch.
    pub fn set_tunnel_ends(&mut self, ends: &HashSet<TunnelEnd>) -> Result<(), CtlError> {
        self.handle.set_tunnel_ends(ends).map_err(refused)
    }

    /// Whether the host goes on using the interface.
    pub fn is_shared(&self) -> bool {
        self.settings.share.is_some()
    }

    /// The Ethernet address and MTU of the interface, as far as they are known.
    pub fn local_link(&self) -> (Option<u64>, Option<u32>) {
        let status = self.handle.status();
        (status.mac.map(super::tunnels::number), status.mtu)
    }

    /// Let the device go for good.
    pub fn close(self, queues: Vec<Queue>, pool: &mut afxdp::FramePool, system: &PortSystem) {
        self.handle.close(queues, pool, system);
    }

    /// The device alone, to be let go together with others.
    pub fn into_handle(self) -> PortHandle {
        self.handle
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
        let device = device(name, kind, settings)?;
        let (mut handle, queues) =
            match PortHandle::open(name, device.clone(), &mut self.devices.system) {
                Ok(opened) => opened,
                Err(e) if restore => {
                    tracing::warn!("port {e}");
                    let mut handle = PortHandle::new(name, device);
                    let queues = handle.reopen(&mut self.devices.system, Instant::now());
                    (handle, queues.unwrap_or_default())
                }
                Err(e) => return Err(refused(e)),
            };
        if let Some(mtu) = settings.mtu_request.filter(|_| kind == PortType::Afxdp)
            && handle.is_open()
            && let Err(e) = handle.set_mtu(mtu, &self.devices.system)
        {
            handle.close(queues, &mut self.pool, &self.devices.system);
            return Err(refused(e));
        }
        warnings.extend(handle.status().warnings.iter().map(|w| format!("port \"{name}\": {w}")));
        let opened = Opened {
            dp: self.devices.number(),
            bridge,
            ofport,
            vlan: translate::vlan(settings),
            settings: settings.clone(),
            is_internal: kind == PortType::Internal,
            handle,
        };
        let dp = opened.dp;
        self.open.insert(name.to_owned(), opened);
        self.place(name);
        self.engine()?.add_queues(dp, queues).map_err(|e| CtlError::internal(e.to_string()))
    }

    /// Take a port's queues back from the workers.
    fn take_queues(&mut self, dp: DpPort) -> Result<Vec<Queue>, CtlError> {
        let Some(engine) = self.engine.as_mut() else { return Ok(Vec::new()) };
        engine.remove_port(dp).map_err(|e| CtlError::internal(e.to_string()))
    }

    /// Remove a port and its device.
    pub(super) fn close_device(&mut self, name: &str) -> Result<(), CtlError> {
        let Some(opened) = self.open.remove(name) else { return Ok(()) };
        // First nothing is sent to it any more, then it goes.
        self.displace(name, opened.bridge, opened.ofport);
        self.publish()?;
        let queues = self.take_queues(opened.dp)?;
        self.devices.free.push(opened.dp);
        let counters = opened.counters();
        opened.close(queues, &mut self.pool, &self.devices.system);
        self.devices.closed += counters;
        Ok(())
    }

    /// Handle what has happened to the kernel's interfaces.
    pub(super) fn follow_links(&mut self) {
        match self.devices.system.links.drain() {
            Ok(events) => events.iter().for_each(|e| self.link_event(e)),
            Err(e) => tracing::warn!("{e}"),
        }
    }

    fn link_event(&mut self, event: &LinkEvent) {
        let mut reactions = Vec::new();
        for (name, opened) in &mut self.open {
            let reaction = opened.handle.on_event(event);
            if reaction != Reaction::None {
                reactions.push((name.clone(), reaction));
            }
        }
        for (name, reaction) in reactions {
            self.react(&name, reaction);
        }
    }

    /// A worker says that the device of a queue is gone.
    pub(super) fn port_gone(&mut self, dp: DpPort) {
        let Some((name, opened)) = self.open.iter_mut().find(|(_, o)| o.dp == dp) else { return };
        let (name, reaction) = (name.clone(), opened.handle.on_gone());
        self.react(&name, reaction);
    }

    /// Try ports again that could not be opened.
    pub(super) fn retry_ports(&mut self) {
        let now = Instant::now();
        let system = &self.devices.system;
        let again: Vec<String> = self
            .open
            .iter()
            .filter(|(_, o)| o.handle.wants_reopen(system, now))
            .map(|(name, _)| name.clone())
            .collect();
        again.iter().for_each(|name| self.react(name, Reaction::Reopen));
    }

    /// Do what a port's handle asks for.
    fn react(&mut self, name: &str, reaction: Reaction) {
        let Some(mut opened) = self.open.remove(name) else { return };
        if let Err(e) = self.carry_out_reaction(name, &mut opened, reaction) {
            tracing::error!("port {name}: {e}");
        }
        self.open.insert(name.to_owned(), opened);
        self.place(name);
        // The interface may be another one now, with tunnels' ends to be told of.
        self.below.touch();
    }

    fn carry_out_reaction(
        &mut self,
        name: &str,
        opened: &mut Opened,
        reaction: Reaction,
    ) -> Result<(), CtlError> {
        let now = Instant::now();
        match reaction {
            Reaction::None | Reaction::Changed => return Ok(()),
            Reaction::Close => {
                let queues = self.take_queues(opened.dp)?;
                opened.handle.closed(queues, &mut self.pool, &self.devices.system, now);
                // What was learned behind the interface is not there now.
                let gone = opened.ofport;
                self.switch.fdb_remove(opened.bridge, |e| e.port == gone && !e.is_static);
                tracing::info!("port {name}: its interface is gone, or has to be opened anew");
                if !opened.handle.wants_reopen(&self.devices.system, now) {
                    return Ok(());
                }
            }
            Reaction::Reopen => {}
        }
        match opened.handle.reopen(&mut self.devices.system, now) {
            Ok(queues) => {
                tracing::info!("port {name}: its interface is in use again");
                let added = self.engine()?.add_queues(opened.dp, queues);
                added.map_err(|e| CtlError::internal(e.to_string()))
            }
            Err(e) => {
                tracing::info!("port {e}");
                Ok(())
            }
        }
    }
}
