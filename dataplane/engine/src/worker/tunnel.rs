//! Outer headers on the packet path: put on, and taken off.

use std::sync::Arc;
use std::time::Duration;

use afxdp::{CHUNK_DATA, Packet};
use conntrack::{ConnRef, Millis};
use flow::{Drop, Field, FlowKey, Offsets, edit, extract, word};
use ofproto::program::{DpAction, DpPort, Push};
use ofproto::recirc::Recirculation;
use ofproto::underlay::listens;
use tunnel::{decap, ecn, pmtu};

use crate::shared::Event;

use super::ct_key::CT_WORDS;
use super::place::{MAX_PASSES, Metadata, Recirculated, Where};
use super::transmit::Transmit;

/// Bytes of an ARP packet or a neighbour message that matter.
const MAX_HEARD: usize = 512;

/// Put an outer header in front of a packet.
///
/// # Errors
/// [`Drop::TooBig`] if that makes it larger than its path takes; others if there is no room for it.
#[inline(always)]
pub(super) fn push_outer(
    push: &Push,
    packet: &mut Packet,
    at: &mut Where<'_>,
    sender: &mut tunnel::Sender,
) -> Result<(), Drop> {
    if packet.len() > push.max_frame as usize {
        return Err(Drop::TooBig);
    }
    at.off = push.encap.push(packet, at.key.flow_hash(), sender)?;
    at.encapsulated = true;
    Ok(())
}

impl Transmit {
    /// A packet to which no outer header could be put, as it would be too big for the path: its sender is
    /// told so, unless the outer packet may be cut. `rest` is what was to follow.
    #[cold]
    pub(super) fn too_big(
        &mut self,
        push: &Push,
        rest: &[DpAction],
        packet: Packet,
        at: &mut Where<'_>,
        depth: usize,
    ) {
        if !push.encap.df() {
            return self.push_in_fragments(push, rest, packet, at, depth);
        }
        push.counters.too_big.add(1, packet.len() as u64, self.now);
        self.answer_too_big(push, &packet, at);
        self.drop_packet(packet, Drop::TooBig, at);
    }

    /// Tell the sender of a packet that is too big for the tunnel how large it may be, by the port
    /// that the packet came in by. Not a sender behind another tunnel, and not one whose packet has
    /// other tags or addresses by now than it came with: the answer would not be understood.
    fn answer_too_big(&mut self, push: &Push, packet: &Packet, at: &Where<'_>) {
        let port = DpPort((at.key.word(word::META) >> 32) as u32);
        let mut key = FlowKey::ZERO;
        let off = extract(packet.data(), packet.len(), &mut key);
        let same = |f: Field| key.get(f) == at.key.get(f);
        let fields = [
            Field::VlanTci,
            Field::Vlan1Tci,
            Field::NwSrc,
            Field::NwDst,
            Field::Ipv6Src,
            Field::Ipv6Dst,
            Field::TpSrc,
            Field::TpDst,
        ];
        if at.encapsulated
            || port == DpPort(0)
            || listens(port).is_some()
            || !fields.into_iter().all(same)
        {
            return;
        }
        let Ok(mut answer) = pmtu::too_big(packet.data(), &off, &key, push.max_frame as usize)
        else {
            return;
        };
        if !self.answers.allow(Duration::from_millis(self.now)) {
            return self.worker().count_drop(Drop::RateLimit, 1);
        }
        // Between the addresses that the packet came with, whatever was made of them since.
        answer[..6].copy_from_slice(&(at.key.get64(Field::EthSrc)).to_be_bytes()[2..]);
        answer[6..12].copy_from_slice(&(at.key.get64(Field::EthDst)).to_be_bytes()[2..]);
        match self.pool.packet_from(&answer) {
            Some(answer) => self.output(port, answer, at),
            None => self.worker().count_drop(Drop::NoFrame, 1),
        }
    }

    /// Let control hear an ARP packet or a neighbour message.
    #[cold]
    pub(super) fn hear(&mut self, link: u32, packet: &Packet, at: &Where<'_>) {
        if !self.heard.allow(Duration::from_millis(self.now)) {
            return self.note_drop(Drop::RateLimit, at, packet.len());
        }
        let mut frame = vec![0; packet.len().min(MAX_HEARD)];
        packet.copy_to(&mut frame);
        if !self.tell(Event::Heard { link, frame }) {
            self.note_drop(Drop::ControllerFull, at, packet.len());
        }
    }

