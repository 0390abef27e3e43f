//! Why a worker could not be confined, started or stopped. Messages are for the operator's log and for a deployment's phase log alike.

use std::io;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host lacks what confinement needs, and the configuration does not waive it.
    #[error(
        "this host cannot confine a worker ({0}); repair the host, or set isolation = \"none\" to run agents unconfined"
    )]
    Unconfined(String),
    /// One step of the written order failed (see the module's page); nothing is left behind.
    #[error("{step}: {}", errno_name(*.errno))]
    Step { step: String, errno: i32 },
    /// The helper ended without a word: it was killed, or it is not our helper.
    #[error("the helper ended before the worker ran ({0})")]
    Helper(String),
    #[error("the worker did not run within {} ms; last step seen: {step}", .within.as_millis())]
    Late { step: String, within: Duration },
    /// A request that no host could satisfy.
    #[error("{0}")]
    Spec(String),
    #[error("{count} processes of the instance survived SIGKILL for {} ms", .within.as_millis())]
    Survived { count: usize, within: Duration },
}

impl Error {
    pub(crate) fn step(step: impl Into<String>, error: &io::Error) -> Self {
        Error::Step {
            step: step.into(),
            errno: error.raw_os_error().unwrap_or(0),
        }
    }
}

/// `EPERM: Operation not permitted`.
pub(crate) fn errno_name(errno: i32) -> String {
    if errno == 0 {
        "unexpected answer".to_owned()
    } else {
        nix::errno::Errno::from_raw(errno).to_string()
    }
}

/// Names the step in which an operation failed: `open(p).step("open /dev/null")?`.
pub(crate) trait Step<T> {
    fn step(self, step: &str) -> Result<T, Error>;
    fn step_with(self, step: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &str) -> Result<T, Error> {
        self.map_err(|e| Error::step(step, &e.into()))
    }

    fn step_with(self, step: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|e| Error::step(step(), &e.into()))
    }
}
