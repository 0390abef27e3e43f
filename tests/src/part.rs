//! One process of the program under test: started, told, killed, started again; its log is kept over all that.

use crate::{program, wait};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs::{self, OpenOptions},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

const LEAVES_WITHIN: Duration = Duration::from_secs(45);
const LOG_TAIL: usize = 80;

#[derive(Debug)]
pub struct Part {
    /// As `executor-1`: its log and its directory are called so.
    pub name: String,
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    /// Where it keeps its files, if it keeps any.
    pub data_dir: Option<PathBuf>,
    /// Answers 200 when it serves; `None`: the address is in its directory.
    pub ready_url: Option<String>,
    /// Its clock is ahead of (or behind) the host's by so many seconds, from its next start on.
    pub clock_apart_s: Option<i64>,
    pub log: PathBuf,
    pub child: Option<Child>,
}

impl Part {
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    pub fn node(&self) -> Option<String> {
        let dir = self.data_dir.as_ref()?;
        let text = fs::read_to_string(dir.join("node.id")).ok()?;
        Some(text.trim().to_owned()).filter(|node| !node.is_empty())
    }

    pub fn words(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn tail(&self) -> String {
        let log = self.words();
        let lines: Vec<&str> = log.lines().collect();
        format!(
            "--- {}\n{}",
            self.name,
            lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
        )
    }

    /// Starts it and waits for nothing.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        if let Some(dir) = &self.data_dir {
            // The address of the run before would be read for this one's.
            let _ = fs::remove_file(dir.join("address"));
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("a log");
        let mut command = Command::new(program::phalanx());
        command.args(&self.arguments);
        command
            .env("PHALANX__EXECUTOR__UV_CACHE", program::uv_cache())
            .env("PHALANX__EXECUTOR__APT_CACHE", program::apt_cache())
            .env("NO_COLOR", "1");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(apart) = self.clock_apart_s {
            command.envs(faked_clock(apart));
        }
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log);
        self.child = Some(command.spawn().expect("the program starts"));
    }

    /// Why it does not run, where it should.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child
            .as_mut()
            .and_then(|child| child.try_wait().expect("its state"))
    }

    /// Ends it as a power cut would.
    pub fn kill9(&mut self) {
        self.signal(Signal::SIGKILL);
        let status = self.ended();
        assert_eq!(
            status.signal(),
            Some(9),
            "{} ended by itself: {status}\n{}",
            self.name,
            self.tail()
        );
    }

    /// Asks it to leave and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("our own child");
    }

    /// Waits until it has ended, which something else made it do.
    pub fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let ended = wait::blocking(LEAVES_WITHIN, || child.try_wait().expect("its state"));
        let Some(status) = ended else {
            let _ = child.kill();
            let _ = child.wait();
            panic!(
                "{} has not left within {LEAVES_WITHIN:?}:\n{}",
                self.name,
                self.tail()
            );
        };
        status
    }

    /// For a test that has failed already.
    pub fn end_at_once(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// libfaketime's: the time of day only, as a host's clock that was set wrongly; what waits for a while waits as long as ever.
fn faked_clock(apart_s: i64) -> [(String, String); 4] {
    let library = std::env::var("PHALANX_TEST_FAKETIME").unwrap_or_else(|_| {
        panic!("PHALANX_TEST_FAKETIME is not set: run the tests with tests/run, which installs libfaketime")
    });
    [
        ("LD_PRELOAD".to_owned(), library),
        ("FAKETIME".to_owned(), format!("{apart_s:+}s")),
        ("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), "1".to_owned()),
        ("FAKETIME_DONT_RESET".to_owned(), "1".to_owned()),
    ]
}
