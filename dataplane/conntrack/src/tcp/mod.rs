//! What does a TCP segment do to its connection?
//!
//! [`Tcp`] is a connection's state; [`Tcp::packet`] takes the next segment of either direction.
//! States and transitions are those of Linux's tracker (`nf_conntrack_proto_tcp`), rules of
//! RFC 9293, 5961 and 7323 behind them; [`table`] says which state follows which, [`window`]
//! which numbers are believed.
//!
//! Must not know: tuples, entries, time.

mod segment;
mod table;
mod window;

pub(crate) use segment::{Segment, Sort};
pub use table::TcpState;

use crate::input::Invalid;
use crate::timeout::{Lifetime, Timeout};
use segment::RST;
use table::Next;
use window::Fit;

/// Whether `a` is behind `b` in sequence space.
#[inline(always)]
pub(crate) fn after(a: u32, b: u32) -> bool {
    (b.wrapping_sub(a) as i32) < 0
}
/// Whether `a` is in front of `b` in sequence space.
#[inline(always)]
pub(crate) fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// Flags of a side.
pub(crate) mod peer_flag {
    pub(crate) const WINDOW_SCALE: u8 = 1;
    pub(crate) const SACK_PERMITTED: u8 = 2;
    /// This side sent the first FIN.
    pub(crate) const CLOSED_FIRST: u8 = 4;
    /// Its window is not known: nothing is refused.
    pub(crate) const LIBERAL: u8 = 8;
    pub(crate) const UNACKNOWLEDGED: u8 = 16;
    pub(crate) const MAX_ACK: u8 = 32;
}

/// Flags of the connection.
mod flag {
    /// A SYN was let through in LAST_ACK: an ACK may be its challenge (RFC 5961).
    pub(super) const EXPECT_CHALLENGE: u8 = 64;
    pub(super) const SIMULTANEOUS_OPEN: u8 = 128;
}

/// What is known of one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) end: u32,
    pub(crate) max_end: u32,
    /// 0 until the side was heard.
    pub(crate) max_win: u32,
    pub(crate) max_ack: u32,
    pub(crate) scale: u8,
    pub(crate) flags: u8,
}

/// A connection's state. The opener is `peers[0]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tcp {
    pub(crate) state: TcpState,
    pub(crate) peers: [Peer; 2],
    pub(crate) last_sort: u8,
    pub(crate) last_reply: bool,
    pub(crate) last_seq: u32,
    pub(crate) last_ack: u32,
    pub(crate) last_end: u32,
    pub(crate) last_win: u16,
    /// Window scale and flags of a SYN that was ignored.
    pub(crate) last_scale: u8,
    pub(crate) last_flags: u8,
    pub(crate) repeated: u8,
}

/// How strict the tracker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    /// Connections whose beginning was not seen are picked up at any ACK.
    pub loose: bool,
    /// Segments outside of the window are valid, except resets.
    pub liberal: bool,
    /// Acknowledgements that may repeat before the connection counts as unanswered.
    pub max_repeated: u8,
}

impl Default for TcpOptions {
    fn default() -> Self {
        TcpOptions { loose: true, liberal: false, max_repeated: 3 }
    }
}

/// What the tracker knows of the connection beside TCP's state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Status {
    pub(crate) seen_reply: bool,
    pub(crate) assured: bool,
}

/// What became of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// In order; the connection lives this much longer (`None`: its time is not renewed).
    Accepted {
        lifetime: Option<Lifetime>,
        assured: bool,
    },
    /// Let through, nothing changed.
    Ignored,
    Invalid(Invalid),
    /// Outside of the window as the other side's end was: the hosts are not where the tracker
    /// thinks, and their connection ends. It is not to live long.
    OutOfStep,
    /// The connection is over and this begins another one.
    Reopen,
    /// In order, and the connection is over with it.
    Over,
}

impl Tcp {
    /// The state after the first segment of a connection; `None` if it cannot be the first.
    pub(crate) fn first(s: &Segment, options: &TcpOptions) -> Option<(Tcp, Lifetime)> {
        let Next::To(state) = table::next(false, s.sort, TcpState::None) else { return None };
        if state != TcpState::SynSent && !options.loose {
            return None;
        }
        let mut t = Tcp { peers: window::first(s), last_sort: Sort::None as u8, ..Tcp::default() };
        // As any other segment, now that the sides are set up.
        window::check(&mut t, false, s, options.liberal);
        t.state = state;
        t.last_sort = s.sort as u8;
        let lifetime = Lifetime::of_tcp(state);
        let picked_up = state == TcpState::Established;
        let lifetime = if picked_up { lifetime.or_shorter(Timeout::TcpUnack) } else { lifetime };
        Some((t, lifetime))
    }

