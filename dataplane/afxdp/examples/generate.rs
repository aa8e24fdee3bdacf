//! A generator: `generate IF [--seconds N] [--size BYTES] [--batch N]`
//!
//! Sends UDP frames out of an interface as fast as the kernel can, by a program that redirects
//! live frames of a test run (up to several million a second on one core). On veth the peer must
//! have native XDP attached, or the frames vanish.

use std::os::fd::AsFd;
use std::time::Instant;

use afxdp::{bpf, interface_index};
use xdp_progs::{Asm, Helper, Reg};

const USAGE: &str = "usage: generate IF [--seconds N] [--size BYTES] [--batch N]";
/// Frames for one system call.
const ROUND: u32 = 1 << 17;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let (mut name, mut seconds, mut size, mut batch) = (None, 5, 60, 64);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || -> Result<u32> { Ok(words.next().ok_or(USAGE)?.parse()?) };
        match word.as_str() {
            "--seconds" => seconds = number()?,
            "--size" => size = number()?,
            "--batch" => batch = number()?,
            _ if word.starts_with('-') || name.is_some() => return Err(USAGE.into()),
            _ => name = Some(word),
        }
    }
    let ifindex = interface_index(&name.ok_or(USAGE)?)?;
    let mut a = Asm::new();
    a.mov_imm(Reg::R1, ifindex as i32, "");
    a.mov_imm(Reg::R2, 0, "");
    a.call(Helper("bpf_redirect", 23), "");
    a.exit("");
    let slots = a.finish()?.link(|_| None).map_err(|s| format!("{s:?}"))?;
    let what = bpf::Load {
        program_type: bpf::PROG_TYPE_XDP,
        slots: &slots,
        name: "generate",
        frags: false,
        bound_to: None,
    };
    let program = bpf::load(&what).map_err(|(e, log)| format!("loading: {e}: {log}"))?;
    let frame = udp(size as usize);
    let (start, mut sent) = (Instant::now(), 0u64);
    while start.elapsed().as_secs() < u64::from(seconds) {
        bpf::run_live(program.as_fd(), &frame, ROUND, batch)?;
        sent += u64::from(ROUND);
    }
    println!("offered {:.0} pps", sent as f64 / start.elapsed().as_secs_f64());
    Ok(())
}

/// A UDP frame over IPv4 of that many bytes (at least 60), without a UDP checksum.
fn udp(size: usize) -> Vec<u8> {
    let mut f = vec![0u8; size.max(60)];
    let ip_len = (f.len() - 14) as u16;
    f[..14].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
    f[14] = 0x45;
    f[16..18].copy_from_slice(&ip_len.to_be_bytes());
    f[22..24].copy_from_slice(&[64, 17]);
    f[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    let sum: u32 = f[14..34].chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(c[1])).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    f[24..26].copy_from_slice(&sum.to_be_bytes());
    f[34..38].copy_from_slice(&[0x10, 0, 0x20, 0]);
    f[38..40].copy_from_slice(&(ip_len - 20).to_be_bytes());
    f
}
