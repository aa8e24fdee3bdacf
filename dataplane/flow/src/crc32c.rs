//! What is the CRC32c of these bytes (RFC 9260 appendix A), as SCTP carries it?
//!
//! Eight tables, eight bytes a step; no processor feature needed.

/// The reflected Castagnoli polynomial.
const POLY: u32 = 0x82f6_3b78;

static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut t = [[0u32; 256]; 8];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { POLY } else { 0 };
            bit += 1;
        }
        t[0][i] = crc;
        i += 1;
    }
    let mut i = 0;
    while i < 256 {
        let mut k = 1;
        while k < 8 {
            let before = t[k - 1][i];
            t[k][i] = before >> 8 ^ t[0][(before & 0xff) as usize];
            k += 1;
        }
        i += 1;
    }
    t
}

/// A CRC32c over bytes that come in pieces.
#[derive(Clone, Copy, Debug)]
pub struct Crc32c(u32);

impl Default for Crc32c {
    fn default() -> Self {
        Crc32c(u32::MAX)
    }
}

impl Crc32c {
    /// Add bytes behind those added before.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Crc32c {
        let t = &TABLES;
        let mut crc = self.0;
        let (blocks, tail) = bytes.as_chunks::<8>();
        for b in blocks {
            let x = (u64::from_le_bytes(*b) ^ u64::from(crc)).to_le_bytes();
            crc = t[7][usize::from(x[0])]
                ^ t[6][usize::from(x[1])]
                ^ t[5][usize::from(x[2])]
                ^ t[4][usize::from(x[3])]
                ^ t[3][usize::from(x[4])]
                ^ t[2][usize::from(x[5])]
                ^ t[1][usize::from(x[6])]
                ^ t[0][usize::from(x[7])];
        }
        for b in tail {
            crc = crc >> 8 ^ t[0][usize::from(crc as u8 ^ b)];
        }
        Crc32c(crc)
    }

    /// The CRC. SCTP stores it with its low byte first.
    pub fn value(self) -> u32 {
        !self.0
    }
}

/// The CRC32c of an SCTP packet, its own CRC field (bytes 8 to 11, in the first piece) taken as
/// zero.
pub fn of_sctp<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> u32 {
    let mut crc = Crc32c::default();
    let mut first = true;
    for piece in pieces {
        if first && piece.len() >= 12 {
            crc = crc.bytes(&piece[..8]).bytes(&[0; 4]).bytes(&piece[12..]);
            first = false;
            continue;
        }
        crc = crc.bytes(piece);
    }
    crc.value()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(bytes: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for b in bytes {
            crc ^= u32::from(*b);
            for _ in 0..8 {
                crc = crc >> 1 ^ if crc & 1 == 1 { POLY } else { 0 };
            }
        }
        !crc
    }

    #[test]
    fn rfc_3720_examples() {
        assert_eq!(Crc32c::default().bytes(b"123456789").value(), 0xe306_9283);
        assert_eq!(Crc32c::default().bytes(&[0; 32]).value(), 0x8a91_36aa);
        assert_eq!(Crc32c::default().bytes(&[0xff; 32]).value(), 0x62a8_ab43);
    }

    proptest! {
        #[test]
        fn same_as_bit_by_bit(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0usize..300) {
            let cut = cut.min(bytes.len());
            let crc = Crc32c::default().bytes(&bytes[..cut]).bytes(&bytes[cut..]);
            prop_assert_eq!(crc.value(), naive(&bytes));
        }

        #[test]
        fn the_field_itself_does_not_count(
            bytes in prop::collection::vec(any::<u8>(), 12..100), first in 12usize..100, field: u32,
        ) {
            let mut zeroed = bytes.clone();
            zeroed[8..12].fill(0);
            let mut other = bytes.clone();
            other[8..12].copy_from_slice(&field.to_le_bytes());
            let (a, b) = other.split_at(first.min(other.len()));
            prop_assert_eq!(of_sctp([a, b].into_iter()), naive(&zeroed));
        }
    }
}
