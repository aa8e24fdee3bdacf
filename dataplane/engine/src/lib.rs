//! Megaflow caches, action execution, workers.
//!
//! A worker polls its queues and brings each burst through lookup, translation of what was not
//! found, and the action programs, to transmit. Control starts workers, gives them queues,
//! publishes configuration and reads counters, all through [`shared::Shared`].

pub mod engine;
pub mod handover;
pub mod handshake;
pub mod index;
pub mod megaflow;
pub mod samples;
pub mod shared;
pub mod stages;
pub mod sys;
pub mod worker;

/// The atomics of [`handshake`], which its loom test replaces.
mod atomics {
    pub use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
}

pub use engine::{Engine, Stuck};
pub use shared::{Event, Shared, WorkerCounters};
pub use worker::command::{Command, MegaflowDump, Owners};
pub use worker::{Poll, Worker, WorkerOptions};
