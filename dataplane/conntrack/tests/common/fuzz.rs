//! The tracker under any bytes: they are read as a script of packets, commands and time, and what must
//! always hold is checked.
//!
//! [`one`] panics where the tracker does wrong; `tests/fuzz.rs` runs a bounded number of scripts, the
//! example `ctfuzz` as many as one likes.

use std::collections::HashSet;

use conntrack::nat::{AddressRange, Choice, NatSpec, Side};
use conntrack::{
    Commit, ConnRef, CtState, Cursor, Filter, Millis, Nat, Timeout, Tracker, Tuple, Verdict,
};

use super::common::{Addr, Seg, icmp, input, ip, offsets, sums_are_right, tcp, tracker, udp};

/// Connections of the tracker: few, so that it is full often.
const CONNECTIONS: usize = 64;

/// The script that is left.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, n: u8) -> u8 {
        self.byte() % n
    }

    fn end(&mut self, v6: bool) -> (Addr, u16) {
        let (host, port) = (self.below(4), 1 + u16::from(self.below(4)));
        let address = if v6 {
            Addr::V6(0xfd00 << 112 | u128::from(host))
        } else {
            Addr::V4(super::common::host(u32::from(host)))
        };
        (address, port)
    }

    fn frame(&mut self, before: &[Vec<u8>]) -> Vec<u8> {
        let v6 = self.below(3) == 0;
        let (a, b) = (self.end(v6), self.end(v6));
        let old = before.get(usize::from(self.byte()) % before.len().max(1)).cloned();
        let mut frame = match (self.below(8), old) {
            (0 | 1, _) => udp(a, b, b"payload"),
            (2, _) => {
                let (seq, ack) = (u32::from(self.byte()) * 50, u32::from(self.byte()) * 50);
                let flags = [2, 18, 16, 24, 17, 4, 20, self.byte()][usize::from(self.below(8))];
                let len = usize::from(self.below(3)) * 100;
                tcp(a, b, Seg { flags, seq, ack, len, ..Seg::default() })
            }
            (3, _) => icmp(
                a.0,
                b.0,
                [if v6 { 128 } else { 8 }, self.byte()][usize::from(self.below(2))],
                0,
                a.1.into(),
                b"x",
            ),
            (4, Some(old)) => {
                let (ty, quote) = (if v6 { 1 } else { 3 }, old.get(14..).unwrap_or_default());
                icmp(a.0, b.0, ty, 0, 0, &quote[..quote.len().min(64)])
            }
            (5, _) => ip(
                a.0,
                b.0,
                [47, 132, 50, 44, 0, 6][usize::from(self.below(6))],
                None,
                self.rest(40),
            ),
            (_, Some(old)) => turned(old),
            _ => self.rest(80),
        };
        for _ in 0..self.below(8).saturating_sub(5) {
            let (at, value) = (usize::from(self.byte()), self.byte());
            let n = frame.len().max(1);
            if let Some(byte) = frame.get_mut(at % n) {
                *byte = value;
            }
        }
        frame
    }

    fn rest(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.byte()).collect()
    }

    fn commit(&mut self) -> Commit {
        let bits = self.byte();
        let flag = |n: u8| bits >> n & 1 != 0;
        let mut args = Commit { force: flag(0), ..Commit::default() };
        if flag(1) {
            args.mark = Some((self.byte().into(), 0xff));
            args.label = Some((u128::from(self.byte()) << 100, u128::MAX));
        }
        args.nat = match (flag(2), flag(3)) {
            (false, false) => Nat::No,
            (false, true) => Nat::Existing,
            (true, v6) => {
                let (first, last) = if v6 {
                    ("2001:db8::1", "2001:db8::2")
                } else {
                    ("203.0.113.1", "203.0.113.2")
                };
                let both = [first, last].map(|a| a.parse().expect("address"));
                let range = AddressRange::new(both[0], both[1]).expect("range");
                let side = if flag(4) { Side::Src } else { Side::Dst };
                let choice = if flag(5) { Choice::Random } else { Choice::Hash };
                let ports = flag(6).then_some((3, 5));
                Nat::New(NatSpec::new(side, Some(range), ports, choice, flag(7)).expect("spec"))
            }
        };
        args
    }
}

/// A frame with its addresses and ports exchanged: an answer with right checksums.
fn turned(mut frame: Vec<u8>) -> Vec<u8> {
    let off = offsets(&frame);
    let l3 = usize::from(off.l3);
    let (at, n) = match frame.get(l3).map(|b| b >> 4) {
        Some(4) => (l3 + 12, 4),
        Some(6) => (l3 + 8, 16),
        _ => return frame,
    };
    if let Some(part) = frame.get_mut(at..at + 2 * n) {
        part.rotate_left(n);
    }
    let l4 = usize::from(off.l4);
    if matches!(off.proto, 6 | 17)
        && let Some(ports) = frame.get_mut(l4..l4 + 4)
    {
        ports.rotate_left(2);
    }
    frame
}

