//! A small cloud: two compute nodes and a network node, each with its own daemon in a network namespace,
//! joined by kernel bridges; instances, a DHCP server, a host outside.
//!
//! ```text
//! one: a1 a2 ─ br-int ═ br-tun ─ br-phy ─┐            ┌─ br-phy ─ br-tun ═ br-int ─ router ─ br-ex ─ out
//!              └═ br-vlan ───────────────┤  underlay  ├── :net            └ dhcp (in namespace dhcp)
//! two: b1 c1 ─ br-int ═ br-tun ─ br-phy ─┘ (kernel's) │
//!              └═ br-vlan ────────── provider (kernel's bridge)
//! ```
//!
//! Networks: 1 is 192.168.1.0/24 (a1, a2, b1), 2 is 192.168.2.0/24 (c1), 3 is a VLAN of the provider
//! (v1 on one, v2 on two). Local tags differ from node to node.

pub mod steps;

use crate::daemon::Daemon;
use crate::frame::Mac;
use crate::lab::{Background, Lab, Node};
use crate::{Context, Result, cmd, ensure, http, wait};

/// Tunnel id of network 1, in VXLAN and GRE.
pub const NET1: u32 = 0x651;
/// Tunnel id of network 2.
pub const NET2: u32 = 0x652;
/// The provider's VLAN of network 3.
pub const PROVIDER_VLAN: u16 = 2003;

/// Which encapsulation the nodes use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunnels {
    Vxlan,
    Gre,
}

impl Tunnels {
    pub const fn name(self) -> &'static str {
        match self {
            Tunnels::Vxlan => "vxlan",
            Tunnels::Gre => "gre",
        }
    }
}

/// A node with its switch.
pub struct Hypervisor {
    pub node: Node,
    pub daemon: Daemon,
    /// Its address on the underlay.
    pub address: &'static str,
    /// Local tags of networks 1, 2 and 3.
    pub tags: [u16; 3],
}

/// An instance.
#[derive(Clone)]
pub struct Instance {
    pub node: Node,
    pub mac: Mac,
    pub address: String,
}

impl Instance {
    /// Whether one ping is answered.
    pub fn pings(&self, to: &str) -> Result<bool> {
        Ok(self.node.output(&["ping", "-n", "-q", "-c", "1", "-W", "1", to])?.status == 0)
    }

    /// Ping until it is answered.
    pub fn reaches(&self, to: &str) -> Result<()> {
        wait::until(&format!("{} reaches {to}", self.node.name), || self.pings(to))
    }

    /// What one ping says.
    pub fn ping_text(&self, to: &str) -> Result<String> {
        Ok(self.node.output(&["ping", "-n", "-c", "1", "-W", "2", to])?.stdout)
    }
}

/// All of it.
pub struct Cloud {
    pub one: Hypervisor,
    pub two: Hypervisor,
    pub net: Hypervisor,
    pub a1: Instance,
    pub a2: Instance,
    pub b1: Instance,
    pub c1: Instance,
    pub v1: Instance,
    pub v2: Instance,
    pub out: Instance,
    _dhcp: Background,
}

/// A kernel bridge in the sandbox's own namespace.
fn kernel_bridge(name: &str) -> Result<()> {
    cmd::run(&["ip", "link", "add", "name", name, "type", "bridge"])?;
    cmd::run(&["ip", "link", "set", "dev", name, "up"])?;
    Ok(())
}

/// A cable between a kernel bridge (its end is `bridge-node`) and interface `there` of a node.
fn plug(bridge: &str, node: &Node, there: &str) -> Result<()> {
    let here = format!("{bridge}-{}", node.name);
    #[rustfmt::skip]
    cmd::run(&["ip", "link", "add", "name", &here, "type", "veth", "peer", "name", there, "netns", &node.name])?;
    cmd::run(&["ip", "link", "set", "dev", &here, "master", bridge, "up"])?;
    node.run(&["ip", "link", "set", "dev", there, "mtu", "1600", "up"])?;
    cmd::run(&["ip", "link", "set", "dev", &here, "mtu", "1600"])?;
    cmd::run(&["ip", "link", "set", "dev", bridge, "mtu", "1600"])?;
    Ok(())
}

