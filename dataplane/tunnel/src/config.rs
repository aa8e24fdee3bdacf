//! What did the operator say about a tunnel port?
//!
//! [`TunnelConfig::new`] reads the options as `ovs-vswitchd.conf.db(5)` names them. What it
//! returns is whole and consistent; any error names the option.
//!
//! Must not know: port numbers, where options are stored.

use std::net::IpAddr;

/// A tunnel's encapsulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// VXLAN (RFC 7348).
    Vxlan,
    /// GRE with Ethernet inside (RFC 2784, RFC 2890).
    Gre,
    /// Geneve (RFC 8926).
    Geneve,
}

impl Kind {
    /// The kind that a port's `type` names, and whether it says that the outside is IPv6.
    pub fn from_type(name: &str) -> Option<(Kind, Option<bool>)> {
        Some(match name {
            "vxlan" => (Kind::Vxlan, None),
            "gre" => (Kind::Gre, None),
            "ip6gre" => (Kind::Gre, Some(true)),
            "geneve" => (Kind::Geneve, None),
            _ => return None,
        })
    }

    /// The name, as a port's `type`.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Vxlan => "vxlan",
            Kind::Gre => "gre",
            Kind::Geneve => "geneve",
        }
    }

    /// Bits of a tunnel id on the wire.
    pub const fn id_bits(self) -> u32 {
        if matches!(self, Kind::Gre) { 32 } else { 24 }
    }

    /// The assigned UDP port; `None` for GRE.
    pub const fn default_port(self) -> Option<u16> {
        match self {
            Kind::Vxlan => Some(4789),
            Kind::Geneve => Some(6081),
            Kind::Gre => None,
        }
    }
}

/// The remote address: one, or that of each packet's `tun_dst` (`tun_src` when received).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Remote {
    /// `remote_ip=flow`.
    Flow,
    /// One address.
    Address(IpAddr),
}

/// The local address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Local {
    /// Any address of ours; sent from the one that the route says.
    Any,
    /// `local_ip=flow`: the packet's `tun_src` (`tun_dst` when received).
    Flow,
    /// One address.
    Address(IpAddr),
}

/// A tunnel id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// None: received packets must have 0 or none, sent ones have 0, or for GRE none.
    None,
    /// `flow`: the packet's `tun_id`.
    Flow,
    /// A number.
    Number(u64),
}

/// A byte of the outer IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field8 {
    /// Copied from the inner IP packet, if it is one.
    Inherit,
    /// A number.
    Number(u8),
}

/// A tunnel port's options, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelConfig {
    /// Encapsulation.
    pub kind: Kind,
    /// `remote_ip`.
    pub remote: Remote,
    /// `local_ip`.
    pub local: Local,
    /// `in_key`, or `key`.
    pub in_key: Key,
    /// `out_key`, or `key`.
    pub out_key: Key,
    /// `tos`: DSCP bits; ECN is always RFC 6040's.
    pub tos: Field8,
    /// `ttl`.
    pub ttl: Field8,
    /// `df_default`: whether outer IPv4 packets must not be fragmented.
    pub df: bool,
    /// `csum`: whether outer UDP or GRE checksums are sent (over IPv6, UDP always has one).
    pub csum: bool,
    /// `seq`: whether GRE packets are numbered.
    pub seq: bool,
    /// `dst_port`: the UDP port; 0 for GRE.
    pub dst_port: u16,
    /// `egress_pkt_mark`.
    pub egress_pkt_mark: Option<u32>,
}

/// An option that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// Without it there is no tunnel.
    #[error("options:{0}: a {1} port needs it")]
    Missing(&'static str, &'static str),
    /// Not an option of tunnels.
    #[error("options:{option}: no such option of a {kind} port")]
    Unknown {
        /// Its name.
        option: String,
        /// The port's type.
        kind: &'static str,
    },
    /// An option whose value is not one of those that it can have.
    #[error("options:{option}={value}: {expected}")]
    Value {
        /// Its name.
        option: &'static str,
        /// What was given.
        value: String,
        /// What is possible.
        expected: &'static str,
    },
}

