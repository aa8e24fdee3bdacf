//! Frames of several buffers, and checksums left to the driver.
mod support;

use afxdp::{AttachMode, AttachOptions, Attachment, Checksum, Kick, Segmentation, SocketConfig};
use support::*;

fn jumbo_config() -> SocketConfig {
    SocketConfig { frags: true, ..small() }
}

#[test]
fn jumbo_frames_travel_as_chains() {
    in_namespace(|| {
        ip("link add near mtu 9000 type veth peer name far mtu 9000");
        for name in ["near", "far"] {
            ip(&format!("link set {name} addrgenmode none"));
            ip(&format!("link set {name} up"));
        }
        let (near, far) = (index("near"), index("far"));
        let (region, mut pool) = region();
        let mut port = Port::with(near, AttachMode::Native, &mut pool, jumbo_config());
        let raw = Raw::open(far);
        for len in [60, 1514, 1792, 1793, 3584, 3585, 3840, 3841, 9014] {
            let frame = numbered(len, len as usize);
            raw.send(&frame);
            let mut got = port.receive(1, &mut pool);
            assert_eq!(got.len(), 1, "{len} bytes did not arrive: {:?}", port.socket);
            assert_eq!(got[0].to_vec(), frame, "{len} bytes");
            assert_eq!(got[0].is_chained(), len > 1792);
            got[0].data_mut()[5] = 9;
            let back = got[0].to_vec();
            port.send(got, &mut pool);
            let mut seen = raw.receive().expect("a frame");
            if seen == frame {
                seen = raw.receive().expect("the echo");
            }
            assert_eq!(seen, back, "{len} bytes back");
        }
        assert_eq!(port.socket.counters(), afxdp::Counters::default());
        port.close(&mut pool);
        all_home(&region, pool);
    });
}

#[test]
fn mtu_9000_needs_frags() {
    in_namespace(|| {
        ip("link add near mtu 9000 type veth peer name far mtu 9000");
        let near = index("near");
        for mode in [AttachMode::Native, AttachMode::Best] {
            let options = AttachOptions { mode, ..AttachOptions::default() };
            let e = Attachment::attach(near, &options).expect_err("too large for one buffer");
            assert_eq!(e.errno(), Some(libc::ERANGE));
            assert!(e.to_string().contains("allow multi-buffer frames"), "{e}");
        }
    });
}

