//! When does a router advertise itself to IPv6 hosts, and what does it say?
//!
//! As RFC 4861 section 6.2 has it, with its default times: three advertisements 16 s apart when a port
//! begins, then one every 200 to 600 s, sooner for a host that asks, but never two within 3 s, so that a
//! flood of solicitations changes little. A port that ceases says so. Time is counted from any fixed moment.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use flow::build::{compose, multicast_mac};
use flow::extract::{eth_type, ip_proto};
use flow::{Field, FlowKey};

use super::number;
use crate::config::router::Cidr;
use crate::config::{Router, RouterPort};
use crate::engine_backend::EngineBackend;
use crate::schema::RouterAdvert;

/// `MAX_INITIAL_RTR_ADVERTISEMENTS` and `MAX_INITIAL_RTR_ADVERT_INTERVAL`.
const FIRST: u8 = 3;
const FIRST_INTERVAL: Duration = Duration::from_secs(16);
/// `MinRtrAdvInterval` and `MaxRtrAdvInterval`, by default.
const INTERVAL: std::ops::Range<u64> = 200_000..600_000;
/// `MIN_DELAY_BETWEEN_RAS`.
const BETWEEN: Duration = Duration::from_secs(3);
/// `MAX_RA_DELAY_TIME` in milliseconds.
const DELAY: std::ops::Range<u64> = 0..500;
/// `AdvDefaultLifetime`, `AdvValidLifetime` and `AdvPreferredLifetime` in seconds, by default.
const LIFETIME: u16 = 1800;
const VALID: u32 = 2_592_000;
const PREFERRED: u32 = 604_800;
/// Smallest MTU of IPv6 (RFC 8200 section 5).
const LEAST_MTU: u16 = 1280;

/// One port's time.
#[derive(Clone, Copy, Debug)]
struct Clock {
    next: Duration,
    last: Option<Duration>,
    /// Of the first ones, how many are still to be sent.
    first: u8,
}

/// The ports of a router that advertise, by number.
#[derive(Debug, Default)]
pub(super) struct Adverts(BTreeMap<u16, Clock>);

/// Milliseconds out of a range, none of them foreseeable from the ones before.
fn some_of(range: std::ops::Range<u64>) -> Duration {
    let random = flow::key::mix(flow::cpu::cycles() | 1, 0x9e37_79b9_7f4a_7c15);
    Duration::from_millis(range.start + random % (range.end - range.start))
}

impl Adverts {
    /// Follow a change of the configuration: a port that is another now begins anew.
    pub(super) fn follow(&mut self, old: &Router, new: &Router, now: Duration) {
        let before = |p: &RouterPort| old.ports.values().any(|o| o == p);
        let clock = Clock { next: now, last: None, first: FIRST };
        let known = std::mem::take(&mut self.0);
        for port in new.ports.values().filter(|p| p.ra.is_some()) {
            let kept = known.get(&port.number).filter(|_| before(port));
            self.0.insert(port.number, kept.copied().unwrap_or(clock));
        }
    }

    /// A host asks.
    pub(super) fn asked(&mut self, port: u16, now: Duration) {
        if let Some(clock) = self.0.get_mut(&port) {
            let soonest = clock.last.map_or(now, |last| last + BETWEEN);
            clock.next = clock.next.min(soonest.max(now + some_of(DELAY)));
        }
    }

    /// When the next one is to be sent.
    pub(super) fn due(&self) -> Option<Duration> {
        self.0.values().map(|c| c.next).min()
    }

    /// The ports whose time it is.
    fn take(&mut self, now: Duration) -> Vec<u16> {
        let due = self.0.iter_mut().filter(|(_, c)| c.next <= now);
        due.map(|(port, clock)| {
            clock.first = clock.first.saturating_sub(1);
            clock.last = Some(now);
            clock.next = now + if clock.first > 0 { FIRST_INTERVAL } else { some_of(INTERVAL) };
            *port
        })
        .collect()
    }
}

/// A router advertisement by a port (RFC 4861 section 4.2). `lifetime` is for how many seconds it is a
/// default router.
fn message(port: &RouterPort, mode: RouterAdvert, lifetime: u16) -> Vec<u8> {
    const ALL_NODES: u128 = 0xff02 << 112 | 1;
    const ADVERTISEMENT: u128 = 134;
    const HOPS: u32 = 64;
    const MANAGED: u32 = 0x80;
    const OTHER: u32 = 0x40;
    let flags = match mode {
        RouterAdvert::Slaac => 0,
        RouterAdvert::Stateless => OTHER,
        RouterAdvert::Stateful => MANAGED,
    };
    let mut k = FlowKey::default();
    k.set(Field::EthDst, multicast_mac(ALL_NODES).into());
    k.set(Field::EthSrc, number(port.mac).into());
    k.set(Field::EthType, eth_type::IPV6.into());
    k.set(Field::Ipv6Src, port.mac.link_local().into());
    k.set(Field::Ipv6Dst, ALL_NODES);
    k.set(Field::NwProto, ip_proto::ICMPV6.into());
    k.set(Field::NwTtl, 255);
    k.set(Field::TpSrc, ADVERTISEMENT);
    k.set(Field::NdReserved, (HOPS << 24 | flags << 16 | u32::from(lifetime)).into());
    // Reachable time and retransmission timer: not said.
    let mut rest = vec![0; 8];
    rest.extend([1, 1]);
    rest.extend(port.mac.bytes());
    if port.mtu >= LEAST_MTU {
        rest.extend([5, 1, 0, 0]);
        rest.extend(u32::from(port.mtu).to_be_bytes());
    }
    for cidr in &port.ip {
        rest.extend(prefix(cidr, mode));
    }
    compose(&k, &rest)
}

