//! Tracked connections as an operator sees them: list, follow, end, count, limit, time.

use serde_json::Value;

use super::pair;
use crate::daemon::Daemon;
use crate::frame::{ethernet, udp4};
use crate::lab::{Host, Lab};
use crate::monitor::Monitor;
use crate::runner::Case;
use crate::{Context, Result, ensure, report, wait};

pub const CASES: &[Case] = &[
    Case::new("conntrack-list", "connections are listed by filter, followed, and ended", list),
    Case::new("conntrack-limit", "a zone's limit holds, and who fills the table is told", limits),
    Case::new("conntrack-timeout", "timeouts hold by zone and survive a restart", timeouts),
    Case::new("conntrack-words", "wrong words of conntrack commands are refused", words),
];

/// Stateful both ways, in zone 5.
const STATEFUL: &[&str] = &[
    "add-flow br0 priority=1,arp,actions=NORMAL",
    "add-flow br0 priority=10,ip,actions=ct(table=1,zone=5)",
    "add-flow br0 table=1,ct_state=+trk+new,ip,in_port=h1,actions=ct(commit,zone=5,exec(set_field:0x7->ct_mark)),NORMAL",
    "add-flow br0 table=1,ct_state=+trk+est,ip,actions=NORMAL",
];

fn stateful(daemon: &Daemon) -> Result<()> {
    daemon.run("del-flows br0")?;
    STATEFUL.iter().try_for_each(|flow| daemon.run(flow).map(drop))
}

/// What `conntrack list FILTER` has.
pub(super) fn connections(daemon: &Daemon, filter: &str) -> Result<Vec<Value>> {
    let list = daemon.json(&format!("conntrack list {filter}"))?;
    Ok(list["connections"].as_array().context("no list")?.clone())
}

fn count(stats: &Value, list: &str, name: &str) -> u64 {
    let named = stats[list].as_array().into_iter().flatten();
    named.filter(|n| n["name"] == name).filter_map(|n| n["count"].as_u64()).sum()
}

fn list(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    stateful(&daemon)?;
    let mut monitor =
        Monitor::start(&daemon, &["conntrack", "list", "zone=5", "proto=icmp", "--follow"])?;
    h1.ping(&h2.address, 3)?;
    let event = monitor.event("connection")?;
    ensure!(event.contains("\"what\":\"inserted\"") && event.contains("\"mark\":7"), "{event}");
    let _server = super::tcp::serve(&h2)?;
    super::tcp::measure(&h1, &h2.address, &["-n", "1M"])?;
    let tcp = connections(&daemon, "zone=5 proto=tcp src=10.0.0.1 dport=5201")?;
    ensure!(!tcp.is_empty(), "no TCP connections");
    ensure!(
        tcp.iter().all(|c| c["orig"]["dport"] == 5201 && c["reply"]["sport"] == 5201),
        "{tcp:?}"
    );
    ensure!(connections(&daemon, "zone=6")?.is_empty(), "another zone has connections");
    ensure!(connections(&daemon, "mark=0x8/0x8")?.is_empty(), "another mark");
    ensure!(connections(&daemon, "--limit 1")?.len() == 1, "the limit does not hold");
    let text = daemon.run("conntrack list icmp")?;
    ensure!(text.starts_with("icmp,orig=(src=10.0.0.1,dst=10.0.0.2,id="), "{text}");
    let stats = daemon.json("conntrack stats")?;
    ensure!(count(&stats, "protocols", "tcp") >= tcp.len() as u64, "{stats}");
    ensure!(stats["zones"][0]["zone"] == 5, "{stats}");
    ensure!(stats["top_sources"][0]["source"] == "10.0.0.1", "{stats}");
    // A flow's change leaves connections alone; a flush ends those that are meant.
    daemon.run("conntrack flush zone=6")?;
    ensure!(!connections(&daemon, "zone=5")?.is_empty(), "a flush of another zone");
    let out = daemon.run("conntrack flush zone=5 proto=icmp")?;
    ensure!(!out.starts_with("0 "), "{out}");
    ensure!(connections(&daemon, "icmp")?.is_empty(), "flushed connections are listed");
    ensure!(!connections(&daemon, "tcp")?.is_empty(), "others were flushed too");
    let event = monitor.until("\"what\":\"flushed\"")?;
    ensure!(event.contains("icmp"), "{event}");
    daemon.run("conntrack flush")?;
    ensure!(connections(&daemon, "")?.is_empty(), "not everything was flushed");
    Ok(())
}

/// Send UDP from so many ports of `from`, each once.
fn datagrams(from: &Host, to: &Host, ports: std::ops::Range<u16>) -> Result<()> {
    let raw = from.raw()?;
    for port in ports {
        let (src, dst) = (([10, 0, 0, 1].into(), port), ([10, 0, 0, 2].into(), 9));
        raw.send(&ethernet(to.mac, from.mac, &[], 0x0800, &udp4(src, dst, b"datagram")))?;
    }
    Ok(())
}