/// An IPv4 UDP frame whose checksum field holds the sum of its pseudo header only.
fn partial_udp() -> Vec<u8> {
    let payload: Vec<u8> = (0..100).collect();
    let udp_len = 8 + payload.len() as u16;
    let mut f = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00];
    f.extend_from_slice(&[0x45, 0]);
    f.extend_from_slice(&(20 + udp_len).to_be_bytes());
    f.extend_from_slice(&[0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let ip_sum = !fold(sum(&f[14..34]));
    f[24..26].copy_from_slice(&ip_sum.to_be_bytes());
    f.extend_from_slice(&[0x10, 0, 0x20, 0]);
    f.extend_from_slice(&udp_len.to_be_bytes());
    let pseudo = fold(sum(&f[26..34]) + 17 + u32::from(udp_len));
    f.extend_from_slice(&pseudo.to_be_bytes());
    f.extend_from_slice(&payload);
    f
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A UDP socket in the peer's stack gets the datagram: the kernel took the request and would
/// have thrown away a wrong sum.
#[test]
fn checksum_request_is_taken_by_the_kernel() {
    in_namespace(|| {
        let (near, far) = veth("near", "far");
        ip("link set far address 02:00:00:00:00:02");
        ip("addr add 10.0.0.2/24 dev far");
        let udp = std::net::UdpSocket::bind("10.0.0.2:8192").expect("bind");
        udp.set_read_timeout(Some(std::time::Duration::from_secs(2))).expect("timeout");
        let (region, mut pool) = region();
        let config = SocketConfig { tx_metadata: true, ..small() };
        let mut port = Port::with(near, AttachMode::Native, &mut pool, config);
        let _ = far;
        let mut send = |headroom: usize, checksum: Checksum| {
            let mut packet = pool.packet_from(&partial_udp()).expect("a free frame");
            if headroom < packet.headroom() {
                // No room in front: the bytes have to be moved.
                let bytes = packet.to_vec();
                let more = packet.headroom() - headroom;
                packet.push_front(more).expect("room");
                packet.truncate(bytes.len(), &mut pool);
                packet.data_mut().copy_from_slice(&bytes);
                assert_eq!(packet.headroom(), headroom);
            }
            packet.set_checksum(checksum);
            port.send(vec![packet], &mut pool);
            let mut buffer = [0; 256];
            udp.recv(&mut buffer).map(|n| buffer[..n].to_vec()).ok()
        };
        let payload: Vec<u8> = (0..100).collect();
        let partial = Checksum::Partial { start: 34, offset: 6 };
        assert_eq!(send(256, partial), Some(payload.clone()), "the usual room in front");
        assert_eq!(send(0, partial), Some(payload), "no room in front");
        assert_eq!(send(256, Checksum::Complete), None, "the sum is wrong unless finished");
        assert_eq!(port.socket.counters().tx_unsendable, 0);
        port.close(&mut pool);
        all_home(&region, pool);
    });
}

/// With metadata reserved the kernel looks in front of every frame, request or not.
#[test]
fn frames_without_a_request_pass_beside_metadata() {
    in_namespace(|| {
        let (near, far) = veth("near", "far");
        let (region, mut pool) = region();
        let config = SocketConfig { tx_metadata: true, ..small() };
        let mut port = Port::with(near, AttachMode::Native, &mut pool, config);
        let raw = Raw::open(far);
        for headroom in [256usize, 16, 15, 0] {
            let mut packet = pool.packet_from(&numbered(7, 100)).expect("a free frame");
            let bytes = packet.to_vec();
            packet.push_front(256 - headroom).expect("room");
            packet.truncate(100, &mut pool);
            packet.data_mut().copy_from_slice(&bytes);
            port.send(vec![packet], &mut pool);
            assert_eq!(raw.receive(), Some(bytes), "headroom {headroom}");
        }
        assert_eq!(port.socket.statistics().expect("statistics").tx_invalid_descs, 0);
        port.close(&mut pool);
        all_home(&region, pool);
    });
}

#[test]
fn what_cannot_be_sent_is_counted_and_freed() {
    in_namespace(|| {
        let (near, _) = veth("near", "far");
        let (region, mut pool) = region();
        let mut port = Port::open(near, AttachMode::Native, &mut pool);
        let plain = |pool: &mut afxdp::FramePool, len| {
            pool.packet_from(&numbered(1, len)).expect("a free frame")
        };
        let mut empty = plain(&mut pool, 64);
        empty.pull_front(64).expect("64 bytes");
        let chained = plain(&mut pool, 3000);
        let mut unfinished = plain(&mut pool, 64);
        unfinished.set_checksum(Checksum::Partial { start: 34, offset: 6 });
        let mut large = plain(&mut pool, 64);
        large.set_segmentation(Segmentation::Tcp4(1000));
        let good = plain(&mut pool, 64);
        let mut packets = vec![empty, chained, unfinished, large, good].into_iter();
        assert_eq!(port.socket.tx_burst(&mut packets, &mut pool), 1);
        assert_eq!(port.socket.counters().tx_unsendable, 4);
        assert_eq!(port.socket.kick_tx(), Kick::Done);
        port.close(&mut pool);

        let config = SocketConfig { tx_metadata: true, frags: true, tx_size: 4, ..small() };
        let mut port = Port::with(near, AttachMode::Native, &mut pool, config);
        let mut outside = plain(&mut pool, 64);
        outside.set_checksum(Checksum::Partial { start: 60, offset: 6 });
        let many = plain(&mut pool, 19 * 1792);
        let two = plain(&mut pool, 3000);
        let three = plain(&mut pool, 5000);
        let left = plain(&mut pool, 64);
        let mut packets = vec![outside, many, two, three, left].into_iter();
        assert_eq!(port.socket.tx_burst(&mut packets, &mut pool), 1);
        let counters = port.socket.counters();
        assert_eq!((counters.tx_unsendable, counters.tx_full), (2, 1));
        let left = packets.next().expect("the last one is still the caller's");
        pool.free_packet(left);
        port.close(&mut pool);
        all_home(&region, pool);
    });
}

#[test]
fn a_full_ring_leaves_packets_with_the_caller() {
    in_namespace(|| {
        let (near, _) = veth("near", "far");
        let (region, mut pool) = region();
        let config = SocketConfig { tx_size: 16, ..small() };
        let mut port = Port::with(near, AttachMode::Native, &mut pool, config);
        let packets: Vec<_> = (0..20).map_while(|n| pool.packet_from(&numbered(n, 64))).collect();
        let mut packets = packets.into_iter();
        assert_eq!(port.socket.tx_room(), 16);
        assert_eq!(port.socket.tx_burst(&mut packets, &mut pool), 16);
        assert_eq!(port.socket.tx_room(), 0);
        assert_eq!(packets.len(), 4);
        packets.for_each(|p| pool.free_packet(p));
        port.close(&mut pool);
        all_home(&region, pool);
    });
}
