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
mod probes;
mod reports;
mod request;
mod routers;
mod start;
mod steps;
mod text;
mod trace;
mod trace_inside;
mod translate;
mod tunnel_reports;
mod tunnels;

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use afxdp::FramePool;
use engine::Engine;
use ofproto::flow_table::Removed;
use ofproto::snapshot::BridgeId;
use ofproto::switch::{SavedTables, Switch};
use serde_json::value::RawValue;

use crate::backend::Backend;
use crate::command::Command;
use crate::config::{Config, changes};
use crate::error::CtlError;
use crate::options::{DaemonOptions, Poll};

use ports::{Devices, Opened};
use request::About;

pub use request::Request;
pub use routers::router_flows;

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
    guards: guards::Guards,
    connections_watched: bool,
    /// Notices of connections that had been lost when somebody was told last.
    notices_lost: u64,
}

impl EngineBackend {
    /// Start the workers, with no ports yet.
    pub fn start(options: &DaemonOptions) -> Result<EngineBackend, CtlError> {
        let bytes = usize::try_from(options.umem.0)
            .map_err(|_| CtlError::invalid("--umem: more than this machine can address"))?;
        let region = start::region(bytes)?;
        let cores = start::cores(&options.workers)?;
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
            guards: Default::default(),
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
        self.cease_adverts(new);
        // A port with a security group is never in its bridge without it, whatever is published between.
        self.make_guards(new)?;
        let mut warnings = Vec::new();
        for (i, step) in steps.iter().enumerate() {
            if let Err(e) = self.carry_out(step, restore, &mut warnings) {
                self.make_guards(old)?;
                self.undo(&steps[..i]);
                self.drop_guards(old);
                self.configure_paths(old)?;
                self.join_patches(old)?;
                self.set_routers(old, Self::compile_routers(old)?)?;
                self.publish()?;
                self.end_refused();
                return Err(e);
            }
        }
        self.join_patches(new)?;
        self.drop_guards(new);
        self.set_routers(new, routers)?;
        self.below.touch();
        self.follow_kernel();
        self.publish()?;
        self.end_refused();
        self.end_translated();
        if let Some(engine) = self.engine.as_ref() {
            let tracker = &engine.shared().tracker;
            let zones = &mut self.zone_policies;
            conntrack::configure(tracker, zones, &old.conntrack, &new.conntrack);
        }
        Ok(warnings)
    }

    fn check(&self, config: &Config, command: &Command) -> Result<Request, CtlError> {
        Request::read(config, command)
    }

    fn begin(&mut self) {
        self.hear_workers();
        self.saved = Some(self.switch.save_tables());
    }

    fn call(
        &mut self,
        config: &Config,
        command: &Command,
        request: Request,
    ) -> Result<Box<RawValue>, CtlError> {
        let bridge = command.runtime_bridge().unwrap_or_default();
        match request.0 {
            About::Flows(wanted) => return self.flows(config, bridge, command, wanted),
            About::Groups(wanted) => return self.groups(config, bridge, wanted),
            About::Packets(wanted) => return self.trace(config, bridge, wanted),
            About::Other => {}
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
        self.probe_neighbours();
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
        [routers, self.below.probes.wait()].into_iter().flatten().fold(wait, Duration::min)
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
