//! One command on a configuration: what it changes, what it answers, or why not. Reads see the changes
//! before them. What concerns the configuration as a whole is checked afterwards, by
//! [`Config::finish`], so that `add-port … -- set port …` may complete each other.

use serde_json::{Map, Value as Json, json};

use super::{BRIDGES_LIMIT, Bridge, Config, NETDEV_NAME_LIMIT, PORTS_LIMIT, Port, is_name, paths};
use crate::command::{Command, Record};
use crate::error::{CtlError, quoted};
use crate::schema::{Atom, BRIDGE, ColumnRef, PORT, PortSettings, PortType, Value};

/// Carries out a command on the configuration and gives its answer. On an error `config` may be half
/// changed: work on a copy.
pub fn apply(config: &mut Config, command: &Command) -> Result<Json, CtlError> {
    match command {
        Command::AddBr { bridge, settings, may_exist } => {
            add_br(config, bridge, settings, *may_exist).map(changed)
        }
        Command::DelBr { bridge, if_exists } => del_br(config, bridge, *if_exists).map(changed),
        Command::AddPort { bridge, port, settings, may_exist } => {
            add_port(config, bridge, port, settings, *may_exist).map(changed)
        }
        Command::DelPort { bridge, port, if_exists } => {
            del_port(config, bridge.as_deref(), port, *if_exists).map(changed)
        }
        Command::Set { record, name, settings, if_exists } => {
            set(config, *record, name, settings, *if_exists).map(changed)
        }
        Command::Clear { record, name, columns, if_exists } => {
            clear(config, *record, name, columns, *if_exists).map(changed)
        }
        Command::Get { record, name, columns, if_exists } => {
            get(config, *record, name, columns, *if_exists)
        }
        Command::SetConntrackLimit { settings } => config.conntrack.set_limits(settings),
        Command::SetConntrackTimeout { zone, settings } => {
            config.conntrack.set_timeouts(*zone, settings)
        }
        Command::RouteAdd { prefix, bridge, settings } => {
            paths::add_route(config, prefix, bridge, settings)
        }
        Command::RouteDel { prefix } => paths::del_route(config, prefix),
        Command::NeighAdd { bridge, address, mac } => {
            paths::add_neighbour(config, bridge, address, mac)
        }
        Command::NeighDel { bridge, address } => paths::del_neighbour(config, bridge, address),
        Command::ListBr {} => Ok(json!({"bridges": config.bridges.keys().collect::<Vec<_>>()})),
        Command::BrExists { bridge } => Ok(json!({"exists": config.bridges.contains_key(bridge)})),
        Command::ListPorts { bridge } => {
            Ok(json!({"ports": config.bridge(bridge)?.ports.keys().collect::<Vec<_>>()}))
        }
        Command::PortToBr { port } => Ok(json!({"bridge": config.port(port)?.0})),
        Command::SecurityGroupSet { .. }
        | Command::SecurityGroupRemove { .. }
        | Command::SecurityGroupAdd { .. }
        | Command::SecurityGroupDel { .. }
        | Command::SecurityGroupShow { .. } => super::security::apply(config, command),
        other if other.router().is_some() => super::routers::apply(config, other),
        other => Err(CtlError::internal(format!("{} is no configuration command", other.text()))),
    }
}

fn changed(changed: bool) -> Json {
    json!({"changed": changed})
}

