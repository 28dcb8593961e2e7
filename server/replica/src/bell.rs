//! Waiting for what is rung for.

use std::pin::pin;

use tokio::sync::Notify;

/// Completes with what `look` finds, at once or after `bell` was rung; no ring falls between a look and the wait. Cancel-safe.
pub async fn found<T>(bell: &Notify, mut look: impl FnMut() -> Option<T>) -> T {
    loop {
        let mut rung = pin!(bell.notified());
        rung.as_mut().enable();
        if let Some(found) = look() {
            return found;
        }
        rung.await;
    }
}