/// Run one script.
pub fn one(bytes: &[u8]) {
    let t = tracker(CONNECTIONS);
    let mut script = Script(bytes);
    let (mut now, mut frames) = (1000u64, Vec::new());
    let mut last: Option<(Vec<u8>, u16, ConnRef)> = None;
    let mut pool = afxdp::Region::new(1 << 20).expect("region").pool();
    while !script.0.is_empty() {
        match script.below(10) {
            0 => {
                now += 1 << script.below(20);
                t.sweep(Millis(now), 16);
            }
            1 => {
                let zone = Some(u16::from(script.below(3)));
                t.flush(Millis(now), &Filter { zone, ..Filter::default() }, Cursor::default(), 99);
            }
            2 => settings(&t, &mut script),
            _ => {
                // A packet may come to the same zone again, with its connection known.
                let again = (script.below(4) == 0).then(|| last.take()).flatten();
                let (frame, zone, known) = again.unwrap_or_else(|| {
                    let frame = script.frame(&frames);
                    (frame, 1 + u16::from(script.below(2)), ConnRef::NONE)
                });
                let given = input(zone, &frame);
                let v = if script.below(2) == 0 {
                    Ok(t.track(Millis(now), &given, true))
                } else {
                    let args = script.commit();
                    let mut random = || u64::from(now as u32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    t.commit(Millis(now), &given, known, &args, &mut random)
                };
                if let Ok(v) = v {
                    check(&v);
                    let frame = sent(&mut pool, &frame, &v).unwrap_or(frame);
                    frames.push(frame.clone());
                    last = Some((frame, zone, v.conn));
                    let excess = frames.len().saturating_sub(20);
                    frames.drain(..excess);
                }
            }
        }
        assert!(t.len() <= t.capacity());
    }
    tuples_are_unique(&t, now);
    nothing_is_left(&t, now);
}

fn settings(t: &Tracker, script: &mut Script<'_>) {
    match script.below(3) {
        0 => t.set_limit(1 + usize::from(script.byte())),
        1 => t.set_zone_limit(1, (script.below(2) == 0).then(|| script.byte().into())),
        _ => {
            let mut p = t.policy(1);
            let which = Timeout::ALL[usize::from(script.byte()) % Timeout::ALL.len()];
            let _ = p.set(which, script.byte().into());
            t.set_policy(1, &p);
            t.set_zone_policy(2, script.below(2));
        }
    }
}

fn check(v: &Verdict) {
    assert!(v.state.has(CtState::TRK));
    if v.state.has(CtState::INV) {
        assert!(v.conn == ConnRef::NONE && v.nat.is_none(), "{v:?}");
    }
    assert_eq!(!v.nat.is_none(), v.state.has(CtState(CtState::SNAT.0 | CtState::DNAT.0)), "{v:?}");
}

/// The frame as it leaves. A translation keeps right checksums right.
fn sent(pool: &mut afxdp::FramePool, frame: &[u8], v: &Verdict) -> Option<Vec<u8>> {
    if v.nat.is_none() {
        return None;
    }
    let mut packet = pool.packet_from(frame)?;
    let done = conntrack::nat::apply(&mut packet, &offsets(frame), &v.nat);
    let out = packet.to_vec();
    pool.free_packet(packet);
    done.ok()?;
    assert!(!sums_are_right(frame) || sums_are_right(&out), "{frame:02x?}\n{out:02x?}\n{v:?}");
    Some(out)
}

/// No two connections have a tuple in common.
fn tuples_are_unique(t: &Tracker, now: u64) {
    let (mut all, mut n) = (HashSet::<Tuple>::new(), 0);
    t.walk(Millis(now), Cursor::default(), usize::MAX, |c| {
        n += 1;
        assert!(all.insert(c.orig), "{c:?}");
        assert!(c.reply == c.orig || all.insert(c.reply), "{c:?}");
    });
    assert!(n <= t.len());
}

/// Once all has expired, nothing is counted any more.
fn nothing_is_left(t: &Tracker, now: u64) {
    let end = Millis(now + 1_000_000_000_000);
    // A sweep ends where the walk wraps around, so two see all.
    for _ in 0..3 {
        t.sweep(end, 1 << 20);
    }
    assert_eq!(t.len(), 0);
    assert_eq!(t.zones_in_use().count(), 0);
}

/// Scripts without end, by number.
pub fn script(number: u64) -> Vec<u8> {
    let mut x = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    (0..200 + number % 2000).map(|_| (next() >> 24) as u8).collect()
}
