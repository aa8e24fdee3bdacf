//! Programs through translated addresses: what they do works, what leaves has right checksums and never
//! an inside address, and what cannot be translated does not leave.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use super::tcp;
use crate::daemon::Daemon;
use crate::frame::{checksum, ethernet, pseudo, udp4};
use crate::lab::{Background, Host, Lab, Node};
use crate::runner::Case;
use crate::{Context, Result, ensure, report, wait};

pub const CASES: &[Case] = &[
    Case::new("nat-programs", "ping, traceroute, curl, iperf3, nc and DNS through SNAT", programs),
    Case::new("nat-dnat", "connections from outside reach an inside port, both ways", dnat),
    Case::new("nat-parallel", "10,000 connections at once through one address", parallel),
    Case::new("nat-fails-closed", "what cannot be translated is dropped and counted", fails_closed),
];

pub(super) const INSIDE: &str = "10.0.0.1";
pub(super) const PUBLIC: &str = "203.0.113.1";
const ROUTER: &str = "198.51.100.1";
pub(super) const SERVER: &str = "192.0.2.2";

/// `inside` (10.0.0.1) -- switch, which translates -- `router` -- `server`. Router and server know the
/// public address only.
pub(super) struct Net {
    pub daemon: Daemon,
    pub inside: Host,
    pub router: Host,
    pub server: Host,
}

fn net(lab: &Lab) -> Result<Net> {
    net_with(lab, &[])
}

/// The same, the daemon with these arguments.
pub(super) fn net_with(lab: &Lab, daemon: &[&str]) -> Result<Net> {
    let inside = lab.host("inside", "10.0.0.1/24")?;
    let router = lab.host("router", "198.51.100.1/24")?;
    let node = lab.node("server")?;
    let ip = |node: &Node, line: &str| node.run(&line.split(' ').collect::<Vec<_>>()).map(drop);
    ip(&router.node, "ip link add name eth1 type veth peer name eth0 netns server")?;
    ip(&router.node, "ip addr add 192.0.2.1/24 dev eth1")?;
    ip(&router.node, "ip link set dev eth1 up")?;
    // Checksums are finished by whoever sends on this cable, so that a capture behind it sees them all.
    ip(&router.node, "ethtool -K eth1 tx off")?;
    ip(&node, "ethtool -K eth0 tx off")?;
    ip(&router.node, "sysctl -q -w net.ipv4.ip_forward=1")?;
    ip(&node, "ip addr add 192.0.2.2/24 dev eth0")?;
    ip(&node, "ip link set dev eth0 up")?;
    ip(&node, "ip route add default via 192.0.2.1")?;
    ip(&router.node, "ip route add 203.0.113.0/24 dev eth0")?;
    ip(&router.node, &format!("ip neigh add {PUBLIC} lladdr {} dev eth0", inside.mac))?;
    ip(&inside.node, "ip route add 198.51.100.0/24 dev eth0")?;
    ip(&inside.node, &format!("ip route add default via {ROUTER}"))?;
    ip(&inside.node, &format!("ip neigh add {ROUTER} lladdr {} dev eth0", router.mac))?;
    let daemon = Daemon::start_as(lab, "sw", daemon)?;
    daemon.run("add-br br0 -- add-port br0 inside -- add-port br0 router -- del-flows br0")?;
    for flow in [
        "in_port=inside,ip,actions=ct(table=1,zone=1,nat)",
        "in_port=router,ip,actions=ct(table=2,zone=1,nat)",
        "table=1,ip,ct_state=+trk+new,actions=ct(commit,zone=1,nat(src=203.0.113.1)),router",
        "table=1,ip,ct_state=+trk-new-inv,actions=router",
        "table=2,ip,ct_state=+trk-new-inv,actions=inside",
    ] {
        daemon.run(&format!("add-flow br0 {flow}"))?;
    }
    let server = Host { node, mac: router.mac, address: SERVER.to_owned() };
    Ok(Net { daemon, inside, router, server })
}

/// What arrives at a machine, into a file that tshark judges.
struct Capture {
    file: PathBuf,
    _tshark: Background,
    at: Node,
}

impl Capture {
    fn start(lab: &Lab, at: &Host, filter: &str) -> Result<Self> {
        let file = lab.dir().join(format!("{}.pcap", at.node.name));
        let name = file.display().to_string();
        let words =
            ["tshark", "-q", "-s", "2000", "-B", "64", "-i", "eth0", "-f", filter, "-w", &name];
        let capture = Self { _tshark: at.node.start(&words)?, file, at: at.node.clone() };
        wait::until("tshark captures", || {
            Ok(std::fs::metadata(&capture.file).is_ok_and(|m| m.len() > 0))
        })?;
        Ok(capture)
    }

