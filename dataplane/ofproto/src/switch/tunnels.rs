//! Changes of tunnel ports, and of the kernel's view that their packets follow.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tunnel::kernel::Kernel;
use tunnel::neigh::Target;

use super::Switch;
use crate::snapshot::{BridgeId, Dep, OfPort, Port, PortKind};
use crate::underlay::{ANY_PORT, Neighbour, PortLinks, TunnelPort, Underlay};

fn tunnel(port: Option<&Port>) -> Option<&TunnelPort> {
    match &port?.kind {
        PortKind::Tunnel(t) => Some(t),
        _ => None,
    }
}

impl Switch {
    fn underlay_mut(&mut self) -> &mut Underlay {
        Arc::make_mut(&mut self.next.underlay)
    }

    /// A port was exchanged for another: keep the table of tunnels in step. Of two ports that
    /// accept the same packets the first stays; control refuses the second before.
    pub(super) fn set_tunnel(
        &mut self,
        at: (BridgeId, OfPort),
        old: Option<&Port>,
        new: Option<&Port>,
    ) {
        let (old, new) = (tunnel(old), tunnel(new));
        if old.map(|t| &t.config) == new.map(|t| &t.config) {
            return;
        }
        let underlay = self.underlay_mut();
        let mut touched = Vec::new();
        if let Some(t) = old
            && underlay.table.get(&t.config) == Some(&at)
        {
            underlay.table.remove(&t.config);
            let key = (t.config.kind, t.config.dst_port);
            let left = underlay.listeners.get(&key).map_or(0, |n| n - 1);
            match left {
                0 => underlay.listeners.remove(&key),
                n => underlay.listeners.insert(key, n),
            };
            touched.push(key);
        }
        if let Some(t) = new
            && underlay.table.insert(&t.config, at).is_ok()
        {
            let key = (t.config.kind, t.config.dst_port);
            *underlay.listeners.entry(key).or_insert(0) += 1;
            touched.push(key);
        }
        for (kind, port) in touched {
            self.depends(Dep::Listener(kind, port));
            self.depends(Dep::Listener(kind, ANY_PORT));
        }
    }

    /// Take the kernel's view over. `ports` has the port behind each of its links that is the
    /// switch's own.
    pub fn set_underlay(&mut self, kernel: &Kernel, ports: &[(u32, BridgeId, OfPort)]) {
        let touched = self.set_neighbours(kernel);
        touched.into_iter().for_each(|t| self.depends(Dep::Neigh(t)));
        let (now, before) = (kernel, &self.next.underlay);
        let mut links: imbl::HashMap<(BridgeId, OfPort), PortLinks> = imbl::HashMap::new();
        ports.iter().for_each(|(l, b, p)| links.entry((*b, *p)).or_default().add(*l));
        let same_ports = links == before.links;
        if same_ports && now.same_paths(&before.kernel) {
            return;
        }
        let mut local: HashSet<(BridgeId, OfPort)> = before.links.keys().copied().collect();
        local.extend(links.keys().copied());
        let underlay = self.underlay_mut();
        underlay.kernel = Kernel { neighbours: Default::default(), ..now.clone() };
        underlay.ports = ports.iter().map(|(l, b, p)| (*l, (*b, *p))).collect();
        underlay.links = links;
        self.depends(Dep::Routes);
        // Which addresses a port has decides what is received there.
        local.into_iter().for_each(|(b, p)| self.depends(Dep::Port(b, p)));
    }

    /// Neighbours that are new, gone or have another address.
    fn set_neighbours(&mut self, kernel: &Kernel) -> Vec<Target> {
        let known = &self.next.underlay.neighbours;
        let mut touched: Vec<Target> =
            known.keys().copied().filter(|t| !kernel.neighbours.contains_key(t)).collect();
        let gone = touched.len();
        let other = |(t, mac): &(&Target, &u64)| known.get(*t).is_none_or(|n| n.mac != **mac);
        touched.extend(kernel.neighbours.iter().filter(other).map(|(t, _)| *t));
        if touched.is_empty() {
            return touched;
        }
        let underlay = self.underlay_mut();
        for (i, target) in touched.iter().enumerate() {
            match kernel.neighbours.get(target) {
                Some(mac) if i >= gone => {
                    let neighbour = Neighbour { mac: *mac, ..Neighbour::default() };
                    underlay.neighbours.insert(*target, Arc::new(neighbour));
                }
                _ => {
                    underlay.neighbours.remove(target);
                }
            }
        }
        touched
    }

    /// Neighbours that packets were sent to since `then`, in milliseconds of the switch's clock.
    pub fn neighbours_in_use(&self, then: u64) -> Vec<Target> {
        let all = self.next.underlay.neighbours.iter();
        let used = all.filter(|(_, n)| n.used.load(Ordering::Relaxed) > then);
        used.map(|(t, _)| *t).collect()
    }
}
