//! Deployments: the road of a version, and of a deletion.

pub mod get;
pub mod list;