    /// The lines that tshark prints of packets that `filter` shows, with all checksums verified.
    fn shown(&self, filter: &str) -> Result<String> {
        let file = self.file.display().to_string();
        let checks = ["ip", "tcp", "udp"].map(|p| format!("{p}.check_checksum:TRUE"));
        let mut words = vec!["tshark", "-n", "-r", &file, "-Y", filter];
        checks.iter().for_each(|c| words.extend(["-o", c]));
        self.at.run(&words)
    }

    /// How many TCP packets that `filter` shows have the sum of the pseudo header for a checksum.
    fn unfinished(&self, filter: &str) -> Result<usize> {
        let file = self.file.display().to_string();
        let text = self.at.run(&[
            "tshark",
            "-n",
            "-r",
            &file,
            "-o",
            "tcp.check_checksum:TRUE",
            "-o",
            "ip.check_checksum:TRUE",
            "-o",
            "udp.check_checksum:TRUE",
            "-Y",
            filter,
            "-T",
            "fields",
            "-e",
            "ip.src",
            "-e",
            "ip.dst",
            "-e",
            "ip.len",
            "-e",
            "tcp.checksum",
        ])?;
        let is_unfinished = |line: &&str| {
            let mut words = line.split_whitespace();
            let (src, dst) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            let length: u16 = words.next()?.parse().ok()?;
            let sum = u16::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
            let pseudo = pseudo(src, dst, 6, length.checked_sub(20)?);
            (!checksum(&pseudo) == sum).then_some(())
        };
        Ok(text.lines().filter(|l| is_unfinished(l).is_some()).count())
    }

    /// All is there, no checksum is wrong, and nobody sees an inside address.
    fn judge(self, least: usize, leaks: &str) -> Result<()> {
        wait::until("the capture has what was sent", || {
            // The end of the file may be half written while tshark still captures.
            Ok(self.shown("ip").map_or(0, |t| t.lines().count()) >= least)
        })?;
        let bad = ["ip.checksum", "tcp.checksum", "udp.checksum", "icmp.checksum"];
        let bad = bad.map(|c| format!("{c}.status == 0")).join(" || ");
        // The kernel writes 0 as its equal 0xffff, in TCP too.
        let bad = format!("({bad}) && !(tcp.checksum == 0xffff)");
        // One packet in 65,536 has a checksum that looks unfinished. It is handed on as such, and its
        // receiver finishes it, behind the capture.
        let unfinished = self.unfinished(&bad)?;
        let text = self.shown(&bad)?;
        let wrong = text.lines().count() - unfinished;
        ensure!(
            wrong == 0 && unfinished <= least / 100,
            "{wrong} wrong checksums, {unfinished} unfinished at {}:\n{}",
            self.at.name,
            head(&text)
        );
        let text = self.shown(leaks)?;
        ensure!(text.is_empty(), "untranslated at {}:\n{}", self.at.name, head(&text));
        Ok(())
    }
}

fn head(text: &str) -> String {
    text.lines().take(10).collect::<Vec<_>>().join("\n")
}

/// The body that [`serve_http`] answers with.
fn body() -> Vec<u8> {
    (0..4_000_000u32).map(|i| (i / 7 + i / 1000) as u8).collect()
}

/// A server for so many requests, one after the other.
fn serve_http(node: &Node, port: u16, requests: usize) -> Result<()> {
    let (ready, is_ready) = std::sync::mpsc::channel();
    node.inside(move || {
        let listener = TcpListener::bind(("0.0.0.0", port))?;
        let _ = ready.send(());
        for _ in 0..requests {
            let (mut stream, _) = listener.accept()?;
            let (mut request, mut some) = (Vec::new(), [0; 1000]);
            while !request.ends_with(b"\r\n\r\n") {
                let n = stream.read(&mut some)?;
                ensure!(n > 0, "half a request");
                request.extend(&some[..n]);
            }
            let body = body();
            write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())?;
            stream.write_all(&body)?;
        }
        Ok(())
    });
    is_ready.recv().context("the server did not start")
}

fn fetch(lab: &Lab, from: &Node, url: &str) -> Result<()> {
    let file = lab.dir().join(format!("{}.body", from.name));
    let name = file.display().to_string();
    from.run(&["curl", "-sS", "--max-time", "60", "-o", &name, url])?;
    ensure!(std::fs::read(&file)? == body(), "another body than was sent");
    Ok(())
}

