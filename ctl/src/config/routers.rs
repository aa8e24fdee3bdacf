//! The commands on routers: what each changes in the configuration, and the rules between routers and
//! bridges.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value as Json, json};

use super::router::{Cidr, Dnat, Endpoint, PortWords, ROUTERS_LIMIT, mac_for};
use super::{Config, NAME_LIMIT, Port, Router, RouterPort, is_name};
use crate::command::Command;
use crate::error::{CtlError, quoted};
use crate::schema::{PORT, PortSettings, PortType};

/// MTU of a router's port where none is given.
const MTU: u16 = 1500;

/// Carries out a command on routers. On an error `config` may be half changed.
pub(super) fn apply(config: &mut Config, command: &Command) -> Result<Json, CtlError> {
    let changed = match command {
        Command::ListRouters {} => {
            return Ok(json!({"routers": config.routers.keys().collect::<Vec<_>>()}));
        }
        Command::AddRouter { router, may_exist } => add_router(config, router, *may_exist)?,
        Command::DelRouter { router, if_exists } => del_router(config, router, *if_exists)?,
        Command::AddRouterPort { router, bridge, port, settings, may_exist } => {
            let known = config.router(router)?.ports.get(port);
            if *may_exist && known.is_some_and(|p| p.bridge == *bridge) {
                false
            } else {
                add_port(config, router, bridge, port, settings, false)?
            }
        }
        Command::DelRouterPort { router, port, if_exists } => {
            del_port(config, router, port, *if_exists)?
        }
        Command::SetGateway { router, bridge, port, settings } => {
            set_gateway(config, router, bridge, port, settings)?
        }
        Command::DelGateway { router, if_exists } => {
            let port = config.router(router)?.gateway().map(|(name, _)| name.clone());
            match port {
                Some(port) => del_port(config, router, &port, false)?,
                None if *if_exists => false,
                None => return Err(none(router, "gateway")),
            }
        }
        other => lists(config, other)?,
    };
    Ok(json!({"changed": changed}))
}

/// Routes and translations.
fn lists(config: &mut Config, command: &Command) -> Result<bool, CtlError> {
    let Some(name) = command.router() else { return Ok(false) };
    let router = config.router_mut(name)?;
    let had = |what: String| {
        let error = CtlError::exists(format!("router \"{name}\" has {what} already"));
        Err(error.with_hint("--may-exist accepts that"))
    };
    match command {
        Command::AddRoute { prefix, via, may_exist, .. } => {
            let (network, via) = (Cidr::network_of(prefix)?, address(via)?);
            match router.routes.insert(network, via) {
                None => Ok(true),
                Some(old) if *may_exist => Ok(old != via),
                Some(old) => had(format!("the route {network} via {old}")),
            }
        }
        Command::DelRoute { prefix, if_exists, .. } => {
            let gone = router.routes.remove(&Cidr::network_of(prefix)?).is_some();
            there(gone, *if_exists, name, &format!("route {prefix}"))
        }
        Command::AddSnat { prefix, address: to, may_exist, .. } => {
            let (network, to) = (Cidr::network_of(prefix)?, address(to)?);
            match router.snat.insert(network, to) {
                None => Ok(true),
                Some(old) if *may_exist => Ok(old != to),
                Some(old) => had(format!("the translation of {network} to {old}")),
            }
        }
        Command::DelSnat { prefix, if_exists, .. } => {
            let gone = router.snat.remove(&Cidr::network_of(prefix)?).is_some();
            there(gone, *if_exists, name, &format!("snat {prefix}"))
        }
        Command::AddFloatingIp { external, internal, may_exist, .. } => {
            let (external, internal) = (address(external)?, address(internal)?);
            match router.floating.insert(external, internal) {
                None => Ok(true),
                Some(old) if *may_exist => Ok(old != internal),
                Some(old) => had(format!("the floating IP {external} of {old}")),
            }
        }
        Command::DelFloatingIp { external, if_exists, .. } => {
            let gone = router.floating.remove(&address(external)?).is_some();
            there(gone, *if_exists, name, &format!("floating IP {external}"))
        }
        Command::AddDnat { proto, external, internal, may_exist, .. } => {
            let (external, internal) = (endpoint(external)?, endpoint(internal)?);
            let new = Dnat { proto: *proto, external, internal };
            let same = |d: &&mut Dnat| (d.proto, d.external) == (*proto, external);
            match router.dnat.iter_mut().find(same) {
                None => router.dnat.push(new),
                Some(old) if *may_exist => return Ok(std::mem::replace(old, new) != new),
                Some(old) => return had(format!("a dnat of {external} to {}", old.internal)),
            }
            Ok(true)
        }
        Command::DelDnat { proto, external, if_exists, .. } => {
            let from = endpoint(external)?;
            let before = router.dnat.len();
            router.dnat.retain(|d| (d.proto, d.external) != (*proto, from));
            let gone = router.dnat.len() < before;
            there(gone, *if_exists, name, &format!("dnat {} {external}", proto.as_str()))
        }
        other => Err(CtlError::internal(format!("{} is no router command", other.text()))),
    }
}

