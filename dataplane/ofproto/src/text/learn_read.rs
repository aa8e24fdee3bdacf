//! How is `learn(...)` read?

use super::action_args::bits_value;
use super::error::{Fault, Parsed, unknown};
use super::names::{PortNames, field_by_name, is_unsupported_field};
use super::scan::{Form, Item, Items, arrow};
use super::subfield;
use super::value::{self, number, ranged};
use crate::action::{Action, Learn, LearnSpec, OfPort};
use crate::flowmod::DEFAULT_PRIORITY;
use crate::mf::{Format, Mf, Subfield};

const WORDS: [&str; 14] = [
    "table",
    "priority",
    "idle_timeout",
    "hard_timeout",
    "fin_idle_timeout",
    "fin_hard_timeout",
    "cookie",
    "send_flow_rem",
    "delete_learned",
    "limit",
    "result_dst",
    "load",
    "output",
    "tcp_dst",
];

/// `learn(ARGUMENT,...)`
pub(crate) fn learn<'a>(item: &Item<'a>, ports: &dyn PortNames) -> Parsed<'a, Action> {
    let mut learn = Learn {
        idle_timeout: 0,
        hard_timeout: 0,
        fin_idle_timeout: 0,
        fin_hard_timeout: 0,
        priority: DEFAULT_PRIORITY,
        cookie: 0,
        table: 1,
        send_flow_rem: false,
        delete_learned: false,
        limit: 0,
        result_dst: None,
        specs: Box::default(),
    };
    let mut specs = Vec::new();
    let seconds = |arg: &Item<'a>| ranged(arg.value, "a time-out", 0, 0xffff).map(|n| n as u16);
    let mut items = Items::new(item.value);
    while let Some(arg) = items.next()? {
        match arg.key {
            "table" => learn.table = ranged(arg.value, "a table", 0, 254)? as u8,
            "priority" => learn.priority = ranged(arg.value, "a priority", 0, 0xffff)? as u16,
            "idle_timeout" => learn.idle_timeout = seconds(&arg)?,
            "hard_timeout" => learn.hard_timeout = seconds(&arg)?,
            "fin_idle_timeout" => learn.fin_idle_timeout = seconds(&arg)?,
            "fin_hard_timeout" => learn.fin_hard_timeout = seconds(&arg)?,
            "cookie" => learn.cookie = number(arg.need("a cookie")?, 64)? as u64,
            "send_flow_rem" => learn.send_flow_rem = arg.bare().map(|()| true)?,
            "delete_learned" => learn.delete_learned = arg.bare().map(|()| true)?,
            "limit" => learn.limit = number(arg.need("a limit")?, 32)? as u32,
            "result_dst" => learn.result_dst = Some(subfield::read(arg.need("a bit")?)?),
            _ => specs.push(spec(&arg, ports)?),
        }
    }
    learn.specs = specs.into();
    Ok(Action::Learn(Box::new(learn)))
}

fn spec<'a>(arg: &Item<'a>, ports: &dyn PortNames) -> Parsed<'a, LearnSpec> {
    match arg.key {
        "load" => {
            let (from, to) = arrow(arg.need("VALUE->FIELD")?)?;
            let dst = subfield::read(to)?;
            match source(from) {
                Some(src) => Ok(LearnSpec::LoadField { dst, src: src? }),
                None => Ok(LearnSpec::LoadValue { dst, value: bits_value(from, dst)? }),
            }
        }
        "output" => Ok(LearnSpec::Output { src: subfield::read(arg.need("a field")?)? }),
        key => {
            let name = key.split('[').next().unwrap_or(key);
            if field_by_name(name).is_none() && !is_unsupported_field(name) {
                return Err(unknown(arg.key, "argument of learn", name, WORDS));
            }
            let dst = subfield::read(key)?;
            if matches!(dst.field, Mf::DlVlan | Mf::DlVlanPcp) {
                return Err(Fault::new(arg.all, "learn matches vlan_vid, vlan_pcp or vlan_tci"));
            }
            match_spec(arg, dst, ports)
        }
    }
}

/// `FIELD`, `FIELD=FIELD` or `FIELD=VALUE`
fn match_spec<'a>(arg: &Item<'a>, dst: Subfield, ports: &dyn PortNames) -> Parsed<'a, LearnSpec> {
    if arg.form == Form::Bare {
        return Ok(LearnSpec::MatchField { dst, src: dst });
    }
    let text = arg.need("a field or a value")?;
    if let Some(src) = source(text) {
        return Ok(LearnSpec::MatchField { dst, src: src? });
    }
    if !dst.is_whole() {
        return Ok(LearnSpec::MatchValue { dst, value: number(text, u32::from(dst.n_bits))? });
    }
    let (value, mask) = value::field(dst.field, text, ports)?;
    let flags = matches!(
        dst.field.info().format,
        Format::CtState | Format::TcpFlags | Format::TunnelFlags | Format::Frag
    );
    if mask.is_some() && !flags {
        return Err(Fault::new(text, "learn matches values without a mask")
            .hint("name the bits instead: FIELD[FIRST..LAST]=VALUE"));
    }
    let value = match dst.field {
        Mf::InPort => u128::from(OfPort(value as u32).to_16()),
        _ => value,
    };
    Ok(LearnSpec::MatchValue { dst, value })
}

/// A field, if the text begins like one.
fn source(text: &str) -> Option<Parsed<'_, Subfield>> {
    let name = text.split('[').next().unwrap_or(text);
    field_by_name(name).map(|_| subfield::read(text))
}
