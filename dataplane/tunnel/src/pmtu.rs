//! What does the sender of a packet that is too big for a tunnel get to hear?
//!
//! The tunnel's path is part of the inner packet's, so its sender is told the size that fits, by
//! "fragmentation needed" (RFC 1191) or "packet too big" (RFC 8201). The answer comes from the
//! address that the packet was for, as nothing in between has one, and goes back the way the
//! packet came: addresses swapped, tags kept.
//!
//! The other errors that a router sends about packets ([`answer`]) are made here too, and the resets that
//! it answers TCP segments with ([`reset`]).
//!
//! Answers are rate-limited by the caller ([`RateLimit`]), quote what arrived and no more than
//! the standards' limits, and never answer a multicast packet, an error, or a later fragment.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use flow::build::IcmpError;
use flow::extract::{FRAG_LATER, ip_proto};
use flow::{Field, FlowKey, Offsets};

/// Smallest MTU that is told: every IPv4 hop takes 68 bytes (RFC 791), every IPv6 one 1280
/// (RFC 8200).
const MIN_MTU_V4: usize = 68;
const MIN_MTU_V6: usize = 1280;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// Not an IP packet in an Ethernet II frame.
    #[error("not IP")]
    NotIp,
    /// Sent to or from an address that is no single host's.
    #[error("to or from a multicast, broadcast or unspecified address")]
    NotUnicast,
    /// IPv4 without DF: the sender allows fragments and need not know.
    #[error("may be fragmented")]
    MayFragment,
    /// A fragment that is not the first.
    #[error("a later fragment")]
    LaterFragment,
    /// An ICMP error.
    #[error("an ICMP error")]
    Error,
    /// It is as small as the smallest MTU already; nothing that could be told helps.
    #[error("no smaller packet could be asked for")]
    TooSmall,
}

/// The frame that answers one that is too big. `data` is the frame's first buffer, `off` and
/// `key` what extraction said of it, `max_frame` the largest frame that would have fitted
/// ([`crate::Encap::max_frame`]).
///
/// # Errors
/// Why it is not to be answered.
pub fn too_big(
    data: &[u8],
    off: &Offsets,
    key: &FlowKey,
    max_frame: usize,
) -> Result<Vec<u8>, NoAnswer> {
    let l3 = usize::from(off.l3);
    let v6 = key.get64(Field::EthType) == 0x86dd;
    if off.end == 0 {
        return Err(NoAnswer::NotIp);
    }
    if !may_tell(data, off, v6) {
        return Err(NoAnswer::MayFragment);
    }
    let least = if v6 { MIN_MTU_V6 } else { MIN_MTU_V4 };
    let mtu = max_frame.saturating_sub(l3).max(least).min(usize::from(u16::MAX));
    if usize::from(off.end) - l3 <= mtu {
        return Err(NoAnswer::TooSmall);
    }
    let from: IpAddr = if v6 {
        Ipv6Addr::from(key.get(Field::Ipv6Dst)).into()
    } else {
        Ipv4Addr::from(key.get64(Field::NwDst) as u32).into()
    };
    answer(data, off, key, &IcmpError::too_big(v6, mtu as u16), from)
}

/// Whether the sender of an IP packet forbids that it is cut (RFC 791; always so for IPv6), and so
/// wants to know what fits.
pub fn may_tell(data: &[u8], off: &Offsets, v6: bool) -> bool {
    const DF: u8 = 0x40;
    v6 || data.get(usize::from(off.l3) + 6).is_some_and(|b| b & DF != 0)
}

/// The frame that tells a packet's sender of an error, from an address of its family: addresses of
/// the Ethernet header swapped, tags kept. `data` is the frame's first buffer, `off` and `key`
/// what extraction said of it.
///
/// # Errors
/// Why it is not to be answered.
pub fn answer(
    data: &[u8],
    off: &Offsets,
    key: &FlowKey,
    error: &IcmpError,
    from: IpAddr,
) -> Result<Vec<u8>, NoAnswer> {
    let ip = answerable(data, off, key)?;
    if is_icmp_error(key) {
        return Err(NoAnswer::Error);
    }
    let quoted = &ip[..ip.len().min(usize::from(off.end - off.l3))];
    const TTL: u8 = 64;
    let packet = match (from, key.get64(Field::EthType) == 0x86dd) {
        (IpAddr::V6(from), true) => {
            error.packet_v6(from.into(), key.get(Field::Ipv6Src), TTL, quoted)
        }
        (IpAddr::V4(from), false) => {
            error.packet_v4(from.into(), key.get64(Field::NwSrc) as u32, TTL, quoted)
        }
        _ => return Err(NoAnswer::NotIp),
    };
    Ok(back(data, off, packet))
}

