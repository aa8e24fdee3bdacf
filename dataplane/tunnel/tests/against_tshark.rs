//! tshark decodes our outer headers without a complaint.

mod common;

use std::process::Command;

use common::*;
use tunnel::{Kind, flags};

fn pcap(frames: &[Vec<u8>]) -> std::path::PathBuf {
    let mut out = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    out.extend(65535u32.to_le_bytes());
    out.extend(1u32.to_le_bytes());
    for f in frames {
        let len = (f.len() as u32).to_le_bytes();
        out.extend([&[0; 8], &len[..], &len[..], f].concat());
    }
    let path = std::env::temp_dir().join(format!("tunnel-tshark-{}.pcap", std::process::id()));
    std::fs::write(&path, out).unwrap();
    path
}

#[test]
fn decoded_without_complaint() {
    let inner = frames::legal()[0].1.clone();
    let mut sent = Vec::new();
    let mut want = Vec::new();
    for kind in [Kind::Vxlan, Kind::Gre, Kind::Geneve] {
        for v6 in [false, true] {
            for bits in [0, flags::DF, flags::CSUM, flags::CSUM | flags::DF] {
                let mut o = outer(kind, v6);
                o.flags = flags::KEY | bits;
                o.seq = kind == Kind::Gre && bits != 0;
                sent.push(encapsulated(&o, &inner));
                let ip = if v6 { "ipv6" } else { "ip" };
                want.push(match kind {
                    Kind::Vxlan => {
                        format!("eth:ethertype:{ip}:udp:vxlan:eth:ethertype:ip:tcp|4660||")
                    }
                    Kind::Geneve => {
                        format!("eth:ethertype:{ip}:udp:geneve:eth:ethertype:ip:tcp|||0x001234")
                    }
                    Kind::Gre => {
                        format!("eth:ethertype:{ip}:gre:eth:ethertype:ip:tcp||0x00001234|")
                    }
                });
            }
        }
    }
    // One that is damaged on purpose shows that the question below finds such.
    let damaged = sent.iter().position(|f| f[23] == 17 && f[40..42] != [0, 0]).unwrap();
    let mut bad = sent[damaged].clone();
    bad[40] ^= 1;
    sent.push(bad);
    want.push(want[damaged].clone());
    let path = pcap(&sent);
    let run = |extra: &[&str]| {
        let out = Command::new("tshark")
            .arg("-r")
            .arg(&path)
            .args(["-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"])
            .args(["-o", "tcp.check_checksum:TRUE"])
            .args(extra)
            .output()
            .expect("tshark is needed for this test");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let fields = ["-T", "fields", "-E", "separator=|", "-e", "frame.protocols", "-e", "vxlan.vni"];
    let decoded = run(&[&fields[..], &["-e", "gre.key", "-e", "geneve.vni"]].concat());
    // A checksum status of 0 is "bad"; errors and malformed packets show as expert information.
    let complaints = run(&[
        "-Y",
        "_ws.malformed || ip.checksum.status == 0 || udp.checksum.status == 0 \
        || tcp.checksum.status == 0 || gre.checksum.status == 0 || _ws.expert.severity >= 0x600000",
        "-T",
        "fields",
        "-e",
        "frame.number",
    ]);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(decoded.lines().collect::<Vec<_>>(), want);
    assert_eq!(complaints.trim(), sent.len().to_string());
}
