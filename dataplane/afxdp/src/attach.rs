//! How do an interface's frames get to its sockets?
//!
//! An [`Attachment`] is an XDP program on one interface, the map through which it finds the
//! socket of each queue, and the link that holds the program there. It goes with the value, and
//! with the process: nothing is left behind.
//!
//! It also answers whether VLAN tags are safe ([`VlanRestore`]): a kernel may hold a tag beside
//! the frame (senders on VLAN subinterfaces, hardware that strips), and a plain redirection loses
//! it, which would put the frame into another network.
//!
//! Must not know: rings, frames, ports.

use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use xdp_progs::{
    FRAGMENT_KEY, FRAGMENTS, RX_VLAN_TAG, Redirect, Select, Symbol, TUNNEL_END, TUNNEL_ENDS,
    XSKMAP, tunnel_end,
};

use crate::bpf::{self, btf};
use crate::error::{Error, Operation};
use crate::netlink;
use crate::socket::Socket;
use crate::sys;

/// The index of an interface of the thread's network namespace, by its name.
///
/// # Errors
/// ENODEV if there is none of that name.
pub fn interface_index(name: &str) -> Result<u32, Error> {
    sys::interface_index(name).map_err(|e| Error::system(Operation::Query, name, e))
}

/// Where the program is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AttachMode {
    /// Native, or else generic.
    #[default]
    Best,
    /// In the driver, or not at all.
    Native,
    /// In the kernel's generic receive path, or not at all.
    Generic,
}

/// Where the program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// In the kernel's generic receive path.
    Generic,
}

impl std::fmt::Display for XdpMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
        })
    }
}

/// What becomes of a VLAN tag that the kernel holds beside a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VlanRestore {
    /// The program puts it back into the bytes.
    Program,
    /// There is none: tags always arrive in the bytes on this interface, as long as its
    /// `rx-vlan-offload` stays off.
    NotNeeded,
    /// It may be lost: frames could arrive untagged that were sent tagged. Such an interface must
    /// not be used where VLANs separate anything.
    Unavailable(VlanGap),
}

/// Why a tag beside the frame may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VlanGap {
    /// The generic receive path tells no program of the tag.
    Generic,
    /// The driver tells no program of the tag.
    Driver,
    /// The kernel has no `bpf_xdp_metadata_rx_vlan_tag` (before 6.8, or no BTF).
    Kernel,
    /// It was not asked for.
    NotRequested,
}

impl std::fmt::Display for VlanGap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            VlanGap::Generic => "generic XDP does not tell a program of a tag beside the frame",
            VlanGap::Driver => "the driver does not tell an XDP program of a tag beside the frame",
            VlanGap::Kernel => "the kernel has no bpf_xdp_metadata_rx_vlan_tag",
            VlanGap::NotRequested => "putting VLAN tags back was not asked for",
        })
    }
}

/// Settings of an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachOptions {
    /// Where the program is wanted.
    pub mode: AttachMode,
    /// Receive queues that may get a socket: 0 to `queues` - 1.
    pub queues: u32,
    /// Take frames of several buffers, for an MTU above what one page holds. The sockets need
    /// [`crate::SocketConfig::frags`] then.
    pub frags: bool,
    /// Put VLAN tags back where that can be done.
    pub restore_vlan: bool,
    /// Which frames go to the sockets; with [`Select::Tunnels`] none before
    /// [`Attachment::set_tunnel_ends`].
    pub select: Select,
}

impl Default for AttachOptions {
    fn default() -> AttachOptions {
        AttachOptions {
            mode: AttachMode::Best,
            queues: 64,
            frags: false,
            restore_vlan: true,
            select: Select::Everything,
        }
    }
}

