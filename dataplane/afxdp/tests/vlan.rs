//! A VLAN tag that the kernel holds beside a frame arrives in its bytes.
//!
//! The tag is put beside the frame by a classifier on the sender's interface, as a VLAN
//! subinterface there would do.
mod support;

use std::os::fd::{AsFd, OwnedFd};

use afxdp::bpf;
use afxdp::{AttachMode, AttachOptions, Attachment, VlanGap, VlanRestore};
use support::*;
use xdp_progs::{Asm, Helper, Reg};

/// Push these tags (protocol, priority and VLAN) on all that the interface sends.
fn push_tags(ifindex: u32, tags: &[(u16, u16)]) -> OwnedFd {
    let mut a = Asm::new();
    a.mov(Reg::R6, Reg::R1, "");
    for (protocol, tci) in tags {
        a.mov(Reg::R1, Reg::R6, "");
        a.mov_imm(Reg::R2, i32::from(protocol.to_be()), "");
        a.mov_imm(Reg::R3, i32::from(*tci), "");
        a.call(Helper("bpf_skb_vlan_push", 18), "");
    }
    a.mov_imm(Reg::R0, 0, "TC_ACT_OK");
    a.exit("");
    let slots = a.finish().expect("no labels").link(|_| None).expect("no symbols");
    let program = bpf::load(&bpf::Load {
        program_type: bpf::PROG_TYPE_SCHED_CLS,
        slots: &slots,
        name: "push_tags",
        frags: false,
        bound_to: None,
    })
    .expect("load");
    bpf::attach(program.as_fd(), ifindex, bpf::ATTACH_TCX_EGRESS, 0).expect("attach")
}

struct Case {
    description: &'static str,
    /// Tags pushed by the sender's kernel, the innermost first: the last stays beside the frame.
    beside: &'static [(u16, u16)],
    /// Bytes of the frame behind its addresses.
    sent: &'static [u8],
    /// Bytes that arrive behind the addresses.
    arrives: &'static [u8],
}

const CASES: &[Case] = &[
    Case {
        description: "no tag",
        beside: &[],
        sent: &[0x88, 0xb5, 1, 2, 3, 4],
        arrives: &[0x88, 0xb5, 1, 2, 3, 4],
    },
    Case {
        description: "a tag in the bytes stays where it is",
        beside: &[],
        sent: &[0x81, 0x00, 0x00, 0x07, 0x88, 0xb5, 1, 2],
        arrives: &[0x81, 0x00, 0x00, 0x07, 0x88, 0xb5, 1, 2],
    },
    Case {
        description: "one tag",
        beside: &[(0x8100, 42)],
        sent: &[0x88, 0xb5, 1, 2, 3, 4],
        arrives: &[0x81, 0x00, 0x00, 42, 0x88, 0xb5, 1, 2, 3, 4],
    },
    Case {
        description: "priority, drop eligibility and the highest VLAN",
        beside: &[(0x8100, 0xfffe)],
        sent: &[0x88, 0xb5, 1, 2, 3, 4],
        arrives: &[0x81, 0x00, 0xff, 0xfe, 0x88, 0xb5, 1, 2, 3, 4],
    },
    Case {
        description: "a priority tag",
        beside: &[(0x8100, 0xa000)],
        sent: &[0x88, 0xb5, 9, 9],
        arrives: &[0x81, 0x00, 0xa0, 0x00, 0x88, 0xb5, 9, 9],
    },
    Case {
        description: "a service tag",
        beside: &[(0x88a8, 100)],
        sent: &[0x88, 0xb5, 1, 2, 3, 4],
        arrives: &[0x88, 0xa8, 0x00, 100, 0x88, 0xb5, 1, 2, 3, 4],
    },
    Case {
        description: "two tags, the outer one beside",
        beside: &[(0x8100, 7), (0x88a8, 100)],
        sent: &[0x88, 0xb5, 1, 2, 3, 4],
        arrives: &[0x88, 0xa8, 0x00, 100, 0x81, 0x00, 0x00, 7, 0x88, 0xb5, 1, 2, 3, 4],
    },
    Case {
        description: "nothing behind the type",
        beside: &[(0x8100, 5)],
        sent: &[0x88, 0xb5],
        arrives: &[0x81, 0x00, 0x00, 5, 0x88, 0xb5],
    },
];

const ADDRESSES: [u8; 12] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];

fn with_addresses(rest: &[u8]) -> Vec<u8> {
    [&ADDRESSES[..], rest].concat()
}

