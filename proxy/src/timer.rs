//! Bounds of time that cost nothing when nothing waits: the timer is only registered once the future is pending.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

/// The time was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Elapsed;

/// Awaits a future for at most `limit`; for ever when that is `None`.
pub(crate) async fn within<F: Future>(limit: Option<Duration>, future: F) -> Result<F::Output, Elapsed> {
    let Some(limit) = limit else { return Ok(future.await) };
    let mut future = pin!(future);
    if let Some(output) = poll_once(future.as_mut()).await {
        return Ok(output);
    }
    tokio::time::timeout(limit, future).await.map_err(|_| Elapsed)
}

/// Awaits a future until `deadline`; for ever when that is `None`.
pub(crate) async fn until<F: Future>(deadline: Option<Instant>, future: F) -> Result<F::Output, Elapsed> {
    let Some(deadline) = deadline else { return Ok(future.await) };
    let mut future = pin!(future);
    if let Some(output) = poll_once(future.as_mut()).await {
        return Ok(output);
    }
    tokio::time::timeout_at(deadline, future).await.map_err(|_| Elapsed)
}

async fn poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
