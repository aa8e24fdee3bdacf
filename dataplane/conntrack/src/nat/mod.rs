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

use crate::tuple::Tuple;

/// How a packet is to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct NatEdit {
    /// The tuple that the packet has afterwards.
    pub(crate) to: Tuple,
    what: u8,
}

const SRC: u8 = 1;
const DST: u8 = 2;
const QUOTE: u8 = 4;

impl NatEdit {
    /// No change.
    pub const NONE: NatEdit = NatEdit { to: Tuple { ports: 0, addresses: [0; 4] }, what: 0 };

    #[inline(always)]
    pub(crate) fn new(to: Tuple, src: bool, dst: bool, quote: bool) -> NatEdit {
        let bit = |set, bit| if set { bit } else { 0 };
        let what = bit(src, SRC) | bit(dst, DST) | bit(quote, QUOTE);
        NatEdit { to, what }
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
    /// The tuple that the packet has afterwards; for an ICMP error, the inverse of the quoted
    /// packet's.
    pub fn tuple(&self) -> Tuple {
        self.to
    }
}
