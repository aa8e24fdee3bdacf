//! How are groups read and written?
//!
//! `group_id=1,type=select,selection_method=hash,fields(ip_src),bucket=weight:2,output:1,bucket=...`:
//! settings first, then buckets, each with its own settings and its actions.

use std::fmt::Write;

use super::action_read::{ActionReader, Place};
use super::action_show::{show_actions, show_value};
use super::error::{Fault, Parsed, TextError, unknown};
use super::names::{PortNames, field_of, parse_port, show_port};
use super::scan::{Item, Items};
use super::value::{number, ranged};
use crate::action::GroupId;
use crate::check::Shape;
use crate::group::{
    Bucket, BucketPlace, Group, GroupCommand, GroupMod, GroupType, MAX_BUCKET_ID, MAX_BUCKETS,
    MAX_GROUP, Selection,
};
use crate::mf::Mf;

const WORDS: [&str; 7] = [
    "group_id",
    "type",
    "selection_method",
    "selection_method_param",
    "fields",
    "command_bucket_id",
    "bucket",
];
const BUCKET_WORDS: [&str; 5] = ["bucket_id", "weight", "watch_port", "watch_group", "actions"];

/// Read a change of one group.
///
/// # Errors
/// Where the text is wrong and why.
pub fn parse_group(
    text: &str,
    command: GroupCommand,
    ports: &dyn PortNames,
) -> Result<GroupMod, TextError> {
    group(text, command, ports).map_err(|f| f.locate(text))
}

/// Read a file of groups, one a line; a line may begin with `add`, `modify`, `add_or_mod`,
/// `delete`, `insert_bucket` or `remove_bucket` in place of `command`, `#` begins a comment.
///
/// # Errors
/// The first line that is wrong, where in it and why.
pub fn parse_groups(
    text: &str,
    command: GroupCommand,
    ports: &dyn PortNames,
) -> Result<Vec<GroupMod>, TextError> {
    let mut out = Vec::new();
    for line in text.lines() {
        let body = super::flow_read::without_comment(line).trim();
        if body.is_empty() || body.starts_with("OFPST_GROUP_DESC ") {
            continue;
        }
        let (word, rest) = body.split_at(body.find([' ', ',', '\t']).unwrap_or(body.len()));
        let given = GroupCommand::ALL.iter().find(|(n, _)| *n == word);
        let (command, body) = given.map_or((command, body), |(_, c)| (*c, rest));
        out.push(group(body, command, ports).map_err(|f| f.locate(text))?);
    }
    Ok(out)
}

/// What was read of a group so far.
#[derive(Default)]
struct Reader<'a> {
    id: Option<Option<GroupId>>,
    kind: Option<GroupType>,
    method: Option<(&'a str, Item<'a>)>,
    param: Option<(u64, Item<'a>)>,
    fields: Option<(Vec<(Mf, u128)>, Item<'a>)>,
    place: Option<(BucketPlace, Item<'a>)>,
    buckets: Vec<(Option<u32>, Bucket)>,
}

fn group<'a>(text: &'a str, command: GroupCommand, ports: &dyn PortNames) -> Parsed<'a, GroupMod> {
    let (head, tail) = match bucket_start(text) {
        Some(at) => (&text[..at], &text[at..]),
        None => (text, ""),
    };
    let mut r = Reader::default();
    let mut items = Items::new(head);
    while let Some(item) = items.next()? {
        r.setting(&item)?;
    }
    r.read_buckets(tail, ports)?;
    r.finish(text, command)
}

