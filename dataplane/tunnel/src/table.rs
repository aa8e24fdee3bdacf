//! Which tunnel port does a received packet belong to?
//!
//! Several ports share a UDP port (or GRE), told apart by tunnel id and addresses, each of which a
//! port fixes or leaves to its flows. As in Open vSwitch, the more a port fixes the earlier it is
//! asked: ports that fix the id come first, among them those that fix the remote address, among
//! them those that fix the local address, then those that take any, then those that leave it to
//! flows. That makes twelve maps, each one hash lookup, whatever the number of tunnels.
//!
//! A clone shares structure with what it was cloned from, so that a change costs O(log n).
//!
//! Must not know: what a port is beyond the value stored for it.

use std::net::IpAddr;

use flow::{Field, FlowKey};

use crate::config::{Key, Kind, Local, Remote, TunnelConfig};

/// Fixed or flow id × fixed or flow remote × fixed, any or flow local address.
const MAPS: usize = 12;

/// What a port fixes; zero where it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Fixed {
    kind: Kind,
    port: u16,
    id: u64,
    remote: u128,
    local: u128,
}

/// Tunnel ports of type `T` by what they fix.
#[derive(Clone, Debug)]
pub struct TunnelTable<T> {
    maps: [imbl::HashMap<Fixed, T>; MAPS],
}

impl<T: Clone> Default for TunnelTable<T> {
    fn default() -> Self {
        TunnelTable { maps: std::array::from_fn(|_| imbl::HashMap::new()) }
    }
}

/// An address as one number, IPv4 mapped into IPv6 (RFC 4291 section 2.5.5.2).
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped().into(),
        IpAddr::V6(a) => a.into(),
    }
}

/// The place of a configuration: its map and the key in it.
fn place(c: &TunnelConfig) -> (usize, Fixed) {
    let (id_flow, id) = match c.in_key {
        Key::None => (0, 0),
        Key::Number(n) => (0, n),
        Key::Flow => (1, 0),
    };
    let (remote_flow, remote) = match c.remote {
        Remote::Address(a) => (0, number(a)),
        Remote::Flow => (1, 0),
    };
    let (local_type, local) = match c.local {
        Local::Address(a) => (0, number(a)),
        Local::Any => (1, 0),
        Local::Flow => (2, 0),
    };
    let map = id_flow * 6 + remote_flow * 3 + local_type;
    (map, Fixed { kind: c.kind, port: c.dst_port, id, remote, local })
}

impl<T: Clone> TunnelTable<T> {
    /// Add a port.
    ///
    /// # Errors
    /// The port that has the same configuration already; the table is unchanged then.
    pub fn insert(&mut self, config: &TunnelConfig, port: T) -> Result<(), T> {
        let (map, fixed) = place(config);
        if let Some(other) = self.maps[map].get(&fixed) {
            return Err(other.clone());
        }
        self.maps[map].insert(fixed, port);
        Ok(())
    }

    /// The port with the same keys and addresses, if there is one.
    pub fn get(&self, config: &TunnelConfig) -> Option<&T> {
        let (map, fixed) = place(config);
        self.maps[map].get(&fixed)
    }

    /// Take the port with that configuration out.
    pub fn remove(&mut self, config: &TunnelConfig) -> Option<T> {
        let (map, fixed) = place(config);
        self.maps[map].remove(&fixed)
    }

    /// Number of ports.
    pub fn len(&self) -> usize {
        self.maps.iter().map(imbl::HashMap::len).sum()
    }

    /// Whether there is no port.
    pub fn is_empty(&self) -> bool {
        self.maps.iter().all(imbl::HashMap::is_empty)
    }

