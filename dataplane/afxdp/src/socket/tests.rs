//! What the kernel does with descriptors that the public methods never write.
#![allow(unsafe_code)] // unshare(2).

use std::os::fd::AsFd;
use std::process::Command;

use super::*;
use crate::pool::FramePool;
use crate::sys;

/// Run with a socket on the loopback interface of a new network namespace; skipped without root.
fn on_loopback(body: fn(&mut Socket, &mut FramePool)) {
    let run = std::thread::spawn(move || {
        // SAFETY: no pointers; affects this thread only.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            eprintln!("skipped: network namespaces need root");
            return;
        }
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.is_ok_and(|s| s.success()), "ip link set lo up");
        let region = Region::new(2 << 20).expect("region");
        let mut pool = region.pool();
        let config = SocketConfig {
            rx_size: 16,
            tx_size: 16,
            fill_size: 16,
            comp_size: 16,
            ..SocketConfig::default()
        };
        let mut socket = Socket::open(1, 0, region.clone(), config).expect("open");
        body(&mut socket, &mut pool);
        let held = socket.frames_held().total();
        assert_eq!(socket.close(&mut pool).returned, held);
        drop(pool);
        assert_eq!(region.stored(), region.chunks(), "every frame once");
    });
    if let Err(panic) = run.join() {
        std::panic::resume_unwind(panic);
    }
}

fn put(socket: &mut Socket, pool: &mut FramePool, options: u32, past: u64) {
    let packet = pool.packet_from(&[0x11; 64]).expect("a free frame");
    let (buffer, _) = packet.into_parts();
    let addr = socket.frames.sending.put(buffer.frame) + u64::from(buffer.head) + past;
    socket.rings.tx.push(Desc { addr, len: 64, options });
    socket.rings.tx.publish();
}

/// A request for metadata where none was registered: refused for good, and completed each time.
#[test]
fn a_descriptor_refused_for_good_is_taken_back_once() {
    on_loopback(|socket, pool| {
        put(socket, pool, libc::XDP_TX_METADATA, 0);
        assert_eq!(socket.kick_tx(), Kick::Stuck);
        for _ in 0..4 {
            // What a caller without the check would do.
            assert_eq!(sys::kick_tx(socket.fd.as_fd()), Err(libc::EINVAL));
        }
        let free = pool.len();
        assert_eq!(socket.complete(pool), 1, "the same frame, once");
        assert_eq!(pool.len(), free + 1);
        assert_eq!(socket.counters().tx_foreign, 4);
        assert_eq!(socket.frames_held().tx, 0);
        assert_eq!(socket.kick_tx(), Kick::Stuck, "and it stays so");
        let mut more = pool.packet_from(&[1; 64]).into_iter();
        assert_eq!(socket.tx_burst(&mut more, pool), 0);
        more.for_each(|p| pool.free_packet(p));
        assert_eq!(socket.tx_room(), 0);
    });
}

/// Bytes over the chunk's end: skipped, counted by the kernel, and completed.
#[test]
fn an_invalid_descriptor_comes_back_too() {
    on_loopback(|socket, pool| {
        put(socket, pool, 0, 1780);
        put(socket, pool, 0, 0);
        assert_eq!(socket.kick_tx(), Kick::Done);
        assert_eq!(socket.statistics().expect("statistics").tx_invalid_descs, 1);
        let back = socket.complete(pool);
        assert_eq!(back + socket.frames_held().tx, 2);
    });
}

/// An RX descriptor for a chunk that the kernel does not hold makes no frame.
#[test]
fn foreign_addresses_make_no_frames() {
    on_loopback(|socket, pool| {
        for addr in [0, 256, 4096, 2 << 20, u64::MAX] {
            let desc = Desc { addr, len: 60, options: 0 };
            assert!(socket.received(desc, pool).is_none());
        }
        assert_eq!(socket.counters().rx_foreign, 5);
        assert_eq!(socket.counters().rx_broken, 5);
    });
}

/// Descriptors of broken packets are freed up to the packet's end, and the next one is good.
#[test]
fn a_broken_packet_ends_with_its_last_buffer() {
    const MORE: u32 = libc::XDP_PKT_CONTD;
    on_loopback(|socket, pool| {
        let feed = |socket: &mut Socket, pool: &mut FramePool, len: u32, options: u32| {
            let frame = pool.alloc().expect("a free frame");
            let addr = socket.frames.filling.put(frame) + 256;
            socket.received(Desc { addr, len, options }, pool)
        };
        // Too long for its chunk, with two more buffers behind.
        assert!(feed(socket, pool, 5000, MORE).is_none());
        assert!(feed(socket, pool, 100, MORE).is_none());
        assert!(feed(socket, pool, 100, 0).is_none());
        assert_eq!(socket.counters().rx_broken, 1);
        let good = feed(socket, pool, 100, 0).expect("a whole packet");
        pool.free_packet(good);
        // More buffers than a packet may have.
        for _ in 0..30 {
            assert!(feed(socket, pool, 100, MORE).is_none());
        }
        assert!(feed(socket, pool, 100, 0).is_none());
        assert_eq!(socket.counters().rx_broken, 2);
        // The most there may be; it may come in several bursts.
        for i in 1..MAX_BUFFERS {
            assert!(feed(socket, pool, 100, MORE).is_none());
            assert_eq!(socket.frames_held().partial, i);
        }
        let most = feed(socket, pool, 7, 0).expect("a whole packet");
        assert_eq!((most.len(), most.buffer_count()), (1707, MAX_BUFFERS));
        pool.free_packet(most);
        assert_eq!(socket.frames_held().total(), 0);
        // One that is never finished comes back with the socket.
        assert!(feed(socket, pool, 100, MORE).is_none());
    });
}
