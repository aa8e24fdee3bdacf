//! The machines of a test and the cables between them: named network namespaces and veth pairs.
//!
//! The sandbox's own namespace is the switch's host. [`Lab::host`] makes a machine `h1` with `eth0`,
//! whose other end `h1` lies on the switch's side, ready to be given to `add-port`.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use crate::cmd::{self, Output};
use crate::frame::Mac;
use crate::raw::Raw;

/// Everything of one test.
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
    hosts: Cell<u8>,
    /// Run dirs of all daemons that were started, to ask them when something failed.
    pub(crate) run_dirs: RefCell<Vec<PathBuf>>,
}

impl Lab {
    /// An empty laboratory; its files go to a directory that vanishes with the sandbox.
    pub fn new() -> Result<Self> {
        let dir = PathBuf::from("/run/lab");
        std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        Ok(Self { dir, hosts: Cell::new(0), run_dirs: RefCell::default() })
    }

    /// The directory for files of the test; logs (`*.log`) in it are shown when it fails.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A machine without any cable.
    pub fn node(&self, name: &str) -> Result<Node> {
        cmd::run(&["ip", "netns", "add", name])?;
        let node = Node { name: name.to_owned() };
        node.run(&["sysctl", "-q", "-w", "net.ipv6.conf.default.disable_ipv6=1"])?;
        node.run(&["ip", "link", "set", "dev", "lo", "up"])?;
        Ok(node)
    }

    /// A veth pair between interface `here` of the switch's host and `there` of `node`, both up.
    pub fn cable(&self, here: &str, node: &Node, there: &str) -> Result<()> {
        self.cable_with_queues(here, node, there, 1)
    }

    /// The same with this many queues at both ends.
    pub fn cable_with_queues(&self, here: &str, node: &Node, there: &str, n: u32) -> Result<()> {
        let n = n.to_string();
        #[rustfmt::skip]
        cmd::run(&[
            "ip", "link", "add", "name", here, "numrxqueues", &n, "numtxqueues", &n, "type", "veth",
            "peer", "name", there, "netns", &node.name, "numrxqueues", &n, "numtxqueues", &n,
        ])?;
        cmd::run(&["ip", "link", "set", "dev", here, "up"])?;
        node.run(&["ip", "link", "set", "dev", there, "up"])?;
        Ok(())
    }

    /// A machine `name` with `eth0` at `cidr` (none when empty), its cable's other end named `name`.
    pub fn host(&self, name: &str, cidr: &str) -> Result<Host> {
        self.host_with_queues(name, cidr, 1)
    }

    /// The same with this many queues at both ends of its cable.
    pub fn host_with_queues(&self, name: &str, cidr: &str, queues: u32) -> Result<Host> {
        let node = self.node(name)?;
        self.plug(node, name, cidr, queues)
    }

    fn plug(&self, node: Node, name: &str, cidr: &str, queues: u32) -> Result<Host> {
        self.hosts.set(self.hosts.get() + 1);
        let mac = Mac([2, 0, 0, 0, 1, self.hosts.get()]);
        self.cable_with_queues(name, &node, "eth0", queues)?;
        node.run(&["ip", "link", "set", "dev", "eth0", "address", &mac.to_string()])?;
        if !cidr.is_empty() {
            node.run(&["ip", "addr", "add", cidr, "dev", "eth0"])?;
        }
        let address = cidr.split('/').next().unwrap_or_default().to_owned();
        Ok(Host { node, mac, address })
    }

    /// Print what helps to understand a failure: the daemons' logs and their own view.
    pub fn describe(&self) {
        for dir in self.run_dirs.borrow().iter() {
            for words in ["show", "workers", "drops", "dump-megaflows"] {
                let mut command = Command::new(crate::daemon::program("vswitchctl"));
                command.arg("--run-dir").arg(dir).args(["--timeout", "3", words]);
                if let Ok(out) = cmd::output_of(&mut command) {
                    let text = format!("{}{}", out.stdout, out.stderr);
                    let head: Vec<&str> = text.lines().take(60).collect();
                    println!("--- {words} ({})\n{}", dir.display(), head.join("\n"));
                }
            }
        }
        let logs = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for path in
            logs.map(|entry| entry.path()).filter(|p| p.extension().is_some_and(|e| e == "log"))
        {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            println!(
                "--- {}\n{}",
                path.display(),
                lines[lines.len().saturating_sub(60)..].join("\n")
            );
        }
    }
}

