//! Flooding past ports that are down: what reached one port was not dropped.

use flow::{Drop, Field};
use ofproto::action::OfPort;
use ofproto::flowmod::Command;
use ofproto::program::{DpAction, DpPort};
use ofproto::snapshot::{BridgeSettings, Port, PortKind};
use ofproto::switch::Switch;
use ofproto::text::{NoNames, parse_flow, parse_packet};
use ofproto::xlate::{Translation, translate_in};

/// A packet from port 1 of three, of which these are up.
fn flood(action: &str, up: [bool; 3]) -> Translation {
    let mut switch = Switch::default();
    let bridge = switch.add_bridge("b", BridgeSettings::default()).unwrap();
    for (n, up) in (1..).zip(up) {
        let kind = PortKind::Datapath(DpPort(n));
        let port = Port { up, ..Port::new(OfPort(n), format!("p{n}"), kind) };
        switch.set_port(bridge, port);
    }
    let flow = parse_flow(&format!("actions={action}"), Command::Add, &NoNames).unwrap();
    switch.apply_flow_mods(bridge, &[flow], 1).unwrap();
    let packet = "in_port=1,dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:ff,dl_type=0x1234";
    let key = parse_packet(packet, &NoNames).unwrap();
    let in_port = OfPort(key.get(Field::InPort) as u32);
    let mut out = Translation::default();
    translate_in(&switch.preview().clone(), (bridge, in_port), &key, None, None, &mut out);
    out
}

#[test]
fn a_port_that_is_down_is_passed_over() {
    for action in ["NORMAL", "FLOOD", "ALL"] {
        for up in [[true, false, true], [true, true, false]] {
            let out = flood(action, up);
            let to = if up[1] { 2 } else { 3 };
            assert_eq!(out.program, [DpAction::Output(DpPort(to))], "{action} {up:?}");
            assert_eq!(out.drop, None, "{action} {up:?}");
        }
    }
}

#[test]
fn with_all_ports_down_that_is_the_reason() {
    for action in ["NORMAL", "FLOOD", "ALL"] {
        let out = flood(action, [true, false, false]);
        assert_eq!(out.drop, Some(Drop::PortDown), "{action}");
    }
}
