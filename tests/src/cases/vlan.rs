//! VLANs: which frames leave which port with which tag, for every `vlan_mode`.
//!
//! Every case sends marked frames from one machine and looks at what the others get. A frame that must
//! not arrive is followed by one that must.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::daemon::Daemon;
use crate::frame::{Mac, Tag, dot1ad, dot1q, has_mark, marked, tags};
use crate::lab::{Host, Lab};
use crate::raw::Raw;
use crate::runner::Case;
use crate::{Context, Result, ensure};

pub const CASES: &[Case] = &[
    Case::new("vlan-access", "access ports of one VLAN reach each other and nobody else", access),
    Case::new("vlan-trunk", "a trunk carries tags, and `trunks` limits which", trunk),
    Case::new("vlan-native-untagged", "vlan_mode=native-untagged", native_untagged),
    Case::new("vlan-native-tagged", "vlan_mode=native-tagged", native_tagged),
    Case::new("vlan-dot1q-tunnel", "vlan_mode=dot1q-tunnel puts a service tag around", tunnel),
    Case::new("vlan-priority-tags", "frames with VLAN 0, and other_config:priority-tags", priority),
    Case::new("vlan-change", "changing a port's tag takes effect at once", change),
];

/// One port of the bench: its machine, and a socket there.
struct Leg {
    host: Host,
    raw: Raw,
}

/// A daemon with `br0` and these (port name, settings), each with a machine behind it.
fn bench<const N: usize>(lab: &Lab, ports: [(&str, &str); N]) -> Result<(Daemon, [Leg; N])> {
    let daemon = Daemon::start(lab)?;
    daemon.run("add-br br0")?;
    let mut legs = Vec::new();
    for (name, settings) in ports {
        let host = lab.host(name, "")?;
        daemon.run(&format!("add-port br0 {name} {settings}"))?;
        let raw = host.raw()?;
        legs.push(Leg { host, raw });
    }
    let legs = legs.try_into().ok().context("as many legs as ports")?;
    Ok((daemon, legs))
}

