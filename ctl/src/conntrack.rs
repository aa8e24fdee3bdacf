//! The words of the `conntrack` commands: which connections are meant, by fields, and how a connection
//! looks as data.
//!
//! Keys of a filter are short (`src`) or those of `ovs-fields(7)` (`ct_nw_src`); several in one word are joined by
//! commas. Knows nothing of the running tracker.

use std::net::IpAddr;

use conntrack::{Filter, Notice, Tuple};

use crate::error::{CtlError, quoted};
use crate::report::{Connection, Direction, Life};
use crate::schema::value::parse_int;

/// Keys with their other names.
const KEYS: &[(&str, &[&str])] = &[
    ("zone", &["ct_zone"]),
    ("mark", &["ct_mark"]),
    ("label", &["ct_label"]),
    ("proto", &["ct_nw_proto"]),
    ("src", &["ct_nw_src", "ct_ipv6_src"]),
    ("dst", &["ct_nw_dst", "ct_ipv6_dst"]),
    ("sport", &["ct_tp_src"]),
    ("dport", &["ct_tp_dst"]),
    ("reply-src", &[]),
    ("reply-dst", &[]),
    ("reply-sport", &[]),
    ("reply-dport", &[]),
];

/// Protocols that have a name.
const PROTOCOLS: &[(&str, u8)] = &[
    ("icmp", 1),
    ("igmp", 2),
    ("tcp", 6),
    ("udp", 17),
    ("gre", 47),
    ("icmpv6", 58),
    ("sctp", 132),
    ("udplite", 136),
];

/// The name of an IP protocol, or its number.
pub fn protocol_name(number: u8) -> String {
    let known = PROTOCOLS.iter().find(|(_, n)| *n == number);
    known.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

/// Reads a filter: `KEY=VALUE` words; none means all connections.
///
/// # Errors
/// A key that there is not, twice the same one, or a value that it cannot have.
pub fn filter(words: &[String]) -> Result<Filter, CtlError> {
    let mut filter = Filter::default();
    let mut seen = Vec::new();
    for word in words.iter().flat_map(|w| w.split(',')).filter(|w| !w.is_empty()) {
        let key = read_word(&mut filter, word)?;
        if seen.contains(&key) {
            return Err(CtlError::invalid(format!("{}: {key} is there twice", quoted(word))));
        }
        seen.push(key);
    }
    Ok(filter)
}

fn read_word(filter: &mut Filter, word: &str) -> Result<&'static str, CtlError> {
    let expected =
        |what: &str| CtlError::invalid(format!("filter {}: expected {what}", quoted(word)));
    let Some((given, value)) = word.split_once('=') else {
        // `tcp` alone, as in a flow's match.
        let number = PROTOCOLS.iter().find(|(name, _)| *name == word).map(|(_, n)| *n);
        let Some(number) = number else {
            return Err(expected("KEY=VALUE, such as src=10.0.0.1").suggest(word, keys()));
        };
        filter.proto = Some(number);
        return Ok("proto");
    };
    let known = KEYS.iter().find(|(key, more)| *key == given || more.contains(&given));
    let Some((key, _)) = known else {
        return Err(expected("a key of a connection").suggest(given, keys()));
    };
    let address = || value.parse::<IpAddr>().ok().ok_or_else(|| expected("an address"));
    let number =
        || parse_int(value, 0, u16::MAX).ok_or_else(|| expected("a number from 0 to 65535"));
    match *key {
        "zone" => filter.zone = Some(number()?),
        "mark" => {
            let read = masked(value).ok_or_else(|| expected("MARK or MARK/MASK"))?;
            let [v, m] = [read.0, read.1.min(u32::MAX.into())].map(u32::try_from);
            let (Ok(v), Ok(m)) = (v, m) else { return Err(expected("32 bits")) };
            filter.mark = Some((v, m));
        }
        "label" => {
            filter.label = Some(masked(value).ok_or_else(|| expected("LABEL or LABEL/MASK"))?)
        }
        "proto" => {
            let named = PROTOCOLS.iter().find(|(name, _)| *name == value).map(|(_, n)| *n);
            let number = named.or_else(|| parse_int(value, 0, u8::MAX));
            filter.proto = Some(number.ok_or_else(|| {
                expected("a protocol's name or number")
                    .suggest(value, PROTOCOLS.iter().map(|p| p.0))
            })?);
        }
        "src" => filter.src = Some(address()?),
        "dst" => filter.dst = Some(address()?),
        "sport" => filter.sport = Some(number()?),
        "dport" => filter.dport = Some(number()?),
        "reply-src" => filter.reply_src = Some(address()?),
        "reply-dst" => filter.reply_dst = Some(address()?),
        "reply-sport" => filter.reply_sport = Some(number()?),
        _ => filter.reply_dport = Some(number()?),
    }
    Ok(key)
}

