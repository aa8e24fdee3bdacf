//! Our end of a tunnel against stock Open vSwitch with its userspace datapath, over veth: VXLAN,
//! GRE and Geneve, with and without keys and checksums, over IPv4 and IPv6. Needs root, iproute2,
//! ethtool and openvswitch-switch.
#![allow(unsafe_code)] // unshare(2), raw sockets.

#[path = "common/netns.rs"]
mod netns;
#[path = "common/talk.rs"]
mod talk;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use netns::{isolated, run};
use talk::{ID, Tunnel, talk};
use tunnel::Kind;

/// A switch with a directory of its own, which ends with this value.
struct Ovs {
    dir: PathBuf,
    children: Vec<Child>,
}

impl Ovs {
    fn start(name: &str) -> Ovs {
        let dir = std::env::temp_dir().join(format!("tunnel-ovs-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let d = dir.display();
        run(&format!("ovsdb-tool create {d}/conf.db /usr/share/openvswitch/vswitch.ovsschema"));
        let mut ovs = Ovs { dir: dir.clone(), children: Vec::new() };
        ovs.spawn(&format!(
            "ovsdb-server {d}/conf.db --remote=punix:{d}/db.sock --unixctl={d}/db.ctl"
        ));
        ovs.wait_for("db.sock");
        ovs.vsctl("--no-wait init");
        ovs.spawn(&format!("ovs-vswitchd unix:{d}/db.sock --disable-system --unixctl={d}/vs.ctl"));
        ovs.wait_for("vs.ctl");
        ovs
    }

    fn spawn(&mut self, words: &str) {
        let mut words = words.split(' ');
        let mut command = Command::new(words.next().unwrap());
        command.args(words).stdout(Stdio::null()).stderr(Stdio::null());
        let rundir =
            [("OVS_RUNDIR", &self.dir), ("OVS_LOGDIR", &self.dir), ("OVS_DBDIR", &self.dir)];
        self.children.push(command.envs(rundir).spawn().expect("openvswitch-switch"));
    }

    fn wait_for(&self, file: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.dir.join(file).exists() {
            assert!(Instant::now() < deadline, "{file} does not appear");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn vsctl(&self, words: &str) {
        run(&format!("ovs-vsctl --db=unix:{}/db.sock --timeout=20 {words}", self.dir.display()));
    }
}

impl Drop for Ovs {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn against_ovs(kind: Kind, v6: bool, csum: bool, key: bool) {
    let name = format!("{}-{v6}-{csum}-{key}", kind.name());
    isolated(move || {
        let (us, them, len) =
            if v6 { ("fd00::1", "fd00::2", 64) } else { ("192.0.2.1", "192.0.2.2", 24) };
        run("ip link add u0 type veth peer name k0");
        run("ip link set u0 up");
        run("ip link set k0 up");
        // Else the kernel answers for the bridge's address on this interface too.
        run("ip link set k0 arp off");
        run("ip link set lo up");
        let ovs = Ovs::start(&name);
        let bridge = "datapath_type=netdev";
        ovs.vsctl(&format!("add-br br-u -- set bridge br-u {bridge} -- add-port br-u k0"));
        run("ethtool -K br-u tx off");
        run(&format!("ip addr add {them}/{len} dev br-u{}", if v6 { " nodad" } else { "" }));
        run("ip link set br-u up");
        let mut options = format!("options:remote_ip={us} options:local_ip={them}");
        options += if csum { " options:csum=true" } else { "" };
        options += &if key { format!(" options:key={ID}") } else { String::new() };
        let port = format!("add-port br-i t0 -- set interface t0 type={} {options}", kind.name());
        ovs.vsctl(&format!("add-br br-i -- set bridge br-i {bridge} -- {port}"));
        run("ethtool -K br-i tx off");
        run("ip addr add 10.0.0.2/24 dev br-i");
        run("ip link set br-i up");
        let (us, them) = (us.parse().unwrap(), them.parse().unwrap());
        talk("u0", Tunnel { kind, us, them, csum, key });
    });
}

#[test]
fn vxlan() {
    against_ovs(Kind::Vxlan, false, false, true);
    against_ovs(Kind::Vxlan, false, true, true);
    against_ovs(Kind::Vxlan, true, true, true);
}

#[test]
fn gre() {
    for key in [false, true] {
        for csum in [false, true] {
            against_ovs(Kind::Gre, false, csum, key);
        }
    }
    against_ovs(Kind::Gre, true, true, true);
}

#[test]
fn geneve() {
    against_ovs(Kind::Geneve, false, false, true);
    against_ovs(Kind::Geneve, false, true, true);
    against_ovs(Kind::Geneve, true, true, true);
}
