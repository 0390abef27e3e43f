//! Figures, health and retention, asked over gRPC as the gateway asks.

mod figures;
mod retention;
mod system;
mod world;
