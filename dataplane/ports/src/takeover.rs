//! What does the switch change on an interface that it is given, and how is that put back?
//!
//! A port of type `afxdp` needs its interface up and promiscuous (the latter not if it is shared with
//! the host), and whole frames as they came from the wire: no VLAN tag taken out of them, none merged.
//! [`Takeover`] remembers what was otherwise before, and puts back that and nothing else.
//!
//! Invariant: a takeover that fails has put back what it changed.
//!
//! Must not know: sockets, programs.

use crate::error::PortError;
use crate::netdev::NetDevs;

/// Features that take a VLAN tag out of the frame.
const STRIPPING: [&str; 2] = ["rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"];
/// Features of hardware that merge frames.
const MERGING: [&str; 2] = ["rx-lro", "rx-gro-hw"];
/// Features that merge frames before generic XDP sees them.
const MERGING_IN_SOFTWARE: [&str; 3] = ["rx-gro", "rx-gro-list", "rx-udp-gro-forwarding"];

/// What was changed on an interface.
#[derive(Debug)]
pub(crate) struct Takeover {
    ifindex: u32,
    set_up: bool,
    set_promiscuous: bool,
    /// Features that were on.
    features: Vec<&'static str>,
    /// What could not be changed, for people.
    warnings: Vec<String>,
}

impl Takeover {
    /// Set the interface up and, unless it is shared, promiscuous; stop its tag stripping and merging.
    ///
    /// # Errors
    /// If it cannot be set up or promiscuous. A feature that stays on is a warning; whether tags
    /// survive is asked elsewhere.
    pub(crate) fn new(devs: &NetDevs, name: &str, shared: bool) -> Result<Takeover, PortError> {
        let ifindex = devs.require(name)?;
        let mut takeover = Takeover {
            ifindex,
            set_up: false,
            set_promiscuous: false,
            features: Vec::new(),
            warnings: Vec::new(),
        };
        match takeover.take(devs, name, shared) {
            Ok(()) => Ok(takeover),
            Err(e) => {
                takeover.restore(devs);
                Err(e)
            }
        }
    }

    fn take(&mut self, devs: &NetDevs, name: &str, shared: bool) -> Result<(), PortError> {
        self.turn_off(devs, name, &[STRIPPING, MERGING].concat());
        let flags = devs.flags(name)?;
        if flags & libc::IFF_PROMISC == 0 && !shared {
            devs.change_flags(name, libc::IFF_PROMISC, 0, "make promiscuous")?;
            self.set_promiscuous = true;
        }
        if flags & libc::IFF_UP == 0 {
            devs.set_up(name, true)?;
            self.set_up = true;
        }
        Ok(())
    }

    /// Also stop merging in software, which generic XDP would see the result of.
    pub(crate) fn for_generic_mode(&mut self, devs: &NetDevs, name: &str) {
        self.turn_off(devs, name, &MERGING_IN_SOFTWARE);
    }

