//! What does a field's name in a flow mean?
//!
//! OpenFlow's fields as `ovs-fields(7)` lists them: every name and alias, how many bits they have,
//! where those bits are in a [`FlowKey`], how values are written, whether a field may be masked
//! or changed, and what else a packet must be for the field to exist (its prerequisite).
//!
//! Several names can stand for one place in the key (`tcp_src` and `udp_src`, `dl_vlan` and
//! `vlan_vid`, `reg0` and `xreg0`), so a match keeps places ([`flow::Field`]) while actions keep
//! names ([`Mf`]).
//!
//! Must not know: text around the names, actions, tables.

use flow::FlowKey;
use flow::fields::Place;
use flow::key::{low_bits, word};

/// How a field's value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Decimal; hexadecimal is read too.
    Decimal,
    /// Hexadecimal with `0x`; decimal is read too.
    Hex,
    /// `xx:xx:xx:xx:xx:xx`.
    Mac,
    /// Dotted quad.
    Ipv4,
    /// RFC 4291 text.
    Ipv6,
    /// A port's number, its name, or a reserved port's name.
    Port,
    /// `no`, `yes`, `first`, `later`, `not_later`.
    Frag,
    /// `+new-est`, or names joined by `|`.
    CtState,
    /// `+syn-ack`, or names joined by `|`.
    TcpFlags,
    /// `+oam`, or names joined by `|`.
    TunnelFlags,
    /// `(namespace,type)`.
    PacketType,
}

/// What else a packet must be for a field to exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prereq {
    /// Nothing; any packet has it.
    None,
    /// An 802.1Q or 802.1ad tag.
    Vlan,
    /// Ethernet type 0x8847 or 0x8848.
    Mpls,
    /// Ethernet type 0x0806 or 0x8035.
    Arp,
    /// Ethernet type 0x0800.
    Ipv4,
    /// Ethernet type 0x86dd.
    Ipv6,
    /// IPv4 or IPv6.
    Ip,
    /// TCP over IPv4 or IPv6.
    Tcp,
    /// UDP over IPv4 or IPv6.
    Udp,
    /// SCTP over IPv4 or IPv6.
    Sctp,
    /// ICMP over IPv4.
    Icmp4,
    /// ICMPv6 over IPv6.
    Icmp6,
    /// Neighbour solicitation or advertisement.
    Nd,
    /// Neighbour solicitation.
    NdSolicit,
    /// Neighbour advertisement.
    NdAdvert,
    /// A valid tracked IPv4 packet.
    Ct4,
    /// A valid tracked IPv6 packet.
    Ct6,
    /// A valid tracked packet.
    Ct,
}

impl Prereq {
    /// What a flow has to match, in the words of a flow.
    pub const fn text(self) -> &'static str {
        match self {
            Prereq::None => "nothing",
            Prereq::Vlan => {
                "a VLAN tag (dl_vlan=N, vlan_vid=0x1000/0x1000 or vlan_tci=0x1000/0x1000)"
            }
            Prereq::Mpls => "mpls or mplsm (dl_type=0x8847 or 0x8848)",
            Prereq::Arp => "arp or rarp (dl_type=0x0806 or 0x8035)",
            Prereq::Ipv4 => "ip (dl_type=0x0800)",
            Prereq::Ipv6 => "ipv6 (dl_type=0x86dd)",
            Prereq::Ip => "ip or ipv6 (dl_type=0x0800 or 0x86dd)",
            Prereq::Tcp => "tcp or tcp6 (nw_proto=6), not nw_frag=later",
            Prereq::Udp => "udp or udp6 (nw_proto=17), not nw_frag=later",
            Prereq::Sctp => "sctp or sctp6 (nw_proto=132), not nw_frag=later",
            Prereq::Icmp4 => "icmp (ip,nw_proto=1)",
            Prereq::Icmp6 => "icmp6 (ipv6,nw_proto=58)",
            Prereq::Nd => "icmp6,icmp_type=135 or 136,icmp_code=0",
            Prereq::NdSolicit => "icmp6,icmp_type=135,icmp_code=0",
            Prereq::NdAdvert => "icmp6,icmp_type=136,icmp_code=0",
            Prereq::Ct4 => "ip and a valid ct_state (+trk-inv, or one with +new, +est or +rel)",
            Prereq::Ct6 => "ipv6 and a valid ct_state (+trk-inv, or one with +new, +est or +rel)",
            Prereq::Ct => {
                "ip or ipv6, and a valid ct_state (+trk-inv, or one with +new, +est or +rel)"
            }
        }
    }
}

