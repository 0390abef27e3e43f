//! Remembers. The only SQL: rows in SQLite (one process) or Postgres (a cluster), one text of SQL for both;
//! large bytes in an object store where one is configured (`blobs`).
//!
//! In: domain values and an account for every query. Out: domain values and [`domain::Error`].
//! Never here: a rule about what may follow what (that is `domain`), a sqlx error seen outside.

mod artifacts;
mod clock;
mod db;
mod meter;
#[cfg(test)]
mod plans;
mod rights;
mod seal;
mod write;

pub mod agents;
pub mod alerts;
pub mod audit;
pub mod blobs;
pub mod crash_loops;
pub mod deliveries;
pub mod deployments;
pub mod envelopes;
pub mod environments;
pub mod executions;
pub mod instances;
pub mod keys;
pub mod leases;
pub mod limits;
pub mod logs;
pub mod nodes;
pub mod reseal;
pub mod rollouts;
pub mod rollups;
pub mod schema;
pub mod sessions;
pub mod traffic;
pub mod versions;

pub use blobs::Blobs;
pub use clock::Clock;
pub use db::{Config, Store};
pub use meter::Meter;
pub use rights::ROLES;
pub use seal::{Hash, MasterKeyId, MasterKeys, Opened, Place, Ring, Secrets};
