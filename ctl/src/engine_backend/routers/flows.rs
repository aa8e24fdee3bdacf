//! Flows in the making: text for what has words, and what has none.

use std::net::IpAddr;

use flow::Drop;
use ofproto::action::{Action, IcmpError, IcmpSays};
use ofproto::flowmod::{Command as Do, FlowMod};
use ofproto::text::{NoNames, parse_flow};

use super::compile::ERROR;
use crate::error::CtlError;

/// Flows in the making.
#[derive(Default)]
pub(in crate::engine_backend) struct Flows {
    mods: Vec<FlowMod>,
    failed: Option<CtlError>,
}

impl Flows {
    /// A flow, its match and actions as text.
    pub(in crate::engine_backend) fn add(
        &mut self,
        table: u8,
        priority: usize,
        matches: &str,
        actions: &str,
    ) {
        let comma = if matches.is_empty() { "" } else { "," };
        let text = format!("table={table},priority={priority}{comma}{matches},actions={actions}");
        match parse_flow(&text, Do::Add, &NoNames) {
            Ok(flow) => self.mods.push(flow),
            Err(e) => {
                let error = CtlError::internal(format!("a router's flow {text}: {}", e.message));
                self.failed.get_or_insert(error);
            }
        }
    }

    /// A flow for each family.
    pub(in crate::engine_backend) fn both(
        &mut self,
        table: u8,
        priority: usize,
        matches: &str,
        actions: &str,
    ) {
        for words in [&V4, &V6] {
            let comma = if matches.is_empty() { "" } else { "," };
            self.add(table, priority, &format!("{}{comma}{matches}", words.ip), actions);
        }
    }

    /// Put an action that text has no words for at a place in the last flow.
    pub(super) fn insert(&mut self, at: usize, action: Action) {
        if let Some(flow) = self.mods.last_mut() {
            let mut all = flow.actions.to_vec();
            all.insert(at.min(all.len()), action);
            flow.actions = all.into();
        }
    }

    /// A flow that does one thing that text has no words for, then what `actions` say.
    pub(super) fn first(
        &mut self,
        table: u8,
        priority: usize,
        matches: &str,
        action: Action,
        then: &str,
    ) {
        self.add(table, priority, matches, if then.is_empty() { "drop" } else { then });
        self.insert(0, action);
    }

    pub(in crate::engine_backend) fn refuse(
        &mut self,
        table: u8,
        priority: usize,
        matches: &str,
        why: Drop,
    ) {
        self.first(table, priority, matches, Action::Refuse(why), "");
    }

    /// Tell the sender; without an address to tell it from, only drop.
    pub(super) fn tell(
        &mut self,
        (table, priority): (u8, usize),
        matches: &str,
        (says, from, why): (IcmpSays, Option<IpAddr>, Drop),
    ) {
        let Some(from) = from else { return self.refuse(table, priority, matches, why) };
        let error = IcmpError { says, from, table: ERROR, why };
        self.first(table, priority, matches, Action::IcmpError(Box::new(error)), "");
    }

    pub(in crate::engine_backend) fn done(self) -> Result<Vec<FlowMod>, CtlError> {
        match self.failed {
            Some(error) => Err(error),
            None => Ok(self.mods),
        }
    }
}

/// The words of a family: the packet, its source, its destination.
pub(super) struct Words {
    pub(super) ip: &'static str,
    pub(super) src: &'static str,
    pub(super) dst: &'static str,
}

pub(super) const V4: Words = Words { ip: "ip", src: "ip,nw_src", dst: "ip,nw_dst" };
pub(super) const V6: Words = Words { ip: "ipv6", src: "ipv6,ipv6_src", dst: "ipv6,ipv6_dst" };

pub(super) const fn words(v4: bool) -> &'static Words {
    if v4 { &V4 } else { &V6 }
}

pub(super) fn of(address: IpAddr) -> &'static Words {
    words(address.is_ipv4())
}

pub(super) fn go(table: u8) -> String {
    format!("resubmit(,{table})")
}
