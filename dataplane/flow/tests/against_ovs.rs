//! Extraction against Open vSwitch: `data/ovs-3.1-extract.txt` has what `ovs-ofctl parse-pcap` of
//! Open vSwitch 3.1.0 prints for each frame of the corpus, one line per frame, its name in front.
//!
//! Every truncation of every frame is compared with the `ovs-ofctl` of the machine.

mod common;

use std::collections::BTreeMap;
use std::process::Command;

use flow::extract::{FRAG_ANY, FRAG_LATER, VLAN_PRESENT};
use flow::{Field, FlowKey};

const GOLDEN: &str = include_str!("data/ovs-3.1-extract.txt");

fn corpus() -> Vec<(&'static str, Vec<u8>)> {
    common::legal().into_iter().chain(common::broken()).collect()
}

fn extracted(frame: &[u8]) -> FlowKey {
    let mut key = FlowKey::default();
    flow::extract(frame, frame.len(), &mut key);
    key
}

/// The key that a line of `ovs-ofctl` describes.
fn parse(line: &str) -> FlowKey {
    let mut k = FlowKey::default();
    for item in line.split(',') {
        match item.split_once('=') {
            None => protocol(&mut k, item),
            Some((name, value)) => field(&mut k, name, value),
        }
    }
    k
}

fn protocol(k: &mut FlowKey, name: &str) {
    let (ty, proto) = match name {
        "ip" => (0x800, 0),
        "icmp" => (0x800, 1),
        "tcp" => (0x800, 6),
        "udp" => (0x800, 17),
        "sctp" => (0x800, 132),
        "ipv6" => (0x86dd, 0),
        "icmp6" => (0x86dd, 58),
        "tcp6" => (0x86dd, 6),
        "udp6" => (0x86dd, 17),
        "sctp6" => (0x86dd, 132),
        "arp" => (0x806, 0),
        "rarp" => (0x8035, 0),
        "mpls" => (0x8847, 0),
        "mplsm" => (0x8848, 0),
        other => panic!("unknown protocol {other:?}"),
    };
    k.set(Field::EthType, ty);
    k.set(Field::NwProto, proto);
}

fn number(text: &str) -> u128 {
    match text.strip_prefix("0x") {
        Some(hex) => u128::from_str_radix(hex, 16).unwrap(),
        None if text.contains('.') => u32::from(text.parse::<std::net::Ipv4Addr>().unwrap()).into(),
        None if text.len() == 17 && text.split(':').count() == 6 => {
            u128::from_str_radix(&text.replace(':', ""), 16).unwrap()
        }
        None if text.contains(':') => text.parse::<std::net::Ipv6Addr>().unwrap().into(),
        None => text.parse().unwrap_or_else(|_| panic!("number {text:?}")),
    }
}

fn tcp_flags(text: &str) -> u128 {
    const NAMES: [&str; 9] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns"];
    let one = |f: &str| match NAMES.iter().position(|n| *n == f) {
        Some(bit) => 1 << bit,
        None => u128::from_str_radix(f.trim_matches(['[', ']']), 16).unwrap(),
    };
    text.split('|').map(one).sum()
}

fn or(k: &mut FlowKey, f: Field, bits: u128) {
    k.set(f, k.get(f) | bits);
}