fn hypervisor(lab: &Lab, name: &str, address: &'static str, tags: [u16; 3]) -> Result<Hypervisor> {
    let node = lab.node(name)?;
    plug("underlay", &node, "eth0")?;
    plug("provider", &node, "eth1")?;
    let daemon = Daemon::start_on(lab, &node, &[])?;
    daemon.run(
        "add-br br-int -- add-br br-tun -- add-br br-phy -- add-br br-vlan \
         -- add-port br-phy eth0 -- add-port br-vlan eth1 \
         -- add-port br-int to-tun type=patch options:peer=to-int \
         -- add-port br-tun to-int ofport_request=1 type=patch options:peer=to-tun \
         -- add-port br-int to-vlan type=patch options:peer=vlan-int \
         -- add-port br-vlan vlan-int type=patch options:peer=to-vlan",
    )?;
    let h = Hypervisor { node, daemon, address, tags };
    h.underlay_address()?;
    Ok(h)
}

impl Hypervisor {
    /// Start the daemon again after its end, and do what an agent would then.
    pub fn again(self, tunnels: Tunnels, others: [&str; 2]) -> Result<Hypervisor> {
        let h = Hypervisor { daemon: self.daemon.again()?, ..self };
        h.underlay_address()?;
        h.join_provider()?;
        h.join_tunnels(tunnels, others)?;
        Ok(h)
    }

    /// The bridge's interface is new with each start of the daemon.
    fn underlay_address(&self) -> Result<()> {
        self.node.run(&["ip", "link", "set", "dev", "br-phy", "mtu", "1600", "up"])?;
        self.node.run(&["ip", "addr", "add", &format!("{}/24", self.address), "dev", "br-phy"])?;
        Ok(())
    }

    /// The flows of br-vlan: the local tag of network 3 is exchanged for the provider's, and back; no
    /// other network has anything to do there.
    fn join_provider(&self) -> Result<()> {
        let local = self.tags[2];
        self.daemon.run("del-flows br-vlan")?;
        for flow in [
            format!(
                "in_port=vlan-int,dl_vlan={local},actions=mod_vlan_vid:{PROVIDER_VLAN},output:eth1"
            ),
            format!(
                "in_port=eth1,dl_vlan={PROVIDER_VLAN},actions=mod_vlan_vid:{local},output:vlan-int"
            ),
        ] {
            self.daemon.run(&format!("add-flow br-vlan {flow}"))?;
        }
        Ok(())
    }

    /// The flows and ports of br-tun towards other nodes: the local tag becomes the tunnel id, and back;
    /// unknown destinations go to all, and where answers come from is learned.
    fn join_tunnels(&self, tunnels: Tunnels, others: [&str; 2]) -> Result<()> {
        let daemon = &self.daemon;
        daemon.run("--if-exists del-port br-tun t0 -- --if-exists del-port br-tun t1")?;
        for (i, remote) in others.into_iter().enumerate() {
            let kind = tunnels.name();
            daemon.run(&format!(
                "add-port br-tun t{i} ofport_request={} type={kind} options:remote_ip={remote} \
                 options:local_ip={} options:key=flow",
                10 + i,
                self.address
            ))?;
        }
        daemon.run("del-flows br-tun")?;
        let mut flows = vec![
            "table=0,in_port=1,actions=resubmit(,2)".to_owned(),
            "table=0,in_port=10,actions=resubmit(,4)".to_owned(),
            "table=0,in_port=11,actions=resubmit(,4)".to_owned(),
            "table=2,dl_dst=00:00:00:00:00:00/01:00:00:00:00:00,actions=resubmit(,20)".to_owned(),
            "table=2,dl_dst=01:00:00:00:00:00/01:00:00:00:00:00,actions=resubmit(,22)".to_owned(),
            "table=10,priority=1,actions=learn(table=20,hard_timeout=300,priority=1,\
             NXM_OF_VLAN_TCI[0..11],NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],load:0->NXM_OF_VLAN_TCI[],\
             load:NXM_NX_TUN_ID[]->NXM_NX_TUN_ID[],output:NXM_OF_IN_PORT[]),output:1"
                .to_owned(),
            "table=20,priority=0,actions=resubmit(,22)".to_owned(),
        ];
        for (tag, id) in self.tags.iter().zip([NET1, NET2]) {
            flows.push(format!("table=4,tun_id={id},actions=mod_vlan_vid:{tag},resubmit(,10)"));
            let all = format!("strip_vlan,set_tunnel:{id},output:10,output:11");
            flows.push(format!("table=22,dl_vlan={tag},actions={all}"));
        }
        let file = daemon.run_dir.join("tun.flows");
        std::fs::write(&file, flows.join("\n"))?;
        daemon.run(&format!("add-flows br-tun {}", file.display()))?;
        Ok(())
    }

