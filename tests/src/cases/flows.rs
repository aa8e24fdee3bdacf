//! Flow tables as an operator programs them: rules, groups, traces, packets in and out.

use super::pair;
use crate::daemon::Daemon;
use crate::frame::{Mac, has_mark, marked};
use crate::lab::Lab;
use crate::monitor::Monitor;
use crate::runner::Case;
use crate::{Context, Result, ensure, report, wait};

pub const CASES: &[Case] = &[
    Case::new("flows-steer", "flows decide where packets go, and count them", steer),
    Case::new("flows-in-force", "what a command removed treats no later packet", in_force),
    Case::new(
        "flows-atomic",
        "a batch with one mistake changes nothing and says where it is",
        atomic,
    ),
    Case::new(
        "flows-round-trip",
        "what dump-flows prints, add-flows and replace-flows take",
        round_trip,
    ),
    Case::new("flows-many", "100,000 flows load from standard input and are listed", many),
    Case::new("flows-learn", "learned flows answer, and go after their time", learn),
    Case::new("groups", "groups of each type forward and count by bucket", groups),
    Case::new("trace", "a trace tells the way that packets really take", trace),
    Case::new(
        "packet-out",
        "a packet of a controller's is sent and may come back as one",
        packet_out,
    ),
    Case::new("resubmit-loop", "a rule that resubmits to itself is cut and counted", resubmit_loop),
];

/// The packets that the flow whose text has `what` has counted.
fn counted(daemon: &Daemon, what: &str) -> Result<u64> {
    let dump = daemon.json("dump-flows br0")?;
    let flows = dump["flows"].as_array().context("no flows")?;
    let hits = flows.iter().filter(|f| f["flow"].as_str().is_some_and(|t| t.contains(what)));
    Ok(hits.map(|f| f["packets"].as_u64().unwrap_or(0)).sum())
}

fn steer(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    daemon.run("del-flows br0")?;
    h1.cannot_reach(&h2.address)?;
    daemon.run("add-flow br0 cookie=7,in_port=h1,actions=h2")?;
    daemon.run("add-flow br0 cookie=8,in_port=2,actions=output:1")?;
    h1.ping(&h2.address, 20)?;
    let (there, back) = (counted(&daemon, "cookie=0x7")?, counted(&daemon, "cookie=0x8")?);
    ensure!(there >= 20 && back >= 20, "counted {there} and {back} packets");
    let out = daemon.run("dump-flows br0 --no-stats --names")?;
    ensure!(
        out == "cookie=0x7, in_port=h1 actions=output:h2\ncookie=0x8, in_port=h2 actions=output:h1\n",
        "{out}"
    );
    daemon.run("mod-flows br0 in_port=1,actions=drop")?;
    h1.cannot_reach(&h2.address)?;
    ensure!(counted(&daemon, "cookie=0x7")? >= there, "a modification lost its counters");
    let why = daemon.json("drops --why")?;
    let latest = why["latest"].as_array().context("no list")?;
    let ours = latest.iter().find(|d| d["port"] == "h1" && d["cookie"] == 7);
    ensure!(ours.is_some_and(|d| d["bridge"] == "br0" && d["table"] == 0), "{why}");
    Ok(())
}

fn in_force(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    daemon.run("del-flows br0")?;
    // What shows that all frames before it were treated has a flow of its own.
    let end = Mac([2, 0, 0, 0, 0xee, 1]);
    daemon.run(&format!("add-flow br0 priority=9,dl_dst={end},actions=2"))?;
    let (from, to) = (h1.raw()?, h2.raw()?);
    for round in 0..20 {
        daemon.run("add-flow br0 in_port=1,actions=2")?;
        let (good, bad) = (format!("<good-{round}>"), format!("<bad-{round}>"));
        from.send(&marked(Mac::BROADCAST, h1.mac, &[], &good))?;
        to.expect(&good)?;
        daemon.run("del-flows br0 in_port=1")?;
        from.send(&marked(Mac::BROADCAST, h1.mac, &[], &bad))?;
        from.send(&marked(end, h1.mac, &[], "<end>"))?;
        let frames = to.until_mark("<end>")?;
        ensure!(
            !frames.iter().any(|f| has_mark(f, &bad)),
            "round {round}: a removed flow forwarded"
        );
    }
    Ok(())
}

