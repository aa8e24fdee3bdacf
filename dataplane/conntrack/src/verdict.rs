//! What does the tracker say of a packet?

use std::fmt;

use crate::meta::side::{DST, SRC};
use crate::nat::NatEdit;
use crate::tuple::Tuple;

/// The bits of `ct_state`, as `ovs-fields(7)` numbers them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct CtState(pub u8);

impl CtState {
    /// The packet would begin a connection, or the connection has had no answer yet.
    pub const NEW: CtState = CtState(0x01);
    /// Part of a connection that has had packets in both directions.
    pub const EST: CtState = CtState(0x02);
    /// An error about a packet of a connection.
    pub const REL: CtState = CtState(0x04);
    /// In the reply direction.
    pub const RPL: CtState = CtState(0x08);
    /// Could not be tracked.
    pub const INV: CtState = CtState(0x10);
    /// Has been through the tracker.
    pub const TRK: CtState = CtState(0x20);
    /// The packet's source address or port is translated.
    pub const SNAT: CtState = CtState(0x40);
    /// The packet's destination address or port is translated.
    pub const DNAT: CtState = CtState(0x80);

    const NAMES: [(CtState, &'static str); 8] = [
        (CtState::NEW, "new"),
        (CtState::EST, "est"),
        (CtState::REL, "rel"),
        (CtState::RPL, "rpl"),
        (CtState::INV, "inv"),
        (CtState::TRK, "trk"),
        (CtState::SNAT, "snat"),
        (CtState::DNAT, "dnat"),
    ];

    /// The bits of the sides that [`SRC`] and [`DST`] say.
    #[inline(always)]
    pub(crate) const fn of_translation(what: u8) -> CtState {
        CtState(what << 6)
    }

    /// Whether any bit of `other` is set.
    #[inline(always)]
    pub fn has(self, other: CtState) -> bool {
        self.0 & other.0 != 0
    }
    /// With the bits of `other`.
    #[inline(always)]
    #[must_use]
    pub fn and(self, other: CtState) -> CtState {
        CtState(self.0 | other.0)
    }
}

impl fmt::Display for CtState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (bit, name) in Self::NAMES {
            if self.has(bit) {
                f.write_str(if first { "" } else { "|" })?;
                f.write_str(name)?;
                first = false;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for CtState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Names a packet's connection and direction, to be carried with the packet, so that it is not
/// counted twice by the same connection when it comes to the tracker again.
///
/// It may be kept for as long as one likes: once the connection is gone it names nothing.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash, Debug)]
pub struct ConnRef(u64);

const _: () = assert!(CtState::of_translation(SRC).0 == CtState::SNAT.0);
const _: () = assert!(CtState::of_translation(DST).0 == CtState::DNAT.0);

const REPLY: u64 = 1 << 31;
const RELATED: u64 = 1 << 63;

impl ConnRef {
    /// No connection.
    pub const NONE: ConnRef = ConnRef(0);

    #[inline(always)]
    pub(crate) fn new(id: u32, generation: u32, reply: bool, related: bool) -> ConnRef {
        let mut v = u64::from(id + 1) | u64::from(generation) << 32;
        if reply {
            v |= REPLY;
        }
        if related {
            v |= RELATED;
        }
        ConnRef(v)
    }

    /// Number of the entry; `None` for [`ConnRef::NONE`].
    #[inline(always)]
    pub(crate) fn id(self) -> Option<u32> {
        (self.0 as u32 & 0x7fff_ffff).checked_sub(1)
    }
    #[inline(always)]
    pub(crate) fn generation(self) -> u32 {
        (self.0 >> 32) as u32 & 0xff_ffff
    }
    #[inline(always)]
    pub(crate) fn reply(self) -> bool {
        self.0 & REPLY != 0
    }
    #[inline(always)]
    pub(crate) fn related(self) -> bool {
        self.0 & RELATED != 0
    }
}

/// What the tracker says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Verdict {
    /// `ct_state`.
    pub state: CtState,
    /// `ct_mark` of the connection.
    pub mark: u32,
    /// `ct_label` of the connection.
    pub label: u128,
    /// The tuple of the connection's original direction, or of the packet if there is no
    /// connection; [`Tuple::default`] for an invalid packet.
    pub orig: Tuple,
    /// How the packet is to be changed; empty unless translation was asked for.
    pub nat: NatEdit,
    /// The packet's connection.
    pub conn: ConnRef,
}

impl Verdict {
    pub(crate) const INVALID: Verdict = Verdict {
        state: CtState(CtState::INV.0 | CtState::TRK.0),
        mark: 0,
        label: 0,
        orig: Tuple { ports: 0, addresses: [0; 4] },
        nat: NatEdit::NONE,
        conn: ConnRef::NONE,
    };

    #[inline(always)]
    pub(crate) fn new(tuple: &Tuple) -> Verdict {
        let state = CtState::NEW.and(CtState::TRK);
        Verdict { state, orig: *tuple, ..Verdict::default() }
    }
}
