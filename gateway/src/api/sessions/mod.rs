//! Sessions: callers that named themselves by one, and the instances that belong to them alone.

pub mod end;
pub mod list;
