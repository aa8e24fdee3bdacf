//! Which tuple does a new connection get?
//!
//! A [`Search`] gives candidates for the reply direction's tuple, one after the other, best
//! first; the tracker takes the first that it can put into its index. Ports are kept where they
//! are free. A range of up to [`MAX_TRIES`] tuples is searched whole; of larger ones as many are
//! tried from a place that depends on the connection, so that a nearly full range costs a bounded
//! time.
//!
//! Must not know: which tuples are taken.

use flow::extract::ip_proto;
use flow::key::mix;

use super::spec::{Choice, NatSpec, Side};
use crate::tuple::Tuple;

/// Candidates that are tried before the range counts as exhausted.
pub(crate) const MAX_TRIES: u32 = 4096;
/// Candidates that are tried while the range was found exhausted a moment ago.
pub(crate) const TRIES_WHEN_EXHAUSTED: u32 = 32;

/// Whether the protocol has something that can be changed to tell connections apart.
fn has_ports(t: &Tuple) -> bool {
    t.is_icmp() || matches!(t.proto(), ip_proto::TCP | ip_proto::UDP | ip_proto::SCTP)
}

/// The ports that may stand for this one: privileged for privileged, as hosts may insist on it.
fn class(t: &Tuple, port: u16) -> (u16, u16) {
    match port {
        _ if t.is_icmp() => (0, u16::MAX),
        0..=511 => (1, 511),
        512..=1023 => (600, 1023),
        _ => (1024, u16::MAX),
    }
}

/// Candidates for a new connection's reply tuple.
#[derive(Debug)]
pub(crate) struct Search {
    orig: Tuple,
    side: Side,
    /// First address, how many there are (at most 2^32), and with which the search begins.
    base: u128,
    count: u64,
    start: u64,
    /// Ports to be searched, where in them, and whether the packet's own goes first.
    ports: (u16, u16),
    from: u32,
    own_first: bool,
    /// Candidates of one address, of all, and how far the search is.
    per_address: u32,
    tries: u32,
    tried: u32,
    address: u64,
    port: u32,
}

impl Search {
    /// A search for `orig`; `None` if the addresses wanted are of another family. The place to
    /// begin at is a hash of the tuple under `seed`, or `random` if that is given.
    pub(crate) fn new(
        orig: &Tuple,
        spec: Option<&NatSpec>,
        seed: u64,
        random: Option<u64>,
        tries: u32,
    ) -> Option<Search> {
        let side = spec.map_or(Side::Src, |s| s.side);
        let own = if side == Side::Dst { orig.dst() } else { orig.src() };
        let (mut base, mut count, mut start) = (own, 1, 0);
        if let Some(NatSpec { addresses: Some(a), persistent, .. }) = spec {
            if a.v6 != orig.is_v6() {
                return None;
            }
            base = a.min;
            count = (a.max - a.min).min(u128::from(u32::MAX)) as u64 + 1;
            let whom = if *persistent { 0 } else { folded(orig.dst()) };
            start = mix(folded(orig.src()) ^ seed, whom ^ 0xe703_7ed1_a0b4_28db) % count;
        }
        let own_port = own_port(orig, side);
        let ports = spec.map_or((own_port, own_port), |s| range(orig, s));
        let size = u32::from(ports.1 - ports.0) + 1;
        let wants_random = spec.is_some_and(|s| s.choice == Choice::Random);
        let own_first = size > 1 && !wants_random && (ports.0..=ports.1).contains(&own_port);
        let from = (random.unwrap_or_else(|| orig.hash(!seed)) >> 16) as u32 % size;
        let mut per_address = size + u32::from(own_first);
        if count > 1 {
            // Of many addresses no single one may use up all tries.
            per_address = per_address.min((tries / 4).max(1));
        }
        Some(Search {
            orig: *orig,
            side,
            base,
            count,
            start,
            ports,
            from,
            own_first,
            per_address,
            tries,
            tried: 0,
            address: 0,
            port: 0,
        })
    }

    /// What tells the range of this search from others, for remembering that it is exhausted.
    pub(crate) fn range_id(&self, seed: u64) -> u64 {
        let o = &self.orig;
        let what = u64::from(o.proto()) << 48 | u64::from(o.dport()) << 32;
        let ports = u64::from(self.ports.0) << 16 | u64::from(self.ports.1);
        let whom = folded(o.dst()) ^ what;
        mix(mix(folded(self.base) ^ seed, whom), ports ^ u64::from(o.zone()) << 32 | 1 << 63)
    }

    /// The tuple of a packet that has been given this address and port.
    fn translated(&self, address: u128, port: u16) -> Tuple {
        match self.side {
            Side::Src => self.orig.with_src(address, port),
            Side::Dst => self.orig.with_dst(address, port),
        }
    }

    fn port_at(&self, at: u32) -> u16 {
        if self.own_first && at == 0 {
            return own_port(&self.orig, self.side);
        }
        let size = u32::from(self.ports.1 - self.ports.0) + 1;
        self.ports.0 + ((self.from + at) % size) as u16
    }

    fn address_at(&self, at: u64) -> u128 {
        self.base + u128::from((self.start + at) % self.count)
    }

    /// The destination is given and somebody else's reply tuple is in the way: as a last resort
    /// the source port changes, as by a null binding.
    fn implicit_source(&mut self) -> Option<Tuple> {
        let o = self.orig;
        if self.side != Side::Dst || !has_ports(&o) {
            return None;
        }
        let (low, high) = class(&o, o.sport());
        let size = u64::from(high - low) + 1;
        let at = self.address - self.count;
        if at >= size {
            return None;
        }
        self.address += 1;
        self.tried += 1;
        let sport = low + ((u64::from(self.from) + at) % size) as u16;
        let translated = self.translated(self.address_at(0), self.port_at(0));
        Some(translated.with_src(o.src(), sport).inverse())
    }
}

