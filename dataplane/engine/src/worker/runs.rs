//! What becomes of packets that were looked up together?
//!
//! They are brought on run by run ([`bring_on`]): packets that follow each other and are of one megaflow are
//! counted, sent, changed or put aside all at once. Packets of different megaflows that all leave by one port,
//! as they are, are sent together too ([`output_each`]). A packet that no megaflow covers is translated first
//! ([`missed`]).
//!
//! Invariant: packets of one flow leave in the order in which they came ([`super::order`]).

use afxdp::Packet;
use flow::{Drop, FlowKey, word};
use ofproto::program::{DpAction, DpPort, Program};
use ofproto::recirc::Frozen;

use super::place::{MAX_PASSES, Where};
use super::transmit::Transmit;
use super::upcall::Flows;
use crate::megaflow::{Found, Shape, commit, edits};
use crate::stages::Stage;

/// The packets from `from` on that were found the same.
#[inline(always)]
fn run_of(found: &[Found], from: usize) -> std::ops::Range<usize> {
    let more = found[from..].iter().skip(1).take_while(|f| **f == found[from]).count();
    from..from + 1 + more
}

/// Bring packets on their way that were looked up together. `place` says where the one with that number
/// stands; `missed` is for those that no megaflow covers.
#[inline(always)]
pub(super) fn bring_on<'a>(
    flows: &mut Flows,
    tx: &mut Transmit,
    found: &[Found],
    packets: &mut impl Iterator<Item = Packet>,
    place: impl Fn(usize) -> Where<'a>,
    mut missed: impl FnMut(&mut Flows, &mut Transmit, usize, Packet, &mut Where<'_>),
) {
    /// So many packets of one megaflow are worth being counted at once.
    const RUN: usize = 4;
    let mut i = 0;
    while i < found.len() {
        let run = run_of(found, i);
        if run.len() < RUN {
            i += output_each(flows, tx, &found[i..], packets, |at| place(i + at).key);
            if i > run.start {
                continue;
            }
        }
        i = run.end;
        match found[run.start] {
            Found::Hit(id) => {
                let last = i == found.len();
                hit_run(flows, tx, id, packets, run, last, &place);
            }
            _ => {
                for (i, packet) in run.zip(packets.by_ref()) {
                    missed(flows, tx, i, packet, &mut place(i));
                }
            }
        }
    }
}

/// Send packets that come one behind another, as many as leave by one port as they are, whatever their
/// megaflows. How many that were: none if they have to be asked for, or the port is another worker's.
#[inline(always)]
fn output_each<'a>(
    flows: &mut Flows,
    tx: &mut Transmit,
    found: &[Found],
    packets: &mut impl Iterator<Item = Packet>,
    key: impl Fn(usize) -> &'a FlowKey,
) -> usize {
    let Some(Found::Hit(first)) = found.first() else { return 0 };
    let port = flows.mega.hot(*first).output;
    // While others are put off, each has to be asked whether it waits for one of them.
    if port == DpPort(0) || tx.order.is_busy() {
        return 0;
    }
    let Some(slot) = tx.slot_of(port) else { return 0 };
    tx.mark_dirty(slot);
    let mut sent = 0;
    while let Some(Found::Hit(id)) = found.get(sent) {
        let hot = flows.mega.hot(*id);
        if hot.output != port {
            break;
        }
        let Some(packet) = packets.next() else { break };
        hot.count(1, packet.len() as u64, tcp_flags(key(sent)), tx.now);
        tx.slots[slot].staged.push(packet);
        tx.send_if_full(slot);
        sent += 1;
    }
    sent
}

#[inline(always)]
fn tcp_flags(key: &FlowKey) -> u16 {
    (key.word(word::L4) >> 16) as u16
}

/// Packets that are to be dropped count as found nowhere.
#[inline(always)]
pub(super) fn forget_bad(found: &mut [Found], bad: &[Option<Drop>]) {
    for (found, _) in found.iter_mut().zip(bad).filter(|(_, bad)| bad.is_some()) {
        *found = Found::Miss;
    }
}