fn atomic(lab: &Lab) -> Result<()> {
    let (daemon, _, _) = pair(lab)?;
    let before = daemon.run("dump-flows br0 --no-stats")?;
    let file = lab.dir().join("bad.txt");
    std::fs::write(&file, "priority=5,actions=1\n# a comment\npriority=6,tcp_dst=80,actions=2\n")?;
    let out = daemon.ctl(&["add-flows", "br0", &file.display().to_string()])?;
    ensure!(out.status == 1 && out.stderr.contains("line 3, column 12"), "{}", out.stderr);
    ensure!(daemon.run("dump-flows br0 --no-stats")? == before, "something was installed");
    // A later command of the transaction that fails takes the earlier ones back.
    let words = "add-flow br0 priority=9,actions=1 -- add-flow br0 actions=group:5";
    let out = daemon.ctl(&words.split(' ').collect::<Vec<_>>())?;
    ensure!(out.status == 1 && out.stderr.contains("group 5 does not exist"), "{}", out.stderr);
    ensure!(daemon.run("dump-flows br0 --no-stats")? == before, "something was installed");
    Ok(())
}

fn round_trip(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    daemon.run("add-br br1 fail_mode=secure")?;
    for flow in FLOWS {
        let out = daemon.ctl(&["add-flow", "br0", flow])?;
        ensure!(out.status == 0, "{flow}: {}", out.stderr);
    }
    h1.ping(&h2.address, 5)?;
    let dump = daemon.run("dump-flows br0")?;
    let file = lab.dir().join("flows.txt");
    std::fs::write(&file, &dump)?;
    let file = file.display().to_string();
    daemon.run(&format!("add-flows br1 {file}"))?;
    let (a, b) =
        (daemon.run("dump-flows br0 --no-stats")?, daemon.run("dump-flows br1 --no-stats")?);
    ensure!(a == b, "{a}\n{b}");
    ensure!(daemon.run(&format!("diff-flows br1 {file}"))?.is_empty(), "they differ");
    daemon.run("del-flows br1 table=3")?;
    let out = daemon.ctl(&["diff-flows", "br1", &file])?;
    ensure!(out.status == 2 && out.stdout.starts_with('+'), "{}: {}", out.status, out.stdout);
    // Replacing with the same flows leaves their counters alone.
    let before = counted(&daemon, "actions=NORMAL")?;
    daemon.run(&format!("replace-flows br0 {file}"))?;
    ensure!(counted(&daemon, "actions=NORMAL")? >= before && before > 0, "counters were lost");
    Ok(())
}

/// One of each kind.
const FLOWS: &[&str] = &[
    "table=1,priority=10,tcp,nw_src=10.0.0.0/8,tp_dst=0x50/0xfff0,actions=mod_vlan_vid:5,output:2",
    "table=2,reg5=0x7/0xff,ct_state=+est-rel+trk,ip,actions=ct(table=3,zone=NXM_NX_REG6[0..15])",
    "table=3,ipv6,icmp6,icmp_type=135,actions=set_field:1->reg0,move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],resubmit(,4)",
    "table=4,idle_timeout=600,hard_timeout=900,send_flow_rem,arp,arp_tpa=10.1.2.3,actions=NORMAL",
    "table=5,dl_vlan=7,actions=pop_vlan,learn(table=6,hard_timeout=300,NXM_OF_VLAN_TCI[0..11],NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],output:NXM_OF_IN_PORT[])",
    "table=6,priority=70,conj_id=3,ip,actions=goto_table:7",
];

fn many(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    let mut text = String::new();
    for i in 0..100_000u32 {
        let (a, b) = (i / 250, i % 250);
        text += &format!(
            "table=1,priority=100,ip,nw_src=10.{}.{}.{b},actions=output:2\n",
            a / 250,
            a % 250
        );
    }
    let file = lab.dir().join("many.txt");
    std::fs::write(&file, text)?;
    daemon.run(&format!("add-flows br0 {}", file.display()))?;
    let sum = daemon.json("dump-aggregate br0 table=1")?;
    ensure!(sum["flows"] == 100_000, "{sum}");
    h1.ping(&h2.address, 5)?;
    daemon.run("del-flows br0 table=1")?;
    let tables = daemon.json("dump-tables br0")?;
    ensure!(report::total(&tables, "flows") == 1, "{tables}");
    Ok(())
}

fn learn(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    daemon.run("del-flows br0")?;
    let rule = "actions=learn(table=1,hard_timeout=2,cookie=0x1ea,send_flow_rem,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],output:NXM_OF_IN_PORT[]),resubmit(,1)";
    daemon.ctl(&["add-flow", "br0", rule])?;
    daemon.run("add-flow br0 table=1,priority=1,actions=flood")?;
    let mut monitor = Monitor::start(&daemon, &["monitor", "br0"])?;
    h1.ping(&h2.address, 5)?;
    let learned = daemon.run("dump-flows br0 cookie=0x1ea/-1 --no-stats")?;
    ensure!(learned.lines().count() == 2, "{learned}");
    let event = monitor.event("flow-removed")?;
    ensure!(event.contains("\"reason\":\"hard\"") && event.contains("cookie=0x1ea"), "{event}");
    Ok(())
}

