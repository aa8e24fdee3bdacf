//! How is an existing interface made a port, and given back?
//!
//! Taken over ([`crate::takeover`]), given the XDP program, one socket per receive queue entered
//! into it. Nothing is left behind when a step fails, or when the port is closed.
//!
//! A tagged frame must never arrive untagged: where neither the program nor the interface's
//! settings can guarantee that, the port is refused.
//!
//! Must not know: how packets are received and sent, states of a port.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use afxdp::{
    AttachMode, AttachOptions, Attachment, BindMode, CHUNK_DATA, Error, Operation, Select, Socket,
    SocketConfig, TunnelEnd, VlanRestore, XdpMode,
};

use crate::afxdp_queue::{AfxdpQueue, OVERHEAD, Shared};
use crate::budget::{FillBudget, FillShare};
use crate::checksum::VxlanPorts;
use crate::counters::QueueCounters;
use crate::error::PortError;
use crate::handle::{PortSystem, counter};
use crate::links::Link;
use crate::takeover::Takeover;

/// Entries of the receive ring (the fill budget limits it further) and of the transmit ring.
const RX_RING: u32 = 2048;
const TX_RING: u32 = 1024;
/// Drivers whose other end is a kernel stack on this machine, so that checksums come unfinished
/// and may be left unfinished.
const KERNEL_PEERS: [&str; 10] =
    ["veth", "tun", "netkit", "bridge", "macvlan", "macvtap", "ipvlan", "dummy", "ifb", "team"];

/// How an interface is to be driven.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AfxdpConfig {
    /// Where the XDP program runs.
    pub mode: AttachMode,
    /// Refuse the interface if its driver cannot work on the frames without a copy.
    pub require_zero_copy: bool,
    /// How many receive queues the interface has to have in use; any number otherwise. (Every one
    /// gets a socket: the number is the interface's, to be changed by `ethtool -L`.)
    pub n_rxq: Option<u32>,
    /// Take the interface although tags that the kernel holds beside frames may be lost. Only for
    /// interfaces on which no VLAN separates anything.
    pub accept_tag_loss: bool,
    /// Take only what is for tunnels ([`crate::PortHandle::set_tunnel_ends`]); the host goes on using
    /// the interface.
    pub share_tunnels: bool,
    /// UDP ports behind which VXLAN's inner packets have their checksums finished.
    pub vxlan_ports: VxlanPorts,
}

/// An open port.
pub(crate) struct Opened {
    pub(crate) device: Device,
    pub(crate) queues: Vec<AfxdpQueue>,
    pub(crate) warnings: Vec<String>,
}

/// Control's side of an open port.
#[derive(Debug)]
pub(crate) struct Device {
    ifindex: u32,
    attachment: Option<Attachment>,
    takeover: Takeover,
    shared: Arc<Shared>,
    driver: String,
    mode: XdpMode,
    frags: bool,
    zero_copy: bool,
    queues: usize,
    /// The queues' shares of the frames that may wait in fill rings.
    _shares: Vec<FillShare>,
}

/// Make an interface a port.
///
/// # Errors
/// Why it cannot be one. The interface is as it was then.
pub(crate) fn open(
    name: &str,
    config: &AfxdpConfig,
    system: &mut PortSystem,
    counters: &mut Vec<Arc<QueueCounters>>,
) -> Result<Opened, PortError> {
    let ifindex = system.devs.require(name)?;
    let link = system.links.ask(ifindex)?;
    let link = link.ok_or_else(|| PortError::NoSuchInterface { interface: name.to_owned() })?;
    // Another program's interface is not even touched.
    if let Some(program) = afxdp::netlink::link(ifindex).ok().and_then(|l| l.xdp_program) {
        return Err(Error::Busy { interface: name.to_owned(), program: Some(program) }.into());
    }
    let mut warnings = match config.share_tunnels {
        true => Vec::new(),
        false => address_warnings(&link, system),
    };
    let mut takeover = Takeover::new(&system.devs, name, config.share_tunnels)?;
    let mut shares = Vec::new();
    let opening = Opening { name, config, ifindex, link: &link };
    match opening.run(system, &mut takeover, &mut shares, counters) {
        Ok((made, queues)) => {
            warnings.extend(made.warnings());
            warnings.extend(takeover.warnings().iter().cloned());
            let device = Device {
                ifindex,
                mode: made.attachment.mode(),
                attachment: Some(made.attachment),
                takeover,
                shared: made.shared,
                driver: made.driver,
                frags: made.frags,
                zero_copy: made.zero_copy,
                queues: queues.len(),
                _shares: shares,
            };
            Ok(Opened { device, queues, warnings })
        }
        Err(e) => {
            takeover.restore(&system.devs);
            Err(e)
        }
    }
}

