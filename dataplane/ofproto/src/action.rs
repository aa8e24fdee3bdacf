//! What can a rule do with a packet?
//!
//! One list per rule, in the order in which it was given, as `ovs-actions(7)` has it: actions that
//! are applied at once, with OpenFlow's instructions among them (`clear_actions`,
//! `write_actions`, `write_metadata`, `goto_table`, in that order at the end). How an action was
//! spelled is kept where it does the same (`load`, `set_field` and `mod_*`), so that rules are
//! shown as they were given.
//!
//! An [`Action`] is small, as a switch may hold millions of them; what is large is boxed.
//!
//! Must not know: text, tables' contents, how an action is carried out.

use std::net::IpAddr;

use flow::Drop;

use crate::mf::{Mf, Subfield};
pub use crate::snapshot::OfPort;

impl OfPort {
    /// The highest number of an ordinary port.
    pub const MAX: OfPort = OfPort(0xff00);
    /// Not a port: the port's bits for "stay out of the action set".
    pub const UNSET: OfPort = OfPort(0xffff_fff7);
    /// The port that the packet came from.
    pub const IN_PORT: OfPort = OfPort(0xffff_fff8);
    /// Begin again in the tables; only in packet-outs.
    pub const TABLE: OfPort = OfPort(0xffff_fff9);
    /// The learning switch.
    pub const NORMAL: OfPort = OfPort(0xffff_fffa);
    /// All ports but the one the packet came from and those that are not flooded to.
    pub const FLOOD: OfPort = OfPort(0xffff_fffb);
    /// All ports but the one the packet came from.
    pub const ALL: OfPort = OfPort(0xffff_fffc);
    /// The controller.
    pub const CONTROLLER: OfPort = OfPort(0xffff_fffd);
    /// The bridge's own interface.
    pub const LOCAL: OfPort = OfPort(0xffff_fffe);
    /// No port (or any, in a filter).
    pub const NONE: OfPort = OfPort(0xffff_ffff);

    /// The port with that 16-bit number: OpenFlow 1.0's numbers for reserved ports.
    pub const fn from_16(n: u16) -> OfPort {
        if n > 0xff00 { OfPort(0xffff_0000 | n as u32) } else { OfPort(n as u32) }
    }

    /// The 16-bit number.
    pub const fn to_16(self) -> u16 {
        self.0 as u16
    }
}

/// A group's number, 0 to 0xffffff00.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub u32);

/// One action or instruction of a rule. Actions are done in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send to a port, or to what a reserved port stands for. `max_len` is for the controller
    /// only: how many bytes of the packet it gets.
    Output {
        /// Where to.
        port: OfPort,
        /// Bytes for the controller, 0xffff for all.
        max_len: u16,
    },
    /// Send to the port whose number is in a field.
    OutputReg {
        /// Where the number is.
        src: Subfield,
        /// Bytes for the controller.
        max_len: u16,
    },
    /// Send the packet's first bytes.
    OutputTrunc {
        /// Where to.
        port: OfPort,
        /// How many bytes, at least 14.
        max_len: u32,
    },
    /// Send to a controller, with details.
    Controller(Box<Controller>),
    /// Let a group decide.
    Group(GroupId),
    /// Search a table (this one if `None`) with another input port (the same if `None`), and
    /// do its actions, then go on behind this one.
    Resubmit {
        /// The input port to search as.
        in_port: Option<OfPort>,
        /// The table to search.
        table: Option<u8>,
        /// Search with the original direction's tuple of the packet's connection.
        ct: bool,
    },
    /// Put an empty tag outermost, with that Ethernet type (0x8100 or 0x88a8).
    PushVlan(u16),
    /// Take the outermost tag off, if there is one.
    StripVlan {
        /// Spelled `pop_vlan`, else `strip_vlan`.
        pop: bool,
    },
    /// Set the VLAN id; put a tag on if there is none.
    SetVlanVid(u16),
    /// Set the VLAN priority; put a tag on if there is none.
    SetVlanPcp(u8),
    /// Set bits of a field.
    Set(SetField),
    /// Copy bits of a field to another.
    Move {
        /// From.
        src: Subfield,
        /// To; as many bits.
        dst: Subfield,
    },
    /// Take one off the TTL; at 0 the packet goes to these controllers (usually one, 0) and
    /// nothing more happens in this list.
    DecTtl(Option<Box<[u16]>>),
    /// Shorten the rule's timeouts once a TCP packet with FIN or RST has matched it.
    FinTimeout {
        /// Idle timeout in seconds from then on; 0 for no change.
        idle: u16,
        /// Hard timeout in seconds from then on; 0 for no change.
        hard: u16,
    },
    /// Make a rule of this packet.
    Learn(Box<Learn>),
    /// This rule is one of the clauses of a conjunctive match.
    Conjunction {
        /// The value that `conj_id` gets when all clauses match.
        id: u32,
        /// Which clause, from 0.
        clause: u8,
        /// How many there are, 2 to 64.
        n_clauses: u8,
    },
    /// Bytes for people and programs; does nothing.
    Note(Box<[u8]>),
    /// Do these, then put the packet and what is known of it back as it was.
    Clone(Box<[Action]>),
    /// End this list.
    Exit,
    /// Track the packet's connection.
    Ct(Box<Ct>),
    /// Forget what tracking said.
    CtClear,
    /// Empty the action set.
    ClearActions,
    /// Add to the action set.
    WriteActions(Box<[Action]>),
    /// Set bits of `metadata`.
    WriteMetadata {
        /// The value, 0 outside the mask.
        value: u64,
        /// Which bits.
        mask: u64,
    },
    /// Go on in a later table; the action set is done when no table follows.
    GotoTable(u8),
    /// Only in compiled configuration: the packet's way ends here, for this reason.
    Refuse(Drop),
    /// Only in compiled configuration: the packet's sender is told why it was not delivered.
    IcmpError(Box<IcmpError>),
    /// Only in compiled configuration: a larger IPv4 packet that may be cut goes on in fragments of at
    /// most so many bytes, counted from the IP header.
    Fragment(u16),
}

