//! One difference between two configurations, made real: bridges and ports that come, change and go.
//!
//! Each step is whole or changes nothing; those before a step that failed are undone in reverse.

use ofproto::action::{Action, OfPort};
use ofproto::rules::RuleSpec;
use ofproto::snapshot::PortKind;

use flow::Match;

use super::{EngineBackend, ports, translate};
use crate::config::{Bridge, Change, Config, Peer, Port};
use crate::error::CtlError;
use crate::schema::{PortSettings, PortType};

impl EngineBackend {
    pub(super) fn carry_out(
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
    pub(super) fn join_patches(&mut self, config: &Config) -> Result<(), CtlError> {
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

    pub(super) fn undo(&mut self, done: &[Change<'_>]) {
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

/// The settings of a bridge's own interface: `other_config:hwaddr` of the bridge is its address unless
/// the port says otherwise.
fn local_settings(bridge: &Bridge) -> PortSettings {
    let mut settings = bridge.local.clone();
    settings.mac = settings.mac.or(bridge.settings.hwaddr);
    settings
}
