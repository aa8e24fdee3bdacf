//! What does an ICMP error quote?

use flow::extract::{ext_headers, ip_proto};

use super::{be16, be32, be128};
use crate::tuple::{Tuple, is_answer, is_query};

/// The packet that an ICMP error quotes, as far as it is there.
#[derive(Debug)]
pub(crate) struct Quote {
    v6: bool,
    src: u128,
    dst: u128,
    pub(crate) proto: u8,
    /// The quoted L4 header, in the quote.
    pub(crate) l4: usize,
    sport: u16,
    dport: u16,
}

impl Quote {
    /// Read a quote; its own lengths are not believed. `None` if it is of another IP version, a
    /// later fragment, an ICMP error, or has not the part of L4 that names the connection.
    pub(crate) fn of(q: &[u8], v6: bool) -> Option<Quote> {
        let (proto, l4, src, dst) = if v6 {
            let h = q.first_chunk::<40>().filter(|h| h[0] >> 4 == 6)?;
            let (proto, l4, frag) = ext_headers(q, 40, q.len(), h[6])?;
            if frag & flow::extract::FRAG_LATER != 0 {
                return None;
            }
            (proto, l4, be128(h, 8)?, be128(h, 24)?)
        } else {
            let h = q.first_chunk::<20>().filter(|h| h[0] >> 4 == 4 && h[0] & 0xf >= 5)?;
            if be16(h, 6)? & 0x1fff != 0 {
                return None;
            }
            let l4 = usize::from(h[0] & 0xf) * 4;
            (h[9], l4, be32(h, 12)?.into(), be32(h, 16)?.into())
        };
        let b = q.get(l4..)?;
        let (sport, dport) = match proto {
            ip_proto::TCP | ip_proto::UDP | ip_proto::SCTP => (be16(b, 0)?, be16(b, 2)?),
            ip_proto::ICMP | ip_proto::ICMPV6 => {
                let h = b.first_chunk::<8>()?;
                if !is_query(proto, h[0]) && !is_answer(proto, h[0]) {
                    return None;
                }
                (be16(h, 4)?, be16(h, 0)?)
            }
            ip_proto::GRE => {
                let key = gre_key(b)?;
                ((key >> 16) as u16, key as u16)
            }
            _ => (0, 0),
        };
        Some(Quote { v6, src, dst, proto, l4, sport, dport })
    }

    /// The quoted packet's tuple.
    pub(crate) fn tuple(&self, zone: u16) -> Tuple {
        if self.v6 {
            Tuple::v6(zone, self.proto, self.src, self.dst, self.sport, self.dport)
        } else {
            let (src, dst) = (self.src as u32, self.dst as u32);
            Tuple::v4(zone, self.proto, src, dst, self.sport, self.dport)
        }
    }
}

/// GRE's key (RFC 2890), 0 if it has none or is not version 0.
pub(super) fn gre_key(b: &[u8]) -> Option<u32> {
    const CHECKSUM_OR_ROUTING: u16 = 0xc000;
    const KEY: u16 = 0x2000;
    const VERSION: u16 = 7;
    let flags = be16(b, 0)?;
    be16(b, 2)?;
    if flags & KEY == 0 || flags & VERSION != 0 {
        return Some(0);
    }
    be32(b, if flags & CHECKSUM_OR_ROUTING != 0 { 8 } else { 4 })
}