/// An ICMP error about a packet, in its place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IcmpError {
    /// What its sender is told.
    pub says: IcmpSays,
    /// Whose address it comes from; of the packet's family.
    pub from: IpAddr,
    /// The table in which the error goes on.
    pub table: u8,
    /// The packet itself is counted under this.
    pub why: Drop,
}

/// What ICMP says of a packet that was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IcmpSays {
    /// Its time to live is over.
    TimeExceeded,
    /// There is no route.
    NoRoute,
    /// The next hop does not answer.
    NoHost,
    /// Nobody listens there; a TCP segment is answered by a reset.
    NoPort,
    /// It is larger than this, counted from the IP header, and must not be cut; a packet that fits or
    /// may be cut goes on with the next action.
    TooBig(u16),
}

/// How the setting of a field was spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SetForm {
    /// `set_field:VALUE[/MASK]->FIELD`
    SetField,
    /// `load:VALUE->FIELD[FIRST..LAST]`
    Load,
    /// `mod_dl_src:`, `set_tunnel:` and so on: the field decides which.
    Mod,
}

/// Setting bits of a field.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SetField(Repr);

/// Up to 64 bits in place, so that nearly no rule needs the box.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Repr {
    Narrow { field: Mf, form: SetForm, value: u64, mask: u64 },
    Wide { field: Mf, form: SetForm, value_mask: Box<(u128, u128)> },
}

impl SetField {
    /// Set the bits `mask` of `field` to those of `value`.
    pub fn new(field: Mf, value: u128, mask: u128, form: SetForm) -> SetField {
        let mask = mask & field.full();
        let value = value & mask;
        match (u64::try_from(value), u64::try_from(mask)) {
            (Ok(value), Ok(mask)) => SetField(Repr::Narrow { field, form, value, mask }),
            _ => SetField(Repr::Wide { field, form, value_mask: Box::new((value, mask)) }),
        }
    }

    /// Which field.
    #[inline]
    pub fn field(&self) -> Mf {
        match self.0 {
            Repr::Narrow { field, .. } | Repr::Wide { field, .. } => field,
        }
    }

    /// How it was spelled.
    pub fn form(&self) -> SetForm {
        match self.0 {
            Repr::Narrow { form, .. } | Repr::Wide { form, .. } => form,
        }
    }

    /// The value; no bits outside the mask.
    #[inline]
    pub fn value(&self) -> u128 {
        match &self.0 {
            Repr::Narrow { value, .. } => u128::from(*value),
            Repr::Wide { value_mask, .. } => value_mask.0,
        }
    }

    /// Which bits are set.
    #[inline]
    pub fn mask(&self) -> u128 {
        match &self.0 {
            Repr::Narrow { mask, .. } => u128::from(*mask),
            Repr::Wide { value_mask, .. } => value_mask.1,
        }
    }
}

/// Why a packet goes to a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// An action said so.
    Action,
    /// No rule matched.
    NoMatch,
    /// A TTL reached zero.
    InvalidTtl,
    /// An action of the action set said so.
    ActionSet,
    /// An action of a group's bucket said so.
    Group,
    /// An action of a packet-out said so.
    PacketOut,
}

/// `controller(...)`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Controller {
    /// Bytes of the packet that are sent, 0xffff for all.
    pub max_len: u16,
    /// Which controller, 0 for those that chose no id.
    pub id: u16,
    /// Why.
    pub reason: Reason,
    /// Bytes that are handed back with the packet.
    pub userdata: Box<[u8]>,
    /// Stop the translation until the controller says to go on.
    pub pause: bool,
}

