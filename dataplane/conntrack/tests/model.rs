//! The tracker beside a slow and obvious one, on generated traffic.

mod common;
mod model {
    pub mod table;
    pub mod window;
}

use common::*;
use conntrack::nat::Side;
use conntrack::{Commit, CtState, Cursor, Filter, Millis};
use model::table::{Model, Want};
use model::window::{Sent, Talk, Verdict};
use proptest::prelude::*;

const C: (Addr, u16) = (Addr::V4(0x0a00_0001), 40_000);
const S: (Addr, u16) = (Addr::V4(0x0a00_0002), 80);

fn frame(s: &Sent, base: [u32; 2]) -> Vec<u8> {
    let (src, dst) = if s.reply { (S, C) } else { (C, S) };
    let (mine, other) = (base[usize::from(s.reply)], base[usize::from(!s.reply)]);
    let seg = Seg {
        flags: s.flags,
        seq: mine.wrapping_add(s.seq as u32),
        ack: if s.flags & ACK != 0 { other.wrapping_add(s.ack as u32) } else { 0 },
        win: s.win as u16,
        len: s.len as usize,
        options: &[],
    };
    tcp(src, dst, seg)
}

/// How far a forged number is off: mostly just.
fn offset() -> impl Strategy<Value = i64> {
    prop_oneof![-3i64..=3, -200_000i64..200_000]
}

