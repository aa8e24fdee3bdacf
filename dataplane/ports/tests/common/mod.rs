//! Network namespaces for tests: each test thread gets one of its own.
#![allow(unsafe_code, dead_code)] // unshare(2); not every test file uses everything.

use std::cell::RefCell;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use afxdp::FramePool;
use ports::{Burst, Queue, RxStatus};

/// Put this thread into a network namespace of its own, which goes when the thread and what it
/// started end. `false` (and a word why) if that is not allowed: the test cannot run.
///
/// One test at a time, until its thread ends: a child process of one test (`ip`) has a copy of every
/// descriptor of the other until it has called exec, and would delay what a close is to cause.
pub fn enter() -> bool {
    static ONE: Mutex<()> = Mutex::new(());
    thread_local!(static MINE: RefCell<Option<MutexGuard<'static, ()>>> = const { RefCell::new(None) });
    MINE.with_borrow_mut(|mine| {
        mine.get_or_insert_with(|| ONE.lock().unwrap_or_else(PoisonError::into_inner));
    });
    // SAFETY: no file descriptors or other memory-relevant state are unshared.
    if let Err(e) = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
    {
        eprintln!("skipped: no network namespace of its own: {e} (needs root)");
        return false;
    }
    // Without link-local addresses the kernel sends nothing by itself.
    std::fs::write("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1")
        .expect("a setting of IPv6");
    ip("link set lo up");
    true
}

/// Run `ip ARGS` in this thread's namespace; it must succeed.
pub fn ip(args: &str) {
    run("ip", args);
}

/// Run a command with arguments split at spaces; it must succeed. Its output.
pub fn run(program: &str, args: &str) -> String {
    let out = Command::new(program).args(args.split_whitespace()).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success(),
        "{program} {args}: {text}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    text
}

/// What sets a namespace up as [`enter`] does, and holds it.
const QUIET_NAMESPACE: &str = "echo 1 > /proc/sys/net/ipv6/conf/default/addr_gen_mode; \
     ip link set lo up; echo ready; exec sleep 600";

/// A second network namespace, held by a process.
pub struct OtherNs(Child);

impl OtherNs {
    pub fn new() -> OtherNs {
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", QUIET_NAMESPACE])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        OtherNs(child)
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Run a command in it; it must succeed. Its output.
    pub fn run(&self, command: &str) -> String {
        run("nsenter", &format!("-t {} -n {command}", self.pid()))
    }

    /// Run `f` on a thread that is in it.
    pub fn within<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> T {
        let ns = std::fs::File::open(format!("/proc/{}/ns/net", self.pid())).unwrap();
        std::thread::spawn(move || {
            rustix::thread::move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&ns),
                Some(rustix::thread::LinkNameSpaceType::Network),
            )
            .unwrap();
            f()
        })
        .join()
        .unwrap()
    }
}

impl Drop for OtherNs {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A veth pair `name` here and `eth0` in a namespace of its own, with an address there.
pub fn host(name: &str, address: &str) -> OtherNs {
    let ns = OtherNs::new();
    ip(&format!("link add {name} type veth peer name eth0 netns {}", ns.pid()));
    ns.run("ip link set eth0 up");
    ns.run(&format!("ip addr add {address} dev eth0"));
    ns
}

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Try until it gives something.
pub fn wait_for<T>(what: &str, mut f: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(t) = f() {
            return t;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Receive until a packet is wanted, and give its bytes; others are freed. `None` when the device
/// is gone.
pub fn receive(
    q: &mut Queue,
    pool: &mut FramePool,
    what: &str,
    mut wanted: impl FnMut(&mut afxdp::Packet) -> bool,
) -> Option<Vec<u8>> {
    let mut burst = Burst::new();
    wait_for(what, || {
        // What the worker's poll would do.
        q.set_ready();
        let status = q.rx_burst(pool, &mut burst);
        let mut found = None;
        for mut p in burst.drain(..) {
            if found.is_none() && wanted(&mut p) {
                found = Some(Some(p.to_vec()));
            }
            pool.free_packet(p);
        }
        q.flush(pool);
        if status == RxStatus::Gone { Some(None) } else { found }
    })
}

/// Send frames.
pub fn send(q: &mut Queue, pool: &mut FramePool, frames: &[&[u8]]) {
    for chunk in frames.chunks(ports::BURST) {
        let mut burst: Burst = chunk.iter().map(|f| pool.packet_from(f).unwrap()).collect();
        q.tx_burst(pool, &mut burst);
        q.flush(pool);
    }
}

/// An ARP request for `target`.
pub fn arp_request(mac: [u8; 6], from: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut f = vec![0xff; 6];
    f.extend(mac);
    f.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    f.extend(mac);
    f.extend(from);
    f.extend([0; 6]);
    f.extend(target);
    f
}

/// Whether a frame is an ARP reply from `from`.
pub fn is_arp_reply(f: &[u8], from: [u8; 4]) -> bool {
    f.len() >= 42 && f[12..14] == [8, 6] && f[20..22] == [0, 2] && f[28..32] == from
}

/// Whether a frame is UDP over IPv4 to that port.
pub fn is_udp_to(f: &[u8], port: u16) -> bool {
    f.len() >= 42 && f[12..14] == [8, 0] && f[23] == 17 && f[36..38] == port.to_be_bytes()
}

/// Whether the UDP or TCP checksum of an IPv4 frame is right, as etherparse says.
pub fn l4_checksum_is_right(f: &[u8]) -> bool {
    let p = etherparse::SlicedPacket::from_ethernet(f).unwrap();
    let Some(etherparse::NetSlice::Ipv4(ip)) = &p.net else { panic!("not IPv4: {p:?}") };
    match p.transport {
        Some(etherparse::TransportSlice::Udp(u)) => {
            let h = u.to_header();
            h.checksum == h.calc_checksum_ipv4(&ip.header().to_header(), u.payload()).unwrap()
        }
        Some(etherparse::TransportSlice::Tcp(t)) => {
            let h = t.to_header();
            h.checksum == h.calc_checksum_ipv4(&ip.header().to_header(), t.payload()).unwrap()
        }
        other => panic!("no UDP or TCP: {other:?}"),
    }
}
