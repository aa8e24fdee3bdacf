//! The actions of a rule, one by one, on the current key.

use std::sync::Arc;

use flow::{Drop, Field, FlowKey, Match, word};
use smallvec::SmallVec;

use super::{Ctx, Event};
use crate::action::{Action, Controller, OfPort, Reason, SetField, SetForm};
use crate::mf::{Mf, Prereq, Subfield};
use crate::program::{DpAction, ToController};
use crate::vlan::{PRESENT, TPID_8021Q, Tag, VID};

/// Actions of `write_actions`, to be done when the pipeline ends.
#[derive(Clone, Default)]
pub(super) struct ActionSet(Vec<Action>);

/// In which order an action set is done (OpenFlow 1.5.1, 5.6): the rank of an action's kind.
/// Of kinds that occur once, the last one written counts.
fn rank(action: &Action) -> (u8, bool) {
    match action {
        Action::StripVlan { .. } => (0, true),
        Action::PushVlan(_) => (1, true),
        Action::DecTtl(_) => (2, true),
        Action::Group(_) => (5, true),
        Action::Output { .. }
        | Action::OutputReg { .. }
        | Action::OutputTrunc { .. }
        | Action::Controller(_) => (6, true),
        Action::Ct(_) | Action::Resubmit { .. } => (7, true),
        _ => (3, false),
    }
}

impl ActionSet {
    pub(super) fn write(&mut self, actions: &[Action]) {
        for a in actions {
            let (r, once) = rank(a);
            if once {
                self.0.retain(|b| rank(b).0 != r);
            }
            self.0.push(a.clone());
        }
    }

    /// The actions in the order in which they are done. A group takes precedence over outputs.
    pub(super) fn in_order(mut self) -> Vec<Action> {
        let has_group = self.0.iter().any(|a| matches!(a, Action::Group(_)));
        if has_group {
            self.0.retain(|a| rank(a).0 != 6);
        }
        self.0.sort_by_key(|a| rank(a).0);
        self.0
    }
}

impl<'a> Ctx<'a> {
    pub(super) fn run_actions(&mut self, actions: &[Action]) {
        for action in actions {
            if self.exit {
                return;
            }
            self.trace(Event::Action(action));
            if !self.run_action(action) {
                return;
            }
        }
    }

    /// The action set, once nothing goes on to another table.
    pub(super) fn run_action_set(&mut self) {
        let set = std::mem::take(&mut self.action_set);
        if set.0.is_empty() || self.exit {
            return;
        }
        self.say(format_args!("action set"));
        self.run_actions(&set.in_order());
    }

    /// A list as an action set of its own (a group's bucket).
    pub(super) fn run_as_set(&mut self, actions: &[Action]) {
        let mut set = ActionSet::default();
        set.write(actions);
        self.run_actions(&set.in_order());
    }

