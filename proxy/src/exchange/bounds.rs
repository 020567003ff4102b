//! Bounds of time on one exchange: what the route, the connection manager and the caller say, and how they hold once a response is on its
//! way out.
//!
//! Before the response's head, [`super::attempts`] keeps them; from then on the codec does, by [`Bounds::cover`].

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::bodies::Received;
use crate::error::Reason;
use crate::message::Headers;
use crate::route::{Forward, GrpcTimeout};
use crate::snapshot::HttpTimeouts;
use crate::timer::Alarm;

/// What holds for one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// From the end of the request to the end of the response.
    pub(super) timeout: Option<Duration>,
    /// Silence, in both directions.
    pub(super) idle: Option<Duration>,
    /// Until the whole request must have come.
    pub(super) request: Option<Instant>,
    /// Until everything must be over, and what is then said to have passed.
    pub(super) fixed: Option<(Instant, Reason)>,
}

impl Terms {
    /// Puts together what the route, the connection manager and the request itself say.
    pub(super) fn new(
        forward: &Forward,
        timeouts: &HttpTimeouts,
        headers: &Headers,
        is_grpc: bool,
        started: Instant,
    ) -> Self {
        let mut terms = Self {
            timeout: forward.timeout,
            idle: forward.idle_timeout.or(timeouts.stream_idle),
            request: timeouts.request.map(|most| started + most),
            fixed: None,
        };
        let mut longest = forward.longest.unwrap_or(timeouts.longest);
        if is_grpc {
            let asked = headers.get("grpc-timeout").and_then(grpc_timeout);
            if let Some(rule) = &forward.grpc_stream
                && let Some(asked) = asked
            {
                longest = Some(rule.of(asked));
            }
            match (&forward.grpc_timeout, asked) {
                // The caller's deadline takes the place of the route's timeout.
                (Some(rule), asked) => {
                    terms.timeout = None;
                    terms.limit(started, asked.map(|asked| rule.of(asked)), Reason::RequestTimeout);
                }
                // By then the caller has gone: within the route's timeout, its own deadline counts.
                (None, asked) => terms.limit(started, asked, Reason::RequestTimeout),
            }
        }
        terms.limit(started, longest, Reason::MaxDuration);
        terms
    }

    fn limit(&mut self, started: Instant, most: Option<Duration>, reason: Reason) {
        let Some(at) = most.and_then(|most| started.checked_add(most)) else { return };
        if self.fixed.is_none_or(|(earlier, _)| at < earlier) {
            self.fixed = Some((at, reason));
        }
    }
}

impl GrpcTimeout {
    /// What is granted of what was asked for.
    fn of(&self, asked: Duration) -> Duration {
        let granted = self.most.map_or(asked, |most| asked.min(most));
        granted.checked_sub(self.offset).filter(|rest| !rest.is_zero()).unwrap_or(granted)
    }
}

