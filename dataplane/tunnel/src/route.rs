//! By which link and next hop is an address reached?
//!
//! Longest prefix first; among equal prefixes a route that a user added to the switch, then the
//! lowest metric. A clone shares structure, so that a change costs O(log n) and a snapshot
//! nothing.
//!
//! Must not know: what a link is (a number: the kernel's interface index, or the caller's own),
//! which neighbour answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address and how many of its bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

/// A text that is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no prefix: expected ADDRESS or ADDRESS/LENGTH, no bit set behind LENGTH")]
pub struct BadPrefix(String);

impl Prefix {
    /// The prefix of `address` of that length, bits behind it cleared; `None` if the length is
    /// more than the address has.
    pub fn new(address: IpAddr, len: u8) -> Option<Prefix> {
        Some(match address {
            IpAddr::V4(a) if len <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                Prefix { address: Ipv4Addr::from(u32::from(a) & mask).into(), len }
            }
            IpAddr::V6(a) if len <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                Prefix { address: Ipv6Addr::from(u128::from(a) & mask).into(), len }
            }
            _ => return None,
        })
    }

    /// Its address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Its length in bits.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u8 {
        self.len
    }

    /// Whether the address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        Prefix::new(address, self.len) == Some(*self)
    }
}

impl std::str::FromStr for Prefix {
    type Err = BadPrefix;

    fn from_str(text: &str) -> Result<Prefix, BadPrefix> {
        let bad = || BadPrefix(text.to_owned());
        let (address, len) = match text.split_once('/') {
            Some((a, l)) if l.bytes().all(|b| b.is_ascii_digit()) => {
                (a, Some(l.parse::<u8>().map_err(|_| bad())?))
            }
            Some(_) => return Err(bad()),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let len = len.unwrap_or(if address.is_ipv4() { 32 } else { 128 });
        let prefix = Prefix::new(address, len).ok_or_else(bad)?;
        if prefix.address == address { Ok(prefix) } else { Err(bad()) }
    }
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

/// Who gave a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// A user, to the switch.
    User,
    /// The kernel's main table.
    Kernel,
}

/// What happens to packets of a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// They leave by a link.
    Forward {
        /// The link's number.
        link: u32,
        /// The next hop; `None` if the destination is on the link.
        via: Option<IpAddr>,
    },
    /// They do not leave (blackhole, unreachable, prohibit).
    Reject,
}

/// One route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Destinations.
    pub prefix: Prefix,
    /// What to do.
    pub action: Action,
    /// Source address that the route prefers.
    pub src: Option<IpAddr>,
    /// Lower is better.
    pub metric: u32,
    /// Largest IP packet, if the route says.
    pub mtu: Option<u32>,
    /// Who gave it.
    pub origin: Origin,
}

impl Route {
    /// Who of the same prefix comes first.
    fn rank(&self) -> (Origin, u32) {
        (self.origin, self.metric)
    }

    /// The address to ask the link for, to reach `dst`.
    pub fn next_hop(&self, dst: IpAddr) -> Option<(u32, IpAddr)> {
        match &self.action {
            Action::Forward { link, via } => Some((*link, via.unwrap_or(dst))),
            Action::Reject => None,
        }
    }
}

/// Routes by prefix.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    /// Routes of a prefix, best first.
    routes: imbl::HashMap<Prefix, Vec<Route>>,
    /// Number of prefixes of each length, IPv4 and IPv6.
    v4: Lengths,
    v6: Lengths,
}

/// How many prefixes have each length, and which lengths there are.
#[derive(Clone, Debug, Default)]
struct Lengths(imbl::OrdMap<u8, u32>);

impl Lengths {
    fn add(&mut self, len: u8) {
        *self.0.entry(len).or_default() += 1;
    }

    fn remove(&mut self, len: u8) {
        if let Some(n) = self.0.get_mut(&len) {
            *n -= 1;
            if *n == 0 {
                self.0.remove(&len);
            }
        }
    }
}