/// A network namespace with a name.
#[derive(Debug, Clone)]
pub struct Node {
    pub name: String,
}

impl Node {
    fn words<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        let mut words = vec!["ip", "netns", "exec", self.name.as_str()];
        words.extend(args);
        words
    }

    /// Run a program on this machine that must succeed; its standard output.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        cmd::run(&self.words(args)).with_context(|| format!("on {}", self.name))
    }

    /// Run a program on this machine, whatever its exit status.
    pub fn output(&self, args: &[&str]) -> Result<Output> {
        cmd::output(&self.words(args))
    }

    /// Start a program on this machine, its output thrown away; it ends with the returned value.
    pub fn start(&self, args: &[&str]) -> Result<Background> {
        let mut command = cmd::command(&self.words(args));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().with_context(|| format!("starting {}", args.join(" ")))?;
        Ok(Background { child })
    }

    /// Do something in a thread on this machine.
    pub fn inside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> std::thread::JoinHandle<Result<T>> {
        let name = self.name.clone();
        std::thread::spawn(move || {
            crate::raw::enter_network(&name)?;
            work()
        })
    }

    /// A packet socket on one of this machine's interfaces.
    pub fn raw(&self, interface: &str) -> Result<Raw> {
        Raw::open(Some(&self.name), interface)
    }
}

/// A program in the background; ended when dropped.
#[derive(Debug)]
pub struct Background {
    child: Child,
}

impl Background {
    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Wait for its end; its exit status.
    pub fn wait(mut self) -> Result<i32> {
        Ok(self.child.wait()?.code().unwrap_or(-1))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A machine with one cable to the switch.
#[derive(Debug, Clone)]
pub struct Host {
    pub node: Node,
    pub mac: Mac,
    /// Its address on `eth0`, without prefix length.
    pub address: String,
}

impl Host {
    /// A packet socket on `eth0`.
    pub fn raw(&self) -> Result<Raw> {
        self.node.raw("eth0")
    }

    /// Ping `address` until it answers, then `count` times, all of which must be answered, however late:
    /// counted by the kernel, as `ping` stops listening soon after it has sent its last.
    pub fn ping(&self, address: &str, count: u32) -> Result<()> {
        let (name, words) = (&self.node.name, count.to_string());
        crate::wait::until(&format!("{name} reaches {address}"), || {
            Ok(self.node.output(&["ping", "-q", "-c", "1", "-W", "1", address])?.status == 0)
        })?;
        let (sent, answered) = self.echoes()?;
        let out =
            self.node.output(&["ping", "-q", "-c", &words, "-i", "0.05", "-W", "2", address])?;
        let mut missing = 0;
        let all = crate::wait::until(&format!("every ping from {name} is answered"), || {
            let now = self.echoes()?;
            missing = (now.0 - sent).saturating_sub(now.1 - answered);
            Ok(missing == 0)
        });
        all.with_context(|| format!("{missing} are missing:\n{}{}", out.stdout, out.stderr))
    }

    /// ICMP echo requests sent and replies received by this machine since it was made.
    fn echoes(&self) -> Result<(u64, u64)> {
        let four = self.node.run(&["cat", "/proc/net/snmp"])?;
        let six = self.node.run(&["cat", "/proc/net/snmp6"])?;
        let mut icmp = four.lines().filter(|line| line.starts_with("Icmp:"));
        let (names, values) = (icmp.next().unwrap_or(""), icmp.next().unwrap_or(""));
        let of_four = |name: &str| -> u64 {
            let at = names.split(' ').position(|n| n == name);
            at.and_then(|at| values.split(' ').nth(at)?.parse().ok()).unwrap_or(0)
        };
        let of_six = |name: &str| -> u64 {
            let line = six.lines().find(|line| line.split_whitespace().next() == Some(name));
            line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
        };
        let sent = of_four("OutEchos") + of_six("Icmp6OutEchos");
        Ok((sent, of_four("InEchoReps") + of_six("Icmp6InEchoReplies")))
    }

    /// Whether `address` does not answer two pings.
    pub fn cannot_reach(&self, address: &str) -> Result<()> {
        let out = self.node.output(&["ping", "-q", "-c", "2", "-i", "0.2", "-W", "1", address])?;
        anyhow::ensure!(out.status != 0, "{} reached {address}", self.node.name);
        Ok(())
    }
}
