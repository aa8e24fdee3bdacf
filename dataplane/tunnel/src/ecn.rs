//! What becomes of congestion marks at a tunnel's ends (RFC 6040)?
//!
//! ECN is the low two bits of TOS or traffic class: 0 not ECN-capable, 1 ECT(1), 2 ECT(0), 3
//! congestion experienced (CE).

use flow::Drop;

/// The ECN bits.
pub const MASK: u8 = 3;
/// Congestion experienced.
pub const CE: u8 = 3;
const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;

/// The outer TOS byte at the sending end: `dscp` with the inner packet's ECN bits (section 4.1,
/// normal mode).
#[inline]
pub const fn encap(dscp: u8, inner_tos: u8) -> u8 {
    dscp & !MASK | inner_tos & MASK
}

/// The inner TOS byte at the receiving end (section 4.2, figure 4).
///
/// # Errors
/// [`Drop::TunnelEcn`] if the outer header says congestion and the inner is not ECN-capable, as
/// dropping is then the only way to tell.
#[inline]
pub const fn decap(outer_tos: u8, inner_tos: u8) -> Result<u8, Drop> {
    let ecn = match (outer_tos & MASK, inner_tos & MASK) {
        (CE, NOT_ECT) => return Err(Drop::TunnelEcn),
        (CE, _) => CE,
        (ECT_1, ECT_0) => ECT_1,
        (_, inner) => inner,
    };
    Ok(inner_tos & !MASK | ecn)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Figure 4 of RFC 6040, rows inner and columns outer in the order Not-ECT, ECT(0), ECT(1),
    /// CE.
    const FIGURE_4: [[Option<u8>; 4]; 4] = [
        [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None],
        [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)],
        [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)],
        [Some(CE), Some(CE), Some(CE), Some(CE)],
    ];

    #[test]
    fn every_combination_at_the_receiving_end() {
        let order = [NOT_ECT, ECT_0, ECT_1, CE];
        for (row, inner) in FIGURE_4.iter().zip(order) {
            for (want, outer) in row.iter().zip(order) {
                let got = decap(0xb8 | outer, 0x20 | inner);
                assert_eq!(got.ok(), want.map(|e| 0x20 | e), "inner {inner} outer {outer}");
            }
        }
    }

    #[test]
    fn the_sending_end_copies() {
        for inner in 0..=255u8 {
            assert_eq!(encap(0x2f, inner), 0x2c | inner & 3);
        }
    }
}
