//! Fragments on their way to the tracker: they wait until their datagram is whole, are tracked as
//! one packet, and go on as they came, each with what was said of the whole.
//!
//! What waits is kept as bytes, not in frames of the switch: a flood of fragments takes memory up to
//! the limits of [`conntrack::frag`], and nothing from the ports. Fragments that are given up are
//! counted. A datagram whose fragments came under different versions of the configuration begins
//! again with all of them under the newest.

use afxdp::Packet;
use conntrack::frag::{FragLimits, Fragments, Whole};
use conntrack::{ConnRef, Input, Millis, Trust, Verdict};
use flow::{Drop, Field, FlowKey, Offsets, extract, word};
use ofproto::program::{CtStep, DpAction};

use super::ct_key::Tracked;
use super::place::{Metadata, Recirculated, Where};
use super::transmit::Transmit;

/// The fragments that a worker holds back.
pub(super) type Waiting = Fragments<Box<Held>>;

/// None held, with the limits of a worker.
pub(super) fn none() -> Waiting {
    Fragments::new(FragLimits::default())
}

/// A fragment that waits, and what is to be done with it.
pub(super) struct Held {
    bytes: Vec<u8>,
    key: FlowKey,
    off: Offsets,
    tracked: Tracked,
    passes: u8,
    rule: Option<(u32, u64)>,
    /// The steps behind the one that tracks.
    rest: Box<[DpAction]>,
    depth: usize,
    /// The version of the configuration under which it came.
    version: u64,
    /// Nothing was done with it before: it can be looked up once more.
    untouched: bool,
}

/// Whether a packet is a fragment.
#[inline(always)]
pub(super) fn is_fragment(key: &FlowKey) -> bool {
    key.get64(Field::NwFrag) != 0
}

impl Transmit {
    /// Whether a packet is to wait before this step: a fragment whose connection is not known.
    #[inline(always)]
    pub(super) fn must_wait(&self, ct: &CtStep, at: &Where<'_>) -> bool {
        is_fragment(at.key) && !at.encapsulated && self.is_unknown(ct, at)
    }

    #[cold]
    fn is_unknown(&self, ct: &CtStep, at: &Where<'_>) -> bool {
        let forced = ct.commit.as_ref().is_some_and(|c| c.force);
        let known = at.known_in(ct.zone);
        let tracker = &self.shared.tracker;
        forced || tracker.resume(Millis(self.now), ct.zone, known, false).is_none()
    }

    /// Hold a fragment back; with the last one of a datagram, send all of them on.
    #[cold]
    pub(super) fn hold(
        &mut self,
        ct: &CtStep,
        rest: &[DpAction],
        packet: Packet,
        at: &Where<'_>,
        depth: usize,
        first_step: bool,
    ) {
        let mut bytes = vec![0; packet.len()];
        packet.copy_to(&mut bytes);
        let held = Box::new(Held {
            // Of a packet of several buffers all bytes are needed in one piece.
            bytes: if packet.is_chained() { bytes.clone() } else { std::mem::take(&mut bytes) },
            key: at.key.clone(),
            off: at.off,
            tracked: at.tracked,
            passes: at.passes,
            rule: at.rule,
            rest: rest.into(),
            depth,
            version: self.version,
            untouched: first_step && at.key.word(word::META) as u32 == 0,
        });
        let frame = if packet.is_chained() { &bytes } else { packet.data() };
        let mut dropped = 0;
        let now = Millis(self.now);
        let whole = self.fragments.add(now, ct.zone, frame, &at.off, held, &mut |_| dropped += 1);
        self.pool.free_packet(packet);
        self.count_fragments(dropped);
        if let Some(whole) = whole {
            self.track_whole(ct, whole);
        }
    }

    pub(super) fn count_fragments(&self, dropped: u64) {
        if dropped > 0 {
            self.worker().count_drop(Drop::FragmentLimit, dropped);
        }
    }

    /// Give up fragments that have waited for too long. To be called now and then.
    #[inline]
    pub(super) fn expire_fragments(&mut self) {
        if self.fragments.held().0 != 0 {
            let mut dropped = 0;
            self.fragments.expire(Millis(self.now), &mut |_| dropped += 1);
            self.count_fragments(dropped);
        }
        if self.outer_fragments.held().0 != 0 {
            let mut dropped = 0;
            self.outer_fragments.expire(Millis(self.now), &mut |()| dropped += 1);
            self.count_fragments(dropped);
        }
    }

    fn track_whole(&mut self, ct: &CtStep, whole: Whole<Box<Held>>) {
        let version = self.version;
        if whole.fragments.iter().any(|f| f.version != version) {
            return whole.fragments.into_iter().for_each(|f| self.begin_again(*f));
        }
        let mut key = FlowKey::ZERO;
        let (data, total) = (&whole.frame[..], whole.frame.len());
        let off = extract(data, total, &mut key);
        let input = Input { zone: ct.zone, data, off, total, trust: Trust::Unknown };
        match self.ask(ct, &input, ConnRef::NONE) {
            Ok(v) => whole.fragments.into_iter().for_each(|f| self.send_on(*f, ct.zone, &v)),
            Err(why) => {
                for f in whole.fragments {
                    let at = Where { rule: f.rule, ..Where::new(&f.key, f.off) };
                    self.note_drop(why, &at, f.bytes.len());
                }
            }
        }
    }

    /// Do with a fragment what was to be done after it was tracked.
    fn send_on(&mut self, f: Held, zone: u16, v: &Verdict) {
        let mut at = Where {
            tracked: Tracked::Since(Some((zone, *v))),
            passes: f.passes,
            rule: f.rule,
            ..Where::new(&f.key, f.off)
        };
        let Some(mut packet) = self.pool.packet_from(&f.bytes) else {
            return self.note_drop(Drop::NoFrame, &at, f.bytes.len());
        };
        match conntrack::nat::apply_fragment(&mut packet, &at.off, &v.nat) {
            Ok(()) => self.run_nested(&f.rest, packet, &mut at, f.depth),
            Err(why) => self.drop_packet(packet, why, &at),
        }
    }

    /// Have a fragment looked up as if it came just now.
    fn begin_again(&mut self, f: Held) {
        let at = Where { rule: f.rule, ..Where::new(&f.key, f.off) };
        if !f.untouched {
            return self.note_drop(Drop::FragmentLimit, &at, f.bytes.len());
        }
        let Some(packet) = self.pool.packet_from(&f.bytes) else {
            return self.note_drop(Drop::NoFrame, &at, f.bytes.len());
        };
        self.strays.push(Recirculated {
            packet,
            meta: f.key.word(word::META),
            metadata: Metadata::of_any(&f.key),
            ct: f.tracked.words(&f.key),
            conn: f.tracked.conn(),
            passes: f.passes,
            slot: None,
            state: None,
            bad: None,
        });
    }
}
