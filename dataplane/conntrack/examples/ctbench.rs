//! Nanoseconds a packet: established connections translated, new connections, two workers.
//!
//! `cargo run --release -p conntrack --example ctbench [CONNECTIONS...]`

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use conntrack::nat::{self, AddressRange, Choice, NatSpec, Side};
use conntrack::{
    BURST, Commit, Config, ConnRef, CtState, Input, Millis, Nat, TcpOptions, Tracker, Trust,
};
use flow::extract::extract;
use flow::key::FlowKey;

#[path = "../tests/common/mod.rs"]
mod common;
use common::{ACK, Addr, SYN, Seg, host};

const NOW: Millis = Millis(1_000_000);

fn new(connections: usize) -> Tracker {
    let tcp = TcpOptions::default();
    Tracker::new(Config { connections, seed: 0x9e37_79b9_7f4a_7c15, tcp }).expect("tracker")
}

fn snat() -> Commit {
    // Ports would run out behind one address: as many as the connections need.
    let first = "203.0.113.1".parse().expect("address");
    let last = "203.0.113.250".parse().expect("address");
    let range = AddressRange::new(first, last).expect("range");
    let spec = NatSpec::new(Side::Src, Some(range), None, Choice::Hash, false).expect("spec");
    Commit { nat: Nat::New(spec), ..Commit::default() }
}

fn client(i: usize) -> (Addr, u16) {
    (Addr::V4(host(1 + (i / 50_000) as u32)), 1024 + (i % 50_000) as u16)
}

const SERVER: (Addr, u16) = (Addr::V4(0x0808_0808), 53);

fn template(proto: u8) -> Vec<u8> {
    if proto == 6 {
        let seg = Seg { flags: ACK, seq: 1, ack: 1, ..Seg::default() };
        common::tcp(client(0), SERVER, seg)
    } else {
        common::udp(client(0), SERVER, b"0123456789")
    }
}

/// Packets of both directions, established.
fn prepare(t: &Tracker, proto: u8, n: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::with_capacity(2 * n);
    let mut random = || 7;
    for i in 0..n {
        let (c, s) = (client(i), SERVER);
        let build = |from, to, flags, seq, ack| match proto {
            6 => common::tcp(from, to, Seg { flags, seq, ack, ..Seg::default() }),
            _ => common::udp(from, to, b"0123456789"),
        };
        let first = build(c, s, SYN, 0, 0);
        let input = common::input(1, &first);
        let v = t.commit(NOW, &input, ConnRef::NONE, &snat(), &mut random).expect("commit");
        let to = v.nat.tuple();
        let outside = (Addr::V4(to.src() as u32), to.sport());
        let reply = build(s, outside, SYN | ACK, 0, 1);
        let v = t.track(NOW, &common::input(1, &reply), true);
        assert!(v.state.has(CtState::EST), "{v:?}");
        frames.push(build(c, s, ACK, 1, 1));
        frames.push(build(s, outside, ACK, 1, 1));
        let v = t.track(NOW, &common::input(1, &frames[2 * i]), true);
        assert!(v.state.has(CtState::EST), "{v:?}");
    }
    frames
}

/// A frame copied into a ring of packets, as it would be received.
fn run(t: &Tracker, frames: &[Vec<u8>], order: &[u32], rounds: usize, now: Millis) -> f64 {
    let mut pool = afxdp::Region::new(8 << 20).expect("region").pool();
    let mut packets: Vec<_> =
        (0..BURST).map(|_| pool.packet_from(&frames[0]).expect("frame")).collect();
    let mut bursts = Vec::new();
    let mut offs = [flow::Offsets::default(); BURST];
    let mut batch = conntrack::Batch::default();
    for _ in 0..rounds {
        for chunk in order.chunks_exact(BURST) {
            for ((p, i), off) in packets.iter_mut().zip(chunk).zip(&mut offs) {
                p.data_mut().copy_from_slice(&frames[*i as usize]);
                let mut key = FlowKey::default();
                *off = extract(p.data(), p.len(), &mut key);
            }
            let start = Instant::now();
            let inputs = packets.iter().zip(&offs).map(|(p, off)| Input::of(p, off, 1));
            t.read_burst(inputs, &mut batch);
            t.track_burst(now, true, &mut batch, |i, v| {
                nat::apply(&mut packets[i], &offs[i], &v.nat).expect("edit");
                debug_assert!(v.state.has(CtState::EST));
            });
            bursts.push(start.elapsed().as_nanos() as u64);
            black_box(&packets);
        }
    }
    for p in packets {
        pool.free_packet(p);
    }
    median(bursts)
}

