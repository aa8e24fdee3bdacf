use super::*;
use flow::{Field, FlowKey, Offsets};
use proptest::prelude::*;

const T: Target = Target { link: 1, address: IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)) };
const MAC: u64 = 0x0200_0000_0002;
const OTHER: u64 = 0x0200_0000_0003;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn table() -> (NeighTable<u32>, Events<u32>) {
    (NeighTable::new(Limits::default()), Vec::new())
}

fn reply(mac: u64) -> Heard {
    Heard { address: T.address, mac, solicited: true, overrides: true }
}

fn gratuitous(mac: u64) -> Heard {
    Heard { solicited: false, ..reply(mac) }
}

fn state(t: &NeighTable<u32>) -> Option<State> {
    t.iter().find(|s| s.target == T).map(|s| s.state)
}

fn take(events: &mut Events<u32>) -> Events<u32> {
    std::mem::take(events)
}

#[test]
fn packets_wait_for_the_answer() {
    let (mut t, mut ev) = table();
    assert_eq!(t.wait(T, 7, ms(0), &mut ev), Wait::Queued);
    assert_eq!(t.wait(T, 8, ms(1), &mut ev), Wait::Queued);
    assert_eq!(take(&mut ev), [Event::Request { target: T, to: None }]);
    assert_eq!((t.lookup(&T), t.queued()), (None, 2));
    t.heard(1, &reply(MAC), ms(5), &mut ev);
    assert_eq!(take(&mut ev), [Event::Resolved { target: T, mac: MAC, waiting: vec![7, 8] }]);
    assert_eq!(t.queued(), 0);
    assert_eq!(t.wait(T, 9, ms(6), &mut ev), Wait::Known(MAC, 9));
    // The same again says nothing new.
    t.heard(1, &reply(MAC), ms(7), &mut ev);
    assert_eq!(ev, []);
}

#[test]
fn no_answer_fails_and_is_tried_again_later() {
    let (mut t, mut ev) = table();
    t.wait(T, 7, ms(0), &mut ev);
    for at in [500, 1000] {
        assert_eq!(t.due(), Some(ms(at)));
        t.tick(ms(at), &mut ev);
    }
    assert_eq!(take(&mut ev).len(), 3);
    t.tick(ms(1500), &mut ev);
    assert_eq!(take(&mut ev), [Event::Lost { target: T, waiting: vec![7] }]);
    assert_eq!((state(&t), t.queued()), (Some(State::Failed), 0));
    assert_eq!(t.wait(T, 8, ms(2000), &mut ev), Wait::Refused(Drop::NeighbourFailed, 8));
    assert_eq!(ev, []);
    // Held back for a second, then asked again.
    assert_eq!(t.wait(T, 9, ms(2500), &mut ev), Wait::Queued);
    assert_eq!(take(&mut ev), [Event::Request { target: T, to: None }]);
    t.heard(1, &reply(MAC), ms(2501), &mut ev);
    assert_eq!(take(&mut ev), [Event::Resolved { target: T, mac: MAC, waiting: vec![9] }]);
}

#[test]
fn a_failed_one_is_forgotten_in_silence() {
    let (mut t, mut ev) = table();
    t.resolve(T, ms(0), &mut ev);
    for at in [500, 1000, 1500] {
        t.tick(ms(at), &mut ev);
    }
    take(&mut ev);
    t.tick(ms(2500), &mut ev);
    assert_eq!((state(&t), t.due()), (None, None));
    assert_eq!(ev, []);
}

#[test]
fn in_use_it_is_asked_again_and_stays_usable() {
    let (mut t, mut ev) = table();
    t.resolve(T, ms(0), &mut ev);
    t.heard(1, &reply(MAC), ms(1), &mut ev);
    take(&mut ev);
    t.used(&T, ms(29_000), &mut ev);
    assert_eq!(ev, []);
    t.tick(ms(30_001), &mut ev);
    assert_eq!(state(&t), Some(State::Stale));
    t.used(&T, ms(31_000), &mut ev);
    assert_eq!(take(&mut ev), [Event::Request { target: T, to: Some(MAC) }]);
    assert_eq!(t.lookup(&T), Some(MAC));
    t.heard(1, &reply(MAC), ms(31_010), &mut ev);
    assert_eq!((state(&t), take(&mut ev)), (Some(State::Reachable), vec![]));
}

