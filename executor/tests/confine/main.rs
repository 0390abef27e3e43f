//! Confinement, tried for real: real namespaces, real Python. Expectations follow what the host was found to be capable of, and
//! `elsewhere` runs everything again as an ordinary user, under a masked /proc, and as both.
#![allow(clippy::unwrap_used, reason = "tests")]

mod bounds;
mod elsewhere;
mod ending;
mod seen;
mod warm;
mod working;
mod world;