fn none(router: &str, what: &str) -> CtlError {
    CtlError::not_found(format!("router \"{router}\" has no {what}"))
        .with_hint("--if-exists accepts that")
}

fn there(gone: bool, if_exists: bool, router: &str, what: &str) -> Result<bool, CtlError> {
    if gone || if_exists { Ok(gone) } else { Err(none(router, what)) }
}

fn address(text: &str) -> Result<IpAddr, CtlError> {
    let wrong = |_| CtlError::invalid(format!("{}: expected an IP address", quoted(text)));
    text.parse().map_err(wrong)
}

fn endpoint(text: &str) -> Result<Endpoint, CtlError> {
    let wrong = |_| CtlError::invalid(format!("{}: expected ADDRESS:PORT", quoted(text)));
    text.parse().map_err(wrong)
}

fn add_router(config: &mut Config, name: &str, may_exist: bool) -> Result<bool, CtlError> {
    if config.routers.contains_key(name) {
        if may_exist {
            return Ok(false);
        }
        let error = CtlError::exists(format!("router {} exists already", quoted(name)));
        return Err(error.with_hint("--may-exist accepts that"));
    }
    if !is_name(name) {
        let message = format!(
            "{} cannot name a router: expected 1 to {NAME_LIMIT} characters without spaces and \
             punctuation that has a meaning elsewhere",
            quoted(name)
        );
        return Err(CtlError::invalid(message));
    }
    let taken: BTreeSet<u16> = config.routers.values().map(|r| r.number).collect();
    let free = (0..ROUTERS_LIMIT as u16).find(|n| !taken.contains(n));
    let number = free.ok_or_else(|| {
        CtlError::invalid(format!("there are {ROUTERS_LIMIT} routers, the most possible"))
    })?;
    config.routers.insert(name.to_owned(), Router { number, ..Router::default() });
    Ok(true)
}

fn del_router(config: &mut Config, name: &str, if_exists: bool) -> Result<bool, CtlError> {
    let Some(router) = config.routers.remove(name) else {
        return if if_exists { Ok(false) } else { Err(config.no_router(name)) };
    };
    for (port, p) in &router.ports {
        if let Some(bridge) = config.bridges.get_mut(&p.bridge) {
            bridge.ports.remove(port);
        }
    }
    Ok(true)
}

fn add_port(
    config: &mut Config,
    router: &str,
    bridge: &str,
    name: &str,
    settings: &[String],
    gateway: bool,
) -> Result<bool, CtlError> {
    let who = format!("router \"{router}\", port \"{name}\"");
    let words = PortWords::read(&who, settings, gateway)?;
    let number = config.router(router)?.free_number();
    // The same checks as for any port.
    let add = Command::AddPort {
        bridge: bridge.to_owned(),
        port: name.to_owned(),
        settings: words.rest.clone(),
        may_exist: false,
    };
    super::apply(config, &add)?;
    if let Some(port) = config.bridge_mut(bridge)?.ports.get_mut(name) {
        port.settings.kind = Some(PortType::Router);
    }
    let port = RouterPort {
        bridge: bridge.to_owned(),
        number,
        mac: words.mac.unwrap_or_else(|| mac_for(router, name)),
        ip: words.ip,
        mtu: words.mtu.unwrap_or(MTU),
        via: words.via,
        ra: words.ra,
    };
    config.router_mut(router)?.ports.insert(name.to_owned(), port);
    Ok(true)
}

