//! /agents/{id}/execute and /agents/{id}/executions
mod background;
mod cancel;
mod execute;
mod get;
mod list;
mod logs;
mod stream;
