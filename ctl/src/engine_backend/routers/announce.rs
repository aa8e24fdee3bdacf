//! What routers say by themselves: that addresses are new here.

use std::net::IpAddr;

use flow::build::{self, Neighbour};

use super::number;
use crate::engine_backend::EngineBackend;

/// How often a new address is announced, once a second.
pub(super) const ANNOUNCEMENTS: u8 = 3;
const BROADCAST: u64 = 0xffff_ffff_ffff;

impl EngineBackend {
    /// Tell everybody of addresses that are new here.
    pub(super) fn announce_router(&mut self, name: &str) {
        let Some(mut running) = self.routers.all.remove(name) else { return };
        let mut left = std::mem::take(&mut running.announce);
        for (port, address, n) in &mut left {
            *n -= 1;
            let Some(mac) = running.port((*port).into()).map(|p| number(p.mac)) else { continue };
            let frame = match address {
                IpAddr::V4(a) => {
                    build::arp_frame(1, BROADCAST, mac, u32::from(*a), 0, u32::from(*a))
                }
                IpAddr::V6(a) => {
                    const ALL_NODES: u128 = 0xff02 << 112 | 1;
                    let (src, target) = (u128::from(*a), u128::from(*a));
                    let eth_dst = build::multicast_mac(ALL_NODES);
                    Neighbour { eth_dst, eth_src: mac, src, dst: ALL_NODES, target }
                        .advertise(true, false)
                }
            };
            self.router_send(&running, (*port).into(), frame);
        }
        left.retain(|(_, _, n)| *n > 0);
        running.announce = left;
        self.routers.all.insert(name.to_owned(), running);
    }
}
