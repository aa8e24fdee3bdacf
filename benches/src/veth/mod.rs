//! The rig on real interfaces: a generator, a switch between two veth pairs, a sink that counts.
//!
//! ```text
//! namespace gen            the switch's host            namespace sink
//!   g0 ────────────────────── s0   switch   s1 ────────────────────── k0
//! ```
//! The generator lets the kernel make frames ([`generator`]) as fast as it can on core 0; the switch has
//! core 1; `k0` drops what arrives in its driver, and its counter is the result.

pub mod ct;
pub mod generator;
pub mod idle;
pub mod latency;
pub mod memory;
mod nodes;
pub mod rig;
pub mod snat;
pub mod tcp;
pub mod vxlan;
