//! Lines that agents write.

use crate::{Timestamp, words};
use serde::{Deserialize, Serialize};

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