fn field(k: &mut FlowKey, name: &str, value: &str) {
    let present = u128::from(VLAN_PRESENT);
    let f = match name {
        "in_port" => return,
        "tcp_flags" => return k.set(Field::TcpFlags, tcp_flags(value)),
        "nw_frag" => {
            let frag = match value {
                "no" => 0,
                "first" => FRAG_ANY,
                "later" => FRAG_ANY | FRAG_LATER,
                other => panic!("nw_frag {other:?}"),
            };
            return k.set(Field::NwFrag, frag.into());
        }
        "dl_vlan" => return or(k, Field::VlanTci, number(value) | present),
        "dl_vlan_pcp" => return or(k, Field::VlanTci, number(value) << 13),
        "dl_vlan1" => return or(k, Field::Vlan1Tci, number(value) | present),
        "dl_vlan_pcp1" => return or(k, Field::Vlan1Tci, number(value) << 13),
        "nw_tos" | "nw_ecn" => return or(k, Field::NwTos, number(value)),
        "mpls_label" => return or(k, Field::Mpls0, number(value) << 12),
        "mpls_tc" => return or(k, Field::Mpls0, number(value) << 9),
        "mpls_bos" => return or(k, Field::Mpls0, number(value) << 8),
        "mpls_ttl" => return or(k, Field::Mpls0, number(value)),
        "mpls_lse1" => Field::Mpls1,
        "mpls_lse2" => Field::Mpls2,
        "vlan_tci" => Field::VlanTci,
        "vlan_tci1" => Field::Vlan1Tci,
        "dl_src" => Field::EthSrc,
        "dl_dst" => Field::EthDst,
        "dl_type" => Field::EthType,
        "nw_src" | "arp_spa" => Field::NwSrc,
        "nw_dst" | "arp_tpa" => Field::NwDst,
        "nw_proto" | "arp_op" => Field::NwProto,
        "nw_ttl" => Field::NwTtl,
        "tp_src" | "icmp_type" => Field::TpSrc,
        "tp_dst" | "icmp_code" => Field::TpDst,
        "ipv6_src" => Field::Ipv6Src,
        "ipv6_dst" => Field::Ipv6Dst,
        "ipv6_label" => Field::Ipv6Label,
        "arp_sha" | "nd_sll" => Field::ArpSha,
        "arp_tha" | "nd_tll" => Field::ArpTha,
        "nd_target" => Field::NdTarget,
        other => panic!("unknown field {other:?}"),
    };
    k.set(f, number(value));
}

/// Fields that the text does not show; other tests look at them.
const NOT_IN_TEXT: [Field; 4] =
    [Field::VlanTpid, Field::Vlan1Tpid, Field::NdReserved, Field::NdOptionsType];

fn compare(name: &str, frame: &[u8], line: &str) {
    let mut ours = extracted(frame);
    for f in NOT_IN_TEXT {
        ours.set(f, 0);
    }
    assert_eq!(ours, parse(line), "{name}: Open vSwitch says {line}");
}

#[test]
fn the_corpus_reads_as_in_open_vswitch() {
    let golden: BTreeMap<&str, &str> = GOLDEN.lines().filter_map(|l| l.split_once(' ')).collect();
    let corpus = corpus();
    assert_eq!(golden.len(), corpus.len());
    for (name, frame) in corpus {
        compare(name, &frame, golden.get(name).unwrap_or_else(|| panic!("{name} is not golden")));
    }
}

fn ovs(frames: &[Vec<u8>]) -> Vec<String> {
    let mut pcap = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    pcap.extend(65535u32.to_le_bytes());
    pcap.extend(1u32.to_le_bytes());
    for f in frames {
        let len = (f.len() as u32).to_le_bytes();
        pcap.extend([&[0; 8], &len[..], &len[..], f].concat());
    }
    let path = std::env::temp_dir().join(format!("flow-corpus-{}.pcap", std::process::id()));
    std::fs::write(&path, pcap).unwrap();
    let out = Command::new("ovs-ofctl").arg("parse-pcap").arg(&path).output();
    std::fs::remove_file(&path).unwrap();
    let out = out.expect("ovs-ofctl is needed for this test");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn every_truncation_reads_as_in_open_vswitch() {
    let mut names = Vec::new();
    let mut frames = Vec::new();
    for (name, frame) in corpus() {
        for len in 14..=frame.len() {
            names.push(format!("{name} cut to {len}"));
            frames.push(frame[..len].to_vec());
        }
    }
    let lines = ovs(&frames);
    assert_eq!(lines.len(), frames.len());
    for ((name, frame), line) in names.iter().zip(&frames).zip(&lines) {
        compare(name, frame, line);
    }
}
