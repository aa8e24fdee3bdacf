//! What a router says of packets that it does not deliver, and what it does with those that are too large.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::time::Duration;

use super::routers::{Net, answer, net, router_mac};
use crate::frame::{checksum, ethernet, udp4};
use crate::lab::{Host, Lab};
use crate::runner::Case;
use crate::{Context, Result, ensure, wait};

pub const CASES: &[Case] = &[
    Case::new(
        "router-fragments",
        "too large and allowed to be cut: cut, translated or not",
        fragments,
    ),
    Case::new("router-unreachable", "no network, no port; a TCP connection is reset", unreachable),
    Case::new("router-rate", "errors are limited in number, and what is not said is counted", rate),
];

/// The IPv4 fragments of a capture, as (offset in bytes, more, bytes behind the header).
fn pieces(frames: &[Vec<u8>]) -> Result<Vec<(usize, bool, Vec<u8>)>> {
    let mut all = Vec::new();
    for frame in frames.iter().filter(|f| f.len() >= 34 && f[12..14] == [8, 0] && f[23] == 17) {
        ensure!(checksum(&frame[14..34]) == 0, "a header's checksum is wrong");
        let length = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
        ensure!(length <= 1400, "a fragment of {length} bytes");
        let field = u16::from_be_bytes([frame[20], frame[21]]);
        let bytes = frame.get(34..14 + length).context("cut short")?.to_vec();
        all.push((usize::from(field & 0x1fff) * 8, field & 0x2000 != 0, bytes));
    }
    all.sort_unstable();
    Ok(all)
}

/// A packet with a byte of its IPv4 header changed, the checksum with it.
fn with_byte(mut packet: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    packet[at] = value;
    packet[10..12].fill(0);
    let sum = checksum(&packet[..20]).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet
}

/// Send a UDP packet of `size` bytes from `a`, and see it arrive at `there` in sound fragments.
fn in_pieces(
    daemon_mac: crate::frame::Mac,
    a: &Host,
    to: (&Host, Ipv4Addr),
    size: usize,
) -> Result<usize> {
    let (from, there) = (a.raw()?, to.0.raw()?);
    let mut data = vec![b'x'; size];
    data[size - 16..].copy_from_slice(b"the end of it is");
    let packet = udp4((Ipv4Addr::new(192, 168, 1, 11), 4000), (to.1, 4001), &data);
    // It may be cut.
    let packet = with_byte(packet, 6, 0);
    let sent = packet[20..].to_vec();
    from.send(&ethernet(daemon_mac, a.mac, &[], 0x0800, &packet))?;
    let seen = pieces(&there.until_mark("the end of it is")?)?;
    let mut joined: Vec<u8> = Vec::new();
    for (i, (offset, more, bytes)) in seen.iter().enumerate() {
        ensure!(*offset == joined.len(), "a piece at {offset}, not at {}", joined.len());
        ensure!(*more == (i + 1 < seen.len()), "piece {i} has the wrong flag");
        joined.extend(bytes);
    }
    ensure!(joined.len() == sent.len(), "{} bytes of {}", joined.len(), sent.len());
    // Ports and checksum may have been translated.
    ensure!(joined[8..] == sent[8..], "other bytes arrived");
    Ok(seen.len())
}

fn fragments(lab: &Lab) -> Result<()> {
    let Net { daemon, a, c, out, .. } = net(lab)?;
    daemon.run(
        "del-router-port r r-2 -- add-router-port r br-int r-2 ip=192.168.2.1/24 tag=2 mtu=1400 \
         -- set-gateway r br-ex r-ext ip=203.0.113.101/24 via=203.0.113.1 mtu=1400",
    )?;
    a.ping("192.168.2.13", 1)?;
    let mac = router_mac(&daemon, "r-1")?;
    let n = in_pieces(mac, &a, (&c, Ipv4Addr::new(192, 168, 2, 13)), 1450)?;
    ensure!(n == 2, "{n} pieces");
    // A kernel puts them together, and answers what was in them.
    let text = answer(&a, &["-M", "dont", "-s", "1450", "192.168.2.13"])?;
    ensure!(text.contains("1 received"), "{text}");
    daemon.run("add-snat r 192.168.1.0/24 203.0.113.101")?;
    a.ping("203.0.113.1", 1)?;
    let n = in_pieces(mac, &a, (&out, Ipv4Addr::new(203, 0, 113, 1)), 1450)?;
    ensure!(n == 2, "{n} translated pieces");
    let text = answer(&a, &["-M", "dont", "-s", "1450", "203.0.113.1"])?;
    ensure!(text.contains("1 received"), "translated: {text}");
    // What was cut before it came, and what may not be cut.
    let text = answer(&a, &["-M", "dont", "-s", "4000", "192.168.2.13"])?;
    ensure!(text.contains("1 received"), "fragments cut again: {text}");
    wait::until("the router tells the size that fits", || {
        let text = answer(&a, &["-M", "do", "-s", "1450", "203.0.113.1"])?;
        Ok(text.contains("mtu = 1400") || text.contains("mtu=1400"))
    })
}

