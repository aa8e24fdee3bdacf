//! Which connection does a packet belong to, is it in order, and how is it translated?
//!
//! The stateful stage of the switch: a [`Tracker`] holds all connections. [`Tracker::track`] is
//! the action `ct()`, [`Tracker::commit`] is `ct(commit)`; what they say of a packet is a
//! [`Verdict`], and the change that it asks for, a [`NatEdit`], is made by [`nat::apply()`].
//! Fragments are put together by [`frag`] before they come here.
//!
//! The semantics are those of `ovs-actions(7)` and `ovs-fields(7)`, the states and windows of TCP
//! those of Linux's tracker. A packet that should be translated and cannot be is an error, which
//! drops it.
//!
//! Must not know: rules, tables, ports, workers. Time and randomness are parameters.

mod bucket;
mod burst;
mod cell;
mod commit;
mod control;
mod entry;
pub mod frag;
mod index;
mod input;
mod list;
mod mem;
mod meta;
pub mod nat;
mod notice;
mod pool;
mod stats;
mod sweep;
mod sync;
mod tcp;
mod timeout;
mod tracker;
mod tuple;
mod verdict;
mod zones;

pub use burst::{BURST, Batch};
pub use commit::{Commit, Nat};
pub use entry::Millis;
pub use input::{Input, Invalid, Trust};
pub use list::{Census, Connection, Cursor, Filter};
pub use nat::NatEdit;
pub use notice::Notice;
pub use stats::Event;
pub use sweep::Swept;
pub use tcp::{TcpOptions, TcpState};
pub use timeout::{BadTimeout, MAX_SECONDS, POLICIES, Policy, Timeout};
pub use tracker::{Config, MAX_CONNECTIONS, Tracker};
pub use tuple::Tuple;
pub use verdict::{ConnRef, CtState, Verdict};
