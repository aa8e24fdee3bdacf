//! What is configured of routers: ports on bridges, routes, and which addresses are translated.
//!
//! Plain data with its checks. A router's port is also a port of its bridge, of type `router`; the two
//! are made and removed together.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{CtlError, quoted};
use crate::schema::{Mac, RouterAdvert};

/// Most routers: each has two zones of connections from [`FIRST_ZONE`] on.
pub const ROUTERS_LIMIT: usize = 2048;
/// The first zone of routers' connections.
pub const FIRST_ZONE: u16 = 0xe000;
/// Most ports of one router.
pub const ROUTER_PORTS_LIMIT: usize = 1024;
/// Smallest and largest MTU of a router's port, in bytes from the IP header on (RFC 8200, RFC 791).
const MTU: std::ops::RangeInclusive<u16> = 576..=65535;

/// An address with the length of its network's prefix, as `192.168.1.1/24`. Host bits are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Cidr {
    pub address: IpAddr,
    pub len: u8,
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> String {
        cidr.to_string()
    }
}

impl TryFrom<String> for Cidr {
    type Error = String;
    fn try_from(text: String) -> Result<Cidr, String> {
        text.parse()
    }
}

impl FromStr for Cidr {
    type Err = String;
    /// Without a length it is one address.
    fn from_str(text: &str) -> Result<Cidr, String> {
        let expected =
            || format!("{}: expected ADDRESS/LENGTH, such as 192.168.1.0/24", quoted(text));
        let (address, len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(len)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| expected())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let digits =
            |l: &&str| !l.is_empty() && l.len() <= 3 && l.bytes().all(|b| b.is_ascii_digit());
        let len = match len {
            None => most,
            Some(l) => Some(l).filter(digits).and_then(|l| l.parse().ok()).ok_or_else(expected)?,
        };
        if len > most {
            return Err(expected());
        }
        Ok(Cidr { address, len })
    }
}

impl Cidr {
    fn bits(address: IpAddr) -> u128 {
        match address {
            IpAddr::V4(a) => u128::from(u32::from(a)) << 96,
            IpAddr::V6(a) => a.into(),
        }
    }

    fn mask(len: u8) -> u128 {
        match len {
            0 => 0,
            n => u128::MAX << (128 - u32::from(n)),
        }
    }

    /// Whether the network holds an address.
    pub fn holds(&self, address: IpAddr) -> bool {
        let differ = Self::bits(self.address) ^ Self::bits(address);
        self.address.is_ipv4() == address.is_ipv4() && differ & Self::mask(self.len) == 0
    }

    /// The network: no host bits.
    pub fn network(&self) -> Cidr {
        let bits = Self::bits(self.address) & Self::mask(self.len);
        let address = match self.address {
            IpAddr::V4(_) => Ipv4Addr::from((bits >> 96) as u32).into(),
            IpAddr::V6(_) => Ipv6Addr::from(bits).into(),
        };
        Cidr { address, len: self.len }
    }

    /// The last address of an IPv4 network that has a broadcast address.
    pub fn broadcast(&self) -> Option<IpAddr> {
        match self.address {
            IpAddr::V4(_) if self.len < 31 => {
                let host = !(Self::mask(self.len) >> 96) as u32;
                let network = (Self::bits(self.network().address) >> 96) as u32;
                Some(Ipv4Addr::from(network | host).into())
            }
            _ => None,
        }
    }

    fn overlaps(&self, other: &Cidr) -> bool {
        self.holds(other.address) && self.len <= other.len
            || other.holds(self.address) && other.len <= self.len
    }

    /// A network: an error if there are host bits.
    pub fn network_of(text: &str) -> Result<Cidr, CtlError> {
        let cidr: Cidr = text.parse().map_err(CtlError::invalid)?;
        let network = cidr.network();
        if network != cidr {
            let message = format!("{text}: that is an address in a network, not a network");
            return Err(CtlError::invalid(message).with_hint(format!("the network is {network}")));
        }
        Ok(cidr)
    }
}

