//! How is the text of actions read?
//!
//! A list of items (`output:1,resubmit(,5)`) becomes a list of [`Action`]s. Each action is checked
//! against what is known of the flow's packets as soon as it is read, so that a refusal can name
//! its place.

use super::action_args;
use super::ct_read;
use super::error::{Fault, Parsed, unknown};
use super::learn_read;
use super::names::{PortNames, RESERVED, parse_port};
use super::scan::{Form, Item, Items, arrow};
use super::subfield;
use super::value::{ipv4, mac, number, ranged};
use crate::action::{Action, GroupId, OfPort, SetField, SetForm};
use crate::check::{Shape, allowed_in_set, check_order};
use crate::mf::Mf;

/// How deep actions may stand in actions.
pub const MAX_NESTING: usize = 32;
/// Actions that a rule or a bucket may have, with all that is inside them.
pub const MAX_ACTIONS: usize = 4096;

/// Words that begin an action, for suggestions.
const WORDS: &[&str] = &[
    "output",
    "normal",
    "flood",
    "all",
    "local",
    "in_port",
    "controller",
    "group",
    "resubmit",
    "goto_table",
    "write_actions",
    "clear_actions",
    "write_metadata",
    "push_vlan",
    "pop_vlan",
    "strip_vlan",
    "mod_vlan_vid",
    "mod_vlan_pcp",
    "set_vlan_vid",
    "set_vlan_pcp",
    "set_field",
    "load",
    "move",
    "mod_dl_src",
    "mod_dl_dst",
    "mod_nw_src",
    "mod_nw_dst",
    "mod_nw_tos",
    "mod_nw_ecn",
    "mod_nw_ttl",
    "mod_tp_src",
    "mod_tp_dst",
    "dec_ttl",
    "set_tunnel",
    "set_tunnel64",
    "fin_timeout",
    "learn",
    "conjunction",
    "note",
    "clone",
    "exit",
    "ct",
    "ct_clear",
    "drop",
];

/// Actions of Open vSwitch that this switch does not have.
const LATER: &[&str] = &[
    "meter",
    "push_mpls",
    "pop_mpls",
    "set_mpls_label",
    "set_mpls_tc",
    "set_mpls_ttl",
    "dec_mpls_ttl",
    "multipath",
    "bundle",
    "bundle_load",
    "sample",
    "push",
    "pop",
    "stack_push",
    "stack_pop",
    "set_queue",
    "pop_queue",
    "enqueue",
    "check_pkt_larger",
    "delete_field",
    "encap",
    "decap",
    "dec_nsh_ttl",
    "set_ip_dscp",
];

/// Where a list of actions stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A rule's own list: instructions too.
    Rule,
    /// Inside `clone()`, or in a packet-out.
    List,
    /// Inside `write_actions()`.
    Set,
    /// Inside `ct(exec())`.
    Exec,
}

/// Reads lists of actions.
pub(crate) struct ActionReader<'p> {
    pub(crate) ports: &'p dyn PortNames,
    left: usize,
}

impl<'p> ActionReader<'p> {
    pub(crate) fn new(ports: &'p dyn PortNames) -> Self {
        ActionReader { ports, left: MAX_ACTIONS }
    }

