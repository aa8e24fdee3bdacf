//! Interfaces that change under the switch: deleted, returned, moved, down, another MTU; and what
//! `add-port` and `del-port` do to an interface.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::pair;
use crate::daemon::Daemon;
use crate::frame::{Mac, marked};
use crate::lab::{Host, Lab};
use crate::runner::Case;
use crate::{Context, Result, bpf, cmd, ensure, report, wait};

pub const CASES: &[Case] = &[
    Case::new("interface-deleted", "deleted and made again: said in show, taken back", deleted),
    Case::new("interface-moved", "moved away and back: said in show, taken back", moved),
    Case::new("interface-down-up", "down is said in show; up again it works on", down_up),
    Case::new("interface-mtu", "a changed MTU, also a jumbo one, is followed", mtu),
    Case::new("interface-restored", "del-port puts flags and XDP back as they were", restored),
    Case::new(
        "interface-addresses",
        "an interface with addresses is taken with a warning",
        addresses,
    ),
    Case::new("xdp-in-the-way", "a foreign XDP program: refused, and it stays", in_the_way),
    Case::new("interface-queues", "every queue of a multi-queue interface is received", queues),
    Case::new("interface-churn", "random interfaces deleted under load: no frame is lost", churn)
        .limit(240),
    Case::new("thousand-ports", "1,000 ports are configured and forward", thousand).limit(500),
];

/// Wait until `show` tells a state other than up (or up again) for a port.
fn wait_up(daemon: &Daemon, port: &str, up: bool) -> Result<()> {
    let mut last = String::new();
    let result = wait::until(&format!("show says up = {up} for {port}"), || {
        let show = daemon.json("show")?;
        last = report::text(report::object(&show, "name", port)?, "state").to_owned();
        Ok((last == "up") == up)
    });
    result.with_context(|| format!("the state of {port} is {last:?}"))
}

/// The frames of the region by place, from `workers`: (total, sum of all places).
fn census(daemon: &Daemon) -> Result<(u64, u64)> {
    let document = daemon.json("workers")?;
    let objects = report::objects(&document);
    let frames = objects.iter().find_map(|map| map.get("frames")?.as_object());
    let frames = frames.context("workers says nothing of frames")?;
    let total = frames.get("total").and_then(Value::as_u64).context("no total")?;
    let sum = frames.iter().filter(|(k, _)| *k != "total").filter_map(|(_, v)| v.as_u64()).sum();
    Ok((total, sum))
}

/// All frames are accounted for, as soon as nothing is in motion.
fn balanced(daemon: &Daemon) -> Result<()> {
    let mut last = (0, 0);
    let result = wait::until("every frame is accounted for", || {
        last = census(daemon)?;
        Ok(last.0 > 0 && last.0 == last.1)
    });
    result.with_context(|| format!("{} frames, {} accounted for", last.0, last.1))
}

fn deleted(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    let h3 = lab.host("h3", "10.0.0.3/24")?;
    daemon.run("add-port br0 h3")?;
    h1.ping(&h2.address, 5)?;
    for _ in 0..3 {
        cmd::run(&["ip", "link", "del", "dev", "h2"])?;
        wait_up(&daemon, "h2", false)?;
        h1.ping(&h3.address, 5)?;
        balanced(&daemon)?;
        // It stays configured, with its number.
        ensure!(daemon.run("port-to-br h2")?.trim() == "br0", "h2 left the configuration");
        recable(lab, &h2)?;
        wait_up(&daemon, "h2", true)?;
        h1.ping(&h2.address, 5)?;
    }
    balanced(&daemon)
}

/// A new cable for a machine whose old one was deleted.
fn recable(lab: &Lab, host: &Host) -> Result<()> {
    lab.cable(&host.node.name, &host.node, "eth0")?;
    let node = &host.node;
    node.run(&["ip", "link", "set", "dev", "eth0", "address", &host.mac.to_string()])?;
    if !host.address.is_empty() {
        node.run(&["ip", "addr", "add", &format!("{}/24", host.address), "dev", "eth0"])?;
    }
    Ok(())
}

fn moved(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    let away = lab.node("away")?;
    h1.ping(&h2.address, 5)?;
    cmd::run(&["ip", "link", "set", "dev", "h2", "netns", "away"])?;
    wait_up(&daemon, "h2", false)?;
    balanced(&daemon)?;
    let link = away.run(&["ip", "link", "show", "dev", "h2"])?;
    ensure!(!link.contains("xdp"), "the program went with it: {link}");
    // Another one of that name is taken instead; then the old one comes back under it.
    away.run(&["ip", "link", "set", "dev", "h2", "netns", "1"])?;
    cmd::run(&["ip", "link", "set", "dev", "h2", "up"])?;
    wait_up(&daemon, "h2", true)?;
    h1.ping(&h2.address, 5)
}

