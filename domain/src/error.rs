//! One error vocabulary for every room. The two tables that turn it into HTTP and gRPC live in
//! `gateway::error` and `proto::status`.

use std::{fmt, sync::Arc};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a program has to do about an error; a new kind only where it must act differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request is wrong; `faults` names every field.
    Invalid,
    Unauthenticated,
    Forbidden,
    NotFound,
    /// The thing exists in another form, or moved on meanwhile.
    Conflict,
    TooLarge,
    RateLimited,
    /// Every slot and every place in the queue is taken.
    Exhausted,
    /// Something of ours is not there right now; the same call may go through later.
    Unavailable,
    Timeout,
    Internal,
}

impl Kind {
    pub const ALL: [Self; 11] = [
        Self::Invalid,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::Conflict,
        Self::TooLarge,
        Self::RateLimited,
        Self::Exhausted,
        Self::Unavailable,
        Self::Timeout,
        Self::Internal,
    ];

    /// Something was away, or too slow: the same may go well in a moment.
    pub fn is_passing(self) -> bool {
        matches!(self, Self::Unavailable | Self::Timeout)
    }
}

/// `message` is for the caller: no secret, says what to do. `source` is for the log only.
#[derive(Clone)]
pub struct Error {
    pub kind: Kind,
    pub message: String,
    /// Each `path: what is wrong and what is allowed`; empty unless the kind is [`Kind::Invalid`].
    pub faults: Vec<String>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            faults: Vec::new(),
            source: None,
        }
    }

    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    pub fn invalid(faults: Vec<String>) -> Self {
        let message = match faults.len() {
            1 => "the request has a fault".to_owned(),
            n => format!("the request has {n} faults"),
        };
        Self {
            faults,
            ..Self::new(Kind::Invalid, message)
        }
    }

    /// One fault of one field.
    pub fn fault(path: &str, what: impl fmt::Display) -> Self {
        Self::invalid(vec![format!("{path}: {what}")])
    }

    pub fn not_found(what: impl fmt::Display) -> Self {
        Self::new(Kind::NotFound, format!("{what} does not exist"))
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, message)
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if !self.faults.is_empty() {
            write!(f, " ({})", self.faults.join("; "))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)?;
        let mut next = std::error::Error::source(self);
        while let Some(source) = next {
            write!(f, ": {source}")?;
            next = source.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.source {
            Some(source) => Some(source.as_ref()),
            None => None,
        }
    }
}
