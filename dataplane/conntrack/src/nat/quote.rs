//! How does the packet change that an ICMP error quotes?
//!
//! Its addresses, ports and checksums become those that it had when its sender sent it, so that
//! the sender knows it. Each change is carried into the error's own checksum. Only bytes that are
//! there are touched, whatever the quoted lengths say.

use afxdp::Packet;
use flow::checksum::{nonzero, update16};
use flow::drops::Drop;
use flow::extract::{Offsets, ip_proto};

use super::NatEdit;
use crate::input::Quote;
use crate::tuple::Tuple;

/// The ICMP message, from its header on, in the packet's first buffer.
struct Message<'a> {
    bytes: &'a mut [u8],
}

/// Where the quote begins in the message.
const QUOTE: usize = 8;

impl Message<'_> {
    fn get(&self, at: usize) -> Option<u16> {
        self.bytes.get(at..)?.first_chunk().map(|b| u16::from_be_bytes(*b))
    }

    fn put(&mut self, at: usize, v: u16) {
        if let Some(b) = self.bytes.get_mut(at..).and_then(|b| b.first_chunk_mut()) {
            *b = v.to_be_bytes();
        }
    }

    /// Set a 16-bit word of the quote, and change the checksum field at `sum`, if there is one,
    /// by the same. All offsets are even and in the message.
    fn set(&mut self, at: usize, new: u16, sum: Option<usize>) {
        let Some(old) = self.get(at) else { return };
        if old == new {
            return;
        }
        self.put(at, new);
        self.outer(old, new);
        let Some(field) = sum else { return };
        let Some(before) = self.get(field) else { return };
        let after = update16(before, old, new);
        self.put(field, after);
        self.outer(before, after);
    }

    /// Carry a change into the error's own checksum.
    fn outer(&mut self, old: u16, new: u16) {
        if let Some(sum) = self.get(2) {
            self.put(2, update16(sum, old, new));
        }
    }
}

/// Change the quoted packet of the error at `off.l4`.
pub(super) fn apply(packet: &mut Packet, off: &Offsets, e: &NatEdit) -> Result<(), Drop> {
    let l4 = usize::from(off.l4);
    let bytes = packet.data_mut();
    let end = usize::from(off.end).min(bytes.len());
    let bytes = bytes.get_mut(l4..end).filter(|b| b.len() > QUOTE).ok_or(Drop::Malformed)?;
    let v6 = e.to.is_v6();
    let q = Quote::of(&bytes[QUOTE..], v6).ok_or(Drop::Malformed)?;
    let to = e.to.inverse();
    let mut m = Message { bytes };
    let inner = QUOTE + q.l4;
    let sum = inner_checksum(&m, &q, inner);
    set_addresses(&mut m, &to, v6, if q.proto == ip_proto::ICMP { None } else { sum });
    match q.proto {
        ip_proto::TCP | ip_proto::UDP | ip_proto::SCTP => {
            m.set(inner, to.sport(), sum);
            m.set(inner + 2, to.dport(), sum);
        }
        ip_proto::ICMP | ip_proto::ICMPV6 => m.set(inner + 4, to.sport(), sum),
        _ => {}
    }
    // UDP's 0 means none, so a sum that came out as 0 is written as its equal.
    if q.proto == ip_proto::UDP
        && let Some(at) = sum
        && m.get(at) == Some(0)
    {
        m.put(at, nonzero(0));
        m.outer(0, nonzero(0));
    }
    Ok(())
}

/// The quoted L4 checksum's place, if the quote reaches that far and has one.
fn inner_checksum(m: &Message<'_>, q: &Quote, inner: usize) -> Option<usize> {
    let at = match q.proto {
        ip_proto::TCP => inner + 16,
        ip_proto::UDP => inner + 6,
        ip_proto::ICMP | ip_proto::ICMPV6 => inner + 2,
        _ => return None,
    };
    let sum = m.get(at)?;
    (q.proto != ip_proto::UDP || sum != 0).then_some(at)
}

/// Both addresses of the quoted IP header, its checksum, and the L4 checksum over them.
fn set_addresses(m: &mut Message<'_>, to: &Tuple, v6: bool, l4_sum: Option<usize>) {
    const V4_SUM: usize = QUOTE + 10;
    const V4_ADDRESSES: usize = QUOTE + 12;
    const V6_ADDRESSES: usize = QUOTE + 8;
    let words = |v: u128, n: usize| (0..n).map(move |i| (v >> (16 * (n - 1 - i))) as u16);
    let (at, n) = if v6 { (V6_ADDRESSES, 8) } else { (V4_ADDRESSES, 2) };
    for (i, w) in words(to.src(), n).chain(words(to.dst(), n)).enumerate() {
        let at = at + 2 * i;
        let old = m.get(at);
        m.set(at, w, l4_sum);
        if let (false, Some(old)) = (v6, old)
            && let Some(sum) = m.get(V4_SUM)
        {
            let new = update16(sum, old, w);
            m.put(V4_SUM, new);
            m.outer(sum, new);
        }
    }
}