/// `grpc-timeout`: up to eight digits and a unit (gRPC over HTTP/2, "Requests"). What is malformed counts as absent.
fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(number * 3600)),
        b'M' => Some(Duration::from_secs(number * 60)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// What bounds a response that is being sent.
#[derive(Default)]
pub(crate) struct Bounds {
    /// Silence in both directions, where the route says its own.
    pub(crate) idle: Option<Duration>,
    /// The route's timeout, when the request had ended before the response began.
    pub(super) deadline: Option<Instant>,
    /// The route's timeout, when it had not: from the request's end.
    pub(super) timeout: Option<Duration>,
    pub(super) request: Option<Instant>,
    pub(super) fixed: Option<(Instant, Reason)>,
    /// The request's body, when some of it was still to come.
    pub(super) received: Option<Rc<Received>>,
}

impl Bounds {
    /// Awaits `sending` until a bound has passed; then why. Costs nothing where sending does not have to wait.
    pub(crate) async fn cover<F: Future + Unpin>(&self, mut sending: F) -> Result<F::Output, Reason> {
        let first = poll_fn(|context| match Pin::new(&mut sending).poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => Poll::Ready(None),
        });
        if let Some(output) = first.await {
            return Ok(output);
        }
        tokio::select! {
            biased;
            output = &mut sending => Ok(output),
            reason = self.passed() => Err(reason),
        }
    }

    async fn passed(&self) -> Reason {
        loop {
            let uploading = self.received.as_ref().filter(|received| !received.has_ended());
            let after = || {
                let ended = self.received.as_ref().and_then(|received| received.last());
                ended.zip(self.timeout).map(|(ended, timeout)| ended + timeout)
            };
            let deadline = if uploading.is_some() { None } else { self.deadline.or_else(after) };
            let next = [
                deadline.map(|at| (at, Reason::RequestTimeout)),
                self.request.filter(|_| uploading.is_some()).map(|at| (at, Reason::DownstreamTimeout)),
                self.fixed,
            ];
            let next = next.into_iter().flatten().min_by_key(|(at, _)| *at);
            let passed = async {
                match next {
                    Some((at, reason)) => {
                        match self.timeout {
                            // In most cases it is the one that passes first.
                            Some(length) => Alarm::at(at, length).wait().await,
                            None => tokio::time::sleep_until(at).await,
                        }
                        reason
                    }
                    None => std::future::pending().await,
                }
            };
            match uploading {
                None => return passed.await,
                Some(received) => tokio::select! {
                    reason = passed => return reason,
                    // From here on the route's timeout counts.
                    () = received.ended() => {}
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn grpc_timeouts_are_read_as_the_protocol_says() {
        for (text, expected) in [
            ("1H", Some(3600 * SECOND)),
            ("2M", Some(120 * SECOND)),
            ("3S", Some(3 * SECOND)),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("", None),
            ("S", None),
            ("1", None),
            ("-1S", None),
            ("1s", None),
            ("123456789S", None),
            ("1.5S", None),
        ] {
            assert_eq!(grpc_timeout(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn a_caller_gets_no_more_than_the_route_grants_and_less_by_the_offset() {
        let rule = |most, offset| GrpcTimeout { most, offset };
        assert_eq!(rule(None, Duration::ZERO).of(9 * SECOND), 9 * SECOND);
        assert_eq!(rule(Some(5 * SECOND), SECOND).of(9 * SECOND), 4 * SECOND);
        assert_eq!(
            rule(None, 2 * SECOND).of(SECOND),
            SECOND,
            "an offset takes nothing where it would take all"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_routes_timeout_counts_from_the_requests_end_however_early_the_answer_began() {
        let received = Rc::new(Received::default());
        let start = Instant::now();
        let bounds = Bounds {
            timeout: Some(2 * SECOND),
            request: Some(start + 9 * SECOND),
            received: Some(received.clone()),
            ..Bounds::default()
        };
        let upload = async {
            tokio::time::sleep(5 * SECOND).await;
            received.end();
            std::future::pending::<()>().await;
        };
        assert_eq!(bounds.cover(pin!(upload)).await, Err(Reason::RequestTimeout));
        assert_eq!(start.elapsed(), 7 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_behind_an_early_answer_is_bounded() {
        let start = Instant::now();
        let bounds = Bounds {
            request: Some(start + 3 * SECOND),
            fixed: Some((start + 4 * SECOND, Reason::MaxDuration)),
            received: Some(Rc::default()),
            ..Bounds::default()
        };
        assert_eq!(bounds.cover(std::future::pending::<()>()).await, Err(Reason::DownstreamTimeout));
        let bounds = Bounds { fixed: bounds.fixed, ..Bounds::default() };
        assert_eq!(bounds.cover(std::future::pending::<()>()).await, Err(Reason::MaxDuration));
        assert_eq!(start.elapsed(), 4 * SECOND);
    }
}
