//! What is configured of security groups: what an instance behind a port may claim to be, and which
//! connections may pass.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::Config;
use super::router::Cidr;
use crate::command::Command;
use crate::error::{CtlError, quoted};
use crate::schema::{Mac, PortType};

/// Most ports with a security group: each has a zone of connections from [`FIRST_GUARD_ZONE`] on.
pub const GUARDS_LIMIT: usize = 4096;
/// The first zone of ports' connections.
pub const FIRST_GUARD_ZONE: u16 = 0xf000;
/// Most rules of one port.
pub const RULES_LIMIT: usize = 10_000;

/// Which way a connection begins, as seen from the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    In,
    Out,
}

impl Way {
    pub const fn as_str(self) -> &'static str {
        match self {
            Way::In => "in",
            Way::Out => "out",
        }
    }
}

/// Connections that may pass.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub way: Way,
    /// `tcp`, `udp` or `icmp` (for IPv6 ICMPv6); any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proto: Option<String>,
    /// First and last destination port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<(u16, u16)>,
    /// The other end; any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<Cidr>,
}

/// The security group of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecurityGroup {
    /// Decides its zone of connections.
    pub number: u16,
    /// The instance's Ethernet address.
    pub mac: Mac,
    /// Its addresses and networks.
    pub ip: Vec<Cidr>,
    #[serde(default)]
    pub rules: BTreeSet<Rule>,
}

impl SecurityGroup {
    /// The zone of the port's connections.
    pub fn zone(&self) -> u16 {
        FIRST_GUARD_ZONE + self.number
    }
}

impl Rule {
    /// Words as `proto=tcp port=80-90 remote=10.0.0.0/8`.
    pub fn read(way: Way, words: &[String]) -> Result<Rule, CtlError> {
        let mut rule = Rule { way, proto: None, ports: None, remote: None };
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let wrong = |e: &str| CtlError::invalid(format!("{}: expected {e}", quoted(word)));
            match key {
                "proto" if matches!(value, "tcp" | "udp" | "icmp") => {
                    rule.proto = Some(value.to_owned());
                }
                "proto" => return Err(wrong("proto=tcp, udp or icmp")),
                "port" => {
                    let (first, last) = value.split_once('-').unwrap_or((value, value));
                    let ports = first.parse().ok().zip(last.parse().ok());
                    let ports = ports.filter(|(f, l): &(u16, u16)| f <= l && *f > 0);
                    rule.ports = Some(ports.ok_or_else(|| wrong("port=80 or port=80-90"))?);
                }
                "remote" => rule.remote = Some(Cidr::network_of(value)?),
                _ => {
                    let error = wrong("proto=, port= or remote=");
                    return Err(error.suggest(key, ["proto", "port", "remote"]));
                }
            }
        }
        let has_ports = matches!(rule.proto.as_deref(), Some("tcp" | "udp"));
        if rule.ports.is_some() && !has_ports {
            return Err(CtlError::invalid("port=: only with proto=tcp or proto=udp"));
        }
        Ok(rule)
    }

    /// The rule as it is typed.
    pub fn text(&self) -> String {
        let mut out = self.way.as_str().to_owned();
        if let Some(proto) = &self.proto {
            out.push_str(&format!(" proto={proto}"));
        }
        match self.ports {
            Some((f, l)) if f == l => out.push_str(&format!(" port={f}")),
            Some((f, l)) => out.push_str(&format!(" port={f}-{l}")),
            None => {}
        }
        if let Some(remote) = &self.remote {
            out.push_str(&format!(" remote={remote}"));
        }
        out
    }
}

/// Carries out a command on security groups. On an error `config` may be half changed.
pub(super) fn apply(config: &mut Config, command: &Command) -> Result<Json, CtlError> {
    let changed = match command {
        Command::SecurityGroupSet { port, settings } => set(config, port, settings)?,
        Command::SecurityGroupRemove { port, if_exists } => {
            match config.security_groups.remove(port) {
                Some(_) => true,
                None if *if_exists => false,
                None => return Err(config.no_group(port)),
            }
        }
        Command::SecurityGroupAdd { port, way, rule, may_exist } => {
            let rule = Rule::read(*way, rule)?;
            let group = config.group_mut(port)?;
            if group.rules.len() >= RULES_LIMIT {
                let message = format!("port \"{port}\" has {RULES_LIMIT} rules, the most possible");
                return Err(CtlError::invalid(message));
            }
            let text = rule.text();
            let added = group.rules.insert(rule);
            if !added && !may_exist {
                let error =
                    CtlError::exists(format!("port \"{port}\" has the rule {text} already"));
                return Err(error.with_hint("--may-exist accepts that"));
            }
            added
        }
        Command::SecurityGroupDel { port, way, rule, if_exists } => {
            let rule = Rule::read(*way, rule)?;
            let gone = config.group_mut(port)?.rules.remove(&rule);
            if !gone && !if_exists {
                let message = format!("port \"{port}\" has no rule {}", rule.text());
                let error = CtlError::not_found(message);
                return Err(error.with_hint(format!("security-group show {port}")));
            }
            gone
        }
        Command::SecurityGroupShow { port } => return show(config, port.as_deref()),
        other => return Err(CtlError::internal(format!("{} is of no group", other.text()))),
    };
    Ok(json!({"changed": changed}))
}

