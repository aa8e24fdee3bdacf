//! The flows of a router that translates addresses.
//!
//! One zone has the router's connections, under whichever of its addresses. Where the inside speaks to
//! one of its own outside addresses (hairpin), both ends are translated: the destination in that zone,
//! the source in the second one, as a connection has one translation.
//!
//! Packets that need no translation are not tracked.

use std::net::IpAddr;

use flow::Drop;

use super::compile::{
    DNAT, HAIRPIN, IS_ERROR, LOCAL, OUT, ROUTE, SNAT, SNAT_NEW, UNHAIRPIN, deliver,
};
use super::flows::{Flows, go, of};
use super::plan::Plan;
use crate::config::router::Cidr;

/// The flows of a router that translates: what is for outside addresses, and what goes out.
pub(super) fn incoming(flows: &mut Flows, plan: &Plan<'_>) {
    let router = plan.router;
    let (zone, hairpin) = (router.zone(), router.hairpin_zone());
    let track = format!("ct(zone={zone},nat,table={DNAT})");
    for outside in &plan.outside {
        let to = format!("{}={outside}", of(*outside).dst);
        for port in plan.inside() {
            let again =
                format!("set_field:{HAIRPIN}->reg1,ct(zone={hairpin},nat,table={UNHAIRPIN})");
            flows.add(LOCAL, 200, &format!("in_port={},{to}", port.number), &again);
        }
        flows.add(LOCAL, 100, &to, &track);
    }
    flows.refuse(UNHAIRPIN, 20, "ct_state=+inv+trk", Drop::CtInvalid);
    flows.both(UNHAIRPIN, 10, "ct_state=+rpl+trk", &format!("set_field:0->reg1,{track}"));
    flows.both(UNHAIRPIN, 0, "", &track);

    flows.refuse(DNAT, 100, "ct_state=+inv+trk", Drop::CtInvalid);
    // A later packet before the first answer: translated already.
    flows.both(DNAT, 90, "ct_state=+new+dnat+trk", &go(ROUTE));
    let commit = |to: String| format!("ct(commit,zone={zone},nat(dst={to}),table={ROUTE})");
    for d in &router.dnat {
        let proto = d.proto.as_str();
        let six = if d.external.is_ipv4() { "" } else { "6" };
        let dst = if d.external.is_ipv4() { "nw_dst" } else { "ipv6_dst" };
        let (ip, port) = (d.external.ip(), d.external.port());
        let new = format!("ct_state=+new+trk,{proto}{six},{dst}={ip},tp_dst={port}");
        flows.add(DNAT, 60, &new, &commit(d.internal.to_string()));
    }
    for (outside, instance) in &router.floating {
        let new = format!("ct_state=+new+trk,{}={outside}", of(*outside).dst);
        flows.add(DNAT, 50, &new, &commit(instance.to_string()));
    }
    for own in &plan.own {
        deliver(flows, DNAT, *own, "ct_state=+new+trk,");
    }
    flows.refuse(DNAT, 20, "ct_state=+new+trk", Drop::RouterLocal);
    flows.add(DNAT, 0, "", &go(ROUTE));
}

/// What leaves by the gateway, or turns on the inside, under an outside address.
pub(super) fn outgoing(flows: &mut Flows, plan: &Plan<'_>) {
    let router = plan.router;
    let (zone, hairpin) = (router.zone(), router.hairpin_zone());
    let commit =
        |zone: u16, to: &IpAddr| format!("ct(commit,zone={zone},nat(src={to}),table={OUT})");
    // An instance's own outside address before that of its network.
    let own = router
        .floating
        .iter()
        .map(|(outside, i)| (400, Cidr { address: *i, len: host(*i) }, outside));
    let shared =
        router.snat.iter().map(|(net, outside)| (100 + usize::from(net.len), *net, outside));
    let all: Vec<(usize, Cidr, &IpAddr)> = own.chain(shared).collect();
    let out = plan.gateway().map(|p| format!("reg0={}", p.number));
    let mut tracked: Vec<Cidr> = router
        .dnat
        .iter()
        .map(|d| Cidr { address: d.internal.ip(), len: host(d.internal.ip()) })
        .collect();
    for (priority, from, outside) in &all {
        let src = format!("{}={from}", of(from.address).src);
        flows.add(
            SNAT,
            300 + priority,
            &format!("reg1={HAIRPIN},{src}"),
            &commit(hairpin, outside),
        );
        let new = format!("ct_state=+new+trk,{src}");
        flows.add(SNAT_NEW, 10 + priority, &new, &commit(zone, outside));
        tracked.push(*from);
    }
    flows.add(SNAT, 250, &format!("reg1={HAIRPIN}"), &go(OUT));
    tracked.sort_unstable();
    tracked.dedup();
    if let Some(out) = out {
        let error = format!("{out},reg1={IS_ERROR}");
        flows.both(SNAT, 240, &error, &format!("ct(zone={zone},nat,table={OUT})"));
        for from in tracked {
            let src = format!("{out},{}={from}", of(from.address).src);
            flows.add(SNAT, 100, &src, &format!("ct(zone={zone},nat,table={SNAT_NEW})"));
        }
    }
    flows.refuse(SNAT_NEW, 600, "ct_state=+inv+trk", Drop::CtInvalid);
    flows.add(SNAT_NEW, 0, "", &go(OUT));
}

fn host(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}
