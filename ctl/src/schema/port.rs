//! The settings of a port and of its one interface, in one table: `set port` and `set interface` are the
//! same here, as a port has exactly one interface.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::types::{Mac, PortType, PriorityTags, QinqEthtype, Share, VlanMode, XdpMode};
use super::value::{Atom, Value, parse_bool, parse_int, parse_optional};
use crate::error::CtlError;
use tunnel::TunnelConfig;

use super::{Column, FreeMap, Mismatch, Table, int_atom, optional, text_atom, vlan_set};

/// What is configured of a port; a field that is empty has its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PortSettings {
    /// `afxdp` when empty.
    #[serde(skip_serializing_if = "Option::is_none", rename = "type")]
    pub kind: Option<PortType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan_mode: Option<VlanMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<u16>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub trunks: BTreeSet<u16>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub cvlans: BTreeSet<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qinq_ethtype: Option<QinqEthtype>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_tags: Option<PriorityTags>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ofport_request: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu_request: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xdp_mode: Option<XdpMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_tag_loss: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_rxq: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<Share>,
    /// Options of a tunnel by name, as given; [`PortSettings::tunnel`] reads them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", rename = "tunnel")]
    pub tunnel_options: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub external_ids: BTreeMap<String, String>,
}

/// What the VLAN columns of a port come to together, as `NORMAL` sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vlans<'a> {
    Access {
        vid: u16,
    },
    /// An empty set of `trunks` carries every VLAN, here and below.
    Trunk {
        trunks: &'a BTreeSet<u16>,
    },
    NativeTagged {
        vid: u16,
        trunks: &'a BTreeSet<u16>,
    },
    NativeUntagged {
        vid: u16,
        trunks: &'a BTreeSet<u16>,
    },
    /// An empty set of `cvlans` lets every customer VLAN in.
    Dot1qTunnel {
        vid: u16,
        cvlans: &'a BTreeSet<u16>,
        tpid: u16,
    },
}

impl PortSettings {
    pub fn port_type(&self) -> PortType {
        self.kind.unwrap_or(PortType::Afxdp)
    }

    /// What the options of tunnel port `name` come to; the error names the option.
    pub fn tunnel(&self, name: &str) -> Result<TunnelConfig, CtlError> {
        let kind = self.port_type();
        let options = self.tunnel_options.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        match TunnelConfig::new(kind.as_str(), options) {
            Some(Ok(config)) => Ok(config),
            Some(Err(e)) => Err(CtlError::invalid(format!("port \"{name}\": {e}"))),
            None => Err(CtlError::internal(format!("port \"{name}\": type {kind} is no tunnel"))),
        }
    }

    pub fn priority_tags(&self) -> PriorityTags {
        self.priority_tags.unwrap_or(PriorityTags::Never)
    }

    /// The VLAN columns resolved as `ovs-vswitchd.conf.db(5)` says: without `vlan_mode`, a tag makes an
    /// access port and none a trunk; a mode that needs a tag and has none uses VLAN 0.
    pub fn vlans(&self) -> Vlans<'_> {
        let (vid, trunks) = (self.tag.unwrap_or(0), &self.trunks);
        let default = if self.tag.is_some() { VlanMode::Access } else { VlanMode::Trunk };
        match self.vlan_mode.unwrap_or(default) {
            VlanMode::Access => Vlans::Access { vid },
            VlanMode::Trunk => Vlans::Trunk { trunks },
            VlanMode::NativeTagged => Vlans::NativeTagged { vid, trunks },
            VlanMode::NativeUntagged => Vlans::NativeUntagged { vid, trunks },
            VlanMode::Dot1qTunnel => {
                let tpid = match self.qinq_ethtype.unwrap_or(QinqEthtype::Ad) {
                    QinqEthtype::Ad => 0x88a8,
                    QinqEthtype::Q => 0x8100,
                };
                Vlans::Dot1qTunnel { vid, cvlans: &self.cvlans, tpid }
            }
        }
    }
}

const TUNNELS: &[PortType] = &[PortType::Vxlan, PortType::Gre, PortType::Ip6gre, PortType::Geneve];

