//! Is a configuration acceptable as a whole? Errors for what cannot work, warnings for settings that
//! `ovs-vswitchd.conf.db(5)` says are ignored or forced into bounds. Also judges what was read from the
//! state file, which no command has checked.

use std::collections::BTreeSet;

use tunnel::TunnelTable;

use super::{BRIDGES_LIMIT, Bridge, Config, NETDEV_NAME_LIMIT, OFPORT_MAX, PORTS_LIMIT, is_name};
use crate::error::{CtlError, quoted};
use crate::schema::{BridgeSettings, PORT, PortSettings, PortType, VlanMode};

/// Checks everything; gives the warnings.
pub(super) fn validate(config: &Config) -> Result<Vec<String>, CtlError> {
    let mut warnings = Vec::new();
    if config.bridges.len() > BRIDGES_LIMIT || config.port_count() > PORTS_LIMIT {
        return Err(CtlError::invalid(format!(
            "more than {BRIDGES_LIMIT} bridges or {PORTS_LIMIT} ports"
        )));
    }
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for (name, bridge) in &config.bridges {
        if !is_name(name) || name.len() > NETDEV_NAME_LIMIT {
            return Err(CtlError::invalid(format!("{} cannot name a bridge", quoted(name))));
        }
        if !names.insert(name) {
            return Err(CtlError::exists(format!("the name \"{name}\" is used twice")));
        }
        bridge_warnings(name, &bridge.settings, &mut warnings);
        local_port(name, &bridge.local, &mut warnings)?;
        numbers(name, bridge)?;
        for (port, p) in &bridge.ports {
            if !names.insert(port) || config.bridges.contains_key(port) {
                return Err(CtlError::exists(format!("the name \"{port}\" is used twice")));
            }
            check_port(port, &p.settings, &mut warnings)?;
        }
    }
    distinct_tunnels(config)?;
    config.conntrack.validate()?;
    super::paths::validate(config)?;
    config.validate_routers()?;
    Ok(warnings)
}

/// No two tunnel ports would receive the same packets.
fn distinct_tunnels(config: &Config) -> Result<(), CtlError> {
    let mut all = TunnelTable::default();
    for (_, name, port) in config.ports().filter(|(_, _, p)| p.port_type().is_tunnel()) {
        let tunnel = port.settings.tunnel(name)?;
        if let Err(other) = all.insert(&tunnel, name) {
            return Err(CtlError::exists(format!(
                "port \"{name}\": port \"{other}\" has the same remote_ip, local_ip and key"
            )));
        }
    }
    Ok(())
}

fn bridge_warnings(name: &str, settings: &BridgeSettings, warnings: &mut Vec<String>) {
    let mut forced = |key: &str, value: Option<u32>, (min, max): (u32, u32)| {
        if let Some(value) = value.filter(|v| !(min..=max).contains(v)) {
            let used = value.clamp(min, max);
            warnings.push(format!(
                "bridge \"{name}\": other_config:{key}={value} is forced into {min} to {max}: {used}"
            ));
        }
    };
    forced("mac-aging-time", settings.mac_aging_time, BridgeSettings::AGING_BOUNDS);
    forced("mac-table-size", settings.mac_table_size, BridgeSettings::TABLE_BOUNDS);
}

/// Numbers are in range and unique in the bridge.
fn numbers(name: &str, bridge: &Bridge) -> Result<(), CtlError> {
    let mut seen = BTreeSet::new();
    for (port, p) in &bridge.ports {
        if p.ofport == 0 || p.ofport > OFPORT_MAX || !seen.insert(p.ofport) {
            return Err(CtlError::invalid(format!(
                "port \"{port}\" of bridge \"{name}\": OpenFlow number {} is out of range or taken",
                p.ofport
            )));
        }
    }
    Ok(())
}

fn local_port(
    name: &str,
    settings: &PortSettings,
    warnings: &mut Vec<String>,
) -> Result<(), CtlError> {
    let refuse = |key: &str, why: &str| {
        Err(CtlError::invalid(format!("port \"{name}\": {key} {why}: it is the bridge's own port")))
    };
    if settings.kind.is_some_and(|kind| kind != PortType::Internal) {
        return refuse("type", "cannot be other than internal");
    }
    if settings.ofport_request.is_some() {
        return refuse("ofport_request", "cannot be set");
    }
    if settings.mac.is_some() {
        return refuse("mac", "is set by the bridge's other_config:hwaddr");
    }
    let internal = PortSettings { kind: Some(PortType::Internal), ..settings.clone() };
    check_port(name, &internal, warnings)
}

fn check_port(
    name: &str,
    settings: &PortSettings,
    warnings: &mut Vec<String>,
) -> Result<(), CtlError> {
    let kind = settings.port_type();
    if !is_name(name) || (kind.is_netdev() && name.len() > NETDEV_NAME_LIMIT) {
        return Err(CtlError::invalid(format!(
            "{} cannot name a port of type {kind}: a network device has at most \
             {NETDEV_NAME_LIMIT} characters",
            quoted(name)
        )));
    }
    options_apply(name, settings)?;
    if kind == PortType::Patch {
        match settings.peer.as_deref() {
            None => {
                return Err(CtlError::invalid(format!(
                    "patch port \"{name}\" has no options:peer"
                ))
                .with_hint("name the other end: options:peer=PORT"));
            }
            Some(peer) if peer == name => {
                return Err(CtlError::invalid(format!("patch port \"{name}\" is its own peer")));
            }
            Some(_) => {}
        }
    }
    if settings.mac.is_some() && kind != PortType::Internal {
        return Err(CtlError::invalid(format!(
            "port \"{name}\": mac applies to internal ports, this one is of type {kind}"
        )));
    }
    if settings.mtu_request.is_some() && !kind.is_netdev() {
        return Err(CtlError::invalid(format!(
            "port \"{name}\": mtu_request applies to network devices, this port is of type {kind}"
        )));
    }
    if kind.is_tunnel() {
        settings.tunnel(name)?;
    }
    vlan_warnings(name, settings, warnings);
    Ok(())
}