fn keys() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|(key, _)| *key)
}

/// `VALUE` or `VALUE/MASK`, each decimal or with `0x`.
fn masked(text: &str) -> Option<(u128, u128)> {
    let number = |t: &str| match t.strip_prefix("0x").or_else(|| t.strip_prefix("0X")) {
        Some(hex) if !hex.starts_with('+') => u128::from_str_radix(hex, 16).ok(),
        Some(_) => None,
        None => parse_int(t, 0, u128::MAX),
    };
    match text.split_once('/') {
        Some((value, mask)) => Some((number(value)?, number(mask)?)),
        None => Some((number(text)?, u128::MAX)),
    }
}

/// A connection as data.
pub fn connection(c: &conntrack::Connection) -> Connection {
    let life = Life {
        state: c.tcp.map(|s| s.name().to_lowercase()),
        answered: c.seen_reply,
        assured: c.assured,
        expires: c.expires_in as f64 / 1000.0,
        age: c.age as f64 / 1000.0,
    };
    Connection { life: Some(life), ..named(&c.orig, &c.reply, c.mark, c.label) }
}

/// A connection that came or went.
pub fn noticed(n: &Notice) -> Connection {
    named(&n.orig, &n.reply, n.mark, n.label)
}

fn named(orig: &Tuple, reply: &Tuple, mark: u32, label: u128) -> Connection {
    Connection {
        protocol: protocol_name(orig.proto()),
        zone: orig.zone(),
        orig: direction(orig),
        reply: direction(reply),
        mark,
        label: format!("{label:#x}"),
        life: None,
    }
}

fn direction(t: &Tuple) -> Direction {
    let mut d = Direction {
        src: t.src_ip().to_string(),
        dst: t.dst_ip().to_string(),
        ..Direction::default()
    };
    match t.proto() {
        _ if t.is_icmp() => {
            let (ty, code) = t.ct_ports();
            (d.id, d.ty, d.code) = (Some(t.sport()), Some(ty), Some(code));
        }
        6 | 17 | 132 | 136 => (d.sport, d.dport) = (Some(t.sport()), Some(t.dport())),
        47 => d.key = Some(u32::from(t.sport()) << 16 | u32::from(t.dport())),
        _ => {}
    }
    d
}

/// Whether a filter means a connection that came or went.
pub fn is_meant(filter: &Filter, n: &Notice) -> bool {
    filter.matches(&conntrack::Connection {
        orig: n.orig,
        reply: n.reply,
        mark: n.mark,
        label: n.label,
        tcp: None,
        scale: None,
        seen_reply: false,
        assured: false,
        policy: 0,
        expires_in: 0,
        age: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Filter, CtlError> {
        filter(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn keys_have_two_names_and_commas_join_them() {
        let wanted = Filter {
            zone: Some(5),
            proto: Some(17),
            src: Some([10, 0, 0, 1].into()),
            dport: Some(53),
            ..Filter::default()
        };
        assert_eq!(read(&["zone=5", "proto=udp", "src=10.0.0.1", "dport=53"]), Ok(wanted));
        assert_eq!(read(&["ct_zone=5,ct_nw_proto=17,ct_nw_src=10.0.0.1,ct_tp_dst=53"]), Ok(wanted));
        assert_eq!(read(&["udp,zone=5,src=10.0.0.1", "dport=53"]), Ok(wanted));
        assert_eq!(read(&[]), Ok(Filter::default()));
        let marks = read(&["mark=0x10/0xf0", "label=5"]).expect("good");
        assert_eq!((marks.mark, marks.label), (Some((0x10, 0xf0)), Some((5, u128::MAX))));
    }

    #[test]
    fn mistakes_are_named() {
        let hint = |words: &[&str]| read(words).expect_err("refused").hint.unwrap_or_default();
        assert!(hint(&["spor=5"]).contains("sport"));
        assert!(hint(&["proto=tpc"]).contains("tcp"));
        for bad in
            ["zone=65536", "src=10.0.0", "mark=0x100000000", "src", "=", "mark=1/", "zone=-1"]
        {
            let error = read(&[bad]).expect_err(bad);
            assert!(error.message.contains(bad), "{error}");
        }
        assert!(read(&["zone=1,ct_zone=2"]).expect_err("twice").message.contains("twice"));
    }
}
