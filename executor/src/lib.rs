//! Touches processes. Runs the versions that deployer has placed on this node: packages, sandboxes, instances, calls.
//!
//! In: `Execute` and `Cancel` from the bus, `Package`, `Ensure`, `Inspect`, `Watch` over gRPC. Out: recorded outcomes,
//! instances, log lines. Never here: HTTP, a choice of version, a call to another service.

mod archive;
mod beat;
mod call;
mod config;
mod environment;
mod files;
mod folders;
mod frame;
mod grpc;
mod held;
mod host;
mod inbox;
mod instance;
mod leave;
mod link;
mod meter;
#[cfg(test)]
#[path = "../../tests/mutate.rs"]
mod mutate;
mod pool;
mod purge;
mod python;
mod run;
mod shelf;
mod spans;
mod sweep;
mod system;
mod template;
mod uv;
mod version;
mod watch;

pub mod confine;

pub use config::Config;
pub use host::Executor;
pub use meter::Meter;

use domain::Result;
use proto::peer::Peers;

/// What an executor works with.
pub struct Deps {
    pub store: store::Store,
    pub bus: bus::Bus,
    pub peers: Peers,
}

/// Finds Python and what this host can confine, takes over what was placed here, and listens. Fails fast, with what to do.
pub async fn bind(config: Config, deps: Deps) -> Result<Executor> {
    host::bind(config, deps).await
}