#[test]
fn one_that_moved_in_silence_is_found_by_asking_everybody() {
    let (mut t, mut ev) = table();
    t.resolve(T, ms(0), &mut ev);
    t.heard(1, &reply(MAC), ms(1), &mut ev);
    t.used(&T, ms(40_000), &mut ev);
    take(&mut ev);
    t.tick(ms(40_500), &mut ev);
    assert_eq!(take(&mut ev), [Event::Request { target: T, to: None }]);
    t.heard(1, &reply(OTHER), ms(40_501), &mut ev);
    assert_eq!(take(&mut ev), [Event::Resolved { target: T, mac: OTHER, waiting: vec![] }]);
}

#[test]
fn one_that_is_gone_is_lost() {
    let (mut t, mut ev) = table();
    t.resolve(T, ms(0), &mut ev);
    t.heard(1, &reply(MAC), ms(1), &mut ev);
    t.used(&T, ms(40_000), &mut ev);
    for at in [40_500, 41_000, 41_500] {
        t.tick(ms(at), &mut ev);
        assert_eq!(t.lookup(&T), Some(MAC));
    }
    take(&mut ev);
    t.tick(ms(42_000), &mut ev);
    assert_eq!(take(&mut ev), [Event::Lost { target: T, waiting: vec![] }]);
    assert_eq!(t.lookup(&T), None);
}

#[test]
fn gratuitous_changes_are_followed_but_make_no_entry() {
    let (mut t, mut ev) = table();
    t.heard(1, &gratuitous(MAC), ms(0), &mut ev);
    assert_eq!((state(&t), take(&mut ev)), (None, vec![]));
    t.resolve(T, ms(0), &mut ev);
    t.heard(1, &reply(MAC), ms(1), &mut ev);
    take(&mut ev);
    t.heard(1, &gratuitous(OTHER), ms(2), &mut ev);
    assert_eq!(take(&mut ev), [Event::Resolved { target: T, mac: OTHER, waiting: vec![] }]);
    assert_eq!(state(&t), Some(State::Stale), "to be confirmed");
    t.used(&T, ms(3), &mut ev);
    assert_eq!(take(&mut ev), [Event::Request { target: T, to: Some(OTHER) }]);
    // Another link's neighbours are others.
    t.heard(2, &gratuitous(MAC), ms(4), &mut ev);
    assert_eq!(t.lookup(&T), Some(OTHER));
}

#[test]
fn without_override_there_is_only_doubt() {
    let (mut t, mut ev) = table();
    t.resolve(T, ms(0), &mut ev);
    t.heard(1, &reply(MAC), ms(1), &mut ev);
    take(&mut ev);
    t.heard(1, &Heard { overrides: false, ..reply(OTHER) }, ms(2), &mut ev);
    assert_eq!((t.lookup(&T), state(&t)), (Some(MAC), Some(State::Stale)));
    assert_eq!(ev, []);
}

#[test]
fn a_strange_source_makes_it_ask_at_once_but_not_often() {
    let (mut t, mut ev) = table();
    t.resolve(T, ms(0), &mut ev);
    t.heard(1, &reply(MAC), ms(1), &mut ev);
    take(&mut ev);
    t.seen(T, MAC, ms(5000), &mut ev);
    assert_eq!(ev, []);
    let mut asked = 0;
    for at in 5000..6000 {
        t.seen(T, OTHER, ms(at), &mut ev);
        asked += take(&mut ev).len();
        // The true one answers each time.
        t.heard(1, &reply(MAC), ms(at), &mut ev);
    }
    assert_eq!(asked, 2);
    t.seen(T, OTHER, ms(7000), &mut ev);
    assert_eq!(take(&mut ev), [Event::Request { target: T, to: None }]);
    t.heard(1, &reply(OTHER), ms(7001), &mut ev);
    assert_eq!(t.lookup(&T), Some(OTHER));
}

