//! Our end of a tunnel, talking to another implementation's: neighbours resolved and answered, ARP,
//! pings of several sizes and UDP through the tunnel.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;

use super::netns::{Wire, ask};
use afxdp::{FramePool, Region};
use flow::{Field, FlowKey, build};
use tunnel::encap::{Link, Sequence};
use tunnel::neigh::{self, Own};
use tunnel::{Encap, Kind, Outer, Sender, decap, flags};

const OUR_MAC: u64 = 0x0200_0000_0a0a;
const INNER_MAC: u64 = 0x0200_0000_1111;
const INNER_US: u32 = 0x0a00_0001;
const INNER_THEM: u32 = 0x0a00_0002;
/// The tunnel id of all tests.
pub const ID: u64 = 4660;

/// Our end of the underlay.
struct End {
    wire: Rc<Wire>,
    own: Own,
    pool: FramePool,
    tunnel: Tunnel,
}

/// What the tests vary.
#[derive(Clone, Copy, Debug)]
pub struct Tunnel {
    pub kind: Kind,
    pub us: IpAddr,
    pub them: IpAddr,
    /// Whether both ends send outer checksums.
    pub csum: bool,
    /// GRE only: whether there is a key.
    pub key: bool,
}

impl Tunnel {
    fn is_ours(&self, key: &FlowKey) -> bool {
        let this = match self.kind.default_port() {
            Some(port) => key.get(Field::TpDst) == port.into() && key.get(Field::NwProto) == 17,
            None => key.get(Field::NwProto) == 47,
        };
        this && key.get(Field::EthDst) == u128::from(OUR_MAC)
    }

    fn flags(&self) -> u16 {
        let csum = if self.csum { flags::CSUM } else { 0 };
        csum | if self.key { flags::KEY } else { 0 }
    }
}

impl End {
    /// The frame's inner packet, if it is of our tunnel; asks for our address are answered.
    fn receive(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let mut p = self.pool.packet_from(frame).unwrap();
        let mut key = FlowKey::default();
        let off = flow::extract(p.data(), p.len(), &mut key);
        let own = self.own;
        let answer =
            neigh::answer(frame, &off, &key, false, |a| (a == own.address).then_some(own.mac));
        if let Some(answer) = answer {
            self.wire.send(&answer);
        }
        let mut inner = None;
        if self.tunnel.is_ours(&key) {
            let d = decap(&mut p, &off, &key, self.tunnel.kind).unwrap();
            assert_eq!(d.id, if self.tunnel.key { ID } else { 0 });
            assert_eq!(d.flags, self.tunnel.flags());
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

    /// Send an inner frame until one comes that is `wanted`.
    fn ask<T>(
        &mut self,
        what: &str,
        encap: &Encap,
        inner: &[u8],
        mut wanted: impl FnMut(&FlowKey, &[u8]) -> Option<T>,
    ) -> T {
        let wire = self.wire.clone();
        let this = RefCell::new(self);
        ask(
            what,
            &wire,
            || this.borrow_mut().send(encap, inner),
            |frame| {
                let inner = this.borrow_mut().receive(frame)?;
                let mut key = FlowKey::default();
                flow::extract(&inner, inner.len(), &mut key);
                wanted(&key, &inner)
            },
        )
    }
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

/// Talk to 10.0.0.2 behind the tunnel, over interface `wire`.
pub fn talk(wire: &str, tunnel: Tunnel) {
    let Tunnel { kind, us, them, .. } = tunnel;
    let own = Own { mac: OUR_MAC, address: us };
    let pool = Region::new(4 << 20).unwrap().pool();
    let mut end = End { wire: Rc::new(Wire::open(wire)), own, pool, tunnel };

    let request = neigh::request(them, &own, None).unwrap();
    let wire = end.wire.clone();
    let mac = ask(
        "the remote end's address",
        &wire,
        || wire.send(&request),
        |frame| {
            let mut key = FlowKey::default();
            let off = flow::extract(frame, frame.len(), &mut key);
            let heard = neigh::hear(frame, &off, &key)?;
            (heard.address == them && heard.solicited).then_some(heard.mac)
        },
    );
    let outer = Outer {
        kind,
        dst: them,
        tos: 0,
        ttl: 64,
        flags: flags::DF | tunnel.flags(),
        id: if tunnel.key { ID } else { 0 },
        seq: false,
        dst_port: kind.default_port().unwrap_or(0),
    };
    let link = Link { dst: mac, src: OUR_MAC };
    let encap = Encap::new(&outer, us, link, &Sequence::default()).unwrap();

    let question = build::arp_frame(1, 0xffff_ffff_ffff, INNER_MAC, INNER_US, 0, INNER_THEM);
    let inner_mac = end.ask("the ARP reply through the tunnel", &encap, &question, |key, _| {
        let reply = key.get(Field::EthType) == 0x806 && key.get(Field::NwProto) == 2;
        (reply && key.get(Field::NwSrc) == INNER_THEM.into()).then(|| key.get(Field::ArpSha))
    });

    for size in [0, 1, 56, 1300] {
        let payload: Vec<u8> = (0..size).map(|i| i as u8).collect();
        let mut k = inner_base();
        k.set(Field::EthDst, inner_mac);
        k.set(Field::NwProto, 1);
        k.set(Field::TpSrc, 8);
        let echo = build::compose(&k, &payload);
        end.ask("the echo reply", &encap, &echo, |key, inner| {
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
    end.ask("port unreachable", &encap, &datagram, |key, inner| {
        let error = key.get(Field::NwProto) == 1 && key.get(Field::TpSrc) == 3;
        (error && inner[42..].starts_with(&datagram[14..42])).then_some(())
    });
}