/// Nanoseconds a packet, from those of bursts; the median, as other programs take the processor
/// away now and then.
fn median(mut bursts: Vec<u64>) -> f64 {
    bursts.sort_unstable();
    bursts[bursts.len() / 2] as f64 / BURST as f64
}

fn shuffled(n: usize, mut x: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n as u32).collect();
    for i in (1..n).rev() {
        x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        order.swap(i, (x >> 33) as usize % (i + 1));
    }
    order
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|p| p.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}

/// Established, without building a frame for each connection in advance: for millions.
fn many(proto: u8, n: usize) {
    let before = resident();
    let t = new(n);
    let mut random = || 7;
    let base = template(proto);
    let mut outside = Vec::with_capacity(n);
    let kept = n * size_of::<(u32, u16)>();
    let start = Instant::now();
    for i in 0..n {
        let c = client(i);
        let first = if proto == 6 {
            common::tcp(c, SERVER, Seg { flags: SYN, ..Seg::default() })
        } else {
            common::udp(c, SERVER, b"0123456789")
        };
        let input = common::input(1, &first);
        let v = t.commit(NOW, &input, ConnRef::NONE, &snat(), &mut random).expect("commit");
        let to = v.nat.tuple();
        outside.push((to.src() as u32, to.sport()));
    }
    let made = start.elapsed().as_nanos() as f64 / n as f64;
    let bytes = (resident() - before).saturating_sub(kept) as f64 / n as f64;
    let mut answered = 0;
    for (a, p) in &outside {
        let to = (Addr::V4(*a), *p);
        let reply = if proto == 6 {
            common::tcp(SERVER, to, Seg { flags: SYN | ACK, ack: 1, ..Seg::default() })
        } else {
            common::udp(SERVER, to, b"0123456789")
        };
        answered +=
            usize::from(t.track(NOW, &common::input(1, &reply), true).state.has(CtState::EST));
    }
    assert_eq!(answered, n);
    let mut bursts = Vec::new();
    let mut done = 0usize;
    let mut frames = vec![base; BURST];
    let order = shuffled(n, 99);
    let mut offs = [flow::Offsets::default(); BURST];
    let mut ok = 0usize;
    let mut batch = conntrack::Batch::default();
    for chunk in order.chunks_exact(BURST).take(60_000) {
        for (f, i) in frames.iter_mut().zip(chunk) {
            let c = client(*i as usize);
            *f = if proto == 6 {
                common::tcp(c, SERVER, Seg { flags: ACK, seq: 1, ack: 1, ..Seg::default() })
            } else {
                common::udp(c, SERVER, b"0123456789")
            };
        }
        for (f, off) in frames.iter().zip(&mut offs) {
            let mut key = FlowKey::default();
            *off = extract(f, f.len(), &mut key);
        }
        let start = Instant::now();
        let inputs = frames.iter().zip(&offs).map(|(f, off)| Input {
            zone: 1,
            data: f,
            off: *off,
            total: f.len(),
            trust: Trust::Unknown,
        });
        t.read_burst(inputs, &mut batch);
        t.track_burst(NOW, true, &mut batch, |_, v| ok += usize::from(v.state.has(CtState::EST)));
        bursts.push(start.elapsed().as_nanos() as u64);
        done += BURST;
    }
    assert_eq!(ok, done);
    let name = if proto == 6 { "tcp" } else { "udp" };
    let ns = median(bursts);
    println!(
        "lookup only {name} {n:>8}: {ns:6.1} ns/packet; made in {made:.0} ns each; {bytes:.0} bytes resident each"
    );
    let start = Instant::now();
    let late = Millis(NOW.0 + 1_000_000_000);
    let mut expired = 0;
    let mut calls = 0;
    let mut longest = 0;
    while expired < n {
        let one = Instant::now();
        expired += t.sweep(late, 256).expired;
        longest = longest.max(one.elapsed().as_nanos());
        calls += 1;
    }
    let each = start.elapsed().as_nanos() as f64 / n as f64;
    println!(
        "  expired {expired} in {calls} sweeps: {each:.0} ns each, longest sweep {longest} ns"
    );
}

