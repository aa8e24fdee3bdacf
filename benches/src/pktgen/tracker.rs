//! What became of the packets of a trial?
//!
//! Numbers are followed in a window of the last [`WINDOW`] packets. Reordered as RFC 4737 defines it: a packet
//! with a smaller number than one that came before it. Duplicated (RFC 5560): a number that came before. Lost is
//! what was sent and never came; a packet that is later than the window is one of those, and counted beside.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Packets that are remembered, of the newest number back.
pub const WINDOW: u64 = 1 << 20;
/// The longest delay that is recorded.
const LONGEST: Duration = Duration::from_secs(60);
/// Digits of a delay that are kept.
const DIGITS: u8 = 3;

/// What has arrived.
#[derive(Debug)]
pub struct Tracker {
    /// The number after the largest that came.
    next: u64,
    /// Whether number N came, at N mod WINDOW.
    seen: Vec<u64>,
    /// Different numbers that came.
    pub unique: u64,
    /// Of those, the ones that came behind a larger number.
    pub reordered: u64,
    /// Further copies of numbers that had come.
    pub duplicated: u64,
    /// Numbers too old to be judged.
    pub stale: u64,
    /// Delays in nanoseconds, of everything counted in `unique`.
    pub latency: Histogram<u64>,
}

impl Default for Tracker {
    fn default() -> Self {
        // Fails only for bounds that make no sense.
        let latency = Histogram::new_with_bounds(1, LONGEST.as_nanos() as u64, DIGITS);
        Self {
            next: 0,
            seen: vec![0; (WINDOW / 64) as usize],
            unique: 0,
            reordered: 0,
            duplicated: 0,
            stale: 0,
            latency: latency.expect("sound bounds"),
        }
    }
}

impl Tracker {
    /// A packet came: the low bits of its number, and its delay in nanoseconds.
    pub fn arrived(&mut self, number: u32, delay: u64) {
        let ahead = number.wrapping_sub(self.next as u32) as i32;
        match self.next.checked_add_signed(i64::from(ahead)) {
            Some(number) if ahead >= 0 => self.newest(number),
            Some(number) if self.next - number <= WINDOW => {
                if self.mark(number, true) {
                    self.duplicated += 1;
                    return;
                }
                self.reordered += 1;
            }
            // Older than the window, or before the first.
            _ => {
                self.stale += 1;
                return;
            }
        }
        self.unique += 1;
        self.latency.saturating_record(delay.max(1));
    }

    /// The largest number so far: those between have not come yet.
    fn newest(&mut self, number: u64) {
        let first = self.next.max((number + 1).saturating_sub(WINDOW));
        for missing in first..number {
            self.mark(missing, false);
        }
        self.mark(number, true);
        self.next = number + 1;
    }

    /// Note whether a number came; what was noted before.
    fn mark(&mut self, number: u64, came: bool) -> bool {
        let at = number % WINDOW;
        let (word, bit) = ((at / 64) as usize, 1 << (at % 64));
        let before = self.seen[word] & bit != 0;
        match came {
            true => self.seen[word] |= bit,
            false => self.seen[word] &= !bit,
        }
        before
    }

    /// Packets that never came, of so many sent.
    pub fn lost(&self, sent: u64) -> u64 {
        sent.saturating_sub(self.unique)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        /// Any order of arrival within the window, with copies and gaps, beside the definitions.
        #[test]
        fn counts_are_those_of_the_definitions(numbers in prop::collection::vec(0u32..300, 0..400)) {
            let mut tracker = Tracker::default();
            let (mut seen, mut largest, mut late, mut copies) = (HashSet::new(), None, 0, 0);
            for n in &numbers {
                tracker.arrived(*n, 1000);
                if !seen.insert(*n) {
                    copies += 1;
                } else if largest.is_some_and(|l| l > *n) {
                    late += 1;
                }
                largest = largest.max(Some(*n));
            }
            prop_assert_eq!(tracker.unique, seen.len() as u64);
            prop_assert_eq!((tracker.duplicated, tracker.reordered), (copies, late));
            prop_assert_eq!(tracker.lost(300), 300 - seen.len() as u64);
            prop_assert_eq!(tracker.latency.len(), tracker.unique);
        }
    }

    #[test]
    fn numbers_go_on_past_32_bits_and_old_ones_are_not_judged() {
        let mut tracker = Tracker::default();
        let last = u64::from(u32::MAX) + 5;
        for n in (0..last).step_by(1 << 30) {
            tracker.arrived(n as u32, 1);
        }
        let before = tracker.unique;
        tracker.arrived(last as u32, 1);
        assert_eq!((tracker.unique, tracker.stale), (before + 1, 0));
        tracker.arrived((last - WINDOW - 1) as u32, 1);
        assert_eq!((tracker.unique, tracker.stale), (before + 1, 1));
        tracker.arrived((last - WINDOW + 1) as u32, 1);
        assert_eq!((tracker.unique, tracker.reordered), (before + 2, 1));
    }
}
