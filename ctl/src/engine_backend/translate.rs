//! From configuration to what decides about packets: settings of bridges and VLANs of ports.

use ofproto::fdb;
use ofproto::snapshot::BridgeSettings as Settings;
use ofproto::vlan::{PriorityTags, VlanConfig, VlanMode, VlanSet};

use crate::schema::{self, BridgeSettings, PortSettings, Vlans};

/// A bridge's settings as translation wants them.
pub fn bridge(settings: &BridgeSettings) -> Settings {
    let flood = &settings.flood_vlans;
    Settings {
        forward_bpdu: settings.forward_bpdu.unwrap_or(false),
        mac_table_size: settings
            .mac_table_size
            .map_or(fdb::DEFAULT_SIZE, |_| settings.effective_table_size() as usize),
        mac_aging: settings
            .mac_aging_time
            .map_or(fdb::DEFAULT_AGING, |_| settings.effective_aging().as_millis() as u64),
        flood_vlans: (!flood.is_empty()).then(|| VlanSet::new(flood.iter().copied())),
    }
}

/// A port's VLANs as translation wants them.
pub fn vlan(settings: &PortSettings) -> VlanConfig {
    let set = |v: &std::collections::BTreeSet<u16>| {
        (!v.is_empty()).then(|| VlanSet::new(v.iter().copied()))
    };
    let mut vlan = match settings.vlans() {
        Vlans::Access { vid } => {
            VlanConfig { mode: VlanMode::Access, tag: vid, ..VlanConfig::default() }
        }
        Vlans::Trunk { trunks } => {
            VlanConfig { mode: VlanMode::Trunk, trunks: set(trunks), ..VlanConfig::default() }
        }
        Vlans::NativeTagged { vid, trunks } => VlanConfig {
            mode: VlanMode::NativeTagged,
            tag: vid,
            trunks: set(trunks),
            ..VlanConfig::default()
        },
        Vlans::NativeUntagged { vid, trunks } => VlanConfig {
            mode: VlanMode::NativeUntagged,
            tag: vid,
            trunks: set(trunks),
            ..VlanConfig::default()
        },
        Vlans::Dot1qTunnel { vid, cvlans, tpid } => VlanConfig {
            mode: VlanMode::Dot1qTunnel,
            tag: vid,
            cvlans: set(cvlans),
            qinq_tpid: tpid,
            ..VlanConfig::default()
        },
    };
    vlan.priority_tags = match settings.priority_tags() {
        schema::PriorityTags::Never => PriorityTags::No,
        schema::PriorityTags::IfNonzero => PriorityTags::IfNonzero,
        schema::PriorityTags::Always => PriorityTags::Always,
    };
    vlan
}
