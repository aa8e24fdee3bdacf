//! Which settings bridges and ports have, how each is written, and what is acceptable: the columns and
//! keys of `ovs-vswitchd.conf.db(5)` that this switch gives a meaning to.
//!
//! One table of [`Column`]s per record; each column reads, shows and clears one typed field. A value that
//! passed is stored typed, so nothing behind this module parses text again. What concerns two settings
//! at once (a tag on a trunk port) is judged by [`crate::config`], not here.

mod bridge;
mod port;
pub mod types;
pub mod value;

use std::collections::BTreeMap;

pub use bridge::{BRIDGE, BridgeSettings};
pub use port::{PORT, PortSettings, Vlans};
pub use types::{
    DatapathId, DatapathType, FailMode, Mac, PortType, PriorityTags, QinqEthtype, RouterAdvert,
    VlanMode, XdpMode,
};
pub use value::{Atom, Value};

use crate::error::{CtlError, quoted};

/// Longest key of a free map such as `external_ids`, in bytes.
pub const MAP_KEY_LIMIT: usize = 255;
/// Longest value of a free map, in bytes.
pub const MAP_VALUE_LIMIT: usize = 4096;
/// Most entries of a free map.
pub const MAP_ENTRY_LIMIT: usize = 256;

/// The text was not what the column expects.
#[derive(Clone, Copy, Debug)]
pub struct Mismatch;

/// One setting: a column, or one key of a map column.
#[derive(Debug)]
pub struct Column<S> {
    pub name: &'static str,
    /// Set where the column is a map and this is one of its keys.
    pub key: Option<&'static str>,
    /// What is acceptable, to follow the word "expected".
    pub expected: &'static str,
    pub help: &'static str,
    pub set: fn(&mut S, &str) -> Result<(), Mismatch>,
    pub get: fn(&S) -> Value,
    pub clear: fn(&mut S),
}

impl<S> Column<S> {
    /// `tag` or `other_config:mac-aging-time`.
    pub fn label(&self) -> String {
        match self.key {
            Some(key) => format!("{}:{key}", self.name),
            None => self.name.to_owned(),
        }
    }
}

/// A map column whose keys are the user's own.
#[derive(Debug)]
pub struct FreeMap<S> {
    pub name: &'static str,
    pub get: fn(&S) -> &BTreeMap<String, String>,
    pub get_mut: fn(&mut S) -> &mut BTreeMap<String, String>,
}

/// Every setting of one kind of record.
#[derive(Debug)]
pub struct Table<S: 'static> {
    /// `bridge` or `port`, for messages.
    pub name: &'static str,
    pub columns: &'static [Column<S>],
    pub free_maps: &'static [FreeMap<S>],
    /// Columns that only tell: name and what to do instead of setting them.
    pub read_only: &'static [(&'static str, &'static str)],
    /// Columns and keys of `ovs-vswitchd.conf.db(5)` that this switch knows of and does not offer.
    pub unsupported: &'static [&'static str],
}

/// `column` or `column:key` as the user wrote it, the column's spelling made uniform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnRef {
    pub name: String,
    pub key: Option<String>,
}

impl ColumnRef {
    /// Column names are taken in any case and with `-` for `_`, as `ovs-vsctl(8)` says; keys are exact.
    pub fn parse(text: &str) -> Self {
        let (name, key) = match text.split_once(':') {
            Some((name, key)) => (name, Some(key.trim_matches('"').to_owned())),
            None => (text, None),
        };
        Self { name: name.trim().to_ascii_lowercase().replace('-', "_"), key }
    }

    pub fn label(&self) -> String {
        match &self.key {
            Some(key) => format!("{}:{key}", self.name),
            None => self.name.clone(),
        }
    }
}

/// Splits `column[:key]=value`. The key may be quoted and then hold `=`.
pub fn split_assignment(text: &str) -> Result<(ColumnRef, &str), CtlError> {
    let mut quoted_part = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted_part = !quoted_part,
            '=' if !quoted_part => {
                return Ok((ColumnRef::parse(&text[..at]), &text[at + 1..]));
            }
            _ => {}
        }
    }
    Err(CtlError::invalid(format!("{}: expected KEY=VALUE, such as tag=5", quoted(text))))
}

