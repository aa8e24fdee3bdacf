//! What is configured: bridges, their ports, the settings of both, the OpenFlow port numbers, and limits
//! and timeouts of connections; routers.
//!
//! Plain data. A change is made on a copy ([`apply`]), which then is numbered and checked whole
//! ([`Config::finish`]) before anyone else sees it; the control thread is the only writer. Knows nothing
//! of interfaces that exist, of packets, or of files.

mod apply;
mod conntrack;
mod diff;
mod paths;
pub mod router;
mod routers;
pub mod security;
mod validate;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use apply::apply;
pub use conntrack::Conntrack;
pub use diff::{Change, changes};
pub use paths::{Paths, Route};
pub use router::{Router, RouterPort};

use crate::error::{CtlError, quoted};
use crate::schema::{BridgeSettings, PortSettings, PortType};

/// The OpenFlow number of a bridge's own port.
pub const OFPORT_LOCAL: u16 = 65534;
/// Highest OpenFlow number of an ordinary port.
pub const OFPORT_MAX: u16 = 65279;
/// Most bridges of one switch.
pub const BRIDGES_LIMIT: usize = 4096;
/// Most ports of one switch, the bridges' own not counted.
pub const PORTS_LIMIT: usize = 32768;
/// Longest name of a bridge or of a port that is a network device, in bytes (the kernel's IFNAMSIZ - 1).
pub const NETDEV_NAME_LIMIT: usize = 15;
/// Longest name of any other port, in bytes.
pub const NAME_LIMIT: usize = 63;

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// By name. Names of bridges and ports are unique among each other.
    #[serde(default)]
    pub bridges: BTreeMap<String, Bridge>,
    #[serde(default, skip_serializing_if = "Conntrack::is_default")]
    pub conntrack: Conntrack,
    /// Ways of tunnels.
    #[serde(default, skip_serializing_if = "Paths::is_empty")]
    pub paths: Paths,
    /// By name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub routers: BTreeMap<String, Router>,
    /// By port.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub security_groups: BTreeMap<String, security::SecurityGroup>,
}

/// One bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bridge {
    #[serde(default)]
    pub settings: BridgeSettings,
    /// The bridge's own interface, of the bridge's name, number [`OFPORT_LOCAL`].
    #[serde(default)]
    pub local: PortSettings,
    /// By name; the bridge's own port is not among them.
    #[serde(default)]
    pub ports: BTreeMap<String, Port>,
    /// Where the search for a free OpenFlow number starts, so that a number is not used again at once.
    #[serde(default = "first_ofport")]
    next_ofport: u16,
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// The OpenFlow number, 1 to [`OFPORT_MAX`]; 0 only inside a transaction, before it is assigned.
    pub ofport: u16,
    #[serde(default)]
    pub settings: PortSettings,
}

impl Port {
    pub fn port_type(&self) -> PortType {
        self.settings.port_type()
    }
}

const fn first_ofport() -> u16 {
    1
}

impl Default for Bridge {
    fn default() -> Self {
        Self {
            settings: BridgeSettings::default(),
            local: PortSettings::default(),
            ports: BTreeMap::new(),
            next_ofport: first_ofport(),
        }
    }
}

