//! /agents
mod delete;
mod deploy;
mod get;
mod instances;
mod list;
mod logs;
mod versions;