type Result<T> = std::result::Result<T, OptionError>;

const NAMES: [&str; 12] = [
    "remote_ip",
    "local_ip",
    "key",
    "in_key",
    "out_key",
    "tos",
    "ttl",
    "df_default",
    "csum",
    "seq",
    "dst_port",
    "egress_pkt_mark",
];

/// The options by name, each looked up once.
struct Options<'a> {
    kind: &'static str,
    given: Vec<(&'a str, &'a str)>,
}

impl<'a> Options<'a> {
    fn get(&self, name: &'static str) -> Option<&'a str> {
        self.given.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
    }

    fn flag(&self, name: &'static str, default: bool) -> Result<bool> {
        match self.get(name) {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(v) => Err(bad(name, v, "expected true or false")),
        }
    }

    fn byte(&self, name: &'static str, default: u8, expected: &'static str) -> Result<Field8> {
        match self.get(name) {
            None => Ok(Field8::Number(default)),
            Some("inherit") => Ok(Field8::Inherit),
            Some(v) => match number(v).and_then(|n| u8::try_from(n).ok()) {
                Some(n) => Ok(Field8::Number(n)),
                None => Err(bad(name, v, expected)),
            },
        }
    }

    fn key(&self, name: &'static str, kind: Kind) -> Result<Key> {
        let Some((name, value)) =
            self.get(name).map(|v| (name, v)).or_else(|| self.get("key").map(|v| ("key", v)))
        else {
            return Ok(Key::None);
        };
        if value == "flow" {
            return Ok(Key::Flow);
        }
        match number(value) {
            Some(n) if n >> kind.id_bits() == 0 => Ok(Key::Number(n)),
            _ if kind == Kind::Gre => Err(bad(name, value, "expected flow, or 0 to 4294967295")),
            _ => Err(bad(name, value, "expected flow, or a number from 0 to 16777215")),
        }
    }

    fn address(&self, name: &'static str) -> Result<Option<IpAddr>> {
        let Some(v) = self.get(name) else { return Ok(None) };
        let expected = "expected flow, or an IPv4 or IPv6 address";
        let a: IpAddr = v.parse().map_err(|_| bad(name, v, expected))?;
        if a.is_multicast() {
            return Err(bad(name, v, "multicast addresses are not supported"));
        }
        if a.is_unspecified() || a == IpAddr::from([255; 4]) {
            return Err(bad(name, v, "not the address of a host"));
        }
        Ok(Some(a))
    }
}

fn bad(option: &'static str, value: &str, expected: &'static str) -> OptionError {
    OptionError::Value { option, value: value.to_owned(), expected }
}

/// A number, decimal or with `0x` in front.
fn number(text: &str) -> Option<u64> {
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    match hex {
        Some(digits) if !digits.starts_with('+') => u64::from_str_radix(digits, 16).ok(),
        None if !text.starts_with('+') => text.parse().ok(),
        _ => None,
    }
}

impl TunnelConfig {
    /// The configuration of a port of type `port_type` ("vxlan", "gre", "ip6gre" or "geneve")
    /// with these options, keys without `options:`.
    ///
    /// # Errors
    /// The first option that is missing, unknown, or has an impossible value; also
    /// `local_ip=flow` without `remote_ip=flow`, and addresses of two families.
    ///
    /// `None` if `port_type` is no tunnel.
    pub fn new<'a>(
        port_type: &str,
        options: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Option<Result<TunnelConfig>> {
        let (kind, v6) = Kind::from_type(port_type)?;
        let name = if v6.is_some() { "ip6gre" } else { kind.name() };
        let o = Options { kind: name, given: options.into_iter().collect() };
        Some(Self::from_options(kind, v6, &o))
    }