/// All that is known of a field.
#[derive(Debug)]
pub struct Info {
    /// The name that is written.
    pub name: &'static str,
    /// Other names that are read: older ones, and those of NXM and OXM.
    pub aliases: &'static [&'static str],
    /// The name in `NXM_OF_ETH_SRC[]` notation; the field's own name if there is none.
    pub nxm: &'static str,
    /// Where its bits are kept. Narrower than `bits` where the packet's field has bits that the
    /// key does not keep.
    pub place: Place,
    /// Width in bits as actions see it.
    pub bits: u32,
    /// How its values are written.
    pub format: Format,
    /// Whether single bits may be matched.
    pub maskable: bool,
    /// Whether actions may change it.
    pub writable: bool,
    /// What a packet must be to have it.
    pub prereq: Prereq,
}

macro_rules! fields {
    ($($id:ident $name:literal [$($alias:literal)*] $nxm:literal
       $word:expr, $shift:expr, $stored:expr; $bits:expr;
       $format:ident $mask:ident $access:ident $prereq:ident)*) => {
        /// A field by its name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        #[allow(missing_docs)]
        pub enum Mf { $($id,)* }

        impl Mf {
            /// Every field.
            pub const ALL: &'static [Mf] = &[$(Mf::$id,)*];
            const INFO: &'static [Info] = &[$(Info {
                name: $name,
                aliases: &[$($alias,)*],
                nxm: $nxm,
                place: Place { word: $word, shift: $shift, bits: $stored },
                bits: $bits,
                format: Format::$format,
                maskable: yes_no!($mask),
                writable: yes_no!($access),
                prereq: Prereq::$prereq,
            },)*];
        }
    };
}

macro_rules! yes_no {
    (masks) => {
        true
    };
    (whole) => {
        false
    };
    (rw) => {
        true
    };
    (ro) => {
        false
    };
}

