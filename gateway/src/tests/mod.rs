//! The gateway by its front door: real HTTP, real rows, the memory bus, and executors that the test plays.

mod world;

pub use world::somebody;
