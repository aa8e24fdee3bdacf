//! Is a segment one that the receiver would take?
//!
//! The method is Guido van Rooij's ("Real Stateful TCP Packet Filtering in IP Filter"), with the
//! bounds of Linux's tracker: per side, the highest number sent (`end`), the highest that the
//! other side allows (`max_end`), and the largest window it has offered (`max_win`).
//!
//! A segment is good if
//! 1. it begins at or before what the receiver allows: `seq <= sender.max_end`;
//! 2. it ends behind what the receiver can still ask for: `end >= sender.end - receiver.max_win`;
//! 3. it acknowledges nothing that was not sent: `sack <= receiver.end`;
//! 4. and nothing too old: `ack >= receiver.end - max(sender.max_win, 66000)`.
//!
//! Failing 1 or 3 makes a segment invalid; but some hosts send more than they are allowed to, and
//! if only 1 fails, by no more than the receiver's largest window, the segment passes, and the
//! sender's end is noted so that its acknowledgement is known. Failing 2 or 4 makes it late: old
//! data again, or an overtaken acknowledgement. It passes and changes nothing.

use super::segment::{ACK, NO_SCALE, RST, SYN, Segment, Sort};
use super::{Peer, Tcp, TcpState, after, peer_flag};

/// What the window says of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    Good,
    /// More than the receiver allows: let through.
    Over,
    /// Let through, but believed in nothing.
    Late,
    Outside,
}

/// An acknowledgement may be older than this many bytes only if windows are larger.
const MAX_ACK_WINDOW: u32 = 66_000;

/// What a side says of itself with a SYN.
fn begin(peer: &mut Peer, s: &Segment) {
    peer.end = s.end;
    peer.max_end = s.end;
    peer.max_win = u32::from(s.win).max(1);
    peer.scale = 0;
    peer.flags = 0;
    if s.scale != NO_SCALE {
        peer.scale = s.scale;
        peer.flags |= peer_flag::WINDOW_SCALE;
    }
    if s.sack_permitted {
        peer.flags |= peer_flag::SACK_PERMITTED;
    }
}

/// The side that sends the first segment of a connection.
pub(super) fn first(s: &Segment) -> [Peer; 2] {
    let mut sender = Peer::default();
    let mut receiver = Peer::default();
    begin(&mut sender, s);
    if !s.has(SYN) {
        // Picked up in the middle: windows may be scaled, nobody knows how.
        sender.max_end = s.end.wrapping_add(sender.max_win);
        sender.scale = 0;
        sender.flags = peer_flag::SACK_PERMITTED | peer_flag::LIBERAL;
        receiver.flags = sender.flags;
    }
    [sender, receiver]
}

/// The side that sends a segment, and the other one.
#[inline(always)]
fn sides(peers: &mut [Peer; 2], reply: bool) -> (&mut Peer, &mut Peer) {
    let [opener, other] = peers;
    if reply { (other, opener) } else { (opener, other) }
}

/// What a segment acknowledges in all. Blocks count only if the receiver has said that it knows them.
#[inline(always)]
fn acknowledged(receiver: &Peer, s: &Segment) -> u32 {
    if receiver.flags & peer_flag::SACK_PERMITTED != 0 { s.sack } else { s.ack }
}

/// [`check`] for an acknowledgement that is good, of a connection both of whose sides were heard. `false`,
/// and nothing has changed, if it is anything else.
#[inline(always)]
pub(super) fn follow(t: &mut Tcp, reply: bool, s: &Segment) -> bool {
    let (sender, receiver) = sides(&mut t.peers, reply);
    let sack = acknowledged(receiver, s);
    let margins = margins(sender, receiver, s.seq, s.end, sack);
    let good = margins.into_iter().fold(0, |all, m| all | m) >= 0;
    if !good || sender.max_win == 0 || receiver.max_win == 0 {
        return false;
    }
    accept(sender, receiver, s, s.end, s.ack, sack);
    note_repetition(t, reply, s, s.seq, s.end, s.ack);
    true
}