    /// One action; whether the list goes on.
    fn run_action(&mut self, action: &Action) -> bool {
        match action {
            Action::Output { port, max_len } => self.output(*port, *max_len),
            Action::OutputReg { src, max_len } => {
                let port = self.read(*src);
                let port = if src.n_bits <= 16 {
                    OfPort::from_16(port as u16)
                } else {
                    OfPort(port as u32)
                };
                self.output(port, *max_len);
            }
            Action::OutputTrunc { port, max_len } => {
                let outer = self.truncate.replace(*max_len);
                self.output(*port, 0);
                self.truncate = outer;
            }
            Action::Controller(c) => self.controller(c),
            Action::Group(id) => self.group(*id),
            Action::Resubmit { in_port, table, ct } => {
                self.resubmit(*in_port, table.unwrap_or(self.table), *ct);
            }
            Action::PushVlan(tpid) => return self.push_vlan(*tpid),
            Action::StripVlan { .. } => {
                let tags = self.consult_tags();
                if tags[0].is_present() {
                    self.write_tags(&[tags[1], Tag::default()]);
                }
            }
            Action::SetVlanVid(vid) => self.change_tag(*vid & VID, VID),
            Action::SetVlanPcp(pcp) => self.change_tag(u16::from(*pcp) << 13, 0xe000),
            Action::Set(set) => self.set_field(set),
            Action::Move { src, dst } => {
                if self.prerequisite(src.field) && self.prerequisite(dst.field) {
                    let value = self.read(*src);
                    self.write(*dst, value);
                }
            }
            Action::DecTtl(controllers) => return self.dec_ttl(controllers.as_deref()),
            Action::FinTimeout { idle, hard } => self.fin_timeout(*idle, *hard),
            Action::Learn(learn) => self.learn_flow(learn),
            Action::Conjunction { .. } | Action::Note(_) => {}
            Action::Clone(actions) => {
                let saved = self.save();
                let exit = std::mem::replace(&mut self.exit, false);
                let set = self.action_set.clone();
                self.run_actions(actions);
                // The copy's way ends here, with all that was written for its end so far.
                self.run_action_set();
                self.action_set = set;
                self.exit = exit;
                self.restore(saved);
            }
            Action::Exit => {
                self.exit = true;
                return false;
            }
            Action::Ct(ct) => return self.ct(ct),
            Action::CtClear => self.ct_clear(),
            Action::ClearActions => self.action_set = ActionSet::default(),
            Action::WriteActions(actions) => self.action_set.write(actions),
            Action::WriteMetadata { value, mask } => {
                self.write_word(word::METADATA, *value, *mask);
            }
            Action::GotoTable(table) => self.run_table(*table),
            Action::Refuse(why) => {
                self.drop(*why);
                return false;
            }
            Action::IcmpError(error) => return self.icmp_error(error),
            Action::Fragment(mtu) => {
                self.commit();
                self.out.program.push(DpAction::Fragment(*mtu));
            }
        }
        true
    }

    /// Send to a port, or to what a reserved port stands for.
    fn output(&mut self, port: OfPort, max_len: u16) {
        match port {
            OfPort::IN_PORT => self.output_port(self.in_port),
            OfPort::NORMAL => self.normal(),
            OfPort::FLOOD => self.output_all(true),
            OfPort::ALL => self.output_all(false),
            OfPort::NONE => {}
            OfPort::CONTROLLER => self.controller(&Controller {
                max_len,
                id: 0,
                reason: Reason::Action,
                userdata: Box::default(),
                pause: false,
            }),
            OfPort::TABLE => self.run_table(0),
            p if p == self.in_port => {
                self.say(format_args!("skipping output to input port"));
                self.drop(Drop::NoLearnedPort);
            }
            p => self.output_port(p),
        }
    }

    fn controller(&mut self, c: &Controller) {
        self.commit();
        let mut metadata = FlowKey::ZERO;
        let mut mask = FlowKey::ZERO;
        for w in flow::sparse::bits(self.key.nonzero_map() >> word::MARK << word::MARK) {
            metadata.set_word(w, self.key.word(w));
            mask.set_word(w, u64::MAX);
            self.consult_word(w, u64::MAX);
        }
        let rule = self.rule.as_ref();
        let to = ToController {
            bridge: u32::from(self.bridge.id.0),
            controller: c.id,
            reason: reason_code(c.reason),
            max_len: c.max_len,
            table: rule.map_or(self.table, |r| r.table),
            cookie: rule.map_or(u64::MAX, |r| r.cookie),
            in_port: self.in_port.0,
            metadata: Match::new(&metadata, &mask),
            userdata: c.userdata.clone(),
        };
        self.out.program.push(DpAction::Controller(Arc::new(to)));
        self.used += 1;
    }

    fn resubmit(&mut self, in_port: Option<OfPort>, table: u8, ct: bool) {
        if ct && !self.has_original() {
            return self.say(format_args!("no connection: the table is not searched"));
        }
        self.run_table_as(in_port.unwrap_or(self.in_port), table, ct);
    }

    pub(super) fn set_in_port(&mut self, port: OfPort) {
        self.in_port = port;
        self.key.set(Field::InPort, u128::from(port.0));
    }

