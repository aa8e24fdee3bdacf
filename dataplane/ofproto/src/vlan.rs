//! Which VLAN does a frame belong to at a port, and how does it leave?
//!
//! The port modes of `ovs-vswitchd.conf.db(5)`, column `vlan_mode`. Pure functions over the tags
//! of a frame and the port's configuration.

use flow::{Drop, FlowKey, word};

/// Tags that a frame's key can have.
pub const MAX_TAGS: usize = 2;
/// Bits of a TCI that are the VLAN id.
pub const VID: u16 = 0x0fff;
/// Bit of a TCI in the key that says there is a tag.
pub const PRESENT: u16 = flow::extract::VLAN_PRESENT;
/// Type of an 802.1Q tag.
pub const TPID_8021Q: u16 = 0x8100;
/// Type of an 802.1ad tag.
pub const TPID_8021AD: u16 = 0x88a8;

/// One tag; absent if its TCI is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Tag {
    /// 0x8100 or 0x88a8.
    pub tpid: u16,
    /// TCI with [`PRESENT`] set.
    pub tci: u16,
}

impl Tag {
    /// Whether there is a tag.
    pub fn is_present(self) -> bool {
        self.tci & PRESENT != 0
    }
    /// The VLAN id, 0 if there is no tag.
    pub fn vid(self) -> u16 {
        self.tci & VID
    }
    /// The priority, 0 if there is no tag.
    pub fn pcp(self) -> u16 {
        self.tci >> 13
    }
}

/// A frame's tags, outermost first.
pub type Tags = [Tag; MAX_TAGS];

/// The tags in a key.
pub fn tags(key: &FlowKey) -> Tags {
    let w = key.word(word::VLAN);
    [
        Tag { tpid: (w >> 48) as u16, tci: key.word(word::ETH_SRC) as u16 },
        Tag { tpid: (w >> 16) as u16, tci: (w >> 32) as u16 },
    ]
}

/// Write tags into a key.
pub fn set_tags(key: &mut FlowKey, tags: &Tags) {
    let src = key.word(word::ETH_SRC) & !0xffff | u64::from(tags[0].tci);
    key.set_word(word::ETH_SRC, src);
    let tpid = |t: Tag| if t.is_present() { u64::from(t.tpid) } else { 0 };
    let w = tpid(tags[0]) << 48 | u64::from(tags[1].tci) << 32 | tpid(tags[1]) << 16;
    key.set_word(word::VLAN, w);
}

/// How many tags there are.
pub fn count(tags: &Tags) -> usize {
    tags.iter().take_while(|t| t.is_present()).count()
}

/// A set of VLAN ids.
#[derive(Clone, PartialEq, Eq)]
pub struct VlanSet(Box<[u64; 64]>);

impl VlanSet {
    /// The set of these ids; ids beyond 4095 are left out.
    pub fn new(vids: impl IntoIterator<Item = u16>) -> VlanSet {
        let mut bits = Box::new([0u64; 64]);
        for v in vids.into_iter().filter(|v| *v < 4096) {
            bits[usize::from(v / 64)] |= 1 << (v % 64);
        }
        VlanSet(bits)
    }

    /// Whether the id is in the set.
    pub fn contains(&self, vid: u16) -> bool {
        let vid = vid & VID;
        self.0[usize::from(vid / 64)] >> (vid % 64) & 1 != 0
    }

    /// Add an id.
    pub fn insert(&mut self, vid: u16) {
        let vid = vid & VID;
        self.0[usize::from(vid / 64)] |= 1 << (vid % 64);
    }
}

impl std::fmt::Debug for VlanSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries((0..4096).filter(|v| self.contains(*v))).finish()
    }
}

/// `vlan_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum VlanMode {
    /// One VLAN, untagged outside.
    Access,
    /// All trunked VLANs, tagged; untagged frames are VLAN 0.
    #[default]
    Trunk,
    /// As trunk; untagged frames belong to `tag`, and leave tagged.
    NativeTagged,
    /// As trunk; untagged frames belong to `tag`, and leave untagged.
    NativeUntagged,
    /// Frames get `tag` as an outer tag inside the switch, whatever they carry.
    Dot1qTunnel,
}

/// `other_config:priority-tags`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PriorityTags {
    /// A frame in VLAN 0 leaves untagged.
    #[default]
    No,
    /// A frame in VLAN 0 leaves with a tag if its priority is not 0.
    IfNonzero,
    /// Every frame leaves with a tag.
    Always,
}

