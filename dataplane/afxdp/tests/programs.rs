//! The programs as the kernel's own test run sees them: a table of inputs and outputs.
mod support;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use afxdp::bpf::{self, btf};
use afxdp::{CHUNK_SIZE, Region, Socket};
use support::*;
use xdp_progs::{RX_VLAN_TAG, Redirect, Symbol, XSKMAP, verdict};

fn load(what: Redirect, map: BorrowedFd<'_>) -> OwnedFd {
    let resolve = |symbol| match symbol {
        Symbol::Map(XSKMAP) => Some(map.as_raw_fd()),
        Symbol::Map(_) => None,
        Symbol::Kfunc(name) => btf::kernel_function(name),
    };
    let slots = what.program().link(resolve).expect("all symbols known");
    bpf::load(&bpf::Load {
        program_type: bpf::PROG_TYPE_XDP,
        slots: &slots,
        name: what.name(),
        frags: what.frags,
        bound_to: None,
    })
    .expect("the verifier takes it")
}

struct Case {
    description: &'static str,
    queue: u32,
    frame: &'static [u8],
    verdict: u32,
}

const PLAIN: &[u8] = &[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5, 1, 2, 3, 4];
const TAGGED: &[u8] = &[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x81, 0, 0, 7, 0x88, 0xb5];

const CASES: &[Case] = &[
    Case {
        description: "a queue with a socket",
        queue: 1,
        frame: PLAIN,
        verdict: verdict::REDIRECT,
    },
    Case {
        description: "a queue without a socket is left to the kernel",
        queue: 0,
        frame: PLAIN,
        verdict: verdict::PASS,
    },
    Case {
        description: "a queue beyond the map is left to the kernel",
        queue: 3,
        frame: PLAIN,
        verdict: verdict::PASS,
    },
    Case {
        description: "a tag in the bytes changes nothing",
        queue: 1,
        frame: TAGGED,
        verdict: verdict::REDIRECT,
    },
    Case {
        description: "the shortest frame there is",
        queue: 1,
        frame: &[0; 14],
        verdict: verdict::REDIRECT,
    },
    Case {
        description: "a long frame",
        queue: 1,
        frame: &[0x55; 3000],
        verdict: verdict::REDIRECT,
    },
];

#[test]
fn redirect() {
    in_namespace(|| {
        ip("link add near numrxqueues 4 numtxqueues 4 type veth peer name far");
        ip("link set near up");
        let near = index("near");
        let map = bpf::create_map(bpf::MAP_TYPE_XSKMAP, 3, "test").expect("map");
        let region = Region::new(1024 * CHUNK_SIZE).expect("region");
        let socket = Socket::open(near, 1, region, small()).expect("open");
        bpf::update(map.as_fd(), 1, socket.as_fd().as_raw_fd() as u32).expect("update");
        for frags in [false, true] {
            let program = load(Redirect { frags, ..Redirect::default() }, map.as_fd());
            for case in CASES {
                let (verdict, out) =
                    bpf::test_run(program.as_fd(), case.frame, near, case.queue).expect("test run");
                assert_eq!(verdict, case.verdict, "{}", case.description);
                assert_eq!(out, case.frame, "{}: bytes", case.description);
            }
        }
    });
}

#[test]
fn the_verifier_says_why() {
    in_namespace(|| {
        let mut a = xdp_progs::Asm::new();
        a.load(xdp_progs::Size::DW, xdp_progs::Reg::R0, xdp_progs::Reg::R5, 0, "r5 has no value");
        a.exit("");
        let slots = a.finish().expect("no labels").link(|_| None).expect("no symbols");
        let what = bpf::Load {
            program_type: bpf::PROG_TYPE_XDP,
            slots: &slots,
            name: "wrong",
            frags: false,
            bound_to: None,
        };
        let (e, log) = bpf::load(&what).expect_err("an unset register");
        assert_eq!(e.raw_os_error(), Some(libc::EACCES));
        assert!(log.contains("R5 !read_ok"), "{log}");
    });
}

#[test]
fn the_kernel_has_the_vlan_function() {
    if std::path::Path::new("/sys/kernel/btf/vmlinux").exists() {
        assert!(btf::kernel_function(RX_VLAN_TAG).is_some_and(|id| id > 0));
        assert_eq!(btf::kernel_function("no_such_function_anywhere"), None);
    } else {
        eprintln!("skipped: the kernel has no BTF");
    }
}
