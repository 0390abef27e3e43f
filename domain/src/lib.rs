//! Decides. What Phalanx allows and what comes next, as pure, synchronous code.
//!
//! In: plain values and the time as an argument. Out: validated values, next states, decisions.
//! Never here: a runtime, a database, a socket, the clock, the environment, randomness.

pub mod address;
pub mod agent;
pub mod alert;
pub mod artifact;
pub mod deployment;
pub mod egress;
pub mod envelope;
pub mod error;
pub mod execution;
pub mod health;
pub mod id;
pub mod instance;
pub mod key;
pub mod limit;
pub mod liveness;
pub mod log;
pub mod metrics;
pub mod place;
pub mod queue;
pub mod retry;
pub mod rollout;
pub mod rollup;
pub mod scale;
pub mod secret;
pub mod session;
pub mod sketch;
pub mod text;
pub mod time;
pub mod trace;
pub mod traffic;
pub mod verdict;
pub mod waterfall;
pub mod webhook;

pub use error::{Error, Kind, Result};
pub use secret::Secret;
pub use time::Timestamp;