/// An address and port, as `203.0.113.101:8080` or `[2001:db8::1]:80`.
pub type Endpoint = std::net::SocketAddr;

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    Tcp,
    Udp,
}

impl Proto {
    pub const fn as_str(self) -> &'static str {
        match self {
            Proto::Tcp => "tcp",
            Proto::Udp => "udp",
        }
    }
}

/// A connection from the outside that is sent to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dnat {
    pub proto: Proto,
    pub external: Endpoint,
    pub internal: Endpoint,
}

/// A router's port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouterPort {
    /// The bridge that it is on.
    pub bridge: String,
    /// Its number in the router, from 1.
    pub number: u16,
    pub mac: Mac,
    /// Its addresses.
    pub ip: Vec<Cidr>,
    /// Bytes from the IP header on.
    pub mtu: u16,
    /// Where everything goes that has no other route; only the gateway's port has some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub via: Vec<IpAddr>,
    /// Whether and how it advertises itself to IPv6 hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ra: Option<RouterAdvert>,
}

/// A router.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Router {
    /// Decides its zones of connections.
    pub number: u16,
    #[serde(default)]
    pub ports: BTreeMap<String, RouterPort>,
    /// By network, the next hop.
    #[serde(default)]
    pub routes: BTreeMap<Cidr, IpAddr>,
    /// By inside network, the outside address.
    #[serde(default)]
    pub snat: BTreeMap<Cidr, IpAddr>,
    /// By outside address, the inside one.
    #[serde(default)]
    pub floating: BTreeMap<IpAddr, IpAddr>,
    #[serde(default)]
    pub dnat: Vec<Dnat>,
}

impl Router {
    /// The zone of the router's connections.
    pub fn zone(&self) -> u16 {
        FIRST_ZONE + 2 * self.number
    }

    /// The zone of connections from the inside to outside addresses of the inside, whose source is
    /// translated besides.
    pub fn hairpin_zone(&self) -> u16 {
        self.zone() + 1
    }

    /// The port with the way out.
    pub fn gateway(&self) -> Option<(&String, &RouterPort)> {
        self.ports.iter().find(|(_, p)| !p.via.is_empty())
    }

    /// The port whose network holds an address.
    pub fn port_of(&self, address: IpAddr) -> Option<(&String, &RouterPort)> {
        self.ports.iter().find(|(_, p)| p.ip.iter().any(|c| c.holds(address)))
    }

    /// Whether an address is one of its own.
    pub fn owns(&self, address: IpAddr) -> bool {
        self.ports.values().any(|p| p.ip.iter().any(|c| c.address == address))
    }

    /// Whether something is translated.
    pub fn translates(&self) -> bool {
        !(self.snat.is_empty() && self.floating.is_empty() && self.dnat.is_empty())
    }

    /// A free number for a port.
    pub(super) fn free_number(&self) -> u16 {
        let taken = |n: u16| self.ports.values().any(|p| p.number == n);
        (1..=u16::MAX).find(|n| !taken(*n)).unwrap_or(0)
    }

