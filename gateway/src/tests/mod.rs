//! The gateway by its front door: real HTTP, real rows, the memory bus, and deployers and executors that the test plays.

mod dead_letters;
mod deploy;
mod door;
mod drift;
mod edge;
mod execute;
mod limits;
mod parsers;
mod read;
mod rotation;
mod secrecy;
mod stream;
mod tenancy;
mod world;

pub use world::somebody;