fn del_port(
    config: &mut Config,
    router: &str,
    name: &str,
    if_exists: bool,
) -> Result<bool, CtlError> {
    let r = config.router_mut(router)?;
    let Some(port) = r.ports.remove(name) else {
        if if_exists {
            return Ok(false);
        }
        let message = format!("router \"{router}\" has no port {}", quoted(name));
        let error = CtlError::not_found(message);
        return Err(error.suggest(name, r.ports.keys().map(String::as_str)));
    };
    if let Some(bridge) = config.bridges.get_mut(&port.bridge) {
        bridge.ports.remove(name);
    }
    Ok(true)
}

/// The gateway's port, made or changed in place: what goes through it goes on.
fn set_gateway(
    config: &mut Config,
    router: &str,
    bridge: &str,
    name: &str,
    settings: &[String],
) -> Result<bool, CtlError> {
    let before = config.clone();
    let r = config.router(router)?;
    if let Some((other, _)) = r.gateway().filter(|(n, _)| *n != name) {
        let message = format!("router \"{router}\" has a gateway by port \"{other}\"");
        return Err(CtlError::exists(message).with_hint(format!("del-gateway {router}")));
    }
    let Some(old) = r.ports.get(name).cloned() else {
        return add_port(config, router, bridge, name, settings, true);
    };
    if old.bridge != bridge {
        return Err(CtlError::exists(format!("port \"{name}\" is on bridge \"{}\"", old.bridge)));
    }
    let who = format!("router \"{router}\", port \"{name}\"");
    let words = PortWords::read(&who, settings, true)?;
    let mut own = PortSettings { kind: Some(PortType::Router), ..PortSettings::default() };
    words.rest.iter().try_for_each(|s| PORT.set(&mut own, &who, s))?;
    if let Some(Port { settings, .. }) = config.bridge_mut(bridge)?.ports.get_mut(name) {
        *settings = own;
    }
    let new = RouterPort {
        mac: words.mac.unwrap_or_else(|| mac_for(router, name)),
        mtu: words.mtu.unwrap_or(MTU),
        ip: words.ip,
        via: words.via,
        ..old
    };
    config.router_mut(router)?.ports.insert(name.to_owned(), new);
    Ok(*config != before)
}

impl Config {
    /// The router, or an error with the closest name.
    pub fn router(&self, name: &str) -> Result<&Router, CtlError> {
        self.routers.get(name).ok_or_else(|| self.no_router(name))
    }

    fn router_mut(&mut self, name: &str) -> Result<&mut Router, CtlError> {
        if !self.routers.contains_key(name) {
            return Err(self.no_router(name));
        }
        Ok(self.routers.entry(name.to_owned()).or_default())
    }

    fn no_router(&self, name: &str) -> CtlError {
        let error = CtlError::not_found(format!("no router {}", quoted(name)));
        error.suggest(name, self.routers.keys().map(String::as_str))
    }

    /// Every router by itself, and that routers and bridges have the same ports.
    pub(super) fn validate_routers(&self) -> Result<(), CtlError> {
        let mut numbers = BTreeSet::new();
        let mut ports = BTreeSet::new();
        for (name, router) in &self.routers {
            if !is_name(name) || !numbers.insert(router.number) {
                let message = format!("router {}: no name, or a number twice", quoted(name));
                return Err(CtlError::invalid(message));
            }
            router.validate(name)?;
            for (port, p) in &router.ports {
                let there = self.bridges.get(&p.bridge).and_then(|b| b.ports.get(port));
                if there.is_none_or(|p| p.port_type() != PortType::Router) || !ports.insert(port) {
                    let bridge = &p.bridge;
                    let message = format!("router \"{name}\" has port \"{port}\" on \"{bridge}\"");
                    let hint = format!("del-router-port {name} {port}");
                    return Err(CtlError::invalid(message).with_hint(hint));
                }
            }
        }
        let of_none = |(_, port, p): &(&str, &str, &Port)| {
            p.port_type() == PortType::Router && !ports.iter().any(|n| n.as_str() == *port)
        };
        match self.ports().find(of_none) {
            None => Ok(()),
            Some((_, port, _)) => {
                Err(CtlError::invalid(format!("port \"{port}\" is of no router")))
            }
        }
    }
}
