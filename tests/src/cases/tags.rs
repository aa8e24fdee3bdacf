//! A tagged frame never arrives untagged: also not when the kernel holds the tag beside the bytes, as it
//! does for VLAN subinterfaces, tc and offloads.

use crate::bpf;
use crate::daemon::Daemon;
use crate::frame::{Mac, dot1q, has_mark, marked, tags};
use crate::lab::Lab;
use crate::runner::Case;
use crate::{Result, bail, ensure, wait};

pub const CASES: &[Case] = &[
    Case::new("tag-beside-native", "a tag held beside the frame arrives, native XDP", native),
    Case::new(
        "tag-beside-generic",
        "a tag held beside the frame is never lost, generic XDP",
        generic,
    ),
    Case::new("tag-inline-generic", "a tag in the bytes arrives, generic XDP", inline_generic),
];

fn native(lab: &Lab) -> Result<()> {
    beside(lab, "", true)
}

/// Where the tag cannot be put back, the port may be refused; a frame may be dropped; it may never
/// arrive without its tag.
fn generic(lab: &Lab) -> Result<()> {
    beside(lab, "options:xdp-mode=generic", false)
}

fn beside(lab: &Lab, options: &str, must_arrive: bool) -> Result<()> {
    let from = lab.host("from", "")?;
    let trunk = lab.host("trunk", "")?;
    let access = lab.host("access", "")?;
    let plain = lab.host("plain", "")?;
    let daemon = Daemon::start(lab)?;
    daemon.run("add-br br0 -- add-port br0 trunk -- add-port br0 access tag=7")?;
    daemon.run("add-port br0 plain tag=8")?;
    let words: Vec<&str> =
        "add-port br0 from".split(' ').chain(options.split_whitespace()).collect();
    let added = daemon.ctl(&words)?;
    if added.status != 0 {
        ensure!(!must_arrive, "the port was refused: {}", added.stderr);
        ensure!(added.stderr.contains("VLAN") || added.stderr.contains("vlan"), "{}", added.stderr);
        return Ok(());
    }
    let (source, on_trunk) = (from.raw()?, trunk.raw()?);
    let (on_access, on_plain) = (access.raw()?, plain.raw()?);
    let held = bpf::hold_tag_beside("from", "eth0", 7)?;
    // Sent until one comes through, or until the counters say that they are dropped.
    let send = |mark: &str| source.send(&marked(Mac::BROADCAST, from.mac, &[], mark));
    if !must_arrive {
        for _ in 0..20 {
            send("<beside>")?;
        }
    } else {
        send("<beside>")?;
        let frame = on_trunk.expect("<beside>")?;
        ensure!(tags(&frame) == [dot1q(7)], "arrived on the trunk with {:x?}", tags(&frame));
        ensure!(tags(&on_access.expect("<beside>")?).is_empty(), "the access port got a tag");
        // Also when the bytes carry a tag already: two of them then.
        source.send(&marked(Mac::BROADCAST, from.mac, &[dot1q(9)], "<double>"))?;
        let found = tags(&on_trunk.expect("<double>")?);
        ensure!(found == [dot1q(7), dot1q(9)], "two tags arrived as {found:x?}");
    }
    drop(held);
    // Without the program the same machine's frames are untagged; that one closes the case.
    send("<end>")?;
    for frame in on_trunk.until_mark("<end>")? {
        if has_mark(&frame, "<beside>") && tags(&frame) != [dot1q(7)] {
            bail!("a tagged frame arrived with {:x?}", tags(&frame));
        }
    }
    let end = marked(Mac::BROADCAST, trunk.mac, &[dot1q(8)], "<plain-end>");
    on_trunk.send(&end)?;
    let frames = on_plain.until_mark("<plain-end>")?;
    ensure!(!frames.iter().any(|f| has_mark(f, "<beside>")), "VLAN 7 reached VLAN 8");
    Ok(())
}

fn inline_generic(lab: &Lab) -> Result<()> {
    let (from, to) = (lab.host("from", "")?, lab.host("to", "")?);
    let daemon = Daemon::start(lab)?;
    daemon.run(
        "add-br br0 -- add-port br0 to options:xdp-mode=generic options:accept-tag-loss=true",
    )?;
    daemon.run("add-port br0 from options:xdp-mode=generic options:accept-tag-loss=true")?;
    let (source, sink) = (from.raw()?, to.raw()?);
    source.send(&marked(Mac::BROADCAST, from.mac, &[dot1q(7)], "<inline>"))?;
    let mut found = Vec::new();
    wait::until("the frame arrives", || {
        found = sink.until_mark("<inline>")?;
        Ok(true)
    })?;
    let last = found.last().map(|f| tags(f)).unwrap_or_default();
    ensure!(last == [dot1q(7)], "arrived with {last:x?}");
    Ok(())
}
