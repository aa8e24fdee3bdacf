//! How is an IPv4 packet that is too large for the next wire cut into fragments?
//!
//! As RFC 791 section 3.2 says: every fragment but the last carries a multiple of 8 bytes, options with
//! the "copied" bit stand in all of them and the others in the first only, a fragment can be cut again.
//! IPv6 packets are never cut on the way (RFC 8200 section 5).
//!
//! For packets that are the exception: each piece is a vector of its own.

use crate::checksum::checksum;

/// "Don't fragment" in the third byte pair of the header's second word.
const DF: u16 = 0x4000;
/// "More fragments".
const MORE: u16 = 0x2000;
/// The offset in units of 8 bytes.
const OFFSET: u16 = 0x1fff;

/// Whether a packet, from its IP header on, is IPv4 and may be cut.
#[inline]
pub fn may_be_cut(packet: &[u8]) -> bool {
    packet.len() >= 20 && packet[0] >> 4 == 4 && packet[6] & (DF >> 8) as u8 == 0
}

/// The fragments of an IPv4 packet in their order, none longer than `mtu` bytes.
///
/// `packet` is from the first byte of its header to the last one that its length counts. `None` if it must
/// not be cut, is damaged, or `mtu` has no room for a header and 8 bytes.
pub fn cut(packet: &[u8], mtu: usize) -> Option<Pieces<'_>> {
    let header = usize::from(packet.first()? & 15) * 4;
    let sound = may_be_cut(packet) && header >= 20 && header <= packet.len();
    if !sound || mtu < header + 8 || packet.len() > usize::from(u16::MAX) {
        return None;
    }
    let field = u16::from_be_bytes([packet[6], packet[7]]);
    // The end of the whole datagram, if it is not beyond what IP can say.
    let end = usize::from(field & OFFSET) * 8 + packet.len() - header;
    (end <= usize::from(u16::MAX)).then_some(Pieces { packet, header, mtu, field, at: 0 })
}

/// What [`cut`] gives.
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    packet: &'a [u8],
    header: usize,
    mtu: usize,
    /// Flags and offset of the packet itself.
    field: u16,
    /// Bytes behind the header that are in pieces already.
    at: usize,
}

impl Iterator for Pieces<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let data = self.packet.get(self.header..)?.get(self.at..)?;
        if data.is_empty() && (self.at > 0 || self.header == self.packet.len()) {
            return None;
        }
        let mut piece = match self.at {
            0 => self.packet[..self.header].to_vec(),
            _ => later_header(&self.packet[..self.header]),
        };
        let room = self.mtu - piece.len();
        let (take, last) = if data.len() <= room { (data.len(), true) } else { (room & !7, false) };
        let length = (piece.len() + take) as u16;
        let more = if last { self.field & MORE } else { MORE };
        let offset = (self.field & OFFSET) + (self.at / 8) as u16;
        piece[2..4].copy_from_slice(&length.to_be_bytes());
        piece[6..8].copy_from_slice(&(self.field & !(MORE | OFFSET) | more | offset).to_be_bytes());
        piece[10..12].fill(0);
        let sum = checksum(&piece);
        piece[10..12].copy_from_slice(&sum.to_be_bytes());
        piece.extend_from_slice(&data[..take]);
        self.at += take;
        Some(piece)
    }
}

