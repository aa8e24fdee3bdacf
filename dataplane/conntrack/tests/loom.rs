//! The lock-free parts under a model checker: every interleaving of two or three threads, with
//! the very source that the tracker is built of.

#![allow(dead_code, unreachable_pub)]

mod sync {
    pub(crate) use loom::hint::spin_loop;
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering, fence};
    pub(crate) use loom::thread::yield_now;
}
#[path = "../src/bucket.rs"]
mod bucket;
#[path = "../src/meta.rs"]
mod meta;

use bucket::{Bucket, SLOTS};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use meta::{Meta, Snapshot, bit};

/// An entry of two words of data that always have to be equal.
struct Pair {
    meta: Meta,
    a: AtomicU64,
    b: AtomicU64,
}

fn live_pair(v: u64) -> Pair {
    let meta = Meta(AtomicU64::new(bit::LIVE | 1 << bit::GENERATION_SHIFT));
    Pair { meta, a: AtomicU64::new(v), b: AtomicU64::new(v) }
}

fn read(p: &Pair) -> Option<(Snapshot, u64)> {
    let m = p.meta.read();
    if !m.is_live() {
        return None;
    }
    let (a, b) = (p.a.load(Ordering::Relaxed), p.b.load(Ordering::Relaxed));
    p.meta.unchanged(m).then(|| {
        assert_eq!(a, b, "half of a change was read");
        (m, a)
    })
}

fn write(p: &Pair, v: u64) {
    let Some(mut g) = p.meta.lock(p.meta.peek()) else { return };
    g.will_change();
    p.a.store(v, Ordering::Relaxed);
    p.b.store(v, Ordering::Relaxed);
}

#[test]
fn a_reader_sees_all_of_a_change_or_nothing() {
    loom::model(|| {
        let p = Arc::new(live_pair(1));
        let q = p.clone();
        let t = thread::spawn(move || write(&q, 2));
        if let Some((_, v)) = read(&p) {
            assert!(v == 1 || v == 2);
        }
        t.join().unwrap();
        assert_eq!(read(&p).unwrap().1, 2);
    });
}

#[test]
fn two_writers_do_not_mix() {
    loom::model(|| {
        let p = Arc::new(live_pair(1));
        let q = p.clone();
        let t = thread::spawn(move || write(&q, 2));
        write(&p, 3);
        t.join().unwrap();
        let v = read(&p).unwrap().1;
        assert!(v == 2 || v == 3);
    });
}

#[test]
fn an_entry_that_is_used_again_is_not_taken_for_the_old_one() {
    loom::model(|| {
        let p = Arc::new(live_pair(1));
        let q = p.clone();
        let seen = p.meta.peek();
        let t = thread::spawn(move || {
            // Ended, freed, and made anew with other data.
            let Some(g) = q.meta.lock(q.meta.peek()) else { return };
            g.kill();
            q.meta.release();
            let reserved = q.meta.reserve();
            q.a.store(2, Ordering::Relaxed);
            q.b.store(2, Ordering::Relaxed);
            q.meta.publish(reserved.live(0));
        });
        if let Some((m, v)) = read(&p) {
            assert_eq!(m.same_connection(seen), v == 1);
        }
        // A lock on what was seen is never a lock on its successor.
        if let Some(g) = p.meta.lock(seen) {
            assert_eq!(p.a.load(Ordering::Relaxed), 1);
            drop(g);
        }
        t.join().unwrap();
    });
}

#[test]
fn one_of_two_that_end_a_connection_buries_it() {
    loom::model(|| {
        let p = Arc::new(live_pair(1));
        let q = p.clone();
        let end = |p: &Pair, seen| p.meta.lock(seen).map(|g| g.kill()).is_some();
        let seen = p.meta.peek();
        let t = thread::spawn(move || end(&q, seen));
        let mine = end(&p, seen);
        assert!(mine ^ t.join().unwrap());
    });
}

/// Insert as the index does, into one bucket: a key (any value) once.
fn insert(b: &Bucket, value: u64) -> bool {
    let _guard = b.lock();
    (0..SLOTS).all(|i| b.slot(i) >> 32 != value >> 32) && b.claim(value)
}

#[test]
fn a_key_is_inserted_once() {
    loom::model(|| {
        let b = Arc::new(Bucket::empty());
        let c = b.clone();
        // The same key (the high half) of two entries.
        let t = thread::spawn(move || insert(&c, 7 << 32 | 1));
        let mine = insert(&b, 7 << 32 | 2);
        assert!(mine ^ t.join().unwrap());
    });
}

#[test]
fn a_displaced_key_is_not_missed() {
    loom::model(|| {
        let home = Arc::new((Bucket::empty(), Bucket::empty()));
        {
            let mut g = home.0.lock();
            g.displace(1);
            assert!(home.1.claim(9));
        }
        let other = home.clone();
        // Another displaced key of the same home comes and goes.
        let t = thread::spawn(move || {
            {
                let mut g = other.0.lock();
                g.displace(1);
                assert!(other.1.claim(8));
            }
            let mut g = other.0.lock();
            assert!(other.1.vacate(8));
            g.undisplace();
        });
        assert_eq!(home.0.reach(), 1);
        assert!((0..SLOTS).any(|i| home.1.slot(i) == 9));
        t.join().unwrap();
        let mut g = home.0.lock();
        assert!(home.1.vacate(9));
        g.undisplace();
        drop(g);
        assert_eq!(home.0.reach(), 0);
    });
}
