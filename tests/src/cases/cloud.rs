//! The small cloud: what the demonstration shows, and that it recovers from faults.

use crate::cloud::{Cloud, Tunnels, steps};
use crate::lab::Lab;
use crate::runner::Case;
use crate::{Result, cmd, wait};

pub const CASES: &[Case] = &[
    Case::new("cloud-scenario", "two compute nodes and a network node: all that they do", scenario),
    Case::new("cloud-faults", "a daemon killed, a link cut, a gateway's MAC changed", faults),
];

fn scenario(lab: &Lab) -> Result<()> {
    let cloud = Cloud::new(lab)?;
    for kind in [Tunnels::Gre, Tunnels::Vxlan] {
        steps::tunnels(&cloud, kind)?;
    }
    steps::provider(&cloud)?;
    steps::snat(&cloud)?;
    steps::floating(&cloud)?;
    steps::routed(&cloud)?;
    steps::guarded(&cloud)?;
    steps::trace(&cloud)?;
    Ok(())
}

fn faults(lab: &Lab) -> Result<()> {
    let mut cloud = Cloud::new(lab)?;
    steps::floating(&cloud)?;
    // The network node's daemon dies, and comes back with its configuration; flows of users' bridges
    // are given again, as an agent would.
    cloud.net.daemon.murder()?;
    cloud.net = cloud.net.again(Tunnels::Vxlan, ["192.0.2.1", "192.0.2.2"])?;
    cloud.a1.reaches("203.0.113.1")?;
    cloud.out.reaches("203.0.113.102")?;
    steps::floating(&cloud)?;
    // The underlay is cut at one node, and put back.
    cmd::run(&["ip", "link", "set", "dev", "underlay-one", "down"])?;
    wait::until("a node that is cut off is cut off", || Ok(!cloud.a1.pings("203.0.113.1")?))?;
    cmd::run(&["ip", "link", "set", "dev", "underlay-one", "up"])?;
    cloud.a1.reaches("203.0.113.1")?;
    // The gateway outside has another address all of a sudden.
    cloud.out.node.run(&["ip", "link", "set", "dev", "eth0", "address", "02:00:00:00:77:77"])?;
    wait::until_for(wait::SOON * 4, "the gateway is found again", || {
        Ok(cloud.a1.pings("203.0.113.1")?.then_some(()))
    })
}
