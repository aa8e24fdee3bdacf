//! What `monitor` hears: packets for controllers and flows that went, of the bridges that are watched.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write;

use flow::{Field, FlowKey};
use ofproto::flow_table::Reason;
use ofproto::flowmod::FlowFlags;
use ofproto::program::ToController;
use ofproto::snapshot::BridgeId;
use ofproto::text::{NoNames, show_match, show_packet};
use serde_json::value::RawValue;

use super::EngineBackend;
use super::flows::{flow_text, times};
use crate::backend::answer;
use crate::report::MonitorEvent;

/// Events that wait for the socket's side at most.
const WAITING: usize = 16_384;

/// Who listens, and what waits to be told.
#[derive(Default)]
pub(super) struct Monitors {
    bridges: BTreeSet<String>,
    waiting: VecDeque<(String, Box<RawValue>)>,
    /// Packets for controllers that nobody listened to.
    unheard: u64,
    /// Events that did not fit.
    lost: u64,
}

impl Monitors {
    pub(super) fn watch(&mut self, bridges: &[String]) {
        self.bridges = bridges.iter().cloned().collect();
    }

    /// Packets that no controller got: nobody listened, or too many waited.
    pub(super) fn unheard(&self) -> u64 {
        self.unheard
    }

    pub(super) fn take(&mut self) -> Vec<(String, Box<RawValue>)> {
        if std::mem::take(&mut self.lost) > 0 {
            tracing::warn!("events of monitored bridges came faster than they could be told");
        }
        self.waiting.drain(..).collect()
    }

    fn tell(&mut self, bridge: &str, event: &MonitorEvent) -> bool {
        if self.waiting.len() >= WAITING {
            self.lost += 1;
            return false;
        }
        match answer(event) {
            Ok(raw) => {
                self.waiting.push_back((bridge.to_owned(), raw));
                true
            }
            Err(e) => {
                tracing::error!("{e}");
                false
            }
        }
    }
}

impl EngineBackend {
    /// A packet for controllers has come from a worker.
    pub(super) fn packet_in(&mut self, to: &ToController, bytes: &[u8]) {
        let bridge = self.switch.bridge(BridgeId(to.bridge as u16));
        let Some(bridge) = bridge.filter(|b| self.monitors.bridges.contains(&*b.name)) else {
            self.monitors.unheard += 1;
            return;
        };
        let in_port = ofproto::action::OfPort(to.in_port);
        let port = bridge.ports.get(&in_port).map(|p| p.name.to_string()).unwrap_or_default();
        let mut key = FlowKey::ZERO;
        flow::extract(bytes, bytes.len(), &mut key);
        key.set(Field::InPort, u128::from(to.in_port));
        let (mut flow, mut metadata) = (String::new(), String::new());
        show_packet(&mut flow, &key, &NoNames);
        show_match(&mut metadata, &to.metadata, &NoNames);
        let event = MonitorEvent::PacketIn {
            bridge: bridge.name.to_string(),
            in_port: u32::from(in_port.to_16()),
            port,
            reason: reason_text(to.reason).to_owned(),
            table: to.table,
            cookie: to.cookie,
            controller: to.controller,
            flow,
            metadata,
            packet: hex(bytes),
            userdata: hex(&to.userdata),
        };
        let name = bridge.name.clone();
        if !self.monitors.tell(&name, &event) {
            self.monitors.unheard += 1;
        }
    }

    /// Tell of the flows that went and that somebody wants to hear of.
    pub(super) fn tell_removed(&mut self) {
        let now = self.now();
        for (id, gone) in std::mem::take(&mut self.removed) {
            if !FlowFlags(gone.rule.flags).contains(FlowFlags::SEND_FLOW_REM) {
                continue;
            }
            let Some(bridge) = self.switch.bridge(id) else { continue };
            let name = bridge.name.clone();
            if !self.monitors.bridges.contains(&*name) {
                continue;
            }
            let reason = match gone.reason {
                Reason::IdleTimeout => "idle",
                Reason::HardTimeout => "hard",
                Reason::Delete => "delete",
                Reason::GroupDelete => "group_delete",
            };
            let event = MonitorEvent::FlowRemoved {
                bridge: name.to_string(),
                reason: reason.to_owned(),
                flow: flow_text(&gone.rule, Some(times(&gone.rule, now)), &NoNames),
            };
            self.monitors.tell(&name, &event);
        }
    }
}

/// `OFPR_*` in words.
fn reason_text(reason: u8) -> &'static str {
    match reason {
        0 => "no_match",
        1 => "action",
        2 => "invalid_ttl",
        3 => "action_set",
        4 => "group",
        5 => "packet_out",
        _ => "unknown",
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}
