//! Errors on the wire: one exhaustive table each way.

use domain::{Error, Kind};
use tonic::{Code, Status};

pub fn to_status(error: &Error) -> Status {
    Status::new(code(error.kind), error.to_string())
}

pub fn from_status(status: &Status) -> Error {
    Error::new(kind(status.code()), status.message())
}

fn code(kind: Kind) -> Code {
    match kind {
        Kind::Invalid => Code::InvalidArgument,
        Kind::Unauthenticated => Code::Unauthenticated,
        Kind::Forbidden => Code::PermissionDenied,
        Kind::NotFound => Code::NotFound,
        Kind::Conflict => Code::Aborted,
        Kind::TooLarge => Code::OutOfRange,
        Kind::RateLimited | Kind::Exhausted => Code::ResourceExhausted,
        Kind::Unavailable => Code::Unavailable,
        Kind::Timeout => Code::DeadlineExceeded,
        Kind::Internal => Code::Internal,
    }
}

fn kind(code: Code) -> Kind {
    match code {
        Code::InvalidArgument | Code::FailedPrecondition => Kind::Invalid,
        Code::Unauthenticated => Kind::Unauthenticated,
        Code::PermissionDenied => Kind::Forbidden,
        Code::NotFound => Kind::NotFound,
        Code::Aborted | Code::AlreadyExists => Kind::Conflict,
        Code::OutOfRange => Kind::TooLarge,
        Code::ResourceExhausted => Kind::Exhausted,
        Code::Unavailable | Code::Cancelled => Kind::Unavailable,
        Code::DeadlineExceeded => Kind::Timeout,
        Code::Ok | Code::Unknown | Code::Unimplemented | Code::Internal | Code::DataLoss => {
            Kind::Internal
        }
    }
}

/// A kind as a word, for replies on the bus.
pub fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Invalid => "invalid",
        Kind::Unauthenticated => "unauthenticated",
        Kind::Forbidden => "forbidden",
        Kind::NotFound => "not_found",
        Kind::Conflict => "conflict",
        Kind::TooLarge => "too_large",
        Kind::RateLimited => "rate_limited",
        Kind::Exhausted => "exhausted",
        Kind::Unavailable => "unavailable",
        Kind::Timeout => "timeout",
        Kind::Internal => "internal",
    }
}

pub fn kind_of_word(word: &str) -> Kind {
    Kind::ALL
        .into_iter()
        .find(|kind| kind_word(*kind) == word)
        .unwrap_or(Kind::Internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_both_ways() {
        for sent in Kind::ALL {
            let got = from_status(&to_status(&Error::new(sent, "words"))).kind;
            let expected = if sent == Kind::RateLimited {
                Kind::Exhausted
            } else {
                sent
            };
            assert_eq!(got, expected);
            assert_eq!(kind_of_word(kind_word(sent)), sent);
        }
    }
}