impl RouteTable {
    /// Whether both are the same version of one table.
    pub fn is_same(&self, other: &RouteTable) -> bool {
        self.routes.ptr_eq(&other.routes)
    }

    /// Add a route; one of the same prefix, origin and metric is replaced and returned.
    pub fn insert(&mut self, route: Route) -> Option<Route> {
        let prefix = route.prefix;
        let list = self.routes.entry(prefix).or_default();
        let first = list.is_empty();
        let old = match list.binary_search_by_key(&route.rank(), Route::rank) {
            Ok(at) => Some(std::mem::replace(&mut list[at], route)),
            Err(at) => {
                list.insert(at, route);
                None
            }
        };
        if first {
            self.lengths(prefix.address).add(prefix.len);
        }
        old
    }

    /// Take a route out.
    pub fn remove(&mut self, prefix: Prefix, origin: Origin, metric: u32) -> Option<Route> {
        let list = self.routes.get_mut(&prefix)?;
        let at = list.binary_search_by_key(&(origin, metric), Route::rank).ok()?;
        let old = list.remove(at);
        if list.is_empty() {
            self.routes.remove(&prefix);
            self.lengths(prefix.address).remove(prefix.len);
        }
        Some(old)
    }

    /// Take all routes out that `keep` does not want.
    pub fn retain(&mut self, keep: impl Fn(&Route) -> bool) {
        let gone: Vec<Route> = self.iter().filter(|r| !keep(r)).cloned().collect();
        for r in gone {
            self.remove(r.prefix, r.origin, r.metric);
        }
    }

    fn lengths(&mut self, family: IpAddr) -> &mut Lengths {
        if family.is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }

    /// The best route to an address, and the number of its bits that decided: all addresses that
    /// agree on those have the same route.
    pub fn lookup(&self, dst: IpAddr) -> (Option<&Route>, u8) {
        let lengths = if dst.is_ipv4() { &self.v4 } else { &self.v6 };
        let mut longest = 0;
        for (len, _) in lengths.0.iter().rev() {
            longest = longest.max(*len);
            if let Some(prefix) = Prefix::new(dst, *len)
                && let Some(best) = self.routes.get(&prefix).and_then(|list| list.first())
            {
                return (Some(best), longest);
            }
        }
        (None, longest)
    }

