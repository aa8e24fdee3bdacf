//! Sockets on real interfaces: echo, forwarding, fallback, refusal.
mod support;

use afxdp::{
    AttachMode, AttachOptions, Attachment, BindMode, Error, Kick, Packet, Socket, SocketConfig,
    XdpMode,
};
use support::*;

fn echo(mode: AttachMode, expected: XdpMode) {
    in_namespace(move || {
        let (near, far) = veth("near", "far");
        let (region, mut pool) = region();
        let mut port = Port::open(near, mode, &mut pool);
        assert_eq!(port.attachment.as_ref().map(Attachment::mode), Some(expected));
        let raw = Raw::open(far);
        for n in 0..100 {
            let frame = numbered(n, 60 + n as usize * 14);
            raw.send(&frame);
            let mut got = port.receive(1, &mut pool);
            assert_eq!(got.len(), 1, "frame {n} did not arrive");
            assert_eq!(got[0].to_vec(), frame);
            // Back with the addresses exchanged.
            let data = got[0].data_mut();
            let (a, b) = data.split_at_mut(6);
            a.swap_with_slice(&mut b[..6]);
            let back = got[0].to_vec();
            port.send(got, &mut pool);
            // The packet socket sees what it sent itself too.
            let mut seen = raw.receive().expect("a frame");
            if seen == frame {
                seen = raw.receive().expect("the echo");
            }
            assert_eq!(seen, back);
        }
        port.close(&mut pool);
        all_home(&region, pool);
    });
}

#[test]
fn echo_native() {
    echo(AttachMode::Native, XdpMode::Native);
}

#[test]
fn echo_generic() {
    echo(AttachMode::Generic, XdpMode::Generic);
}

#[test]
fn best_is_native_on_veth() {
    echo(AttachMode::Best, XdpMode::Native);
}

#[test]
fn zero_copy_is_refused_on_veth_and_copy_taken() {
    in_namespace(|| {
        let (near, _) = veth("near", "far");
        let (region, mut pool) = region();
        for mode in [BindMode::ZeroCopyPreferred, BindMode::Copy] {
            let config = SocketConfig { mode, ..small() };
            let socket = Socket::open(near, 0, region.clone(), config).expect("open");
            assert!(!socket.is_zero_copy());
            socket.close(&mut pool);
        }
        all_home(&region, pool);
    });
}

/// Ten thousand frames from one pair of interfaces to another, by address alone.
fn forward(mode: AttachMode) {
    in_namespace(move || {
        let (left, left_far) = veth("left", "left-far");
        let (right, right_far) = veth("right", "right-far");
        let (region, mut pool) = region();
        let mut source = Port::open(left_far, AttachMode::Native, &mut pool);
        let mut a = Port::open(left, mode, &mut pool);
        let mut b = Port::open(right, mode, &mut pool);
        let mut sink = Port::open(right_far, AttachMode::Native, &mut pool);
        let (mut next, mut seen) = (0, 0);
        const FRAMES: u32 = 10_000;
        let mut burst: Vec<Packet> = Vec::new();
        while next < FRAMES {
            for _ in 0..50 {
                burst.push(pool.packet_from(&numbered(next, 64)).expect("a free frame"));
                next += 1;
            }
            source.send(std::mem::take(&mut burst), &mut pool);
            let got = a.receive(50, &mut pool);
            assert_eq!(got.len(), 50);
            b.send(got, &mut pool);
            for packet in sink.receive(50, &mut pool) {
                assert_eq!(packet.data(), numbered(seen, 64), "in order, unchanged");
                seen += 1;
                pool.free_packet(packet);
            }
        }
        assert_eq!(seen, FRAMES);
        assert_eq!(b.socket.counters().tx_refused, 0);
        for port in [source, a, b, sink] {
            port.close(&mut pool);
        }
        all_home(&region, pool);
    });
}

#[test]
fn forward_native() {
    forward(AttachMode::Native);
}

#[test]
fn forward_generic() {
    forward(AttachMode::Generic);
}

#[test]
fn an_interface_with_a_program_is_busy_and_keeps_it() {
    in_namespace(|| {
        let (near, _) = veth("near", "far");
        for first in [AttachMode::Native, AttachMode::Generic] {
            let options = AttachOptions { mode: first, ..AttachOptions::default() };
            let one = Attachment::attach(near, &options).expect("attach");
            let id = one.program_id().expect("id");
            for second in [AttachMode::Native, AttachMode::Generic, AttachMode::Best] {
                let options = AttachOptions { mode: second, ..options };
                match Attachment::attach(near, &options) {
                    Err(Error::Busy { interface, program }) => {
                        assert_eq!((interface.as_str(), program), ("near", Some(id)));
                    }
                    other => panic!("{first:?} then {second:?}: {other:?}"),
                }
            }
            let link = afxdp::netlink::link(near).expect("link");
            assert_eq!(link.xdp_program, Some(id), "the first program stays");
            drop(one);
            let link = afxdp::netlink::link(near).expect("link");
            assert_eq!(link.xdp_program, None, "and goes with its attachment");
        }
    });
}

