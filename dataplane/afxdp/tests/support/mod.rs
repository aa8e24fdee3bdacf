//! A network namespace for one test, and interfaces in it.
//!
//! Each test runs its body on its own thread inside a new network namespace, which goes with the
//! thread. Without root it is skipped, with the reason printed.
#![allow(unsafe_code, dead_code)] // unshare(2), raw sockets; not every test uses everything.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use afxdp::{
    AttachMode, AttachOptions, Attachment, FramePool, Kick, Packet, Region, Socket, SocketConfig,
};

/// Run `body` on a thread in a network namespace of its own, or print why that cannot be done here.
pub fn in_namespace(body: impl FnOnce() + Send + 'static) {
    // SAFETY: geteuid has no arguments.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("skipped: network namespaces and XDP need root");
        return;
    }
    // One at a time: a child process of one test (`ip`) has a copy of every descriptor of the
    // other until it has called exec, and would delay what a close is to cause.
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let run = std::thread::spawn(move || {
        new_namespace();
        ip("link set lo up");
        body();
        assert_eq!(afxdp::region::leaked_frames(), 0, "frames were dropped, not freed");
    });
    if let Err(panic) = run.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Move this thread into a new network namespace.
pub fn new_namespace() {
    // SAFETY: no pointers; affects this thread only.
    let r = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(r, 0, "unshare: {}", std::io::Error::last_os_error());
}

/// The thread's id, for `ip link set ... netns`.
pub fn thread_id() -> i32 {
    // SAFETY: no arguments.
    unsafe { libc::gettid() }
}

/// Run `ip` with these words; it must succeed.
pub fn ip(words: &str) {
    let out = Command::new("ip").args(words.split_whitespace()).output().expect("ip is installed");
    assert!(out.status.success(), "ip {words}: {}", String::from_utf8_lossy(&out.stderr));
}

/// A pair of veth interfaces, up, without IPv6 (so that the kernel sends nothing by itself).
pub fn veth(a: &str, b: &str) -> (u32, u32) {
    ip(&format!("link add {a} type veth peer name {b}"));
    for name in [a, b] {
        ip(&format!("link set {name} addrgenmode none"));
        ip(&format!("link set {name} up"));
    }
    (index(a), index(b))
}

/// The index of an interface.
pub fn index(name: &str) -> u32 {
    let name = std::ffi::CString::new(name).expect("no NUL in names");
    // SAFETY: a NUL-terminated name.
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}

/// Rings of a size that tests can fill.
pub fn small() -> SocketConfig {
    SocketConfig {
        rx_size: 512,
        tx_size: 512,
        fill_size: 512,
        comp_size: 512,
        ..SocketConfig::default()
    }
}

/// A port as tests use it: attached, one socket, filled.
pub struct Port {
    pub attachment: Option<Attachment>,
    pub socket: Socket,
}

impl Port {
    pub fn open(ifindex: u32, mode: AttachMode, pool: &mut FramePool) -> Port {
        Port::with(ifindex, mode, pool, small())
    }

    pub fn with(
        ifindex: u32,
        mode: AttachMode,
        pool: &mut FramePool,
        config: SocketConfig,
    ) -> Port {
        let options =
            AttachOptions { mode, frags: config.frags, queues: 4, ..AttachOptions::default() };
        let attachment = Attachment::attach(ifindex, &options).expect("attach");
        let region = pool.region().clone();
        let mut socket = Socket::open(ifindex, 0, region, config).expect("open");
        attachment.insert(0, &socket).expect("insert");
        socket.refill(pool);
        Port { attachment: Some(attachment), socket }
    }

    /// Send packets, all of them, within five seconds.
    pub fn send(&mut self, packets: Vec<Packet>, pool: &mut FramePool) {
        let end = Instant::now() + Duration::from_secs(5);
        let mut left = packets.into_iter().peekable();
        while left.peek().is_some() && Instant::now() < end {
            self.socket.tx_burst(&mut left, pool);
            let _ = self.socket.kick_tx();
            self.socket.complete(pool);
        }
        while self.socket.kick_tx() == Kick::Again && Instant::now() < end {}
        assert!(left.next().is_none(), "not all sent in five seconds");
        self.socket.complete(pool);
    }

    /// Receive `n` packets within two seconds, or as many as come.
    pub fn receive(&mut self, n: usize, pool: &mut FramePool) -> Vec<Packet> {
        let end = Instant::now() + Duration::from_secs(2);
        let mut got = Vec::new();
        while got.len() < n && Instant::now() < end {
            let burst = self.socket.rx_burst(pool, 32.min(n - got.len()), |p| got.push(p));
            self.socket.refill(pool);
            if burst == 0 {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        got
    }

    /// Detach and close, checking that exactly the frames held come back.
    pub fn close(self, pool: &mut FramePool) {
        let Port { attachment, socket } = self;
        drop(attachment);
        let held = socket.frames_held().total();
        let closed = socket.close(pool);
        assert_eq!((closed.returned, closed.abandoned), (held, 0));
    }
}

/// A region of 8 MiB (4096 frames) and a pool over it.
pub fn region() -> (Arc<Region>, FramePool) {
    let region = Region::new(8 << 20).expect("region");
    let pool = region.pool();
    (region, pool)
}

/// All frames must be in the store once the pool is gone.
pub fn all_home(region: &Arc<Region>, pool: FramePool) {
    drop(pool);
    assert_eq!(region.stored(), region.chunks(), "every frame is back");
}

/// An Ethernet frame of a local experimental type with a number in it, `len` bytes long.
pub fn numbered(n: u32, len: usize) -> Vec<u8> {
    let mut f = vec![0u8; len.max(18)];
    f[..6].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    f[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    f[12..14].copy_from_slice(&[0x88, 0xb5]);
    f[14..18].copy_from_slice(&n.to_be_bytes());
    for (i, b) in f[18..].iter_mut().enumerate() {
        *b = (i as u32 ^ n) as u8;
    }
    f
}

/// A packet socket on one interface: the kernel's own way in and out.
pub struct Raw(OwnedFd);

impl Raw {
    pub fn open(ifindex: u32) -> Raw {
        let all = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: no pointers; the descriptor is new.
        let fd = unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, all.into());
            assert!(fd >= 0);
            OwnedFd::from_raw_fd(fd)
        };
        // SAFETY: zero is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = all;
        address.sll_ifindex = ifindex as i32;
        let timeout = libc::timeval { tv_sec: 2, tv_usec: 0 };
        // SAFETY: live values of those sizes.
        unsafe {
            let len = size_of::<libc::sockaddr_ll>() as u32;
            assert_eq!(libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len), 0);
            let len = size_of::<libc::timeval>() as u32;
            let (level, name) = (libc::SOL_SOCKET, libc::SO_RCVTIMEO);
            libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const timeout).cast(), len);
        }
        Raw(fd)
    }

    pub fn send(&self, frame: &[u8]) {
        // SAFETY: a live slice.
        let n = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(n, frame.len() as isize, "{}", std::io::Error::last_os_error());
    }

    /// Send, or `false` if the interface is gone or down. A full queue is tried again.
    pub fn try_send(&self, frame: &[u8]) -> bool {
        // SAFETY: a live slice.
        let n = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        let full = std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOBUFS);
        n >= 0 || full
    }

    /// The next frame, or `None` after two seconds.
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0u8; 65536];
        // SAFETY: a live buffer of that size.
        let n =
            unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        if n < 0 {
            return None;
        }
        buffer.truncate(n as usize);
        Some(buffer)
    }
}
