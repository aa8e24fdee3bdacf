//! The same packets through the switch and through a kernel that translates with nftables: what passes,
//! in which state, and every byte of it.
//!
//! Both write what their tracker says of a packet into its DSCP, so that states are compared with the
//! bytes: new 1, established 2, its replies 3, invalid 4, related 5.
//!
//! Two things differ and are left out: a wrong IP header checksum is `+inv` here, while the kernel's IP
//! layer drops such a packet before; and an error that quotes only the ports is translated here, while
//! the kernel, which wants eight bytes, drops it.

use std::fmt::Write;

use crate::daemon::Daemon;
use crate::frame::{Mac, Tcp, ethernet, has_mark, icmp4, ipv4, tcp4, udp4};
use crate::lab::{Host, Lab, Node};
use crate::raw::Raw;
use crate::runner::Case;
use crate::{Context, Result, ensure};

pub const CASES: &[Case] =
    &[Case::new("nat-like-kernel", "states and bytes are those of nftables' NAT", compare)];

const INSIDE: [u8; 4] = [10, 0, 0, 1];
const OUTSIDE: [u8; 4] = [198, 51, 100, 7];
const PUBLIC: [u8; 4] = [203, 0, 113, 1];
const MARKER: [u8; 4] = [198, 51, 100, 8];

const RULES: &str = "
table ip t {
  chain forwarded {
    type filter hook forward priority 0; policy drop;
    ip saddr 198.51.100.8 accept
    ip daddr 198.51.100.8 accept
    ct state invalid ip dscp set 4 accept
    ct state related ip dscp set 5 accept
    ct state established ct direction original ip dscp set 2 accept
    ct state established ct direction reply ip dscp set 3 accept
    iifname eth0 ip dscp set 1 accept
    tcp dport 80 ip dscp set 1 accept
  }
  chain after {
    type nat hook postrouting priority 100;
    oifname eth1 ip saddr 10.0.0.0/24 snat to 203.0.113.1
  }
  chain before {
    type nat hook prerouting priority -100;
    iifname eth1 ip daddr 203.0.113.1 tcp dport 8080 dnat to 10.0.0.1:80
  }
}";

const FLOWS: &[&str] = &[
    // What shows the end takes the same way, so that it comes behind what was sent before it.
    "priority=40000,ip,nw_src=198.51.100.8,actions=ct(table=9,zone=9)",
    "priority=40000,ip,nw_dst=198.51.100.8,actions=ct(table=9,zone=9)",
    "table=9,in_port=1,actions=2",
    "table=9,in_port=2,actions=1",
    "in_port=1,ip,actions=ct(table=1,zone=1,nat)",
    "in_port=2,ip,actions=ct(table=2,zone=1,nat)",
    "table=1,ip,ct_state=+inv,actions=mod_nw_tos:16,dec_ttl,2",
    "table=1,ip,ct_state=+rel,actions=mod_nw_tos:20,dec_ttl,2",
    "table=1,ip,ct_state=+est-rpl,actions=mod_nw_tos:8,dec_ttl,2",
    "table=1,ip,ct_state=+est+rpl,actions=mod_nw_tos:12,dec_ttl,2",
    "table=1,ip,ct_state=+new-rel,actions=ct(commit,zone=1,nat(src=203.0.113.1)),mod_nw_tos:4,dec_ttl,2",
    "table=2,ip,ct_state=+inv,actions=mod_nw_tos:16,dec_ttl,1",
    "table=2,ip,ct_state=+rel,actions=mod_nw_tos:20,dec_ttl,1",
    "table=2,ip,ct_state=+est-rpl,actions=mod_nw_tos:8,dec_ttl,1",
    "table=2,ip,ct_state=+est+rpl,actions=mod_nw_tos:12,dec_ttl,1",
    "table=2,ip,tcp,ct_state=+new,nw_dst=203.0.113.1,tp_dst=8080,\
     actions=ct(commit,zone=1,nat(dst=10.0.0.1:80)),mod_nw_tos:4,dec_ttl,1",
];

/// One of the two, seen from its cables.
struct Way {
    /// Inside and outside.
    ends: [Raw; 2],
    /// The MAC address that frames into each cable go to.
    to: [Mac; 2],
}