/// `learn(...)`: a rule that is made from packets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Learn {
    /// Seconds without a packet until the learned rule goes; 0 for never.
    pub idle_timeout: u16,
    /// Seconds until it goes; 0 for never.
    pub hard_timeout: u16,
    /// The idle timeout after a packet with FIN or RST; 0 for no change.
    pub fin_idle_timeout: u16,
    /// The hard timeout after a packet with FIN or RST; 0 for no change.
    pub fin_hard_timeout: u16,
    /// Its priority.
    pub priority: u16,
    /// Its cookie.
    pub cookie: u64,
    /// Its table.
    pub table: u8,
    /// Its removal is reported.
    pub send_flow_rem: bool,
    /// It goes when the rule with this action goes.
    pub delete_learned: bool,
    /// How many rules with its cookie the table may have; 0 for any number.
    pub limit: u32,
    /// One bit that says whether the rule could be learned under the limit.
    pub result_dst: Option<Subfield>,
    /// Its match and its actions.
    pub specs: Box<[LearnSpec]>,
}

/// One part of the match or the actions of a learned rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LearnSpec {
    /// Match these bits on a constant.
    MatchValue {
        /// The bits.
        dst: Subfield,
        /// The constant, shifted down.
        value: u128,
    },
    /// Match these bits on what the packet has at `src` now.
    MatchField {
        /// The bits.
        dst: Subfield,
        /// What to match on; as many bits.
        src: Subfield,
    },
    /// Load a constant.
    LoadValue {
        /// The bits to set.
        dst: Subfield,
        /// The constant, shifted down.
        value: u128,
    },
    /// Load what the packet has at `src` now.
    LoadField {
        /// The bits to set.
        dst: Subfield,
        /// What to load; as many bits.
        src: Subfield,
    },
    /// Output to the port whose number the packet has at `src` now.
    Output {
        /// Where the number is.
        src: Subfield,
    },
}

/// A connection tracking zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Zone {
    /// This one.
    Number(u16),
    /// The one whose number is in a field.
    Field(Subfield),
}

/// `ct(...)`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ct {
    /// Keep the connection.
    pub commit: bool,
    /// Drop what is known of the other direction and make this packet the original one.
    pub force: bool,
    /// The zone.
    pub zone: Zone,
    /// Go on with the tracked packet in this table, apart from this list.
    pub table: Option<u8>,
    /// Address translation.
    pub nat: Option<Nat>,
    /// Actions on the connection: setting `ct_mark` and `ct_label`.
    pub exec: Box<[Action]>,
}

/// Which address of a connection's first packet is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NatKind {
    /// The source.
    Src,
    /// The destination.
    Dst,
}

/// The addresses that a translation may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NatAddrs {
    /// Keep the address.
    None,
    /// From first to last.
    V4(u32, u32),
    /// From first to last.
    V6(u128, u128),
}

/// How a translation picks from its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NatChoice {
    /// As the switch likes.
    Any,
    /// By a hash of the addresses.
    Hash,
    /// At random.
    Random,
}

/// `nat(...)` inside `ct()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Nat {
    /// What a new connection gets; `None` only translates packets of known connections.
    pub kind: Option<NatKind>,
    /// To which addresses.
    pub addrs: NatAddrs,
    /// To which ports.
    pub ports: Option<(u16, u16)>,
    /// The same address for a host over restarts.
    pub persistent: bool,
    /// How one is picked.
    pub choice: NatChoice,
}

impl Action {
    /// Plain output.
    pub const fn output(port: OfPort) -> Action {
        Action::Output { port, max_len: 0 }
    }

    /// Setting a whole field.
    pub fn set(field: Mf, value: u128) -> Action {
        Action::Set(SetField::new(field, value, field.full(), SetForm::SetField))
    }

    /// Actions inside this one.
    pub fn nested(&self) -> &[Action] {
        match self {
            Action::Clone(a) | Action::WriteActions(a) => a,
            Action::Ct(ct) => &ct.exec,
            _ => &[],
        }
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        let list = |a: &[Action]| size_of_val(a) + a.iter().map(Action::heap_bytes).sum::<usize>();
        match self {
            Action::Set(SetField(Repr::Wide { .. })) => size_of::<(u128, u128)>(),
            Action::Controller(c) => size_of::<Controller>() + c.userdata.len(),
            Action::DecTtl(Some(ids)) => size_of_val(&**ids),
            Action::Learn(l) => size_of::<Learn>() + size_of_val(&*l.specs),
            Action::Note(b) => b.len(),
            Action::Clone(a) | Action::WriteActions(a) => list(a),
            Action::Ct(ct) => size_of::<Ct>() + list(&ct.exec),
            Action::IcmpError(_) => size_of::<IcmpError>(),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_is_small() {
        assert!(size_of::<Action>() <= 24, "{}", size_of::<Action>());
    }

    #[test]
    fn reserved_ports_have_16_bit_numbers() {
        for p in [OfPort::IN_PORT, OfPort::LOCAL, OfPort::NONE, OfPort::MAX, OfPort(1)] {
            assert_eq!(OfPort::from_16(p.to_16()), p);
        }
        assert_eq!(OfPort::LOCAL.to_16(), 0xfffe);
    }
}
