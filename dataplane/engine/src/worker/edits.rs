//! Programs that change packets and then send them out of a port, and do nothing else
//! ([`crate::megaflow::Shape::Edits`]).
//!
//! The packets of a run are changed where they wait to be sent, when all of them are there. A packet that is
//! moved right after it was changed, or changed right after it was moved, waits for its own bytes to be
//! written: the processor cannot give a load what is spread over several stores.

use afxdp::Packet;
use flow::{Drop, edit};
use ofproto::program::{DpAction, DpPort};
use ports::Burst;

use super::exec::{Transmit, Where};
use super::tunnel::push_outer;

/// A step that changes the packet, and nothing else.
#[inline(always)]
pub(super) fn edit(
    sender: &mut tunnel::Sender,
    step: &DpAction,
    packet: &mut Packet,
    at: &mut Where<'_>,
) -> Result<(), Drop> {
    match step {
        DpAction::PushVlan { tpid, tci } => edit::push_vlan(packet, &mut at.off, *tpid, *tci),
        DpAction::PopVlan => edit::pop_vlan(packet, &mut at.off),
        DpAction::Set(set) => set.set(packet, &at.off),
        DpAction::TunnelPush(push) => push_outer(push, packet, at, sender),
        _ => Err(Drop::Unsupported),
    }
}

/// Do all the steps but the last, which is an output; else which of them could not be done, and why.
#[inline(always)]
fn edit_all(
    sender: &mut tunnel::Sender,
    steps: &[DpAction],
    packet: &mut Packet,
    at: &mut Where<'_>,
) -> Result<(), (usize, Drop)> {
    for (i, step) in steps[..steps.len().saturating_sub(1)].iter().enumerate() {
        edit(sender, step, packet, at).map_err(|why| (i, why))?;
    }
    Ok(())
}

impl Transmit {
    /// Change a packet and send it out of a port.
    #[inline(always)]
    pub fn edit_and_output(
        &mut self,
        steps: &[DpAction],
        port: DpPort,
        mut packet: Packet,
        at: &mut Where<'_>,
    ) {
        match edit_all(&mut self.sender, steps, &mut packet, at) {
            Ok(()) => self.output(port, packet, at),
            Err(failed) => self.cannot_edit(steps, failed, packet, at),
        }
    }

    /// Change packets and send them out of a port; how many bytes they have. `places` are
    /// theirs.
    #[inline(always)]
    pub fn edit_run<'a>(
        &mut self,
        steps: &[DpAction],
        port: DpPort,
        mut packets: impl Iterator<Item = Packet>,
        mut places: impl Iterator<Item = Where<'a>>,
    ) -> u64 {
        let mut bytes = 0;
        let Some(slot) = self.slot_of(port) else {
            for (packet, mut at) in packets.zip(places) {
                bytes += packet.len() as u64;
                self.edit_and_output(steps, port, packet, &mut at);
            }
            return bytes;
        };
        self.mark_dirty(slot);
        loop {
            let staged = &mut self.slots[slot].staged;
            let mut next = staged.len();
            for packet in packets.by_ref() {
                bytes += packet.len() as u64;
                staged.push(packet);
                if staged.is_full() {
                    break;
                }
            }
            if next == staged.len() {
                return bytes;
            }
            while let Some(packet) = staged.get_mut(next) {
                let Some(mut at) = places.next() else { break };
                next += 1;
                if let Err(failed) = edit_all(&mut self.sender, steps, packet, &mut at) {
                    let behind: Burst = staged.drain(next..).collect();
                    if let Some(packet) = staged.pop() {
                        self.cannot_edit(steps, failed, packet, &mut at);
                    }
                    for (packet, mut at) in behind.into_iter().zip(places.by_ref()) {
                        self.edit_and_output(steps, port, packet, &mut at);
                    }
                    break;
                }
            }
            self.send_if_full(slot);
        }
    }

    /// A packet in which a step could not be done, in its place among those that are sent.
    #[cold]
    fn cannot_edit(
        &mut self,
        steps: &[DpAction],
        (failed, why): (usize, Drop),
        packet: Packet,
        at: &mut Where<'_>,
    ) {
        match &steps[failed] {
            DpAction::TunnelPush(push) if why == Drop::TooBig => {
                self.too_big(push, &steps[failed + 1..], packet, at, 0);
            }
            _ => self.drop_packet(packet, why, at),
        }
    }
}