    /// The next segment, if it is what most are: an acknowledgement, with data or without, in the window of
    /// an established connection that has been answered and is assured. How much longer the connection
    /// lives. `None`, and nothing has changed, if it is anything else, for [`Tcp::packet`].
    #[inline(always)]
    pub(crate) fn in_order(
        &mut self,
        reply: bool,
        s: &Segment,
        options: &TcpOptions,
    ) -> Option<Lifetime> {
        let usual = self.state == TcpState::Established && s.sort == Sort::Ack;
        if !usual || !window::follow(self, reply, s) {
            return None;
        }
        self.last_sort = s.sort as u8;
        self.last_reply = reply;
        Some(self.lifetime(s, options))
    }

    /// How much longer a connection lives that has got to its state with this segment.
    #[inline(always)]
    fn lifetime(&self, s: &Segment, options: &TcpOptions) -> Lifetime {
        let unanswered = (self.peers[0].flags | self.peers[1].flags) & peer_flag::UNACKNOWLEDGED;
        let lifetime = Lifetime::of_tcp(self.state);
        if self.repeated >= options.max_repeated {
            lifetime.or_shorter(Timeout::TcpRetransmit)
        } else if s.sort == Sort::Rst {
            Timeout::TcpClose.into()
        } else if unanswered != 0 {
            lifetime.or_shorter(Timeout::TcpUnack)
        } else if s.win == 0 {
            lifetime.or_shorter(Timeout::TcpRetransmit)
        } else {
            lifetime
        }
    }

    /// The next segment.
    pub(crate) fn packet(
        &mut self,
        reply: bool,
        s: &Segment,
        status: Status,
        options: &TcpOptions,
    ) -> Outcome {
        let sort = s.sort;
        let (mut old, mut skip_window) = (self.state, false);
        let mut new = match table::next(reply, sort, old) {
            Next::Invalid => return Outcome::Invalid(Invalid::TcpState),
            Next::Ignore if self.is_answer_to_ignored_syn(reply, s) => {
                self.resynchronize(reply);
                old = TcpState::SynSent;
                TcpState::SynRecv
            }
            Next::Ignore => {
                self.note_ignored(reply, s, old);
                return Outcome::Ignored;
            }
            Next::To(state) => state,
        };
        match new {
            TcpState::SynSent if old >= TcpState::TimeWait => {
                if self.may_reopen(reply) {
                    return Outcome::Reopen;
                }
                self.note_ignored(reply, s, old);
                return Outcome::Ignored;
            }
            TcpState::TimeWait if self.is_challenge(reply, sort, old) => {
                self.last_flags &= !flag::EXPECT_CHALLENGE;
                return Outcome::Ignored;
            }
            TcpState::SynSent2 => self.last_flags |= flag::SIMULTANEOUS_OPEN,
            TcpState::SynRecv
                if reply && sort == Sort::Ack && self.last_flags & flag::SIMULTANEOUS_OPEN != 0 =>
            {
                new = TcpState::Established;
            }
            TcpState::Close if sort == Sort::Rst => match self.reset(reply, s, status, old) {
                Reset::Refused => return Outcome::Invalid(Invalid::TcpReset),
                Reset::Believed { window } => skip_window = !window,
                Reset::Doubtful => new = old,
            },
            _ => {}
        }
        if !skip_window {
            match window::check(self, reply, s, options.liberal) {
                Fit::Good => {}
                Fit::Over | Fit::Late => return Outcome::Ignored,
                Fit::Outside => return self.outside(reply, sort, status),
            }
        }
        self.enter(reply, s, old, new, status, options)
    }

    /// A segment outside of the window. Ends of an established connection are noted.
    fn outside(&mut self, reply: bool, sort: Sort, status: Status) -> Outcome {
        let ends = |s| matches!(s, Sort::Fin | Sort::Rst);
        if status.assured && ends(sort) {
            if self.last_reply != reply && ends(Sort::from_u8(self.last_sort)) {
                return Outcome::OutOfStep;
            }
            self.last_sort = sort as u8;
            self.last_reply = reply;
        }
        Outcome::Invalid(Invalid::TcpWindow)
    }

    /// The segment is believed: go to its state.
    fn enter(
        &mut self,
        reply: bool,
        s: &Segment,
        old: TcpState,
        new: TcpState,
        status: Status,
        options: &TcpOptions,
    ) -> Outcome {
        let sort = s.sort;
        self.last_sort = sort as u8;
        self.last_reply = reply;
        self.state = new;
        if old != new && new == TcpState::FinWait {
            self.peers[usize::from(reply)].flags |= peer_flag::CLOSED_FIRST;
        }
        let mut lifetime = self.lifetime(s, options);
        if !status.seen_reply {
            if s.has(RST) {
                // A reset is the only answer: there never was a connection.
                return Outcome::Over;
            }
            if sort == Sort::Syn && old == TcpState::SynSent {
                return Outcome::Accepted { lifetime: None, assured: false };
            }
            if new == TcpState::Established {
                lifetime = lifetime.or_shorter(Timeout::TcpUnack);
            }
        }
        let assured = status.seen_reply
            && !status.assured
            && matches!(old, TcpState::SynRecv | TcpState::Established)
            && new == TcpState::Established;
        Outcome::Accepted { lifetime: Some(lifetime), assured }
    }

