//! Conversations through the same tracked pipelines of both switches, a frame at a time, each answered
//! the way it left: the connection's state, mark and zone are written into each frame's source address,
//! so that the bytes which leave tell what either tracker thinks.

use std::net::Ipv4Addr;

use super::random::Rng;
use super::{Both, good, hex, send};
use crate::frame::{self, Mac, Tcp};
use crate::lab::{Host, Lab};
use crate::{Context, Result, bail};

/// Writes what is known of the connection into the frame.
const STAMP: &str = "move:NXM_NX_CT_STATE[0..7]->NXM_OF_ETH_SRC[0..7],\
                     move:NXM_NX_CT_MARK[0..7]->NXM_OF_ETH_SRC[8..15],\
                     move:NXM_NX_CT_ZONE[0..7]->NXM_OF_ETH_SRC[16..23],\
                     move:NXM_NX_CT_LABEL[0..7]->NXM_OF_ETH_SRC[24..31]";

/// Pipelines: what table 0 and table 1 do. Table 3 stamps and sends to the other port.
const PIPELINES: &[(&str, &[&str])] = &[
    (
        "commit from inside",
        &[
            "table=0,ip,actions=ct(table=1,zone=5)",
            "table=1,priority=2,ct_state=+new-inv,in_port=1,ip,\
             actions=ct(commit,zone=5,exec(load:0x42->NXM_NX_CT_MARK[])),resubmit(,3)",
            "table=1,priority=1,actions=resubmit(,3)",
        ],
    ),
    (
        "commit from both sides, then look again",
        &[
            "table=0,ip,actions=ct(table=1,zone=6)",
            "table=1,priority=2,ct_state=+new-inv,ip,\
             actions=ct(commit,table=2,zone=6,exec(load:0x7->NXM_NX_CT_LABEL[0..31]))",
            "table=1,priority=1,actions=resubmit(,3)",
            "table=2,actions=resubmit(,3)",
        ],
    ),
    (
        "source translation",
        &[
            "table=0,ip,actions=ct(table=1,zone=7,nat)",
            "table=1,priority=2,ct_state=+new-inv-rel,in_port=1,ip,\
             actions=ct(commit,zone=7,nat(src=10.0.9.9),table=3)",
            "table=1,priority=1,actions=resubmit(,3)",
        ],
    ),
    (
        "destination translation",
        &[
            "table=0,ip,actions=ct(table=1,zone=8,nat)",
            "table=1,priority=2,ct_state=+new-inv-rel,in_port=1,ip,\
             actions=ct(commit,zone=8,nat(dst=10.0.8.8),exec(load:0x3->NXM_NX_CT_MARK[]),table=3)",
            "table=1,priority=1,actions=resubmit(,3)",
        ],
    ),
    (
        "two zones",
        &[
            "table=0,ip,actions=ct(table=1,zone=1)",
            "table=1,priority=2,ct_state=+new-inv,ip,actions=ct(commit,zone=1),ct(table=2,zone=2)",
            "table=1,priority=1,ip,actions=ct(table=2,zone=2)",
            "table=2,priority=2,ct_state=+new-inv,in_port=1,ip,\
             actions=ct(commit,zone=2,exec(load:0x9->NXM_NX_CT_MARK[])),resubmit(,3)",
            "table=2,priority=1,actions=resubmit(,3)",
        ],
    ),
];

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const SYN_ACK: u8 = 0x12;
const FIN_ACK: u8 = 0x11;
const RST_ACK: u8 = 0x14;
const PUSH_ACK: u8 = 0x18;

/// One end: an address as this end's network sees it, and what TCP has sent.
#[derive(Clone, Copy, Debug)]
struct End {
    address: (Ipv4Addr, u16),
    next: u32,
}

/// A conversation: the ends as the inside sees them, and as the outside does, once a frame has crossed.
struct Talk {
    protocol: u8,
    inside: [End; 2],
    outside: Option<[(Ipv4Addr, u16); 2]>,
}

/// What is sent next in a conversation.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A segment with these flags and so much payload.
    Segment { from_inside: bool, flags: u8, data: usize },
    /// A datagram, or an echo request (from inside) and its reply.
    Datagram { from_inside: bool },
    /// Port unreachable from outside, about the last frame that went out.
    Unreachable,
}

use Step::{Datagram, Segment, Unreachable};

const fn out(flags: u8) -> Step {
    Segment { from_inside: true, flags, data: 0 }
}

const fn back(flags: u8) -> Step {
    Segment { from_inside: false, flags, data: 0 }
}

const fn say(from_inside: bool, data: usize) -> Step {
    Segment { from_inside, flags: PUSH_ACK, data }
}