/// What users should know who gave a host's own interface to the switch.
fn address_warnings(link: &Link, system: &mut PortSystem) -> Vec<String> {
    let mut warnings = Vec::new();
    let link_local = |a: &std::net::IpAddr| match a {
        std::net::IpAddr::V4(_) => false,
        std::net::IpAddr::V6(a) => a.is_unicast_link_local(),
    };
    let addresses = system.links.addresses(link.ifindex).unwrap_or_default();
    let shown: Vec<String> =
        addresses.iter().filter(|a| !link_local(a)).map(ToString::to_string).collect();
    if !shown.is_empty() {
        warnings.push(format!(
            "carries IP addresses ({}): the host gets no packets for them any more; move them to the \
             bridge's internal interface",
            shown.join(", ")
        ));
    }
    if let Some(master) = link.master.and_then(|m| system.devs.name(m)) {
        warnings.push(format!("belongs to {master}, which gets no packets any more"));
    }
    warnings
}

/// One attempt.
struct Opening<'a> {
    name: &'a str,
    config: &'a AfxdpConfig,
    ifindex: u32,
    link: &'a Link,
}

/// What an attempt made.
struct Made {
    attachment: Attachment,
    shared: Arc<Shared>,
    driver: String,
    frags: bool,
    zero_copy: bool,
}

impl Opening<'_> {
    fn run(
        &self,
        system: &mut PortSystem,
        takeover: &mut Takeover,
        shares: &mut Vec<FillShare>,
        counters: &mut Vec<Arc<QueueCounters>>,
    ) -> Result<(Made, Vec<AfxdpQueue>), PortError> {
        let driver = system.devs.driver(self.name)?;
        let kernel_peer = KERNEL_PEERS.contains(&driver.as_str());
        let channels = system.devs.rx_queues(self.name)?;
        let queues = channels.unwrap_or(self.link.rx_queues);
        self.check_queues(channels)?;
        let (attachment, frags) = self.attach(queues, kernel_peer)?;
        self.check_tags(&attachment)?;
        if attachment.mode() == XdpMode::Generic {
            takeover.for_generic_mode(&system.devs, self.name);
        }
        let mut sockets = Vec::new();
        for queue in 0..queues {
            let share = system.budget.reserve().ok_or_else(|| self.no_frames(system))?;
            match self.socket(queue, share.frames, frags, kernel_peer, system) {
                Ok(socket) => {
                    sockets.push(socket);
                    shares.push(share);
                }
                // The driver did not say how many queues are in use: it has no more.
                Err(e) if channels.is_none() && queue > 0 && e.errno() == Some(libc::EINVAL) => {
                    break;
                }
                Err(e) => return Err(e.into()),
            }
        }
        let zero_copy = sockets.iter().all(Socket::is_zero_copy);
        if self.config.require_zero_copy && !zero_copy {
            return Err(PortError::Refused {
                interface: self.name.to_owned(),
                why: format!("its driver ({driver}) cannot receive and send without a copy"),
            });
        }
        let shared = Arc::new(Shared { mtu: AtomicU32::new(self.link.mtu) });
        let mut pool = system.region.pool();
        let mut made = Vec::new();
        for mut socket in sockets {
            socket.refill(&mut pool);
            attachment.insert(socket.queue(), &socket)?;
            let counters = counter(counters, made.len());
            let peer = kernel_peer.then_some(self.config.vxlan_ports);
            made.push(AfxdpQueue::new(socket, shared.clone(), peer, counters));
        }
        Ok((Made { attachment, shared, driver, frags, zero_copy }, made))
    }

    /// Attach the program. It takes frames of several buffers where the MTU needs it; and on
    /// software interfaces wherever it can be had, so that the MTU can be raised later.
    fn attach(&self, queues: u32, software: bool) -> Result<(Attachment, bool), PortError> {
        let needed = !fits_one_buffer(self.link.mtu);
        let select = match self.config.share_tunnels {
            true => Select::Tunnels,
            false => Select::Everything,
        };
        let mode = self.config.mode;
        let options = AttachOptions { mode, queues, frags: true, restore_vlan: true, select };
        if needed || software {
            match Attachment::attach(self.ifindex, &options) {
                Ok(a) => return Ok((a, true)),
                Err(e @ Error::Busy { .. }) => return Err(e.into()),
                Err(e) if needed => return Err(e.into()),
                Err(_) => {}
            }
        }
        let options = AttachOptions { frags: false, ..options };
        Ok((Attachment::attach(self.ifindex, &options)?, false))
    }

    fn check_queues(&self, channels: Option<u32>) -> Result<(), PortError> {
        match (self.config.n_rxq, channels) {
            (Some(wanted), Some(has)) if wanted != has => Err(PortError::Refused {
                interface: self.name.to_owned(),
                why: format!(
                    "n_rxq={wanted}: the interface has {has} receive queues in use, and all of \
                     them are used; change their number with: ethtool -L {} combined {wanted}",
                    self.name
                ),
            }),
            _ => Ok(()),
        }
    }

    fn check_tags(&self, attachment: &Attachment) -> Result<(), PortError> {
        match attachment.vlan_restore() {
            VlanRestore::Unavailable(gap) if !self.config.accept_tag_loss => {
                let native = match (self.config.mode, attachment.native_refused()) {
                    (_, Some(e)) => format!("native mode was refused: {e}; "),
                    (AttachMode::Generic, _) => "try options:xdp-mode=native; ".to_owned(),
                    _ => String::new(),
                };
                Err(PortError::Refused {
                    interface: self.name.to_owned(),
                    why: format!(
                        "in {} XDP mode VLAN tags could be lost ({gap}), and frames would reach \
                         networks that they do not belong to; {native}\
                         options:accept-tag-loss=true takes the interface all the same",
                        attachment.mode(),
                    ),
                })
            }
            _ => Ok(()),
        }
    }

    fn socket(
        &self,
        queue: u32,
        fill_budget: u32,
        frags: bool,
        kernel_peer: bool,
        system: &PortSystem,
    ) -> Result<Socket, Error> {
        let config = SocketConfig {
            rx_size: RX_RING,
            tx_size: TX_RING,
            fill_size: FillBudget::MOST,
            comp_size: TX_RING,
            fill_budget,
            // Software interfaces know copy mode only.
            mode: if kernel_peer { BindMode::Copy } else { BindMode::ZeroCopyPreferred },
            need_wakeup: true,
            tx_metadata: kernel_peer,
            frags,
        };
        let open = |config| Socket::open(self.ifindex, queue, system.region.clone(), config);
        match open(config) {
            // Kernels before 6.11 do not know of metadata.
            Err(Error::System { operation: Operation::RegisterMemory, source, .. })
                if config.tx_metadata && source.raw_os_error() == Some(libc::EINVAL) =>
            {
                open(SocketConfig { tx_metadata: false, ..config })
            }
            result => result,
        }
    }

    fn no_frames(&self, system: &PortSystem) -> PortError {
        PortError::Refused {
            interface: self.name.to_owned(),
            why: format!(
                "no frames are left for its receive queue: the other ports hold their share of \
                 all {}; start the daemon with a larger --umem",
                system.region.chunks()
            ),
        }
    }
}

