//! Which Debian packages the commands need, and how they come onto the machine: only those that are
//! missing, without a question, and without starting a service of the host.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// A file that a package brings and by which its presence is seen.
pub struct Need {
    file: &'static str,
    package: &'static str,
}

const fn need(file: &'static str, package: &'static str) -> Need {
    Need { file, package }
}

/// What the tests and the demo call.
pub const TESTS: &[Need] = &[
    need("ip", "iproute2"),
    need("ping", "iputils-ping"),
    need("iperf3", "iperf3"),
    need("ethtool", "ethtool"),
    need("unshare", "util-linux"),
    need("ovs-vsctl", "openvswitch-switch"),
    need("curl", "curl"),
    need("nc", "netcat-openbsd"),
    need("traceroute", "traceroute"),
    need("dnsmasq", "dnsmasq-base"),
    need("dig", "bind9-dnsutils"),
    need("nft", "nftables"),
    need("tshark", "tshark"),
    need("udhcpc", "udhcpc"),
    need("valgrind", "valgrind"),
];

/// The stock switches that the benches compare with.
pub const PEERS: &[Need] = &[
    need("ovs-vsctl", "openvswitch-switch"),
    need("/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk", "openvswitch-switch-dpdk"),
    need("/usr/share/doc/librte-mempool-ring23", "librte-mempool-ring23"),
    need("/usr/share/doc/librte-net-pcap23", "librte-net-pcap23"),
    need("/usr/share/doc/librte-net-null23", "librte-net-null23"),
];

const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_TEXT: &str =
    "#!/bin/sh\n# put here by `cargo xtask` while it installs packages\nexit 101\n";

/// Install the packages of those `needs` that are not met.
pub fn ensure(needs: &[Need]) -> Result<()> {
    let missing: Vec<&str> = needs.iter().filter(|n| !present(n.file)).map(|n| n.package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !present("apt-get") {
        bail!("these are missing and there is no apt-get to install them: {list}");
    }
    if !is_root()? {
        bail!("these packages are missing and only root can install them: {list}");
    }
    println!("installing {list}");
    let policy = NoServices::begin()?;
    let installed = apt(&missing).or_else(|_| {
        // The lists of a fresh machine may be empty or old.
        apt_get(&["update"])?;
        apt(&missing)
    });
    drop(policy);
    installed.with_context(|| format!("installing {list}"))
}

fn apt(packages: &[&str]) -> Result<()> {
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(packages);
    apt_get(&arguments)
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(["-q", "-o", "DPkg::Lock::Timeout=300"]).args(arguments);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    if !process::succeeds(&mut command)? {
        bail!("apt-get {} failed", arguments.join(" "));
    }
    Ok(())
}

/// Whether a program (by name) or a file (by absolute path) is there.
pub fn present(file: &str) -> bool {
    if file.starts_with('/') {
        return Path::new(file).exists();
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"];
    path.split(':').chain(usual).any(|dir| Path::new(dir).join(file).is_file())
}

/// Whether this process is root.
pub fn is_root() -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    Ok(uid.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0"))
}

/// While this lives, installing a package starts no service. A policy of the host's own stays.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn begin() -> Result<Self> {
        let path = Path::new(POLICY);
        // What an interrupted run left behind is ours as well, and is taken away at the end.
        if path.exists() && fs::read_to_string(path).unwrap_or_default() != POLICY_TEXT {
            return Ok(Self { ours: false });
        }
        fs::write(path, POLICY_TEXT).with_context(|| format!("writing {POLICY}"))?;
        let guard = Self { ours: true };
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("making {POLICY} executable"))?;
        Ok(guard)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}