    fn from_options(kind: Kind, v6: Option<bool>, o: &Options) -> Result<TunnelConfig> {
        let unknown = o.given.iter().find(|(n, _)| {
            !NAMES.contains(n)
                || *n == "seq" && kind != Kind::Gre
                || *n == "dst_port" && kind == Kind::Gre
        });
        if let Some((n, _)) = unknown {
            return Err(OptionError::Unknown { option: (*n).to_owned(), kind: o.kind });
        }
        let (remote, local) = Self::addresses(v6, o)?;
        let tos = o.byte("tos", 0, "expected inherit, or a number from 0 to 252")?;
        if let (Field8::Number(n), Some(v)) = (tos, o.get("tos"))
            && n & crate::ecn::MASK != 0
        {
            return Err(bad("tos", v, "the low two bits are ECN and cannot be set"));
        }
        let ttl = o.byte("ttl", 64, "expected inherit, or a number from 1 to 255")?;
        if ttl == Field8::Number(0) {
            return Err(bad("ttl", "0", "expected inherit, or a number from 1 to 255"));
        }
        Ok(TunnelConfig {
            kind,
            remote,
            local,
            in_key: o.key("in_key", kind)?,
            out_key: o.key("out_key", kind)?,
            tos,
            ttl,
            df: o.flag("df_default", true)?,
            csum: o.flag("csum", false)?,
            seq: o.flag("seq", false)?,
            dst_port: Self::port(kind, o)?,
            egress_pkt_mark: match o.get("egress_pkt_mark") {
                None => None,
                Some(v) => Some(
                    number(v)
                        .and_then(|n| u32::try_from(n).ok())
                        .ok_or_else(|| bad("egress_pkt_mark", v, "expected a 32-bit number"))?,
                ),
            },
        })
    }

    fn addresses(v6: Option<bool>, o: &Options) -> Result<(Remote, Local)> {
        let remote = match o.get("remote_ip") {
            None => return Err(OptionError::Missing("remote_ip", o.kind)),
            Some("flow") => Remote::Flow,
            Some(_) => match o.address("remote_ip")? {
                Some(a) => Remote::Address(a),
                None => return Err(OptionError::Missing("remote_ip", o.kind)),
            },
        };
        let local = match o.get("local_ip") {
            Some("flow") => Local::Flow,
            _ => o.address("local_ip")?.map_or(Local::Any, Local::Address),
        };
        if local == Local::Flow && remote != Remote::Flow {
            return Err(bad("local_ip", "flow", "needs remote_ip=flow"));
        }
        let text = |name| o.get(name).unwrap_or_default();
        if let (Remote::Address(r), Local::Address(l)) = (remote, local)
            && r.is_ipv6() != l.is_ipv6()
        {
            return Err(bad("local_ip", text("local_ip"), "remote_ip is of another IP version"));
        }
        if let (Some(want), Remote::Address(r)) = (v6, remote)
            && r.is_ipv6() != want
        {
            return Err(bad("remote_ip", text("remote_ip"), "expected an IPv6 address"));
        }
        Ok((remote, local))
    }

