//! What does one TCP segment say?

use super::after;

/// What a segment is to the state machine, by its flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Sort {
    Syn = 0,
    SynAck = 1,
    Fin = 2,
    Ack = 3,
    Rst = 4,
    /// Also: no segment yet.
    None = 5,
}

/// [`Sort::of_flags`] for each combination of FIN, SYN, RST and ACK.
static SORTS: [Sort; 32] = {
    let mut sorts = [Sort::None; 32];
    let mut flags = 0;
    while flags < 32 {
        sorts[flags] = if flags as u8 & RST != 0 {
            Sort::Rst
        } else if flags as u8 & SYN != 0 {
            if flags as u8 & ACK != 0 { Sort::SynAck } else { Sort::Syn }
        } else if flags as u8 & FIN != 0 {
            Sort::Fin
        } else if flags as u8 & ACK != 0 {
            Sort::Ack
        } else {
            Sort::None
        };
        flags += 1;
    }
    sorts
};

impl Sort {
    #[inline(always)]
    fn of_flags(flags: u8) -> Sort {
        SORTS[usize::from(flags & 0x1f)]
    }

    pub(crate) fn from_u8(v: u8) -> Sort {
        match v {
            0 => Sort::Syn,
            1 => Sort::SynAck,
            2 => Sort::Fin,
            3 => Sort::Ack,
            4 => Sort::Rst,
            _ => Sort::None,
        }
    }
}

/// A segment's numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    /// The highest edge of a SACK block beyond `ack`, else `ack`.
    pub(crate) sack: u32,
    /// Sequence number behind the segment, SYN and FIN counted.
    pub(crate) end: u32,
    /// The window as it stands in the header.
    pub(crate) win: u16,
    pub(crate) flags: u8,
    /// What the flags make of it.
    pub(crate) sort: Sort,
    /// Window scale option (RFC 7323), at most 14; `NO_SCALE` without.
    pub(crate) scale: u8,
    pub(crate) sack_permitted: bool,
}

/// No window scale option.
pub(crate) const NO_SCALE: u8 = 0xff;

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

impl Segment {
    /// A segment of `len` bytes of payload; `options` are the header's.
    #[inline(always)]
    pub(crate) fn new(
        seq: u32,
        ack: u32,
        win: u16,
        flags: u8,
        len: u32,
        options: &[u8],
    ) -> Segment {
        let counted = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        let end = seq.wrapping_add(len).wrapping_add(counted);
        let mut s = Segment {
            seq,
            ack,
            sack: ack,
            end,
            win,
            flags,
            sort: Sort::of_flags(flags),
            scale: NO_SCALE,
            sack_permitted: false,
        };
        // Most segments have no options, or just a time stamp.
        if !options.is_empty() && !matches!(options, [1, 1, 8, 10, ..] if options.len() == 12) {
            s.read_options(options);
        }
        s
    }

    fn read_options(&mut self, mut rest: &[u8]) {
        const END: u8 = 0;
        const NOP: u8 = 1;
        const SCALE: u8 = 3;
        const SACK_PERMITTED: u8 = 4;
        const SACK: u8 = 5;
        while let [kind, tail @ ..] = rest {
            match *kind {
                END => return,
                NOP => {
                    rest = tail;
                    continue;
                }
                _ => {}
            }
            let Some(&len) = tail.first() else { return };
            let len = usize::from(len);
            // Lengths that cannot be end the walk; what stood before stays.
            if len < 2 || len > rest.len() {
                return;
            }
            let body = &rest[2..len];
            match (*kind, body) {
                (SCALE, [shift]) => self.scale = (*shift).min(14),
                (SACK_PERMITTED, []) => self.sack_permitted = true,
                (SACK, blocks) if !blocks.is_empty() && blocks.len() % 8 == 0 => {
                    for b in blocks.as_chunks::<8>().0 {
                        let edge = u32::from_be_bytes([b[4], b[5], b[6], b[7]]);
                        if after(edge, self.sack) {
                            self.sack = edge;
                        }
                    }
                }
                _ => {}
            }
            rest = &rest[len..];
        }
    }

    #[inline(always)]
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seg(options: &[u8]) -> Segment {
        Segment::new(100, 200, 300, ACK, 10, options)
    }

    #[test]
    fn options() {
        assert_eq!(seg(&[3, 3, 7, 0]).scale, 7);
        assert_eq!(seg(&[1, 3, 3, 15]).scale, 14, "RFC 7323 caps it");
        assert!(seg(&[4, 2, 0, 0]).sack_permitted);
        let sack = [1, 1, 5, 10, 0, 0, 1, 0, 0, 0, 2, 0];
        assert_eq!(seg(&sack).sack, 0x200);
        assert_eq!(seg(&[5, 10, 0, 0, 0, 1, 0, 0, 0, 2]).sack, 200, "an old edge");
    }

    #[test]
    fn lying_options_end_the_walk() {
        assert_eq!(seg(&[3, 0, 7, 3, 3, 5]).scale, NO_SCALE);
        assert_eq!(seg(&[3, 1, 7, 0]).scale, NO_SCALE);
        assert_eq!(seg(&[3, 4, 7]).scale, NO_SCALE);
        assert_eq!(seg(&[3]).scale, NO_SCALE);
        assert_eq!(seg(&[0, 3, 3, 7]).scale, NO_SCALE, "behind the end");
    }

    #[test]
    fn syn_and_fin_take_a_number_each() {
        assert_eq!(Segment::new(u32::MAX, 0, 0, SYN, 1, &[]).end, 1);
        assert_eq!(Segment::new(10, 0, 0, FIN | ACK, 5, &[]).end, 16);
    }
}
