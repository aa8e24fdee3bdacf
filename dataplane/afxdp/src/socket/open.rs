//! Opening: socket, memory, rings, bind.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{BindMode, Counters, Frames, Rings, Socket, SocketConfig};
use crate::error::{Error, Operation};
use crate::region::{CHUNK_SIZE, Region};
use crate::ring::{Kind, Ring};
use crate::sys;

/// How long to wait for a queue whose last owner has just gone: the kernel releases it in the
/// background (40 to 85 ms were seen).
const BUSY_PATIENCE: Duration = Duration::from_secs(1);
const BUSY_STEP: Duration = Duration::from_millis(10);

/// Largest ring the kernel makes without trouble; its own limit is memory.
const MAX_RING: u32 = 1 << 16;

/// Bytes in front of a sent frame: flags, checksum start and offset (`struct xsk_tx_metadata`
/// without the fields of later kernels).
pub(super) const TX_METADATA: usize = 16;

impl SocketConfig {
    /// Whether the settings can work.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the first one that cannot.
    pub fn validate(&self) -> Result<(), Error> {
        let rings = [
            ("rx_size", self.rx_size),
            ("tx_size", self.tx_size),
            ("fill_size", self.fill_size),
            ("comp_size", self.comp_size),
        ];
        for (name, size) in rings {
            if !size.is_power_of_two() || !(2..=MAX_RING).contains(&size) {
                return Err(Error::Invalid {
                    what: format!(
                        "{name} is {size}: a power of two from 2 to {MAX_RING} is needed"
                    ),
                });
            }
        }
        if self.comp_size < self.tx_size {
            return Err(Error::Invalid {
                what: format!(
                    "comp_size is {}: it must not be less than tx_size, which is {}",
                    self.comp_size, self.tx_size
                ),
            });
        }
        Ok(())
    }
}

impl Socket {
    /// Open a socket on a queue of an interface of the thread's network namespace, and bind it.
    /// It receives nothing until an XDP program sends frames to it
    /// ([`crate::Attachment::insert`]) and it has frames to fill ([`Socket::refill`]).
    ///
    /// A queue whose last owner has just gone is waited for, up to a second. Costs about 17 MiB of
    /// kernel memory and 46 ms for a region of 512 MiB.
    ///
    /// # Errors
    /// [`Error::Invalid`] for settings that cannot work; else the step the kernel refused: the
    /// interface is down (ENETDOWN), gone (ENODEV), has no such queue (EINVAL), its queue is taken
    /// (EBUSY), its driver cannot do what is asked (EOPNOTSUPP).
    pub fn open(
        ifindex: u32,
        queue: u32,
        region: Arc<Region>,
        config: SocketConfig,
    ) -> Result<Socket, Error> {
        config.validate()?;
        let name = format!("{} queue {queue}", sys::interface_name(ifindex));
        let fail = |operation| {
            let name = name.clone();
            move |e| Error::system(operation, &name, e)
        };
        let fd = sys::socket().map_err(fail(Operation::CreateSocket))?;
        register(fd.as_fd(), &region, config.tx_metadata)
            .map_err(fail(Operation::RegisterMemory))?;
        let rings = (|| {
            Ok(Rings {
                fill: Ring::new(fd.as_fd(), Kind::Fill, config.fill_size)?,
                completion: Ring::new(fd.as_fd(), Kind::Completion, config.comp_size)?,
                rx: Ring::new(fd.as_fd(), Kind::Rx, config.rx_size)?,
                tx: Ring::new(fd.as_fd(), Kind::Tx, config.tx_size)?,
            })
        })()
        .map_err(fail(Operation::CreateRing))?;
        let zero_copy = bind(fd.as_fd(), ifindex, queue, &config).map_err(fail(Operation::Bind))?;
        // More packets for one send call; kernels that do not know it send 32.
        let _ = sys::set(fd.as_fd(), sys::XDP_MAX_TX_SKB_BUDGET, &TX_BUDGET);
        let mut socket = Socket {
            rings,
            fd,
            frames: Frames::new(region),
            skipping: false,
            config,
            zero_copy,
            tx_stuck: false,
            dead: None,
            counters: Counters::default(),
            ifindex,
            queue,
        };
        socket.frames.until_free = zero_copy.then_some((ifindex, queue));
        socket.set_fill_budget(config.fill_budget);
        Ok(socket)
    }
}

/// Packets that one send call may move.
const TX_BUDGET: u32 = 256;

fn register(fd: BorrowedFd<'_>, region: &Region, tx_metadata: bool) -> std::io::Result<()> {
    let umem = libc::xdp_umem_reg {
        addr: region.base().as_ptr() as u64,
        len: region.size() as u64,
        chunk_size: CHUNK_SIZE as u32,
        headroom: 0,
        flags: if tx_metadata { libc::XDP_UMEM_TX_METADATA_LEN } else { 0 },
        tx_metadata_len: if tx_metadata { TX_METADATA as u32 } else { 0 },
    };
    sys::set(fd, libc::XDP_UMEM_REG, &umem)
}

/// Bind, without a copy if that is preferred and possible; tells whether it is.
fn bind(
    fd: BorrowedFd<'_>,
    ifindex: u32,
    queue: u32,
    config: &SocketConfig,
) -> std::io::Result<bool> {
    let mut flags = 0;
    if config.need_wakeup {
        flags |= libc::XDP_USE_NEED_WAKEUP;
    }
    if config.frags {
        flags |= libc::XDP_USE_SG;
    }
    if config.mode == BindMode::ZeroCopyPreferred {
        match patient(|| sys::bind(fd, ifindex, queue, flags | libc::XDP_ZEROCOPY)) {
            Ok(()) => return Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => return Err(e),
            Err(_) => {} // Whatever else is wrong shows again below.
        }
    }
    patient(|| sys::bind(fd, ifindex, queue, flags | libc::XDP_COPY))?;
    Ok(false)
}

/// Try until it is not EBUSY, for a while.
pub(super) fn patient(mut step: impl FnMut() -> std::io::Result<()>) -> std::io::Result<()> {
    let end = Instant::now() + BUSY_PATIENCE;
    loop {
        match step() {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < end => {
                std::thread::sleep(BUSY_STEP);
            }
            done => return done,
        }
    }
}
