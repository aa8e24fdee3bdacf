//! May these actions be done on packets of this match?
//!
//! OpenFlow wants a rule refused whose actions work on headers that its packets need not have. A
//! [`Shape`] is what is known of a rule's packets: at first its match, then also what the actions
//! before have done about VLAN tags. Older actions (`mod_nw_src` and the like) are not strict:
//! they do nothing to packets without the header.
//!
//! Must not know: text, which tables and ports there are.

use std::fmt;

use flow::extract::VLAN_PRESENT;
use flow::{Field, FlowKey, Match};

use crate::action::{Action, Ct, Learn, LearnSpec, NatAddrs, OfPort, SetField, SetForm, Zone};
use crate::group::MAX_GROUP;
use crate::matching::{CT_INV, MatchBuilder, meets};
use crate::mf::{Mf, Prereq, Subfield};
use crate::vlan::MAX_TAGS;

/// Bytes of a packet that `output(max_len=)` must at least leave.
pub const MIN_TRUNCATED: u32 = 14;

/// What is known of the packets that reach an action.
#[derive(Clone, Debug)]
pub struct Shape {
    key: FlowKey,
    mask: FlowKey,
    /// VLAN tags that are known to be there.
    tags: usize,
    /// The rule's table; `None` if it is not in one.
    table: Option<u8>,
    /// Nothing is known and nothing is refused because of it.
    any: bool,
}

/// Why an action is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionError {
    /// The field is there only if the match (or an action before) says so.
    Prereq(Mf),
    /// The action works only on packets that the match does not ask for.
    Needs(&'static str, Prereq),
    /// The field cannot be changed by actions.
    ReadOnly(Mf),
    /// Connection marks are changed inside `ct(commit,exec(...))` only.
    OutsideCt(Mf),
    /// Inside `ct(exec())`, only connection marks are changed.
    InsideCt,
    /// The value is not one that the field can have.
    Value(Mf),
    /// Source and destination have different widths.
    Widths(u8, u8),
    /// No output to that reserved port.
    Port(OfPort),
    /// Not that port with a length.
    TruncatedPort(OfPort),
    /// At least [`MIN_TRUNCATED`] bytes.
    TruncatedLength(u32),
    /// `goto_table` leads to a later table only.
    Table(u8),
    /// Not a group's number.
    Group(u32),
    /// More VLAN tags than a packet's key keeps.
    TooManyTags,
    /// A zone's number has 16 bits.
    ZoneWidth(u8),
    /// A flag or an argument that needs `commit`.
    NeedsCommit(&'static str),
    /// The match is on invalid packets, which have no connection.
    CommitInvalid,
    /// Not in an action set.
    NotInSet,
    /// Conjunctions stand with notes only.
    WithConjunction,
    /// This stands behind the instruction that it must precede.
    Order(&'static str),
    /// The result of learning is one bit.
    ResultBit,
}

impl fmt::Display for ActionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ActionError::Prereq(mf) => write!(
                f,
                "packets of this flow need not have {}: match {}",
                mf.name(),
                mf.info().prereq.text()
            ),
            ActionError::Needs(what, p) => write!(f, "{what} needs a match on {}", p.text()),
            ActionError::ReadOnly(mf) => write!(f, "{} cannot be changed", mf.name()),
            ActionError::OutsideCt(mf) => {
                write!(f, "{} can only be changed inside ct(commit,exec(...))", mf.name())
            }
            ActionError::InsideCt => f.write_str(
                "inside ct(exec(...)) only ct_mark and ct_label are set, by set_field, load or \
                 move",
            ),
            ActionError::Value(mf) => write!(f, "{} cannot have this value", mf.name()),
            ActionError::Widths(src, dst) => {
                write!(f, "the source has {src} bits, the destination {dst}")
            }
            ActionError::Port(p) => write!(f, "no output to reserved port {}", p.to_16()),
            ActionError::TruncatedPort(_) => {
                f.write_str("output with max_len goes to ordinary ports, LOCAL and IN_PORT only")
            }
            ActionError::TruncatedLength(_) => {
                write!(f, "max_len must be at least {MIN_TRUNCATED}")
            }
            ActionError::Table(from) => {
                write!(f, "goto_table leads to tables behind this one ({from}), up to 254, only")
            }
            ActionError::Group(_) => write!(f, "a group's number is 0 to {MAX_GROUP}"),
            ActionError::TooManyTags => write!(f, "a packet has at most {MAX_TAGS} VLAN tags"),
            ActionError::ZoneWidth(n) => {
                write!(f, "a zone has 16 bits, this field part has {n}")
            }
            ActionError::NeedsCommit(what) => write!(f, "{what} needs commit"),
            ActionError::CommitInvalid => {
                f.write_str("packets with ct_state=+inv have no connection to commit")
            }
            ActionError::NotInSet => f.write_str("this action cannot be in an action set"),
            ActionError::WithConjunction => {
                f.write_str("conjunction stands alone or with note, not with other actions")
            }
            ActionError::Order(after) => write!(f, "this must stand before {after}, once"),
            ActionError::ResultBit => f.write_str("result_dst must be one bit"),
        }
    }
}

