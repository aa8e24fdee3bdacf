//! Which outer header fields does a packet sent to a tunnel port get?
//!
//! A pure step of translation: from the port's configuration and the packet's key to an
//! [`Outer`], with every bit of the key that mattered noted in the mask.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flow::{Field, FlowKey};

use crate::config::{Field8, Key, Local, Remote, TunnelConfig};
use crate::encap::Outer;
use crate::{ecn, flags};

/// Why a packet cannot be sent into the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// `remote_ip=flow`, and no `tun_dst` or `tun_ipv6_dst` was set.
    #[error("the port has remote_ip=flow, but no flow has set tun_dst or tun_ipv6_dst")]
    NoRemote,
    /// Local and remote address are of two families.
    #[error("the tunnel's local and remote address are of different IP versions")]
    Families,
    /// The id does not fit into the header.
    #[error("the tunnel id {0:#x} does not fit into the tunnel's header")]
    Id(u64),
}

/// The outer header for a packet with that key. The source is `None` where the route decides.
///
/// # Errors
/// See [`SendError`]; the bits that led to it are noted in `wc` too.
pub fn outer(
    config: &TunnelConfig,
    key: &FlowKey,
    wc: &mut FlowKey,
) -> Result<(Outer, Option<IpAddr>), SendError> {
    let dst = match config.remote {
        Remote::Address(a) => a,
        Remote::Flow => {
            address(key, wc, Field::TunDst, Field::TunIpv6Dst).ok_or(SendError::NoRemote)?
        }
    };
    let src = match config.local {
        Local::Address(a) => Some(a),
        Local::Any => None,
        Local::Flow => address(key, wc, Field::TunSrc, Field::TunIpv6Src),
    };
    if src.is_some_and(|s| s.is_ipv6() != dst.is_ipv6()) {
        return Err(SendError::Families);
    }
    let id = match config.out_key {
        Key::None => 0,
        Key::Number(n) => n,
        Key::Flow => {
            wc.set(Field::TunId, u128::MAX);
            key.get64(Field::TunId)
        }
    };
    if id >> config.kind.id_bits() != 0 {
        return Err(SendError::Id(id));
    }
    // Whether the packet is IP was decided by its type.
    wc.set(Field::EthType, u128::MAX);
    let ip = matches!(key.get64(Field::EthType), 0x800 | 0x86dd);
    let (tos, ttl) = tos_ttl(config, key, wc, ip);
    let mut f = 0;
    f |= if config.df { flags::DF } else { 0 };
    f |= if config.csum { flags::CSUM } else { 0 };
    f |= if config.out_key == Key::None { 0 } else { flags::KEY };
    let outer = Outer {
        kind: config.kind,
        dst,
        tos,
        ttl,
        flags: f,
        id,
        seq: config.seq,
        dst_port: config.dst_port,
    };
    Ok((outer, src))
}

fn tos_ttl(config: &TunnelConfig, key: &FlowKey, wc: &mut FlowKey, ip: bool) -> (u8, u8) {
    const DEFAULT_TTL: u8 = 64;
    let inner_tos = if ip { key.get64(Field::NwTos) as u8 } else { 0 };
    let tos = match config.tos {
        Field8::Inherit => inner_tos,
        Field8::Number(n) => n,
    };
    if ip {
        let all = config.tos == Field8::Inherit;
        let bits = if all { 0xff } else { ecn::MASK };
        wc.set(Field::NwTos, wc.get(Field::NwTos) | u128::from(bits));
    }
    let ttl = match config.ttl {
        Field8::Number(n) => n,
        Field8::Inherit if ip => {
            wc.set(Field::NwTtl, u128::MAX);
            key.get64(Field::NwTtl) as u8
        }
        Field8::Inherit => DEFAULT_TTL,
    };
    (ecn::encap(tos, inner_tos), ttl)
}