fn limits(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    stateful(&daemon)?;
    h1.ping(&h2.address, 3)?;
    daemon.run("conntrack flush")?;
    daemon.run("conntrack limit zone:5=10 total=100000 zone=1000")?;
    // Each is unanswered, so later ones push out earlier ones and none is refused.
    datagrams(&h1, &h2, 2000..2100)?;
    wait::until("the connections are made", || {
        let stats = daemon.json("conntrack stats")?;
        Ok(count(&stats, "events", "evicted_unanswered") >= 90)
    })?;
    let report = daemon.json("conntrack limit")?;
    let zone = &report["zones"][0];
    ensure!(zone["zone"] == 5 && zone["limit"] == 10 && zone["connections"] == 10, "{report}");
    ensure!(report["total"] == 100_000 && report["zone"] == 1000, "{report}");
    // A limit of none: every new connection is refused, dropped and counted.
    daemon.run("conntrack flush -- conntrack limit zone:5=0")?;
    datagrams(&h1, &h2, 3000..3050)?;
    wait::until("refusals are counted", || {
        let drops = report::drops(&daemon.json("drops")?);
        Ok(drops.iter().any(|(why, n)| why == "ct_full" && *n >= 50))
    })?;
    let stats = daemon.json("conntrack stats")?;
    ensure!(count(&stats, "events", "full_zone") >= 50, "{stats}");
    ensure!(count(&stats, "drops", "ct_full") >= 50, "{stats}");
    let text = daemon.run("conntrack stats")?;
    ensure!(text.contains("full_zone"), "{text}");
    daemon.run("conntrack limit zone:5=none")?;
    h1.ping(&h2.address, 3)
}

fn timeouts(lab: &Lab) -> Result<()> {
    let (mut daemon, h1, h2) = pair(lab)?;
    stateful(&daemon)?;
    daemon.run("conntrack timeout --zone 5 udp_first=3600 icmp_first=1 icmp_reply=1")?;
    daemon.run("conntrack timeout udp_first=77 -- conntrack limit zone:9=3")?;
    h1.ping(&h2.address, 3)?;
    datagrams(&h1, &h2, 2000..2001)?;
    wait::until("the ICMP connection goes after a second", || {
        let all = connections(&daemon, "")?;
        Ok(all.len() == 1 && all[0]["protocol"] == "udp")
    })?;
    let udp = connections(&daemon, "udp")?;
    let expires = udp[0]["expires"].as_f64().context("no time")?;
    ensure!((3000.0..=3600.0).contains(&expires), "{expires} s");
    wait::until("expired connections are counted", || {
        Ok(count(&daemon.json("conntrack stats")?, "events", "expired") >= 1)
    })?;
    daemon.terminate()?;
    let daemon = daemon.again()?;
    let of = |words: &str| -> Result<u64> {
        let report = daemon.json(&format!("conntrack timeout {words}"))?;
        let list = report["timeouts"].as_array().context("no list")?;
        let first = list.iter().find(|t| t["name"] == "udp_first").context("no udp_first")?;
        first["seconds"].as_u64().context("no seconds")
    };
    ensure!((of("")?, of("--zone 5")?, of("--zone 6")?) == (77, 3600, 77), "timeouts were lost");
    let report = daemon.json("conntrack limit")?;
    ensure!(report["zones"][0]["zone"] == 9 && report["zones"][0]["limit"] == 3, "{report}");
    // What a zone no longer has is as everywhere, for the connections that are there too.
    stateful(&daemon)?;
    daemon.run("conntrack timeout --zone 5 udp_first=none icmp_first=none icmp_reply=none")?;
    ensure!(of("--zone 5")? == 77, "a zone's timeout stayed");
    daemon.run("conntrack timeout udp_first=none -- conntrack limit zone:9=none").map(drop)
}

fn words(lab: &Lab) -> Result<()> {
    let daemon = Daemon::start(lab)?;
    daemon.refuses("conntrack list spor=5", 1, &["spor=5", "did you mean \"sport\"?"])?;
    daemon.refuses("conntrack list zone=1 --follow src=x", 1, &["src=x", "address"])?;
    daemon.refuses("conntrack flush proto=tpc", 1, &["did you mean \"tcp\"?"])?;
    daemon.refuses("conntrack limit zone:5=ten", 1, &["zone:5=ten", "total=N"])?;
    daemon.refuses("conntrack limit total=0", 1, &["total=0"])?;
    daemon.refuses("conntrack timeout udp_frist=5", 1, &["did you mean \"udp_first\"?"])?;
    daemon.refuses("conntrack timeout udp_first=0", 1, &["seconds from 1"])?;
    daemon.refuses("conntrack timeout --zone 70000", 2, &["70000"])?;
    daemon.refuses("conntrack list -- show", 2, &["stands alone"])?;
    let report = daemon.json("conntrack limit")?;
    ensure!(report["zones"] == serde_json::json!([]), "{report}");
    let json = daemon.json("conntrack list")?;
    ensure!(json == serde_json::json!({"connections": []}), "{json}");
    Ok(())
}