    /// One more tag; whether the list goes on.
    fn push_vlan(&mut self, tpid: u16) -> bool {
        let tags = self.consult_tags();
        if tags[1].is_present() {
            // Beyond what a key can say of a packet: nothing more is done with it, as what follows
            // would change and send another packet than the one that was meant.
            self.say(format_args!("a third tag"));
            self.drop(Drop::Unsupported);
            self.exit = true;
            return false;
        }
        // OpenFlow 1.5.1, 7.2.6.2 has the new tag start with the outer one's id and priority; in Open
        // vSwitch it starts from zero, and flows written for that are what comes here.
        self.write_tags(&[Tag { tpid, tci: PRESENT }, tags[0]]);
        true
    }

    /// Change bits of the outermost tag; put one on if there is none.
    fn change_tag(&mut self, value: u16, mask: u16) {
        let mut tags = self.consult_tags();
        if !tags[0].is_present() {
            tags[0].tpid = TPID_8021Q;
        }
        tags[0].tci = tags[0].tci & !mask | value | PRESENT;
        self.write_tags(&tags);
    }

    fn set_field(&mut self, set: &SetField) {
        let is_port = matches!(set.field(), Mf::TcpSrc | Mf::TcpDst);
        let has = if is_port && set.form() == SetForm::Mod {
            // `mod_tp_src` and `mod_tp_dst` are for each protocol that has ports.
            self.holds(Prereq::Tcp) || self.holds(Prereq::Udp) || self.holds(Prereq::Sctp)
        } else {
            self.prerequisite(set.field())
        };
        if has {
            self.write_field(set.field(), set.value(), set.mask());
        }
    }

    /// The bits' value, shifted down; the decision depends on them.
    pub(super) fn read(&mut self, from: Subfield) -> u128 {
        let mut consulted = FlowKey::ZERO;
        from.consult(&mut consulted);
        self.consult_mask(&consulted);
        from.get(&self.key)
    }

    pub(super) fn write(&mut self, to: Subfield, value: u128) {
        self.write_field(to.field, value << to.ofs, to.mask());
    }

    fn write_field(&mut self, field: Mf, value: u128, mask: u128) {
        match field {
            Mf::VlanTci | Mf::DlVlan | Mf::VlanVid | Mf::DlVlanPcp | Mf::VlanPcp => {
                self.write_vlan(field, value, mask);
            }
            Mf::InPort | Mf::InPortOxm => {
                let mut key = self.key.clone();
                field.set(&mut key, value, mask);
                self.set_in_port(OfPort(key.get(Field::InPort) as u32));
            }
            _ => {
                if field == Mf::Icmpv6Type && self.changes_nd() {
                    // Fields of neighbour discovery are there as long as the type says so.
                    self.commit();
                }
                let p = field.info().place;
                // ECN stands in the same byte, and is a field of its own.
                let mask = if field == Mf::NwTos { mask & 0xfc } else { mask };
                if p.bits > 64 {
                    self.write_word(p.word, (value >> 64) as u64, (mask >> 64) as u64);
                    self.write_word(p.word + 1, value as u64, mask as u64);
                } else {
                    let low = flow::key::low_bits(p.bits);
                    let (v, m) = (value as u64 & low, mask as u64 & low);
                    self.write_word(p.word, v << p.shift, m << p.shift);
                }
            }
        }
    }

    fn write_vlan(&mut self, field: Mf, value: u128, mask: u128) {
        let mut tags = self.consult_tags();
        let mut key = self.key.clone();
        field.set(&mut key, value, mask);
        let tci = key.word(word::ETH_SRC) as u16;
        if tci & PRESENT == 0 {
            // The tag is gone (`load:0->NXM_OF_VLAN_TCI[]`).
            tags = [tags[1], Tag::default()];
        } else {
            let tpid = if tags[0].is_present() { tags[0].tpid } else { TPID_8021Q };
            tags[0] = Tag { tpid, tci };
        }
        self.write_tags(&tags);
    }

