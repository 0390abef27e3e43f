//! What a URL says: its path's names, and its query, which is like the fields of a body: every fault at once and nothing
//! unknown.

use crate::{
    error::{Answer, Refusal},
    fields::{Faults, member},
};
use axum::{
    extract::{self, FromRequestParts, Query},
    http::request::Parts,
};
use domain::{Error, Timestamp, text::quote};
use serde::de::DeserializeOwned;
use std::{cell::RefCell, ops::RangeInclusive, str::FromStr};

/// Offsets beyond this are not counted out.
const FARTHEST: u32 = 10_000_000;

/// The placeholders of a path. What is no text names nothing.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        match extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(extract::Path(names)) => Ok(Self(names)),
            Err(error) => Err(Error::not_found("what this path names")
                .because(error)
                .into()),
        }
    }
}

pub struct Params {
    pairs: Vec<(String, String)>,
    faults: Faults,
    asked: RefCell<Vec<&'static str>>,
}

/// Which part of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    pub page: u32,
    pub limit: u32,
}

impl Page {
    pub fn offset(self) -> u32 {
        (self.page - 1).saturating_mul(self.limit).min(FARTHEST)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        let Query(pairs) = Query::<Vec<(String, String)>>::from_request_parts(parts, state)
            .await
            .map_err(|error| {
                Error::fault("query", "cannot be read; allowed is name=value&name=value")
                    .because(error)
            })?;
        Ok(Self {
            pairs,
            faults: Faults::default(),
            asked: RefCell::default(),
        })
    }
}

impl Params {
    pub fn fault(&self, name: &str, what: impl std::fmt::Display) {
        self.faults.add(name, what);
    }

    pub fn many(&self, name: &'static str) -> Vec<&str> {
        self.asked.borrow_mut().push(name);
        let named = self.pairs.iter().filter(|(key, _)| key == name);
        named.map(|(_, value)| value.as_str()).collect()
    }

    pub fn one(&self, name: &'static str) -> Option<&str> {
        let all = self.many(name);
        if all.len() > 1 {
            self.fault(
                name,
                format_args!("is given {} times; allowed is once", all.len()),
            );
        }
        all.first().copied()
    }

    pub fn parsed<T: FromStr<Err = String>>(&self, name: &'static str) -> Option<T> {
        self.one(name)?
            .parse()
            .map_err(|what| self.fault(name, what))
            .ok()
    }

    pub fn integer(&self, name: &'static str, default: u32, allowed: RangeInclusive<u32>) -> u32 {
        let Some(text) = self.one(name) else {
            return default;
        };
        match text.parse::<u32>() {
            Ok(n) if allowed.contains(&n) && text.bytes().all(|b| b.is_ascii_digit()) => n,
            _ => {
                let (text, from, to) = (quote(text), allowed.start(), allowed.end());
                self.fault(
                    name,
                    format_args!("is {text}; allowed is an integer from {from} to {to}"),
                );
                default
            }
        }
    }

    pub fn flag(&self, name: &'static str) -> bool {
        match self.one(name) {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => {
                self.fault(
                    name,
                    format_args!("is {}; allowed is true or false", quote(other)),
                );
                false
            }
        }
    }

    pub fn time(&self, name: &'static str) -> Option<Timestamp> {
        let text = self.one(name)?;
        let parsed = if text.len() > 64 {
            Err(format!(
                "{} is not a time; allowed is RFC 3339",
                quote(text)
            ))
        } else {
            Timestamp::parse(text)
        };
        parsed.map_err(|what| self.fault(name, what)).ok()
    }

    /// `page` from 1, `limit` 50 unless told and 200 at most.
    pub fn page(&self) -> Page {
        Page {
            page: self.integer("page", 1, 1..=1_000_000),
            limit: self.integer("limit", 50, 1..=200),
        }
    }

    /// An error if anything is wrong, an unknown name included.
    pub fn check(&self) -> Answer<()> {
        let asked = self.asked.borrow();
        for (name, _) in &self.pairs {
            if !asked.contains(&name.as_str()) {
                let allowed = match asked.as_slice() {
                    [] => "there are no query parameters here".to_owned(),
                    known => format!("allowed are {}", known.join(", ")),
                };
                self.fault(&member(name), format_args!("is not known; {allowed}"));
            }
        }
        Ok(self.faults.check()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn params(query: &str) -> Params {
        let request = axum::http::Request::get(format!("/?{query}"))
            .body(())
            .expect("a request");
        Params::from_request_parts(&mut request.into_parts().0, &())
            .await
            .expect("a query")
    }

    #[tokio::test]
    async fn all_faults_at_once() {
        let params =
            params("page=0&limit=201&order=up&tag=a&tag=b&zzz=1&from=yesterday&follow=1&page=2")
                .await;
        params.page();
        params.time("from");
        params.flag("follow");
        params.parsed::<domain::agent::Status>("order");
        assert_eq!(params.many("tag"), ["a", "b"]);
        let refusal = params.check().expect_err("faults");
        assert_eq!(refusal.kind(), domain::Kind::Invalid);
        assert_eq!(params.faults.check().expect_err("faults").faults.len(), 7);
    }

    #[tokio::test]
    async fn pages() {
        let params = params("page=3&limit=20").await;
        assert_eq!(params.page().offset(), 40);
        assert!(params.check().is_ok());
    }
}