fn programs(lab: &Lab) -> Result<()> {
    let net = net(lab)?;
    let (inside, server) = (&net.inside, &net.server);
    let out = Capture::start(lab, server, "not src host 192.0.2.2")?;
    let back = Capture::start(lab, inside, &format!("ether src {}", net.router.mac))?;

    inside.ping(SERVER, 20)?;
    let text = inside.node.run(&["ping", "-q", "-c", "5", "-i", "0.1", "-s", "4000", SERVER])?;
    ensure!(text.contains(" 0% packet loss"), "fragments: {text}");
    // A kernel quotes what it has, unfinished checksums too; here the quoted ones are to be judged.
    inside.node.run(&["ethtool", "-K", "eth0", "tx", "off"])?;
    let text = inside.node.run(&["traceroute", "-n", "-q", "1", "-w", "5", SERVER])?;
    let hops: Vec<&str> = text.lines().filter_map(|l| l.split_whitespace().nth(1)).collect();
    ensure!(hops == ["to", ROUTER, SERVER], "{text}");
    let text = inside.node.run(&["traceroute", "-n", "-I", "-q", "1", "-w", "5", SERVER])?;
    ensure!(text.contains(ROUTER) && text.contains(SERVER), "with ICMP: {text}");
    // The quoted packet names the inside address again, or the kernel would not have told the program.
    let text = inside.node.output(&["nc", "-u", "-z", "-v", "-w", "2", SERVER, "9"])?;
    ensure!(text.status != 0, "an unreachable port: {}{}", text.stdout, text.stderr);

    inside.node.run(&["ethtool", "-K", "eth0", "tx", "on"])?;

    serve_http(&server.node, 80, 2)?;
    fetch(lab, &inside.node, &format!("http://{SERVER}/"))?;
    fetch(lab, &inside.node, &format!("http://{SERVER}/"))?;
    for direction in [&["-n", "8M"][..], &["-n", "8M", "-R"]] {
        let _iperf = tcp::serve(server)?;
        ensure!(tcp::measure(inside, SERVER, direction)? >= 4 << 20, "iperf3 {direction:?}");
    }
    names(inside, server)?;
    netcat(inside, server)?;

    let stats = net.daemon.json("conntrack stats")?;
    ensure!(stats["translated"].as_u64() > Some(0), "{stats}");
    out.judge(1000, "ip.addr == 10.0.0.0/8")?;
    back.judge(1000, &format!("ip.addr == {PUBLIC}"))
}

/// DNS over UDP, asked of dnsmasq by dig.
fn names(from: &Host, server: &Host) -> Result<()> {
    let words = [
        "dnsmasq",
        "-k",
        "-u",
        "root",
        "-C",
        "/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--pid-file",
        "--address=/name.example/192.0.2.77",
        "--listen-address=192.0.2.2",
        "--bind-interfaces",
    ];
    let _dnsmasq = server.node.start(&words)?;
    let at = format!("@{SERVER}");
    wait::until("the name is answered", || {
        let words = ["dig", "+short", "+tries=1", "+time=1", &at, "name.example"];
        Ok(from.node.output(&words)?.stdout.trim() == "192.0.2.77")
    })
}

/// A line over TCP by nc.
fn netcat(from: &Host, server: &Host) -> Result<()> {
    let _listens = server.node.start(&["sh", "-c", "echo hello | nc -l -N -p 7777"])?;
    wait::until("nc says hello", || {
        let words = ["sh", "-c", "nc -w 5 192.0.2.2 7777 </dev/null"];
        Ok(from.node.output(&words)?.stdout == "hello\n")
    })
}

fn dnat(lab: &Lab) -> Result<()> {
    let net = net(lab)?;
    for flow in [
        "table=2,ip,tcp,ct_state=+trk+new,nw_dst=203.0.113.1,tp_dst=8080,\
         actions=ct(commit,zone=1,nat(dst=10.0.0.1:80)),inside",
        "table=2,ip,udp,ct_state=+trk+new,nw_dst=203.0.113.1,tp_dst=5353,\
         actions=ct(commit,zone=1,nat(dst=10.0.0.1:9)),inside",
    ] {
        net.daemon.run(&format!("add-flow br0 {flow}"))?;
    }
    let out = Capture::start(lab, &net.server, "not src host 192.0.2.2")?;
    let back = Capture::start(lab, &net.inside, &format!("ether src {}", net.router.mac))?;
    serve_http(&net.inside.node, 80, 2)?;
    fetch(lab, &net.server.node, &format!("http://{PUBLIC}:8080/"))?;
    fetch(lab, &net.server.node, &format!("http://{PUBLIC}:8080/"))?;
    // A closed port: the error comes from the inside, is translated, and reaches the program.
    let words = ["nc", "-u", "-z", "-v", "-w", "2", PUBLIC, "5353"];
    let text = net.server.node.output(&words)?;
    ensure!(text.status != 0, "an unreachable port: {}{}", text.stdout, text.stderr);
    let list = net.daemon.json("conntrack list proto=tcp dst=203.0.113.1")?;
    let first = &list["connections"][0];
    ensure!(first["reply"]["src"] == INSIDE && first["reply"]["sport"] == 80, "{list}");
    out.judge(500, "ip.addr == 10.0.0.0/8")?;
    back.judge(500, &format!("ip.addr == {PUBLIC}"))
}

