//! What an insider may ask of us for one request, by `x-envoy-*` headers: time, and retries beyond the route's.

use std::time::Duration;

use http::StatusCode;

use crate::message::Headers;
use crate::route::{RetryOn, RetryPolicy};

/// What was asked for. The headers are taken off: they were for us.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// `x-envoy-upstream-rq-timeout-ms`, in place of the route's timeout; `Some(None)` is no bound.
    pub(super) timeout: Option<Option<Duration>>,
    /// `x-envoy-upstream-rq-per-try-timeout-ms`.
    pub(super) per_try: Option<Duration>,
    /// The route's policy with what the headers add (`x-envoy-retry-on`, `x-envoy-retry-grpc-on`, `x-envoy-max-retries`,
    /// `x-envoy-retriable-status-codes`).
    pub(super) retry: Option<Box<RetryPolicy>>,
}

impl Asked {
    /// Reads and removes the headers. What is malformed counts as absent.
    pub(super) fn take(headers: &mut Headers, policy: Option<&RetryPolicy>) -> Self {
        let millis = |name: &str| {
            let text = headers.get_str(name)?;
            text.parse().ok().map(|millis: u32| Duration::from_millis(millis.into()))
        };
        let asked = Self {
            timeout: millis(TIMEOUT).map(|timeout| Some(timeout).filter(|timeout| !timeout.is_zero())),
            per_try: millis(PER_TRY).filter(|timeout| !timeout.is_zero()),
            retry: retry(headers, policy),
        };
        headers.retain(|name, _| !TAKEN.iter().any(|taken| name.eq_ignore_ascii_case(taken.as_bytes())));
        asked
    }

    /// Milliseconds that the endpoint may expect to have (`x-envoy-expected-rq-timeout-ms`), when the caller asked for a bound.
    pub(super) fn expected(&self) -> Option<u64> {
        let whole = self.timeout.flatten();
        let bound = match (whole, self.per_try) {
            (Some(whole), Some(per_try)) => Some(whole.min(per_try)),
            (whole, per_try) => per_try.or(whole),
        };
        bound.and_then(|bound| u64::try_from(bound.as_millis()).ok())
    }
}

fn retry(headers: &Headers, policy: Option<&RetryPolicy>) -> Option<Box<RetryPolicy>> {
    let on = [headers.get_str(RETRY_ON), headers.get_str(RETRY_GRPC_ON)];
    let most = headers.get_str(MAX_RETRIES).and_then(|text| text.parse::<u32>().ok());
    let statuses = headers.get_str(STATUSES);
    if on == [None, None] && (policy.is_none() || (most.is_none() && statuses.is_none())) {
        return None;
    }
    let mut policy = policy.cloned().unwrap_or_default();
    for condition in on.into_iter().flatten().flat_map(|list| list.split(',')) {
        // Conditions that are not known are none, as in Envoy.
        let _ = policy.on.add(condition.trim());
    }
    let codes = statuses.into_iter().flat_map(|list| list.split(','));
    policy.statuses.extend(codes.filter_map(|code| code.trim().parse::<StatusCode>().ok()));
    policy.retries = most.unwrap_or(policy.retries);
    (policy.on != RetryOn::default()).then(|| Box::new(policy))
}

const TIMEOUT: &str = "x-envoy-upstream-rq-timeout-ms";
const PER_TRY: &str = "x-envoy-upstream-rq-per-try-timeout-ms";
const RETRY_ON: &str = "x-envoy-retry-on";
const RETRY_GRPC_ON: &str = "x-envoy-retry-grpc-on";
const MAX_RETRIES: &str = "x-envoy-max-retries";
const STATUSES: &str = "x-envoy-retriable-status-codes";
const TAKEN: [&str; 6] = [TIMEOUT, PER_TRY, RETRY_ON, RETRY_GRPC_ON, MAX_RETRIES, STATUSES];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Name, Value};

    fn headers(fields: &[(&'static str, &'static str)]) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in fields {
            headers.append(Name::Static(name), Value::Static(value));
        }
        headers
    }

    #[test]
    fn time_is_asked_for_in_milliseconds() {
        let mut fields = headers(&[(TIMEOUT, "250"), (PER_TRY, "100"), ("x-other", "1")]);
        let asked = Asked::take(&mut fields, None);
        assert_eq!(asked.timeout, Some(Some(Duration::from_millis(250))));
        assert_eq!((asked.per_try, asked.expected()), (Some(Duration::from_millis(100)), Some(100)));
        assert!(asked.retry.is_none() && fields.len() == 1);
        let asked = Asked::take(&mut headers(&[(TIMEOUT, "0"), (PER_TRY, "soon")]), None);
        assert_eq!((asked.timeout, asked.per_try, asked.expected()), (Some(None), None, None));
    }

    #[test]
    fn retries_are_added_to_the_routes() {
        let fields = [
            (RETRY_ON, "connect-failure, nonsense,reset"),
            (RETRY_GRPC_ON, "unavailable"),
            (MAX_RETRIES, "4"),
        ];
        let policy = Asked::take(&mut headers(&fields), None).retry.unwrap();
        assert!(
            policy.on.connect_failure && policy.on.reset && policy.on.grpc == 1 << 14 && policy.retries == 4
        );
        let own = RetryPolicy { on: RetryOn { reset: true, ..RetryOn::default() }, ..RetryPolicy::default() };
        let fields = [(STATUSES, "503, x")];
        let policy = Asked::take(&mut headers(&fields), Some(&own)).retry.unwrap();
        assert_eq!((policy.retries, policy.statuses.as_slice()), (1, &[StatusCode::SERVICE_UNAVAILABLE][..]));
        assert!(
            Asked::take(&mut headers(&[(MAX_RETRIES, "4")]), None).retry.is_none(),
            "nothing to retry on"
        );
    }
}
