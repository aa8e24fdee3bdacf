//! How is a connection's TCP state kept in eight words?

use super::{Peer, Tcp, TcpState};

#[inline(always)]
fn pair(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

impl Tcp {
    /// The state as words.
    #[inline(always)]
    pub(crate) fn pack(&self) -> [u64; 8] {
        let [o, r] = &self.peers;
        let small = [
            o.scale,
            o.flags,
            r.scale,
            r.flags,
            self.last_sort,
            u8::from(self.last_reply),
            self.repeated,
            self.state as u8,
        ];
        let last = u64::from(self.last_win) << 16
            | u64::from(self.last_scale) << 8
            | u64::from(self.last_flags);
        [
            pair(o.end, o.max_end),
            pair(o.max_win, o.max_ack),
            pair(r.end, r.max_end),
            pair(r.max_win, r.max_ack),
            u64::from_le_bytes(small),
            pair(self.last_seq, self.last_ack),
            u64::from(self.last_end) << 32 | last,
            0,
        ]
    }

    /// The state that [`Tcp::pack`] made words of.
    #[inline(always)]
    pub(crate) fn unpack(w: &[u64; 8]) -> Tcp {
        let small = w[4].to_le_bytes();
        let peer = |i: usize, scale, flags| Peer {
            end: (w[i] >> 32) as u32,
            max_end: w[i] as u32,
            max_win: (w[i + 1] >> 32) as u32,
            max_ack: w[i + 1] as u32,
            scale,
            flags,
        };
        Tcp {
            state: TcpState::from_u8(small[7]),
            peers: [peer(0, small[0], small[1]), peer(2, small[2], small[3])],
            last_sort: small[4],
            last_reply: small[5] != 0,
            last_seq: (w[5] >> 32) as u32,
            last_ack: w[5] as u32,
            last_end: (w[6] >> 32) as u32,
            last_win: (w[6] >> 16) as u16,
            last_scale: (w[6] >> 8) as u8,
            last_flags: w[6] as u8,
            repeated: small[6],
        }
    }
}
