//! What a bridge is: patch ports, `fail_mode`, reserved addresses, several bridges side by side.

use super::pair;
use crate::daemon::Daemon;
use crate::frame::{Mac, dot1q, has_mark, marked, tags};
use crate::lab::Lab;
use crate::runner::Case;
use crate::{Result, cmd, ensure, report, wait};

pub const CASES: &[Case] = &[
    Case::new("patch", "two bridges joined by patch ports", patch),
    Case::new("patch-vlan", "a VLAN's frames cross patch ports with their tag", patch_vlan),
    Case::new(
        "patch-loop",
        "a loop of patch ports is cut and counted, and traffic goes on",
        patch_loop,
    ),
    Case::new("bridges-apart", "two bridges without a patch share nothing", apart),
    Case::new(
        "reserved-multicast",
        "01:80:c2:00:00:0x is not forwarded, unless asked for",
        reserved,
    ),
    Case::new("fail-mode-secure", "a secure bridge starts empty, drops and counts", secure),
    Case::new("hairpin", "a frame never leaves by the port it came in", hairpin),
    Case::new("del-port-del-br", "what is removed forwards no more; what stays does", removal),
];

fn patch(lab: &Lab) -> Result<()> {
    let h1 = lab.host("h1", "10.0.0.1/24")?;
    let h2 = lab.host("h2", "10.0.0.2/24")?;
    let daemon = Daemon::start(lab)?;
    daemon.run("add-br br0 -- add-port br0 h1 -- add-br br1 -- add-port br1 h2")?;
    daemon.run("add-port br0 p0 type=patch options:peer=p1")?;
    h1.cannot_reach(&h2.address)?;
    daemon.run("add-port br1 p1 type=patch options:peer=p0")?;
    h1.ping(&h2.address, 20)?;
    // The far machine was learned behind the patch port.
    let fdb = daemon.json("fdb show br0")?;
    ensure!(
        report::text(report::object(&fdb, "mac", &h2.mac.to_string())?, "port") == "p0",
        "{fdb}"
    );
    daemon.run("del-port br1 p1")?;
    h1.cannot_reach(&h2.address)
}

fn patch_vlan(lab: &Lab) -> Result<()> {
    let (a, b) = (lab.host("a", "")?, lab.host("b", "")?);
    let (c, t) = (lab.host("c", "")?, lab.host("t", "")?);
    let daemon = Daemon::start(lab)?;
    daemon.run("add-br br0 -- add-port br0 a tag=5")?;
    daemon.run("add-br br1 -- add-port br1 b tag=5 -- add-port br1 c tag=6 -- add-port br1 t")?;
    daemon.run(
        "add-port br0 p0 type=patch options:peer=p1 -- add-port br1 p1 type=patch options:peer=p0",
    )?;
    let (on_a, on_b, on_c, on_t) = (a.raw()?, b.raw()?, c.raw()?, t.raw()?);
    on_a.send(&marked(Mac::BROADCAST, a.mac, &[], "<from-a>"))?;
    ensure!(tags(&on_b.expect("<from-a>")?).is_empty(), "an access port got a tag");
    ensure!(tags(&on_t.expect("<from-a>")?) == [dot1q(5)], "the trunk got another tag");
    on_t.send(&marked(Mac::BROADCAST, t.mac, &[dot1q(6)], "<end>"))?;
    let frames = on_c.until_mark("<end>")?;
    ensure!(!frames.iter().any(|f| has_mark(f, "<from-a>")), "VLAN 5 reached VLAN 6");
    Ok(())
}

fn patch_loop(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    h1.ping(&h2.address, 5)?;
    daemon.run("add-br br1")?;
    for (a, b) in [("a0", "a1"), ("b0", "b1")] {
        daemon.run(&format!(
            "add-port br0 {a} type=patch options:peer={b} -- add-port br1 {b} type=patch options:peer={a}"
        ))?;
    }
    let before = cut(&daemon)?;
    let raw = h1.raw()?;
    wait::until("the cut loop is counted", || {
        raw.send(&marked(Mac::BROADCAST, h1.mac, &[], "<loop>"))?;
        Ok(cut(&daemon)? > before)
    })?;
    ensure!(daemon.ctl(&["version"])?.status == 0, "the daemon does not answer");
    for port in ["a0", "b0"] {
        daemon.run(&format!("del-port br0 {port}"))?;
    }
    daemon.run("fdb flush br0")?;
    h1.ping(&h2.address, 20)
}

/// How many packets were dropped for recursion or for going round.
fn cut(daemon: &Daemon) -> Result<u64> {
    let drops = report::drops(&daemon.json("drops")?);
    let words = ["loop", "recursion", "depth", "outputs", "translation"];
    let about = |reason: &str| words.iter().any(|word| reason.to_lowercase().contains(word));
    Ok(drops.iter().filter(|(reason, _)| about(reason)).map(|(_, n)| n).sum())
}

fn apart(lab: &Lab) -> Result<()> {
    let daemon = Daemon::start(lab)?;
    let mut hosts = Vec::new();
    for (name, address) in
        [("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.1"), ("d", "10.0.0.2")]
    {
        hosts.push(lab.host(name, &format!("{address}/24"))?);
    }
    daemon.run("add-br br0 -- add-port br0 a -- add-port br0 b")?;
    daemon.run("add-br br1 -- add-port br1 c -- add-port br1 d")?;
    // The same addresses twice: each pair talks to itself.
    hosts[0].ping("10.0.0.2", 5)?;
    hosts[2].ping("10.0.0.2", 5)?;
    let neighbour = hosts[0].node.run(&["ip", "neigh", "show", "10.0.0.2"])?;
    ensure!(neighbour.contains(&hosts[1].mac.to_string()), "{neighbour}");
    let (on_b, on_c, on_d) = (hosts[1].raw()?, hosts[2].raw()?, hosts[3].raw()?);
    hosts[0].raw()?.send(&marked(Mac::BROADCAST, hosts[0].mac, &[], "<other>"))?;
    on_b.expect("<other>")?;
    on_c.send(&marked(Mac::BROADCAST, hosts[2].mac, &[], "<end>"))?;
    let frames = on_d.until_mark("<end>")?;
    ensure!(!frames.iter().any(|f| has_mark(f, "<other>")), "a frame crossed bridges");
    Ok(())
}