    /// A SYN-ACK that acknowledges the SYN that was let through on suspicion: the hosts agree on
    /// a new connection, and what is known here is of an old one.
    fn is_answer_to_ignored_syn(&self, reply: bool, s: &Segment) -> bool {
        s.sort == Sort::SynAck
            && self.last_sort == Sort::Syn as u8
            && self.last_reply != reply
            && s.ack == self.last_end
    }

    /// Take over what was noted of that SYN.
    fn resynchronize(&mut self, reply: bool) {
        let opener = &mut self.peers[usize::from(!reply)];
        opener.end = self.last_end;
        opener.max_end = self.last_end;
        opener.max_win = u32::from(self.last_win).max(1);
        opener.scale = self.last_scale;
        opener.flags = self.last_flags & (peer_flag::WINDOW_SCALE | peer_flag::SACK_PERMITTED);
        let other = &mut self.peers[usize::from(reply)];
        *other = Peer { flags: other.flags & peer_flag::LIBERAL, ..Peer::default() };
    }

    /// Note a segment that was let through on suspicion.
    fn note_ignored(&mut self, reply: bool, s: &Segment, old: TcpState) {
        self.last_sort = s.sort as u8;
        self.last_reply = reply;
        self.last_seq = s.seq;
        self.last_end = s.end;
        self.last_win = s.win;
        self.repeated = 0;
        if s.sort == Sort::Syn && !reply {
            self.last_flags = 0;
            self.last_scale = 0;
            if s.scale != segment::NO_SCALE {
                self.last_scale = s.scale;
                self.last_flags |= peer_flag::WINDOW_SCALE;
            }
            if s.sack_permitted {
                self.last_flags |= peer_flag::SACK_PERMITTED;
            }
            if old == TcpState::LastAck {
                self.last_flags |= flag::EXPECT_CHALLENGE;
            }
        }
        if old == TcpState::SynSent && s.sort == Sort::Ack && reply {
            self.last_ack = s.ack;
        }
    }

    /// Whether a SYN may open the closed connection again: it was closed in order, or the same
    /// side has just reset it.
    fn may_reopen(&self, reply: bool) -> bool {
        (self.peers[0].flags | self.peers[1].flags) & peer_flag::CLOSED_FIRST != 0
            || self.last_reply == reply && self.last_sort == Sort::Rst as u8
    }

    fn is_challenge(&self, reply: bool, sort: Sort, old: TcpState) -> bool {
        old == TcpState::LastAck
            && sort == Sort::Ack
            && self.last_reply != reply
            && self.last_sort == Sort::Syn as u8
            && self.last_flags & flag::EXPECT_CHALLENGE != 0
    }

    /// Whether a reset is one that its receiver would obey (RFC 5961 section 3).
    fn reset(&self, reply: bool, s: &Segment, status: Status, old: TcpState) -> Reset {
        let receiver = &self.peers[usize::from(!reply)];
        let last = Sort::from_u8(self.last_sort);
        if old >= TcpState::FinWait && old != TcpState::SynSent2 {
            // It is closing already, and the numbers may be of the next connection.
            return Reset::Believed { window: false };
        }
        if old == TcpState::SynSent
            && !reply
            && self.last_reply
            && last == Sort::Ack
            && s.seq == self.last_ack
        {
            // The opener's answer to an acknowledgement of something else: the other side had a
            // connection half open (RFC 9293 section 3.5.1).
            return Reset::Believed { window: false };
        }
        let mut doubtful = false;
        if receiver.flags & peer_flag::MAX_ACK != 0 && last != Sort::Syn {
            let open = old == TcpState::Established;
            if s.seq == 0 && !open {
                return Reset::Believed { window: true };
            }
            if before(s.seq, receiver.max_ack) {
                return Reset::Refused;
            }
            let in_train = last == Sort::Ack && self.last_reply == reply && s.seq == self.last_end;
            if !open || s.seq == receiver.max_ack || in_train {
                return Reset::Believed { window: true };
            }
            // Not exactly the next number: the receiver answers with a challenge and lives.
            doubtful = true;
        }
        let answers_ignored =
            status.seen_reply && last == Sort::Syn || !status.assured && last == Sort::Ack;
        if answers_ignored && s.ack == self.last_end {
            return Reset::Believed { window: false };
        }
        if doubtful { Reset::Doubtful } else { Reset::Believed { window: true } }
    }
}

/// What to think of a reset.
enum Reset {
    Refused,
    /// The connection is over; `window`: if the numbers are in the window.
    Believed {
        window: bool,
    },
    /// In the window but not exact: the connection lives on.
    Doubtful,
}
