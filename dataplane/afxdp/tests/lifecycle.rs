//! Every frame comes home, however a socket ends.
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use afxdp::{AttachMode, FramePool, Kick, SocketConfig};
use support::*;

/// Something that sends frames into an interface until it is told to stop or the interface goes.
struct Load {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl Load {
    fn start(ifindex: u32) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let thread = std::thread::spawn(move || {
            let raw = Raw::open(ifindex);
            let mut n = 0;
            while !seen.load(Ordering::Relaxed) && raw.try_send(&numbered(n as u32, 64)) {
                n += 1;
            }
            n
        });
        Load { stop, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the sender")
    }
}

/// Receive and send back until so many frames have come (five seconds at most); frames stay in
/// every ring.
fn echo_many(port: &mut Port, pool: &mut FramePool, wanted: usize) {
    let end = Instant::now() + Duration::from_secs(5);
    let mut n = 0;
    while n < wanted && Instant::now() < end {
        n += echo_once(port, pool);
    }
    assert!(n >= wanted, "{n} frames of {wanted}");
}

/// One round of receiving and sending back.
fn echo_once(port: &mut Port, pool: &mut FramePool) -> usize {
    let mut burst = Vec::new();
    let n = port.socket.rx_burst(pool, 32, |p| burst.push(p));
    let mut packets = burst.drain(..);
    port.socket.tx_burst(&mut packets, pool);
    packets.for_each(|p| pool.free_packet(p));
    let _ = port.socket.kick_tx();
    port.socket.complete(pool);
    port.socket.refill(pool);
    n
}

/// Put packets into the TX ring without a kick, so that they are there when the socket ends.
fn leave_in_tx_ring(port: &mut Port, pool: &mut FramePool, n: u32) {
    let packets: Vec<_> = (0..n).map_while(|i| pool.packet_from(&numbered(i, 64))).collect();
    let mut packets = packets.into_iter();
    port.socket.tx_burst(&mut packets, pool);
    packets.for_each(|p| pool.free_packet(p));
}

fn close_under_load(mode: AttachMode) {
    in_namespace(move || {
        let (near, far) = veth("near", "far");
        let (region, mut pool) = region();
        for _ in 0..10 {
            let mut port = Port::open(near, mode, &mut pool);
            let load = Load::start(far);
            echo_many(&mut port, &mut pool, 1000);
            leave_in_tx_ring(&mut port, &mut pool, 20);
            port.close(&mut pool);
            load.stop();
        }
        all_home(&region, pool);
    });
}

#[test]
fn closed_under_load_native() {
    close_under_load(AttachMode::Native);
}

#[test]
fn closed_under_load_generic() {
    close_under_load(AttachMode::Generic);
}

#[test]
fn dropped_without_close() {
    in_namespace(|| {
        let (near, far) = veth("near", "far");
        let (region, mut pool) = region();
        let mut port = Port::open(near, AttachMode::Native, &mut pool);
        let load = Load::start(far);
        echo_many(&mut port, &mut pool, 1000);
        leave_in_tx_ring(&mut port, &mut pool, 20);
        drop(port);
        load.stop();
        all_home(&region, pool);
    });
}

#[test]
fn interface_deleted_under_load() {
    in_namespace(|| {
        let (region, mut pool) = region();
        for mode in [AttachMode::Native, AttachMode::Generic] {
            for _ in 0..5 {
                let (near, far) = veth("near", "far");
                let mut port = Port::open(near, mode, &mut pool);
                let load = Load::start(far);
                echo_many(&mut port, &mut pool, 1000);
                ip("link del near");
                // What a worker does until it is told: it goes on.
                for _ in 0..100 {
                    echo_once(&mut port, &mut pool);
                }
                leave_in_tx_ring(&mut port, &mut pool, 20);
                assert_eq!(port.socket.kick_tx(), Kick::Gone);
                let e = port.socket.error().expect("an error is raised");
                assert_eq!(e.raw_os_error(), Some(libc::ENETDOWN));
                assert!(port.socket.error().is_some(), "and stays");
                port.close(&mut pool);
                load.stop();
            }
        }
        all_home(&region, pool);
    });
}

#[test]
fn interface_moved_away_under_load() {
    in_namespace(|| {
        let (region, mut pool) = region();
        let (near, far) = veth("near", "far");
        let mut port = Port::open(near, AttachMode::Native, &mut pool);
        let load = Load::start(far);
        echo_many(&mut port, &mut pool, 1000);
        let (to_main, from_other) = std::sync::mpsc::channel();
        let (to_other, from_main) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            new_namespace();
            to_main.send(thread_id()).expect("the test waits");
            from_main.recv().expect("the test says when");
            let moved = index("near");
            let program = afxdp::netlink::link(moved).expect("it is here").xdp_program;
            to_main.send(program.map_or(0, |id| id as i32)).expect("the test waits");
            from_main.recv().expect("the test says when");
            let left = afxdp::netlink::link(moved).expect("it is here").xdp_program;
            to_main.send(left.map_or(0, |id| id as i32)).expect("the test waits");
        });
        let tid = from_other.recv().expect("a thread id");
        ip(&format!("link set near netns {tid}"));
        to_other.send(()).expect("the other thread waits");
        assert_ne!(from_other.recv().expect("an answer"), 0, "the program moves along");
        for _ in 0..100 {
            echo_once(&mut port, &mut pool);
        }
        leave_in_tx_ring(&mut port, &mut pool, 20);
        assert_eq!(port.socket.kick_tx(), Kick::Gone);
        assert!(port.socket.error().is_some());
        port.close(&mut pool);
        to_other.send(()).expect("the other thread waits");
        assert_eq!(from_other.recv().expect("an answer"), 0, "and goes with the attachment");
        other.join().expect("the other thread");
        load.stop();
        all_home(&region, pool);
    });
}

