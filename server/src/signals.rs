//! Asking the process to stop.

use tokio::signal::unix::{SignalKind, signal};

/// Completes at SIGTERM or SIGINT. From the first call on, these signals no longer end the process by themselves.
///
/// # Errors
/// The signals can't be caught.
pub fn stop_asked() -> std::io::Result<impl Future<Output = &'static str> + Send> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}
