//! The programs as the kernel's own test run sees them: a table of inputs and outputs.
mod support;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use afxdp::bpf::{self, btf};
use afxdp::{CHUNK_SIZE, Region, Socket};
use support::*;
use xdp_progs::{
    FRAGMENT_KEY, FRAGMENTS, RX_VLAN_TAG, Redirect, Select, Symbol, TUNNEL_END, TUNNEL_ENDS,
    XSKMAP, tunnel_end, verdict,
};

fn load(what: Redirect, map: BorrowedFd<'_>) -> OwnedFd {
    load_with(what, map, None)
}

/// With the maps of tunnel ends and of fragments, where the program selects.
fn load_with(what: Redirect, map: BorrowedFd<'_>, more: Option<[BorrowedFd<'_>; 2]>) -> OwnedFd {
    let resolve = |symbol| match symbol {
        Symbol::Map(XSKMAP) => Some(map.as_raw_fd()),
        Symbol::Map(TUNNEL_ENDS) => more.map(|m| m[0].as_raw_fd()),
        Symbol::Map(FRAGMENTS) => more.map(|m| m[1].as_raw_fd()),
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

/// An IPv4 packet in an Ethernet frame: destination, flags and offset, protocol, what follows.
fn v4(dst: [u8; 4], fragment: u16, protocol: u8, rest: &[u8]) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 0, 0, 0];
    f.extend(fragment.to_be_bytes());
    f.extend([64, protocol, 0, 0, 10, 0, 0, 9]);
    f.extend(dst);
    f.extend(rest);
    f
}

/// An IPv6 packet in an Ethernet frame.
fn v6(last: u8, next: u8, rest: &[u8]) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, next, 64];
    let mut address = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    f.extend(address);
    address[15] = last;
    f.extend(address);
    f.extend(rest);
    f
}

