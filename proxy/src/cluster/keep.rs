//! How long a connection to an endpoint is kept, and for how many requests (`common_http_protocol_options` of a cluster).

use std::time::Duration;

/// The bounds of a pooled connection. By default only idleness is bounded, as each protocol has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Keep {
    /// `idle_timeout`.
    pub(crate) idle: Idle,
    /// `max_connection_duration`: from then on it takes no new request.
    pub(crate) age: Option<Duration>,
    /// `max_requests_per_connection`.
    pub(crate) requests: Option<u32>,
}

/// How long a connection may be without a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Idle {
    /// As long as the protocol's default says.
    #[default]
    Default,
    /// This long.
    For(Duration),
    /// As long as the endpoint keeps it (`idle_timeout: 0s`).
    Endless,
}

impl Idle {
    /// The bound; `default` where none is configured.
    pub(crate) fn or(self, default: Duration) -> Duration {
        match self {
            Self::Default => default,
            Self::For(bound) => bound,
            Self::Endless => Duration::MAX,
        }
    }
}

impl Keep {
    /// Whether a connection that was made so long ago, and has had so many requests, takes no more. A new one takes one always: whoever
    /// had it made would have another one made, and so for ever.
    pub(crate) fn is_over(&self, age: Duration, requests: u32) -> bool {
        let is_old = requests > 0 && self.age.is_some_and(|most| age >= most);
        is_old || self.requests.is_some_and(|most| requests >= most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        let second = Duration::from_secs(1);
        assert_eq!(Idle::Default.or(second), second);
        assert_eq!(Idle::For(second * 2).or(second), second * 2);
        assert_eq!(Idle::Endless.or(second), Duration::MAX);
        let keep = Keep { age: Some(second), requests: Some(2), ..Keep::default() };
        assert!(
            !keep.is_over(second / 2, 1)
                && keep.is_over(second, 1)
                && !keep.is_over(second, 0)
                && keep.is_over(second / 2, 2)
        );
        assert!(!Keep::default().is_over(Duration::MAX, u32::MAX));
    }
}
