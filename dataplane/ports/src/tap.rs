//! How do packets come from and go to a tap that the switch owns?
//!
//! A tap is a port of type `internal`: a bridge's own interface, or one that is moved into a
//! namespace for a DHCP or router process. The descriptor is the truth: it goes on working when
//! the interface is renamed or moved to another network namespace, and says `EBADFD` when the
//! interface is really gone. When the last holder of the descriptor closes it, the interface
//! goes: [`Tap`] (control's side) and [`TapQueue`] (the worker's) share it.
//!
//! Each frame has a virtio-net header, so a checksum that the kernel left unfinished arrives as
//! [`Checksum::Partial`] and can be handed on as such. The kernel is asked for checksum offload
//! only, so it cuts large segments itself.
//!
//! Cost: a system call a packet. An idle tap costs nothing: it is read only after the worker's
//! poll has reported it.
//!
//! Must not know: bridges, which worker owns it.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use afxdp::{Checksum, FramePool, HEADROOM, Packet, Segmentation};
use arrayvec::ArrayVec;
use rustix::io::Errno;

use crate::counters::{PortDrop, QueueCounters, add};
use crate::error::PortError;
use crate::netdev::{self, NetDevs};
use crate::queue::{Burst, RxStatus};
use crate::sys::{self, Mac};
use crate::vnet;

/// The largest frame that is read from a tap, in bytes: an MTU of 65,535 with two VLAN tags.
const MAX_FRAME: usize = 65_535 + 14 + 8;
/// Bytes of a frame that are read straight into its first buffer.
const FIRST: usize = afxdp::CHUNK_DATA;
/// Buffers that one packet has at most.
const MAX_BUFFERS: usize = MAX_FRAME.div_ceil(FIRST) + 8;

/// How a tap is to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TapConfig {
    /// The interface's name.
    pub name: String,
    /// Its hardware address; the kernel picks a random one otherwise.
    pub mac: Option<Mac>,
    /// Its MTU in bytes; 1500 otherwise.
    pub mtu: Option<u32>,
}

/// Control's side of a tap.
#[derive(Debug)]
pub struct Tap {
    fd: Arc<OwnedFd>,
}

/// The worker's side of a tap.
#[derive(Debug)]
pub struct TapQueue {
    fd: Arc<OwnedFd>,
    /// Where the part of a frame goes that its first buffer does not hold.
    rest: Box<[u8]>,
    counters: Arc<QueueCounters>,
    /// The poll has reported the descriptor and it was not read empty since.
    ready: bool,
    gone: bool,
}

/// Create a tap. It is down; nothing but its name, address and MTU is set.
///
/// # Errors
/// [`PortError::Exists`] if an interface of that name exists, [`PortError::BadName`], and what the
/// kernel refuses. Nothing is left behind then.
pub fn open(
    config: &TapConfig,
    devs: &NetDevs,
    counters: Arc<QueueCounters>,
) -> Result<(Tap, TapQueue), PortError> {
    let name = &config.name;
    netdev::check_name(name)?;
    if devs.ifindex(name)?.is_some() {
        return Err(PortError::Exists { interface: name.clone() });
    }
    let fd = sys::tap_create(name).map_err(|e| match e.raw_os_error() {
        // Somebody was faster.
        Some(libc::EBUSY | libc::EEXIST) => PortError::Exists { interface: name.clone() },
        _ => PortError::system(name, "create a tap", e),
    })?;
    if let Some(mac) = config.mac {
        devs.set_mac(name, mac)?;
    }
    if let Some(mtu) = config.mtu {
        devs.set_mtu(name, mtu)?;
    }
    let fd = Arc::new(fd);
    let queue = TapQueue {
        fd: fd.clone(),
        rest: vec![0; MAX_FRAME - FIRST].into_boxed_slice(),
        counters,
        // Whatever came before the worker watched it.
        ready: true,
        gone: false,
    };
    Ok((Tap { fd }, queue))
}

impl Tap {
    /// The name that the interface has now, wherever it is; `None` if it is gone.
    pub fn name(&self) -> Option<String> {
        sys::tap_name(self.fd.as_fd()).ok()
    }

    /// Whether the interface is there, here or in another namespace.
    pub fn is_alive(&self) -> bool {
        self.name().is_some()
    }

    /// Set the hardware address, wherever the interface is.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn set_mac(&self, mac: Mac) -> io::Result<()> {
        sys::tap_set_mac(self.fd.as_fd(), mac)
    }
}

impl TapQueue {
    /// See [`crate::Queue::rx_burst`].
    pub(crate) fn rx_burst(&mut self, pool: &mut FramePool, burst: &mut Burst) -> RxStatus {
        if self.gone {
            return RxStatus::Gone;
        }
        if !self.ready {
            return RxStatus::Idle;
        }
        let (mut packets, mut bytes) = (0, 0);
        // Drops count as turns, so that a device that gives nothing but those cannot hold the
        // worker here.
        for _ in 0..burst.remaining_capacity() {
            match self.read(pool) {
                Ok(Some(packet)) => {
                    packets += 1;
                    bytes += packet.len() as u64;
                    burst.push(packet);
                }
                Ok(None) => {}
                Err(Errno::AGAIN) => {
                    self.ready = false;
                    break;
                }
                Err(Errno::INTR) => {}
                // EBADFD is the kernel's word for a tap without an interface.
                Err(_) => {
                    self.gone = true;
                    break;
                }
            }
        }
        self.counters.received(packets, bytes);
        match packets {
            0 if self.gone => RxStatus::Gone,
            0 if !self.ready => RxStatus::Idle,
            _ => RxStatus::Received,
        }
    }

