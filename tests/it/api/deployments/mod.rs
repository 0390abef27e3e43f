//! /agents/{id}/deployments
mod abort;
mod events;
mod get;
mod list;
mod pause;
mod promote;
mod resume;
