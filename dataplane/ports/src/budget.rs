//! How many frames may wait in fill rings?
//!
//! Frames in a fill ring are of no use to anybody until something is received, and a region has one
//! size for the life of the process: without a limit the first ports would take all of it.
//!
//! Invariant: what is left and all shares together are half of the region.
//!
//! Who writes: control only. Must not know: ports, sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// How many of the region's frames may wait in fill rings: half of them. Each queue gets a share
/// that is smaller the more queues there are, so that early ports cannot take it all.
#[derive(Debug)]
pub(crate) struct FillBudget {
    total: u32,
    left: Arc<AtomicU32>,
}

/// A queue's share of the budget, given back when dropped.
#[derive(Debug)]
pub(crate) struct FillShare {
    left: Arc<AtomicU32>,
    pub(crate) frames: u32,
}

impl FillBudget {
    /// Frames that a queue is given at most, and the least that it can work with.
    pub(crate) const MOST: u32 = 1024;
    pub(crate) const LEAST: u32 = 16;

    pub(crate) fn new(chunks: usize) -> FillBudget {
        let total = u32::try_from(chunks / 2).unwrap_or(u32::MAX);
        FillBudget { total, left: Arc::new(AtomicU32::new(total)) }
    }

    /// Frames for one more queue; `None` if there are too few. Control only.
    pub(crate) fn reserve(&self) -> Option<FillShare> {
        let left = self.left.load(Ordering::Relaxed);
        // An eighth for the first queue, a half of that for the second, a third for the third: few
        // ports have much, and there is something left for the thousandth.
        let queues = Arc::strong_count(&self.left) as u32;
        let frames = (self.total / 8 / queues).clamp(Self::LEAST, Self::MOST);
        if frames > left {
            return None;
        }
        self.left.fetch_sub(frames, Ordering::Relaxed);
        Some(FillShare { left: self.left.clone(), frames })
    }
}

impl Drop for FillShare {
    fn drop(&mut self) {
        self.left.fetch_add(self.frames, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_shrink_end_and_come_back() {
        let budget = FillBudget::new(16_384);
        let mut shares: Vec<FillShare> = std::iter::from_fn(|| budget.reserve()).collect();
        assert_eq!(shares[0].frames, FillBudget::MOST);
        assert!(shares.windows(2).all(|s| s[0].frames >= s[1].frames));
        assert!(shares.iter().all(|s| s.frames >= FillBudget::LEAST));
        let all: u32 = shares.iter().map(|s| s.frames).sum();
        assert!((8192 - FillBudget::LEAST..=8192).contains(&all), "{all}");
        assert!(shares.len() > 200, "{}", shares.len());
        shares.pop();
        shares.extend(budget.reserve());
        shares.clear();
        assert_eq!(budget.reserve().map(|s| s.frames), Some(FillBudget::MOST));
        assert!(FillBudget::new(20).reserve().is_none());
    }
}
