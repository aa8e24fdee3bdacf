//! What is configured of the ways to tunnels' remote ends where the kernel does not know them: routes by
//! a bridge, with the switch's own addresses, and neighbours.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use tunnel::route::Prefix;

use super::Config;
use crate::error::{CtlError, quoted};
use crate::schema::Mac;

/// Most routes, and most neighbours of one bridge.
pub const PATHS_LIMIT: usize = 4096;

/// Routes and neighbours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Paths {
    /// By destination, `ADDRESS/LENGTH`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub routes: BTreeMap<String, Route>,
    /// By bridge and address.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub neighbours: BTreeMap<String, BTreeMap<IpAddr, Mac>>,
}

/// A route by a bridge's own port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    pub bridge: String,
    /// The next hop; the destination itself when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// The address to send from; where the kernel does not have it, the switch itself does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src: Option<IpAddr>,
}

impl Paths {
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty() && self.neighbours.is_empty()
    }

    /// What belongs to a bridge goes with it.
    pub(super) fn forget_bridge(&mut self, bridge: &str) {
        self.routes.retain(|_, r| r.bridge != bridge);
        self.neighbours.remove(bridge);
    }
}

fn prefix(text: &str) -> Result<Prefix, CtlError> {
    text.parse().map_err(|e| CtlError::invalid(format!("route: {e}")))
}

fn is_host(a: &IpAddr) -> bool {
    let broadcast = matches!(a, IpAddr::V4(a) if a.is_broadcast());
    !a.is_unspecified() && !a.is_multicast() && !a.is_loopback() && !broadcast
}

pub(super) fn add_route(
    config: &mut Config,
    text: &str,
    bridge: &str,
    settings: &[String],
) -> Result<Json, CtlError> {
    config.bridge(bridge)?;
    let prefix = prefix(text)?;
    let mut route = Route { bridge: bridge.to_owned(), via: None, src: None };
    for setting in settings {
        let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
        let error =
            |what: &str| CtlError::invalid(format!("route: {}: expected {what}", quoted(setting)));
        let to = match key {
            "via" => &mut route.via,
            "src" => &mut route.src,
            _ => return Err(error("via=ADDRESS or src=ADDRESS").suggest(key, ["via", "src"])),
        };
        let address = value.parse().ok().filter(is_host);
        if to.replace(address.ok_or_else(|| error("an address of one host"))?).is_some() {
            return Err(error("it once"));
        }
    }
    check(&prefix, &route)?;
    let key = prefix.to_string();
    match config.paths.routes.get(&key) {
        Some(there) if *there == route => return Ok(json!({"changed": false})),
        Some(there) => {
            let message = format!("there is a route to {key} by {} already", there.bridge);
            return Err(CtlError::exists(message).with_hint(format!("route del {key}")));
        }
        None => {}
    }
    config.paths.routes.insert(key, route);
    Ok(json!({"changed": true}))
}

fn check(prefix: &Prefix, route: &Route) -> Result<(), CtlError> {
    for (name, address) in [("via", &route.via), ("src", &route.src)] {
        if let Some(a) = address.filter(|a| a.is_ipv4() != prefix.address().is_ipv4()) {
            return Err(CtlError::invalid(format!(
                "route to {prefix}: {name}={a} is of another IP version"
            )));
        }
    }
    Ok(())
}

pub(super) fn del_route(config: &mut Config, text: &str) -> Result<Json, CtlError> {
    let key = prefix(text)?.to_string();
    if config.paths.routes.remove(&key).is_none() {
        let error = CtlError::not_found(format!("no route to {key} was added to the switch"));
        return Err(error.suggest(&key, config.paths.routes.keys().map(String::as_str)));
    }
    Ok(json!({"changed": true}))
}

fn neighbour(text: &str) -> Result<IpAddr, CtlError> {
    let address = text.parse().ok().filter(is_host);
    address.ok_or_else(|| {
        CtlError::invalid(format!("neighbour {}: expected the IP address of a host", quoted(text)))
    })
}

pub(super) fn add_neighbour(
    config: &mut Config,
    bridge: &str,
    address: &str,
    mac: &str,
) -> Result<Json, CtlError> {
    config.bridge(bridge)?;
    let address = neighbour(address)?;
    let parsed: Option<Mac> = mac.parse().ok();
    let mac = parsed.filter(|m| m.bytes()[0] & 1 == 0).ok_or_else(|| {
        CtlError::invalid(format!(
            "neighbour {address}: {}: expected a unicast MAC such as 02:00:00:00:00:01",
            quoted(mac)
        ))
    })?;
    let old = config.paths.neighbours.entry(bridge.to_owned()).or_default().insert(address, mac);
    Ok(json!({"changed": old != Some(mac)}))
}

