//! A child process that ends with its handle.

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    net::TcpListener,
    process::{Child, Command},
    time::{Duration, Instant},
};

const LEAVES_WITHIN: Duration = Duration::from_secs(45);

pub struct Process {
    child: Child,
    /// Makes it leave.
    farewell: Signal,
}

impl Process {
    pub fn start(command: &mut Command, farewell: Signal) -> Result<Self> {
        let child = command.spawn();
        let child = child.with_context(|| {
            let program = command.get_program().to_string_lossy();
            format!("{program} cannot be run")
        })?;
        Ok(Self { child, farewell })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX));
        if !self.has_ended() {
            kill(pid, self.farewell).ok();
        }
        let began = Instant::now();
        while began.elapsed() < LEAVES_WITHIN {
            if self.has_ended() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