    /// Is it acceptable?
    pub(super) fn validate(&self, name: &str) -> Result<(), CtlError> {
        let refuse = |what: String| Err(CtlError::invalid(format!("router \"{name}\": {what}")));
        if usize::from(self.number) >= ROUTERS_LIMIT || self.ports.len() > ROUTER_PORTS_LIMIT {
            return refuse(format!(
                "more than {ROUTERS_LIMIT} routers or {ROUTER_PORTS_LIMIT} ports"
            ));
        }
        let mut networks: Vec<(&str, Cidr)> = Vec::new();
        for (port, p) in &self.ports {
            if p.ip.is_empty() || !MTU.contains(&p.mtu) {
                return refuse(format!(
                    "port \"{port}\": expected an address, and mtu from {} to {}",
                    MTU.start(),
                    MTU.end()
                ));
            }
            if self.ports.values().filter(|o| o.number == p.number).count() > 1 || p.number == 0 {
                return refuse(format!("port \"{port}\" has another port's number"));
            }
            if p.ra.is_some() && (!p.via.is_empty() || !p.ip.iter().any(|c| c.address.is_ipv6())) {
                return refuse(format!(
                    "port \"{port}\": ra= is for ports with an IPv6 address, and not for the gateway's"
                ));
            }
            for cidr in &p.ip {
                if !is_host(cidr.address)
                    || Some(cidr.address) == cidr.broadcast()
                    || cidr.len == 0
                    || (*cidr == cidr.network() && cidr.broadcast().is_some())
                {
                    return refuse(format!("port \"{port}\": {cidr} is no host's address"));
                }
                if let Some((other, with)) = networks.iter().find(|(_, c)| c.overlaps(cidr)) {
                    return refuse(format!(
                        "port \"{port}\": {cidr} overlaps {with} of port \"{other}\""
                    ));
                }
                networks.push((port, *cidr));
            }
        }
        if self.ports.values().filter(|p| !p.via.is_empty()).count() > 1 {
            return refuse("two gateways".to_owned());
        }
        let vias = self.ports.iter().flat_map(|(n, p)| p.via.iter().map(move |v| (Some(n), v)));
        for (port, via) in vias.chain(self.routes.values().map(|v| (None, v))) {
            let on = self.port_of(*via).map(|(n, _)| n);
            if on.is_none() || self.owns(*via) || port.is_some_and(|p| on != Some(p)) {
                return refuse(format!("next hop {via} is not in the network of a port"));
            }
        }
        for (network, via) in &self.routes {
            if network.address.is_ipv4() != via.is_ipv4() || network.network() != *network {
                return refuse(format!(
                    "route {network} via {via}: not of one family, or no network"
                ));
            }
        }
        self.validate_nat().or_else(refuse)
    }

    fn validate_nat(&self) -> Result<(), String> {
        let family = |a: IpAddr, b: IpAddr| a.is_ipv4() == b.is_ipv4();
        for (network, address) in &self.snat {
            if !family(network.address, *address) || !is_host(*address) {
                return Err(format!(
                    "snat {network} {address}: not of one family, or no host's address"
                ));
            }
            if self.floating.contains_key(address) {
                return Err(format!("snat {network} {address}: that is a floating IP"));
            }
        }
        for (external, internal) in &self.floating {
            if !family(*external, *internal) || !is_host(*external) || !is_host(*internal) {
                return Err(format!(
                    "floating IP {external} {internal}: no two hosts of one family"
                ));
            }
            if self.owns(*external) {
                return Err(format!("floating IP {external}: that is the router's own address"));
            }
            if self.floating.values().filter(|i| *i == internal).count() > 1 {
                return Err(format!("{internal} has two floating IPs"));
            }
        }
        for d in &self.dnat {
            if !family(d.external.ip(), d.internal.ip()) || !is_host(d.internal.ip()) {
                return Err(format!("dnat {} {}: not of one family", d.external, d.internal));
            }
            let same = |o: &&Dnat| (o.proto, o.external) == (d.proto, d.external);
            if self.dnat.iter().filter(same).count() > 1
                || d.external.port() == 0
                || d.internal.port() == 0
            {
                return Err(format!("dnat {} {}: twice, or port 0", d.proto.as_str(), d.external));
            }
        }
        Ok(())
    }
}

/// Whether an address can be one host's.
fn is_host(address: IpAddr) -> bool {
    let general = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    let special = match address {
        IpAddr::V4(a) => a.octets()[0] == 0 || a.octets()[0] >= 240,
        IpAddr::V6(_) => false,
    };
    !general && !special
}

