//! Connections: what is configured of them, what there are, and who hears of them.
//!
//! Each zone with timeouts of its own has one of the tracker's numbered policies for as long as it has
//! them, so that a change of its times meets the connections that are there.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use conntrack::{Cursor, Event, Invalid, Millis, Notice, POLICIES, TcpState, Timeout, Tracker};
use flow::Drop;
use serde_json::value::RawValue;

use super::EngineBackend;
use crate::backend::answer;
use crate::command::Command;
use crate::config::{Config, Conntrack};
use crate::conntrack::{connection, filter, protocol_name};
use crate::error::CtlError;
use crate::report::{self, Named, ZoneUse};

/// Connections in one page of a list at most.
const PAGE: usize = 5000;
/// Entries that are looked at for one page at most.
const PAGE_ENTRIES: usize = 1 << 18;
/// Entries that are looked at in one go.
const STEP: usize = 1024;
/// Sources that `stats` names.
const TOP: usize = 10;
/// Notices that are told in one go; more wait.
const NOTICES: usize = 8192;

/// Which policy of the tracker each zone with timeouts of its own has.
pub(super) type ZonePolicies = BTreeMap<u16, u8>;

/// Make the tracker as it is configured.
pub(super) fn configure(
    tracker: &Tracker,
    zones: &mut ZonePolicies,
    old: &Conntrack,
    new: &Conntrack,
) {
    tracker.set_limit(new.total.map_or(usize::MAX, |n| n as usize));
    tracker.set_default_zone_limit(new.per_zone);
    for zone in old.zones.keys().chain(new.zones.keys()) {
        tracker.set_zone_limit(*zone, new.zones.get(zone).copied());
    }
    let general = new.policy(None);
    tracker.set_policy(0, &general);
    zones.retain(|zone, number| {
        let stays = new.zone_timeouts.contains_key(zone);
        if !stays {
            tracker.set_zone_policy(*zone, 0);
            // Connections that were made under it are as all others from now on.
            tracker.set_policy(*number, &general);
        }
        stays
    });
    // Numbers that no zone has are as the general one, for connections left from former zones.
    let mut free = vec![true; POLICIES];
    zones.values().for_each(|n| free[usize::from(*n)] = false);
    let mut numbers = (1..=u8::MAX).filter(|n| free[usize::from(*n)]);
    for zone in new.zone_timeouts.keys() {
        // There are enough: the configuration was checked.
        if !zones.contains_key(zone)
            && let Some(number) = numbers.next()
        {
            zones.insert(*zone, number);
        }
    }
    for number in numbers {
        tracker.set_policy(number, &general);
    }
    for (zone, number) in zones {
        tracker.set_policy(*number, &new.policy(Some(*zone)));
        tracker.set_zone_policy(*zone, *number);
    }
}

/// Whether the words of a command can be understood.
pub(super) fn check(command: &Command) -> Result<(), CtlError> {
    match command {
        Command::ConntrackList { filter: words, .. }
        | Command::ConntrackFlush { filter: words } => filter(words).map(drop),
        _ => Ok(()),
    }
}

impl EngineBackend {
    fn tracker(&self) -> Result<(&Tracker, Millis), CtlError> {
        let engine = self.engine.as_ref();
        let engine = engine.ok_or_else(|| CtlError::internal("the switch is shut down"))?;
        Ok((&engine.shared().tracker, Millis(engine.now())))
    }

    /// A command about connections; `None` if it is about something else.
    pub(super) fn connections(
        &mut self,
        config: &Config,
        command: &Command,
    ) -> Result<Option<Box<RawValue>>, CtlError> {
        let done = match command {
            Command::ConntrackList { filter: words, from } => {
                answer(&self.list_connections(words, from.unwrap_or(0))?)
            }
            Command::ConntrackFlush { filter: words } => answer(&self.flush_connections(words)?),
            Command::ConntrackStats {} => answer(&self.connection_stats()?),
            Command::ConntrackLimit {} => answer(&self.limits()?),
            Command::ConntrackTimeout { zone } => answer(&timeouts(&config.conntrack, *zone)),
            _ => return Ok(None),
        }?;
        Ok(Some(done))
    }

    fn list_connections(
        &self,
        words: &[String],
        from: u64,
    ) -> Result<report::ConnectionsReport, CtlError> {
        let filter = filter(words)?;
        let (tracker, now) = self.tracker()?;
        let mut connections = Vec::new();
        let mut cursor = Some(Cursor::from_number(from));
        let mut seen = 0;
        while let Some(at) = cursor
            && connections.len() < PAGE
            && seen < PAGE_ENTRIES
        {
            seen += STEP;
            cursor = tracker.walk(now, at, STEP, |c| {
                if filter.matches(c) {
                    connections.push(connection(c));
                }
            });
        }
        Ok(report::ConnectionsReport { connections, next: cursor.map(Cursor::number) })
    }