impl std::error::Error for ActionError {}

impl Shape {
    /// Packets of a rule in `table`.
    pub fn of(matches: &Match, table: u8) -> Shape {
        Self::from_parts(matches.key(), matches.mask_key(), Some(table))
    }

    /// The same from values and masks.
    pub fn from_parts(key: FlowKey, mask: FlowKey, table: Option<u8>) -> Shape {
        let tags = usize::from(meets(&key, &mask, Prereq::Vlan));
        Shape { key, mask, tags, table, any: false }
    }

    /// Packets of any kind, with nothing refused for it: for groups, whose packets come from
    /// rules.
    pub fn any() -> Shape {
        Shape { key: FlowKey::ZERO, mask: FlowKey::ZERO, tags: 0, table: None, any: true }
    }

    fn meets(&self, prereq: Prereq) -> bool {
        match prereq {
            Prereq::Vlan => self.any || self.tags > 0,
            _ => self.any || meets(&self.key, &self.mask, prereq),
        }
    }

    fn need(&self, what: &'static str, prereq: Prereq) -> Result<(), ActionError> {
        if self.meets(prereq) { Ok(()) } else { Err(ActionError::Needs(what, prereq)) }
    }

    /// Whether a field can be read.
    fn readable(&self, mf: Mf) -> Result<(), ActionError> {
        let prereq = match mf {
            // A VLAN id is there if a tag is.
            Mf::VlanVid => Prereq::Vlan,
            _ => mf.info().prereq,
        };
        if self.meets(prereq) { Ok(()) } else { Err(ActionError::Prereq(mf)) }
    }

    /// Whether a field can be changed by an action outside of `ct()`.
    fn changeable(&self, mf: Mf) -> Result<(), ActionError> {
        if !mf.info().writable {
            return Err(ActionError::ReadOnly(mf));
        }
        if matches!(mf, Mf::CtMark | Mf::CtLabel) {
            return Err(ActionError::OutsideCt(mf));
        }
        self.readable(mf)
    }