    /// All routes, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.routes.values().flatten()
    }

    /// Number of routes.
    pub fn len(&self) -> usize {
        self.routes.values().map(Vec::len).sum()
    }

    /// Whether there is no route.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn route(prefix: &str, link: u32, metric: u32, origin: Origin) -> Route {
        Route {
            prefix: prefix.parse().unwrap(),
            action: Action::Forward { link, via: None },
            src: None,
            metric,
            mtu: None,
            origin,
        }
    }

    #[test]
    fn prefixes_as_text() {
        for good in ["10.0.0.0/8", "0.0.0.0/0", "::/0", "fd00::/8", "10.1.2.3/32", "::1/128"] {
            assert_eq!(good.parse::<Prefix>().unwrap().to_string(), good);
        }
        assert_eq!("10.1.2.3".parse::<Prefix>().unwrap().to_string(), "10.1.2.3/32");
        for bad in [
            "10.0.0.1/8",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/+8",
            "10.0.0/8",
            "/8",
            "x",
            "10.0.0.0/",
        ] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
        let p: Prefix = "10.0.0.0/8".parse().unwrap();
        assert!(p.contains([10, 9, 9, 9].into()) && !p.contains([11, 0, 0, 0].into()));
        assert!(!p.contains("::".parse().unwrap()));
    }

    #[test]
    fn longest_then_user_then_metric() {
        let mut t = RouteTable::default();
        t.insert(route("0.0.0.0/0", 1, 0, Origin::Kernel));
        t.insert(route("10.0.0.0/8", 2, 100, Origin::Kernel));
        t.insert(route("10.0.0.0/8", 3, 50, Origin::Kernel));
        let to =
            |t: &RouteTable, a: [u8; 4]| t.lookup(a.into()).0.and_then(|r| r.next_hop(a.into()));
        assert_eq!(to(&t, [9, 1, 1, 1]), Some((1, [9, 1, 1, 1].into())));
        assert_eq!(to(&t, [10, 1, 1, 1]).map(|r| r.0), Some(3));
        t.insert(route("10.0.0.0/8", 4, 900, Origin::User));
        assert_eq!(to(&t, [10, 1, 1, 1]).map(|r| r.0), Some(4));
        let via = Route {
            action: Action::Forward { link: 5, via: Some([10, 0, 0, 254].into()) },
            ..route("10.1.0.0/16", 0, 0, Origin::Kernel)
        };
        t.insert(via);
        assert_eq!(to(&t, [10, 1, 1, 1]), Some((5, [10, 0, 0, 254].into())));
        t.insert(Route { action: Action::Reject, ..route("10.1.1.1/32", 0, 0, Origin::Kernel) });
        assert_eq!(to(&t, [10, 1, 1, 1]), None);
        assert_eq!(t.lookup("fd00::1".parse().unwrap()), (None, 0));
        let before = t.clone();
        t.retain(|r| r.origin == Origin::User);
        assert_eq!(t.len(), 1);
        assert_eq!(to(&t, [9, 1, 1, 1]), None);
        assert_eq!(before.len(), 6);
        assert_eq!(to(&before, [9, 1, 1, 1]).map(|r| r.0), Some(1));
    }

    fn any_prefix() -> impl Strategy<Value = Prefix> {
        // Few bits, so that prefixes nest.
        let v4 =
            (0u32..64, 0u8..=6).prop_map(|(a, l)| Prefix::new(Ipv4Addr::from(a << 26).into(), l));
        let v6 =
            (0u128..64, 0u8..=6).prop_map(|(a, l)| Prefix::new(Ipv6Addr::from(a << 122).into(), l));
        prop_oneof![v4, v6].prop_map(Option::unwrap)
    }

    proptest! {
        #[test]
        fn same_as_asking_each(
            changes in prop::collection::vec((any_prefix(), 0u32..3, any::<bool>(), 0u32..9, any::<bool>()), 0..60),
            dst in 0u32..64, noise: u32,
        ) {
            let mut table = RouteTable::default();
            let mut list: Vec<Route> = Vec::new();
            for (prefix, metric, user, link, remove) in changes {
                let origin = if user { Origin::User } else { Origin::Kernel };
                let same = |r: &Route| r.prefix == prefix && r.origin == origin && r.metric == metric;
                let old = list.iter().position(same).map(|i| list.remove(i));
                if remove {
                    prop_assert_eq!(table.remove(prefix, origin, metric), old);
                } else {
                    let r = Route { prefix, ..route("::/0", link, metric, origin) };
                    prop_assert_eq!(table.insert(r.clone()), old);
                    list.push(r);
                }
            }
            prop_assert_eq!(table.len(), list.len());
            prop_assert_eq!(table.is_empty(), list.is_empty());
            for dst in [IpAddr::V4((dst << 26).into()), IpAddr::V6((u128::from(dst) << 122).into())] {
                let best = list.iter().filter(|r| r.prefix.contains(dst))
                    .min_by_key(|r| (255 - r.prefix.len(), r.rank()));
                let (found, bits) = table.lookup(dst);
                prop_assert_eq!(found, best);
                let near = match dst {
                    IpAddr::V4(a) => {
                        let m = u32::MAX.checked_shr(bits.into()).unwrap_or(0);
                        IpAddr::V4((u32::from(a) & !m | noise & m).into())
                    }
                    IpAddr::V6(a) => {
                        let m = u128::MAX.checked_shr(bits.into()).unwrap_or(0);
                        let noise = u128::from(noise) << 96 | u128::from(noise);
                        IpAddr::V6((u128::from(a) & !m | noise & m).into())
                    }
                };
                prop_assert_eq!(table.lookup(near), (best, bits));
            }
        }
    }
}