const fn gram(from_inside: bool) -> Step {
    Datagram { from_inside }
}

/// Lives of connections.
const TCP: &[&[Step]] = &[
    &[
        out(SYN),
        back(SYN_ACK),
        out(ACK),
        say(true, 100),
        back(ACK),
        say(false, 300),
        out(ACK),
        out(FIN_ACK),
        back(ACK),
        say(false, 10),
        back(FIN_ACK),
        out(ACK),
    ],
    // Refused; said again; answered late.
    &[out(SYN), back(RST_ACK)],
    &[out(SYN), out(SYN), out(SYN), back(SYN_ACK), out(ACK), say(true, 1)],
    // Reset in the middle.
    &[out(SYN), back(SYN_ACK), out(ACK), say(true, 1000), back(RST_ACK)],
    // Both close at once.
    &[out(SYN), back(SYN_ACK), out(ACK), out(FIN_ACK), back(FIN_ACK), out(ACK), back(ACK)],
    // Seen only from its middle on.
    &[say(true, 10), back(ACK), say(false, 10), out(ACK)],
    &[back(ACK), say(true, 10)],
    &[out(SYN_ACK), back(ACK)],
    // What begins outside is not let in, or is.
    &[back(SYN), out(SYN_ACK), back(ACK), say(false, 20), say(true, 20)],
];

const UDP: &[&[Step]] = &[
    &[gram(true), gram(true), gram(false), gram(true), gram(false)],
    &[gram(true), Unreachable, gram(true), gram(false)],
    &[gram(true), gram(false), Unreachable],
    &[gram(false), gram(false), gram(true), gram(false)],
];

const ECHO: &[&[Step]] = &[
    &[gram(true), gram(false), gram(true), gram(false)],
    &[gram(true), gram(true), gram(true), gram(false)],
    &[gram(true), Unreachable],
];

impl Talk {
    fn new(number: u16, protocol: u8) -> Talk {
        let host = |net, n| Ipv4Addr::new(10, 0, net, n);
        let near = (host(0, 1 + (number % 5) as u8), 20_000 + number);
        let far_port = if protocol == 1 { near.1 } else { 80 };
        let far = (host(1, 1 + (number % 3) as u8), far_port);
        let end = |address, next| End { address, next };
        Talk { protocol, inside: [end(near, 1000), end(far, 900_000)], outside: None }
    }

    /// The ends as whoever sends knows them: sender, receiver.
    fn ends(&self, from_inside: bool) -> [(Ipv4Addr, u16); 2] {
        let [near, far] = match (from_inside, self.outside) {
            (false, Some(seen)) => seen,
            _ => [self.inside[0].address, self.inside[1].address],
        };
        if from_inside { [near, far] } else { [far, near] }
    }

    /// The IP packet of a step; none where there is nothing to say it about.
    fn packet(&mut self, step: Step, last_out: Option<&[u8]>) -> Option<(bool, Vec<u8>)> {
        Some(match step {
            Segment { from_inside, flags, data } => {
                let [from, to] = self.ends(from_inside);
                let me = usize::from(!from_inside);
                let payload = vec![0x61; data];
                let segment = Tcp {
                    flags,
                    seq: self.inside[me].next,
                    ack: if flags & ACK != 0 { self.inside[1 - me].next } else { 0 },
                    window: 20_000,
                    payload: &payload,
                };
                let packet = frame::tcp4(from, to, &segment);
                // A SYN said again has the number that it had.
                let begins = flags & SYN != 0 && [1000, 900_000].contains(&self.inside[me].next);
                if begins || flags & 1 != 0 {
                    self.inside[me].next += 1;
                } else if flags & SYN != 0 {
                    return self.again(from_inside, flags);
                }
                self.inside[me].next += data as u32;
                (from_inside, packet)
            }
            Datagram { from_inside } => {
                let [from, to] = self.ends(from_inside);
                let packet = if self.protocol == 1 {
                    let [id, _] = [from.1.to_be_bytes(), to.1.to_be_bytes()];
                    let kind = if from_inside { 8 } else { 0 };
                    frame::icmp4(from.0, to.0, &[kind, 0, 0, 0, id[0], id[1], 0, 1, 1, 2, 3, 4])
                } else {
                    frame::udp4(from, to, b"a datagram")
                };
                (from_inside, packet)
            }
            Unreachable => {
                let quoted = last_out?.get(14..14 + 28)?;
                let [from, to] = self.ends(false);
                let message = [&[3, 3, 0, 0, 0, 0, 0, 0][..], quoted].concat();
                (false, frame::icmp4(from.0, to.0, &message))
            }
        })
    }

