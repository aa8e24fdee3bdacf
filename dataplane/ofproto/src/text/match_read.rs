//! How is the text of a match read?

use flow::FlowKey;
use smallvec::SmallVec;

use super::error::{Fault, Parsed};
use super::names::{PortNames, SHORTHANDS, field_by_name, field_of};
use super::scan::{Form, Item};
use super::subfield;
use super::value::{self, number};
use crate::matching::{MatchBuilder, MatchError, may_match};
use crate::mf::{Format, Mf};

/// Who asks: rules may not match on everything that a packet may be described by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A rule's match, or a filter for rules.
    Rule,
    /// A description of a packet.
    Packet,
}

/// One field that was given, for the checks at the end.
struct Given<'a> {
    mf: Mf,
    value: u128,
    mask: Option<u128>,
    item: &'a str,
}

/// Gathers the items of a match.
pub(crate) struct MatchReader<'a, 'p> {
    builder: MatchBuilder,
    given: SmallVec<[Given<'a>; 12]>,
    ports: &'p dyn PortNames,
    purpose: Purpose,
}

impl<'a, 'p> MatchReader<'a, 'p> {
    pub(crate) fn new(ports: &'p dyn PortNames, purpose: Purpose) -> Self {
        MatchReader { builder: MatchBuilder::new(), given: SmallVec::new(), ports, purpose }
    }

    /// Take one item, if it is one of a match.
    pub(crate) fn take(&mut self, item: &Item<'a>) -> Parsed<'a, bool> {
        if let Some((_, ty, proto)) = SHORTHANDS.iter().find(|(n, _, _)| *n == item.key) {
            item.bare()?;
            self.add(Mf::EthType, u128::from(*ty), None, item)?;
            if let Some(p) = proto {
                self.add(Mf::NwProto, u128::from(*p), None, item)?;
            }
            return Ok(true);
        }
        if item.key == "eth" && item.form == Form::Bare {
            return Ok(true);
        }
        if let Some(mf) = field_by_name(item.key) {
            let text = item.need("a value")?;
            let (v, m) = value::field(mf, text, self.ports)?;
            self.add(mf, v, m, item)?;
            return Ok(true);
        }
        if item.key.ends_with(']') {
            return self.take_bits(item).map(|()| true);
        }
        Ok(false)
    }

    /// `reg0[3..5]=2`
    fn take_bits(&mut self, item: &Item<'a>) -> Parsed<'a, ()> {
        let sf = subfield::read(item.key)?;
        let v = number(item.need("a value")?, u32::from(sf.n_bits))?;
        if !sf.is_whole() && !sf.field.info().maskable {
            return Err(Fault::new(
                item.key,
                format_args!("{} cannot be matched in part", sf.field.name()),
            ));
        }
        let mask = if sf.is_whole() { None } else { Some(sf.mask()) };
        let again = |g: &Given<'_>| g.mf == sf.field && g.item.starts_with(item.key);
        if self.given.iter().any(again) {
            return Err(Fault::new(item.all, "these bits are given twice"));
        }
        self.put(sf.field, v << sf.ofs, mask, item)
    }

    /// Add a whole field; twice only if it says the same.
    fn add(&mut self, mf: Mf, v: u128, m: Option<u128>, item: &Item<'a>) -> Parsed<'a, ()> {
        let before = self.given.iter().find(|g| g.mf == mf && !g.item.starts_with("NXM"));
        if before.is_some_and(|g| (g.value, g.mask) != (v, m)) {
            return Err(Fault::new(
                item.all,
                format_args!("{} is given twice, with different values", mf.name()),
            ));
        }
        self.put(mf, v, m, item)
    }

    fn put(&mut self, mf: Mf, v: u128, m: Option<u128>, item: &Item<'a>) -> Parsed<'a, ()> {
        if self.purpose == Purpose::Rule {
            let internal = matches!(mf, Mf::RecircId | Mf::DpHash | Mf::SkbPriority);
            if internal {
                return Err(Fault::new(
                    item.all,
                    format_args!("rules cannot match {}, the switch uses it itself", mf.name()),
                ));
            }
        }
        if self.purpose == Purpose::Packet && !has_one_value(mf, m) {
            return Err(Fault::new(item.all, "a packet's field has one value, without a mask"));
        }
        if mf == Mf::PacketType {
            return match v {
                0 => Ok(()),
                _ => Err(Fault::new(item.all, "packets other than Ethernet are not supported yet")),
            };
        }
        self.builder.set(mf, v, m).map_err(|e| {
            let at = if e == MatchError::Contradiction { item.all } else { item.value };
            Fault::new(at, e)
        })?;
        if m != Some(0) {
            self.given.push(Given { mf, value: v, mask: m, item: item.all });
        }
        Ok(())
    }

    /// Check that every field has what it needs.
    pub(crate) fn check(&self) -> Parsed<'a, ()> {
        match self.given.iter().find(|g| !may_match(&self.builder, g.mf)) {
            None => Ok(()),
            Some(g) => Err(Fault::new(
                g.item,
                format_args!(
                    "{} can only be matched together with {}",
                    g.item.split(['=', ':', '(']).next().unwrap_or(g.item),
                    g.mf.info().prereq.text()
                ),
            )),
        }
    }

    /// What was gathered: values and masks.
    pub(crate) fn into_parts(self) -> (FlowKey, FlowKey) {
        self.builder.into_parts()
    }
}

/// Whether a value with that mask is one value; flags may leave out those that are not set.
fn has_one_value(mf: Mf, mask: Option<u128>) -> bool {
    let flags = matches!(
        mf.info().format,
        Format::CtState | Format::TcpFlags | Format::TunnelFlags | Format::Frag
    );
    mask.is_none_or(|m| flags || m & mf.full() == mf.full())
}

/// The fault for a word that is nothing that a match knows.
pub(crate) fn not_known<'a>(item: &Item<'a>, words: &[&'static str]) -> Box<Fault<'a>> {
    if item.key.starts_with("action") {
        return Fault::new(item.all, "`actions=` and a list of actions are expected here");
    }
    let shorthands = SHORTHANDS.iter().map(|s| s.0);
    let other = shorthands.chain(words.iter().copied());
    match super::error::nearest(item.key, other) {
        Some(n) => Fault::new(item.key, "unknown word").hint(format_args!("did you mean `{n}`?")),
        None => match field_of(item.key) {
            Err(fault) => fault,
            Ok(_) => Fault::new(item.all, "a value is missing"),
        },
    }
}
