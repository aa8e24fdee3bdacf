//! TCP, packet by packet: for each state and each sort of segment in each direction, what the
//! tracker says and which state follows.

mod common;

use common::*;
use conntrack::{Cursor, Event, Invalid, Millis, TcpOptions, TcpState, Tracker};

const C: (Addr, u16) = (Addr::V4(0x0a00_0001), 40_000);
const S: (Addr, u16) = (Addr::V4(0x0a00_0002), 80);
/// First sequence numbers of client and server; near the wrap, as nothing may depend on it.
const CS: u32 = 0xffff_fff0;
const SS: u32 = 0xffff_ff00;

/// A connection on its way.
struct Talk {
    t: Tracker,
    now: u64,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Side {
    Client,
    Server,
}
use Side::{Client, Server};

impl Talk {
    fn new() -> Talk {
        Talk::with(TcpOptions::default())
    }

    fn with(o: TcpOptions) -> Talk {
        Talk { t: tracker_with(100, o), now: 1000 }
    }

    /// The numbers are offsets from the sides' first ones.
    fn frame(from: Side, flags: u8, seq: u32, ack: u32, len: usize) -> Vec<u8> {
        let (src, dst, s0, a0) = match from {
            Client => (C, S, CS, SS),
            Server => (S, C, SS, CS),
        };
        let ack = if flags & ACK != 0 { a0.wrapping_add(ack) } else { 0 };
        tcp(src, dst, Seg { flags, seq: s0.wrapping_add(seq), ack, len, ..Seg::default() })
    }

    /// Send and commit; the verdict's state as text.
    fn send(&mut self, from: Side, flags: u8, seq: u32, ack: u32, len: usize) -> String {
        self.now += 10;
        let f = Talk::frame(from, flags, seq, ack, len);
        state(commit(&self.t, self.now, &f))
    }

    /// The connection's state; `None` if there is none.
    fn state(&self) -> Option<TcpState> {
        let mut s = None;
        self.t.walk(Millis(self.now), Cursor::default(), usize::MAX, |c| s = c.tcp);
        s
    }

    /// Milliseconds to live, in whole seconds (expiry is rounded up by less than one).
    fn lives(&self) -> u64 {
        let mut s = 0;
        self.t.walk(Millis(self.now), Cursor::default(), usize::MAX, |c| s = c.expires_in / 1000);
        s
    }

    fn open(&mut self) {
        assert_eq!(self.send(Client, SYN, 0, 0, 0), "new|trk");
        assert_eq!(self.send(Server, SYN | ACK, 0, 1, 0), "est|rpl|trk");
        assert_eq!(self.send(Client, ACK, 1, 1, 0), "est|trk");
        assert_eq!(self.state(), Some(TcpState::Established));
    }

