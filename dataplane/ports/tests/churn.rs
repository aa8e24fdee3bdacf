//! Interfaces are deleted, moved away, set down and changed at random under load, and no frame is
//! lost from the accounting. Needs root.
//!
//! Runs for `CHURN_SECONDS`, 5 if that is not set. `CHURN_SEED` repeats a run's choices.

mod common;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use afxdp::{FramePool, Region};
use common::*;
use ports::tap::TapConfig;
use ports::{AfxdpConfig, Burst, PortHandle, PortKind, PortSystem, Queue, Reaction};

const VETHS: usize = 3;
const TAPS: usize = 2;
/// How often an interface is changed.
const STEP: Duration = Duration::from_millis(50);

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Small and known (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

struct Port {
    handle: PortHandle,
    queues: Vec<Queue>,
    /// Who sends on the other end.
    host: Option<OtherNs>,
}

impl Port {
    fn is_veth(&self) -> bool {
        self.handle.name().starts_with('v')
    }

    /// Have an interface of the port's name again.
    fn provide(&mut self) {
        if self.is_veth() {
            self.host = None;
            self.host = Some(host(self.handle.name(), "10.0.0.1/24"));
        }
    }
}

/// What a worker does: receive, send what came by any port by all others.
fn forward(ports: &mut [Port], pool: &mut FramePool) {
    let mut burst = Burst::new();
    for from in 0..ports.len() {
        for q in 0..ports[from].queues.len() {
            ports[from].queues[q].set_ready();
            ports[from].queues[q].rx_burst(pool, &mut burst);
            for to in (0..ports.len()).filter(|to| *to != from) {
                let Some(out) = ports[to].queues.first_mut() else { continue };
                let mut copies: Burst = burst.iter().filter_map(|p| p.duplicate(pool)).collect();
                out.tx_burst(pool, &mut copies);
            }
            burst.drain(..).for_each(|p| pool.free_packet(p));
        }
    }
    for p in ports.iter_mut() {
        p.queues.iter_mut().for_each(|q| {
            q.flush(pool);
        });
    }
}

/// What control does.
fn control(ports: &mut [Port], pool: &mut FramePool, system: &mut PortSystem, closed: &mut u32) {
    let now = Instant::now();
    let events = system.links.drain().unwrap();
    for p in ports.iter_mut() {
        for e in &events {
            let mut reaction = p.handle.on_event(e);
            if reaction == Reaction::Close {
                p.handle.closed(std::mem::take(&mut p.queues), pool, system, now);
                *closed += 1;
                if p.handle.wants_reopen(system, now) {
                    reaction = Reaction::Reopen;
                }
            }
            if reaction == Reaction::Reopen
                && let Ok(queues) = p.handle.reopen(system, now)
            {
                p.queues = queues;
            }
        }
        if p.handle.wants_reopen(system, now)
            && let Ok(queues) = p.handle.reopen(system, now)
        {
            p.queues = queues;
        }
    }
}

/// One change of an interface; commands may fail where the interface is in another state.
fn change(p: &mut Port, other: &OtherNs, random: &mut Random) {
    let name = p.handle.name().to_owned();
    let script = match random.below(7) {
        0 | 1 => format!("link del {name}"),
        2 if p.is_veth() => format!("link set {name} netns {}", other.pid()),
        3 => format!("link set {name} down"),
        4 => format!("link set {name} mtu {}", [1400, 1500, 9000][random.below(3) as usize]),
        5 => format!("link set {name} name renamed"),
        _ => format!("link set {name} up"),
    };
    let mut command = std::process::Command::new("ip");
    let done = command.args(script.split_whitespace()).output().unwrap();
    // What was renamed or moved is in nobody's way for long.
    for _ in 0..2 {
        let _ = std::process::Command::new("ip").args(["link", "del", "renamed"]).output();
    }
    let there = std::process::Command::new("ip").args(["link", "show", &name]).output().unwrap();
    if !there.status.success() && done.status.success() {
        let _ = std::process::Command::new("nsenter")
            .args(["-t", &other.pid().to_string(), "-n", "ip", "link", "del", &name])
            .output();
        p.provide();
    }
}

#[test]
fn no_frame_is_lost_while_interfaces_come_and_go() {
    if !enter() {
        return;
    }
    let seed = setting("CHURN_SEED", u64::from(std::process::id()) << 20 | 1);
    eprintln!("CHURN_SEED={seed}");
    let mut random = Random(seed);
    let other = OtherNs::new();
    let mut system = PortSystem::new(Region::new(16 << 20).unwrap()).unwrap();
    let mut pool = system.region.pool();
    let mut ports: Vec<Port> = (0..VETHS + TAPS)
        .map(|i| {
            let (name, kind) = match i.checked_sub(VETHS) {
                None => (format!("v{i}"), PortKind::Afxdp(AfxdpConfig::default())),
                Some(i) => {
                    let name = format!("t{i}");
                    let config = TapConfig { name: name.clone(), ..TapConfig::default() };
                    (name, PortKind::Internal(config))
                }
            };
            let mut p =
                Port { handle: PortHandle::new(&name, kind), queues: Vec::new(), host: None };
            p.provide();
            p.queues = p.handle.reopen(&mut system, Instant::now()).unwrap();
            p
        })
        .collect();
    let end = Instant::now() + Duration::from_secs(setting("CHURN_SECONDS", 5));
    let (mut next, mut changes, mut closed) = (Instant::now(), 0, 0);
    let mut load: Option<UdpSocket> = None;
    while Instant::now() < end {
        if Instant::now() >= next {
            let i = random.below(ports.len() as u64) as usize;
            change(&mut ports[i], &other, &mut random);
            changes += 1;
            next = Instant::now() + STEP;
            // Broadcasts from some veth's other end, which need no neighbour.
            let h = ports[random.below(VETHS as u64) as usize].host.as_ref().unwrap();
            load = Some(h.within(|| {
                let s = UdpSocket::bind("0.0.0.0:0").unwrap();
                s.set_broadcast(true).unwrap();
                s
            }));
        }
        if let Some(s) = &load {
            for size in [10, 100, 1000, 1400] {
                let _ = s.send_to(&vec![0; size], "10.0.0.255:9");
            }
        }
        forward(&mut ports, &mut pool);
        control(&mut ports, &mut pool, &mut system, &mut closed);
        let held: usize = ports.iter().flat_map(|p| &p.queues).map(Queue::frames_held).sum();
        assert_eq!(
            held + pool.len() + system.region.stored(),
            system.region.chunks(),
            "after {changes} changes (CHURN_SEED={seed})"
        );
    }
    let received: u64 = ports.iter().map(|p| p.handle.counters().rx_packets).sum();
    eprintln!("{changes} changes, {closed} ports closed, {received} packets");
    assert!(closed > 0 && received > 0, "nothing happened: the test tests nothing");
    ports::close_all(ports.into_iter().map(|p| (p.handle, p.queues)).collect(), &system);
    drop(pool);
    assert_eq!(system.region.stored(), system.region.chunks());
    assert_eq!(afxdp::region::leaked_frames(), 0);
}