impl Way {
    /// What comes out at the other side when this IP packet goes in, from the type of the frame on.
    fn send(&self, from_outside: bool, packet: &[u8], mark: &str) -> Result<Vec<Vec<u8>>> {
        let (from, to) = (usize::from(from_outside), usize::from(!from_outside));
        let source = Mac([2, 0, 0, 0, 9, from as u8]);
        let send =
            |p: &[u8]| self.ends[from].send(&ethernet(self.to[from], source, &[], 0x0800, p));
        send(packet)?;
        let (src, dst, port) = if from_outside { (MARKER, INSIDE, 9) } else { (INSIDE, MARKER, 7) };
        send(&udp4((src.into(), port), (dst.into(), port), mark.as_bytes()))?;
        let frames = self.ends[to].until_mark(mark)?;
        let ours = |f: &&Vec<u8>| f.get(12..14) == Some(&[8, 0]) && !has_mark(f, "<end");
        Ok(frames.iter().filter(ours).map(|f| f[12..].to_vec()).collect())
    }
}

/// A namespace that routes between two cables and translates.
fn kernel(lab: &Lab) -> Result<Way> {
    let k = lab.node("kernel")?;
    let ip = |node: &Node, line: &str| node.run(&line.split(' ').collect::<Vec<_>>()).map(drop);
    let mut ends = Vec::new();
    let macs = [Mac([2, 0, 0, 0, 8, 0]), Mac([2, 0, 0, 0, 8, 1])];
    for (side, there, mac) in [("kin", "eth0", macs[0]), ("kout", "eth1", macs[1])] {
        let node = lab.node(side)?;
        let line = format!("ip link add name {there} type veth peer name eth0 netns {side}");
        ip(&k, &line)?;
        ip(&k, &format!("ip link set dev {there} address {mac} up"))?;
        ip(&node, "ip link set dev eth0 up")?;
        ends.push(node.raw("eth0")?);
    }
    ip(&k, "ip addr add 10.0.0.254/24 dev eth0")?;
    ip(&k, "ip addr add 198.51.100.254/24 dev eth1")?;
    ip(&k, "ip route add 203.0.113.0/24 dev eth0")?;
    let near = "02:00:00:00:07:01";
    for (address, device) in [
        ("10.0.0.1", "eth0"),
        ("203.0.113.1", "eth0"),
        ("198.51.100.7", "eth1"),
        ("198.51.100.8", "eth1"),
    ] {
        ip(&k, &format!("ip neigh add {address} lladdr {near} dev {device}"))?;
    }
    for setting in [
        "ip_forward=1",
        "conf.all.rp_filter=0",
        "conf.eth0.rp_filter=0",
        "conf.eth1.rp_filter=0",
        "conf.all.send_redirects=0",
    ] {
        ip(&k, &format!("sysctl -q -w net.ipv4.{setting}"))?;
    }
    let file = lab.dir().join("nat.nft");
    std::fs::write(&file, RULES)?;
    k.run(&["nft", "-f", &file.display().to_string()])?;
    let [a, b] = <[Raw; 2]>::try_from(ends).map_err(|_| anyhow::anyhow!("two ends"))?;
    Ok(Way { ends: [a, b], to: macs })
}

fn switch(lab: &Lab) -> Result<(Daemon, Way)> {
    let (h1, h2): (Host, Host) = (lab.host("h1", "")?, lab.host("h2", "")?);
    let daemon = Daemon::start(lab)?;
    daemon.run("add-br br0 fail_mode=secure -- add-port br0 h1 -- add-port br0 h2")?;
    FLOWS.iter().try_for_each(|f| daemon.run(&format!("add-flow br0 {f}")).map(drop))?;
    let ends = [h1.raw()?, h2.raw()?];
    Ok((daemon, Way { ends, to: [h2.mac, h1.mac] }))
}

/// A packet and where it comes from.
type Step = (bool, Vec<u8>);

fn compare(lab: &Lab) -> Result<()> {
    let kernel = kernel(lab)?;
    let (_daemon, switch) = switch(lab)?;
    let (mut n, mut differences) = (0, String::new());
    for (name, steps) in scripts() {
        for (i, (outside, packet)) in steps.iter().enumerate() {
            n += 1;
            let mark = format!("<end {n}>");
            let want = kernel.send(*outside, packet, &mark).context("kernel")?;
            let have = switch.send(*outside, packet, &mark).context("switch")?;
            if want != have {
                let from = if *outside { "outside" } else { "inside" };
                let _ = writeln!(
                    differences,
                    "{name}, packet {i} from {from}: {packet:02x?}\nkernel: {want:02x?}\nswitch: {have:02x?}"
                );
                break;
            }
        }
    }
    ensure!(differences.is_empty(), "{differences}");
    Ok(())
}

