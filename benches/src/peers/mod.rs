//! The switches that ours is measured beside.

pub mod ovs;
pub mod ovs_dpdk;