/// An XDP program on an interface, sending frames to sockets. Detached when dropped.
#[derive(Debug)]
pub struct Attachment {
    /// Held for its life only. Declared first: the program goes before its map.
    _link: OwnedFd,
    program: OwnedFd,
    xskmap: OwnedFd,
    /// Of a program that selects tunnels.
    tunnels: Option<TunnelMaps>,
    ifindex: u32,
    mode: XdpMode,
    vlan: VlanRestore,
    native_refused: Option<Error>,
}

/// A local end of tunnels: their packets are sent to this address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TunnelEnd {
    /// By UDP, to this port.
    Udp(IpAddr, u16),
    /// By GRE.
    Gre(IpAddr),
}

impl TunnelEnd {
    fn key(self) -> [u8; TUNNEL_END] {
        match self {
            TunnelEnd::Udp(address, port) => tunnel_end(address, 17, port),
            TunnelEnd::Gre(address) => tunnel_end(address, 47, 0),
        }
    }
}

/// Tunnel ends of one interface at most.
const MOST_ENDS: u32 = 4096;
/// Datagrams whose fragments are told apart at a time.
const MOST_FRAGMENTED: u32 = 4096;

/// The maps of a program that selects tunnels.
#[derive(Debug)]
struct TunnelMaps {
    ends: OwnedFd,
    fragments: OwnedFd,
    /// What `ends` has.
    entered: HashSet<TunnelEnd>,
}

impl TunnelMaps {
    fn new() -> std::io::Result<TunnelMaps> {
        let (hash, lru) = (bpf::MAP_TYPE_HASH, bpf::MAP_TYPE_LRU_HASH);
        Ok(TunnelMaps {
            ends: bpf::create_hash(hash, TUNNEL_END, MOST_ENDS, "vswitch_ends")?,
            fragments: bpf::create_hash(lru, FRAGMENT_KEY, MOST_FRAGMENTED, "vswitch_frags")?,
            entered: HashSet::new(),
        })
    }
}

impl Attachment {
    /// Load the program and attach it to an interface of the thread's network namespace.
    /// Frames go to the kernel's stack until sockets are entered.
    ///
    /// # Errors
    /// [`Error::Busy`] if the interface has an XDP program already, which stays. Otherwise what
    /// the kernel refused: the mode (EOPNOTSUPP), the MTU without `frags` (ERANGE), the
    /// interface (ENODEV), the right to do it (EPERM).
    pub fn attach(ifindex: u32, options: &AttachOptions) -> Result<Attachment, Error> {
        let name = sys::interface_name(ifindex);
        if options.queues == 0 {
            return Err(Error::Invalid { what: format!("{name}: no queue to attach to") });
        }
        let xskmap = bpf::create_map(bpf::MAP_TYPE_XSKMAP, options.queues, "vswitch_xsk")
            .map_err(|e| Error::system(Operation::CreateMap, &name, e))?;
        let tunnels = match options.select {
            Select::Everything => None,
            Select::Tunnels => {
                Some(TunnelMaps::new().map_err(|e| Error::system(Operation::CreateMap, &name, e))?)
            }
        };
        let mut attempt =
            Attempt { ifindex, name, options, xskmap: &xskmap, tunnels: tunnels.as_ref() };
        let (mode, made, native_refused) = match options.mode {
            AttachMode::Native => (XdpMode::Native, attempt.run(XdpMode::Native)?, None),
            AttachMode::Generic => (XdpMode::Generic, attempt.run(XdpMode::Generic)?, None),
            AttachMode::Best => match attempt.run(XdpMode::Native) {
                Ok(made) => (XdpMode::Native, made, None),
                Err(e) if worth_generic(&e) => {
                    (XdpMode::Generic, attempt.run(XdpMode::Generic)?, Some(e))
                }
                Err(e) => return Err(e),
            },
        };
        let Made { program, link, vlan } = made;
        Ok(Attachment {
            _link: link,
            program,
            xskmap,
            tunnels,
            ifindex,
            mode,
            vlan,
            native_refused,
        })
    }

