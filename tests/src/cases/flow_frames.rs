//! OpenFlow rules on real frames, under load: what is removed passes nothing from the moment the command
//! has returned, changed headers keep their checksums, cached traffic counts and keeps flows alive.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use super::pair;
use crate::daemon::Daemon;
use crate::frame::{checksum, dot1q, ethernet, has_mark, marked, pseudo, tags, udp4};
use crate::lab::{Host, Lab};
use crate::runner::Case;
use crate::{Context, Result, bail, ensure, report, wait};

pub const CASES: &[Case] = &[
    Case::new(
        "flow-forward",
        "flows of a secure bridge forward, and count cached packets",
        forward,
    ),
    Case::new("flow-in-force", "a removed flow passes nothing once the command returned", in_force),
    Case::new("flow-actions", "tags and addresses are changed, checksums stay right", actions),
    Case::new("flow-learn", "learn installs flows that forward", learn),
    Case::new("flow-group", "a group of type all sends to each of its buckets", group),
    Case::new("flow-idle", "cached traffic keeps a flow from idling out", idle),
    Case::new(
        "flow-errors",
        "wrong flows: exit status 1, what and where, nothing installed",
        errors,
    ),
];

/// A secure bridge without flows that joins two machines.
fn secure(lab: &Lab) -> Result<(Daemon, Host, Host)> {
    let h1 = lab.host("h1", "10.0.0.1/24")?;
    let h2 = lab.host("h2", "10.0.0.2/24")?;
    let daemon = Daemon::start(lab)?;
    daemon.run("add-br br0 fail_mode=secure -- add-port br0 h1 -- add-port br0 h2")?;
    Ok((daemon, h1, h2))
}

fn forward(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = secure(lab)?;
    daemon.run("add-flow br0 in_port=local,actions=drop")?;
    daemon.run("add-flow br0 in_port=h1,actions=output:h2")?;
    h1.cannot_reach(&h2.address)?;
    daemon.run("add-flow br0 in_port=h2,actions=output:h1")?;
    h1.ping(&h2.address, 20)?;
    let packets = || -> Result<u64> {
        let document = daemon.json("dump-flows br0 in_port=h1")?;
        Ok(report::total(&document, "packets"))
    };
    let before = packets()?;
    let (from, to) = (h1.raw()?, h2.raw()?);
    for _ in 0..500 {
        from.send(&marked(h2.mac, h1.mac, &[], "<count>"))?;
    }
    from.send(&marked(h2.mac, h1.mac, &[], "<end>"))?;
    to.until_mark("<end>")?;
    wait::until("501 packets are counted", || Ok(packets()? >= before + 501))?;
    ensure!(packets()? < before + 520, "more packets are counted than were sent");
    // The table has looked up those and, before there was a flow, others; it counts flows that go.
    let table = || daemon.json("dump-tables br0").map(|t| t["tables"][0].clone());
    let counts = table()?;
    let (lookups, matched) = (counts["lookups"].as_u64(), counts["matched"].as_u64());
    ensure!(matched >= Some(before + 501) && lookups > matched, "{counts}");
    daemon.run("del-flows br0 in_port=h1")?;
    let counts = table()?;
    ensure!(
        counts["matched"].as_u64() >= matched && counts["packets"].as_u64() < matched,
        "{counts}"
    );
    Ok(())
}

/// The number in `<seq-NNNNNNNN>`.
fn number(frame: &[u8]) -> Option<u32> {
    let at = frame.windows(5).position(|part| part == b"<seq-")? + 5;
    std::str::from_utf8(frame.get(at..at + 8)?).ok()?.parse().ok()
}

fn in_force(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = secure(lab)?;
    let (from, to) = (h1.raw()?, h2.raw()?);
    let (next, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| -> Result<()> {
        let sender = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::SeqCst) {
                let n = next.fetch_add(1, Ordering::SeqCst);
                from.send(&marked(h2.mac, h1.mac, &[], &format!("<seq-{n:08}>")))?;
                if n % 16 == 15 {
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
            Ok(())
        });
        let result = (0..8).try_for_each(|round| -> Result<()> {
            daemon.run("add-flow br0 in_port=h1,actions=output:h2")?;
            let start = next.load(Ordering::SeqCst);
            wait::until("the flow forwards", || {
                let frame = to.receive(Duration::from_millis(100))?;
                Ok(frame.and_then(|f| number(&f)).is_some_and(|n| n > start + 50))
            })?;
            daemon.run("del-flows br0 in_port=h1")?;
            // Numbers below this may have been sent before; this one and later ones come after.
            let after = next.load(Ordering::SeqCst);
            wait::until("more was sent", || Ok(next.load(Ordering::SeqCst) > after + 500))?;
            while let Some(frame) = to.receive(Duration::ZERO)? {
                if let Some(n) = number(&frame).filter(|n| *n >= after) {
                    bail!("round {round}: frame {n} passed, the flow was gone before {after}");
                }
            }
            Ok(())
        });
        stop.store(true, Ordering::SeqCst);
        match sender.join() {
            Ok(sent) => result.and(sent),
            Err(_) => bail!("the sender panicked"),
        }
    })
}

