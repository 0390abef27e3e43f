//! The wire: the protobuf messages of the bus and of gRPC, their conversion to and from `domain`, error status both ways,
//! and the channels that services reach each other by.
//!
//! Never here: a decision, a subject, a row.

pub mod convert;
pub mod door;
pub mod peer;
pub mod status;
pub mod trace;

/// Generated from `phalanx/v1/*.proto`.
#[allow(clippy::all, clippy::pedantic, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("phalanx.v1");

    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/phalanx.bin"));
}