/// The option on a prefix (RFC 4861 section 4.6.2); nothing for IPv4.
fn prefix(cidr: &Cidr, mode: RouterAdvert) -> Vec<u8> {
    const ON_LINK: u8 = 0x80;
    const AUTONOMOUS: u8 = 0x40;
    let IpAddr::V6(network) = cidr.network().address else { return Vec::new() };
    // Interface identifiers have 64 bits (RFC 4862 section 5.5.3, RFC 2464).
    let by_itself = cidr.len == 64 && mode != RouterAdvert::Stateful;
    let flags = ON_LINK | if by_itself { AUTONOMOUS } else { 0 };
    let mut option = vec![3, 4, cidr.len, flags];
    option.extend(VALID.to_be_bytes());
    option.extend(PREFERRED.to_be_bytes());
    option.extend([0; 4]);
    option.extend(network.octets());
    option
}

impl EngineBackend {
    /// Send the advertisements whose time it is.
    pub(super) fn advertise(&mut self, name: &str) {
        let now = Duration::from_millis(self.now());
        let Some(mut running) = self.routers.all.remove(name) else { return };
        for port in running.adverts.take(now) {
            let found = running.port(port.into());
            if let Some(frame) = found.and_then(|p| Some(message(p, p.ra?, LIFETIME))) {
                self.router_send(&running, port.into(), frame);
            }
        }
        self.routers.all.insert(name.to_owned(), running);
    }

    /// Say of the ports that will not advertise any more that they are no default routers, while they
    /// still can. Should they stay after all, they advertise themselves at once.
    pub(in crate::engine_backend) fn cease_adverts(&mut self, new: &crate::config::Config) {
        let now = Duration::from_millis(self.now());
        let names: Vec<String> = self.routers.all.keys().cloned().collect();
        for name in names {
            let Some(mut running) = self.routers.all.remove(&name) else { continue };
            let after = new.routers.get(&name);
            for (port_name, port) in running.router.ports.clone() {
                let stays = after.and_then(|r| r.ports.get(&port_name));
                let stays = stays.is_some_and(|p| p.ra.is_some() && p.mac == port.mac);
                let Some(mode) = port.ra.filter(|_| !stays) else { continue };
                self.router_send(&running, port.number.into(), message(&port, mode, 0));
                if let Some(clock) = running.adverts.0.get_mut(&port.number) {
                    clock.next = now;
                }
            }
            self.routers.all.insert(name, running);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port() -> RouterPort {
        RouterPort {
            bridge: "b".into(),
            number: 1,
            mac: "02:00:00:00:00:01".parse().expect("an address"),
            ip: vec!["fd00::1/64".parse().expect("v6"), "10.0.0.1/24".parse().expect("v4")],
            mtu: 1450,
            via: Vec::new(),
            ra: Some(RouterAdvert::Slaac),
        }
    }

    #[test]
    fn an_advertisement_is_as_the_rfc_says() {
        let frame = message(&port(), RouterAdvert::Slaac, LIFETIME);
        let mut key = FlowKey::ZERO;
        let off = flow::extract(&frame, frame.len(), &mut key);
        assert_eq!(key.get(Field::TpSrc), 134);
        assert_eq!(key.get(Field::NwTtl), 255);
        assert_eq!(key.get(Field::Ipv6Src) >> 64, 0xfe80_0000_0000_0000);
        let body = &frame[usize::from(off.l4)..];
        assert_eq!(&body[4..8], [64, 0, 7, 8]);
        assert_eq!(&body[16..24], [1, 1, 2, 0, 0, 0, 0, 1], "its own address");
        assert_eq!(&body[24..32], [5, 1, 0, 0, 0, 0, 5, 170], "the MTU");
        assert_eq!(&body[32..36], [3, 4, 64, 0xc0], "a prefix to make addresses of");
        assert_eq!(body.len(), 64, "no IPv4 prefix");
        let stateful = message(&port(), RouterAdvert::Stateful, 0);
        assert_eq!(&stateful[usize::from(off.l4) + 4..][..4], [64, 0x80, 0, 0]);
    }

    #[test]
    fn who_asks_is_answered_soon_but_not_often() {
        let seconds = Duration::from_secs;
        let mut router = Router::default();
        router.ports.insert("p".into(), port());
        let mut adverts = Adverts::default();
        adverts.follow(&Router::default(), &router, seconds(100));
        for at in [100, 116, 132] {
            assert_eq!(adverts.due(), Some(seconds(at)));
            assert_eq!(adverts.take(seconds(at)), [1]);
        }
        let next = adverts.due().expect("a time");
        assert!((seconds(332)..seconds(733)).contains(&next), "{next:?}");
        for _ in 0..1000 {
            adverts.asked(1, seconds(133));
        }
        assert_eq!(adverts.due(), Some(seconds(135)), "3 s after the last");
        adverts.take(seconds(135));
        adverts.asked(1, seconds(200));
        assert!(adverts.due().is_some_and(|t| t < seconds(201)));
        adverts.follow(&router, &router.clone(), seconds(200));
        assert!(adverts.due().is_some_and(|t| t < seconds(201)), "nothing begins anew");
        adverts.follow(&router, &Router::default(), seconds(200));
        assert_eq!(adverts.due(), None);
    }
}