    /// Check one action, but not those inside it, and note what it does.
    ///
    /// # Errors
    /// Why these packets cannot have this action.
    pub fn check(&mut self, action: &Action) -> Result<(), ActionError> {
        match action {
            Action::Output { port, .. } => output(*port),
            Action::OutputReg { src, .. } => self.readable(src.field),
            Action::OutputTrunc { port, max_len } => truncated(*port, *max_len),
            Action::Group(id) if id.0 > MAX_GROUP => Err(ActionError::Group(id.0)),
            Action::Resubmit { ct: true, .. } => self.need("resubmit(...,ct)", Prereq::Ct),
            Action::PushVlan(_) if self.tags >= MAX_TAGS => Err(ActionError::TooManyTags),
            Action::PushVlan(_) => {
                self.tags += 1;
                Ok(())
            }
            Action::SetVlanVid(_) | Action::SetVlanPcp(_) => {
                self.tags = self.tags.max(1);
                Ok(())
            }
            Action::StripVlan { .. } => {
                self.tags = self.tags.saturating_sub(1);
                Ok(())
            }
            Action::Set(set) => self.set_field(set),
            Action::Move { src, dst } => self.copy(*src, *dst),
            Action::Learn(learn) => self.learn(learn),
            Action::Ct(ct) => self.ct(ct),
            Action::GotoTable(t) => match self.table {
                Some(from) if *t <= from => Err(ActionError::Table(from)),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Check a list with all that is inside its actions.
    ///
    /// # Errors
    /// The first action that is wrong, by its index, and why.
    pub fn check_all(&mut self, actions: &[Action]) -> Result<(), (usize, ActionError)> {
        check_order(actions)?;
        for (i, action) in actions.iter().enumerate() {
            let at = |e| (i, e);
            self.check(action).map_err(at)?;
            match action {
                Action::Clone(list) | Action::WriteActions(list) => {
                    self.clone().check_all(list).map_err(|(_, e)| at(e))?;
                }
                Action::Ct(ct) => {
                    ct.exec.iter().try_for_each(|a| self.check_exec(a)).map_err(at)?;
                }
                _ => {}
            }
            if let Action::WriteActions(list) = action
                && !list.iter().all(allowed_in_set)
            {
                return Err(at(ActionError::NotInSet));
            }
        }
        Ok(())
    }

    fn set_field(&mut self, set: &SetField) -> Result<(), ActionError> {
        let mf = set.field();
        if set.form() == SetForm::Mod {
            return valid_value(set);
        }
        self.changeable(mf)?;
        let present = u128::from(VLAN_PRESENT);
        if mf == Mf::VlanTci && set.mask() & present != 0 {
            // The bit that says whether there is a tag makes one or takes it off.
            self.tags = match set.value() & present != 0 {
                true => self.tags.max(1),
                false => self.tags.saturating_sub(1),
            };
        }
        valid_value(set)
    }

    fn copy(&self, src: Subfield, dst: Subfield) -> Result<(), ActionError> {
        if src.n_bits != dst.n_bits {
            return Err(ActionError::Widths(src.n_bits, dst.n_bits));
        }
        self.readable(src.field)?;
        self.changeable(dst.field)
    }

    /// Check an action inside `ct(exec(...))`.
    ///
    /// # Errors
    /// Why it cannot be there.
    pub fn check_exec(&self, action: &Action) -> Result<(), ActionError> {
        let is_mark = |mf| matches!(mf, Mf::CtMark | Mf::CtLabel);
        match action {
            Action::Set(set) if is_mark(set.field()) && set.form() != SetForm::Mod => Ok(()),
            Action::Move { src, dst } if is_mark(dst.field) => {
                if src.n_bits != dst.n_bits {
                    return Err(ActionError::Widths(src.n_bits, dst.n_bits));
                }
                self.readable(src.field)
            }
            _ => Err(ActionError::InsideCt),
        }
    }

    fn ct(&self, ct: &Ct) -> Result<(), ActionError> {
        self.need("ct", Prereq::Ip)?;
        if let Zone::Field(sf) = ct.zone {
            self.readable(sf.field)?;
            if sf.n_bits != 16 {
                return Err(ActionError::ZoneWidth(sf.n_bits));
            }
        }
        if !ct.commit {
            if ct.force {
                return Err(ActionError::NeedsCommit("force"));
            }
            if !ct.exec.is_empty() {
                return Err(ActionError::NeedsCommit("exec"));
            }
            if ct.nat.is_some_and(|n| n.kind.is_some()) {
                return Err(ActionError::NeedsCommit("nat with src or dst"));
            }
        }
        if ct.commit && self.key.get(Field::CtState) & u128::from(CT_INV) != 0 && !self.any {
            return Err(ActionError::CommitInvalid);
        }
        match ct.nat.map(|n| n.addrs) {
            Some(NatAddrs::V4(..)) => self.need("translation to IPv4 addresses", Prereq::Ipv4),
            Some(NatAddrs::V6(..)) => self.need("translation to IPv6 addresses", Prereq::Ipv6),
            _ => Ok(()),
        }
    }

    /// Sources are read from these packets, destinations from those of the learned rule.
    fn learn(&self, learn: &Learn) -> Result<(), ActionError> {
        if let Some(dst) = learn.result_dst {
            if dst.n_bits != 1 {
                return Err(ActionError::ResultBit);
            }
            self.changeable(dst.field)?;
        }
        let mut learned = MatchBuilder::new();
        for spec in &learn.specs {
            self.learn_spec(spec, &mut learned)?;
        }
        Ok(())
    }

    fn learn_spec(&self, spec: &LearnSpec, learned: &mut MatchBuilder) -> Result<(), ActionError> {
        let source = |src: Subfield, dst: Subfield| {
            if src.n_bits != dst.n_bits {
                return Err(ActionError::Widths(src.n_bits, dst.n_bits));
            }
            self.readable(src.field)
        };
        let has = |b: &MatchBuilder, mf: Mf| {
            let ok = b.meets(mf.info().prereq) || self.any;
            if ok { Ok(()) } else { Err(ActionError::Prereq(mf)) }
        };
        let writable = |b: &MatchBuilder, mf: Mf| {
            if mf.info().writable { has(b, mf) } else { Err(ActionError::ReadOnly(mf)) }
        };
        match spec {
            LearnSpec::MatchValue { dst, value } => {
                has(learned, dst.field)?;
                let v = value << dst.ofs;
                let mask = if dst.is_whole() { None } else { Some(dst.mask()) };
                learned.set(dst.field, v, mask).map_err(|_| ActionError::Value(dst.field))
            }
            LearnSpec::MatchField { dst, src } => {
                source(*src, *dst)?;
                has(learned, dst.field)
            }
            LearnSpec::LoadValue { dst, .. } => writable(learned, dst.field),
            LearnSpec::LoadField { dst, src } => {
                source(*src, *dst)?;
                writable(learned, dst.field)
            }
            LearnSpec::Output { src } => self.readable(src.field),
        }
    }
}

/// Whether a port can be sent to.
fn output(port: OfPort) -> Result<(), ActionError> {
    match port {
        OfPort::IN_PORT | OfPort::TABLE | OfPort::NORMAL | OfPort::FLOOD | OfPort::ALL => Ok(()),
        OfPort::CONTROLLER | OfPort::LOCAL => Ok(()),
        p if p <= OfPort::MAX => Ok(()),
        p => Err(ActionError::Port(p)),
    }
}

fn truncated(port: OfPort, max_len: u32) -> Result<(), ActionError> {
    if max_len < MIN_TRUNCATED {
        return Err(ActionError::TruncatedLength(max_len));
    }
    match port {
        OfPort::IN_PORT | OfPort::LOCAL => Ok(()),
        p if p <= OfPort::MAX => Ok(()),
        p => Err(ActionError::TruncatedPort(p)),
    }
}

/// Whether the bits that are set can be in a packet.
fn valid_value(set: &SetField) -> Result<(), ActionError> {
    let ok = match set.field() {
        Mf::NwTos => set.value() & 3 == 0,
        Mf::ArpOp => set.value() <= 0xff,
        _ => true,
    };
    if ok { Ok(()) } else { Err(ActionError::Value(set.field())) }
}

/// Whether an action can be part of an action set.
pub fn allowed_in_set(action: &Action) -> bool {
    matches!(
        action,
        Action::Output { .. }
            | Action::OutputReg { .. }
            | Action::OutputTrunc { .. }
            | Action::Controller(_)
            | Action::Group(_)
            | Action::Resubmit { .. }
            | Action::PushVlan(_)
            | Action::StripVlan { .. }
            | Action::SetVlanVid(_)
            | Action::SetVlanPcp(_)
            | Action::Set(_)
            | Action::Move { .. }
            | Action::DecTtl(_)
            | Action::Ct(_)
            | Action::CtClear
    )
}

/// The place of an instruction in OpenFlow's order; plain actions come first.
fn rank(action: &Action) -> u8 {
    match action {
        Action::ClearActions => 1,
        Action::WriteActions(_) => 2,
        Action::WriteMetadata { .. } => 3,
        Action::GotoTable(_) => 4,
        _ => 0,
    }
}

/// Whether instructions stand once each, in order, behind all actions, and conjunctions with
/// notes only.
///
/// # Errors
/// The first action that is in the wrong place, by its index.
pub fn check_order(actions: &[Action]) -> Result<(), (usize, ActionError)> {
    let mut last = 0;
    let is_conj = |a: &Action| matches!(a, Action::Conjunction { .. });
    let conj = actions.iter().any(is_conj);
    for (i, a) in actions.iter().enumerate() {
        let r = rank(a);
        if r < last || r == last && r > 0 {
            let names = ["", "clear_actions", "write_actions", "write_metadata", "goto_table"];
            return Err((i, ActionError::Order(names[usize::from(last)])));
        }
        last = r;
        if conj && !is_conj(a) && !matches!(a, Action::Note(_)) {
            return Err((i, ActionError::WithConjunction));
        }
    }
    Ok(())
}
