//! The control side's hold on the configuration that decides about packets.
//!
//! [`Switch`] has the version that is being prepared and the list of what is different from the
//! published one. Every change goes through it, so that no difference is missing from the list;
//! [`Switch::commit`] turns both into the next [`Snapshot`]. Nothing is published in between, so
//! a batch of changes is one publication.
//!
//! Used by the control thread alone. Must not know: workers, text, how ports are opened.

mod tunnels;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::fdb::{Fdb, FdbStats, Touched};
use crate::program::DpPort;
use crate::snapshot::{
    Bridge, BridgeId, BridgeSettings, Change, Dep, LogNode, OfPort, Port, PortKind, Snapshot,
};

/// Past this many changes in one batch, the list says "everything" instead.
const MANY: usize = 50_000;

/// Control's own state of a bridge.
#[derive(Default)]
pub(crate) struct BridgeControl {
    /// Some rule has, or had, a timeout.
    pub(crate) has_timeouts: bool,
    pub(crate) fdb: Fdb,
}

/// What [`Switch::save_tables`] keeps.
pub struct SavedTables(Vec<(BridgeId, Arc<Bridge>)>);

/// The configuration in preparation.
pub struct Switch {
    next: Snapshot,
    changes: Vec<Change>,
    names: BTreeMap<Arc<str>, BridgeId>,
    pub(crate) control: HashMap<BridgeId, BridgeControl>,
    pub(crate) next_rule: u64,
}

impl Default for Switch {
    fn default() -> Self {
        Switch {
            next: Snapshot::empty(),
            changes: Vec::new(),
            names: BTreeMap::new(),
            control: HashMap::new(),
            next_rule: 1,
        }
    }
}

impl Switch {
    /// Note that something is different.
    pub(crate) fn changed(&mut self, change: Change) {
        match self.changes.len() {
            n if n < MANY => self.changes.push(change),
            MANY => self.changes.push(Change::All),
            _ => {}
        }
    }

    /// What is being prepared, to come back to.
    pub(crate) fn save(&self) -> (Snapshot, usize) {
        (self.next.clone(), self.changes.len())
    }

    /// Come back to what was being prepared.
    pub(crate) fn restore(&mut self, (next, changes): (Snapshot, usize)) {
        self.next = next;
        self.changes.truncate(changes);
    }

    /// The tables and groups of all bridges, to come back to. Cheap: nothing is copied.
    pub fn save_tables(&self) -> SavedTables {
        let bridges = self.next.bridges.iter().flatten();
        SavedTables(bridges.map(|b| (b.id, b.clone())).collect())
    }

    /// Come back to tables and groups. What was changed in between stays noted as changed, which
    /// costs translations only.
    pub fn restore_tables(&mut self, saved: SavedTables) {
        for (id, was) in saved.0 {
            if let Some(bridge) = self.bridge_mut(id) {
                (bridge.tables, bridge.groups) = (was.tables.clone(), was.groups.clone());
                (bridge.limited, bridge.gone) = (was.limited.clone(), was.gone.clone());
            }
        }
    }

    fn depends(&mut self, dep: Dep) {
        self.changed(Change::Dep(dep));
    }

    /// The bridge with that name.
    pub fn bridge_id(&self, name: &str) -> Option<BridgeId> {
        self.names.get(name).copied()
    }

    /// The bridges' names and ids, by name.
    pub fn bridges(&self) -> impl Iterator<Item = (&Arc<str>, BridgeId)> {
        self.names.iter().map(|(n, id)| (n, *id))
    }

    /// A bridge as it is being prepared.
    pub fn bridge(&self, id: BridgeId) -> Option<&Arc<Bridge>> {
        self.next.bridge(id)
    }

    /// The version in preparation, for translation outside of workers (trace).
    pub fn preview(&self) -> &Snapshot {
        &self.next
    }

    /// A bridge to change.
    pub(crate) fn bridge_mut(&mut self, id: BridgeId) -> Option<&mut Bridge> {
        let slot = Arc::make_mut(&mut self.next.bridges).get_mut(usize::from(id.0))?;
        slot.as_mut().map(Arc::make_mut)
    }

    /// Make a bridge without ports or rules. `None` if the name is taken or there are 65,536.
    pub fn add_bridge(&mut self, name: &str, settings: BridgeSettings) -> Option<BridgeId> {
        if self.names.contains_key(name) {
            return None;
        }
        let bridges = Arc::make_mut(&mut self.next.bridges);
        let at = bridges.iter().position(Option::is_none).unwrap_or(bridges.len());
        let id = BridgeId(u16::try_from(at).ok()?);
        let name: Arc<str> = name.into();
        let bridge = Bridge {
            id,
            name: name.clone(),
            settings: Arc::new(settings),
            tables: Default::default(),
            ports: Arc::default(),
            fdb: Default::default(),
            groups: Default::default(),
            limited: Default::default(),
            gone: Default::default(),
            missed: Default::default(),
        };
        if at == bridges.len() {
            bridges.push(None);
        }
        bridges[at] = Some(Arc::new(bridge));
        self.names.insert(name, id);
        self.control.insert(id, BridgeControl::default());
        self.depends(Dep::Bridge(id));
        Some(id)
    }

    /// Remove a bridge with its ports, rules and addresses.
    pub fn remove_bridge(&mut self, id: BridgeId) {
        let Some(bridge) = self.bridge(id).cloned() else { return };
        for port in bridge.ports.keys() {
            self.remove_port(id, *port);
        }
        self.names.remove(&bridge.name);
        self.control.remove(&id);
        Arc::make_mut(&mut self.next.bridges)[usize::from(id.0)] = None;
        // Its index may be used again: nothing may be left that was made from its tables.
        self.changed(Change::All);
    }

