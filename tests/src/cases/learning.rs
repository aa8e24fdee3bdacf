//! MAC learning: what is known is not flooded, and what is known changes and ends.

use std::time::Duration;

use serde_json::Value;

use super::pair;
use crate::daemon::Daemon;
use crate::frame::{Mac, dot1q, has_mark, marked};
use crate::lab::Lab;
use crate::runner::Case;
use crate::{Result, cmd, ensure, report, wait};

pub const CASES: &[Case] = &[
    Case::new("fdb-show", "fdb show tells port, VLAN and address", show),
    Case::new("fdb-unicast", "what is learned is no longer flooded; fdb flush forgets", unicast),
    Case::new("fdb-move", "an address that appears at another port is followed", moves),
    Case::new("fdb-vlans", "the same address is learned per VLAN", per_vlan),
    Case::new("fdb-ageing", "an address that is not heard is forgotten, one that is stays", ageing),
    Case::new("fdb-limit", "no more addresses than mac-table-size", limit),
    Case::new("fdb-multicast", "a multicast source is not learned", multicast),
    Case::new("fdb-port-gone", "what was learned at a port goes with it", port_gone),
];

fn mac(n: u16) -> Mac {
    let [high, low] = n.to_be_bytes();
    Mac([2, 0, 0, 7, high, low])
}

/// The entry of an address in a bridge's table.
fn entry(daemon: &Daemon, mac: Mac) -> Result<Option<Value>> {
    let fdb = daemon.json("fdb show br0")?;
    Ok(report::object(&fdb, "mac", &mac.to_string()).ok().map(|map| Value::Object(map.clone())))
}

fn learned_at(daemon: &Daemon, mac: Mac, port: &str) -> Result<()> {
    wait::until(&format!("{mac} is learned at {port}"), || {
        let entry = entry(daemon, mac)?;
        Ok(entry.is_some_and(|e| e.get("port").and_then(Value::as_str) == Some(port)))
    })
}

fn show(lab: &Lab) -> Result<()> {
    let h1 = lab.host("h1", "10.0.0.1/24")?;
    let h2 = lab.host("h2", "10.0.0.2/24")?;
    let daemon = Daemon::start(lab)?;
    daemon.run("add-br br0 -- add-port br0 h1 tag=12 -- add-port br0 h2 tag=12")?;
    h1.ping(&h2.address, 1)?;
    learned_at(&daemon, h1.mac, "h1")?;
    learned_at(&daemon, h2.mac, "h2")?;
    let vlan = entry(&daemon, h1.mac)?.and_then(|e| e.get("vlan").and_then(Value::as_u64));
    ensure!(vlan == Some(12), "the entry says VLAN {vlan:?}");
    let text = daemon.run("fdb show br0")?;
    ensure!(text.contains(&h1.mac.to_string()) && text.contains("12"), "{text}");
    daemon.run("fdb stats br0")?;
    daemon.refuses("fdb show br1", 1, &["br1"])
}

fn unicast(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    let h3 = lab.host("h3", "")?;
    daemon.run("add-port br0 h3")?;
    let (from, to, third) = (h1.raw()?, h2.raw()?, h3.raw()?);
    // Not known yet: everybody gets it.
    from.send(&marked(h2.mac, h1.mac, &[], "<unknown>"))?;
    third.expect("<unknown>")?;
    to.send(&marked(Mac::BROADCAST, h2.mac, &[], "<teach>"))?;
    learned_at(&daemon, h2.mac, "h2")?;
    from.send(&marked(h2.mac, h1.mac, &[], "<known>"))?;
    to.expect("<known>")?;
    from.send(&marked(Mac::BROADCAST, h1.mac, &[], "<all>"))?;
    let frames = third.until_mark("<all>")?;
    ensure!(!frames.iter().any(|f| has_mark(f, "<known>")), "flooded although it is known");
    daemon.run("fdb flush br0")?;
    from.send(&marked(h2.mac, h1.mac, &[], "<flushed>"))?;
    third.expect("<flushed>")?;
    Ok(())
}

fn moves(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    let h3 = lab.host("h3", "")?;
    daemon.run("add-port br0 h3")?;
    let (one, two, three) = (h1.raw()?, h2.raw()?, h3.raw()?);
    let roamer = mac(1);
    one.send(&marked(Mac::BROADCAST, roamer, &[], "<here>"))?;
    learned_at(&daemon, roamer, "h1")?;
    three.send(&marked(roamer, h3.mac, &[], "<to-h1>"))?;
    one.expect("<to-h1>")?;
    two.send(&marked(Mac::BROADCAST, roamer, &[], "<there>"))?;
    learned_at(&daemon, roamer, "h2")?;
    three.send(&marked(roamer, h3.mac, &[], "<to-h2>"))?;
    two.expect("<to-h2>")?;
    three.send(&marked(Mac::BROADCAST, h3.mac, &[], "<end>"))?;
    let frames = one.until_mark("<end>")?;
    ensure!(!frames.iter().any(|f| has_mark(f, "<to-h2>")), "still sent to the old place");
    Ok(())
}

