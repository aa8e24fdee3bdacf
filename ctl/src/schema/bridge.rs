//! The settings of a bridge.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::types::{DatapathId, DatapathType, FailMode, Mac};
use super::value::{Atom, Value, parse_bool, parse_int};
use super::{Column, FreeMap, Mismatch, Table, optional, text_atom, vlan_set};

/// What is configured of a bridge; a field that is empty has its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BridgeSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fail_mode: Option<FailMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datapath_type: Option<DatapathType>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub flood_vlans: BTreeSet<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_aging_time: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_table_size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hwaddr: Option<Mac>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward_bpdu: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datapath_id: Option<DatapathId>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub external_ids: BTreeMap<String, String>,
}

impl BridgeSettings {
    /// Bounds that a configured ageing time is forced into, seconds (`ovs-vswitchd.conf.db(5)`).
    pub const AGING_BOUNDS: (u32, u32) = (15, 3600);
    /// Bounds that a configured table size is forced into, entries.
    pub const TABLE_BOUNDS: (u32, u32) = (10, 1_000_000);

    /// True where the bridge starts without the flow `priority=0 actions=NORMAL`.
    pub fn is_secure(&self) -> bool {
        self.fail_mode == Some(FailMode::Secure)
    }

    /// How long an unused MAC is kept: 300 s unless configured.
    pub fn effective_aging(&self) -> Duration {
        let (min, max) = Self::AGING_BOUNDS;
        Duration::from_secs(self.mac_aging_time.unwrap_or(300).clamp(min, max).into())
    }

    /// How many MACs may be learned: 8,192 unless configured.
    pub fn effective_table_size(&self) -> u32 {
        let (min, max) = Self::TABLE_BOUNDS;
        self.mac_table_size.unwrap_or(8192).clamp(min, max)
    }
}

fn positive(text: &str) -> Option<u32> {
    parse_int(text, 1, u32::MAX)
}

fn mac(text: &str) -> Option<Mac> {
    text.parse().ok()
}

/// The columns and keys of a bridge.
pub static BRIDGE: Table<BridgeSettings> = Table {
    name: "bridge",
    columns: &[
        optional!(
            "fail_mode",
            fail_mode,
            FailMode::parse,
            text_atom,
            "standalone or secure",
            "secure: start without flows and drop what matches none"
        ),
        optional!(
            "datapath_type",
            datapath_type,
            datapath_type,
            text_atom,
            "system, netdev or \"\"",
            "accepted for scripts; there is one datapath"
        ),
        vlan_set!("flood_vlans", flood_vlans, "VLANs without MAC learning, always flooded"),
        optional!("other_config": "mac-aging-time", mac_aging_time, positive, text_atom,
            "a number of seconds, at least 1", "how long an unused MAC is kept: 15 to 3600, default 300"),
        optional!("other_config": "mac-table-size", mac_table_size, positive, text_atom,
            "a number of entries, at least 1", "how many MACs are learned: 10 to 1000000, default 8192"),
        optional!("other_config": "hwaddr", hwaddr, mac, text_atom,
            "a unicast MAC such as 02:00:00:00:00:01", "the MAC of the bridge's own interface"),
        optional!("other_config": "forward-bpdu", forward_bpdu, parse_bool, text_atom,
            "true or false", "forward reserved multicast (01:80:c2:00:00:0x) like any other"),
        optional!("other_config": "datapath-id", datapath_id, DatapathId::parse, text_atom,
            "16 hex digits, or hex after 0x, not zero", "the OpenFlow datapath id"),
    ],
    free_maps: &[FreeMap {
        name: "external_ids",
        get: |s| &s.external_ids,
        get_mut: |s| &mut s.external_ids,
    }],
    read_only: &[
        ("name", "make a new bridge with add-br"),
        ("ports", "use add-port and del-port"),
        ("datapath_id", "set other_config:datapath-id"),
    ],
    unsupported: &[
        "mirrors",
        "netflow",
        "sflow",
        "ipfix",
        "auto_attach",
        "controller",
        "flow_tables",
        "protocols",
        "stp_enable",
        "rstp_enable",
        "mcast_snooping_enable",
        "status",
        "rstp_status",
        "datapath_version",
        "other_config:dp-desc",
        "other_config:dp-sn",
        "other_config:disable-in-band",
        "other_config:in-band-queue",
        "other_config:controller-queue-size",
        "other_config:stp-system-id",
        "other_config:stp-priority",
        "other_config:stp-hello-time",
        "other_config:stp-max-age",
        "other_config:stp-forward-delay",
        "other_config:mcast-snooping-aging-time",
        "other_config:mcast-snooping-table-size",
        "other_config:mcast-snooping-disable-flood-unregistered",
    ],
};

/// `""` clears, as stock scripts write it.
fn datapath_type(text: &str) -> Option<DatapathType> {
    if text.is_empty() { Some(DatapathType::System) } else { DatapathType::parse(text) }
}
