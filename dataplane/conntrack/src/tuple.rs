//! What names one direction of a connection?
//!
//! A [`Tuple`] is zone, protocol, addresses and what the protocol has for ports, in five words
//! that compare and hash as they are. The other direction's tuple is its [`Tuple::inverse`].
//!
//! Ports are: those of TCP, UDP and SCTP; for ICMP queries the identifier (`sport`) with type and
//! code (`dport`); for GRE the key in both (`key >> 16`, `key & 0xffff`); 0 for all others.
//!
//! Must not know: packets, entries.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flow::extract::ip_proto;
use flow::key::mix;

/// Zone, protocol, addresses and ports of one direction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Tuple {
    /// sport:16, dport:16, zone:16, proto:8, IP version:8.
    pub(crate) ports: u64,
    /// IPv4: source:32, destination:32 in the first word, and zeros. IPv6: source, destination.
    pub(crate) addresses: [u64; 4],
}

impl Tuple {
    /// A tuple of IPv4 addresses, as numbers.
    #[inline(always)]
    pub fn v4(zone: u16, proto: u8, src: u32, dst: u32, sport: u16, dport: u16) -> Tuple {
        let a = u64::from(src) << 32 | u64::from(dst);
        Tuple { ports: ports_word(zone, proto, 4, sport, dport), addresses: [a, 0, 0, 0] }
    }

    /// A tuple of words as a packet has them: source and destination address, both ports.
    #[inline(always)]
    pub(crate) fn v4_words(zone: u16, proto: u8, addresses: u64, ports: u32) -> Tuple {
        let low = u64::from(zone) << 16 | u64::from(proto) << 8 | 4;
        Tuple { ports: u64::from(ports) << 32 | low, addresses: [addresses, 0, 0, 0] }
    }

    /// A tuple of IPv6 addresses, as numbers.
    #[inline(always)]
    pub fn v6(zone: u16, proto: u8, src: u128, dst: u128, sport: u16, dport: u16) -> Tuple {
        let addresses = [(src >> 64) as u64, src as u64, (dst >> 64) as u64, dst as u64];
        Tuple { ports: ports_word(zone, proto, 6, sport, dport), addresses }
    }

