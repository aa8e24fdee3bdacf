//! The handshake between control and workers, in every interleaving that loom finds.

mod atomics {
    pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
}
#[path = "../src/handshake.rs"]
#[allow(dead_code)]
mod handshake;

use atomics::{AtomicU32, AtomicU64, Ordering};
use handshake::Handshake;
use loom::sync::Arc;

struct World {
    newest: AtomicU64,
    acknowledged: AtomicU32,
    worker: Handshake,
}

/// Control publishes version 1 and acknowledges it as the engine does.
fn control(w: &World) {
    w.newest.store(1, Ordering::SeqCst);
    while w.worker.may_act_on_older(1) {
        loom::thread::yield_now();
    }
    w.acknowledged.store(1, Ordering::SeqCst);
}

/// A round of the worker: take up the newest version, treat a packet by it.
fn round(w: &World) {
    let version = w.newest.load(Ordering::SeqCst);
    w.worker.adopt(version);
    if version == 0 {
        assert_eq!(w.acknowledged.load(Ordering::SeqCst), 0, "a packet by a version that is gone");
    }
}

fn explore(parked_first: bool) {
    loom::model(move || {
        let world = Arc::new(World {
            newest: AtomicU64::new(0),
            acknowledged: AtomicU32::new(0),
            worker: Handshake::new(),
        });
        if parked_first {
            world.worker.park();
        }
        let of_control = world.clone();
        let thread = loom::thread::spawn(move || control(&of_control));
        if parked_first {
            world.worker.unpark();
        }
        round(&world);
        world.worker.park();
        world.worker.unpark();
        round(&world);
        world.worker.park();
        thread.join().unwrap();
    });
}

#[test]
fn a_worker_that_wakes_never_acts_on_an_acknowledged_past() {
    explore(true);
}

#[test]
fn a_worker_that_runs_never_acts_on_an_acknowledged_past() {
    explore(false);
}