/// A port's VLAN configuration.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct VlanConfig {
    /// The mode.
    pub mode: VlanMode,
    /// `tag`: the access, native or tunnel VLAN.
    pub tag: u16,
    /// `trunks`; `None` for all. The native VLAN is always carried.
    pub trunks: Option<VlanSet>,
    /// `cvlans` of a dot1q-tunnel port; `None` for all.
    pub cvlans: Option<VlanSet>,
    /// Whether frames in VLAN 0 leave tagged.
    pub priority_tags: PriorityTags,
    /// Type of the outer tag of a dot1q-tunnel port (`other_config:qinq-ethtype`).
    pub qinq_tpid: u16,
}

/// A frame's VLANs inside the switch: the ids and priorities, outermost first. A vid of 0 on the
/// first is "no VLAN".
pub type Inside = Tags;

impl VlanConfig {
    fn trunks_vlan(&self, vid: u16) -> bool {
        self.trunks.as_ref().is_none_or(|t| t.contains(vid))
    }

    fn allows_cvlan(&self, vid: u16) -> bool {
        self.cvlans.as_ref().is_none_or(|c| c.contains(vid))
    }

    fn native(&self, vid: u16) -> bool {
        matches!(self.mode, VlanMode::NativeTagged | VlanMode::NativeUntagged) && vid == self.tag
    }

    /// The VLANs of a frame that came in by this port.
    pub fn enter(&self, tags: &Tags) -> Result<Inside, Drop> {
        let vid = tags[0].vid();
        let own = Tag { tpid: TPID_8021Q, tci: PRESENT | self.tag };
        match self.mode {
            VlanMode::Access if vid != 0 => Err(Drop::VlanNotAllowed),
            // A priority tag is taken off; its priority stays.
            VlanMode::Access => Ok([keep_pcp(own, tags[0]), Tag::default()]),
            VlanMode::NativeTagged | VlanMode::NativeUntagged if vid == 0 => {
                Ok([keep_pcp(own, tags[0]), tags[1]])
            }
            VlanMode::Trunk | VlanMode::NativeTagged | VlanMode::NativeUntagged => {
                if self.trunks_vlan(vid) || self.native(vid) {
                    Ok(*tags)
                } else {
                    Err(Drop::VlanNotAllowed)
                }
            }
            VlanMode::Dot1qTunnel if !self.allows_cvlan(vid) => Err(Drop::VlanNotAllowed),
            VlanMode::Dot1qTunnel => {
                let tpid = if self.qinq_tpid == 0 { TPID_8021AD } else { self.qinq_tpid };
                Ok([keep_pcp(Tag { tpid, ..own }, tags[0]), tags[0]])
            }
        }
    }

    /// Whether frames with these VLANs leave by this port.
    pub fn carries(&self, inside: &Inside) -> bool {
        let vid = inside[0].vid();
        match self.mode {
            VlanMode::Access => vid == self.tag && inside[1].vid() == 0,
            VlanMode::Dot1qTunnel => vid == self.tag && self.allows_cvlan(inside[1].vid()),
            _ => self.trunks_vlan(vid) || self.native(vid),
        }
    }

    /// The tags that a frame with these VLANs leaves with.
    pub fn leave(&self, inside: &Inside) -> Tags {
        let out = match self.mode {
            VlanMode::Access => [without_vid(inside[0]), Tag::default()],
            VlanMode::Trunk | VlanMode::NativeTagged => *inside,
            VlanMode::NativeUntagged if inside[0].vid() == self.tag => {
                [without_vid(inside[0]), inside[1]]
            }
            VlanMode::NativeUntagged => *inside,
            VlanMode::Dot1qTunnel => [inside[1], Tag::default()],
        };
        let keep = match self.priority_tags {
            PriorityTags::No => out[0].vid() != 0,
            PriorityTags::IfNonzero => out[0].vid() != 0 || out[0].pcp() != 0,
            PriorityTags::Always => true,
        };
        match (keep, out[0].is_present()) {
            (true, true) => out,
            (true, false) => [Tag { tpid: TPID_8021Q, tci: PRESENT }, Tag::default()],
            // A priority tag in front of an inner tag: the inner one becomes the outer.
            (false, _) => [out[1], Tag::default()],
        }
    }
}

fn keep_pcp(own: Tag, from: Tag) -> Tag {
    Tag { tci: own.tci | from.tci & 0xe000, ..own }
}

fn without_vid(tag: Tag) -> Tag {
    Tag { tci: tag.tci & !VID, ..tag }
}
