//! The NORMAL action: an Ethernet switch with VLANs (IEEE 802.1D and 802.1Q).

use std::sync::Arc;

use flow::{Drop, Field};

use super::{Ctx, Effect};
use crate::snapshot::{Dep, OfPort, Port, PortKind, fdb_key};
use crate::vlan::Inside;

/// Bit of an address that says multicast.
const MULTICAST: u64 = 1 << 40;

/// 01:80:c2:00:00:00 to :0f, which bridges do not forward (IEEE 802.1D, 7.12.6).
fn is_reserved(mac: u64) -> bool {
    mac & !0xf == 0x0180_c200_0000
}

impl Ctx<'_> {
    pub(super) fn normal(&mut self) {
        self.depend(Dep::Bridge(self.bridge.id));
        // What comes by no port is treated as from a trunk.
        let nowhere = self
            .is_from_nowhere()
            .then(|| Arc::new(Port::new(self.in_port, "", PortKind::Patch(None))));
        let Some(in_port) = nowhere.as_ref().or_else(|| self.port(self.in_port)) else {
            return self.drop(Drop::PortGone);
        };
        let tags = self.consult_tags();
        let inside = match in_port.vlan.enter(&tags) {
            Ok(inside) => inside,
            Err(why) => return self.drop(why),
        };
        let vlan = inside[0].vid();
        let src = self.consult(Field::EthSrc) as u64;
        let dst = self.consult(Field::EthDst) as u64;
        if is_reserved(dst) && !self.bridge.settings.forward_bpdu {
            return self.drop(Drop::ReservedMulticast);
        }
        let flood_only = self.bridge.settings.flood_vlans.as_ref();
        let flood_only = flood_only.is_some_and(|v| v.contains(vlan));
        if src & MULTICAST == 0 && !flood_only && nowhere.is_none() {
            self.learn_mac(vlan, src);
        }
        if dst & MULTICAST != 0 || flood_only {
            return self.flood(&inside, in_port);
        }
        self.depend(Dep::Fdb(self.bridge.id, vlan, dst));
        match self.bridge.fdb.get(&fdb_key(vlan, dst)).map(|e| e.port) {
            Some(p) if p == self.in_port => self.drop(Drop::NoLearnedPort),
            Some(p) => {
                self.say(format_args!("forwarding to learned port {}", p.0));
                let known = self.port(p).cloned();
                match known {
                    Some(port) => self.output_normal(&port, &inside),
                    None => self.flood(&inside, in_port),
                }
            }
            None => {
                self.say(format_args!("no learned MAC for destination, flooding"));
                self.flood(&inside, in_port);
            }
        }
    }

    fn learn_mac(&mut self, vlan: u16, mac: u64) {
        self.depend(Dep::Fdb(self.bridge.id, vlan, mac));
        match self.bridge.fdb.get(&fdb_key(vlan, mac)) {
            Some(e) if e.port == self.in_port => {
                self.out.effects.push(Effect::RefreshMac(e.clone()));
            }
            Some(e) if e.is_static => {}
            _ => {
                let (bridge, port) = (self.bridge.id, self.in_port);
                self.say(format_args!("learned that the source is on port {} VLAN {vlan}", port.0));
                self.out.effects.push(Effect::LearnMac { bridge, vlan, mac, port });
            }
        }
    }

    /// To every port that carries the VLAN but the one the packet came by.
    fn flood(&mut self, inside: &Inside, in_port: &Arc<Port>) {
        let bridge = self.bridge;
        let before = (self.used, self.out.drop);
        for port in bridge.ports.values() {
            let to = port.ofport != in_port.ofport && !port.no_flood && !port.shared;
            if to && port.vlan.carries(inside) {
                self.output_normal(port, inside);
            }
        }
        self.forget_ports_down(before);
        if self.used == before.0 && self.out.drop.is_none() {
            self.drop(Drop::FlowDrop);
        }
    }

    /// To one port, with the tags that its mode asks for.
    fn output_normal(&mut self, port: &Arc<Port>, inside: &Inside) {
        if !port.vlan.carries(inside) {
            return self.drop(Drop::VlanNotAllowed);
        }
        let tags = crate::vlan::tags(&self.key);
        let want = port.vlan.leave(inside);
        if want == tags {
            return self.output_port(port.ofport);
        }
        self.write_tags(&want);
        self.output_port(port.ofport);
        self.write_tags(&tags);
    }

    /// To every port but the one the packet came by (`flood`, `all`).
    pub(super) fn output_all(&mut self, honour_no_flood: bool) {
        self.depend(Dep::Bridge(self.bridge.id));
        let bridge = self.bridge;
        let ports: smallvec::SmallVec<[OfPort; 16]> = bridge
            .ports
            .values()
            .filter(|p| p.ofport != self.in_port && !p.shared)
            .filter(|p| !(honour_no_flood && p.no_flood))
            .map(|p| p.ofport)
            .collect();
        let before = (self.used, self.out.drop);
        for port in ports {
            self.output_port(port);
        }
        self.forget_ports_down(before);
    }

    /// What has reached one of the flooded ports was not dropped because another is down.
    fn forget_ports_down(&mut self, (used, drop): (usize, Option<Drop>)) {
        if self.used > used && self.out.drop == Some(Drop::PortDown) {
            self.out.drop = drop;
        }
    }
}
