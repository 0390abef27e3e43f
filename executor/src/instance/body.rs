//! What an instance is to the host: a sandbox of its own, or a process that was forked in its template's.

use crate::confine::{Confined, Error, Exit, Forked, Memory};

#[derive(Debug)]
pub enum Body {
    Spawned(Confined),
    Forked(Forked),
}

impl Body {
    pub fn pid(&self) -> i32 {
        match self {
            Self::Spawned(body) => body.pid(),
            Self::Forked(body) => body.pid(),
        }
    }

    pub fn is_forked(&self) -> bool {
        matches!(self, Self::Forked(_))
    }

    pub async fn wait(&self) -> Exit {
        match self {
            Self::Spawned(body) => body.wait().await,
            Self::Forked(body) => body.wait().await,
        }
    }

    pub async fn kill(&self) -> Result<Exit, Error> {
        match self {
            Self::Spawned(body) => body.kill().await,
            Self::Forked(body) => body.kill().await,
        }
    }

    pub fn processes(&self) -> usize {
        match self {
            Self::Spawned(body) => body.processes(),
            Self::Forked(body) => body.processes(),
        }
    }

    /// More than its worker, and the sandbox's first process.
    pub fn has_strays(&self) -> bool {
        match self {
            Self::Spawned(body) => body.processes() > 2,
            Self::Forked(body) => body.processes() > 1,
        }
    }

    pub fn memory(&self) -> Memory {
        match self {
            Self::Spawned(body) => body.memory(),
            Self::Forked(body) => body.memory(),
        }
    }

    pub fn cpu_us(&self) -> u64 {
        match self {
            Self::Spawned(body) => body.cpu_us(),
            Self::Forked(body) => body.cpu_us(),
        }
    }

    pub fn limit_cpu(&self, cores: f64) -> Result<(), Error> {
        match self {
            Self::Spawned(body) => body.limit_cpu(cores),
            Self::Forked(body) => body.limit_cpu(cores),
        }
    }
}