    /// A SYN as it was sent before.
    fn again(&mut self, from_inside: bool, flags: u8) -> Option<(bool, Vec<u8>)> {
        let me = usize::from(!from_inside);
        let next = self.inside[me].next;
        self.inside[me].next = if me == 0 { 1000 } else { 900_000 };
        let step = Segment { from_inside, flags, data: 0 };
        let packet = self.packet(step, None);
        self.inside[me].next = next;
        packet
    }

    /// How the outside knows the ends, from the first frame that has come through to it.
    fn seen_outside(&mut self, frame: &[u8]) {
        let ip = |at: usize| {
            let octets: [u8; 4] = frame[at..at + 4].try_into().unwrap_or_default();
            Ipv4Addr::from(octets)
        };
        let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let ports = if self.protocol == 1 { (port(38), port(38)) } else { (port(34), port(36)) };
        self.outside = Some([(ip(26), ports.0), (ip(30), ports.1)]);
    }
}

/// Bring one frame through both; what left, the same from both.
fn both_send(
    both: &Both,
    ours: (&[Host], &[crate::raw::Raw]),
    theirs: (&[Host], &[crate::raw::Raw]),
    port: usize,
    frame: &[u8],
) -> Result<Vec<(usize, Vec<u8>)>> {
    let frames = [(port, frame.to_vec())];
    let (a, b) = (send(ours.0, ours.1, &frames, 1)?, send(theirs.0, theirs.1, &frames, 1)?);
    if a != b {
        let ours = both.daemon.run("conntrack list")?;
        let theirs = both.ovs.appctl(&["dpctl/dump-conntrack"])?;
        let told = |left: &[(usize, Vec<u8>)]| {
            let lines = left.iter().map(|(p, f)| format!("port {} {}\n", p + 1, hex(f)));
            lines.collect::<String>()
        };
        bail!(
            "a frame by port {}: {}\nours:\n{}{ours}\ntheirs:\n{}{theirs}",
            port + 1,
            hex(frame),
            told(&a),
            told(&b)
        );
    }
    Ok(a)
}

/// Every pipeline, every life of every protocol, several conversations in turn.
pub fn connections(lab: &Lab) -> Result<()> {
    let both = Both::start(lab)?;
    let (ours, theirs): (Vec<Host>, Vec<Host>) = both.hosts.iter().cloned().unzip();
    let raws = |hosts: &[Host]| hosts.iter().map(Host::raw).collect::<Result<Vec<_>>>();
    let (our_raws, their_raws) = (raws(&ours)?, raws(&theirs)?);
    let mut number = 0;
    for (name, pipeline) in PIPELINES {
        let mut flows: Vec<String> = pipeline.iter().map(|f| (*f).to_owned()).collect();
        for (from, to) in [(1, 2), (2, 1)] {
            flows.push(format!("table=3,in_port={from},actions={STAMP},output:{to}"));
        }
        both.load(lab, &(flows, Vec::new()))?;
        both.daemon.ctl(&["conntrack", "flush"]).and_then(good)?;
        both.ovs.appctl(&["dpctl/flush-conntrack"])?;
        let mut r = Rng(7);
        let mut lives: Vec<(Talk, Vec<Step>)> = Vec::new();
        for (protocol, all) in [(6, TCP), (17, UDP), (1, ECHO)] {
            for steps in all {
                number += 1;
                // Steps are taken from behind.
                lives.push((Talk::new(number, protocol), steps.iter().rev().copied().collect()));
            }
        }
        let mut last_out: Vec<Option<Vec<u8>>> = vec![None; lives.len()];
        while lives.iter().any(|(_, steps)| !steps.is_empty()) {
            let at = r.below(lives.len() as u64) as usize;
            let (talk, steps) = &mut lives[at];
            let Some(step) = steps.pop() else { continue };
            let Some((from_inside, packet)) = talk.packet(step, last_out[at].as_deref()) else {
                continue;
            };
            let port = usize::from(!from_inside);
            let macs = [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])];
            let mut bytes = frame::ethernet(macs[1 - port], macs[port], &[], 0x0800, &packet);
            bytes.resize(bytes.len().max(60), 0);
            let left = both_send(&both, (&ours, &our_raws), (&theirs, &their_raws), port, &bytes)
                .with_context(|| format!("{name}: {step:?} of {:?}", talk.inside))?;
            if from_inside && let Some((_, frame)) = left.first() {
                talk.outside.is_none().then(|| talk.seen_outside(frame));
                last_out[at] = Some(frame.clone());
            }
        }
    }
    Ok(())
}