    /// The port that a packet received as `kind` on UDP port `port` (0 for GRE) belongs to, by
    /// the tunnel fields of its key. Bits of the key that were consulted are set in `wc`.
    pub fn lookup(&self, kind: Kind, port: u16, key: &FlowKey, wc: &mut FlowKey) -> Option<&T> {
        let v4 = key.get(Field::TunSrc) != 0 || key.get(Field::TunDst) != 0;
        let address = |four, six| match v4 {
            true => 0xffff << 32 | key.get(four),
            false => key.get(six),
        };
        let id = key.get64(Field::TunId);
        // Received: what was sent from the remote address is the packet's source.
        let remote = address(Field::TunSrc, Field::TunIpv6Src);
        let local = address(Field::TunDst, Field::TunIpv6Dst);
        for (i, map) in self.maps.iter().enumerate() {
            if map.is_empty() {
                continue;
            }
            let mut fixed = Fixed { kind, port, id: 0, remote: 0, local: 0 };
            if i < 6 {
                fixed.id = id;
                wc.set(Field::TunId, u128::MAX);
            }
            if i % 6 < 3 {
                fixed.remote = remote;
                consulted(wc, v4, Field::TunSrc, Field::TunIpv6Src);
            }
            if i % 3 == 0 {
                fixed.local = local;
                consulted(wc, v4, Field::TunDst, Field::TunIpv6Dst);
            }
            if let Some(port) = map.get(&fixed) {
                return Some(port);
            }
        }
        None
    }
}

