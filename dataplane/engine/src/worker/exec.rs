//! Do what an action program says, step by step.
//!
//! Must not know: how a program came to be.

use std::sync::Arc;

use afxdp::Packet;
use conntrack::{ConnRef, Input, Millis, Verdict};
use flow::Drop;
use ofproto::program::{CtStep, DpAction, DpPort};
use ofproto::recirc::Recirculation;

use super::ct_key::{Tracked, is_translated};
use super::cutting;
use super::edits::edit;
use super::place::{MAX_PASSES, Recirculated, Where};
use super::transmit::Transmit;
use crate::shared::Event;
use crate::stages::Stage;

/// Clones nested in each other at most; translation never nests deeper.
const MAX_CLONES: usize = 16;

impl Transmit {
    /// Do the steps of a program on a packet.
    pub fn run(&mut self, program: &[DpAction], packet: Packet, at: &mut Where<'_>) {
        self.run_nested(program, packet, at, 0);
    }

    pub fn run_nested(
        &mut self,
        program: &[DpAction],
        mut packet: Packet,
        at: &mut Where<'_>,
        depth: usize,
    ) {
        let mut cut = None;
        for (i, step) in program.iter().enumerate() {
            let last = i + 1 == program.len();
            let done = match step {
                DpAction::Output(port) if last && cut.is_none() => {
                    return self.output(*port, packet, at);
                }
                DpAction::Output(port) => {
                    self.output_copy(*port, &packet, cut.take(), at);
                    Ok(())
                }
                DpAction::PushVlan { .. } | DpAction::PopVlan | DpAction::Set(_) => {
                    edit(&mut self.sender, step, &mut packet, at)
                }
                DpAction::Truncate(n) => {
                    cut = Some(*n as usize);
                    Ok(())
                }
                DpAction::Reassemble(state) => {
                    return self.reassemble(state, packet, at);
                }
                DpAction::Cut(n) => {
                    flow::checksum::finish_partial(&mut packet);
                    packet.truncate(*n as usize, &mut self.pool);
                    Ok(())
                }
                DpAction::Clone(steps) if last && cut.is_none() && depth < MAX_CLONES => {
                    return self.run_nested(steps, packet, at, depth + 1);
                }
                DpAction::Clone(steps) if depth < MAX_CLONES => {
                    self.clone_and_run(steps, &packet, at, depth);
                    Ok(())
                }
                DpAction::Clone(_) => Err(Drop::Recursion),
                DpAction::Ct(ct) if self.must_wait(ct, at) => {
                    return self.hold(ct, &program[i + 1..], packet, at, depth, i + depth == 0);
                }
                DpAction::Ct(ct) => {
                    let before = self.clock.enter(Stage::Conntrack);
                    let done = self.track(ct, &mut packet, at);
                    self.clock.enter(before);
                    done
                }
                DpAction::CtClear => {
                    at.tracked = Tracked::Since(None);
                    Ok(())
                }
                DpAction::Recirculate(state) if last => {
                    return self.recirculate(state, packet, at);
                }
                DpAction::Recirculate(state) => {
                    self.with_copy(&packet, at, |tx, copy, at| tx.recirculate(state, copy, at));
                    Ok(())
                }
                DpAction::TunnelPush(push) => match edit(&mut self.sender, step, &mut packet, at) {
                    Err(Drop::TooBig) => {
                        return self.too_big(push, &program[i + 1..], packet, at, depth);
                    }
                    done => done,
                },
                DpAction::TunnelPop(listener) if last => {
                    return self.tunnel_pop(*listener, packet, at);
                }
                DpAction::TunnelPop(listener) => {
                    self.with_copy(&packet, at, |tx, copy, at| tx.tunnel_pop(*listener, copy, at));
                    Ok(())
                }
                DpAction::AwaitNeighbour(target, state) if last => {
                    return self.await_neighbour(*target, state, packet, at);
                }
                DpAction::AwaitNeighbour(target, state) => {
                    self.with_copy(&packet, at, |tx, copy, at| {
                        tx.await_neighbour(*target, state, copy, at)
                    });
                    Ok(())
                }
                DpAction::Hear(link) => {
                    self.hear(*link, &packet, at);
                    Ok(())
                }
                DpAction::Controller(to) => {
                    self.send_to_controller(to, &packet, at);
                    Ok(())
                }
                DpAction::IcmpError(e) => self.icmp_error(e, &mut packet, at),
                DpAction::IfTooBig(mtu, steps) => {
                    if cutting::is_larger(at, *mtu) && !cutting::may_be_cut(&packet, at) {
                        return self.run_nested(steps, packet, at, depth + 1);
                    }
                    Ok(())
                }
                DpAction::Fragment(mtu) if cutting::is_larger(at, *mtu) => {
                    self.send_in_pieces(*mtu, &program[i + 1..], packet, at, depth);
                    return;
                }
                DpAction::Fragment(_) => Ok(()),
                DpAction::Drop(why) => Err(*why),
            };
            if let Err(why) = done {
                return self.drop_packet(packet, why, at);
            }
        }
        // The last step was no output, so all that was to be sent has been.
        self.pool.free_packet(packet);
    }

