//! How is the text of a field's value read?
//!
//! Numbers are decimal, hexadecimal with `0x` or octal with a leading `0`; addresses, flags and
//! ports have their own texts. A value may be followed by `/` and a mask.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::error::{Fault, Parsed, unknown};
use super::names::{CT_STATE, FRAGS, PortNames, TCP_FLAGS, TUN_FLAGS, parse_port};
use crate::mf::{Format, Mf};

/// A number that fits into `bits` bits.
pub(crate) fn number<'a>(text: &'a str, bits: u32) -> Parsed<'a, u128> {
    let bad = || Fault::new(text, "a number is expected");
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16),
        [b'0', _, ..] => (&text[1..], 8),
        _ => (text, 10),
    };
    if digits.is_empty() {
        return Err(bad());
    }
    let too_large = || Fault::new(text, format_args!("the number does not fit into {bits} bits"));
    let mut n: u128 = 0;
    for d in digits.chars() {
        let d = d.to_digit(radix).ok_or_else(bad)?;
        n = n
            .checked_mul(u128::from(radix))
            .and_then(|n| n.checked_add(u128::from(d)))
            .ok_or_else(too_large)?;
    }
    if bits < 128 && n >> bits != 0 {
        return Err(too_large());
    }
    Ok(n)
}

/// A number from `min` to `max`, with a name for the refusal.
pub(crate) fn ranged<'a>(text: &'a str, what: &str, min: u64, max: u64) -> Parsed<'a, u64> {
    let out = || Fault::new(text, format_args!("{what} must be a number from {min} to {max}"));
    let n = number(text, 64).map_err(|_| out())? as u64;
    if n < min || n > max { Err(out()) } else { Ok(n) }
}

/// `-1` or a 64-bit number: masks of cookies are written so.
pub(crate) fn number_or_all<'a>(text: &'a str) -> Parsed<'a, u64> {
    if text == "-1" { Ok(u64::MAX) } else { number(text, 64).map(|n| n as u64) }
}

/// `xx:xx:xx:xx:xx:xx`, one or two digits each.
pub(crate) fn mac(text: &str) -> Parsed<'_, u128> {
    let bad = || Fault::new(text, "an Ethernet address is expected, as in 00:11:22:aa:bb:cc");
    let mut out = 0u128;
    let mut n = 0;
    for part in text.split(':') {
        let ok = matches!(part.len(), 1 | 2) && part.bytes().all(|b| b.is_ascii_hexdigit());
        if !ok {
            return Err(bad());
        }
        out = out << 8 | u128::from_str_radix(part, 16).map_err(|_| bad())?;
        n += 1;
    }
    if n == 6 { Ok(out) } else { Err(bad()) }
}

/// `a.b.c.d`
pub(crate) fn ipv4(text: &str) -> Parsed<'_, u32> {
    text.parse::<Ipv4Addr>()
        .map(u32::from)
        .map_err(|_| Fault::new(text, "an IPv4 address is expected, as in 192.0.2.1"))
}

/// `a:b::c`
pub(crate) fn ipv6(text: &str) -> Parsed<'_, u128> {
    text.parse::<Ipv6Addr>()
        .map(u128::from)
        .map_err(|_| Fault::new(text, "an IPv6 address is expected, as in 2001:db8::1"))
}

/// A mask as prefix length or address.
fn ip_mask<'a>(
    text: &'a str,
    bits: u32,
    address: impl FnOnce(&'a str) -> Parsed<'a, u128>,
) -> Parsed<'a, u128> {
    if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        let n = ranged(text, "the prefix length", 0, u64::from(bits))? as u32;
        let all = if bits == 128 { u128::MAX } else { (1 << bits) - 1 };
        return Ok(if n == 0 { 0 } else { all << (bits - n) & all });
    }
    address(text)
}

