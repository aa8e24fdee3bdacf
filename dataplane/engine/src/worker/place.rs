//! Where does a packet stand, and what is known of it?
//!
//! [`Where`] goes with a packet through the steps of its program; [`Recirculated`] is what is kept of it until
//! it is looked up again. Neither owns its key: that is in the worker's arrays.

use std::sync::Arc;

use afxdp::Packet;
use conntrack::ConnRef;
use flow::{Drop, FlowKey, Groups, Offsets, word};
use ofproto::recirc::Recirculation;

use super::ct_key::{CT_WORDS, Tracked};

/// Times that one packet is looked up again at most.
pub(super) const MAX_PASSES: u8 = 8;

/// Where a packet stands: its key, layers, and what to say if it is dropped.
pub(super) struct Where<'a> {
    pub key: &'a FlowKey,
    pub off: Offsets,
    pub rule: Option<(u32, u64)>,
    /// What tracking said of the packet.
    pub tracked: Tracked,
    /// How often the packet has been looked up before.
    pub passes: u8,
    /// Where `key` is among those of the burst, which has a place for one packet: a copy has none.
    pub slot: Option<u8>,
    /// `key` is that of a packet which is inside of this one by now.
    pub encapsulated: bool,
}

impl<'a> Where<'a> {
    #[inline(always)]
    pub fn new(key: &'a FlowKey, off: Offsets) -> Where<'a> {
        Where {
            key,
            off,
            rule: None,
            tracked: Tracked::not(),
            passes: 0,
            slot: None,
            encapsulated: false,
        }
    }

    /// The packet's connection, if an earlier step in this zone has told it.
    pub fn known_in(&self, zone: u16) -> ConnRef {
        match self.tracked.conn() {
            (of, conn) if of == zone => conn,
            _ => ConnRef::NONE,
        }
    }
}

/// A packet that is to be looked up again. Its headers are extracted anew.
pub(super) struct Recirculated {
    pub packet: Packet,
    /// Port and recirculation id that it is looked up with.
    pub meta: u64,
    /// What else was known of it, if it is more than port and connection.
    pub metadata: Option<Metadata>,
    /// What its key is to say of its connection.
    pub ct: [u64; CT_WORDS],
    /// Its connection, and the zone.
    pub conn: (u16, ConnRef),
    pub passes: u8,
    /// Its place in the burst.
    pub slot: Option<u8>,
    /// What it continues with; `None` for one that came out of a tunnel.
    pub state: Option<Arc<Recirculation>>,
    /// It was found to be one to drop.
    pub bad: Option<Drop>,
}

impl Recirculated {
    /// A packet that goes on with a state.
    pub fn new(state: &Arc<Recirculation>, packet: Packet, at: &Where<'_>) -> Recirculated {
        Recirculated {
            packet,
            meta: at.key.word(word::META) >> 32 << 32 | u64::from(state.id),
            metadata: Metadata::of_any(at.key).filter(|_| !at.encapsulated),
            ct: at.tracked.words(at.key),
            conn: at.tracked.conn(),
            passes: at.passes + 1,
            slot: None,
            state: Some(state.clone()),
            bad: None,
        }
    }
}

/// The words of a key that do not come from the packet's bytes, connection aside: marks and
/// tunnel fields.
pub(super) struct Metadata([u64; METADATA_WORDS.len()]);

const METADATA_WORDS: [usize; 10] = {
    let mut words = [word::MARK; 10];
    words[1] = word::PRIORITY;
    let mut i = 2;
    while i < words.len() {
        words[i] = word::TUN_ID + i - 2;
        i += 1;
    }
    words
};

impl Metadata {
    /// Those of a key, if it has any.
    pub fn of_any(key: &FlowKey) -> Option<Metadata> {
        let some = Groups::TUNNEL.0 | Groups::MARK.0;
        (key.groups().0 & some != 0).then(|| Metadata::of(key))
    }

    /// The tunnel fields, from [`word::TUN_ID`] on, and no marks.
    #[inline(always)]
    pub fn of_tunnel(words: [u64; word::METADATA - word::TUN_ID]) -> Metadata {
        let mut all = [0; METADATA_WORDS.len()];
        all[2..].copy_from_slice(&words);
        Metadata(all)
    }

    /// Those of a key.
    pub fn of(key: &FlowKey) -> Metadata {
        Metadata(METADATA_WORDS.map(|w| key.word(w)))
    }

    /// Write them into a key.
    pub fn write(&self, key: &mut FlowKey) {
        for (w, value) in METADATA_WORDS.into_iter().zip(self.0) {
            key.set_word(w, value);
        }
    }
}
