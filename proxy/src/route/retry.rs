//! The names of `retry_on`.

use std::time::Duration;

use super::{RetryOn, RetryPolicy};

impl RetryOn {
    /// Adds a condition by its name; false when there is none of that name.
    pub(crate) fn add(&mut self, condition: &str) -> bool {
        match condition {
            "5xx" => self.server_error = true,
            "gateway-error" => self.gateway_error = true,
            "connect-failure" => self.connect_failure = true,
            "refused-stream" => self.refused_stream = true,
            "reset" => self.reset = true,
            "reset-before-request" => self.reset_before_request = true,
            "retriable-4xx" => self.retriable_4xx = true,
            "retriable-status-codes" => self.retriable_statuses = true,
            "cancelled" => self.grpc |= 1 << 1,
            "deadline-exceeded" => self.grpc |= 1 << 4,
            "resource-exhausted" => self.grpc |= 1 << 8,
            "internal" => self.grpc |= 1 << 13,
            "unavailable" => self.grpc |= 1 << 14,
            _ => return false,
        }
        true
    }
}

impl Default for RetryPolicy {
    /// Envoy's, and nothing to retry on.
    fn default() -> Self {
        Self {
            on: RetryOn::default(),
            statuses: Vec::new(),
            retries: 1,
            per_try_timeout: None,
            per_try_idle: None,
            other_endpoint: false,
            back_off: (Duration::from_millis(25), Duration::from_millis(250)),
            idempotent_only: false,
            replay_limit: 64 << 10,
        }
    }
}
