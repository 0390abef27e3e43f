//! /agents/{id}/deployments
mod abort;
mod get;
mod list;
mod pause;
mod promote;
mod resume;
