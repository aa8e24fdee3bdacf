//! Frames, outer headers and a worker's pool for the tests.
#![allow(dead_code)] // Each test crate uses some of it.

use std::net::IpAddr;

use afxdp::{FramePool, Packet, Region};
use flow::{FlowKey, Offsets};
use proptest::prelude::*;
use tunnel::encap::{Link, Sequence};
use tunnel::{Encap, Kind, Outer, flags};

#[path = "../../../flow/tests/common/mod.rs"]
pub mod frames;

pub fn pool() -> FramePool {
    Region::new(2 << 20).unwrap().pool()
}

pub fn read(p: &Packet) -> (FlowKey, Offsets) {
    let mut key = FlowKey::default();
    let off = flow::extract(p.data(), p.len(), &mut key);
    (key, off)
}

pub const LINK: Link = Link { dst: 0x0200_0000_0b0b, src: 0x0200_0000_0a0a };

pub fn src(v6: bool) -> IpAddr {
    if v6 { "fd00::1".parse().unwrap() } else { [192, 0, 2, 1].into() }
}

pub fn dst(v6: bool) -> IpAddr {
    if v6 { "fd00::2".parse().unwrap() } else { [192, 0, 2, 2].into() }
}

pub fn outer(kind: Kind, v6: bool) -> Outer {
    Outer {
        kind,
        dst: dst(v6),
        tos: 0,
        ttl: 64,
        flags: flags::DF | flags::KEY,
        id: 0x1234,
        seq: false,
        dst_port: kind.default_port().unwrap_or(0),
    }
}

pub fn encap(o: &Outer) -> Encap {
    Encap::new(o, src(o.dst.is_ipv6()), LINK, &Sequence::default()).unwrap()
}

pub fn any_outer() -> impl Strategy<Value = Outer> {
    let kind = prop::sample::select(vec![Kind::Vxlan, Kind::Gre, Kind::Geneve]);
    (kind, any::<bool>(), any::<(u8, u8)>(), 0u16..16, any::<u32>(), any::<bool>()).prop_map(
        |(kind, v6, (tos, ttl), bits, id, seq)| {
            let mut o = outer(kind, v6);
            (o.tos, o.ttl, o.seq) = (tos, ttl.max(1), seq && kind == Kind::Gre);
            o.flags = bits;
            o.id = u64::from(id) & ((1 << kind.id_bits()) - 1);
            if kind == Kind::Gre {
                o.flags &= !flags::OAM;
                if bits & flags::KEY == 0 {
                    o.id = 0;
                }
            } else {
                o.flags |= flags::KEY;
            }
            if kind == Kind::Vxlan {
                o.flags &= !flags::OAM;
            }
            o
        },
    )
}

/// An outer frame as bytes.
pub fn encapsulated(o: &Outer, inner: &[u8]) -> Vec<u8> {
    let mut pool = pool();
    let mut p = pool.packet_from(inner).unwrap();
    encap(o).push(&mut p, 0x1234_5678_9abc_def0, &mut Default::default()).unwrap();
    let bytes = p.to_vec();
    pool.free_packet(p);
    bytes
}