/// Which types of port an `options:` key applies to. A key that is set on another type is refused.
pub(crate) const OPTION_TYPES: &[(&str, &[PortType])] = &[
    ("peer", &[PortType::Patch]),
    ("xdp-mode", &[PortType::Afxdp]),
    ("accept-tag-loss", &[PortType::Afxdp]),
    ("n_rxq", &[PortType::Afxdp]),
    ("share", &[PortType::Afxdp]),
    ("remote_ip", TUNNELS),
    ("local_ip", TUNNELS),
    ("key", TUNNELS),
    ("in_key", TUNNELS),
    ("out_key", TUNNELS),
    ("tos", TUNNELS),
    ("ttl", TUNNELS),
    ("df_default", TUNNELS),
    ("csum", TUNNELS),
    ("seq", &[PortType::Gre, PortType::Ip6gre]),
    ("dst_port", &[PortType::Vxlan, PortType::Geneve]),
    ("egress_pkt_mark", TUNNELS),
];

fn vid(text: &str) -> Option<u16> {
    parse_int(text, 0, 4095)
}

fn ofport(text: &str) -> Option<u16> {
    parse_int(text, 1, 65279)
}

fn mtu(text: &str) -> Option<u32> {
    parse_int(text, 68, 65535)
}

fn mac(text: &str) -> Option<Mac> {
    text.parse().ok()
}

fn peer(text: &str) -> Option<String> {
    crate::config::is_name(text).then(|| text.to_owned())
}

fn queues(text: &str) -> Option<u16> {
    parse_int(text, 1, 1024)
}

/// An option of tunnels, kept as it is given: what it may be depends on the port's type, and is
/// judged with the whole configuration.
macro_rules! tunnel_option {
    ($key:literal, $expected:literal, $help:literal) => {
        Column {
            name: "options",
            key: Some($key),
            expected: $expected,
            help: $help,
            set: |s, text| {
                match parse_optional(text).ok_or(Mismatch)? {
                    None => drop(s.tunnel_options.remove($key)),
                    Some(v) if v.is_empty() || v.len() > TUNNEL_OPTION_LIMIT => {
                        return Err(Mismatch);
                    }
                    Some(v) => drop(s.tunnel_options.insert($key.to_owned(), v)),
                }
                Ok(())
            },
            get: |s| Value::Optional(s.tunnel_options.get($key).map(|v| Atom::String(v.clone()))),
            clear: |s| drop(s.tunnel_options.remove($key)),
        }
    };
}

/// Longest value of a tunnel's option, in bytes; an IPv6 address has at most 45.
const TUNNEL_OPTION_LIMIT: usize = 64;

