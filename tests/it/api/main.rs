//! The promise, by the front door: a file for every endpoint, laid out as `gateway/src/api` is, and beside them what only the
//! whole can show.

mod agents;
mod alerts;
mod blobs;
mod burst;
mod callbacks;
mod causes;
mod dead_letters;
mod deployments;
mod documented;
mod environments;
mod executions;
mod health;
mod keys;
mod kinds;
mod metrics;
mod rollouts;
mod scale;
mod sessions;
mod system;
mod system_packages;
mod traffic;
mod unneeded;
mod warm;
