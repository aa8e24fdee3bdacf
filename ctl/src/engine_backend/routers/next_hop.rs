//! Which flows does a next hop come to, by what is known of it?

use std::net::IpAddr;

use flow::Drop;
use ofproto::action::{Action, IcmpSays};
use ofproto::flowmod::FlowMod;
use tunnel::neigh::Target;

use super::compile::{ARP, IN, NEIGHBOUR};
use super::flows::{Flows, go};
use super::plan::address;
use crate::config::{Router, RouterPort};
use crate::error::CtlError;

/// What is known of a next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// Its Ethernet address.
    Known(u64),
    /// It is asked for, and enough packets wait.
    Asked,
    /// It does not answer.
    Silent,
}

/// The flows of a next hop on a port.
///
/// # Errors
/// Internal ones only.
pub(super) fn flows(
    router: &Router,
    port: &RouterPort,
    target: &Target,
    hop: Hop,
) -> Result<Vec<FlowMod>, CtlError> {
    let mut flows = Flows::default();
    let n = port.number;
    let to = match target.address {
        IpAddr::V4(a) => format!("reg0={n},reg2={:#x},ip", u32::from(a)),
        IpAddr::V6(a) => format!("reg0={n},xxreg1={:#x},ipv6", u128::from(a)),
    };
    match hop {
        Hop::Known(mac) => {
            let b = mac.to_be_bytes();
            let mac = format!(
                "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}",
                b[2], b[3], b[4], b[5], b[6], b[7]
            );
            flows.add(NEIGHBOUR, 100, &to, &format!("set_field:{mac}->eth_dst,output:{n}"));
            // What came by a port that takes more may be too large for this one.
            if target.address.is_ipv4() && router.ports.values().any(|p| p.mtu > port.mtu) {
                flows.insert(1, Action::Fragment(port.mtu));
            }
            if target.address.is_ipv4() {
                let says = format!("in_port={n},arp,arp_spa={}", target.address);
                flows.add(IN, 200, &format!("{says},arp_op=1,arp_sha={mac}"), &go(ARP));
                flows.add(IN, 195, &says, &format!("controller(max_len=64),{}", go(ARP)));
            }
        }
        Hop::Asked => flows.refuse(NEIGHBOUR, 100, &to, Drop::NeighbourPending),
        Hop::Silent => {
            let from = address(port, target.address.is_ipv4());
            flows.tell((NEIGHBOUR, 100), &to, (IcmpSays::NoHost, from, Drop::NeighbourFailed));
        }
    }
    flows.done()
}
