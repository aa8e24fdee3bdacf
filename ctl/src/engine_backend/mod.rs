//! The running switch that control controls: the engine's workers, the devices of the ports, and the
//! configuration in the form that decides about packets.
//!
//! [`EngineBackend`] belongs to the control thread. It keeps three things in step: the devices that are
//! open ([`ports`]), the queues that the workers drive, and [`Switch`], whose versions it publishes. A
//! change is made real step by step; if a step fails, those before it are undone in reverse.

pub mod conntrack;
mod events;
mod flows;
mod groups;
mod guards;
mod monitor;
mod neighbours;
mod ports;
mod reports;
mod routers;
mod text;
mod trace;
mod trace_inside;
mod translate;
mod tunnel_reports;
mod tunnels;

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use afxdp::{FramePool, Region};
use engine::Engine;
use flow::Match;
use ofproto::action::{Action, OfPort};
use ofproto::flow_table::Removed;
use ofproto::rules::RuleSpec;
use ofproto::snapshot::{BridgeId, PortKind};
use ofproto::switch::{SavedTables, Switch};
use serde_json::value::RawValue;

use crate::backend::Backend;
use crate::command::Command;
use crate::config::{Bridge, Change, Config, Peer, Port, changes};
use crate::error::CtlError;
use crate::options::{DaemonOptions, Poll, Workers};
use crate::schema::{PortSettings, PortType};

use ports::{Devices, Opened};

/// The running switch.
pub struct EngineBackend {
    /// `None` once it is shut down.
    engine: Option<Engine>,
    switch: Switch,
    devices: Devices,
    /// By name; the bridges' own ports included, patch ports not.
    open: BTreeMap<String, Opened>,
    pool: FramePool,
    /// The network that tunnels' packets cross.
    below: tunnels::Below,
    last_second: Instant,
    rates: reports::Rates,
    /// What the transaction that is carried out would go back to.
    saved: Option<SavedTables>,
    /// Rules that went and that nobody was told of yet.
    removed: Vec<(BridgeId, Removed)>,
    monitors: monitor::Monitors,
    zone_policies: conntrack::ZonePolicies,
    routers: routers::Routers,
    connections_watched: bool,
    /// Notices of connections that had been lost when somebody was told last.
    notices_lost: u64,
}

impl EngineBackend {
    /// Start the workers, with no ports yet.
    pub fn start(options: &DaemonOptions) -> Result<EngineBackend, CtlError> {
        let bytes = usize::try_from(options.umem.0)
            .map_err(|_| CtlError::invalid("--umem: more than this machine can address"))?;
        let region = region(bytes)?;
        let cores = cores(&options.workers)?;
        let poll = match options.poll {
            Poll::Adaptive => engine::Poll::Adaptive,
            Poll::Busy => engine::Poll::Busy,
        };
        let pool = region.pool();
        let engine = Engine::start(region.clone(), &cores, poll)
            .map_err(|e| CtlError::system(format!("cannot start the workers: {e}")))?;
        Ok(EngineBackend {
            engine: Some(engine),
            switch: Switch::default(),
            devices: Devices::new(region)?,
            open: BTreeMap::new(),
            below: Default::default(),
            pool,
            last_second: Instant::now(),
            rates: reports::Rates::default(),
            saved: None,
            removed: Vec::new(),
            monitors: monitor::Monitors::default(),
            zone_policies: Default::default(),
            routers: Default::default(),
            connections_watched: false,
            notices_lost: 0,
        })
    }

    fn engine(&mut self) -> Result<&mut Engine, CtlError> {
        self.engine.as_mut().ok_or_else(|| CtlError::internal("the switch is shut down"))
    }

    /// The switch's clock in milliseconds.
    fn now(&self) -> u64 {
        self.engine.as_ref().map_or(0, Engine::now)
    }

    fn bridge_id(&self, name: &str) -> Result<BridgeId, CtlError> {
        self.switch
            .bridge_id(name)
            .ok_or_else(|| CtlError::internal(format!("bridge \"{name}\" is not running")))
    }

    /// Publish what has changed, and wait until it is in force.
    fn publish(&mut self) -> Result<(), CtlError> {
        match (self.switch.commit(), self.engine.as_mut()) {
            (Some(snapshot), Some(engine)) => {
                engine.publish(snapshot).map_err(|e| CtlError::internal(e.to_string()))
            }
            _ => Ok(()),
        }
    }