fn two_workers(proto: u8, n: usize) {
    let shared = new(n * 2 + 64);
    let frames = prepare(&shared, proto, n);
    let apart = [new(n * 2 + 64), new(n * 2 + 64)];
    let own: Vec<_> = apart.iter().map(|t| prepare(t, proto, n)).collect();
    let order = [shuffled(2 * n, 3), shuffled(2 * n, 5)];
    let rounds = (2_000_000 / order[0].len()).max(1);
    let both = |tables: [(&Tracker, &[Vec<u8>]); 2]| {
        let barrier = Barrier::new(2);
        let ns: Vec<f64> = std::thread::scope(|s| {
            let threads: Vec<_> = (0..2)
                .map(|w| {
                    let ((t, frames), order, barrier) = (tables[w], &order[w], &barrier);
                    s.spawn(move || {
                        barrier.wait();
                        run(t, frames, order, rounds, NOW)
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().expect("worker")).collect()
        });
        2.0 / (1.0 / ns[0] + 1.0 / ns[1])
    };
    let one_table = both([(&shared, &frames), (&shared, &frames)]);
    let two_tables = both([(&apart[0], &own[0]), (&apart[1], &own[1])]);
    let name = if proto == 6 { "tcp" } else { "udp" };
    println!(
        "two workers {name} {n:>8}: one table {one_table:.1}, a table each {two_tables:.1} ns: {:.2}",
        two_tables / one_table
    );
}

fn new_connections(n: usize) {
    let t = new(n);
    let frames: Vec<_> = (0..n).map(|i| common::udp(client(i), SERVER, b"0123456789")).collect();
    for (name, args) in [("plain", Commit::default()), ("snat", snat())] {
        let t = if name == "plain" { &t } else { &new(n) };
        let start = Instant::now();
        for f in &frames {
            let input = common::input(1, f);
            assert!(t.track(NOW, &input, true).state.has(CtState::NEW));
            t.commit(NOW, &input, ConnRef::NONE, &args, &mut || 7).expect("commit");
        }
        let ns = start.elapsed().as_nanos() as f64 / n as f64;
        println!("new {name} {n:>8}: {ns:6.0} ns, {:.2} million a second", 1000.0 / ns);
    }
}

fn main() {
    let args: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let sizes = if args.is_empty() { vec![1000, 10_000, 100_000] } else { args };
    for proto in [17, 6] {
        for n in &sizes {
            let t = new(*n * 2);
            let frames = prepare(&t, proto, *n);
            let order = shuffled(2 * n, 42);
            let rounds = (2_000_000 / order.len()).max(1);
            let ns = run(&t, &frames, &order, rounds, NOW);
            let name = if proto == 6 { "tcp" } else { "udp" };
            println!("established {name} {n:>8}: {ns:6.1} ns/packet, looked up and rewritten");
        }
    }
    new_connections(100_000);
    for proto in [17, 6] {
        two_workers(proto, 10_000);
        for n in [1000, 2_000_000] {
            many(proto, n);
        }
    }
}