#[test]
fn tunnels_only() {
    const OWN: [u8; 4] = [10, 0, 0, 1];
    const VXLAN: &[u8] = &[0x80, 0, 0x12, 0xb5, 0, 12, 0, 0, 1, 2, 3, 4];
    const DNS: &[u8] = &[0x80, 0, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4];
    // As destination port 80 and source port 4789.
    const FROM_VXLAN: &[u8] = &[0x12, 0xb5, 0, 80, 0, 12, 0, 0, 1, 2, 3, 4];
    const GRE: &[u8] = &[0, 0, 0x65, 0x58, 1, 2, 3, 4];
    let mut options = v4(OWN, 0, 17, VXLAN);
    options[14] = 0x46;
    let mut vlan = v4(OWN, 0, 17, VXLAN);
    vlan.splice(12..12, [0x81, 0, 0, 7]);
    let fragment = |next| [&[next, 0, 0, 1, 0, 0, 0, 1], VXLAN].concat();
    let first = |rest: &[u8]| [&[17, 0, 0, 1, 0, 0, 0, 7], rest].concat();
    let (later, other) = ([17, 0, 0, 0x10, 0, 0, 0, 7], [17, 0, 0, 0x10, 0, 0, 0, 8]);
    let other_id = |mut frame: Vec<u8>| {
        frame[19] ^= 1;
        frame
    };
    let cases: Vec<(&str, Vec<u8>, bool)> = vec![
        ("VXLAN", v4(OWN, 0, 17, VXLAN), true),
        ("VXLAN, not to be fragmented", v4(OWN, 0x4000, 17, VXLAN), true),
        ("VXLAN to another address", v4([10, 0, 0, 2], 0, 17, VXLAN), false),
        ("VXLAN to a group", v4([239, 0, 0, 1], 0, 17, VXLAN), false),
        ("another UDP port", v4(OWN, 0, 17, DNS), false),
        ("the port as source", v4(OWN, 0, 17, FROM_VXLAN), false),
        ("the port in TCP", v4(OWN, 0, 6, VXLAN), false),
        ("a fragment of UDP before the first", v4(OWN, 0x2003, 17, DNS), false),
        ("a first fragment of another port", v4(OWN, 0x2000, 17, DNS), false),
        ("one that follows it", v4(OWN, 0x0003, 17, VXLAN), false),
        ("a first fragment", v4(OWN, 0x2000, 17, VXLAN), true),
        ("one that follows it", v4(OWN, 0x2003, 17, DNS), true),
        ("the last one, of one byte", v4(OWN, 0x0100, 17, &[1]), true),
        ("one of another datagram", other_id(v4(OWN, 0x0003, 17, VXLAN)), false),
        ("one to another address", v4([10, 0, 0, 2], 0x0003, 17, VXLAN), false),
        ("the identification again, of another port", v4(OWN, 0x2000, 17, DNS), false),
        ("one that follows it", v4(OWN, 0x0003, 17, DNS), false),
        ("GRE", v4(OWN, 0, 47, GRE), true),
        ("a first fragment of GRE", v4(OWN, 0x2000, 47, GRE), true),
        ("a last fragment of GRE, of one byte", v4(OWN, 3, 47, &[1]), true),
        ("GRE to another address", v4([10, 0, 0, 2], 0, 47, GRE), false),
        ("ICMP", v4(OWN, 0, 1, GRE), false),
        ("IPv4 options", options, false),
        ("a tag", vlan, false),
        ("half a UDP header", v4(OWN, 0, 17, &VXLAN[..7]), false),
        ("no IP", PLAIN.to_vec(), false),
        ("the shortest frame there is", vec![0; 14], false),
        ("VXLAN over IPv6", v6(1, 17, VXLAN), true),
        ("VXLAN over IPv6 to another address", v6(2, 17, VXLAN), false),
        ("another UDP port over IPv6", v6(1, 17, DNS), false),
        ("GRE over IPv6", v6(1, 47, GRE), true),
        ("a fragment of GRE over IPv6", v6(1, 44, &fragment(47)), true),
        ("a fragment of UDP over IPv6 before the first", v6(1, 44, &later), false),
        ("a first fragment of another port", v6(1, 44, &first(DNS)), false),
        ("one that follows it", v6(1, 44, &later), false),
        ("a first fragment", v6(1, 44, &first(VXLAN)), true),
        ("one that follows it", v6(1, 44, &later), true),
        ("one of another datagram", v6(1, 44, &other), false),
        ("half a UDP header in a first fragment", v6(1, 44, &first(VXLAN)[..15]), false),
        ("ICMPv6", v6(1, 58, GRE), false),
        ("an IPv6 header alone", v6(1, 17, &[]), false),
    ];
    in_namespace(move || {
        ip("link add near numrxqueues 4 numtxqueues 4 type veth peer name far");
        ip("link set near up");
        let near = index("near");
        let map = bpf::create_map(bpf::MAP_TYPE_XSKMAP, 3, "test").expect("map");
        let ends = bpf::create_hash(bpf::MAP_TYPE_HASH, TUNNEL_END, 8, "ends").expect("ends");
        let fragments = bpf::create_hash(bpf::MAP_TYPE_LRU_HASH, FRAGMENT_KEY, 1024, "frags")
            .expect("fragments");
        for own in ["10.0.0.1", "fd00::1"].map(|a| a.parse().expect("an address")) {
            for (protocol, port) in [(17, 4789), (47, 0)] {
                bpf::update_hash(ends.as_fd(), &tunnel_end(own, protocol, port), 1)
                    .expect("update");
            }
        }
        let region = Region::new(1024 * CHUNK_SIZE).expect("region");
        let socket = Socket::open(near, 1, region, small()).expect("open");
        bpf::update(map.as_fd(), 1, socket.as_fd().as_raw_fd() as u32).expect("update");
        let what = Redirect { select: Select::Tunnels, ..Redirect::default() };
        let program = load_with(what, map.as_fd(), Some([ends.as_fd(), fragments.as_fd()]));
        for (description, frame, ours) in &cases {
            let wanted = if *ours { verdict::REDIRECT } else { verdict::PASS };
            for (queue, wanted) in [(1, wanted), (0, verdict::PASS)] {
                let (verdict, out) =
                    bpf::test_run(program.as_fd(), frame, near, queue).expect("test run");
                assert_eq!(verdict, wanted, "{description}, queue {queue}");
                assert_eq!(&out, frame, "{description}: bytes");
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
