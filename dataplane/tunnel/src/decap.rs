//! What does an outer header say, and where does the inner packet begin?
//!
//! [`decap`] checks a received outer packet (extracted before) and changes nothing but a checksum
//! that was still unfinished inside; [`Decap::strip`] then takes the headers off, and
//! [`Decap::metadata`] writes what they said into the inner packet's key.
//!
//! Must not know: which tunnel port the packet belongs to ([`crate::table`] does), what the inner
//! packet is.

use afxdp::{Checksum, FramePool, Packet};
use flow::checksum::{self, Sum};
use flow::extract::ip_proto;
use flow::key::word;
use flow::{Drop, Field, FlowKey, Offsets};

use crate::config::Kind;
use crate::encap::{ETH_TYPE_TEB, GRE_CSUM, GRE_KEY, GRE_SEQ, VXLAN_I};
use crate::flags;

/// Bytes of a UDP header, a VXLAN header, and a Geneve header without options.
const UDP: usize = 8;
const VXLAN: usize = 8;
const GENEVE: usize = 8;
/// Bytes of the inner Ethernet header, without which there is no inner packet.
const ETHERNET: usize = 14;

/// A tunnel packet found sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decap {
    /// Tunnel id; 0 for GRE without key.
    pub id: u64,
    /// [`flags`]: `CSUM`, `KEY`, `OAM`.
    pub flags: u16,
    /// Bytes in front of the inner packet.
    pub strip: usize,
    /// End of the inner packet in the outer one.
    pub end: usize,
}