impl Iterator for Search {
    type Item = Tuple;

    /// The next candidate for the reply direction's tuple.
    fn next(&mut self) -> Option<Tuple> {
        if self.tried >= self.tries {
            return None;
        }
        if self.address >= self.count {
            return self.implicit_source();
        }
        let t = self.translated(self.address_at(self.address), self.port_at(self.port));
        self.tried += 1;
        self.port += 1;
        if self.port >= self.per_address {
            self.port = 0;
            self.address += 1;
        }
        Some(t.inverse())
    }
}

fn folded(address: u128) -> u64 {
    (address >> 64) as u64 ^ address as u64
}

fn own_port(orig: &Tuple, side: Side) -> u16 {
    if side == Side::Dst { orig.dport() } else { orig.sport() }
}

/// The ports to be searched for a translated connection.
fn range(orig: &Tuple, spec: &NatSpec) -> (u16, u16) {
    let own = own_port(orig, spec.side);
    if !has_ports(orig) {
        return (own, own);
    }
    match (spec.ports, spec.side) {
        (Some(ports), Side::Src) => ports,
        (Some(ports), Side::Dst) if !orig.is_icmp() => ports,
        (None, Side::Src) => class(orig, own),
        // A destination's port is a service: it is never changed unless asked for.
        _ => (own, own),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::AddressRange;
    use std::collections::HashSet;

    const UDP: u8 = 17;

    fn orig() -> Tuple {
        Tuple::v4(1, UDP, 0x0a00_0001, 0x0808_0808, 5000, 53)
    }

    fn spec(side: Side, last: &str, ports: Option<(u16, u16)>, choice: Choice) -> NatSpec {
        let first = "203.0.113.1".parse().unwrap();
        let range = AddressRange::new(first, last.parse().unwrap()).unwrap();
        NatSpec::new(side, Some(range), ports, choice, false).unwrap()
    }

    fn all(s: &NatSpec) -> Vec<Tuple> {
        Search::new(&orig(), Some(s), 7, None, MAX_TRIES).unwrap().collect()
    }

    #[test]
    fn own_port_goes_first_and_a_small_range_is_searched_whole() {
        let c = all(&spec(Side::Src, "203.0.113.1", Some((4990, 5009)), Choice::Hash));
        assert_eq!(c[0], Tuple::v4(1, UDP, 0x0808_0808, 0xcb00_7101, 53, 5000));
        let ports: HashSet<u16> = c.iter().map(Tuple::dport).collect();
        assert_eq!(ports, (4990..=5009).collect());
        assert_eq!(c.len(), 21, "each once, and the own one first");
    }

    #[test]
    fn every_address_of_a_range_gets_its_turn() {
        let c = all(&spec(Side::Src, "203.0.113.4", Some((10, 19)), Choice::Random));
        let tuples: HashSet<_> = c.iter().map(|t| (t.dst(), t.dport())).collect();
        assert_eq!((c.len(), tuples.len()), (40, 40));
        let c = all(&spec(Side::Src, "203.0.113.4", None, Choice::Hash));
        assert_eq!(c.len(), MAX_TRIES as usize);
        assert_eq!(c.iter().map(Tuple::dst).collect::<HashSet<_>>().len(), 4);
    }

    #[test]
    fn privileged_ports_stay_privileged() {
        let mut o = orig();
        for (port, low, high) in [(53, 1, 511), (700, 600, 1023), (1024, 1024, 65535)] {
            o = o.with_src(o.src(), port);
            let s = spec(Side::Src, "203.0.113.1", None, Choice::Hash);
            let c: Vec<_> = Search::new(&o, Some(&s), 7, None, MAX_TRIES).unwrap().collect();
            assert_eq!(c[0].dport(), port);
            assert!(c.iter().all(|t| (low..=high).contains(&t.dport())));
        }
    }

    #[test]
    fn a_destination_is_kept_and_the_source_port_gives_way() {
        let c = all(&spec(Side::Dst, "203.0.113.1", None, Choice::Hash));
        assert_eq!(c[0], Tuple::v4(1, UDP, 0xcb00_7101, 0x0a00_0001, 53, 5000));
        assert!(c.iter().all(|t| t.src() == 0xcb00_7101 && t.sport() == 53));
        assert!(c[1..].iter().all(|t| t.dst() == 0x0a00_0001 && t.dport() >= 1024));
    }

    #[test]
    fn nothing_is_changed_that_need_not_be() {
        let c: Vec<_> = Search::new(&orig(), None, 7, None, MAX_TRIES).unwrap().collect();
        assert_eq!(c, [orig().inverse()]);
        let null = NatSpec::new(Side::Src, None, None, Choice::Hash, false).unwrap();
        assert_eq!(all(&null)[0], orig().inverse());
        let gre = Tuple::v4(1, 47, 1, 2, 0, 9);
        let s = spec(Side::Src, "203.0.113.1", None, Choice::Hash);
        let c: Vec<_> = Search::new(&gre, Some(&s), 7, None, MAX_TRIES).unwrap().collect();
        assert_eq!(c, [Tuple::v4(1, 47, 2, 0xcb00_7101, 0, 9)]);
    }

    #[test]
    fn another_family_has_no_candidates() {
        let o = Tuple::v6(1, UDP, 1, 2, 3, 4);
        let s = spec(Side::Src, "203.0.113.1", None, Choice::Hash);
        assert!(Search::new(&o, Some(&s), 7, None, MAX_TRIES).is_none());
    }
}
