//! What does one fragment say, and what was the datagram's header?

use flow::extract::{Offsets, ip_proto};

/// What fragments of one datagram have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    zone: u16,
    src: u128,
    dst: u128,
    id: u32,
    /// IPv4's protocol; 0 for IPv6, where it is not part of the identity.
    proto: u8,
    v6: bool,
}

/// One fragment, its lengths checked.
#[derive(Debug)]
pub(super) struct Fragment {
    pub(super) offset: u32,
    pub(super) len: u32,
    pub(super) more: bool,
    /// Where its payload is in the frame.
    pub(super) at: usize,
    /// Of a first fragment.
    pub(super) head: Option<Head>,
}

/// A first fragment's headers, made those of a whole packet but for the lengths.
#[derive(Clone, Debug)]
pub(super) struct Head {
    bytes: Vec<u8>,
    l3: usize,
    /// The protocol behind the headers.
    proto: u8,
}

/// Extension headers that may stand in front of the fragment header.
const MAX_HEADERS: usize = 8;

fn be16(b: &[u8], at: usize) -> Option<u16> {
    b.get(at..)?.first_chunk().map(|c| u16::from_be_bytes(*c))
}
fn be32(b: &[u8], at: usize) -> Option<u32> {
    b.get(at..)?.first_chunk().map(|c| u32::from_be_bytes(*c))
}

/// Read a fragment; `None` if it is none, or not sound.
pub(super) fn read(zone: u16, frame: &[u8], off: &Offsets) -> Option<(Key, Fragment)> {
    let l3 = usize::from(off.l3);
    let (key, f) = match frame.get(l3)? >> 4 {
        4 => v4(zone, frame, l3)?,
        6 => v6(zone, frame, l3)?,
        _ => return None,
    };
    let end = f.offset + f.len;
    let whole = end as usize + f.at - l3 <= usize::from(u16::MAX);
    let sound = f.len > 0 && whole && (!f.more || f.len % 8 == 0);
    (sound && (f.more || f.offset > 0)).then_some((key, f))
}

fn v4(zone: u16, frame: &[u8], l3: usize) -> Option<(Key, Fragment)> {
    const MORE: u16 = 0x2000;
    let h = &frame[l3..];
    let ihl = usize::from(h[0] & 0xf) * 4;
    let length = usize::from(be16(h, 2)?);
    if ihl < 20 || length < ihl || length > h.len() || flow::checksum::checksum(&h[..ihl]) != 0 {
        return None;
    }
    let field = be16(h, 6)?;
    let key = Key {
        zone,
        src: be32(h, 12)?.into(),
        dst: be32(h, 16)?.into(),
        id: be16(h, 4)?.into(),
        proto: h[9],
        v6: false,
    };
    let offset = u32::from(field & 0x1fff) * 8;
    let head = (offset == 0).then(|| {
        let mut bytes = frame[..l3 + ihl].to_vec();
        bytes[l3 + 6..l3 + 8].fill(0);
        Head { bytes, l3, proto: h[9] }
    });
    let len = (length - ihl) as u32;
    Some((key, Fragment { offset, len, more: field & MORE != 0, at: l3 + ihl, head }))
}

fn v6(zone: u16, frame: &[u8], l3: usize) -> Option<(Key, Fragment)> {
    let h = frame.get(l3..)?.first_chunk::<40>()?;
    let end = l3 + 40 + usize::from(be16(h, 4)?);
    let b = frame.get(..end)?;
    // Where the type of the header at `at` stands.
    let (mut named_at, mut at) = (l3 + 6, l3 + 40);
    for _ in 0..MAX_HEADERS {
        match b[named_at] {
            ip_proto::FRAGMENT => {
                let field = be16(b, at + 2)?;
                let address = |from: usize| {
                    b.get(l3 + from..)?.first_chunk().map(|c| u128::from_be_bytes(*c))
                };
                let (src, dst, id) = (address(8)?, address(24)?, be32(b, at + 4)?);
                let key = Key { zone, src, dst, id, proto: 0, v6: true };
                let offset = u32::from(field & 0xfff8);
                let head = (offset == 0).then(|| {
                    let mut bytes = b[..at].to_vec();
                    bytes[named_at] = b[at];
                    Head { bytes, l3, proto: b[at] }
                });
                let at = at + 8;
                let len = end.checked_sub(at)? as u32;
                return Some((key, Fragment { offset, len, more: field & 1 != 0, at, head }));
            }
            ip_proto::HOPOPTS | ip_proto::ROUTING | ip_proto::DSTOPTS => {
                let len = 8 + usize::from(*b.get(at + 1)?) * 8;
                (named_at, at) = (at, at + len);
            }
            _ => return None,
        }
        if at >= b.len() {
            return None;
        }
    }
    None
}

/// The frame of the whole datagram; `None` if the first fragment, which had `first` bytes of the
/// payload, has not the whole L4 header.
pub(super) fn assemble(head: Head, payload: &[u8], first: usize) -> Option<Vec<u8>> {
    let Head { bytes: mut frame, l3, proto } = head;
    let need = match proto {
        ip_proto::TCP => usize::from(payload.get(12)? >> 4).max(5) * 4,
        ip_proto::SCTP => 12,
        ip_proto::UDP | ip_proto::ICMP | ip_proto::ICMPV6 => 8,
        _ => 0,
    };
    if first < need {
        return None;
    }
    let length = frame.len() - l3 + payload.len();
    let h = &mut frame[l3..];
    if h[0] >> 4 == 4 {
        h[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        h[10..12].fill(0);
        let sum = flow::checksum::checksum(h);
        h[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        h[4..6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
    }
    frame.extend_from_slice(payload);
    Some(frame)
}