    fn dec_ttl(&mut self, controllers: Option<&[u16]>) -> bool {
        if !self.prerequisite(Mf::NwTtl) {
            return true;
        }
        let ttl = self.consult(Field::NwTtl);
        if ttl > 1 {
            self.write_field(Mf::NwTtl, ttl - 1, 0xff);
            return true;
        }
        for id in controllers.unwrap_or(&[0]) {
            self.controller(&Controller {
                max_len: 0xffff,
                id: *id,
                reason: Reason::InvalidTtl,
                userdata: Box::default(),
                pause: false,
            });
        }
        self.drop(Drop::TtlExpired);
        false
    }

    /// Whether the packet has the field; the decision depends on that.
    fn prerequisite(&mut self, field: Mf) -> bool {
        self.holds(field.info().prereq)
    }

    pub(super) fn holds(&mut self, prereq: Prereq) -> bool {
        use flow::extract::{FRAG_LATER, eth_type as et, ip_proto as ip};
        let ipv4 = |c: &mut Self| c.consult(Field::EthType) == u128::from(et::IPV4);
        let ipv6 = |c: &mut Self| c.consult(Field::EthType) == u128::from(et::IPV6);
        let proto = |c: &mut Self, p: u8| {
            c.holds(Prereq::Ip)
                && c.consult(Field::NwProto) == u128::from(p)
                && c.consult(Field::NwFrag) & u128::from(FRAG_LATER) == 0
        };
        let nd = |c: &mut Self, types: &[u128]| {
            c.holds(Prereq::Icmp6)
                && types.contains(&c.consult(Field::TpSrc))
                && c.consult(Field::TpDst) == 0
        };
        match prereq {
            Prereq::None => true,
            Prereq::Vlan => self.consult_tags()[0].is_present(),
            Prereq::Mpls => {
                let ty = self.consult(Field::EthType) as u16;
                ty == et::MPLS || ty == et::MPLS_MCAST
            }
            Prereq::Arp => {
                let ty = self.consult(Field::EthType) as u16;
                ty == et::ARP || ty == et::RARP
            }
            Prereq::Ipv4 => ipv4(self),
            Prereq::Ipv6 => ipv6(self),
            Prereq::Ip => ipv4(self) || ipv6(self),
            Prereq::Tcp => proto(self, ip::TCP),
            Prereq::Udp => proto(self, ip::UDP),
            Prereq::Sctp => proto(self, ip::SCTP),
            Prereq::Icmp4 => ipv4(self) && proto(self, ip::ICMP),
            Prereq::Icmp6 => ipv6(self) && proto(self, ip::ICMPV6),
            Prereq::Nd => nd(self, &[135, 136]),
            Prereq::NdSolicit => nd(self, &[135]),
            Prereq::NdAdvert => nd(self, &[136]),
            Prereq::Ct4 => ipv4(self) && self.consult(Field::CtState) != 0,
            Prereq::Ct6 => ipv6(self) && self.consult(Field::CtState) != 0,
            Prereq::Ct => self.holds(Prereq::Ip) && self.consult(Field::CtState) != 0,
        }
    }

    /// Fields of the packet's addresses and ports, for a group that spreads packets.
    pub(super) fn tuple(&mut self) -> SmallVec<[u128; 8]> {
        use Field::*;
        let mut of: SmallVec<[Field; 8]> = SmallVec::from_slice(&[EthSrc, EthDst, EthType]);
        if self.holds(Prereq::Ipv4) {
            of.extend([NwSrc, NwDst, NwProto]);
        } else if self.holds(Prereq::Ipv6) {
            of.extend([Ipv6Src, Ipv6Dst, NwProto]);
        }
        if self.holds(Prereq::Tcp) || self.holds(Prereq::Udp) || self.holds(Prereq::Sctp) {
            of.extend([TpSrc, TpDst]);
        }
        of.into_iter().map(|f| self.consult(f)).collect()
    }
}

/// `OFPR_*` of OpenFlow 1.5.
fn reason_code(reason: Reason) -> u8 {
    match reason {
        Reason::NoMatch => 0,
        Reason::Action => 1,
        Reason::InvalidTtl => 2,
        Reason::ActionSet => 3,
        Reason::Group => 4,
        Reason::PacketOut => 5,
    }
}
