//! Two workers on one table: the two directions of connections, and tables that change under
//! lookups.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::*;
use conntrack::nat::Side;
use conntrack::{Commit, CtState, Cursor, Filter, Millis};

const B: (Addr, u16) = (Addr::V4(0x0808_0808), 80);

/// Opens, talks and closes connections; the server's side is another thread, which answers what
/// it gets. No packet of an orderly connection may be called invalid, whoever is faster.
#[test]
fn the_directions_of_a_connection_on_two_workers() {
    let t = tracker(4096);
    let args = nat(Side::Src, "203.0.113.1", "203.0.113.1", None);
    let (to_server, server) = std::sync::mpsc::channel::<(u32, Vec<u8>)>();
    let (to_client, client) = std::sync::mpsc::channel::<(u32, Vec<u8>)>();
    const CONNECTIONS: u32 = 300;
    const DATA: u32 = 30;
    std::thread::scope(|s| {
        let t = &t;
        s.spawn(move || {
            for (n, f) in server {
                let off = offsets(&f);
                let l4 = usize::from(off.l4);
                let src = u32::from_be_bytes(f[26..30].try_into().unwrap());
                let port = u16::from_be_bytes([f[l4], f[l4 + 1]]);
                let seq = u32::from_be_bytes(f[l4 + 4..l4 + 8].try_into().unwrap());
                let ack = u32::from_be_bytes(f[l4 + 8..l4 + 12].try_into().unwrap());
                let flags = f[l4 + 13];
                let len = (f.len() - l4 - 20) as u32;
                let next = seq.wrapping_add(len + u32::from(flags & (SYN | FIN) != 0));
                let (flags, seq) = match flags {
                    SYN => (SYN | ACK, 500),
                    f if f & FIN != 0 => (FIN | ACK, ack),
                    _ => (ACK, ack),
                };
                let answer =
                    tcp(B, (Addr::V4(src), port), Seg { flags, seq, ack: next, ..Seg::default() });
                let v = track(t, 0, &answer);
                assert!(v.state.has(CtState::EST) && v.state.has(CtState::RPL), "{v:?}");
                let _ = to_client.send((n, translated(&answer, &v)));
            }
        });
        let send = |n: u32, seg: Seg<'_>| {
            let c = (Addr::V4(host(n)), 1000);
            let f = tcp(c, B, seg);
            let v = commit_with(t, 0, &f, &args).unwrap();
            assert!(!v.state.has(CtState::INV), "{v:?} {seg:?}");
            to_server.send((n, translated(&f, &v))).unwrap();
        };
        for n in 1..=CONNECTIONS {
            send(n, Seg { flags: SYN, seq: 100, ..Seg::default() });
        }
        let mut sent = vec![0; CONNECTIONS as usize + 1];
        let mut done = 0;
        while done < CONNECTIONS {
            let (n, f) = client.recv().unwrap();
            assert_eq!(f[30..34], host(n).to_be_bytes(), "back at its sender");
            let k = &mut sent[n as usize];
            *k += 1;
            let seq = 101 + 10 * (*k - 1);
            match *k {
                k if k <= DATA => {
                    send(n, Seg { flags: ACK | PSH, seq, ack: 501, len: 10, ..Seg::default() });
                }
                k if k == DATA + 1 => {
                    send(n, Seg { flags: FIN | ACK, seq, ack: 501, ..Seg::default() });
                }
                _ => done += 1,
            }
        }
        drop(to_server);
    });
    assert_eq!(t.len(), CONNECTIONS as usize);
}

/// Ends the other threads' loops, also when this one panics.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Connections come and go on two workers while others look them up, change marks, list, flush
/// and sweep. What a lookup says always belongs together, and nothing is lost in the end.
#[test]
fn lookups_under_change_see_one_connection_at_a_time() {
    let t = tracker(64);
    let stop = AtomicBool::new(false);
    let flow = |i: u32| {
        let c = (Addr::V4(host(i % 97)), 1000 + (i % 97) as u16);
        (udp(c, B, b"x"), udp(B, c, b"x"))
    };
    // Mark and label of a connection always say the same, and name its client.
    let tag = |i: u32, k: u32| {
        let v = i % 97 + 1000 * (k % 1000);
        Commit {
            mark: Some((v, u32::MAX)),
            label: Some((u128::from(v) << 96 | u128::from(v), u128::MAX)),
            ..Commit::default()
        }
    };
    std::thread::scope(|s| {
        let (t, stop) = (&t, &stop);
        let changes = s.spawn(move || {
            let _stop = StopAtEnd(stop);
            for k in 0..60_000u32 {
                let i = k.wrapping_mul(2_654_435_761) >> 16;
                let (out, _) = flow(i);
                let now = u64::from(k);
                match k % 7 {
                    0 => {
                        t.sweep(Millis(now), 16);
                    }
                    1 => {
                        let f = Filter { sport: Some(1000 + (i % 97) as u16), ..Filter::default() };
                        t.flush(Millis(now), &f, Cursor::default(), 1000);
                    }
                    _ => {
                        // Full of answered connections, the table refuses.
                        if let Ok(v) = commit_with(t, now, &out, &tag(i, k)) {
                            assert!(!v.state.has(CtState::INV));
                        }
                    }
                }
            }
        });
        s.spawn(move || {
            let mut hits = 0;
            let mut i = 0;
            while !stop.load(Ordering::Relaxed) {
                i += 1;
                let (_, back) = flow(i);
                let v = track(t, 0, &back);
                if v.state.has(CtState::RPL) {
                    hits += 1;
                    assert_eq!(v.label, u128::from(v.mark) << 96 | u128::from(v.mark));
                    assert_eq!(v.mark % 1000, i % 97, "another connection's mark");
                    assert_eq!(v.orig.src(), u128::from(host(i % 97)));
                }
                if i % 64 == 0 {
                    t.walk(Millis(0), Cursor::default(), usize::MAX, |c| {
                        assert_eq!(c.orig.inverse(), c.reply);
                        assert_eq!(u128::from(c.mark), c.label & 0xffff_ffff);
                    });
                }
            }
            assert!(hits > 0);
        });
        changes.join().unwrap();
    });
    let all = Filter::default();
    t.flush(Millis(0), &all, Cursor::default(), usize::MAX);
    t.sweep(Millis(u64::MAX / 2), 1000);
    assert_eq!(t.len(), 0, "every entry is free again");
    assert_eq!(t.zones_in_use().count(), 0);
    for i in 0..64 {
        commit(&t, 0, &flow(i).0);
    }
    assert_eq!(t.len(), 64);
}