#[inline(always)]
fn be16(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

/// `N` bytes of the first buffer.
#[inline(always)]
fn header<const N: usize>(packet: &Packet, at: usize) -> Result<[u8; N], Drop> {
    let found = packet.data().get(at..).and_then(|d| d.first_chunk::<N>());
    found.copied().ok_or(Drop::TunnelMalformed)
}

/// Check a packet received on a tunnel's UDP port, or as GRE. `off` and `outer` are what
/// extraction said of it.
///
/// # Errors
/// [`Drop::TunnelMalformed`]: a fragment, a length that does not hold, a wrong version, reserved
/// bits that change what follows, no room for an inner Ethernet header.
/// [`Drop::TunnelNoPort`]: the payload is not Ethernet. [`Drop::Unsupported`]: Geneve options
/// that must be understood. [`Drop::TunnelChecksum`]: the outer UDP or GRE checksum is wrong.
#[inline]
pub fn decap(
    packet: &mut Packet,
    off: &Offsets,
    outer: &FlowKey,
    kind: Kind,
) -> Result<Decap, Drop> {
    if off.end == 0 || off.l4 == 0 || outer.get64(Field::NwFrag) != 0 {
        return Err(Drop::TunnelMalformed);
    }
    let d = match kind {
        Kind::Gre => gre(packet, off, outer)?,
        Kind::Vxlan => {
            let end = udp(packet, off, outer, UDP + VXLAN)?;
            vxlan(packet, usize::from(off.l4), end)?
        }
        Kind::Geneve => {
            let end = udp(packet, off, outer, UDP + GENEVE)?;
            geneve(packet, usize::from(off.l4), end)?
        }
    };
    if d.strip + ETHERNET > d.end || d.strip + ETHERNET > packet.data().len() {
        return Err(Drop::TunnelMalformed);
    }
    Ok(d)
}

/// The end of the UDP payload. `need` is the least length of UDP and tunnel header.
#[inline]
fn udp(packet: &mut Packet, off: &Offsets, outer: &FlowKey, need: usize) -> Result<UdpEnd, Drop> {
    if off.proto != ip_proto::UDP {
        return Err(Drop::TunnelMalformed);
    }
    let l4 = usize::from(off.l4);
    let h = header::<UDP>(packet, l4)?;
    let length = usize::from(be16(&h, 4));
    if length < need || l4 + length > usize::from(off.end) {
        return Err(Drop::TunnelMalformed);
    }
    // No checksum: allowed for tunnels over IPv6 too (RFC 6935).
    let csum = be16(&h, 6) != 0;
    if csum && to_verify(packet, off) {
        let sum = pseudo(outer, ip_proto::UDP, length as u32);
        let sum = sum.u16(checksum::sum_from(packet, l4, length).folded());
        if sum.folded() != 0xffff {
            return Err(Drop::TunnelChecksum);
        }
    }
    Ok(UdpEnd { end: l4 + length, csum })
}

/// Where the UDP payload ends, and whether it came with a checksum.
#[derive(Clone, Copy)]
struct UdpEnd {
    end: usize,
    csum: bool,
}

/// Whether the outer checksum is to be judged. If an inner one is unfinished it is finished
/// first, since the outer one was made over the finished bytes.
fn to_verify(packet: &mut Packet, off: &Offsets) -> bool {
    match packet.checksum() {
        Checksum::Verified => false,
        // The outer one itself was left to us by a sender on this host.
        Checksum::Partial { start, .. } if start == off.l4 => false,
        Checksum::Partial { .. } => {
            checksum::finish_partial(packet);
            true
        }
        Checksum::Complete => true,
    }
}

fn pseudo(outer: &FlowKey, proto: u8, length: u32) -> Sum {
    let v4 = outer.word(word::IPV4);
    if v4 != 0 {
        return Sum::pseudo_v4((v4 >> 32) as u32, v4 as u32, proto, length);
    }
    Sum::pseudo_v6(outer.get(Field::Ipv6Src), outer.get(Field::Ipv6Dst), proto, length)
}

fn csum_flag(csum: bool) -> u16 {
    if csum { flags::CSUM } else { 0 }
}

/// RFC 7348 section 5. Reserved bits that are set announce extensions that change what follows
/// (a payload that is not Ethernet, a group policy); like Linux and Open vSwitch, refuse them.
#[inline]
fn vxlan(packet: &Packet, l4: usize, udp: UdpEnd) -> Result<Decap, Drop> {
    let h = header::<VXLAN>(packet, l4 + UDP)?;
    if h[..4] != [VXLAN_I, 0, 0, 0] || h[7] != 0 {
        return Err(Drop::TunnelMalformed);
    }
    Ok(Decap {
        id: vni(&h),
        flags: flags::KEY | csum_flag(udp.csum),
        strip: l4 + UDP + VXLAN,
        end: udp.end,
    })
}

/// The 24-bit id in bytes 4 to 6 of a VXLAN or Geneve header.
fn vni(h: &[u8; 8]) -> u64 {
    u64::from(u32::from_be_bytes([h[4], h[5], h[6], h[7]]) >> 8)
}

/// RFC 8926 section 3.4.
fn geneve(packet: &Packet, l4: usize, udp: UdpEnd) -> Result<Decap, Drop> {
    const VERSION: u8 = 0xc0;
    const OPTION_LENGTH: u8 = 0x3f;
    const CONTROL: u8 = 0x80;
    const CRITICAL: u8 = 0x40;
    let h = header::<GENEVE>(packet, l4 + UDP)?;
    let options = l4 + UDP + GENEVE;
    let strip = options + usize::from(h[0] & OPTION_LENGTH) * 4;
    if h[0] & VERSION != 0 || strip > udp.end {
        return Err(Drop::TunnelMalformed);
    }
    if be16(&h, 2) != ETH_TYPE_TEB {
        return Err(Drop::TunnelNoPort);
    }
    if h[1] & CRITICAL != 0 {
        return Err(Drop::Unsupported);
    }
    if !options_sound(packet.data().get(options..strip).ok_or(Drop::TunnelMalformed)?) {
        return Err(Drop::TunnelMalformed);
    }
    let oam = if h[1] & CONTROL != 0 { flags::OAM } else { 0 };
    Ok(Decap { id: vni(&h), flags: flags::KEY | oam | csum_flag(udp.csum), strip, end: udp.end })
}

/// Whether options fill their room exactly (RFC 8926 section 3.5).
fn options_sound(mut options: &[u8]) -> bool {
    while let Some(h) = options.first_chunk::<4>() {
        let length = 4 + usize::from(h[3] & 0x1f) * 4;
        match options.get(length..) {
            Some(rest) => options = rest,
            None => return false,
        }
    }
    options.is_empty()
}

/// RFC 2784 and RFC 2890, version 0, with an Ethernet frame inside.
fn gre(packet: &mut Packet, off: &Offsets, outer: &FlowKey) -> Result<Decap, Drop> {
    let (l4, end) = (usize::from(off.l4), usize::from(off.end));
    if outer.get64(Field::NwProto) != u64::from(ip_proto::GRE) || l4 + 4 > end {
        return Err(Drop::TunnelMalformed);
    }
    let h = header::<4>(packet, l4)?;
    let f = be16(&h, 0);
    if f & !(GRE_CSUM | GRE_KEY | GRE_SEQ) != 0 {
        return Err(Drop::TunnelMalformed);
    }
    if be16(&h, 2) != ETH_TYPE_TEB {
        return Err(Drop::TunnelNoPort);
    }
    let mut strip = l4 + 4;
    let mut d = Decap { id: 0, flags: csum_flag(f & GRE_CSUM != 0), strip: 0, end };
    strip += if f & GRE_CSUM != 0 { 4 } else { 0 };
    if f & GRE_KEY != 0 {
        d.id = u32::from_be_bytes(header(packet, strip)?).into();
        d.flags |= flags::KEY;
        strip += 4;
    }
    strip += if f & GRE_SEQ != 0 { 4 } else { 0 };
    if strip > end {
        return Err(Drop::TunnelMalformed);
    }
    if f & GRE_CSUM != 0
        && to_verify(packet, off)
        && checksum::sum_from(packet, l4, end - l4).folded() != 0xffff
    {
        return Err(Drop::TunnelChecksum);
    }
    d.strip = strip;
    Ok(d)
}

impl Decap {
    /// Take the outer headers off, and whatever is behind the inner packet.
    ///
    /// # Errors
    /// [`Drop::TunnelMalformed`] if this is not the packet that was checked; it is unchanged.
    #[inline]
    pub fn strip(&self, packet: &mut Packet, pool: &mut FramePool) -> Result<(), Drop> {
        if self.end < self.strip {
            return Err(Drop::TunnelMalformed);
        }
        packet.pull_front(self.strip).map_err(|_| Drop::TunnelMalformed)?;
        packet.truncate(self.end - self.strip, pool);
        if packet.checksum() == Checksum::Verified {
            // That was said of the outer packet.
            packet.set_checksum(Checksum::Complete);
        }
        Ok(())
    }

    /// Write the tunnel fields of the inner packet's key: what the outer header said.
    #[inline]
    pub fn metadata(&self, outer: &FlowKey, key: &mut FlowKey) {
        for (i, value) in self.words(outer).into_iter().enumerate() {
            key.set_word(word::TUN_ID + i, value);
        }
    }

    /// The same as words of the key, from [`word::TUN_ID`] on.
    #[inline]
    pub fn words(&self, outer: &FlowKey) -> [u64; word::METADATA - word::TUN_ID] {
        const TOS_TTL: u64 = 0xffff << 40;
        let v6 = outer.word(word::IPV4) == 0;
        let mut words = [0; word::METADATA - word::TUN_ID];
        let mut set = |w: usize, value: u64| words[w - word::TUN_ID] = value;
        set(word::TUN_ID, self.id);
        set(word::TUN_IPV4, outer.word(word::IPV4));
        if v6 {
            for i in 0..2 {
                set(word::TUN_IPV6_SRC + i, outer.word(word::IPV6_SRC + i));
                set(word::TUN_IPV6_DST + i, outer.word(word::IPV6_DST + i));
            }
        }
        // TOS and TTL lie side by side in both words.
        let tos_ttl = (outer.word(word::NW) & TOS_TTL) >> 8;
        set(word::TUN, u64::from(self.flags) << 48 | tos_ttl);
        // GRE has no ports, and extraction reads none there.
        set(word::TUN_TP, outer.word(word::L4) & 0xffff_ffff << 32);
        words
    }
}