/// The next packets, all of one megaflow: those with the numbers `run`. If they are the `last`, nobody
/// comes behind them.
#[inline(always)]
fn hit_run<'a>(
    flows: &mut Flows,
    tx: &mut Transmit,
    id: u32,
    packets: &mut impl Iterator<Item = Packet>,
    run: std::ops::Range<usize>,
    last: bool,
    place: &impl Fn(usize) -> Where<'a>,
) {
    let count = run.len();
    if count == 1 {
        let Some(packet) = packets.next() else { return };
        return hit(flows, tx, id, packet, &mut place(run.start));
    }
    let keys = run.clone().map(|i| place(i).key);
    let flags = keys.clone().fold(0, |flags, key| flags | tcp_flags(key));
    let hot = flows.mega.hot(id);
    let mut bytes = 0;
    // While others are put off, each has to be asked whether it waits for one of them.
    let free = !tx.order.is_busy();
    if free && hot.output != DpPort(0) {
        bytes = tx.output_run(hot.output, packets.take(count), keys);
    } else if free
        && hot.shape == Shape::Edits
        && let Some((edits, port)) = edits(hot.program())
    {
        bytes = tx.edit_run(edits, port, packets, run, place);
    } else if free
        && hot.shape == Shape::Commit
        && let Some((ct, edits, port)) = commit(hot.program())
        && run.clone().all(|i| tx.is_committed(ct, &place(i)))
    {
        bytes = tx.edit_run(edits, port, packets, run, place);
    } else if free
        && last
        && let [DpAction::TunnelPop(listener)] = **hot.program()
        && let Where { slot: Some(_), passes: ..MAX_PASSES, .. } = place(run.start)
    {
        bytes = tx.popped.put_last(listener, packets.take(count), run.map(place));
    } else if hot.shape == Shape::Pop {
        for (i, packet) in run.zip(packets) {
            bytes += packet.len() as u64;
            let at = &mut place(i);
            let others = !(tx.later.is_empty() && tx.again.is_empty());
            let (order, program) = (&mut tx.order, flows.mega.hot(id).program());
            if let Err(packet) = tx.popped.put_aside(order, others, program, packet, at) {
                run_program(flows, tx, id, packet, at);
            }
        }
    } else {
        let mut left = run;
        while let Some(i) = left.next()
            && let Some(packet) = packets.next()
        {
            bytes += packet.len() as u64;
            run_program(flows, tx, id, packet, &mut place(i));
            // The first of them has begun a group, if there was none.
            let hot = flows.mega.hot(id);
            if hot.shape == Shape::Track && tx.popped.is_empty() {
                let (order, program) = (&mut tx.order, hot.program());
                bytes += tx.later.put_run_aside(order, program, packets, &mut left, place);
            }
        }
    }
    flows.mega.hot(id).count(count as u64, bytes, flags, tx.now);
}

/// A packet whose megaflow is known.
#[inline(always)]
pub(super) fn hit(
    flows: &mut Flows,
    tx: &mut Transmit,
    id: u32,
    packet: Packet,
    at: &mut Where<'_>,
) {
    let hot = flows.mega.hot(id);
    hot.count(1, packet.len() as u64, tcp_flags(at.key), tx.now);
    if hot.output != DpPort(0) && !(tx.order.is_busy() && tx.is_behind(at)) {
        return tx.output(hot.output, packet, at);
    }
    run_program(flows, tx, id, packet, at);
}

#[inline]
fn run_program(flows: &mut Flows, tx: &mut Transmit, id: u32, packet: Packet, at: &mut Where<'_>) {
    let hot = flows.mega.hot(id);
    if hot.shape == Shape::Drop {
        at.rule = flows.mega.note(id).and_then(|n| n.last_rule());
    } else if hot.shape == Shape::Edits
        && !tx.order.is_busy()
        && let Some((edits, port)) = edits(hot.program())
    {
        return tx.edit_and_output(edits, port, packet, at);
    } else if hot.shape == Shape::Commit
        && !tx.order.is_busy()
        && let Some((ct, edits, port)) = commit(hot.program())
        && tx.is_committed(ct, at)
    {
        return tx.edit_and_output(edits, port, packet, at);
    }
    run_or_wait(tx, flows.mega.hot(id).program(), packet, at);
}

/// Run a packet's program, unless it is run for several together or waits for another packet.
#[inline(always)]
fn run_or_wait(tx: &mut Transmit, program: &Program, packet: Packet, at: &mut Where<'_>) {
    let Transmit { later, popped, again, order, .. } = tx;
    let others = !(later.is_empty() && again.is_empty());
    let aside = popped.put_aside(order, others, program, packet, at).or_else(|packet| match popped
        .is_empty()
    {
        true => later.put_aside(order, program, packet, at),
        false => later.put_behind(order, program, packet, at),
    });
    if let Err(packet) = aside {
        tx.run(program, packet, at);
    }
}

/// A packet that no megaflow covers, or only a stale one. `slot` has a budget, if one is given.
#[cold]
pub(super) fn missed(
    flows: &mut Flows,
    tx: &mut Transmit,
    packet: Packet,
    at: &mut Where<'_>,
    frozen: Option<&Frozen>,
    slot: Option<usize>,
) {
    if at.off.fault == flow::Fault::Ethernet {
        return tx.drop_packet(packet, Drop::Runt, at);
    }
    // An earlier packet of the burst may have brought the megaflow.
    let mut found = [Found::Miss];
    let one = std::slice::from_ref(at.key);
    flows.mega.lookup(at.key.word(word::META), one, &mut found, &mut tx.clock);
    tx.clock.enter(Stage::Actions);
    let stale = match found[0] {
        Found::Hit(id) => return hit(flows, tx, id, packet, at),
        Found::Stale(id) => Some(id),
        Found::Miss => None,
    };
    let now = tx.now;
    if slot.is_some_and(|s| !tx.slots[s].budget.take(now)) {
        return tx.drop_packet(packet, Drop::UpcallLimit, at);
    }
    tx.clock.enter(Stage::Upcall);
    let made = flows.upcall(at.key, frozen, stale, tx);
    tx.clock.enter(Stage::Actions);
    match made {
        Ok(id) => hit(flows, tx, id, packet, at),
        Err(program) => {
            for rule in &flows.out.rules {
                rule.stats.add(1, packet.len() as u64, tx.now);
            }
            for counter in &flows.out.counters {
                counter.add(1, packet.len() as u64, tx.now);
            }
            at.rule = flows.out.rules.last().map(|r| r.place());
            run_or_wait(tx, &program, packet, at);
        }
    }
}