    /// An instance on br-int, in one of the networks (1 to 3).
    fn instance(
        &self,
        lab: &Lab,
        name: &str,
        n: u8,
        network: usize,
        cidr: &str,
    ) -> Result<Instance> {
        let node = lab.node(name)?;
        let mac = Mac([2, 0, 0, 0, 9, n]);
        #[rustfmt::skip]
        cmd::run(&[
            "ip", "link", "add", "name", name, "netns", &self.node.name, "type", "veth",
            "peer", "name", "eth0", "netns", &node.name,
        ])?;
        self.node.run(&["ip", "link", "set", "dev", name, "up"])?;
        node.run(&[
            "ip",
            "link",
            "set",
            "dev",
            "eth0",
            "address",
            &mac.to_string(),
            "mtu",
            "1450",
            "up",
        ])?;
        if !cidr.is_empty() {
            node.run(&["ip", "addr", "add", cidr, "dev", "eth0"])?;
        }
        let tag = self.tags.get(network - 1).context("no such network")?;
        self.daemon.run(&format!("add-port br-int {name} tag={tag}"))?;
        let address = cidr.split('/').next().unwrap_or_default().to_owned();
        Ok(Instance { node, mac, address })
    }
}

impl Cloud {
    /// Make it. Takes some seconds.
    pub fn new(lab: &Lab) -> Result<Cloud> {
        kernel_bridge("underlay")?;
        kernel_bridge("provider")?;
        let one = hypervisor(lab, "one", "192.0.2.1", [1, 2, 3])?;
        let two = hypervisor(lab, "two", "192.0.2.2", [11, 12, 13])?;
        let net = hypervisor(lab, "net", "192.0.2.3", [21, 22, 23])?;
        for h in [&one, &two, &net] {
            h.join_provider()?;
        }
        let a1 = one.instance(lab, "a1", 1, 1, "")?;
        let a2 = one.instance(lab, "a2", 2, 1, "192.168.1.12/24")?;
        let b1 = two.instance(lab, "b1", 3, 1, "192.168.1.13/24")?;
        let c1 = two.instance(lab, "c1", 4, 2, "192.168.2.14/24")?;
        let v1 = one.instance(lab, "v1", 5, 3, "10.3.0.1/24")?;
        let v2 = two.instance(lab, "v2", 6, 3, "10.3.0.2/24")?;
        for (i, via) in [(&a2, "192.168.1.1"), (&b1, "192.168.1.1"), (&c1, "192.168.2.1")] {
            i.node.run(&["ip", "route", "add", "default", "via", via])?;
        }
        net.daemon.run("add-br br-ex")?;
        let out = outside(lab, &net)?;
        let dhcp = dhcp_server(lab, &net)?;
        let [t1, t2, _] = net.tags;
        net.daemon.run(&format!(
            "add-router r -- add-router-port r br-int r-1 ip=192.168.1.1/24 tag={t1} mtu=1450 \
             -- add-router-port r br-int r-2 ip=192.168.2.1/24 tag={t2} mtu=1450 \
             -- set-gateway r br-ex r-ext ip=203.0.113.101/24 via=203.0.113.1 \
             -- add-snat r 192.168.1.0/24 203.0.113.101 -- add-snat r 192.168.2.0/24 203.0.113.101"
        ))?;
        http::serve(&out.node, 80)?;
        http::serve(&b1.node, 80)?;
        let mut cloud = Cloud { one, two, net, a1, a2, b1, c1, v1, v2, out, _dhcp: dhcp };
        cloud.tunnels(Tunnels::Vxlan)?;
        cloud.a1.address = cloud.lease()?;
        Ok(cloud)
    }

