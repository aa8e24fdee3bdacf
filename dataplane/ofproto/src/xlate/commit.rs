//! Bring the packet in the datapath to what the current key says.

use flow::edit::SetFields;
use flow::{FlowKey, Match, word};

use super::Ctx;
use crate::program::DpAction;
use crate::vlan::{self, PRESENT, Tags};

impl Ctx<'_> {
    /// The tags of the current key; the decision depends on all of them.
    pub(super) fn consult_tags(&mut self) -> Tags {
        self.consult_word(word::ETH_SRC, 0xffff);
        let tags = vlan::tags(&self.key);
        if tags[0].is_present() {
            self.consult_word(word::VLAN, u64::MAX << 16);
        }
        tags
    }

    /// Give the packet these tags, from the next commit on.
    pub(super) fn write_tags(&mut self, tags: &Tags) {
        vlan::set_tags(&mut self.key, tags);
        let f = self.fixed.word(word::ETH_SRC) | 0xffff;
        self.fixed.set_word(word::ETH_SRC, f);
        self.fixed.set_word(word::VLAN, u64::MAX);
        self.tags_dirty = true;
    }

    /// Emit what makes the packet's bytes agree with the key. Needed before every step that looks
    /// at the packet or sends it.
    pub(super) fn commit(&mut self) {
        if self.tags_dirty {
            self.commit_tags();
        }
        let map = self.dirty.nonzero_map() & PACKET_WORDS;
        if map == 0 {
            return;
        }
        let mut mask = FlowKey::ZERO;
        for w in flow::sparse::bits(map) {
            mask.set_word(w, self.dirty.word(w));
            self.dirty.set_word(w, 0);
        }
        // Bits that were put back to what the packet had when it came in.
        self.consult_mask(&mask);
        self.committed.or(&mask);
        let set = Match::new(&self.key, &mask);
        self.out.program.push(DpAction::Set(Box::new(SetFields::new(set))));
    }

    /// Whether the packet in the datapath does not have all of our neighbour discovery fields yet.
    pub(super) fn changes_nd(&self) -> bool {
        (word::ARP_SHA..=word::ND).any(|w| self.dirty.word(w) != 0)
    }

    fn commit_tags(&mut self) {
        self.tags_dirty = false;
        let want = self.consult_tags();
        let have = self.base_tags;
        if want == have {
            return;
        }
        self.base_tags = want;
        self.tags_committed = true;
        let (n_have, n_want) = (vlan::count(&have), vlan::count(&want));
        // Only the outermost tag's TCI differs: change it in place.
        if n_have == n_want && have[0].tpid == want[0].tpid && have[1] == want[1] {
            let mut mask = FlowKey::ZERO;
            let differ = u64::from(have[0].tci ^ want[0].tci);
            let whole = [0x0fff, 0xe000].into_iter().filter(|part| differ & part != 0).sum();
            mask.set_word(word::ETH_SRC, whole);
            let set = Match::new(&self.key, &mask);
            self.out.program.push(DpAction::Set(Box::new(SetFields::new(set))));
            return;
        }
        // Tags that stay are at the bottom of both stacks.
        let mut same = 0;
        while same < n_have.min(n_want) && have[n_have - 1 - same] == want[n_want - 1 - same] {
            same += 1;
        }
        self.out.program.extend((same..n_have).map(|_| DpAction::PopVlan));
        for tag in want[..n_want - same].iter().rev() {
            let step = DpAction::PushVlan { tpid: tag.tpid, tci: tag.tci & !PRESENT };
            self.out.program.push(step);
        }
    }
}

/// Words that are headers of the packet or metadata that the datapath keeps, not registers, and
/// not the VLAN words, which are committed on their own, nor tunnel fields, which live in translation
/// until an outer header is made of them.
const PACKET_WORDS: u64 = ((1 << word::TUN_ID) - 1) & !(1 << word::META) & !(1 << word::VLAN);