#[test]
fn native_mode_puts_the_tag_back() {
    in_namespace(|| {
        let (near, far) = veth("near", "far");
        let (region, mut pool) = region();
        let mut port = Port::open(near, AttachMode::Native, &mut pool);
        let vlan = port.attachment.as_ref().map(Attachment::vlan_restore);
        assert_eq!(vlan, Some(VlanRestore::Program));
        let raw = Raw::open(far);
        for case in CASES {
            let tags = push_tags(far, case.beside);
            raw.send(&with_addresses(case.sent));
            drop(tags);
            let got = port.receive(1, &mut pool);
            assert_eq!(got.len(), 1, "{}: nothing arrived", case.description);
            let bytes = got[0].to_vec();
            assert_eq!(bytes, with_addresses(case.arrives), "{}", case.description);
            got.into_iter().for_each(|p| pool.free_packet(p));
        }
        port.close(&mut pool);
        all_home(&region, pool);
    });
}

#[test]
fn frames_that_stay_with_the_kernel_keep_one_tag() {
    in_namespace(|| {
        let (near, far) = veth("near", "far");
        let options = AttachOptions { mode: AttachMode::Native, ..AttachOptions::default() };
        let attachment = Attachment::attach(near, &options).expect("attach");
        assert_eq!(attachment.vlan_restore(), VlanRestore::Program);
        // No socket is entered: the stack has all frames. It takes the tag off the bytes itself
        // and shows it beside, where a second one would stay in the bytes.
        let stack = Raw::open(near);
        let raw = Raw::open(far);
        let _tags = push_tags(far, &[(0x8100, 42)]);
        raw.send(&with_addresses(&[0x88, 0xb5, 1, 2, 3, 4]));
        let seen = stack.receive().expect("the stack has it");
        assert_eq!(seen, with_addresses(&[0x88, 0xb5, 1, 2, 3, 4]));
    });
}

#[test]
fn generic_mode_says_that_tags_may_be_lost() {
    in_namespace(|| {
        let (near, far) = veth("near", "far");
        let (region, mut pool) = region();
        let mut port = Port::open(near, AttachMode::Generic, &mut pool);
        let vlan = port.attachment.as_ref().map(Attachment::vlan_restore);
        assert_eq!(vlan, Some(VlanRestore::Unavailable(VlanGap::Generic)));
        // And they are: this is why such a port must be refused. The receiver's own setting
        // changes nothing; only the sender's does.
        let tagged = with_addresses(&[0x81, 0x00, 0x00, 42, 0x88, 0xb5, 1, 2, 3, 4]);
        let plain = with_addresses(&[0x88, 0xb5, 1, 2, 3, 4]);
        let raw = Raw::open(far);
        let _tags = push_tags(far, &[(0x8100, 42)]);
        let settings = [
            ("", &plain),
            ("-K near rxvlan off rx-vlan-stag-hw-parse off", &plain),
            ("-K far txvlan off", &tagged),
        ];
        for (words, arrives) in settings {
            if !words.is_empty() && !ethtool(words) {
                eprintln!("skipped: no ethtool for `{words}`");
                continue;
            }
            raw.send(&plain);
            let got = port.receive(1, &mut pool);
            assert_eq!(got[0].to_vec(), *arrives, "after `{words}`");
            got.into_iter().for_each(|p| pool.free_packet(p));
        }
        port.close(&mut pool);
        all_home(&region, pool);
    });
}

fn ethtool(words: &str) -> bool {
    let status = std::process::Command::new("ethtool").args(words.split_whitespace()).status();
    status.is_ok_and(|s| s.success())
}

#[test]
fn a_tap_never_holds_a_tag_beside() {
    in_namespace(|| {
        ip("tuntap add dev tap9 mode tap");
        ip("link set tap9 up");
        let options = AttachOptions { mode: AttachMode::Generic, ..AttachOptions::default() };
        let attachment = Attachment::attach(index("tap9"), &options).expect("attach");
        assert_eq!(attachment.vlan_restore(), VlanRestore::NotNeeded);
    });
}

#[test]
fn not_asked_for_is_said() {
    in_namespace(|| {
        let (near, _) = veth("near", "far");
        let options = AttachOptions { restore_vlan: false, ..AttachOptions::default() };
        let attachment = Attachment::attach(near, &options).expect("attach");
        let vlan = attachment.vlan_restore();
        assert_eq!(vlan, VlanRestore::Unavailable(VlanGap::NotRequested));
    });
}