/// Every `options:` key that is set belongs to the port's type.
fn options_apply(name: &str, settings: &PortSettings) -> Result<(), CtlError> {
    let kind = settings.port_type();
    for column in PORT.columns.iter().filter(|c| c.name == "options") {
        let key = column.key.unwrap_or_default();
        let types = crate::schema::option_types(key);
        if types.contains(&kind) || (column.get)(settings).is_empty() {
            continue;
        }
        let types: Vec<_> = types.iter().map(|t| t.as_str()).collect();
        return Err(CtlError::invalid(format!(
            "port \"{name}\": options:{key} applies to type {}, this port is of type {kind}",
            types.join(", ")
        ))
        .with_hint(format!("clear port {name} options:{key}")));
    }
    Ok(())
}

fn vlan_warnings(name: &str, settings: &PortSettings, warnings: &mut Vec<String>) {
    let mut warn = |text: &str| warnings.push(format!("port \"{name}\": {text}"));
    let mode = settings.vlan_mode;
    if settings.share.is_some()
        && (mode.is_some() || settings.tag.is_some() || !settings.trunks.is_empty())
    {
        warn("tag, trunks and vlan_mode have no effect on a port that is shared with the host");
    }
    let is_access = mode == Some(VlanMode::Access) || (mode.is_none() && settings.tag.is_some());
    let is_tunnel = mode == Some(VlanMode::Dot1qTunnel);
    if (is_access || is_tunnel) && !settings.trunks.is_empty() {
        warn("trunks has no effect on an access or dot1q-tunnel port");
    }
    if mode == Some(VlanMode::Trunk) && settings.tag.is_some() {
        warn("tag has no effect with vlan_mode=trunk");
    }
    if mode.is_some_and(|m| m != VlanMode::Trunk) && settings.tag.is_none() {
        warn("vlan_mode without tag uses VLAN 0");
    }
    if !settings.cvlans.is_empty() && !is_tunnel {
        warn("cvlans has no effect without vlan_mode=dot1q-tunnel");
    }
    if settings.qinq_ethtype.is_some() && !is_tunnel {
        warn("other_config:qinq-ethtype has no effect without vlan_mode=dot1q-tunnel");
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, apply, apply::tests::command};

    fn finish(commands: &[&str]) -> Result<Vec<String>, crate::CtlError> {
        let mut config = Config::default();
        for text in commands {
            apply(&mut config, &command(text)).expect(text);
        }
        config.finish()
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let cases = [
            ("add-port b p type=patch", "has no options:peer"),
            ("add-port b p type=patch options:peer=p", "its own peer"),
            ("add-port b p options:peer=q", "applies to type patch"),
            ("add-port b p type=internal options:n_rxq=2", "applies to type afxdp"),
            ("add-port b p type=internal options:share=tunnels", "applies to type afxdp"),
            ("add-port b p mac=02:00:00:00:00:01", "mac applies to internal"),
            ("add-port b sixteen-letters-", "at most 15"),
            ("add-port b t type=vxlan", "options:remote_ip"),
            (
                "add-port b t type=gre options:remote_ip=1.2.3.4 options:dst_port=5",
                "applies to type",
            ),
            ("add-port b t type=geneve options:remote_ip=1.2.3", "options:remote_ip=1.2.3"),
            (
                "add-port b t type=vxlan options:remote_ip=1.2.3.4 options:key=99999999",
                "options:key",
            ),
            ("set port b type=patch", "cannot be other than internal"),
            ("set port b ofport_request=5", "bridge's own port"),
            ("set port b mac=02:00:00:00:00:01", "other_config:hwaddr"),
        ];
        for (text, want) in cases {
            let error = finish(&["add-br b", text]).expect_err(text);
            assert!(error.message.contains(want), "{text}: {error}");
        }
    }

    #[test]
    fn commands_complete_each_other() {
        finish(&["add-br b", "add-port b p", "set port p type=patch options:peer=q"])
            .expect("good");
        finish(&["add-br b", "add-port b p-of-more-than-fifteen type=patch options:peer=q"])
            .expect("patch ports may have longer names");
        finish(&["add-br b", "set port b tag=5 mtu_request=9000"]).expect("the bridge's own port");
    }

    #[test]
    fn settings_without_effect_are_told() {
        let warned = |text: &str| finish(&["add-br b", "add-port b p", text]).expect(text).join();
        assert!(warned("set port p tag=5 trunks=1").contains("trunks has no effect"));
        assert!(warned("set port p tag=5 vlan_mode=trunk").contains("tag has no effect"));
        assert!(warned("set port p vlan_mode=native-tagged").contains("uses VLAN 0"));
        assert!(warned("set port p cvlans=1").contains("cvlans has no effect"));
        assert!(warned("set bridge b other_config:mac-aging-time=1").contains("15 to 3600: 15"));
        assert!(warned("set port p options:share=tunnels tag=5").contains("shared with the host"));
        assert_eq!(warned("set port p tag=5"), "");
    }

    trait Join {
        fn join(&self) -> String;
    }

    impl Join for Vec<String> {
        fn join(&self) -> String {
            self.as_slice().join("; ")
        }
    }
}