    fn flush_connections(&self, words: &[String]) -> Result<report::ConnectionsFlushed, CtlError> {
        let filter = filter(words)?;
        let (tracker, now) = self.tracker()?;
        let (ended, _) = tracker.flush(now, &filter, Cursor::default(), usize::MAX);
        Ok(report::ConnectionsFlushed { flushed: ended as u64 })
    }

    fn connection_stats(&self) -> Result<report::ConntrackStats, CtlError> {
        let (tracker, now) = self.tracker()?;
        let census = tracker.census(now, TOP);
        let named = |name: &str, count: u64, description: &str| Named {
            name: name.to_owned(),
            count,
            description: description.to_owned(),
        };
        let states = TcpState::ALL.iter().zip(census.tcp).filter(|(_, n)| *n > 0);
        let states = states.map(|(s, n)| named(&s.name().to_lowercase(), n as u64, "")).collect();
        let mut protocols: Vec<_> = census.protocols.iter().collect();
        protocols.sort_unstable();
        let mut zones: Vec<_> = census.zones.into_iter().collect();
        zones.sort_unstable();
        let events = Event::ALL.iter().map(|e| named(e.name(), tracker.count(*e), e.text()));
        let invalid = Invalid::ALL.iter().map(|w| named(w.name(), tracker.count_invalid(*w), ""));
        let workers = self.engine.iter().flat_map(|e| &e.shared().workers);
        let dropped = |why: Drop| {
            workers.clone().map(|w| w.drops[why as usize].load(Ordering::Relaxed)).sum::<u64>()
        };
        let reasons = [Drop::CtInvalid, Drop::CtFull, Drop::NatExhausted, Drop::FragmentLimit];
        let drops = reasons.map(|why| named(why.name(), dropped(why), why.text()));
        Ok(report::ConntrackStats {
            connections: census.total as u64,
            limit: tracker.limit() as u64,
            unanswered: census.unanswered as u64,
            translated: census.translated as u64,
            states,
            protocols: protocols
                .into_iter()
                .map(|(p, n)| named(&protocol_name(*p), *n as u64, ""))
                .collect(),
            zones: zones
                .into_iter()
                .map(|(zone, n)| ZoneUse {
                    zone,
                    connections: n as u64,
                    limit: tracker.zone_use(zone).1.map(u64::from),
                })
                .collect(),
            top_sources: census
                .top_sources
                .into_iter()
                .map(|(zone, ip, n)| report::TopSource {
                    zone,
                    source: ip.to_string(),
                    connections: n as u64,
                })
                .collect(),
            events: events.filter(|n| n.count > 0).collect(),
            invalid: invalid.filter(|n| n.count > 0).collect(),
            drops: drops.into_iter().filter(|n| n.count > 0).collect(),
        })
    }

    fn limits(&self) -> Result<report::LimitsReport, CtlError> {
        let (tracker, _) = self.tracker()?;
        let row = |zone: u16| {
            let (n, limit) = tracker.zone_use(zone);
            let shown = n > 0 || tracker.zone_limit(zone).is_some();
            let row = ZoneUse { zone, connections: n.into(), limit: limit.map(u64::from) };
            shown.then_some(row)
        };
        Ok(report::LimitsReport {
            connections: tracker.len() as u64,
            total: tracker.limit() as u64,
            zone: tracker.default_zone_limit().map(u64::from),
            zones: (0..=u16::MAX).filter_map(row).collect(),
        })
    }

    pub(super) fn watch_tracker(&mut self, on: bool) {
        self.connections_watched = on;
        if let Ok((tracker, _)) = self.tracker() {
            tracker.set_watched(on);
            if !on {
                while tracker.next_notice().is_some() {}
            }
            self.notices_lost = self.tracker().map_or(0, |(t, _)| t.lost_notices());
        }
    }

    pub(super) fn hear_tracker(&mut self) -> (Vec<Notice>, u64) {
        let before = self.notices_lost;
        let Ok((tracker, _)) = self.tracker() else { return Default::default() };
        let notices = std::iter::from_fn(|| tracker.next_notice()).take(NOTICES).collect();
        let lost = tracker.lost_notices();
        self.notices_lost = lost;
        (notices, lost - before)
    }
}

fn timeouts(config: &Conntrack, zone: Option<u16>) -> report::TimeoutsReport {
    let policy = config.policy(zone);
    let own = zone.map_or(Some(&config.timeouts), |z| config.zone_timeouts.get(&z));
    let entry = |t: &Timeout| report::TimeoutEntry {
        name: t.name().to_owned(),
        seconds: policy.get(*t),
        set: own.is_some_and(|own| own.contains_key(t.name())),
        description: t.text().to_owned(),
    };
    report::TimeoutsReport {
        zone,
        timeouts: Timeout::ALL.iter().map(entry).collect(),
        zones: config.zone_timeouts.keys().copied().collect(),
    }
}
