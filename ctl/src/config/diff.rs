//! What turns one configuration into another, in an order in which it can be done: what goes away first,
//! ports before their bridges, then what comes, bridges before their ports.

use super::{Bridge, Config, Port};

/// One step from the old configuration to the new one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change<'a> {
    DelPort {
        bridge: &'a str,
        name: &'a str,
        old: &'a Port,
    },
    DelBridge {
        name: &'a str,
        old: &'a Bridge,
    },
    AddBridge {
        name: &'a str,
        new: &'a Bridge,
    },
    /// The bridge's settings or those of its own port differ; its other ports are not meant.
    SetBridge {
        name: &'a str,
        old: &'a Bridge,
        new: &'a Bridge,
    },
    AddPort {
        bridge: &'a str,
        name: &'a str,
        new: &'a Port,
    },
    /// Same bridge, same type, other settings or another OpenFlow number.
    SetPort {
        bridge: &'a str,
        name: &'a str,
        old: &'a Port,
        new: &'a Port,
    },
}

/// The steps from `old` to `new`. A port that changes its type or its bridge goes and comes.
pub fn changes<'a>(old: &'a Config, new: &'a Config) -> Vec<Change<'a>> {
    let (mut goes, mut dies, mut comes) = (Vec::new(), Vec::new(), Vec::new());
    let (mut sets, mut ports_come, mut ports_set) = (Vec::new(), Vec::new(), Vec::new());
    for (name, before) in &old.bridges {
        let after = new.bridges.get(name);
        for (port, old) in &before.ports {
            let stays = after.and_then(|b| b.ports.get(port));
            if stays.is_none_or(|p| p.port_type() != old.port_type()) {
                goes.push(Change::DelPort { bridge: name, name: port, old });
            }
        }
        if after.is_none() {
            dies.push(Change::DelBridge { name, old: before });
        }
    }
    for (name, after) in &new.bridges {
        let before = old.bridges.get(name);
        match before {
            None => comes.push(Change::AddBridge { name, new: after }),
            Some(old) if old.settings != after.settings || old.local != after.local => {
                sets.push(Change::SetBridge { name, old, new: after });
            }
            Some(_) => {}
        }
        for (port, new) in &after.ports {
            match before.and_then(|b| b.ports.get(port)) {
                Some(old) if old == new => {}
                Some(old) if old.port_type() == new.port_type() => {
                    ports_set.push(Change::SetPort { bridge: name, name: port, old, new });
                }
                _ => ports_come.push(Change::AddPort { bridge: name, name: port, new }),
            }
        }
    }
    [goes, dies, comes, sets, ports_come, ports_set].concat()
}

#[cfg(test)]
mod tests {
    use super::super::tests::config;
    use super::*;

    fn words(old: &Config, new: &Config) -> Vec<String> {
        let word = |c: &Change<'_>| match c {
            Change::DelPort { bridge, name, .. } => format!("-{bridge}/{name}"),
            Change::DelBridge { name, .. } => format!("-{name}"),
            Change::AddBridge { name, .. } => format!("+{name}"),
            Change::SetBridge { name, .. } => format!("~{name}"),
            Change::AddPort { bridge, name, .. } => format!("+{bridge}/{name}"),
            Change::SetPort { bridge, name, .. } => format!("~{bridge}/{name}"),
        };
        changes(old, new).iter().map(word).collect()
    }

    #[test]
    fn steps_are_in_order() {
        let old = config(&["add-br a", "add-br b", "add-port a x", "add-port b y", "add-port b z"]);
        let new = config(&[
            "add-br b fail_mode=secure",
            "add-br c",
            "add-port c x",
            "add-port b y tag=5",
            "add-port b z type=internal",
        ]);
        let want = ["-a/x", "-b/z", "-a", "+c", "~b", "+b/z", "+c/x", "~b/y"];
        assert_eq!(words(&old, &new), want);
        assert_eq!(words(&old, &old), Vec::<String>::new());
    }
}