fn reserved(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    let (from, to) = (h1.raw()?, h2.raw()?);
    for last in 0..16 {
        let mac = Mac([0x01, 0x80, 0xc2, 0, 0, last]);
        from.send(&marked(mac, h1.mac, &[], "<reserved>"))?;
    }
    // The next address is not reserved.
    from.send(&marked(Mac([0x01, 0x80, 0xc2, 0, 0, 0x10]), h1.mac, &[], "<next>"))?;
    let frames = to.until_mark("<next>")?;
    ensure!(!frames.iter().any(|f| has_mark(f, "<reserved>")), "a reserved address was forwarded");
    daemon.run("set bridge br0 other_config:forward-bpdu=true")?;
    from.send(&marked(Mac([0x01, 0x80, 0xc2, 0, 0, 0]), h1.mac, &[], "<bpdu>"))?;
    to.expect("<bpdu>")?;
    daemon.run("clear bridge br0 other_config")?;
    from.send(&marked(Mac([0x01, 0x80, 0xc2, 0, 0, 0]), h1.mac, &[], "<again>"))?;
    from.send(&marked(Mac::BROADCAST, h1.mac, &[], "<end>"))?;
    let frames = to.until_mark("<end>")?;
    ensure!(!frames.iter().any(|f| has_mark(f, "<again>")), "forward-bpdu outlived its removal");
    Ok(())
}

fn secure(lab: &Lab) -> Result<()> {
    let h1 = lab.host("h1", "10.0.0.1/24")?;
    let h2 = lab.host("h2", "10.0.0.2/24")?;
    let daemon = Daemon::start(lab)?;
    daemon.run("add-br br0 fail_mode=secure -- add-port br0 h1 -- add-port br0 h2")?;
    let (from, to) = (h1.raw()?, h2.raw()?);
    let count = || -> Result<u64> {
        Ok(report::drops(&daemon.json("drops")?).iter().map(|(_, n)| n).sum())
    };
    let before = count()?;
    for _ in 0..50 {
        from.send(&marked(h2.mac, h1.mac, &[], "<secure>"))?;
    }
    wait::until("50 drops are counted", || Ok(count()? >= before + 50))?;
    let got = to.receive(std::time::Duration::ZERO)?;
    ensure!(
        !got.is_some_and(|f| has_mark(&f, "<secure>")),
        "a secure bridge without flows forwarded"
    );
    ensure!(daemon.run("get bridge br0 fail_mode")?.trim() == "secure", "get says otherwise");
    Ok(())
}

fn hairpin(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    let (from, to) = (h1.raw()?, h2.raw()?);
    let other = Mac([2, 0, 0, 0, 9, 9]);
    // `other` is learned behind h1's own port: a frame for it from h1 stays there.
    from.send(&marked(Mac::BROADCAST, other, &[], "<teach>"))?;
    to.expect("<teach>")?;
    wait::until("the address is learned", || {
        Ok(report::object(&daemon.json("fdb show br0")?, "mac", &other.to_string()).is_ok())
    })?;
    from.send(&marked(other, h1.mac, &[], "<hairpin>"))?;
    from.send(&marked(Mac::BROADCAST, h1.mac, &[], "<end>"))?;
    let frames = to.until_mark("<end>")?;
    ensure!(!frames.iter().any(|f| has_mark(f, "<hairpin>")), "flooded although it is known");
    to.send(&marked(Mac::BROADCAST, h2.mac, &[], "<back>"))?;
    let frames = from.until_mark("<back>")?;
    ensure!(frames.iter().all(|f| !has_mark(f, "<hairpin>") && !has_mark(f, "<end>")), "came back");
    Ok(())
}

fn removal(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    let h3 = lab.host("h3", "10.0.0.3/24")?;
    daemon.run("add-port br0 h3")?;
    h1.ping(&h2.address, 5)?;
    h1.ping(&h3.address, 5)?;
    daemon.run("del-port br0 h2")?;
    h1.cannot_reach(&h2.address)?;
    h1.ping(&h3.address, 5)?;
    ensure!(
        !cmd::run(&["ip", "link", "show", "dev", "h2"])?.contains("xdp"),
        "h2 keeps its XDP program"
    );
    daemon.run("add-port br0 h2")?;
    h1.ping(&h2.address, 5)?;
    ensure!(cmd::output(&["ip", "link", "show", "dev", "br0"])?.status == 0, "no interface br0");
    daemon.run("del-br br0")?;
    h1.cannot_reach(&h3.address)?;
    ensure!(cmd::output(&["ip", "link", "show", "dev", "br0"])?.status != 0, "br0 is left");
    for port in ["h1", "h2", "h3"] {
        let link = cmd::run(&["ip", "link", "show", "dev", port])?;
        ensure!(
            !link.contains("xdp") && !link.contains("PROMISC"),
            "{port} is not as it was: {link}"
        );
    }
    ensure!(daemon.run("list-br")?.trim().is_empty(), "a bridge is left");
    Ok(())
}
