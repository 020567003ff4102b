//! Whether a failed attempt is made again, and when: pure (D8, D9).

use std::time::Duration;

use http::Method;

use crate::error::Reason;
use crate::message::ResponseHead;
use crate::route::RetryPolicy;
use crate::upstream::{Processed, SendError};

/// The pauses where no policy says them: Envoy's.
pub(super) const DEFAULT_BACK_OFF: (Duration, Duration) =
    (Duration::from_millis(25), Duration::from_millis(250));

/// Whether the pool makes the attempt again by itself, whatever the route says: it was provably not processed, or it is idempotent
/// and died on a connection that the endpoint may just have closed (D8).
pub(super) fn is_free(error: &SendError, method: &Method) -> bool {
    match error.processed {
        Processed::Refused => true,
        Processed::NotSent => error.reused,
        Processed::Maybe => error.reused && method.is_idempotent(),
    }
}

/// Whether the route's policy wants another attempt after a failure without a response.
pub(super) fn wants_after_error(policy: &RetryPolicy, error: &SendError, method: &Method) -> bool {
    if matches!(error.reason, Reason::Internal | Reason::BadRequest) {
        // It is the request that cannot be sent, by whatever way.
        return false;
    }
    let on = &policy.on;
    match error.processed {
        Processed::NotSent => {
            on.connect_failure || on.reset || on.reset_before_request || on.server_error || on.gateway_error
        }
        Processed::Refused => on.refused_stream || on.reset || on.reset_before_request || on.server_error,
        Processed::Maybe => {
            let may_repeat = !policy.idempotent_only || method.is_idempotent();
            may_repeat && (on.reset || on.server_error || on.gateway_error)
        }
    }
}

/// Whether the route's policy wants another attempt after this response.
pub(super) fn wants_after_response(policy: &RetryPolicy, head: &ResponseHead, method: &Method) -> bool {
    if policy.idempotent_only && !method.is_idempotent() {
        return false;
    }
    let on = &policy.on;
    let status = head.status.as_u16();
    let grpc_status = || head.headers.get_str("grpc-status").and_then(|text| text.parse::<u32>().ok());
    (on.server_error && status >= 500)
        || (on.gateway_error && (502..=504).contains(&status))
        || (on.retriable_4xx && status == 409)
        || (on.retriable_statuses && policy.statuses.contains(&head.status))
        || (on.grpc != 0 && grpc_status().is_some_and(|code| code < 32 && on.grpc & (1 << code) != 0))
}

/// Whether the endpoint is to be left alone for a moment: it refuses, and not only a connection that it was closing anyway. `again`: so it did
/// before.
pub(super) fn is_turned_away(error: &SendError, again: bool) -> bool {
    error.processed == Processed::Refused && (again || !error.reused)
}

/// How long to wait before retry `number` (from 1): uniform up to an exponentially growing bound, Envoy's `retry_back_off`.
pub(super) fn back_off((base, maximum): (Duration, Duration), number: u32, roll: u32) -> Duration {
    let bound = base.saturating_mul((1_u32 << number.min(16)) - 1).min(maximum);
    bound.mul_f64(f64::from(roll) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::RetryOn;

    fn policy(on: RetryOn) -> RetryPolicy {
        RetryPolicy {
            on,
            statuses: vec![http::StatusCode::SERVICE_UNAVAILABLE],
            retries: 2,
            per_try_timeout: None,
            per_try_idle: None,
            other_endpoint: true,
            back_off: (Duration::from_millis(25), Duration::from_millis(250)),
            idempotent_only: true,
            replay_limit: 65_536,
        }
    }

    fn error(processed: Processed, reused: bool) -> SendError {
        SendError { reason: Reason::UpstreamReset, processed, reused, detail: String::new() }
    }

    #[test]
    fn a_post_that_may_have_been_processed_is_never_sent_again() {
        let all = RetryOn { server_error: true, reset: true, retriable_statuses: true, ..RetryOn::default() };
        for reused in [false, true] {
            let error = error(Processed::Maybe, reused);
            assert!(!is_free(&error, &Method::POST));
            assert!(!wants_after_error(&policy(all), &error, &Method::POST));
            assert!(wants_after_error(&policy(all), &error, &Method::GET));
        }
    }

    #[test]
    fn what_was_not_processed_is_sent_again_whatever_the_method() {
        assert!(is_free(&error(Processed::Refused, true), &Method::POST));
        assert!(is_free(&error(Processed::NotSent, true), &Method::POST));
        assert!(
            !is_free(&error(Processed::NotSent, false), &Method::POST),
            "nothing listens: the policy decides"
        );
        let connect = RetryOn { connect_failure: true, ..RetryOn::default() };
        assert!(wants_after_error(&policy(connect), &error(Processed::NotSent, false), &Method::POST));
    }

    #[test]
    fn what_cannot_be_sent_is_not_tried_again() {
        let all = RetryOn { server_error: true, reset: true, connect_failure: true, ..RetryOn::default() };
        for reason in [Reason::Internal, Reason::BadRequest] {
            let error = SendError { reason, ..error(Processed::NotSent, false) };
            assert!(!is_free(&error, &Method::GET) && !wants_after_error(&policy(all), &error, &Method::GET));
        }
    }

    #[test]
    fn only_a_connection_that_was_good_may_refuse_once() {
        assert!(!is_turned_away(&error(Processed::Refused, true), false));
        assert!(is_turned_away(&error(Processed::Refused, true), true));
        assert!(is_turned_away(&error(Processed::Refused, false), false));
        assert!(!is_turned_away(&error(Processed::Maybe, false), true));
    }

    #[test]
    fn back_off_grows_to_its_maximum() {
        let policy = policy(RetryOn::default()).back_off;
        assert_eq!(back_off(policy, 1, u32::MAX), Duration::from_millis(25));
        assert_eq!(back_off(policy, 2, u32::MAX), Duration::from_millis(75));
        assert_eq!(back_off(policy, 30, u32::MAX), Duration::from_millis(250));
        assert_eq!(back_off(policy, 3, 0), Duration::ZERO);
    }
}
