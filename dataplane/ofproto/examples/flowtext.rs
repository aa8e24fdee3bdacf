//! How fast is flow text read and written, and how large are rules in memory?
//!
//! `cargo run --release -p ofproto --example flowtext [LINES]`

use std::fmt::Write;
use std::time::Instant;

use ofproto::action::Action;
use ofproto::flowmod::{Command, FlowMod};
use ofproto::text::{NoNames, parse_flows, show_flow};

/// Flows as a node with security groups has them.
fn lines(n: usize) -> String {
    let mut out = String::new();
    for i in 0..n {
        let (a, b, c) = (i & 0xff, i >> 8 & 0xff, i >> 16 & 0xff);
        let _ = match i % 4 {
            0 => writeln!(
                out,
                "table=60, priority=90,dl_vlan={},dl_dst=fa:16:3e:{a:02x}:{b:02x}:{c:02x} actions=set_field:0x7->reg5,set_field:0x5->reg6,pop_vlan,resubmit(,81)",
                i & 0xfff
            ),
            1 => writeln!(
                out,
                "table=82, priority=77,ct_state=+new-est,tcp,reg5={i:#x},nw_src=10.{c}.{b}.{a},tp_dst=443 actions=ct(commit,zone=NXM_NX_REG6[0..15]),output:7,resubmit(,92)"
            ),
            2 => writeln!(
                out,
                "table=20, hard_timeout=300, priority=1,vlan_tci=0x0005/0x0fff,dl_dst=fa:16:3f:{a:02x}:{b:02x}:{c:02x} actions=load:0->NXM_OF_VLAN_TCI[],load:0x3e9->NXM_NX_TUN_ID[],output:7"
            ),
            _ => writeln!(
                out,
                "priority=10,ip,nw_dst=10.{c}.{b}.{a} actions=output:{}",
                1 + i % 1000
            ),
        };
    }
    out
}

fn heap_bytes(f: &FlowMod) -> usize {
    let actions = size_of_val(&*f.actions);
    f.matches.heap_bytes() + actions + f.actions.iter().map(Action::heap_bytes).sum::<usize>()
}

fn main() {
    let n = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(100_000);
    let text = lines(n);
    let start = Instant::now();
    let flows = match parse_flows(&text, Command::Add, &NoNames) {
        Ok(flows) => flows,
        Err(e) => return eprintln!("{e}"),
    };
    let read = start.elapsed();
    let start = Instant::now();
    let mut out = String::new();
    for f in &flows {
        show_flow(&mut out, &f.into(), &NoNames);
        out.push('\n');
    }
    let written = start.elapsed();
    let heap: usize = flows.iter().map(heap_bytes).sum();
    println!("{n} flows, {} bytes of text", text.len());
    println!("read in {read:.1?}, {:.0} ns each", read.as_nanos() as f64 / n as f64);
    println!("written in {written:.1?}, {:.0} ns each", written.as_nanos() as f64 / n as f64);
    println!("match and actions on the heap: {} bytes each", heap / n.max(1));
}