    /// One frame; `None` if it was dropped.
    fn read(&mut self, pool: &mut FramePool) -> Result<Option<Packet>, Errno> {
        let mut header = [0; vnet::LEN];
        let Some(frame) = pool.alloc() else {
            return self.discard();
        };
        let mut packet = Packet::new(frame, HEADROOM, FIRST);
        let got = rustix::io::readv(
            &*self.fd,
            &mut [
                IoSliceMut::new(&mut header),
                IoSliceMut::new(packet.data_mut()),
                IoSliceMut::new(&mut self.rest),
            ],
        );
        let len = match got {
            Ok(n) => n.saturating_sub(vnet::LEN),
            Err(e) => {
                pool.free_packet(packet);
                return Err(e);
            }
        };
        packet.truncate(len, pool);
        let decoded = vnet::decode(&header);
        let fault = if len == 0 {
            Some(PortDrop::RxRunt)
        } else if decoded.segmentation || !fits(decoded.checksum, len) {
            Some(PortDrop::RxOffload)
        } else if len >= MAX_FRAME {
            Some(PortDrop::RxTooBig)
        } else if len > FIRST && packet.append_bytes(&self.rest[..len - FIRST], pool).is_err() {
            Some(PortDrop::RxNoFrame)
        } else {
            None
        };
        if let Some(why) = fault {
            self.counters.count_drop(why, 1);
            pool.free_packet(packet);
            return Ok(None);
        }
        packet.set_checksum(decoded.checksum);
        if let Checksum::Partial { .. } = decoded.checksum {
            add(&self.counters.rx_partial, 1);
        }
        Ok(Some(packet))
    }

    /// Take a frame off the tap that there is no memory for, so that it is dropped here, counted,
    /// and not left for a reader that stays away.
    #[cold]
    fn discard(&mut self) -> Result<Option<Packet>, Errno> {
        rustix::io::readv(&*self.fd, &mut [IoSliceMut::new(&mut self.rest)])?;
        self.counters.count_drop(PortDrop::RxNoFrame, 1);
        Ok(None)
    }

    /// See [`crate::Queue::tx_burst`].
    pub(crate) fn tx_burst(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        let (mut packets, mut bytes) = (0, 0);
        for packet in burst.drain(..) {
            match self.write(&packet) {
                Ok(()) => {
                    packets += 1;
                    bytes += packet.len() as u64;
                }
                Err(why) => self.counters.count_drop(why, 1),
            }
            pool.free_packet(packet);
        }
        self.counters.sent(packets, bytes);
    }

    fn write(&mut self, packet: &Packet) -> Result<(), PortDrop> {
        if self.gone {
            return Err(PortDrop::Gone);
        }
        if packet.segmentation() != Segmentation::None {
            return Err(PortDrop::TxSegmentation);
        }
        let header = vnet::encode(packet.checksum());
        let mut parts: ArrayVec<IoSlice<'_>, MAX_BUFFERS> = ArrayVec::new();
        parts.push(IoSlice::new(&header));
        for b in packet.buffers() {
            parts.try_push(IoSlice::new(b)).map_err(|_| PortDrop::TxTooBig)?;
        }
        if let Checksum::Partial { .. } = packet.checksum() {
            add(&self.counters.tx_partial, 1);
        }
        loop {
            return match rustix::io::writev(&*self.fd, &parts) {
                Ok(_) => Ok(()),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => Err(PortDrop::TxFull),
                Err(Errno::IO | Errno::NETDOWN) => Err(PortDrop::TxDown),
                Err(Errno::INVAL) => Err(PortDrop::TxInvalid),
                Err(Errno::BADFD) => Err(PortDrop::Gone),
                Err(_) => Err(PortDrop::TxError),
            };
        }
    }

    pub(crate) fn set_ready(&mut self) {
        self.ready = true;
    }

    pub(crate) fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }

    /// The descriptor is watched level-triggered: whatever waits keeps it readable.
    pub(crate) fn before_sleep(&mut self, _: &mut FramePool) -> bool {
        !self.ready || self.gone
    }

    pub(crate) fn counters(&self) -> &Arc<QueueCounters> {
        &self.counters
    }
}

/// Whether an unfinished checksum's field lies in the first buffer of a frame of `len` bytes.
fn fits(checksum: Checksum, len: usize) -> bool {
    match checksum {
        Checksum::Partial { start, offset } => {
            usize::from(start) + usize::from(offset) + 2 <= len.min(FIRST)
        }
        _ => true,
    }
}