    /// A connection in that state, by the packets that lead there.
    fn reach(s: TcpState) -> Talk {
        let mut k = Talk::new();
        match s {
            TcpState::None => {}
            TcpState::SynSent => {
                k.send(Client, SYN, 0, 0, 0);
            }
            TcpState::SynSent2 => {
                k.send(Client, SYN, 0, 0, 0);
                k.send(Server, SYN, 0, 0, 0);
            }
            TcpState::SynRecv => {
                k.send(Client, SYN, 0, 0, 0);
                k.send(Server, SYN | ACK, 0, 1, 0);
            }
            _ => {
                k.open();
                if s == TcpState::Close {
                    k.send(Server, RST | ACK, 1, 1, 0);
                } else if s != TcpState::Established {
                    k.send(Client, FIN | ACK, 1, 1, 0);
                    if s >= TcpState::CloseWait {
                        k.send(Server, ACK, 1, 2, 0);
                    }
                    if s >= TcpState::LastAck {
                        k.send(Server, FIN | ACK, 1, 2, 0);
                    }
                    if s >= TcpState::TimeWait {
                        k.send(Client, ACK, 2, 2, 0);
                    }
                }
            }
        }
        assert_eq!(k.state().unwrap_or_default(), s);
        k
    }
}

/// What the next in-order segment of a sort does: (client's, server's) verdict and state after.
type Row = (TcpState, [(&'static str, TcpState); 2]);

const NEW: &str = "new|trk";
const EST: &str = "est|trk";
const RPL: &str = "est|rpl|trk";
const INV: &str = "inv|trk";

fn check(flags: u8, rows: &[Row]) {
    use TcpState::*;
    for (from_state, expected) in rows {
        for (who, (verdict, after)) in [Client, Server].into_iter().zip(expected) {
            let mut k = Talk::reach(*from_state);
            // The next numbers in order for each side.
            let (cn, sn) = match from_state {
                None => (0, 0),
                SynSent => (1, 0),
                SynSent2 | SynRecv => (1, 1),
                Established | Close => (1, 1),
                FinWait | CloseWait => (2, 1),
                _ => (2, 2),
            };
            let (seq, ack) = if who == Client { (cn, sn) } else { (sn, cn) };
            // A SYN-ACK that completes an opening has the side's first number.
            let opening = *from_state == SynSent2 || *from_state == SynRecv;
            let seq = if flags & SYN != 0 && opening { 0 } else { seq };
            let got = k.send(who, flags, seq, ack, 0);
            assert_eq!(got, *verdict, "{from_state:?}, {who:?} sends {flags:#x}");
            let now = k.state().unwrap_or_default();
            assert_eq!(now, *after, "{from_state:?}, {who:?} sends {flags:#x}");
        }
    }
}

#[test]
fn syn() {
    use TcpState::*;
    check(
        SYN,
        &[
            // Side nothing, the server's SYN begins a connection of its own.
            (None, [(NEW, SynSent), (NEW, SynSent)]),
            (SynSent, [(NEW, SynSent), (RPL, SynSent2)]),
            (SynRecv, [(EST, SynRecv), (INV, SynRecv)]),
            (Established, [(EST, Established), (INV, Established)]),
            (FinWait, [(EST, FinWait), (INV, FinWait)]),
            (CloseWait, [(EST, CloseWait), (INV, CloseWait)]),
            (LastAck, [(EST, LastAck), (INV, LastAck)]),
            // Closed in order: a new connection, of whoever opens it.
            (TimeWait, [(NEW, SynSent), (NEW, SynSent)]),
            // Reset by the server: the client's SYN passes, and its SYN-ACK will tell.
            (Close, [(EST, Close), (INV, Close)]),
            (SynSent2, [(EST, SynSent2), (RPL, SynSent2)]),
        ],
    );
}

#[test]
fn syn_ack() {
    use TcpState::*;
    check(
        SYN | ACK,
        &[
            (None, [(INV, None), (INV, None)]),
            (SynSent, [(INV, SynSent), (RPL, SynRecv)]),
            (SynRecv, [(EST, SynRecv), (RPL, SynRecv)]),
            (Established, [(INV, Established), (RPL, Established)]),
            (FinWait, [(INV, FinWait), (RPL, FinWait)]),
            (CloseWait, [(INV, CloseWait), (RPL, CloseWait)]),
            (LastAck, [(INV, LastAck), (RPL, LastAck)]),
            (TimeWait, [(INV, TimeWait), (RPL, TimeWait)]),
            (Close, [(INV, Close), (RPL, Close)]),
            (SynSent2, [(EST, SynRecv), (RPL, SynRecv)]),
        ],
    );
}

#[test]
fn fin() {
    use TcpState::*;
    check(
        FIN | ACK,
        &[
            (None, [(INV, None), (INV, None)]),
            (SynSent, [(INV, SynSent), (INV, SynSent)]),
            (SynRecv, [(EST, FinWait), (RPL, FinWait)]),
            (Established, [(EST, FinWait), (RPL, FinWait)]),
            (FinWait, [(EST, LastAck), (RPL, LastAck)]),
            (CloseWait, [(EST, LastAck), (RPL, LastAck)]),
            (LastAck, [(EST, LastAck), (RPL, LastAck)]),
            (TimeWait, [(EST, TimeWait), (RPL, TimeWait)]),
            (Close, [(EST, Close), (RPL, Close)]),
            (SynSent2, [(INV, SynSent2), (INV, SynSent2)]),
        ],
    );
}

#[test]
fn ack() {
    use TcpState::*;
    check(
        ACK,
        &[
            // The middle of a connection is picked up, from either side.
            (None, [(NEW, Established), (NEW, Established)]),
            // The server's ACK of a SYN may be of a connection half open there.
            (SynSent, [(INV, SynSent), (RPL, SynSent)]),
            (SynRecv, [(EST, Established), (RPL, SynRecv)]),
            (Established, [(EST, Established), (RPL, Established)]),
            (FinWait, [(EST, CloseWait), (RPL, CloseWait)]),
            (CloseWait, [(EST, CloseWait), (RPL, CloseWait)]),
            (LastAck, [(EST, TimeWait), (RPL, TimeWait)]),
            (TimeWait, [(EST, TimeWait), (RPL, TimeWait)]),
            (Close, [(EST, Close), (RPL, Close)]),
            (SynSent2, [(INV, SynSent2), (RPL, SynSent2)]),
        ],
    );
}

#[test]
fn rst() {
    use TcpState::*;
    check(
        RST | ACK,
        &[
            (None, [(INV, None), (INV, None)]),
            // Never answered but by a reset: there was no connection.
            (SynSent, [(NEW, None), (RPL, None)]),
            (SynRecv, [(EST, Close), (RPL, Close)]),
            (Established, [(EST, Close), (RPL, Close)]),
            (FinWait, [(EST, Close), (RPL, Close)]),
            (CloseWait, [(EST, Close), (RPL, Close)]),
            (LastAck, [(EST, Close), (RPL, Close)]),
            (TimeWait, [(EST, Close), (RPL, Close)]),
            (Close, [(EST, Close), (RPL, Close)]),
            (SynSent2, [(EST, Close), (RPL, Close)]),
        ],
    );
}

#[test]
fn every_flag_combination_is_valid_or_not() {
    let valid =
        [SYN, SYN | 32, SYN | ACK, RST, RST | ACK, FIN | ACK, FIN | ACK | 32, ACK, ACK | 32];
    for flags in 0..=255u8 {
        let k = Talk::reach(TcpState::Established);
        let (seq, ack) = (1, 1);
        let before = k.t.count_invalid(Invalid::TcpFlags);
        let v = commit(&k.t, k.now, &Talk::frame(Client, flags, seq, ack, 0));
        let refused = k.t.count_invalid(Invalid::TcpFlags) - before;
        // PSH, ECE and CWR may come with anything.
        assert_eq!(refused == 0, valid.contains(&(flags & 0x37)), "{flags:#x}");
        if refused == 1 {
            assert_eq!(state(v), INV, "{flags:#x}");
        }
    }
}

#[test]
fn life_and_times() {
    let mut k = Talk::new();
    k.send(Client, SYN, 0, 0, 0);
    assert_eq!(k.lives(), 120);
    k.now += 20_000;
    assert_eq!(k.send(Client, SYN, 0, 0, 0), NEW, "again");
    assert_eq!(k.lives(), 100, "a SYN again renews nothing");
    assert_eq!(k.send(Server, SYN | ACK, 0, 1, 0), RPL);
    assert_eq!(k.lives(), 60);
    assert_eq!(k.send(Client, ACK, 1, 1, 0), EST);
    assert_eq!(k.lives(), 432_000);
    assert_eq!(k.send(Client, ACK | PSH, 1, 1, 100), EST);
    assert_eq!(k.lives(), 300, "data that is not acknowledged");
    assert_eq!(k.send(Server, ACK, 1, 101, 0), RPL);
    assert_eq!(k.lives(), 432_000);
    for _ in 0..3 {
        assert_eq!(k.lives(), 432_000);
        assert_eq!(k.send(Server, ACK, 1, 101, 0), RPL);
    }
    assert_eq!(k.lives(), 300, "the same acknowledgement three times more");
    assert_eq!(k.send(Client, FIN | ACK, 101, 1, 0), EST);
    assert_eq!(k.lives(), 120);
    assert_eq!(k.send(Server, ACK, 1, 102, 0), RPL);
    assert_eq!(k.lives(), 60);
    assert_eq!(k.send(Server, ACK, 1, 102, 1000), RPL, "half closed, it still sends");
    assert_eq!(k.send(Client, ACK, 102, 1001, 0), EST);
    assert_eq!(k.state(), Some(TcpState::CloseWait));
    assert_eq!(k.send(Server, FIN | ACK, 1001, 102, 0), RPL);
    assert_eq!(k.lives(), 30);
    assert_eq!(k.send(Client, ACK, 102, 1002, 0), EST);
    assert_eq!((k.state(), k.lives()), (Some(TcpState::TimeWait), 120));
    k.now += 121_000;
    assert_eq!(k.state(), None);
    assert_eq!(k.send(Server, ACK, 1002, 102, 0), NEW, "picked up, as the other is over");
}

#[test]
fn simultaneous_open() {
    let mut k = Talk::new();
    assert_eq!(k.send(Client, SYN, 0, 0, 0), NEW);
    assert_eq!(k.send(Server, SYN, 0, 0, 0), RPL);
    assert_eq!(k.state(), Some(TcpState::SynSent2));
    assert_eq!(k.send(Client, SYN | ACK, 0, 1, 0), EST);
    assert_eq!(k.send(Server, SYN | ACK, 0, 1, 0), RPL);
    assert_eq!(k.state(), Some(TcpState::SynRecv));
    assert_eq!(k.send(Server, ACK, 1, 1, 0), RPL);
    assert_eq!(k.state(), Some(TcpState::Established));
    assert_eq!(k.send(Client, ACK | PSH, 1, 1, 10), EST);
    assert_eq!(k.send(Server, ACK, 1, 11, 0), RPL);
}

#[test]
fn simultaneous_close() {
    let mut k = Talk::reach(TcpState::Established);
    assert_eq!(k.send(Client, FIN | ACK, 1, 1, 0), EST);
    assert_eq!(k.send(Server, FIN | ACK, 1, 1, 0), RPL);
    assert_eq!(k.state(), Some(TcpState::LastAck));
    assert_eq!(k.send(Client, ACK, 2, 2, 0), EST);
    assert_eq!(k.send(Server, ACK, 2, 2, 0), RPL);
    assert_eq!(k.state(), Some(TcpState::TimeWait));
}

#[test]
fn outside_of_the_window() {
    let mut k = Talk::reach(TcpState::Established);
    assert_eq!(k.send(Client, ACK, 1 + 2 * 8192, 1, 10), INV, "far beyond what the server allows");
    assert_eq!(k.t.count_invalid(Invalid::TcpWindow), 1);
    assert_eq!(k.send(Client, ACK, 1, 2, 10), INV, "acknowledges what was not sent");
    assert_eq!(k.send(Client, ACK, 1u32.wrapping_sub(20_000), 1, 10), EST, "old data again");
    assert_eq!(k.send(Client, ACK, 1, 1u32.wrapping_sub(70_000), 10), EST, "an old answer");
    assert_eq!(k.send(Client, ACK, 1, 1, 8192), EST, "all that is allowed");
    assert_eq!(k.t.count_invalid(Invalid::TcpWindow), 2);
    assert_eq!(k.send(Client, ACK, 1 + 8192 + 1, 1, 10), EST, "a little more, as some hosts send");
    let mut k = Talk::with(TcpOptions { liberal: true, ..TcpOptions::default() });
    k.open();
    assert_eq!(k.send(Client, ACK, 1 + 2 * 8192, 1, 10), EST);
}

#[test]
fn window_scale_counts_if_both_have_it() {
    for (server, allowed) in [(&[3u8, 3, 7, 0][..], true), (&[], false)] {
        let t = tracker(10);
        let scale: &[u8] = &[3, 3, 7, 0];
        let seg = |flags, seq, ack, options, len| Seg { flags, seq, ack, win: 1000, options, len };
        commit(&t, 0, &tcp(C, S, seg(SYN, 0, 0, scale, 0)));
        commit(&t, 0, &tcp(S, C, seg(SYN | ACK, 0, 1, server, 0)));
        commit(&t, 0, &tcp(C, S, seg(ACK, 1, 1, &[], 0)));
        assert_eq!(state(commit(&t, 0, &tcp(S, C, seg(ACK, 1, 1, &[], 0)))), RPL);
        // The server's window is 1000 << 7 if scaled.
        let v = commit(&t, 0, &tcp(C, S, seg(ACK, 1 + 50_000, 1, &[], 100)));
        assert_eq!(state(v) == EST, allowed, "{server:?}");
    }
}

#[test]
fn selective_acknowledgement_moves_the_window() {
    let t = tracker(10);
    let permitted: &[u8] = &[4, 2, 1, 1];
    let seg = |flags, seq, ack, options, len| Seg { flags, seq, ack, win: 5000, options, len };
    commit(&t, 0, &tcp(C, S, seg(SYN, 0, 0, permitted, 0)));
    commit(&t, 0, &tcp(S, C, seg(SYN | ACK, 0, 1, permitted, 0)));
    commit(&t, 0, &tcp(C, S, seg(ACK, 1, 1, &[], 0)));
    assert_eq!(state(commit(&t, 0, &tcp(C, S, seg(ACK, 1001, 1, &[], 1000)))), EST);
    let mut sack = vec![1, 1, 5, 10];
    sack.extend(1001u32.to_be_bytes());
    sack.extend(2001u32.to_be_bytes());
    assert_eq!(state(commit(&t, 0, &tcp(S, C, seg(ACK, 1, 1, &sack, 0)))), RPL);
    // 2001 + 5000 is allowed now.
    assert_eq!(state(commit(&t, 0, &tcp(C, S, seg(ACK, 7001, 1, &[], 10)))), EST);
    assert_eq!(state(commit(&t, 0, &tcp(C, S, seg(ACK, 20_000, 1, &[], 10)))), INV);
    let mut lie = vec![1, 1, 5, 10];
    lie.extend(1001u32.to_be_bytes());
    lie.extend(900_000u32.to_be_bytes());
    assert_eq!(state(commit(&t, 0, &tcp(S, C, seg(ACK, 1, 1, &lie, 0)))), INV, "never sent");
}

#[test]
fn resets_are_judged_by_their_number() {
    use TcpState::*;
    // Before what was acknowledged: refused.
    let mut k = Talk::reach(Established);
    k.send(Client, ACK | PSH, 1, 1, 1000);
    k.send(Server, ACK, 1, 1001, 0);
    assert_eq!(k.send(Client, RST, 500, 0, 0), INV);
    assert_eq!(k.t.count_invalid(Invalid::TcpReset), 1);
    // In the window but not the next number: the server answers with a challenge.
    assert_eq!(k.send(Client, RST, 1500, 0, 0), EST);
    assert_eq!(k.state(), Some(Established));
    // Outside of the window.
    assert_eq!(k.send(Client, RST, 1001 + 60_000, 0, 0), INV);
    assert_eq!(k.state(), Some(Established));
    // Exact.
    assert_eq!(k.send(Client, RST, 1001, 0, 0), EST);
    assert_eq!((k.state(), k.lives()), (Some(Close), 10));
}

#[test]
fn reset_behind_data_in_a_train_counts() {
    let mut k = Talk::reach(TcpState::Established);
    k.send(Client, ACK | PSH, 1, 1, 100);
    assert_eq!(k.send(Client, RST, 101, 0, 0), EST);
    assert_eq!(k.state(), Some(TcpState::Close));
}

#[test]
fn closed_tuple_is_used_again() {
    use TcpState::*;
    let mut k = Talk::reach(TimeWait);
    assert_eq!(k.send(Client, SYN, 50_000, 0, 0), NEW);
    assert_eq!(k.state(), Some(SynSent));
    assert_eq!(k.t.len(), 1);
    assert_eq!(k.t.count(Event::Closed), 1);
    // Reset by the client itself: it may open again at once.
    let mut k = Talk::reach(Established);
    k.send(Client, RST, 1, 0, 0);
    assert_eq!(k.send(Client, SYN, 50_000, 0, 0), NEW);
    assert_eq!(k.state(), Some(SynSent));
}

#[test]
fn client_that_forgot_gets_in_step_again() {
    use TcpState::*;
    // A SYN inside an established connection passes; the server, in step with the client,
    // answers it with a SYN-ACK of that SYN.
    let mut k = Talk::reach(Established);
    assert_eq!(k.send(Client, SYN, 70_000, 0, 0), EST);
    assert_eq!(k.state(), Some(Established));
    assert_eq!(k.send(Server, SYN | ACK, 90_000, 70_001, 0), RPL);
    assert_eq!(k.state(), Some(SynRecv));
    assert_eq!(k.send(Client, ACK, 70_001, 90_001, 0), EST);
    assert_eq!(k.state(), Some(Established));
    // Or it challenges, and the client resets what it does not know.
    let mut k = Talk::reach(Established);
    assert_eq!(k.send(Client, SYN, 70_000, 0, 0), EST);
    assert_eq!(k.send(Server, ACK, 1, 1, 0), RPL, "the challenge");
    assert_eq!(k.send(Client, RST, 1, 0, 0), EST);
    assert_eq!(k.state(), Some(Close));
}

#[test]
fn half_open_server_is_reset_by_its_client() {
    let mut k = Talk::new();
    assert_eq!(k.send(Client, SYN, 0, 0, 0), NEW);
    // The server still has an old connection and acknowledges that one.
    assert_eq!(k.send(Server, ACK, 5000, 9000, 0), RPL);
    assert_eq!(k.send(Client, RST, 9000, 0, 0), EST);
}

#[test]
fn challenge_in_last_ack_is_no_last_ack() {
    let mut k = Talk::reach(TcpState::LastAck);
    assert_eq!(k.send(Client, SYN, 70_000, 0, 0), EST);
    assert_eq!(k.send(Server, ACK, 2, 2, 0), RPL);
    assert_eq!(k.state(), Some(TcpState::LastAck));
    assert_eq!(k.send(Client, ACK, 2, 2, 0), EST);
    assert_eq!(k.state(), Some(TcpState::TimeWait));
}

#[test]
fn ends_outside_of_the_window_shorten_the_life() {
    let mut k = Talk::reach(TcpState::Established);
    k.send(Client, ACK, 1, 1, 0);
    k.send(Server, ACK, 1, 1, 0);
    assert_eq!(k.send(Client, FIN | ACK, 100_000, 1, 0), INV);
    assert_eq!(k.lives(), 432_000);
    assert_eq!(k.send(Server, FIN | ACK, 100_000, 1, 0), INV);
    assert_eq!(k.lives(), 300, "they have ended what is not seen here");
    assert_eq!(k.state(), Some(TcpState::Established));
}

#[test]
fn strict_tracker_picks_nothing_up() {
    let mut k = Talk::with(TcpOptions { loose: false, ..TcpOptions::default() });
    assert_eq!(k.send(Client, ACK, 1, 1, 10), INV);
    assert_eq!(k.t.count_invalid(Invalid::NotNew), 1);
    assert_eq!(k.t.len(), 0);
    k.open();
}

#[test]
fn picked_up_connection_is_followed_loosely_from_both_sides() {
    let mut k = Talk::new();
    assert_eq!(k.send(Client, ACK | PSH, 5000, 7000, 100), NEW);
    assert_eq!((k.state(), k.lives()), (Some(TcpState::Established), 300));
    assert_eq!(k.send(Server, ACK | PSH, 7000, 5100, 60), RPL);
    assert_eq!(k.send(Client, ACK, 5100 + 100_000, 7060, 100), EST, "scaled, for all we know");
    assert_eq!(k.send(Client, FIN | ACK, 5100, 7060, 0), EST);
}

#[test]
fn unanswered_split_handshake_is_no_connection() {
    // ACK, then SYN instead of a SYN-ACK (a split handshake): a simultaneous open, no more.
    let mut k = Talk::new();
    assert_eq!(k.send(Client, SYN, 0, 0, 0), NEW);
    assert_eq!(k.send(Server, ACK, 0, 1, 0), RPL);
    assert_eq!(k.send(Server, SYN, 0, 0, 0), RPL);
    assert_eq!(k.state(), Some(TcpState::SynSent2));
}