fn down_up(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    h1.ping(&h2.address, 5)?;
    cmd::run(&["ip", "link", "set", "dev", "h2", "down"])?;
    wait_up(&daemon, "h2", false)?;
    cmd::run(&["ip", "link", "set", "dev", "h2", "up"])?;
    wait_up(&daemon, "h2", true)?;
    h1.ping(&h2.address, 5)?;
    // The far end going down takes the carrier.
    h2.node.run(&["ip", "link", "set", "dev", "eth0", "down"])?;
    wait_up(&daemon, "h2", false)?;
    h2.node.run(&["ip", "link", "set", "dev", "eth0", "up"])?;
    wait_up(&daemon, "h2", true)?;
    h1.ping(&h2.address, 5)?;
    balanced(&daemon)
}

fn mtu(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    h1.ping(&h2.address, 5)?;
    let both = |mtu: &str| -> Result<()> {
        for host in [&h1, &h2] {
            cmd::run(&["ip", "link", "set", "dev", &host.node.name, "mtu", mtu])?;
            host.node.run(&["ip", "link", "set", "dev", "eth0", "mtu", mtu])?;
        }
        Ok(())
    };
    for (mtu, payload) in [("1400", "1372"), ("1700", "1672"), ("9000", "8972"), ("1500", "1472")] {
        both(mtu).with_context(|| format!("MTU {mtu}"))?;
        for port in ["h1", "h2"] {
            wait::until(&format!("show says MTU {mtu}"), || {
                let show = daemon.json("show")?;
                let now = report::object(&show, "name", port)?.get("mtu").and_then(Value::as_u64);
                Ok(now.map(|n| n.to_string()).as_deref() == Some(mtu))
            })?;
        }
        wait::until(&format!("frames of MTU {mtu} cross"), || {
            let ping = ["ping", "-q", "-M", "do", "-s", payload, "-c", "2", "-W", "1", &h2.address];
            Ok(h1.node.output(&ping)?.status == 0)
        })?;
    }
    balanced(&daemon)
}

fn restored(lab: &Lab) -> Result<()> {
    let h1 = lab.host("h1", "")?;
    let flags = || -> Result<String> {
        let features = cmd::run(&["ethtool", "-k", "h1"])?;
        let flags = cmd::run(&["cat", "/sys/class/net/h1/flags"])?;
        let link = cmd::run(&["ip", "-d", "link", "show", "dev", "h1"])?;
        let kept = ["xdp", "promiscuity 1"].iter().filter(|word| link.contains(**word)).count();
        Ok(format!("{flags}{features}{kept}"))
    };
    cmd::run(&["ip", "link", "set", "dev", "h1", "down"])?;
    h1.node.run(&["ip", "link", "set", "dev", "eth0", "up"])?;
    let before = flags()?;
    let daemon = Daemon::start(lab)?;
    for mode in ["native", "generic"] {
        daemon
            .run(&format!("--may-exist add-br br0 -- add-port br0 h1 options:xdp-mode={mode} options:accept-tag-loss=true"))?;
        let link = cmd::run(&["ip", "link", "show", "dev", "h1"])?;
        ensure!(link.contains("UP") && link.contains("PROMISC"), "not up and promiscuous: {link}");
        daemon.run("del-port br0 h1")?;
        let after = flags()?;
        ensure!(before == after, "{mode}: before\n{before}\nafter\n{after}");
    }
    Ok(())
}

fn addresses(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    let _h3 = lab.host("h3", "")?;
    cmd::run(&["ip", "addr", "add", "192.0.2.1/24", "dev", "h3"])?;
    let out = daemon.ctl(&["add-port", "br0", "h3"])?;
    ensure!(out.status == 0, "refused: {}", out.stderr);
    ensure!(
        out.stderr.contains("h3") && out.stderr.contains("192.0.2.1"),
        "no warning: {}",
        out.stderr
    );
    h1.ping(&h2.address, 1)
}

fn in_the_way(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    let _h3 = lab.host("h3", "")?;
    let other = bpf::xdp_in_the_way("h3")?;
    let before = cmd::run(&["ip", "link", "show", "dev", "h3"])?;
    daemon.refuses("add-port br0 h3", 1, &["h3", "XDP program"])?;
    let after = cmd::run(&["ip", "link", "show", "dev", "h3"])?;
    ensure!(before == after, "before {before} after {after}");
    ensure!(!daemon.run("list-ports br0")?.contains("h3"), "h3 was stored");
    drop(other);
    daemon.run("add-port br0 h3")?;
    h1.ping(&h2.address, 1)
}