fields! {
    DpHash "dp_hash" [] "NXM_NX_DP_HASH" word::MARK, 0, 32; 32; Hex masks ro None
    RecircId "recirc_id" [] "NXM_NX_RECIRC_ID" word::META, 0, 32; 32; Decimal whole ro None
    ConjId "conj_id" [] "NXM_NX_CONJ_ID" word::CONJ, 32, 32; 32; Decimal whole ro None
    TunId "tun_id" ["tunnel_id" "OXM_OF_TUNNEL_ID"] "NXM_NX_TUN_ID"
        word::TUN_ID, 0, 64; 64; Hex masks rw None
    TunSrc "tun_src" [] "NXM_NX_TUN_IPV4_SRC" word::TUN_IPV4, 32, 32; 32; Ipv4 masks rw None
    TunDst "tun_dst" [] "NXM_NX_TUN_IPV4_DST" word::TUN_IPV4, 0, 32; 32; Ipv4 masks rw None
    TunIpv6Src "tun_ipv6_src" [] "NXM_NX_TUN_IPV6_SRC"
        word::TUN_IPV6_SRC, 0, 128; 128; Ipv6 masks rw None
    TunIpv6Dst "tun_ipv6_dst" [] "NXM_NX_TUN_IPV6_DST"
        word::TUN_IPV6_DST, 0, 128; 128; Ipv6 masks rw None
    TunFlags "tun_flags" [] "NXM_NX_TUN_FLAGS" word::TUN, 48, 1; 1; TunnelFlags masks rw None
    TunTtl "tun_ttl" [] "tun_ttl" word::TUN, 32, 8; 8; Decimal whole ro None
    TunTos "tun_tos" [] "tun_tos" word::TUN, 40, 8; 8; Decimal whole ro None
    TunGbpId "tun_gbp_id" [] "NXM_NX_TUN_GBP_ID" word::TUN, 16, 16; 16; Decimal masks rw None
    TunGbpFlags "tun_gbp_flags" [] "NXM_NX_TUN_GBP_FLAGS" word::TUN, 8, 8; 8; Hex masks rw None
    InPort "in_port" [] "NXM_OF_IN_PORT" word::META, 32, 32; 16; Port whole rw None
    InPortOxm "in_port_oxm" [] "OXM_OF_IN_PORT" word::META, 32, 32; 32; Port whole rw None
    SkbPriority "skb_priority" [] "skb_priority" word::PRIORITY, 32, 32; 32; Hex whole ro None
    PktMark "pkt_mark" [] "NXM_NX_PKT_MARK" word::MARK, 32, 32; 32; Hex masks rw None
    ActsetOutput "actset_output" ["OXM_OF_ACTSET_OUTPUT"] "ONFOXM_ET_ACTSET_OUTPUT"
        word::CONJ, 0, 32; 32; Port whole ro None
    PacketType "packet_type" [] "OXM_OF_PACKET_TYPE"
        word::PRIORITY, 0, 32; 32; PacketType whole ro None
    CtState "ct_state" [] "NXM_NX_CT_STATE" word::CT, 8, 8; 32; CtState masks ro None
    CtZone "ct_zone" [] "NXM_NX_CT_ZONE" word::CT, 16, 16; 16; Hex whole ro None
    CtMark "ct_mark" [] "NXM_NX_CT_MARK" word::CT, 32, 32; 32; Hex masks rw None
    CtLabel "ct_label" [] "NXM_NX_CT_LABEL" word::CT_LABEL, 0, 128; 128; Hex masks rw None
    CtNwProto "ct_nw_proto" [] "NXM_NX_CT_NW_PROTO" word::CT, 0, 8; 8; Decimal whole ro Ct
    CtNwSrc "ct_nw_src" [] "NXM_NX_CT_NW_SRC" word::CT_NW, 32, 32; 32; Ipv4 masks ro Ct4
    CtNwDst "ct_nw_dst" [] "NXM_NX_CT_NW_DST" word::CT_NW, 0, 32; 32; Ipv4 masks ro Ct4
    CtIpv6Src "ct_ipv6_src" [] "NXM_NX_CT_IPV6_SRC"
        word::CT_IPV6_SRC, 0, 128; 128; Ipv6 masks ro Ct6
    CtIpv6Dst "ct_ipv6_dst" [] "NXM_NX_CT_IPV6_DST"
        word::CT_IPV6_DST, 0, 128; 128; Ipv6 masks ro Ct6
    CtTpSrc "ct_tp_src" [] "NXM_NX_CT_TP_SRC" word::CT_TP, 48, 16; 16; Decimal masks ro Ct
    CtTpDst "ct_tp_dst" [] "NXM_NX_CT_TP_DST" word::CT_TP, 32, 16; 16; Decimal masks ro Ct
    Metadata "metadata" [] "OXM_OF_METADATA" word::METADATA, 0, 64; 64; Hex masks rw None
    Reg0 "reg0" [] "NXM_NX_REG0" word::REGS, 32, 32; 32; Hex masks rw None
    Reg1 "reg1" [] "NXM_NX_REG1" word::REGS, 0, 32; 32; Hex masks rw None
    Reg2 "reg2" [] "NXM_NX_REG2" word::REGS + 1, 32, 32; 32; Hex masks rw None
    Reg3 "reg3" [] "NXM_NX_REG3" word::REGS + 1, 0, 32; 32; Hex masks rw None
    Reg4 "reg4" [] "NXM_NX_REG4" word::REGS + 2, 32, 32; 32; Hex masks rw None
    Reg5 "reg5" [] "NXM_NX_REG5" word::REGS + 2, 0, 32; 32; Hex masks rw None
    Reg6 "reg6" [] "NXM_NX_REG6" word::REGS + 3, 32, 32; 32; Hex masks rw None
    Reg7 "reg7" [] "NXM_NX_REG7" word::REGS + 3, 0, 32; 32; Hex masks rw None
    Reg8 "reg8" [] "NXM_NX_REG8" word::REGS + 4, 32, 32; 32; Hex masks rw None
    Reg9 "reg9" [] "NXM_NX_REG9" word::REGS + 4, 0, 32; 32; Hex masks rw None
    Reg10 "reg10" [] "NXM_NX_REG10" word::REGS + 5, 32, 32; 32; Hex masks rw None
    Reg11 "reg11" [] "NXM_NX_REG11" word::REGS + 5, 0, 32; 32; Hex masks rw None
    Reg12 "reg12" [] "NXM_NX_REG12" word::REGS + 6, 32, 32; 32; Hex masks rw None
    Reg13 "reg13" [] "NXM_NX_REG13" word::REGS + 6, 0, 32; 32; Hex masks rw None
    Reg14 "reg14" [] "NXM_NX_REG14" word::REGS + 7, 32, 32; 32; Hex masks rw None
    Reg15 "reg15" [] "NXM_NX_REG15" word::REGS + 7, 0, 32; 32; Hex masks rw None
    Xreg0 "xreg0" [] "OXM_OF_PKT_REG0" word::REGS, 0, 64; 64; Hex masks rw None
    Xreg1 "xreg1" [] "OXM_OF_PKT_REG1" word::REGS + 1, 0, 64; 64; Hex masks rw None
    Xreg2 "xreg2" [] "OXM_OF_PKT_REG2" word::REGS + 2, 0, 64; 64; Hex masks rw None
    Xreg3 "xreg3" [] "OXM_OF_PKT_REG3" word::REGS + 3, 0, 64; 64; Hex masks rw None
    Xreg4 "xreg4" [] "OXM_OF_PKT_REG4" word::REGS + 4, 0, 64; 64; Hex masks rw None
    Xreg5 "xreg5" [] "OXM_OF_PKT_REG5" word::REGS + 5, 0, 64; 64; Hex masks rw None
    Xreg6 "xreg6" [] "OXM_OF_PKT_REG6" word::REGS + 6, 0, 64; 64; Hex masks rw None
    Xreg7 "xreg7" [] "OXM_OF_PKT_REG7" word::REGS + 7, 0, 64; 64; Hex masks rw None
    Xxreg0 "xxreg0" [] "NXM_NX_XXREG0" word::REGS, 0, 128; 128; Hex masks rw None
    Xxreg1 "xxreg1" [] "NXM_NX_XXREG1" word::REGS + 2, 0, 128; 128; Hex masks rw None
    Xxreg2 "xxreg2" [] "NXM_NX_XXREG2" word::REGS + 4, 0, 128; 128; Hex masks rw None
    Xxreg3 "xxreg3" [] "NXM_NX_XXREG3" word::REGS + 6, 0, 128; 128; Hex masks rw None
    EthSrc "eth_src" ["dl_src" "OXM_OF_ETH_SRC"] "NXM_OF_ETH_SRC"
        word::ETH_SRC, 16, 48; 48; Mac masks rw None
    EthDst "eth_dst" ["dl_dst" "OXM_OF_ETH_DST"] "NXM_OF_ETH_DST"
        word::ETH_DST, 16, 48; 48; Mac masks rw None
    EthType "eth_type" ["dl_type" "OXM_OF_ETH_TYPE"] "NXM_OF_ETH_TYPE"
        word::ETH_DST, 0, 16; 16; Hex whole ro None
    VlanTci "vlan_tci" [] "NXM_OF_VLAN_TCI" word::ETH_SRC, 0, 16; 16; Hex masks rw None
    DlVlan "dl_vlan" [] "dl_vlan" word::ETH_SRC, 0, 12; 12; Decimal whole ro None
    VlanVid "vlan_vid" [] "OXM_OF_VLAN_VID" word::ETH_SRC, 0, 13; 12; Decimal masks rw None
    DlVlanPcp "dl_vlan_pcp" [] "dl_vlan_pcp" word::ETH_SRC, 13, 3; 3; Decimal whole ro None
    VlanPcp "vlan_pcp" [] "OXM_OF_VLAN_PCP" word::ETH_SRC, 13, 3; 3; Decimal whole rw Vlan
    MplsLabel "mpls_label" [] "OXM_OF_MPLS_LABEL" word::MPLS, 44, 20; 20; Decimal whole rw Mpls
    MplsTc "mpls_tc" [] "OXM_OF_MPLS_TC" word::MPLS, 41, 3; 3; Decimal whole rw Mpls
    MplsBos "mpls_bos" [] "OXM_OF_MPLS_BOS" word::MPLS, 40, 1; 1; Decimal whole ro Mpls
    MplsTtl "mpls_ttl" [] "NXM_NX_MPLS_TTL" word::MPLS, 32, 8; 8; Decimal whole rw Mpls
    IpSrc "ip_src" ["nw_src" "OXM_OF_IPV4_SRC"] "NXM_OF_IP_SRC"
        word::IPV4, 32, 32; 32; Ipv4 masks rw Ipv4
    IpDst "ip_dst" ["nw_dst" "OXM_OF_IPV4_DST"] "NXM_OF_IP_DST"
        word::IPV4, 0, 32; 32; Ipv4 masks rw Ipv4
    Ipv6Src "ipv6_src" ["OXM_OF_IPV6_SRC"] "NXM_NX_IPV6_SRC"
        word::IPV6_SRC, 0, 128; 128; Ipv6 masks rw Ipv6
    Ipv6Dst "ipv6_dst" ["OXM_OF_IPV6_DST"] "NXM_NX_IPV6_DST"
        word::IPV6_DST, 0, 128; 128; Ipv6 masks rw Ipv6
    Ipv6Label "ipv6_label" ["OXM_OF_IPV6_FLABEL"] "NXM_NX_IPV6_LABEL"
        word::NW, 0, 20; 20; Hex masks rw Ipv6
    NwProto "nw_proto" ["ip_proto" "OXM_OF_IP_PROTO"] "NXM_OF_IP_PROTO"
        word::NW, 56, 8; 8; Decimal whole ro Ip
    NwTos "nw_tos" [] "NXM_OF_IP_TOS" word::NW, 48, 8; 8; Decimal whole rw Ip
    IpDscp "ip_dscp" [] "OXM_OF_IP_DSCP" word::NW, 50, 6; 6; Decimal whole rw Ip
    NwEcn "nw_ecn" ["ip_ecn" "OXM_OF_IP_ECN"] "NXM_NX_IP_ECN"
        word::NW, 48, 2; 2; Decimal whole rw Ip
    NwTtl "nw_ttl" [] "NXM_NX_IP_TTL" word::NW, 40, 8; 8; Decimal whole rw Ip
    IpFrag "ip_frag" ["nw_frag"] "NXM_NX_IP_FRAG" word::NW, 32, 2; 2; Frag masks ro Ip
    ArpOp "arp_op" ["OXM_OF_ARP_OP"] "NXM_OF_ARP_OP" word::NW, 56, 8; 16; Decimal whole rw Arp
    ArpSpa "arp_spa" ["OXM_OF_ARP_SPA"] "NXM_OF_ARP_SPA"
        word::IPV4, 32, 32; 32; Ipv4 masks rw Arp
    ArpTpa "arp_tpa" ["OXM_OF_ARP_TPA"] "NXM_OF_ARP_TPA"
        word::IPV4, 0, 32; 32; Ipv4 masks rw Arp
    ArpSha "arp_sha" ["OXM_OF_ARP_SHA"] "NXM_NX_ARP_SHA"
        word::ARP_SHA, 16, 48; 48; Mac masks rw Arp
    ArpTha "arp_tha" ["OXM_OF_ARP_THA"] "NXM_NX_ARP_THA"
        word::ARP_THA, 16, 48; 48; Mac masks rw Arp
    TcpSrc "tcp_src" ["tp_src" "OXM_OF_TCP_SRC"] "NXM_OF_TCP_SRC"
        word::L4, 48, 16; 16; Decimal masks rw Tcp
    TcpDst "tcp_dst" ["tp_dst" "OXM_OF_TCP_DST"] "NXM_OF_TCP_DST"
        word::L4, 32, 16; 16; Decimal masks rw Tcp
    TcpFlags "tcp_flags" ["ONFOXM_ET_TCP_FLAGS" "OXM_OF_TCP_FLAGS"] "NXM_NX_TCP_FLAGS"
        word::L4, 16, 12; 12; TcpFlags masks ro Tcp
    UdpSrc "udp_src" ["OXM_OF_UDP_SRC"] "NXM_OF_UDP_SRC"
        word::L4, 48, 16; 16; Decimal masks rw Udp
    UdpDst "udp_dst" ["OXM_OF_UDP_DST"] "NXM_OF_UDP_DST"
        word::L4, 32, 16; 16; Decimal masks rw Udp
    SctpSrc "sctp_src" [] "OXM_OF_SCTP_SRC" word::L4, 48, 16; 16; Decimal masks rw Sctp
    SctpDst "sctp_dst" [] "OXM_OF_SCTP_DST" word::L4, 32, 16; 16; Decimal masks rw Sctp
    IcmpType "icmp_type" ["OXM_OF_ICMPV4_TYPE"] "NXM_OF_ICMP_TYPE"
        word::L4, 48, 16; 8; Decimal whole rw Icmp4
    IcmpCode "icmp_code" ["OXM_OF_ICMPV4_CODE"] "NXM_OF_ICMP_CODE"
        word::L4, 32, 16; 8; Decimal whole rw Icmp4
    Icmpv6Type "icmpv6_type" ["OXM_OF_ICMPV6_TYPE"] "NXM_NX_ICMPV6_TYPE"
        word::L4, 48, 16; 8; Decimal whole rw Icmp6
    Icmpv6Code "icmpv6_code" ["OXM_OF_ICMPV6_CODE"] "NXM_NX_ICMPV6_CODE"
        word::L4, 32, 16; 8; Decimal whole rw Icmp6
    NdTarget "nd_target" ["OXM_OF_IPV6_ND_TARGET"] "NXM_NX_ND_TARGET"
        word::ND_TARGET, 0, 128; 128; Ipv6 masks rw Nd
    NdSll "nd_sll" ["OXM_OF_IPV6_ND_SLL"] "NXM_NX_ND_SLL"
        word::ARP_SHA, 16, 48; 48; Mac masks rw NdSolicit
    NdTll "nd_tll" ["OXM_OF_IPV6_ND_TLL"] "NXM_NX_ND_TLL"
        word::ARP_THA, 16, 48; 48; Mac masks rw NdAdvert
    NdReserved "nd_reserved" [] "ERICOXM_OF_ICMPV6_ND_RESERVED"
        word::ND, 32, 32; 32; Decimal whole rw Nd
    NdOptionsType "nd_options_type" [] "ERICOXM_OF_ICMPV6_ND_OPTIONS_TYPE"
        word::ND, 24, 8; 8; Decimal whole rw Nd
}