/// The columns and keys of a port and its interface.
pub static PORT: Table<PortSettings> = Table {
    name: "port",
    columns: &[
        optional!(
            "type",
            kind,
            PortType::parse_column,
            text_atom,
            "afxdp, internal, patch, vxlan, gre, ip6gre or geneve (system and \"\" mean afxdp)",
            "what the port is made of; an existing network device by default"
        ),
        optional!(
            "tag",
            tag,
            vid,
            int_atom,
            "a VLAN id from 0 to 4095",
            "the VLAN of an access port, the native VLAN of a native one"
        ),
        vlan_set!(
            "trunks",
            trunks,
            "the VLANs that a trunk or native port carries; all when empty"
        ),
        optional!(
            "vlan_mode",
            vlan_mode,
            VlanMode::parse,
            text_atom,
            "access, trunk, native-tagged, native-untagged or dot1q-tunnel",
            "how the port treats tags; by default access with a tag, trunk without"
        ),
        vlan_set!("cvlans", cvlans, "the customer VLANs of a dot1q-tunnel port; all when empty"),
        optional!("other_config": "qinq-ethtype", qinq_ethtype, QinqEthtype::parse, text_atom,
            "802.1ad or 802.1q", "the service tag's TPID of a dot1q-tunnel port, default 802.1ad"),
        optional!("other_config": "priority-tags", priority_tags, PriorityTags::parse, text_atom,
            "never, if-nonzero or always", "when frames of VLAN 0 leave with a priority tag, default never"),
        optional!(
            "ofport_request",
            ofport_request,
            ofport,
            int_atom,
            "an OpenFlow port number from 1 to 65279",
            "the OpenFlow port number to use"
        ),
        optional!(
            "mtu_request",
            mtu_request,
            mtu,
            int_atom,
            "a number of bytes from 68 to 65535",
            "the MTU to give the interface"
        ),
        optional!(
            "mac",
            mac,
            mac,
            text_atom,
            "a unicast MAC such as 02:00:00:00:00:01",
            "the MAC to give an internal interface"
        ),
        optional!("options": "peer", peer, peer, text_atom,
            "the name of the other patch port", "the other end of a patch port"),
        optional!("options": "xdp-mode", xdp_mode, XdpMode::parse, text_atom,
            "best-effort, native-with-zerocopy, native or generic",
            "the AF_XDP mode of an afxdp port, default best-effort"),
        optional!("options": "accept-tag-loss", accept_tag_loss, parse_bool, text_atom,
            "true or false", "take an interface on which the kernel may lose VLAN tags; only where no VLAN \
             separates anything"),
        optional!("options": "n_rxq", n_rxq, queues, text_atom,
            "a number of queues from 1 to 1024", "how many receive queues of an afxdp port to use"),
        optional!("options": "share", share, Share::parse, text_atom,
            "tunnels", "what of an afxdp port's interface is left to the host: with tunnels all but tunnels' \
             packets, which follow the host's addresses, routes and neighbours"),
        tunnel_option!("remote_ip", "an IPv4 or IPv6 address, or flow", "the tunnel's other end"),
        tunnel_option!(
            "local_ip",
            "an IPv4 or IPv6 address, or flow",
            "the address to send from and to accept packets for"
        ),
        tunnel_option!("key", "a number or flow", "the tunnel id in both directions"),
        tunnel_option!("in_key", "a number or flow", "the tunnel id that packets must come with"),
        tunnel_option!("out_key", "a number or flow", "the tunnel id to send"),
        tunnel_option!("tos", "a number or inherit", "the outer header's DSCP bits"),
        tunnel_option!(
            "ttl",
            "a number from 1 to 255 or inherit",
            "the outer header's time to live, default 64"
        ),
        tunnel_option!(
            "df_default",
            "true or false",
            "whether outer packets must not be fragmented, default true"
        ),
        tunnel_option!(
            "csum",
            "true or false",
            "whether outer packets have a UDP or GRE checksum, default false"
        ),
        tunnel_option!("seq", "true or false", "whether GRE packets are numbered, default false"),
        tunnel_option!(
            "dst_port",
            "a UDP port",
            "the UDP port of a vxlan or geneve tunnel, default 4789 or 6081"
        ),
        tunnel_option!("egress_pkt_mark", "a number", "the mark that outer packets get"),
    ],
    free_maps: &[FreeMap {
        name: "external_ids",
        get: |s| &s.external_ids,
        get_mut: |s| &mut s.external_ids,
    }],
    read_only: &[
        ("name", "delete the port and add it under its new name"),
        ("ofport", "set ofport_request"),
        ("interfaces", "a port has one interface, of its own name"),
        ("mac_in_use", "set mac"),
        ("mtu", "set mtu_request"),
    ],
    unsupported: &[
        "bond_mode",
        "bond_updelay",
        "bond_downdelay",
        "bond_fake_iface",
        "bond_active_slave",
        "lacp",
        "qos",
        "fake_bridge",
        "protected",
        "status",
        "statistics",
        "error",
        "ifindex",
        "admin_state",
        "link_state",
        "link_speed",
        "duplex",
        "lldp",
        "bfd",
        "bfd_status",
        "cfm_mpid",
        "ingress_policing_rate",
        "ingress_policing_burst",
        "ingress_policing_kpkts_rate",
        "ingress_policing_kpkts_burst",
        "options:dpdk-devargs",
        "options:use-need-wakeup",
        "options:n_rxq_desc",
        "options:n_txq_desc",
        "options:vhost-server-path",
        "other_config:pmd-rxq-affinity",
        "other_config:tx-steering",
        "other_config:emc-enable",
        "other_config:mcast-snooping-flood",
        "other_config:mcast-snooping-flood-reports",
        "other_config:stp-enable",
        "other_config:rstp-enable",
        "other_config:transient",
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    fn with(settings: &[&str]) -> PortSettings {
        let mut port = PortSettings::default();
        for s in settings {
            PORT.set(&mut port, "port \"p\"", s).expect(s);
        }
        port
    }

    fn refusal(setting: &str) -> crate::CtlError {
        let mut port = PortSettings::default();
        let error = PORT.set(&mut port, "port \"p\"", setting).expect_err(setting);
        assert_eq!(port, PortSettings::default(), "{setting} changed something");
        error
    }

    #[test]
    fn vlans_follow_the_columns() {
        let empty = BTreeSet::new();
        assert_eq!(with(&[]).vlans(), Vlans::Trunk { trunks: &empty });
        assert_eq!(with(&["tag=5"]).vlans(), Vlans::Access { vid: 5 });
        let port = with(&["tag=5", "trunks=1-3", "vlan_mode=native-untagged"]);
        assert_eq!(
            port.vlans(),
            Vlans::NativeUntagged { vid: 5, trunks: &BTreeSet::from([1, 2, 3]) }
        );
        // The dead port of stock deployments.
        let port = with(&["tag=4095", "vlan_mode=trunk", "trunks=4095"]);
        assert_eq!(port.vlans(), Vlans::Trunk { trunks: &BTreeSet::from([4095]) });
        let port = with(&["vlan_mode=dot1q-tunnel", "tag=9", "other_config:qinq-ethtype=802.1q"]);
        assert_eq!(port.vlans(), Vlans::Dot1qTunnel { vid: 9, cvlans: &empty, tpid: 0x8100 });
    }

    #[test]
    fn refusals_name_key_value_and_expectation() {
        let text = |s: &str| refusal(s).to_string();
        assert_eq!(text("tag=4096"), "port \"p\": tag=\"4096\": expected a VLAN id from 0 to 4095");
        assert!(text("tag=-1").contains("tag=\"-1\""));
        assert!(text("tag=").contains("tag=\"\""));
        assert!(text("trunks=1,5000").contains("VLAN ids from 0 to 4095"));
        assert!(text("vlan_mode=acces").contains("access, trunk"));
        assert!(text("ofport_request=0").contains("1 to 65279"));
        assert!(text("tag").contains("KEY=VALUE"));
        assert!(text("type=dpdk").contains("afxdp, internal, patch"));
        assert!(text("options:peer=a/b").contains("options:peer"));
    }

    #[test]
    fn unknown_keys_get_a_suggestion() {
        let hint = |s: &str| refusal(s).hint.unwrap_or_default();
        assert_eq!(hint("tga=5"), "did you mean \"tag\"?");
        assert_eq!(hint("options:per=x"), "did you mean \"options:peer\"?");
        assert_eq!(hint("peer=x"), "did you mean \"options:peer\"?");
        assert_eq!(hint("ofport=4"), "set ofport_request");
        assert_eq!(refusal("bond_mode=active-backup").kind, crate::ErrorKind::Unsupported);
    }

    #[test]
    fn set_get_clear_agree() {
        let mut port = with(&["TAG=5", "external-ids:iface-id=a-b", "options:n_rxq=4"]);
        let get =
            |p: &PortSettings, c: &str| PORT.get(p, "port", c).expect(c).map(|v| v.to_string());
        assert_eq!(get(&port, "tag").as_deref(), Some("5"));
        assert_eq!(get(&port, "trunks").as_deref(), Some("[]"));
        assert_eq!(get(&port, "options:n_rxq").as_deref(), Some("\"4\""));
        assert_eq!(get(&port, "options").as_deref(), Some("{n_rxq=\"4\"}"));
        assert_eq!(get(&port, "options:peer"), None);
        assert_eq!(get(&port, "external_ids:iface-id").as_deref(), Some("a-b"));
        for column in ["tag", "options", "external_ids:iface-id"] {
            PORT.clear(&mut port, "port", column).expect(column);
        }
        assert_eq!(port, PortSettings::default());
    }

    #[test]
    fn whole_maps_replace() {
        let mut port = with(&["external_ids:a=1", "options:n_rxq=4"]);
        PORT.set(&mut port, "p", "external_ids={b=2,c=\"x=y\"}").expect("a map");
        assert_eq!(port.external_ids.get("c").map(String::as_str), Some("x=y"));
        assert!(!port.external_ids.contains_key("a"));
        PORT.set(&mut port, "p", "options={xdp-mode=generic}").expect("a map");
        assert_eq!((port.n_rxq, port.xdp_mode), (None, Some(XdpMode::Generic)));
        assert!(PORT.set(&mut port, "p", "options={nonsense=1}").is_err());
    }

    #[test]
    fn free_maps_are_bounded() {
        let long = format!("external_ids:a={}", "x".repeat(5000));
        assert!(refusal(&long).to_string().contains("4096 bytes"));
        let mut port = PortSettings::default();
        for i in 0..256 {
            PORT.set(&mut port, "p", &format!("external_ids:k{i}=v")).expect("room");
        }
        assert!(PORT.set(&mut port, "p", "external_ids:more=v").is_err());
    }
}
