//! What does a packet's key say of its connection, and how does it follow what tracking does to the packet?
//!
//! A key says what tracking said when the packet was looked up ([`Tracked::AsInKey`]), or the packet has been
//! tracked since. Invariant: after [`translate`] a key is what extraction would give ([`says_what_is_there`]).

use afxdp::Packet;
use conntrack::{ConnRef, CtState, NatEdit, Verdict};
use flow::{Drop, FlowKey, Offsets, word};

/// Words of a key that say what tracking said.
pub(super) const CT_WORDS: usize = word::TUN_ID - word::CT;

/// What tracking has said of a packet.
#[derive(Clone, Copy)]
pub(super) enum Tracked {
    /// What its key says; the connection, if it has one, is of that zone.
    AsInKey(u16, ConnRef),
    /// Something else, since the packet was looked up.
    Since(Option<(u16, Verdict)>),
}

impl Tracked {
    /// Not tracked. (No constant, of which all bytes would be copied.)
    #[inline(always)]
    pub fn not() -> Tracked {
        Tracked::AsInKey(0, ConnRef::NONE)
    }

    /// The packet's connection, and its zone.
    pub fn conn(&self) -> (u16, ConnRef) {
        match self {
            Tracked::AsInKey(zone, conn) => (*zone, *conn),
            Tracked::Since(Some((zone, v))) => (*zone, v.conn),
            Tracked::Since(None) => (0, ConnRef::NONE),
        }
    }

    /// Whether the packet has been tracked and found valid, so that its checksums are right: what
    /// has changed in it since has changed them too.
    pub fn was_sound(&self, key: &FlowKey) -> bool {
        is_sound(self.words(key)[0])
    }

    /// What a key says of it; `key` is that with which the packet was looked up.
    pub fn words(&self, key: &FlowKey) -> [u64; CT_WORDS] {
        match self {
            Tracked::AsInKey(..) => std::array::from_fn(|i| key.word(word::CT + i)),
            Tracked::Since(Some((zone, v))) => ct_words(*zone, v),
            Tracked::Since(None) => [0; CT_WORDS],
        }
    }
}

/// Whether the word of a key that has `ct_state` says of a packet that it was tracked and is valid.
#[inline(always)]
pub(super) fn is_sound(word: u64) -> bool {
    state(word) & (CtState::TRK.0 | CtState::INV.0) == CtState::TRK.0
}

/// Whether a key says of a packet that it was translated.
#[inline(always)]
pub(super) fn is_translated(key: &FlowKey) -> bool {
    state(key.word(word::CT)) & (CtState::SNAT.0 | CtState::DNAT.0) != 0
}

/// `ct_state`, of the word of a key that has it.
#[inline(always)]
fn state(word: u64) -> u8 {
    const STATE: u32 = 8;
    (word >> STATE) as u8
}

/// The words of a key that say this.
#[inline(always)]
pub(super) fn ct_words(zone: u16, v: &Verdict) -> [u64; CT_WORDS] {
    let orig = &v.orig;
    let mut words = [0; CT_WORDS];
    let ct = u64::from(v.mark) << 32 | u64::from(zone) << 16 | u64::from(v.state.0) << 8;
    words[0] = ct | u64::from(orig.proto());
    words[word::CT_LABEL - word::CT] = (v.label >> 64) as u64;
    words[word::CT_LABEL + 1 - word::CT] = v.label as u64;
    words[word::CT_TP - word::CT] = orig.ct_ports_word();
    words[word::CT_NW - word::CT] = orig.ipv4_addresses();
    if orig.is_v6() {
        let (src, dst) = (orig.src(), orig.dst());
        let halves = [(src >> 64) as u64, src as u64, (dst >> 64) as u64, dst as u64];
        words[word::CT_IPV6_SRC - word::CT..].copy_from_slice(&halves);
    }
    words
}

/// Change a packet as the tracker said, and its key with it.
#[inline(always)]
pub(super) fn translate(
    packet: &mut Packet,
    off: &Offsets,
    key: &mut FlowKey,
    e: &NatEdit,
) -> Result<(), Drop> {
    let done = conntrack::nat::apply(packet, off, e);
    if e.is_of_ports() && !e.tuple().is_v6() {
        follow_ipv4(key, e);
        follow_ports(key, e);
    } else {
        follow_other(key, e);
    }
    done
}

/// Change the IPv4 addresses in a key.
#[inline(always)]
fn follow_ipv4(key: &mut FlowKey, e: &NatEdit) {
    let (now, mask) = (e.tuple().ipv4_addresses(), e.address_mask());
    key.set_word(word::IPV4, key.word(word::IPV4) & !mask | now & mask);
}

/// Change the ports in a key.
#[inline(always)]
fn follow_ports(key: &mut FlowKey, e: &NatEdit) {
    let (now, mask) = (e.tuple().ct_ports_word(), u64::from(e.port_mask()) << 32);
    key.set_word(word::L4, key.word(word::L4) & !mask | now & mask);
}

/// Change the key of a packet that is not TCP, UDP or SCTP over IPv4.
#[cold]
fn follow_other(key: &mut FlowKey, e: &NatEdit) {
    let to = e.tuple();
    if !to.is_v6() {
        follow_ipv4(key, e);
    }
    if to.is_v6() && e.changes_src() {
        key.set(flow::Field::Ipv6Src, to.src());
    }
    if to.is_v6() && e.changes_dst() {
        key.set(flow::Field::Ipv6Dst, to.dst());
    }
    if e.is_of_ports() {
        follow_ports(key, e);
    }
}

/// Whether a key that was changed along with its packet is what extraction would give.
pub(super) fn says_what_is_there(key: &FlowKey, packet: &Packet) -> bool {
    let mut fresh = key.clone();
    flow::extract(packet.data(), packet.len(), &mut fresh);
    fresh.words() == key.words()
}
