//! Our end of a tunnel against the kernel's VXLAN device, over veth: neighbours resolved and
//! answered, ARP and pings through the tunnel, with and without checksums, over IPv4 and IPv6.
//! Needs root, iproute2 and ethtool.
#![allow(unsafe_code)] // unshare(2), raw sockets.

#[path = "common/netns.rs"]
mod netns;

use std::net::IpAddr;
use std::rc::Rc;

use afxdp::{FramePool, Region};
use flow::{Field, FlowKey, build};
use netns::{Wire, isolated, run};
use tunnel::encap::{Link, Sequence};
use tunnel::neigh::{self, Own};
use tunnel::{Encap, Kind, Outer, Sender, decap, flags};

const OUR_MAC: u64 = 0x0200_0000_0a0a;
const INNER_MAC: u64 = 0x0200_0000_1111;
const INNER_US: u32 = 0x0a00_0001;
const INNER_THEM: u32 = 0x0a00_0002;
const VNI: u64 = 4660;

/// Our end of the underlay.
struct End {
    wire: Rc<Wire>,
    own: Own,
    pool: FramePool,
    csum: bool,
}

impl End {
    /// The frame's inner packet, if it is of our tunnel; asks for our address are answered.
    fn receive(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let mut p = self.pool.packet_from(frame).unwrap();
        let mut key = FlowKey::default();
        let off = flow::extract(p.data(), p.len(), &mut key);
        let own = self.own;
        let answer = neigh::answer(frame, &off, &key, |a| (a == own.address).then_some(own.mac));
        if let Some(answer) = answer {
            self.wire.send(&answer);
        }
        let mut inner = None;
        if key.get(Field::TpDst) == 4789 && key.get(Field::EthDst) == u128::from(OUR_MAC) {
            let d = decap(&mut p, &off, &key, Kind::Vxlan).unwrap();
            assert_eq!(d.id, VNI);
            assert_eq!(d.flags & flags::CSUM != 0, self.csum);
            d.strip(&mut p, &mut self.pool).unwrap();
            inner = Some(p.to_vec());
        }
        self.pool.free_packet(p);
        inner
    }

    fn send(&mut self, encap: &Encap, inner: &[u8]) {
        let mut p = self.pool.packet_from(inner).unwrap();
        encap.push(&mut p, 0x1234_5678, &mut Sender::default()).unwrap();
        self.wire.send(&p.to_vec());
        self.pool.free_packet(p);
    }

    /// The inner frame that `wanted` looks for.
    fn until<T>(&mut self, what: &str, mut wanted: impl FnMut(&FlowKey, &[u8]) -> Option<T>) -> T {
        let wire = self.wire.clone();
        wire.until(what, |frame| {
            let inner = self.receive(frame)?;
            let mut key = FlowKey::default();
            flow::extract(&inner, inner.len(), &mut key);
            wanted(&key, &inner)
        })
    }
}

fn underlay(v6: bool, csum: bool) -> (IpAddr, IpAddr) {
    let (us, them, len) =
        if v6 { ("fd00::1", "fd00::2", 64) } else { ("192.0.2.1", "192.0.2.2", 24) };
    run("ip link add u0 type veth peer name k0");
    run("ethtool -K k0 tx off");
    run("ip link set u0 up");
    run("ip link set k0 up");
    run(&format!("ip addr add {them}/{len} dev k0{}", if v6 { " nodad" } else { "" }));
    let sum = match (v6, csum) {
        (false, true) => " udpcsum",
        (false, false) => " noudpcsum",
        (true, _) => "",
    };
    run(&format!("ip link add vx0 type vxlan id {VNI} local {them} remote {us} dstport 4789{sum}"));
    run("ip addr add 10.0.0.2/24 dev vx0");
    run("ip link set vx0 up");
    (us.parse().unwrap(), them.parse().unwrap())
}

fn inner_base() -> FlowKey {
    let mut k = FlowKey::default();
    k.set(Field::EthSrc, INNER_MAC.into());
    k.set(Field::EthType, 0x800);
    k.set(Field::NwSrc, INNER_US.into());
    k.set(Field::NwDst, INNER_THEM.into());
    k.set(Field::NwTtl, 64);
    k
}

fn talk(v6: bool, csum: bool) {
    let (us, them) = underlay(v6, csum);
    let own = Own { mac: OUR_MAC, address: us };
    let pool = Region::new(4 << 20).unwrap().pool();
    let mut end = End { wire: Rc::new(Wire::open("u0")), own, pool, csum };

    end.wire.send(&neigh::request(them, &own, None).unwrap());
    let mac = end.wire.clone().until("the remote end's address", |frame| {
        let mut key = FlowKey::default();
        let off = flow::extract(frame, frame.len(), &mut key);
        let heard = neigh::hear(frame, &off, &key)?;
        (heard.address == them && heard.solicited).then_some(heard.mac)
    });
    let outer = Outer {
        kind: Kind::Vxlan,
        dst: them,
        tos: 0,
        ttl: 64,
        flags: flags::DF | flags::KEY | if csum { flags::CSUM } else { 0 },
        id: VNI,
        seq: false,
        dst_port: 4789,
    };
    let link = Link { dst: mac, src: OUR_MAC };
    let encap = Encap::new(&outer, us, link, &Sequence::default()).unwrap();

    let question = build::arp_frame(1, 0xffff_ffff_ffff, INNER_MAC, INNER_US, 0, INNER_THEM);
    end.send(&encap, &question);
    let inner_mac = end.until("the ARP reply through the tunnel", |key, _| {
        let reply = key.get(Field::EthType) == 0x806 && key.get(Field::NwProto) == 2;
        (reply && key.get(Field::NwSrc) == INNER_THEM.into()).then(|| key.get(Field::ArpSha))
    });

    for size in [0, 1, 56, 1300] {
        let payload: Vec<u8> = (0..size).map(|i| i as u8).collect();
        let mut k = inner_base();
        k.set(Field::EthDst, inner_mac);
        k.set(Field::NwProto, 1);
        k.set(Field::TpSrc, 8);
        end.send(&encap, &build::compose(&k, &payload));
        end.until("the echo reply", |key, inner| {
            let reply = key.get(Field::NwProto) == 1 && key.get(Field::TpSrc) == 0;
            (reply && inner[42..].len() == size && inner[42..] == payload).then_some(())
        });
    }

    // UDP to a port where nobody listens: the kernel has checked it and answers.
    let mut k = inner_base();
    k.set(Field::EthDst, inner_mac);
    k.set(Field::NwProto, 17);
    k.set(Field::TpSrc, 1000);
    k.set(Field::TpDst, 9);
    let datagram = build::compose(&k, b"hello");
    end.send(&encap, &datagram);
    end.until("port unreachable", |key, inner| {
        let error = key.get(Field::NwProto) == 1 && key.get(Field::TpSrc) == 3;
        (error && inner[42..].starts_with(&datagram[14..42])).then_some(())
    });
}

#[test]
fn vxlan_over_ipv4() {
    isolated(|| talk(false, false));
}

#[test]
fn vxlan_over_ipv4_with_checksums() {
    isolated(|| talk(false, true));
}

#[test]
fn vxlan_over_ipv6() {
    isolated(|| talk(true, true));
}
