//! The small types that columns hold. Each is valid by construction: parsed once, from text.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Makes an enum whose variants have names in the text syntax, the state file and JSON.
macro_rules! text_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// Every name, in the order of the documentation.
            pub const NAMES: &'static [&'static str] = &[$($text),+];

            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.pad(self.as_str()) }
        }
    };
}

text_enum!(
    /// How a router's port advertises itself to IPv6 hosts, and whence they get addresses.
    RouterAdvert {
        /// Hosts make their own (RFC 4862).
        Slaac = "slaac",
        /// The same, and DHCPv6 has the rest of what they want to know.
        Stateless = "dhcpv6-stateless",
        /// DHCPv6 gives them.
        Stateful = "dhcpv6-stateful",
    }
);

text_enum!(
    /// What a bridge starts with: `standalone` one flow `priority=0 actions=NORMAL`, `secure` nothing.
    FailMode { Standalone = "standalone", Secure = "secure" }
);
text_enum!(
    /// Accepted for scripts that name one; there is one datapath.
    DatapathType { System = "system", Netdev = "netdev" }
);
text_enum!(
    /// How a port treats VLAN tags under `NORMAL`.
    VlanMode {
        Access = "access",
        Dot1qTunnel = "dot1q-tunnel",
        NativeTagged = "native-tagged",
        NativeUntagged = "native-untagged",
        Trunk = "trunk",
    }
);
text_enum!(
    /// When a frame of VLAN 0 leaves with a tag that carries only a priority.
    PriorityTags { Always = "always", IfNonzero = "if-nonzero", Never = "never" }
);
text_enum!(
    /// The service tag's TPID of a dot1q-tunnel port.
    QinqEthtype { Ad = "802.1ad", Q = "802.1q" }
);
text_enum!(
    /// Which AF_XDP mode a port may use. `best-effort`, the default, takes the best that the driver has.
    XdpMode {
        BestEffort = "best-effort",
        NativeZerocopy = "native-with-zerocopy",
        Native = "native",
        Generic = "generic",
    }
);
text_enum!(
    /// What of an interface the switch takes; all of it by default.
    Share {
        /// Only what is for tunnels; the host goes on using the interface.
        Tunnels = "tunnels",
    }
);
text_enum!(
    /// What a port is made of.
    PortType {
        /// An existing network device, by AF_XDP. `system` and the empty type mean the same.
        Afxdp = "afxdp",
        /// A tap device that the switch creates and owns.
        Internal = "internal",
        /// One end of a pair that joins two bridges; exists in translation only.
        Patch = "patch",
        /// A VXLAN tunnel (RFC 7348).
        Vxlan = "vxlan",
        /// A GRE tunnel for Ethernet (RFC 2784, RFC 2890).
        Gre = "gre",
        /// The same over IPv6.
        Ip6gre = "ip6gre",
        /// A Geneve tunnel (RFC 8926).
        Geneve = "geneve",
        /// A router's port on a bridge; made by `add-router-port` and `set-gateway` only.
        Router = "router",
    }
);

impl PortType {
    /// True where the port is a network device of that name, so that the kernel's naming rules apply.
    pub const fn is_netdev(self) -> bool {
        matches!(self, Self::Afxdp | Self::Internal)
    }

    /// True for tunnels, which exist in translation only.
    pub const fn is_tunnel(self) -> bool {
        matches!(self, Self::Vxlan | Self::Gre | Self::Ip6gre | Self::Geneve)
    }

    /// True for ports that lead into another bridge, and exist in translation only.
    pub const fn is_joint(self) -> bool {
        matches!(self, Self::Patch | Self::Router)
    }

    /// Reads a `type` column. `system` and `""` are what stock tools write for an existing device.
    pub fn parse_column(text: &str) -> Option<Self> {
        match text {
            "" | "system" => Some(Self::Afxdp),
            // Without a router there is nothing behind it.
            "router" => None,
            other => Self::parse(other),
        }
    }
}

/// An Ethernet address that a port may own: unicast and not zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac([u8; 6]);

impl Mac {
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }

    /// The address that a host makes itself from its Ethernet address (RFC 4291, appendix A).
    pub fn link_local(self) -> std::net::Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        let low = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
        (0xfe80_u128 << 112 | u128::from(low)).into()
    }

    /// A locally administered address that ends in these bytes.
    pub const fn local([b, c, d, e, f]: [u8; 5]) -> Self {
        Self([0x02, b, c, d, e, f])
    }
}

impl FromStr for Mac {
    type Err = ();

    /// `xx:xx:xx:xx:xx:xx`, two hex digits each.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut bytes = [0u8; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(())?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| ())?;
        }
        let unicast = bytes[0] & 1 == 0;
        if parts.next().is_some() || !unicast || bytes == [0; 6] {
            Err(())
        } else {
            Ok(Self(bytes))
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(|()| serde::de::Error::custom(format!("not a unicast MAC: {text:?}")))
    }
}

/// An OpenFlow datapath id, never 0. Text: 16 hex digits, or hex with `0x` before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DatapathId(u64);

impl DatapathId {
    pub const fn get(self) -> u64 {
        self.0
    }

    pub fn parse(text: &str) -> Option<Self> {
        let digits = match text.strip_prefix("0x") {
            Some(hex) if (1..=16).contains(&hex.len()) => hex,
            None if text.len() == 16 => text,
            _ => return None,
        };
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        u64::from_str_radix(digits, 16).ok().filter(|id| *id != 0).map(Self)
    }
}

impl fmt::Display for DatapathId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl From<DatapathId> for String {
    fn from(id: DatapathId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for DatapathId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("not a datapath id: {text:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs() {
        let mac: Mac = "02:00:00:00:0A:ff".parse().expect("a MAC");
        assert_eq!(mac.to_string(), "02:00:00:00:0a:ff");
        for bad in
            ["", "02:00:00:00:0a", "02:00:00:00:0a:ff:00", "01:00:00:00:00:00", "00:00:00:00:00:00"]
        {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
        assert!(
            "2:0:0:0:a:f".parse::<Mac>().is_err() && "+2:00:00:00:00:00".parse::<Mac>().is_err()
        );
    }

    #[test]
    fn datapath_ids() {
        assert_eq!(DatapathId::parse("0x1").map(DatapathId::get), Some(1));
        assert_eq!(DatapathId::parse("00000000000000ff").map(DatapathId::get), Some(255));
        for bad in ["0", "0x0", "ff", "0x", "0x11112222333344445", "+000000000000001"] {
            assert!(DatapathId::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn types_of_stock_scripts() {
        assert_eq!(PortType::parse_column(""), Some(PortType::Afxdp));
        assert_eq!(PortType::parse_column("system"), Some(PortType::Afxdp));
        assert_eq!(PortType::parse_column("dpdk"), None);
    }
}