/// A mark that was not used before in this test.
fn fresh_mark(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("<{what}-{}>", NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Leg {
    /// Send a broadcast with these tags; its mark.
    fn broadcast(&self, tags: &[Tag]) -> Result<String> {
        let mark = fresh_mark(&self.host.node.name);
        self.raw.send(&marked(Mac::BROADCAST, self.host.mac, tags, &mark))?;
        Ok(mark)
    }

    /// The frame with `mark` arrives here with exactly these tags.
    fn gets(&self, mark: &str, expected: &[Tag]) -> Result<()> {
        let frame = self.raw.expect(mark)?;
        let found = tags(&frame);
        ensure!(found == expected, "{} got {mark} with {found:x?}, not {expected:x?}", self.name());
        Ok(())
    }

    fn name(&self) -> &str {
        &self.host.node.name
    }
}

/// `from` sends a frame with `tags` that must not reach `to`: one with `good` tags after it does.
fn never(from: &Leg, tags: &[Tag], to: &Leg, good: &[Tag]) -> Result<()> {
    let lost = from.broadcast(tags)?;
    let last = from.broadcast(good)?;
    let frames = to.raw.until_mark(&last)?;
    ensure!(
        !frames.iter().any(|frame| has_mark(frame, &lost)),
        "a frame with {tags:x?} from {} reached {}",
        from.name(),
        to.name()
    );
    Ok(())
}

fn access(lab: &Lab) -> Result<()> {
    let (_daemon, [a, b, c, t]) =
        bench(lab, [("a", "tag=10"), ("b", "tag=10"), ("c", "tag=20"), ("t", "")])?;
    let mark = a.broadcast(&[])?;
    b.gets(&mark, &[])?;
    t.gets(&mark, &[dot1q(10)])?;
    // c shares no VLAN with a: only the trunk's frame for VLAN 20 reaches it.
    let last = t.broadcast(&[dot1q(20)])?;
    let frames = c.raw.until_mark(&last)?;
    ensure!(!frames.iter().any(|f| has_mark(f, &mark)), "VLAN 10 reached VLAN 20");
    ensure!(frames.last().is_some_and(|f| tags(f).is_empty()), "an access port got a tag");
    // A tagged frame is not accepted from an access port, also with its own tag.
    never(&a, &[dot1q(10)], &b, &[])?;
    never(&a, &[dot1q(20)], &b, &[])
}

fn trunk(lab: &Lab) -> Result<()> {
    let (_daemon, [every, some, ten, thirty]) = bench(
        lab,
        [("every", ""), ("some", "trunks=10,20"), ("ten", "tag=10"), ("thirty", "tag=30")],
    )?;
    let mark = every.broadcast(&[dot1q(10)])?;
    some.gets(&mark, &[dot1q(10)])?;
    ten.gets(&mark, &[])?;
    // A trunk keeps the priority bits.
    let urgent = Tag { tpid: 0x8100, tci: 5 << 13 | 20 };
    let mark = every.broadcast(&[urgent])?;
    some.gets(&mark, &[urgent])?;
    // Neither out of nor into the limited trunk.
    never(&every, &[dot1q(30)], &some, &[dot1q(20)])?;
    never(&some, &[dot1q(30)], &every, &[dot1q(10)])?;
    // Untagged frames are VLAN 0, which `trunks` does not list; the other trunk carries them.
    never(&every, &[], &some, &[dot1q(20)])?;
    // An inner tag is payload.
    let mark = every.broadcast(&[dot1q(10), dot1q(77)])?;
    some.gets(&mark, &[dot1q(10), dot1q(77)])?;
    let mark = thirty.broadcast(&[])?;
    every.gets(&mark, &[dot1q(30)])
}

fn native_untagged(lab: &Lab) -> Result<()> {
    let settings = "tag=10 trunks=20 vlan_mode=native-untagged";
    let (_daemon, [n, t, ten]) = bench(lab, [("n", settings), ("t", ""), ("ten", "tag=10")])?;
    let mark = n.broadcast(&[])?;
    t.gets(&mark, &[dot1q(10)])?;
    ten.gets(&mark, &[])?;
    let mark = ten.broadcast(&[])?;
    n.gets(&mark, &[])?;
    let mark = t.broadcast(&[dot1q(20)])?;
    n.gets(&mark, &[dot1q(20)])?;
    let mark = n.broadcast(&[dot1q(20)])?;
    t.gets(&mark, &[dot1q(20)])?;
    never(&t, &[dot1q(30)], &n, &[dot1q(20)])
}

fn native_tagged(lab: &Lab) -> Result<()> {
    let settings = "tag=10 trunks=20 vlan_mode=native-tagged";
    let (_daemon, [n, t, ten]) = bench(lab, [("n", settings), ("t", ""), ("ten", "tag=10")])?;
    let mark = n.broadcast(&[])?;
    t.gets(&mark, &[dot1q(10)])?;
    ten.gets(&mark, &[])?;
    let mark = ten.broadcast(&[])?;
    n.gets(&mark, &[dot1q(10)])?;
    let mark = n.broadcast(&[dot1q(10)])?;
    ten.gets(&mark, &[])?;
    let mark = n.broadcast(&[dot1q(20)])?;
    t.gets(&mark, &[dot1q(20)])?;
    never(&t, &[dot1q(30)], &n, &[dot1q(20)])
}

fn tunnel(lab: &Lab) -> Result<()> {
    let settings = "tag=100 vlan_mode=dot1q-tunnel";
    let (_daemon, [q, r, t]) = bench(lab, [("q", settings), ("r", settings), ("t", "")])?;
    // Whatever the customer sends, tagged or not, gets the service tag on a trunk (802.1ad).
    let mark = q.broadcast(&[dot1q(5)])?;
    t.gets(&mark, &[dot1ad(100), dot1q(5)])?;
    r.gets(&mark, &[dot1q(5)])?;
    let mark = q.broadcast(&[])?;
    t.gets(&mark, &[dot1ad(100)])?;
    r.gets(&mark, &[])?;
    // And loses it on the way to the customer.
    let mark = t.broadcast(&[dot1ad(100), dot1q(6)])?;
    q.gets(&mark, &[dot1q(6)])?;
    never(&t, &[dot1ad(101), dot1q(6)], &q, &[dot1ad(100)])
}

fn priority(lab: &Lab) -> Result<()> {
    let (daemon, [a, b, t]) = bench(lab, [("a", "tag=10"), ("b", "tag=10"), ("t", "")])?;
    let zero = Tag { tpid: 0x8100, tci: 3 << 13 };
    // A priority tag counts as untagged: the frame belongs to the port's VLAN, its priority is kept.
    let mark = a.broadcast(&[zero])?;
    t.gets(&mark, &[Tag { tpid: 0x8100, tci: 3 << 13 | 10 }])?;
    b.gets(&mark, &[])?;
    // Where it is asked for, the priority leaves in a tag with VLAN 0.
    daemon.run("set port b other_config:priority-tags=if-nonzero")?;
    let mark = a.broadcast(&[zero])?;
    b.gets(&mark, &[zero])?;
    let mark = a.broadcast(&[])?;
    b.gets(&mark, &[])?;
    daemon.run("set port b other_config:priority-tags=always")?;
    let mark = a.broadcast(&[])?;
    b.gets(&mark, &[dot1q(0)])
}

fn change(lab: &Lab) -> Result<()> {
    let (daemon, [a, b, t]) = bench(lab, [("a", "tag=10"), ("b", "tag=20"), ("t", "")])?;
    let lost = a.broadcast(&[])?;
    t.gets(&lost, &[dot1q(10)])?;
    daemon.run("set port b tag=10")?;
    let mark = a.broadcast(&[])?;
    let frames = b.raw.until_mark(&mark)?;
    ensure!(!frames.iter().any(|f| has_mark(f, &lost)), "VLAN 10 reached VLAN 20");
    // Known addresses do not outlive the change either: unicast to a goes where a is.
    daemon.run("set port b tag=20")?;
    let mark = fresh_mark("unicast");
    b.raw.send(&marked(a.host.mac, b.host.mac, &[], &mark))?;
    t.gets(&mark, &[dot1q(20)])?;
    let last = t.broadcast(&[dot1q(10)])?;
    let frames = a.raw.until_mark(&last)?;
    ensure!(!frames.iter().any(|f| has_mark(f, &mark)), "VLAN 20 reached VLAN 10");
    // Without a tag the port is a trunk.
    daemon.run("clear port b tag")?;
    let mark = a.broadcast(&[])?;
    b.gets(&mark, &[dot1q(10)])
}
