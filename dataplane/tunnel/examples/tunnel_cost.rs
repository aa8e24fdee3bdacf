//! Prints what putting an outer header on and taking it off cost, in ns per packet.
//!
//! `cargo run -p tunnel --profile fast --example tunnel_cost`

use std::hint::black_box;
use std::time::Instant;

use afxdp::Region;
use flow::{Field, FlowKey, build};
use tunnel::encap::{Link, Sequence};
use tunnel::{Encap, Kind, Outer, Sender, TunnelConfig, TunnelTable, decap, flags};

const PACKETS: usize = 256;
const ROUNDS: usize = 2000;

/// The best round, in ns per packet.
fn best(mut round: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let t = Instant::now();
        round();
        best = best.min(t.elapsed().as_nanos() as f64 / PACKETS as f64);
    }
    best
}

fn main() {
    let region = Region::new(4 << 20).expect("memory for frames");
    let mut pool = region.pool();
    let mut k = FlowKey::default();
    k.set(Field::EthType, 0x800);
    k.set(Field::NwProto, 17);
    let inner = build::compose(&k, &[0; 18]);
    for (kind, v6, csum) in [
        (Kind::Vxlan, false, false),
        (Kind::Vxlan, false, true),
        (Kind::Vxlan, true, true),
        (Kind::Gre, false, false),
        (Kind::Geneve, false, false),
    ] {
        let (src, dst) = if v6 { ("fd00::1", "fd00::2") } else { ("10.0.0.1", "10.0.0.2") };
        let outer = Outer {
            kind,
            dst: dst.parse().expect("an address"),
            tos: 0,
            ttl: 64,
            flags: flags::DF | flags::KEY | if csum { flags::CSUM } else { 0 },
            id: 7,
            seq: false,
            dst_port: kind.default_port().unwrap_or(0),
        };
        let src = src.parse().expect("an address");
        let link = Link { dst: 2, src: 4 };
        let e = Encap::new(&outer, src, link, &Sequence::default()).expect("one family");
        let mut sender = Sender::default();
        let mut packets: Vec<_> =
            (0..PACKETS).map(|_| pool.packet_from(&inner).expect("a frame")).collect();
        let push = best(|| {
            for (i, p) in packets.iter_mut().enumerate() {
                black_box(e.push(p, i as u64 * 0x9e37_79b9, &mut sender)).expect("room");
                p.pull_front(e.overhead()).expect("the header");
            }
        });
        for p in &mut packets {
            e.push(p, 1, &mut sender).expect("room");
        }
        let mut key = FlowKey::default();
        let mut inner_key = FlowKey::default();
        let pop = best(|| {
            for p in &mut packets {
                let off = flow::extract(p.data(), p.len(), &mut key);
                let d = black_box(decap(p, &off, &key, kind)).expect("a sound packet");
                d.metadata(&key, &mut inner_key);
                d.strip(p, &mut pool).expect("the header");
                black_box(&inner_key);
                p.push_front(d.strip).expect("room");
            }
        });
        let name = kind.name();
        println!("{name} v6={v6} csum={csum}: push {push:.1} ns, extract and decap {pop:.1} ns");
        packets.into_iter().for_each(|p| pool.free_packet(p));
    }
    lookups();
}

fn lookups() {
    for n in [1u32, 4000] {
        let mut table = TunnelTable::default();
        for i in 0..n {
            let remote = std::net::Ipv4Addr::from(0x0a00_0001 + i).to_string();
            let options = [("remote_ip", remote.as_str()), ("key", "flow")];
            let config = TunnelConfig::new("vxlan", options).expect("a type").expect("options");
            table.insert(&config, i).expect("another one");
        }
        let mut keys = vec![FlowKey::default(); PACKETS];
        for (i, k) in keys.iter_mut().enumerate() {
            k.set(Field::TunSrc, u128::from(0x0a00_0001 + i as u32 * 31 % n));
            k.set(Field::TunId, i as u128 * 65_537 % (1 << 24));
        }
        let mut wc = FlowKey::default();
        let cost = best(|| {
            for k in &keys {
                black_box(table.lookup(Kind::Vxlan, 4789, k, &mut wc)).expect("a tunnel");
            }
        });
        println!("lookup among {n}: {cost:.1} ns");
    }
}
