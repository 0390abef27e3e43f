//! What travels: opaque bytes with a few headers (trace context above all). `proto` gives the bytes
//! their meaning; nothing here looks into them.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;

use crate::error::{Error, Result};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    pub headers: Headers,
    pub payload: Bytes,
}

impl Message {
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self {
            headers: Headers::default(),
            payload: payload.into(),
        }
    }

    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.set(name, value);
        self
    }

    /// Bytes that count against [`Limits::message`].
    pub fn size(&self) -> usize {
        self.payload.len() + self.headers.size()
    }

    pub(crate) fn check(&self, limit: usize) -> Result<()> {
        let size = self.size();
        if size > limit {
            Err(Error::TooLarge { size, limit })
        } else {
            Ok(())
        }
    }
}

/// A few names and values; a name occurs once. Names are ours (`&'static str`, letters,
/// digits and `-`); `Nats-` and `Bus-` belong to the engines and are not carried.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Cow<'static, str>, String)>);

impl Headers {
    /// Sets or replaces. A header is a line on the wire, so control characters become spaces.
    pub fn set(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) {
        let (name, mut value) = (name.into(), value.into());
        if value.contains(char::is_control) {
            value = value.replace(char::is_control, " ");
        }
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_ref(), value.as_str()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn size(&self) -> usize {
        self.0
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum()
    }
}

/// The bounds of both engines: every queue has one.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of one message, payload and headers. Larger things travel as a reference.
    pub message: usize,
    /// Requests waiting in front of one server; over it the requester gets [`Error::Busy`].
    pub requests: usize,
    /// Events waiting in front of one subscriber; over it the oldest are lost and counted.
    pub events: usize,
    /// Messages in one durable subject of the memory engine. NATS has stream limits instead.
    pub queue: usize,
    /// Dead letters kept per subject, the newest; reading gives at most this many.
    pub dead: usize,
    /// For how long an id given to `enqueue` is remembered, and how many at most (memory engine).
    pub duplicates: Duration,
    pub duplicate_ids: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message: 512 * 1024,
            requests: 4096,
            events: 1024,
            queue: 65_536,
            dead: 256,
            duplicates: Duration::from_secs(120),
            duplicate_ids: 262_144,
        }
    }
}
