//! The actions of connection tracking: what the datapath is asked, and where the packet goes on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use conntrack::nat::{AddressRange, Choice, NatSpec, Side};
use conntrack::{Commit, Nat};
use flow::{Drop, Field, FlowKey, Match, word};

use super::Ctx;
use crate::action::{self, Action, Ct, NatAddrs, NatChoice, NatKind, Zone};
use crate::mf::Mf;
use crate::program::{CtStep, DpAction};
use crate::recirc::{Frozen, Recirculation};
use crate::snapshot::OfPort;

impl Ctx<'_> {
    /// `ct(...)`; whether the list goes on.
    pub(super) fn ct(&mut self, ct: &Ct) -> bool {
        let zone = match ct.zone {
            Zone::Number(zone) => zone,
            Zone::Field(field) => self.read(field) as u16,
        };
        let Some(nat) = ct.nat.as_ref().map_or(Some(Nat::No), nat) else {
            self.say(format_args!("the range of nat() is empty or of two families"));
            self.drop(Drop::Unsupported);
            return false;
        };
        let (mark, label) = self.ct_fields(&ct.exec);
        self.commit();
        let commit = ct.commit.then_some(Commit { force: ct.force, nat, mark, label });
        let step = CtStep { zone, nat: nat != Nat::No, commit };
        self.out.program.push(DpAction::Ct(Box::new(step)));
        if ct.commit {
            // That the connection is kept is something that happens to the packet.
            self.used += 1;
        }
        if let Some(table) = ct.table {
            self.freeze(table);
        }
        // What tracking says of the packet is for the table that it goes on in.
        self.forget();
        true
    }

    /// From here on the packet is one that was not tracked.
    fn forget(&mut self) {
        for w in word::CT..word::TUN_ID {
            if self.key.word(w) != 0 {
                self.key.set_word(w, 0);
            }
            self.fixed.set_word(w, u64::MAX);
        }
    }

    /// `ct_clear`.
    pub(super) fn ct_clear(&mut self) {
        // Only a packet that came back is a tracked one, until that is forgotten.
        let came_back = self.key.get(Field::RecircId) != 0;
        if came_back && self.fixed.word(word::CT) != u64::MAX {
            self.out.program.push(DpAction::CtClear);
        }
        self.forget();
    }

    /// What the actions in `exec()` set: (value, mask) of `ct_mark` and `ct_label`.
    #[allow(clippy::type_complexity)] // Twice the same pair.
    fn ct_fields(&mut self, exec: &[Action]) -> (Option<(u32, u32)>, Option<(u128, u128)>) {
        let (mut mark, mut label) = (None, None);
        let mut set = |field: Mf, value: u128, mask: u128| match field {
            Mf::CtMark => {
                let (v, m) = mark.unwrap_or((0, 0));
                mark = Some((v & !(mask as u32) | value as u32, m | mask as u32));
            }
            _ => {
                let (v, m) = label.unwrap_or((0, 0));
                label = Some((v & !mask | value, m | mask));
            }
        };
        for action in exec {
            match action {
                Action::Set(s) => set(s.field(), s.value(), s.mask()),
                Action::Move { src, dst } => {
                    let value = self.read(*src);
                    set(dst.field, value << dst.ofs, dst.mask());
                }
                _ => {}
            }
        }
        (mark, label)
    }

    /// A copy of the packet goes on in a table once the datapath has done what came before.
    pub(super) fn freeze(&mut self, table: u8) {
        let state = self.frozen(table, None);
        self.say(format_args!("the packet goes on in table {table} when it comes back"));
        let waiting = Recirculation { id: 0, state };
        self.out.program.push(DpAction::Recirculate(Arc::new(waiting)));
        self.used += 1;
    }

    /// What the packet is to go on with, in a table or with an output alone.
    pub(super) fn frozen(&mut self, table: u8, output: Option<OfPort>) -> Frozen {
        let mut metadata = FlowKey::ZERO;
        let mut mask = FlowKey::ZERO;
        for w in word::METADATA..flow::WORDS {
            if self.key.word(w) != 0 {
                self.consult_word(w, u64::MAX);
                metadata.set_word(w, self.key.word(w));
                mask.set_word(w, u64::MAX);
            }
        }
        // Tunnel fields that an action has set; the others come back with the packet.
        for w in word::TUN_ID..word::METADATA {
            let set = self.dirty.word(w);
            if set != 0 {
                metadata.set_word(w, self.key.word(w) & set);
                mask.set_word(w, set);
            }
        }
        let action_set =
            if output.is_some() { Vec::new() } else { self.action_set.clone().in_order() };
        Frozen {
            bridge: self.bridge.id,
            in_port: self.in_port,
            table,
            output,
            metadata: Match::new(&metadata, &mask),
            action_set: action_set.into(),
        }
    }
}

/// The translation that a `nat` asks for; `None` if it cannot be.
fn nat(n: &action::Nat) -> Option<Nat> {
    let side = match n.kind {
        None => return Some(Nat::Existing),
        Some(NatKind::Src) => Side::Src,
        Some(NatKind::Dst) => Side::Dst,
    };
    let range = |first: IpAddr, last: IpAddr| AddressRange::new(first, last).ok().map(Some);
    let v4 = |a: u32| IpAddr::V4(Ipv4Addr::from(a));
    let v6 = |a: u128| IpAddr::V6(Ipv6Addr::from(a));
    let addresses = match n.addrs {
        NatAddrs::None => Some(None),
        NatAddrs::V4(first, last) => range(v4(first), v4(last)),
        NatAddrs::V6(first, last) => range(v6(first), v6(last)),
    }?;
    let choice = match n.choice {
        NatChoice::Random => Choice::Random,
        NatChoice::Any | NatChoice::Hash => Choice::Hash,
    };
    NatSpec::new(side, addresses, n.ports, choice, n.persistent).ok().map(Nat::New)
}
