//! What does the switch know of a packet?
//!
//! A [`FlowKey`] is a fixed array of 64-bit words. Each field has a place in it ([`Field`]), kept
//! as a number in host order, so that masks and prefixes are plain bit operations. Words up to
//! [`DP_WORDS`] describe the packet and what the datapath knows of it (port, recirculation,
//! connection, tunnel); the words behind them (registers, metadata) live only in translation.
//!
//! The first [`BASE_WORDS`] words hold all that an untunnelled IPv4 packet has; the others come
//! in [`Groups`] that are zero unless the packet has such headers. `groups` says which may be
//! nonzero, so that clearing, hashing and copying touch only those.
//!
//! Invariant: a word whose group is not in `groups` is zero.
//!
//! Must not know: rules, ports, actions.

use crate::fields::Field;

/// Words of a whole key, registers included.
pub const WORDS: usize = 48;
/// Words that the datapath matches on; the rest live in translation.
pub const DP_WORDS: usize = 37;
/// Words that are always written by extraction.
pub const BASE_WORDS: usize = 6;

/// Indices of the words. The comment gives the fields from the high bits down.
pub mod word {
    /// in_port:32, recirc_id:32.
    pub const META: usize = 0;
    /// eth_dst:48, eth_type:16.
    pub const ETH_DST: usize = 1;
    /// eth_src:48, vlan_tci:16 of the outer tag.
    pub const ETH_SRC: usize = 2;
    /// nw_src:32, nw_dst:32 (IPv4, and ARP's protocol addresses).
    pub const IPV4: usize = 3;
    /// nw_proto:8 (and ARP's operation), nw_tos:8, nw_ttl:8, nw_frag:8, ipv6_label:32.
    pub const NW: usize = 4;
    /// tp_src:16 (and ICMP type), tp_dst:16 (and ICMP code), tcp_flags:16, 16 spare.
    pub const L4: usize = 5;
    /// vlan_tpid:16 of the outer tag, vlan1_tci:16, vlan1_tpid:16 of the inner, 16 spare.
    pub const VLAN: usize = 6;
    /// Two words.
    pub const IPV6_SRC: usize = 7;
    /// Two words.
    pub const IPV6_DST: usize = 9;
    /// arp_sha:48 (and the ND source link-layer address), 16 spare.
    pub const ARP_SHA: usize = 11;
    /// arp_tha:48 (and the ND target link-layer address), 16 spare.
    pub const ARP_THA: usize = 12;
    /// Two words.
    pub const ND_TARGET: usize = 13;
    /// nd_reserved:32, nd_options_type:8, 24 spare.
    pub const ND: usize = 15;
    /// Label stack entries 0:32 and 1:32.
    pub const MPLS: usize = 16;
    /// Label stack entry 2:32, 32 spare.
    pub const MPLS2: usize = 17;
    /// pkt_mark:32, dp_hash:32.
    pub const MARK: usize = 18;
    /// skb_priority:32, packet_type:32.
    pub const PRIORITY: usize = 19;
    /// ct_mark:32, ct_zone:16, ct_state:8, ct_nw_proto:8.
    pub const CT: usize = 20;
    /// Two words.
    pub const CT_LABEL: usize = 21;
    /// ct_nw_src:32, ct_nw_dst:32.
    pub const CT_NW: usize = 23;
    /// ct_tp_src:16, ct_tp_dst:16, 32 spare.
    pub const CT_TP: usize = 24;
    /// Two words.
    pub const CT_IPV6_SRC: usize = 25;
    /// Two words.
    pub const CT_IPV6_DST: usize = 27;
    /// tun_id:64.
    pub const TUN_ID: usize = 29;
    /// tun_src:32, tun_dst:32.
    pub const TUN_IPV4: usize = 30;
    /// Two words.
    pub const TUN_IPV6_SRC: usize = 31;
    /// Two words.
    pub const TUN_IPV6_DST: usize = 33;
    /// tun_flags:16, tun_tos:8, tun_ttl:8, tun_gbp_id:16, tun_gbp_flags:8, 8 spare.
    pub const TUN: usize = 35;
    /// tun_tp_src:16, tun_tp_dst:16, 32 spare.
    pub const TUN_TP: usize = 36;
    /// metadata:64; translation only, as all that follow.
    pub const METADATA: usize = 37;
    /// Eight words: reg0:32, reg1:32 and so on to reg15.
    pub const REGS: usize = 38;
    /// conj_id:32, actset_output:32.
    pub const CONJ: usize = 46;
}

