//! Programs that change packets, over bursts of one megaflow: every packet is changed as it would be alone,
//! and one that cannot be is dropped while the others leave in their order.

mod common;

use common::*;
use flow::Drop;

/// A frame of that number, with a TTL of 0. `broken` has no whole IP header, and reads as the same flow.
fn frame(number: u8, broken: bool) -> Vec<u8> {
    let mut f = udp_with([10, 0, 0, 1], [10, 0, 0, 2], 5000, 53, &[number; 20]);
    f[22] = 0;
    f[24..26].fill(0);
    let sum = flow::checksum::checksum(&f[14..34]);
    f[24..26].copy_from_slice(&sum.to_be_bytes());
    if broken {
        f[14] = 0x41; // A header of four bytes.
    }
    f
}

/// The frame with that TTL, changed addresses, and tags in front of its type.
fn changed(number: u8, ttl: u8, tags: &[u8]) -> Vec<u8> {
    let mut f = frame(number, false);
    f[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    f[22] = ttl;
    f[24..26].fill(0);
    let sum = flow::checksum::checksum(&f[14..34]);
    f[24..26].copy_from_slice(&sum.to_be_bytes());
    f.splice(12..12, tags.iter().copied());
    f
}

#[test]
fn those_that_cannot_be_changed_do_not_hold_the_others_up() {
    let set = "mod_dl_dst:02:00:00:00:00:09,mod_nw_ttl:7";
    let tag = "push_vlan:0x8100,set_field:5->vlan_vid";
    let tagged: &[u8] = &[0x81, 0, 0, 5];
    let programs = [
        (format!("{set},output:2"), tagged.split_at(0).0),
        (format!("{set},{tag},output:2"), tagged),
        // The second change comes where a tag has moved what it changes.
        (format!("mod_nw_ttl:3,{tag},{set},output:2"), tagged),
    ];
    for (actions, tags) in programs {
        let mut rig = Rig::new(&format!("in_port=1,ip,actions={actions}"));
        let mut dropped = 0;
        for broken in
            [&[][..], &[0], &[3, 4], &[11], &[1, 7], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]]
        {
            for number in 0..12 {
                let f = frame(number, broken.contains(&number));
                rig.ports[0].inject(f.as_slice()).unwrap();
            }
            rig.rounds();
            let out: Vec<_> = std::iter::from_fn(|| rig.ports[1].take()).map(|f| f.bytes).collect();
            let want: Vec<_> =
                (0..12).filter(|n| !broken.contains(n)).map(|n| changed(n, 7, tags)).collect();
            assert_eq!(out, want, "{actions}: without {broken:?}");
            dropped += broken.len() as u64;
            let count = &rig.shared.workers[0].drops[Drop::Malformed as usize];
            assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), dropped, "{actions}");
        }
    }
}
