//! Setting many fields at once, as an action does.
//!
//! An action sets the same fields in every packet, so what can be made ready once is: the two Ethernet
//! addresses, which lie side by side, are written together.

use afxdp::Packet;

use super::{
    bytes, is_arp, set_arp_op, set_arp_sha, set_arp_spa_tpa, set_arp_tha, set_eth_dst, set_eth_src,
    set_icmp_type_code, set_inner_vlan_tci, set_ipv4, set_ipv6_dst, set_ipv6_label, set_ipv6_src,
    set_nd, set_nd_sll, set_nd_target, set_nd_tll, set_ports, set_tos, set_ttl, set_vlan_tci,
};
use crate::drops::Drop;
use crate::extract::{Offsets, ip_proto};
use crate::key::word;
use crate::sparse::Match;

/// Bits of a key's Ethernet words that are no address.
const NO_ADDRESS: u64 = 0xffff;
/// The TTL in its word of a key.
const TTL: u64 = 0xff << 40;

/// Header fields to set, and the values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetFields {
    fields: Match,
    addresses: Option<Addresses>,
    ttl: Option<u8>,
    /// (word, value, mask) of all other words.
    others: Box<[(usize, u64, u64)]>,
}

/// What is set in the first 12 bytes of a frame: the first eight, and four more. Which bits stay as they
/// are, and which are added to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Addresses {
    keep: (u64, u32),
    add: (u64, u32),
}

impl SetFields {
    /// Set the fields that `fields` matches to its values. Words of metadata (marks, tunnel, connection,
    /// registers) are not in the packet's bytes and are passed over.
    pub fn new(fields: Match) -> SetFields {
        let (dst, src) = (fields.word(word::ETH_DST), fields.word(word::ETH_SRC));
        let together = (dst.1 | src.1) & NO_ADDRESS == 0 && dst.1 | src.1 != 0;
        let (nw, nw_mask) = fields.word(word::NW);
        let ttl = (nw_mask == TTL).then_some((nw >> TTL.trailing_zeros()) as u8);
        let ready = |w| match w {
            word::ETH_DST | word::ETH_SRC => together,
            word::NW => ttl.is_some(),
            _ => false,
        };
        let others = fields.iter().filter(|(w, ..)| !ready(*w)).collect();
        let addresses = together.then(|| {
            // As numbers the addresses are in the high bits, and in memory the high bits come first.
            let first = |dst: u64, src: u64| (dst | src >> 48).to_be();
            let last = |src: u64| ((src >> 16) as u32).to_be();
            Addresses {
                keep: (!first(dst.1, src.1), !last(src.1)),
                add: (first(dst.0, src.0), last(src.0)),
            }
        });
        SetFields { fields, addresses, ttl, others }
    }

    /// The fields and their values.
    pub fn fields(&self) -> &Match {
        &self.fields
    }

    /// Set them in a packet.
    ///
    /// # Errors
    /// [`Drop::Malformed`] or [`Drop::Runt`] if the packet has no such header, [`Drop::Unsupported`] for a
    /// field that cannot be set. Fields before the failing one are changed; the packet is to be dropped.
    #[inline]
    pub fn set(&self, packet: &mut Packet, off: &Offsets) -> Result<(), Drop> {
        if let Some(addresses) = &self.addresses {
            addresses.set(packet)?;
        }
        if let Some(ttl) = self.ttl {
            set_ttl(packet, off, ttl, 0xff)?;
        }
        for (w, value, mask) in &self.others {
            set_word(packet, off, *w, *value, *mask)?;
        }
        Ok(())
    }

    /// Set them in several packets, whose offsets `off` says; how many packets are done. If that is
    /// not all of them, the next one fails as [`SetFields::set`] says, and those behind it are unchanged.
    ///
    /// All fields of a packet are set before the next one's: the first lines of a burst's frames drive each
    /// other out of the processor's cache, where they have few places.
    #[inline(always)]
    pub fn set_all(&self, packets: &mut [Packet], off: &[Offsets]) -> usize {
        let packets = packets.iter_mut().zip(off);
        match (self.addresses, self.ttl, &*self.others) {
            // What a router does, with nothing to ask for each packet.
            (Some(addresses), Some(ttl), []) => done_until(packets, |(packet, off)| {
                addresses.set(packet)?;
                set_ttl(packet, off, ttl, 0xff)
            }),
            _ => done_until(packets, |(packet, off)| self.set(packet, off)),
        }
    }
}

/// Do something with one after the other until it fails; with how many it did not.
#[inline(always)]
pub fn done_until<T>(
    mut all: impl ExactSizeIterator<Item = T>,
    mut act: impl FnMut(T) -> Result<(), Drop>,
) -> usize {
    let n = all.len();
    all.position(|one| act(one).is_err()).unwrap_or(n)
}