    /// The tunnel ends whose packets go to the sockets, in place of those before. Does nothing for a
    /// program that takes everything.
    ///
    /// # Errors
    /// What bpf(2) answered: E2BIG for more than 4096. Those that could be entered are.
    pub fn set_tunnel_ends(&mut self, ends: &HashSet<TunnelEnd>) -> Result<(), Error> {
        let Some(maps) = &mut self.tunnels else { return Ok(()) };
        let map = maps.ends.as_fd();
        let mut result = Ok(());
        for gone in maps.entered.difference(ends) {
            match bpf::delete_hash(map, &gone.key()) {
                Err(e) if e.raw_os_error() != Some(libc::ENOENT) => result = Err(e),
                _ => {}
            }
        }
        maps.entered.retain(|e| ends.contains(e));
        for new in ends {
            if maps.entered.contains(new) {
                continue;
            }
            match bpf::update_hash(map, &new.key(), 1) {
                Ok(()) => drop(maps.entered.insert(*new)),
                Err(e) => result = Err(e),
            }
        }
        let name = |e| {
            let name = format!("{} tunnel ends", sys::interface_name(self.ifindex));
            Error::system(Operation::UpdateMap, &name, e)
        };
        result.map_err(name)
    }

    /// Send the frames of a queue to a socket bound to it.
    ///
    /// # Errors
    /// What bpf(2) answered: E2BIG for a queue beyond `queues`.
    pub fn insert(&self, queue: u32, socket: &Socket) -> Result<(), Error> {
        bpf::update(self.xskmap.as_fd(), queue, socket.as_fd().as_raw_fd() as u32)
            .map_err(|e| self.fail(queue, e))
    }

    /// Leave the frames of a queue to the kernel's stack. A queue without a socket is no error.
    /// (A socket that is closed leaves the map by itself.)
    ///
    /// # Errors
    /// What bpf(2) answered.
    pub fn remove(&self, queue: u32) -> Result<(), Error> {
        match bpf::delete(self.xskmap.as_fd(), queue) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result.map_err(|e| self.fail(queue, e)),
        }
    }

    fn fail(&self, queue: u32, e: std::io::Error) -> Error {
        let name = format!("{} queue {queue}", sys::interface_name(self.ifindex));
        Error::system(Operation::UpdateMap, &name, e)
    }

    /// The interface.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Where the program runs.
    pub fn mode(&self) -> XdpMode {
        self.mode
    }

    /// Why it does not run in the driver, if [`AttachMode::Best`] had to fall back.
    pub fn native_refused(&self) -> Option<&Error> {
        self.native_refused.as_ref()
    }

    /// What becomes of VLAN tags beside the frame.
    pub fn vlan_restore(&self) -> VlanRestore {
        self.vlan
    }

    /// The program's id, as `ip link` shows it.
    ///
    /// # Errors
    /// What bpf(2) answered.
    pub fn program_id(&self) -> Result<u32, Error> {
        bpf::program_id(self.program.as_fd())
            .map_err(|e| Error::system(Operation::Query, &sys::interface_name(self.ifindex), e))
    }
}

/// Whether generic mode may do what native mode could not.
fn worth_generic(e: &Error) -> bool {
    match e {
        Error::System { operation: Operation::Attach, .. } => {
            !matches!(e.errno(), Some(libc::EPERM | libc::EACCES | libc::ENODEV | libc::ERANGE))
        }
        _ => false,
    }
}

/// What an attempt made.
struct Made {
    program: OwnedFd,
    link: OwnedFd,
    vlan: VlanRestore,
}

/// One try to load and attach.
struct Attempt<'a> {
    ifindex: u32,
    name: String,
    options: &'a AttachOptions,
    xskmap: &'a OwnedFd,
    tunnels: Option<&'a TunnelMaps>,
}