    /// All of `text` as a list; empty for `drop`.
    pub(crate) fn list<'a>(
        &mut self,
        text: &'a str,
        place: Place,
        shape: &mut Shape,
        depth: usize,
    ) -> Parsed<'a, Vec<Action>> {
        if depth > MAX_NESTING {
            return Err(Fault::new(text, format_args!("actions nest deeper than {MAX_NESTING}")));
        }
        let mut actions = Vec::new();
        let mut at = Vec::new();
        let mut drop = None;
        let mut items = Items::new(text);
        while let Some(item) = items.next()? {
            if item.key.eq_ignore_ascii_case("drop") {
                item.bare()?;
                drop = Some(item.all);
                continue;
            }
            self.left = self.left.checked_sub(1).ok_or_else(|| {
                Fault::new(item.all, format_args!("more than {MAX_ACTIONS} actions"))
            })?;
            let action = self.action(&item, place, shape, depth)?;
            let checked = match place {
                Place::Exec => shape.check_exec(&action),
                _ => shape.check(&action),
            };
            checked.map_err(|e| Fault::new(item.all, e))?;
            if place == Place::Set && !allowed_in_set(&action) {
                return Err(Fault::new(item.all, "this action cannot be in an action set"));
            }
            actions.push(action);
            at.push(item.all);
        }
        if let Some(drop) = drop.filter(|_| !actions.is_empty()) {
            return Err(Fault::new(drop, "drop stands alone, without other actions"));
        }
        check_order(&actions).map_err(|(i, e)| Fault::new(at[i], e))?;
        Ok(actions)
    }

    fn action<'a>(
        &mut self,
        item: &Item<'a>,
        place: Place,
        shape: &mut Shape,
        depth: usize,
    ) -> Parsed<'a, Action> {
        let word = item.key;
        let set = |mf: Mf, v: u128| Ok(mod_field(mf, v));
        match word {
            "output" => self.output(item),
            "controller" | "CONTROLLER" => action_args::controller(item),
            "group" => {
                let n = number(item.need("a group's number")?, 32)?;
                Ok(Action::Group(GroupId(n as u32)))
            }
            "resubmit" => self.resubmit(item),
            "goto_table" | "write_metadata" | "clear_actions" | "write_actions"
                if place != Place::Rule =>
            {
                Err(Fault::new(item.all, "instructions stand in a flow's own list only"))
            }
            "goto_table" => {
                Ok(Action::GotoTable(ranged(item.need("a table")?, "a table", 0, 254)? as u8))
            }
            "write_actions" => {
                let list = self.list(item.value, Place::Set, &mut shape.clone(), depth + 1)?;
                Ok(Action::WriteActions(list.into()))
            }
            "clear_actions" => item.bare().map(|()| Action::ClearActions),
            "write_metadata" => write_metadata(item.need("a value")?),
            "clone" => {
                let list = self.list(item.value, Place::List, &mut shape.clone(), depth + 1)?;
                Ok(Action::Clone(list.into()))
            }
            "push_vlan" => push_vlan(item.need("an Ethernet type")?),
            "pop_vlan" => item.bare().map(|()| Action::StripVlan { pop: true }),
            "strip_vlan" => item.bare().map(|()| Action::StripVlan { pop: false }),
            "mod_vlan_vid" | "set_vlan_vid" => {
                let n = ranged(item.need("a VLAN id")?, "a VLAN id", 0, 4095)?;
                Ok(Action::SetVlanVid(n as u16))
            }
            "mod_vlan_pcp" | "set_vlan_pcp" => {
                let n = ranged(item.need("a priority")?, "a VLAN priority", 0, 7)?;
                Ok(Action::SetVlanPcp(n as u8))
            }
            "set_field" => self.set_field(item.need("VALUE->FIELD")?),
            "load" | "set" => load(item.need("VALUE->FIELD")?),
            "move" => {
                let (src, dst) = arrow(item.need("FIELD->FIELD")?)?;
                Ok(Action::Move { src: subfield::read(src)?, dst: subfield::read(dst)? })
            }
            "mod_dl_src" => set(Mf::EthSrc, mac(item.need("an Ethernet address")?)?),
            "mod_dl_dst" => set(Mf::EthDst, mac(item.need("an Ethernet address")?)?),
            "mod_nw_src" => set(Mf::IpSrc, ipv4(item.need("an address")?)?.into()),
            "mod_nw_dst" => set(Mf::IpDst, ipv4(item.need("an address")?)?.into()),
            "mod_nw_tos" => set(Mf::NwTos, number(item.need("a TOS")?, 8)?),
            "mod_nw_ecn" => set(Mf::NwEcn, number(item.need("an ECN value")?, 2)?),
            "mod_nw_ttl" => set(Mf::NwTtl, number(item.need("a TTL")?, 8)?),
            "mod_tp_src" => set(Mf::TcpSrc, number(item.need("a port")?, 16)?),
            "mod_tp_dst" => set(Mf::TcpDst, number(item.need("a port")?, 16)?),
            "set_tunnel" | "set_tunnel64" => set(Mf::TunId, number(item.need("a tunnel id")?, 64)?),
            "dec_ttl" => action_args::dec_ttl(item),
            "fin_timeout" => action_args::fin_timeout(item),
            "learn" => learn_read::learn(item, self.ports),
            "conjunction" => action_args::conjunction(item),
            "note" => action_args::bytes(item.value).map(|b| Action::Note(b.into())),
            "exit" => item.bare().map(|()| Action::Exit),
            "ct" => ct_read::ct(self, item, shape, depth),
            "ct_clear" => item.bare().map(|()| Action::CtClear),
            "nat" => Err(Fault::new(item.all, "nat stands inside ct(...) only")),
            _ => self.port_or_unknown(item),
        }
    }

    /// A port's number or name by itself.
    fn port_or_unknown<'a>(&self, item: &Item<'a>) -> Parsed<'a, Action> {
        let word = item.key;
        if LATER.contains(&word) {
            return Err(Fault::new(item.all, format_args!("{word} is not supported yet")));
        }
        match parse_port(word, self.ports) {
            Ok(OfPort::CONTROLLER) => action_args::controller(item),
            Ok(port) => item.bare().map(|()| Action::output(port)),
            // A number or a quoted word is nothing but a port.
            Err(f) if word.starts_with(|c: char| c.is_ascii_digit() || c == '"') => Err(f),
            Err(_) => {
                let reserved = RESERVED.iter().map(|(n, _)| *n);
                Err(unknown(word, "action", word, WORDS.iter().copied().chain(reserved)))
            }
        }
    }

    /// `output:PORT`, `output:FIELD` or `output(port=PORT,max_len=N)`
    fn output<'a>(&self, item: &Item<'a>) -> Parsed<'a, Action> {
        let text = item.need("a port")?;
        if item.form == Form::Parens && text.contains('=') {
            return action_args::output_truncated(item, self.ports);
        }
        match parse_port(text, self.ports) {
            Ok(OfPort::CONTROLLER) => {
                Ok(Action::Output { port: OfPort::CONTROLLER, max_len: u16::MAX })
            }
            Ok(port) => Ok(Action::output(port)),
            Err(fault) => match subfield::read(text) {
                Ok(src) => Ok(Action::OutputReg { src, max_len: u16::MAX }),
                Err(f) if text.contains('[') => Err(f),
                Err(_) => Err(fault),
            },
        }
    }

    /// `resubmit:PORT` or `resubmit([PORT],[TABLE][,ct])`
    fn resubmit<'a>(&self, item: &Item<'a>) -> Parsed<'a, Action> {
        let mut parts = item.value.split(',').map(str::trim);
        let port = parts.next().unwrap_or_default();
        let table = parts.next().unwrap_or_default();
        let ct = match parts.next() {
            None => false,
            Some("ct") => true,
            Some(other) => return Err(Fault::new(other, "`ct` or `)` is expected here")),
        };
        if let Some(more) = parts.next() {
            return Err(Fault::new(more, "resubmit has at most three arguments"));
        }
        let in_port = match port {
            "" => None,
            p => Some(parse_port(p, self.ports)?).filter(|p| *p != OfPort::IN_PORT),
        };
        let table = match table {
            "" => None,
            t => Some(ranged(t, "a table", 0, 255)? as u8).filter(|t| *t != 255),
        };
        if in_port.is_none() && table.is_none() {
            return Err(Fault::new(item.all, "resubmit needs a port or a table"));
        }
        Ok(Action::Resubmit { in_port, table, ct })
    }

    /// `VALUE[/MASK]->FIELD`
    fn set_field<'a>(&self, text: &'a str) -> Parsed<'a, Action> {
        let (value, field) = arrow(text)?;
        let dst = subfield::read(field)?;
        let mf = dst.field;
        subfield::writable(field, mf)?;
        if !dst.is_whole() {
            return Err(Fault::new(field, "set_field sets a whole field")
                .hint("load sets bits: load:VALUE->FIELD[FIRST..LAST]"));
        }
        let (v, mask) = super::value::field(mf, value, self.ports)?;
        let mask = mask.unwrap_or(u128::MAX);
        let v = if mf == Mf::InPort { u128::from(OfPort(v as u32).to_16()) } else { v };
        if v & !mask != 0 {
            return Err(Fault::new(value, "the value has bits that its mask leaves out"));
        }
        Ok(Action::Set(SetField::new(mf, v, mask, SetForm::SetField)))
    }
}

