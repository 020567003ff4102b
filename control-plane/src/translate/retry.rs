//! When a request is tried again: as its rule says, else by default (D9).

use std::time::Duration;

use sidegate_xds::envoy::config::route::v3::RetryPolicy;
use sidegate_xds::envoy::config::route::v3::retry_policy::{
    RetryBackOff, RetryHostPredicate, retry_host_predicate,
};
use sidegate_xds::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use sidegate_xds::resource::to_any;

use super::normal::{self, Retry};
use super::verdict::Problem;
use super::wire;

/// How often a request is tried again when its route does not say.
const DEFAULT_RETRIES: u32 = 2;

/// The policy of a rule; the problem's text starts with the field below the rule.
///
/// Our own proxy repeats only idempotent requests after they were sent; Envoy repeats what it is told to, so a foreign data
/// plane is told, by default, only what cannot deliver a request twice.
pub(super) fn policy(
    foreign: bool,
    given: Option<&Retry<'_>>,
    attempt: Option<Duration>,
) -> Result<Option<RetryPolicy>, Problem> {
    let Some(given) = given else { return Ok(Some(by_default(foreign, attempt))) };
    let bad = |field: &str, text: &str| Problem::new("UnsupportedValue", format!("retry.{field}: {text}"));
    let code = |code: &i64| u32::try_from(*code).ok().filter(|code| (400..600).contains(code));
    let codes: Option<Vec<u32>> = given.codes.iter().map(code).collect();
    let codes = codes.ok_or_else(|| bad("codes", "must be 400 to 599"))?;
    let attempts = given.attempts.map_or(Ok(DEFAULT_RETRIES), u32::try_from);
    let attempts = attempts.map_err(|_| bad("attempts", "must not be negative"))?;
    let back_off = given.backoff.map(normal::duration).transpose();
    let back_off = back_off.map_err(|problem| bad("backoff", &problem.message))?;
    if attempts == 0 {
        return Ok(attempt.map(one_bounded_attempt));
    }
    let on_status = if codes.is_empty() { "" } else { ",retriable-status-codes" };
    Ok(Some(RetryPolicy {
        retry_on: format!("connect-failure,refused-stream,reset{on_status}"),
        num_retries: wire::number(attempts),
        retriable_status_codes: codes,
        retry_back_off: back_off.filter(|back_off| !back_off.is_zero()).map(|base| RetryBackOff {
            base_interval: Some(wire::duration(base)),
            max_interval: Some(wire::duration(base.saturating_mul(10))),
        }),
        ..elsewhere(attempt)
    }))
}

/// What every route does that says nothing of retries.
pub(super) fn by_default(foreign: bool, attempt: Option<Duration>) -> RetryPolicy {
    let (retry_on, retriable_status_codes) = if foreign {
        ("connect-failure,refused-stream,reset-before-request", Vec::new())
    } else {
        ("connect-failure,refused-stream,unavailable,reset,retriable-status-codes", vec![503])
    };
    RetryPolicy {
        retry_on: retry_on.to_owned(),
        num_retries: wire::number(DEFAULT_RETRIES),
        retriable_status_codes,
        ..elsewhere(attempt)
    }
}

/// What a sidecar does towards its own app: only what was certainly not processed is sent again.
pub(super) fn to_own_app() -> RetryPolicy {
    RetryPolicy {
        retry_on: "connect-failure,refused-stream".to_owned(),
        num_retries: wire::number(DEFAULT_RETRIES),
        ..RetryPolicy::default()
    }
}

/// Even without another attempt the first one may have its own bound.
fn one_bounded_attempt(attempt: Duration) -> RetryPolicy {
    RetryPolicy {
        num_retries: wire::number(0),
        per_try_timeout: Some(wire::duration(attempt)),
        ..RetryPolicy::default()
    }
}

/// Each attempt at an endpoint that has not been asked yet.
fn elsewhere(attempt: Option<Duration>) -> RetryPolicy {
    RetryPolicy {
        per_try_timeout: attempt.map(wire::duration),
        retry_host_predicate: vec![RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
            config_type: Some(retry_host_predicate::ConfigType::TypedConfig(to_any(
                &PreviousHostsPredicate {},
            ))),
        }],
        host_selection_retry_max_attempts: 5,
        ..RetryPolicy::default()
    }
}
