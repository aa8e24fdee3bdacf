//! Security groups that run: a bridge of its own between a port's device and the port's bridge.
//!
//! A guard belongs to a port's name and not to its device: it is there before the device is opened, and
//! stays while it is closed and opened again. So no version of the switch that workers see has a guarded
//! device in the user's bridge. No command on flows reaches a guard's bridge.
//!
//! What a group does not allow any more ends: connections that none of its rules would let begin are ended
//! once the new rules are in force.

mod compile;

use std::collections::BTreeMap;

use conntrack::{Connection, Cursor, Millis};
use ofproto::action::OfPort;
use ofproto::snapshot::{BridgeId, BridgeSettings, Port, PortKind};
use ofproto::vlan::VlanConfig;

use super::EngineBackend;
use crate::config::Config;
use crate::config::security::SecurityGroup;
use crate::error::CtlError;

/// The port that the instance is.
const INSTANCE: OfPort = OfPort(1);
/// The port that leads to the user's bridge.
const BRIDGE: OfPort = OfPort(2);

/// All guards, by the names of their ports.
#[derive(Default)]
pub(super) struct Guards {
    all: BTreeMap<String, Guard>,
    /// Groups that changed or went, and what they are now: their connections are looked at once that is
    /// in force.
    changed: Vec<(SecurityGroup, Option<SecurityGroup>)>,
}

struct Guard {
    id: BridgeId,
    group: SecurityGroup,
}

impl EngineBackend {
    /// Make a guard for each security group, before devices are opened that it is for.
    pub(super) fn make_guards(&mut self, config: &Config) -> Result<(), CtlError> {
        let now = self.now();
        for (name, group) in &config.security_groups {
            let known = self.guards.all.get(name);
            if known.is_some_and(|g| g.group == *group) {
                continue;
            }
            let mods = compile::compile(group)?;
            let id = match known {
                Some(guard) => guard.id,
                None => {
                    let bridge = format!("guard:{name}");
                    let id = self.switch.add_bridge(&bridge, BridgeSettings::default());
                    let none =
                        || CtlError::internal(format!("no room for the guard of \"{name}\""));
                    id.ok_or_else(none)?
                }
            };
            let done = self.switch.replace_flows(id, &mods, now);
            done.map_err(|(i, e)| CtlError::internal(format!("a guard's flow {i}: {e}")))?;
            let guard = Guard { id, group: group.clone() };
            if let Some(old) = self.guards.all.insert(name.clone(), guard) {
                self.guards.changed.push((old.group, Some(group.clone())));
            }
            self.place(name);
        }
        Ok(())
    }

    /// Let go of the guards of ports that have no security group.
    pub(super) fn drop_guards(&mut self, config: &Config) {
        let gone = |n: &&String| !config.security_groups.contains_key(*n);
        let gone: Vec<String> = self.guards.all.keys().filter(gone).cloned().collect();
        for name in gone {
            let Some(guard) = self.guards.all.remove(&name) else { continue };
            self.switch.remove_bridge(guard.id);
            self.guards.changed.push((guard.group, None));
            self.place(&name);
        }
    }

    /// End the connections that no group would let begin any more. To be called when the groups are in
    /// force: until then packets make connections under the old ones.
    pub(super) fn end_refused(&mut self) {
        let changed = std::mem::take(&mut self.guards.changed);
        let Some(engine) = &self.engine else { return };
        if changed.is_empty() {
            return;
        }
        let (now, tracker) = (Millis(self.now()), &engine.shared().tracker);
        let mut refused = Vec::new();
        tracker.walk(now, Cursor::default(), usize::MAX, |c: &Connection| {
            let of_zone = changed.iter().filter(|(old, _)| old.zone() == c.orig.zone());
            let lets = |new: &Option<SecurityGroup>| {
                let new = new.as_ref().filter(|g| g.zone() == c.orig.zone());
                new.is_some_and(|g| compile::lets(g, &c.orig))
            };
            if of_zone.into_iter().any(|(_, new)| !lets(new)) {
                refused.push(c.orig);
            }
        });
        for tuple in &refused {
            tracker.flush_tuple(now, tuple);
        }
    }

    /// Bring an open port's entry in its bridge up to date, and that of its guard.
    pub(super) fn place(&mut self, name: &str) {
        let Some(opened) = self.open.get(name) else { return };
        let port = opened.port(name);
        let (bridge, ofport) = (opened.bridge, opened.ofport);
        let Some(guard) = self.guards.all.get(name).map(|g| g.id) else {
            return self.switch.set_port(bridge, port);
        };
        let joined = |at: OfPort, to: (BridgeId, OfPort), vlan: VlanConfig| Port {
            ofport: at,
            kind: PortKind::Patch(Some(to)),
            vlan,
            ..port.clone()
        };
        // The device leaves the bridge before it comes to the guard.
        self.switch.set_port(bridge, joined(ofport, (guard, BRIDGE), port.vlan.clone()));
        self.switch.set_port(guard, joined(BRIDGE, (bridge, ofport), VlanConfig::default()));
        let vlan = VlanConfig::default();
        self.switch.set_port(guard, Port { ofport: INSTANCE, vlan, ..port });
    }

    /// Take a port out of its bridge, and out of its guard, which stays.
    pub(super) fn displace(&mut self, name: &str, bridge: BridgeId, ofport: OfPort) {
        if let Some(guard) = self.guards.all.get(name).map(|g| g.id) {
            self.switch.remove_port(guard, INSTANCE);
            self.switch.remove_port(guard, BRIDGE);
        }
        self.switch.remove_port(bridge, ofport);
    }
}
