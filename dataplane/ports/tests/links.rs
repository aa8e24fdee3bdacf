//! The watcher against the kernel. Needs root.

mod common;

use common::*;
use ports::links::{Change, Left, LinkEvent, LinkWatcher};

/// A watcher and what it has said that nobody has waited for yet.
struct Watch(LinkWatcher, Vec<LinkEvent>);

impl Watch {
    fn new() -> Watch {
        Watch(LinkWatcher::new().unwrap(), Vec::new())
    }

    /// Wait for an event; those before it are forgotten.
    fn wait(&mut self, name: &str, change: Change) -> LinkEvent {
        wait_for(&format!("{change:?} of {name}"), || {
            self.1.extend(self.0.drain().unwrap());
            let at = self.1.iter().position(|e| e.name == name && e.change == change)?;
            self.1.drain(..=at).next_back()
        })
    }
}

#[test]
fn follows_a_link_through_its_life() {
    if !enter() {
        return;
    }
    let mut watch = Watch::new();
    assert!(watch.0.by_name("lo").is_some());
    ip("link add v0 type veth peer name v1");
    let v0 = watch.wait("v0", Change::Appeared).ifindex;
    assert_eq!(watch.0.by_name("v0").unwrap().mtu, 1500);
    ip("link set v0 up");
    ip("link set v1 up");
    watch.wait("v0", Change::Up);
    assert!(watch.0.link(v0).unwrap().carrier);
    ip("link set v1 down");
    watch.wait("v0", Change::Down);
    ip("link set v0 mtu 9000");
    watch.wait("v0", Change::Mtu(9000));
    ip("addr add 10.1.2.3/24 dev v0");
    ip("addr add fd00::7/64 dev v0 nodad");
    assert_eq!(watch.0.ask(v0).unwrap().as_ref(), watch.0.link(v0));
    ip("addr add 10.7.7.7/24 dev v1");
    let addresses = watch.0.addresses(v0).unwrap();
    assert!(!addresses.contains(&"10.7.7.7".parse().unwrap()), "{addresses:?}");
    for a in ["10.1.2.3", "fd00::7"] {
        assert!(addresses.contains(&a.parse().unwrap()), "{addresses:?}");
    }
    ip("link set v0 down");
    ip("link set v0 name w0");
    watch.wait("v0", Change::Gone(Left::Renamed));
    watch.wait("w0", Change::Appeared);
    let other = OtherNs::new();
    ip(&format!("link set w0 netns {}", other.pid()));
    watch.wait("w0", Change::Gone(Left::Moved));
    // And home again.
    let home = std::process::id();
    let tid = std::fs::read_link("/proc/thread-self").unwrap();
    let tid = tid.file_name().unwrap().to_string_lossy().into_owned();
    other.run(&format!("ip link set w0 netns /proc/{home}/task/{tid}/ns/net"));
    let w0 = watch.wait("w0", Change::Appeared).ifindex;
    watch.0.delete(w0).unwrap();
    watch.wait("w0", Change::Gone(Left::Deleted));
    assert!(watch.0.ask(w0).unwrap().is_none());
    watch.0.delete(w0).unwrap();
}

#[test]
fn lost_messages_are_made_good() {
    if !enter() {
        return;
    }
    let mut watch = Watch::new();
    ip("link add keep0 type veth peer name keep1");
    ip("link add gone0 type veth peer name gone1");
    watch.wait("gone0", Change::Appeared);
    // Far more than the socket's buffer holds, and nobody reads.
    let file = tempfile::NamedTempFile::new().unwrap();
    let flap = "link set keep0 mtu 1400\nlink set keep0 mtu 1500\n".repeat(4000);
    std::fs::write(file.path(), flap + "link del gone0\nlink set keep0 mtu 1300\n").unwrap();
    run("ip", &format!("-batch {}", file.path().display()));
    watch.wait("gone0", Change::Gone(Left::Deleted));
    wait_for("the last MTU", || {
        watch.0.drain().unwrap();
        (watch.0.by_name("keep0").unwrap().mtu == 1300).then_some(())
    });
    assert!(watch.0.resyncs() > 0, "nothing was lost: the test tests nothing");
    assert!(watch.0.by_name("gone0").is_none());
}

#[test]
fn a_thousand_links_are_listed() {
    if !enter() {
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let links: String =
        (0..500).map(|i| format!("link add a{i} type veth peer name b{i}\n")).collect();
    std::fs::write(file.path(), links).unwrap();
    run("ip", &format!("-batch {}", file.path().display()));
    let w = LinkWatcher::new().unwrap();
    assert!(w.links().count() > 1000);
    assert!(w.by_name("b499").is_some());
}
