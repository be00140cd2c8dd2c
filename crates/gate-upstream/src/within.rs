//! A time limit that costs nothing when there is nothing to wait for.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Sleep, sleep};

/// It was not ready in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Late;

/// Waits for `future` for at most `limit`. The clock is read only if it is not ready at once, and `future` is asked once at
/// each wake-up, where `tokio::time::timeout` around it would have to ask it twice at the first.
///
/// # Errors
/// [`Late`]: it was not ready in time.
pub async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Result<T, Late> {
    let mut future = pin!(future);
    let mut end = pin!(None::<Sleep>);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(done) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        if end.is_none() {
            end.set(Some(sleep(limit)));
        }
        end.as_mut().as_pin_mut().map_or(Poll::Pending, |end| end.poll(cx).map(|()| Err(Late)))
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_future_is_asked_once_at_each_wake_up() {
        let asked = Cell::new(0);
        let mut ring = tokio::time::interval(Duration::from_secs(1));
        let future = std::future::poll_fn(|cx| {
            asked.set(asked.get() + 1);
            while ring.poll_tick(cx).is_ready() {}
            if asked.get() == 3 { Poll::Ready("done") } else { Poll::Pending }
        });
        assert_eq!(within(Duration::from_secs(10), future).await, Ok("done"));
        assert_eq!(asked.get(), 3, "at the start and at two ticks");
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_comes_is_late_after_its_limit_and_what_is_there_is_not() {
        let began = tokio::time::Instant::now();
        assert_eq!(within(Duration::from_secs(3), std::future::pending::<()>()).await, Err(Late));
        assert!((Duration::from_secs(3)..Duration::from_secs(4)).contains(&began.elapsed()));
        assert_eq!(within(Duration::ZERO, std::future::ready(7)).await, Ok(7));
    }
}