#[test]
fn one_that_is_missed_is_asked_at_once_but_not_often() {
    let (mut t, mut ev) = table();
    t.missed(&T, ms(0), &mut ev);
    assert_eq!((state(&t), take(&mut ev)), (None, vec![]), "a stranger");
    t.resolve(T, ms(0), &mut ev);
    t.heard(1, &reply(MAC), ms(1), &mut ev);
    take(&mut ev);
    t.missed(&T, ms(999), &mut ev);
    assert_eq!(ev, []);
    // At its address, and when it does not answer soon, everybody; in use all the while.
    t.missed(&T, ms(1000), &mut ev);
    assert_eq!(take(&mut ev), [Event::Request { target: T, to: Some(MAC) }]);
    t.missed(&T, ms(1050), &mut ev);
    t.tick(ms(1099), &mut ev);
    assert_eq!(ev, []);
    t.tick(ms(1100), &mut ev);
    assert_eq!(take(&mut ev), [Event::Request { target: T, to: None }]);
    assert_eq!(t.lookup(&T), Some(MAC));
    t.heard(1, &reply(OTHER), ms(1101), &mut ev);
    assert_eq!(take(&mut ev), [Event::Resolved { target: T, mac: OTHER, waiting: vec![] }]);
    assert_eq!(state(&t), Some(State::Reachable));
    t.set_static(T, MAC, ms(1200), &mut ev);
    take(&mut ev);
    t.missed(&T, ms(9000), &mut ev);
    assert_eq!(ev, [], "a static one is never asked");
}

#[test]
fn static_ones_stay() {
    let (mut t, mut ev) = table();
    t.wait(T, 1, ms(0), &mut ev);
    take(&mut ev);
    t.set_static(T, MAC, ms(1), &mut ev);
    assert_eq!(take(&mut ev), [Event::Resolved { target: T, mac: MAC, waiting: vec![1] }]);
    t.heard(1, &gratuitous(OTHER), ms(2), &mut ev);
    t.tick(ms(10_000_000), &mut ev);
    t.used(&T, ms(10_000_000), &mut ev);
    assert_eq!((t.lookup(&T), t.due()), (Some(MAC), None));
    assert_eq!(ev, []);
    t.flush(1, &mut ev);
    assert_eq!(take(&mut ev), [Event::Lost { target: T, waiting: vec![] }]);
    assert!(!t.remove(&T, &mut ev));
}

#[test]
fn unused_ones_go() {
    let (mut t, mut ev) = table();
    t.resolve(T, ms(0), &mut ev);
    t.heard(1, &reply(MAC), ms(1), &mut ev);
    take(&mut ev);
    let mut now = Duration::ZERO;
    while let Some(due) = t.due() {
        assert!(due > now);
        now = due;
        t.tick(now, &mut ev);
    }
    assert_eq!(now, Duration::from_secs(600));
    assert_eq!(ev, [Event::Lost { target: T, waiting: vec![] }]);
}

#[test]
fn queues_and_table_are_bounded() {
    let limits = Limits { entries: 4, queue: 2, queued: 5, ..Limits::default() };
    let mut t: NeighTable<u32> = NeighTable::new(limits);
    let mut ev = Vec::new();
    let target = |n: u8| Target { link: 1, address: [10, 0, 0, n].into() };
    for n in 0..3 {
        for i in 0..2 {
            let w = t.wait(target(n), i, ms(0), &mut ev);
            let want = if n == 2 && i == 1 {
                Wait::Refused(Drop::NeighbourPending, i)
            } else {
                Wait::Queued
            };
            assert_eq!(w, want);
        }
        assert_eq!(t.wait(target(n), 9, ms(0), &mut ev), Wait::Refused(Drop::NeighbourPending, 9));
    }
    t.resolve(target(3), ms(0), &mut ev);
    assert_eq!(t.wait(target(4), 9, ms(0), &mut ev), Wait::Refused(Drop::NeighbourPending, 9));
    assert_eq!(t.iter().count(), 4, "those that are asked for stay");
    t.heard(1, &Heard { address: target(3).address, ..reply(MAC) }, ms(1), &mut ev);
    t.resolve(target(4), ms(2), &mut ev);
    assert!(t.iter().all(|s| s.target != target(3)), "a known one makes room");
}

