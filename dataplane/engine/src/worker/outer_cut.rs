//! Outer packets that are larger than their path's MTU and may be cut (`df_default=false`): each of
//! their fragments takes the rest of the way by itself.

use afxdp::Packet;
use flow::{Drop, FlowKey, extract};
use ofproto::program::{DpAction, Push};

use super::exec::{Transmit, Where};

/// Bytes of the outer Ethernet header.
const ETHERNET: usize = 14;

impl Transmit {
    /// Put an outer header in front of a packet, cut the outer packet, and do the steps that follow on
    /// each fragment.
    #[cold]
    pub(super) fn push_in_fragments(
        &mut self,
        push: &Push,
        rest: &[DpAction],
        mut packet: Packet,
        at: &mut Where<'_>,
        depth: usize,
    ) {
        let len = packet.len();
        match push.encap.push(&mut packet, at.key.flow_hash(), &mut self.sender) {
            Ok(off) => at.off = off,
            Err(why) => return self.drop_packet(packet, why, at),
        }
        at.encapsulated = true;
        let mtu = push.max_frame as usize + push.encap.overhead() - ETHERNET;
        let mut cutter = std::mem::take(&mut self.cutter);
        let done = cutter.cut(&packet, mtu, |fragment| {
            let Some(piece) = self.pool.packet_from(fragment) else {
                return self.note_drop(Drop::NoFrame, at, fragment.len());
            };
            at.off = extract(fragment, fragment.len(), &mut FlowKey::ZERO.clone());
            self.run_nested(rest, piece, at, depth + 1);
        });
        self.cutter = cutter;
        match done {
            Ok(()) => {
                push.counters.fragmented.add(1, len as u64, self.now);
                self.pool.free_packet(packet);
            }
            Err(why) => self.drop_packet(packet, why, at),
        }
    }
}
