//! TCP that begins oddly, goes on oddly, or begins again, through a translation of both switches: they
//! differ where `docs/differences.md` says so, and nowhere else. What is right there is what Linux's
//! tracker does, with which `nat-like-kernel` compares the same segments.

use std::net::Ipv4Addr;

use super::{Both, send};
use crate::frame::{self, Mac, Tcp};
use crate::lab::{Host, Lab};
use crate::raw::Raw;
use crate::{Context, Result, ensure};

/// Write a packet's state into its source address.
const FLOWS: [&str; 5] = [
    "table=0,ip,actions=ct(table=1,zone=7,nat)",
    "table=1,priority=2,ct_state=+new-inv-rel,in_port=1,ip,\
     actions=ct(commit,zone=7,nat(src=10.0.9.9),table=3)",
    "table=1,priority=1,actions=resubmit(,3)",
    "table=3,in_port=1,actions=move:NXM_NX_CT_STATE[0..7]->NXM_OF_ETH_SRC[0..7],output:2",
    "table=3,in_port=2,actions=move:NXM_NX_CT_STATE[0..7]->NXM_OF_ETH_SRC[0..7],output:1",
];

const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OUTSIDE: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 0, 1, 1), 80);
const PUBLIC: Ipv4Addr = Ipv4Addr::new(10, 0, 9, 9);

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const SYN_ACK: u8 = 0x12;
const FIN_ACK: u8 = 0x11;
const RST_ACK: u8 = 0x14;

/// `ct_state` of segments of a translated connection: from inside first, then later, then answers.
const NEW: u8 = 0x61;
const EST: u8 = 0x62;
const RPL: u8 = 0xaa;
const INV: u8 = 0x30;
/// The same of an invalid one that is translated nevertheless.
const INV_SNAT: u8 = 0x70;

/// Combinations of FIN, SYN, RST, PSH, ACK and URG that begin a connection in Open vSwitch only: FIN and
/// RST with ACK, and RST alone.
const BEGIN_THERE: &[u8] =
    &[0x04, 0x11, 0x14, 0x15, 0x19, 0x1c, 0x1d, 0x31, 0x34, 0x35, 0x39, 0x3c, 0x3d];
/// Only here: SYN with PSH or URG.
const BEGIN_HERE: &[u8] = &[0x0a, 0x22, 0x2a];
/// Combinations that an established connection's opener may send in Open vSwitch only: SYN with ACK, FIN
/// with RST, RST with URG.
const GO_ON_THERE: &[u8] = &[0x12, 0x15, 0x1a, 0x1d, 0x32, 0x34, 0x35, 0x3a, 0x3c, 0x3d];
/// Only here: SYN or RST with PSH, SYN with URG.
const GO_ON_HERE: &[u8] = &[0x0a, 0x0c, 0x22, 0x2a];

/// What left: its state, and the inside end as it was then written.
type Told = (u8, Ipv4Addr, u16);

struct Pair {
    ours: (Vec<Host>, Vec<Raw>),
    theirs: (Vec<Host>, Vec<Raw>),
}

impl Pair {
    fn new(both: &Both) -> Result<Pair> {
        let (ours, theirs): (Vec<Host>, Vec<Host>) = both.hosts.iter().cloned().unzip();
        let raws = |hosts: &[Host]| hosts.iter().map(Host::raw).collect::<Result<Vec<_>>>();
        let (a, b) = (raws(&ours)?, raws(&theirs)?);
        Ok(Pair { ours: (ours, a), theirs: (theirs, b) })
    }

    /// A segment from inside through both: ours, theirs.
    fn out(&self, port: u16, flags: u8, seq: u32, ack: u32) -> Result<[Told; 2]> {
        self.say(false, port, flags, seq, ack)
    }

    /// A segment from outside to this port of the public address.
    fn back(&self, port: u16, flags: u8, seq: u32, ack: u32) -> Result<[Told; 2]> {
        self.say(true, port, flags, seq, ack)
    }

    fn say(&self, back: bool, port: u16, flags: u8, seq: u32, ack: u32) -> Result<[Told; 2]> {
        let segment = Tcp { flags, seq, ack, window: 20_000, payload: &[] };
        let packet = if back {
            frame::tcp4(OUTSIDE, (PUBLIC, port), &segment)
        } else {
            frame::tcp4((INSIDE, port), OUTSIDE, &segment)
        };
        let macs = [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])];
        let at = usize::from(back);
        let mut bytes = frame::ethernet(macs[1 - at], macs[at], &[], 0x0800, &packet);
        bytes.resize(bytes.len().max(60), 0);
        let frames = [(at, bytes)];
        let told = |(hosts, raws): &(Vec<Host>, Vec<Raw>)| -> Result<Told> {
            let left = send(hosts, raws, &frames, 1)?;
            let (_, f) = left.first().context("nothing left")?;
            let (ip, port) = if back { (30, 36) } else { (26, 34) };
            let address: [u8; 4] = f[ip..ip + 4].try_into()?;
            Ok((f[11], address.into(), u16::from_be_bytes([f[port], f[port + 1]])))
        };
        let of = |side| told(side).with_context(|| format!("port {port}, flags {flags:#04x}"));
        Ok([of(&self.ours)?, of(&self.theirs)?])
    }

    /// A connection whose next numbers are 100 and 500.
    fn open(&self, port: u16) -> Result<()> {
        same(self.out(port, SYN, 99, 0)?, (NEW, PUBLIC, port))?;
        same(self.back(port, SYN_ACK, 499, 100)?, (RPL, INSIDE, port))?;
        same(self.out(port, ACK, 100, 500)?, (EST, PUBLIC, port))
    }
}

