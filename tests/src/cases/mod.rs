//! All tests, by what they are about.

pub mod bridges;
pub mod cloud;
pub mod configuration;
pub mod connections;
pub mod conntrack;
pub mod daemon;
pub mod deployment;
pub mod differential;
pub mod errors;
pub mod flow_frames;
pub mod flows;
pub mod golden;
pub mod hard_inputs;
pub mod harness;
pub mod interfaces;
pub mod internal;
pub mod learning;
pub mod nat;
pub mod nat_kernel;
pub mod ping;
pub mod pktgen;
pub mod router_errors;
pub mod router_presence;
pub mod routers;
pub mod security;
pub mod socket;
pub mod tags;
pub mod tcp;
pub mod tunnel_paths;
pub mod tunnel_peers;
pub mod tunnel_shared;
pub mod tunnels;
pub mod vlan;
pub mod workers;

use anyhow::Result;

use crate::daemon::Daemon;
use crate::lab::{Host, Lab};
use crate::runner::Case;

/// Every test, in the order in which they are run.
pub fn all() -> Vec<Case> {
    [
        harness::CASES,
        ping::CASES,
        tcp::CASES,
        vlan::CASES,
        tags::CASES,
        bridges::CASES,
        learning::CASES,
        flow_frames::CASES,
        golden::CASES,
        internal::CASES,
        tunnels::CASES,
        tunnel_paths::CASES,
        tunnel_peers::CASES,
        tunnel_shared::CASES,
        interfaces::CASES,
        configuration::CASES,
        daemon::CASES,
        errors::CASES,
        flows::CASES,
        conntrack::CASES,
        connections::CASES,
        differential::CASES,
        nat::CASES,
        nat_kernel::CASES,
        deployment::CASES,
        routers::CASES,
        router_errors::CASES,
        router_presence::CASES,
        security::CASES,
        cloud::CASES,
        socket::CASES,
        hard_inputs::CASES,
        workers::CASES,
        pktgen::CASES,
    ]
    .concat()
}

/// A daemon with bridge `br0` that joins two machines, 10.0.0.1 and 10.0.0.2.
fn pair(lab: &Lab) -> Result<(Daemon, Host, Host)> {
    let h1 = lab.host("h1", "10.0.0.1/24")?;
    let h2 = lab.host("h2", "10.0.0.2/24")?;
    let daemon = Daemon::start(lab)?;
    daemon.run("add-br br0 -- add-port br0 h1 -- add-port br0 h2")?;
    Ok((daemon, h1, h2))
}
