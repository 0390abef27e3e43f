//! Figures of agents over time.

pub mod get;