impl Addresses {
    #[inline(always)]
    fn set(&self, packet: &mut Packet) -> Result<(), Drop> {
        let head = bytes::<14>(packet, 0).map_err(|_| Drop::Runt)?;
        // Neither part is read behind the other's write: a load that meets half of a store waits for it.
        if let Some((first, rest)) = head.split_first_chunk_mut::<8>()
            && let Some(last) = rest.first_chunk_mut::<4>()
        {
            let new = u64::from_ne_bytes(*first) & self.keep.0 | self.add.0;
            let end = u32::from_ne_bytes(*last) & self.keep.1 | self.add.1;
            (*first, *last) = (new.to_ne_bytes(), end.to_ne_bytes());
        }
        Ok(())
    }
}

/// Set what is in one word of the key.
fn set_word(p: &mut Packet, off: &Offsets, w: usize, v: u64, m: u64) -> Result<(), Drop> {
    const IPV6_SRC_LOW: usize = word::IPV6_SRC + 1;
    const IPV6_DST_LOW: usize = word::IPV6_DST + 1;
    const ND_TARGET_LOW: usize = word::ND_TARGET + 1;
    match w {
        word::ETH_DST if m & NO_ADDRESS == 0 => set_eth_dst(p, v >> 16, m >> 16),
        word::ETH_SRC => {
            if m >> 16 != 0 {
                set_eth_src(p, v >> 16, m >> 16)?;
            }
            if m & NO_ADDRESS == 0 { Ok(()) } else { set_vlan_tci(p, v as u16, m as u16) }
        }
        word::VLAN if m & !(NO_ADDRESS << 32) == 0 => {
            set_inner_vlan_tci(p, (v >> 32) as u16, (m >> 32) as u16)
        }
        word::IPV4 if is_arp(p, off) => set_arp_spa_tpa(p, off, v, m),
        word::IPV4 => set_ipv4(p, off, v, m),
        word::NW => set_nw(p, off, v, m),
        word::L4 => set_l4(p, off, v, m),
        word::IPV6_SRC => set_ipv6_src(p, off, u128::from(v) << 64, u128::from(m) << 64),
        word::IPV6_DST => set_ipv6_dst(p, off, u128::from(v) << 64, u128::from(m) << 64),
        IPV6_SRC_LOW => set_ipv6_src(p, off, v.into(), m.into()),
        IPV6_DST_LOW => set_ipv6_dst(p, off, v.into(), m.into()),
        word::ARP_SHA if is_arp(p, off) => set_arp_sha(p, off, v >> 16, m >> 16),
        word::ARP_THA if is_arp(p, off) => set_arp_tha(p, off, v >> 16, m >> 16),
        word::ARP_SHA => set_nd_sll(p, off, v >> 16, m >> 16),
        word::ARP_THA => set_nd_tll(p, off, v >> 16, m >> 16),
        word::ND_TARGET => set_nd_target(p, off, u128::from(v) << 64, u128::from(m) << 64),
        ND_TARGET_LOW => set_nd_target(p, off, v.into(), m.into()),
        word::ND => set_nd(p, off, v, m),
        word::META => Ok(()),
        w if w >= word::MARK => Ok(()),
        _ => Err(Drop::Unsupported),
    }
}

/// The word of protocol, TOS, TTL, fragment and label.
fn set_nw(p: &mut Packet, off: &Offsets, v: u64, m: u64) -> Result<(), Drop> {
    const PROTO: u64 = 0xff << 56;
    const LABEL: u64 = 0xf_ffff;
    if is_arp(p, off) {
        // ARP's operation is where IP's protocol would be.
        if m & !PROTO != 0 {
            return Err(Drop::Unsupported);
        }
        return set_arp_op(p, off, (v >> 56) as u8, (m >> 56) as u8);
    }
    if m & !(0xffff << 40 | LABEL) != 0 {
        return Err(Drop::Unsupported);
    }
    if m >> 48 & 0xff != 0 {
        set_tos(p, off, (v >> 48) as u8, (m >> 48) as u8)?;
    }
    if m >> 40 & 0xff != 0 {
        set_ttl(p, off, (v >> 40) as u8, (m >> 40) as u8)?;
    }
    if m & LABEL != 0 {
        set_ipv6_label(p, off, v as u32, m as u32)?;
    }
    Ok(())
}

/// The word of ports, ICMP type and code.
fn set_l4(p: &mut Packet, off: &Offsets, v: u64, m: u64) -> Result<(), Drop> {
    if m & 0xffff_ffff != 0 {
        return Err(Drop::Unsupported);
    }
    match off.proto {
        ip_proto::ICMP | ip_proto::ICMPV6 => {
            let type_code = |x: u64| (x >> 40 & 0xff00 | x >> 32 & 0xff) as u16;
            set_icmp_type_code(p, off, type_code(v), type_code(m))
        }
        _ => set_ports(p, off, (v >> 32) as u32, (m >> 32) as u32),
    }
}
