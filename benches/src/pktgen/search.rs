//! What is the highest rate at which a device loses no more than so much?
//!
//! A bisection as RFC 2544 section 26.1 describes it, over any device that can be asked ([`Device`]). The first
//! trial is at the highest rate: most often that answers what the device carries under overload, which is tried
//! next, so that few trials are far from the answer. The result is always a rate that was tried and passed; the
//! lowest that failed is not more than the precision above it.
//!
//! One device is asked for several loss thresholds ([`search_all`]): every trial narrows the bounds of each.

use anyhow::{Result, ensure};
use serde::Serialize;

use super::rate::scaled;
use super::report::KEPT_UP;

/// Most trials of one search, whatever the precision.
const MOST_TRIALS: usize = 64;

/// What is searched for, and how.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Packets a second: the first trial, and the lowest that is tried.
    pub highest: f64,
    pub lowest: f64,
    /// How close, as a share of the result.
    pub precision: f64,
}

/// What a trial at a rate showed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Answer {
    /// Packets a second that were to be offered, and that were.
    pub wanted: f64,
    pub offered: f64,
    /// Packets a second that came through.
    pub carried: f64,
    /// Share of the packets sent that were lost.
    pub loss: f64,
}

impl Answer {
    /// Whether the sender kept up.
    pub fn was_offered(&self) -> bool {
        self.offered >= self.wanted * KEPT_UP
    }

    fn passes(&self, threshold: f64) -> bool {
        self.was_offered() && self.loss <= threshold
    }
}

/// Something that carries packets.
pub trait Device {
    /// One trial at so many packets a second.
    ///
    /// # Errors
    /// If it could not be tried.
    fn ask(&mut self, rate: f64) -> Result<Answer>;
}

/// The result for one threshold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Found {
    /// The share of loss that was allowed.
    pub threshold: f64,
    /// The highest rate that passed, packets a second; none if the lowest did not.
    pub rate: Option<f64>,
    /// The lowest rate that failed; none if the highest passed.
    pub failed: Option<f64>,
    /// Whether that was because the sender could not send as much, so that the device may carry more.
    pub limited_by_sender: bool,
}

/// The bounds for one threshold so far.
struct Bounds {
    found: Found,
}

impl Bounds {
    fn new(threshold: f64) -> Self {
        let found = Found { threshold, rate: None, failed: None, limited_by_sender: false };
        Self { found }
    }

    fn learn(&mut self, answer: &Answer) {
        let found = &mut self.found;
        if answer.passes(found.threshold) {
            // A device that is not the same all the time may pass above a rate at which it failed: the failure holds.
            if found.failed.is_none_or(|f| answer.wanted < f) {
                found.rate = Some(found.rate.unwrap_or(0.0).max(answer.wanted));
            }
        } else if found.failed.is_none_or(|f| answer.wanted < f) {
            found.failed = Some(answer.wanted);
            found.limited_by_sender = !answer.was_offered();
            if found.rate.is_some_and(|r| r >= answer.wanted) {
                // It passed here before: what is known good is only what lies lower.
                found.rate = None;
            }
        }
    }

    /// The next rate to try; none when the result is close enough. Guesses are tried once, the last first.
    fn next(&self, options: &Options, guesses: &mut Vec<f64>) -> Option<f64> {
        let Some(high) = self.found.failed else {
            return self.found.rate.is_none().then_some(options.highest);
        };
        let low = self.found.rate.unwrap_or(0.0);
        if low >= high * (1.0 - options.precision) || high <= options.lowest {
            return None;
        }
        while let Some(guess) = guesses.pop() {
            if guess > low && guess < high && guess >= options.lowest {
                return Some(guess);
            }
        }
        Some(((low + high) / 2.0).max(options.lowest))
    }
}