    fn turn_off(&mut self, devs: &NetDevs, name: &str, wanted: &[&'static str]) {
        let features = match devs.features(name) {
            Ok(f) => f,
            Err(e) => return self.warnings.push(e.to_string()),
        };
        let on: Vec<_> = wanted.iter().copied().filter(|f| features.is_on(f)).collect();
        let (can, cannot): (Vec<_>, Vec<_>) = on.into_iter().partition(|f| features.can_change(f));
        for f in cannot {
            self.warnings.push(format!("the driver does not let {f} be turned off"));
        }
        if can.is_empty() {
            return;
        }
        let changes: Vec<_> = can.iter().map(|f| (*f, false)).collect();
        match devs.set_features(name, &features, &changes) {
            Ok(()) => self.features.extend(can),
            Err(e) => self.warnings.push(e.to_string()),
        }
    }

    /// What could not be changed.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Put everything back. An interface that is gone is left alone, also if another one has its
    /// name now.
    pub(crate) fn restore(self, devs: &NetDevs) {
        let Some(name) = devs.name(self.ifindex) else { return };
        if let Err(e) = self.put_back(devs, &name) {
            tracing::warn!("cannot put the interface back as it was: {e}");
        }
    }

    fn put_back(&self, devs: &NetDevs, name: &str) -> Result<(), PortError> {
        let mut off = 0;
        if self.set_promiscuous {
            off |= libc::IFF_PROMISC;
        }
        if self.set_up {
            off |= libc::IFF_UP;
        }
        let flags = devs.change_flags(name, 0, off, "put the flags back");
        if !self.features.is_empty() {
            let features = devs.features(name)?;
            let changes: Vec<_> = self.features.iter().map(|f| (*f, true)).collect();
            devs.set_features(name, &features, &changes)?;
        }
        flags
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::sys::NetSocket;

    fn run(program: &str, args: &str) -> String {
        let out = Command::new(program).args(args.split_whitespace()).output().unwrap();
        assert!(out.status.success(), "{program} {args}: {out:?}");
        String::from_utf8(out.stdout).unwrap()
    }

    /// A namespace with a veth pair v0, v1; `None` where that is not allowed.
    fn veth() -> Option<NetDevs> {
        let unshared = crate::sys::own_network_namespace();
        if let Err(e) = unshared {
            eprintln!("skipped: no network namespace of its own: {e} (needs root)");
            return None;
        }
        run("ip", "link add v0 type veth peer name v1");
        Some(NetDevs::new().unwrap())
    }

    #[test]
    fn everything_is_as_before() {
        let Some(devs) = veth() else { return };
        for (up, promisc) in [(false, false), (true, false), (false, true), (true, true)] {
            devs.set_up("v0", up).unwrap();
            run("ip", &format!("link set v0 promisc {}", if promisc { "on" } else { "off" }));
            let before = (devs.flags("v0").unwrap(), devs.features("v0").unwrap());
            assert!(before.1.is_on("rx-vlan-hw-parse"), "nothing to turn off: tests nothing");
            let mut t = Takeover::new(&devs, "v0", false).unwrap();
            t.for_generic_mode(&devs, "v0");
            let taken = devs.flags("v0").unwrap();
            assert!(taken & libc::IFF_UP != 0 && taken & libc::IFF_PROMISC != 0);
            let f = devs.features("v0").unwrap();
            assert!(!f.is_on("rx-vlan-hw-parse") && !f.is_on("rx-vlan-stag-hw-parse"));
            assert!(!f.is_on("rx-gro") && !f.is_on("rx-lro"));
            assert_eq!(t.warnings(), &[] as &[String]);
            t.restore(&devs);
            let after = (devs.flags("v0").unwrap(), devs.features("v0").unwrap());
            assert_eq!(before, after, "up {up}, promiscuous {promisc}");
        }
    }

    #[test]
    fn a_shared_interface_hears_what_is_for_it_only() {
        let Some(devs) = veth() else { return };
        let before = devs.flags("v0").unwrap();
        let t = Takeover::new(&devs, "v0", true).unwrap();
        let taken = devs.flags("v0").unwrap();
        assert!(taken & libc::IFF_UP != 0 && taken & libc::IFF_PROMISC == 0);
        t.restore(&devs);
        assert_eq!(devs.flags("v0").unwrap(), before);
    }

    #[test]
    fn another_interface_of_the_same_name_is_left_alone() {
        let Some(devs) = veth() else { return };
        let t = Takeover::new(&devs, "v0", false).unwrap();
        run("ip", "link del v0");
        run("ip", "link add name lone type bridge"); // Takes the next index.
        run("ip", "link add v0 type veth peer name v1");
        run("ip", "link set v0 up promisc on");
        let before = devs.flags("v0").unwrap();
        t.restore(&devs);
        assert_eq!(devs.flags("v0").unwrap(), before);
    }

    #[test]
    fn driver_queues_and_features_are_read() {
        let Some(devs) = veth() else { return };
        assert_eq!(devs.driver("v0").unwrap(), "veth");
        assert_eq!(devs.rx_queues("v0").unwrap(), Some(1));
        run(
            "ip",
            "link add q0 numrxqueues 4 numtxqueues 4 type veth peer name q1 numrxqueues 4 numtxqueues 4",
        );
        run("ethtool", "-L q0 rx 3");
        assert_eq!(devs.rx_queues("q0").unwrap(), Some(3));
        assert_eq!(devs.rx_queues("lo").unwrap(), None);
        let listed = run("ethtool", "-k v0");
        let f = devs.features("v0").unwrap();
        for (ours, theirs) in [
            ("rx-gro", "generic-receive-offload"),
            ("rx-vlan-hw-parse", "rx-vlan-offload"),
            ("tx-udp-segmentation", "tx-udp-segmentation"),
            ("rx-fcs", "rx-fcs"),
        ] {
            let on = listed.lines().any(|l| l.trim().starts_with(&format!("{theirs}: on")));
            assert_eq!(f.is_on(ours), on, "{ours}");
        }
        assert!(NetSocket::new().unwrap().features("absent").is_err());
    }
}
