//! Which packets were dropped lately, and where?
//!
//! Each worker keeps a few of the latest drops of each reason for `vswitchctl drops --why`. A
//! drop is sampled at most every [`INTERVAL`] milliseconds per reason, and never if somebody is
//! reading, so that a flood of drops costs a comparison each.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use flow::{Drop, FlowKey};

/// Milliseconds between two samples of one reason.
pub const INTERVAL: u64 = 50;
/// Samples kept of one reason.
pub const KEPT: usize = 16;

/// One dropped packet.
#[derive(Clone, Debug)]
pub struct DropSample {
    /// When, in milliseconds of the switch's clock.
    pub at: u64,
    /// Why.
    pub why: Drop,
    /// What the packet was; `in_port` is its datapath port.
    pub key: FlowKey,
    /// Its length in bytes.
    pub len: usize,
    /// The table ([`ofproto::snapshot::Bridge::table_id`]) and cookie of the last rule that
    /// matched, if one did.
    pub rule: Option<(u32, u64)>,
}

/// The latest drops of each reason.
pub struct DropSamples {
    next: [AtomicU64; Drop::COUNT],
    kept: Mutex<VecDeque<DropSample>>,
}

impl Default for DropSamples {
    fn default() -> Self {
        let next = std::array::from_fn(|_| AtomicU64::new(0));
        DropSamples { next, kept: Mutex::default() }
    }
}

impl DropSamples {
    /// Whether a drop for this reason is to be sampled now.
    #[inline]
    pub fn wanted(&self, why: Drop, now: u64) -> bool {
        now >= self.next[why as usize].load(Ordering::Relaxed)
    }

    /// Keep a sample.
    #[cold]
    pub fn keep(&self, sample: DropSample) {
        self.next[sample.why as usize].store(sample.at + INTERVAL, Ordering::Relaxed);
        let Ok(mut kept) = self.kept.try_lock() else { return };
        let same = kept.iter().filter(|s| s.why == sample.why).count();
        if same >= KEPT
            && let Some(oldest) = kept.iter().position(|s| s.why == sample.why)
        {
            kept.remove(oldest);
        }
        kept.push_back(sample);
    }

    /// All samples, oldest first.
    pub fn list(&self) -> Vec<DropSample> {
        let kept = self.kept.lock().unwrap_or_else(|e| e.into_inner());
        kept.iter().cloned().collect()
    }
}
