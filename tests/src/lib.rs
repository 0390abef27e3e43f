//! The harness of the tests that go in by the front door: the real program as a child process, and a small client of it.
//!
//! In: sources of agents and JSON. Out: what the API answered. Nothing of Phalanx's own is linked in: what these
//! tests see is what a caller sees.
//!
//! Waiting is always for a level with a deadline ([`wait`]); there is no sleep that stands for "by now it should have".
#![allow(
    clippy::print_stderr,
    clippy::needless_pass_by_value,
    reason = "a failed test's reader wants words, and a test's writer short calls"
)]

pub mod apart;
pub mod backing;
pub mod client;
pub mod cluster;
pub mod collector;
pub mod figures;
pub mod fixtures;
pub mod part;
pub mod program;
pub mod proxy;
pub mod receiver;
pub mod remains;
pub mod rollouts;
pub mod sse;
pub mod wait;

pub use client::{Answer, Client};
pub use cluster::{Cluster, Options, Shape};
pub use collector::Collector;
pub use receiver::Receiver;
pub use serde_json::{Value, json};