    fn carry_out(
        &mut self,
        change: &Change<'_>,
        restore: bool,
        warnings: &mut Vec<String>,
    ) -> Result<(), CtlError> {
        match change {
            Change::DelPort { name, old, bridge } => self.del_port(bridge, name, old),
            Change::DelBridge { name, .. } => self.del_bridge(name),
            Change::AddBridge { name, new } => self.add_bridge(name, new, restore, warnings),
            Change::SetBridge { name, new, .. } => self.set_bridge(name, new),
            Change::AddPort { bridge, name, new } => {
                self.add_port(bridge, name, new, restore, warnings)
            }
            Change::SetPort { bridge, name, old, new } => {
                self.set_port(bridge, name, old, new, restore, warnings)
            }
        }
    }

    fn add_bridge(
        &mut self,
        name: &str,
        new: &Bridge,
        restore: bool,
        warnings: &mut Vec<String>,
    ) -> Result<(), CtlError> {
        let now = self.now();
        let id = self
            .switch
            .add_bridge(name, translate::bridge(&new.settings))
            .ok_or_else(|| CtlError::internal(format!("no room for bridge \"{name}\"")))?;
        if !new.settings.is_secure() {
            let normal = vec![Action::output(OfPort::NORMAL)];
            let spec = RuleSpec::new(0, 0, Match::default(), normal);
            self.switch.add_rule(id, spec, now);
        }
        let settings = local_settings(new);
        let opened = self.open_device(
            name,
            OfPort::LOCAL,
            id,
            PortType::Internal,
            &settings,
            restore,
            warnings,
        );
        if let Err(e) = opened {
            self.switch.remove_bridge(id);
            return Err(e);
        }
        Ok(())
    }

    fn set_bridge(&mut self, name: &str, new: &Bridge) -> Result<(), CtlError> {
        let id = self.bridge_id(name)?;
        self.switch.set_settings(id, translate::bridge(&new.settings));
        let settings = local_settings(new);
        if let Some(opened) = self.open.get_mut(name) {
            opened.set_interface(&settings, &self.devices.system)?;
        }
        self.show_port(name, &settings);
        Ok(())
    }

    fn del_bridge(&mut self, name: &str) -> Result<(), CtlError> {
        let id = self.bridge_id(name)?;
        self.close_device(name)?;
        self.switch.remove_bridge(id);
        self.publish()
    }

    fn add_port(
        &mut self,
        bridge: &str,
        name: &str,
        new: &Port,
        restore: bool,
        warnings: &mut Vec<String>,
    ) -> Result<(), CtlError> {
        if new.port_type().is_joint() {
            // Both ends are joined once all ports are known.
            return Ok(());
        }
        if new.port_type().is_tunnel() {
            return self.add_tunnel(bridge, name, new);
        }
        let id = self.bridge_id(bridge)?;
        let ofport = OfPort(u32::from(new.ofport));
        self.open_device(name, ofport, id, new.port_type(), &new.settings, restore, warnings)
    }

    fn del_port(&mut self, bridge: &str, name: &str, old: &Port) -> Result<(), CtlError> {
        if !old.port_type().is_netdev() {
            let id = self.bridge_id(bridge)?;
            self.switch.remove_port(id, OfPort(u32::from(old.ofport)));
            return self.publish();
        }
        self.close_device(name)
    }

    fn set_port(
        &mut self,
        bridge: &str,
        name: &str,
        old: &Port,
        new: &Port,
        restore: bool,
        warnings: &mut Vec<String>,
    ) -> Result<(), CtlError> {
        if new.port_type().is_joint() {
            if old.ofport != new.ofport {
                self.del_port(bridge, name, old)?;
            }
            return Ok(());
        }
        if new.port_type().is_tunnel() {
            if old.ofport != new.ofport {
                self.del_port(bridge, name, old)?;
            }
            return self.add_tunnel(bridge, name, new);
        }
        let reopen = old.ofport != new.ofport || ports::needs_reopen(&old.settings, &new.settings);
        if reopen {
            self.close_device(name)?;
            let added = self.add_port(bridge, name, new, restore, warnings);
            if added.is_err() {
                let mut ignored = Vec::new();
                self.add_port(bridge, name, old, true, &mut ignored)?;
            }
            return added;
        }
        if let Some(opened) = self.open.get_mut(name) {
            opened.set_interface(&new.settings, &self.devices.system)?;
        }
        self.show_port(name, &new.settings);
        Ok(())
    }

