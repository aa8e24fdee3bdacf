//! How a column's value is written: the database syntax of `ovs-vsctl(8)`, both ways. A value is an
//! optional atom, a set of atoms, or a map of strings. Knows no column by name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value as Json;

/// Largest number of integers that one range such as `10-20` may stand for (`ovs-vsctl(8)`).
const RANGE_LIMIT: u32 = 4096;

/// One element of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Atom {
    Integer(i64),
    Boolean(bool),
    String(String),
}

/// What a column holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// At most one atom.
    Optional(Option<Atom>),
    Set(Vec<Atom>),
    Map(BTreeMap<String, String>),
}

impl Value {
    /// True when there is nothing in it.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Optional(atom) => atom.is_none(),
            Self::Set(atoms) => atoms.is_empty(),
            Self::Map(map) => map.is_empty(),
        }
    }

    /// The value for programs: an atom or null, an array, or an object of strings.
    pub fn to_json(&self) -> Json {
        match self {
            Self::Optional(None) => Json::Null,
            Self::Optional(Some(atom)) => atom.to_json(),
            Self::Set(atoms) => atoms.iter().map(Atom::to_json).collect(),
            Self::Map(map) => {
                Json::Object(map.iter().map(|(k, v)| (k.clone(), Json::from(v.as_str()))).collect())
            }
        }
    }

    /// The value from what [`Value::to_json`] made; what cannot have come from there is shown as JSON text.
    pub fn from_json(json: &Json) -> Self {
        match json {
            Json::Null => Self::Optional(None),
            Json::Array(items) => Self::Set(items.iter().map(Atom::from_json).collect()),
            Json::Object(map) => {
                let text = |v: &Json| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
                Self::Map(map.iter().map(|(k, v)| (k.clone(), text(v))).collect())
            }
            other => Self::Optional(Some(Atom::from_json(other))),
        }
    }
}

impl Atom {
    fn to_json(&self) -> Json {
        match self {
            Self::Integer(n) => Json::from(*n),
            Self::Boolean(b) => Json::from(*b),
            Self::String(s) => Json::from(s.as_str()),
        }
    }

    fn from_json(json: &Json) -> Self {
        match json {
            Json::Bool(b) => Self::Boolean(*b),
            Json::String(s) => Self::String(s.clone()),
            other => other.as_i64().map_or_else(|| Self::String(other.to_string()), Self::Integer),
        }
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(n) => write!(f, "{n}"),
            Self::Boolean(b) => write!(f, "{b}"),
            Self::String(s) => write_string(f, s),
        }
    }
}

impl fmt::Display for Value {
    /// As `ovs-vsctl get` prints it: `5`, `"60"`, `[]`, `[1, 2]`, `{a="1", b=x}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Optional(None) => f.write_str("[]"),
            Self::Optional(Some(atom)) => atom.fmt(f),
            Self::Set(atoms) => {
                f.write_str("[")?;
                for (i, atom) in atoms.iter().enumerate() {
                    f.write_str(if i == 0 { "" } else { ", " })?;
                    atom.fmt(f)?;
                }
                f.write_str("]")
            }
            Self::Map(map) => {
                f.write_str("{")?;
                for (i, (key, value)) in map.iter().enumerate() {
                    f.write_str(if i == 0 { "" } else { ", " })?;
                    write_string(f, key)?;
                    f.write_str("=")?;
                    write_string(f, value)?;
                }
                f.write_str("}")
            }
        }
    }
}

/// A string as `ovs-vsctl` prints it: bare where it reads as a word, else as a JSON string.
fn write_string(f: &mut fmt::Formatter<'_>, s: &str) -> fmt::Result {
    let first_ok = s.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let rest_ok = s.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    if first_ok && rest_ok && s != "true" && s != "false" {
        return f.write_str(s);
    }
    f.write_str(&Json::from(s).to_string())
}

/// Reads one optional value: `[]` is none; a JSON string in quotes is unwrapped; the rest is taken as it is,
/// with or without square brackets around.
pub fn parse_optional(text: &str) -> Option<Option<String>> {
    let text = text.trim();
    if text == "[]" {
        return Some(None);
    }
    let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    if inner.starts_with('"') {
        return serde_json::from_str::<String>(inner).ok().map(Some);
    }
    Some(Some(inner.to_owned()))
}

/// Reads a set: elements between commas or spaces, in optional square brackets, each perhaps quoted.
pub fn parse_set(text: &str) -> Option<Vec<String>> {
    let text = text.trim();
    let inner = match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?,
        None => text,
    };
    split(inner)?.into_iter().map(unquote).collect()
}

/// Reads a set of integers from `min` to `max`, ranges such as `10-20` included.
pub fn parse_integers(text: &str, min: u16, max: u16) -> Option<BTreeSet<u16>> {
    let mut out = BTreeSet::new();
    for item in parse_set(text)? {
        let (first, last) = match item.split_once('-') {
            Some((first, last)) => (parse_int(first, min, max)?, parse_int(last, min, max)?),
            None => (parse_int(&item, min, max)?, parse_int(&item, min, max)?),
        };
        if first > last || u32::from(last - first) >= RANGE_LIMIT {
            return None;
        }
        out.extend(first..=last);
    }
    Some(out)
}