/// Builds one connection's packets; each script has a port of its own.
struct Talk {
    port: u16,
    steps: Vec<Step>,
}

impl Talk {
    fn new(port: u16) -> Self {
        Self { port, steps: Vec::new() }
    }

    /// From inside by SNAT, or the answer to it.
    fn tcp(&mut self, back: bool, flags: u8, seq: u32, ack: u32, data: usize) -> &mut Self {
        let payload: Vec<u8> = (0..data).map(|i| i as u8).collect();
        let segment = Tcp { flags, seq, ack, window: 1000, payload: &payload };
        let packet = if back {
            tcp4((OUTSIDE.into(), 80), (PUBLIC.into(), self.port), &segment)
        } else {
            tcp4((INSIDE.into(), self.port), (OUTSIDE.into(), 80), &segment)
        };
        self.steps.push((back, packet));
        self
    }

    fn udp(&mut self, back: bool) -> &mut Self {
        let packet = if back {
            udp4((OUTSIDE.into(), 53), (PUBLIC.into(), self.port), b"answer")
        } else {
            udp4((INSIDE.into(), self.port), (OUTSIDE.into(), 53), b"question")
        };
        self.steps.push((back, packet));
        self
    }

    fn raw(&mut self, back: bool, packet: Vec<u8>) -> &mut Self {
        self.steps.push((back, packet));
        self
    }

    /// The last packet again with a byte changed and nothing put right.
    fn damaged(&mut self, at: usize) -> &mut Self {
        let (back, mut packet) = self.steps.last().cloned().unwrap_or_default();
        if let Some(byte) = packet.get_mut(at) {
            *byte ^= 0x10;
        }
        self.raw(back, packet)
    }

    /// An ICMP error that quotes the packet as it was seen on the other side.
    fn error(&mut self, back: bool, kind: (u8, u8), quoted: &[u8]) -> &mut Self {
        let mut body = vec![kind.0, kind.1, 0, 0, 0, 0, 0, 0];
        body.extend(&quoted[..quoted.len().min(28)]);
        let packet = if back {
            icmp4([198, 51, 100, 99].into(), PUBLIC.into(), &body)
        } else {
            icmp4(INSIDE.into(), OUTSIDE.into(), &body)
        };
        self.raw(back, packet)
    }

    fn echo(&mut self, back: bool, id: u16) -> &mut Self {
        let id = id.to_be_bytes();
        let body = [if back { 0 } else { 8 }, 0, 0, 0, id[0], id[1], 0, 1, 1, 2, 3, 4];
        let packet = if back {
            icmp4(OUTSIDE.into(), PUBLIC.into(), &body)
        } else {
            icmp4(INSIDE.into(), OUTSIDE.into(), &body)
        };
        self.raw(back, packet)
    }

