//! How this process is told to leave.

use tokio::signal::unix::SignalKind;

/// SIGTERM or Ctrl-C.
pub async fn told_to_leave() {
    let Ok(mut terminate) = tokio::signal::unix::signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        // An error means that Ctrl-C cannot be heard; SIGTERM still can.
        interrupted = tokio::signal::ctrl_c() => if interrupted.is_err() { terminate.recv().await; },
    }
}