/// Reads a map: `key=value` pairs between commas or spaces, in optional braces.
pub fn parse_map(text: &str) -> Option<Vec<(String, String)>> {
    let text = text.trim();
    let inner = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}')?,
        None => text,
    };
    let pair = |item: &str| -> Option<(String, String)> {
        let at = end_of_word(item, '=')?;
        let (key, value) = (item.get(..at)?, item.get(at + 1..)?);
        Some((unquote(key)?, unquote(value)?))
    };
    split(inner)?.into_iter().map(pair).collect()
}

/// A decimal integer from `min` to `max`: digits only, no sign, no spaces.
pub fn parse_int<T>(text: &str, min: T, max: T) -> Option<T>
where
    T: std::str::FromStr + PartialOrd,
{
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|n| *n >= min && *n <= max)
}

/// `true` or `false`.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

fn unquote(item: &str) -> Option<String> {
    if item.starts_with('"') { serde_json::from_str(item).ok() } else { Some(item.to_owned()) }
}

/// Where `stop` first stands outside of double quotes.
fn end_of_word(text: &str, stop: char) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            c if c == stop && !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// Splits at commas and white space outside of double quotes. None when a quote is never closed.
fn split(text: &str) -> Option<Vec<&str>> {
    let (mut items, mut start) = (Vec::new(), None);
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => {
                quoted = !quoted;
                start.get_or_insert(at);
            }
            c if !quoted && (c == ',' || c.is_whitespace()) => {
                if let Some(from) = start.take() {
                    items.push(&text[from..at]);
                }
            }
            _ => {
                start.get_or_insert(at);
            }
        }
    }
    if let Some(from) = start {
        items.push(&text[from..]);
    }
    (!quoted).then_some(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> Option<Vec<u16>> {
        parse_integers(text, 0, 4095).map(|s| s.into_iter().collect())
    }

    #[test]
    fn integer_sets() {
        assert_eq!(set("1,2"), Some(vec![1, 2]));
        assert_eq!(set("[2, 1]"), Some(vec![1, 2]));
        assert_eq!(set("10-12,5"), Some(vec![5, 10, 11, 12]));
        assert_eq!(set("[]"), Some(vec![]));
        assert_eq!(set("0-4095").map(|s| s.len()), Some(4096));
        for bad in ["4096", "-1", "1-", "5-1", "[1", "x", "1;2", "0x10", "+1", "99999999999999"] {
            assert_eq!(set(bad), None, "{bad}");
        }
    }

    #[test]
    fn optionals() {
        assert_eq!(parse_optional("[]"), Some(None));
        assert_eq!(parse_optional("[5]"), Some(Some("5".into())));
        assert_eq!(parse_optional("\"a b\""), Some(Some("a b".into())));
        assert_eq!(parse_optional("aa:bb,cc"), Some(Some("aa:bb,cc".into())));
        assert_eq!(parse_optional(""), Some(Some(String::new())));
        assert_eq!(parse_optional("\"open"), None);
    }

    #[test]
    fn maps() {
        let pairs = |t: &str| parse_map(t);
        let want = vec![("a".to_owned(), "1".to_owned()), ("b c".to_owned(), "x,y=z".to_owned())];
        assert_eq!(pairs(r#"{a=1, "b c"="x,y=z"}"#), Some(want.clone()));
        assert_eq!(pairs(r#"a=1,"b c"="x,y=z""#), Some(want));
        assert_eq!(pairs("{}"), Some(vec![]));
        assert_eq!(pairs("{a}"), None);
        assert_eq!(pairs("{a=1"), None);
    }

    #[test]
    fn printing_is_that_of_ovs_vsctl() {
        let s = |t: &str| Value::Optional(Some(Atom::String(t.into()))).to_string();
        assert_eq!(s("secure"), "secure");
        assert_eq!(s("60"), "\"60\"");
        assert_eq!(s("true"), "\"true\"");
        assert_eq!(s(""), "\"\"");
        assert_eq!(s("a\"b"), "\"a\\\"b\"");
        assert_eq!(Value::Optional(None).to_string(), "[]");
        assert_eq!(Value::Set(vec![Atom::Integer(1), Atom::Integer(2)]).to_string(), "[1, 2]");
        let map = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".into(), "x".into())]);
        assert_eq!(Value::Map(map).to_string(), "{a=\"1\", b=x}");
    }

    proptest::proptest! {
        #[test]
        fn parsers_never_panic_and_printed_maps_read_back(text in ".*", map in proptest::collection::btree_map(".*", ".*", 0..5)) {
            let _ = (parse_optional(&text), parse_set(&text), parse_map(&text), set(&text));
            let printed = Value::Map(map.clone()).to_string();
            let back: BTreeMap<_, _> = parse_map(&printed).expect("printed maps parse").into_iter().collect();
            proptest::prop_assert_eq!(back, map);
        }
    }
}
