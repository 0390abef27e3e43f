//! /agents/{id}/deployments
mod get;
mod list;