/// The address that a flow has set; `None` where it has not.
fn address(key: &FlowKey, wc: &mut FlowKey, four: Field, six: Field) -> Option<IpAddr> {
    wc.set(four, u128::MAX);
    let v4 = key.get64(four) as u32;
    if v4 != 0 {
        return Some(Ipv4Addr::from(v4).into());
    }
    wc.set(six, u128::MAX);
    let v6 = key.get(six);
    (v6 != 0).then(|| Ipv6Addr::from(v6).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use proptest::prelude::*;

    fn config(kind: &str, options: &[(&str, &str)]) -> TunnelConfig {
        TunnelConfig::new(kind, options.iter().copied()).unwrap().unwrap()
    }

    fn ip_key(tos: u8, ttl: u8) -> FlowKey {
        let mut k = FlowKey::default();
        k.set(Field::EthType, 0x800);
        k.set(Field::NwTos, tos.into());
        k.set(Field::NwTtl, ttl.into());
        k.set(Field::TunId, 0x1234);
        k
    }

    #[test]
    fn fixed_fields_need_only_ecn() {
        let c = config("vxlan", &[("remote_ip", "10.0.0.2"), ("key", "5"), ("tos", "0xb8")]);
        let mut wc = FlowKey::default();
        let (o, src) = outer(&c, &ip_key(0x2b, 9), &mut wc).unwrap();
        assert_eq!(
            o,
            Outer {
                kind: Kind::Vxlan,
                dst: [10, 0, 0, 2].into(),
                tos: 0xbb,
                ttl: 64,
                flags: flags::DF | flags::KEY,
                id: 5,
                seq: false,
                dst_port: 4789,
            }
        );
        assert_eq!(src, None);
        let mut want = FlowKey::default();
        want.set(Field::EthType, u128::MAX);
        want.set(Field::NwTos, 3);
        assert_eq!(wc, want);
    }

    #[test]
    fn inherited_fields() {
        let options =
            [("remote_ip", "10.0.0.2"), ("key", "flow"), ("tos", "inherit"), ("ttl", "inherit")];
        let c = config("gre", &options);
        let mut wc = FlowKey::default();
        let (o, _) = outer(&c, &ip_key(0x2b, 9), &mut wc).unwrap();
        assert_eq!((o.tos, o.ttl, o.id), (0x2b, 9, 0x1234));
        assert_eq!(wc.get(Field::NwTos), 0xff);
        assert_eq!(wc.get(Field::NwTtl), 0xff);
        let mut arp = ip_key(0, 0);
        arp.set(Field::EthType, 0x806);
        let (o, _) = outer(&c, &arp, &mut wc).unwrap();
        assert_eq!((o.tos, o.ttl), (0, 64));
    }

    #[test]
    fn addresses_from_the_flow() {
        let c = config("vxlan", &[("remote_ip", "flow"), ("local_ip", "flow"), ("key", "flow")]);
        let mut k = ip_key(0, 1);
        let mut wc = FlowKey::default();
        assert_eq!(outer(&c, &k, &mut wc), Err(SendError::NoRemote));
        assert_eq!(wc.get(Field::TunDst), Field::TunDst.full());
        assert_eq!(wc.get(Field::TunIpv6Dst), u128::MAX);
        k.set(Field::TunDst, 0x0a00_0002);
        let (o, src) = outer(&c, &k, &mut wc).unwrap();
        assert_eq!((o.dst, src), ([10, 0, 0, 2].into(), None));
        k.set(Field::TunSrc, 0x0a00_0001);
        assert_eq!(outer(&c, &k, &mut wc).unwrap().1, Some([10, 0, 0, 1].into()));
        k.set(Field::TunDst, 0);
        k.set(Field::TunIpv6Dst, 1);
        assert_eq!(outer(&c, &k, &mut wc), Err(SendError::Families));
        k.set(Field::TunSrc, 0);
        k.set(Field::TunId, 1 << 24);
        assert_eq!(outer(&c, &k, &mut wc), Err(SendError::Id(1 << 24)));
    }

    proptest! {
        /// Keys that agree on what was consulted get the same header.
        #[test]
        fn the_mask_is_wide_enough(
            fields in prop::array::uniform8(any::<u128>()), noise in any::<u128>(), which in 0..4usize, ty in 0..3usize,
        ) {
            let c = [
                config("vxlan", &[("remote_ip", "flow"), ("key", "flow"), ("tos", "inherit")]),
                config("gre", &[("remote_ip", "flow"), ("local_ip", "flow"), ("ttl", "inherit")]),
                config("geneve", &[("remote_ip", "10.0.0.2"), ("out_key", "flow"), ("tos", "4")]),
                config("gre", &[("remote_ip", "fd00::2"), ("local_ip", "fd00::1"), ("key", "1")]),
            ][which].clone();
            let all = [
                Field::TunDst, Field::TunSrc, Field::TunIpv6Dst, Field::TunIpv6Src, Field::TunId,
                Field::NwTos, Field::NwTtl,
            ];
            let mut key = FlowKey::default();
            for (f, v) in all.iter().zip(fields) {
                key.set(*f, if *f == Field::TunId { v >> 106 } else if v & 1 == 0 { 0 } else { v });
            }
            key.set(Field::EthType, [0x800, 0x86dd, 0x806][ty]);
            let mut wc = FlowKey::default();
            let got = outer(&c, &key, &mut wc);
            let mut other = FlowKey::default();
            for f in all.iter().chain([&Field::EthType]) {
                let m = wc.get(*f);
                other.set(*f, key.get(*f) & m | noise & !m);
            }
            let mut ignored = FlowKey::default();
            prop_assert_eq!(outer(&c, &other, &mut ignored), got);
        }
    }
}
