//! How are `ct(...)` and `nat(...)` read?

use super::action_read::{ActionReader, Place};
use super::error::{Fault, Parsed, unknown};
use super::scan::{Form, Item, Items};
use super::subfield;
use super::value::{ipv4, ipv6, ranged};
use crate::action::{Action, Ct, Nat, NatAddrs, NatChoice, NatKind, Zone};
use crate::check::Shape;

const WORDS: [&str; 7] = ["commit", "force", "zone", "table", "nat", "exec", "alg"];
const NAT_WORDS: [&str; 5] = ["src", "dst", "persistent", "hash", "random"];

/// `ct(commit,force,table=T,zone=Z,nat(...),exec(...))`
pub(crate) fn ct<'a>(
    reader: &mut ActionReader<'_>,
    item: &Item<'a>,
    shape: &Shape,
    depth: usize,
) -> Parsed<'a, Action> {
    let mut ct = Ct {
        commit: false,
        force: false,
        zone: Zone::Number(0),
        table: None,
        nat: None,
        exec: Box::default(),
    };
    let mut items = Items::new(item.value);
    while let Some(arg) = items.next()? {
        match arg.key {
            "commit" => ct.commit = arg.bare().map(|()| true)?,
            "force" => ct.force = arg.bare().map(|()| true)?,
            "zone" => ct.zone = zone(arg.need("a zone")?)?,
            "table" => ct.table = Some(ranged(arg.need("a table")?, "a table", 0, 254)? as u8),
            "nat" if ct.nat.is_some() => return Err(Fault::new(arg.all, "nat is given twice")),
            "nat" => ct.nat = Some(nat(&arg)?),
            "exec" => {
                let list = reader.list(arg.value, Place::Exec, &mut shape.clone(), depth + 1)?;
                ct.exec = list.into();
            }
            "alg" => {
                return Err(Fault::new(arg.all, "alg (protocol helpers) is not supported yet"));
            }
            key => return Err(unknown(arg.key, "argument of ct", key, WORDS)),
        }
    }
    Ok(Action::Ct(Box::new(ct)))
}

/// A number, or 16 bits of a field.
fn zone(text: &str) -> Parsed<'_, Zone> {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return ranged_zone(text);
    }
    Ok(Zone::Field(subfield::read(text)?))
}

fn ranged_zone(text: &str) -> Parsed<'_, Zone> {
    let out = |_| Fault::new(text, "a zone is a number from 0 to 65535, or 16 bits of a field");
    super::value::number(text, 16).map(|n| Zone::Number(n as u16)).map_err(out)
}

/// `nat`, `nat(src=FIRST-LAST:PORT-PORT,persistent,hash)`
fn nat<'a>(item: &Item<'a>) -> Parsed<'a, Nat> {
    let mut nat = Nat {
        kind: None,
        addrs: NatAddrs::None,
        ports: None,
        persistent: false,
        choice: NatChoice::Any,
    };
    let mut flag = None;
    let mut items = Items::new(item.value);
    while let Some(arg) = items.next()? {
        match arg.key {
            "src" | "dst" => {
                let kind = if arg.key == "src" { NatKind::Src } else { NatKind::Dst };
                if nat.kind.replace(kind).is_some() {
                    return Err(Fault::new(arg.all, "nat has one of src and dst"));
                }
                if arg.form != Form::Bare {
                    (nat.addrs, nat.ports) = range(arg.need("an address")?)?;
                }
            }
            "persistent" => {
                nat.persistent = arg.bare().map(|()| true)?;
                flag = Some(arg.all);
            }
            "hash" | "random" => {
                arg.bare()?;
                flag = Some(arg.all);
                let choice = if arg.key == "hash" { NatChoice::Hash } else { NatChoice::Random };
                if nat.choice != NatChoice::Any && nat.choice != choice {
                    return Err(Fault::new(arg.all, "nat has one of hash and random"));
                }
                nat.choice = choice;
            }
            key => return Err(unknown(arg.key, "argument of nat", key, NAT_WORDS)),
        }
    }
    match flag {
        Some(flag) if nat.kind.is_none() => Err(Fault::new(flag, "this needs src or dst")),
        _ => Ok(nat),
    }
}

/// `FIRST[-LAST][:PORT[-PORT]]`; IPv6 addresses with ports in brackets.
#[allow(clippy::type_complexity)]
fn range(text: &str) -> Parsed<'_, (NatAddrs, Option<(u16, u16)>)> {
    let is_v6 = text.starts_with('[') || text.matches(':').count() > 1;
    let (addrs, ports) = match (is_v6, text.rfind(']')) {
        (false, _) => match text.split_once(':') {
            Some((a, p)) => (a, Some(p)),
            None => (text, None),
        },
        (true, None) => (text, None),
        (true, Some(i)) => match &text[i + 1..] {
            "" => (text, None),
            rest => match rest.strip_prefix(':') {
                Some(p) => (&text[..=i], Some(p)),
                None => return Err(Fault::new(rest, "`:` and ports are expected here")),
            },
        },
    };
    let (first, last) = addrs.split_once('-').unwrap_or((addrs, addrs));
    let addrs = if is_v6 {
        let (a, b) = (ipv6(unbracket(first))?, ipv6(unbracket(last))?);
        (a <= b).then_some(NatAddrs::V6(a, b))
    } else {
        let (a, b) = (ipv4(first)?, ipv4(last)?);
        (a <= b).then_some(NatAddrs::V4(a, b))
    };
    let addrs = addrs.ok_or_else(|| Fault::new(last, "the last address is below the first"))?;
    Ok((addrs, ports.map(port_range).transpose()?))
}

/// `PORT[-PORT]`
fn port_range(text: &str) -> Parsed<'_, (u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let a = ranged(first, "a port", 1, 65535)? as u16;
    let b = ranged(last, "a port", 1, 65535)? as u16;
    if a > b {
        return Err(Fault::new(last, "the last port is below the first"));
    }
    Ok((a, b))
}

fn unbracket(text: &str) -> &str {
    text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text)
}