fn add_br(
    config: &mut Config,
    name: &str,
    settings: &[String],
    may_exist: bool,
) -> Result<bool, CtlError> {
    if config.bridges.contains_key(name) {
        if may_exist {
            return Ok(false);
        }
        return Err(CtlError::exists(format!("bridge {} exists already", quoted(name)))
            .with_hint("--may-exist accepts that"));
    }
    if !is_name(name) || name.len() > NETDEV_NAME_LIMIT {
        return Err(CtlError::invalid(format!(
            "{} cannot name a bridge: expected 1 to {NETDEV_NAME_LIMIT} characters without spaces \
             and punctuation that has a meaning elsewhere",
            quoted(name)
        )));
    }
    if let Some((holder, _)) = config.find_port(name) {
        return Err(CtlError::exists(format!(
            "cannot add bridge \"{name}\": bridge \"{holder}\" has a port of that name"
        )));
    }
    if config.bridges.len() >= BRIDGES_LIMIT {
        return Err(CtlError::invalid(format!(
            "there are {BRIDGES_LIMIT} bridges, the most possible"
        )));
    }
    let mut bridge = Bridge::default();
    for setting in settings {
        BRIDGE.set(&mut bridge.settings, &format!("bridge \"{name}\""), setting)?;
    }
    config.bridges.insert(name.to_owned(), bridge);
    Ok(true)
}

fn del_br(config: &mut Config, name: &str, if_exists: bool) -> Result<bool, CtlError> {
    config.paths.forget_bridge(name);
    match config.bridges.remove(name) {
        Some(_) => Ok(true),
        None if if_exists => Ok(false),
        None => Err(config.no_bridge(name)),
    }
}

fn add_port(
    config: &mut Config,
    bridge: &str,
    name: &str,
    settings: &[String],
    may_exist: bool,
) -> Result<bool, CtlError> {
    config.bridge(bridge)?;
    if let Some((holder, _)) = config.find_port(name) {
        if holder == bridge && may_exist {
            return Ok(false);
        }
        let error = CtlError::exists(format!("port \"{name}\" is in bridge \"{holder}\" already"));
        return Err(match holder == bridge {
            true => error.with_hint("--may-exist accepts that"),
            false => error.with_hint(format!("remove it first: del-port {holder} {name}")),
        });
    }
    if config.bridges.contains_key(name) {
        return Err(CtlError::exists(format!("cannot add port \"{name}\": it is a bridge's name")));
    }
    if !is_name(name) {
        return Err(CtlError::invalid(format!(
            "{} cannot name a port: expected 1 to {NETDEV_NAME_LIMIT} characters without spaces and \
             punctuation that has a meaning elsewhere",
            quoted(name)
        )));
    }
    if config.port_count() >= PORTS_LIMIT {
        return Err(CtlError::invalid(format!("there are {PORTS_LIMIT} ports, the most possible")));
    }
    let mut port = Port { ofport: 0, settings: PortSettings::default() };
    for setting in settings {
        PORT.set(&mut port.settings, &format!("port \"{name}\""), setting)?;
    }
    config.bridge_mut(bridge)?.ports.insert(name.to_owned(), port);
    Ok(true)
}

fn del_port(
    config: &mut Config,
    bridge: Option<&str>,
    name: &str,
    if_exists: bool,
) -> Result<bool, CtlError> {
    if let Some(bridge) = bridge {
        config.bridge(bridge)?;
    }
    let holder = match config.find_port(name) {
        Some((holder, _)) => holder.to_owned(),
        None if config.bridges.contains_key(name) => {
            let message = format!("\"{name}\" is a bridge's own port and goes with the bridge");
            return Err(CtlError::invalid(message).with_hint(format!("del-br {name}")));
        }
        None if if_exists => return Ok(false),
        None => return Err(config.no_port(name)),
    };
    if let Some(bridge) = bridge.filter(|b| *b != holder) {
        return Err(CtlError::not_found(format!(
            "port \"{name}\" is not in bridge \"{bridge}\" but in \"{holder}\""
        )));
    }
    if let Some((router, _)) = config.routers.iter().find(|(_, r)| r.ports.contains_key(name)) {
        let message = format!("port \"{name}\" belongs to router \"{router}\"");
        return Err(
            CtlError::invalid(message).with_hint(format!("del-router-port {router} {name}"))
        );
    }
    config.bridge_mut(&holder)?.ports.remove(name);
    // Its security group is no business of a port of that name that may come.
    config.security_groups.remove(name);
    Ok(true)
}

