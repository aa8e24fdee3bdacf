//! Between receive and transmit nothing is allocated: counted by an allocator of this test's own, for every
//! row, once the worker is warm.
#![allow(unsafe_code)] // GlobalAlloc is an unsafe trait

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use benches::ours;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, which counts the calls of each thread.
struct Counting;

fn count() {
    // A thread that is ending has nothing to count any more.
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are those of this function too.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count();
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_warm_worker_allocates_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    for (row, mix) in ours::ROWS {
        // The large traces differ from the small ones in nothing that matters here.
        if mix.ends_with("-100000") {
            continue;
        }
        ours::write_traces(row, dir.path()).expect(row);
        let mut bench = ours::bench(row, dir.path()).expect(row);
        bench.publish();
        while bench.received() < 50_000 {
            bench.rounds(64);
        }
        let (packets, calls) = (bench.received(), COUNT.get());
        while bench.received() < packets + 200_000 {
            bench.rounds(64);
        }
        let calls = COUNT.get() - calls;
        assert!(calls < 200, "{row}: {calls} calls of the allocator for 200,000 packets");
    }
}
