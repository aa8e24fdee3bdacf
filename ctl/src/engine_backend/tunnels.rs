//! Tunnel ports, and the kernel's view that their packets follow.
//!
//! While there are tunnel ports, the kernel's links, addresses, routes and neighbours are followed,
//! and handed to translation with the bridge port behind each link that is the switch's own. A
//! neighbour that a packet waits for is asked for by the kernel, which answers for its own addresses
//! too; one that is in use is kept fresh the same way.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use ofproto::action::OfPort;
use ofproto::snapshot::{BridgeId, Port as OfPortEntry, PortKind};
use ofproto::underlay::TunnelPort;
use tunnel::ask::Asker;
use tunnel::neigh::Target;
use tunnel::netlink::Follower;

use super::{EngineBackend, translate};
use crate::config::Port;
use crate::error::CtlError;

/// Milliseconds between two checks of a neighbour that is in use.
const REFRESH: u64 = 1000;

/// What is known of the network below tunnels.
#[derive(Default)]
pub struct Below {
    /// `None` until there is the first tunnel port.
    kernel: Option<(Follower, Asker)>,
    /// The ports behind the kernel's links, as last handed on.
    ports: Vec<(u32, BridgeId, OfPort)>,
    /// Something may be different.
    stale: bool,
    /// When neighbours were checked last.
    refreshed: u64,
    /// Neighbours to ask for.
    wanted: Vec<Target>,
}

impl Below {
    /// Readable when the kernel has something to tell.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.kernel.as_ref().map(|(follower, _)| follower.as_fd())
    }

    /// The next [`EngineBackend::follow_kernel`] is to look at everything.
    pub fn touch(&mut self) {
        self.stale = true;
    }

    /// A packet needs a neighbour's address.
    pub fn want(&mut self, target: Target) {
        if !self.wanted.contains(&target) {
            self.wanted.push(target);
        }
    }
}

impl EngineBackend {
    /// Add a tunnel port, or change its settings.
    pub(super) fn add_tunnel(
        &mut self,
        bridge: &str,
        name: &str,
        port: &Port,
    ) -> Result<(), CtlError> {
        let id = self.bridge_id(bridge)?;
        let config = port.settings.tunnel(name)?;
        if self.below.kernel.is_none() {
            let open = || Ok((Follower::open()?, Asker::open()?));
            let opened = open().map_err(|e: std::io::Error| {
                CtlError::system(format!("cannot follow the kernel's routes: {e}"))
            })?;
            self.below.kernel = Some(opened);
        }
        self.below.touch();
        let ofport = OfPort(u32::from(port.ofport));
        let known = self.switch.bridge(id).and_then(|b| b.ports.get(&ofport));
        let sequence = match known.map(|p| &p.kind) {
            Some(PortKind::Tunnel(t)) => t.sequence.clone(),
            _ => Default::default(),
        };
        let entry = OfPortEntry {
            ofport,
            name: name.into(),
            kind: PortKind::Tunnel(Arc::new(TunnelPort { config, sequence })),
            vlan: translate::vlan(&port.settings),
            up: true,
            no_flood: false,
            no_forward: false,
            no_receive: false,
            mtu: 0,
        };
        self.switch.set_port(id, entry);
        Ok(())
    }

    /// Take over what the kernel has told, and have it find out about neighbours.
    pub(super) fn follow_kernel(&mut self) {
        let now = self.now();
        let below = &mut self.below;
        let Some((follower, asker)) = &mut below.kernel else { return };
        match follower.drain() {
            Ok(changed) => below.stale |= changed,
            Err(e) => tracing::warn!("the kernel's routes and neighbours: {e}"),
        }
        if std::mem::take(&mut below.stale) {
            let kernel = follower.kernel();
            let ports = self.open.values().filter_map(|o| Some((o.internal_link()?, o)));
            below.ports = ports.map(|(link, o)| (link, o.bridge, o.ofport)).collect();
            self.switch.set_underlay(kernel, &below.ports);
        }
        if now >= below.refreshed + REFRESH {
            below.wanted.extend(self.switch.neighbours_in_use(below.refreshed));
            below.refreshed = now;
        }
        for target in below.wanted.drain(..) {
            if let Err(e) = asker.ask(&target) {
                tracing::warn!("asking for {}: {e}", target.address);
            }
        }
    }
}