/// A set of word groups, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Groups(pub u32);

impl Groups {
    /// Any VLAN tag.
    pub const VLAN: Groups = Groups(1);
    /// IPv6 addresses.
    pub const IPV6: Groups = Groups(1 << 1);
    /// ARP hardware addresses and neighbour discovery.
    pub const ARP_ND: Groups = Groups(1 << 2);
    /// MPLS labels.
    pub const MPLS: Groups = Groups(1 << 3);
    /// Packet mark, hash and priority.
    pub const MARK: Groups = Groups(1 << 4);
    /// Connection tracking.
    pub const CT: Groups = Groups(1 << 5);
    /// Tunnel metadata.
    pub const TUNNEL: Groups = Groups(1 << 6);
    /// Registers, metadata and the like.
    pub const XLATE: Groups = Groups(1 << 7);
    /// What a packet's headers say.
    pub const PACKET: Groups = Groups(0xf);
    /// Every group.
    pub const ALL: Groups = Groups(0xff);

    /// The word range of each group, by bit number.
    pub const RANGES: [(usize, usize); 8] =
        [(6, 7), (7, 11), (11, 16), (16, 18), (18, 20), (20, 29), (29, 37), (37, 48)];

    /// The group that a word belongs to; empty for base words.
    #[inline(always)]
    pub fn of_word(word: usize) -> Groups {
        OF_WORD[word]
    }

    /// Whether no group is in the set.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Add the groups of another set.
    #[inline]
    pub fn insert(&mut self, other: Groups) {
        self.0 |= other.0;
    }

    /// Whether all of `other` is in the set.
    #[inline]
    pub fn contains(self, other: Groups) -> bool {
        self.0 & other.0 == other.0
    }

    /// The word ranges of the groups in the set.
    #[inline]
    pub fn ranges(self) -> impl Iterator<Item = (usize, usize)> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let g = left.trailing_zeros() as usize;
            left &= left - 1;
            Some(Self::RANGES[g])
        })
    }
}

/// [`Groups::of_word`] for each word.
static OF_WORD: [Groups; WORDS] = {
    let mut of = [Groups(0); WORDS];
    let mut g = 0;
    while g < Groups::RANGES.len() {
        let mut word = Groups::RANGES[g].0;
        while word < Groups::RANGES[g].1 {
            of[word] = Groups(1 << g);
            word += 1;
        }
        g += 1;
    }
    of
};

/// All that the switch knows of a packet, field by field.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct FlowKey {
    words: [u64; WORDS],
    groups: Groups,
}

impl Default for FlowKey {
    fn default() -> Self {
        Self::ZERO
    }
}

impl FlowKey {
    /// The key in which every field is zero.
    pub const ZERO: FlowKey = FlowKey { words: [0; WORDS], groups: Groups(0) };

    /// One word.
    #[inline(always)]
    pub fn word(&self, i: usize) -> u64 {
        self.words[i]
    }

    /// All words; those outside [`FlowKey::groups`] are zero.
    #[inline(always)]
    pub fn words(&self) -> &[u64; WORDS] {
        &self.words
    }

    /// Set one word and note its group.
    #[inline(always)]
    pub fn set_word(&mut self, i: usize, value: u64) {
        self.words[i] = value;
        if i >= BASE_WORDS {
            self.groups.insert(Groups::of_word(i));
        }
    }

    /// Set the words from `first` on, all of one group, and note it.
    ///
    /// # Panics
    /// If there are not so many words.
    #[inline(always)]
    pub fn set_words<const N: usize>(&mut self, first: usize, values: &[u64; N]) {
        self.words[first..first + N].copy_from_slice(values);
        debug_assert_eq!(Groups::of_word(first), Groups::of_word(first + N - 1));
        self.groups.insert(Groups::of_word(first));
    }

    /// The groups that may be nonzero.
    #[inline(always)]
    pub fn groups(&self) -> Groups {
        self.groups
    }

    /// Note that a group's words are about to be written through [`FlowKey::set_word`] anyway.
    #[inline(always)]
    pub fn touch(&mut self, groups: Groups) {
        self.groups.insert(groups);
    }

    /// Zero all words.
    #[inline]
    pub fn clear(&mut self) {
        self.words[..BASE_WORDS].fill(0);
        self.clear_groups(Groups::ALL);
    }

