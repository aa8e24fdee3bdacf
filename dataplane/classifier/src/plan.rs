//! In which order does a subtable look at the words of its mask?
//!
//! Words are looked at in stages: what is known of the packet without its headers (port,
//! registers, connection, tunnel), then L2, L3, L4. A miss in an early stage leaves the later
//! headers unexamined, and so wildcarded.

use crate::prefixes::Address;
use flow::MaskWords;
use flow::key::word;
use smallvec::SmallVec;

/// Stages of a lookup.
pub(crate) const STAGES: usize = 4;
/// Stage of the IP addresses.
pub(crate) const L3: usize = 2;

/// The stage at which a word is looked at.
const fn stage_of(w: usize) -> usize {
    match w {
        word::ETH_DST | word::ETH_SRC | word::VLAN | word::MPLS | word::MPLS2 => 1,
        word::IPV4 | word::NW | word::L4 => {
            if w == word::L4 {
                3
            } else {
                2
            }
        }
        _ => {
            if w >= word::IPV6_SRC && w < word::MPLS {
                2
            } else {
                0
            }
        }
    }
}

/// A mask prepared for lookups.
pub(crate) struct Plan {
    pub(crate) mask: MaskWords,
    /// (word, mask) in the order of looking.
    pub(crate) words: SmallVec<[(usize, u64); 6]>,
    /// How many of `words` are looked at by the end of each stage.
    pub(crate) ends: [u8; STAGES],
    /// The last stage that has words.
    pub(crate) last: usize,
    /// The address fields that are masked by a prefix, with its length.
    pub(crate) prefixes: SmallVec<[(Address, u8); 2]>,
    /// The mask of tp_src:16, tp_dst:16.
    pub(crate) ports: u32,
}

impl Plan {
    pub(crate) fn new(mask: MaskWords) -> Plan {
        let mut words: SmallVec<[_; 6]> = mask.iter().collect();
        // conj_id first of all: it is not a part of the packet, so a miss there costs no bit.
        words.sort_by_key(|(w, _)| (stage_of(*w), *w != word::CONJ, *w));
        let mut ends = [0; STAGES];
        for (s, end) in ends.iter_mut().enumerate() {
            *end = words.iter().filter(|(w, _)| stage_of(*w) <= s).count() as u8;
        }
        let last = words.last().map_or(0, |(w, _)| stage_of(*w));
        let lengths = Address::ALL.iter().filter_map(|a| Some((*a, a.prefix_len(&mask)?)));
        let mut prefixes: SmallVec<[_; 2]> = lengths.collect();
        // The longest says most.
        prefixes.sort_by_key(|(_, len)| std::cmp::Reverse(*len));
        let ports = (mask.word(word::L4) >> 32) as u32;
        Plan { words, ends, last, prefixes, ports, mask }
    }

    /// The words of one stage.
    #[inline]
    pub(crate) fn stage(&self, s: usize) -> &[(usize, u64)] {
        let from = if s == 0 { 0 } else { self.ends[s - 1] };
        &self.words[usize::from(from)..usize::from(self.ends[s])]
    }

    /// Whether a set of partial hashes is kept for the stage: it has words, and more follow.
    #[inline]
    pub(crate) fn has_set(&self, s: usize) -> bool {
        s < self.last && !self.stage(s).is_empty()
    }
}