impl Made {
    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(e) = self.attachment.native_refused() {
            warnings.push(format!("runs in generic XDP mode, which is slower: {e}"));
        }
        if self.attachment.mode() == XdpMode::Generic && KERNEL_PEERS.contains(&&*self.driver) {
            warnings.push(
                "generic XDP mode drops frames that a sender's segmentation offload made larger \
                 than the MTU"
                    .to_owned(),
            );
        }
        if let VlanRestore::Unavailable(gap) = self.attachment.vlan_restore() {
            warnings.push(format!("VLAN tags may be lost: {gap}"));
        }
        warnings
    }
}

/// Whether frames of that MTU fit into one buffer, with two VLAN tags.
fn fits_one_buffer(mtu: u32) -> bool {
    mtu.saturating_add(OVERHEAD + 4) as usize <= CHUNK_DATA
}

impl Device {
    pub(crate) fn ifindex(&self) -> u32 {
        self.ifindex
    }

    pub(crate) fn xdp_mode(&self) -> &'static str {
        match self.mode {
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
        }
    }

    pub(crate) fn is_zero_copy(&self) -> bool {
        self.zero_copy
    }

    pub(crate) fn queues(&self) -> usize {
        self.queues
    }

    pub(crate) fn driver(&self) -> &str {
        &self.driver
    }

    /// The interface's MTU has changed; whether the port can go on as it is.
    pub(crate) fn set_mtu(&self, mtu: u32) -> bool {
        self.shared.mtu.store(mtu, Ordering::Relaxed);
        self.frags || fits_one_buffer(mtu)
    }

    /// The tunnels whose packets a shared interface gives to the switch.
    pub(crate) fn set_tunnel_ends(&mut self, ends: &HashSet<TunnelEnd>) -> Result<(), Error> {
        self.attachment.as_mut().map_or(Ok(()), |a| a.set_tunnel_ends(ends))
    }

    /// Take the program off: no more frames come.
    pub(crate) fn detach(mut self) -> Device {
        self.attachment = None;
        self
    }

    /// Put the interface back as it was, once the sockets are closed.
    pub(crate) fn restore(self, system: &PortSystem) {
        self.takeover.restore(&system.devs);
    }
}
