//! Which rule does a packet match, and which cached decisions does a change of rules touch?
//!
//! - [`RuleTable`] is one OpenFlow table: a persistent tuple-space classifier that also says
//!   which bits of the key it looked at, so that the decision can be cached under a mask.
//! - [`Footprints`] remembers, for each cached decision, the lookups that it was made from, and
//!   finds the decisions that a rule change overlaps.
//!
//! Must not know: actions, packets, ports, OpenFlow text, threads.

pub mod conjunction;
pub mod footprint;
mod hamt;
mod order;
mod plan;
mod prefixes;
pub mod rules;
mod subtable;

pub use conjunction::Conjunction;
pub use footprint::{Change, Dependency, Footprints, Visits};
pub use rules::{Found, Rule, RuleTable};