    /// Change a bridge's settings.
    pub fn set_settings(&mut self, id: BridgeId, settings: BridgeSettings) {
        let Some(bridge) = self.bridge_mut(id) else { return };
        if *bridge.settings != settings {
            bridge.settings = Arc::new(settings);
            self.depends(Dep::Bridge(id));
        }
    }

    /// Add a port, or change the one with its number.
    pub fn set_port(&mut self, id: BridgeId, port: Port) {
        let (number, dp) = (port.ofport, dp_port(&port));
        let Some(bridge) = self.bridge_mut(id) else { return };
        let old = bridge.ports.get(&number).cloned();
        if old.as_deref() == Some(&port) {
            return;
        }
        // Flooding looks at every port's settings, but not at its link.
        let only_state =
            old.as_ref().is_some_and(|o| Port { up: port.up, ..(**o).clone() } == port);
        let port = Arc::new(port);
        Arc::make_mut(&mut bridge.ports).insert(number, port.clone());
        let old_dp = old.as_deref().and_then(dp_port);
        if old_dp != dp {
            self.set_ingress(old_dp, None);
            self.set_ingress(dp, Some((id, number)));
        }
        self.set_tunnel((id, number), old.as_deref(), Some(&port));
        self.depends(Dep::Port(id, number));
        if !only_state {
            self.depends(Dep::Bridge(id));
        }
    }

    /// Remove a port and the addresses learned on it.
    pub fn remove_port(&mut self, id: BridgeId, number: OfPort) {
        let Some(bridge) = self.bridge_mut(id) else { return };
        let Some(old) = Arc::make_mut(&mut bridge.ports).remove(&number) else { return };
        self.set_ingress(dp_port(&old), None);
        self.set_tunnel((id, number), Some(&old), None);
        self.depends(Dep::Port(id, number));
        self.depends(Dep::Bridge(id));
        self.fdb_remove(id, |e| e.port == number);
    }

    fn set_ingress(&mut self, dp: Option<DpPort>, to: Option<(BridgeId, OfPort)>) {
        let Some(dp) = dp else { return };
        let ingress = Arc::make_mut(&mut self.next.ingress);
        if ingress.len() <= dp.0 as usize {
            ingress.resize(dp.0 as usize + 1, None);
        }
        ingress[dp.0 as usize] = to;
        self.depends(Dep::Ingress(dp));
    }

    /// An address was seen on a port.
    pub fn fdb_learn(&mut self, id: BridgeId, vlan: u16, mac: u64, port: OfPort, now: u64) {
        self.with_fdb(id, |fdb, bridge| {
            // Seen by a worker on a port that is gone by now.
            if !bridge.ports.contains_key(&port) {
                return Touched::new();
            }
            let limit = bridge.settings.mac_table_size;
            fdb.learn(&mut bridge.fdb, (vlan, mac), port, limit, now)
        });
    }

    /// Put a configured address in.
    pub fn fdb_add(&mut self, id: BridgeId, vlan: u16, mac: u64, port: OfPort) {
        self.with_fdb(id, |fdb, bridge| fdb.add_static(&mut bridge.fdb, vlan, mac, port));
    }

    /// Forget the addresses that `which` chooses; how many.
    pub fn fdb_remove(
        &mut self,
        id: BridgeId,
        which: impl FnMut(&crate::snapshot::FdbEntry) -> bool,
    ) -> usize {
        self.with_fdb(id, |fdb, bridge| fdb.remove_if(&mut bridge.fdb, which))
    }

    /// Forget addresses that have not been used for their bridge's time.
    pub fn fdb_age(&mut self, now: u64) {
        let ids: Vec<BridgeId> = self.names.values().copied().collect();
        for id in ids {
            self.with_fdb(id, |fdb, bridge| {
                fdb.age(&mut bridge.fdb, bridge.settings.mac_aging, now)
            });
        }
    }

    fn with_fdb(
        &mut self,
        id: BridgeId,
        f: impl FnOnce(&mut Fdb, &mut Bridge) -> Touched,
    ) -> usize {
        let Some(mut control) = self.control.remove(&id) else { return 0 };
        let touched = match self.bridge_mut(id) {
            Some(bridge) => f(&mut control.fdb, bridge),
            None => Touched::new(),
        };
        self.control.insert(id, control);
        for (vlan, mac) in &touched {
            self.depends(Dep::Fdb(id, *vlan, *mac));
        }
        touched.len()
    }

    /// What became of a bridge's addresses.
    pub fn fdb_stats(&self, id: BridgeId) -> FdbStats {
        self.control.get(&id).map(|c| c.fdb.stats).unwrap_or_default()
    }

    /// Whether there is something to publish.
    pub fn is_changed(&self) -> bool {
        !self.changes.is_empty()
    }

    /// The next version, if anything is different from the last one.
    pub fn commit(&mut self) -> Option<Arc<Snapshot>> {
        if self.changes.is_empty() {
            return None;
        }
        let version = self.next.version + 1;
        let node = Arc::new(LogNode::new(version, std::mem::take(&mut self.changes)));
        self.next.log.link(node.clone());
        self.next.log = node;
        self.next.version = version;
        Some(Arc::new(self.next.clone()))
    }
}

fn dp_port(port: &Port) -> Option<DpPort> {
    match port.kind {
        PortKind::Datapath(dp) => Some(dp),
        PortKind::Patch(_) | PortKind::Tunnel(_) => None,
    }
}
