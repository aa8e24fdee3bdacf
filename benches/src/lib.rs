//! What the switch is measured with.
//!
//! A [`rows::Row`] is a traffic mix and a set of flows. The switch itself ([`ours`]) and its peers
//! ([`peers`]) replay the same [`trace`] from memory through the same flows on one core, each with a
//! copy of every frame on receive and its buffer given back on transmit. [`veth`] is the rig on real
//! interfaces. `benchrun` lets them take turns and writes down medians, spreads and ratios.

pub mod cloud;
pub mod instructions;
pub mod measure;
pub mod ours;
pub mod pair;
pub mod peers;
pub mod pktgen;
pub mod random;
pub mod results;
pub mod rows;
pub mod run;
pub mod stages;
pub mod trace;
pub mod tunnels;
pub mod veth;