/// Where the first `bucket=` is.
fn bucket_start(text: &str) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = text[from..].find("bucket=").map(|i| i + from) {
        if at == 0 || matches!(text.as_bytes()[at - 1], b',' | b' ' | b'\t') {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

impl<'a> Reader<'a> {
    fn setting(&mut self, item: &Item<'a>) -> Parsed<'a, ()> {
        match item.key {
            "group_id" => self.id = Some(group_id(item.need("a group's number")?)?),
            "type" => self.kind = Some(group_type(item.need("a type")?)?),
            "selection_method" => self.method = Some((item.need("a method")?, *item)),
            "selection_method_param" => {
                let n = number(item.need("a number")?, 64)? as u64;
                self.param = Some((n, *item));
            }
            "fields" => self.fields = Some((hash_fields(item.value)?, *item)),
            "command_bucket_id" => {
                self.place = Some((bucket_place(item.need("a bucket's id")?)?, *item));
            }
            key => return Err(unknown(item.key, "setting of a group", key, WORDS)),
        }
        Ok(())
    }

    fn read_buckets(&mut self, mut text: &'a str, ports: &dyn PortNames) -> Parsed<'a, ()> {
        while let Some(rest) = text.strip_prefix("bucket=") {
            let end = bucket_start(rest).unwrap_or(rest.len());
            if self.buckets.len() == MAX_BUCKETS {
                return Err(Fault::new(rest, format_args!("more than {MAX_BUCKETS} buckets")));
            }
            self.buckets.push(bucket(&rest[..end], ports)?);
            text = &rest[end..];
        }
        Ok(())
    }

    fn finish(mut self, text: &'a str, command: GroupCommand) -> Parsed<'a, GroupMod> {
        let end = &text[text.len()..];
        let Some(id) = self.id else {
            return Err(Fault::new(end, "group_id=N is missing"));
        };
        if id.is_none() && command != GroupCommand::Delete {
            return Err(Fault::new(text, "group_id=all is for deletions only"));
        }
        let wants_place =
            matches!(command, GroupCommand::InsertBucket | GroupCommand::RemoveBucket);
        let place = match (self.place, wants_place) {
            (Some((place, _)), true) => Some(place),
            (None, false) => None,
            (Some((_, item)), false) => {
                return Err(Fault::new(item.all, "this is for changes of single buckets only"));
            }
            (None, true) => return Err(Fault::new(end, "command_bucket_id=ID is missing")),
        };
        let no_type = command == GroupCommand::Delete || wants_place;
        if no_type && self.kind.is_some() {
            return Err(Fault::new(text, "this change takes no type"));
        }
        if self.kind.is_none() && !no_type {
            return Err(Fault::new(end, "type=all, select, indirect or ff is missing"));
        }
        if !self.buckets.is_empty()
            && matches!(command, GroupCommand::Delete | GroupCommand::RemoveBucket)
        {
            return Err(Fault::new(text, "this change takes no buckets"));
        }
        let (selection, selection_param) = self.selection()?;
        let group = Group {
            id: id.unwrap_or(GroupId(0)),
            kind: self.kind.unwrap_or(GroupType::All),
            selection,
            selection_param,
            buckets: number_buckets(std::mem::take(&mut self.buckets)),
        };
        if !no_type {
            group.check().map_err(|e| Fault::new(text, e))?;
        }
        Ok(GroupMod { command, all: id.is_none(), place, group })
    }

    fn selection(&mut self) -> Parsed<'a, (Selection, u64)> {
        if let Some((_, item)) = self.method
            && self.kind != Some(GroupType::Select)
        {
            return Err(Fault::new(item.all, "only groups of type select select"));
        }
        let method = self.method.map(|(m, _)| m);
        if let Some((_, item)) = self.fields.as_ref().filter(|_| method != Some("hash")) {
            return Err(Fault::new(item.all, "fields needs selection_method=hash"));
        }
        if let Some((_, item)) = self.param.filter(|_| method.is_none()) {
            return Err(Fault::new(item.all, "this needs a selection_method"));
        }
        let param = self.param.map_or(0, |(n, _)| n);
        match method {
            None => Ok((Selection::Default, param)),
            Some("dp_hash") => Ok((Selection::DpHash, param)),
            Some("hash") => {
                let fields = self.fields.take().map(|(f, _)| f).unwrap_or_default();
                Ok((Selection::Hash(fields.into()), param))
            }
            Some(other) => Err(unknown(other, "selection method", other, ["hash", "dp_hash"])
                .hint("hash or dp_hash")),
        }
    }
}

/// `None` for all groups.
fn group_id(text: &str) -> Parsed<'_, Option<GroupId>> {
    if text.eq_ignore_ascii_case("all") {
        return Ok(None);
    }
    let n = ranged(text, "a group's number", 0, u64::from(MAX_GROUP))?;
    Ok(Some(GroupId(n as u32)))
}

fn group_type(text: &str) -> Parsed<'_, GroupType> {
    if text == "fast_failover" {
        return Ok(GroupType::FastFailover);
    }
    let names = GroupType::ALL.map(GroupType::name);
    match GroupType::ALL.iter().find(|t| t.name() == text) {
        Some(t) => Ok(*t),
        None => Err(unknown(text, "type of group", text, names)),
    }
}

fn bucket_place(text: &str) -> Parsed<'_, BucketPlace> {
    match text {
        "first" => Ok(BucketPlace::First),
        "last" => Ok(BucketPlace::Last),
        "all" => Ok(BucketPlace::All),
        _ => {
            let n = ranged(text, "a bucket's id", 0, u64::from(MAX_BUCKET_ID))?;
            Ok(BucketPlace::Id(n as u32))
        }
    }
}

/// `FIELD[=MASK],...`
fn hash_fields(text: &str) -> Parsed<'_, Vec<(Mf, u128)>> {
    let mut out: Vec<(Mf, u128)> = Vec::new();
    let mut items = Items::new(text);
    while let Some(item) = items.next()? {
        let mf = field_of(item.key)?;
        let mask = match item.value {
            "" => mf.full(),
            text if mf.info().maskable => super::value::field(mf, text, &super::names::NoNames)?.0,
            text => {
                return Err(Fault::new(text, format_args!("{} cannot be masked", mf.name())));
            }
        };
        if out.iter().any(|(f, _)| *f == mf) {
            return Err(Fault::new(item.all, "this field is given twice"));
        }
        out.push((mf, mask));
    }
    Ok(out)
}