    /// Zero all words that do not come from a packet's headers, but for [`word::META`].
    #[inline(always)]
    pub fn clear_metadata(&mut self) {
        self.clear_groups(Groups(!Groups::PACKET.0));
    }

    /// Zero all words that come from a packet's headers.
    #[inline(always)]
    pub fn clear_headers(&mut self) {
        self.words[word::META + 1..BASE_WORDS].fill(0);
        self.clear_groups(Groups::PACKET);
    }

    /// Zero the words of the given groups.
    #[inline(always)]
    pub fn clear_groups(&mut self, groups: Groups) {
        let groups = Groups(self.groups.0 & groups.0);
        if !groups.is_empty() {
            self.clear_groups_slow(groups);
        }
    }

    #[inline(never)]
    fn clear_groups_slow(&mut self, groups: Groups) {
        self.clear_group::<0>(groups);
        self.clear_group::<1>(groups);
        self.clear_group::<2>(groups);
        self.clear_group::<3>(groups);
        self.clear_group::<4>(groups);
        self.clear_group::<5>(groups);
        self.clear_group::<6>(groups);
        self.clear_group::<7>(groups);
        self.groups = Groups(self.groups.0 & !groups.0);
    }

    /// Zero the words of group number `G` if it is in the set: so many words that no loop is needed.
    #[inline(always)]
    fn clear_group<const G: usize>(&mut self, groups: Groups) {
        let (from, to) = const { Groups::RANGES[G] };
        if groups.0 >> G & 1 != 0 {
            self.words[from..to].fill(0);
        }
    }

    /// A field's value.
    #[inline]
    pub fn get(&self, field: Field) -> u128 {
        let p = field.place();
        if p.bits > 64 {
            return u128::from(self.words[p.word]) << 64 | u128::from(self.words[p.word + 1]);
        }
        u128::from(self.words[p.word] >> p.shift & low_bits(p.bits))
    }

    /// Set a field. Bits of `value` beyond the field's width are ignored.
    #[inline]
    pub fn set(&mut self, field: Field, value: u128) {
        let p = field.place();
        if p.bits > 64 {
            self.set_word(p.word, (value >> 64) as u64);
            self.set_word(p.word + 1, value as u64);
            return;
        }
        let mask = low_bits(p.bits) << p.shift;
        let w = self.words[p.word] & !mask | (value as u64) << p.shift & mask;
        self.set_word(p.word, w);
    }

    /// A field as `u64`; fields wider than that give their low bits.
    #[inline]
    pub fn get64(&self, field: Field) -> u64 {
        self.get(field) as u64
    }

    /// OR all words of `other` in: how masks gather.
    #[inline]
    pub fn or(&mut self, other: &FlowKey) {
        for i in 0..BASE_WORDS {
            self.words[i] |= other.words[i];
        }
        for (from, to) in other.groups.ranges() {
            for i in from..to {
                self.words[i] |= other.words[i];
            }
        }
        self.groups.insert(other.groups);
    }

    /// The words that are not zero, as bits.
    #[inline]
    pub fn nonzero_map(&self) -> u64 {
        let mut map = nonzero(&self.words[..BASE_WORDS]);
        if !self.groups.is_empty() {
            map |= self.nonzero_of_group::<0>() | self.nonzero_of_group::<1>();
            map |= self.nonzero_of_group::<2>() | self.nonzero_of_group::<3>();
            map |= self.nonzero_of_group::<4>() | self.nonzero_of_group::<5>();
            map |= self.nonzero_of_group::<6>() | self.nonzero_of_group::<7>();
        }
        map
    }

    /// The same for group number `G` alone: so many words that no loop is needed.
    #[inline(always)]
    fn nonzero_of_group<const G: usize>(&self) -> u64 {
        if self.groups.0 >> G & 1 == 0 {
            return 0;
        }
        let (from, to) = const { Groups::RANGES[G] };
        nonzero(&self.words[from..to]) << from
    }

    /// A hash of the datapath words, for the exact-match cache.
    #[inline]
    pub fn hash(&self) -> u64 {
        let w = &self.words;
        let mut h = mix(w[0] ^ 0x9e37_79b9_7f4a_7c15, w[1] ^ 0xa076_1d64_78bd_642f);
        h ^= mix(w[2] ^ 0xe703_7ed1_a0b4_28db, w[3] ^ 0x8ebc_6af0_9c88_c6e3);
        h = mix(w[4] ^ h, w[5] ^ 0x5899_65cc_7537_4cc3);
        if !self.groups.is_empty() {
            h = self.hash_groups(h);
        }
        h
    }