impl<S: 'static> Table<S> {
    /// Carries out one `column[:key]=value` on `record`; `who` names the record, as `port "p1"`.
    pub fn set(&self, record: &mut S, who: &str, assignment: &str) -> Result<(), CtlError> {
        let (column, text) = split_assignment(assignment)?;
        self.check_writable(&column, who)?;
        if let Some(map) = self.free_map(&column.name) {
            return set_free(map, record, who, &column, text);
        }
        if let Some(found) = self.find(&column) {
            return (found.set)(record, text).map_err(|Mismatch| {
                let (label, expected) = (found.label(), found.expected);
                CtlError::invalid(format!("{who}: {label}={}: expected {expected}", quoted(text)))
            });
        }
        if column.key.is_none() && self.is_map(&column.name) {
            let pairs = value::parse_map(text).ok_or_else(|| map_syntax(who, &column, text))?;
            self.clear(record, who, &column.name)?;
            for (key, value) in pairs {
                self.set(record, who, &format!("{}:{key}={value}", column.name))?;
            }
            return Ok(());
        }
        Err(self.unknown(who, &column))
    }

    /// The value of `column[:key]`. None when it is a key of a free map that is not there.
    pub fn get(&self, record: &S, who: &str, text: &str) -> Result<Option<Value>, CtlError> {
        let column = ColumnRef::parse(text);
        if let Some(map) = self.free_map(&column.name) {
            let map = (map.get)(record);
            return Ok(match &column.key {
                None => Some(Value::Map(map.clone())),
                Some(key) => map.get(key).map(|v| Value::Optional(Some(Atom::String(v.clone())))),
            });
        }
        if let Some(found) = self.find(&column) {
            let value = (found.get)(record);
            return Ok(if found.key.is_some() && value.is_empty() { None } else { Some(value) });
        }
        if column.key.is_none() && self.is_map(&column.name) {
            return Ok(Some(Value::Map(self.map_of(record, &column.name))));
        }
        Err(self.unknown(who, &column))
    }

    /// Takes `column[:key]` back to its default.
    pub fn clear(&self, record: &mut S, who: &str, text: &str) -> Result<(), CtlError> {
        let column = ColumnRef::parse(text);
        self.check_writable(&column, who)?;
        if let Some(map) = self.free_map(&column.name) {
            match &column.key {
                None => (map.get_mut)(record).clear(),
                Some(key) => drop((map.get_mut)(record).remove(key)),
            }
            return Ok(());
        }
        if let Some(found) = self.find(&column) {
            (found.clear)(record);
            return Ok(());
        }
        if column.key.is_none() && self.is_map(&column.name) {
            for found in self.columns.iter().filter(|c| c.name == column.name) {
                (found.clear)(record);
            }
            return Ok(());
        }
        Err(self.unknown(who, &column))
    }

    /// Every setting that is not empty, as `column[:key]` and value, in the order of the documentation.
    pub fn settings(&self, record: &S) -> Vec<(String, Value)> {
        let mut out: Vec<_> = self
            .columns
            .iter()
            .map(|c| (c.label(), (c.get)(record)))
            .filter(|(_, value)| !value.is_empty())
            .collect();
        for map in self.free_maps {
            for (key, value) in (map.get)(record) {
                let atom = Atom::String(value.clone());
                out.push((format!("{}:{key}", map.name), Value::Optional(Some(atom))));
            }
        }
        out
    }

    /// Every name that can be written before `=`, free maps as `external_ids:KEY`.
    pub fn labels(&self) -> Vec<String> {
        let mut out: Vec<_> = self.columns.iter().map(Column::label).collect();
        out.extend(self.free_maps.iter().map(|m| format!("{}:KEY", m.name)));
        out
    }

    fn find(&self, column: &ColumnRef) -> Option<&Column<S>> {
        self.columns.iter().find(|c| c.name == column.name && c.key == column.key.as_deref())
    }

    fn free_map(&self, name: &str) -> Option<&FreeMap<S>> {
        self.free_maps.iter().find(|m| m.name == name)
    }

    fn is_map(&self, name: &str) -> bool {
        self.columns.iter().any(|c| c.name == name && c.key.is_some())
    }

    fn map_of(&self, record: &S, name: &str) -> BTreeMap<String, String> {
        let keys = self.columns.iter().filter(|c| c.name == name);
        keys.filter_map(|c| match (c.key, (c.get)(record)) {
            (Some(key), Value::Optional(Some(Atom::String(s)))) => Some((key.to_owned(), s)),
            (Some(key), Value::Optional(Some(atom))) => Some((key.to_owned(), atom.to_string())),
            _ => None,
        })
        .collect()
    }

    fn check_writable(&self, column: &ColumnRef, who: &str) -> Result<(), CtlError> {
        match self.read_only.iter().find(|(name, _)| *name == column.name) {
            Some((name, instead)) => {
                Err(CtlError::invalid(format!("{who}: {name} cannot be set")).with_hint(*instead))
            }
            None => Ok(()),
        }
    }

    fn unknown(&self, who: &str, column: &ColumnRef) -> CtlError {
        let label = column.label();
        let known = |name: &&&str| **name == label || **name == column.name;
        if self.unsupported.iter().any(|name| known(&name)) {
            return CtlError::unsupported(format!("{who}: {label} is not offered by this switch"));
        }
        let error =
            CtlError::not_found(format!("{who}: a {} has no key {}", self.name, quoted(&label)));
        let labels = self.labels();
        // A key is often given without its column: "peer=x" for "options:peer=x".
        let bare = |c: &&Column<S>| column.key.is_none() && c.key == Some(column.name.as_str());
        match self.columns.iter().find(bare) {
            Some(found) => error.with_hint(format!("did you mean \"{}\"?", found.label())),
            None => {
                let read_only = self.read_only.iter().map(|(name, _)| *name);
                error.suggest(&label, labels.iter().map(String::as_str).chain(read_only))
            }
        }
    }
}

