//! Packets that are larger than the way out: cut into fragments, each of which goes on by itself.

use afxdp::Packet;
use flow::{Drop, FlowKey, cut, extract, word};
use ofproto::program::DpAction;

use super::place::{Metadata, Where};
use super::transmit::Transmit;

/// Whether a packet, from its IP header on, has more bytes than this.
#[inline(always)]
pub(super) fn is_larger(at: &Where<'_>, mtu: u16) -> bool {
    at.off.end.saturating_sub(at.off.l3) > mtu
}

/// Whether a packet is one that may be cut.
#[cold]
pub(super) fn may_be_cut(packet: &Packet, at: &Where<'_>) -> bool {
    packet.data().get(usize::from(at.off.l3)..).is_some_and(cut::may_be_cut)
}

impl Transmit {
    /// Do the rest of a program with each fragment of a packet. Whether it could be cut; it is dropped if
    /// not.
    #[cold]
    pub(super) fn send_in_pieces(
        &mut self,
        mtu: u16,
        rest: &[DpAction],
        mut packet: Packet,
        at: &Where<'_>,
        depth: usize,
    ) -> bool {
        // What is summed over the whole must be right before it is in pieces.
        flow::checksum::finish_partial(&mut packet);
        let frame = packet.to_vec();
        let (l3, end) = (usize::from(at.off.l3), usize::from(at.off.end));
        let whole = frame.get(l3..end).and_then(|ip| cut::cut(ip, mtu.into()));
        let Some(pieces) = whole else {
            self.drop_packet(packet, Drop::TooBig, at);
            return false;
        };
        self.pool.free_packet(packet);
        let mut key = FlowKey::ZERO;
        let mut bytes = Vec::with_capacity(l3 + usize::from(mtu));
        for piece in pieces {
            bytes.clear();
            bytes.extend_from_slice(&frame[..l3]);
            bytes.extend_from_slice(&piece);
            let Some(packet) = self.pool.packet_from(&bytes) else {
                self.note_drop(Drop::NoFrame, at, bytes.len());
                continue;
            };
            key.clear_metadata();
            if let Some(known) = Metadata::of_any(at.key).filter(|_| !at.encapsulated) {
                known.write(&mut key);
            }
            key.set_word(word::META, at.key.word(word::META));
            let ct = at.tracked.words(at.key);
            if ct[0] != 0 {
                key.set_words(word::CT, &ct);
            }
            let off = extract(packet.data(), packet.len(), &mut key);
            let mut at = Where {
                rule: at.rule,
                tracked: at.tracked,
                passes: at.passes,
                encapsulated: at.encapsulated,
                ..Where::new(&key, off)
            };
            self.run_nested(rest, packet, &mut at, depth);
        }
        true
    }
}