    fn done(&mut self) -> Vec<Step> {
        std::mem::take(&mut self.steps)
    }
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;

/// A connection that is established: 100 and 500 are the next numbers.
fn established(port: u16) -> Talk {
    let mut t = Talk::new(port);
    t.tcp(false, SYN, 99, 0, 0).tcp(true, SYN | ACK, 499, 100, 0).tcp(false, ACK, 100, 500, 0);
    t
}

fn scripts() -> Vec<(String, Vec<Step>)> {
    let mut all: Vec<(String, Vec<Step>)> = Vec::new();
    let mut add = |name: &str, t: &mut Talk| all.push((name.to_owned(), t.done()));
    let mut t = established(2000);
    t.tcp(false, PSH | ACK, 100, 500, 200).tcp(true, ACK, 500, 300, 0);
    t.tcp(true, PSH | ACK, 500, 300, 300).tcp(false, ACK, 300, 800, 0);
    t.tcp(false, FIN | ACK, 300, 800, 0).tcp(true, ACK, 800, 301, 0);
    t.tcp(true, PSH | ACK, 800, 301, 50).tcp(false, ACK, 301, 850, 0);
    t.tcp(true, FIN | ACK, 850, 301, 0).tcp(false, ACK, 301, 851, 0).tcp(false, ACK, 301, 851, 0);
    t.tcp(false, SYN, 90_000, 0, 0).tcp(true, SYN | ACK, 70_000, 90_001, 0);
    add("TCP, half closed, closed, and anew", &mut t);
    let mut t = established(2001);
    t.tcp(false, ACK, 100, 500, 1400).tcp(false, ACK, 200_000, 500, 10);
    t.tcp(false, ACK, 100, 90_000, 10).tcp(true, ACK, 400_000, 100, 10);
    t.tcp(false, ACK, 100, 500, 10).tcp(true, ACK, 500, 110, 10);
    add("TCP outside of the window", &mut t);
    let mut t = established(2002);
    t.tcp(true, RST, 40_000, 0, 0).tcp(false, ACK, 100, 500, 10).tcp(true, RST | ACK, 500, 110, 0);
    t.tcp(false, ACK, 110, 500, 10).tcp(false, SYN, 5000, 0, 0);
    add("TCP resets, wrong and right", &mut t);
    let mut t = Talk::new(2003);
    t.tcp(false, ACK, 100, 500, 10).tcp(true, ACK, 500, 110, 10).tcp(false, ACK, 110, 510, 10);
    add("TCP picked up in the middle", &mut t);
    let mut t = Talk::new(2004);
    for flags in [0, FIN, SYN | FIN, SYN | RST, FIN | RST, 0x3f, SYN | PSH | 0x20, RST, RST | ACK] {
        t.tcp(false, flags, 100, 0, 0);
    }
    add("TCP flags without a connection", &mut t);
    // Every combination of flags: as the first of a connection, then followed by an answer; and in one.
    for flags in 0..=0xff_u8 {
        let mut t = Talk::new(4000 + u16::from(flags));
        t.tcp(false, flags, 99, 1, 0).tcp(true, ACK, 500, 100, 0).tcp(false, ACK, 100, 500, 5);
        add(&format!("TCP that begins with flags 0x{flags:02x}"), &mut t);
        let mut t = established(4300 + u16::from(flags));
        t.tcp(false, flags, 100, 500, 0).tcp(true, ACK, 500, 100, 5).tcp(false, ACK, 100, 505, 5);
        add(&format!("TCP that goes on with flags 0x{flags:02x}"), &mut t);
    }
    // Reset by one side or the other, then begun again on the same ports, by either side's numbers.
    for (i, (back, seq)) in
        [(false, 5000), (true, 5000), (false, 20), (true, 20)].iter().enumerate()
    {
        let mut t = established(4600 + i as u16);
        let (at, ack) = if *back { (500, 100) } else { (100, 500) };
        t.tcp(*back, RST, at, 0, 0).tcp(*back, RST | ACK, at, ack, 0);
        t.tcp(false, SYN, *seq, 0, 0).tcp(true, SYN | ACK, 9000, seq + 1, 0);
        t.tcp(false, ACK, seq + 1, 9001, 10).tcp(true, ACK, 9001, seq + 11, 10);
        add(&format!("TCP reset and begun again, from outside: {back}, at {seq}"), &mut t);
    }
    let mut t = Talk::new(2005);
    t.tcp(true, SYN, 100, 0, 0).tcp(true, SYN | ACK, 100, 5, 0).tcp(true, ACK, 100, 5, 0);
    add("TCP from outside that nobody asked for", &mut t);
    let mut t = Talk::new(2006);
    t.tcp(false, SYN, 99, 0, 0).tcp(false, SYN, 99, 0, 0).tcp(true, RST | ACK, 0, 100, 0);
    t.tcp(false, SYN, 99, 0, 0).tcp(true, SYN | ACK, 499, 100, 0).tcp(true, SYN | ACK, 499, 100, 0);
    add("TCP refused, then accepted", &mut t);
    let mut t = Talk::new(2007);
    t.tcp(false, SYN, 99, 0, 0).tcp(true, SYN, 499, 0, 0).tcp(false, SYN | ACK, 99, 500, 0);
    t.tcp(true, ACK, 500, 100, 0).tcp(false, ACK, 100, 500, 5);
    add("TCP simultaneous open", &mut t);
    let mut t = Talk::new(2008);
    t.tcp(false, SYN, 99, 0, 0).damaged(30).tcp(true, SYN | ACK, 499, 100, 0).damaged(36);
    t.tcp(false, ACK, 100, 500, 10).damaged(45).tcp(false, ACK, 100, 500, 10);
    add("TCP with wrong checksums", &mut t);
    let mut t = Talk::new(2009);
    t.udp(false).udp(false).udp(true).udp(false).udp(true).damaged(25).udp(false).damaged(26);
    add("UDP", &mut t);
    let mut t = Talk::new(2010);
    t.udp(true).udp(false).udp(true);
    add("UDP from outside first", &mut t);
    let mut t = Talk::new(0);
    t.echo(true, 70).echo(false, 70).echo(false, 70).echo(true, 70).echo(true, 71).echo(false, 71);
    t.echo(true, 70).damaged(29);
    add("ICMP echo", &mut t);
    add("ICMP errors", &mut errors());
    let mut t = Talk::new(0);
    let to = |flags, seq, ack| {
        let segment = Tcp { flags, seq, ack, window: 1000, payload: &[] };
        tcp4((OUTSIDE.into(), 9000), (PUBLIC.into(), 8080), &segment)
    };
    let back = |flags, seq, ack| {
        let segment = Tcp { flags, seq, ack, window: 1000, payload: b"body" };
        tcp4((INSIDE.into(), 80), (OUTSIDE.into(), 9000), &segment)
    };
    t.raw(true, to(SYN, 99, 0)).raw(false, back(SYN | ACK, 499, 100)).raw(true, to(ACK, 100, 500));
    t.raw(false, back(ACK, 500, 100)).raw(true, to(FIN | ACK, 100, 504));
    add("DNAT", &mut t);
    for (proto, body) in [(132, &[0x13, 0x88, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0][..]), (89, b"ospf")] {
        let mut t = Talk::new(0);
        t.raw(false, ipv4(INSIDE.into(), OUTSIDE.into(), proto, body));
        t.raw(true, ipv4(OUTSIDE.into(), PUBLIC.into(), proto, body));
        if proto == 89 {
            add("a protocol without ports", &mut t);
        }
    }
    for seed in 0..40 {
        add(&format!("TCP at random, seed {seed}"), &mut random(seed));
    }
    all
}

fn errors() -> Talk {
    let mut t = Talk::new(2011);
    let seen = udp4((PUBLIC.into(), 2011), (OUTSIDE.into(), 53), b"question");
    t.udp(false).error(true, (3, 3), &seen).error(true, (11, 0), &seen).udp(true);
    let answer = udp4((OUTSIDE.into(), 53), (INSIDE.into(), 2011), b"answer");
    t.error(false, (3, 3), &answer);
    // Quotes nothing that is known, too little, or something that the one it goes to has not sent.
    let unknown = udp4((PUBLIC.into(), 999), (OUTSIDE.into(), 53), b"question");
    t.error(true, (3, 3), &unknown).error(true, (3, 3), &seen[..20]);
    let foreign = udp4((OUTSIDE.into(), 53), (PUBLIC.into(), 2011), b"answer");
    t.error(true, (3, 3), &foreign);
    t
}

/// Segments near what is expected, in all kinds of order.
fn random(seed: u32) -> Talk {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let mut next = move |n: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % n
    };
    let mut t =
        if next(4) == 0 { Talk::new(3000 + seed as u16) } else { established(3000 + seed as u16) };
    let flags = [ACK, ACK, ACK, PSH | ACK, FIN | ACK, RST, RST | ACK, SYN, SYN | ACK, FIN];
    let (mut seqs, near) = ([100u32, 500], [0u32, 0, 0, 1, 50, 400, 900, 1100, 70_000]);
    for _ in 0..25 {
        let from = next(2) as usize;
        let flag = flags[next(10) as usize];
        let off = |v: u32, sign: u32, by: u32| {
            if sign == 0 { v.wrapping_sub(by) } else { v.wrapping_add(by) }
        };
        let seq = off(seqs[from], next(2), near[next(9) as usize]);
        let ack =
            if flag & ACK == 0 { 0 } else { off(seqs[1 - from], next(2), near[next(9) as usize]) };
        let data = if flag & (SYN | RST) == 0 { [0, 10, 300][next(3) as usize] } else { 0 };
        t.tcp(from == 1, flag, seq, ack, data);
        if seq == seqs[from] {
            seqs[from] = seqs[from].wrapping_add(data as u32 + u32::from(flag & FIN));
        }
    }
    t
}