    /// Join the nodes by tunnels of this kind, in place of those before.
    pub fn tunnels(&self, tunnels: Tunnels) -> Result<()> {
        let all = [&self.one, &self.two, &self.net];
        for h in all {
            let mut others = all.iter().filter(|o| o.address != h.address).map(|o| o.address);
            let pair = [others.next().unwrap_or_default(), others.next().unwrap_or_default()];
            h.join_tunnels(tunnels, pair)?;
        }
        Ok(())
    }

    /// Have a1 ask for an address by DHCP; the address.
    fn lease(&self) -> Result<String> {
        const SCRIPT: &str = "#!/bin/sh\n[ \"$1\" = bound ] || exit 0\n\
            ip addr add \"$ip/$mask\" dev \"$interface\"\n\
            ip route replace default via \"${router%% *}\"\n";
        let script = std::path::Path::new("/run/lab/udhcpc");
        std::fs::write(script, SCRIPT)?;
        cmd::run(&["chmod", "755", "/run/lab/udhcpc"])?;
        wait::until("a1 gets an address by DHCP", || {
            #[rustfmt::skip]
            let out = self.a1.node.output(&[
                "udhcpc", "-f", "-q", "-n", "-i", "eth0", "-t", "3", "-T", "1",
                "-s", "/run/lab/udhcpc",
            ])?;
            Ok(out.status == 0)
        })?;
        let text = self.a1.node.run(&["ip", "-4", "-o", "addr", "show", "dev", "eth0"])?;
        let cidr = text.split_whitespace().skip_while(|w| *w != "inet").nth(1);
        let cidr = cidr.context("a1 has no address")?;
        ensure!(cidr.starts_with("192.168.1."), "a1 got {cidr}");
        Ok(cidr.split('/').next().unwrap_or_default().to_owned())
    }
}

/// The host outside, on br-ex.
fn outside(lab: &Lab, net: &Hypervisor) -> Result<Instance> {
    let node = lab.node("out")?;
    #[rustfmt::skip]
    cmd::run(&[
        "ip", "link", "add", "name", "ext0", "netns", &net.node.name, "type", "veth",
        "peer", "name", "eth0", "netns", &node.name,
    ])?;
    net.node.run(&["ip", "link", "set", "dev", "ext0", "up"])?;
    let mac = Mac([2, 0, 0, 0, 9, 99]);
    node.run(&["ip", "link", "set", "dev", "eth0", "address", &mac.to_string(), "up"])?;
    node.run(&["ip", "addr", "add", "203.0.113.1/24", "dev", "eth0"])?;
    net.daemon.run("add-port br-ex ext0")?;
    Ok(Instance { node, mac, address: "203.0.113.1".to_owned() })
}

/// dnsmasq on an internal port of the network node that was moved into a namespace.
fn dhcp_server(lab: &Lab, net: &Hypervisor) -> Result<Background> {
    let node = lab.node("dhcp")?;
    net.daemon.run(&format!("add-port br-int dhcp1 type=internal tag={}", net.tags[0]))?;
    net.node.run(&["ip", "link", "set", "dev", "dhcp1", "netns", "dhcp"])?;
    node.run(&["ip", "addr", "add", "192.168.1.2/24", "dev", "dhcp1"])?;
    node.run(&["ip", "link", "set", "dev", "dhcp1", "up"])?;
    node.start(&[
        "dnsmasq",
        "--keep-in-foreground",
        "--port=0",
        "--interface=dhcp1",
        "--bind-interfaces",
        "--user=root",
        "--leasefile-ro",
        "--pid-file=/run/lab/dnsmasq.pid",
        "--conf-file=/dev/null",
        "--dhcp-range=192.168.1.100,192.168.1.199,255.255.255.0,1h",
        "--dhcp-option=option:router,192.168.1.1",
    ])
}