    /// Keep a fragment's bytes; with the last one, have the whole packet looked up.
    #[cold]
    pub(super) fn reassemble(
        &mut self,
        state: &Arc<Recirculation>,
        packet: Packet,
        at: &Where<'_>,
    ) {
        if at.passes >= MAX_PASSES {
            return self.drop_packet(packet, Drop::Recursion, at);
        }
        let mut bytes = vec![0; packet.len()];
        packet.copy_to(&mut bytes);
        self.pool.free_packet(packet);
        let (now, mut dropped) = (Millis(self.now), 0);
        let mut on_drop = |()| dropped += 1;
        let whole = self.outer_fragments.add(now, 0, &bytes, &at.off, (), &mut on_drop);
        self.count_fragments(dropped);
        let Some(whole) = whole else { return };
        match self.pool.packet_from(&whole.frame) {
            Some(packet) => self.look_up_later(Recirculated::new(state, packet, at), at),
            None => self.note_drop(Drop::NoFrame, at, whole.frame.len()),
        }
    }

    /// Put a packet over several buffers that would fit into one into one: most ports take no other.
    #[cold]
    fn in_one_buffer(&mut self, packet: &mut Packet) -> Result<(), Drop> {
        if packet.len() > CHUNK_DATA {
            return Ok(());
        }
        let mut bytes = vec![0; packet.len()];
        packet.copy_to(&mut bytes);
        let whole = self.pool.packet_from(&bytes).ok_or(Drop::NoFrame)?;
        self.pool.free_packet(std::mem::replace(packet, whole));
        Ok(())
    }

    /// Take the outer headers off a packet, and have what was inside looked up.
    #[cold]
    pub(super) fn tunnel_pop(&mut self, listener: DpPort, mut packet: Packet, at: &Where<'_>) {
        match self.decapsulate_one(listener, &mut packet, at) {
            Ok(metadata) => {
                let inner = Recirculated {
                    packet,
                    meta: u64::from(listener.0) << 32,
                    metadata: Some(metadata),
                    ct: [0; CT_WORDS],
                    conn: (0, ConnRef::NONE),
                    passes: at.passes + 1,
                    slot: None,
                    state: None,
                    bad: None,
                };
                self.look_up_later(inner, at);
            }
            Err(why) => self.drop_packet(packet, why, at),
        }
    }

    fn decapsulate_one(
        &mut self,
        listener: DpPort,
        packet: &mut Packet,
        at: &Where<'_>,
    ) -> Result<Metadata, Drop> {
        if at.passes >= MAX_PASSES {
            return Err(Drop::Recursion);
        }
        let found;
        let (outer, off) = if at.encapsulated {
            let mut key = FlowKey::ZERO;
            let off = extract(packet.data(), packet.len(), &mut key);
            found = key;
            (&found, off)
        } else {
            (at.key, at.off)
        };
        self.decapsulate(listener, packet, &off, outer).map(Metadata::of_tunnel)
    }

    /// Take the outer headers, which are extracted, off a packet; what they said, as words of a key from
    /// [`word::TUN_ID`] on.
    #[inline(always)]
    pub(super) fn decapsulate(
        &mut self,
        listener: DpPort,
        packet: &mut Packet,
        off: &Offsets,
        outer: &FlowKey,
    ) -> Result<[u64; word::METADATA - word::TUN_ID], Drop> {
        let (kind, _) = listens(listener).ok_or(Drop::TunnelNoPort)?;
        let inner = decap(packet, off, outer, kind)?;
        inner.strip(packet, &mut self.pool)?;
        if packet.is_chained() {
            self.in_one_buffer(packet)?;
        }
        Ok(inner.words(outer))
    }
}

/// Whether the outer header of a packet that came out of a tunnel has a congestion mark.
#[inline(always)]
pub(super) fn is_marked(key: &FlowKey) -> bool {
    key.get64(Field::TunTos) as u8 & ecn::MASK != 0
}

/// Give a packet that came out of a tunnel the congestion mark that the outer header asks for.
#[inline(always)]
pub(super) fn take_mark(packet: &mut Packet, off: &Offsets, key: &mut FlowKey) -> Result<(), Drop> {
    if is_marked(key) { mark(packet, off, key) } else { Ok(()) }
}

fn mark(packet: &mut Packet, off: &Offsets, key: &mut FlowKey) -> Result<(), Drop> {
    let outer = key.get64(Field::TunTos) as u8;
    let ty = key.get64(Field::EthType);
    if off.end == 0 || ty != 0x800 && ty != 0x86dd {
        return Ok(());
    }
    let had = key.get64(Field::NwTos) as u8;
    let tos = ecn::decap(outer, had)?;
    if tos != had {
        key.set(Field::NwTos, tos.into());
        edit::set_tos(packet, off, tos, 0xff)?;
    }
    Ok(())
}