/// Settings, then actions with or without `actions=` in front.
fn bucket<'a>(text: &'a str, ports: &dyn PortNames) -> Parsed<'a, (Option<u32>, Bucket)> {
    let mut id = None;
    let mut b =
        Bucket { id: 0, weight: 1, watch_port: None, watch_group: None, actions: Box::default() };
    let mut items = Items::new(text);
    let actions = loop {
        let rest = items.rest().trim_start_matches([',', ' ', '\t', '\r']);
        if let Some(actions) = rest.strip_prefix("actions=") {
            break actions;
        }
        let Some(item) = items.next()? else { break "" };
        match item.key {
            "bucket_id" => {
                let n = ranged(item.value, "a bucket's id", 0, u64::from(MAX_BUCKET_ID))?;
                id = Some(n as u32);
            }
            "weight" => b.weight = ranged(item.value, "a weight", 0, 0xffff)? as u16,
            "watch_port" => b.watch_port = Some(parse_port(item.need("a port")?, ports)?),
            "watch_group" => {
                b.watch_group = group_id(item.need("a group's number")?)?;
            }
            _ => break rest,
        }
    };
    if actions.trim().is_empty() {
        let at = &text[text.len()..];
        return Err(Fault::new(at, "a bucket needs actions (actions=drop for none)")
            .hint(format_args!("{} come before them", BUCKET_WORDS[..4].join(", "))));
    }
    let list = ActionReader::new(ports).list(actions, Place::List, &mut Shape::any(), 0)?;
    b.actions = list.into();
    Ok((id, b))
}

/// Give buckets without an id the lowest free ones.
fn number_buckets(buckets: Vec<(Option<u32>, Bucket)>) -> Box<[Bucket]> {
    let taken: std::collections::HashSet<u32> = buckets.iter().filter_map(|(id, _)| *id).collect();
    let mut free = (0..).filter(|n| !taken.contains(n));
    let number = |(id, mut b): (Option<u32>, Bucket)| {
        b.id = id.or_else(|| free.next()).unwrap_or(u32::MAX);
        b
    };
    buckets.into_iter().map(number).collect()
}

/// Write a group, without a line break.
pub fn show_group(out: &mut String, g: &Group, ports: &dyn PortNames) {
    let _ = write!(out, "group_id={},type={}", g.id.0, g.kind.name());
    match &g.selection {
        Selection::Default => {}
        Selection::DpHash => out.push_str(",selection_method=dp_hash"),
        Selection::Hash(_) => out.push_str(",selection_method=hash"),
    }
    if g.selection_param != 0 {
        let _ = write!(out, ",selection_method_param={}", g.selection_param);
    }
    if let Selection::Hash(fields) = &g.selection {
        show_hash_fields(out, fields, ports);
    }
    for b in &g.buckets {
        show_bucket(out, g.kind, b, ports);
    }
}

/// `,fields=FIELD` for one whole field, `,fields(FIELD=MASK,...)` else; nothing if there are none.
fn show_hash_fields(out: &mut String, fields: &[(Mf, u128)], ports: &dyn PortNames) {
    match fields {
        [] => return,
        [(mf, mask)] if *mask == mf.full() => {
            let _ = write!(out, ",fields={}", mf.name());
            return;
        }
        _ => out.push_str(",fields("),
    }
    for (i, (mf, mask)) in fields.iter().enumerate() {
        let _ = write!(out, "{}{}", if i > 0 { "," } else { "" }, mf.name());
        if *mask != mf.full() {
            out.push('=');
            show_value(out, *mf, *mask, None, ports);
        }
    }
    out.push(')');
}

fn show_bucket(out: &mut String, kind: GroupType, b: &Bucket, ports: &dyn PortNames) {
    let _ = write!(out, ",bucket=bucket_id:{},", b.id);
    if kind == GroupType::Select {
        let _ = write!(out, "weight:{},", b.weight);
    }
    if let Some(port) = b.watch_port {
        out.push_str("watch_port:");
        show_port(out, port, ports);
        out.push(',');
    }
    if let Some(group) = b.watch_group {
        let _ = write!(out, "watch_group:{},", group.0);
    }
    out.push_str("actions=");
    show_actions(out, &b.actions, ports);
}
