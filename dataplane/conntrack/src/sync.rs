//! The atomics that the shared structures are built on.
//!
//! One place, so that a model checker's atomics can take theirs: `tests/loom.rs` compiles
//! [`crate::meta`] and [`crate::bucket`] against loom's.

pub(crate) use std::hint::spin_loop;
pub(crate) use std::sync::atomic::{AtomicU64, Ordering, fence};
pub(crate) use std::thread::yield_now;