/// The header of a fragment that is not the first: of the options only those that are copied.
fn later_header(header: &[u8]) -> Vec<u8> {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const COPIED: u8 = 0x80;
    let mut out = header[..20].to_vec();
    let mut rest = &header[20..];
    while let Some(&kind) = rest.first() {
        let length = match kind {
            END => break,
            NOP => 1,
            _ => match rest.get(1) {
                Some(&n) if n >= 2 && usize::from(n) <= rest.len() => usize::from(n),
                _ => break,
            },
        };
        if kind & COPIED != 0 {
            out.extend_from_slice(&rest[..length]);
        }
        rest = &rest[length..];
    }
    out.resize(out.len().next_multiple_of(4), END);
    out[0] = 0x40 | (out.len() / 4) as u8;
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(options: &[u8], field: u16, data: usize) -> Vec<u8> {
        let header = 20 + options.len();
        let mut p = vec![0x40 | (header / 4) as u8, 0];
        p.extend(((header + data) as u16).to_be_bytes());
        p.extend([0x12, 0x34]);
        p.extend(field.to_be_bytes());
        p.extend([64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        p.extend_from_slice(options);
        let sum = checksum(&p);
        p[10..12].copy_from_slice(&sum.to_be_bytes());
        p.extend((0..data).map(|i| (i * 7) as u8));
        p
    }

    /// (offset in bytes, more, header, data) of a piece that is sound.
    fn parts(piece: &[u8]) -> (usize, bool, usize, Vec<u8>) {
        let header = usize::from(piece[0] & 15) * 4;
        assert_eq!(usize::from(u16::from_be_bytes([piece[2], piece[3]])), piece.len());
        assert_eq!(checksum(&piece[..header]), 0, "the header's checksum");
        let field = u16::from_be_bytes([piece[6], piece[7]]);
        (usize::from(field & OFFSET) * 8, field & MORE != 0, header, piece[header..].to_vec())
    }

    #[test]
    fn pieces_put_together_are_the_packet() {
        for (mtu, data) in [(576, 1480), (1400, 1480), (28, 100), (1000, 8000), (1500, 1480)] {
            for field in [0, 5, MORE | 5] {
                let whole = packet(&[], field, data);
                let mut joined = Vec::new();
                let first = usize::from(field & OFFSET) * 8;
                let pieces: Vec<_> = cut(&whole, mtu).expect("cut").collect();
                for (i, piece) in pieces.iter().enumerate() {
                    assert!(piece.len() <= mtu);
                    let (offset, more, _, bytes) = parts(piece);
                    assert_eq!(offset, first + joined.len());
                    assert_eq!(more, i + 1 < pieces.len() || field & MORE != 0);
                    assert!(i + 1 == pieces.len() || bytes.len() % 8 == 0);
                    assert_eq!(piece[4..6], whole[4..6], "the identification");
                    joined.extend(bytes);
                }
                assert_eq!(joined, &whole[20..]);
            }
        }
    }

    #[test]
    fn only_copied_options_stand_in_later_pieces() {
        // Record route (not copied), a NOP, loose source route (copied), end.
        let options = [7, 7, 4, 0, 0, 0, 0, 1, 131, 3, 4, 0];
        let whole = packet(&options, 0, 1000);
        let pieces: Vec<_> = cut(&whole, 600).expect("cut").collect();
        assert_eq!(pieces[0][20..32], options);
        assert_eq!(pieces[1][20..24], [131, 3, 4, 0]);
        let joined: Vec<u8> = pieces.iter().flat_map(|p| parts(p).3).collect();
        assert_eq!(joined, &whole[32..]);
    }

    #[test]
    fn what_must_not_or_cannot_be_cut_is_not() {
        assert!(cut(&packet(&[], DF, 1000), 600).is_none(), "don't fragment");
        assert!(cut(&packet(&[], 0, 1000), 27).is_none(), "no room");
        assert!(cut(&[], 600).is_none());
        assert!(cut(&[0x60; 60], 600).is_none(), "not IPv4");
        assert!(cut(&[0x44; 60], 600).is_none(), "a header too short");
        assert!(cut(&packet(&[], OFFSET, 1000), 600).is_none(), "beyond what IP can say");
        // Options that lie about their length.
        let mut whole = packet(&[0x83, 200, 0, 0], 0, 1000);
        assert!(cut(&whole, 600).expect("cut").all(|p| p.len() <= 600));
        whole.truncate(24);
        assert_eq!(cut(&whole, 600).expect("cut").count(), 0, "no data");
    }
}