    fn output_copy(&mut self, port: DpPort, packet: &Packet, cut: Option<usize>, at: &Where<'_>) {
        match packet.duplicate(&mut self.pool) {
            Some(mut copy) => {
                if let Some(len) = cut {
                    copy.truncate(len, &mut self.pool);
                }
                self.output(port, copy, at);
            }
            None => self.note_drop(Drop::NoFrame, at, packet.len()),
        }
    }

    fn clone_and_run(
        &mut self,
        steps: &[DpAction],
        packet: &Packet,
        at: &mut Where<'_>,
        depth: usize,
    ) {
        let (off, encapsulated) = (at.off, at.encapsulated);
        self.with_copy(packet, at, |tx, copy, at| tx.run_nested(steps, copy, at, depth + 1));
        (at.off, at.encapsulated) = (off, encapsulated);
    }

    /// Ask the tracker about a packet, and translate it as the tracker says.
    fn track(&mut self, ct: &CtStep, packet: &mut Packet, at: &mut Where<'_>) -> Result<(), Drop> {
        let mut input = Input::of(packet, &at.off, ct.zone);
        if at.tracked.was_sound(at.key) {
            input.was_verified();
        }
        let verdict = self.ask(ct, &input, at.known_in(ct.zone))?;
        if !verdict.nat.is_none() {
            conntrack::nat::apply_fragment(packet, &at.off, &verdict.nat)?;
        }
        at.tracked = Tracked::Since(Some((ct.zone, verdict)));
        Ok(())
    }

    /// Whether a step that keeps a packet's connection finds it kept, so that it has nothing to do: nothing is
    /// said of the packet then that its key does not say.
    #[inline(always)]
    pub fn is_committed(&self, ct: &CtStep, at: &Where<'_>) -> bool {
        let known = match at.tracked {
            Tracked::AsInKey(zone, conn) if zone == ct.zone && !is_translated(at.key) => conn,
            _ => return false,
        };
        let now = Millis(self.now);
        ct.commit.as_ref().is_some_and(|args| self.shared.tracker.is_committed(now, known, args))
    }

    /// What the tracker says of a packet; `known` is its connection, if an earlier step has told.
    pub fn ask(&mut self, ct: &CtStep, input: &Input<'_>, known: ConnRef) -> Result<Verdict, Drop> {
        let now = Millis(self.now);
        let tracker = &self.shared.tracker;
        let Some(commit) = &ct.commit else {
            let verdict = tracker.resume(now, ct.zone, known, ct.nat);
            return Ok(verdict.unwrap_or_else(|| tracker.track(now, input, ct.nat)));
        };
        let seed = &mut self.random;
        let mut random = || {
            *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            flow::key::mix(*seed, 0xe703_7ed1_a0b4_28db)
        };
        tracker.commit(now, input, known, commit, &mut random)
    }

    fn recirculate(&mut self, state: &Arc<Recirculation>, packet: Packet, at: &Where<'_>) {
        if at.passes >= MAX_PASSES {
            return self.drop_packet(packet, Drop::Recirculation, at);
        }
        self.look_up_later(Recirculated::new(state, packet, at), at);
    }

    /// Have a packet looked up again when it is its turn, in its place if it has one.
    #[inline]
    pub fn look_up_later(&mut self, mut packet: Recirculated, at: &Where<'_>) {
        let Some(slot) = at.slot else { return self.strays.push(packet) };
        packet.slot = Some(slot);
        self.order.put_off(slot, at.key);
        self.again.push(packet);
    }

    /// Whether a packet has to wait for an earlier one of the burst.
    #[inline(always)]
    pub fn is_behind(&mut self, at: &Where<'_>) -> bool {
        at.slot.is_some_and(|slot| self.order.must_wait(slot, at.key))
    }

    /// Do something with a copy of a packet, which has no place in the burst.
    fn with_copy(
        &mut self,
        packet: &Packet,
        at: &mut Where<'_>,
        act: impl FnOnce(&mut Self, Packet, &mut Where<'_>),
    ) {
        let slot = at.slot.take();
        match packet.duplicate(&mut self.pool) {
            Some(copy) => act(self, copy, at),
            None => self.note_drop(Drop::NoFrame, at, packet.len()),
        }
        at.slot = slot;
    }

    fn send_to_controller(
        &mut self,
        to: &Arc<ofproto::program::ToController>,
        packet: &Packet,
        at: &Where<'_>,
    ) {
        let mut bytes = vec![0; packet.len().min(usize::from(to.max_len))];
        packet.copy_to(&mut bytes);
        if !self.tell(Event::PacketIn(Box::new((to.clone(), bytes)))) {
            self.note_drop(Drop::ControllerFull, at, packet.len());
        }
    }
}
