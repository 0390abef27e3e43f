//! Lines that agents write.

use crate::{Timestamp, words};
use serde::{Deserialize, Serialize};
use std::time::Duration;

words! {
    pub enum Level { Debug = "DEBUG", Info = "INFO", Warn = "WARN", Error = "ERROR", }
}

/// One line; `context` is a JSON object where the logger gave fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    pub timestamp: Timestamp,
    pub level: Level,
    pub message: String,
    #[serde(default)]
    pub context: Option<serde_json::Value>,
}

/// How far an agent's clock may be from ours.
const APART: Duration = Duration::from_secs(600);

impl Line {
    /// What it takes where it is kept.
    pub fn bytes(&self) -> usize {
        let context = self.context.as_ref();
        self.message.len() + context.map_or(0, |context| context.to_string().len()) + 64
    }

    /// An agent writes the time itself; what cannot be true is when we heard it. Lines are deleted by their time.
    pub fn heard(&mut self, now: Timestamp) {
        if self.timestamp.since(now) > APART || now.since(self.timestamp) > APART {
            self.timestamp = now;
        }
    }
}

/// How much of what agents write is kept. What is over is dropped, counted and said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    pub lines: u32,
    pub bytes: u32,
    pub line_bytes: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            lines: 2_000,
            bytes: 1024 * 1024,
            line_bytes: 16 * 1024,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_cannot_be_are_ours() {
        let now = Timestamp(1_767_225_600_000);
        let heard = |at| {
            let mut line = Line {
                timestamp: Timestamp(at),
                level: Level::Info,
                message: "m".to_owned(),
                context: None,
            };
            line.heard(now);
            line.timestamp
        };
        for at in [i64::MIN, 0, now.0 - 600_001, now.0 + 600_001, i64::MAX] {
            assert_eq!(heard(at), now, "{at}");
        }
        for at in [now.0 - 600_000, now.0, now.0 + 600_000] {
            assert_eq!(heard(at), Timestamp(at));
        }
    }

    #[test]
    fn fields_weigh_too() {
        let line = |context| Line {
            timestamp: Timestamp(0),
            level: Level::Info,
            message: "abc".to_owned(),
            context,
        };
        assert_eq!(line(None).bytes(), 67);
        assert_eq!(line(Some(serde_json::json!({"a": "b"}))).bytes(), 76);
    }
}
