//! How long does a worker look in vain before it sleeps?
//!
//! Waking up costs a packet some 35 µs where cores go idle, and both cores involved about as much work. Looking on costs
//! the core. So a worker that has slept a little too early looks on for longer the next time, up to [`MOST`]; one that
//! has slept for good does so for less, down to [`LEAST`]. Packets that come at even distances somewhat below [`MOST`]
//! are met by a worker that is awake; what comes less often, or not at all, keeps no core from its rest.

use std::time::{Duration, Instant};

/// The shortest patience, which a worker begins with.
pub(super) const LEAST: Duration = Duration::from_micros(50);
/// The longest: for what comes less often it pays to sleep, which at this distance takes half a core.
pub(super) const MOST: Duration = Duration::from_micros(150);

/// One worker's patience.
pub(super) struct Patience {
    limit: Duration,
    /// Since when there is nothing to do; none while there is.
    quiet: Option<Quiet>,
}

struct Quiet {
    since: Instant,
    /// When it last woke up, the beginning if it has not slept.
    awake: Instant,
    slept: bool,
}

impl Patience {
    pub fn new() -> Patience {
        Patience { limit: LEAST, quiet: None }
    }

    /// There was something to do.
    #[inline]
    pub fn busy(&mut self) {
        if self.quiet.is_some() {
            self.ended();
        }
    }

    /// The end of a time without work: what it says of the next one.
    fn ended(&mut self) {
        if let Some(quiet) = self.quiet.take()
            && quiet.slept
        {
            self.learn(quiet.since.elapsed());
        }
    }

    fn learn(&mut self, lasted: Duration) {
        self.limit = match lasted <= MOST {
            true => (self.limit * 2).min(MOST),
            false => (self.limit / 2).max(LEAST),
        };
    }

    /// There was nothing to do: whether that was so for long enough to sleep.
    #[inline]
    pub fn is_over(&mut self) -> bool {
        match &self.quiet {
            Some(quiet) => quiet.awake.elapsed() >= self.limit,
            None => {
                let now = Instant::now();
                self.quiet = Some(Quiet { since: now, awake: now, slept: false });
                false
            }
        }
    }

    /// The worker has slept.
    pub fn woke(&mut self) {
        if let Some(quiet) = &mut self.quiet {
            (quiet.awake, quiet.slept) = (Instant::now(), true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(lasted: &[u64]) -> Duration {
        let mut patience = Patience::new();
        for us in lasted {
            patience.learn(Duration::from_micros(*us));
        }
        patience.limit
    }

    #[test]
    fn it_grows_by_what_was_nearly_met_and_shrinks_by_what_was_not() {
        assert_eq!(after(&[]), LEAST);
        assert_eq!(after(&[90]), LEAST * 2);
        assert_eq!(after(&[90; 10]), MOST, "packets at even distances are met");
        assert_eq!(after(&[90, 90, 90, 5000]), MOST / 2);
        assert_eq!(after(&[90, 90, 5_000_000, 5_000_000, 5000]), LEAST, "a quiet switch");
        assert_eq!(after(&[1000; 5]), LEAST, "packets that come now and then");
    }

    #[test]
    fn only_a_sleep_teaches_and_each_vigil_is_whole() {
        let mut patience = Patience::new();
        assert!(!patience.is_over(), "the first look");
        patience.busy();
        assert!(patience.quiet.is_none());
        assert_eq!(patience.limit, LEAST, "met awake");
        assert!(!patience.is_over());
        while !patience.is_over() {}
        patience.woke();
        let Some(quiet) = &patience.quiet else { panic!("still quiet") };
        assert!(quiet.slept && quiet.awake >= quiet.since + LEAST);
        while !patience.is_over() {}
        patience.busy();
        assert!(patience.quiet.is_none(), "what was learned depends on the machine");
    }
}