    /// A tuple of addresses of one family; `None` if they are of two.
    pub fn new(zone: u16, proto: u8, src: (IpAddr, u16), dst: (IpAddr, u16)) -> Option<Tuple> {
        match (src.0, dst.0) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                Some(Tuple::v4(zone, proto, s.into(), d.into(), src.1, dst.1))
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                Some(Tuple::v6(zone, proto, s.into(), d.into(), src.1, dst.1))
            }
            _ => None,
        }
    }

    /// Whether the addresses are IPv6.
    #[inline(always)]
    pub fn is_v6(&self) -> bool {
        self.ports as u8 == 6
    }
    /// The IP protocol.
    #[inline(always)]
    pub fn proto(&self) -> u8 {
        (self.ports >> 8) as u8
    }
    /// The connection tracking zone.
    #[inline(always)]
    pub fn zone(&self) -> u16 {
        (self.ports >> 16) as u16
    }
    /// Source port; see the module's head for other protocols.
    #[inline(always)]
    pub fn sport(&self) -> u16 {
        (self.ports >> 48) as u16
    }
    /// Destination port; see the module's head for other protocols.
    #[inline(always)]
    pub fn dport(&self) -> u16 {
        (self.ports >> 32) as u16
    }
    /// Source address as a number, IPv4 in the low 32 bits.
    #[inline(always)]
    pub fn src(&self) -> u128 {
        let a = &self.addresses;
        if self.is_v6() {
            u128::from(a[0]) << 64 | u128::from(a[1])
        } else {
            u128::from(a[0] >> 32)
        }
    }
    /// Destination address as a number, IPv4 in the low 32 bits.
    #[inline(always)]
    pub fn dst(&self) -> u128 {
        let a = &self.addresses;
        if self.is_v6() {
            u128::from(a[2]) << 64 | u128::from(a[3])
        } else {
            u128::from(a[0] as u32)
        }
    }
    /// Source address.
    pub fn src_ip(&self) -> IpAddr {
        ip(self.is_v6(), self.src())
    }
    /// Destination address.
    pub fn dst_ip(&self) -> IpAddr {
        ip(self.is_v6(), self.dst())
    }

    /// Whether the protocol is ICMP or ICMPv6.
    #[inline(always)]
    pub fn is_icmp(&self) -> bool {
        matches!(self.proto(), ip_proto::ICMP | ip_proto::ICMPV6)
    }

    /// What the match fields `ct_tp_src` and `ct_tp_dst` show: ports, or ICMP's type and code.
    pub fn ct_ports(&self) -> (u16, u16) {
        if self.is_icmp() {
            (self.dport() >> 8, self.dport() & 0xff)
        } else {
            (self.sport(), self.dport())
        }
    }

    /// [`Tuple::ct_ports`] as the high half of a word, the first of them uppermost.
    #[inline(always)]
    pub fn ct_ports_word(&self) -> u64 {
        if self.is_icmp() {
            let (ty, code) = self.ct_ports();
            return u64::from(ty) << 48 | u64::from(code) << 32;
        }
        self.ports >> 32 << 32
    }

    /// Both IPv4 addresses, the source's in the high half; 0 for IPv6.
    #[inline(always)]
    pub fn ipv4_addresses(&self) -> u64 {
        if self.is_v6() { 0 } else { self.addresses[0] }
    }

    /// The tuple of a packet that answers one of this.
    #[inline(always)]
    pub fn inverse(&self) -> Tuple {
        let low = self.ports & 0xffff_ffff;
        let (s, d) = (self.ports >> 48, self.ports >> 32 & 0xffff);
        let ports = match self.proto() {
            ip_proto::GRE => self.ports,
            ip_proto::ICMP | ip_proto::ICMPV6 => {
                s << 48 | u64::from(answer_type(self.proto(), d as u16)) << 32 | low
            }
            _ => d << 48 | s << 32 | low,
        };
        let a = &self.addresses;
        let addresses =
            if self.is_v6() { [a[2], a[3], a[0], a[1]] } else { [a[0].rotate_left(32), 0, 0, 0] };
        Tuple { ports, addresses }
    }

    /// The tuple with another source.
    pub(crate) fn with_src(&self, src: u128, sport: u16) -> Tuple {
        self.rebuilt(src, self.dst(), sport, self.dport())
    }
    /// The tuple with another destination.
    pub(crate) fn with_dst(&self, dst: u128, dport: u16) -> Tuple {
        self.rebuilt(self.src(), dst, self.sport(), dport)
    }
    fn rebuilt(&self, src: u128, dst: u128, sport: u16, dport: u16) -> Tuple {
        if self.is_v6() {
            Tuple::v6(self.zone(), self.proto(), src, dst, sport, dport)
        } else {
            Tuple::v4(self.zone(), self.proto(), src as u32, dst as u32, sport, dport)
        }
    }

    /// A hash under a secret seed.
    #[inline(always)]
    pub(crate) fn hash(&self, seed: u64) -> u64 {
        let a = &self.addresses;
        let h = mix(self.ports ^ seed, a[0] ^ 0x9e37_79b9_7f4a_7c15);
        if self.is_v6() {
            let g = mix(a[1] ^ seed.rotate_left(32), a[2] ^ 0xa076_1d64_78bd_642f);
            mix(h ^ a[3], g ^ 0xe703_7ed1_a0b4_28db)
        } else {
            mix(h, seed ^ 0xe703_7ed1_a0b4_28db)
        }
    }
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src={},dst={}", self.src_ip(), self.dst_ip())?;
        match self.proto() {
            ip_proto::ICMP | ip_proto::ICMPV6 => {
                let (ty, code) = self.ct_ports();
                write!(f, ",id={},type={ty},code={code}", self.sport())
            }
            ip_proto::GRE => {
                let key = u32::from(self.sport()) << 16 | u32::from(self.dport());
                write!(f, ",key={key:#x}")
            }
            ip_proto::TCP | ip_proto::UDP | ip_proto::SCTP => {
                write!(f, ",sport={},dport={}", self.sport(), self.dport())
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "zone={},proto={},{self}", self.zone(), self.proto())
    }
}