fn groups(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    let h3 = lab.host("h3", "10.0.0.3/24")?;
    daemon.run("add-port br0 h3 -- del-flows br0")?;
    let (from, to2, to3) = (h1.raw()?, h2.raw()?, h3.raw()?);
    daemon.run("add-group br0 group_id=1,type=all,bucket=output:2,bucket=output:3")?;
    daemon.run("add-flow br0 in_port=1,actions=group:1")?;
    from.send(&marked(Mac::BROADCAST, h1.mac, &[], "<all>"))?;
    to2.expect("<all>")?;
    to3.expect("<all>")?;
    let stats = daemon.json("dump-group-stats br0 group_id=1")?;
    let buckets = stats["groups"][0]["buckets"].as_array().context("no buckets")?;
    ensure!(
        buckets.len() == 2 && buckets.iter().all(|b| b["packets"].as_u64() > Some(0)),
        "{stats}"
    );
    ensure!(stats["groups"][0]["references"] == 1, "{stats}");
    let ff = "group_id=1,type=ff,bucket=watch_port:2,output:2,bucket=watch_port:3,output:3";
    daemon.run(&format!("mod-group br0 {ff}"))?;
    from.send(&marked(Mac::BROADCAST, h1.mac, &[], "<first>"))?;
    to2.expect("<first>")?;
    h2.node.run(&["ip", "link", "set", "dev", "eth0", "down"])?;
    wait::until("the second bucket takes over", || {
        from.send(&marked(Mac::BROADCAST, h1.mac, &[], "<second>"))?;
        Ok(to3.until_mark("<second>").is_ok())
    })?;
    let out = daemon.ctl(&["add-group", "br0", "group_id=1,type=all"])?;
    ensure!(out.status == 1 && out.stderr.contains("exists already"), "{}", out.stderr);
    daemon.run("del-groups br0 group_id=1")?;
    ensure!(daemon.run("dump-flows br0")?.is_empty(), "flows to a group outlive it");
    Ok(())
}

fn trace(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    daemon.run("del-flows br0")?;
    daemon.run("add-flow br0 cookie=0x11,in_port=1,actions=mod_vlan_vid:9,resubmit(,3)")?;
    daemon.run("add-flow br0 table=3,priority=7,dl_vlan=9,actions=strip_vlan,output:2")?;
    let flow = format!("in_port=h1,dl_src={},dl_dst=ff:ff:ff:ff:ff:ff", h1.mac);
    let traced = daemon.json(&format!("trace br0 {flow}"))?;
    let steps = traced["passes"][0]["steps"].as_array().context("no steps")?;
    let tables: Vec<_> = steps.iter().filter(|s| s["step"] == "table").collect();
    ensure!(tables.len() == 2 && tables[1]["rule"]["priority"] == 7, "{traced}");
    ensure!(tables[0]["rule"]["cookie"] == 0x11, "{traced}");
    ensure!(traced["passes"][0]["sent"].is_null(), "sent without being asked");
    let to = h2.raw()?;
    let frame = marked(Mac::BROADCAST, h1.mac, &[], "<traced>");
    let hex: String = frame.iter().map(|b| format!("{b:02x}")).collect();
    daemon.run(&format!("trace br0 in_port=h1 --packet {hex} --generate"))?;
    to.expect("<traced>")?;
    let text = daemon.run(&format!("trace br0 {flow}"))?;
    ensure!(
        text.contains("bridge(\"br0\"), in_port=h1") && text.contains("Datapath actions:"),
        "{text}"
    );
    let out = daemon.ctl(&["trace", "br0", "in_port=77"])?;
    ensure!(out.status == 1 && out.stderr.contains("no port 77"), "{}", out.stderr);
    Ok(())
}

fn packet_out(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    let to = h2.raw()?;
    let mut monitor = Monitor::start(&daemon, &["monitor", "br0"])?;
    let frame = marked(Mac::BROADCAST, h1.mac, &[], "<out>");
    let hex: String = frame.iter().map(|b| format!("{b:02x}")).collect();
    daemon.run(&format!("packet-out br0 none output:2,controller {hex}"))?;
    to.expect("<out>")?;
    let event = monitor.event("packet-in")?;
    ensure!(event.contains(&hex), "{event}");
    Ok(())
}

fn resubmit_loop(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    h1.ping(&h2.address, 2)?;
    daemon.run("add-flow br0 priority=9,in_port=1,actions=resubmit(,0)")?;
    h1.cannot_reach(&h2.address)?;
    let drops = report::drops(&daemon.json("drops")?);
    ensure!(drops.iter().any(|(why, n)| why == "recursion" && *n > 0), "{drops:?}");
    let text = daemon.run("trace br0 in_port=1,ip")?;
    ensure!(text.contains("recursion"), "{text}");
    daemon.run("del-flows br0 in_port=1")?;
    h1.ping(&h2.address, 5)
}
