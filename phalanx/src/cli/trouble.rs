//! Why a command did not do what it was asked, and what its caller's script sees of it.

use super::{out, text};
use serde::Deserialize;
use std::{fmt, io, process::ExitCode};

#[derive(Debug)]
pub enum Trouble {
    /// The command itself was wrong.
    Usage(String),
    /// No answer from a server.
    Unreachable(String),
    /// The server's refusal.
    Refused(Refusal),
    /// What was asked for was done and did not succeed.
    Failed(String),
    Io(io::Error),
}

/// The error envelope.
#[derive(Debug)]
pub struct Refusal {
    pub status: u16,
    pub code: String,
    pub message: String,
    pub faults: Vec<String>,
    pub logs: Vec<String>,
}

#[derive(Deserialize)]
struct Envelope {
    error: Inner,
}

#[derive(Deserialize)]
struct Inner {
    code: String,
    message: String,
    #[serde(default)]
    details: Details,
}

#[derive(Default, Deserialize)]
struct Details {
    #[serde(default)]
    validation_errors: Vec<String>,
    #[serde(default)]
    deployment_logs: Vec<String>,
}

impl Refusal {
    pub fn read(status: u16, body: &str) -> Self {
        match serde_json::from_str::<Envelope>(body) {
            Ok(Envelope { error }) => Self {
                status,
                code: error.code,
                message: error.message,
                faults: error.details.validation_errors,
                logs: error.details.deployment_logs,
            },
            Err(_) => Self {
                status,
                code: format!("HTTP {status}"),
                message: "the answer is not Phalanx's; is --url right?".to_owned(),
                faults: Vec::new(),
                logs: Vec::new(),
            },
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)?;
        for line in self.faults.iter().chain(&self.logs) {
            write!(f, "\n  {line}")?;
        }
        Ok(())
    }
}

impl Trouble {
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// An answer that our own API does not give.
    pub fn odd(what: impl fmt::Display) -> Self {
        Self::Failed(format!("the server's answer is not understood: {what}"))
    }

    /// Says it on standard error. A reader that went away is no trouble.
    pub fn tell(self) -> anyhow::Result<ExitCode> {
        let (words, code) = match self {
            Self::Usage(message) => (message, 2),
            Self::Unreachable(message) => (message, 3),
            Self::Refused(refusal) => (refusal.to_string(), 1),
            Self::Failed(message) => (message, 1),
            Self::Io(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Ok(ExitCode::SUCCESS);
            }
            Self::Io(error) => return Err(error.into()),
        };
        out::say(&format!("error: {}", text::lines(&words)));
        Ok(ExitCode::from(code))
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_fault_a_line() {
        let body = r#"{"error":{"code":"VALIDATION_FAILED","message":"the request has 2 faults","details":{"validation_errors":["a: x","b: y"],"deployment_logs":[]}}}"#;
        let refusal = Refusal::read(400, body);
        assert_eq!(
            refusal.to_string(),
            "the request has 2 faults (VALIDATION_FAILED)\n  a: x\n  b: y"
        );
        assert!(Refusal::read(502, "<html>").to_string().contains("--url"));
    }
}