fn set_free<S>(
    map: &FreeMap<S>,
    record: &mut S,
    who: &str,
    column: &ColumnRef,
    text: &str,
) -> Result<(), CtlError> {
    let pairs = match &column.key {
        Some(key) => {
            let value = if text.starts_with('"') {
                serde_json::from_str(text).map_err(|_| map_syntax(who, column, text))?
            } else {
                text.to_owned()
            };
            vec![(key.clone(), value)]
        }
        None => value::parse_map(text).ok_or_else(|| map_syntax(who, column, text))?,
    };
    let target = (map.get_mut)(record);
    if column.key.is_none() {
        target.clear();
    }
    for (key, value) in pairs {
        let label = format!("{}:{}", column.name, key);
        if key.is_empty() || key.len() > MAP_KEY_LIMIT {
            let limit = MAP_KEY_LIMIT;
            let message =
                format!("{who}: {}: expected a key of 1 to {limit} bytes", quoted(&label));
            return Err(CtlError::invalid(message));
        }
        if value.len() > MAP_VALUE_LIMIT || value.contains('\0') {
            let message = format!(
                "{who}: {label}: expected at most {MAP_VALUE_LIMIT} bytes without NUL, got {}",
                value.len()
            );
            return Err(CtlError::invalid(message));
        }
        target.insert(key, value);
        if target.len() > MAP_ENTRY_LIMIT {
            let message =
                format!("{who}: {} cannot hold more than {MAP_ENTRY_LIMIT} entries", column.name);
            return Err(CtlError::invalid(message));
        }
    }
    Ok(())
}

fn map_syntax(who: &str, column: &ColumnRef, text: &str) -> CtlError {
    let expected = match column.key {
        Some(_) => "a string, in double quotes closed if opened",
        None => "KEY=VALUE pairs between commas, such as a=1,b=2",
    };
    CtlError::invalid(format!("{who}: {}={}: expected {expected}", column.label(), quoted(text)))
}