proptest! {
    /// Whatever happens in whatever order: every packet comes out exactly once, limits hold, and
    /// a known address is one that was heard or set.
    #[test]
    fn no_packet_is_lost_or_doubled(
        steps in prop::collection::vec((0u8..7, 0u8..6, 0u64..3, 0u64..2000, any::<bool>()), 0..200),
    ) {
        let limits = Limits { entries: 4, queue: 3, queued: 6, ..Limits::default() };
        let mut t: NeighTable<u32> = NeighTable::new(limits);
        let (mut now, mut next, mut out) = (Duration::ZERO, 0, Vec::new());
        for (step, who, mac, pause, flag) in steps {
            now += ms(pause);
            let target = Target { link: u32::from(who & 1), address: [10, 0, 0, who].into() };
            let mac = MAC + mac;
            let heard = Heard { address: target.address, mac, solicited: flag, overrides: mac != MAC };
            let mut ev = Vec::new();
            match step {
                0 | 1 => {
                    match t.wait(target, next, now, &mut ev) {
                        Wait::Queued => {}
                        Wait::Known(mac, p) => {
                            prop_assert!(mac >= MAC && p == next);
                            out.push(p);
                        }
                        Wait::Refused(_, p) => out.push(p),
                    }
                    next += 1;
                }
                2 => t.heard(target.link, &heard, now, &mut ev),
                3 => t.tick(now, &mut ev),
                4 => t.seen(target, mac, now, &mut ev),
                5 if flag => t.flush(target.link, &mut ev),
                5 => t.set_static(target, mac, now, &mut ev),
                _ => t.used(&target, now, &mut ev),
            }
            for e in ev {
                match e {
                    Event::Resolved { waiting, mac, target } => {
                        prop_assert_eq!(t.lookup(&target), Some(mac));
                        out.extend(waiting);
                    }
                    Event::Lost { waiting, target } => {
                        prop_assert_eq!(t.lookup(&target), None);
                        out.extend(waiting);
                    }
                    Event::Request { .. } => {}
                }
            }
            let waiting: usize = t.iter().map(|s| s.waiting).sum();
            prop_assert_eq!(waiting, t.queued());
            prop_assert!(t.queued() <= 6);
            prop_assert!(t.iter().all(|s| s.waiting <= 3 && (s.mac.is_none() || s.waiting == 0)));
            prop_assert_eq!(out.len() + waiting, next as usize);
        }
        let mut ev = Vec::new();
        (0..2).for_each(|link| t.flush(link, &mut ev));
        for e in ev {
            if let Event::Lost { waiting, .. } = e {
                out.extend(waiting);
            }
        }
        out.sort();
        prop_assert_eq!(out, (0..next).collect::<Vec<_>>());
    }
}

fn read(f: &[u8]) -> (FlowKey, Offsets) {
    let mut key = FlowKey::default();
    let off = flow::extract(f, f.len(), &mut key);
    (key, off)
}

fn hear_frame(f: &[u8]) -> Option<Heard> {
    let (key, off) = read(f);
    hear(f, &off, &key)
}

