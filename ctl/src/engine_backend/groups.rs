//! Groups on the socket: read from text, changed as one batch, written back with their counters.

use std::sync::atomic::Ordering;

use ofproto::action::GroupId;
use ofproto::flowmod::FlowFilter;
use ofproto::group::{GroupCommand, GroupMod};
use ofproto::group_table::{GroupChange, GroupEntry};
use ofproto::rule::RuleStats;
use ofproto::text::{NoNames, PortNames, parse_group, parse_groups, show_group};
use serde_json::value::RawValue;

use super::EngineBackend;
use super::flows::{Names, refused};
use crate::backend::answer;
use crate::command::Command;
use crate::config::Config;
use crate::error::CtlError;
use crate::report;

/// What a command wants done with groups.
pub(super) enum Wanted {
    Mods(Vec<GroupMod>),
    Dump { only: Option<GroupId>, names: bool },
    Stats(Option<GroupId>),
}

/// Read what a command says about groups; `None` if it is about something else.
pub(super) fn read(config: &Config, command: &Command) -> Result<Option<Wanted>, CtlError> {
    let one = |bridge: &str, text: &str, command| {
        let names = Names::of(config, bridge)?;
        let read = parse_group(text, command, &names);
        read.map(|m| Wanted::Mods(vec![m])).map_err(|e| refused("group", &e))
    };
    let only = |bridge: &str, text: &Option<String>| {
        let Some(text) = text else { return Ok(None) };
        let names = Names::of(config, bridge)?;
        let read = parse_group(text, GroupCommand::Delete, &names);
        read.map(|m| (!m.all).then_some(m.group.id)).map_err(|e| refused("group", &e))
    };
    Ok(Some(match command {
        Command::AddGroup { bridge, group } => one(bridge, group, GroupCommand::Add)?,
        Command::AddGroups { bridge, groups } => {
            let names = Names::of(config, bridge)?;
            let read = parse_groups(groups, GroupCommand::Add, &names);
            Wanted::Mods(read.map_err(|e| refused("groups", &e))?)
        }
        Command::ModGroup { bridge, group, may_create } => {
            let modify = [GroupCommand::Modify, GroupCommand::AddOrModify];
            one(bridge, group, modify[usize::from(*may_create)])?
        }
        Command::DelGroups { bridge, group } => {
            let text = group.as_deref().unwrap_or("group_id=all");
            one(bridge, text, GroupCommand::Delete)?
        }
        Command::InsertBuckets { bridge, group } => one(bridge, group, GroupCommand::InsertBucket)?,
        Command::RemoveBuckets { bridge, group } => one(bridge, group, GroupCommand::RemoveBucket)?,
        Command::DumpGroups { bridge, group, names } => {
            Wanted::Dump { only: only(bridge, group)?, names: *names }
        }
        Command::DumpGroupStats { bridge, group } => Wanted::Stats(only(bridge, group)?),
        _ => return Ok(None),
    }))
}

impl EngineBackend {
    /// Carry out a command about groups.
    pub(super) fn groups(
        &mut self,
        config: &Config,
        bridge: &str,
        wanted: Wanted,
    ) -> Result<Box<RawValue>, CtlError> {
        let now = self.now();
        let id = self.bridge_id(bridge)?;
        match wanted {
            Wanted::Mods(mods) => {
                let done = self.switch.apply_group_mods(id, &mods, now);
                self.changed_flows(bridge, done.map_err(|(_, e)| change_refused(&e))?)
            }
            Wanted::Dump { only, names } => {
                let names = if names { Some(Names::of(config, bridge)?) } else { None };
                let ports: &dyn PortNames = names.as_ref().map_or(&NoNames, |n| n);
                let text = |g: &GroupEntry| {
                    let mut text = String::new();
                    show_group(&mut text, g, ports);
                    text
                };
                let groups = self.groups_of(bridge, only)?.iter().map(|g| text(g)).collect();
                answer(&report::GroupsReport { bridge: bridge.to_owned(), groups })
            }
            Wanted::Stats(only) => {
                self.count_all()?;
                let groups = self.groups_of(bridge, only)?;
                let stats = groups.iter().map(|g| self.group_stats(id, g, now)).collect();
                answer(&report::GroupStatsReport { bridge: bridge.to_owned(), groups: stats })
            }
        }
    }

    /// The bridge's groups, or one of them, by number.
    fn groups_of(
        &self,
        bridge: &str,
        only: Option<GroupId>,
    ) -> Result<Vec<std::sync::Arc<GroupEntry>>, CtlError> {
        let id = self.bridge_id(bridge)?;
        let all = self.switch.bridge(id).into_iter().flat_map(|b| b.groups.values());
        let mut list: Vec<_> = all.filter(|g| only.is_none_or(|o| o == g.id)).cloned().collect();
        list.sort_by_key(|g| g.id);
        Ok(list)
    }

    fn group_stats(
        &self,
        bridge: ofproto::snapshot::BridgeId,
        g: &GroupEntry,
        now: u64,
    ) -> report::GroupStats {
        let read =
            |s: &RuleStats| (s.packets.load(Ordering::Relaxed), s.bytes.load(Ordering::Relaxed));
        let to_it = FlowFilter { out_group: Some(g.id), ..FlowFilter::default() };
        let (packets, bytes) = read(&g.stats);
        let bucket = |(b, s): (&ofproto::group::Bucket, &std::sync::Arc<RuleStats>)| {
            let (packets, bytes) = read(s);
            report::BucketStats { bucket: b.id, packets, bytes }
        };
        report::GroupStats {
            group: g.id.0,
            duration: now.saturating_sub(g.created) as f64 / 1000.0,
            references: self.switch.select(bridge, &to_it).len() as u64,
            packets,
            bytes,
            buckets: g.buckets.iter().zip(&*g.bucket_stats).map(bucket).collect(),
        }
    }
}

fn change_refused(e: &GroupChange) -> CtlError {
    match e {
        GroupChange::Exists(_) => CtlError::exists(e.to_string())
            .with_hint("change it with mod-group, or remove it first with del-groups"),
        GroupChange::Missing(_) => CtlError::not_found(e.to_string()),
        _ => CtlError::invalid(e.to_string()),
    }
}