impl Mf {
    /// All that is known of the field.
    #[inline]
    pub const fn info(self) -> &'static Info {
        &Self::INFO[self as usize]
    }

    /// The name that is written in matches and in `set_field`.
    pub const fn name(self) -> &'static str {
        self.info().name
    }

    /// Width in bits as actions see it.
    pub const fn bits(self) -> u32 {
        self.info().bits
    }

    /// The register with that number, 0 to 15.
    pub fn reg(n: usize) -> Option<Mf> {
        if n > 15 { None } else { Some(Self::ALL[Mf::Reg0 as usize + n]) }
    }

    /// All bits that actions see.
    pub const fn full(self) -> u128 {
        let bits = self.bits();
        if bits >= 128 { u128::MAX } else { (1 << bits) - 1 }
    }

    /// The field's value as actions see it. For `in_port` (16 bits wide) reserved ports are the
    /// 16-bit numbers of OpenFlow 1.0, so that local is 0xfffe. `nw_tos` is without ECN.
    #[inline]
    pub fn get(self, key: &FlowKey) -> u128 {
        let seen = if matches!(self, Mf::NwTos) { 0xfc } else { self.full() };
        get_place(key, self.info().place) & seen
    }

    /// Change the bits of `mask` to those of `value`. The result for `in_port` is widened again.
    /// Setting a VLAN id says that there is a tag, as `ovs-actions(7)` has it. Setting `nw_tos`
    /// leaves ECN as it was.
    pub fn set(self, key: &mut FlowKey, value: u128, mask: u128) {
        let mask = mask & self.full();
        let mut v = self.get(key) & !mask | value & mask;
        match self {
            Mf::InPort => v = u128::from(crate::action::OfPort::from_16(v as u16).0),
            Mf::VlanVid | Mf::DlVlan => {
                v |= 0x1000;
                return set_place(key, Mf::VlanVid.info().place, v);
            }
            Mf::VlanPcp | Mf::DlVlanPcp => {
                let tci = get_place(key, Mf::VlanTci.info().place);
                let tci = tci & 0x0fff | v << 13 | 0x1000;
                return set_place(key, Mf::VlanTci.info().place, tci);
            }
            Mf::NwTos => return Mf::IpDscp.set(key, v >> 2, 0x3f),
            _ => {}
        }
        set_place(key, self.info().place, v);
    }

    /// Note in the mask `wc` that the bits of `mask` were looked at.
    pub fn consult(self, wc: &mut FlowKey, mask: u128) {
        let p = self.info().place;
        let mask = if matches!(self, Mf::NwTos) { mask & 0xfc } else { mask };
        let mask = if p.bits > self.bits() && mask != 0 {
            // Bits that are kept but not seen decide about the value too (in_port).
            low128(p.bits)
        } else {
            mask
        };
        let old = get_place(wc, p);
        set_place(wc, p, old | mask);
    }
}

