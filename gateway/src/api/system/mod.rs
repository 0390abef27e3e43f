//! The installation as a whole: its health, its audit, its documents and probes.

pub mod audit;
pub mod docs;
pub mod health;
pub mod probes;