/// Search for the highest rate of each threshold; also every trial, in the order in which they were made.
///
/// # Errors
/// If the options make no sense or a trial cannot be made.
pub fn search_all(
    device: &mut impl Device,
    thresholds: &[f64],
    options: &Options,
) -> Result<(Vec<Found>, Vec<Answer>)> {
    ensure!(
        options.lowest > 0.0 && options.lowest <= options.highest,
        "--lowest {} is above --highest {}",
        scaled(options.lowest, "pps"),
        scaled(options.highest, "pps")
    );
    ensure!(
        (0.0001..=0.5).contains(&options.precision),
        "a precision of {} is not between 0.0001 and 0.5",
        options.precision
    );
    let mut bounds: Vec<Bounds> = thresholds.iter().map(|t| Bounds::new(*t)).collect();
    let mut answers: Vec<Answer> = Vec::new();
    for at in 0..bounds.len() {
        let mut guesses = Vec::new();
        while let Some(rate) = bounds[at].next(options, &mut guesses) {
            if answers.len() >= MOST_TRIALS * (at + 1) {
                break;
            }
            let answer = device.ask(rate)?;
            // What came through under overload is most often what can be carried: just below it passes, and just
            // above it fails.
            if rate >= options.highest {
                let part = options.precision / 4.0;
                guesses = vec![answer.carried * (1.0 + part), answer.carried * (1.0 - 2.0 * part)];
            }
            bounds.iter_mut().for_each(|b| b.learn(&answer));
            answers.push(answer);
        }
    }
    Ok((bounds.into_iter().map(|b| b.found).collect(), answers))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Carries up to `capacity` and drops the rest; the sender ends at `sender`.
    struct Simulated {
        capacity: f64,
        sender: f64,
        /// Loss at any rate, as of a bad cable.
        leak: f64,
        asked: Vec<f64>,
    }

    impl Device for Simulated {
        fn ask(&mut self, rate: f64) -> Result<Answer> {
            self.asked.push(rate);
            let offered = rate.min(self.sender);
            let carried = offered.min(self.capacity) * (1.0 - self.leak);
            Ok(Answer { wanted: rate, offered, carried, loss: 1.0 - carried / offered })
        }
    }

    fn simulated(capacity: f64, sender: f64, leak: f64) -> Simulated {
        Simulated { capacity, sender, leak, asked: Vec::new() }
    }

    proptest! {
        #[test]
        fn the_capacity_is_found_to_the_precision(
            capacity in 1e3..2e7f64, precision in 0.001..0.2f64, threshold in 0.0..0.1f64,
        ) {
            let options = Options { highest: 1e7, lowest: 100.0, precision };
            let mut device = simulated(capacity, f64::INFINITY, 0.0);
            let (found, answers) = search_all(&mut device, &[0.0, threshold], &options).unwrap();
            for found in found {
                // With a share of loss allowed, the rate that is offered may be that much higher.
                let limit = (capacity / (1.0 - found.threshold)).min(options.highest);
                let rate = found.rate.expect("some rate passes");
                prop_assert!(rate <= limit * (1.0 + 1e-9), "{} of {}", rate, limit);
                prop_assert!(rate >= limit * (1.0 - precision) * (1.0 - 1e-9), "{} of {}", rate, limit);
                prop_assert!(device.asked.contains(&rate), "a rate that was tried");
                prop_assert!(!found.limited_by_sender);
            }
            // Twice the bisection of the range, and the guesses.
            let most = 2.0 * ((1e7f64 / 100.0 / precision).log2().ceil() + 4.0);
            prop_assert!((answers.len() as f64) <= most, "{} trials", answers.len());
        }

        #[test]
        fn a_slow_sender_is_said(capacity in 1e6..1e7f64, sender in 1e3..9e5f64) {
            let options = Options { highest: 1e7, lowest: 100.0, precision: 0.01 };
            let (found, _) =
                search_all(&mut simulated(capacity, sender, 0.0), &[0.0], &options).unwrap();
            prop_assert!(found[0].limited_by_sender);
            let rate = found[0].rate.expect("some rate passes");
            prop_assert!(rate >= sender * 0.98 && rate <= sender / 0.98 * 1.0001, "{} of {}", rate, sender);
        }

        #[test]
        fn a_leak_passes_only_above_its_threshold(leak in 0.001..0.05f64) {
            let options = Options { highest: 1e6, lowest: 1000.0, precision: 0.05 };
            let mut device = simulated(5e5, f64::INFINITY, leak);
            let (found, answers) = search_all(&mut device, &[0.0, leak * 1.01], &options).unwrap();
            prop_assert_eq!(found[0].rate, None);
            prop_assert!(found[1].rate.is_some_and(|r| r > 4e5));
            prop_assert!(answers.len() < 100);
        }

        /// A device that answers at random: the search ends, and never names a rate that failed.
        #[test]
        fn a_device_without_sense_ends_the_search(losses in prop::collection::vec(0.0..0.02f64, 200)) {
            struct Mad(Vec<f64>, usize, Vec<(f64, f64)>);
            impl Device for Mad {
                fn ask(&mut self, rate: f64) -> Result<Answer> {
                    let loss = if self.0[self.1 % 200] < 0.01 { 0.0 } else { self.0[self.1 % 200] };
                    self.1 += 1;
                    self.2.push((rate, loss));
                    Ok(Answer { wanted: rate, offered: rate, carried: rate * (1.0 - loss), loss })
                }
            }
            let options = Options { highest: 1e6, lowest: 1000.0, precision: 0.01 };
            let mut device = Mad(losses, 0, Vec::new());
            let (found, answers) = search_all(&mut device, &[0.0], &options).unwrap();
            prop_assert!(answers.len() <= MOST_TRIALS);
            if let Some(rate) = found[0].rate {
                prop_assert!(device.2.iter().all(|(r, loss)| *loss == 0.0 || *r > rate));
            }
        }
    }

    #[test]
    fn what_carries_everything_takes_one_trial() {
        let options = Options { highest: 1e6, lowest: 1000.0, precision: 0.01 };
        let mut device = simulated(1e7, 1e8, 0.0);
        let (found, answers) = search_all(&mut device, &[0.0], &options).expect("a result");
        assert_eq!((found[0].rate, found[0].failed, answers.len()), (Some(1e6), None, 1));
        let nonsense = Options { highest: 1.0, lowest: 5.0, precision: 0.01 };
        assert!(search_all(&mut device, &[0.0], &nonsense).is_err());
    }
}