impl Attempt<'_> {
    fn run(&mut self, mode: XdpMode) -> Result<Made, Error> {
        let (program, vlan) = match self.load_restoring(mode) {
            Ok(program) => (program, VlanRestore::Program),
            Err(gap) => {
                let program = self.load(false).map_err(|(e, log)| Error::System {
                    operation: Operation::LoadProgram,
                    interface: self.name.clone(),
                    source: e,
                    log,
                })?;
                let tags_in_bytes = tags_in_bytes(self.ifindex);
                let vlan = match tags_in_bytes {
                    true => VlanRestore::NotNeeded,
                    false => VlanRestore::Unavailable(gap),
                };
                (program, vlan)
            }
        };
        let flags = match mode {
            XdpMode::Native => bpf::XDP_FLAGS_DRV_MODE,
            XdpMode::Generic => bpf::XDP_FLAGS_SKB_MODE,
        };
        let link =
            bpf::attach(program.as_fd(), self.ifindex, bpf::ATTACH_XDP, flags).map_err(|e| {
                match e.raw_os_error() {
                    // EEXIST: the other program is attached in the other mode.
                    Some(libc::EBUSY | libc::EEXIST) => Error::Busy {
                        interface: self.name.clone(),
                        program: netlink::link(self.ifindex).ok().and_then(|l| l.xdp_program),
                    },
                    _ => Error::system(Operation::Attach, &self.name, e),
                }
            })?;
        Ok(Made { program, link, vlan })
    }

    /// Load the program that puts tags back, or say why not.
    fn load_restoring(&self, mode: XdpMode) -> Result<OwnedFd, VlanGap> {
        if !self.options.restore_vlan {
            return Err(VlanGap::NotRequested);
        }
        if mode == XdpMode::Generic {
            return Err(VlanGap::Generic);
        }
        if btf::kernel_function(RX_VLAN_TAG).is_none() {
            return Err(VlanGap::Kernel);
        }
        // A driver that knows no tags answers each frame's question with an error, which the
        // program cannot tell from a frame without a tag.
        if !netlink::features(self.ifindex).is_ok_and(|f| f.vlan_tag) {
            return Err(VlanGap::Driver);
        }
        self.load(true).map_err(|_| VlanGap::Driver)
    }

    fn load(&self, restore_vlan: bool) -> Result<OwnedFd, (std::io::Error, String)> {
        let AttachOptions { select, frags, .. } = *self.options;
        let redirect = Redirect { select, restore_vlan, frags };
        let resolve = |symbol| match symbol {
            Symbol::Map(XSKMAP) => Some(self.xskmap.as_raw_fd()),
            Symbol::Map(TUNNEL_ENDS) => self.tunnels.map(|t| t.ends.as_raw_fd()),
            Symbol::Map(FRAGMENTS) => self.tunnels.map(|t| t.fragments.as_raw_fd()),
            Symbol::Map(_) => None,
            Symbol::Kfunc(name) => btf::kernel_function(name),
        };
        let slots = redirect.program().link(resolve).map_err(|symbol| {
            (std::io::Error::from_raw_os_error(libc::ENOENT), format!("no {symbol:?}"))
        })?;
        bpf::load(&bpf::Load {
            program_type: bpf::PROG_TYPE_XDP,
            slots: &slots,
            name: redirect.name(),
            frags: redirect.frags,
            bound_to: restore_vlan.then_some(self.ifindex),
        })
    }
}

/// Whether no frame of the interface comes with its tag beside it: what is written to a tap has
/// its tag in the bytes, and hardware leaves it there unless it strips. Any other kind of software
/// interface may get frames with a tag beside from within the kernel.
fn tags_in_bytes(ifindex: u32) -> bool {
    match netlink::link(ifindex) {
        Ok(link) if link.kind == "tun" => true,
        Ok(link) => {
            link.kind.is_empty()
                && sys::is_hardware(ifindex)
                && sys::strips_vlan(ifindex).is_ok_and(|strips| !strips)
        }
        Err(_) => false,
    }
}
