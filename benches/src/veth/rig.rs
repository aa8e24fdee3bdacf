//! Forwarding on veth: each switch in turn between the generator and the sink.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::daemon::Daemon;
use e2e::frame::{Mac, ethernet, udp4};
use e2e::lab::{Lab, Node};
use e2e::{cmd, wait};

use super::generator::{self, Vary};
use crate::measure::Measurement;
use crate::peers::ovs::{Flavour, Ovs};

/// Who forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    Ours,
    /// Stock Open vSwitch with `type=afxdp` ports.
    OvsAfxdp,
    /// The kernel's bridge.
    Linux,
    /// Two AF_XDP sockets and nothing between them.
    Bare,
}

pub(super) const SOURCE: Mac = Mac([2, 0, 0, 0, 0, 1]);
pub(super) const TARGET: Mac = Mac([2, 0, 0, 0, 0, 2]);

/// Of real-time threads, among others of that kind.
pub(super) const PRIORITY: &str = "10";

/// The two cables and the machines at their ends.
pub(super) struct Rig {
    sink: Node,
}

impl Rig {
    pub(super) fn new(lab: &Lab) -> Result<Self> {
        let source = lab.node("gen")?;
        let sink = lab.node("sink")?;
        lab.cable("s0", &source, "g0")?;
        lab.cable("s1", &sink, "k0")?;
        Ok(Self { sink })
    }

    /// Frames that arrived at the sink.
    fn arrived(&self) -> Result<u64> {
        let text = self.sink.run(&["cat", "/sys/class/net/k0/statistics/rx_packets"])?;
        text.trim().parse().context("rx_packets")
    }

    /// Wait until what is sent arrives.
    pub(super) fn until_frames_cross(&self, sample: &[u8], vary: Vary) -> Result<()> {
        wait::until("frames cross", || {
            let before = self.arrived()?;
            generator::flood("gen", "g0", sample, vary, Duration::ZERO)?;
            std::thread::sleep(Duration::from_millis(50));
            Ok(self.arrived()? > before + 1000)
        })
    }

    /// Million packets a second at the sink, over the middle of a flood.
    pub(super) fn measure(&self, sample: &[u8], vary: Vary, seconds: u32) -> Result<f64> {
        let span = Duration::from_secs(u64::from(seconds) + 1);
        let sample = sample.to_vec();
        let flood = std::thread::spawn(move || {
            pin_to_first_core();
            generator::flood("gen", "g0", &sample, vary, span)
        });
        std::thread::sleep(Duration::from_millis(500));
        let (start, before) = (Instant::now(), self.arrived()?);
        std::thread::sleep(Duration::from_secs(seconds.into()));
        let (end, after) = (start.elapsed(), self.arrived()?);
        match flood.join() {
            Ok(made) => {
                let (made, span) = made?;
                ensure!(after > before, "nothing arrived of {made} frames in {span:?}");
            }
            Err(_) => anyhow::bail!("the generator panicked"),
        }
        Ok((after - before) as f64 / end.as_secs_f64() / 1e6)
    }

    /// Let the switch learn where the sink is.
    fn announce(&self) -> Result<()> {
        let raw = self.sink.raw("k0")?;
        for _ in 0..3 {
            raw.send(&frame(TARGET, SOURCE))?;
        }
        Ok(())
    }
}

/// A UDP frame of 60 bytes, without a checksum.
fn frame(src: Mac, dst: Mac) -> Vec<u8> {
    let (a, b) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    let mut packet = udp4((a, 1024), (b, 5000), &[0; 18]);
    packet[26..28].fill(0);
    ethernet(dst, src, &[], 0x0800, &packet)
}

/// A switch at work between `s0` and `s1`; it ends with the sandbox at the latest.
pub(super) enum Running {
    Ours(Daemon),
    Ovs(Ovs),
    Linux,
    Bare(Child),
}