fn show(config: &Config, port: Option<&str>) -> Result<Json, CtlError> {
    if let Some(port) = port.filter(|p| !config.security_groups.contains_key(*p)) {
        return Err(config.no_group(port));
    }
    let wanted = config.security_groups.iter().filter(|(n, _)| port.is_none_or(|p| p == *n));
    let groups: Vec<Json> = wanted
        .map(|(name, g)| {
            let ip: Vec<String> = g.ip.iter().map(Cidr::to_string).collect();
            let rules: Vec<String> = g.rules.iter().map(Rule::text).collect();
            json!({"port": name, "mac": g.mac.to_string(), "ip": ip, "zone": g.zone(), "rules": rules})
        })
        .collect();
    Ok(json!({"security_groups": groups}))
}

fn set(config: &mut Config, port: &str, settings: &[String]) -> Result<bool, CtlError> {
    let kind = config.port(port)?.1.port_type();
    refuse_shared(config, port)?;
    if !matches!(kind, PortType::Afxdp | PortType::Internal) {
        let message = format!("port \"{port}\" is of type {kind}: nobody is behind it");
        return Err(CtlError::invalid(message));
    }
    let (mut mac, mut ip) = (None, Vec::new());
    for setting in settings {
        let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
        let wrong = |e: &str| CtlError::invalid(format!("{}: {e}", quoted(setting)));
        match key {
            "mac" => mac = Some(value.parse().map_err(|()| wrong("expected a unicast address"))?),
            "ip" => {
                for part in value.split(',') {
                    let cidr: Cidr = part.parse().map_err(|e: String| wrong(&e))?;
                    ip.push(cidr.network());
                }
            }
            _ => return Err(wrong("expected mac= or ip=").suggest(key, ["mac", "ip"])),
        }
    }
    let Some(mac) = mac.filter(|_| !ip.is_empty()) else {
        return Err(CtlError::invalid(format!("port \"{port}\": expected mac=MAC and ip=ADDRESS")));
    };
    let taken: BTreeSet<u16> = config.security_groups.values().map(|g| g.number).collect();
    let free = (0..GUARDS_LIMIT as u16).find(|n| !taken.contains(n));
    let old = config.security_groups.get(port).cloned();
    let number = old.as_ref().map(|g| g.number).or(free).ok_or_else(|| {
        CtlError::invalid(format!("there are {GUARDS_LIMIT} security groups, the most possible"))
    })?;
    let rules = old.as_ref().map(|g| g.rules.clone()).unwrap_or_default();
    let new = SecurityGroup { number, mac, ip, rules };
    let changed = old.as_ref() != Some(&new);
    config.security_groups.insert(port.to_owned(), new);
    Ok(changed)
}

/// Behind a port that is shared with the host is the host.
fn refuse_shared(config: &Config, port: &str) -> Result<(), CtlError> {
    match config.port(port)?.1.settings.share {
        None => Ok(()),
        Some(_) => Err(CtlError::invalid(format!(
            "port \"{port}\" is shared with the host (options:share): it has no security group"
        ))),
    }
}

impl Config {
    fn no_group(&self, port: &str) -> CtlError {
        let error = CtlError::not_found(format!("port {} has no security group", quoted(port)));
        error.suggest(port, self.security_groups.keys().map(String::as_str))
    }

    fn group_mut(&mut self, port: &str) -> Result<&mut SecurityGroup, CtlError> {
        if !self.security_groups.contains_key(port) {
            return Err(self.no_group(port).with_hint(format!(
                "say first who is behind it: security-group set {port} mac=MAC ip=ADDRESS"
            )));
        }
        let missing = || CtlError::internal("a security group went");
        self.security_groups.get_mut(port).ok_or_else(missing)
    }

    /// A port that goes takes its security group along; what is left is checked.
    pub(super) fn finish_security_groups(&mut self) -> Result<(), CtlError> {
        let ports: BTreeSet<String> = self.ports().map(|(_, name, _)| name.to_owned()).collect();
        self.security_groups.retain(|port, _| ports.contains(port));
        let mut numbers = BTreeSet::new();
        for (port, group) in &self.security_groups {
            refuse_shared(self, port)?;
            let fits = usize::from(group.number) < GUARDS_LIMIT && group.rules.len() <= RULES_LIMIT;
            let rules = group.rules.iter().all(|r| r.ports.is_none_or(|(f, l)| f <= l && f > 0));
            if !fits || !rules || !numbers.insert(group.number) || group.ip.is_empty() {
                let message = format!("the security group of port {} is damaged", quoted(port));
                return Err(CtlError::invalid(message));
            }
        }
        Ok(())
    }
}