fn queues(lab: &Lab) -> Result<()> {
    let h1 = lab.host_with_queues("h1", "10.0.0.1/24", 2)?;
    let h2 = lab.host_with_queues("h2", "10.0.0.2/24", 2)?;
    let daemon = Daemon::start(lab)?;
    daemon.run("add-br br0 -- add-port br0 h1 -- add-port br0 h2")?;
    h1.ping(&h2.address, 5)?;
    // Different flows choose different queues: all of them have to arrive.
    let (from, to) = (h1.raw()?, h2.raw()?);
    for n in 0..64_u8 {
        let source = Mac([2, 0, 0, 8, 0, n]);
        from.send(&marked(Mac::BROADCAST, source, &[], &format!("<flow-{n}>")))?;
    }
    let mut missing: Vec<u8> = (0..64).collect();
    let end = Instant::now() + wait::SOON;
    while !missing.is_empty() && Instant::now() < end {
        let Some(frame) = to.receive(Duration::from_millis(200))? else { continue };
        missing.retain(|n| !crate::frame::has_mark(&frame, &format!("<flow-{n}>")));
    }
    ensure!(missing.is_empty(), "flows {missing:?} did not arrive");
    super::tcp::serve(&h2)
        .and_then(|_server| super::tcp::measure(&h1, &h2.address, &["-P", "4", "-n", "32M"]))?;
    Ok(())
}

/// Machines send to each other all the time while their cables are cut and laid anew for a minute.
fn churn(lab: &Lab) -> Result<()> {
    let daemon = Daemon::start(lab)?;
    daemon.run("add-br br0")?;
    let mut hosts = Vec::new();
    for n in 1..=6 {
        let host = lab.host(&format!("h{n}"), &format!("10.0.0.{n}/24"))?;
        daemon.run(&format!("add-port br0 h{n}"))?;
        hosts.push(host);
    }
    hosts[0].ping(&hosts[1].address, 1)?;
    let end = Instant::now() + Duration::from_secs(60);
    let mut random: u32 = 0x2545_f491;
    let mut rounds = 0;
    while Instant::now() < end {
        // h1 and h2 stay; the other four come and go under a flood of broadcasts and unicasts.
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        let victim = &hosts[2 + random as usize % 4];
        let _loads: Vec<_> =
            hosts.iter().map(|host| flood(lab, host, &hosts)).collect::<Result<_>>()?;
        std::thread::sleep(Duration::from_millis(100 + u64::from(random >> 8) % 300));
        let cut_far_end = random & 0x8000_0000 != 0;
        if cut_far_end {
            victim.node.run(&["ip", "link", "del", "dev", "eth0"])?;
        } else {
            cmd::run(&["ip", "link", "del", "dev", &victim.node.name])?;
        }
        std::thread::sleep(Duration::from_millis(u64::from(random >> 16) % 200));
        recable(lab, victim)?;
        rounds += 1;
    }
    for n in 1..=6 {
        wait_up(&daemon, &format!("h{n}"), true)?;
    }
    balanced(&daemon).with_context(|| format!("after {rounds} interfaces deleted"))?;
    for host in &hosts[1..] {
        hosts[0].ping(&host.address, 5)?;
    }
    println!("{rounds} interfaces deleted under load");
    Ok(())
}

/// A ping flood from a machine to the next one, in the background.
fn flood(_lab: &Lab, host: &Host, all: &[Host]) -> Result<crate::lab::Background> {
    let at = all.iter().position(|other| other.node.name == host.node.name).unwrap_or(0);
    let to = &all[(at + 1) % all.len()].address;
    host.node.start(&["ping", "-q", "-f", "-s", "1400", to])
}

fn thousand(lab: &Lab) -> Result<()> {
    use std::io::Write;
    let h1 = lab.host("h1", "10.0.0.1/24")?;
    let h2 = lab.host("h2", "10.0.0.2/24")?;
    let batch = lab.dir().join("links");
    let mut file = std::fs::File::create(&batch)?;
    for n in 0..998 {
        writeln!(file, "link add name v{n} type veth peer name w{n}")?;
        writeln!(file, "link set dev w{n} up")?;
    }
    drop(file);
    cmd::run(&["ip", "-batch", batch.to_str().context("path")?])?;
    let mut daemon = Daemon::start_as(lab, "sw", &["--umem", "128M"])?;
    daemon.run("add-br br0 -- add-port br0 h1")?;
    for chunk in (0..998).collect::<Vec<u32>>().chunks(100) {
        let commands: Vec<String> = chunk.iter().map(|n| format!("add-port br0 v{n}")).collect();
        daemon.run(&commands.join(" -- "))?;
    }
    daemon.run("add-port br0 h2")?;
    ensure!(daemon.run("list-ports br0")?.split_whitespace().count() == 1000, "not 1,000 ports");
    h1.ping(&h2.address, 5)?;
    // A restart brings all of them back.
    // The kernel takes its time to let go of a thousand sockets and programs: the daemon leaves what it
    // has not closed within its seconds to it.
    daemon.end(rustix::process::Signal::TERM, Duration::from_secs(60))?;
    wait::until("no XDP program is left", || {
        Ok(!cmd::run(&["ip", "link", "show"])?.contains("prog/xdp"))
    })?;
    let daemon = daemon.again()?;
    ensure!(daemon.run("list-ports br0")?.split_whitespace().count() == 1000, "not 1,000 ports");
    h1.ping(&h2.address, 5)
}