#[test]
fn census_counts_every_frame() {
    in_namespace(|| {
        let (near, far) = veth("near", "far");
        let (region, mut pool) = region();
        let mut port = Port::open(near, AttachMode::Native, &mut pool);
        assert_eq!(port.socket.frames_held().fill, 512);
        assert_eq!(region.chunks(), 512 + pool.len() + region.stored());
        let raw = Raw::open(far);
        (0..10).for_each(|n| raw.send(&numbered(n, 64)));
        let end = Instant::now() + Duration::from_secs(2);
        let mut got = Vec::new();
        while got.len() < 10 && Instant::now() < end {
            port.socket.rx_burst(&mut pool, 32, |p| got.push(p));
        }
        assert_eq!(port.socket.frames_held().fill, 502, "ten are in hand");
        port.socket.tx_burst(&mut got.drain(..), &mut pool);
        assert_eq!(port.socket.frames_held().tx, 10);
        assert_eq!(port.socket.kick_tx(), Kick::Done);
        assert_eq!(port.socket.complete(&mut pool), 10);
        assert_eq!(port.socket.frames_held().tx, 0);
        assert_eq!(port.socket.frames_held().total() + pool.len() + region.stored(), 4096);
        port.close(&mut pool);
        all_home(&region, pool);
    });
}

#[test]
fn budget_bounds_what_a_socket_takes() {
    in_namespace(|| {
        let (near, _) = veth("near", "far");
        let (region, mut pool) = region();
        let config = SocketConfig { fill_budget: 40, ..small() };
        let mut port = Port::with(near, AttachMode::Native, &mut pool, config);
        assert_eq!(port.socket.frames_held().fill, 40);
        port.socket.set_fill_budget(100);
        port.socket.refill(&mut pool);
        assert_eq!(port.socket.frames_held().fill, 100);
        port.socket.set_fill_budget(10);
        assert_eq!(port.socket.refill(&mut pool), 0);
        port.socket.set_fill_budget(0);
        port.socket.refill(&mut pool);
        assert_eq!(port.socket.frames_held().fill, 512);
        port.close(&mut pool);
        all_home(&region, pool);
    });
}

#[test]
fn no_free_frame_is_counted_and_passes() {
    in_namespace(|| {
        let (near, far) = veth("near", "far");
        let (region, mut pool) = region();
        let mut all = Vec::new();
        while let Some(frame) = pool.alloc() {
            all.push(frame);
        }
        let mut port = Port::open(near, AttachMode::Native, &mut pool);
        assert_eq!(port.socket.frames_held().fill, 0);
        assert_eq!(port.socket.counters().fill_starved, 1);
        let raw = Raw::open(far);
        raw.send(&numbered(1, 64));
        std::thread::sleep(Duration::from_millis(20));
        let s = port.socket.statistics().expect("statistics");
        assert_eq!(s.rx_fill_ring_empty_descs, 1, "{s:?}");
        all.into_iter().for_each(|f| pool.free(f));
        port.socket.refill(&mut pool);
        raw.send(&numbered(2, 64));
        let got = port.receive(1, &mut pool);
        assert_eq!(got[0].to_vec(), numbered(2, 64));
        got.into_iter().for_each(|p| pool.free_packet(p));
        port.close(&mut pool);
        all_home(&region, pool);
    });
}