/// The settings of a port or, by the bridge's name, of a bridge's own port.
fn port_settings<'a>(config: &'a mut Config, name: &str) -> Result<&'a mut PortSettings, CtlError> {
    if config.bridges.contains_key(name) {
        return Ok(&mut config.bridge_mut(name)?.local);
    }
    let holder = config.port(name)?.0.to_owned();
    match config.bridge_mut(&holder)?.ports.get_mut(name) {
        Some(port) => Ok(&mut port.settings),
        None => Err(CtlError::internal(format!("port {} was there a moment ago", quoted(name)))),
    }
}

fn record_exists(config: &Config, record: Record, name: &str) -> bool {
    let port = record != Record::Bridge && config.find_port(name).is_some();
    port || config.bridges.contains_key(name)
}

fn set(
    config: &mut Config,
    record: Record,
    name: &str,
    settings: &[String],
    if_exists: bool,
) -> Result<bool, CtlError> {
    if if_exists && !record_exists(config, record, name) {
        return Ok(false);
    }
    if settings.is_empty() {
        return Err(CtlError::invalid(format!(
            "set {} {name}: expected KEY=VALUE, such as tag=5",
            record.as_str()
        )));
    }
    let who = format!("{} {}", record.as_str(), quoted(name));
    if record == Record::Bridge {
        let bridge = &mut config.bridge_mut(name)?.settings;
        let before = bridge.clone();
        settings.iter().try_for_each(|s| BRIDGE.set(bridge, &who, s))?;
        return Ok(*bridge != before);
    }
    let port = port_settings(config, name)?;
    let before = port.clone();
    settings.iter().try_for_each(|s| PORT.set(port, &who, s))?;
    Ok(*port != before)
}

fn clear(
    config: &mut Config,
    record: Record,
    name: &str,
    columns: &[String],
    if_exists: bool,
) -> Result<bool, CtlError> {
    if if_exists && !record_exists(config, record, name) {
        return Ok(false);
    }
    let who = format!("{} {}", record.as_str(), quoted(name));
    if record == Record::Bridge {
        let bridge = &mut config.bridge_mut(name)?.settings;
        let before = bridge.clone();
        columns.iter().try_for_each(|c| BRIDGE.clear(bridge, &who, c))?;
        return Ok(*bridge != before);
    }
    let port = port_settings(config, name)?;
    let before = port.clone();
    columns.iter().try_for_each(|c| PORT.clear(port, &who, c))?;
    Ok(*port != before)
}

/// `{"exists": …, "values": [{"column": …, "value": …}, …]}`. A key that is not there has no `value`.
fn get(
    config: &mut Config,
    record: Record,
    name: &str,
    columns: &[String],
    if_exists: bool,
) -> Result<Json, CtlError> {
    if if_exists && !record_exists(config, record, name) {
        return Ok(json!({"exists": false, "values": []}));
    }
    config.assign_ofports()?;
    let who = format!("{} {}", record.as_str(), quoted(name));
    // Without columns: everything that is set.
    if columns.is_empty() {
        let settings = match record {
            Record::Bridge => BRIDGE.settings(&config.bridge(name)?.settings),
            _ => PORT.settings(port_settings(config, name)?),
        };
        let entry = |(c, v): &(String, Value)| json!({"column": c, "value": v.to_json()});
        let values: Vec<Json> = settings.iter().map(entry).collect();
        return Ok(json!({"exists": true, "values": values}));
    }
    let mut values = Vec::with_capacity(columns.len());
    for text in columns {
        let value = read_column(config, record, name, &who, text)?;
        let label = ColumnRef::parse(text).label();
        let mut entry = Map::from_iter([("column".to_owned(), Json::from(label.as_str()))]);
        match value {
            Some(value) => drop(entry.insert("value".to_owned(), value.to_json())),
            None if if_exists => {}
            None => {
                let message = format!("{who}: {label} is not set");
                return Err(CtlError::not_found(message).with_hint("--if-exists accepts that"));
            }
        }
        values.push(Json::Object(entry));
    }
    Ok(json!({"exists": true, "values": values}))
}