fn per_vlan(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    let h3 = lab.host("h3", "")?;
    daemon.run("add-port br0 h3")?;
    let (one, two, three) = (h1.raw()?, h2.raw()?, h3.raw()?);
    let twice = mac(2);
    one.send(&marked(Mac::BROADCAST, twice, &[dot1q(5)], "<five>"))?;
    two.send(&marked(Mac::BROADCAST, twice, &[dot1q(6)], "<six>"))?;
    wait::until("both entries are there", || {
        let fdb = daemon.json("fdb show br0")?;
        let all = report::objects(&fdb);
        let vlans = all.iter().filter(|m| report::text(m, "mac") == twice.to_string()).count();
        Ok(vlans == 2)
    })?;
    three.send(&marked(twice, h3.mac, &[dot1q(5)], "<to-five>"))?;
    one.expect("<to-five>")?;
    three.send(&marked(twice, h3.mac, &[dot1q(6)], "<to-six>"))?;
    let frames = two.until_mark("<to-six>")?;
    ensure!(
        !frames.iter().any(|f| has_mark(f, "<to-five>")),
        "VLAN 5's frame came to VLAN 6's place"
    );
    Ok(())
}

fn ageing(lab: &Lab) -> Result<()> {
    let (daemon, h1, _h2) = pair(lab)?;
    // The shortest time that is possible.
    daemon.run("set bridge br0 other_config:mac-aging-time=15")?;
    let raw = h1.raw()?;
    let (quiet, talking) = (mac(1), mac(2));
    raw.send(&marked(Mac::BROADCAST, quiet, &[], "<quiet>"))?;
    raw.send(&marked(Mac::BROADCAST, talking, &[], "<talking>"))?;
    learned_at(&daemon, quiet, "h1")?;
    learned_at(&daemon, talking, "h1")?;
    // Traffic that the caches serve keeps its source young too.
    wait::until_for(Duration::from_secs(60), "the quiet address is forgotten", || {
        raw.send(&marked(Mac::BROADCAST, talking, &[], "<talking>"))?;
        std::thread::sleep(Duration::from_millis(200));
        Ok(entry(&daemon, quiet)?.is_none().then_some(()))
    })?;
    ensure!(entry(&daemon, talking)?.is_some(), "an address that is heard was forgotten");
    Ok(())
}

fn limit(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    daemon.run("set bridge br0 other_config:mac-table-size=20")?;
    let (from, to) = (h1.raw()?, h2.raw()?);
    for n in 0..500 {
        from.send(&marked(Mac::BROADCAST, mac(n), &[], "<many>"))?;
    }
    from.send(&marked(Mac::BROADCAST, mac(500), &[], "<last>"))?;
    to.until_mark("<last>")?;
    let fdb = daemon.json("fdb show br0")?;
    let entries = report::objects(&fdb).iter().filter(|m| m.contains_key("mac")).count();
    ensure!((1..=20).contains(&entries), "{entries} addresses with a limit of 20");
    // The table is full of strangers; machines still talk.
    h1.ping(&h2.address, 5)
}

fn multicast(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    let (from, to) = (h1.raw()?, h2.raw()?);
    let group = Mac([0x03, 0, 0, 0, 0, 1]);
    from.send(&marked(Mac::BROADCAST, group, &[], "<group>"))?;
    from.send(&marked(Mac::BROADCAST, mac(3), &[], "<end>"))?;
    to.until_mark("<end>")?;
    learned_at(&daemon, mac(3), "h1")?;
    ensure!(entry(&daemon, group)?.is_none(), "a multicast source was learned");
    Ok(())
}

fn port_gone(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    h1.ping(&h2.address, 1)?;
    learned_at(&daemon, h1.mac, "h1")?;
    daemon.run("del-port br0 h1")?;
    ensure!(entry(&daemon, h1.mac)?.is_none(), "the address outlived its port");
    learned_at(&daemon, h2.mac, "h2")?;
    cmd::run(&["ip", "link", "del", "dev", "h2"])?;
    wait::until("the address goes with its interface", || Ok(entry(&daemon, h2.mac)?.is_none()))
}