/// What `add-router-port` and `set-gateway` take: `ip=`, `via=`, `mac=`, `mtu=`, `ra=`. `tag=` is the bridge's.
#[derive(Debug, Default)]
pub(super) struct PortWords {
    pub ip: Vec<Cidr>,
    pub via: Vec<IpAddr>,
    pub mac: Option<Mac>,
    pub mtu: Option<u16>,
    pub ra: Option<RouterAdvert>,
    /// Settings of the bridge's port.
    pub rest: Vec<String>,
}

impl PortWords {
    pub(super) fn read(who: &str, settings: &[String], gateway: bool) -> Result<Self, CtlError> {
        let mut words = PortWords::default();
        for setting in settings {
            let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
            let wrong = |e: &str| CtlError::invalid(format!("{who}: {key}={}: {e}", quoted(value)));
            match key {
                "ip" => {
                    for part in value.split(',') {
                        words.ip.push(part.parse().map_err(|e: String| wrong(&e))?);
                    }
                }
                "via" if gateway => {
                    for part in value.split(',') {
                        words.via.push(part.parse().map_err(|_| wrong("expected an IP address"))?);
                    }
                }
                "mac" => {
                    let mac = value.parse().map_err(|()| wrong("expected a unicast address"))?;
                    words.mac = Some(mac);
                }
                "mtu" => {
                    let mtu = value.parse().ok().filter(|m| MTU.contains(m));
                    let mtu = mtu.ok_or_else(|| wrong("expected a number from 576 to 65535"))?;
                    words.mtu = Some(mtu);
                }
                "ra" if !gateway => {
                    let ra = RouterAdvert::parse(value);
                    words.ra = Some(ra.ok_or_else(|| {
                        let error = wrong(&format!("expected {}", RouterAdvert::NAMES.join(", ")));
                        error.suggest(value, RouterAdvert::NAMES.iter().copied())
                    })?);
                }
                "tag" => words.rest.push(setting.clone()),
                _ => {
                    let keys = match gateway {
                        true => "ip, via, mac, mtu or tag",
                        false => "ip, mac, mtu, ra or tag",
                    };
                    let error =
                        CtlError::invalid(format!("{who}: {}: expected {keys}", quoted(setting)));
                    return Err(error.suggest(key, ["ip", "via", "mac", "mtu", "ra", "tag"]));
                }
            }
        }
        if words.ip.is_empty() || gateway && words.via.is_empty() {
            let what =
                if gateway { "ip=ADDRESS/LENGTH and via=ADDRESS" } else { "ip=ADDRESS/LENGTH" };
            return Err(CtlError::invalid(format!("{who}: expected {what}")));
        }
        Ok(words)
    }
}

/// A port's Ethernet address where none is given: locally administered, the same for the same names.
pub(super) fn mac_for(router: &str, port: &str) -> Mac {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in router.bytes().chain([0]).chain(port.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    let hash = flow::key::mix(hash, 0x9e37_79b9_7f4a_7c15);
    let b = hash.to_be_bytes();
    Mac::local([b[0], b[1], b[2], b[3], b[4]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let c: Cidr = "192.168.1.5/24".parse().unwrap();
        assert_eq!(c.network().to_string(), "192.168.1.0/24");
        assert_eq!(c.broadcast(), Some("192.168.1.255".parse().unwrap()));
        assert!(
            c.holds("192.168.1.77".parse().unwrap()) && !c.holds("192.168.2.1".parse().unwrap())
        );
        assert!(!c.holds("::1".parse().unwrap()));
        for bad in ["", "1.2.3/8", "1.2.3.4/33", "1.2.3.4/", "1.2.3.4/+8", "::/129", "x"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
        assert!(Cidr::network_of("10.0.0.1/8").unwrap_err().hint.unwrap().contains("10.0.0.0/8"));
        assert!(Cidr::network_of("0.0.0.0/0").unwrap().holds("9.9.9.9".parse().unwrap()));
    }
}