fn ip(v6: bool, a: u128) -> IpAddr {
    if v6 { Ipv6Addr::from(a).into() } else { Ipv4Addr::from(a as u32).into() }
}

#[inline(always)]
fn ports_word(zone: u16, proto: u8, version: u8, sport: u16, dport: u16) -> u64 {
    u64::from(sport) << 48
        | u64::from(dport) << 32
        | u64::from(zone) << 16
        | u64::from(proto) << 8
        | u64::from(version)
}

/// Type and code of the message that answers a query of ICMP or ICMPv6, and back.
fn answer_type(proto: u8, type_code: u16) -> u16 {
    let answer = match (proto, type_code >> 8) {
        (ip_proto::ICMP, 0) => 8,
        (ip_proto::ICMP, 8) => 0,
        (ip_proto::ICMP, t @ (13 | 15 | 17)) => t + 1,
        (ip_proto::ICMP, t @ (14 | 16 | 18)) => t - 1,
        (ip_proto::ICMPV6, 128 | 139) => (type_code >> 8) + 1,
        (ip_proto::ICMPV6, 129 | 140) => (type_code >> 8) - 1,
        (_, t) => t,
    };
    answer << 8 | type_code & 0xff
}

/// Whether an ICMP or ICMPv6 type asks for an answer that the tracker follows.
pub(crate) fn is_query(proto: u8, ty: u8) -> bool {
    matches!((proto, ty), (ip_proto::ICMP, 8 | 13 | 15 | 17) | (ip_proto::ICMPV6, 128 | 139))
}

/// Whether an ICMP or ICMPv6 type answers such a query.
pub(crate) fn is_answer(proto: u8, ty: u8) -> bool {
    matches!((proto, ty), (ip_proto::ICMP, 0 | 14 | 16 | 18) | (ip_proto::ICMPV6, 129 | 140))
}

/// Whether an ICMP or ICMPv6 type is an error that quotes a packet.
pub(crate) fn is_error(proto: u8, ty: u8) -> bool {
    matches!((proto, ty), (ip_proto::ICMP, 3 | 4 | 5 | 11 | 12) | (ip_proto::ICMPV6, 1..=4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inverse_of_inverse_is_the_tuple() {
        for proto in 0..=255u8 {
            for dport in [0x0000, 0x0800, 0x0d00, 0x1100, 0x8000, 0x8b00, 443] {
                let t4 = Tuple::v4(7, proto, 0x0a00_0001, 0x0a00_0002, 1024, dport);
                let t6 = Tuple::v6(7, proto, 1 << 100 | 5, 2 << 90 | 7, 1024, dport);
                for t in [t4, t6] {
                    assert_eq!(t.inverse().inverse(), t, "{t:?}");
                    assert_eq!(t.inverse().src(), t.dst());
                    assert_eq!(t.inverse().zone(), 7);
                    assert_eq!(t.inverse().proto(), proto);
                }
            }
        }
    }

    #[test]
    fn shown_as_text() {
        let t = Tuple::v4(1, 6, 0x0a00_0001, 0x0a00_0002, 1024, 80);
        assert_eq!(t.to_string(), "src=10.0.0.1,dst=10.0.0.2,sport=1024,dport=80");
        let t = Tuple::v6(0, 58, 1, 2, 77, 0x8000);
        assert_eq!(t.to_string(), "src=::1,dst=::2,id=77,type=128,code=0");
        let t = Tuple::v4(0, 47, 1 << 24, 2 << 24, 0, 9);
        assert_eq!(t.to_string(), "src=1.0.0.0,dst=2.0.0.0,key=0x9");
    }
}
