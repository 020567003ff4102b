//! `envoy.filters.http.local_ratelimit`: a token bucket shared by all workers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use tokio::time::Instant;

use super::Reply;
use crate::error::Reason;

/// A token bucket (`envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit`). One instance per configuration,
/// kept across updates that do not change it, so that an unrelated push does not refill it.
#[derive(Debug)]
pub(crate) struct LocalRateLimit {
    /// `max_tokens`.
    pub(crate) max_tokens: u32,
    /// `tokens_per_fill`.
    pub(crate) tokens_per_fill: u32,
    /// `fill_interval`.
    pub(crate) fill_interval: Duration,
    /// `status`, default 429.
    pub(crate) status: StatusCode,
    /// `response_headers_to_add`.
    pub(crate) response_headers: Vec<(HeaderName, HeaderValue)>,
    start: Instant,
    /// Nanoseconds after `start` at which the bucket was last known to be full, in the generic-cell-rate form: one atomic, no lock.
    arrival: AtomicU64,
}

impl LocalRateLimit {
    /// A full bucket.
    pub(crate) fn new(max_tokens: u32, tokens_per_fill: u32, fill_interval: Duration, now: Instant) -> Self {
        Self {
            max_tokens,
            tokens_per_fill,
            fill_interval,
            status: StatusCode::TOO_MANY_REQUESTS,
            response_headers: Vec::new(),
            start: now,
            arrival: AtomicU64::new(0),
        }
    }

    /// Takes a token, or answers.
    pub(crate) fn on_request(&self, now: Instant) -> Option<Reply> {
        if self.take(now) {
            return None;
        }
        Some(Reply {
            reason: Reason::RateLimited,
            status: self.status,
            headers: self.response_headers.clone(),
            detail: None,
        })
    }

    /// The generic cell rate algorithm: each request moves the theoretical arrival time one emission interval ahead;
    /// it is refused when that time is more than the bucket's depth in the future.
    fn take(&self, now: Instant) -> bool {
        let now = u64::try_from(now.duration_since(self.start).as_nanos()).unwrap_or(u64::MAX);
        let interval = self.emission_interval();
        let depth = interval.saturating_mul(u64::from(self.max_tokens));
        self.arrival
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |arrival| {
                let next = arrival.max(now).saturating_add(interval);
                (next <= now.saturating_add(depth)).then_some(next)
            })
            .is_ok()
    }

    fn emission_interval(&self) -> u64 {
        let fill = u64::try_from(self.fill_interval.as_nanos()).unwrap_or(u64::MAX);
        (fill / u64::from(self.tokens_per_fill.max(1))).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn admits_the_burst_then_the_rate() {
        let limit = LocalRateLimit::new(5, 10, Duration::from_secs(1), Instant::now());
        let admitted =
            |limit: &LocalRateLimit| (0..100).filter(|_| limit.on_request(Instant::now()).is_none()).count();
        assert_eq!(admitted(&limit), 5);
        tokio::time::advance(Duration::from_millis(200)).await;
        assert_eq!(admitted(&limit), 2);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(admitted(&limit), 5, "an idle bucket holds no more than its depth");
    }
}
