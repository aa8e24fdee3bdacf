//! What is configured of connection tracking: how many connections there may be, and how long they live.

use std::collections::BTreeMap;

use conntrack::{MAX_SECONDS, POLICIES, Policy, Timeout};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::error::{CtlError, quoted};
use crate::schema::value::parse_int;

/// Most zones with timeouts of their own: one policy is the default.
pub const TIMEOUT_ZONES: usize = POLICIES - 1;

/// Limits and timeouts; what is not set is at its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Conntrack {
    /// Most connections of all zones together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u32>,
    /// Most connections of each zone that has no limit of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_zone: Option<u32>,
    /// Most connections of these zones.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub zones: BTreeMap<u16, u32>,
    /// Seconds by name, for zones that have none of their own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub timeouts: BTreeMap<String, u32>,
    /// The same for these zones; what one does not name is as for the others.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub zone_timeouts: BTreeMap<u16, BTreeMap<String, u32>>,
}

impl Conntrack {
    /// Whether nothing is set.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The timeouts of a zone, or those of zones that have none of their own.
    pub fn policy(&self, zone: Option<u16>) -> Policy {
        let mut policy = Policy::default();
        let own = zone.and_then(|z| self.zone_timeouts.get(&z));
        for (name, seconds) in self.timeouts.iter().chain(own.into_iter().flatten()) {
            if let Some(t) = timeout(name) {
                // Checked when it was set or read.
                let _ = policy.set(t, *seconds);
            }
        }
        policy
    }

    /// `total=N`, `zone=N` (every zone without one of its own) and `zone:5=N`; `none` for N is the
    /// default again.
    pub(super) fn set_limits(&mut self, settings: &[String]) -> Result<Json, CtlError> {
        let before = self.clone();
        for setting in settings {
            let (key, value) = setting.split_once('=').ok_or_else(|| limit_expected(setting))?;
            let number = match value {
                "none" => None,
                n => Some(parse_int(n, 0, u32::MAX - 2).ok_or_else(|| limit_expected(setting))?),
            };
            match (key, key.strip_prefix("zone:")) {
                ("total", _) if number == Some(0) => return Err(limit_expected(setting)),
                ("total", _) => self.total = number,
                ("zone", _) => self.per_zone = number,
                (_, Some(zone)) => {
                    let zone =
                        parse_int(zone, 0, u16::MAX).ok_or_else(|| limit_expected(setting))?;
                    match number {
                        Some(n) => drop(self.zones.insert(zone, n)),
                        None => drop(self.zones.remove(&zone)),
                    }
                }
                _ => return Err(limit_expected(setting).suggest(key, ["total", "zone", "zone:5"])),
            }
        }
        Ok(json!({"changed": *self != before}))
    }

    /// `NAME=SECONDS`; `none` for SECONDS is the default again.
    pub(super) fn set_timeouts(
        &mut self,
        zone: Option<u16>,
        settings: &[String],
    ) -> Result<Json, CtlError> {
        let before = self.clone();
        let times = match zone {
            Some(zone) => self.zone_timeouts.entry(zone).or_default(),
            None => &mut self.timeouts,
        };
        for setting in settings {
            let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
            let error = |what: &str| {
                CtlError::invalid(format!("timeout {}: expected {what}", quoted(setting)))
            };
            if timeout(name).is_none() {
                let names = Timeout::ALL.iter().map(|t| t.name());
                return Err(error("NAME=SECONDS, such as udp_first=30").suggest(name, names));
            }
            match (value, parse_int(value, 1, MAX_SECONDS)) {
                ("none", _) => drop(times.remove(name)),
                (_, Some(seconds)) => drop(times.insert(name.to_owned(), seconds)),
                _ => return Err(error(&format!("seconds from 1 to {MAX_SECONDS}, or none"))),
            }
        }
        self.zone_timeouts.retain(|_, t| !t.is_empty());
        Ok(json!({"changed": *self != before}))
    }

    /// What no command has checked: what was read from a file.
    pub(super) fn validate(&self) -> Result<(), CtlError> {
        let all = self.zone_timeouts.values().chain([&self.timeouts]).flatten();
        for (name, seconds) in all {
            if timeout(name).is_none() || !(1..=MAX_SECONDS).contains(seconds) {
                return Err(CtlError::invalid(format!("timeout {}: {seconds} s", quoted(name))));
            }
        }
        if self.zone_timeouts.len() > TIMEOUT_ZONES {
            return Err(CtlError::invalid(format!(
                "more than {TIMEOUT_ZONES} zones have timeouts of their own"
            )));
        }
        Ok(())
    }
}

fn limit_expected(setting: &str) -> CtlError {
    CtlError::invalid(format!(
        "limit {}: expected total=N, zone=N or zone:5=N, with none for no limit of its own",
        quoted(setting)
    ))
}

/// The timeout of that name.
pub fn timeout(name: &str) -> Option<Timeout> {
    Timeout::ALL.iter().copied().find(|t| t.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn limits_are_set_and_taken_back() {
        let mut c = Conntrack::default();
        c.set_limits(&words("total=1000 zone=50 zone:5=7 zone:6=0")).expect("set");
        assert_eq!((c.total, c.per_zone), (Some(1000), Some(50)));
        assert_eq!(c.zones, [(5, 7), (6, 0)].into());
        let same = c.set_limits(&words("zone:5=7")).expect("set");
        assert_eq!(same, json!({"changed": false}));
        c.set_limits(&words("total=none zone=none zone:5=none zone:6=none")).expect("set");
        assert!(c.is_default());
        for bad in ["total=0", "total", "zone:x=1", "zone:70000=1", "totl=5", "zone=-1"] {
            let e = c.set_limits(&words(bad)).expect_err(bad);
            assert!(e.message.contains(bad), "{e}");
        }
        assert!(c.is_default());
    }

    #[test]
    fn timeouts_of_a_zone_stand_on_the_others() {
        let mut c = Conntrack::default();
        c.set_timeouts(None, &words("udp_first=30 icmp_first=5")).expect("set");
        c.set_timeouts(Some(9), &words("udp_first=10")).expect("set");
        let (all, nine) = (c.policy(None), c.policy(Some(9)));
        let get = |p: &Policy, n: &str| p.get(timeout(n).expect("known"));
        assert_eq!((get(&all, "udp_first"), get(&nine, "udp_first")), (30, 10));
        assert_eq!((get(&all, "icmp_first"), get(&nine, "icmp_first")), (5, 5));
        assert_eq!(c.policy(Some(8)), all);
        c.set_timeouts(Some(9), &words("udp_first=none")).expect("set");
        assert!(c.zone_timeouts.is_empty());
        let e = c.set_timeouts(None, &words("udp_frist=5")).expect_err("unknown");
        assert_eq!(e.hint.as_deref(), Some("did you mean \"udp_first\"?"));
        for bad in ["udp_first=0", "udp_first=9999999999", "udp_first=", "udp_first"] {
            c.set_timeouts(None, &words(bad)).expect_err(bad);
        }
    }

    #[test]
    fn there_are_only_so_many_policies() {
        let mut c = Conntrack::default();
        for zone in 0..TIMEOUT_ZONES as u16 {
            c.set_timeouts(Some(zone), &words("udp_first=10")).expect("set");
        }
        c.validate().expect("good");
        c.set_timeouts(Some(9999), &words("udp_first=10")).expect("set");
        c.validate().expect_err("too many");
    }
}