fn read_column(
    config: &mut Config,
    record: Record,
    name: &str,
    who: &str,
    text: &str,
) -> Result<Option<Value>, CtlError> {
    let column = ColumnRef::parse(text);
    let string = |s: &str| Atom::String(s.to_owned());
    if record == Record::Bridge {
        let bridge = config.bridge(name)?;
        return match column.name.as_str() {
            "name" => Ok(Some(Value::Optional(Some(string(name))))),
            "ports" => Ok(Some(Value::Set(bridge.ports.keys().map(|p| string(p)).collect()))),
            _ => BRIDGE.get(&bridge.settings, who, text),
        };
    }
    let ofport = match config.bridges.contains_key(name) {
        true => super::OFPORT_LOCAL,
        false => config.port(name)?.1.ofport,
    };
    let is_local = config.bridges.contains_key(name);
    let settings = port_settings(config, name)?;
    match column.name.as_str() {
        "name" | "interfaces" => Ok(Some(Value::Optional(Some(string(name))))),
        "ofport" => Ok(Some(Value::Optional(Some(Atom::Integer(ofport.into()))))),
        "type" => {
            let kind = if is_local { PortType::Internal } else { settings.port_type() };
            Ok(Some(Value::Optional(Some(string(kind.as_str())))))
        }
        _ => PORT.get(settings, who, text),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A command from words as typed, enough of the grammar for tests of the configuration.
    pub(in crate::config) fn command(text: &str) -> Command {
        let mut words: Vec<&str> = text.split(' ').collect();
        let mut flag = |name: &str| match words.iter().position(|w| *w == name) {
            Some(at) => words.remove(at) == name,
            None => false,
        };
        let (may_exist, if_exists) = (flag("--may-exist"), flag("--if-exists"));
        let own = |w: &[&str]| w.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let record = |w: &str| match w {
            "bridge" => Record::Bridge,
            _ => Record::Port,
        };
        match words.as_slice() {
            ["add-br", br, rest @ ..] => {
                Command::AddBr { bridge: (*br).into(), settings: own(rest), may_exist }
            }
            ["del-br", br] => Command::DelBr { bridge: (*br).into(), if_exists },
            ["add-port", br, port, rest @ ..] => Command::AddPort {
                bridge: (*br).into(),
                port: (*port).into(),
                settings: own(rest),
                may_exist,
            },
            ["del-port", port] => {
                Command::DelPort { bridge: None, port: (*port).into(), if_exists }
            }
            ["del-port", br, port] => {
                Command::DelPort { bridge: Some((*br).into()), port: (*port).into(), if_exists }
            }
            ["set", r, name, rest @ ..] => Command::Set {
                record: record(r),
                name: (*name).into(),
                settings: own(rest),
                if_exists,
            },
            ["get", r, name, rest @ ..] => Command::Get {
                record: record(r),
                name: (*name).into(),
                columns: own(rest),
                if_exists,
            },
            ["clear", r, name, rest @ ..] => Command::Clear {
                record: record(r),
                name: (*name).into(),
                columns: own(rest),
                if_exists,
            },
            ["list-br"] => Command::ListBr {},
            ["br-exists", br] => Command::BrExists { bridge: (*br).into() },
            ["list-ports", br] => Command::ListPorts { bridge: (*br).into() },
            ["port-to-br", port] => Command::PortToBr { port: (*port).into() },
            other => panic!("no such command in tests: {other:?}"),
        }
    }

    fn run(config: &mut Config, text: &str) -> Json {
        apply(config, &command(text)).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn refuse(config: &Config, text: &str) -> CtlError {
        match apply(&mut config.clone(), &command(text)) {
            Err(error) => error,
            Ok(answer) => panic!("{text} was not refused: {answer}"),
        }
    }

    fn two_bridges() -> Config {
        super::super::tests::config(&["add-br br0", "add-br br1", "add-port br0 p1 tag=5"])
    }

    #[test]
    fn bridges() {
        let mut c = two_bridges();
        assert_eq!(run(&mut c, "list-br"), json!({"bridges": ["br0", "br1"]}));
        assert_eq!(run(&mut c, "br-exists br2"), json!({"exists": false}));
        assert_eq!(run(&mut c, "--may-exist add-br br0"), json!({"changed": false}));
        assert_eq!(refuse(&c, "add-br br0").kind, crate::ErrorKind::Exists);
        assert!(refuse(&c, "add-br p1").message.contains("has a port of that name"));
        assert!(refuse(&c, "add-br a-name-of-sixteen").message.contains("15"));
        assert!(refuse(&c, "add-br b fail_mode=open").message.contains("standalone or secure"));
        assert_eq!(refuse(&c, "del-br br2").hint.as_deref(), Some("did you mean \"br0\"?"));
        assert_eq!(run(&mut c, "--if-exists del-br br2"), json!({"changed": false}));
        assert_eq!(run(&mut c, "del-br br0"), json!({"changed": true}));
        assert!(c.find_port("p1").is_none());
    }

    #[test]
    fn ports_are_in_one_bridge_only() {
        let mut c = two_bridges();
        assert!(refuse(&c, "add-port br0 p1").message.contains("in bridge \"br0\" already"));
        assert!(refuse(&c, "add-port br1 p1").message.contains("in bridge \"br0\" already"));
        assert!(refuse(&c, "--may-exist add-port br1 p1").message.contains("br0"));
        assert!(refuse(&c, "add-port br0 br1").message.contains("a bridge's name"));
        assert!(refuse(&c, "add-port bro p2").hint.expect("hint").contains("br0"));
        assert_eq!(run(&mut c, "--may-exist add-port br0 p1 tag=9"), json!({"changed": false}));
        assert_eq!(c.port("p1").expect("p1").1.settings.tag, Some(5));
        assert_eq!(run(&mut c, "port-to-br p1"), json!({"bridge": "br0"}));
        assert!(refuse(&c, "del-port br1 p1").message.contains("but in \"br0\""));
        assert!(refuse(&c, "del-port br0").hint.expect("hint").contains("del-br br0"));
        assert_eq!(run(&mut c, "list-ports br0"), json!({"ports": ["p1"]}));
        assert_eq!(run(&mut c, "del-port br0 p1"), json!({"changed": true}));
        assert_eq!(run(&mut c, "--if-exists del-port p1"), json!({"changed": false}));
    }

    #[test]
    fn columns() {
        let mut c = two_bridges();
        run(&mut c, "set bridge br0 fail_mode=secure other_config:mac-aging-time=60");
        let got = run(&mut c, "get bridge br0 fail_mode other_config");
        assert_eq!(got["values"][0]["value"], "secure");
        assert_eq!(got["values"][1]["value"], json!({"mac-aging-time": "60"}));
        run(&mut c, "clear bridge br0 other_config");
        assert_eq!(run(&mut c, "get bridge br0 other_config")["values"][0]["value"], json!({}));
        assert_eq!(run(&mut c, "get port p1 ofport tag")["values"][0]["value"], 1);
        assert_eq!(run(&mut c, "get port br0 ofport type")["values"][0]["value"], 65534);
        assert!(refuse(&c, "get port p1 options:peer").message.contains("is not set"));
        let got = run(&mut c, "--if-exists get port p1 options:peer");
        assert_eq!(got["values"], json!([{"column": "options:peer"}]));
        assert_eq!(run(&mut c, "--if-exists get port p9 tag")["exists"], false);
        assert_eq!(run(&mut c, "get port p1")["values"], json!([{"column": "tag", "value": 5}]));
        assert!(refuse(&c, "set port p9 tag=1").hint.expect("hint").contains("p1"));
    }
}
