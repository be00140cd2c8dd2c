//! A time limit that costs nothing when there is nothing to wait for.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::timeout;

/// Waits for `future` for at most `limit`. The clock is read only if it is not ready at once.
///
/// # Errors
/// [`Elapsed`]: it was not ready in time.
pub async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Result<T, Elapsed> {
    let mut future = pin!(future);
    let at_once = std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => Poll::Ready(None),
    });
    match at_once.await {
        Some(done) => Ok(done),
        None => timeout(limit, future).await,
    }
}