/// Check a segment against the window, and take over what it says if it is good.
pub(super) fn check(t: &mut Tcp, reply: bool, s: &Segment, liberal: bool) -> Fit {
    let (sender, receiver) = sides(&mut t.peers, reply);
    let (mut ack, mut sack) = (s.ack, acknowledged(receiver, s));

    let opening = s.has(SYN)
        && (sender.max_win == 0
            || after(s.end, sender.end)
                && matches!(t.state, TcpState::SynSent | TcpState::SynRecv));
    if opening {
        begin(sender, s);
        // Scaling is in force only if both sides have the option (RFC 7323).
        if reply && sender.flags & receiver.flags & peer_flag::WINDOW_SCALE == 0 {
            sender.scale = 0;
            receiver.scale = 0;
        }
        if reply && !s.has(ACK) {
            return Fit::Good; // A simultaneous open.
        }
    } else if sender.max_win == 0 {
        // The middle of a connection whose beginning was not seen.
        sender.end = s.end;
        sender.max_win = (u32::from(s.win) << sender.scale).max(1);
        sender.max_end = s.end.wrapping_add(sender.max_win);
        if receiver.max_win == 0 {
            receiver.end = sack;
            receiver.max_end = sack;
        }
    }

    // No acknowledgement, or one of some stacks' resets: as if it were right.
    if !s.has(ACK) || s.has(RST) && ack == 0 {
        ack = receiver.end;
        sack = ack;
    }
    let (mut seq, mut end) = (s.seq, s.end);
    if s.has(RST) && seq == 0 && t.state == TcpState::SynSent {
        // The answer to a SYN has no number of its own.
        seq = sender.end;
        end = seq;
    }

    match fit(sender, receiver, seq, end, sack) {
        Fit::Good => {
            accept(sender, receiver, s, end, ack, sack);
            note_repetition(t, reply, s, seq, end, ack);
        }
        Fit::Over => {
            sender.end = end;
            sender.flags |= peer_flag::UNACKNOWLEDGED;
            return Fit::Over;
        }
        _ if liberal || sender.flags & peer_flag::LIBERAL != 0 => {}
        bad => return bad,
    }
    Fit::Good
}

/// By how much a segment keeps each of the four rules; negative where it breaks one.
#[inline(always)]
fn margins(sender: &Peer, receiver: &Peer, seq: u32, end: u32, sack: u32) -> [i32; 4] {
    let window = sender.max_win.max(MAX_ACK_WINDOW);
    let allowed = sender.max_end.wrapping_sub(seq);
    let is_new = end.wrapping_sub(sender.end).wrapping_add(receiver.max_win);
    let was_sent = receiver.end.wrapping_sub(sack);
    let ack_is_new = sack.wrapping_sub(receiver.end).wrapping_add(window);
    [allowed as i32, is_new as i32, was_sent as i32, ack_is_new as i32]
}

#[inline(always)]
fn fit(sender: &Peer, receiver: &Peer, seq: u32, end: u32, sack: u32) -> Fit {
    let margins = margins(sender, receiver, seq, end, sack);
    let [allowed, is_new, was_sent, ack_is_new] = margins.map(|m| m >= 0);
    if !allowed {
        let over = end.wrapping_sub(sender.max_end).wrapping_add(1);
        let little = receiver.max_win != 0 && over <= receiver.max_win;
        return if little && is_new && ack_is_new && was_sent { Fit::Over } else { Fit::Outside };
    }
    if !was_sent {
        return Fit::Outside;
    }
    if (receiver.max_win == 0 || is_new) && ack_is_new { Fit::Good } else { Fit::Late }
}

#[inline(always)]
fn accept(sender: &mut Peer, receiver: &mut Peer, s: &Segment, end: u32, ack: u32, sack: u32) {
    // The window of a SYN is never scaled.
    let win = if s.has(SYN) { u32::from(s.win) } else { u32::from(s.win) << sender.scale };
    sender.max_win = sender.max_win.max(win.wrapping_add(sack.wrapping_sub(ack)));
    if after(end, sender.end) {
        sender.end = end;
        sender.flags |= peer_flag::UNACKNOWLEDGED;
    }
    if s.has(ACK) && (sender.flags & peer_flag::MAX_ACK == 0 || after(ack, sender.max_ack)) {
        sender.max_ack = ack;
        sender.flags |= peer_flag::MAX_ACK;
    }
    if receiver.max_win != 0 && after(end, sender.max_end) {
        receiver.max_win = receiver.max_win.wrapping_add(end.wrapping_sub(sender.max_end));
    }
    let allowed = sack.wrapping_add(win);
    if after(allowed, receiver.max_end.wrapping_sub(1)) {
        receiver.max_end = allowed.wrapping_add(u32::from(win == 0));
    }
    if ack == receiver.end {
        receiver.flags &= !peer_flag::UNACKNOWLEDGED;
    }
}

/// Count how often the same acknowledgement has come: a side that gets no answer.
#[inline(always)]
fn note_repetition(t: &mut Tcp, reply: bool, s: &Segment, seq: u32, end: u32, ack: u32) {
    if s.sort != Sort::Ack {
        return;
    }
    let same = t.last_reply == reply
        && t.last_seq == seq
        && t.last_ack == ack
        && t.last_end == end
        && t.last_win == s.win;
    if same {
        t.repeated = t.repeated.saturating_add(1);
        return;
    }
    t.last_reply = reply;
    t.last_seq = seq;
    t.last_ack = ack;
    t.last_end = end;
    t.last_win = s.win;
    t.repeated = 0;
}
