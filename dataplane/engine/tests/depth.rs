//! Headers that no megaflow looks at are not read, and nobody can tell.

mod common;

use std::sync::mpsc::sync_channel;

use common::{Rig, udp};
use engine::Command;

const HOSTS: [[u8; 4]; 2] = [[10, 0, 0, 1], [10, 0, 0, 2]];

/// The frames that come out of port 2 when these come in by port 1 at once.
fn burst(rig: &mut Rig, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    for frame in frames {
        rig.ports[0].inject(&frame[..]).unwrap();
    }
    rig.rounds();
    std::iter::from_fn(|| rig.ports[1].take().map(|f| f.bytes)).collect()
}

fn to_ports(ports: std::ops::Range<u16>) -> Vec<Vec<u8>> {
    ports.map(|dport| udp(HOSTS[0], HOSTS[1], 5000, dport)).collect()
}

/// The frame with a tag.
fn tagged(frame: &[u8], tci: u16) -> Vec<u8> {
    let mut f = frame[..12].to_vec();
    f.extend([0x81, 0]);
    f.extend(tci.to_be_bytes());
    f.extend(&frame[12..]);
    f
}

#[test]
fn more_is_read_as_soon_as_a_flow_looks_at_more() {
    let mut rig = Rig::new("priority=1,in_port=1,actions=output:2");
    let frames = to_ports(0..20);
    for _ in 0..3 {
        assert_eq!(burst(&mut rig, &frames), frames);
    }
    rig.add("priority=10,in_port=1,udp,tp_dst=7,actions=drop");
    let left = [&frames[..7], &frames[8..]].concat();
    for _ in 0..3 {
        assert_eq!(burst(&mut rig, &frames), left);
    }
    rig.add("priority=20,in_port=1,dl_vlan=9,actions=strip_vlan,output:2");
    let inside: Vec<_> = frames.iter().map(|f| tagged(f, 9)).collect();
    for _ in 0..3 {
        assert_eq!(burst(&mut rig, &inside), frames);
        assert_eq!(burst(&mut rig, &frames), left);
    }
}

/// Packets of a burst are of flows that look at nothing behind the Ethernet header, but for some that are
/// translated first.
#[test]
fn a_burst_that_misses_is_read_whole() {
    let mut rig = Rig::new(
        "in_port=1,dl_vlan=5,actions=strip_vlan,output:2\n\
         in_port=1,dl_vlan=6,udp,nw_dst=10.0.0.2,actions=strip_vlan,mod_tp_dst:9,output:2\n\
         priority=1,in_port=1,dl_vlan=6,actions=drop",
    );
    let plain = to_ports(0..10);
    let first: Vec<_> = plain.iter().map(|f| tagged(f, 5)).collect();
    for _ in 0..2 {
        assert_eq!(burst(&mut rig, &first), plain);
    }
    let rewritten = udp(HOSTS[0], HOSTS[1], 5000, 9);
    let mut mixed = first.clone();
    mixed.insert(4, tagged(&plain[2], 6));
    let mut expected = plain.clone();
    expected.insert(4, rewritten);
    for _ in 0..3 {
        assert_eq!(burst(&mut rig, &mixed), expected);
    }
}

/// `fin_timeout` follows from flags of TCP, which the flow itself does not look at.
#[test]
fn flags_are_seen_where_something_follows_from_them() {
    let mut rig =
        Rig::new("in_port=1,idle_timeout=600,actions=fin_timeout(idle_timeout=5),output:2");
    let segment = |flags: u8| {
        let mut f = udp(HOSTS[0], HOSTS[1], 5000, 80);
        // A TCP header where UDP's was.
        f.truncate(14 + 20 + 4);
        f.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
        f[14 + 2..14 + 4].copy_from_slice(&40u16.to_be_bytes());
        f[14 + 9] = 6;
        f[14 + 10..14 + 12].fill(0);
        let sum = flow::checksum::checksum(&f[14..34]);
        f[14 + 10..14 + 12].copy_from_slice(&sum.to_be_bytes());
        f
    };
    let pushed = |rig: &mut Rig, flags: u8| {
        assert_eq!(burst(rig, &[segment(flags)]).len(), 1);
        let (reply, done) = sync_channel(1);
        assert!(rig.shared.command(0, Command::PushStats(reply)).is_ok());
        rig.rounds();
        done.recv().unwrap();
        rig.idle_timeouts()
    };
    const ACK: u8 = 0x10;
    const FIN: u8 = 0x01;
    assert_eq!(pushed(&mut rig, ACK), [600]);
    assert_eq!(pushed(&mut rig, ACK), [600]);
    assert_eq!(pushed(&mut rig, ACK | FIN), [5]);
}

/// Samples of dropped packets say what their headers were, also if nobody has looked at them.
#[test]
fn samples_of_drops_have_all_headers() {
    let last = |rig: &Rig| rig.shared.workers[0].samples.list().pop().unwrap();
    let mut rig = Rig::new("priority=1,in_port=1,actions=output:2");
    let frames = to_ports(0..3);
    assert_eq!(burst(&mut rig, &frames), frames);
    // The port's queue goes; what still goes there has nobody to send it.
    let (reply, queues) = sync_channel(1);
    let port = ofproto::program::DpPort(2);
    assert!(rig.shared.command(0, Command::RemovePort { port, reply }).is_ok());
    rig.rounds();
    assert_eq!(queues.recv().unwrap().len(), 1);
    assert_eq!(burst(&mut rig, &to_ports(40..41)), Vec::<Vec<u8>>::new());
    assert_eq!(last(&rig).why, flow::Drop::PortGone);
    assert_eq!(last(&rig).key.get64(flow::Field::TpDst), 40);
    assert_eq!(last(&rig).key.get64(flow::Field::NwSrc), 0x0a00_0001);
    rig.add("priority=2,in_port=1,actions=drop");
    // The first packet is read because it is translated; samples of a reason are some time apart.
    for (dport, now) in [(50, 1_000_000), (51, 2_000_000)] {
        rig.ports[0].inject(&udp(HOSTS[0], HOSTS[1], 5000, dport)[..]).unwrap();
        rig.worker.round_at(now);
        assert_eq!(last(&rig).key.get64(flow::Field::TpDst), u64::from(dport));
    }
    assert_ne!(last(&rig).why, flow::Drop::PortGone);
}