fn actions(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = secure(lab)?;
    let (from, to) = (h1.raw()?, h2.raw()?);
    let (a, b) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
    let frame = |tag: &[_], mark: &str| {
        ethernet(h2.mac, h1.mac, tag, 0x0800, &udp4((a, 1024), (b, 53), mark.as_bytes()))
    };
    daemon.run("add-flow br0 in_port=h1,actions=mod_vlan_vid:100,output:h2")?;
    from.send(&frame(&[], "<push>"))?;
    ensure!(tags(&to.expect("<push>")?) == [dot1q(100)], "no tag was pushed");
    daemon
        .run("add-flow br0 in_port=h1,dl_vlan=100,priority=40000,actions=strip_vlan,output:h2")?;
    from.send(&frame(&[dot1q(100)], "<strip>"))?;
    ensure!(tags(&to.expect("<strip>")?).is_empty(), "the tag stayed");
    let route = "mod_dl_src:02:00:00:00:00:aa,mod_dl_dst:02:00:00:00:00:bb,dec_ttl";
    let nat = "mod_nw_src:198.51.100.7,mod_nw_dst:203.0.113.9,mod_tp_src:4000,mod_tp_dst:5000";
    daemon.run("del-flows br0")?;
    daemon.run(&format!("add-flow br0 in_port=h1,udp,actions={route},{nat},output:h2"))?;
    from.send(&frame(&[], "<route>"))?;
    let got = to.expect("<route>")?;
    ensure!(got[..12] == [2, 0, 0, 0, 0, 0xbb, 2, 0, 0, 0, 0, 0xaa], "MACs: {:x?}", &got[..12]);
    ensure!(got[22] == 63, "TTL {}", got[22]);
    ensure!(got[26..34] == [198, 51, 100, 7, 203, 0, 113, 9], "addresses: {:?}", &got[26..34]);
    ensure!(got[34..38] == [0x0f, 0xa0, 0x13, 0x88], "ports: {:x?}", &got[34..38]);
    ensure!(checksum(&got[14..34]) == 0, "the IPv4 checksum is wrong");
    let length = u16::from_be_bytes([got[38], got[39]]);
    let datagram = &got[34..34 + usize::from(length)];
    let head = pseudo([198, 51, 100, 7].into(), [203, 0, 113, 9].into(), 17, length);
    ensure!(checksum(&[&head[..], datagram].concat()) == 0, "the UDP checksum is wrong");
    Ok(())
}

fn learn(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = secure(lab)?;
    let spec = "learn(table=1,hard_timeout=300,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],\
                output:NXM_OF_IN_PORT[])";
    daemon.run(&format!("add-flow br0 table=0,actions={spec},resubmit(,1)"))?;
    daemon.run("add-flow br0 table=1,priority=0,actions=FLOOD")?;
    h1.ping(&h2.address, 10)?;
    let flows = daemon.run("dump-flows br0 table=1 --no-stats")?;
    for mac in [h1.mac, h2.mac] {
        ensure!(flows.contains(&format!("dl_dst={mac}")), "{mac} was not learned:\n{flows}");
    }
    Ok(())
}

fn group(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = secure(lab)?;
    let h3 = lab.host("h3", "")?;
    daemon.run("add-port br0 h3")?;
    daemon.run(
        "add-group br0 group_id=1,type=all,bucket=output:h2,bucket=mod_vlan_vid:9,output:h3",
    )?;
    daemon.run("add-flow br0 in_port=h1,actions=group:1")?;
    let (from, two, three) = (h1.raw()?, h2.raw()?, h3.raw()?);
    from.send(&marked(h2.mac, h1.mac, &[], "<group>"))?;
    ensure!(tags(&two.expect("<group>")?).is_empty(), "one bucket's change reached the other");
    ensure!(tags(&three.expect("<group>")?) == [dot1q(9)], "the second bucket pushed no tag");
    daemon.run("mod-group br0 group_id=1,type=all,bucket=output:h2")?;
    from.send(&marked(h2.mac, h1.mac, &[], "<one>"))?;
    two.expect("<one>")?;
    // Its flows go with a group.
    daemon.run("del-groups br0")?;
    ensure!(daemon.run("dump-flows br0")?.trim().is_empty(), "the flow outlived its group");
    let left = three.receive(Duration::ZERO)?;
    ensure!(!left.is_some_and(|f| has_mark(&f, "<one>")), "the changed group sent to both");
    Ok(())
}

fn idle(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = secure(lab)?;
    daemon.run("add-flow br0 idle_timeout=3,in_port=h1,actions=output:h2")?;
    daemon.run("add-flow br0 idle_timeout=3,in_port=h2,actions=output:h1")?;
    let (from, to) = (h1.raw()?, h2.raw()?);
    // Twice the timeout, with traffic in one direction only.
    for n in 0..30 {
        let mark = format!("<idle-{n}>");
        from.send(&marked(h2.mac, h1.mac, &[], &mark))?;
        to.expect(&mark).context("the flow idled out under traffic")?;
        std::thread::sleep(Duration::from_millis(200));
    }
    wait::until("the unused flow is gone", || {
        Ok(daemon.run("dump-flows br0 in_port=h2")?.trim().is_empty())
    })?;
    wait::until("then the other one", || Ok(daemon.run("dump-flows br0")?.trim().is_empty()))
}

fn errors(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    let before = daemon.run("dump-flows br0 --no-stats")?;
    let mut wrong = Vec::new();
    for (flow, word) in [
        ("in_port=h1", "actions"),
        ("in_prot=h1,actions=drop", "in_prot"),
        ("tp_dst=80,actions=drop", "tp_dst"),
        ("tcp,nw_src=10.0.0.256,actions=drop", "10.0.0.256"),
        ("priority=70000,actions=drop", "70000"),
        ("actions=output:nosuchport", "nosuchport"),
        ("actions=group:99", "99"),
        ("actions=mod_vlan_vid:4096", "4096"),
        ("actions=goto_table:0", "goto_table"),
        ("actions=resubmit(", "parenthesis"),
    ] {
        if let Err(error) = daemon.refuses(&format!("add-flow br0 {flow}"), 1, &[word]) {
            wrong.push(format!("{error:#}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(daemon.run("dump-flows br0 --no-stats")? == before, "something was installed");
    h1.ping(&h2.address, 3)
}