/// Flags that all have a name, or a number, or `[hex]` for bits without a name.
fn flags_word<'a>(word: &'a str, names: &[&'static str], all: u32) -> Parsed<'a, u32> {
    if let Some(i) = names.iter().position(|n| !n.is_empty() && *n == word) {
        return Ok(1 << i);
    }
    let hex = word.strip_prefix('[').and_then(|w| w.strip_suffix(']'));
    if let Some(bits) = hex.and_then(|h| u32::from_str_radix(h, 16).ok()).filter(|b| b & !all == 0)
    {
        return Ok(bits);
    }
    Err(unknown(word, "flag", word, names.iter().copied().filter(|n| !n.is_empty())))
}

/// `+a-b` (these set, those not), `a|b` (exactly these set) or a number with or without mask.
fn flags<'a>(text: &'a str, names: &[&'static str], all: u32) -> Parsed<'a, (u128, u128)> {
    if text.starts_with(['+', '-']) {
        return signed_flags(text, names, all);
    }
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        let (value, mask) = masked(text, |t| number(t, 32))?;
        let mask = mask.unwrap_or(u128::from(all));
        if (value | mask) & !u128::from(all) != 0 {
            return Err(Fault::new(text, format_args!("only bits of {all:#x} are flags")));
        }
        return Ok((value, mask));
    }
    let mut value = 0;
    for word in text.split('|') {
        value |= flags_word(word, names, all)?;
    }
    Ok((u128::from(value), u128::from(all)))
}

/// `+a-b`
fn signed_flags<'a>(text: &'a str, names: &[&'static str], all: u32) -> Parsed<'a, (u128, u128)> {
    let (mut value, mut mask) = (0, 0);
    let mut rest = text;
    while !rest.is_empty() {
        let set = match rest.as_bytes()[0] {
            b'+' => true,
            b'-' => false,
            _ => return Err(Fault::new(rest, "`+` or `-` is expected before each flag")),
        };
        let end = rest[1..].find(['+', '-', '|', '/']).map_or(rest.len(), |i| i + 1);
        let word = &rest[1..end];
        let bits = flags_word(word, names, all)?;
        if mask & bits != 0 {
            return Err(Fault::new(word, "each flag can be given once"));
        }
        mask |= bits;
        value |= if set { bits } else { 0 };
        rest = &rest[end..];
    }
    Ok((u128::from(value), u128::from(mask)))
}

/// `VALUE` or `VALUE/MASK`, both read by `read`.
fn masked<'a>(
    text: &'a str,
    read: impl Fn(&'a str) -> Parsed<'a, u128>,
) -> Parsed<'a, (u128, Option<u128>)> {
    match text.split_once('/') {
        None => Ok((read(text)?, None)),
        Some((value, mask)) => Ok((read(value)?, Some(read(mask)?))),
    }
}

/// `(NAMESPACE,TYPE)`: the namespace in the upper half.
fn packet_type(text: &str) -> Parsed<'_, u128> {
    let bad = || Fault::new(text, "a packet type is expected, as in (0,0) for Ethernet");
    let inner = text.strip_prefix('(').and_then(|t| t.strip_suffix(')')).ok_or_else(bad)?;
    let (ns, kind) = inner.split_once(',').ok_or_else(bad)?;
    Ok(number(ns.trim(), 16)? << 16 | number(kind.trim(), 16)?)
}

/// Bits of a field's value that may be given; more than actions see for a VLAN id, whose tag bit is
/// with it.
const fn value_bits(mf: Mf) -> u32 {
    match mf {
        Mf::VlanVid => 13,
        // 0xffff stands for no tag; what else is too large is refused as a VLAN id.
        Mf::DlVlan => 16,
        _ => mf.bits(),
    }
}

/// A field's value and mask (`None` if there is no `/`); `*` is a mask of zero.
pub(crate) fn field<'a>(
    mf: Mf,
    text: &'a str,
    ports: &dyn PortNames,
) -> Parsed<'a, (u128, Option<u128>)> {
    let info = mf.info();
    if text == "*" {
        return Ok((0, Some(0)));
    }
    let bits = value_bits(mf);
    let (value, mask) = match info.format {
        Format::Decimal | Format::Hex if mf == Mf::TunId && text.starts_with('-') => {
            (number_or_all(text)?.into(), None)
        }
        Format::Decimal | Format::Hex => masked(text, |t| number(t, bits))?,
        Format::Mac => masked(text, mac)?,
        Format::Ipv4 => match text.split_once('/') {
            None => (ipv4(text)?.into(), None),
            Some((a, m)) => (ipv4(a)?.into(), Some(ip_mask(m, 32, |m| ipv4(m).map(u128::from))?)),
        },
        Format::Ipv6 => match text.split_once('/') {
            None => (ipv6(text)?, None),
            Some((a, m)) => (ipv6(a)?, Some(ip_mask(m, 128, ipv6)?)),
        },
        Format::Port => (parse_port(text, ports)?.0.into(), None),
        Format::Frag => match FRAGS.iter().find(|(name, _, _)| *name == text) {
            Some((_, value, mask)) => (*value, Some(*mask)),
            None => {
                return Err(unknown(text, "fragment type", text, FRAGS.iter().map(|f| f.0))
                    .hint("no, yes, first, later or not_later"));
            }
        },
        Format::CtState => with_mask(flags(text, CT_STATE, 0xff)?),
        Format::TcpFlags => with_mask(flags(text, TCP_FLAGS, 0xfff)?),
        Format::TunnelFlags => with_mask(flags(text, TUN_FLAGS, 1)?),
        Format::PacketType => (packet_type(text)?, None),
    };
    if !info.maskable && mask.is_some() {
        let slash = text.find('/').map_or(text, |i| &text[i..]);
        return Err(Fault::new(slash, format_args!("{} cannot be masked", info.name)));
    }
    Ok((value, mask))
}

/// Flags always come with a mask.
fn with_mask((value, mask): (u128, u128)) -> (u128, Option<u128>) {
    (value, Some(mask))
}
