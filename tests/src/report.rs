//! Reading the switch's JSON answers (docs/json.md).
//!
//! Tests look for an object by its name and for a key in it wherever it stands, so that a document may
//! grow without a change here.

use anyhow::{Context, Result};
use serde_json::Value;

/// Every object in `document`, outer ones first.
pub fn objects(document: &Value) -> Vec<&serde_json::Map<String, Value>> {
    let mut found = Vec::new();
    let mut open = vec![document];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(map) => {
                found.push(map);
                open.extend(map.values());
            }
            Value::Array(items) => open.extend(items.iter().rev()),
            _ => {}
        }
    }
    found
}

/// The first object whose `key` is `value`.
pub fn object<'a>(
    document: &'a Value,
    key: &str,
    value: &str,
) -> Result<&'a serde_json::Map<String, Value>> {
    objects(document)
        .into_iter()
        .find(|map| map.get(key).and_then(Value::as_str) == Some(value))
        .with_context(|| format!("no object with {key} = {value} in {document}"))
}

/// Text of `key` in an object, empty when there is none.
pub fn text<'a>(map: &'a serde_json::Map<String, Value>, key: &str) -> &'a str {
    map.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The sum of all numbers under `key`, anywhere in `document`.
pub fn total(document: &Value, key: &str) -> u64 {
    objects(document).iter().filter_map(|map| map.get(key)?.as_u64()).sum()
}

/// A counter of a port, from `dump-ports BR`.
pub fn port_counter(document: &Value, port: &str, key: &str) -> Result<u64> {
    let map = object(document, "port", port).or_else(|_| object(document, "name", port))?;
    Ok(total(&Value::Object(map.clone()), key))
}

/// Number of packets dropped, by reason, from `drops`.
pub fn drops(document: &Value) -> Vec<(String, u64)> {
    let mut list = Vec::new();
    for map in objects(document) {
        if let (Some(reason), Some(n)) = (map.get("reason"), map.get("packets")) {
            list.push((reason.as_str().unwrap_or_default().to_owned(), n.as_u64().unwrap_or(0)));
        }
    }
    list
}