fn same(told: [Told; 2], want: Told) -> Result<()> {
    they_say(told, [want, want])
}

fn they_say(told: [Told; 2], want: [Told; 2]) -> Result<()> {
    ensure!(told == want, "{told:x?} instead of {want:x?}");
    Ok(())
}

pub fn odd(lab: &Lab) -> Result<()> {
    let both = Both::start(lab)?;
    both.load(lab, &(FLOWS.map(str::to_owned).into(), Vec::new()))?;
    let pair = Pair::new(&both)?;
    for flags in 0..0x40 {
        begins(&pair, 2000 + u16::from(flags), flags)
            .and_then(|()| goes_on(&pair, 3000 + u16::from(flags), flags))
            .with_context(|| format!("flags {flags:#04x}"))?;
    }
    begins_again(&pair)
}

/// The first segment of a connection.
fn begins(pair: &Pair, port: u16, flags: u8) -> Result<()> {
    let told = pair.out(port, flags, 99, 1)?;
    let (new, invalid) = ((NEW, PUBLIC, port), (INV, INSIDE, port));
    if BEGIN_THERE.contains(&flags) {
        they_say(told, [invalid, new])
    } else if BEGIN_HERE.contains(&flags) {
        they_say(told, [new, invalid])
    } else {
        same(told, told[0])
    }
}

/// A segment of the opener in an established connection, then an answer.
fn goes_on(pair: &Pair, port: u16, flags: u8) -> Result<()> {
    pair.open(port)?;
    let told = pair.out(port, flags, 100, 500)?;
    // What is invalid is translated there.
    let [valid, here, there] =
        [EST, INV, INV_SNAT].map(|state| (state, if state == INV { INSIDE } else { PUBLIC }, port));
    if GO_ON_THERE.contains(&flags) {
        they_say(told, [here, valid])?;
    } else if GO_ON_HERE.contains(&flags) {
        they_say(told, [valid, there])?;
    } else if told[0].0 == INV {
        they_say(told, [here, there])?;
    } else {
        same(told, valid)?;
    }
    same(pair.back(port, ACK, 500, 100)?, (RPL, INSIDE, port))
}

/// The same ports again, after a reset or an end: Open vSwitch, which still has the old connection's
/// tuples, takes another port, by which the other side's answers would have to come.
fn begins_again(pair: &Pair) -> Result<()> {
    let moved = |port| [(NEW, PUBLIC, port), (NEW, PUBLIC, port + 1)];
    let closed = 4000;
    pair.open(closed)?;
    pair.out(closed, FIN_ACK, 100, 500)?;
    pair.back(closed, FIN_ACK, 500, 101)?;
    same(pair.out(closed, ACK, 101, 501)?, (EST, PUBLIC, closed))?;
    they_say(pair.out(closed, SYN, 5000, 0)?, moved(closed))?;
    let answer = pair.back(closed, SYN_ACK, 9000, 5001)?;
    they_say(answer, [(RPL, INSIDE, closed), (INV, PUBLIC, closed)])?;

    let reset = 4100;
    pair.open(reset)?;
    same(pair.out(reset, RST_ACK, 100, 500)?, (EST, PUBLIC, reset))?;
    they_say(pair.out(reset, SYN, 5000, 0)?, moved(reset))?;

    // Reset by the other side, which may not have been it: what it answers decides.
    let answered = 4200;
    pair.open(answered)?;
    same(pair.back(answered, RST_ACK, 500, 100)?, (RPL, INSIDE, answered))?;
    let told = pair.out(answered, SYN, 5000, 0)?;
    they_say(told, [(EST, PUBLIC, answered), (NEW, PUBLIC, answered + 1)])?;
    let told = pair.back(answered, SYN_ACK, 9000, 5001)?;
    ensure!(told[0] == (RPL, INSIDE, answered), "{told:x?}");
    let told = pair.out(answered, ACK, 5001, 9001)?;
    ensure!(told[0] == (EST, PUBLIC, answered), "{told:x?}");
    Ok(())
}