impl Running {
    /// Let it forward between `s0` and `s1`. `programs` holds our release programs.
    pub(super) fn start(switch: Switch, lab: &Lab, programs: &Path) -> Result<Self> {
        match switch {
            Switch::Ours => {
                let daemon = Daemon::start_as(lab, "sw", &["--workers", "cores:1"])?;
                daemon.run("add-br br0 -- add-port br0 s0 -- add-port br0 s1")?;
                Ok(Self::Ours(daemon))
            }
            Switch::OvsAfxdp => {
                let ovs = Ovs::start(Flavour::Plain)?;
                ovs.bridge("b")?;
                ovs.ofctl("add-flow b actions=normal")?;
                for port in ["s0", "s1"] {
                    ovs.port("b", port, "type=afxdp options:xdp-mode=native")?;
                }
                Ok(Self::Ovs(ovs))
            }
            Switch::Linux => {
                cmd::run(&["ip", "link", "add", "kbr", "type", "bridge"])?;
                cmd::run(&["ip", "link", "set", "kbr", "up"])?;
                for port in ["s0", "s1"] {
                    // Frames that the generator makes reach the stack only through NAPI.
                    cmd::run(&["ethtool", "-K", port, "gro", "on"])?;
                    cmd::run(&["ip", "link", "set", port, "master", "kbr"])?;
                }
                Ok(Self::Linux)
            }
            Switch::Bare => {
                let program = programs.join("examples/forward");
                let mut command = Command::new("taskset");
                command.args(["-c", "1"]).arg(&program).args(["s0", "s1"]);
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
                let child = command.spawn().context("running the bare forwarder")?;
                wait::until("the bare forwarder is attached", || {
                    let links = cmd::run(&["ip", "link", "show"])?;
                    Ok(links.matches("prog/xdp").count() >= 2)
                })?;
                Ok(Self::Bare(child))
            }
        }
    }

    /// Let the process that forwards, where it is one, come before all that is no real-time thread; or no longer.
    pub(super) fn set_real_time(&self, on: bool) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        let how = if on { ["--fifo", PRIORITY] } else { ["--other", "0"] };
        let pid = pid.to_string();
        cmd::run(&["chrt", "--all-tasks", how[0], "--pid", how[1], &pid])?;
        Ok(())
    }

    /// The process that forwards, where it is one.
    pub(super) fn pid(&self) -> Option<i32> {
        match self {
            Self::Ours(daemon) => Some(daemon.pid()),
            Self::Ovs(ovs) => ovs.pid(),
            Self::Linux => None,
            Self::Bare(child) => i32::try_from(child.id()).ok(),
        }
    }
}

/// Forward `flows` flows for about `seconds`: the rate at which they arrive while more are offered than
/// anybody can carry. Only inside a sandbox of its own. `programs` holds our release programs.
pub fn forward(
    lab: &Lab,
    switch: Switch,
    flows: u32,
    seconds: u32,
    programs: &Path,
) -> Result<Measurement> {
    let rig = Rig::new(lab)?;
    let running = Running::start(switch, lab, programs).with_context(|| format!("{switch:?}"))?;
    // The sink's own driver program takes what arrives; first the switch hears where the sink is.
    rig.announce()?;
    let _drain = generator::drain("sink", "k0")?;
    rig.announce()?;
    let sample = frame(SOURCE, TARGET);
    rig.until_frames_cross(&sample, Vary::Ports(1)).with_context(|| format!("{switch:?}"))?;
    let rate = rig.measure(&sample, Vary::Ports(flows), seconds)?;
    drop(running);
    Ok(Measurement { rate, cycles: None })
}

/// The generator's threads inherit this.
fn pin_to_first_core() {
    let mut set = rustix::thread::CpuSet::new();
    set.set(0);
    // Not fatal: the figures are then noisier.
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

/// Where our release programs are: beside this one.
pub fn programs() -> Result<PathBuf> {
    let me = std::env::current_exe()?;
    Ok(me.parent().context("no directory")?.to_owned())
}
