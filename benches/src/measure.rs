//! Figures: one measurement, and what several rounds come to.

use serde::{Deserialize, Serialize};

/// What one measurement of one row gave.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// The rate: million packets a second, or Gbit/s in the rows that say so.
    pub rate: f64,
    /// TSC cycles of the forwarding core per packet, where they are known.
    pub cycles: Option<f64>,
}

/// The middle of the values; the mean of the two middle ones of an even number.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some((sorted[middle - 1] + upper) / 2.0)
}

/// (largest − smallest) / median: how far the rounds lie apart. 0 for a single round.
pub fn spread(values: &[f64]) -> Option<f64> {
    let middle = median(values)?;
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (middle > 0.0).then(|| (high - low) / middle)
}

/// The rounds of one row of one contender.
#[derive(Debug, Clone, Default)]
pub struct Rounds(Vec<Measurement>);

impl Rounds {
    pub fn add(&mut self, measurement: Measurement) {
        self.0.push(measurement);
    }

    pub fn rate(&self) -> Option<f64> {
        median(&self.rates())
    }

    pub fn spread(&self) -> Option<f64> {
        spread(&self.rates())
    }

    pub fn cycles(&self) -> Option<f64> {
        median(&self.0.iter().filter_map(|m| m.cycles).collect::<Vec<_>>())
    }

    fn rates(&self) -> Vec<f64> {
        self.0.iter().map(|m| m.rate).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spreads() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(spread(&[2.0]), Some(0.0));
        assert_eq!(spread(&[1.0, 2.0, 3.0]), Some(1.0));
        assert_eq!(spread(&[0.0, 0.0]), None);
    }
}
