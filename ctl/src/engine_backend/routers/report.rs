//! `show-router`.

use crate::config::{Config, RouterPort};
use crate::engine_backend::EngineBackend;
use crate::error::CtlError;
use crate::report::router::{
    DnatReport, FloatingReport, NeighbourReport, RouteReport, RouterPortReport, RouterReport,
    SnatReport,
};

fn text<T: ToString>(list: &[T]) -> Vec<String> {
    list.iter().map(T::to_string).collect()
}

impl EngineBackend {
    /// A router as it is configured, and its neighbours.
    pub(in crate::engine_backend) fn router_report(
        &self,
        config: &Config,
        name: &str,
    ) -> Result<RouterReport, CtlError> {
        let router = config.router(name)?;
        let port = |(name, p): (&String, &RouterPort)| RouterPortReport {
            name: name.clone(),
            bridge: p.bridge.clone(),
            number: p.number,
            ip: text(&p.ip),
            mac: p.mac.to_string(),
            mtu: p.mtu,
            tag: config.find_port(name).and_then(|(_, p)| p.settings.tag),
            via: text(&p.via),
            ra: p.ra.map(|ra| ra.to_string()),
        };
        let mut report = RouterReport {
            name: name.to_owned(),
            zone: router.zone(),
            hairpin_zone: router.hairpin_zone(),
            ports: router.ports.iter().map(port).collect(),
            ..RouterReport::default()
        };
        let routes = router.routes.iter();
        report.routes = routes
            .map(|(p, v)| RouteReport { prefix: p.to_string(), via: v.to_string() })
            .collect();
        let snat = router.snat.iter();
        report.snat = snat
            .map(|(p, a)| SnatReport { prefix: p.to_string(), address: a.to_string() })
            .collect();
        let floating = router.floating.iter();
        report.floating_ips = floating
            .map(|(e, i)| FloatingReport { external: e.to_string(), internal: i.to_string() })
            .collect();
        let dnat = router.dnat.iter().map(|d| DnatReport {
            protocol: d.proto.as_str().to_owned(),
            external: d.external.to_string(),
            internal: d.internal.to_string(),
        });
        report.dnat = dnat.collect();
        let Some(running) = self.routers.all.get(name) else { return Ok(report) };
        let neighbour = |n: tunnel::neigh::Shown| {
            let ports = running.router.ports.iter();
            let port = ports.clone().find(|(_, p)| u32::from(p.number) == n.target.link);
            NeighbourReport {
                port: port.map(|(name, _)| name.clone()).unwrap_or_default(),
                address: n.target.address.to_string(),
                mac: n.mac.map(mac_text),
                state: n.state.name().to_owned(),
                waiting: n.waiting as u64,
            }
        };
        report.neighbours = running.neighbours.iter().map(neighbour).collect();
        report.neighbours.sort_by(|a, b| (&a.port, &a.address).cmp(&(&b.port, &b.address)));
        Ok(report)
    }
}

fn mac_text(mac: u64) -> String {
    let bytes = mac.to_be_bytes();
    bytes[2..].iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":")
}