/// `VALUE->FIELD[FIRST..LAST]`
fn load(text: &str) -> Parsed<'_, Action> {
    let (value, field) = arrow(text)?;
    let dst = subfield::read(field)?;
    subfield::writable(field, dst.field)?;
    let v = action_args::bits_value(value, dst)?;
    Ok(Action::Set(SetField::new(dst.field, v << dst.ofs, dst.mask(), SetForm::Load)))
}

/// One of the older actions that set a whole field.
fn mod_field(mf: Mf, value: u128) -> Action {
    Action::Set(SetField::new(mf, value, u128::MAX, SetForm::Mod))
}

fn push_vlan(text: &str) -> Parsed<'_, Action> {
    match number(text, 16)? as u16 {
        ty @ (0x8100 | 0x88a8) => Ok(Action::PushVlan(ty)),
        _ => Err(Fault::new(text, "a VLAN tag has Ethernet type 0x8100 or 0x88a8")),
    }
}

/// `VALUE[/MASK]`
fn write_metadata(text: &str) -> Parsed<'_, Action> {
    let (value, mask) = match text.split_once('/') {
        Some((v, m)) => (number(v, 64)? as u64, number(m, 64)? as u64),
        None => (number(text, 64)? as u64, u64::MAX),
    };
    Ok(Action::WriteMetadata { value: value & mask, mask })
}
