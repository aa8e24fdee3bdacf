//! Which interfaces come, go and change?
//!
//! [`LinkWatcher`] follows the kernel's interfaces in one network namespace and gives each change
//! once, in order. It is polled by control: watch [`LinkWatcher::fd`], call
//! [`LinkWatcher::drain`]. When the kernel drops messages because nobody read them, the watcher
//! lists everything anew and gives the differences, so nothing is missed; what came and went in
//! between is not seen.
//!
//! AF_XDP sockets are told nothing when their interface is deleted or moved: this is where a
//! port learns it.
//!
//! Must not know: ports.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use crate::error::PortError;
use crate::netlink::{LinkMessage, LinkSocket, Requests};

pub use crate::netlink::Link;

/// How an interface left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It was deleted.
    Deleted,
    /// It was moved to another network namespace.
    Moved,
    /// It has another name now.
    Renamed,
}

/// What happened to an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is there, under this name.
    Appeared,
    /// It is there no more under this name.
    Gone(Left),
    /// It can carry packets: set up, and with a signal.
    Up,
    /// It cannot any more.
    Down,
    /// It has another MTU, in bytes.
    Mtu(u32),
}

/// A change of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkEvent {
    /// The interface's index.
    pub ifindex: u32,
    /// Its name, which for [`Change::Gone`] is the one that it had.
    pub name: String,
    /// What happened.
    pub change: Change,
}

/// The links known, and what each message changes in them.
#[derive(Debug, Default)]
struct Table(BTreeMap<u32, Link>);

impl Table {
    fn learn(&mut self, new: Link, events: &mut Vec<LinkEvent>) {
        let (ifindex, name) = (new.ifindex, new.name.clone());
        let mut tell = |name: &str, change| {
            events.push(LinkEvent { ifindex, name: name.to_owned(), change });
        };
        let (up, mtu) = (new.up && new.carrier, new.mtu);
        let old = self.0.insert(ifindex, new);
        match old {
            Some(old) if old.name == name => {
                if (old.up && old.carrier) != up {
                    tell(&name, if up { Change::Up } else { Change::Down });
                }
                if old.mtu != mtu {
                    tell(&name, Change::Mtu(mtu));
                }
            }
            other => {
                if let Some(old) = other {
                    tell(&old.name, Change::Gone(Left::Renamed));
                }
                tell(&name, Change::Appeared);
            }
        }
    }

    fn forget(&mut self, ifindex: u32, left: Left, events: &mut Vec<LinkEvent>) {
        if let Some(old) = self.0.remove(&ifindex) {
            events.push(LinkEvent { ifindex, name: old.name, change: Change::Gone(left) });
        }
    }

    /// Replace all by a fresh list.
    fn resync(&mut self, links: Vec<Link>, events: &mut Vec<LinkEvent>) {
        let there: std::collections::BTreeSet<u32> = links.iter().map(|l| l.ifindex).collect();
        let gone: Vec<u32> = self.0.keys().filter(|i| !there.contains(i)).copied().collect();
        for ifindex in gone {
            self.forget(ifindex, Left::Deleted, events);
        }
        for link in links {
            self.learn(link, events);
        }
    }
}

/// Follows the interfaces of one network namespace.
#[derive(Debug)]
pub struct LinkWatcher {
    socket: LinkSocket,
    requests: Requests,
    table: Table,
    /// Times that messages were lost and all was listed anew.
    resyncs: u64,
}

fn failed(operation: &'static str) -> impl Fn(std::io::Error) -> PortError {
    move |e| PortError::system("interfaces", operation, e)
}

impl LinkWatcher {
    /// Watch the namespace of this thread. The interfaces that are there now give no events; they
    /// are in [`LinkWatcher::links`].
    ///
    /// # Errors
    /// If the kernel refuses the sockets or the list.
    pub fn new() -> Result<LinkWatcher, PortError> {
        // The group first, the list second: nothing falls in between.
        let socket = LinkSocket::new().map_err(failed("watch"))?;
        let requests = Requests::new().map_err(failed("open a netlink socket"))?;
        let mut watcher = LinkWatcher { socket, requests, table: Table::default(), resyncs: 0 };
        watcher.resync(&mut Vec::new())?;
        Ok(watcher)
    }

