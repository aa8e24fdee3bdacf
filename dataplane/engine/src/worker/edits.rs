//! Programs that change packets and then send them out of a port, and do nothing else
//! ([`crate::megaflow::Shape::Edits`]).
//!
//! The packets of a run are changed where they wait to be sent, when all of them are there, and one step is
//! done on all of them before the next ([`edit_all`]): what it takes to do it is made ready once. A packet
//! that is moved right after it was changed, or changed right after it was moved, waits for its own bytes to be
//! written: the processor cannot give a load what is spread over several stores.
//!
//! Where a step cannot be done in one of them, the run goes on packet by packet, so that they leave in their
//! order.

use std::ops::Range;

use afxdp::Packet;
use arrayvec::ArrayVec;
use flow::{Drop, FlowKey, Offsets, edit};
use ofproto::program::{DpAction, DpPort};
use ports::{BURST, Burst};

use super::place::Where;
use super::transmit::Transmit;
use super::tunnel::push_outer;

/// A step that changes the packet, and nothing else.
#[inline]
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

/// Offsets of a run's packets, as long as a step is to come that asks for them; none after that.
type Places = ArrayVec<Offsets, BURST>;

/// Whether one of the steps asks where a packet's headers are.
#[inline(always)]
fn asks_where(steps: &[DpAction]) -> bool {
    steps.iter().any(|step| matches!(step, DpAction::Set(_)))
}

/// Where a run has stopped: all steps before `step` are done on all packets, and `step` on so many of them.
struct Stopped {
    step: usize,
    done: usize,
}

/// Do all the steps but the last, which is an output, on packets whose keys `key` says.
#[inline(always)]
fn edit_all<'a>(
    sender: &mut tunnel::Sender,
    steps: &[DpAction],
    packets: &mut [Packet],
    places: &mut Places,
    key: impl Fn(usize) -> &'a FlowKey,
) -> Result<(), Stopped> {
    let edits = &steps[..steps.len().saturating_sub(1)];
    for (i, step) in edits.iter().enumerate() {
        let done = match step {
            DpAction::PushVlan { tpid, tci } => {
                let (tpid, tci) = (*tpid, *tci);
                edit::done_until(packets.iter_mut(), |p| edit::put_vlan(p, tpid, tci))
            }
            DpAction::PopVlan => edit::done_until(packets.iter_mut(), edit::take_vlan),
            DpAction::Set(set) => set.set_all(packets, places),
            DpAction::TunnelPush(push) => {
                let hash = |i| key(i).flow_hash();
                push.encap.push_all(packets, push.max_frame as usize, hash, sender)
            }
            _ => 0,
        };
        let asked = asks_where(&edits[i + 1..]);
        if asked {
            move_along(step, &mut places[..done], packets);
        }
        if done < packets.len() {
            return Err(Stopped { step: i, done });
        }
        if !asked {
            places.clear();
        }
    }
    Ok(())
}

/// What is where in packets on which a step was done.
#[inline]
fn move_along(step: &DpAction, places: &mut [Offsets], packets: &[Packet]) {
    match step {
        DpAction::PushVlan { .. } => places.iter_mut().for_each(edit::vlan_put),
        DpAction::PopVlan => places.iter_mut().for_each(edit::vlan_taken),
        DpAction::TunnelPush(push) => {
            for (off, packet) in places.iter_mut().zip(packets) {
                *off = push.encap.offsets(packet.len());
            }
        }
        _ => {}
    }
}

impl Transmit {
    /// Change a packet and send it out of a port, which is the last of the steps.
    #[inline]
    pub fn edit_and_output(
        &mut self,
        steps: &[DpAction],
        port: DpPort,
        mut packet: Packet,
        at: &mut Where<'_>,
    ) {
        let edits = steps.len().saturating_sub(1);
        for (i, step) in steps[..edits].iter().enumerate() {
            if let Err(why) = edit(&mut self.sender, step, &mut packet, at) {
                return self.cannot_edit(step, &steps[i + 1..], why, packet, at);
            }
        }
        self.output(port, packet, at);
    }

    /// Change packets and send them out of a port; how many bytes they had. They are those with the
    /// numbers `run`, and `place` says where they stand.
    #[inline(always)]
    pub fn edit_run<'a>(
        &mut self,
        steps: &[DpAction],
        port: DpPort,
        packets: &mut impl Iterator<Item = Packet>,
        mut run: Range<usize>,
        place: &impl Fn(usize) -> Where<'a>,
    ) -> u64 {
        let mut bytes = 0;
        let Some(slot) = self.slot_of(port) else {
            for (i, packet) in run.zip(packets) {
                bytes += packet.len() as u64;
                self.edit_and_output(steps, port, packet, &mut place(i));
            }
            return bytes;
        };
        self.mark_dirty(slot);
        while !run.is_empty() {
            let staged = &mut self.slots[slot].staged;
            let (first, from) = (run.start, staged.len());
            run.start += run.len().min(staged.remaining_capacity());
            for packet in packets.by_ref().take(run.start - first) {
                bytes += packet.len() as u64;
                staged.push(packet);
            }
            let mut places = Places::new();
            if asks_where(steps) {
                places.extend((first..run.start).map(|i| place(i).off));
            }
            let key = |i| place(first + i).key;
            let edited = edit_all(&mut self.sender, steps, &mut staged[from..], &mut places, key);
            if let Err(stopped) = edited {
                let packets = staged.drain(from..).collect();
                let place = |i| {
                    let at = place(first + i);
                    Where { off: places.get(i).copied().unwrap_or(at.off), ..at }
                };
                self.edit_apart(steps, port, stopped, packets, place);
            }
            self.send_if_full(slot);
        }
        bytes
    }

    /// Go on packet by packet with a run that has stopped.
    #[cold]
    fn edit_apart<'a>(
        &mut self,
        steps: &[DpAction],
        port: DpPort,
        stopped: Stopped,
        packets: Burst,
        place: impl Fn(usize) -> Where<'a>,
    ) {
        for (i, packet) in packets.into_iter().enumerate() {
            let (done, left) = steps.split_at(stopped.step + usize::from(i < stopped.done));
            let mut at = place(i);
            at.encapsulated |= done.iter().any(|step| matches!(step, DpAction::TunnelPush(_)));
            self.edit_and_output(left, port, packet, &mut at);
        }
    }

    /// A packet in which a step could not be done, in its place among those that are sent. `rest` is what was
    /// to follow.
    #[cold]
    fn cannot_edit(
        &mut self,
        step: &DpAction,
        rest: &[DpAction],
        why: Drop,
        packet: Packet,
        at: &mut Where<'_>,
    ) {
        match step {
            DpAction::TunnelPush(push) if why == Drop::TooBig => {
                self.too_big(push, rest, packet, at, 0);
            }
            _ => self.drop_packet(packet, why, at),
        }
    }
}