const CONNECTIONS: usize = 10_000;

fn parallel(lab: &Lab) -> Result<()> {
    let net = net(lab)?;
    net.server.node.run(&["sysctl", "-q", "-w", "net.core.somaxconn=16384"])?;
    net.inside.node.run(&["sysctl", "-q", "-w", "net.ipv4.ip_local_port_range=1024 65535"])?;
    let me = std::env::current_exe()?.display().to_string();
    let server = net.server.node.start(&[&me, "hold", "80", &CONNECTIONS.to_string()])?;
    wait::until("the server listens", || {
        let table = net.server.node.run(&["cat", "/proc/net/tcp"])?;
        Ok(table.lines().any(|line| line.contains(":0050 ") && line.contains(" 0A ")))
    })?;
    let client = net.inside.node.inside(|| {
        many_files()?;
        let to = "192.0.2.2:80".parse()?;
        let connect = |_| TcpStream::connect_timeout(&to, Duration::from_secs(30));
        let mut all: Vec<TcpStream> = (0..CONNECTIONS).map(connect).collect::<Result<_, _>>()?;
        for (i, stream) in all.iter_mut().enumerate() {
            stream.set_read_timeout(Some(Duration::from_secs(60)))?;
            stream.write_all(&[i as u8])?;
        }
        for (i, stream) in all.iter_mut().enumerate() {
            let mut byte = [0];
            stream.read_exact(&mut byte).with_context(|| format!("connection {i}"))?;
            ensure!(byte[0] == i as u8, "connection {i} got another one's answer");
        }
        Ok(all)
    });
    let all = joined(client)?;
    ensure!(server.wait()? == 0, "two connections had one port at a time");
    let stats = net.daemon.json("conntrack stats")?;
    ensure!(stats["connections"].as_u64() >= Some(CONNECTIONS as u64), "{stats}");
    drop(all);
    Ok(())
}

/// The server of [`parallel`], a process of its own for the sake of its open files.
pub fn hold(port: u16, connections: usize) -> Result<()> {
    many_files()?;
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    let mut held = Vec::new();
    let mut ports = std::collections::HashSet::new();
    for _ in 0..connections {
        let (stream, peer) = listener.accept()?;
        ensure!(peer.ip().to_string() == PUBLIC, "from {peer}");
        ensure!(ports.insert(peer.port()), "port {} twice at a time", peer.port());
        held.push(stream);
    }
    for stream in &mut held {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        stream.write_all(&byte)?;
    }
    Ok(())
}

fn many_files() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })
        .context("raising the limit of open files")
}

fn joined<T>(thread: std::thread::JoinHandle<Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?
}

fn fails_closed(lab: &Lab) -> Result<()> {
    let net = net(lab)?;
    net.daemon.run(
        "add-flow br0 table=1,priority=40000,udp,ct_state=+trk+new,\
         actions=ct(commit,zone=1,nat(src=203.0.113.1:7000-7003)),router",
    )?;
    let (from, to) = (net.inside.raw()?, net.router.raw()?);
    let frame = |port: u16, mark: &str| {
        let (src, dst) = (([10, 0, 0, 1].into(), port), ([192, 0, 2, 2].into(), 53));
        let packet = udp4(src, dst, mark.as_bytes());
        ethernet(net.router.mac, net.inside.mac, &[], 0x0800, &packet)
    };
    // Four ports for twenty connections to one place; then one that is known shows the end.
    for port in 2000..2020 {
        from.send(&frame(port, &format!("<{port}>")))?;
    }
    from.send(&frame(2000, "<end>"))?;
    let frames = to.until_mark("<end>")?;
    let ip = |f: &[u8]| f.get(12..14) == Some(&[8, 0]);
    let udp: Vec<_> = frames.iter().filter(|f| ip(f) && f.get(23) == Some(&17)).collect();
    let translated = |f: &&&Vec<u8>| {
        f[26..30] == [203, 0, 113, 1]
            && (7000..7004).contains(&(u16::from_be_bytes([f[34], f[35]])))
    };
    ensure!(udp.iter().filter(translated).count() == udp.len(), "one left untranslated");
    ensure!(udp.len() == 5, "{} packets left", udp.len());
    let drops = report::drops(&net.daemon.json("drops")?);
    ensure!(drops.iter().any(|(why, n)| why == "nat_exhausted" && *n == 16), "{drops:?}");
    let stats = net.daemon.json("conntrack stats")?;
    let events = stats["events"].as_array().context("no events")?;
    ensure!(events.iter().any(|e| e["name"] == "exhausted" && e["count"] == 16), "{stats}");
    Ok(())
}
