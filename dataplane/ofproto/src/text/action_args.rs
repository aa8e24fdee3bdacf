//! How are the arguments of single actions read?

use super::error::{Fault, Parsed, unknown};
use super::names::{PortNames, parse_port};
use super::scan::{Form, Item, Items};
use super::value::{ipv4, ipv6, mac, number, ranged};
use crate::action::{Action, Controller, OfPort, Reason};
use crate::mf::{Format, Subfield};

/// Names of the reasons for a packet-in.
pub(crate) const REASONS: &[(&str, Reason)] = &[
    ("action", Reason::Action),
    ("no_match", Reason::NoMatch),
    ("invalid_ttl", Reason::InvalidTtl),
    ("action_set", Reason::ActionSet),
    ("group", Reason::Group),
    ("packet_out", Reason::PacketOut),
];

/// `controller`, `controller:LEN` or `controller(max_len=,id=,reason=,userdata=,pause)`
pub(crate) fn controller<'a>(item: &Item<'a>) -> Parsed<'a, Action> {
    let all = Action::Output { port: OfPort::CONTROLLER, max_len: u16::MAX };
    if item.form == Form::Bare || item.value.is_empty() {
        return Ok(all);
    }
    if item.value.bytes().all(|b| b.is_ascii_digit()) {
        let n = ranged(item.value, "max_len", 0, 0xffff)?;
        return Ok(Action::Output { port: OfPort::CONTROLLER, max_len: n as u16 });
    }
    let mut c = Controller {
        max_len: u16::MAX,
        id: 0,
        reason: Reason::Action,
        userdata: Box::default(),
        pause: false,
    };
    let mut items = Items::new(item.value);
    while let Some(arg) = items.next()? {
        match arg.key {
            "max_len" => c.max_len = ranged(arg.value, "max_len", 0, 0xffff)? as u16,
            "id" => c.id = ranged(arg.value, "a controller's id", 0, 0xffff)? as u16,
            "reason" => c.reason = reason(arg.value)?,
            "userdata" => c.userdata = bytes(arg.value)?.into(),
            "pause" => c.pause = arg.bare().map(|()| true)?,
            "meter_id" => return Err(Fault::new(arg.all, "meters are not supported yet")),
            key => {
                let known = ["max_len", "id", "reason", "userdata", "pause"];
                return Err(unknown(arg.key, "argument of controller", key, known));
            }
        }
    }
    let plain = c.id == 0 && c.reason == Reason::Action && c.userdata.is_empty() && !c.pause;
    Ok(match plain {
        true => Action::Output { port: OfPort::CONTROLLER, max_len: c.max_len },
        false => Action::Controller(Box::new(c)),
    })
}

fn reason(text: &str) -> Parsed<'_, Reason> {
    match REASONS.iter().find(|(n, _)| *n == text) {
        Some((_, r)) => Ok(*r),
        None => Err(unknown(text, "reason", text, REASONS.iter().map(|r| r.0))),
    }
}

/// `output(port=PORT,max_len=N)`
pub(crate) fn output_truncated<'a>(item: &Item<'a>, ports: &dyn PortNames) -> Parsed<'a, Action> {
    let (mut port, mut max_len) = (None, None);
    let mut items = Items::new(item.value);
    while let Some(arg) = items.next()? {
        match arg.key {
            "port" => port = Some(parse_port(arg.need("a port")?, ports)?),
            "max_len" => max_len = Some(number(arg.need("a length")?, 32)? as u32),
            key => return Err(unknown(arg.key, "argument of output", key, ["port", "max_len"])),
        }
    }
    match (port, max_len) {
        (Some(port), Some(max_len)) => Ok(Action::OutputTrunc { port, max_len }),
        _ => Err(Fault::new(item.all, "output(port=PORT,max_len=BYTES) needs both")),
    }
}

/// `dec_ttl` or `dec_ttl(ID,...)`
pub(crate) fn dec_ttl<'a>(item: &Item<'a>) -> Parsed<'a, Action> {
    let mut ids = Vec::new();
    let mut items = Items::new(item.value);
    while let Some(arg) = items.next()? {
        arg.bare()?;
        ids.push(ranged(arg.key, "a controller's id", 0, 0xffff)? as u16);
    }
    Ok(Action::DecTtl(if ids.is_empty() { None } else { Some(ids.into()) }))
}

/// `fin_timeout(idle_timeout=SECONDS,hard_timeout=SECONDS)`
pub(crate) fn fin_timeout<'a>(item: &Item<'a>) -> Parsed<'a, Action> {
    let (mut idle, mut hard) = (0, 0);
    let mut items = Items::new(item.value);
    while let Some(arg) = items.next()? {
        let timeout = match arg.key {
            "idle_timeout" => &mut idle,
            "hard_timeout" => &mut hard,
            key => {
                let known = ["idle_timeout", "hard_timeout"];
                return Err(unknown(arg.key, "argument of fin_timeout", key, known));
            }
        };
        *timeout = ranged(arg.need("a time-out")?, "a time-out", 0, 0xffff)? as u16;
    }
    Ok(Action::FinTimeout { idle, hard })
}

/// `conjunction(ID,K/N)`
pub(crate) fn conjunction<'a>(item: &Item<'a>) -> Parsed<'a, Action> {
    let wrong = || Fault::new(item.all, "conjunction(ID,CLAUSE/CLAUSES) is expected");
    let (id, clauses) = item.value.split_once(',').ok_or_else(wrong)?;
    let (k, n) = clauses.trim().split_once('/').ok_or_else(wrong)?;
    let n_clauses = ranged(n.trim(), "the number of clauses", 2, 64)?;
    let clause = ranged(k.trim(), "a clause's index", 1, n_clauses)?;
    let id = number(id.trim(), 32)? as u32;
    Ok(Action::Conjunction { id, clause: clause as u8 - 1, n_clauses: n_clauses as u8 })
}

/// Pairs of hexadecimal digits, perhaps with dots between them.
pub(crate) fn bytes(text: &str) -> Parsed<'_, Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if rest.is_empty() {
            break;
        }
        let pair = rest.get(..2).filter(|p| p.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(pair) = pair else {
            return Err(Fault::new(rest, "pairs of hexadecimal digits are expected"));
        };
        out.push(u8::from_str_radix(pair, 16).unwrap_or_default());
        rest = &rest[2..];
    }
    Ok(out)
}

/// A constant for some bits of a field: a number, or the field's own notation.
pub(crate) fn bits_value(text: &str, dst: Subfield) -> Parsed<'_, u128> {
    let is_plain = text.bytes().all(|b| b.is_ascii_alphanumeric());
    if !is_plain && dst.is_whole() {
        match dst.field.info().format {
            Format::Ipv4 => return ipv4(text).map(u128::from),
            Format::Ipv6 => return ipv6(text),
            Format::Mac => return mac(text),
            _ => {}
        }
    }
    number(text, u32::from(dst.n_bits))
}