#[test]
fn refusals_say_what_and_where() {
    in_namespace(|| {
        let (near, _) = veth("near", "far");
        let (region, pool) = region();
        let e = Socket::open(near, 7, region.clone(), small()).expect_err("no such queue");
        assert_eq!(e.errno(), Some(libc::EINVAL));
        assert!(e.to_string().starts_with("near queue 7: binding"), "{e}");
        let e = Socket::open(999, 0, region.clone(), small()).expect_err("no such interface");
        assert_eq!(e.errno(), Some(libc::ENODEV));
        assert!(e.to_string().contains("the interface is gone"), "{e}");
        let odd = SocketConfig { rx_size: 100, ..small() };
        let e = Socket::open(near, 0, region.clone(), odd).expect_err("not a power of two");
        assert_eq!(e.to_string(), "rx_size is 100: a power of two from 2 to 65536 is needed");
        let first = Socket::open(near, 0, region.clone(), small()).expect("open");
        let e = Socket::open(near, 0, region.clone(), small()).expect_err("taken");
        assert_eq!(e.errno(), Some(libc::EBUSY));
        drop(first);
        Socket::open(near, 0, region.clone(), small()).expect("free again within a second");
        all_home(&region, pool);
    });
}

#[test]
fn packets_wait_while_the_link_is_down() {
    in_namespace(|| {
        let (near, far) = veth("near", "far");
        let (region, mut pool) = region();
        let mut port = Port::open(near, AttachMode::Native, &mut pool);
        let mut peer = Port::open(far, AttachMode::Native, &mut pool);
        ip("link set near down");
        let mut packets = (0..10).map_while(|n| pool_packet(&mut pool, n)).collect::<Vec<_>>();
        assert_eq!(port.socket.tx_burst(&mut packets.drain(..), &mut pool), 10);
        assert_eq!(port.socket.kick_tx(), Kick::Down);
        assert_eq!(port.socket.frames_held().tx, 10);
        assert!(port.socket.error().is_none(), "a link that is down raises nothing");
        ip("link set near up");
        assert_eq!(port.socket.kick_tx(), Kick::Done);
        let got = peer.receive(10, &mut pool);
        assert_eq!(got.len(), 10);
        got.into_iter().for_each(|p| pool.free_packet(p));
        port.close(&mut pool);
        peer.close(&mut pool);
        all_home(&region, pool);
    });
}

fn pool_packet(pool: &mut afxdp::FramePool, n: u32) -> Option<Packet> {
    pool.packet_from(&numbered(n, 64))
}

/// Two queues, a thread for each: frames stay in their queue, and all threads share the region.
#[test]
fn each_queue_has_a_socket_and_a_thread() {
    in_namespace(|| {
        ip("link add near numrxqueues 2 numtxqueues 2 type veth peer name far \
            numrxqueues 2 numtxqueues 2");
        for name in ["near", "far"] {
            ip(&format!("link set {name} addrgenmode none"));
            ip(&format!("link set {name} up"));
        }
        let (near, far) = (index("near"), index("far"));
        let (region, pool) = region();
        let options = AttachOptions { mode: AttachMode::Native, ..AttachOptions::default() };
        let attachments = [near, far].map(|i| Attachment::attach(i, &options).expect("attach"));
        let open = |which: usize, ifindex, queue| {
            let mut socket = Socket::open(ifindex, queue, region.clone(), small()).expect("open");
            socket.refill(&mut region.pool());
            attachments[which].insert(queue, &socket).expect("insert");
            Port { attachment: None, socket }
        };
        let ports = [0, 1].map(|queue| (open(0, near, queue), open(1, far, queue)));
        std::thread::scope(|s| {
            for (queue, (mut a, mut b)) in ports.into_iter().enumerate() {
                let mut pool = region.pool();
                s.spawn(move || {
                    for n in 0..100u32 {
                        let frame = numbered(n << 8 | queue as u32, 64);
                        let packet = pool.packet_from(&frame).expect("a free frame");
                        b.send(vec![packet], &mut pool);
                        let got = a.receive(1, &mut pool);
                        assert_eq!(got.len(), 1, "queue {queue} frame {n}");
                        assert_eq!(got[0].data(), frame, "queue {queue}");
                        got.into_iter().for_each(|p| pool.free_packet(p));
                    }
                    a.close(&mut pool);
                    b.close(&mut pool);
                });
            }
        });
        drop(attachments);
        all_home(&region, pool);
    });
}

/// A queue taken out of the map goes to the kernel's stack, and comes back when entered again.
#[test]
fn a_removed_queue_is_the_kernels() {
    in_namespace(|| {
        let (near, far) = veth("near", "far");
        let (region, mut pool) = region();
        let mut port = Port::open(near, AttachMode::Native, &mut pool);
        let (raw, stack) = (Raw::open(far), Raw::open(near));
        let attachment = port.attachment.as_ref().expect("attached");
        attachment.remove(0).expect("remove");
        attachment.remove(0).expect("twice is no error");
        raw.send(&numbered(1, 64));
        assert_eq!(stack.receive(), Some(numbered(1, 64)));
        attachment.insert(0, &port.socket).expect("insert");
        let e = attachment.insert(4, &port.socket).expect_err("beyond the map");
        assert_eq!(e.errno(), Some(libc::E2BIG));
        raw.send(&numbered(2, 64));
        let got = port.receive(1, &mut pool);
        assert_eq!(got[0].to_vec(), numbered(2, 64));
        got.into_iter().for_each(|p| pool.free_packet(p));
        port.close(&mut pool);
        all_home(&region, pool);
    });
}
