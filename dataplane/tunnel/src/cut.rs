//! How is an outer packet cut that is larger than its path's MTU and may be cut?
//!
//! As its sender would do it (RFC 791, section 3.2): the headers in front of the payload are those of
//! the whole, but for length, offset and checksum; all fragments but the last one carry a multiple of
//! eight bytes. Only IPv4 packets without options, right behind an Ethernet header: those that
//! [`crate::Encap::push`] makes where `df_default=false`. (IPv6 packets are never cut: what is too big
//! for the path is said to the inner sender.)
//!
//! Must not know: which packets are cut.

use afxdp::Packet;
use flow::Drop;
use flow::checksum::checksum;

/// Bytes of an Ethernet header, and of an IPv4 header without options.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
/// Bytes of both.
const HEADERS: usize = ETHERNET + IPV4;
/// IPv4's flag of all fragments but the last.
const MORE_FRAGMENTS: u16 = 0x2000;

/// Cuts packets; keeps the memory that this takes.
#[derive(Debug, Default)]
pub struct Cutter {
    whole: Vec<u8>,
    piece: Vec<u8>,
}

impl Cutter {
    /// Give `each` the fragments of an outer packet, as frames, in order; none of their IP packets
    /// is larger than `mtu`.
    ///
    /// # Errors
    /// [`Drop::TooBig`] if the MTU has no room for eight bytes of payload, [`Drop::Malformed`] for a
    /// packet that is no IPv4 packet without options, or already a fragment. `each` was not called
    /// then.
    pub fn cut(
        &mut self,
        packet: &Packet,
        mtu: usize,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), Drop> {
        self.whole.resize(packet.len(), 0);
        packet.copy_to(&mut self.whole);
        let Some((head, payload)) = self.whole.split_at_checked(HEADERS) else {
            return Err(Drop::Malformed);
        };
        let is_whole = head[ETHERNET + 6] & 0x3f == 0 && head[ETHERNET + 7] == 0;
        if head[12..ETHERNET + 1] != [8, 0, 0x45] || !is_whole {
            return Err(Drop::Malformed);
        }
        let room = mtu.saturating_sub(IPV4) & !7;
        if room == 0 {
            return Err(Drop::TooBig);
        }
        let last = payload.len().saturating_sub(1) / room;
        for (i, part) in payload.chunks(room).enumerate() {
            self.piece.clear();
            self.piece.extend_from_slice(head);
            self.piece.extend_from_slice(part);
            let more = if i < last { MORE_FRAGMENTS } else { 0 };
            let offset = (i * room / 8) as u16 | more;
            let ip = &mut self.piece[ETHERNET..HEADERS];
            ip[2..4].copy_from_slice(&((IPV4 + part.len()) as u16).to_be_bytes());
            ip[6..8].copy_from_slice(&offset.to_be_bytes());
            ip[10..12].fill(0);
            let sum = checksum(ip);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            each(&self.piece);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use afxdp::{CHUNK_SIZE, Region};
    use proptest::prelude::*;

    fn frame(payload: usize) -> Vec<u8> {
        let mut f = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0];
        f.extend(((IPV4 + payload) as u16).to_be_bytes());
        f.extend([0x12, 0x34, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let sum = checksum(&f[ETHERNET..]);
        f[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
        f.extend((0..payload).map(|i| (i * 7) as u8));
        f
    }

    fn cut(frame: &[u8], mtu: usize) -> Result<Vec<Vec<u8>>, Drop> {
        let region = Region::new(64 * CHUNK_SIZE).expect("region");
        let mut pool = region.pool();
        let packet = pool.packet_from(frame).expect("frames");
        let mut out = Vec::new();
        let done = Cutter::default().cut(&packet, mtu, |f| out.push(f.to_vec()));
        pool.free_packet(packet);
        done.map(|()| out)
    }

    proptest! {
        /// What a receiver puts together is the packet that was cut.
        #[test]
        fn nothing_is_lost(payload in 0usize..9000, mtu in 28usize..2000) {
            let whole = frame(payload);
            let parts = cut(&whole, mtu).expect("cut");
            let (mut got, mut more) = (Vec::new(), true);
            for p in &parts {
                let ip = &p[ETHERNET..];
                prop_assert!(more, "something follows the last fragment");
                prop_assert!(ip.len() <= mtu);
                prop_assert_eq!(checksum(&ip[..IPV4]), 0);
                prop_assert_eq!(usize::from(u16::from_be_bytes([ip[2], ip[3]])), ip.len());
                let field = u16::from_be_bytes([ip[6], ip[7]]);
                prop_assert_eq!(usize::from(field & 0x1fff) * 8, got.len());
                more = field & MORE_FRAGMENTS != 0;
                prop_assert_eq!(&p[..ETHERNET + 2], &whole[..ETHERNET + 2]);
                prop_assert_eq!(&ip[4..6], &whole[ETHERNET + 4..ETHERNET + 6]);
                prop_assert_eq!(&ip[12..IPV4], &whole[ETHERNET + 12..HEADERS]);
                got.extend_from_slice(&ip[IPV4..]);
            }
            prop_assert!(payload == 0 || !more);
            prop_assert_eq!(&got[..], &whole[HEADERS..]);
        }
    }

    #[test]
    fn what_cannot_be_cut() {
        assert_eq!(cut(&frame(100), 27), Err(Drop::TooBig));
        assert_eq!(cut(&frame(100)[..33], 100), Err(Drop::Malformed));
        for (at, byte) in [(12, 0x86), (14, 0x46), (20, 0x20), (21, 1)] {
            let mut wrong = frame(100);
            wrong[at] = byte;
            assert_eq!(cut(&wrong, 100), Err(Drop::Malformed), "{at}");
        }
        // `Do not fragment` is the caller's to honour.
        let mut df = frame(100);
        df[20] = 0x40;
        assert!(cut(&df, 100).is_ok());
    }
}
