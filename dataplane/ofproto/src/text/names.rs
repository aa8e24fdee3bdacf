//! Which words stand for ports, flags and protocols?

use std::collections::HashMap;
use std::sync::LazyLock;

use super::error::{Fault, Parsed, TextError, unknown};
use super::value::ranged;
use crate::action::OfPort;
use crate::mf::Mf;

/// The names of a bridge's ports, for reading and writing flows.
pub trait PortNames {
    /// The port with that name.
    fn number(&self, name: &str) -> Option<OfPort>;
    /// The name of a port; `None` writes its number.
    fn name(&self, port: OfPort) -> Option<&str>;
}

/// No names: numbers only.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNames;

impl PortNames for NoNames {
    fn number(&self, _: &str) -> Option<OfPort> {
        None
    }
    fn name(&self, _: OfPort) -> Option<&str> {
        None
    }
}

impl PortNames for HashMap<OfPort, String> {
    fn number(&self, name: &str) -> Option<OfPort> {
        self.iter().find(|(_, n)| *n == name).map(|(p, _)| *p)
    }
    fn name(&self, port: OfPort) -> Option<&str> {
        self.get(&port).map(String::as_str)
    }
}

/// Reserved ports as they are written.
pub(crate) const RESERVED: &[(&str, OfPort)] = &[
    ("IN_PORT", OfPort::IN_PORT),
    ("TABLE", OfPort::TABLE),
    ("NORMAL", OfPort::NORMAL),
    ("FLOOD", OfPort::FLOOD),
    ("ALL", OfPort::ALL),
    ("CONTROLLER", OfPort::CONTROLLER),
    ("LOCAL", OfPort::LOCAL),
    ("ANY", OfPort::NONE),
    ("NONE", OfPort::NONE),
    ("UNSET", OfPort::UNSET),
];

/// Bits of `ct_state`, lowest first.
pub(crate) const CT_STATE: &[&str] = &["new", "est", "rel", "rpl", "inv", "trk", "snat", "dnat"];

/// Bits of `tcp_flags`, lowest first.
pub(crate) const TCP_FLAGS: &[&str] =
    &["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns"];

/// Bits of `tun_flags`, lowest first.
pub(crate) const TUN_FLAGS: &[&str] = &["oam"];

/// Words for `ip_frag` with value and mask.
pub(crate) const FRAGS: &[(&str, u128, u128)] =
    &[("no", 0, 3), ("yes", 1, 1), ("first", 1, 3), ("later", 3, 3), ("not_later", 0, 2)];

/// Words for an Ethernet type and an IP protocol.
pub(crate) const SHORTHANDS: &[(&str, u16, Option<u8>)] = &[
    ("ip", 0x0800, None),
    ("icmp", 0x0800, Some(1)),
    ("tcp", 0x0800, Some(6)),
    ("udp", 0x0800, Some(17)),
    ("sctp", 0x0800, Some(132)),
    ("ipv6", 0x86dd, None),
    ("ip6", 0x86dd, None),
    ("tcp6", 0x86dd, Some(6)),
    ("udp6", 0x86dd, Some(17)),
    ("sctp6", 0x86dd, Some(132)),
    ("icmp6", 0x86dd, Some(58)),
    ("arp", 0x0806, None),
    ("rarp", 0x8035, None),
    ("mpls", 0x8847, None),
    ("mplsm", 0x8848, None),
];

static FIELDS: LazyLock<HashMap<&'static str, Mf>> = LazyLock::new(|| {
    let mut map = HashMap::new();
    for mf in Mf::ALL {
        let info = mf.info();
        map.insert(info.name, *mf);
        map.insert(info.nxm, *mf);
        map.extend(info.aliases.iter().map(|a| (*a, *mf)));
    }
    map
});

/// The field with that name, alias, or NXM or OXM name.
pub fn field_by_name(name: &str) -> Option<Mf> {
    FIELDS.get(name).copied()
}

/// All names of fields, for suggestions.
pub(crate) fn field_names() -> impl Iterator<Item = &'static str> {
    FIELDS.keys().copied()
}

/// Whether a word names a field that exists in OpenFlow or Open vSwitch but not here.
pub(crate) fn is_unsupported_field(name: &str) -> bool {
    ["tun_metadata", "NXM_NX_TUN_METADATA", "tun_erspan", "tun_gtpu", "nsh_", "NXOXM_"]
        .iter()
        .any(|p| name.starts_with(p))
        || matches!(name, "nsp" | "nsi" | "nshc1" | "nshc2" | "nshc3" | "nshc4")
}

/// The field that a word names, or why there is none.
pub(crate) fn field_of<'a>(name: &'a str) -> Parsed<'a, Mf> {
    match field_by_name(name) {
        Some(mf) => Ok(mf),
        None if is_unsupported_field(name) => {
            Err(Fault::new(name, "this field is not supported yet"))
        }
        None => Err(unknown(name, "field", name, field_names())),
    }
}

/// Take the quotes off a name.
pub(crate) fn unquote(text: &str) -> std::borrow::Cow<'_, str> {
    let inner = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
    match inner {
        Some(t) if t.contains('\\') => {
            let mut out = String::with_capacity(t.len());
            let mut chars = t.chars();
            while let Some(c) = chars.next() {
                out.push(if c == '\\' { chars.next().unwrap_or('\\') } else { c });
            }
            out.into()
        }
        Some(t) => t.into(),
        None => text.into(),
    }
}

/// A port: a number, a reserved name, or a name of the bridge's.
pub(crate) fn parse_port<'a>(text: &'a str, ports: &dyn PortNames) -> Parsed<'a, OfPort> {
    if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        let n = ranged(text, "a port", 0, u64::from(u32::MAX))? as u32;
        return match n {
            0..=0xffff => Ok(OfPort::from_16(n as u16)),
            0xffff_ff01.. => Ok(OfPort(n)),
            _ => Err(Fault::new(
                text,
                "a port's number is 0 to 65280, or 65281 to 65535 or 4294967041 and above for \
                 reserved ports",
            )),
        };
    }
    if let Some((_, port)) = RESERVED.iter().find(|(n, _)| n.eq_ignore_ascii_case(text)) {
        return Ok(*port);
    }
    if let Some(port) = ports.number(&unquote(text)) {
        return Ok(port);
    }
    Err(Fault::new(text, "no port of the bridge has this name")
        .hint("a number, a port's name, LOCAL, IN_PORT, NORMAL, FLOOD, ALL, CONTROLLER, ANY"))
}

/// Write a port.
pub(crate) fn show_port(out: &mut String, port: OfPort, ports: &dyn PortNames) {
    use std::fmt::Write;
    let reserved = RESERVED.iter().find(|(_, p)| *p == port);
    if let Some((name, _)) = reserved {
        out.push_str(name);
    } else if let Some(name) = ports.name(port) {
        show_name(out, name);
    } else if port.0 > 0xffff {
        let _ = write!(out, "{}", port.to_16());
    } else {
        let _ = write!(out, "{}", port.0);
    }
}

/// Write a name, in quotes unless it is a plain word.
fn show_name(out: &mut String, name: &str) {
    let mut bytes = name.bytes();
    let plain = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !RESERVED.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    if plain {
        return out.push_str(name);
    }
    out.push('"');
    for c in name.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

/// Read a port by itself: a number, a name of the bridge's, or a reserved name.
///
/// # Errors
/// Where the text is wrong and why.
pub fn read_port(text: &str, ports: &dyn PortNames) -> Result<OfPort, TextError> {
    parse_port(text, ports).map_err(|f| f.locate(text))
}
