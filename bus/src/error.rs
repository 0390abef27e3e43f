//! What can go wrong on the bus. The engines translate their own errors into this list where they
//! arise; nothing of async-nats is seen outside `nats/`.

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nobody serves this subject. Said at once, not after the deadline.
    #[error("nobody serves this subject")]
    NoResponders,
    /// No answer within the deadline; the work may or may not have been done.
    #[error("no answer within the deadline")]
    Timeout,
    /// Everybody who serves this subject has a full queue. Nothing was done.
    #[error("every server of this subject is busy")]
    Busy,
    /// A server took the request and let go of it without an answer.
    #[error("the server gave the request up without an answer")]
    Unanswered,
    /// The durable queue is at its bound. Nothing was stored.
    #[error("the queue is full")]
    Full,
    /// Payload and headers together are over the bound.
    #[error("a message of {size} bytes is over the limit of {limit}")]
    TooLarge { size: usize, limit: usize },
    /// The bus was drained: it takes no new servers, subscribers or workers.
    #[error("the bus is closed")]
    Closed,
    /// The server's streams are not what Phalanx needs and could not be made so: a person must look.
    #[error("{0}")]
    Setup(String),
    /// The server cannot be reached or refused; the same call may go through later.
    #[error("the bus is not available: {0}")]
    Unavailable(String),
}

impl Error {
    /// Translates an error that only means "not now".
    pub(crate) fn unavailable(source: impl std::fmt::Display) -> Self {
        Self::Unavailable(source.to_string())
    }
}
