//! Owns the arithmetic on measured figures: medians, ratios with their spread, latency percentiles.
//! Never measures anything itself: every figure is an argument.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The middle value; of an even count the mean of the two in the middle. `None` of nothing.
/// Values that are not finite are left out.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *sorted.get(middle.checked_sub(1)?)?;
    Some(f64::midpoint(lower, upper))
}

/// A ratio of a candidate to its baseline, with what the rounds say about its noise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// Median of the candidate over median of the baseline.
    pub middle: f64,
    /// Smallest ratio seen within one round.
    pub lowest: f64,
    /// Largest ratio seen within one round.
    pub highest: f64,
}

/// The ratio candidate / baseline. Round `n` of one is compared with round `n` of the other, as
/// those two ran next to each other. `None` when either side has no figure or the baseline is zero.
#[must_use]
pub fn ratio(candidate: &[f64], baseline: &[f64]) -> Option<Ratio> {
    let below = median(baseline)?;
    if below <= 0.0 {
        return None;
    }
    let middle = median(candidate)? / below;
    let mut ratio = Ratio { middle, lowest: middle, highest: middle };
    for (above, below) in candidate.iter().zip(baseline) {
        let one = above / below;
        if one.is_finite() {
            ratio.lowest = ratio.lowest.min(one);
            ratio.highest = ratio.highest.max(one);
        }
    }
    Some(ratio)
}

/// Latencies in nanoseconds, kept at three digits up to one minute.
pub struct Latencies {
    histogram: Histogram<u64>,
}

/// Longest latency told apart; longer ones count as this.
const LATENCY_NANOSECONDS_MAX: u64 = 60_000_000_000;

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Latencies {
    /// An empty record.
    ///
    /// # Panics
    /// Never: the bounds are constants that the histogram accepts.
    #[must_use]
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_NANOSECONDS_MAX, 3).expect("bounds are valid");
        Self { histogram }
    }

    /// Adds one latency in nanoseconds.
    pub fn record(&mut self, nanoseconds: u64) {
        self.histogram.saturating_record(nanoseconds.max(1));
    }

    /// Forgets all, as after a warm-up.
    pub fn clear(&mut self) {
        self.histogram.reset();
    }

    /// How many were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The latency in microseconds that `percent` of all do not exceed; 0 when nothing was recorded.
    #[must_use]
    pub fn microseconds_at(&self, percent: f64) -> f64 {
        if self.histogram.is_empty() {
            return 0.0;
        }
        self.histogram.value_at_percentile(percent) as f64 / 1_000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_and_ignores_what_is_no_number() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, f64::NAN, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn a_ratio_compares_medians_and_spreads_over_rounds() {
        let ratio = ratio(&[20.0, 30.0, 44.0], &[10.0, 10.0, 11.0]).unwrap();
        assert_eq!(ratio.middle, 3.0);
        assert_eq!(ratio.lowest, 2.0);
        assert_eq!(ratio.highest, 4.0);
    }

    #[test]
    fn no_ratio_without_a_baseline() {
        assert_eq!(ratio(&[1.0], &[]), None);
        assert_eq!(ratio(&[1.0], &[0.0]), None);
        assert_eq!(ratio(&[], &[1.0]), None);
    }

    #[test]
    fn percentiles_are_in_microseconds() {
        let mut latencies = Latencies::new();
        assert_eq!(latencies.microseconds_at(99.0), 0.0);
        for microseconds in 1..=100 {
            latencies.record(microseconds * 1_000);
        }
        assert_eq!(latencies.count(), 100);
        let middle = latencies.microseconds_at(50.0);
        assert!((49.9..=50.1).contains(&middle), "{middle}");
        let tail = latencies.microseconds_at(99.0);
        assert!((98.9..=99.1).contains(&tail), "{tail}");
    }
}