fn answer_frame(f: &[u8]) -> Option<Vec<u8>> {
    let (key, off) = read(f);
    let ours = ["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
    answer(f, &off, &key, false, |a: IpAddr| ours.contains(&a).then_some(MAC))
}

#[test]
fn question_and_answer() {
    for (mine, theirs) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
        let own = Own { mac: OTHER, address: mine.parse().unwrap() };
        for to in [None, Some(MAC)] {
            let question = request(theirs.parse().unwrap(), &own, to).unwrap();
            let (key, _) = read(&question);
            assert_eq!(key.get64(Field::EthDst) >> 40 & 1 == 1, to.is_none());
            let asked = hear_frame(&question).unwrap();
            assert_eq!((asked.address, asked.mac), (own.address, OTHER));
            assert!(!asked.solicited);
            let reply = answer_frame(&question).unwrap();
            let told = hear_frame(&reply).unwrap();
            let want = Heard {
                address: theirs.parse().unwrap(),
                mac: MAC,
                solicited: true,
                overrides: true,
            };
            assert_eq!(told, want);
            assert_eq!(answer_frame(&reply), None, "an answer is not answered");
            // With the tag of the question.
            let tagged = [&question[..12], &[0x81, 0, 0x20, 5], &question[12..]].concat();
            let reply = answer_frame(&tagged).unwrap();
            assert_eq!(reply[12..16], [0x81, 0, 0x20, 5]);
            assert_eq!(hear_frame(&reply), Some(want));
        }
        assert_eq!(
            answer_frame(
                &request(
                    "10.0.0.9".parse().unwrap(),
                    &Own { address: "10.0.0.1".parse().unwrap(), ..own },
                    None
                )
                .unwrap()
            ),
            None
        );
    }
    let own = Own { mac: OTHER, address: "10.0.0.1".parse().unwrap() };
    assert_eq!(request("fd00::2".parse().unwrap(), &own, None), None);
}

#[test]
fn taking_an_address_is_answered_to_all() {
    let own = Own { mac: OTHER, address: "::".parse().unwrap() };
    let question = request("fd00::2".parse().unwrap(), &own, None).unwrap();
    assert_eq!(hear_frame(&question), None);
    let (key, _) = read(&answer_frame(&question).unwrap());
    assert_eq!(key.get(Field::Ipv6Dst), 0xff02 << 112 | 1);
    assert_eq!(key.get64(Field::EthDst), 0x3333_0000_0001);
    assert_eq!(key.get64(Field::NdReserved) >> 30 & 1, 0);
    let probe = flow::build::arp_frame(1, 0xffff_ffff_ffff, OTHER, 0, 0, 0x0a00_0002);
    assert_eq!(hear_frame(&probe), None);
    assert!(answer_frame(&probe).is_some());
}

#[test]
fn what_is_not_to_be_believed() {
    let own = Own { mac: OTHER, address: "fd00::1".parse().unwrap() };
    let good = request("fd00::2".parse().unwrap(), &own, None).unwrap();
    for (what, at, b) in [("hop limit", 21, 254), ("checksum", 57, 9), ("target", 62, 0xff)] {
        let mut f = good.clone();
        f[at] = b;
        assert_eq!((hear_frame(&f), answer_frame(&f)), (None, None), "{what}");
    }
    let group =
        flow::build::arp_frame(1, 0xffff_ffff_ffff, 0x0100_0000_0001, 0x0a00_0009, 0, 0x0a00_0002);
    assert_eq!((hear_frame(&group), answer_frame(&group)), (None, None));
    let ours = flow::build::arp_frame(1, 0xffff_ffff_ffff, OTHER, 0x0a00_0002, 0, 0x0a00_0002);
    assert_eq!(answer_frame(&ours), None, "from our own address");
    let broadcast = flow::build::arp_frame(2, 0xffff_ffff_ffff, OTHER, 0x0a00_0009, 0, 0x0a00_0009);
    assert!(!hear_frame(&broadcast).unwrap().solicited);
    for op in [0, 3, 255] {
        assert_eq!(hear_frame(&flow::build::arp_frame(op, MAC, OTHER, 9, 0, 8)), None);
    }
}