/// A column with at most one value: its field is an `Option`, read by `$parse(&str) -> Option<T>` and
/// shown by `$atom(&T) -> Atom`.
macro_rules! optional {
    ($name:literal $(: $key:literal)?, $field:ident, $parse:expr, $atom:expr, $expected:literal, $help:literal) => {
        Column {
            name: $name,
            key: optional!(@key $($key)?),
            expected: $expected,
            help: $help,
            set: |s, text| {
                s.$field = match crate::schema::value::parse_optional(text).ok_or(Mismatch)? {
                    None => None,
                    Some(text) => Some($parse(text.as_str()).ok_or(Mismatch)?),
                };
                Ok(())
            },
            get: |s| Value::Optional(s.$field.as_ref().map($atom)),
            clear: |s| s.$field = None,
        }
    };
    (@key) => { None };
    (@key $key:literal) => { Some($key) };
}
pub(crate) use optional;

/// A column that is a set of VLAN ids.
macro_rules! vlan_set {
    ($name:literal, $field:ident, $help:literal) => {
        Column {
            name: $name,
            key: None,
            expected: "VLAN ids from 0 to 4095 between commas, such as 1,2 or 10-20",
            help: $help,
            set: |s, text| {
                s.$field = crate::schema::value::parse_integers(text, 0, 4095).ok_or(Mismatch)?;
                Ok(())
            },
            get: |s| Value::Set(s.$field.iter().map(|v| Atom::Integer(i64::from(*v))).collect()),
            clear: |s| s.$field.clear(),
        }
    };
}
pub(crate) use vlan_set;

/// The atom of a value that is shown as text (all values of map columns are).
pub(crate) fn text_atom<T: ToString>(value: &T) -> Atom {
    Atom::String(value.to_string())
}

/// The atom of an integer column.
pub(crate) fn int_atom<T: Copy + Into<i64>>(value: &T) -> Atom {
    Atom::Integer((*value).into())
}

/// Which types of port the key `options:KEY` applies to.
pub fn option_types(key: &str) -> &'static [PortType] {
    port::OPTION_TYPES.iter().find(|(name, _)| *name == key).map_or(&[], |(_, types)| types)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text for any key of `table`, right ones and wrong ones.
    fn assignments(labels: Vec<String>) -> impl proptest::strategy::Strategy<Value = String> {
        use proptest::strategy::Strategy;
        let values = "[0-9]{1,5}|[0-9,-]{0,9}|true|false|secure|access|trunk|native|internal|patch|\\[\\]|[ -~]{0,12}";
        (proptest::sample::select(labels), values)
            .prop_map(|(label, value)| format!("{label}={value}"))
    }

    /// What is set can be shown, stored, and set again from what is shown.
    fn round_trip<S>(table: &Table<S>, assignment: &str)
    where
        S: Default + PartialEq + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
    {
        let mut record = S::default();
        if table.set(&mut record, "it", assignment).is_err() {
            assert_eq!(record, S::default(), "{assignment} was refused and changed something");
            return;
        }
        let text = serde_json::to_string(&record).expect("text");
        assert_eq!(serde_json::from_str::<S>(&text).expect("reads back"), record);
        let mut again = S::default();
        for (label, value) in table.settings(&record) {
            table.set(&mut again, "it", &format!("{label}={value}")).expect("as shown");
        }
        assert_eq!(again, record, "{assignment}");
        for (label, _) in table.settings(&record) {
            table.clear(&mut again, "it", &label).expect("as shown");
        }
        assert_eq!(again, S::default(), "{assignment}");
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2000))]
        #[test]
        fn settings_round_trip(
            bridge in assignments(BRIDGE.labels()),
            port in assignments(PORT.labels()),
        ) {
            round_trip(&BRIDGE, &bridge);
            round_trip(&PORT, &port);
        }

        #[test]
        fn any_text_as_a_setting_is_answered(text in ".{0,80}") {
            let mut bridge = BridgeSettings::default();
            let mut port = PortSettings::default();
            let _ = (BRIDGE.set(&mut bridge, "it", &text), PORT.set(&mut port, "it", &text));
            let _ = (BRIDGE.get(&bridge, "it", &text), PORT.clear(&mut port, "it", &text));
        }
    }
}