    /// Bring an open port's entry in its bridge up to date with its settings and state.
    fn show_port(&mut self, name: &str, settings: &PortSettings) {
        let Some(o) = self.open.get_mut(name) else { return };
        o.vlan = translate::vlan(settings);
        self.place(name);
    }

    /// Bring all patch ports up to date with each other.
    fn join_patches(&mut self, config: &Config) -> Result<(), CtlError> {
        for (bridge, name, port) in config.ports() {
            if port.port_type() != PortType::Patch {
                continue;
            }
            let id = self.bridge_id(bridge)?;
            let peer = match config.peer_of(name) {
                Some(Peer::Joined { bridge, port }) => {
                    let (_, peer) = config.port(port)?;
                    Some((self.bridge_id(bridge)?, OfPort(u32::from(peer.ofport))))
                }
                _ => None,
            };
            self.switch.set_port(
                id,
                ofproto::snapshot::Port {
                    up: peer.is_some(),
                    vlan: translate::vlan(&port.settings),
                    ..ofproto::snapshot::Port::new(
                        OfPort(u32::from(port.ofport)),
                        name,
                        PortKind::Patch(peer),
                    )
                },
            );
        }
        Ok(())
    }

    fn undo(&mut self, done: &[Change<'_>]) {
        for change in done.iter().rev() {
            let back = match *change {
                Change::DelPort { bridge, name, old } => Change::AddPort { bridge, name, new: old },
                Change::DelBridge { name, old } => Change::AddBridge { name, new: old },
                Change::AddBridge { name, new } => Change::DelBridge { name, old: new },
                Change::SetBridge { name, old, new } => {
                    Change::SetBridge { name, old: new, new: old }
                }
                Change::AddPort { bridge, name, new } => Change::DelPort { bridge, name, old: new },
                Change::SetPort { bridge, name, old, new } => {
                    Change::SetPort { bridge, name, old: new, new: old }
                }
            };
            if let Err(e) = self.carry_out(&back, true, &mut Vec::new()) {
                tracing::error!("cannot go back to what was: {e}");
            }
        }
    }
}

impl Backend for EngineBackend {
    fn reconfigure(
        &mut self,
        old: &Config,
        new: &Config,
        restore: bool,
    ) -> Result<Vec<String>, CtlError> {
        self.configure_paths(new)?;
        let steps = changes(old, new);
        let routers = Self::compile_routers(new)?;
        let mut warnings = Vec::new();
        for (i, step) in steps.iter().enumerate() {
            if let Err(e) = self.carry_out(step, restore, &mut warnings) {
                self.undo(&steps[..i]);
                self.configure_paths(old)?;
                self.join_patches(old)?;
                self.publish()?;
                return Err(e);
            }
        }
        self.join_patches(new)?;
        self.set_guards(new)?;
        self.set_routers(new, routers)?;
        self.below.touch();
        self.follow_kernel();
        self.publish()?;
        if let Some(engine) = self.engine.as_ref() {
            let tracker = &engine.shared().tracker;
            let zones = &mut self.zone_policies;
            conntrack::configure(tracker, zones, &old.conntrack, &new.conntrack);
        }
        Ok(warnings)
    }

    fn check(&self, config: &Config, command: &Command) -> Result<(), CtlError> {
        flows::read(config, command)?;
        groups::read(config, command)?;
        trace::read(config, command)?;
        if let Some(router) = command.router() {
            config.router(router)?;
        }
        conntrack::check(command)
    }

    fn begin(&mut self) {
        self.hear_workers();
        self.saved = Some(self.switch.save_tables());
    }

    fn call(&mut self, config: &Config, command: &Command) -> Result<Box<RawValue>, CtlError> {
        let bridge = command.runtime_bridge().unwrap_or_default();
        if let Some(wanted) = flows::read(config, command)? {
            return self.flows(config, bridge, command, wanted);
        }
        if let Some(wanted) = groups::read(config, command)? {
            return self.groups(config, bridge, wanted);
        }
        if let Some(wanted) = trace::read(config, command)? {
            return self.trace(config, bridge, wanted);
        }
        if let Command::ShowRouter { router } = command {
            return crate::backend::answer(&self.router_report(config, router)?);
        }
        if let Some(done) = self.connections(config, command)? {
            return Ok(done);
        }
        self.report(config, command)
    }