    /// The descriptor that is readable when something has changed.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.fd()
    }

    /// What has changed since the last call. Never blocks for long.
    ///
    /// # Errors
    /// If the kernel refuses to say. The next call tries again.
    pub fn drain(&mut self) -> Result<Vec<LinkEvent>, PortError> {
        let mut events = Vec::new();
        let table = &mut self.table;
        let taken = self.socket.take(|message| match message {
            LinkMessage::New(link) => table.learn(link, &mut events),
            LinkMessage::Del { ifindex, moved } => {
                table.forget(ifindex, if moved { Left::Moved } else { Left::Deleted }, &mut events);
            }
        });
        match taken {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                self.resyncs += 1;
                tracing::warn!("interfaces changed faster than they were followed; listing anew");
                // What still waits is older than the list and would undo it.
                self.socket.discard().map_err(failed("read changes"))?;
                self.resync(&mut events)?;
            }
            Err(e) => return Err(failed("read changes")(e)),
        }
        Ok(events)
    }

    fn resync(&mut self, events: &mut Vec<LinkEvent>) -> Result<(), PortError> {
        let links = self.requests.links().map_err(failed("list"))?;
        self.table.resync(links, events);
        Ok(())
    }

    /// The interfaces as last heard of.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.table.0.values()
    }

    /// The interface of that index, as last heard of.
    pub fn link(&self, ifindex: u32) -> Option<&Link> {
        self.table.0.get(&ifindex)
    }

    /// The interface of that name, as last heard of.
    pub fn by_name(&self, name: &str) -> Option<&Link> {
        self.links().find(|l| l.name == name)
    }

    /// The interface as the kernel describes it now; `None` if there is none of that index.
    ///
    /// # Errors
    /// If the kernel refuses to say.
    pub fn ask(&mut self, ifindex: u32) -> Result<Option<Link>, PortError> {
        self.requests.link(ifindex).map_err(failed("describe"))
    }

    /// IP addresses of an interface.
    ///
    /// # Errors
    /// If the kernel refuses the list.
    pub fn addresses(&mut self, ifindex: u32) -> Result<Vec<IpAddr>, PortError> {
        self.requests.addresses(ifindex).map_err(failed("list addresses"))
    }

    /// Delete an interface. One that is not there is no error.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn delete(&mut self, ifindex: u32) -> Result<(), PortError> {
        match self.requests.delete(ifindex) {
            Err(e) if e.raw_os_error() != Some(libc::ENODEV) => Err(failed("delete")(e)),
            _ => Ok(()),
        }
    }

    /// Times that messages were lost and all was listed anew.
    pub fn resyncs(&self) -> u64 {
        self.resyncs
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn link() -> impl Strategy<Value = Link> {
        (1..6u32, "[ab]", any::<bool>(), any::<bool>(), 1500..1502u32).prop_map(
            |(ifindex, name, up, carrier, mtu)| Link {
                ifindex,
                name,
                up,
                carrier,
                mtu,
                mac: None,
                master: None,
                rx_queues: 1,
            },
        )
    }

    proptest! {
        /// However the table got there, who follows the events knows what it knows.
        #[test]
        fn events_tell_it_all(steps in prop::collection::vec(
            prop_oneof![
                link().prop_map(|l| vec![l]),
                (1..6u32).prop_map(|_| vec![]),
                prop::collection::vec(link(), 0..5),
            ], 0..20)) {
            let mut table = Table::default();
            let mut seen: BTreeMap<u32, (String, u32)> = BTreeMap::new();
            for links in steps {
                let mut events = Vec::new();
                if let [one] = &links[..] {
                    table.learn(one.clone(), &mut events);
                } else {
                    let unique: BTreeMap<u32, Link> =
                        links.into_iter().map(|l| (l.ifindex, l)).collect();
                    table.resync(unique.into_values().collect(), &mut events);
                }
                for e in events {
                    match e.change {
                        Change::Appeared => {
                            let mtu = table.0[&e.ifindex].mtu;
                            prop_assert!(seen.insert(e.ifindex, (e.name, mtu)).is_none());
                        }
                        Change::Gone(_) => {
                            prop_assert_eq!(seen.remove(&e.ifindex).unwrap().0, e.name);
                        }
                        Change::Mtu(mtu) => seen.get_mut(&e.ifindex).unwrap().1 = mtu,
                        Change::Up | Change::Down => prop_assert!(seen.contains_key(&e.ifindex)),
                    }
                }
                let known: BTreeMap<u32, (String, u32)> =
                    table.0.iter().map(|(i, l)| (*i, (l.name.clone(), l.mtu))).collect();
                prop_assert_eq!(&known, &seen);
            }
        }
    }
}