/// An address was looked at. That both IPv4 fields are zero is what makes an address IPv6.
fn consulted(wc: &mut FlowKey, v4: bool, four: Field, six: Field) {
    if v4 {
        wc.set(four, u128::MAX);
        return;
    }
    wc.set(Field::TunSrc, u128::MAX);
    wc.set(Field::TunDst, u128::MAX);
    wc.set(six, u128::MAX);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(kind: &str, options: &[(&str, &str)]) -> TunnelConfig {
        TunnelConfig::new(kind, options.iter().copied()).unwrap().unwrap()
    }

    fn received(id: u64, remote: &str, local: &str) -> FlowKey {
        let mut k = FlowKey::default();
        k.set(Field::TunId, id.into());
        for (text, four, six) in
            [(remote, Field::TunSrc, Field::TunIpv6Src), (local, Field::TunDst, Field::TunIpv6Dst)]
        {
            match text.parse().unwrap() {
                IpAddr::V4(a) => k.set(four, u32::from(a).into()),
                IpAddr::V6(a) => k.set(six, a.into()),
            }
        }
        k
    }

    #[test]
    fn the_order_of_open_vswitch() {
        let r = ("remote_ip", "10.0.0.2");
        let l = ("local_ip", "10.0.0.1");
        let (rf, lf) = (("remote_ip", "flow"), ("local_ip", "flow"));
        let (k, kf) = (("key", "7"), ("key", "flow"));
        let ordered: Vec<TunnelConfig> = [
            &[k, r, l][..],
            &[k, r],
            &[k, rf, l],
            &[k, rf],
            &[k, rf, lf],
            &[kf, r, l],
            &[kf, r],
            &[kf, rf, l],
            &[kf, rf],
            &[kf, rf, lf],
        ]
        .map(|options| config("vxlan", options))
        .into();
        let key = received(7, "10.0.0.2", "10.0.0.1");
        let mut table = TunnelTable::default();
        for (i, c) in ordered.iter().enumerate() {
            table.insert(c, i).unwrap();
        }
        assert_eq!(table.len(), ordered.len());
        for (i, c) in ordered.iter().enumerate() {
            let mut wc = FlowKey::default();
            assert_eq!(table.lookup(Kind::Vxlan, 4789, &key, &mut wc), Some(&i));
            assert_eq!(table.lookup(Kind::Vxlan, 4790, &key, &mut wc), None);
            assert_eq!(table.lookup(Kind::Geneve, 4789, &key, &mut wc), None);
            assert_eq!(table.insert(c, 99), Err(i));
            assert_eq!(table.remove(c), Some(i));
            assert_eq!(table.remove(c), None);
        }
        assert!(table.is_empty());
    }

    #[test]
    fn only_what_mattered_is_consulted() {
        let mut table = TunnelTable::default();
        table.insert(&config("vxlan", &[("remote_ip", "10.0.0.2"), ("key", "flow")]), 1).unwrap();
        let mut wc = FlowKey::default();
        let key = received(7, "10.0.0.2", "10.0.0.1");
        assert_eq!(table.lookup(Kind::Vxlan, 4789, &key, &mut wc), Some(&1));
        let mut want = FlowKey::default();
        want.set(Field::TunSrc, u128::MAX);
        assert_eq!(wc, want, "not the id, not the local address");
    }

    #[test]
    fn no_key_is_key_0() {
        let mut table = TunnelTable::default();
        table.insert(&config("gre", &[("remote_ip", "2001:db8::2")]), 1).unwrap();
        let mut wc = FlowKey::default();
        let hit = received(0, "2001:db8::2", "2001:db8::1");
        assert_eq!(table.lookup(Kind::Gre, 0, &hit, &mut wc), Some(&1));
        let miss = received(1, "2001:db8::2", "2001:db8::1");
        assert_eq!(table.lookup(Kind::Gre, 0, &miss, &mut wc), None);
    }

    const ADDRESSES: [&str; 4] = ["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"];

    fn any_config() -> impl Strategy<Value = TunnelConfig> {
        (0..5usize, 0..6usize, 0..4usize).prop_filter_map("one family", |(r, l, k)| {
            let remote = ADDRESSES.get(r).copied().unwrap_or("flow");
            let mut options = vec![("remote_ip", remote)];
            match l {
                4 => options.push(("local_ip", "flow")),
                5 => {}
                l => options.push(("local_ip", ADDRESSES[l])),
            }
            match k {
                0 => {}
                1 => options.push(("in_key", "1")),
                2 => options.push(("in_key", "2")),
                _ => options.push(("in_key", "flow")),
            }
            TunnelConfig::new("vxlan", options).unwrap().ok()
        })
    }

    fn fits(c: &TunnelConfig, id: u64, remote: IpAddr, local: IpAddr) -> bool {
        let id_fits = match c.in_key {
            Key::None => id == 0,
            Key::Number(n) => id == n,
            Key::Flow => true,
        };
        id_fits
            && (c.remote == Remote::Flow || c.remote == Remote::Address(remote))
            && (matches!(c.local, Local::Flow | Local::Any) || c.local == Local::Address(local))
    }

    proptest! {
        #[test]
        fn same_as_asking_each(
            configs in prop::collection::vec(any_config(), 0..20),
            id in 0u64..4, six: bool, r in 0..2usize, l in 0..2usize, noise: u128,
        ) {
            let mut table = TunnelTable::default();
            let mut kept: Vec<&TunnelConfig> = Vec::new();
            for c in &configs {
                if table.insert(c, kept.len()).is_ok() {
                    kept.push(c);
                }
            }
            let (r, l) = (ADDRESSES[r + 2 * usize::from(six)], ADDRESSES[l + 2 * usize::from(six)]);
            let key = received(id, r, l);
            let mut wc = FlowKey::default();
            let found = table.lookup(Kind::Vxlan, 4789, &key, &mut wc).copied();
            let (r, l) = (r.parse().unwrap(), l.parse().unwrap());
            let best = kept.iter().enumerate().filter(|(_, c)| fits(c, id, r, l))
                .min_by_key(|(_, c)| place(c).0).map(|(i, _)| i);
            prop_assert_eq!(found, best);
            // Any other key that agrees on what was consulted finds the same.
            let mut other = FlowKey::default();
            for f in [Field::TunId, Field::TunSrc, Field::TunDst, Field::TunIpv6Src, Field::TunIpv6Dst] {
                let m = wc.get(f);
                other.set(f, key.get(f) & m | noise & !m);
            }
            let mut ignored = FlowKey::default();
            prop_assert_eq!(table.lookup(Kind::Vxlan, 4789, &other, &mut ignored).copied(), found);
        }
    }

    #[test]
    fn thousands_share_structure() {
        let mut table = TunnelTable::default();
        for i in 0..4000u32 {
            let remote = std::net::Ipv4Addr::from(0x0a00_0001 + i).to_string();
            let c = TunnelConfig::new("vxlan", [("remote_ip", remote.as_str()), ("key", "flow")]);
            table.insert(&c.unwrap().unwrap(), i).unwrap();
        }
        let before = table.clone();
        let mut wc = FlowKey::default();
        let key = received(123_456, "10.0.8.1", "10.9.9.9");
        assert_eq!(table.lookup(Kind::Vxlan, 4789, &key, &mut wc), Some(&2048));
        let c = config("vxlan", &[("remote_ip", "10.0.8.1"), ("key", "flow")]);
        table.remove(&c);
        assert_eq!(table.lookup(Kind::Vxlan, 4789, &key, &mut wc), None);
        assert_eq!(before.lookup(Kind::Vxlan, 4789, &key, &mut wc), Some(&2048));
    }
}
