//! Throughput rows in memory and on veth, beside stock switches.
pub mod ours;