/// The frame that answers a TCP segment nobody takes by a reset (RFC 9293 section 3.10.7.1), from the
/// address and port that it was for. `data` is the frame's first buffer, `off` and `key` what extraction
/// said of it.
///
/// # Errors
/// Why it is not to be answered; another protocol, or a segment that is a reset itself, is an
/// [`NoAnswer::Error`].
pub fn reset(data: &[u8], off: &Offsets, key: &FlowKey) -> Result<Vec<u8>, NoAnswer> {
    const FIN: u64 = 1;
    const SYN: u64 = 2;
    const RST: u64 = 4;
    const ACK: u64 = 16;
    answerable(data, off, key)?;
    let flags = key.get64(Field::TcpFlags);
    let segment = data.get(usize::from(off.l4)..).unwrap_or_default();
    if off.proto != ip_proto::TCP || flags & RST != 0 || segment.len() < 20 {
        return Err(NoAnswer::Error);
    }
    let word = |at: usize| {
        u32::from_be_bytes([segment[at], segment[at + 1], segment[at + 2], segment[at + 3]])
    };
    let data_offset = u32::from(segment[12] >> 4) * 4;
    let payload = u32::from(off.end.saturating_sub(off.l4)).saturating_sub(data_offset);
    let length = payload + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    let (seq, ack, answer) = match flags & ACK != 0 {
        true => (word(8), 0, RST),
        false => (0, word(4).wrapping_add(length), RST | ACK),
    };
    let mut k = FlowKey::default();
    let pairs = [
        (Field::NwSrc, Field::NwDst),
        (Field::Ipv6Src, Field::Ipv6Dst),
        (Field::TpSrc, Field::TpDst),
    ];
    for (src, dst) in pairs {
        k.set(src, key.get(dst));
        k.set(dst, key.get(src));
    }
    k.set(Field::EthType, key.get(Field::EthType));
    k.set(Field::NwProto, ip_proto::TCP.into());
    k.set(Field::NwTtl, 64);
    k.set(Field::TcpFlags, answer.into());
    Ok(back(data, off, flow::build::tcp_packet(&k, seq, ack)))
}

/// A packet in a frame that goes back: addresses of the Ethernet header swapped, tags kept.
fn back(data: &[u8], off: &Offsets, packet: Vec<u8>) -> Vec<u8> {
    let l3 = usize::from(off.l3);
    let mut frame = Vec::with_capacity(l3 + packet.len());
    frame.extend_from_slice(&data[6..12]);
    frame.extend_from_slice(&data[..6]);
    frame.extend_from_slice(&data[12..l3]);
    frame.extend(packet);
    frame.resize(frame.len().max(flow::build::MIN_FRAME), 0);
    frame
}

/// What of a frame's first buffer is from the IP header on, if its sender may be answered at all.
fn answerable<'a>(data: &'a [u8], off: &Offsets, key: &FlowKey) -> Result<&'a [u8], NoAnswer> {
    let l3 = usize::from(off.l3);
    let v6 = key.get64(Field::EthType) == 0x86dd;
    let ip = data.get(l3..).filter(|_| off.end > off.l3).ok_or(NoAnswer::NotIp)?;
    // The type stands before the IP header, behind any tags; SNAP has a length somewhere.
    let tags = key.get(Field::VlanTci).min(1) + key.get(Field::Vlan1Tci).min(1);
    if l3 != 14 + 4 * tags as usize {
        return Err(NoAnswer::NotIp);
    }
    if !unicast(key, v6) {
        return Err(NoAnswer::NotUnicast);
    }
    if key.get64(Field::NwFrag) as u8 & FRAG_LATER != 0 {
        return Err(NoAnswer::LaterFragment);
    }
    Ok(ip)
}

/// Whether both ends, on both layers, are single hosts.
fn unicast(key: &FlowKey, v6: bool) -> bool {
    const GROUP: u128 = 1 << 40;
    let macs = (key.get(Field::EthDst) | key.get(Field::EthSrc)) & GROUP == 0;
    let host4 = |a: u32| a != 0 && a >> 24 != 127 && a >> 28 < 0xe;
    let host6 = |a: u128| a > 1 && a >> 120 != 0xff;
    let ips = if v6 {
        host6(key.get(Field::Ipv6Src)) && host6(key.get(Field::Ipv6Dst))
    } else {
        host4(key.get64(Field::NwSrc) as u32) && host4(key.get64(Field::NwDst) as u32)
    };
    macs && ips
}

fn is_icmp_error(key: &FlowKey) -> bool {
    let ty = key.get64(Field::TpSrc);
    match key.get64(Field::NwProto) as u8 {
        ip_proto::ICMP => matches!(ty, 3 | 4 | 5 | 11 | 12),
        // Errors are those below 128; a redirect (137) is not answered either (RFC 4443).
        ip_proto::ICMPV6 => ty < 128 || ty == 137,
        _ => false,
    }
}

/// A token bucket: so many answers a second, with a burst.
#[derive(Clone, Debug)]
pub struct RateLimit {
    /// Time that one answer costs.
    cost: Duration,
    /// Time that can be saved up.
    burst: Duration,
    /// The time up to which tokens are used up.
    spent: Duration,
}

impl RateLimit {
    /// `per_second` answers a second on average (at least one), `burst` at once.
    pub fn new(per_second: u32, burst: u32) -> RateLimit {
        let cost = Duration::from_secs(1) / per_second.max(1);
        RateLimit { cost, burst: cost * burst.max(1), spent: Duration::ZERO }
    }

    /// Whether one more may go at `now`, the time since any fixed moment; never goes back.
    pub fn allow(&mut self, now: Duration) -> bool {
        // Time counts from a full bucket: `now` is shifted so that the first burst may go.
        let now = now + self.burst;
        let spent = self.spent.max(now.saturating_sub(self.burst)) + self.cost;
        if spent > now {
            return false;
        }
        self.spent = spent;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_and_then_a_rate() {
        let mut limit = RateLimit::new(10, 5);
        let mut sent = 0;
        for ms in 0..2000u64 {
            for _ in 0..3 {
                sent += u32::from(limit.allow(Duration::from_millis(ms)));
            }
        }
        assert_eq!(sent, 5 + 19);
        let later = Duration::from_secs(100);
        assert_eq!((0..100).filter(|_| limit.allow(later)).count(), 5);
    }
}