    fn end(&mut self, keep: bool) -> Result<(), CtlError> {
        let saved = self.saved.take();
        if keep {
            self.tell_removed();
        } else if let Some(saved) = saved {
            self.switch.restore_tables(saved);
            self.removed.clear();
        }
        self.publish()
    }

    fn monitor(&mut self, bridges: &[String]) {
        self.monitors.watch(bridges);
    }

    fn take_events(&mut self) -> Vec<(String, Box<RawValue>)> {
        self.monitors.take()
    }

    fn watch_connections(&mut self, on: bool) {
        self.watch_tracker(on);
    }

    fn take_notices(&mut self) -> (Vec<::conntrack::Notice>, u64) {
        self.hear_tracker()
    }

    fn tick(&mut self, _config: &Config, now: Instant) -> Duration {
        self.hear_workers();
        self.follow_links();
        self.retry_ports();
        self.follow_kernel();
        self.tick_neighbours();
        if now.duration_since(self.last_second) >= Duration::from_secs(1) {
            self.last_second = now;
            self.every_second();
        }
        let routers = self.tick_routers();
        if let Err(e) = self.publish() {
            tracing::error!("{e}");
        }
        let wait = Duration::from_millis(if self.connections_watched { 20 } else { 500 });
        routers.map_or(wait, |due| wait.min(due))
    }

    fn wake_fds(&self) -> Vec<BorrowedFd<'_>> {
        let engine = self.engine.iter().map(|e| e.shared().control_fd());
        engine.chain([self.devices.system.links.fd()]).chain(self.below.fd()).collect()
    }

    fn shutdown(&mut self) {
        let Some(engine) = self.engine.take() else { return };
        let mut queues = engine.stop().unwrap_or_else(|e| {
            tracing::error!("{e}");
            Vec::new()
        });
        // Which queue is whose no longer matters: all are closed, side by side.
        let mut ports: Vec<_> = std::mem::take(&mut self.open)
            .into_values()
            .map(|opened| (opened.into_handle(), queues.pop().into_iter().collect::<Vec<_>>()))
            .collect();
        if let Some((_, rest)) = ports.first_mut() {
            rest.append(&mut queues);
        }
        ::ports::close_all(ports, &self.devices.system);
    }
}

/// The memory for frames. More than there is would be refused only when it is touched, by a signal.
fn region(bytes: usize) -> Result<Arc<Region>, CtlError> {
    let refused = |why: String| {
        CtlError::system(format!(
            "--umem: the kernel refused {} MiB for frames: {why}",
            bytes >> 20
        ))
        .with_hint("give less with --umem, or more memory to the daemon")
    };
    if let Some(available) = available_memory().filter(|a| bytes > *a) {
        return Err(refused(format!("{} MiB are available", available >> 20)));
    }
    Region::new(bytes).map_err(|e| refused(e.to_string()))
}

/// Bytes that the kernel could give now (`MemAvailable` of proc(5)), if it says.
fn available_memory() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok().map(|kib| kib << 10)
}

/// The settings of a bridge's own interface: `other_config:hwaddr` of the bridge is its address unless
/// the port says otherwise.
fn local_settings(bridge: &Bridge) -> PortSettings {
    let mut settings = bridge.local.clone();
    settings.mac = settings.mac.or(bridge.settings.hwaddr);
    settings
}

/// The cores to pin workers to: the last ones that the process may use, or those that were named.
fn cores(workers: &Workers) -> Result<Vec<Option<usize>>, CtlError> {
    let may: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|c| c.id).collect();
    match workers {
        Workers::Count(n) if *n > may.len().max(1) => Err(CtlError::invalid(format!(
            "--workers {n}: the process may use {} cores only",
            may.len()
        ))),
        Workers::Count(n) => {
            let first = may.len().saturating_sub(*n);
            Ok(if may.is_empty() {
                vec![None; *n]
            } else {
                may[first..].iter().map(|c| Some(*c)).collect()
            })
        }
        Workers::Cores(cores) => match cores.iter().find(|c| !may.contains(c)) {
            Some(c) => Err(CtlError::invalid(format!(
                "--workers cores: the process may not use core {c}; it may use {may:?}"
            ))),
            None => Ok(cores.iter().map(|c| Some(*c)).collect()),
        },
    }
}