pub(super) fn del_neighbour(
    config: &mut Config,
    bridge: &str,
    address: &str,
) -> Result<Json, CtlError> {
    config.bridge(bridge)?;
    let address = neighbour(address)?;
    let of_bridge = config.paths.neighbours.get_mut(bridge);
    if of_bridge.and_then(|n| n.remove(&address)).is_none() {
        let message = format!("no neighbour {address} was added to bridge \"{bridge}\"");
        return Err(CtlError::not_found(message)
            .with_hint("those that were learned go by themselves when they do not answer"));
    }
    config.paths.neighbours.retain(|_, n| !n.is_empty());
    Ok(json!({"changed": true}))
}

/// What has to be right of all together, also of what was read from a file.
pub(super) fn validate(config: &Config) -> Result<(), CtlError> {
    let paths = &config.paths;
    let mut owners: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for (key, route) in &paths.routes {
        config.bridge(&route.bridge)?;
        check(&prefix(key)?, route)?;
        if let Some(src) = route.src
            && let Some(other) = owners.insert(src, &route.bridge)
            && other != route.bridge
        {
            return Err(CtlError::invalid(format!(
                "route to {key}: src={src} is an address of bridge \"{other}\" already"
            )));
        }
    }
    for (bridge, of_bridge) in &paths.neighbours {
        config.bridge(bridge)?;
        if of_bridge.len() > PATHS_LIMIT {
            return Err(CtlError::invalid(format!(
                "bridge \"{bridge}\": more than {PATHS_LIMIT} neighbours"
            )));
        }
    }
    if paths.routes.len() > PATHS_LIMIT {
        return Err(CtlError::invalid(format!("more than {PATHS_LIMIT} routes")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let mut config = Config::default();
        for name in ["br-phy", "br-ex"] {
            config.bridges.insert(name.to_owned(), Default::default());
        }
        config
    }

    fn route(config: &mut Config, line: &str) -> Result<Json, CtlError> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        add_route(config, &words[0], &words[1], &words[2..])
    }

    #[test]
    fn routes_come_and_go() {
        let mut c = config();
        route(&mut c, "198.51.100.0/24 br-phy via=192.0.2.254 src=192.0.2.1").expect("good");
        let again = route(&mut c, "198.51.100.0/24 br-phy src=192.0.2.1 via=192.0.2.254");
        assert_eq!(again.expect("the same"), json!({"changed": false}));
        let other = route(&mut c, "198.51.100.0/24 br-phy").expect_err("another");
        assert!(other.hint.expect("a hint").contains("route del 198.51.100.0/24"));
        validate(&c).expect("good");
        route(&mut c, "2001:db8::/32 br-ex src=2001:db8::1").expect("good");
        route(&mut c, "203.0.113.0/24 br-ex src=192.0.2.1").expect("alone it is good");
        assert!(validate(&c).expect_err("two owners").message.contains("br-phy"));
        c.paths.forget_bridge("br-ex");
        validate(&c).expect("good");
        del_route(&mut c, "198.51.100.0/24").expect("there");
        assert!(c.paths.is_empty());
        let error = del_route(&mut c, "198.51.100.0/24").expect_err("gone");
        assert!(error.message.contains("198.51.100.0/24"));
    }

    #[test]
    fn mistakes_are_named() {
        let mut c = config();
        for (line, word) in [
            ("10.0.0.1/8 br-phy", "10.0.0.1/8"),
            ("10.0.0.0/8 br-pyh", "br-pyh"),
            ("10.0.0.0/8 br-phy gw=1.2.3.4", "via=ADDRESS"),
            ("10.0.0.0/8 br-phy via=fd00::1", "another IP version"),
            ("10.0.0.0/8 br-phy via=224.0.0.1", "one host"),
            ("10.0.0.0/8 br-phy via=10.0.0.1 via=10.0.0.2", "once"),
            ("10.0.0.0/8 br-phy via", "one host"),
        ] {
            let error = route(&mut c, line).expect_err(line);
            assert!(error.message.contains(word), "{error}");
        }
        add_neighbour(&mut c, "br-phy", "10.0.0.9", "03:00:00:00:00:01").expect_err("multicast");
        add_neighbour(&mut c, "br-phy", "10.0.0.256", "02:00:00:00:00:01").expect_err("address");
        assert!(c.paths.is_empty());
        add_neighbour(&mut c, "br-phy", "10.0.0.9", "02:00:00:00:00:01").expect("good");
        del_neighbour(&mut c, "br-phy", "10.0.0.8").expect_err("another");
        del_neighbour(&mut c, "br-phy", "10.0.0.9").expect("there");
        assert!(c.paths.is_empty());
    }
}
