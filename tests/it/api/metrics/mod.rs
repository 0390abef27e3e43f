//! /agents/{id}/metrics
mod get;
