//! `RetryPolicy`.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use sidegate_xds::envoy::config::route::v3 as wire;

use crate::compile::problem::{At, Problem, fail, unsupported};
use crate::compile::value;
use crate::route::{RetryOn, RetryPolicy};

/// Checks a policy; `None` when it never retries.
pub(crate) fn compile(
    wire: &wire::RetryPolicy,
    idempotent_only: bool,
    replay_limit: usize,
) -> Result<Option<Arc<RetryPolicy>>, Problem> {
    unsupported(&[
        ("retry_priority", wire.retry_priority.is_some()),
        ("retry_options_predicates", !wire.retry_options_predicates.is_empty()),
        ("rate_limited_retry_back_off", wire.rate_limited_retry_back_off.is_some()),
        ("retriable_headers", !wire.retriable_headers.is_empty()),
        ("retriable_request_headers", !wire.retriable_request_headers.is_empty()),
        ("refresh_cluster_on_retry", wire.refresh_cluster_on_retry),
    ])?;
    let on = conditions(&wire.retry_on).at("retry_on")?;
    let retries = value::number(wire.num_retries.as_ref()).unwrap_or(1);
    if on == RetryOn::default() || retries == 0 {
        return Ok(None);
    }
    Ok(Some(Arc::new(RetryPolicy {
        on,
        statuses: statuses(&wire.retriable_status_codes)?,
        retries,
        per_try_timeout: value::bound(wire.per_try_timeout.as_ref(), None).at("per_try_timeout")?,
        per_try_idle: value::bound(wire.per_try_idle_timeout.as_ref(), None).at("per_try_idle_timeout")?,
        other_endpoint: other_endpoint(&wire.retry_host_predicate)?,
        back_off: back_off(wire.retry_back_off.as_ref()).at("retry_back_off")?,
        idempotent_only,
        replay_limit,
    })))
}

fn conditions(text: &str) -> Result<RetryOn, Problem> {
    let mut on = RetryOn::default();
    for condition in text.split(',').map(str::trim).filter(|condition| !condition.is_empty()) {
        // Conditions that cannot come up here: no HTTP/3, no retriable headers (refused above), and what Envoy's global rate limit marks
        // is answered as it is.
        let absent =
            matches!(condition, "http3-post-connect-failure" | "retriable-headers" | "envoy-ratelimited");
        if !absent && !on.add(condition) {
            return fail(format!("{condition} is not a condition that this proxy knows"));
        }
    }
    Ok(on)
}

fn statuses(codes: &[u32]) -> Result<Vec<StatusCode>, Problem> {
    let status = |code: &u32| u16::try_from(*code).ok().and_then(|code| StatusCode::from_u16(code).ok());
    codes
        .iter()
        .map(|code| {
            status(code)
                .ok_or_else(|| Problem::new(format!("{code} is not a status")).at("retriable_status_codes"))
        })
        .collect()
}

fn other_endpoint(predicates: &[wire::retry_policy::RetryHostPredicate]) -> Result<bool, Problem> {
    let mut other = false;
    for predicate in predicates {
        match predicate.name.as_str() {
            "envoy.retry_host_predicates.previous_hosts" => other = true,
            // There are no canary marks on endpoints here.
            "envoy.retry_host_predicates.omit_canary_hosts" => {}
            name => return fail(format!("{name} is not supported yet")).at("retry_host_predicate"),
        }
    }
    Ok(other)
}

/// Envoy's defaults: 25 ms, and ten times the base.
fn back_off(wire: Option<&wire::retry_policy::RetryBackOff>) -> Result<(Duration, Duration), Problem> {
    let Some(wire) = wire else { return Ok((Duration::from_millis(25), Duration::from_millis(250))) };
    if wire.base_interval.is_none() {
        return fail("is required").at("base_interval");
    }
    // Below a millisecond Envoy rounds up.
    let base = value::interval(wire.base_interval.as_ref(), Duration::ZERO).at("base_interval")?;
    let base = base.max(Duration::from_millis(1));
    let longest = value::interval(wire.max_interval.as_ref(), base * 10).at("max_interval")?;
    if longest < base {
        return fail("must be at least base_interval").at("max_interval");
    }
    Ok((base, longest))
}