/// `bits` low bits set.
pub(crate) const fn low128(bits: u32) -> u128 {
    if bits >= 128 { u128::MAX } else { (1 << bits) - 1 }
}

/// The value at a place of the key.
#[inline]
pub fn get_place(key: &FlowKey, p: Place) -> u128 {
    if p.bits > 64 {
        return u128::from(key.word(p.word)) << 64 | u128::from(key.word(p.word + 1));
    }
    u128::from(key.word(p.word) >> p.shift & low_bits(p.bits))
}

/// Set the value at a place of the key; bits beyond its width are ignored.
#[inline]
pub fn set_place(key: &mut FlowKey, p: Place, value: u128) {
    if p.bits > 64 {
        key.set_word(p.word, (value >> 64) as u64);
        key.set_word(p.word + 1, value as u64);
        return;
    }
    let mask = low_bits(p.bits) << p.shift;
    let w = key.word(p.word) & !mask | (value as u64) << p.shift & mask;
    key.set_word(p.word, w);
}

/// Consecutive bits of a field, as in `NXM_NX_REG0[0..15]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subfield {
    /// The field.
    pub field: Mf,
    /// The lowest bit.
    pub ofs: u8,
    /// How many bits, 1 to 128.
    pub n_bits: u8,
}

impl Subfield {
    /// The whole field.
    pub const fn whole(field: Mf) -> Subfield {
        Subfield { field, ofs: 0, n_bits: field.bits() as u8 }
    }

    /// Whether it is the whole field.
    pub const fn is_whole(self) -> bool {
        self.ofs == 0 && self.n_bits as u32 == self.field.bits()
    }

    /// The bits, at their place in the field.
    #[inline]
    pub const fn mask(self) -> u128 {
        low128(self.n_bits as u32) << self.ofs
    }

    /// The value, shifted down.
    #[inline]
    pub fn get(self, key: &FlowKey) -> u128 {
        self.field.get(key) >> self.ofs & low128(u32::from(self.n_bits))
    }

    /// Set the bits to the low bits of `value`.
    #[inline]
    pub fn set(self, key: &mut FlowKey, value: u128) {
        self.field.set(key, value << self.ofs, self.mask());
    }

    /// Note in the mask `wc` that the bits were looked at.
    #[inline]
    pub fn consult(self, wc: &mut FlowKey) {
        self.field.consult(wc, self.mask());
    }
}