/// What two hosts do: who, how many bytes, and what becomes of the segment on its way.
type Step = (bool, u8, i64, u8, i64);

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    /// Two hosts talk over a network that loses, repeats and reorders in front of the tracker
    /// and behind it. What they send is never invalid, and what somebody else makes up is judged
    /// as the model judges it, with numbers that do not wrap.
    #[test]
    fn tcp_numbers(
        base in prop::array::uniform2(any::<u32>()),
        steps in prop::collection::vec((any::<bool>(), 0u8..16, 0i64..3000, any::<u8>(), offset()), 1..120),
    ) {
        let t = tracker(10);
        let mut talk = Talk::new();
        let mut late: Vec<Sent> = Vec::new();
        // Once a forged segment was good enough to be believed, honest ones may be refused.
        let mut fooled = false;
        let mut check = |talk: &mut Talk, s: &Sent, honest: bool| -> Result<(), TestCaseError> {
            let want = talk.judge(s);
            let got = commit(&t, 0, &frame(s, base)).state;
            let invalid = got.has(CtState::INV);
            prop_assert_eq!(invalid, want == Verdict::Invalid, "{:?}: {:?}", s, want);
            prop_assert!(fooled || !(honest && invalid), "{:?} is what a host sent", s);
            fooled |= !honest && want == Verdict::Valid;
            Ok(())
        };
        for s in talk.handshake() {
            check(&mut talk, &s, true)?;
            talk.deliver(&s);
        }
        for (reply, kind, len, fate, forged) in steps.iter().copied() {
            let step: Step = (reply, kind, len, fate, forged);
            let s = match kind {
                // Somebody else's segment: a wrong number, or a wrong acknowledgement.
                0 => {
                    let s = talk.forged(reply, len, fate, forged, 0);
                    check(&mut talk, &s, false)?;
                    continue;
                }
                1 => {
                    let s = talk.forged(reply, len, fate, 0, forged);
                    check(&mut talk, &s, false)?;
                    continue;
                }
                // The last one again, as if its acknowledgement was lost.
                2 => match talk.again(reply) {
                    Some(s) => s,
                    None => continue,
                },
                3..=9 => talk.data(reply, len),
                _ => talk.acknowledge(reply),
            };
            match fate % 8 {
                // Lost in front of the tracker.
                0 => continue,
                // Overtaken by what comes next.
                1 => { late.push(s); continue; }
                _ => {}
            }
            check(&mut talk, &s, true)?;
            if fate % 8 == 2 {
                check(&mut talk, &s, true)?; // Twice.
            }
            // Lost behind it, or delivered.
            if fate % 8 != 3 {
                talk.deliver(&s);
            }
            if step.3 % 16 == 4 {
                for s in late.drain(..) {
                    check(&mut talk, &s, true)?;
                    talk.deliver(&s);
                }
            }
        }
    }

    /// Commits, answers, errors, expiry, flushes, marks and translation of many connections.
    #[test]
    fn connections(
        steps in prop::collection::vec(
            (0u8..12, 0u32..4, 0u16..4, 0u32..3, 0u64..40_000, any::<u32>()), 1..150),
    ) {
        let t = tracker(200);
        let mut m = Model::default();
        let mut now = 0;
        for (what, src, sport, dst, wait, arg) in steps {
            now += wait;
            m.now = now;
            let proto = if arg & 1 == 0 { 17 } else { 1 };
            let from = (host(10 + src), 2000 + sport);
            let to = (0x0808_0800 + dst, 53);
            let kind = match what {
                0..=2 => Want::Plain,
                3 | 4 => Want::Snat(0xcb00_7101, (2000, 2005)),
                _ => Want::Lookup,
            };
            let build = |p: &model::table::Key| -> Vec<u8> {
                let (a, b) = (Addr::V4(p.src.0), Addr::V4(p.dst.0));
                match (p.proto, p.answer) {
                    (17, _) => udp((a, p.src.1), (b, p.dst.1), b"x"),
                    (_, false) => icmp(a, b, 8, 0, u32::from(p.src.1) << 16, b"x"),
                    (_, true) => icmp(a, b, 0, 0, u32::from(p.src.1) << 16, b"x"),
                }
            };
            let key = model::table::Key::new(proto, from, to);
            match what {
                0..=5 => {
                    let mark = (arg, 0xff00_00ffu32);
                    let mut args = match kind {
                        Want::Snat(..) => nat(Side::Src, "203.0.113.1", "203.0.113.1", Some((2000, 2005))),
                        _ => Commit::default(),
                    };
                    args.mark = Some(mark);
                    let frame = build(&key);
                    if what == 5 {
                        let got = track(&t, now, &frame);
                        prop_assert_eq!(state(got), m.lookup(&key).0);
                        continue;
                    }
                    let got = commit_with(&t, now, &frame, &args);
                    match got {
                        Ok(v) => {
                            let to = translated(&frame, &v);
                            let sent = m.commit(&key, &kind, mark, v.nat.is_none(), &to);
                            let (want_state, want_mark) = sent.map_err(TestCaseError::fail)?;
                            prop_assert_eq!(state(v), want_state);
                            prop_assert_eq!(v.mark, want_mark);
                        }
                        Err(e) => prop_assert!(m.may_refuse(&key, &kind), "{e:?} for {key:?}"),
                    }
                }
                6..=9 => {
                    // An answer to some connection, or to none.
                    let Some(back) = m.some_answer(arg as usize) else { continue };
                    let frame = build(&back);
                    let v = track(&t, now, &frame);
                    let (want, mark, origin) = m.lookup(&back);
                    prop_assert_eq!(state(v), want);
                    prop_assert_eq!(v.mark, mark);
                    if let Some(origin) = origin {
                        prop_assert_eq!(translated(&frame, &v), build(&origin), "comes back to its sender");
                    }
                }
                10 => {
                    t.sweep(Millis(now), arg as usize % 300);
                }
                _ => {
                    let f = Filter { sport: Some(2000 + sport), ..Filter::default() };
                    let n = t.flush(Millis(now), &f, Cursor::default(), usize::MAX).0;
                    prop_assert_eq!(n, m.flush(2000 + sport));
                }
            }
            let mut n = 0;
            t.walk(Millis(now), Cursor::default(), usize::MAX, |_| n += 1);
            prop_assert_eq!(n, m.living());
        }
    }
}
