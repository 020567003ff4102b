//! The cells of a shard: counters and histograms that one thread writes and any thread reads.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Reason;

/// One of something for each [`Reason`], in their order.
#[derive(Debug)]
pub(super) struct PerReason<T>(pub(super) [T; Reason::ALL.len()]);

impl<T: Default> Default for PerReason<T> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| T::default()))
    }
}

/// Upper bounds of histogram buckets: Envoy's defaults, which are also Istio's. Milliseconds or bytes.
pub(super) const BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// A counter with **one writing thread** (the worker that owns the shard): adding is a load and a store, without the locked
/// instruction that several writers would need. Reading is possible from anywhere.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A histogram over [`BOUNDS`], written by one thread like [`Counter`].
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// The last bucket is for everything above the bounds.
    buckets: [Counter; BOUNDS.len() + 1],
    /// In thousandths of the unit, so that microseconds are whole.
    sum: Counter,
}

impl Histogram {
    /// Notes a value given in thousandths of the histogram's unit.
    pub(super) fn observe_thousandths(&self, value: u64) {
        let unit = value as f64 / 1_000.0;
        // Most values stand low in the list: a forward search ends after a few comparisons.
        let bucket = BOUNDS.iter().position(|bound| unit <= *bound).unwrap_or(BOUNDS.len());
        if let Some(counter) = self.buckets.get(bucket) {
            counter.add(1);
        }
        self.sum.add(value);
    }
}

/// What several shards' histograms add up to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct HistogramTotal {
    pub(super) buckets: [u64; BOUNDS.len() + 1],
    sum: u64,
}

impl HistogramTotal {
    pub(super) fn add(&mut self, histogram: &Histogram) {
        for (total, counter) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *total += counter.get();
        }
        self.sum = self.sum.wrapping_add(histogram.sum.get());
    }

    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    pub(super) fn sum(&self) -> f64 {
        self.sum as f64 / 1_000.0
    }

    /// An estimate of the quantile (`0.0..=1.0`): linear within its bucket, the last bound at most.
    pub(super) fn quantile(&self, quantile: f64) -> Option<f64> {
        let rank = quantile * self.count() as f64;
        let mut below = 0.0;
        for (index, count) in self.buckets.iter().enumerate() {
            let count = *count as f64;
            if count > 0.0 && below + count >= rank {
                let low = index.checked_sub(1).and_then(|index| BOUNDS.get(index)).copied().unwrap_or(0.0);
                let high = BOUNDS.get(index).copied().unwrap_or(low);
                return Some(low + (high - low) * ((rank - below) / count).clamp(0.0, 1.0));
            }
            below += count;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_the_bucket_that_bounds_them() {
        let histogram = Histogram::default();
        for value in [0, 500, 501, 1_000, 7_200_000_000] {
            histogram.observe_thousandths(value);
        }
        let mut total = HistogramTotal::default();
        total.add(&histogram);
        assert_eq!(total.buckets[..3], [2, 2, 0]);
        assert_eq!(total.buckets[BOUNDS.len()], 1);
        assert_eq!(total.count(), 5);
        assert!((total.sum() - 7_200_002.001).abs() < 1e-6);
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let histogram = Histogram::default();
        for _ in 0..100 {
            histogram.observe_thousandths(7_000);
        }
        let mut total = HistogramTotal::default();
        assert_eq!(total.quantile(0.5), None);
        total.add(&histogram);
        let median = total.quantile(0.5).unwrap();
        assert!((5.0..=10.0).contains(&median), "{median}");
    }
}
