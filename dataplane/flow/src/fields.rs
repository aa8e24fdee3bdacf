//! Where is each match field in a [`FlowKey`](crate::key::FlowKey), and how wide is it?
//!
//! Names are those of `ovs-fields(7)`. Text, prerequisites and OpenFlow codes are not known here.

use crate::key::word;

/// A field's place: `bits` wide, its lowest bit at `shift` of word `word`. Fields wider than 64
/// bits take two whole words, high word first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the (first) word.
    pub word: usize,
    /// Lowest bit in the word.
    pub shift: u32,
    /// Width in bits.
    pub bits: u32,
}

macro_rules! fields {
    ($($(#[$doc:meta])* $id:ident $name:literal $word:expr, $shift:expr, $bits:expr;)*) => {
        /// A match field.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Field { $($(#[$doc])* $id,)* }

        impl Field {
            /// Every field.
            pub const ALL: &'static [Field] = &[$(Field::$id,)*];
            const PLACES: &'static [Place] =
                &[$(Place { word: $word, shift: $shift, bits: $bits },)*];
            const NAMES: &'static [&'static str] = &[$($name,)*];

            /// Where the field is.
            #[inline(always)]
            pub const fn place(self) -> Place { Self::PLACES[self as usize] }

            /// The field's name in `ovs-fields(7)`.
            pub const fn name(self) -> &'static str { Self::NAMES[self as usize] }
        }
    };
}

fields! {
    /// Ingress port: an OpenFlow port in translation, a datapath port in the caches.
    InPort "in_port" word::META, 32, 32;
    /// Recirculation id, 0 for a packet from a port.
    RecircId "recirc_id" word::META, 0, 32;
    EthDst "eth_dst" word::ETH_DST, 16, 48;
    /// Ethernet type of the payload behind the parsed VLAN tags; 0x05ff for an 802.3 frame
    /// without SNAP.
    EthType "eth_type" word::ETH_DST, 0, 16;
    EthSrc "eth_src" word::ETH_SRC, 16, 48;
    /// Outer tag's TCI with bit 0x1000 (CFI) set where there is a tag, 0 where there is none.
    VlanTci "vlan_tci" word::ETH_SRC, 0, 16;
    NwSrc "nw_src" word::IPV4, 32, 32;
    NwDst "nw_dst" word::IPV4, 0, 32;
    /// IP protocol, or the low byte of the ARP operation.
    NwProto "nw_proto" word::NW, 56, 8;
    /// DSCP and ECN: the whole byte.
    NwTos "nw_tos" word::NW, 48, 8;
    NwTtl "nw_ttl" word::NW, 40, 8;
    /// Bit 0: any fragment; bit 1: not the first one.
    NwFrag "ip_frag" word::NW, 32, 8;
    Ipv6Label "ipv6_label" word::NW, 0, 32;
    /// TCP, UDP or SCTP source port, or the ICMP type.
    TpSrc "tp_src" word::L4, 48, 16;
    /// TCP, UDP or SCTP destination port, or the ICMP code.
    TpDst "tp_dst" word::L4, 32, 16;
    TcpFlags "tcp_flags" word::L4, 16, 16;
    VlanTpid "vlan_tpid" word::VLAN, 48, 16;
    Vlan1Tci "vlan1_tci" word::VLAN, 32, 16;
    Vlan1Tpid "vlan1_tpid" word::VLAN, 16, 16;
    Ipv6Src "ipv6_src" word::IPV6_SRC, 0, 128;
    Ipv6Dst "ipv6_dst" word::IPV6_DST, 0, 128;
    /// ARP sender hardware address, or the ND source link-layer address.
    ArpSha "arp_sha" word::ARP_SHA, 16, 48;
    /// ARP target hardware address, or the ND target link-layer address.
    ArpTha "arp_tha" word::ARP_THA, 16, 48;
    NdTarget "nd_target" word::ND_TARGET, 0, 128;
    NdReserved "nd_reserved" word::ND, 32, 32;
    NdOptionsType "nd_options_type" word::ND, 24, 8;
    Mpls0 "mpls_lse0" word::MPLS, 32, 32;
    Mpls1 "mpls_lse1" word::MPLS, 0, 32;
    Mpls2 "mpls_lse2" word::MPLS2, 32, 32;
    PktMark "pkt_mark" word::MARK, 32, 32;
    DpHash "dp_hash" word::MARK, 0, 32;
    SkbPriority "skb_priority" word::PRIORITY, 32, 32;
    PacketType "packet_type" word::PRIORITY, 0, 32;
    CtMark "ct_mark" word::CT, 32, 32;
    CtZone "ct_zone" word::CT, 16, 16;
    CtState "ct_state" word::CT, 8, 8;
    CtNwProto "ct_nw_proto" word::CT, 0, 8;
    CtLabel "ct_label" word::CT_LABEL, 0, 128;
    CtNwSrc "ct_nw_src" word::CT_NW, 32, 32;
    CtNwDst "ct_nw_dst" word::CT_NW, 0, 32;
    CtTpSrc "ct_tp_src" word::CT_TP, 48, 16;
    CtTpDst "ct_tp_dst" word::CT_TP, 32, 16;
    CtIpv6Src "ct_ipv6_src" word::CT_IPV6_SRC, 0, 128;
    CtIpv6Dst "ct_ipv6_dst" word::CT_IPV6_DST, 0, 128;
    TunId "tun_id" word::TUN_ID, 0, 64;
    TunSrc "tun_src" word::TUN_IPV4, 32, 32;
    TunDst "tun_dst" word::TUN_IPV4, 0, 32;
    TunIpv6Src "tun_ipv6_src" word::TUN_IPV6_SRC, 0, 128;
    TunIpv6Dst "tun_ipv6_dst" word::TUN_IPV6_DST, 0, 128;
    TunFlags "tun_flags" word::TUN, 48, 16;
    TunTos "tun_tos" word::TUN, 40, 8;
    TunTtl "tun_ttl" word::TUN, 32, 8;
    TunGbpId "tun_gbp_id" word::TUN, 16, 16;
    TunGbpFlags "tun_gbp_flags" word::TUN, 8, 8;
    TunTpSrc "tun_tp_src" word::TUN_TP, 48, 16;
    TunTpDst "tun_tp_dst" word::TUN_TP, 32, 16;
    Metadata "metadata" word::METADATA, 0, 64;
    Reg0 "reg0" word::REGS, 32, 32;
    Reg1 "reg1" word::REGS, 0, 32;
    Reg2 "reg2" word::REGS + 1, 32, 32;
    Reg3 "reg3" word::REGS + 1, 0, 32;
    Reg4 "reg4" word::REGS + 2, 32, 32;
    Reg5 "reg5" word::REGS + 2, 0, 32;
    Reg6 "reg6" word::REGS + 3, 32, 32;
    Reg7 "reg7" word::REGS + 3, 0, 32;
    Reg8 "reg8" word::REGS + 4, 32, 32;
    Reg9 "reg9" word::REGS + 4, 0, 32;
    Reg10 "reg10" word::REGS + 5, 32, 32;
    Reg11 "reg11" word::REGS + 5, 0, 32;
    Reg12 "reg12" word::REGS + 6, 32, 32;
    Reg13 "reg13" word::REGS + 6, 0, 32;
    Reg14 "reg14" word::REGS + 7, 32, 32;
    Reg15 "reg15" word::REGS + 7, 0, 32;
    ConjId "conj_id" word::CONJ, 32, 32;
    ActsetOutput "actset_output" word::CONJ, 0, 32;
}

impl Field {
    /// All bits of the field set.
    pub const fn full(self) -> u128 {
        let bits = self.place().bits;
        if bits >= 128 { u128::MAX } else { (1 << bits) - 1 }
    }

    /// The register with that number, 0 to 15.
    pub const fn reg(n: usize) -> Option<Field> {
        if n > 15 { None } else { Some(Self::ALL[Field::Reg0 as usize + n]) }
    }
}
