//! A histogram of latencies with a fixed relative error (below 1.6 %), from a microsecond to hours, in 30 KiB.

use std::time::Duration;

/// Counts by latency, in buckets that double in width every 64.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    longest: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; bucket(u64::MAX) + 1], total: 0, longest: 0 }
    }
}

impl Histogram {
    /// Counts one latency.
    pub(super) fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.counts[bucket(micros)] += 1;
        self.total += 1;
        self.longest = self.longest.max(micros);
    }

    /// The latency that `share` (0 to 1) of all stayed within, never rounded down; none without any.
    pub(super) fn quantile(&self, share: f64) -> Option<Duration> {
        let wanted = ((share * self.total as f64).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Some(Duration::from_micros(upper_edge(index).min(self.longest)));
            }
        }
        None
    }

    /// The longest latency of all.
    pub(super) fn longest(&self) -> Option<Duration> {
        (self.total > 0).then(|| Duration::from_micros(self.longest))
    }

    /// Adds the counts of another.
    pub(super) fn add(&mut self, other: &Histogram) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.longest = self.longest.max(other.longest);
    }
}

/// Below 128 each value has its own bucket; above, 64 buckets share each power of two.
fn bucket(micros: u64) -> usize {
    let shift = (u64::BITS - micros.leading_zeros()).saturating_sub(SIGNIFICANT_BITS);
    (shift as usize) * HALF + (micros >> shift) as usize
}

fn upper_edge(bucket: usize) -> u64 {
    let shift = (bucket / HALF).saturating_sub(1);
    let leading = (bucket - shift * HALF) as u64;
    ((leading + 1) << shift).wrapping_sub(1)
}

const SIGNIFICANT_BITS: u32 = 7;
const HALF: usize = 1 << (SIGNIFICANT_BITS - 1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_and_close_to_its_edge() {
        let mut value = 0_u64;
        while value < 1 << 40 {
            let edge = upper_edge(bucket(value));
            assert!(edge >= value, "{value} lies above its edge {edge}");
            assert!((edge - value) as f64 <= value as f64 / 64.0, "{value} is far from its edge {edge}");
            value += 1 + value / 97;
        }
    }

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        for index in 1..bucket(1 << 40) {
            assert_eq!(bucket(upper_edge(index - 1) + 1), index);
        }
    }

    #[test]
    fn quantiles_of_a_thousand_even_steps() {
        let mut histogram = Histogram::default();
        for millis in 1..=1000 {
            histogram.record(Duration::from_millis(millis));
        }
        let median = histogram.quantile(0.5).unwrap().as_secs_f64();
        let slow = histogram.quantile(0.99).unwrap().as_secs_f64();
        assert!((0.5..0.509).contains(&median), "{median}");
        assert!((0.99..1.0).contains(&slow), "{slow}");
        assert_eq!(histogram.quantile(1.0), Some(Duration::from_secs(1)));
    }

    #[test]
    fn nothing_recorded_means_no_quantile() {
        let empty = Histogram::default();
        assert_eq!((empty.quantile(0.5), empty.longest()), (None, None));
    }

    #[test]
    fn the_longest_possible_latency_has_a_bucket() {
        let mut histogram = Histogram::default();
        histogram.record(Duration::MAX);
        assert_eq!(histogram.quantile(0.5), Some(Duration::from_micros(u64::MAX)));
    }
}
