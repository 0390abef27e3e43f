//! How this process is told to leave, and how it says that a room of it ended before.

use anyhow::Result;
use tokio::{signal::unix::SignalKind, task::JoinError};

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

/// `None`: no room ended before it was told to.
pub fn how_it_ended(early: Option<Result<domain::Result<()>, JoinError>>) -> Result<()> {
    match early {
        Some(Ok(Err(error))) => Err(error.into()),
        Some(Err(panic)) => Err(panic.into()),
        Some(Ok(Ok(()))) | None => Ok(()),
    }
}
