//! Next hops that packets go to and that nothing comes from.
//!
//! A neighbour that has changed its Ethernet address in silence, or has restarted with another one,
//! would be found out by ageing after half a minute only. So one that is missed, sent to lately and
//! not heard from since ([`Underlay::missed`](ofproto::underlay::Underlay::missed)), is asked at its
//! known address, at most once in a second (RFC 1122, section 2.3.2.1; RFC 4861, section 7.2.2); if it
//! does not answer in [`HASTE`], everybody is asked. Who only receives is asked once a second while it
//! does, 256 of them at most.
//!
//! On the kernel's links it is the kernel that asks, and its table that changes; the old address stays
//! in use here until there is a new one or the second is over. On the switch's own links
//! [`tunnel::NeighTable::missed`] does the same.

use std::collections::HashMap;
use std::time::Duration;

use ofproto::underlay::is_own;
use tunnel::ask::Asker;
use tunnel::kernel::{Kernel, Trust};
use tunnel::neigh::Target;

use super::EngineBackend;

/// Milliseconds between two looks at neighbours, and for an answer to come.
const HASTE: u64 = 100;
/// Milliseconds between two questions to one neighbour.
const PATIENCE: u64 = 1000;
/// Neighbours that are asked in one [`PATIENCE`] at most.
const MOST: usize = 256;

/// A neighbour on a link of the kernel's that was asked.
struct Probe {
    /// When, in milliseconds of the switch's clock.
    asked: u64,
    /// The address that it had.
    mac: u64,
    /// It did not answer, and everybody was asked.
    renewed: bool,
}

/// The neighbours that were asked, and when they were looked at last.
#[derive(Default)]
pub struct Probes {
    asked: HashMap<Target, Probe>,
    looked: u64,
    /// Whether packets go to any neighbour.
    busy: bool,
}

impl Probes {
    /// How long control may wait before it looks again.
    pub fn wait(&self) -> Option<Duration> {
        (self.busy || !self.asked.is_empty()).then_some(Duration::from_millis(HASTE))
    }

    /// Keep the addresses in use that are being asked for anew.
    pub fn keep(&self, kernel: &mut Kernel) {
        for (target, p) in self.asked.iter().filter(|(_, p)| p.renewed) {
            kernel.neighbours.entry(*target).or_insert(p.mac);
        }
    }

    /// Ask a neighbour, unless that was done a moment ago.
    fn ask(&mut self, target: Target, mac: u64, now: u64, kernel: &Kernel, asker: &Asker) {
        let doubtful = kernel.trust.get(&target).is_some_and(|t| *t != Trust::Fixed);
        if doubtful && self.asked.len() < MOST && !self.asked.contains_key(&target) {
            said(&target, asker.probe(&target));
            self.asked.insert(target, Probe { asked: now, mac, renewed: false });
        }
    }

    /// See who has answered; whether an address is not to be kept any more.
    fn look(&mut self, now: u64, kernel: &Kernel, asker: &Asker) -> bool {
        for (target, p) in &mut self.asked {
            let silent = kernel.trust.get(target) == Some(&Trust::Doubted);
            if silent && !p.renewed && now >= p.asked + HASTE {
                said(target, asker.renew(target));
                p.renewed = true;
            }
        }
        let mut ended = false;
        self.asked.retain(|_, p| {
            let over = now >= p.asked + PATIENCE;
            ended |= over && p.renewed;
            !over
        });
        ended
    }
}

fn said(target: &Target, result: std::io::Result<()>) {
    if let Err(e) = result {
        tracing::warn!("asking for {}: {e}", target.address);
    }
}

impl EngineBackend {
    /// Ask the neighbours that are missed.
    pub(super) fn probe_neighbours(&mut self) {
        let now = self.now();
        if now < self.below.probes.looked + HASTE {
            return;
        }
        self.below.probes.looked = now;
        let missed = self.switch.preview().underlay.missed(now);
        self.below.probes.busy = missed.busy;
        for (target, mac) in missed.neighbours {
            if is_own(target.link) {
                self.miss(&target);
            } else if let Some((follower, asker)) = &self.below.kernel {
                self.below.probes.ask(target, mac, now, follower.kernel(), asker);
            }
        }
        if let Some((follower, asker)) = &self.below.kernel
            && self.below.probes.look(now, follower.kernel(), asker)
        {
            self.below.touch();
        }
    }
}