/// How a patch port's other end stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer<'a> {
    /// Both ends name each other: packets pass. Bridge and port of the other end.
    Joined { bridge: &'a str, port: &'a str },
    /// No port of that name is configured.
    Missing { port: &'a str },
    /// The port is there, but is no patch port.
    NotPatch { port: &'a str },
    /// The patch port is there, but names another peer.
    Elsewhere { port: &'a str, its_peer: &'a str },
}

impl Config {
    /// The bridge `name`, or an error with the closest name.
    pub fn bridge(&self, name: &str) -> Result<&Bridge, CtlError> {
        self.bridges.get(name).ok_or_else(|| self.no_bridge(name))
    }

    fn bridge_mut(&mut self, name: &str) -> Result<&mut Bridge, CtlError> {
        if !self.bridges.contains_key(name) {
            return Err(self.no_bridge(name));
        }
        Ok(self.bridges.entry(name.to_owned()).or_default())
    }

    /// The bridge that holds port `name`, and the port. The bridges' own ports are not found.
    pub fn find_port(&self, name: &str) -> Option<(&str, &Port)> {
        self.bridges.iter().find_map(|(br, b)| Some((br.as_str(), b.ports.get(name)?)))
    }

    /// As [`Config::find_port`], or an error with the closest name.
    pub fn port(&self, name: &str) -> Result<(&str, &Port), CtlError> {
        self.find_port(name).ok_or_else(|| self.no_port(name))
    }

    /// Every port with its bridge's name and its own, the bridges' own ports not included.
    pub fn ports(&self) -> impl Iterator<Item = (&str, &str, &Port)> {
        self.bridges.iter().flat_map(|(br, b)| {
            b.ports.iter().map(move |(name, p)| (br.as_str(), name.as_str(), p))
        })
    }

    /// How many ports there are, the bridges' own not counted.
    pub fn port_count(&self) -> usize {
        self.bridges.values().map(|b| b.ports.len()).sum()
    }

    /// How the other end of patch port `name` stands; None when `name` is no patch port with a peer.
    pub fn peer_of(&self, name: &str) -> Option<Peer<'_>> {
        let (_, port) = self.find_port(name)?;
        let peer = match port.port_type() {
            PortType::Patch => port.settings.peer.as_deref()?,
            _ => return None,
        };
        let Some((bridge, other)) = self.find_port(peer) else {
            return Some(Peer::Missing { port: peer });
        };
        if other.port_type() != PortType::Patch {
            return Some(Peer::NotPatch { port: peer });
        }
        match other.settings.peer.as_deref() {
            Some(back) if back == name => Some(Peer::Joined { bridge, port: peer }),
            back => Some(Peer::Elsewhere { port: peer, its_peer: back.unwrap_or("nothing") }),
        }
    }

    /// Gives every port its OpenFlow number: requested ones first, then the next free number from 1.
    /// A number once given stays. Refuses a requested number that another port has.
    pub fn assign_ofports(&mut self) -> Result<(), CtlError> {
        for (name, bridge) in &mut self.bridges {
            bridge.assign_ofports(name)?;
        }
        Ok(())
    }

    /// Completes a changed configuration: numbers assigned, everything checked. Gives warnings about
    /// settings that have no effect as they are.
    pub fn finish(&mut self) -> Result<Vec<String>, CtlError> {
        self.assign_ofports()?;
        self.finish_security_groups()?;
        validate::validate(self)
    }

    fn no_bridge(&self, name: &str) -> CtlError {
        let error = CtlError::not_found(format!("no bridge {}", quoted(name)));
        match self.find_port(name) {
            Some((bridge, _)) => {
                error.with_hint(format!("{} is a port of bridge \"{bridge}\"", quoted(name)))
            }
            None => error.suggest(name, self.bridges.keys().map(String::as_str)),
        }
    }

    fn no_port(&self, name: &str) -> CtlError {
        let error = CtlError::not_found(format!("no port {}", quoted(name)));
        if self.bridges.contains_key(name) {
            return error.with_hint(format!("{} is a bridge", quoted(name)));
        }
        error.suggest(name, self.ports().map(|(_, port, _)| port))
    }
}

impl Bridge {
    fn assign_ofports(&mut self, bridge: &str) -> Result<(), CtlError> {
        let settled = |p: &Port| match p.settings.ofport_request {
            Some(wanted) => wanted == p.ofport,
            None => p.ofport != 0,
        };
        if self.ports.values().all(settled) {
            return Ok(());
        }
        let mut taken: BTreeMap<u16, String> = BTreeMap::new();
        // Numbers that stay, then numbers asked for, then numbers to be found.
        for (name, port) in &self.ports {
            let stays = port.settings.ofport_request.is_none_or(|n| n == port.ofport);
            if stays && port.ofport != 0 {
                taken.insert(port.ofport, name.clone());
            }
        }
        for (name, port) in &mut self.ports {
            let Some(wanted) = port.settings.ofport_request.filter(|n| *n != port.ofport) else {
                continue;
            };
            if let Some(holder) = taken.get(&wanted) {
                return Err(CtlError::exists(format!(
                    "port \"{name}\": ofport_request={wanted}: port \"{holder}\" of bridge \
                     \"{bridge}\" has that number"
                )));
            }
            taken.insert(wanted, name.clone());
            port.ofport = wanted;
        }
        let mut next = self.next_ofport.clamp(1, OFPORT_MAX);
        for (name, port) in self.ports.iter_mut().filter(|(_, p)| p.ofport == 0) {
            port.ofport = free_from(next, &taken).ok_or_else(|| {
                CtlError::invalid(format!(
                    "bridge \"{bridge}\" has no free OpenFlow port number for \"{name}\""
                ))
            })?;
            taken.insert(port.ofport, name.clone());
            next = if port.ofport == OFPORT_MAX { 1 } else { port.ofport + 1 };
        }
        self.next_ofport = next;
        Ok(())
    }
}

