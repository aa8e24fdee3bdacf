//! Which addresses and ports does a connection get, and how do packets get them?
//!
//! A [`NatSpec`] says what is wanted; [`choose`] finds a tuple nobody has; a [`NatEdit`] is the
//! change of one packet as data, and [`apply()`] makes it.

mod apply;
pub(crate) mod choose;
mod quote;
mod spec;

pub use apply::{apply, apply_fragment};
pub use spec::{AddressRange, BadNat, Choice, NatSpec, Side};

use flow::extract::ip_proto;

use crate::meta::side::{DST, SRC};
use crate::tuple::Tuple;

/// How a packet is to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct NatEdit {
    /// The tuple that the packet has afterwards.
    pub(crate) to: Tuple,
    what: u8,
}

const QUOTE: u8 = 4;

impl NatEdit {
    /// No change.
    pub const NONE: NatEdit = NatEdit { to: Tuple { ports: 0, addresses: [0; 4] }, what: 0 };

    /// `what`: which sides change, as [`crate::meta::Snapshot::translated`] says.
    #[inline(always)]
    pub(crate) fn new(to: Tuple, what: u8, quote: bool) -> NatEdit {
        NatEdit { to, what: what & (SRC | DST) | if quote { QUOTE } else { 0 } }
    }

    /// Whether nothing is to be changed.
    #[inline(always)]
    pub fn is_none(&self) -> bool {
        self.what & (SRC | DST) == 0
    }
    /// Whether the source address or port changes.
    #[inline(always)]
    pub fn changes_src(&self) -> bool {
        self.what & SRC != 0
    }
    /// Whether the destination address or port changes.
    #[inline(always)]
    pub fn changes_dst(&self) -> bool {
        self.what & DST != 0
    }
    /// Whether the packet is an ICMP error, whose quoted packet changes too.
    #[inline(always)]
    pub fn is_error(&self) -> bool {
        self.what & QUOTE != 0
    }
    /// Whether the ports are among what changes: those of TCP, UDP and SCTP, of a packet that is not an
    /// error, which has the ports of what it quotes and none itself.
    #[inline(always)]
    pub fn is_of_ports(&self) -> bool {
        matches!(self.to.proto(), ip_proto::TCP | ip_proto::UDP | ip_proto::SCTP)
            && !self.is_error()
    }
    /// Which bits of both IPv4 addresses change, the source's in the high half.
    #[inline(always)]
    pub fn address_mask(&self) -> u64 {
        const MASKS: [u64; 4] = [0, 0xffff_ffff << 32, 0xffff_ffff, u64::MAX];
        MASKS[usize::from(self.what & (SRC | DST))]
    }
    /// Which bits of both ports change, the source's in the high half.
    #[inline(always)]
    pub fn port_mask(&self) -> u32 {
        const MASKS: [u32; 4] = [0, 0xffff_0000, 0xffff, u32::MAX];
        MASKS[usize::from(self.what & (SRC | DST))]
    }
    /// The tuple that the packet has afterwards; for an ICMP error, the inverse of the quoted
    /// packet's.
    #[inline(always)]
    pub fn tuple(&self) -> Tuple {
        self.to
    }
}