    fn port(kind: Kind, o: &Options) -> Result<u16> {
        let Some(v) = o.get("dst_port") else { return Ok(kind.default_port().unwrap_or(0)) };
        match number(v).and_then(|n| u16::try_from(n).ok()) {
            Some(n) if n != 0 => Ok(n),
            _ => Err(bad("dst_port", v, "expected a number from 1 to 65535")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(kind: &str, options: &[(&'static str, &'static str)]) -> Result<TunnelConfig> {
        TunnelConfig::new(kind, options.iter().copied()).unwrap()
    }

    fn refused(kind: &str, options: &[(&'static str, &'static str)]) -> String {
        new(kind, options).unwrap_err().to_string()
    }

    #[test]
    fn a_deployments_options() {
        let c = new(
            "vxlan",
            &[
                ("df_default", "true"),
                ("egress_pkt_mark", "0"),
                ("in_key", "flow"),
                ("out_key", "flow"),
                ("local_ip", "10.98.0.1"),
                ("remote_ip", "10.98.0.2"),
            ],
        )
        .unwrap();
        assert_eq!(
            c,
            TunnelConfig {
                kind: Kind::Vxlan,
                remote: Remote::Address([10, 98, 0, 2].into()),
                local: Local::Address([10, 98, 0, 1].into()),
                in_key: Key::Flow,
                out_key: Key::Flow,
                tos: Field8::Number(0),
                ttl: Field8::Number(64),
                df: true,
                csum: false,
                seq: false,
                dst_port: 4789,
                egress_pkt_mark: Some(0),
            }
        );
    }

    #[test]
    fn every_option_is_read() {
        let c = new(
            "gre",
            &[
                ("remote_ip", "flow"),
                ("local_ip", "flow"),
                ("key", "0x10"),
                ("out_key", "4294967295"),
                ("tos", "inherit"),
                ("ttl", "inherit"),
                ("df_default", "false"),
                ("csum", "true"),
                ("seq", "true"),
                ("egress_pkt_mark", "0xffffffff"),
            ],
        )
        .unwrap();
        assert_eq!(c.remote, Remote::Flow);
        assert_eq!(c.local, Local::Flow);
        assert_eq!((c.in_key, c.out_key), (Key::Number(16), Key::Number(0xffff_ffff)));
        assert_eq!((c.tos, c.ttl), (Field8::Inherit, Field8::Inherit));
        assert_eq!((c.df, c.csum, c.seq, c.dst_port), (false, true, true, 0));
        assert_eq!(c.egress_pkt_mark, Some(u32::MAX));
        let c =
            new("geneve", &[("remote_ip", "2001:db8::1"), ("dst_port", "7000"), ("tos", "0xb8")])
                .unwrap();
        assert_eq!((c.kind, c.dst_port, c.tos), (Kind::Geneve, 7000, Field8::Number(0xb8)));
        assert_eq!((c.in_key, c.local), (Key::None, Local::Any));
        assert_eq!(new("geneve", &[("remote_ip", "1.2.3.4")]).unwrap().dst_port, 6081);
        assert!(TunnelConfig::new("internal", []).is_none());
    }

    #[test]
    fn errors_name_the_option() {
        let r = ("remote_ip", "10.0.0.2");
        assert_eq!(refused("vxlan", &[]), "options:remote_ip: a vxlan port needs it");
        for (kind, options, want) in [
            ("vxlan", &[("remote_ip", "host.example")][..], "options:remote_ip=host.example: "),
            ("vxlan", &[("remote_ip", "224.0.0.5")], "options:remote_ip=224.0.0.5: multicast"),
            ("vxlan", &[("remote_ip", "0.0.0.0")], "options:remote_ip=0.0.0.0: "),
            ("ip6gre", &[r], "options:remote_ip=10.0.0.2: expected an IPv6"),
            ("vxlan", &[r, ("local_ip", "flow")], "options:local_ip=flow: needs remote_ip=flow"),
            ("vxlan", &[r, ("local_ip", "::1")], "options:local_ip=::1: remote_ip is of another"),
            ("vxlan", &[r, ("key", "16777216")], "options:key=16777216: "),
            ("vxlan", &[r, ("in_key", "-1")], "options:in_key=-1: "),
            ("gre", &[r, ("out_key", "0x100000000")], "options:out_key=0x100000000: "),
            ("gre", &[r, ("key", "0x+1")], "options:key=0x+1: "),
            ("vxlan", &[r, ("tos", "256")], "options:tos=256: "),
            ("vxlan", &[r, ("tos", "1")], "options:tos=1: the low two bits"),
            ("vxlan", &[r, ("ttl", "0")], "options:ttl=0: "),
            ("vxlan", &[r, ("csum", "yes")], "options:csum=yes: expected true or false"),
            ("vxlan", &[r, ("df_default", "1")], "options:df_default=1: "),
            ("vxlan", &[r, ("dst_port", "0")], "options:dst_port=0: "),
            ("vxlan", &[r, ("dst_port", "65536")], "options:dst_port=65536: "),
            ("gre", &[r, ("dst_port", "1")], "options:dst_port: no such option of a gre port"),
            ("vxlan", &[r, ("seq", "true")], "options:seq: no such option of a vxlan port"),
            ("vxlan", &[r, ("egress_pkt_mark", "x")], "options:egress_pkt_mark=x: "),
            ("vxlan", &[r, ("remote", "x")], "options:remote: no such option of a vxlan port"),
        ] {
            let got = refused(kind, options);
            assert!(got.starts_with(want), "{got}");
        }
    }
}
