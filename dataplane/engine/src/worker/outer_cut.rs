//! Outer packets that are larger than their path's MTU and may be cut (`df_default=false`): each of
//! their fragments takes the rest of the way by itself.

use afxdp::Packet;
use ofproto::program::{DpAction, Push};

use super::place::Where;
use super::transmit::Transmit;

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
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
        if self.send_in_pieces(mtu, rest, packet, at, depth + 1) {
            push.counters.fragmented.add(1, len as u64, self.now);
        }
    }
}