/// The first number from `start` upwards, wrapping once to 1, that is not taken.
fn free_from(start: u16, taken: &BTreeMap<u16, String>) -> Option<u16> {
    (start..=OFPORT_MAX).chain(1..start).find(|n| !taken.contains_key(n))
}

/// True for what can be a bridge's or port's name at all: 1 to 63 printable ASCII characters without
/// white space, `/`, `:`, `%`, `,`, `=`, quotes or brackets, not starting with `-`, not `.` or `..`.
pub fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_graphic() && !"/:%,=\"'\\[]{}()".contains(c);
    !text.is_empty()
        && text.len() <= NAME_LIMIT
        && !text.starts_with('-')
        && !matches!(text, "." | "..")
        && text.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn config(commands: &[&str]) -> Config {
        let mut config = Config::default();
        for text in commands {
            apply(&mut config, &super::apply::tests::command(text)).expect(text);
        }
        config.finish().expect("a good configuration");
        config
    }

    #[test]
    fn numbers_start_at_one_and_stay() {
        let mut c = config(&["add-br b", "add-port b x", "add-port b y", "add-port b z"]);
        let number = |c: &Config, p: &str| c.port(p).expect(p).1.ofport;
        assert_eq!((number(&c, "x"), number(&c, "y"), number(&c, "z")), (1, 2, 3));
        for text in ["del-port y", "add-port b w"] {
            apply(&mut c, &super::apply::tests::command(text)).expect(text);
        }
        c.finish().expect("good");
        assert_eq!((number(&c, "x"), number(&c, "w"), number(&c, "z")), (1, 4, 3));
    }

    #[test]
    fn requested_numbers_come_first_and_clashes_are_refused() {
        let mut c = config(&["add-br b", "add-port b x", "add-port b y ofport_request=1"]);
        let number = |c: &Config, p: &str| c.port(p).expect(p).1.ofport;
        assert_eq!((number(&c, "x"), number(&c, "y")), (2, 1));
        apply(&mut c, &super::apply::tests::command("set port x ofport_request=1")).expect("set");
        let error = c.finish().expect_err("taken");
        assert!(error.message.contains("port \"y\" of bridge \"b\" has that number"), "{error}");
    }

    #[test]
    fn numbers_wrap_and_run_out() {
        let taken = |n: std::ops::RangeInclusive<u16>| n.map(|n| (n, String::new())).collect();
        assert_eq!(free_from(65279, &taken(65279..=65279)), Some(1));
        assert_eq!(free_from(1, &taken(1..=OFPORT_MAX)), None);
    }

    #[test]
    fn peers() {
        let c = config(&[
            "add-br b",
            "add-br c",
            "add-port b pb type=patch options:peer=pc",
            "add-port c pc type=patch options:peer=pb",
            "add-port b lone type=patch options:peer=gone",
            "add-port b third type=patch options:peer=pc",
            "add-port b odd type=patch options:peer=eth",
            "add-port b eth",
        ]);
        assert_eq!(c.peer_of("pb"), Some(Peer::Joined { bridge: "c", port: "pc" }));
        assert_eq!(c.peer_of("lone"), Some(Peer::Missing { port: "gone" }));
        assert_eq!(c.peer_of("third"), Some(Peer::Elsewhere { port: "pc", its_peer: "pb" }));
        assert_eq!(c.peer_of("odd"), Some(Peer::NotPatch { port: "eth" }));
        assert_eq!(c.peer_of("eth"), None);
    }

    #[test]
    fn names() {
        for good in ["br-int", "eth0.5", "qvo12345678-90", "a"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", ".", "..", "-x", "a b", "a/b", "tap%d", "a:1", "é", "a=b", "a\0", "x\u{7f}"]
        {
            assert!(!is_name(bad), "{bad:?}");
        }
        assert!(!is_name(&"x".repeat(64)));
    }

    #[test]
    fn a_thousand_ports() {
        let mut c = config(&["add-br b"]);
        for i in 0..2000 {
            let text = format!("add-port b port{i} tag={}", i % 4095);
            apply(&mut c, &super::apply::tests::command(&text)).expect("add");
        }
        assert_eq!(c.finish().expect("good"), Vec::<String>::new());
        assert_eq!(c.ports().count(), 2000);
    }
}