/// How a machine's connection to a TCP port ends.
fn connect(host: &Host, to: &str) -> Result<ErrorKind> {
    let to = to.parse()?;
    let tried = host
        .node
        .inside(move || Ok(TcpStream::connect_timeout(&to, wait::SOON).err().map(|e| e.kind())));
    tried.join().ok().context("connecting panicked")??.context("a connection was made")
}

/// What a machine hears of a UDP packet to a port where nobody listens.
fn datagram(host: &Host, to: &str) -> Result<ErrorKind> {
    let to: std::net::SocketAddr = to.parse()?;
    let tried = host.node.inside(move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(wait::SOON))?;
        socket.send(b"is anybody there")?;
        Ok(socket.recv(&mut [0; 64]).err().map(|e| e.kind()))
    });
    tried.join().ok().context("sending panicked")??.context("an answer came")
}

fn unreachable(lab: &Lab) -> Result<()> {
    let Net { daemon, a, out, .. } = net(lab)?;
    a.ping("192.168.1.1", 1)?;
    let refused = ErrorKind::ConnectionRefused;
    for to in ["192.168.1.1:7", "192.168.2.1:7"] {
        let (tcp, udp) = (connect(&a, to)?, datagram(&a, to)?);
        ensure!(tcp == refused && udp == refused, "{to}: TCP {tcp}, UDP {udp}");
    }
    // The same where the address has a translation too.
    daemon.run("add-snat r 192.168.1.0/24 203.0.113.101")?;
    out.ping("203.0.113.101", 1)?;
    let (tcp, udp) = (connect(&out, "203.0.113.101:7")?, datagram(&out, "203.0.113.101:7")?);
    ensure!(tcp == refused && udp == refused, "outside: TCP {tcp}, UDP {udp}");
    daemon.run("del-gateway r")?;
    wait::until("the router says that there is no way", || {
        let text = answer(&a, &["198.51.100.7"])?;
        Ok(text.contains("From 192.168.1.1") && text.contains("Net Unreachable"))
    })?;
    ensure!(daemon.drops("no_route")? > 0, "nothing was counted");
    Ok(())
}

fn rate(lab: &Lab) -> Result<()> {
    let Net { daemon, a, .. } = net(lab)?;
    // The router knows where to send its errors.
    a.ping("192.168.2.13", 1)?;
    let (raw, mac) = (a.raw()?, router_mac(&daemon, "r-1")?);
    let (src, dst) = (Ipv4Addr::new(192, 168, 1, 11), Ipv4Addr::new(192, 168, 2, 13));
    let packet = with_byte(udp4((src, 7), (dst, 7), b"at its end"), 8, 1);
    let frame = ethernet(mac, a.mac, &[], 0x0800, &packet);
    let (expired, limited) = (daemon.drops("ttl_expired")?, daemon.drops("rate_limit")?);
    let mut sent = 0;
    wait::until("some errors are not sent", || {
        for _ in 0..2000 {
            raw.send(&frame)?;
        }
        sent += 2000;
        Ok(daemon.drops("rate_limit")? > limited)
    })?;
    let mut answers = 0;
    wait::until("every packet was answered, or counted as not", || {
        while let Some(frame) = raw.receive(Duration::from_millis(100))? {
            answers += u64::from(frame.len() > 35 && frame[23] == 1 && frame[34] == 11);
        }
        let expired = daemon.drops("ttl_expired")? - expired;
        Ok(expired <= sent && answers + daemon.drops("rate_limit")? - limited == expired)
    })?;
    ensure!(answers > 0, "no error was sent at all");
    Ok(())
}