    /// A hash that all packets of one conversation's direction share: IP addresses, protocol and
    /// ports, without what changes from packet to packet (TTL, TCP flags). Fragments leave the
    /// ports out, so that all of a datagram hash alike; what is not IP hashes its Ethernet
    /// addresses and type. For entropy in outer headers and choosing among links.
    #[inline]
    pub fn flow_hash(&self) -> u64 {
        const FRAG: u64 = 0xff << 32;
        const PORTS: u64 = 0xffff_ffff << 32;
        let (addresses, nw) = (self.words[word::IPV4], self.words[word::NW]);
        let ports = if nw & FRAG == 0 { self.words[word::L4] & PORTS } else { 0 };
        let above = ports | nw >> 56;
        if addresses == 0 {
            return self.flow_hash_without_ipv4(above);
        }
        mix(addresses ^ 0xa076_1d64_78bd_642f, above ^ 0xe703_7ed1_a0b4_28db)
    }

    /// [`FlowKey::flow_hash`] for IPv6 and what is not IP; `above` is protocol and ports.
    #[inline(never)]
    fn flow_hash_without_ipv4(&self, above: u64) -> u64 {
        let w = &self.words;
        let mut h = above ^ 0x9e37_79b9_7f4a_7c15;
        if above == 0 {
            h ^= mix(w[word::ETH_DST], w[word::ETH_SRC] ^ 0x8ebc_6af0_9c88_c6e3);
        }
        if self.groups.contains(Groups::IPV6) {
            for (i, address) in w[word::IPV6_SRC..word::IPV6_DST + 2].iter().enumerate() {
                h = mix(h ^ address, 0x5899_65cc_7537_4cc3 ^ i as u64);
            }
        }
        mix(h, 0xe703_7ed1_a0b4_28db)
    }

    #[inline(never)]
    fn hash_groups(&self, h: u64) -> u64 {
        h ^ self.hash_group::<0>()
            ^ self.hash_group::<1>()
            ^ self.hash_group::<2>()
            ^ self.hash_group::<3>()
            ^ self.hash_group::<4>()
            ^ self.hash_group::<5>()
            ^ self.hash_group::<6>()
    }

    /// Two words at a time are multiplied, and the products do not wait for each other. Two that are zero
    /// add nothing, so a group that is noted but zero hashes as if absent.
    #[inline(always)]
    fn hash_group<const G: usize>(&self) -> u64 {
        let (from, to) = const { Groups::RANGES[G] };
        if self.groups.0 >> G & 1 == 0 {
            return 0;
        }
        let seed = |i: usize, c: u64| mix(c, 0x9e37_79b9_7f4a_7c15 ^ i as u64);
        let mut h = 0;
        let mut i = from;
        while i < to {
            let (a, b) = (seed(i, 0xe703_7ed1_a0b4_28db), seed(i, 0x8ebc_6af0_9c88_c6e3));
            let second = if i + 1 < to { self.words[i + 1] } else { 0 };
            h ^= mix(self.words[i] ^ a, second ^ b) ^ mix(a, b);
            i += 2;
        }
        h
    }
}

impl PartialEq for FlowKey {
    fn eq(&self, other: &Self) -> bool {
        self.words == other.words
    }
}

impl Eq for FlowKey {}

impl std::fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut m = f.debug_map();
        for field in Field::ALL {
            let v = self.get(*field);
            if v != 0 {
                m.entry(&field.name(), &format_args!("{v:#x}"));
            }
        }
        m.finish()
    }
}

/// Which of the words are not zero, as bits.
#[inline(always)]
fn nonzero(words: &[u64]) -> u64 {
    words.iter().enumerate().fold(0, |map, (i, w)| map | u64::from(*w != 0) << i)
}

/// The lowest `bits` bits set; `bits` up to 64.
#[inline(always)]
pub const fn low_bits(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

/// Multiply two words to 128 bits and fold: the mixing step of all hashes here.
#[inline(always)]
pub const fn mix(a: u64, b: u64) -> u64 {
    let p = (a as u128) * (b as u128);
    p as u64 ^ (p >> 64) as u64
}
